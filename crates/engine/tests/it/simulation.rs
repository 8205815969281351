//! Long random lives of a host under a fake clock, with a model of the kernel that carries out what it is told.
//!
//! After every step the engine is compared with a model that is too simple to be wrong in the same way. A life is a
//! list of words, each the seed of one step, so that proptest can shorten a failing life to the steps that matter.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test does")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::{
    Announcement, CLOCK_STEP, CLOSE_GRACE, Change, ChangeKind, Config, Effect, End, EndReason, Engine, Event,
    FlowId, FlowKey, FlowView, Guard, MAX_PER_TICK, Mark, Marking, Outcome, PROBE_RETRY, Reaction, Rejection,
    Report, ReportState, Selector, Settings, Source, Usage,
};
use flowtag_wire::{Endpoint, Entropy, FiveTuple, FlowLabel, Protocol, Strategy, Tag};
use jiff::Timestamp;
use proptest::prelude::*;

/// A port of the pool that the guard may take for a firefly port.
const FIREFLY_PORT: u16 = 10514;

/// Protocol and ends in a fixed order, found independently of the engine.
type Identity = (Protocol, Endpoint, Endpoint);

fn identity(protocol: Protocol, a: Endpoint, b: Endpoint) -> Identity {
    if a < b { (protocol, a, b) } else { (protocol, b, a) }
}

fn identity_of(flow: &FiveTuple) -> Identity {
    identity(flow.protocol(), flow.src(), flow.dst())
}

fn identity_of_key(key: &FlowKey) -> Identity {
    identity(key.protocol, key.local, key.remote)
}

/// The choices within one step: SplitMix64 from the step's word.
struct Dice(u64);

impl Dice {
    /// 0 to `sides - 1`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    /// Three addresses a family and four ports: a few hundred flows, so that everything happens to the same ones.
    fn flow(&mut self) -> Option<FiveTuple> {
        let family = self.roll(4);
        let protocol = if self.chance(30) { Protocol::Udp } else { Protocol::Tcp };
        let (src, dst) = (self.end(family), self.end(family));
        FiveTuple::new(protocol, src, dst).ok()
    }

    fn end(&mut self, family: u64) -> Endpoint {
        let addr = addresses()[(if family == 0 { 0 } else { 3 } + self.roll(3)) as usize];
        Endpoint::new(addr, [443, 1094, 5001, FIREFLY_PORT][self.roll(4) as usize])
    }

    fn tag(&mut self) -> Tag {
        Tag::new([1, 3, 511][self.roll(3) as usize], [1, 63][self.roll(2) as usize]).unwrap()
    }

    fn announcement(&mut self, now: Timestamp) -> Option<Announcement> {
        let mut what =
            Announcement::new(self.flow()?, self.tag(), Source(["api", "pipe"][self.roll(2) as usize]));
        what.start_time = self.chance(30).then(|| self.around(now));
        what.application = self.chance(30).then(|| Arc::from("x".repeat(self.roll(200) as usize)));
        what.strategy = self.chance(20).then(|| self.strategy());
        what.rule = self.chance(25).then(|| Arc::from(["first", "second"][self.roll(2) as usize]));
        what.idle_limit = self.chance(20).then(|| self.limit());
        Some(what)
    }

    fn strategy(&mut self) -> Strategy {
        Strategy::from_bits(1 + self.roll(3) as u8).unwrap()
    }

    fn limit(&mut self) -> Duration {
        Duration::from_secs([0, 5, 60, 3600][self.roll(4) as usize])
    }

    /// Up to two hours before or after.
    fn around(&mut self, now: Timestamp) -> Timestamp {
        let offset = Duration::from_secs(self.roll(7200));
        if self.chance(50) { now.checked_sub(offset) } else { now.checked_add(offset) }.unwrap()
    }

