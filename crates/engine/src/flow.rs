//! One flow: what the table keeps of it, and what others may see.
//!
//! The table's [`Flow`] never leaves the crate; views, reports and marks are made from it, each in one place, so
//! that they cannot contradict one another.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use flowtag_wire::{Entropy, FiveTuple, FlowLabel, Strategy, Tag};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::effect::{Change, ChangeKind, Effect, Mark, Report, ReportState};
use crate::event::{Announcement, Source, Usage};
use crate::key::FlowKey;
use crate::later;

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

/// Whether the packets of a flow carry its tag, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marking {
    /// The kernel was told to.
    Marked,
    /// IPv4 packets have no place for a tag; the flow is only followed and reported.
    NotIpv6,
    /// The kernel's map was full; tried again with the next announcement of the flow.
    TableFull,
}

impl Marking {
    /// While the kernel has room.
    pub(crate) fn of(flow: &FiveTuple) -> Self {
        if flow.is_ipv6() { Self::Marked } else { Self::NotIpv6 }
    }

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
    /// Where the tag is written while it is [`Marking::Marked`].
    pub strategy: Strategy,
    /// The rule that found the flow; `None` once somebody announces it.
    pub rule: Option<Arc<str>>,
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

/// A flow in the table. There may be a hundred thousand, so what few of them have is in [`Seldom`].
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) announced: FiveTuple,
    /// The announced destination is the local end.
    pub(crate) turned: bool,
    pub(crate) tag: Tag,
    pub(crate) entropy: Entropy,
    pub(crate) strategy: Strategy,
    pub(crate) start_time: Timestamp,
    pub(crate) last_activity: Timestamp,
    /// When the latest periodic report was due; before the first, the start.
    pub(crate) reported: Timestamp,
    pub(crate) application: Option<Arc<str>>,
    pub(crate) source: Source,
    pub(crate) rule: Option<Arc<str>>,
    /// Nobody announced it: a rule found it, or an earlier daemon left it. So no END is to be expected.
    pub(crate) found: bool,
    /// The flow's own limit; the engine's counts where it is shorter.
    pub(crate) idle_limit: Option<Duration>,
    pub(crate) marking: Marking,
    /// A probe is out and its answer decides over the flow.
    pub(crate) awaiting: bool,
    /// When a tick looks at the flow next; the table's set of alarms has the same.
    pub(crate) alarm: Option<Timestamp>,
    pub(crate) seldom: Option<Box<Seldom>>,
}

/// What most flows never have.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    /// When the flow was given another tag than it began with.
    retagged: Option<Timestamp>,
    /// When its socket closed.
    closed: Option<Timestamp>,
    /// Time between periodic reports, where the announcer asked for one.
    report_every: Option<Duration>,
}

impl Flow {
    /// Local and remote end as the kernel matches them.
    pub(crate) fn key(&self) -> FlowKey {
        if self.turned { self.announced.reversed().into() } else { self.announced.into() }
    }

    /// What the kernel's map holds for the flow. Also of an IPv4 flow, whose packets it only follows.
    pub(crate) fn mark(&self) -> Option<(FlowKey, Mark)> {
        let mark = || Mark { label: FlowLabel::from_tag(self.tag, self.entropy), strategy: self.strategy };
        (self.marking != Marking::TableFull).then(|| (self.key(), mark()))
    }

    /// The label of its packets, if they are marked with one.
    fn label(&self) -> Option<FlowLabel> {
        self.mark().map(|(_, mark)| mark.label).filter(|_| self.marking == Marking::Marked)
    }

    /// Makes the kernel's map hold what [`Self::mark`] says.
    pub(crate) fn mark_effect(&self) -> Option<Effect> {
        self.mark().map(|(key, mark)| Effect::Mark { key, mark, start: self.start_time })
    }

    /// Takes back what [`Self::mark_effect`] did.
    pub(crate) fn unmark_effect(&self) -> Option<Effect> {
        self.mark().map(|(key, _)| Effect::Unmark { key })
    }

    /// Remembers a sign of life; an older one than known changes nothing.
    pub(crate) fn touch(&mut self, at: Timestamp) {
        self.last_activity = self.last_activity.max(at);
    }

    /// When the flow was given its tag.
    pub(crate) fn tagged_since(&self) -> Timestamp {
        self.seldom.as_ref().and_then(|seldom| seldom.retagged).unwrap_or(self.start_time)
    }

    pub(crate) fn retag(&mut self, tag: Tag, at: Timestamp) {
        self.tag = tag;
        self.seldom.get_or_insert_default().retagged = Some(at);
    }

    /// When its socket closed. An announced flow waits for its END since.
    pub(crate) fn closed(&self) -> Option<Timestamp> {
        self.seldom.as_ref()?.closed
    }

    pub(crate) fn close(&mut self, at: Timestamp) {
        self.seldom.get_or_insert_default().closed = Some(at);
    }

    pub(crate) fn reopen(&mut self) {
        if let Some(seldom) = &mut self.seldom {
            seldom.closed = None;
        }
    }

    pub(crate) fn set_report_every(&mut self, period: Option<Duration>) {
        if period.is_some() {
            self.seldom.get_or_insert_default().report_every = period;
        }
    }

    /// When the next periodic report is due, where `usual` is the time between those of flows that have none of their
    /// own. None where there are none, and while a closed flow waits for its END.
    pub(crate) fn next_report(&self, usual: Option<Duration>) -> Option<Timestamp> {
        let own = self.seldom.as_ref().and_then(|seldom| seldom.report_every);
        let period = own.or(usual).filter(|period| !period.is_zero() && self.closed().is_none())?;
        Some(later(self.reported, period))
    }

    /// Takes over what an announcement says beside tag and application. The first word about a flow that nobody
    /// announced replaces what its rule said; another one replaces what it names.
    pub(crate) fn learn(&mut self, what: &Announcement) {
        self.strategy = what.strategy.unwrap_or(self.strategy);
        self.set_report_every(what.report_every);
        if self.found {
            self.found = what.rule.is_some();
            self.rule.clone_from(&what.rule);
            self.source = what.source;
            self.idle_limit = what.idle_limit;
        } else {
            self.idle_limit = what.idle_limit.or(self.idle_limit);
        }
    }

    pub(crate) fn view(&self) -> FlowView {
        FlowView {
            id: self.id,
            flow: self.announced,
            key: self.key(),
            tag: self.tag,
            label: self.label(),
            strategy: self.strategy,
            rule: self.rule.clone(),
            start_time: self.start_time,
            tagged_since: self.tagged_since(),
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
            key: self.key(),
            tag: self.tag,
            start_time: self.tagged_since(),
            end_time: None,
            current_time: now,
            application: self.application.clone(),
            source: self.source,
            usage: None,
            label: self.label().filter(|_| self.strategy.contains(Strategy::LABEL)),
            rule: self.rule.clone(),
            ended: None,
            firefly: None,
        }
    }

    /// The report that ends what [`Self::report`] with [`ReportState::Start`] began. Never ends before it started,
    /// whatever the clocks said: collectors divide by the duration.
    pub(crate) fn end_report(&self, now: Timestamp, end_time: Timestamp, usage: Option<Usage>) -> Report {
        let end_time = Some(end_time.max(self.tagged_since()));
        Report { end_time, usage, ..self.report(ReportState::End, now) }
    }
}
