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

use std::sync::Arc;

use flowtag_engine::Report;
use flowtag_kernel::tcp_info::Sample;
use tokio::sync::mpsc;

use crate::supervisor::counters::counters;
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
                self.throttle.warn("a record was dropped: raise the queue of the output", &error);
            }
        }
    }
}

/// All outputs that take records.
#[derive(Debug, Default)]
pub(crate) struct Feeds(Vec<Feed>);

impl Feeds {
    /// From now on this output is told, and no other of its name.
    pub(crate) fn put(&mut self, feed: Feed) {
        self.remove(feed.name);
        self.0.push(feed);
    }

    /// The output's queue comes to its end.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|feed| feed.name != name);
    }

    /// Name of each output, how many records wait for it, and how many may.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (&'static str, usize, usize)> {
        self.0.iter().map(|feed| {
            let (free, all) = (feed.records.capacity(), feed.records.max_capacity());
            (feed.name, all - free, all)
        })
    }

    pub(crate) fn push(&mut self, record: Record) {
        if self.0.is_empty() {
            return;
        }
        let record = Arc::new(record);
        self.0.iter_mut().for_each(|feed| feed.push(&record));
    }
}