    fn settings(&mut self) -> Settings {
        let ports = if self.chance(50) { [FIREFLY_PORT].into() } else { BTreeSet::new() };
        let collectors = if self.chance(30) { [self.end(1)].into() } else { BTreeSet::new() };
        Settings {
            max_flows: [0, 5, 20, 1000][self.roll(4) as usize],
            idle_limit: self.chance(80).then(|| self.limit()),
            strategy: self.strategy(),
            report_every: self.chance(30).then(|| self.limit()),
            guard: Guard { ports, collectors },
        }
    }

    /// Mostly moments, sometimes hours, seldom backwards.
    fn jump(&mut self, now: Timestamp) -> Timestamp {
        match self.roll(20) {
            0 => now.checked_add(Duration::from_secs(self.roll(20_000))),
            1 => now.checked_sub(Duration::from_secs(self.roll(20_000))),
            2..=8 => now.checked_add(Duration::from_secs(self.roll(60))),
            _ => now.checked_add(Duration::from_millis(self.roll(1000))),
        }
        .unwrap_or(now)
    }
}

fn addresses() -> [IpAddr; 6] {
    ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8::3"]
        .map(|a| a.parse().unwrap())
}

/// What the model knows of a flow that is in the table.
struct Known {
    id: FlowId,
    announced: FiveTuple,
    tag: Tag,
    strategy: Strategy,
    source: Source,
    rule: Option<Arc<str>>,
    /// Nobody announced it.
    found: bool,
    limit: Option<Duration>,
    /// When it was last announced; never in the future, so that a clock set back cannot make it wrong.
    heard: Timestamp,
    closed: Option<Closed>,
}

/// What the model knows of a socket that closed while its END is awaited.
#[derive(Clone, Copy)]
struct Closed {
    /// At the earliest; like [`Known::heard`] never in the future.
    at: Timestamp,
    /// When the engine was told: the close was not later.
    told: Timestamp,
}

impl Known {
    fn new(id: FlowId, what: &Announcement, settings: &Settings, now: Timestamp) -> Self {
        Self {
            id,
            announced: what.flow,
            tag: what.tag,
            strategy: what.strategy.unwrap_or(settings.strategy),
            source: what.source,
            rule: what.rule.clone(),
            found: what.rule.is_some(),
            limit: what.idle_limit,
            heard: now,
            closed: None,
        }
    }

    /// A rule, of a flow that was announced.
    fn overrules(&self, what: &Announcement) -> bool {
        what.rule.is_some() && !self.found
    }

    fn is_as_in(&self, what: &Announcement) -> bool {
        let same = self.tag == what.tag && what.strategy.is_none_or(|strategy| strategy == self.strategy);
        same || self.overrules(what)
    }

    fn announced_again(&mut self, what: &Announcement) {
        if self.overrules(what) {
            return;
        }
        if self.found || self.tag != what.tag {
            self.source = what.source;
        }
        self.limit = if self.found { what.idle_limit } else { what.idle_limit.or(self.limit) };
        self.rule.clone_from(&what.rule);
        self.found = what.rule.is_some();
        self.tag = what.tag;
        self.strategy = what.strategy.unwrap_or(self.strategy);
    }

    fn idle_limit(&self, settings: &Settings) -> Option<Duration> {
        match (self.limit, settings.idle_limit) {
            (Some(own), Some(general)) => Some(own.min(general)),
            (own, general) => own.or(general),
        }
    }
}

/// What the reports of one flow have said so far.
struct Told {
    flow: FiveTuple,
    /// The tag and start of the latest START without its END.
    open: Option<(Tag, Timestamp)>,
    /// The end of the latest END.
    ended: Option<Timestamp>,
}

