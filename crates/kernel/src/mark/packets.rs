//! What became of the packets that the marking program saw.

use crate::mark::abi::{mark_count, mark_counters, mark_verdict};

/// Why a packet was marked or not. All but [`Self::Marked`] left as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Verdict {
    /// The packet carries its flow's label.
    Marked = mark_verdict::MARK_MARKED,
    /// IPv6 TCP or UDP in no announced flow.
    NoFlow = mark_verdict::MARK_NO_FLOW,
    /// IPv4 has no flow label.
    Ipv4 = mark_verdict::MARK_IPV4,
    /// ARP, LLDP, …
    NotIp = mark_verdict::MARK_NOT_IP,
    /// IPv6 without ports: ICMPv6, ESP, a tunnel, …
    OtherProtocol = mark_verdict::MARK_OTHER_PROTOCOL,
    /// Not the first fragment of a datagram.
    Fragment = mark_verdict::MARK_FRAGMENT,
    /// Cut short, or more than eight extension headers.
    Unreadable = mark_verdict::MARK_UNREADABLE,
    /// The kernel could not make the header writable.
    WriteFailed = mark_verdict::MARK_WRITE_FAILED,
}

impl Verdict {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; mark_verdict::MARK_VERDICTS as usize] = [
        Self::Marked,
        Self::NoFlow,
        Self::Ipv4,
        Self::NotIp,
        Self::OtherProtocol,
        Self::Fragment,
        Self::Unreadable,
        Self::WriteFailed,
    ];

    /// Name in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::NoFlow => "no_flow",
            Self::Ipv4 => "ipv4",
            Self::NotIp => "not_ip",
            Self::OtherProtocol => "other_protocol",
            Self::Fragment => "fragment",
            Self::Unreadable => "unreadable",
            Self::WriteFailed => "write_failed",
        }
    }
}

/// Packets and bytes as on the wire: the segments of a GSO packet, each with its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets on the wire.
    pub packets: u64,
    /// Bytes on the wire, link header included.
    pub bytes: u64,
}

pub(super) fn sum<'a>(verdict: Verdict, cpus: impl Iterator<Item = &'a mark_counters>) -> Count {
    let row = |c: &mark_counters| -> mark_count { c.by_verdict[verdict as usize] };
    cpus.map(row).fold(Count::default(), |sum, c| Count {
        packets: sum.packets.wrapping_add(c.packets),
        bytes: sum.bytes.wrapping_add(c.bytes),
    })
}
