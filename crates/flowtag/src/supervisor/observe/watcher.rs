//! The thread that hears the probes.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use flowtag_engine::Registry;
use flowtag_kernel::probes::histogram::{self, Histogram};
use flowtag_kernel::probes::{Alike, Context, Description, Loaded, Losses, Record, RunTime, Session, Source};

use super::start::is_spread;
use super::table::Table;
use super::{Counters, Kept, Observed, Question};
use crate::config::Observe;
use crate::names::Names;
use crate::outputs::metrics::{BOUNDS, Distribution};
use crate::supervisor::throttle::{Throttle, chain};

/// How long events may wait in the ring.
const WAIT: Duration = Duration::from_millis(50);
/// How often the counters of `flowtag status` are brought up to date.
const COUNT: Duration = Duration::from_secs(1);
/// How long names of interfaces and cgroups are believed, and remembered.
const NAMES: Duration = Duration::from_secs(60);

pub(super) struct Watcher {
    session: Session,
    probes: Vec<&'static Description>,
    kept: Kept,
    names: Names,
    counters: Arc<Counters>,
    counted: Counted,
    throttle: Throttle,
}

/// What is in the counters already.
#[derive(Default)]
struct Counted {
    losses: Losses,
    dropped: u64,
}

impl Watcher {
    pub(super) fn new(
        config: &Observe,
        session: Session,
        kept: Option<Kept>,
        counters: Arc<Counters>,
    ) -> Self {
        let probes: Vec<_> = session.probes().map(Loaded::probe).collect();
        let mut kept = kept.unwrap_or_else(|| Kept {
            table: Table::new(config),
            losses: Default::default(),
            programs: Default::default(),
        });
        kept.table.adapt(config, &probes);
        let counted = Counted { dropped: kept.table.dropped(), ..Counted::default() };
        Self { session, probes, kept, names: fresh_names(), counters, counted, throttle: Throttle::default() }
    }

    /// Until it is told to stop, or the kernel does not tell any more.
    pub(super) fn run(mut self, questions: &Receiver<Question>, stop: &AtomicBool) -> Kept {
        let (mut counted, mut named) = (Instant::now(), Instant::now());
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = self.hear() {
                tracing::error!(error = chain(&error), "probes are not heard any more");
                break;
            }
            let asked: Vec<_> = questions.try_iter().collect();
            if !asked.is_empty() {
                self.sum_up();
            }
            if !asked.is_empty() || counted.elapsed() > COUNT {
                self.count();
                counted = Instant::now();
            }
            for question in asked {
                let _ = question.send(self.observed()); // whoever asked may have gone
            }
            if named.elapsed() > NAMES {
                self.names.refresh();
                named = Instant::now();
            }
        }
        self.keep()
    }

    fn hear(&mut self) -> std::io::Result<()> {
        for (probe, record) in self.session.next(WAIT)? {
            self.kept.table.take(probe, &record, &self.names);
        }
        Ok(())
    }

    /// What the kernel sums up by itself.
    fn sum_up(&mut self) {
        for probe in &self.probes {
            let Some(loaded) = self.session.probe(probe.name) else { continue };
            let (table, names) = (&mut self.kept.table, &self.names);
            let read = match probe.source {
                Source::Events(_) => Ok(()),
                Source::Rows(_) if is_spread(probe) => {
                    distributions(loaded).map(|all| table.spread(probe.name, &all, names))
                }
                Source::Rows(rows) => rows(loaded).map(|rows| table.set(probe.name, &alike(rows), names)),
                Source::EventsOrSums(_, sums) => sums(loaded).map(|sums| table.set(probe.name, &sums, names)),
            };
            if let Err(error) = read {
                self.throttle.warn("what a probe sums up cannot be read", &error);
            }
        }
    }

    /// Brings the counters of `flowtag status` up to date.
    fn count(&mut self) {
        let mut now = Losses::default();
        self.losses().into_iter().for_each(|(_, losses)| now += losses);
        let (before, dropped) = (self.counted.losses, self.kept.table.dropped());
        let Counters { events, lost, flows, evicted, series_dropped } = &*self.counters;
        for (counter, now, before) in [
            (events, now.events, before.events),
            (lost, now.lost, before.lost),
            (flows, now.flows, before.flows),
            (evicted, now.evicted, before.evicted),
            (series_dropped, dropped, self.counted.dropped),
        ] {
            counter.add(now.saturating_sub(before));
        }
        self.counted = Counted { losses: now, dropped };
    }

    /// Of each probe, since it was loaded.
    fn losses(&self) -> Vec<(&'static str, Losses)> {
        let loaded = self.session.probes();
        loaded.filter_map(|loaded| Some((loaded.probe().name, loaded.losses().ok()?))).collect()
    }

    fn run_times(&self) -> Vec<(&'static str, RunTime)> {
        // All stand on the first, whether it was asked for or not.
        let base =
            self.session.probe("life").filter(|_| self.probes.iter().all(|probe| probe.name != "life"));
        let all = base.into_iter().chain(self.session.probes());
        let of = |loaded: &Loaded| {
            let times = loaded.run_times().unwrap_or_default().into_iter();
            let name = loaded.probe().name;
            times.map(move |time| (name, time)).collect::<Vec<_>>()
        };
        all.flat_map(of).collect()
    }

    fn observed(&self) -> Observed {
        let probes = self.losses().into_iter().map(|(name, losses)| {
            let before = self.kept.losses.get(name).copied().unwrap_or_default();
            (name, true, sum(before, losses))
        });
        let programs = self.run_times().into_iter().map(|(probe, time)| {
            let before = self.kept.programs.get(&(probe, time.program.clone()));
            (probe, more(time, before))
        });
        Observed { metrics: self.kept.table.seen(), probes: probes.collect(), programs: programs.collect() }
    }

    /// All that was counted, for the thread that comes after.
    fn keep(mut self) -> Kept {
        let _ = self.hear(); // what came since is as good as any
        self.sum_up();
        let Observed { probes, programs, .. } = self.observed();
        self.kept.table.seal();
        self.kept.losses.extend(probes.into_iter().map(|(name, _, losses)| (name, losses)));
        let programs = programs.into_iter().map(|(probe, time)| ((probe, time.program.clone()), time));
        self.kept.programs.extend(programs);
        self.kept
    }
}

