//! What the programs tell: matches of rules, closed sockets, packets without room.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtag_wire::Tag;
use libbpf_rs::{RingBuffer, RingBufferBuilder};
use zerocopy::FromBytes;

use super::abi::{mark_event, mark_event_kind as kind, mark_tcp};
use super::{Key, Mark, Marker, flow_of, map};
use crate::tcp_info::{Sample, state, sweep};
use crate::{Error, Result, link};

/// How long what comes is gathered; the ring has room for a million events a second.
const GATHER: Duration = Duration::from_millis(5);

/// One thing that a program saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A rule matched a packet that is in no flow of the table; its packets are marked already, if they are IPv6.
    Matched {
        /// The flow, local end first.
        key: Key,
        /// Whose it is.
        tag: Tag,
        /// What its packets carry.
        mark: Mark,
        /// Number of the rule in the order in which [`Marker::set_rules`] put them.
        rule: u16,
        /// Of the rules that this number counts in.
        generation: u32,
        /// User id of the socket; none: there is no socket.
        user: Option<u32>,
        /// Name of the thread that made the socket, if known.
        process: Option<String>,
    },
    /// The TCP socket of a flow in the table closed.
    Closed {
        /// The flow.
        key: Key,
        /// What was measured of it in all. Boxed: other events are small. None: an earlier flowtag's program told.
        last: Option<Box<Sample>>,
    },
    /// A packet of the flow had no room for its headers: the path's MTU should be known as smaller.
    NoRoom {
        /// The flow.
        key: Key,
        /// What was to be written.
        mark: Mark,
        /// Longest network packet of the interface, in bytes, less the headers of tunnels around the flow's own.
        mtu: u32,
    },
}

/// Reads what the programs tell. One reader at a time.
pub struct Events {
    ring: RingBuffer<'static>,
    /// The last look found something.
    busy: Cell<bool>,
    seen: Arc<Mutex<Vec<Event>>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Marker {
    /// A reader of what the programs tell. What they told while nobody read is there, too, as far as there was room.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn events(&self) -> Result<Events> {
        let failed = |source| Error::Map { action: "read", map: "events", source };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let netns = own_netns();
        let mut builder = RingBufferBuilder::new();
        builder
            .add(self.maps.get(map::EVENTS), move |bytes| {
                sink.lock().unwrap_or_else(PoisonError::into_inner).extend(event(bytes, netns));
                0
            })
            .map_err(failed)?;
        Ok(Events { ring: builder.build().map_err(failed)?, seen, busy: Cell::new(false) })
    }
}

impl Events {
    /// What was told, after waiting for at most `limit` if there is nothing. When the last call found something, what comes
    /// is gathered for some milliseconds: the kernel wakes a reader that has read everything, and that costs the packet
    /// which told of something more than all that the program does.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn next(&self, limit: Duration) -> io::Result<Vec<Event>> {
        if self.busy.get() {
            std::thread::sleep(GATHER.min(limit));
        }
        match self.ring.poll_raw(limit) {
            // A signal is no reason to stop.
            error if error < 0 && error != -libc::EINTR => return Err(io::Error::from_raw_os_error(-error)),
            _ => {}
        }
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.busy.set(!seen.is_empty());
        Ok(seen)
    }
}

/// Number of the network namespace that the calling thread is in; 0: not known.
fn own_netns() -> u32 {
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |ns| ns.ino() as u32)
}

/// The kernel tells of the sockets of all network namespaces. One of another closed our flow if we only forward that; not
/// if our own address is the same as one there.
fn is_of_another(raw: &mark_event, key: &Key, own_netns: u32) -> bool {
    let ours = || link::addresses().is_ok_and(|all| all.iter().any(|a| a.addr == key.local.addr()));
    raw.netns != own_netns && ours()
}

fn event(bytes: &[u8], own_netns: u32) -> Option<Event> {
    let (raw, rest) = mark_event::read_from_prefix(bytes).ok()?;
    let key = flow_of(&raw.key)?;
    if u32::from(raw.kind) == kind::MARK_EVENT_CLOSED {
        return (!is_of_another(&raw, &key, own_netns)).then(|| Event::Closed { key, last: last(rest) });
    }
    let mark = Mark::from_word(raw.word)?;
    match u32::from(raw.kind) {
        kind::MARK_EVENT_NO_ROOM => Some(Event::NoRoom { key, mark, mtu: raw.mtu }),
        kind::MARK_EVENT_MATCHED => Some(Event::Matched {
            key,
            tag: mark.label.tag()?,
            mark,
            rule: raw.rule,
            generation: raw.generation,
            user: (raw.user != u32::MAX).then_some(raw.user),
            process: printable_name(&raw.process),
        }),
        _ => None,
    }
}

/// What follows the event in `struct mark_closed`.
fn last(bytes: &[u8]) -> Option<Box<Sample>> {
    let (raw, _) = mark_tcp::read_from_prefix(bytes).ok()?;
    let mut sample = sweep::sample(&raw, super::tick());
    sample.info.state = state::CLOSE;
    Some(Box::new(sample))
}

/// Up to the zero byte that closes it; none where it is empty.
pub(crate) fn printable_name(bytes: &[u8; 16]) -> Option<String> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end)?);
    let printable = |c: char| if c.is_control() { '?' } else { c };
    (!text.is_empty()).then(|| text.chars().map(printable).collect())
}
