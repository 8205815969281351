//! The one task that owns the engine and the marker: takes events and questions in order, carries the engine's
//! effects out. All others hold a [`Core`], which is only a bounded channel to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtag_engine::{Change, Effect, Engine, Event, FlowKey, Outcome, Reaction};
use flowtag_kernel::mark::{self, Key, Marker};
use flowtag_kernel::path_mtu::PathMtu;
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::outputs::Feeds;
use crate::supervisor::accounts::Accounts;
use crate::supervisor::rules::Rules;
use crate::supervisor::statistics::Statistics;
use crate::supervisor::throttle::Throttle;

/// Requests that may wait, each with the events of one read or one API call. A full queue holds the sender back: inputs
/// are slowed down and lose nothing.
const QUEUE: usize = 4096;
/// Least time between two ticks: one may have much to do.
const TICK_PAUSE: Duration = Duration::from_millis(10);
/// Taken from the queue at a time.
const BATCH: usize = 256;
/// Changes that a watcher may lag behind before it is told how many it lost.
const WATCHERS: usize = 4096;

/// What the core task holds. Questions get a reference to it.
pub(crate) struct State {
    pub(crate) engine: Engine,
    /// None: marking is switched off.
    pub(crate) marker: Option<Marker>,
    pub(crate) rules: Rules,
    /// None: the process may not make room in paths that are too narrow for options headers.
    pub(crate) path_mtu: Option<PathMtu>,
    pub(crate) feeds: Feeds,
    pub(crate) statistics: Statistics,
    pub(crate) accounts: Accounts,
    changes: broadcast::Sender<Arc<Change>>,
    pub(crate) throttle: Throttle,
}

type Question = Box<dyn FnOnce(&mut State) + Send>;

enum Request {
    Events(Vec<Event>, oneshot::Sender<Vec<Outcome>>),
    Question(Question),
}

/// A way to the core task.
#[derive(Clone)]
pub(crate) struct Core {
    requests: mpsc::Sender<Request>,
    changes: broadcast::Sender<Arc<Change>>,
}

/// The core task is gone, which happens only when the daemon stops.
#[derive(Debug, thiserror::Error)]
#[error("flowtag is stopping")]
pub(crate) struct Stopping;

impl Core {
    /// Starts the task. It ends, and gives the state back, when all [`Core`]s are gone or `stop` is told.
    pub(crate) fn start(
        engine: Engine,
        marker: Option<Marker>,
        stop: oneshot::Receiver<()>,
    ) -> (Self, tokio::task::JoinHandle<State>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let changes = broadcast::Sender::new(WATCHERS);
        let state = State {
            engine,
            marker,
            rules: Rules::default(),
            path_mtu: None,
            feeds: Feeds::default(),
            statistics: Statistics::default(),
            accounts: Accounts::default(),
            changes: changes.clone(),
            throttle: Throttle::default(),
        };
        let task = tokio::spawn(run(state, receiver, stop));
        (Self { requests, changes }, task)
    }

    /// Hands events to the engine, in order, and says what became of each.
    pub(crate) async fn events(&self, events: Vec<Event>) -> Result<Vec<Outcome>, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Events(events, reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// Runs `question` on the state, between two events. It must be short: everything waits.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |state| drop(reply.send(question(state))));
        self.requests.send(Request::Question(question)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }

    /// How many requests wait, and how many may.
    pub(crate) fn queue(&self) -> (usize, usize) {
        let (free, all) = (self.requests.capacity(), self.requests.max_capacity());
        (all - free, all)
    }

    /// Changes of the table from now on.
    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }
}

async fn run(
    mut state: State,
    mut requests: mpsc::Receiver<Request>,
    mut stop: oneshot::Receiver<()>,
) -> State {
    let mut batch = Vec::with_capacity(BATCH);
    let mut ticked = Instant::now();
    loop {
        let pause = TICK_PAUSE.saturating_sub(ticked.elapsed());
        let next_tick = state.until_next_tick().max(pause);
        if next_tick.is_zero() {
            state.handle(Event::Tick);
            ticked = Instant::now();
        }
        tokio::select! {
            biased; // a stop is heard also while events keep coming
            _ = &mut stop => return state,
            () = tokio::time::sleep(next_tick) => {}
            taken = requests.recv_many(&mut batch, BATCH) => match taken {
                0 => return state,
                _ => batch.drain(..).for_each(|request| state.serve(request)),
            },
        };
    }
}

