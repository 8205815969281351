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
    Announcement, CLOCK_STEP, Change, ChangeKind, Config, Effect, End, EndReason, Engine, Event, FlowId,
    FlowKey, FlowView, Guard, MAX_PER_TICK, Marking, Outcome, PROBE_RETRY, Reaction, Rejection, Report,
    ReportState, Selector, Settings, Source, Usage,
};
use flowtag_wire::{Endpoint, Entropy, FiveTuple, FlowLabel, Protocol, Tag};
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
        Some(what)
    }

    /// Up to two hours before or after.
    fn around(&mut self, now: Timestamp) -> Timestamp {
        let offset = Duration::from_secs(self.roll(7200));
        if self.chance(50) { now.checked_sub(offset) } else { now.checked_add(offset) }.unwrap()
    }

    fn settings(&mut self) -> Settings {
        let idle_limit = [None, Some(0), Some(5), Some(60), Some(3600)][self.roll(5) as usize];
        let ports = if self.chance(50) { [FIREFLY_PORT].into() } else { BTreeSet::new() };
        let collectors = if self.chance(30) { [self.end(1)].into() } else { BTreeSet::new() };
        Settings {
            max_flows: [0, 5, 20, 1000][self.roll(4) as usize],
            idle_limit: idle_limit.map(Duration::from_secs),
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
    /// When it was last announced; never in the future, so that a clock set back cannot make it wrong.
    heard: Timestamp,
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
    kernel: BTreeMap<FlowKey, FlowLabel>,
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
            entropy: BTreeMap::new(),
        }
    }

    /// One random thing happens, and everything that must hold does.
    fn step(&mut self, word: u64) {
        self.dice = Dice(word);
        self.now = self.dice.jump(self.now);
        for known in self.known.values_mut() {
            known.heard = known.heard.min(self.now);
        }
        let before = self.engine.len();
        match self.dice.roll(20) {
            0..=6 => self.announce(Event::Start),
            7..=9 => self.announce(Event::Ongoing),
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
        let reaction = self.tell(event(what.clone()));
        match (&reaction.outcome, expected) {
            (Outcome::Started(id), Expected::Started) => {
                let known = Known { id: *id, announced: what.flow, tag: what.tag, heard: self.now };
                assert!(self.known.insert(identity_of(&what.flow), known).is_none());
            }
            (Outcome::Updated(id), Expected::Updated(known)) => {
                assert_eq!(*id, known);
                let known = self.known.get_mut(&identity_of(&what.flow)).unwrap();
                (known.tag, known.heard) = (what.tag, self.now);
            }
            (Outcome::Refreshed(id), Expected::Refreshed(known)) => {
                assert_eq!(*id, known);
                self.known.get_mut(&identity_of(&what.flow)).unwrap().heard = self.now;
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
            Some(known) if known.tag == what.tag => Expected::Refreshed(known.id),
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
        let reaction = self.tell(Event::End(End { which, end_time, usage, source: Source("pipe") }));
        match self.known.get(&identity) {
            Some(known) => assert_eq!(reaction.outcome, Outcome::Ended(known.id)),
            None => assert_eq!(reaction.outcome, Outcome::UnknownFlow),
        }
        self.carry_out(reaction);
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
    }

    fn tell(&mut self, event: Event) -> Reaction {
        self.told_at = self.now;
        self.engine.handle(self.now, event)
    }

    fn carry_out(&mut self, reaction: Reaction) {
        let mut failed = Vec::new();
        for effect in reaction.effects {
            match effect {
                Effect::Mark { key, label } => failed.extend(self.mark(key, label)),
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
    fn mark(&mut self, key: FlowKey, label: FlowLabel) -> Option<FlowKey> {
        assert!(key.is_ipv6(), "{key} has no flow label");
        let entropy = *self.entropy.entry(identity_of_key(&key)).or_insert(label.entropy());
        assert_eq!(label.entropy(), entropy, "the entropy of {key} changed");
        match self.kernel.get(&key) {
            Some(old) => assert_ne!(*old, label, "{key} was marked with that already"),
            None if self.kernel.len() >= self.room || self.dice.chance(5) => return Some(key),
            None => {}
        }
        self.kernel.insert(key, label);
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
    }

    fn watch(&mut self, change: &Change) {
        let view = &change.flow;
        let ChangeKind::Ended(reason) = change.kind else {
            assert!(self.engine.get(view.id).is_some());
            return;
        };
        if reason == EndReason::Idle {
            self.was_idle(view);
        }
        self.asked.remove(&view.key);
        assert_eq!(self.engine.get(view.id), None, "an ended flow is gone");
        assert_eq!(self.known.remove(&identity_of(&view.flow)).map(|known| known.id), Some(view.id));
        assert_eq!(self.told.remove(&view.id).map(|told| told.open), Some(None), "ended without an END");
    }

    fn was_idle(&self, view: &FlowView) {
        let limit = self.engine.settings().idle_limit.expect("nothing is idle without a limit");
        let heard = self.known[&identity_of(&view.flow)].heard;
        assert!(heard.checked_add(limit).unwrap() <= self.now, "{} was heard of at {heard}", view.flow);
        let asked = self.answering == Some(view.key) && self.asked.contains(&view.key);
        assert!(
            asked || view.marking != Marking::Marked,
            "{} was ended without asking the kernel",
            view.flow
        );
    }

    /// Everything that holds between two events.
    fn check(&self) {
        let expected: BTreeMap<_, _> = self.engine.expected_marks().collect();
        assert_eq!(self.kernel, expected, "the kernel holds what the engine thinks it does");
        assert!(self.engine.alarms() <= self.engine.len(), "alarms pile up");
        assert_eq!(self.engine.alarms() > 0, self.engine.next_deadline().is_some());
        if self.engine.settings().idle_limit.is_some() {
            assert_eq!(self.engine.alarms(), self.engine.len(), "a flow was forgotten");
        }
        let counters = self.engine.counters();
        let gone = counters.ended + counters.ended_idle;
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
            assert_eq!(view.marking == Marking::NotIpv6, !view.flow.is_ipv6());
            assert_eq!(view.label.is_some(), view.marking == Marking::Marked);
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
