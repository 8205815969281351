//! What can happen to a flow, as inputs and the kernel say it to the engine.
//!
//! Plain values: an event must never carry a channel, handle or lock, so that it can be recorded, replayed and made
//! up by a test. An END of a flow, written from the far end: `Event::End(End::new(Selector::Flow(flow.reversed()),
//! Source("pipe")))`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtag_wire::firefly::Firefly;
use flowtag_wire::{FiveTuple, Strategy, Tag};
use jiff::Timestamp;

use crate::config::Settings;
use crate::flow::FlowId;
use crate::key::FlowKey;

/// The name of an input, as users type it: `api`, `pipe`, `firefly`. The engine gives it no meaning; it travels
/// along so that people can see who said what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(pub &'static str);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// Somebody names a flow and says whose it is: a program, or a rule that its first packet matched.
#[derive(Debug, Clone, PartialEq)]
pub struct Announcement {
    /// The flow, source and destination as the announcer sees them. Reports keep this orientation.
    pub flow: FiveTuple,
    /// Whose traffic it is.
    pub tag: Tag,
    /// Where the tag is written. `None`: as before for a known flow, [`Settings::strategy`] for a new one.
    pub strategy: Option<Strategy>,
    /// The name of the rule that found the flow; `None` if somebody announced it.
    pub rule: Option<Arc<str>>,
    /// How long this flow may be silent, where that is shorter than [`Settings::idle_limit`]. `None`: as announced
    /// before; a flow that was not announced before has no limit of its own.
    pub idle_limit: Option<Duration>,
    /// When the flow began by the announcer's clock; `None` means now. Believed as said, so that start and end
    /// come from one clock.
    pub start_time: Option<Timestamp>,
    /// The program that moves the data, for fireflies. Cut to [`crate::MAX_APPLICATION`] bytes.
    pub application: Option<Arc<str>>,
    /// How often an `Ongoing` report is wanted of this flow. `None`: as announced before, for a new flow
    /// [`Settings::report_every`].
    pub report_every: Option<Duration>,
    /// The firefly that says so, for what it says beyond the fields above. Passed on with the report that follows from
    /// this announcement, if one does, and not kept.
    pub firefly: Option<Arc<Firefly>>,
    /// Who says so.
    pub source: Source,
}

impl Announcement {
    /// A flow that begins now, by an unnamed program, announced and not found by a rule.
    #[must_use]
    pub const fn new(flow: FiveTuple, tag: Tag, source: Source) -> Self {
        Self {
            flow,
            tag,
            strategy: None,
            rule: None,
            idle_limit: None,
            start_time: None,
            application: None,
            report_every: None,
            firefly: None,
            source,
        }
    }
}

/// Which flow is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// By 5-tuple, written from either end.
    Flow(FiveTuple),
    /// By the number that the engine gave it.
    Id(FlowId),
}

/// What a flow carried, in bytes of payload, seen from its announced source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// A flow is over. Carries no tag: the flow keeps the one it has, because senders get the ids of an END wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// The flow that is over.
    pub which: Selector,
    /// When it ended by the announcer's clock; `None` means now. Never reported as earlier than the start.
    pub end_time: Option<Timestamp>,
    /// What it carried, if the announcer counted; passed on as said.
    pub usage: Option<Usage>,
    /// The firefly that says so, for what it says beyond the fields above. Passed on with the report.
    pub firefly: Option<Arc<Firefly>>,
    /// Who says so.
    pub source: Source,
}

impl End {
    /// `which` ends now, and nobody counted its bytes.
    #[must_use]
    pub const fn new(which: Selector, source: Source) -> Self {
        Self { which, end_time: None, usage: None, firefly: None, source }
    }
}

/// What the engine is told. The order of events is the order of calls; `now` only measures idle times and fills
/// in times that nobody gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A flow begins. Said of a known flow, it is a refresh or a new tag.
    Start(Announcement),
    /// A flow goes on. Said of an unknown flow, it is a start.
    Ongoing(Announcement),
    /// A flow is over.
    End(End),
    /// The kernel marks a flow for an earlier daemon, from the announced source to the destination. The flow goes on
    /// as that daemon began it, so it is not reported again. What cannot be taken over is unmarked.
    Adopt(Announcement),
    /// The kernel's word that the socket of a flow closed. Ends a flow that nobody announced; for others, their END
    /// is waited for, because it knows more ([`crate::CLOSE_GRACE`]).
    Closed {
        /// The flow, seen from either end.
        key: FlowKey,
        /// When; in the future counts as now.
        at: Timestamp,
    },
    /// All addresses of this host, complete: what is not in it is no longer local.
    LocalAddresses(BTreeSet<IpAddr>),
    /// The kernel's answer to [`crate::Effect::Probe`], or its own word that a flow is alive.
    LastSeen {
        /// The flow that was asked about.
        key: FlowKey,
        /// When its last packet passed; `None`: the kernel saw none.
        at: Option<Timestamp>,
    },
    /// The kernel's map was full: it holds no entry for `key`. To be delivered right after the
    /// [`crate::Effect::Mark`] that failed, before other events.
    MarkFailed {
        /// The key that could not be marked.
        key: FlowKey,
    },
    /// New settings; no flow is lost.
    Configure(Settings),
    /// Time passed. Due at [`crate::Engine::next_deadline`]; earlier or later does no harm.
    Tick,
}
