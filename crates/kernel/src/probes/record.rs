//! What probes tell: of whom, and the values of their columns.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use flowtag_wire::{Endpoint, Protocol, Tag};
use zerocopy::FromBytes;

use super::abi::{observe_event, observe_owner};
use crate::mark::abi::mark_key;
use crate::mark::{self, Mark};

/// One event, or one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Of whom.
    pub context: Context,
    /// One for each of the probe's columns, in their order.
    pub values: Vec<Value>,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// Not known.
    #[default]
    None,
    /// A word.
    Text(Cow<'static, str>),
    /// A number that is never negative.
    Count(u64),
    /// Any number.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Count(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&'static str> for Value {
    fn from(value: &'static str) -> Self {
        Self::Text(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// Of whom a record tells, and when. What is not known is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// CLOCK_MONOTONIC; see [`wall_clock`].
    pub time: Duration,
    /// The flow, seen from this host.
    pub flow: Option<Flow>,
    /// The kernel's number of the socket, never used twice while it runs.
    pub cookie: Option<u64>,
    /// Of SciTags, where the daemon knows the flow.
    pub tag: Option<Tag>,
    /// Whose the socket is.
    pub owner: Owner,
    /// Number of the network namespace, as `/proc/PID/ns/net` has it.
    pub netns: Option<u32>,
    /// Index of the interface in that namespace.
    pub interface: Option<u32>,
}

/// A flow of any protocol; ports are 0 where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Number of the transport protocol (IANA).
    pub protocol: u8,
    /// This host's end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

impl Flow {
    /// From a key of the kernel's programs; none for one that is empty.
    #[must_use]
    pub(crate) fn from_key(key: &mark_key) -> Option<Self> {
        let end = |addr: [u8; 16], port: u16| Endpoint::new(addr.into(), u16::from_be(port));
        (key.protocol != 0).then(|| Self {
            protocol: key.protocol,
            local: end(key.local_addr, key.local_port),
            remote: end(key.remote_addr, key.remote_port),
        })
    }

    /// As the daemon's table has it; none where it is of another protocol.
    #[must_use]
    pub fn key(&self) -> Option<mark::Key> {
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == self.protocol)?;
        Some(mark::Key { protocol, local: self.local, remote: self.remote })
    }
}

/// Whose a socket is. What is not known is none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Owner {
    /// Process (thread group) in the first PID namespace.
    pub pid: Option<u32>,
    /// User id.
    pub user: Option<u32>,
    /// Name of the process, of at most 15 bytes.
    pub process: Option<String>,
    /// Id of the cgroup of version 2.
    pub cgroup: Option<u64>,
}

impl From<&observe_owner> for Owner {
    fn from(raw: &observe_owner) -> Self {
        Self {
            pid: (raw.pid != 0).then_some(raw.pid),
            user: Some(raw.user),
            process: mark::printable_name(&raw.process),
            cgroup: (raw.cgroup != 0).then_some(raw.cgroup),
        }
    }
}

impl From<&observe_event> for Context {
    fn from(raw: &observe_event) -> Self {
        Self {
            time: Duration::from_nanos(raw.time),
            flow: Flow::from_key(&raw.key),
            cookie: (raw.cookie != 0).then_some(raw.cookie),
            tag: Mark::from_word(raw.word).and_then(|mark| mark.label.tag()),
            owner: Owner::from(&raw.owner),
            netns: (raw.netns != 0).then_some(raw.netns),
            interface: (raw.interface != 0).then_some(raw.interface),
        }
    }
}

/// Reads what a program put into the ring; none where it is cut short.
pub(crate) fn read<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// CLOCK_MONOTONIC at this moment.
#[must_use]
pub fn monotonic() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(Duration::ZERO, Duration::from)
}

/// What to add to a [`Context::time`] to know the time of day, as of now.
#[must_use]
pub fn wall_clock() -> SystemTime {
    SystemTime::now() - monotonic()
}

/// Words for `TCP_*` of the kernel's `net/tcp_states.h`, as `ss` prints them.
#[must_use]
pub fn state_name(state: u16) -> &'static str {
    const NAMES: [&str; 13] = [
        "-",
        "ESTAB",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "CLOSED",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
        "SYN-RECV",
    ];
    NAMES.get(usize::from(state)).copied().unwrap_or("-")
}