struct World {
    engine: Engine,
    now: Timestamp,
    /// When the engine was last told something: all that it knows of the clock.
    told_at: Timestamp,
    dice: Dice,
    local: BTreeSet<IpAddr>,
    /// What the map of the kernel holds: the mark, and when the flow began.
    kernel: BTreeMap<FlowKey, (Mark, Timestamp)>,
    /// How many entries the kernel's map holds.
    room: usize,
    /// Probes whose answers are still to come.
    probes: VecDeque<FlowKey>,
    /// What the flows that are known now were ever asked about.
    asked: BTreeSet<FlowKey>,
    known: BTreeMap<Identity, Known>,
    /// Only of flows that have not ended.
    told: BTreeMap<FlowId, Told>,
    newest: FlowId,
    /// The probe whose answer is being given.
    answering: Option<FlowKey>,
    /// The flow whose close is being told.
    closing: Option<Identity>,
    /// What the kernel held already of the flow that is being adopted.
    adopting: Option<FlowKey>,
    entropy: BTreeMap<Identity, Entropy>,
}

impl World {
    fn new() -> Self {
        let settings = Settings { max_flows: 20, ..Settings::default() };
        Self {
            engine: Engine::new(Config { settings, ..Config::new(*b"simulated secret") }),
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            told_at: Timestamp::MIN,
            dice: Dice(0),
            local: BTreeSet::new(),
            kernel: BTreeMap::new(),
            room: 15,
            probes: VecDeque::new(),
            asked: BTreeSet::new(),
            known: BTreeMap::new(),
            told: BTreeMap::new(),
            newest: FlowId::new(0),
            answering: None,
            closing: None,
            adopting: None,
            entropy: BTreeMap::new(),
        }
    }

    /// One random thing happens, and everything that must hold does.
    fn step(&mut self, word: u64) {
        self.dice = Dice(word);
        self.now = self.dice.jump(self.now);
        for known in self.known.values_mut() {
            known.heard = known.heard.min(self.now);
            known.closed = known.closed.map(|closed| Closed { at: closed.at.min(self.now), ..closed });
        }
        let before = self.engine.len();
        match self.dice.roll(24) {
            0..=6 => self.announce(Event::Start),
            7..=9 => self.announce(Event::Ongoing),
            20..=22 => self.close(),
            23 => self.adopt(),
            10..=13 => self.end(),
            14 => self.addresses(),
            15 => self.answer(),
            16 => self.rumour(),
            17 if self.dice.chance(20) => self.configure(),
            _ => self.tick(),
        }
        let max = self.engine.settings().max_flows;
        assert!(self.engine.len() <= max.max(before), "the table grew beyond its limit");
        self.check();
    }

    fn announce(&mut self, event: fn(Announcement) -> Event) {
        let Some(what) = self.dice.announcement(self.now) else { return };
        let expected = self.expected_outcome(&what);
        let event = event(what.clone());
        let is_start = matches!(event, Event::Start(_));
        let reaction = self.tell(event);
        match (&reaction.outcome, expected) {
            (Outcome::Started(id), Expected::Started) => {
                let known = Known::new(*id, &what, self.engine.settings(), self.now);
                assert!(self.known.insert(identity_of(&what.flow), known).is_none());
            }
            (Outcome::Updated(id), Expected::Updated(expected))
            | (Outcome::Refreshed(id), Expected::Refreshed(expected)) => {
                assert_eq!(*id, expected);
                let known = self.known.get_mut(&identity_of(&what.flow)).unwrap();
                known.announced_again(&what);
                known.heard = self.now;
                known.closed = known.closed.filter(|_| !is_start);
            }
            (Outcome::Rejected(Rejection::TableFull { .. }), Expected::Full) => {}
            (Outcome::Rejected(Rejection::OwnFirefly { .. }), Expected::Own) => {}
            (outcome, _) => panic!("{what:?} should not have given {outcome:?}"),
        }
        self.carry_out(reaction);
    }

    fn expected_outcome(&self, what: &Announcement) -> Expected {
        let settings = self.engine.settings();
        let ends = [what.flow.src(), what.flow.dst()];
        let guarded = |end: &Endpoint| {
            settings.guard.ports.contains(&end.port()) || settings.guard.collectors.contains(end)
        };
        if what.flow.protocol() == Protocol::Udp && ends.iter().any(guarded) {
            return Expected::Own;
        }
        match self.known.get(&identity_of(&what.flow)) {
            Some(known) if known.is_as_in(what) => Expected::Refreshed(known.id),
            Some(known) => Expected::Updated(known.id),
            None if self.known.len() >= settings.max_flows => Expected::Full,
            None => Expected::Started,
        }
    }

