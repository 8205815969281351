//! What the kernel measures of the TCP connections of known flows: asked in one pass for all, told by the kernel when a
//! connection closes, asked once more when a flow ends before its connection; kept until the flow ends.
//!
//! Part of the core task. Must never hold it up: questions from here are answered at once or not at all, and there are so
//! many in a second and no more.

mod pass;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use flowtag_engine::{FlowId, FlowKey, Report, ReportState, Usage};
use flowtag_kernel::tcp_info::{Inquiry, Sample};
use flowtag_wire::Protocol;

use super::core::kernel_key;
use super::counters::counters;
use super::throttle::Throttle;
use crate::outputs::Record;
pub(super) use pass::prepare;

/// Sockets that are asked for, each alone, when flows end: so many at once, and so many in a millisecond after. Each costs
/// some 5 µs of the core task, so that this is no more than 1 % of it.
const QUESTIONS: u32 = 256;
const QUESTIONS_PER_MS: u32 = 2;
/// Connections of flows that ended before them, of which is remembered what was reported.
const CARRIED: usize = 4096;

counters! {
    /// What was asked of the kernel.
    pub(super) struct Counters {
        /// Passes over all TCP sockets.
        passes,
        /// Sockets that were looked at in them.
        sockets,
        /// Sockets of known flows that were found in them.
        sampled,
        /// Microseconds that the passes took, from asking to the last value kept.
        microseconds,
        /// Connections that told their last values when they closed.
        closed,
        /// Sockets that were asked for alone, as their flow ended.
        asked,
        /// Flows that ended with the values of the pass before, because too many ended at once.
        not_asked,
        /// Passes and questions that the kernel refused.
        failed,
    }
}

/// The latest values of each flow.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// None: switched off.
    running: Option<Running>,
    latest: HashMap<FlowId, Latest>,
    /// Addresses of this host: other ends have no socket here.
    local: BTreeSet<IpAddr>,
    carried: Carried<(u64, u64)>,
}

/// What there is while statistics are switched on.
#[derive(Debug)]
struct Running {
    /// Dropped by whoever switches them off.
    alive: Weak<()>,
    /// None: the kernel has no sock_diag.
    inquiry: Option<Inquiry>,
    counters: Arc<Counters>,
    budget: Budget,
    throttle: Throttle,
}

#[derive(Debug)]
struct Latest {
    sample: Arc<Sample>,
    /// When it was asked for.
    at: Instant,
    /// These are the last values there will be.
    closed: bool,
    /// What was sent and received, seen from this host, that was reported of the connection already: of a flow before this
    /// one, or under another tag.
    before: (u64, u64),
}

impl Statistics {
    /// A report with what is known of its connection. After an END it is forgotten.
    pub(crate) fn complete(&mut self, mut report: Report) -> Record {
        if !self.is_running() || report.key.protocol != Protocol::Tcp {
            return Record { report, tcp: None };
        }
        if report.state == ReportState::End {
            self.ask(&report);
        }
        let Some(latest) = self.latest.get_mut(&report.id) else { return Record { report, tcp: None } };
        let tcp = Arc::clone(&latest.sample);
        if report.state != ReportState::Start && report.usage.is_none() {
            report.usage = Some(seen_from_source(&report, latest.since_before()));
        }
        if report.state == ReportState::End {
            latest.before = (tcp.sent, tcp.received);
            if report.ended.is_some() {
                self.forget(report.id);
            }
        }
        Record { report, tcp: Some(tcp) }
    }

    /// The latest values of a flow that is known: for metrics of single flows.
    pub(crate) fn latest(&self, id: FlowId) -> Option<Arc<Sample>> {
        self.latest.get(&id).map(|latest| Arc::clone(&latest.sample))
    }

    /// All addresses of this host.
    pub(crate) fn set_local(&mut self, addresses: BTreeSet<IpAddr>) {
        self.local = addresses.iter().map(IpAddr::to_canonical).collect();
    }

    /// The connection of a flow has closed, with these values.
    pub(crate) fn closed(&mut self, id: FlowId, sample: Sample) {
        if self.is_running() {
            self.running.iter().for_each(|running| running.counters.closed.add(1));
            self.put(id, Arc::new(sample), Instant::now(), true);
        }
    }

    /// Values that were asked for at that time. Older ones than those that are known change nothing; says whether they are
    /// not.
    fn put(&mut self, id: FlowId, sample: Arc<Sample>, at: Instant, closed: bool) -> bool {
        let old = self.latest.get(&id);
        let before = match old {
            Some(old) if old.is_of_connection(&sample) => old.before,
            _ => self.carried.of(sample.cookie),
        };
        if old.is_some_and(|old| old.at > at) || sample.sent < before.0 || sample.received < before.1 {
            return false;
        }
        self.latest.insert(id, Latest { sample, at, closed, before });
        true
    }

    fn begin(&mut self, alive: Weak<()>, counters: Arc<Counters>) {
        let inquiry = Inquiry::open();
        let inquiry = inquiry.inspect_err(|e| tracing::warn!(error = %e, "no last values of flows that end"));
        let (budget, throttle) = (Budget::new(Instant::now()), Throttle::default());
        self.running = Some(Running { alive, inquiry: inquiry.ok(), counters, budget, throttle });
    }

    /// Forgets everything once they are switched off.
    fn is_running(&mut self) -> bool {
        let is_running = self.running.as_ref().is_some_and(|running| running.alive.strong_count() > 0);
        if !is_running && self.running.take().is_some() {
            *self = Self { local: std::mem::take(&mut self.local), ..Self::default() };
        }
        is_running
    }

