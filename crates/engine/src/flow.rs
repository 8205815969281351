//! One flow: what the table keeps of it, and what others may see.
//!
//! The table's [`Flow`] never leaves the crate; views, reports and marks are made from it, each in one place, so
//! that they cannot contradict one another.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;

use flowtag_wire::{Entropy, FiveTuple, FlowLabel, Tag};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::effect::{Change, ChangeKind, Report, ReportState};
use crate::event::{Source, Usage};
use crate::key::FlowKey;

/// The number of a flow: 1, 2, 3 … in order of start, never used twice while the engine lives, unknown to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlowId(u64);

impl FlowId {
    /// The id with this number, whether or not such a flow exists.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The plain number.
impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FlowId {
    type Err = ParseIntError;
    fn from_str(s: &str) -> Result<Self, ParseIntError> {
        s.parse().map(Self)
    }
}

/// Whether the packets of a flow carry its label, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marking {
    /// The kernel was told to.
    Marked,
    /// IPv4 has no flow label; the flow is only reported.
    NotIpv6,
    /// The kernel's map was full; tried again with the next announcement of the flow.
    TableFull,
}

impl Marking {
    /// In kebab case, for tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::NotIpv6 => "not-ipv6",
            Self::TableFull => "table-full",
        }
    }
}

impl fmt::Display for Marking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A flow as it was when somebody looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowView {
    /// For ending it by number.
    pub id: FlowId,
    /// Source and destination as first announced.
    pub flow: FiveTuple,
    /// Local and remote end as the kernel matches them.
    pub key: FlowKey,
    /// Whose traffic it is by the latest word.
    pub tag: Tag,
    /// What its packets carry; `None` unless [`Marking::Marked`].
    pub label: Option<FlowLabel>,
    /// When the flow began.
    pub start_time: Timestamp,
    /// When it was given its tag: the start, unless the tag has changed since.
    pub tagged_since: Timestamp,
    /// The latest announcement or packet that the engine knows of.
    pub last_activity: Timestamp,
    /// The program that moves the data.
    pub application: Option<Arc<str>>,
    /// Who gave it its tag.
    pub source: Source,
    /// Whether its packets are marked.
    pub marking: Marking,
}

/// A flow in the table.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) announced: FiveTuple,
    pub(crate) key: FlowKey,
    pub(crate) tag: Tag,
    pub(crate) entropy: Entropy,
    pub(crate) start_time: Timestamp,
    pub(crate) tagged_since: Timestamp,
    pub(crate) last_activity: Timestamp,
    pub(crate) application: Option<Arc<str>>,
    pub(crate) source: Source,
    pub(crate) marking: Marking,
    /// A probe is out and its answer decides over the flow.
    pub(crate) awaiting: bool,
    /// When a tick looks at the flow next; the table's set of alarms has the same.
    pub(crate) alarm: Option<Timestamp>,
}

impl Flow {
    /// What the kernel's map holds for the flow.
    pub(crate) fn mark(&self) -> Option<(FlowKey, FlowLabel)> {
        (self.marking == Marking::Marked).then(|| (self.key, FlowLabel::from_tag(self.tag, self.entropy)))
    }

    /// Remembers a sign of life; an older one than known changes nothing.
    pub(crate) fn touch(&mut self, at: Timestamp) {
        self.last_activity = self.last_activity.max(at);
    }

    pub(crate) fn view(&self) -> FlowView {
        FlowView {
            id: self.id,
            flow: self.announced,
            key: self.key,
            tag: self.tag,
            label: self.mark().map(|(_, label)| label),
            start_time: self.start_time,
            tagged_since: self.tagged_since,
            last_activity: self.last_activity,
            application: self.application.clone(),
            source: self.source,
            marking: self.marking,
        }
    }

    pub(crate) fn change(&self, at: Timestamp, kind: ChangeKind) -> Change {
        Change { at, kind, flow: self.view() }
    }

    /// A report of the tag that the flow has now, from when it got it.
    pub(crate) fn report(&self, state: ReportState, now: Timestamp) -> Report {
        Report {
            state,
            id: self.id,
            flow: self.announced,
            key: self.key,
            tag: self.tag,
            start_time: self.tagged_since,
            end_time: None,
            current_time: now,
            application: self.application.clone(),
            source: self.source,
            usage: None,
        }
    }

    /// The report that ends what [`Self::report`] with [`ReportState::Start`] began. Never ends before it started,
    /// whatever the clocks said: collectors divide by the duration.
    pub(crate) fn end_report(&self, now: Timestamp, end_time: Timestamp, usage: Option<Usage>) -> Report {
        let end_time = Some(end_time.max(self.tagged_since));
        Report { end_time, usage, ..self.report(ReportState::End, now) }
    }
}