    fn end(&mut self) {
        let Some(flow) = self.dice.flow() else { return };
        // Half of the ENDs are about flows that exist, of which some are named by number.
        let existing = self.known.values().nth(self.dice.roll(20) as usize);
        let (which, identity) = match existing.filter(|_| self.dice.chance(50)) {
            Some(known) if self.dice.chance(50) => (Selector::Id(known.id), identity_of(&known.announced)),
            Some(known) => (Selector::Flow(known.announced.reversed()), identity_of(&known.announced)),
            None => (Selector::Flow(flow), identity_of(&flow)),
        };
        let end_time = self.dice.chance(30).then(|| self.dice.around(self.now));
        let usage = self.dice.chance(50).then_some(Usage { sent: 1, received: 2 });
        let reaction =
            self.tell(Event::End(End { which, end_time, usage, firefly: None, source: Source("pipe") }));
        match self.known.get(&identity) {
            Some(known) => assert_eq!(reaction.outcome, Outcome::Ended(known.id)),
            None => assert_eq!(reaction.outcome, Outcome::UnknownFlow),
        }
        self.carry_out(reaction);
    }

    /// The kernel says that a socket closed, mostly of a flow that is known, seen from either end.
    fn close(&mut self) {
        let existing = self.known.values().nth(self.dice.roll(20) as usize).map(|known| known.announced);
        let Some(flow) = existing.or_else(|| self.dice.flow()) else { return };
        let key = FlowKey::from(if self.dice.chance(50) { flow } else { flow.reversed() });
        let at = self.dice.around(self.now);
        let identity = identity_of(&flow);
        self.closing = Some(identity);
        let reaction = self.tell(Event::Closed { key, at });
        match self.known.get_mut(&identity) {
            None => assert_eq!(reaction.outcome, Outcome::UnknownFlow),
            Some(known) if known.found => assert_eq!(reaction.outcome, Outcome::Ended(known.id)),
            Some(known) => {
                assert_eq!((&reaction.outcome, &reaction.effects[..]), (&Outcome::Done, &[][..]));
                known.closed = Some(Closed { at: at.min(self.now), told: self.now });
            }
        }
        self.carry_out(reaction);
        self.closing = None;
    }

    /// The kernel marks a flow, as an earlier daemon wanted.
    fn adopt(&mut self) {
        let Some(mut what) = self.dice.announcement(self.now) else { return };
        let held = FlowKey::from(what.flow);
        if held.is_ipv6() && !self.kernel.contains_key(&held) {
            if self.kernel.len() >= self.room {
                return;
            }
            let label = FlowLabel::from_tag(what.tag, Entropy::from_random(self.dice.roll(32) as u32));
            let mark = Mark { label, strategy: self.dice.strategy() };
            self.kernel.insert(held, (mark, self.now));
            what.strategy = Some(mark.strategy);
        }
        let expected = self.expected_outcome(&what);
        let reaction = self.tell(Event::Adopt(what.clone()));
        match (&reaction.outcome, expected) {
            (Outcome::Started(id), Expected::Started) => {
                self.newest = *id;
                let start = what.start_time.unwrap_or(self.now);
                self.told.insert(*id, Told { flow: what.flow, open: Some((what.tag, start)), ended: None });
                let known = Known::new(*id, &what, self.engine.settings(), self.now);
                self.known.insert(identity_of(&what.flow), Known { found: true, ..known });
            }
            (Outcome::Refreshed(id), Expected::Refreshed(known) | Expected::Updated(known)) => {
                assert_eq!(*id, known);
                self.known.get_mut(&identity_of(&what.flow)).unwrap().heard = self.now;
            }
            (Outcome::Rejected(Rejection::TableFull { .. }), Expected::Full) => {}
            (Outcome::Rejected(Rejection::OwnFirefly { .. }), Expected::Own) => {}
            (outcome, _) => panic!("to adopt {what:?} should not have given {outcome:?}"),
        }
        self.adopting = Some(held);
        self.carry_out(reaction);
        self.adopting = None;
    }

