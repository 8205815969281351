//! What became of the packets that the marking program saw.

use crate::mark::abi::{mark_count, mark_counters, mark_verdict};

/// Why a packet was marked or not. All but [`Self::Marked`] left as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Verdict {
    /// The packet carries its flow's tag.
    Marked = mark_verdict::MARK_MARKED,
    /// IPv6 TCP or UDP, in no flow and matched by no rule.
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
    /// With the options header the packet would exceed the MTU.
    NoRoom = mark_verdict::MARK_NO_ROOM,
    /// An authentication header covers what would change.
    Protected = mark_verdict::MARK_PROTECTED,
    /// A rule says that it must not be marked.
    Never = mark_verdict::MARK_NEVER,
    /// Label and option were cleared at the edge.
    Stripped = mark_verdict::MARK_STRIPPED,
    /// The lease ended: no daemon renewed it.
    Expired = mark_verdict::MARK_EXPIRED,
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
        Self::NoRoom,
        Self::Protected,
        Self::Never,
        Self::Stripped,
        Self::Expired,
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
            Self::NoRoom => "no_room",
            Self::Protected => "protected",
            Self::Never => "never",
            Self::Stripped => "stripped",
            Self::Expired => "expired",
        }
    }

    /// What it means, for people, in a line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Marked => "carries its tag",
            Self::NoFlow => "in no flow, and no rule matches",
            Self::Ipv4 => "IPv4 has no flow label",
            Self::NotIp => "not IP (ARP, LLDP, …)",
            Self::OtherProtocol => "neither TCP nor UDP, and no rule matches",
            Self::Fragment => "later fragment whose first was not seen",
            Self::Unreadable => "cut short, or too many extension headers",
            Self::WriteFailed => "the kernel had no memory to write",
            Self::NoRoom => "no room for the options header within the MTU",
            Self::Protected => "an authentication header covers it",
            Self::Never => "a rule says never",
            Self::Stripped => "tag removed at the edge (mark.strip)",
            Self::Expired => "the lease ended: no daemon renewed it",
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

impl Count {
    pub(super) fn add(self, c: mark_count) -> Self {
        Self { packets: self.packets.wrapping_add(c.packets), bytes: self.bytes.wrapping_add(c.bytes) }
    }
}

pub(super) fn sum<'a>(verdict: Verdict, cpus: impl Iterator<Item = &'a mark_counters>) -> Count {
    cpus.map(|c| c.by_verdict[verdict as usize]).fold(Count::default(), Count::add)
}
