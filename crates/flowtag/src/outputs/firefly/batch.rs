//! Fireflies that are written and about to be sent, one after the other in one buffer.

use std::net::IpAddr;
use std::ops::Range;

use flowtag_wire::Tag;
use flowtag_wire::firefly::State;

/// One of them, and what decides who gets it.
pub(super) struct Message {
    range: Range<usize>,
    pub(super) state: State,
    pub(super) tag: Tag,
    /// As on this host: local, then remote.
    pub(super) ends: [IpAddr; 2],
    /// The host that told us of it, or of its flow; it need not be told.
    pub(super) told_by: Option<IpAddr>,
}

/// Many of them. Keeps its memory.
#[derive(Default)]
pub(super) struct Batch {
    buffer: Vec<u8>,
    pub(super) messages: Vec<Message>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.messages.clear();
    }

    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        state: State,
        tag: Tag,
        ends: [IpAddr; 2],
        told_by: Option<IpAddr>,
    ) {
        let range = self.buffer.len()..self.buffer.len() + bytes.len();
        self.buffer.extend_from_slice(bytes);
        self.messages.push(Message { range, state, tag, ends, told_by });
    }

    pub(super) fn bytes(&self, message: &Message) -> &[u8] {
        self.buffer.get(message.range.clone()).unwrap_or_default()
    }
}