impl State {
    fn serve(&mut self, request: Request) {
        match request {
            Request::Events(events, reply) => {
                let outcomes = events.into_iter().map(|event| self.handle(event)).collect();
                let _ = reply.send(outcomes); // whoever asked may have gone
            }
            Request::Question(question) => question(self),
        }
    }

    /// Gives one event to the engine and carries out what follows.
    pub(crate) fn handle(&mut self, event: Event) -> Outcome {
        let now = Timestamp::now();
        let Reaction { outcome, effects } = self.engine.handle(now, event);
        let mut pending: std::collections::VecDeque<Effect> = effects.into();
        while let Some(effect) = pending.pop_front() {
            let Some(answer) = self.carry_out(now, effect) else { continue };
            // An answer comes before the effects that were decided after what it answers.
            let followed = self.engine.handle(now, answer).effects;
            followed.into_iter().rev().for_each(|effect| pending.push_front(effect));
        }
        outcome
    }

    /// What the kernel has to say to the effect, if anything.
    fn carry_out(&mut self, now: Timestamp, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Mark { key, mark, start } => {
                let mark = mark::Mark { label: mark.label, strategy: mark.strategy };
                let start = u64::try_from(start.as_microsecond()).unwrap_or_default();
                let error = self.marker.as_mut()?.set(&kernel_key(&key), mark, start).err()?;
                self.throttle.warn("a flow is not marked", &error);
                Some(Event::MarkFailed { key })
            }
            Effect::Unmark { key } => {
                if let Some(Err(error)) = self.marker.as_mut().map(|m| m.remove(&kernel_key(&key))) {
                    self.throttle.warn("a flow may still be marked", &error);
                }
                None
            }
            Effect::Probe { key } => {
                let seen = self.marker.as_ref().and_then(|m| m.last_seen(&kernel_key(&key)).ok().flatten());
                Some(Event::LastSeen { key, at: seen.and_then(|ago| now.checked_sub(ago).ok()) })
            }
            Effect::Report(report) => {
                let record = self.statistics.complete(*report);
                self.accounts.reported(&record);
                self.feeds.push(record);
                None
            }
            Effect::Changed(change) => {
                self.accounts.changed(&change);
                let _ = self.changes.send(change); // nobody may be watching
                None
            }
        }
    }

    fn until_next_tick(&self) -> Duration {
        /// The wall clock may be set; look again so often whatever it says.
        const AT_MOST: Duration = Duration::from_secs(30);
        let until =
            |at: Timestamp| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        self.engine.next_deadline().map_or(AT_MOST, |at| until(at).min(AT_MOST))
    }

    /// What outlives the task. The engine's side of the firefly queue closes, so its output comes to an end.
    pub(crate) fn into_parts(self) -> (Engine, Option<Marker>) {
        (self.engine, self.marker)
    }

    /// The addresses of this host are now these.
    pub(crate) fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.statistics.set_local(addresses.clone());
        self.handle(Event::LocalAddresses(addresses));
    }
}

/// What the kernel's side calls the key of the engine.
pub(super) fn kernel_key(key: &FlowKey) -> Key {
    Key { protocol: key.protocol, local: key.local, remote: key.remote }
}

/// The other way.
pub(super) fn engine_key(key: &Key) -> FlowKey {
    FlowKey { protocol: key.protocol, local: key.local, remote: key.remote }
}

#[cfg(test)]
mod tests {
    use flowtag_engine::{Announcement, Config, Settings, Source};
    use flowtag_wire::{FiveTuple, Protocol, Tag};

    use super::*;

    #[tokio::test]
    async fn a_tick_that_is_due_is_not_put_off_by_requests_that_keep_coming() {
        let settings = Settings { idle_limit: Some(Duration::from_millis(100)), ..Settings::default() };
        let engine = Engine::new(Config { settings, entropy_key: [7; 16] });
        let (_stop, stopped) = oneshot::channel();
        let (core, _task) = Core::start(engine, None, stopped);
        let ends = ["[2001:db8::1]:1", "[2001:db8::2]:2"].map(|end| end.parse().expect("an end"));
        let flow = FiveTuple::new(Protocol::Tcp, ends[0], ends[1]).expect("a flow");
        let start = Announcement::new(flow, Tag::new(3, 14).expect("a tag"), Source("test"));
        core.events(vec![Event::Start(start)]).await.expect("it runs");
        let begun = Instant::now();
        while core.ask(|state| state.engine.len()).await.expect("it runs") > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the flow is silent and does not end");
        }
    }
}
