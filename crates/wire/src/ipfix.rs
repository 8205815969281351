//! IPFIX messages (RFC 7011) with flow records in both directions (RFC 5103).
//!
//! One template for each IP version; what the fields are is in `TEMPLATES` and in `docs/ipfix.md`. A record goes from the end
//! on the exporting host to the other: fields without "reverse" are of what this host sent, and the flow label is the one on
//! those packets.
//!
//! An [`Exporter`] counts records for the sequence number, so all messages of an observation domain come from one exporter.

use std::net::IpAddr;

use crate::{Endpoint, FlowLabel, Protocol, Tag};

/// RFC 7011 §3.1.
const VERSION: u16 = 10;
const SET_HEADER: usize = 4;
const TEMPLATE_SET: u16 = 2;
/// Set in an element's number where an enterprise number follows (§3.2).
const ENTERPRISE: u16 = 0x8000;
/// The enterprise number of the other direction's elements (RFC 5103 §6.1).
const REVERSE: u32 = 29305;

/// Elements of the configured enterprise.
mod own {
    pub(super) const EXPERIMENT: u16 = 1;
    pub(super) const ACTIVITY: u16 = 2;
}

/// Whose number an element has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Space {
    /// IANA's.
    Iana,
    /// IANA's, of the other direction.
    Reverse,
    /// That of the configured enterprise.
    Own,
}

use Space::{Iana, Own, Reverse};

/// Number, space and bytes of each field, in the order in which records are written.
type Field = (u16, Space, u16);

const ENDS_V4: [Field; 2] = [(8, Iana, 4), (12, Iana, 4)];
/// Addresses and flowLabelIPv6.
const ENDS_V6: [Field; 3] = [(27, Iana, 16), (28, Iana, 16), (31, Iana, 4)];
const COMMON: [Field; 16] = [
    (7, Iana, 2),   // sourceTransportPort
    (11, Iana, 2),  // destinationTransportPort
    (4, Iana, 1),   // protocolIdentifier
    (1, Iana, 8),   // octetDeltaCount
    (2, Iana, 8),   // packetDeltaCount
    (401, Iana, 8), // transportOctetDeltaCount
    (1, Reverse, 8),
    (2, Reverse, 8),
    (401, Reverse, 8),
    (152, Iana, 8), // flowStartMilliseconds
    (153, Iana, 8), // flowEndMilliseconds
    (136, Iana, 1), // flowEndReason
    (239, Iana, 1), // biflowDirection
    (148, Iana, 8), // flowId
    (own::EXPERIMENT, Own, 2),
    (own::ACTIVITY, Own, 1),
];

/// Number and address fields of each template.
const TEMPLATES: [(u16, &[Field]); 2] = [(256, &ENDS_V4), (257, &ENDS_V6)];

/// Why a record was made (flowEndReason).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// Nothing was heard or seen of the flow for its idle limit.
    Idle = 1,
    /// The flow goes on; it was time for a record.
    Active = 2,
    /// The flow is over.
    End = 3,
    /// Something else ended it: it goes on under another tag.
    Forced = 4,
}

/// What moved in one direction since the previous record of the flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of packets, with the headers of IP and transport.
    pub octets: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes of payload.
    pub payload: u64,
}

/// One flow as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// Unique while the exporter lives.
    pub id: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The end on the exporting host.
    pub local: Endpoint,
    /// The other end, of the same IP version.
    pub remote: Endpoint,
    /// Whose traffic it is.
    pub tag: Tag,
    /// What the packets that leave carry; told as 0 if nothing, and not at all for IPv4.
    pub label: Option<FlowLabel>,
    /// Milliseconds since the epoch.
    pub start: u64,
    /// Milliseconds since the epoch.
    pub end: u64,
    /// Why there is a record.
    pub reason: EndReason,
    /// From the local end.
    pub sent: Counts,
    /// To the local end.
    pub received: Counts,
}

/// Makes the messages of one observation domain.
#[derive(Debug, Clone)]
pub struct Exporter {
    domain: u32,
    enterprise: u32,
    /// Data records in all messages so far (§3.1: modulo 2³²).
    sequence: u32,
}

