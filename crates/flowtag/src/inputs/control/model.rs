//! What travels over the control API, for the server and for the command line that talks to it. `docs/openapi.yaml`
//! describes the same, and a test holds the two against each other.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::{Announcement, Change, ChangeKind, End, FlowId, FlowView, Registry, Selector, Source};
use flowtag_kernel::mark::{self, InterfaceCounters};
use flowtag_wire::{Endpoint, FiveTuple, FlowError, Protocol, ScitagInteger, Strategy, StrategyError, Tag};
use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{RuleProblem, RuleText};
use crate::rules::{Origin, RuleView};
use crate::supervisor::accounts::Accounts;
use crate::supervisor::counters::ServiceStatus;

/// Events that one request may carry.
pub(crate) const MAX_EVENTS: usize = 10_000;

const SOURCE: Source = Source("api");
/// As of `flows.report_every`.
const REPORT_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86400);

/// An experiment or activity, as a number or by its registered name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum NameOrNumber {
    Number(u64),
    Name(String),
}

/// Not derived: an untagged enum's errors name Rust types and not what was found.
impl<'de> Deserialize<'de> for NameOrNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = NameOrNumber;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a registered name or a number from 1 up")
            }

            fn visit_u64<E>(self, number: u64) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Number(number))
            }

            fn visit_str<E>(self, name: &str) -> Result<NameOrNumber, E> {
                Ok(NameOrNumber::Name(name.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl std::fmt::Display for NameOrNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Which flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FlowRequest {
    pub(crate) protocol: String,
    pub(crate) src: String,
    pub(crate) dst: String,
}

/// A flow begins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartRequest {
    pub(crate) protocol: String,
    pub(crate) src: String,
    pub(crate) dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) experiment: Option<NameOrNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) activity: Option<NameOrNumber>,
    /// In place of experiment and activity: `experiment << 6 | activity`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scitag: Option<u64>,
    /// Where the tag is written; none: as `mark.strategy` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) application: Option<String>,
    /// A time, as `30s`; none: as `flows.report_every` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report_every: Option<String>,
}

/// A flow is over: named by its number or by its five-tuple.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) src: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dst: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) end_time: Option<Timestamp>,
    #[serde(default, deserialize_with = "object", skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// Bytes of payload, seen from the flow's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Usage {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// One event of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum EventRequest {
    Start(StartRequest),
    Ongoing(StartRequest),
    End(EndRequest),
}

/// A `T` that was written as a JSON object. serde takes lists for structs as well, field after field: nobody means that,
/// and the values would go wherever the order of the fields puts them.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Braces<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Braces<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Braces(PhantomData))
    }
}

fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value))
}

