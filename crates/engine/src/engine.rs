//! The rules: which event changes the table how, and what follows.
//!
//! Between the inputs and the kernel on one side and the kernel and the outputs on the other. Must never forget a
//! flow without a report, mark what is not in the table, or grow beyond its limit.
//!
//! The life of a flow that is announced once, with an idle limit of an hour:
//!
//! ```text
//! 12:00  Start        Mark, Report(Start), Changed(Started)
//! 13:00  Tick         Probe
//!        LastSeen     (a packet at 12:50: the next deadline is 13:50)
//! 13:50  Tick         Probe
//!        LastSeen     (still 12:50) Unmark, Report(End at 12:50), Changed(Ended(Idle))
//! ```
//!
//! The life of a flow that a rule found ends with its socket: Closed gives Unmark, Report(End), Changed(Ended(Closed)).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtag_wire::FiveTuple;
use jiff::Timestamp;

use crate::config::{Config, Settings};
use crate::counters::Counters;
use crate::effect::{ChangeKind, Effect, EndReason, Mark, Outcome, Reaction, Rejection, Report, ReportState};
use crate::event::{Announcement, End, Event, Selector};
use crate::flow::{Flow, FlowId, FlowView, Marking};
use crate::key::{FlowKey, Pair};
use crate::later;
use crate::table::Table;

/// How long the answer to a [`Effect::Probe`] may take before the kernel is asked again.
pub const PROBE_RETRY: Duration = Duration::from_secs(30);

/// How long the END of an announced flow may come after the socket closed. The announcer knows what the flow carried,
/// and often says so only when the connection is gone.
pub const CLOSE_GRACE: Duration = Duration::from_secs(10);

/// How far `now` may lie behind an earlier `now` before the clock counts as set back. Less is taken for events that
/// overtook one another on their way.
pub const CLOCK_STEP: Duration = Duration::from_secs(60);

/// Most flows that one [`Event::Tick`] looks at, which bounds its effects. When more are due,
/// [`Engine::next_deadline`] stays in the past and the next tick goes on.
pub const MAX_PER_TICK: usize = 1024;

/// Most bytes of an application's name that are kept per flow; fireflies have to fit a datagram.
pub const MAX_APPLICATION: usize = 128;

/// The table of flows and its rules.
///
/// - A flow is its protocol and both ends, from whichever end it is written.
/// - START of a known flow keeps its number, start and entropy. With the same tag it only refreshes. With another
///   tag the last word wins: the packets get the new label, and the reports are as described at [`Report`]. Another
///   strategy alone is for the packets and the watchers; fireflies do not tell it.
/// - What a rule says of a flow that somebody announced is a refresh and no more: the kernel judged its packet before
///   it was told of the flow. The other way round, an announcement takes a flow over from its rule.
/// - END keeps the tag and the direction of the START, whatever it says itself.
/// - A flow that nobody announced ends when its socket closes. One that was announced waits for its END until
///   [`CLOSE_GRACE`] has passed; a START within that time is a new connection of the same ends, and goes on.
/// - A flow is silent since its last announcement or packet. Silent for the idle limit (its own, if shorter), a marked
///   flow is asked about at the kernel, which sees its packets; others end at once. An answer that never comes is
///   asked for again.
/// - A flow that the kernel had no room for is tried again whenever it is announced.
/// - Firefly traffic is refused, also where a reload made it so; flows that are already known then end by END or by
///   silence.
/// - A clock that is set back restarts the idle times. One that is set forward makes flows look silent: marked
///   flows are asked about, others end.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    entropy_key: EntropyKey,
    local: BTreeSet<IpAddr>,
    table: Table,
    clock: Timestamp,
    counters: Counters,
}

/// How a flow came into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// By a word with this state, of a program or of a rule.
    Announced(ReportState),
    /// The kernel had it.
    Adopted,
}

/// Kept out of debug output.
struct EntropyKey([u8; 16]);

impl std::fmt::Debug for EntropyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EntropyKey")
    }
}