impl Exporter {
    /// One that has sent nothing. `enterprise` is the private enterprise number of experiment and activity.
    #[must_use]
    pub const fn new(domain: u32, enterprise: u32) -> Self {
        Self { domain, enterprise, sequence: 0 }
    }

    /// Writes a message into `message`, in place of what is in it, and takes from `records` what fits into `max` bytes. Says how
    /// many records those are: the first of each IP version are told in their order. `now` is in seconds since the epoch.
    pub fn write(
        &mut self,
        now: u32,
        templates: bool,
        records: &[FlowRecord],
        max: usize,
        message: &mut Vec<u8>,
    ) -> usize {
        message.clear();
        message.extend(VERSION.to_be_bytes());
        message.extend([0; 2]); // length, written at the end
        message.extend(now.to_be_bytes());
        message.extend(self.sequence.to_be_bytes());
        message.extend(self.domain.to_be_bytes());
        if templates {
            self.write_templates(message);
        }
        let fitting = fitting(records, max.min(usize::from(u16::MAX)).saturating_sub(message.len()));
        let (taken, _) = records.split_at(fitting);
        for ((id, _), is_ipv6) in TEMPLATES.into_iter().zip([false, true]) {
            let mut matching = taken.iter().filter(|r| r.local.addr().is_ipv6() == is_ipv6).peekable();
            if matching.peek().is_some() {
                set(message, id, |message| matching.for_each(|record| record.write(message)));
            }
        }
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
        message[2..4].copy_from_slice(&length.to_be_bytes());
        self.sequence = self.sequence.wrapping_add(u32::try_from(fitting).unwrap_or_default());
        fitting
    }

    /// Both templates (§3.4.1).
    fn write_templates(&self, message: &mut Vec<u8>) {
        set(message, TEMPLATE_SET, |message| {
            for (id, ends) in TEMPLATES {
                let count = u16::try_from(ends.len() + COMMON.len()).unwrap_or_default();
                message.extend(id.to_be_bytes());
                message.extend(count.to_be_bytes());
                for (number, space, bytes) in ends.iter().chain(&COMMON) {
                    let enterprise = match space {
                        Iana => None,
                        Reverse => Some(REVERSE),
                        Own => Some(self.enterprise),
                    };
                    message.extend((number | enterprise.map_or(0, |_| ENTERPRISE)).to_be_bytes());
                    message.extend(bytes.to_be_bytes());
                    message.extend(enterprise.iter().flat_map(|e| e.to_be_bytes()));
                }
            }
        });
    }
}

/// How many of the first records fit into `room` bytes.
fn fitting(records: &[FlowRecord], mut room: usize) -> usize {
    let mut has_set = [false; 2];
    let fits = |record: &&FlowRecord| {
        let is_ipv6 = record.local.addr().is_ipv6();
        let (_, ends) = TEMPLATES[usize::from(is_ipv6)];
        let header = if has_set[usize::from(is_ipv6)] { 0 } else { SET_HEADER };
        let bytes =
            header + ends.iter().chain(&COMMON).map(|(_, _, bytes)| usize::from(*bytes)).sum::<usize>();
        has_set[usize::from(is_ipv6)] = true;
        room.checked_sub(bytes).inspect(|left| room = *left).is_some()
    };
    records.iter().take_while(fits).count()
}

