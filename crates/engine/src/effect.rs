//! What follows from an event, for others to carry out: marks and probes by the kernel, reports and changes by the
//! outputs.
//!
//! Plain values in the order in which they matter: packets first, then reports, then those who only watch. An
//! effect must never need to be answered before the next event, except [`Effect::Mark`] where it fails.

use std::sync::Arc;

use flowtag_wire::firefly::Firefly;
use flowtag_wire::{Endpoint, FiveTuple, FlowLabel, Strategy, Tag};
use jiff::Timestamp;

use crate::event::{Source, Usage};
use crate::flow::{FlowId, FlowView};
use crate::key::FlowKey;

/// The engine's answer to one event.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "the effects are to be carried out, in order"]
pub struct Reaction {
    /// What became of the event, for whoever sent it.
    pub outcome: Outcome,
    /// What to do, in this order.
    pub effects: Vec<Effect>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The flow is new.
    Started(FlowId),
    /// The flow was known and has another tag or strategy now.
    Updated(FlowId),
    /// The flow was known and is as before, only fresher.
    Refreshed(FlowId),
    /// The flow is over.
    Ended(FlowId),
    /// No such flow is in the table; nothing changed.
    UnknownFlow,
    /// Refused; nothing changed but a counter.
    Rejected(Rejection),
    /// The event was not about one flow, or changed nothing that its sender has to know.
    Done,
}

/// Why an announcement was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nothing is evicted to make room: that would end a flow that somebody relies on.
    #[error(
        "the flow table is full: it may hold {max} flows; raise flows.max, shorten flows.idle_limit, or send an END for \
         flows that are over"
    )]
    TableFull {
        /// The limit in force.
        max: usize,
    },
    /// The flow is firefly traffic.
    #[error(
        "{flow} is firefly traffic: fireflies are sent to {end}, and a firefly about fireflies would never end; \
         announce the data flow, or stop sending fireflies to {end}"
    )]
    OwnFirefly {
        /// The flow that was announced.
        flow: FiveTuple,
        /// The end that is a collector or has a firefly port.
        end: Endpoint,
    },
}

/// What is written into the packets of a flow, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Tag and entropy.
    pub label: FlowLabel,
    /// The headers that get them.
    pub strategy: Strategy,
}

/// One thing to do. The large ones are behind pointers, because a tick makes thousands at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Put `mark` on the packets of `key`, in place of the mark that they may have, and notice when they pass.
    /// IPv4 packets cannot be marked and are only noticed.
    Mark {
        /// Which packets.
        key: FlowKey,
        /// What to write into them.
        mark: Mark,
        /// When the flow began, to be kept beside the mark: a later daemon learns it by [`crate::Event::Adopt`].
        start: Timestamp,
    },
    /// Leave the packets of `key` alone from now on. Only follows a [`Effect::Mark`] or a [`crate::Event::Adopt`] of
    /// the same key.
    Unmark {
        /// Which packets.
        key: FlowKey,
    },
    /// Ask the kernel when it last saw a packet of `key` and answer with [`crate::Event::LastSeen`].
    Probe {
        /// The flow that may be over.
        key: FlowKey,
    },
    /// Send a firefly.
    Report(Box<Report>),
    /// Tell those who watch the table. Shared, because they may be many.
    Changed(Arc<Change>),
}

impl From<Report> for Effect {
    fn from(report: Report) -> Self {
        Self::Report(Box::new(report))
    }
}

impl From<Change> for Effect {
    fn from(change: Change) -> Self {
        Self::Changed(Arc::new(change))
    }
}

/// Which firefly (`flow-lifecycle.state` of the firefly schema v1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReportState {
    /// The flow has its tag from now on.
    Start,
    /// The flow, or its time under this tag, is over.
    End,
    /// The flow goes on.
    Ongoing,
}

/// The content of a firefly, apart from what the kernel measured.
///
/// Every `Start` is followed by at most one `End` of the same id and tag, and by no other `Start` of that id before
/// it. A flow that was taken over ([`crate::Event::Adopt`]) had its `Start` from an earlier daemon. A flow that is given another tag is reported as ended under the old tag and started under the new one: a
/// collector that adds up flows or bytes per tag then stays balanced, and the spans of one flow do not overlap.
/// The first of these ENDs carries no usage, because nobody measured it. The last carries what the announcer said,
/// which may be the bytes of the whole connection: counted once, under the tag that was known last.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Which firefly.
    pub state: ReportState,
    /// The flow.
    pub id: FlowId,
    /// Source and destination as first announced, in every report of the flow.
    pub flow: FiveTuple,
    /// Which end is local: for addressing the firefly to the remote end and for asking the kernel for statistics.
    pub key: FlowKey,
    /// Whose traffic it is.
    pub tag: Tag,
    /// Since when the flow has this tag: its start, unless the tag changed.
    pub start_time: Timestamp,
    /// Set on `End`, and never before `start_time`.
    pub end_time: Option<Timestamp>,
    /// When the engine decided this.
    pub current_time: Timestamp,
    /// The program that moves the data.
    pub application: Option<Arc<str>>,
    /// Who announced the flow with this tag.
    pub source: Source,
    /// What the flow carried, if an END said so.
    pub usage: Option<Usage>,
    /// The flow label that its packets carry; `None` where they carry none of ours.
    pub label: Option<FlowLabel>,
    /// The rule that found the flow; `None` once somebody announces it.
    pub rule: Option<Arc<str>>,
    /// Why the flow is over. `None` unless it is: on an `End`, the flow goes on under another tag.
    pub ended: Option<EndReason>,
    /// The firefly that this report follows from, if it does.
    pub firefly: Option<Arc<Firefly>>,
}

/// What changed in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When: the end of the flow if it ended, otherwise when the engine was told.
    pub at: Timestamp,
    /// What.
    pub kind: ChangeKind,
    /// The flow after the change; for one that ended, as it last was.
    pub flow: FlowView,
}

/// What happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new.
    Started,
    /// Its tag, its strategy, its local end or its marking is another. Mere refreshes are not told.
    Updated,
    /// It is gone.
    Ended(EndReason),
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// An END said so.
    Requested {
        /// Who sent it.
        by: Source,
    },
    /// Nothing was heard or seen of it for the idle limit.
    Idle,
    /// Its socket closed.
    Closed,
}

impl EndReason {
    /// In lower case, for tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requested { .. } => "requested",
            Self::Idle => "idle",
            Self::Closed => "closed",
        }
    }
}