impl Engine {
    /// An engine without flows that knows no address of this host yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            settings: config.settings,
            entropy_key: EntropyKey(config.entropy_key),
            local: BTreeSet::new(),
            table: Table::default(),
            clock: Timestamp::MIN,
            counters: Counters::default(),
        }
    }

    /// Takes one event and says what follows. Never fails: what cannot be done is an outcome and a count.
    ///
    /// Costs a look-up or two, except for [`Event::LocalAddresses`] and [`Event::Configure`], which walk the table.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Reaction {
        self.follow_clock(now);
        let mut effects = Vec::new();
        let outcome = match event {
            Event::Start(what) => self.announce(now, what, ReportState::Start, &mut effects),
            Event::Ongoing(what) => self.announce(now, what, ReportState::Ongoing, &mut effects),
            Event::End(end) => self.end(now, &end, &mut effects),
            Event::Adopt(what) => self.adopt(now, what, &mut effects),
            Event::Closed { key, at } => self.closed(now, &key, at, &mut effects),
            Event::LocalAddresses(addresses) => self.reorient(now, &addresses, &mut effects),
            Event::LastSeen { key, at } => self.last_seen(now, &key, at, &mut effects),
            Event::MarkFailed { key } => self.mark_failed(now, &key, &mut effects),
            Event::Configure(settings) => self.configure(settings),
            Event::Tick => self.tick(now, &mut effects),
        };
        Reaction { outcome, effects }
    }

    /// How many flows are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no flow is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The flow with this number.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<FlowView> {
        self.table.get(id).map(Flow::view)
    }

    /// The flow with these ends, written from either.
    #[must_use]
    pub fn find(&self, flow: &FiveTuple) -> Option<FlowView> {
        self.table.id_of(flow).and_then(|id| self.get(id))
    }

    /// Number and tag of the flow that has this local and this remote end.
    #[must_use]
    pub fn at(&self, key: &FlowKey) -> Option<(FlowId, flowtag_wire::Tag)> {
        let flow = self.table.get(self.table.id_of(key)?)?;
        (flow.key() == *key).then_some((flow.id, flow.tag))
    }

    /// All flows by number, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = FlowView> {
        self.table.iter().map(Flow::view)
    }

    /// The tag of each flow.
    pub fn tags(&self) -> impl Iterator<Item = flowtag_wire::Tag> {
        self.table.iter().map(|flow| flow.tag)
    }

    /// What the kernel holds if it carried out every effect.
    pub fn expected_marks(&self) -> impl Iterator<Item = (FlowKey, Mark)> {
        self.table.iter().filter_map(Flow::mark)
    }

    /// When the next [`Event::Tick`] can matter. May be earlier than needed (such a tick only moves it), never
    /// later. `None` while no flow can become idle or waits for its END.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.table.next_alarm()
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many alarms are kept, for checks that memory is bounded: at most one a flow.
    #[doc(hidden)]
    #[must_use]
    pub fn alarms(&self) -> usize {
        self.table.alarms()
    }

    fn announce(
        &mut self,
        now: Timestamp,
        mut what: Announcement,
        state: ReportState,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        if let Some(refused) = self.guard(&what) {
            return refused;
        }
        what.application = what.application.map(|name| self.cut(name));
        match self.table.id_of(&what.flow) {
            Some(id) => self.announce_again(now, id, what, state, effects),
            None => self.start(now, what, Origin::Announced(state), effects),
        }
    }

    fn adopt(&mut self, now: Timestamp, mut what: Announcement, effects: &mut Vec<Effect>) -> Outcome {
        let held = FlowKey::from(what.flow);
        what.application = what.application.map(|name| self.cut(name));
        let outcome = match (self.guard(&what), self.table.id_of(&held)) {
            (Some(refused), _) => refused,
            (None, Some(id)) => self.adopt_known(now, id, effects),
            (None, None) => self.start(now, what, Origin::Adopted, effects),
        };
        // Refused, or the other end is the local one now: nothing would ever take this mark off.
        let marked = self.table.id_of(&held).and_then(|id| self.table.get(id)?.mark());
        if held.is_ipv6() && marked.is_none_or(|(key, _)| key != held) {
            effects.insert(0, Effect::Unmark { key: held });
        }
        outcome
    }

    /// The flow came into the table before its adoption: that word is the newer one.
    fn adopt_known(&mut self, now: Timestamp, id: FlowId, effects: &mut Vec<Effect>) -> Outcome {
        let Some(flow) = self.table.get_mut(id) else { return Outcome::UnknownFlow };
        flow.touch(now);
        self.counters.refreshed += 1;
        if retry_mark(flow) {
            self.counters.mark_retried += 1;
            effects.extend(flow.mark_effect());
            effects.push(flow.change(now, ChangeKind::Updated).into());
        }
        Outcome::Refreshed(id)
    }

    /// Refuses firefly traffic.
    fn guard(&mut self, what: &Announcement) -> Option<Outcome> {
        let end = self.settings.guard.firefly_end(&what.flow)?;
        self.counters.rejected_own += 1;
        Some(Outcome::Rejected(Rejection::OwnFirefly { flow: what.flow, end }))
    }

    fn start(
        &mut self,
        now: Timestamp,
        mut what: Announcement,
        origin: Origin,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let max = self.settings.max_flows;
        if self.table.len() >= max {
            self.counters.rejected_full += 1;
            return Outcome::Rejected(Rejection::TableFull { max });
        }
        let firefly = what.firefly.take();
        let flow = self.new_flow(now, what, origin);
        let id = flow.id;
        effects.extend(flow.mark_effect());
        if origin != Origin::Adopted {
            effects.push(Report { firefly, ..flow.report(ReportState::Start, now) }.into());
        }
        effects.push(flow.change(now, ChangeKind::Started).into());
        let alarm = alarm(&flow, &self.settings);
        self.table.insert(flow);
        self.table.set_alarm(id, alarm);
        self.counters.started += 1;
        self.counters.adopted += u64::from(origin == Origin::Announced(ReportState::Ongoing));
        self.counters.taken_over += u64::from(origin == Origin::Adopted);
        Outcome::Started(id)
    }

    fn new_flow(&mut self, now: Timestamp, what: Announcement, origin: Origin) -> Flow {
        let mut flow = Flow {
            id: self.table.next_id(),
            turned: FlowKey::orient(&what.flow, &self.local) != what.flow.into(),
            announced: what.flow,
            tag: what.tag,
            entropy: Pair::from(&what.flow).entropy(&self.entropy_key.0),
            strategy: what.strategy.unwrap_or(self.settings.strategy),
            start_time: what.start_time.unwrap_or(now),
            last_activity: now,
            reported: now,
            application: what.application,
            source: what.source,
            found: origin == Origin::Adopted || what.rule.is_some(),
            rule: what.rule,
            idle_limit: what.idle_limit,
            marking: Marking::of(&what.flow),
            awaiting: false,
            alarm: None,
            seldom: None,
        };
        flow.set_report_every(what.report_every);
        flow
    }

    fn announce_again(
        &mut self,
        now: Timestamp,
        id: FlowId,
        mut what: Announcement,
        state: ReportState,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(flow) = self.table.get_mut(id) else { return Outcome::UnknownFlow };
        flow.touch(now);
        if state == ReportState::Start {
            flow.reopen();
        }
        if what.rule.is_some() && !flow.found {
            what = Announcement { tag: flow.tag, strategy: None, idle_limit: None, ..what };
        }
        let retried = retry_mark(flow);
        let same = flow.tag == what.tag && what.strategy.is_none_or(|strategy| strategy == flow.strategy);
        if flow.tag == what.tag {
            refresh(flow, now, what, state, retried || !same, effects);
        } else {
            retag(flow, now, what, effects);
        }
        let alarm = alarm(flow, &self.settings);
        self.table.wake_by(id, alarm);
        self.counters.mark_retried += u64::from(retried);
        if same {
            self.counters.refreshed += 1;
            Outcome::Refreshed(id)
        } else {
            self.counters.updated += 1;
            Outcome::Updated(id)
        }
    }

    fn end(&mut self, now: Timestamp, end: &End, effects: &mut Vec<Effect>) -> Outcome {
        let id = match end.which {
            Selector::Flow(flow) => self.table.id_of(&flow),
            Selector::Id(id) => Some(id),
        };
        let Some(flow) = id.and_then(|id| self.table.remove(id)) else {
            self.counters.unknown_end += 1;
            return Outcome::UnknownFlow;
        };
        self.counters.ended += 1;
        let reason = EndReason::Requested { by: end.source };
        let end_time = end.end_time.or(flow.closed()).unwrap_or(now);
        finish(&flow, now, end_time, Some(end), reason, effects);
        Outcome::Ended(flow.id)
    }

    /// The end of a flow that its deadline or its socket ended, not an END.
    fn expire(&mut self, now: Timestamp, id: FlowId, effects: &mut Vec<Effect>) -> Outcome {
        let Some(flow) = self.table.remove(id) else { return Outcome::UnknownFlow };
        let (end_time, reason) = match flow.closed() {
            Some(closed) => (closed, EndReason::Closed),
            None => (flow.last_activity, EndReason::Idle),
        };
        self.counters.ended_closed += u64::from(reason == EndReason::Closed);
        self.counters.ended_idle += u64::from(reason == EndReason::Idle);
        finish(&flow, now, end_time, None, reason, effects);
        Outcome::Ended(id)
    }

    fn closed(&mut self, now: Timestamp, key: &FlowKey, at: Timestamp, effects: &mut Vec<Effect>) -> Outcome {
        let Some(id) = self.table.id_of(key) else { return Outcome::UnknownFlow };
        let Some(flow) = self.table.get_mut(id) else { return Outcome::UnknownFlow };
        // A time in the future would keep the flow until then.
        flow.close(at.min(now));
        if flow.found {
            return self.expire(now, id, effects);
        }
        let alarm = alarm(flow, &self.settings);
        self.table.wake_by(id, alarm);
        Outcome::Done
    }

    fn tick(&mut self, now: Timestamp, effects: &mut Vec<Effect>) -> Outcome {
        // All are taken before any is looked at: none is looked at twice, even at the end of time.
        let due: Vec<_> = std::iter::from_fn(|| self.table.pop_alarm(now)).take(MAX_PER_TICK).collect();
        for id in due {
            self.look_at(now, id, effects);
        }
        Outcome::Done
    }

    /// Looks at a flow whose alarm went off: too early, to be asked about, or over.
    fn look_at(&mut self, now: Timestamp, id: FlowId, effects: &mut Vec<Effect>) {
        let Some(flow) = self.table.get_mut(id) else { return };
        flow.awaiting = false;
        report_if_due(flow, now, self.settings.report_every, effects);
        if deadline(flow, self.settings.idle_limit).is_none_or(|at| at > now) {
            let alarm = alarm(flow, &self.settings);
            self.table.set_alarm(id, alarm);
        } else if flow.marking != Marking::TableFull && flow.closed().is_none() {
            flow.awaiting = true;
            effects.push(Effect::Probe { key: flow.key() });
            self.counters.probes += 1;
            let report = flow.next_report(self.settings.report_every);
            let alarm = report.unwrap_or(Timestamp::MAX).min(later(now, PROBE_RETRY));
            self.table.set_alarm(id, Some(alarm));
        } else {
            self.expire(now, id, effects);
        }
    }

    /// Only an answer to a probe can end a flow; other words of the kernel can only prolong it.
    fn last_seen(
        &mut self,
        now: Timestamp,
        key: &FlowKey,
        at: Option<Timestamp>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(id) = self.table.id_of(key) else { return Outcome::UnknownFlow };
        let Some(flow) = self.table.get_mut(id) else { return Outcome::UnknownFlow };
        // A time in the future would keep the flow until then.
        flow.touch(at.unwrap_or(Timestamp::MIN).min(now));
        // An answer about the other direction is of before the flow was turned, and void.
        if flow.key() != *key || !std::mem::take(&mut flow.awaiting) {
            return Outcome::Done;
        }
        if deadline(flow, self.settings.idle_limit).is_some_and(|at| at <= now) {
            return self.expire(now, id, effects);
        }
        let alarm = alarm(flow, &self.settings);
        self.table.set_alarm(id, alarm);
        Outcome::Done
    }

    fn mark_failed(&mut self, now: Timestamp, key: &FlowKey, effects: &mut Vec<Effect>) -> Outcome {
        let Some(id) = self.table.id_of(key) else { return Outcome::UnknownFlow };
        // A failure of the other direction is of before the flow was turned: that mark has been withdrawn since.
        let marked = |flow: &&mut Flow| flow.key() == *key && flow.marking != Marking::TableFull;
        let Some(flow) = self.table.get_mut(id).filter(marked) else { return Outcome::Done };
        flow.marking = Marking::TableFull;
        self.counters.mark_failed += 1;
        effects.push(flow.change(now, ChangeKind::Updated).into());
        Outcome::Done
    }

    fn reorient(
        &mut self,
        now: Timestamp,
        addresses: &BTreeSet<IpAddr>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        // Endpoints hold `::ffff:a.b.c.d` as the IPv4 address that it is.
        self.local = addresses.iter().map(IpAddr::to_canonical).collect();
        for flow in self.table.iter_mut() {
            let key = FlowKey::orient(&flow.announced, &self.local);
            if key != flow.key() {
                turn(flow, now, effects);
                self.counters.reoriented += 1;
            }
        }
        Outcome::Done
    }

    fn configure(&mut self, settings: Settings) -> Outcome {
        let old = std::mem::replace(&mut self.settings, settings);
        let timing = |settings: &Settings| (settings.idle_limit, settings.report_every);
        if timing(&old) != timing(&self.settings) {
            self.rearm();
        }
        Outcome::Done
    }

    /// A flow last active in what is now the future would not become idle until then.
    fn follow_clock(&mut self, now: Timestamp) {
        if later(now, CLOCK_STEP) >= self.clock {
            self.clock = self.clock.max(now);
            return;
        }
        self.clock = now;
        self.counters.clock_steps += 1;
        for flow in self.table.iter_mut() {
            flow.last_activity = flow.last_activity.min(now);
            flow.reported = flow.reported.min(now);
            if let Some(closed) = flow.closed() {
                flow.close(closed.min(now));
            }
        }
        self.rearm();
    }

    fn rearm(&mut self) {
        self.table.rearm(|flow| alarm(flow, &self.settings));
    }

    fn cut(&mut self, name: Arc<str>) -> Arc<str> {
        if name.len() <= MAX_APPLICATION {
            return name;
        }
        self.counters.applications_cut += 1;
        let end = (0..=MAX_APPLICATION).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
        Arc::from(&name[..end])
    }
}