    fn addresses(&mut self) {
        self.local = addresses().into_iter().filter(|_| self.dice.chance(40)).collect();
        let reaction = self.tell(Event::LocalAddresses(self.local.clone()));
        self.carry_out(reaction);
    }

    /// The answer to an earlier probe comes, late, or is lost.
    fn answer(&mut self) {
        let Some(key) = self.probes.pop_front() else { return };
        if self.dice.chance(30) {
            return;
        }
        let at = self.dice.chance(60).then(|| self.dice.around(self.now));
        self.reply(key, at);
    }

    fn reply(&mut self, key: FlowKey, at: Option<Timestamp>) {
        self.answering = Some(key);
        let reaction = self.tell(Event::LastSeen { key, at });
        self.carry_out(reaction);
        self.answering = None;
    }

    /// The kernel says something that nobody asked for, perhaps about flows that nobody knows.
    fn rumour(&mut self) {
        let Some(flow) = self.dice.flow() else { return };
        let key = FlowKey::orient(&flow, &self.local);
        // That there was no room is only ever said of a key that the kernel does not hold.
        if self.dice.chance(20) && !self.kernel.contains_key(&key) {
            let reaction = self.tell(Event::MarkFailed { key });
            self.carry_out(reaction);
        } else {
            let at = self.dice.around(self.now);
            self.reply(key, Some(at));
        }
    }

    fn configure(&mut self) {
        let settings = self.dice.settings();
        let reaction = self.tell(Event::Configure(settings));
        assert_eq!(reaction.effects, []);
    }

    fn tick(&mut self) {
        let reaction = self.tell(Event::Tick);
        self.carry_out(reaction);
        let alarms = self.engine.len().min(MAX_PER_TICK);
        assert!(
            alarms == MAX_PER_TICK || self.engine.next_deadline().is_none_or(|at| at > self.now),
            "a tick leaves nothing due"
        );
        for view in self.engine.iter() {
            self.is_not_overdue(&view);
        }
    }

    /// After a tick that looked at all that was due.
    fn is_not_overdue(&self, view: &FlowView) {
        let known = &self.known[&identity_of(&view.flow)];
        let is_past = |at: Timestamp, by| at.checked_add(by).unwrap() <= self.now;
        if let Some(closed) = known.closed {
            assert!(!is_past(closed.told, CLOSE_GRACE), "{} waits for its END for too long", view.flow);
        } else if known
            .idle_limit(self.engine.settings())
            .is_some_and(|limit| is_past(view.last_activity, limit))
        {
            let ends = [view.flow, view.flow.reversed()].map(FlowKey::from);
            let asked = ends.iter().any(|key| self.asked.contains(key));
            assert!(asked, "{} is neither ended nor asked about", view.flow);
        }
    }

    fn tell(&mut self, event: Event) -> Reaction {
        self.told_at = self.now;
        self.engine.handle(self.now, event)
    }

    fn carry_out(&mut self, reaction: Reaction) {
        let mut failed = Vec::new();
        for effect in reaction.effects {
            match effect {
                Effect::Mark { key, mark, start } => failed.extend(self.mark(key, mark, start)),
                Effect::Unmark { key } => {
                    assert!(self.kernel.remove(&key).is_some(), "{key} was not marked");
                }
                Effect::Probe { key } => {
                    assert!(self.kernel.contains_key(&key), "{key} is not known to the kernel");
                    self.probes.push_back(key);
                    self.asked.insert(key);
                    self.probes.truncate(50);
                }
                Effect::Report(report) => self.hear(&report),
                Effect::Changed(change) => self.watch(&change),
            }
        }
        for key in failed {
            let reaction = self.tell(Event::MarkFailed { key });
            assert_eq!(reaction.outcome, Outcome::Done);
            self.carry_out(reaction);
        }
    }

