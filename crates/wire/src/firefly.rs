//! Fireflies: the JSON messages that say when a flow starts and ends, whose it is and how much it moved
//! (firefly schema 1.0.0 of scitags.org).
//!
//! Place in the data flow: received datagrams become a [`Firefly`] here and go to the engine as flow events; the
//! engine's flows become fireflies here and go to collectors. Reading accepts every dialect that is on the network
//! (XRootD, dCache, flowd, flowd-go); writing makes one, which is valid against the schema and never longer than the
//! caller's limit. What a sender added is kept, so that relaying loses nothing that the schema allows.
//!
//! Nothing here guesses: a firefly without its start time is an error when written, unless the caller asked for
//! [`Firefly::with_required_times`].
//!
//! ```
//! use flowtag_wire::firefly::{Firefly, State, Usage};
//! use flowtag_wire::syslog::{AppName, Header, Hostname};
//! use flowtag_wire::{FiveTuple, Protocol, Tag};
//!
//! let flow = FiveTuple::new(Protocol::Tcp, "[2001:db8::1]:1094".parse()?, "[2001:db8::2]:40000".parse()?)?;
//! let firefly = Firefly {
//!     start_time: Some("2026-11-21T12:00:00Z".parse()?),
//!     end_time: Some("2026-11-21T12:01:00Z".parse()?),
//!     usage: Some(Usage { sent: Some(1 << 30), received: Some(4096) }),
//!     ..Firefly::new(State::End, flow, Tag::new(3, 14)?)
//! };
//! let header = Header::new(Hostname::sanitised("se01"), AppName::sanitised("flowtag"));
//! let datagram = firefly.to_datagram("2026-11-21T12:01:00Z".parse()?, &header, 1232)?;
//! assert_eq!(Firefly::from_datagram(&datagram)?, firefly);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod read;
mod write;

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use read::{MAX_DATAGRAM, MAX_DEPTH, ReadError};
pub use write::WriteError;

use crate::{FiveTuple, Tag, TagError};

/// Where in its life the flow is: `flow-lifecycle.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The flow began; its packets may be marked from now on.
    Start,
    /// The flow is over; no packet of it will follow.
    End,
    /// The flow goes on; a progress report that begins and ends nothing.
    Ongoing,
}

impl State {
    const ALL: [Self; 3] = [Self::Start, Self::End, Self::Ongoing];

    /// The word in the schema.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
            Self::Ongoing => "ongoing",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Bytes that the application moved, seen from the sender of the firefly: `usage`.
///
/// Collectors compute throughput only where both are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct Usage {
    /// Bytes received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Bytes sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<u64>,
}

/// One firefly. Times are read to the nanosecond and written to the microsecond.
#[derive(Debug, Clone, PartialEq)]
pub struct Firefly {
    /// What happened to the flow.
    pub state: State,
    /// When the flow began; needed to write, often missing in what is read.
    pub start_time: Option<Timestamp>,
    /// When the flow ended; needed to write an [`State::End`].
    pub end_time: Option<Timestamp>,
    /// When the sender made this message.
    pub current_time: Option<Timestamp>,
    /// The flow, source and destination as the sender named them. IPv4-mapped addresses are IPv4 here.
    pub flow: FiveTuple,
    /// The experiment's number; the schema sets no range, see [`Self::tag`].
    pub experiment: u32,
    /// The activity's number; the schema sets no range, see [`Self::tag`].
    pub activity: u32,
    /// Name and version of the program that moves the data.
    pub application: Option<String>,
    /// Bytes moved so far.
    pub usage: Option<Usage>,
    /// The kernel's view of the socket, as it came. A `netlink` that is not an object, such as flowd's pair of state
    /// and details, is read into the key `value`, because the schema wants an object.
    pub netlink: Option<Map<String, Value>>,
    /// dCache's `storage-stats`, as they came.
    pub storage_stats: Option<Value>,
    /// All other top-level keys, such as flowd-go's `skOps`, as they came. Keys that the schema or the fields above
    /// own are not written from here.
    pub extra: Map<String, Value>,
    /// The host that the message came from, where whoever received it noted that. Not a part of the message: neither read
    /// nor written.
    pub sender: Option<IpAddr>,
}

impl Firefly {
    /// A firefly that says only whose flow it is; set the rest with the struct update syntax.
    #[must_use]
    pub fn new(state: State, flow: FiveTuple, tag: Tag) -> Self {
        Self {
            state,
            start_time: None,
            end_time: None,
            current_time: None,
            flow,
            experiment: tag.experiment.get().into(),
            activity: tag.activity.get().into(),
            application: None,
            usage: None,
            netlink: None,
            storage_stats: None,
            extra: Map::new(),
            sender: None,
        }
    }

    /// The tag that this firefly asks for.
    ///
    /// # Errors
    /// Experiment outside 1 to 511 or activity outside 1 to 63: it cannot be marked, only relayed.
    pub fn tag(&self) -> Result<Tag, TagError> {
        Tag::new(self.experiment.into(), self.activity.into())
    }

    /// Fills in the times that the schema requires and the sender left out: a missing end of an [`State::End`] is
    /// the current time, and a missing start is the earliest time that is known, `now` if there is no other.
    #[must_use]
    pub fn with_required_times(mut self, now: Timestamp) -> Self {
        if self.state == State::End {
            self.end_time = self.end_time.or(self.current_time).or(Some(now));
        }
        let earliest = [self.end_time, self.current_time].into_iter().flatten().min();
        self.start_time = self.start_time.or(earliest).or(Some(now));
        self
    }
}
