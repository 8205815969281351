//! The newer format (draft-ietf-opsawg-pcapng): blocks, several interfaces, several sections.

use std::io::Read;

use jiff::Timestamp;

use super::{CaptureError, MAX_INTERFACES, Meta, Order, Source};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Type and length before a block's body, length after it.
const BLOCK_OVERHEAD: u32 = 12;
const IF_TSRESOL: u16 = 9;
const IF_TSOFFSET: u16 = 14;

/// What a packet needs to know of its interface.
struct Interface {
    link_type: u32,
    snap_len: u32,
    /// Ticks of its clock in a second.
    per_second: u128,
    /// Seconds to add to every timestamp.
    offset: i64,
}

/// Byte order and interfaces hold until the next section header.
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
}

impl Section {
    /// Reads the section header whose type was already read.
    pub(super) fn first<R: Read>(source: &mut Source<R>) -> Result<Self, CaptureError> {
        let mut section = Self { order: Order::Big, interfaces: Vec::new() };
        match section.begin(source) {
            Err(CaptureError::Truncated { .. }) => Err(CaptureError::NoHeader),
            other => other.map(|()| section),
        }
    }

    /// The length is before the field that tells the byte order.
    fn begin<R: Read>(&mut self, source: &mut Source<R>) -> Result<(), CaptureError> {
        source.body(8)?;
        self.order = match Order::Big.u32(&source.buffer, 4) {
            0x1a2b_3c4d => Order::Big,
            0x4d3c_2b1a => Order::Little,
            _ => return Err(source.malformed("the section header has no byte-order magic")),
        };
        self.interfaces.clear();
        let len = self.order.u32(&source.buffer, 0);
        // Version and section length follow, then options.
        if len < BLOCK_OVERHEAD + 16 || !len.is_multiple_of(4) {
            return Err(source.malformed("the section header's length is below 28 or not a multiple of 4"));
        }
        source.body(4)?;
        if self.order.u16(&source.buffer, 0) != 1 {
            return Err(source.malformed("the section's major version is not 1"));
        }
        source.skip(len - BLOCK_OVERHEAD - 8)?;
        self.trailer(source, len)
    }

    /// The next packet, past all other blocks.
    pub(super) fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Meta>, CaptureError> {
        loop {
            match source.fill(4)? {
                0 => return Ok(None),
                n if n < 4 => return Err(source.truncated()),
                _ => {}
            }
            let kind = self.order.u32(&source.buffer, 0);
            if kind == SECTION_HEADER {
                self.begin(source)?;
            } else if let Some(meta) = self.block(source, kind)? {
                return Ok(Some(meta));
            }
        }
    }

    fn block<R: Read>(&mut self, source: &mut Source<R>, kind: u32) -> Result<Option<Meta>, CaptureError> {
        source.body(4)?;
        let total = self.order.u32(&source.buffer, 0);
        let Some(len) = total.checked_sub(BLOCK_OVERHEAD).filter(|len| len.is_multiple_of(4)) else {
            return Err(source.malformed("a block's length is below 12 or not a multiple of 4"));
        };
        let is_known = matches!(kind, INTERFACE_DESCRIPTION | PACKET | SIMPLE_PACKET | ENHANCED_PACKET);
        if !is_known {
            source.skip(len)?;
            return self.trailer(source, total).map(|()| None);
        }
        // The trailing length is read with the body, which has to stay in the buffer.
        source.body(len.saturating_add(4))?;
        if self.order.u32(&source.buffer, len as usize) != total {
            return Err(source.malformed("the two lengths of a block differ"));
        }
        source.buffer.truncate(len as usize);
        if kind == INTERFACE_DESCRIPTION {
            return self.add_interface(source).map(|()| None);
        }
        self.packet(source, kind).map(Some)
    }

    fn trailer<R: Read>(&self, source: &mut Source<R>, total: u32) -> Result<(), CaptureError> {
        source.body(4)?;
        if self.order.u32(&source.buffer, 0) == total {
            Ok(())
        } else {
            Err(source.malformed("the two lengths of a block differ"))
        }
    }