/// The events of one request.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The first [`MAX_EVENTS`].
    pub(crate) events: Vec<EventRequest>,
    /// How many came after them. Only counted: the request will be refused, whatever they say.
    pub(crate) beyond: usize,
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Batch;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Batch, A::Error> {
                let mut batch = Batch::default();
                while batch.events.len() < MAX_EVENTS {
                    let Some(Object(event)) = list.next_element()? else { return Ok(batch) };
                    batch.events.push(event);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {
                    batch.beyond += 1;
                }
                Ok(batch)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

/// Why a request is not an event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error(transparent)]
    Name(#[from] flowtag_engine::ResolveError),
    #[error(transparent)]
    Tag(#[from] flowtag_wire::TagError),
    #[error(transparent)]
    Strategy(#[from] StrategyError),
    #[error(transparent)]
    Rule(#[from] RuleProblem),
    #[error("whose flow it is is missing: give experiment and activity, or scitag, and not both")]
    NoTag,
    #[error("which flow is missing: give id, or protocol, src and dst, and not both")]
    NoFlow,
    #[error(
        "application {0:?} has control characters: give name and version of the program, as `xrootd 5.7`"
    )]
    Application(String),
    #[error("report_every {0:?} is not a time from 1s to 30days: write 30s, 10m or 1h")]
    ReportEvery(String),
}

fn flow(protocol: &str, src: &str, dst: &str) -> Result<FiveTuple, FlowError> {
    let protocol: Protocol = protocol.parse()?;
    let (src, dst): (Endpoint, Endpoint) = (src.parse()?, dst.parse()?);
    FiveTuple::new(protocol, src, dst)
}

impl FlowRequest {
    pub(crate) fn flow(&self) -> Result<FiveTuple, FlowError> {
        flow(&self.protocol, &self.src, &self.dst)
    }
}

impl StartRequest {
    pub(crate) fn announcement(&self, registry: &Registry) -> Result<Announcement, ModelError> {
        let flow = flow(&self.protocol, &self.src, &self.dst)?;
        Ok(Announcement {
            strategy: self.strategy.as_deref().map(str::parse).transpose()?,
            start_time: self.start_time,
            application: self.application()?,
            report_every: self.report_every()?,
            ..Announcement::new(flow, self.tag(registry)?, SOURCE)
        })
    }

    /// Travels on in fireflies, logs and tables, where a line break or an escape sequence would pose as another line.
    fn application(&self) -> Result<Option<Arc<str>>, ModelError> {
        match self.application.as_deref() {
            Some(name) if name.chars().any(char::is_control) => {
                Err(ModelError::Application(name.chars().take(60).collect()))
            }
            name => Ok(name.map(Into::into)),
        }
    }

    fn report_every(&self) -> Result<Option<Duration>, ModelError> {
        let Some(text) = self.report_every.as_deref() else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(period) if REPORT_EVERY.contains(&period) => Ok(Some(period)),
            _ => Err(ModelError::ReportEvery(text.chars().take(60).collect())),
        }
    }

    fn tag(&self, registry: &Registry) -> Result<Tag, ModelError> {
        match (&self.experiment, &self.activity, self.scitag) {
            (Some(experiment), Some(activity), None) => {
                let experiment = registry.resolve_experiment(&experiment.to_string())?;
                let activity = registry.resolve_activity(experiment, &activity.to_string())?;
                Ok(Tag { experiment, activity })
            }
            (None, None, Some(scitag)) => Ok(ScitagInteger::new(scitag)?.try_into()?),
            _ => Err(ModelError::NoTag),
        }
    }
}

impl EndRequest {
    pub(crate) fn end(&self) -> Result<End, ModelError> {
        let which = match (self.id, &self.protocol, &self.src, &self.dst) {
            (Some(id), None, None, None) => Selector::Id(FlowId::new(id)),
            (None, Some(protocol), Some(src), Some(dst)) => Selector::Flow(flow(protocol, src, dst)?),
            _ => return Err(ModelError::NoFlow),
        };
        let usage = self.usage.map(|u| flowtag_engine::Usage { sent: u.sent, received: u.received });
        Ok(End { end_time: self.end_time, usage, ..End::new(which, SOURCE) })
    }
}

/// A flow as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flow {
    pub(crate) id: u64,
    pub(crate) protocol: String,
    pub(crate) src: String,
    pub(crate) dst: String,
    /// The end on this host.
    pub(crate) local: String,
    pub(crate) remote: String,
    pub(crate) experiment: u16,
    pub(crate) activity: u8,
    pub(crate) experiment_name: Option<String>,
    pub(crate) activity_name: Option<String>,
    pub(crate) scitag: u16,
    /// The flow label that its packets carry, as `0x30038`.
    pub(crate) label: Option<String>,
    /// `marked`, `not-ipv6`, `table-full`, or `off` when the daemon does not mark.
    pub(crate) marking: String,
    /// Where it is written, or would be, as `label+destination`.
    pub(crate) strategy: String,
    /// The rule that found it; none: it was announced.
    pub(crate) rule: Option<String>,
    pub(crate) start_time: Timestamp,
    pub(crate) last_activity: Timestamp,
    pub(crate) application: Option<String>,
    /// Who gave it its tag.
    pub(crate) source: String,
}

impl Flow {
    pub(crate) fn new(view: &FlowView, registry: &Registry, marks: bool) -> Self {
        let Tag { experiment, activity } = view.tag;
        Self {
            id: view.id.get(),
            protocol: view.flow.protocol().to_string(),
            src: view.flow.src().to_string(),
            dst: view.flow.dst().to_string(),
            local: view.key.local.to_string(),
            remote: view.key.remote.to_string(),
            experiment: experiment.get(),
            activity: activity.get(),
            experiment_name: registry.experiment_name(experiment).map(str::to_owned),
            activity_name: registry.activity_name(experiment, activity).map(str::to_owned),
            scitag: ScitagInteger::from(view.tag).get(),
            label: view
                .label
                .filter(|_| marks && view.strategy.contains(Strategy::LABEL))
                .map(|l| l.to_string()),
            marking: if marks { view.marking.name() } else { "off" }.to_owned(),
            strategy: view.strategy.to_string(),
            rule: view.rule.as_deref().map(str::to_owned),
            start_time: view.start_time,
            last_activity: view.last_activity,
            application: view.application.as_deref().map(str::to_owned),
            source: view.source.to_string(),
        }
    }
}

/// Flows, in order of start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flows {
    /// How many match, of which `flows` may be only the first.
    pub(crate) total: usize,
    pub(crate) flows: Vec<Flow>,
}

/// What became of a START.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// `started`, `updated` (another tag) or `refreshed` (known already).
    pub(crate) outcome: String,
    pub(crate) flow: Flow,
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchResult {
    pub(crate) accepted: usize,
    pub(crate) rejected: usize,
    /// The first hundred.
    pub(crate) errors: Vec<BatchError>,
}