/// The same tag once more; `changed` if the packets or the watchers notice nevertheless.
fn refresh(
    flow: &mut Flow,
    now: Timestamp,
    what: Announcement,
    state: ReportState,
    changed: bool,
    effects: &mut Vec<Effect>,
) {
    flow.learn(&what);
    flow.application = flow.application.take().or(what.application);
    if changed {
        effects.extend(flow.mark_effect());
    }
    if state == ReportState::Ongoing {
        effects.push(Report { firefly: what.firefly, ..flow.report(ReportState::Ongoing, now) }.into());
    }
    if changed {
        effects.push(flow.change(now, ChangeKind::Updated).into());
    }
}

/// Another tag for a known flow.
fn retag(flow: &mut Flow, now: Timestamp, what: Announcement, effects: &mut Vec<Effect>) {
    let end = flow.end_report(now, now, None);
    flow.retag(what.tag, end.end_time.unwrap_or(now));
    flow.learn(&what);
    flow.source = what.source;
    flow.application = what.application.or(flow.application.take());
    effects.extend(flow.mark_effect());
    effects.push(end.into());
    effects.push(Report { firefly: what.firefly, ..flow.report(ReportState::Start, now) }.into());
    effects.push(flow.change(now, ChangeKind::Updated).into());
}

/// The other end is the local one now.
fn turn(flow: &mut Flow, now: Timestamp, effects: &mut Vec<Effect>) {
    effects.extend(flow.unmark_effect());
    flow.turned = !flow.turned;
    // The kernel forgets the other direction, so a probe of it tells nothing; the alarm stays and asks anew.
    flow.awaiting = false;
    retry_mark(flow);
    effects.extend(flow.mark_effect());
    effects.push(flow.change(now, ChangeKind::Updated).into());
}

