//! What probes told, as metrics: those of their descriptions, and what watching costs and misses.

use std::borrow::Cow;

use flowtag_kernel::probes::Losses;

use super::{Family, Kind, Labels, Number, OTHER, Snapshot};
use crate::supervisor::observe::{Cell, Key, Seen, Whose};

/// For flows that have no tag.
const NOBODY: &str = "none";

impl Snapshot {
    pub(super) fn observed(&self) -> Vec<Family> {
        let Some(observed) = &self.observed else { return Vec::new() };
        let mut families: Vec<_> = observed.metrics.iter().map(|seen| self.seen(seen)).collect();
        families.push(counted(
            "flowtag_series_dropped",
            "What was added up as other, for want of a series of its own",
            observed.metrics.iter().map(|seen| (labels([("metric", full_name(seen).into())]), seen.dropped)),
        ));
        families.extend(self.losses());
        families.extend(self.programs());
        families
    }

    fn seen(&self, seen: &Seen) -> Family {
        let points = seen.cells.iter().map(|(key, cell)| (self.labels(seen, key), number(cell)));
        let is_spread = seen.cells.iter().any(|(_, cell)| matches!(cell, Cell::Spread(_)));
        Family {
            name: seen.metric.name.into(),
            unit: seen.metric.unit,
            kind: if is_spread { Kind::Histogram } else { Kind::Counter },
            help: seen.metric.help.into(),
            points: points.collect(),
        }
    }

    fn labels(&self, seen: &Seen, key: &Key) -> Labels {
        let all = |text: &str| seen.whose.iter().map(|name| (*name, text.to_owned())).collect();
        let mut labels: Vec<_> = match key.whose {
            Whose::Unasked => Vec::new(),
            Whose::Nobody => all(NOBODY),
            Whose::Other => all(OTHER),
            Whose::Tag(tag) => self.owner(tag).to_vec(),
            Whose::Experiment(experiment) => {
                let number = experiment.to_string();
                let name = self.registry.experiment_name(experiment).unwrap_or(&number).to_owned();
                vec![("experiment", name), ("experiment_id", number)]
            }
        };
        labels.extend(seen.names.iter().copied().zip(key.texts.iter().map(|text| text.clone().into_owned())));
        labels.into()
    }

    fn losses(&self) -> Vec<Family> {
        let probes = || self.observed.iter().flat_map(|observed| &observed.probes);
        let by = |name: &'static str, help, value: fn(&Losses) -> u64| {
            let running = probes().filter(|(_, runs, _)| *runs);
            counted(name, help, running.map(|(probe, _, losses)| (of_probe(probe), value(losses))))
        };
        let up = probes().map(|(probe, runs, _)| (of_probe(probe), Number::Count((*runs).into())));
        vec![
            Family {
                kind: Kind::Gauge,
                points: up.collect(),
                ..counted(
                    "flowtag_observe_up",
                    "1 for probes that run, 0 for those that this host cannot run",
                    [].into_iter(),
                )
            },
            by("flowtag_observe_events", "Events that a probe told", |losses| losses.events),
            by(
                "flowtag_observe_events_lost",
                "Events that a probe could not tell, its ring being full",
                |losses| losses.lost,
            ),
            by("flowtag_observe_map_full", "Sockets and keys that a probe had no room for", |losses| {
                losses.evicted
            }),
        ]
    }

    fn programs(&self) -> [Family; 2] {
        let all = || self.observed.iter().flat_map(|observed| &observed.programs);
        let labels = |probe: &str, program: &str| {
            labels([("probe", probe.to_owned().into()), ("program", program.to_owned().into())])
        };
        let runs = all().map(|(probe, time)| (labels(probe, &time.program), time.runs));
        let time =
            all().map(|(probe, time)| (labels(probe, &time.program), Number::Real(time.time.as_secs_f64())));
        let runs_help =
            "How often a program of a probe ran, while the kernel counted (kernel.bpf_stats_enabled)";
        let time_help =
            "How long a program of a probe ran, while the kernel counted (kernel.bpf_stats_enabled)";
        [
            counted("flowtag_bpf_runs", runs_help, runs),
            Family {
                unit: Some("seconds"),
                points: time.collect(),
                ..counted("flowtag_bpf_run", time_help, [].into_iter())
            },
        ]
    }
}

/// As Prometheus calls it, without `_total`.
fn full_name(seen: &Seen) -> String {
    let unit = seen.metric.unit.map(|unit| format!("_{unit}"));
    format!("{}{}", seen.metric.name, unit.unwrap_or_default())
}

fn labels<const N: usize>(all: [(&'static str, Cow<'static, str>); N]) -> Labels {
    all.map(|(name, value)| (name, value.into_owned())).into()
}

fn of_probe(probe: &'static str) -> Labels {
    labels([("probe", probe.into())])
}

fn counted(name: &'static str, help: &'static str, points: impl Iterator<Item = (Labels, u64)>) -> Family {
    Family {
        name: name.into(),
        unit: None,
        kind: Kind::Counter,
        help: help.into(),
        points: points.map(|(labels, number)| (labels, Number::Count(number))).collect(),
    }
}

fn number(cell: &Cell) -> Number {
    match cell {
        Cell::Count(n) => Number::Count(*n),
        Cell::Real(x) => Number::Real(*x),
        Cell::Spread(distribution) => Number::Spread(Box::new(distribution.clone())),
    }
}
