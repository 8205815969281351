//! Inputs and outputs as things that start, stop, and start anew with another configuration, without a flow being lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use flowtag_engine::Registry;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::addresses::Addresses;
use super::core::{Core, State};
use super::counters::{Board, Entry};
use super::observe::Observer;
use super::throttle::chain;
use crate::inputs::access::Policy;
use crate::outputs::Feed;
use crate::outputs::firefly::recent;

/// How long an output that is stopped may take to tell what waits.
pub(crate) const DRAIN: Duration = Duration::from_millis(500);

/// How the last reload of the configuration went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reloaded {
    /// Counted from 1; 0: there was none.
    pub(crate) number: u64,
    /// What is not in force, and why. Empty: all is.
    pub(crate) problems: Vec<String>,
}

/// What an input or output needs of the daemon.
#[derive(Clone)]
pub(crate) struct Daemon {
    pub(crate) core: Core,
    pub(crate) registry: watch::Receiver<Arc<Registry>>,
    /// Who may tag as what.
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) board: Board,
    pub(crate) reloaded: watch::Receiver<Reloaded>,
    pub(crate) started: Timestamp,
    /// Addresses as the world sees them, for reports.
    pub(crate) addresses: Addresses,
    /// Which fireflies went out or came in of late.
    pub(crate) fireflies: Arc<recent::Fireflies>,
    /// What probes tell.
    pub(crate) observer: Observer,
}

impl Daemon {
    pub(crate) fn registry_now(&self) -> Arc<Registry> {
        self.registry.borrow().clone()
    }

    pub(crate) fn policy_now(&self) -> Arc<Policy> {
        self.policy.borrow().clone()
    }
}

/// An input or output that was prepared: what it shows, what it is fed by, and what it does until it ends.
pub(crate) struct Service {
    pub(crate) entry: Entry,
    /// Only outputs that take records have one; they end when it ends.
    pub(crate) feed: Option<Feed>,
    pub(crate) run: futures_util::future::BoxFuture<'static, ()>,
}

/// A place for one input or output.
pub(crate) struct Slot<C> {
    /// As in the configuration: `inputs.pipe`.
    name: &'static str,
    current: Option<(C, Running)>,
}

/// Says on the board that what ran does not any more, however it came to its end.
struct End {
    name: &'static str,
    board: Board,
}

impl Drop for End {
    fn drop(&mut self) {
        self.board.ended(self.name);
    }
}

struct Running {
    task: JoinHandle<()>,
    is_fed: bool,
}

impl<C: Clone + PartialEq> Slot<C> {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, current: None }
    }

    /// Starts what was prepared.
    pub(crate) async fn start(&mut self, config: C, service: Service, daemon: &Daemon) {
        let Service { entry, feed, run } = service;
        daemon.board.put(self.name, entry);
        let is_fed = feed.is_some();
        if let Some(feed) = feed {
            let _ = daemon.core.ask(move |state| state.feeds.put(feed)).await;
        }
        let end = End { name: self.name, board: daemon.board.clone() };
        let run = async move {
            let _end = end;
            run.await;
        };
        self.current = Some((config, Running { task: tokio::spawn(run), is_fed }));
    }

    /// Makes what runs be what is wanted. What cannot be started leaves the old one running, if there was one.
    ///
    /// # Errors
    /// Those of `prepare`.
    pub(crate) async fn set(
        &mut self,
        wanted: Option<C>,
        daemon: &Daemon,
        prepare: impl AsyncFn(&C, &Daemon) -> Result<Service>,
    ) -> Result<()> {
        let running = self.current.as_ref().filter(|(_, running)| !running.task.is_finished());
        if running.map(|(config, _)| config) == wanted.as_ref() {
            return Ok(());
        }
        let old = self.end(daemon, wanted.is_some()).await;
        let Some(config) = wanted else { return Ok(()) };
        match prepare(&config, daemon).await {
            Ok(service) => self.start(config, service, daemon).await,
            Err(error) => {
                if let Some(old) = old {
                    match prepare(&old, daemon).await {
                        Ok(service) => self.start(old, service, daemon).await,
                        Err(error) => {
                            tracing::error!(name = self.name, error = chain(&*error), "cannot go on")
                        }
                    }
                }
                if self.current.is_none() {
                    let name = self.name;
                    let _ = daemon.core.ask(move |state| state.feeds.remove(name)).await;
                }
                return Err(error).with_context(|| format!("cannot start {}", self.name));
            }
        }
        Ok(())
    }

    /// Ends what runs; an output may tell what waits before.
    pub(crate) async fn stop(&mut self, daemon: &Daemon) {
        self.end(daemon, false).await;
    }

    /// Ends what runs. `hold`: another takes its place and is to miss nothing.
    async fn end(&mut self, daemon: &Daemon, hold: bool) -> Option<C> {
        let (config, Running { mut task, is_fed }) = self.current.take()?;
        let name = self.name;
        if is_fed {
            let remove = move |state: &mut State| match hold {
                true => state.feeds.hold(name),
                false => state.feeds.remove(name),
            };
            let _ = daemon.core.ask(remove).await;
        }
        if !is_fed || tokio::time::timeout(DRAIN, &mut task).await.is_err() {
            task.abort();
            let _ = task.await; // what it held is given back before another takes it
        }
        if let Some(entry) = daemon.board.remove(name) {
            let counts: Vec<_> = entry.counters.iter().flat_map(|c| c.counts()).collect();
            let counts: Vec<_> = counts.iter().map(|(what, _, number)| format!("{what} {number}")).collect();
            tracing::info!(name, counts = counts.join(", "), "stopped");
        }
        Some(config)
    }
}