    /// The kernel marks, or says for which key it had no room.
    fn mark(&mut self, key: FlowKey, mark: Mark, start: Timestamp) -> Option<FlowKey> {
        let entropy = *self.entropy.entry(identity_of_key(&key)).or_insert(mark.label.entropy());
        assert_eq!(mark.label.entropy(), entropy, "the entropy of {key} changed");
        match self.kernel.get(&key) {
            Some(_) if self.adopting == Some(key) => {}
            Some((old, _)) => assert_ne!(*old, mark, "{key} was marked with that already"),
            None if self.kernel.len() >= self.room || self.dice.chance(5) => return Some(key),
            None => {}
        }
        self.kernel.insert(key, (mark, start));
        None
    }

    fn hear(&mut self, report: &Report) {
        let newest = &mut self.newest;
        let told = self.told.entry(report.id).or_insert_with(|| {
            assert!(
                report.id > *newest,
                "flow {} was reported after its end or has an old number",
                report.id
            );
            *newest = report.id;
            Told { flow: report.flow, open: None, ended: None }
        });
        assert_eq!(told.flow, report.flow, "the direction of flow {} changed", report.id);
        let this = (report.tag, report.start_time);
        match report.state {
            ReportState::Start => {
                assert_eq!(told.open.replace(this), None, "two STARTs in a row");
                assert!(
                    told.ended.is_none_or(|at| at == report.start_time),
                    "the spans of one flow are adjacent"
                );
            }
            ReportState::Ongoing => assert_eq!(told.open, Some(this)),
            ReportState::End => {
                assert_eq!(told.open.take(), Some(this), "an END is of the START before it");
                assert!(report.end_time >= Some(report.start_time), "ended before it started");
                told.ended = report.end_time;
            }
        }
        assert_eq!(report.end_time.is_some(), report.state == ReportState::End);
        assert!(report.ended.is_none() || report.state == ReportState::End, "only what is over ended");
    }

    fn watch(&mut self, change: &Change) {
        let view = &change.flow;
        let ChangeKind::Ended(reason) = change.kind else {
            assert!(self.engine.get(view.id).is_some());
            return;
        };
        match reason {
            EndReason::Requested { .. } => {}
            EndReason::Idle => self.was_idle(view),
            EndReason::Closed => self.was_closed(change),
        }
        self.asked.remove(&view.key);
        assert_eq!(self.engine.get(view.id), None, "an ended flow is gone");
        assert_eq!(self.known.remove(&identity_of(&view.flow)).map(|known| known.id), Some(view.id));
        assert_eq!(self.told.remove(&view.id).map(|told| told.open), Some(None), "ended without an END");
    }

    fn was_idle(&self, view: &FlowView) {
        let known = &self.known[&identity_of(&view.flow)];
        assert!(known.closed.is_none(), "{} was waiting for its END", view.flow);
        let limit = known.idle_limit(self.engine.settings()).expect("nothing is idle without a limit");
        let heard = known.heard;
        assert!(heard.checked_add(limit).unwrap() <= self.now, "{} was heard of at {heard}", view.flow);
        let asked = self.answering == Some(view.key) && self.asked.contains(&view.key);
        assert!(
            asked || view.marking == Marking::TableFull,
            "{} was ended without asking the kernel",
            view.flow
        );
    }

    fn was_closed(&self, change: &Change) {
        let identity = identity_of(&change.flow.flow);
        let known = &self.known[&identity];
        if known.found {
            assert_eq!(self.closing, Some(identity), "{identity:?} did not close");
        } else {
            let closed = known.closed.expect("a flow that closed");
            assert!(closed.at.checked_add(CLOSE_GRACE).unwrap() <= self.now, "{identity:?} had to wait");
            assert!(change.at >= closed.at);
        }
        assert!(change.at <= self.now.checked_add(CLOCK_STEP).unwrap().max(change.flow.tagged_since));
    }

