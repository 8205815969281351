//! Where flowtag tells others: one folder an output. An output takes from a bounded queue, counts what it loses, and
//! never holds the engine back.

pub(crate) mod firefly;
pub(crate) mod health;
pub(crate) mod ipfix;
pub(crate) mod json;
pub(crate) mod metrics;
pub(crate) mod otlp;
pub(crate) mod prometheus;
pub(crate) mod resolve;
pub(crate) mod stream;

use std::collections::HashMap;
use std::sync::Arc;

use flowtag_engine::{FlowId, Report};
use flowtag_kernel::tcp_info::Sample;
use tokio::sync::mpsc;

use crate::supervisor::counters::counters;
use crate::supervisor::service::Daemon;
use crate::supervisor::throttle::Throttle;

/// What is told of a flow: the engine's report, and what the kernel measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Its `usage` is what an END said; without that, what the kernel counted.
    pub(crate) report: Report,
    /// The latest known values of the flow's TCP socket on this host. None: it has none, or nobody asked yet.
    pub(crate) tcp: Option<Arc<Sample>>,
}

counters! {
    /// What became of the records for one output before it took them.
    pub(crate) struct QueueCounters {
        /// Records that were queued.
        queued,
        /// Records for which the queue had no room.
        dropped,
    }
}

/// The core's side of an output's queue.
#[derive(Debug)]
pub(crate) struct Feed {
    name: &'static str,
    records: mpsc::Sender<Arc<Record>>,
    counters: Arc<QueueCounters>,
    throttle: Throttle,
}

impl Feed {
    /// A queue for `capacity` records. `name` is the output's, as users type it.
    pub(crate) fn new(
        name: &'static str,
        capacity: usize,
    ) -> (Self, mpsc::Receiver<Arc<Record>>, Arc<QueueCounters>) {
        let (records, receiver) = mpsc::channel(capacity);
        let counters = Arc::new(QueueCounters::default());
        let feed = Self { name, records, counters: Arc::clone(&counters), throttle: Throttle::default() };
        (feed, receiver, counters)
    }

    /// Queues a record, or counts it as dropped. Never waits.
    fn push(&mut self, record: &Arc<Record>) {
        match self.records.try_send(Arc::clone(record)) {
            Ok(()) => self.counters.queued.add(1),
            Err(error) => {
                self.counters.dropped.add(1);
                let what = "a record was dropped: raise the queue of the output";
                self.throttle.warn_at(what, &self.name, &error);
            }
        }
    }
}

/// Notices ENDs that an output was not told of, for what it remembers of flows until they end.
pub(crate) struct LostEnds {
    queue: Arc<QueueCounters>,
    /// Records that the queue had no room for, ENDs perhaps, when we last looked.
    dropped: u64,
}

impl LostEnds {
    pub(crate) fn new(queue: Arc<QueueCounters>) -> Self {
        Self { queue, dropped: 0 }
    }

    /// Where ENDs were lost, what they were of is forgotten, so that there is no more than the table of flows holds.
    pub(crate) async fn forget_what_ended<T>(&mut self, flows: &mut HashMap<FlowId, T>, daemon: &Daemon) {
        let dropped = self.queue.dropped.get();
        if std::mem::replace(&mut self.dropped, dropped) == dropped {
            return;
        }
        let ids: Vec<FlowId> = flows.keys().copied().collect();
        let gone = daemon.core.ask(move |state| {
            let is_gone = |id: &FlowId| state.engine.get(*id).is_none();
            ids.into_iter().filter(is_gone).collect::<Vec<_>>()
        });
        for id in gone.await.unwrap_or_default() {
            flows.remove(&id);
        }
    }
}

/// Records that are kept for an output while it starts anew with another configuration.
const HELD: usize = 16384;

/// All outputs that take records.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    running: Vec<Feed>,
    held: Vec<Held>,
}

/// What is to be told to an output that is not there for a moment.
#[derive(Debug)]
struct Held {
    name: &'static str,
    records: Vec<Arc<Record>>,
    /// Records for which there was no room.
    dropped: u64,
}

impl Feeds {
    /// From now on this output is told, and no other of its name; first of what was held for it.
    pub(crate) fn put(&mut self, mut feed: Feed) {
        let name = feed.name;
        for held in self.held.extract_if(.., |held| held.name == name) {
            held.records.iter().for_each(|record| feed.push(record));
            feed.counters.dropped.add(held.dropped);
        }
        self.remove(feed.name);
        self.running.push(feed);
    }

    /// The output's queue comes to its end.
    pub(crate) fn remove(&mut self, name: &str) {
        self.running.retain(|feed| feed.name != name);
        self.held.retain(|held| held.name != name);
    }

    /// The same, and what is to be told is kept for the next output of that name.
    pub(crate) fn hold(&mut self, name: &'static str) {
        self.remove(name);
        self.held.push(Held { name, records: Vec::new(), dropped: 0 });
    }

    /// Name of each output, how many records wait for it, and how many may.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        self.running.iter().map(|feed| {
            let (free, all) = (feed.records.capacity(), feed.records.max_capacity());
            (feed.name, all - free, all)
        })
    }

    pub(crate) fn push(&mut self, record: Record) {
        if self.running.is_empty() && self.held.is_empty() {
            return;
        }
        let record = Arc::new(record);
        self.running.iter_mut().for_each(|feed| feed.push(&record));
        for held in &mut self.held {
            if held.records.len() < HELD {
                held.records.push(Arc::clone(&record));
            } else {
                held.dropped += 1;
            }
        }
    }
}