/// Takes the flow for marked if only room was missing: a mark is about to be sent. Says whether it was.
fn retry_mark(flow: &mut Flow) -> bool {
    let retry = flow.marking == Marking::TableFull;
    if retry {
        flow.marking = Marking::of(&flow.announced);
    }
    retry
}

/// What follows from the end of a flow that is out of the table.
fn finish(
    flow: &Flow,
    now: Timestamp,
    end_time: Timestamp,
    told: Option<&End>,
    reason: EndReason,
    effects: &mut Vec<Effect>,
) {
    effects.extend(flow.unmark_effect());
    let report = Report {
        firefly: told.and_then(|end| end.firefly.clone()),
        ended: Some(reason),
        ..flow.end_report(now, end_time, told.and_then(|end| end.usage))
    };
    let at = report.end_time.unwrap_or(end_time);
    effects.push(report.into());
    effects.push(flow.change(at, ChangeKind::Ended(reason)).into());
}

/// The periodic report of a flow, if it is time. One that is late by more than its period is made once.
fn report_if_due(flow: &mut Flow, now: Timestamp, usual: Option<Duration>, effects: &mut Vec<Effect>) {
    let Some(due) = flow.next_report(usual).filter(|at| *at <= now) else { return };
    flow.reported = due;
    if flow.next_report(usual).is_some_and(|next| next <= now) {
        flow.reported = now;
    }
    effects.push(flow.report(ReportState::Ongoing, now).into());
}

/// When a tick has to look at a flow: when it may be over, or a report of it is due.
fn alarm(flow: &Flow, settings: &Settings) -> Option<Timestamp> {
    let moments = [deadline(flow, settings.idle_limit), flow.next_report(settings.report_every)];
    moments.into_iter().flatten().min()
}

/// When a flow is over if nothing more is heard or seen of it: some time after its socket closed, otherwise when it
/// has been silent for the shorter of `limit` and its own limit; never without any.
fn deadline(flow: &Flow, limit: Option<Duration>) -> Option<Timestamp> {
    if let Some(closed) = flow.closed() {
        return Some(later(closed, CLOSE_GRACE));
    }
    let limit = [limit, flow.idle_limit].into_iter().flatten().min()?;
    Some(later(flow.last_activity, limit))
}