    /// Everything that holds between two events.
    fn check(&self) {
        let expected: BTreeMap<_, _> = self.engine.expected_marks().collect();
        let held: BTreeMap<_, _> = self.kernel.iter().map(|(key, (mark, _))| (*key, *mark)).collect();
        assert_eq!(held, expected, "the kernel holds what the engine thinks it does");
        assert!(self.engine.alarms() <= self.engine.len(), "alarms pile up");
        assert_eq!(self.engine.alarms() > 0, self.engine.next_deadline().is_some());
        let settings = self.engine.settings();
        let can_end = |known: &&Known| known.closed.is_some() || known.idle_limit(settings).is_some();
        assert!(self.engine.alarms() >= self.known.values().filter(can_end).count(), "a flow was forgotten");
        let counters = self.engine.counters();
        let gone = counters.ended + counters.ended_idle + counters.ended_closed;
        assert_eq!(counters.started, gone + self.engine.len() as u64);
        self.check_flows();
        assert_eq!(self.told.len(), self.engine.len());
    }

    fn check_flows(&self) {
        assert_eq!(self.engine.len(), self.known.len());
        for view in self.engine.iter() {
            let identity = identity_of(&view.flow);
            let known = &self.known[&identity];
            assert_eq!((view.id, view.flow, view.tag), (known.id, known.announced, known.tag));
            assert_eq!((view.strategy, view.source), (known.strategy, known.source));
            assert_eq!(view.rule, known.rule);
            assert_eq!(identity, identity_of_key(&view.key));
            assert_eq!(self.engine.find(&view.flow.reversed()).as_ref(), Some(&view));
            assert!(
                view.last_activity <= self.told_at.checked_add(CLOCK_STEP).unwrap(),
                "active in the future"
            );
            let is_local = |end: Endpoint| self.local.contains(&end.addr());
            match (is_local(view.flow.src()), is_local(view.flow.dst())) {
                (false, true) => assert_eq!(view.key.local, view.flow.dst()),
                _ => assert_eq!(view.key.local, view.flow.src()),
            }
            assert_ne!(view.marking, if view.flow.is_ipv6() { Marking::NotIpv6 } else { Marking::Marked });
            assert_eq!(view.label.is_some(), view.marking == Marking::Marked);
            let start = self.kernel.get(&view.key).map(|(_, start)| *start);
            assert!(start.is_none_or(|start| start == view.start_time), "the next daemon learns it");
            assert_eq!(self.told[&view.id].open, Some((view.tag, view.tagged_since)));
        }
    }

    /// Nothing more is announced and no packet passes: every flow must end, and the kernel must be left clean.
    fn fall_silent(mut self) {
        let settings = Settings { idle_limit: Some(Duration::from_secs(60)), ..Settings::default() };
        let reaction = self.tell(Event::Configure(settings));
        self.carry_out(reaction);
        for _ in 0..20 {
            let Some(at) = self.engine.next_deadline() else { break };
            self.now = self.now.max(at).checked_add(PROBE_RETRY).unwrap();
            self.probes.clear();
            self.tick();
            for key in std::mem::take(&mut self.probes) {
                self.reply(key, None);
            }
            self.check();
        }
        assert!(self.engine.is_empty() && self.kernel.is_empty());
        assert_eq!((self.engine.next_deadline(), self.engine.alarms()), (None, 0));
    }
}

enum Expected {
    Started,
    Updated(FlowId),
    Refreshed(FlowId),
    Full,
    Own,
}

fn live(words: impl IntoIterator<Item = u64>) -> World {
    let mut world = World::new();
    for word in words {
        world.step(word);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_life_keeps_the_rules(words in prop::collection::vec(any::<u64>(), 0..1500)) {
        live(words).fall_silent();
    }
}

#[test]
fn a_very_long_life_keeps_the_rules_and_meets_every_case() {
    let world = live(0..60_000);
    for counter in world.engine.counters().iter() {
        assert!(counter.value > 0, "the simulation never came to {counter:?}");
    }
    world.fall_silent();
}