    fn add_interface<R>(&mut self, source: &Source<R>) -> Result<(), CaptureError>
    where
        R: Read,
    {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(source.malformed("the section has more than 4096 interfaces"));
        }
        let Some((fixed, options)) = source.buffer.split_at_checked(8) else {
            return Err(source.malformed("an interface description is below 8 bytes"));
        };
        let mut interface = Interface {
            link_type: self.order.u16(fixed, 0).into(),
            snap_len: self.order.u32(fixed, 4),
            per_second: 1_000_000,
            offset: 0,
        };
        for (code, value) in options_of(self.order, options) {
            match (code, value) {
                (IF_TSRESOL, [resolution]) => {
                    interface.per_second = ticks(*resolution)
                        .ok_or_else(|| source.malformed("an interface's if_tsresol is too fine"))?;
                }
                (IF_TSOFFSET, value) => interface.offset = offset(self.order, value).unwrap_or_default(),
                _ => {}
            }
        }
        self.interfaces.push(interface);
        Ok(())
    }

    fn packet<R: Read>(&self, source: &Source<R>, kind: u32) -> Result<Meta, CaptureError> {
        let start = if kind == SIMPLE_PACKET { 4 } else { 20 };
        let Some(room) = source.buffer.len().checked_sub(start) else {
            return Err(source.malformed("a packet block is shorter than its fixed fields"));
        };
        let field = |at| self.order.u32(&source.buffer, at);
        let index = match kind {
            SIMPLE_PACKET => 0,
            PACKET => self.order.u16(&source.buffer, 0).into(),
            _ => field(0) as usize,
        };
        let Some(interface) = self.interfaces.get(index) else {
            return Err(source.malformed("a packet names an interface that is not described before it"));
        };
        let (timestamp, len, original_len) = if kind == SIMPLE_PACKET {
            (None, simple_len(field(0), interface.snap_len, room), field(0))
        } else {
            let ticks = u64::from(field(4)) << 32 | u64::from(field(8));
            (interface.timestamp(ticks), field(12) as usize, field(16))
        };
        if len > room {
            return Err(source.malformed("a packet is longer than its block"));
        }
        Ok(Meta { timestamp, link_type: interface.link_type, original_len, start, len })
    }
}

impl Interface {
    /// None if the time is beyond the year 9999.
    fn timestamp(&self, ticks: u64) -> Option<Timestamp> {
        let ticks = u128::from(ticks);
        let seconds = i64::try_from(ticks / self.per_second).ok()?.checked_add(self.offset)?;
        let nanos = (ticks % self.per_second).checked_mul(1_000_000_000)? / self.per_second;
        Timestamp::new(seconds, i32::try_from(nanos).ok()?).ok()
    }
}

/// A simple packet does not say how much was captured: all, or as much as the interface's limit (0: none).
fn simple_len(original_len: u32, snap_len: u32, room: usize) -> usize {
    let limit = if snap_len == 0 { u32::MAX } else { snap_len };
    room.min(original_len.min(limit) as usize)
}

/// Negative powers of ten, or of two with the highest bit set.
fn ticks(resolution: u8) -> Option<u128> {
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    base.checked_pow(u32::from(resolution & 0x7f))
}

fn offset(order: Order, value: &[u8]) -> Option<i64> {
    let bytes: [u8; 8] = value.try_into().ok()?;
    Some(match order {
        Order::Big => i64::from_be_bytes(bytes),
        Order::Little => i64::from_le_bytes(bytes),
    })
}

/// Code and value of each option; ends at the end marker, at the end, or at the first that is cut off.
fn options_of(order: Order, mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(4)?;
        let (code, len) = (order.u16(head, 0), usize::from(order.u16(head, 2)));
        let value = rest.get(..len).filter(|_| code != 0)?;
        bytes = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    })
}
