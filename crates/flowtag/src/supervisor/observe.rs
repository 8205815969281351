//! What always watches: the cheap probes, added up by a thread of its own, for whoever tells metrics.
//!
//! The thread reads the rings, and answers whoever asks between two looks; so what is told is of this moment, and nobody waits
//! for the kernel while others wait for him. Nothing of it is ever in the way of the core. What the rings cannot hold is lost and
//! counted.

mod owner;
mod start;
mod table;
mod watcher;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flowtag_kernel::probes::{Losses, RunTime};
use tokio::sync::oneshot;

use self::start::Started;
use self::table::Table;
use self::watcher::Watcher;
use super::counters::{Entry, counters};
use super::service::{Daemon, Service};
use crate::config;

pub(crate) use owner::Whose;
pub(crate) use table::{Cell, Key, Seen};

/// Of the section of the configuration.
pub(crate) const NAME: &str = "observe";
/// The thread looks at questions many times a second.
const PATIENCE: Duration = Duration::from_secs(5);

counters! {
    /// What was seen, and what was not.
    pub(super) struct Counters {
        /// Events that the probes told.
        events,
        /// Events that they could not tell: their ring was full.
        lost,
        /// Sockets and keys that they remember something of, or did.
        flows,
        /// Sockets and keys that they had no room for.
        evicted,
        /// What had no series of its own and is in those called other.
        series_dropped,
    }
}

/// What was told until now.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) metrics: Vec<Seen>,
    /// Each that is wanted: does it run, and what did it lose.
    pub(crate) probes: Vec<(&'static str, bool, Losses)>,
    /// By probe.
    pub(crate) programs: Vec<(&'static str, RunTime)>,
}

/// What outlives a thread, so that nothing that is counted goes back when the configuration changes.
#[derive(Debug)]
struct Kept {
    table: Table,
    losses: BTreeMap<&'static str, Losses>,
    /// By probe and program.
    programs: BTreeMap<(&'static str, String), RunTime>,
}

type Question = oneshot::Sender<Observed>;

/// A way to what was told; the same for the daemon's life, whatever runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observer(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    questions: Option<Sender<Question>>,
    thread: Option<JoinHandle<Kept>>,
    /// Those that are wanted and do not run.
    down: Vec<&'static str>,
    /// What a thread left, where none came after it.
    kept: Option<Kept>,
}

/// Ends the thread when the service ends.
struct Guard {
    observer: Observer,
    stop: Arc<AtomicBool>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.observer.with(|shared| {
            shared.questions = None;
            shared.down.clear();
        });
    }
}

impl Observer {
    /// What was told until now; none: nothing is watched.
    pub(crate) async fn look(&self) -> Option<Observed> {
        let (questions, down) = self.with(|shared| (shared.questions.clone(), shared.down.clone()));
        let (question, answer) = oneshot::channel();
        let mut observed = match questions {
            Some(questions) => {
                questions.send(question).ok()?;
                tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?
            }
            None if down.is_empty() => return None,
            None => Observed::default(),
        };
        observed.probes.extend(down.into_iter().map(|name| (name, false, Losses::default())));
        Some(observed)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the thread before left, once it has ended.
    fn kept(&self) -> Option<Kept> {
        let (kept, thread) = self.with(|shared| (shared.kept.take(), shared.thread.take()));
        thread.and_then(|thread| thread.join().ok()).or(kept)
    }
}

/// Loads the probes.
///
/// # Errors
/// One that was asked for by name cannot run.
pub(super) async fn prepare(config: &config::Observe, daemon: &Daemon) -> Result<Service> {
    let (observer, wanted) = (daemon.observer.clone(), config.clone());
    let table = |marker: &flowtag_kernel::mark::Marker| marker.flow_table();
    let flows = daemon.core.ask(move |state| state.marker.as_ref().map(table).transpose()).await?;
    let flows = flows.context("cannot share the table of flows")?;
    let load = move || {
        let kept = observer.kept();
        match start::start(&wanted, flows.as_ref()) {
            Ok(started) => Ok((started, kept)),
            Err(error) => {
                observer.with(|shared| shared.kept = kept);
                Err(error)
            }
        }
    };
    let begun = Instant::now();
    // It takes a tenth of a second.
    let (started, kept) = tokio::task::spawn_blocking(load).await.context("it broke")??;
    started.log();
    tracing::debug!(probes = started.names(), took = ?begun.elapsed(), "probes are loaded");
    service(config, daemon, started, kept)
}

fn service(
    config: &config::Observe,
    daemon: &Daemon,
    started: Started,
    kept: Option<Kept>,
) -> Result<Service> {
    let counters = Arc::new(Counters::default());
    let (at, problems) = (started.names(), started.problems());
    let entry = Entry { at: Some(at), problems: problems.into(), ..Entry::new(vec![counters.clone()]) };
    let (guard, ended) = begin(config, daemon, started, kept, counters)?;
    let run = async move {
        let _guard = guard;
        match ended {
            // It broke: the log says why, and the service ends.
            Some(ended) => drop(ended.await),
            None => std::future::pending().await,
        }
    };
    Ok(Service { entry, feed: None, run: Box::pin(run) })
}

/// Starts the thread, if there is anything to run; what it returns is told when it ends.
fn begin(
    config: &config::Observe,
    daemon: &Daemon,
    started: Started,
    kept: Option<Kept>,
    counters: Arc<Counters>,
) -> Result<(Guard, Option<oneshot::Receiver<()>>)> {
    let stop = Arc::new(AtomicBool::new(false));
    let guard = Guard { observer: daemon.observer.clone(), stop: Arc::clone(&stop) };
    let down = started.down();
    let Some(session) = started.session else {
        daemon.observer.with(|shared| {
            shared.down = down;
            shared.kept = kept;
        });
        return Ok((guard, None));
    };
    let (questions, asked) = mpsc::channel();
    let (end, ended) = oneshot::channel();
    let watcher = Watcher::new(config, session, kept, counters);
    let run = move || {
        let kept = watcher.run(&asked, &stop);
        drop(end);
        kept
    };
    let thread =
        std::thread::Builder::new().name("observe".into()).spawn(run).context("cannot start its thread")?;
    daemon.observer.with(|shared| {
        *shared = Shared { questions: Some(questions), thread: Some(thread), down, kept: None }
    });
    Ok((guard, Some(ended)))
}