fn sum(mut losses: Losses, more: Losses) -> Losses {
    losses += more;
    losses
}

fn more(time: RunTime, before: Option<&RunTime>) -> RunTime {
    match before {
        Some(before) => RunTime { time: time.time + before.time, runs: time.runs + before.runs, ..time },
        None => time,
    }
}

fn fresh_names() -> Names {
    Names::new(Cow::Borrowed(Registry::embedded()))
}

/// Each row is of its own.
fn alike(rows: Vec<Record>) -> Vec<Alike> {
    rows.into_iter().map(|record| Alike { record: Some(record), count: 1 }).collect()
}

/// Of whom, and what the kernel summed up; of nobody: of all that it had no room for.
fn distributions(loaded: &Loaded) -> flowtag_kernel::Result<Vec<(Option<Context>, Distribution)>> {
    let one = |series: histogram::Series| {
        ((!series.is_other).then_some(series.context), distribution(&series.histogram))
    };
    Ok(histogram::read(loaded, &[])?.into_iter().map(one).collect())
}

fn distribution(times: &Histogram) -> Distribution {
    let mut counts = [0; BOUNDS.len() + 1];
    let mut before = 0;
    // What is above all bounds is only in the sum of all.
    let cumulative = times.classic().into_iter().map(|(_, up_to)| up_to).chain([times.count()]);
    for (count, up_to) in counts.iter_mut().zip(cumulative) {
        *count = up_to - before;
        before = up_to;
    }
    Distribution { counts, sum: times.sum_seconds() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_of_the_kernel_has_the_bounds_of_metrics() {
        let mut times = Histogram::default();
        assert!(times.classic().iter().map(|(le, _)| *le).eq(BOUNDS));
        for us in [3, 15, 900_000, 30_000_000] {
            times.record(us);
        }
        let told = distribution(&times);
        let some: Vec<_> = told.counts.iter().enumerate().filter(|(_, n)| **n > 0).collect();
        assert_eq!(some, [(0, &1), (1, &1), (15, &1), (19, &1)]);
        assert!((told.sum - 30.900_018).abs() < 1e-6);
    }
}