/// How a reload went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadResult {
    /// What of the configuration is not in force, and why.
    pub(crate) problems: Vec<String>,
}

/// One event of a batch that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchError {
    /// Counted from 0.
    pub(crate) index: usize,
    pub(crate) error: String,
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub(crate) enum WatchLine {
    Started {
        at: Timestamp,
        flow: Flow,
    },
    Updated {
        at: Timestamp,
        flow: Flow,
    },
    Ended {
        at: Timestamp,
        /// `requested`, `idle` or `closed`.
        reason: String,
        flow: Flow,
    },
    /// The watcher was too slow for so many changes.
    Lost {
        changes: u64,
    },
}

impl WatchLine {
    pub(crate) fn new(change: &Change, registry: &Registry, marks: bool) -> Self {
        let (at, flow) = (change.at, Flow::new(&change.flow, registry, marks));
        match change.kind {
            ChangeKind::Started => Self::Started { at, flow },
            ChangeKind::Updated => Self::Updated { at, flow },
            ChangeKind::Ended(reason) => Self::Ended { at, reason: reason.name().to_owned(), flow },
        }
    }
}

/// A rule as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleStatus {
    pub(crate) origin: Origin,
    /// False: none of the cgroups or none of the interfaces that it names is there now, so it matches nothing.
    pub(crate) resolved: bool,
    /// As it was written.
    pub(crate) rule: RuleText,
}

impl From<RuleView> for RuleStatus {
    fn from(RuleView { rule, origin, resolved }: RuleView) -> Self {
        Self { origin, resolved, rule: rule.text }
    }
}

/// Rules, from first to last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rules {
    /// False: the daemon marks nothing (`mark.enabled`), so no rule applies.
    pub(crate) marking: bool,
    pub(crate) rules: Vec<RuleStatus>,
}

/// Packets and bytes on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl From<mark::Count> for Count {
    fn from(mark::Count { packets, bytes }: mark::Count) -> Self {
        Self { packets, bytes }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What the marker did on one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InterfaceStatus {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// `tcx` or `clsact`.
    pub(crate) hook: String,
    /// More than 255 interfaces: the counters are those of several.
    pub(crate) shared_counters: bool,
    /// By what became of the packets.
    pub(crate) counts: std::collections::BTreeMap<String, Count>,
}

impl From<&InterfaceCounters> for InterfaceStatus {
    fn from(counters: &InterfaceCounters) -> Self {
        Self {
            name: counters.interface.name.clone(),
            index: counters.interface.index,
            hook: counters.hook.to_string(),
            shared_counters: counters.shared,
            counts: counters.counts.iter().map(|(v, c)| (v.name().to_owned(), (*c).into())).collect(),
        }
    }
}

/// Tags in a status at most.
const MAX_TAGS: usize = 20;

/// The flows of one tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TagStatus {
    pub(crate) experiment: u16,
    pub(crate) activity: u8,
    pub(crate) experiment_name: Option<String>,
    pub(crate) activity_name: Option<String>,
    /// How many are known now.
    pub(crate) flows: u64,
    /// Bytes of payload that left this host, of all flows so far, as far as they were measured.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl TagStatus {
    /// Those with most flows first.
    pub(crate) fn most(accounts: &Accounts, registry: &Registry) -> Vec<Self> {
        let mut tags: Vec<_> = accounts
            .totals()
            .map(|(Tag { experiment, activity }, totals)| Self {
                experiment: experiment.get(),
                activity: activity.get(),
                experiment_name: registry.experiment_name(experiment).map(str::to_owned),
                activity_name: registry.activity_name(experiment, activity).map(str::to_owned),
                flows: totals.open,
                sent: totals.volume.sent,
                received: totals.volume.received,
            })
            .collect();
        tags.sort_by_key(|tag| std::cmp::Reverse((tag.flows, tag.sent.saturating_add(tag.received))));
        tags.truncate(MAX_TAGS);
        tags
    }
}

/// The daemon at a glance.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) started: Timestamp,
    pub(crate) flows: usize,
    pub(crate) max_flows: usize,
    /// The kernel's number of the map of flows; none: marking is off.
    pub(crate) flow_table: Option<u32>,
    /// Those with most flows.
    pub(crate) tags: Vec<TagStatus>,
    /// None: marking is off.
    pub(crate) interfaces: Option<Vec<InterfaceStatus>>,
    /// Events by what became of them.
    pub(crate) engine: std::collections::BTreeMap<String, u64>,
    /// Inputs and outputs that run, by their section of the configuration.
    pub(crate) services: std::collections::BTreeMap<String, ServiceStatus>,
}
