//! Decides what to mark and what to report, and does nothing else.
//!
//! Inputs and the kernel say what happens to flows ([`Event`]); [`Engine::handle`] keeps the table of flows and
//! answers what follows ([`Effect`]): marks to put on packets and to take off, flows to ask the kernel about,
//! fireflies to send, changes to show. Whoever holds the engine carries the effects out.
//!
//! ```text
//! inputs ── Event ──►┐                  ┌──► kernel: Mark, Unmark, Probe
//!                    ├──►  Engine  ─────┤
//! kernel ── Event ──►┘   Effect(s)      └──► outputs: Report, Changed
//! ```
//!
//! Nothing here does I/O, reads a clock, spawns or locks; time is an argument. No input makes it panic, and no
//! input makes it grow beyond [`Settings::max_flows`]. [`Registry`] turns names of experiments and activities into
//! the numbers of a tag and back.
//!
//! ```
//! use flowtag_engine::{Announcement, Config, Effect, Engine, Event, Outcome, Source};
//! use flowtag_wire::{Endpoint, FiveTuple, Protocol, Tag};
//! use jiff::Timestamp;
//!
//! let mut engine = Engine::new(Config::new(*b"16 random bytes!"));
//! let local: Endpoint = "[2001:db8::1]:1094".parse()?;
//! let remote: Endpoint = "[2001:db8::2]:40000".parse()?;
//! let flow = FiveTuple::new(Protocol::Tcp, local, remote)?;
//! let start = Announcement::new(flow, Tag::new(3, 14)?, Source("api"));
//!
//! let reaction = engine.handle(Timestamp::UNIX_EPOCH, Event::Start(start));
//! assert!(matches!(reaction.outcome, Outcome::Started(_)));
//! assert!(matches!(reaction.effects[0], Effect::Mark { key, .. } if key.local == local));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod counters;
mod effect;
mod engine;
mod event;
mod flow;
mod key;
pub mod registry;
mod table;

pub use config::{Config, Guard, Settings};
pub use counters::{Counter, Counters};
pub use effect::{
    Change, ChangeKind, Effect, EndReason, Mark, Outcome, Reaction, Rejection, Report, ReportState,
};
pub use engine::{CLOCK_STEP, CLOSE_GRACE, Engine, MAX_APPLICATION, MAX_PER_TICK, PROBE_RETRY};
pub use event::{Announcement, End, Event, Selector, Source, Usage};
pub use flow::{FlowId, FlowView, Marking};
pub use key::FlowKey;
use std::time::Duration;

use jiff::Timestamp;

pub use registry::{Registry, RegistryError, ResolveError};

/// `at + by`, or the end of time where that is later.
fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