/// A set with what `content` writes (§3.3).
fn set(message: &mut Vec<u8>, id: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let start = message.len();
    message.extend(id.to_be_bytes());
    message.extend([0; 2]);
    content(message);
    let length = u16::try_from(message.len() - start).unwrap_or(u16::MAX);
    message[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
}

impl FlowRecord {
    /// In the order of the template.
    fn write(&self, message: &mut Vec<u8>) {
        /// biflowDirection: nobody says which end began.
        const ARBITRARY: u8 = 0;
        for end in [self.local, self.remote] {
            match end.addr() {
                IpAddr::V4(addr) => message.extend(addr.octets()),
                IpAddr::V6(addr) => message.extend(addr.octets()),
            }
        }
        if self.local.addr().is_ipv6() {
            message.extend(self.label.map_or(0, FlowLabel::value).to_be_bytes());
        }
        message.extend(self.local.port().to_be_bytes());
        message.extend(self.remote.port().to_be_bytes());
        message.push(self.protocol.number());
        for Counts { octets, packets, payload } in [self.sent, self.received] {
            message.extend([octets, packets, payload].into_iter().flat_map(u64::to_be_bytes));
        }
        message.extend(self.start.to_be_bytes());
        message.extend(self.end.to_be_bytes());
        message.extend([self.reason as u8, ARBITRARY]);
        message.extend(self.id.to_be_bytes());
        message.extend(self.tag.experiment.get().to_be_bytes());
        message.push(self.tag.activity.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE_HEADER: usize = 16;

    fn record(local: &str, remote: &str) -> FlowRecord {
        FlowRecord {
            id: 7,
            protocol: Protocol::Tcp,
            local: local.parse().expect("an end"),
            remote: remote.parse().expect("an end"),
            tag: Tag::new(3, 14).expect("in range"),
            label: FlowLabel::new(0x30038).ok(),
            start: 1,
            end: 2,
            reason: EndReason::End,
            sent: Counts { octets: 3, packets: 4, payload: 5 },
            received: Counts { octets: 6, packets: 7, payload: 8 },
        }
    }

    fn u16_at(bytes: &[u8], at: usize) -> usize {
        usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
    }

    /// Identifiers and lengths of the sets of a message, which must fill it.
    fn sets(message: &[u8]) -> Vec<(usize, usize)> {
        assert_eq!((u16_at(message, 0), u16_at(message, 2)), (10, message.len()));
        let (mut at, mut sets) = (MESSAGE_HEADER, Vec::new());
        while at < message.len() {
            sets.push((u16_at(message, at), u16_at(message, at + 2)));
            at += u16_at(message, at + 2);
        }
        assert_eq!(at, message.len());
        sets
    }

    fn length(template: usize) -> usize {
        let (_, ends) = TEMPLATES[template];
        ends.iter().chain(&COMMON).map(|(_, _, bytes)| usize::from(*bytes)).sum()
    }

    #[test]
    fn a_message_is_filled_up_to_its_limit_and_no_further() {
        let v6 = record("[2001:db8::1]:1", "[2001:db8::2]:2");
        let v4 = record("192.0.2.1:1", "192.0.2.2:2");
        let records: Vec<_> = std::iter::repeat_n([v6, v4], 50).flatten().collect();
        let mut exporter = Exporter::new(1, 32473);
        let (mut left, mut message) = (&records[..], Vec::new());
        let mut sequence = 0;
        while !left.is_empty() {
            let taken = exporter.write(9, true, left, 1232, &mut message);
            assert!(taken > 0 && message.len() <= 1232, "{taken} in {}", message.len());
            assert!(taken == left.len() || message.len() + length(1) > 1232, "{} is not full", message.len());
            assert_eq!(u32::from_be_bytes(message[8..12].try_into().expect("4")), sequence);
            assert_eq!(sets(&message).len(), 1 + taken.min(2), "templates and one set a version");
            sequence += u32::try_from(taken).expect("few");
            left = &left[taken..];
        }
        assert_eq!(sequence, 100);
    }

    #[test]
    fn a_record_has_the_length_of_its_template() {
        for (template, record) in
            [record("192.0.2.1:1", "192.0.2.2:2"), record("[2001:db8::1]:1", "[2001:db8::2]:2")]
                .iter()
                .enumerate()
        {
            let mut message = Vec::new();
            assert_eq!(
                Exporter::new(1, 32473).write(9, false, std::slice::from_ref(record), 1232, &mut message),
                1
            );
            assert_eq!(sets(&message), [(256 + template, SET_HEADER + length(template))]);
        }
    }

    #[test]
    fn a_record_that_does_not_fit_is_left() {
        let record = record("[2001:db8::1]:1", "[2001:db8::2]:2");
        let mut message = Vec::new();
        assert_eq!(Exporter::new(1, 32473).write(9, false, &[record], 100, &mut message), 0);
        assert_eq!(message.len(), MESSAGE_HEADER);
    }
}
