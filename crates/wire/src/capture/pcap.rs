//! The older format (draft-ietf-opsawg-pcap): one header, then packets of one link type.

use std::io::Read;

use jiff::Timestamp;

use super::{CaptureError, Meta, Order, Source};

const HEADER_LEN: u32 = 24;
const RECORD_LEN: u32 = 16;

/// What the file's header says about all its packets.
pub(super) struct Header {
    order: Order,
    /// Fractions of a second in a timestamp: microseconds or nanoseconds.
    per_second: u32,
    link_type: u32,
}

impl Header {
    pub(super) fn read<R: Read>(source: &mut Source<R>, magic: [u8; 4]) -> Result<Self, CaptureError> {
        let (order, per_second) = match u32::from_be_bytes(magic) {
            0xa1b2_c3d4 => (Order::Big, 1_000_000),
            0xa1b2_3c4d => (Order::Big, 1_000_000_000),
            0xd4c3_b2a1 => (Order::Little, 1_000_000),
            0x4d3c_b2a1 => (Order::Little, 1_000_000_000),
            _ => return Err(CaptureError::Magic(magic)),
        };
        let rest = HEADER_LEN - 4;
        if source.fill(rest)? < rest as usize {
            return Err(CaptureError::NoHeader);
        }
        // The upper half tells whether frames end with a checksum.
        let link_type = order.u32(&source.buffer, 16) & 0xffff;
        Ok(Self { order, per_second, link_type })
    }

    pub(super) fn next<R: Read>(&self, source: &mut Source<R>) -> Result<Option<Meta>, CaptureError> {
        match source.fill(RECORD_LEN)? {
            0 => return Ok(None),
            n if n < RECORD_LEN as usize => return Err(source.truncated()),
            _ => {}
        }
        let [seconds, fraction, len, original_len] =
            [0, 4, 8, 12].map(|at| self.order.u32(&source.buffer, at));
        let timestamp = self.timestamp(seconds, fraction);
        source.body(len)?;
        let len = source.buffer.len();
        Ok(Some(Meta { timestamp, link_type: self.link_type, original_len, start: 0, len }))
    }

    /// Some writers put a whole second or more into the fraction.
    fn timestamp(&self, seconds: u32, fraction: u32) -> Option<Timestamp> {
        let seconds = i64::from(seconds) + i64::from(fraction / self.per_second);
        let nanos = (fraction % self.per_second) * (1_000_000_000 / self.per_second);
        Timestamp::new(seconds, nanos.try_into().ok()?).ok()
    }
}
