//! What there is to tell in numbers, once for all outputs that tell numbers: each family is described in one place, with
//! name, unit, kind and meaning, and every output writes it in its own format.
//!
//! Names are in snake case, without unit and without `_total`, which formats add.

mod observed;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowtag_engine::{Counter, FlowView, Registry};
use flowtag_kernel::mark;
pub(crate) use flowtag_kernel::probes::histogram::BOUNDS;
use flowtag_kernel::tcp_info::Sample;
use flowtag_wire::Tag;

use crate::inputs::control::model::Count as PacketCount;
use crate::supervisor::accounts::{Totals, Volume};
use crate::supervisor::core::{State, Stopping};
use crate::supervisor::counters::Target;
use crate::supervisor::observe::{self, Observed};
use crate::supervisor::service::Daemon;

/// How a number changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows.
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Number {
    Count(u64),
    Real(f64),
    Spread(Box<Distribution>),
}

/// How often times came that are in each of the intervals of [`BOUNDS`], and beyond.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Distribution {
    pub(crate) counts: [u64; BOUNDS.len() + 1],
    /// In seconds.
    pub(crate) sum: f64,
}

impl Distribution {
    /// Of one time.
    pub(crate) fn of(seconds: f64) -> Self {
        let mut one = Self { sum: seconds, ..Self::default() };
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        one.counts.iter_mut().skip(at).take(1).for_each(|count| *count = 1);
        one
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(sum, more)| *sum += more);
        self.sum += other.sum;
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Number {
    /// Seconds, of microseconds.
    #[expect(clippy::cast_precision_loss, reason = "beyond 285 years only")]
    pub(crate) fn seconds(micros: u64) -> Self {
        Self::Real(micros as f64 / 1e6)
    }
}

/// Names and values.
pub(crate) type Labels = Arc<[(&'static str, String)]>;

/// All series of one name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    pub(crate) name: Cow<'static, str>,
    /// In the plural, as `bytes`, and not part of `name`.
    pub(crate) unit: Option<&'static str>,
    pub(crate) kind: Kind,
    /// A sentence without its full stop.
    pub(crate) help: Cow<'static, str>,
    pub(crate) points: Vec<(Labels, Number)>,
}

/// A number of a `T`: what it is and how to get it.
pub(crate) struct Described<T> {
    pub(crate) name: &'static str,
    pub(crate) unit: Option<&'static str>,
    pub(crate) kind: Kind,
    pub(crate) help: &'static str,
    /// None: it is not known.
    pub(crate) value: fn(&T) -> Option<Number>,
}

impl<T> Described<T> {
    pub(crate) fn family<'a>(&self, of: impl IntoIterator<Item = (&'a Labels, &'a T)>) -> Family
    where
        T: 'a,
    {
        let point = |(labels, one): (&Labels, &T)| Some((Arc::clone(labels), (self.value)(one)?));
        Family {
            name: self.name.into(),
            unit: self.unit,
            kind: self.kind,
            help: self.help.into(),
            points: of.into_iter().filter_map(point).collect(),
        }
    }
}

/// For tables of what is described.
pub(crate) const fn described<T>(
    kind: Kind,
    name: &'static str,
    unit: Option<&'static str>,
    help: &'static str,
    value: fn(&T) -> Option<Number>,
) -> Described<T> {
    Described { name, unit, kind, help, value }
}

/// Two metrics of one name, told apart by their unit.
const fn packets_and_bytes(
    name: &'static str,
    packets: &'static str,
    bytes: &'static str,
) -> [Described<PacketCount>; 2] {
    [
        described(C, name, Some("packets"), packets, |c| count(c.packets)),
        described(C, name, Some("bytes"), bytes, |c| count(c.bytes)),
    ]
}

const fn count(number: u64) -> Option<Number> {
    Some(Number::Count(number))
}

fn seconds(micros: u64) -> Option<Number> {
    Some(Number::seconds(micros))
}

use Kind::{Counter as C, Gauge as G};

/// By tag.
const TOTALS: [Described<Totals>; 8] = [
    described(G, "flowtag_flows_open", None, "Flows that are known now", |t| count(t.open)),
    described(C, "flowtag_flows_started", None, "Flows that began, or were given this tag", |t| {
        count(t.started)
    }),
    described(C, "flowtag_flow_tx", Some("bytes"), "Payload that flows sent from this host", |t| {
        count(t.volume.sent)
    }),
    described(C, "flowtag_flow_rx", Some("bytes"), "Payload that flows received at this host", |t| {
        count(t.volume.received)
    }),
    described(C, "flowtag_tcp_sent", Some("segments"), "TCP segments that flows sent", |t| {
        count(t.volume.segments_sent)
    }),
    described(C, "flowtag_tcp_received", Some("segments"), "TCP segments that flows received", |t| {
        count(t.volume.segments_received)
    }),
    described(C, "flowtag_flow_retransmit", Some("segments"), "TCP segments that flows sent again", |t| {
        count(t.volume.retransmitted)
    }),
    described(C, "flowtag_tcp_busy", Some("seconds"), "Time in which flows had something to send", |t| {
        seconds(t.volume.busy)
    }),
];

/// The tags that have series of their own. One that has them keeps them, so that no series and not what is added up as
/// `other` ever goes back.
#[derive(Debug)]
pub(crate) struct Shown {
    tags: BTreeSet<Tag>,
    max: usize,
}

impl Shown {
    pub(crate) const fn new(max: usize) -> Self {
        Self { tags: BTreeSet::new(), max }
    }

    fn shows(&mut self, tag: Tag) -> bool {
        self.tags.contains(&tag) || (self.tags.len() < self.max && self.tags.insert(tag))
    }
}

/// A flow at one moment.
#[derive(Debug)]
pub(crate) struct Each {
    pub(crate) view: FlowView,
    pub(crate) volume: Option<Volume>,
    pub(crate) tcp: Option<Arc<Sample>>,
}

/// What the kernel counted.
#[derive(Debug)]
struct Marked {
    interfaces: Vec<mark::InterfaceCounters>,
    sent: Vec<(Option<Tag>, mark::Count)>,
    lost_events: u64,
}

impl Marked {
    fn take(marker: &mark::Marker) -> flowtag_kernel::Result<Self> {
        let (interfaces, sent) = (marker.counters()?, marker.sent()?);
        Ok(Self { interfaces, sent, lost_events: marker.lost_events()? })
    }
}

/// What was to be told at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The oldest flows, as many as were asked for.
    pub(crate) flows: Vec<Each>,
    /// No flow has a number beyond this one.
    pub(crate) newest: u64,
    totals: Vec<(Tag, Totals)>,
    open: usize,
    max_flows: usize,
    engine: Vec<Counter>,
    /// Name, how many wait, how many may.
    queues: Vec<(&'static str, usize, usize)>,
    /// None: marking is off. An error is not told: it would be for ever, and the log has it.
    marked: Option<Marked>,
    services: BTreeMap<String, (&'static str, u64)>,
    targets: Vec<(&'static str, Target)>,
    registry: Arc<Registry>,
    started: jiff::Timestamp,
    /// None: nothing is watched.
    observed: Option<Observed>,
}

impl Snapshot {
    /// Looks at everything between two events, and at the oldest `flows` flows. That many are copied while the core waits,
    /// so it should not be all of many.
    pub(crate) async fn take(daemon: &Daemon, flows: usize) -> Result<Self, Stopping> {
        let core = daemon.core.queue();
        let (registry, services) = (daemon.registry_now(), counters(daemon));
        let entries = daemon.board.entries();
        let targets =
            entries.iter().flat_map(|(name, entry)| (entry.targets)().into_iter().map(|t| (*name, t)));
        let targets = targets.collect();
        let started = daemon.started;
        let observed = daemon.observer.look().await;
        let look = move |state: &mut State| Self {
            flows: state.engine.iter().take(flows).map(|view| Each::new(state, view)).collect(),
            newest: state.engine.counters().started,
            totals: state.accounts.totals().collect(),
            open: state.engine.len(),
            max_flows: state.engine.settings().max_flows,
            engine: state.engine.counters().iter().collect(),
            queues: state.feeds.queues().chain([("core", core.0, core.1)]).collect(),
            marked: state.marker.as_ref().and_then(|marker| Marked::take(marker).ok()),
            services,
            targets,
            registry,
            started,
            observed,
        };
        daemon.core.ask(look).await
    }

    /// What all flows moved since the daemon started.
    pub(crate) fn moved(&self) -> Volume {
        self.totals.iter().fold(Volume::default(), |mut sum, (_, totals)| {
            sum += totals.volume;
            sum
        })
    }

    /// Labels that say whose traffic it is.
    pub(crate) fn owner(&self, tag: Tag) -> [(&'static str, String); 4] {
        let (experiment, activity) = (tag.experiment, tag.activity);
        let (e, a) = (experiment.to_string(), activity.to_string());
        let named = |name: Option<&str>, number: &str| name.unwrap_or(number).to_owned();
        [
            ("experiment", named(self.registry.experiment_name(experiment), &e)),
            ("activity", named(self.registry.activity_name(experiment, activity), &a)),
            ("experiment_id", e),
            ("activity_id", a),
        ]
    }

    /// All that is told of the daemon and of flows by tag.
    pub(crate) fn families(&self, shown: &mut Shown) -> Vec<Family> {
        let mut families = self.by_tag(shown);
        families.extend(self.by_interface());
        families.extend(self.daemon());
        families.extend(self.services());
        families.extend(self.observed());
        families
    }

    fn by_tag(&self, shown: &mut Shown) -> Vec<Family> {
        let totals = self.bucketed(shown, self.totals.iter().map(|(tag, totals)| (Some(*tag), *totals)));
        let mut families: Vec<_> =
            TOTALS.iter().map(|described| described.family(totals.iter().map(|(l, t)| (l, t)))).collect();
        let parts =
            |value: fn(&Totals) -> Vec<(&'static str, &'static str, Number)>| -> Vec<(Labels, Number)> {
                let points = totals.iter().flat_map(|(labels, totals)| {
                    value(totals).into_iter().map(|(name, part, number)| (and(labels, name, part), number))
                });
                points.collect()
            };
        families.push(Family {
            name: "flowtag_flows_ended".into(),
            unit: None,
            kind: Kind::Counter,
            help: "Flows that ended, by how".into(),
            points: parts(|t| {
                let (e, how) = (t.ended, "reason");
                let parts = [
                    ("requested", e.requested),
                    ("closed", e.closed),
                    ("idle", e.idle),
                    ("retagged", e.retagged),
                ];
                parts.into_iter().map(|(part, number)| (how, part, Number::Count(number))).collect()
            }),
        });
        families.push(Family {
            name: "flowtag_tcp_limited".into(),
            unit: Some("seconds"),
            kind: Kind::Counter,
            help: "Time in which flows could not send, by what held them back".into(),
            points: parts(|t| {
                let (receiver, buffer) = (t.volume.receiver_limited, t.volume.buffer_limited);
                vec![("by", "rwnd", Number::seconds(receiver)), ("by", "sndbuf", Number::seconds(buffer))]
            }),
        });
        families.extend(self.marked_by_tag(shown));
        families
    }

    fn marked_by_tag(&self, shown: &mut Shown) -> Vec<Family> {
        const COUNTS: [Described<PacketCount>; 2] = packets_and_bytes(
            "flowtag_marked",
            "IPv6 packets that left with the tag",
            "Bytes of IPv6 packets that left with the tag",
        );
        let Some(marked) = &self.marked else { return Vec::new() };
        let sent =
            self.bucketed(shown, marked.sent.iter().map(|(tag, count)| (*tag, PacketCount::from(*count))));
        COUNTS.iter().map(|described| described.family(sent.iter().map(|(l, c)| (l, c)))).collect()
    }

    /// Puts labels on what is counted by tag, and adds up what has no series of its own.
    fn bucketed<T: std::ops::AddAssign>(
        &self,
        shown: &mut Shown,
        all: impl Iterator<Item = (Option<Tag>, T)>,
    ) -> Vec<(Labels, T)> {
        let (mut own, mut other) = (Vec::new(), None::<T>);
        for (tag, value) in all {
            match (tag.filter(|tag| shown.shows(*tag)), &mut other) {
                (Some(tag), _) => own.push((self.owner(tag).into(), value)),
                (None, Some(sum)) => *sum += value,
                (None, none) => *none = Some(value),
            }
        }
        own.extend(
            other.map(|sum| (["experiment", "activity"].map(|name| (name, OTHER.to_owned())).into(), sum)),
        );
        own
    }

    fn by_interface(&self) -> Vec<Family> {
        const COUNTS: [Described<PacketCount>; 2] = packets_and_bytes(
            "flowtag_interface",
            "Packets that left, by what became of them",
            "Bytes of packets that left, by what became of them",
        );
        let Some(marked) = &self.marked else { return Vec::new() };
        let own = marked.interfaces.iter().filter(|i| !i.shared).map(|i| (i.interface.name.as_str(), i));
        let shared = marked.interfaces.iter().find(|i| i.shared).map(|i| (OTHER, i));
        let counts: Vec<(Labels, PacketCount)> = own
            .chain(shared)
            .flat_map(|(name, all)| all.counts.iter().map(move |(verdict, count)| (name, verdict, count)))
            .map(|(name, verdict, count)| {
                let labels = [("interface", name.to_owned()), ("verdict", verdict.name().to_owned())];
                (labels.into(), PacketCount::from(*count))
            })
            .collect();
        COUNTS.iter().map(|described| described.family(counts.iter().map(|(l, c)| (l, c)))).collect()
    }

    fn daemon(&self) -> Vec<Family> {
        let none = || Labels::from([]);
        let one = |name: &'static str, kind, help: &'static str, points| Family {
            name: name.into(),
            unit: None,
            kind,
            help: help.into(),
            points,
        };
        let queue = |value: fn(&(&'static str, usize, usize)) -> usize| -> Vec<(Labels, Number)> {
            let labels = |name: &str| Labels::from([("queue", name.to_owned())]);
            self.queues.iter().map(|queue| (labels(queue.0), Number::Count(value(queue) as u64))).collect()
        };
        let version = Labels::from([("version", env!("CARGO_PKG_VERSION").to_owned())]);
        let start = Number::seconds(self.started.as_microsecond().try_into().unwrap_or_default());
        let mut families = vec![
            one(
                "flowtag_build_info",
                G,
                "1, with the version of this daemon",
                vec![(version, Number::Count(1))],
            ),
            Family {
                unit: Some("seconds"),
                ..one(
                    "flowtag_start_time",
                    G,
                    "When the daemon started, since the epoch",
                    vec![(none(), start)],
                )
            },
            one(
                "flowtag_table_flows",
                G,
                "Flows in the table",
                vec![(none(), Number::Count(self.open as u64))],
            ),
            one(
                "flowtag_table_limit",
                G,
                "Flows that the table may hold, and so may the kernel's",
                vec![(none(), Number::Count(self.max_flows as u64))],
            ),
            one("flowtag_queue_length", G, "What waits in a queue", queue(|q| q.1)),
            one("flowtag_queue_limit", G, "What may wait in a queue", queue(|q| q.2)),
        ];
        let engine = self.engine.iter().map(|counter| Family {
            name: format!("flowtag_engine_{}", counter.name).into(),
            ..one("", C, counter.help.trim_end_matches('.'), vec![(none(), Number::Count(counter.value))])
        });
        families.extend(engine);
        families.extend(self.marked.as_ref().map(|marked| {
            let help = "Matches and closed sockets that the kernel could not tell the daemon of";
            one("flowtag_kernel_events_lost", C, help, vec![(none(), Number::Count(marked.lost_events))])
        }));
        families
    }

    fn services(&self) -> Vec<Family> {
        let none = || Labels::from([]);
        let counted = self.services.iter().map(|(name, (help, number))| {
            let (name, unit, number) = match name.strip_suffix("_microseconds") {
                Some(name) => (name, Some("seconds"), Number::seconds(*number)),
                None => (name.as_str(), None, Number::Count(*number)),
            };
            Family {
                name: name.to_owned().into(),
                unit,
                kind: Kind::Counter,
                help: help.trim_end_matches('.').into(),
                points: vec![(none(), number)],
            }
        });
        // Two of one name, as by UDP and TCP, have one series, which is as the worse of them.
        let mut well = BTreeMap::new();
        for (service, target) in &self.targets {
            let is_well = target.address.is_some() && target.error.is_none();
            *well.entry((*service, target.name.as_str())).or_insert(true) &= is_well;
        }
        let targets = well.into_iter().map(|((service, target), is_well)| {
            let labels = [("service", service.to_owned()), ("target", target.to_owned())];
            (labels.into(), Number::Count(is_well.into()))
        });
        let up = Family {
            name: "flowtag_target_up".into(),
            unit: None,
            kind: Kind::Gauge,
            help: "1 for whom an output sends to without trouble, 0 for others".into(),
            points: targets.collect(),
        };
        counted.chain([up]).collect()
    }
}

impl Each {
    fn new(state: &State, view: FlowView) -> Self {
        let (volume, tcp) = (state.accounts.flow(view.id), state.statistics.latest(view.id));
        Self { view, volume, tcp }
    }
}

/// These labels and one more.
fn and(labels: &Labels, name: &'static str, value: &str) -> Labels {
    labels.iter().cloned().chain([(name, value.to_owned())]).collect()
}

/// The counters of all inputs and outputs by name of the metric, with what they mean.
fn counters(daemon: &Daemon) -> BTreeMap<String, (&'static str, u64)> {
    let mut all = BTreeMap::new();
    // What those of the probes count is told by probe.
    for (service, entry) in daemon.board.entries().into_iter().filter(|(name, _)| *name != observe::NAME) {
        let prefix = format!("flowtag_{}", service.replace('.', "_"));
        for (name, help, number) in entry.counters.iter().flat_map(|set| set.counts()) {
            all.entry(format!("{prefix}_{name}")).or_insert((help, 0)).1 += number;
        }
    }
    all
}

/// Where the rest is added up.
pub(crate) const OTHER: &str = "other";
