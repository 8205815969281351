//! TCP, UDP and ICMP: ports, flags, payload and checksum.

use std::fmt;
use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{TcpHeaderSlice, err};

use super::link::{header, u16_at};
use super::{Layer, Packet, PacketError, Ports};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const UDP_LEN: usize = 8;
const TCP_MIN_LEN: usize = 20;
const ICMP_LEN: usize = 8;

/// The control bits of a TCP header (RFC 9293 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Resets the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// Congestion experienced (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// All eight bits, as on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// `SYN|ACK`, or `-` for none.
impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let set: Vec<&str> = (0..8).filter(|bit| self.0 >> bit & 1 == 1).map(|bit| NAMES[bit]).collect();
        f.pad(&if set.is_empty() { "-".to_owned() } else { set.join("|") })
    }
}

/// What is read of a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tcp {
    /// Control bits.
    pub flags: TcpFlags,
    /// Sequence number of the first byte of payload.
    pub seq: u32,
    /// The next sequence number that the sender expects, if [`TcpFlags::ACK`] is set.
    pub ack: u32,
    /// The window as on the wire, not scaled.
    pub window: u16,
}

/// Reads what stands at `offset`; `len` is what it has on the wire, as far as the IP header says.
pub(super) fn read<'a>(packet: &mut Packet<'a>, frame: &'a [u8], offset: usize, len: Option<usize>) {
    packet.upper = frame.get(offset..).unwrap_or_default();
    packet.upper_len = len;
    let is_later_fragment = packet.fragment.is_some_and(|f| f.offset != 0);
    let header_len = if is_later_fragment { Ok(0) } else { read_header(packet, frame, offset) };
    let header_len = header_len.unwrap_or_else(|error| {
        packet.stopped = Some(error);
        packet.upper.len()
    });
    packet.payload_offset = offset + header_len;
    packet.payload = packet.upper.get(header_len..).unwrap_or_default();
    packet.payload_len = packet.upper_len.and_then(|len| len.checked_sub(header_len));
}

/// Gives the length of the transport header.
fn read_header(packet: &mut Packet<'_>, frame: &[u8], offset: usize) -> Result<usize, PacketError> {
    match packet.protocol {
        TCP => {
            packet.ports = ports(packet.upper);
            read_tcp(packet, offset)
        }
        UDP => {
            packet.ports = ports(packet.upper);
            read_udp(packet, frame, offset)
        }
        ICMP | ICMPV6 => header(frame, Layer::Icmp, offset, ICMP_LEN).map(<[u8]>::len),
        _ => Ok(0),
    }
}

/// The ports come first and are worth having even if the rest of the header is cut off.
fn ports(upper: &[u8]) -> Option<Ports> {
    (upper.len() >= 4).then(|| Ports { src: u16_at(upper, 0), dst: u16_at(upper, 2) })
}

fn read_tcp(packet: &mut Packet<'_>, offset: usize) -> Result<usize, PacketError> {
    let layer = Layer::Tcp;
    let tcp = TcpHeaderSlice::from_slice(packet.upper).map_err(|error| match error {
        err::tcp::HeaderSliceError::Len(len) => {
            PacketError::Truncated { layer, offset, need: len.required_len, have: len.len }
        }
        err::tcp::HeaderSliceError::Content(_) => {
            PacketError::Malformed { layer, offset, what: "its data offset is below 20 bytes" }
        }
    })?;
    packet.tcp = Some(Tcp {
        flags: TcpFlags(tcp.slice().get(13).copied().unwrap_or_default()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        window: tcp.window_size(),
    });
    Ok(tcp.slice().len())
}

/// A UDP length of 0 means a jumbogram (RFC 2675 §4); then the IP layer's length stands.
fn read_udp(packet: &mut Packet<'_>, frame: &[u8], offset: usize) -> Result<usize, PacketError> {
    let layer = Layer::Udp;
    let len = usize::from(u16_at(header(frame, layer, offset, UDP_LEN)?, 4));
    if len == 0 {
        return Ok(UDP_LEN);
    }
    if len < UDP_LEN {
        return Err(PacketError::Malformed { layer, offset, what: "its length is below 8 bytes" });
    }
    // The first fragment holds less than the length says.
    let is_whole = packet.fragment.is_none_or(|f| f.is_whole());
    if is_whole && packet.upper_len.is_some_and(|ip| ip < len) {
        return Err(PacketError::Malformed {
            layer,
            offset,
            what: "its length is beyond the end of the packet",
        });
    }
    if is_whole {
        packet.upper = packet.upper.get(..len).unwrap_or(packet.upper);
        packet.upper_len = Some(len);
    }
    Ok(UDP_LEN)
}

pub(super) fn checksum_ok(packet: &Packet<'_>) -> Option<bool> {
    if packet.stopped.is_some() || packet.is_source_routed || packet.fragment.is_some_and(|f| !f.is_whole()) {
        return None;
    }
    let upper = packet.upper.get(..packet.upper_len?)?;
    match packet.protocol {
        TCP if upper.len() >= TCP_MIN_LEN => Some(sums_up(packet, upper)),
        ICMPV6 if packet.src.is_ipv6() => Some(sums_up(packet, upper)),
        // No checksum: allowed over IPv4 (RFC 768), an error over IPv6 (RFC 8200 §8.1).
        UDP if u16_at(upper, 6) == 0 => packet.src.is_ipv6().then_some(false),
        UDP if u16_at(upper, 4) != 0 => Some(sums_up(packet, upper)),
        _ => None,
    }
}

/// The ones' complement sum over pseudo-header and segment, checksum included, has all bits set (RFC 1071 §1).
fn sums_up(packet: &Packet<'_>, upper: &[u8]) -> bool {
    let Ok(len) = u32::try_from(upper.len()) else { return false };
    let mut sum = Sum16BitWords::new();
    for addr in [packet.src, packet.dst] {
        sum = match addr {
            IpAddr::V4(addr) => sum.add_4bytes(addr.octets()),
            IpAddr::V6(addr) => sum.add_16bytes(addr.octets()),
        };
    }
    let sum = sum.add_4bytes(len.to_be_bytes()).add_2bytes([0, packet.protocol]).add_slice(upper);
    sum.ones_complement() == 0
}
