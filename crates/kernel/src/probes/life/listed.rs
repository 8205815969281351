//! TCP sockets as they are now, and what became of them so far.

use std::time::Duration;

use super::super::abi::{observe_socket, observe_socket_flags as flags, observe_tcp};
use super::super::iterate::records;
use super::super::load::Loaded;
use super::super::record::Context;
use crate::tcp_info::{Sample, sweep};
use crate::{Result, mark};

/// A TCP socket that has a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Whose it is; its time is now.
    pub context: Context,
    /// What became of it so far.
    pub history: History,
    /// What the kernel measures of it.
    pub sample: Sample,
}

/// What became of a connection. What is not known, because it was before anybody looked, is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// When its SYN was sent, or (of one that was accepted) when the kernel had the last part of the handshake.
    /// CLOCK_MONOTONIC.
    pub opened: Option<Duration>,
    /// When the handshake was complete, likewise.
    pub established: Option<Duration>,
    /// Whether the two tell how long the handshake took: not where part of it had to be sent again to this end.
    pub is_timed: bool,
    /// SYN (of an active one) or SYN-ACK that were sent again. Known when established, or at the end.
    pub syn_retries: u32,
    /// Which end began.
    pub direction: Option<Direction>,
    /// The other end reset it.
    pub reset_received: bool,
    /// This end reset it.
    pub reset_sent: bool,
    /// Number of the last error (errno) that was told to the application.
    pub error: Option<u16>,
}

/// Which end began a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This end connected.
    Active,
    /// This end accepted.
    Passive,
}

impl Direction {
    /// The kernel's words for it, as in its counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

impl History {
    /// From the SYN to the end of the handshake, seen from this end.
    #[must_use]
    pub fn connect_time(&self) -> Option<Duration> {
        let time = self.established?.checked_sub(self.opened?);
        time.filter(|_| self.is_timed)
    }
}

impl Listed {
    pub(in crate::probes) fn all(base: &Loaded) -> Result<Vec<Self>> {
        let tick = mark::tick();
        let all = records::<observe_tcp>(base, "flowtag_tcp")?;
        let listed = |raw: observe_tcp| Self {
            context: Context::from(&raw.event),
            history: History::from(&raw.socket),
            sample: sweep::sample(&raw.tcp, tick),
        };
        Ok(all.into_iter().map(listed).collect())
    }
}

impl From<&observe_socket> for History {
    fn from(raw: &observe_socket) -> Self {
        let has = |flag: flags::Type| u32::from(raw.flags) & flag != 0;
        let direction =
            [(flags::OBSERVE_ACTIVE, Direction::Active), (flags::OBSERVE_PASSIVE, Direction::Passive)];
        Self {
            opened: (raw.opened != 0).then(|| Duration::from_nanos(raw.opened)),
            established: (raw.established != 0).then(|| Duration::from_nanos(raw.established)),
            is_timed: has(flags::OBSERVE_TIMED),
            syn_retries: raw.syn_retries,
            direction: direction.into_iter().find(|(flag, _)| has(*flag)).map(|(_, direction)| direction),
            reset_received: has(flags::OBSERVE_RESET_RECEIVED),
            reset_sent: has(flags::OBSERVE_RESET_SENT),
            error: (raw.error != 0).then_some(raw.error),
        }
    }
}
