//! Link layers: from the start of the frame to the IP header.

use super::{Layer, PacketError};

/// How a capture file says that its frames begin (tcpdump.org/linktypes.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// 1: Ethernet.
    Ethernet,
    /// 12, 14, 101, 228 and 229: the IP header itself.
    Ip,
    /// 113: Linux cooked capture.
    LinuxSll,
    /// 276: Linux cooked capture, version 2.
    LinuxSll2,
}

impl LinkType {
    /// # Errors
    /// [`PacketError::LinkType`] for every other number.
    pub const fn from_number(number: u32) -> Result<Self, PacketError> {
        match number {
            1 => Ok(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Ok(Self::Ip),
            113 => Ok(Self::LinuxSll),
            276 => Ok(Self::LinuxSll2),
            other => Err(PacketError::LinkType(other)),
        }
    }

    /// Bytes before the payload, and where among them the EtherType stands.
    const fn layout(self) -> Option<(usize, usize)> {
        match self {
            Self::Ethernet => Some((14, 12)),
            Self::LinuxSll => Some((16, 14)),
            Self::LinuxSll2 => Some((20, 0)),
            Self::Ip => None,
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number that QinQ had before it was a standard.
const VLANS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const VLAN_LEN: usize = 4;

pub(super) struct Link {
    pub(super) vlans: [Option<u16>; 2],
    pub(super) ip_offset: usize,
}

pub(super) fn read(link: LinkType, frame: &[u8]) -> Result<Link, PacketError> {
    let mut vlans = [None; 2];
    let Some((len, type_offset)) = link.layout() else { return Ok(Link { vlans, ip_offset: 0 }) };
    header(frame, Layer::Link, 0, len)?;
    let (mut type_offset, mut offset) = (type_offset, len);
    for vlan in &mut vlans {
        if !VLANS.contains(&u16_at(frame, type_offset)) {
            break;
        }
        let tag = header(frame, Layer::Vlan, offset, VLAN_LEN)?;
        *vlan = Some(u16_at(tag, 0) & 0xfff);
        type_offset = offset + 2;
        offset += VLAN_LEN;
    }
    match u16_at(frame, type_offset) {
        IPV4 | IPV6 => Ok(Link { vlans, ip_offset: offset }),
        ethertype => Err(PacketError::NotIp { ethertype, offset: type_offset }),
    }
}

/// The `need` bytes at `offset`.
pub(super) fn header(frame: &[u8], layer: Layer, offset: usize, need: usize) -> Result<&[u8], PacketError> {
    let rest = frame.get(offset..).unwrap_or_default();
    rest.get(..need).ok_or(PacketError::Truncated { layer, offset, need, have: rest.len() })
}

/// Two bytes in network order; 0 beyond the end, which callers have ruled out.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    match bytes.get(offset..) {
        Some([hi, lo, ..]) => u16::from_be_bytes([*hi, *lo]),
        _ => 0,
    }
}