    /// Asks for the values of a connection that is still open, if it can be on this host and there are not too many.
    fn ask(&mut self, report: &Report) {
        let known = self.latest.get(&report.id);
        let Some(running) = &mut self.running else { return };
        if known.map_or_else(|| !self.local.contains(&report.key.local.addr()), |known| known.closed) {
            return;
        }
        if let Some(sample) = running.ask(&report.key) {
            self.put(report.id, Arc::new(sample), Instant::now(), false);
        }
    }

    /// The flow is over; its connection may carry another.
    fn forget(&mut self, id: FlowId) {
        let Some(latest) = self.latest.remove(&id) else { return };
        if !latest.closed {
            self.carried.put(latest.sample.cookie, latest.before);
        }
    }
}

impl Latest {
    fn is_of_connection(&self, sample: &Sample) -> bool {
        let old = &self.sample;
        let same = old.cookie == sample.cookie || old.cookie == 0 || sample.cookie == 0;
        same && old.sent <= sample.sent && old.received <= sample.received
    }

    fn since_before(&self) -> (u64, u64) {
        let (sent, received) = self.before;
        (self.sample.sent.saturating_sub(sent), self.sample.received.saturating_sub(received))
    }
}

impl Running {
    fn ask(&mut self, key: &FlowKey) -> Option<Sample> {
        let inquiry = self.inquiry.as_mut()?;
        if !self.budget.take(Instant::now()) {
            self.counters.not_asked.add(1);
            return None;
        }
        self.counters.asked.add(1);
        let found = inquiry.one(&kernel_key(key)).inspect_err(|error| {
            self.counters.failed.add(1);
            self.throttle.warn("the last values of a flow are not known", error);
        });
        found.ok().flatten()
    }
}

/// The announced source may be the other end.
fn seen_from_source(report: &Report, (sent, received): (u64, u64)) -> Usage {
    if report.flow.src() == report.key.local {
        Usage { sent, received }
    } else {
        Usage { sent: received, received: sent }
    }
}

/// How many questions may still be asked.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    const fn new(now: Instant) -> Self {
        Self { left: QUESTIONS, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = u32::try_from(now.duration_since(self.since).as_millis()).unwrap_or(u32::MAX);
        if passed > 0 {
            self.left = self.left.saturating_add(passed.saturating_mul(QUESTIONS_PER_MS)).min(QUESTIONS);
            self.since += Duration::from_millis(passed.into());
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// What was told of connections that outlived their flows, by the sockets' cookies: a client may move several files over
/// one, each announced as a flow. The oldest are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Carried<T> {
    by_cookie: HashMap<u64, T>,
    order: VecDeque<u64>,
}

impl<T: Copy + Default + PartialEq> Carried<T> {
    pub(super) fn put(&mut self, cookie: u64, told: T) {
        if cookie == 0 || told == T::default() {
            return;
        }
        if self.by_cookie.insert(cookie, told).is_none() {
            self.order.push_back(cookie);
        }
        if self.order.len() > CARRIED {
            self.order.pop_front().map(|oldest| self.by_cookie.remove(&oldest));
        }
    }

    /// Nothing, of a connection that is not remembered.
    pub(super) fn of(&self, cookie: u64) -> T {
        self.by_cookie.get(&cookie).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_questions_at_once_and_so_many_in_time() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut taken = |now| std::iter::repeat_with(|| budget.take(now)).take_while(|may| *may).count();
        assert_eq!(taken(start), QUESTIONS as usize);
        let later = start + Duration::from_micros(10_500);
        assert_eq!(taken(later), 10 * QUESTIONS_PER_MS as usize);
        assert_eq!(taken(later + Duration::from_micros(500)), QUESTIONS_PER_MS as usize, "nothing is lost");
        assert_eq!(taken(later + Duration::from_secs(3600)), QUESTIONS as usize, "nor saved for ever");
    }

    #[test]
    fn of_so_many_connections_the_oldest_are_forgotten() {
        let mut carried = Carried::default();
        for cookie in 0..2 * CARRIED as u64 {
            carried.put(cookie, (cookie, 1));
            carried.put(cookie, (cookie, 2));
        }
        assert_eq!((carried.by_cookie.len(), carried.order.len()), (CARRIED, CARRIED));
        let last = 2 * CARRIED as u64 - 1;
        assert_eq!((carried.of(last), carried.of(1), carried.of(0)), ((last, 2), (0, 0), (0, 0)));
    }

    fn sample(cookie: u64, sent: u64) -> Arc<Sample> {
        Arc::new(Sample { cookie, sent, ..Sample::default() })
    }

    #[test]
    fn a_pass_that_began_before_the_close_does_not_undo_it() {
        let (mut statistics, id, begun) = (Statistics::default(), FlowId::new(1), Instant::now());
        let later = begun + Duration::from_secs(1);
        statistics.put(id, sample(7, 100), later, true);
        statistics.put(id, sample(7, 50), begun, false);
        assert_eq!(statistics.latest(id), Some(sample(7, 100)));
        statistics.put(id, sample(8, 1), later + Duration::from_secs(1), false);
        assert_eq!(statistics.latest(id), Some(sample(8, 1)), "a new connection of the same ends");
    }

    #[test]
    fn what_was_reported_counts_for_its_connection_only() {
        let (mut statistics, id, now) = (Statistics::default(), FlowId::new(1), Instant::now());
        statistics.carried.put(7, (40, 0));
        statistics.put(id, sample(7, 100), now, false);
        statistics.put(id, sample(7, 110), now, false);
        assert_eq!(statistics.latest[&id].since_before(), (70, 0));
        statistics.put(id, sample(8, 5), now, false);
        assert_eq!(statistics.latest[&id].since_before(), (5, 0));
    }
}
