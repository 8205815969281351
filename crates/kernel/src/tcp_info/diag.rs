//! TCP sockets of this network namespace with their statistics, by sock_diag(7): all in one pass, or one.
//!
//! The namespace is the one that the thread is in which opens the [`Inquiry`]. Needs no capability.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use flowtag_wire::{Endpoint, Protocol};
use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr};
use zerocopy::FromBytes;

use super::{Algorithm, Memory, Name, Sample, TcpInfo, state};
use crate::mark::Key;
use crate::{Error, Result};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// Sizes of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const HEADER_LEN: usize = 16;
const REQUEST_LEN: usize = 56;
const ANSWER_LEN: usize = 72;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`.
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;

/// `INET_DIAG_*` of `linux/inet_diag.h`.
mod attribute {
    pub(super) const INFO: u16 = 2;
    pub(super) const VEGASINFO: u16 = 3;
    pub(super) const CONG: u16 = 4;
    pub(super) const TOS: u16 = 5;
    pub(super) const TCLASS: u16 = 6;
    pub(super) const SKMEMINFO: u16 = 7;
    pub(super) const DCTCPINFO: u16 = 9;
    pub(super) const BBRINFO: u16 = 16;
    /// What is asked for, as bits. What Vegas, DCTCP and BBR tell of themselves comes with one of them.
    pub(super) const ALL: u8 =
        bit(INFO) | bit(VEGASINFO) | bit(CONG) | bit(TOS) | bit(TCLASS) | bit(SKMEMINFO);

    const fn bit(attribute: u16) -> u8 {
        1 << (attribute - 1)
    }
}

/// Bytes that are read before it is asked which sockets are of interest: some 1,000 sockets.
const BATCH: usize = 512 * 1024;
/// Longest datagram of the kernel's answer.
const DATAGRAM: usize = 64 * 1024;

/// A way to ask for sockets. Not more than one question at a time.
pub struct Inquiry {
    netlink: Netlink,
    buffer: Vec<u8>,
    sequence: u32,
}

impl std::fmt::Debug for Inquiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inquiry").finish_non_exhaustive()
    }
}

/// A socket in the buffer: whose, and where its message is.
struct Found {
    key: Key,
    at: Range<usize>,
}

impl Inquiry {
    /// # Errors
    /// [`Error::Query`] where netlink is not to be had.
    pub fn open() -> Result<Self> {
        let open = || {
            let mut netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
            netlink.bind_auto()?;
            netlink.connect(&SocketAddr::new(0, 0))?;
            Ok(netlink)
        };
        Ok(Self { netlink: open().map_err(failed)?, buffer: Vec::new(), sequence: 0 })
    }

    /// One pass over all TCP sockets that have a peer. `known` is asked for some hundred at a time which of them are of
    /// interest; only these are decoded, and given to `take`. Says how many there were.
    ///
    /// # Errors
    /// [`Error::Query`] where netlink does not answer, `ENOENT`: a kernel without `tcp_diag`.
    pub fn all(
        &mut self,
        known: &mut dyn FnMut(&[Key]) -> Vec<bool>,
        take: &mut dyn FnMut(Key, Sample),
    ) -> Result<u64> {
        let mut seen = 0;
        for family in [libc::AF_INET6, libc::AF_INET] {
            seen += self.dump(family as u8, known, take).map_err(failed)?;
        }
        Ok(seen)
    }

    /// The socket with these ends; none: there is none.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn one(&mut self, key: &Key) -> Result<Option<Sample>> {
        // IPv4 connections of IPv6 sockets are found as what they are.
        self.ask(Some(key), if key.local.addr().is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8)
            .and_then(|()| self.answer(key))
            .map_err(failed)
    }

    /// The kernel answers before the question is out, so that nothing is waited for.
    fn answer(&mut self, key: &Key) -> io::Result<Option<Sample>> {
        loop {
            self.buffer.clear();
            self.receive(libc::MSG_DONTWAIT)?;
            for (kind, payload) in Messages::new(&self.buffer, self.sequence) {
                let payload = self.buffer.get(payload).unwrap_or_default();
                match kind {
                    ERROR => return error(payload).map(|()| None).or_else(absent),
                    BY_FAMILY => {
                        return Ok(self::key(payload).filter(|k| k == key).and_then(|_| sample(payload)));
                    }
                    _ => {}
                }
            }
        }
    }

    fn dump(
        &mut self,
        family: u8,
        known: &mut dyn FnMut(&[Key]) -> Vec<bool>,
        take: &mut dyn FnMut(Key, Sample),
    ) -> io::Result<u64> {
        self.ask(None, family)?;
        let (mut seen, mut keys, mut found) = (0, Vec::new(), Vec::new());
        let mut last = false;
        while !last {
            self.buffer.clear();
            keys.clear();
            found.clear();
            while !last && self.buffer.len() + DATAGRAM <= BATCH {
                last = self.read_datagram(&mut found)?;
            }
            seen += found.len() as u64;
            keys.extend(found.iter().map(|f: &Found| f.key));
            let wanted = if keys.is_empty() { Vec::new() } else { known(&keys) };
            for (Found { key, at }, _) in found.drain(..).zip(wanted).filter(|(_, wanted)| *wanted) {
                if let Some(sample) = self.buffer.get(at).and_then(sample) {
                    take(key, sample);
                }
            }
        }
        Ok(seen)
    }

    /// True when it was the last.
    fn read_datagram(&mut self, found: &mut Vec<Found>) -> io::Result<bool> {
        let start = self.buffer.len();
        self.receive(0)?;
        let datagram = self.buffer.get(start..).unwrap_or_default();
        for (kind, payload) in Messages::new(datagram, self.sequence) {
            let bytes = datagram.get(payload.clone()).unwrap_or_default();
            match kind {
                DONE | ERROR => return error(bytes).map(|()| true),
                BY_FAMILY => found.extend(
                    key(bytes).map(|key| Found { key, at: start + payload.start..start + payload.end }),
                ),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Appends a datagram to the buffer.
    fn receive(&mut self, flags: libc::c_int) -> io::Result<()> {
        self.buffer.reserve(DATAGRAM);
        match self.netlink.recv(&mut self.buffer, flags) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result.map(drop),
        }
    }

    /// `struct nlmsghdr` and `struct inet_diag_req_v2`: for all sockets with a peer, or for one.
    fn ask(&mut self, one: Option<&Key>, family: u8) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = [0_u8; HEADER_LEN + REQUEST_LEN];
        let mut put = |at: usize, bytes: &[u8]| message[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &((HEADER_LEN + REQUEST_LEN) as u32).to_ne_bytes());
        put(4, &BY_FAMILY.to_ne_bytes());
        put(6, &(if one.is_some() { REQUEST } else { REQUEST | DUMP }).to_ne_bytes());
        put(8, &self.sequence.to_ne_bytes());
        put(16, &[family, Protocol::Tcp.number(), attribute::ALL]);
        put(20, &state::CONNECTED.to_ne_bytes());
        if let Some(key) = one {
            put(24, &key.local.port().to_be_bytes());
            put(26, &key.remote.port().to_be_bytes());
            for (at, end) in [(28, key.local), (44, key.remote)] {
                match end.addr() {
                    IpAddr::V4(v4) => put(at, &v4.octets()),
                    IpAddr::V6(v6) => put(at, &v6.octets()),
                }
            }
            put(64, &[0xff; 8]); // INET_DIAG_NOCOOKIE
        }
        self.netlink.send(&message, 0).map(drop)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Query { what: "the statistics of its TCP sockets", source }
}

/// `struct nlmsgerr`, and what ends a dump: a negative number of an error.
fn error(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
        code if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

/// There is no such socket, which is an answer.
fn absent(error: io::Error) -> io::Result<Option<Sample>> {
    // Where the module is missing it is ENOENT, too.
    if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) }
}

/// Netlink messages in a datagram that answer a question: type, and where the payload is.
struct Messages<'a> {
    datagram: &'a [u8],
    at: usize,
    sequence: u32,
}

impl<'a> Messages<'a> {
    const fn new(datagram: &'a [u8], sequence: u32) -> Self {
        Self { datagram, at: 0, sequence }
    }
}

impl Iterator for Messages<'_> {
    type Item = (u16, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let header: &[u8; HEADER_LEN] = self.datagram.get(self.at..)?.first_chunk()?;
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let end = self.at + length;
            if length < HEADER_LEN || end > self.datagram.len() {
                return None;
            }
            let payload = self.at + HEADER_LEN..end;
            self.at += length.next_multiple_of(4);
            // An answer to an earlier question that was given up.
            if sequence == self.sequence {
                return Some((kind, payload));
            }
        }
    }
}

/// Whose socket it is; none: it has no peer.
fn key(message: &[u8]) -> Option<Key> {
    let port = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let address = |at: usize| -> Option<IpAddr> {
        let bytes = message.get(at..at + 16)?;
        match i32::from(*message.first()?) {
            libc::AF_INET => bytes.first_chunk().map(|a: &[u8; 4]| Ipv4Addr::from(*a).into()),
            libc::AF_INET6 => bytes.first_chunk().map(|a: &[u8; 16]| Ipv6Addr::from(*a).into()),
            _ => None,
        }
    };
    let remote = Endpoint::new(address(24)?, port(6)?);
    (remote.port() != 0).then_some(Key {
        protocol: Protocol::Tcp,
        local: Endpoint::new(address(8)?, port(4)?),
        remote,
    })
}

/// `struct inet_diag_msg` and its attributes; none: without `struct tcp_info`, as what is left of closed sockets.
fn sample(message: &[u8]) -> Option<Sample> {
    let (head, attributes) = message.split_at_checked(ANSWER_LEN)?;
    let word = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let mut sample =
        Sample { cookie: u64::from(word(44)?) | u64::from(word(48)?) << 32, ..Sample::default() };
    let mut info = None;
    for attribute in NlasIterator::new(attributes).map_while(|a| a.ok()) {
        let attribute: NlaBuffer<&[u8]> = attribute;
        let value = attribute.value();
        match attribute.kind() {
            attribute::INFO => info = Some(TcpInfo::from_kernel(value)),
            attribute::CONG => sample.congestion = Name::from_kernel(value),
            attribute::SKMEMINFO => sample.memory = Memory::read_from_prefix(value).ok().map(|(m, _)| m),
            attribute::TOS => sample.tos = value.first().copied(),
            attribute::TCLASS => sample.tclass = value.first().copied(),
            attribute::VEGASINFO => sample.algorithm = vegas(value),
            attribute::DCTCPINFO => sample.algorithm = dctcp(value),
            attribute::BBRINFO => sample.algorithm = bbr(value),
            _ => {}
        }
    }
    sample.info = info?;
    // `idiag_wqueue`: from the oldest byte that is not acknowledged to the last that waits to be sent.
    sample.count_payload(word(60)?);
    Some(sample)
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    <[u32; N]>::read_from_prefix(bytes).ok().map(|(words, _)| words)
}

fn bbr(bytes: &[u8]) -> Option<Algorithm> {
    let [low, high, min_rtt, pacing_gain, cwnd_gain] = words(bytes)?;
    Some(Algorithm::Bbr {
        bandwidth: u64::from(low) | u64::from(high) << 32,
        min_rtt,
        pacing_gain,
        cwnd_gain,
    })
}

fn vegas(bytes: &[u8]) -> Option<Algorithm> {
    let [enabled, rttcnt, rtt, minrtt] = words(bytes)?;
    Some(Algorithm::Vegas { enabled: enabled != 0, rttcnt, rtt, minrtt })
}

fn dctcp(bytes: &[u8]) -> Option<Algorithm> {
    let [_, alpha, ab_ecn, ab_tot] = words(bytes)?;
    let [enabled, ce_state] = <[u16; 2]>::read_from_prefix(bytes).ok()?.0;
    Some(Algorithm::Dctcp { enabled: enabled != 0, ce_state, alpha, ab_ecn, ab_tot })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `struct inet_diag_msg` of a connection from [2001:db8::1]:1094 to [2001:db8::2]:40000, and attributes.
    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; ANSWER_LEN];
        bytes[0] = libc::AF_INET6 as u8;
        bytes[1] = state::ESTABLISHED;
        bytes[4..8].copy_from_slice(&[0x04, 0x46, 0x9c, 0x40]);
        bytes[8..12].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        bytes[23] = 1;
        bytes[24..28].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        bytes[39] = 2;
        bytes[44..48].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[48..52].copy_from_slice(&1_u32.to_ne_bytes());
        bytes.extend(attributes.concat());
        bytes
    }

    fn info() -> Vec<u8> {
        attribute(attribute::INFO, &[state::ESTABLISHED, 0, 0, 0, 0, 0, 0, 0])
    }

    #[test]
    fn ends_and_cookie_are_read() {
        let bytes = message(&[info()]);
        let key = key(&bytes).unwrap();
        assert_eq!(key.local, "[2001:db8::1]:1094".parse().unwrap());
        assert_eq!(key.remote, "[2001:db8::2]:40000".parse().unwrap());
        assert_eq!(sample(&bytes).unwrap().cookie, 1 << 32 | 7);
        assert_eq!(sample(&message(&[])), None, "TIME_WAIT has no statistics");
    }

    #[test]
    fn algorithms_tell_of_themselves() {
        let words = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        let of =
            |kind, value: Vec<u8>| sample(&message(&[info(), attribute(kind, &value)])).unwrap().algorithm;
        let bbr = Algorithm::Bbr { bandwidth: 5 << 32 | 4, min_rtt: 3, pacing_gain: 256, cwnd_gain: 512 };
        assert_eq!(of(attribute::BBRINFO, words(&[4, 5, 3, 256, 512])), Some(bbr));
        let vegas = Algorithm::Vegas { enabled: true, rttcnt: 2, rtt: 30, minrtt: 20 };
        assert_eq!(of(attribute::VEGASINFO, words(&[1, 2, 30, 20])), Some(vegas));
        let mut raw = [1_u16, 2].map(u16::to_ne_bytes).concat();
        raw.extend(words(&[1024, 5, 6]));
        let dctcp = Algorithm::Dctcp { enabled: true, ce_state: 2, alpha: 1024, ab_ecn: 5, ab_tot: 6 };
        assert_eq!(of(attribute::DCTCPINFO, raw), Some(dctcp));
        assert_eq!(of(attribute::BBRINFO, words(&[1])), None, "cut short");
    }

    #[test]
    fn nothing_that_is_cut_short_or_odd_is_a_panic() {
        let whole = message(&[
            info(),
            attribute(attribute::CONG, b"cubic\0"),
            attribute(attribute::SKMEMINFO, &[0; 36]),
        ]);
        for length in 0..whole.len() {
            let _ = (key(&whole[..length]), sample(&whole[..length]));
        }
        let mut zero = whole.clone();
        zero[ANSWER_LEN..].fill(0);
        assert_eq!(sample(&zero), None);
        let sample = sample(&whole).unwrap();
        assert_eq!((sample.congestion.as_deref(), sample.memory), (Some("cubic"), Some(Memory::default())));
    }

    #[test]
    fn messages_of_other_questions_are_passed_over() {
        let of = |length: u32, kind: u16, sequence: u32| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0, 0]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 8]);
            bytes
        };
        let datagram = [of(20, BY_FAMILY, 1), of(20, BY_FAMILY, 2), of(20, DONE, 2)].concat();
        let kinds: Vec<_> = Messages::new(&datagram, 2).collect();
        assert_eq!(kinds, [(BY_FAMILY, 36..40), (DONE, 56..60)]);
        for (length, wrong) in
            [(0, "none"), (15, "less than a header"), (21, "more than there is"), (u32::MAX, "much more")]
        {
            assert_eq!(Messages::new(&of(length, BY_FAMILY, 2), 2).next(), None, "{wrong}");
        }
    }
}
