//! Each rule of the engine as a short story: what happens to one host, and what it does.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test does")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::{
    Announcement, CLOCK_STEP, CLOSE_GRACE, ChangeKind, Config, Effect, End, EndReason, Engine, Event, FlowId,
    FlowKey, Guard, MAX_APPLICATION, MAX_PER_TICK, Mark, Marking, Outcome, PROBE_RETRY, Rejection, Report,
    ReportState, Selector, Settings, Source, Usage,
};
use flowtag_wire::firefly::{Firefly, State};
use flowtag_wire::{Endpoint, FiveTuple, Protocol, Strategy, Tag};
use jiff::Timestamp;

const API: Source = Source("api");
const PIPE: Source = Source("pipe");
const RULES: Source = Source("rules");
const KERNEL: Source = Source("kernel");
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
/// On this host, once a story says so with `lives_at(HERE)`.
const HERE: &str = "[2001:db8::1]:1094";
const THERE: &str = "[2001:db8::2]:40000";

/// A host with an engine and a clock that only the story moves.
struct Host {
    engine: Engine,
    now: Timestamp,
    /// The effects of the latest event.
    effects: Vec<Effect>,
}

impl Host {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let engine = Engine::new(Config { settings, ..Config::new([7; 16]) });
        Self { engine, now: "2026-03-01T12:00:00Z".parse().unwrap(), effects: Vec::new() }
    }

    fn lives_at(mut self, ends: &[&str]) -> Self {
        self.addresses(ends);
        self
    }

    fn addresses(&mut self, ends: &[&str]) {
        let set = ends.iter().map(|end| end.parse::<Endpoint>().unwrap().addr()).collect();
        self.tell(Event::LocalAddresses(set));
    }

    fn wait(&mut self, time: Duration) -> &mut Self {
        self.now = self.now.checked_add(time).unwrap();
        self
    }

    fn tell(&mut self, event: Event) -> Outcome {
        let reaction = self.engine.handle(self.now, event);
        self.effects = reaction.effects;
        reaction.outcome
    }

    fn start(&mut self, flow: FiveTuple, tag: Tag) -> Outcome {
        self.tell(Event::Start(Announcement::new(flow, tag, API)))
    }

    fn started(&mut self, flow: FiveTuple, tag: Tag) -> FlowId {
        match self.start(flow, tag) {
            Outcome::Started(id) => id,
            other => panic!("{flow} should have started: {other:?}"),
        }
    }

    fn ongoing(&mut self, flow: FiveTuple, tag: Tag) -> Outcome {
        self.tell(Event::Ongoing(Announcement::new(flow, tag, PIPE)))
    }

    fn end(&mut self, flow: FiveTuple) -> Outcome {
        self.tell(Event::End(End::new(Selector::Flow(flow), PIPE)))
    }

    fn seen(&mut self, key: FlowKey, at: Option<Timestamp>) -> Outcome {
        self.tell(Event::LastSeen { key, at })
    }

    fn tick(&mut self) {
        assert_eq!(self.tell(Event::Tick), Outcome::Done);
    }

    /// The first packet of a flow that nobody announced matched a rule.
    fn matched(&mut self, rule: &str, flow: FiveTuple, tag: Tag) -> Outcome {
        self.tell(Event::Start(by_rule(rule, flow, tag)))
    }

    fn closed(&mut self, key: FlowKey) -> Outcome {
        self.tell(Event::Closed { key, at: self.now })
    }

    /// The kernel cannot notice the packets of a flow, so silence is believed at once.
    fn no_room(&mut self, flow: FiveTuple) {
        assert_eq!(self.tell(Event::MarkFailed { key: flow.into() }), Outcome::Done);
    }

    fn marks(&self) -> Vec<(FlowKey, Mark)> {
        let mark =
            |e: &Effect| if let Effect::Mark { key, mark, .. } = e { Some((*key, *mark)) } else { None };
        self.effects.iter().filter_map(mark).collect()
    }

    fn unmarks(&self) -> Vec<FlowKey> {
        let unmark = |e: &Effect| if let Effect::Unmark { key } = e { Some(*key) } else { None };
        self.effects.iter().filter_map(unmark).collect()
    }

    fn probes(&self) -> Vec<FlowKey> {
        let probe = |e: &Effect| if let Effect::Probe { key } = e { Some(*key) } else { None };
        self.effects.iter().filter_map(probe).collect()
    }

    fn reports(&self) -> Vec<&Report> {
        let mut reports = Vec::new();
        for effect in &self.effects {
            if let Effect::Report(report) = effect {
                reports.push(&**report);
            }
        }
        reports
    }

    fn report(&self) -> &Report {
        match self.reports()[..] {
            [report] => report,
            ref other => panic!("one report expected: {other:?}"),
        }
    }

    fn changes(&self) -> Vec<ChangeKind> {
        let change = |e: &Effect| if let Effect::Changed(change) = e { Some(change.kind) } else { None };
        self.effects.iter().filter_map(change).collect()
    }
}

fn flow(src: &str, dst: &str) -> FiveTuple {
    FiveTuple::new(Protocol::Tcp, src.parse().unwrap(), dst.parse().unwrap()).unwrap()
}

fn udp(src: &str, dst: &str) -> FiveTuple {
    FiveTuple::new(Protocol::Udp, src.parse().unwrap(), dst.parse().unwrap()).unwrap()
}

fn by_rule(rule: &str, flow: FiveTuple, tag: Tag) -> Announcement {
    Announcement { rule: Some(Arc::from(rule)), ..Announcement::new(flow, tag, RULES) }
}

fn outbound() -> FiveTuple {
    flow(HERE, THERE)
}

fn ipv4() -> FiveTuple {
    flow("192.0.2.1:1094", "192.0.2.2:40000")
}

fn key(local: &str, remote: &str) -> FlowKey {
    FlowKey { protocol: Protocol::Tcp, local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

fn tag(experiment: u64, activity: u64) -> Tag {
    Tag::new(experiment, activity).unwrap()
}

#[test]
fn a_start_marks_reports_and_tells() {
    let mut host = Host::new().lives_at(&[HERE]);
    let id = host.started(outbound(), tag(3, 14));

    let [Effect::Mark { key: marked, mark, start }, ..] = host.effects[..] else {
        panic!("{:?}", host.effects)
    };
    assert_eq!((marked, start), (key(HERE, THERE), host.now));
    assert_eq!((mark.label.tag(), mark.strategy), (Some(tag(3, 14)), Strategy::LABEL));
    let report = host.report();
    assert_eq!((report.state, report.id, report.tag), (ReportState::Start, id, tag(3, 14)));
    assert_eq!((report.start_time, report.end_time, report.usage), (host.now, None, None));
    assert_eq!(host.changes(), [ChangeKind::Started]);
    assert_eq!(host.engine.find(&outbound()).unwrap().label, Some(mark.label));
}

#[test]
fn the_packets_are_marked_before_anyone_is_told() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    assert!(matches!(host.effects[..], [Effect::Mark { .. }, Effect::Report(_), Effect::Changed(_)]));
    host.end(outbound());
    assert!(matches!(host.effects[..], [Effect::Unmark { .. }, Effect::Report(_), Effect::Changed(_)]));
}

#[test]
fn an_ipv4_flow_is_followed_and_reported_but_has_no_label() {
    let mut host = Host::new();
    let id = host.started(ipv4(), tag(3, 14));
    assert_eq!(host.marks().len(), 1, "the kernel notices its packets");
    assert_eq!(host.report().state, ReportState::Start);
    let view = host.engine.get(id).unwrap();
    assert_eq!((view.marking, view.label), (Marking::NotIpv6, None));

    host.end(ipv4());
    assert_eq!(host.unmarks().len(), 1);
    assert_eq!(host.report().state, ReportState::End);
}

#[test]
fn an_ipv4_mapped_address_is_ipv4() {
    let mut host = Host::new().lives_at(&["[::ffff:192.0.2.2]:1"]);
    host.started(flow("[::ffff:192.0.2.1]:1094", "[::ffff:192.0.2.2]:40000"), tag(3, 14));
    assert_eq!(host.report().key, key("192.0.2.2:40000", "192.0.2.1:1094"));
    assert!(matches!(host.end(ipv4()), Outcome::Ended(_)));
}

#[test]
fn the_local_end_is_the_one_with_an_address_of_this_host() {
    let mut host = Host::new().lives_at(&[HERE]);
    host.started(flow(THERE, HERE), tag(3, 14));
    assert_eq!(host.marks()[0].0, key(HERE, THERE));
    assert_eq!(host.report().flow, flow(THERE, HERE), "reports keep the announced direction");
}

#[test]
fn between_two_local_or_two_foreign_ends_the_source_counts_as_local() {
    for addresses in [&[][..], &[HERE, THERE]] {
        let mut host = Host::new().lives_at(addresses);
        host.started(flow(THERE, HERE), tag(3, 14));
        assert_eq!(host.marks()[0].0, key(THERE, HERE), "addresses: {addresses:?}");
    }
}

#[test]
fn a_start_from_either_end_is_the_same_flow() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    assert_eq!(host.start(outbound().reversed(), tag(3, 14)), Outcome::Refreshed(id));
    assert_eq!(host.engine.len(), 1);
    assert_eq!(host.engine.find(&outbound().reversed()).unwrap().flow, outbound());
}

#[test]
fn ports_and_protocol_tell_flows_of_one_pair_of_hosts_apart() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.started(udp(HERE, THERE), tag(3, 14));
    host.started(flow(HERE, "[2001:db8::2]:40001"), tag(3, 14));
    // The same addresses and ports, but the ports the other way round.
    host.started(flow("[2001:db8::1]:40000", "[2001:db8::2]:1094"), tag(3, 14));
    assert_eq!(host.engine.len(), 4);
}

#[test]
fn a_repeated_start_changes_nothing() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let first = host.engine.get(id).unwrap();
    host.wait(MINUTE);
    assert_eq!(host.start(outbound(), tag(3, 14)), Outcome::Refreshed(id));
    assert_eq!(host.effects, []);
    let second = host.engine.get(id).unwrap();
    assert_eq!(second.last_activity, host.now);
    assert_eq!((second.label, second.start_time), (first.label, first.start_time));
}

#[test]
fn a_start_with_another_tag_ends_the_old_tag_and_starts_the_new() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let begin = host.now;
    let first = host.engine.get(id).unwrap();
    host.wait(MINUTE);
    assert_eq!(host.start(outbound(), tag(2, 9)), Outcome::Updated(id));

    let second = host.engine.get(id).unwrap();
    let label = second.label.unwrap();
    assert_eq!(label.tag(), Some(tag(2, 9)));
    assert_eq!(label.entropy(), first.label.unwrap().entropy());
    assert_eq!((second.start_time, second.tagged_since), (begin, host.now));
    assert_eq!(host.marks(), [(first.key, Mark { label, strategy: Strategy::LABEL })]);
    assert_eq!(host.unmarks(), [], "the label is replaced, so no packet goes without");
    assert_eq!(host.changes(), [ChangeKind::Updated]);

    let [end, start] = host.reports()[..] else { panic!("{:?}", host.effects) };
    assert_eq!(
        (end.state, end.tag, end.start_time, end.end_time),
        (ReportState::End, tag(3, 14), begin, Some(host.now))
    );
    assert_eq!((start.state, start.tag, start.start_time), (ReportState::Start, tag(2, 9), host.now));
    assert_eq!((end.id, start.id), (id, id));
}

#[test]
fn an_ongoing_of_a_known_flow_is_passed_on_and_refreshes_it() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let begin = host.now;
    host.wait(MINUTE);
    assert_eq!(host.ongoing(outbound(), tag(3, 14)), Outcome::Refreshed(id));
    let report = host.report();
    assert_eq!(
        (report.state, report.start_time, report.current_time),
        (ReportState::Ongoing, begin, host.now)
    );
    assert_eq!(report.source, API, "the flow is still the one that the API announced");
    assert_eq!(host.ongoing(outbound(), tag(3, 15)), Outcome::Updated(id));
}

#[test]
fn an_ongoing_of_an_unknown_flow_is_adopted() {
    let mut host = Host::new();
    let begin = "2026-03-01T11:00:00Z".parse().unwrap();
    let mut what = Announcement::new(outbound(), tag(3, 14), API);
    what.start_time = Some(begin);
    assert!(matches!(host.tell(Event::Ongoing(what)), Outcome::Started(_)));
    assert_eq!(host.marks().len(), 1);
    assert_eq!((host.report().state, host.report().start_time), (ReportState::Start, begin));
    assert_eq!(host.engine.counters().adopted, 1);
}

#[test]
fn an_end_from_the_other_side_ends_the_flow_as_it_was_started() {
    let mut host = Host::new().lives_at(&[HERE]);
    let id = host.started(outbound(), tag(3, 14));
    let begin = host.now;
    host.wait(MINUTE);
    let usage = Some(Usage { sent: 10, received: 20 });
    let end = End { usage, ..End::new(Selector::Flow(outbound().reversed()), PIPE) };
    assert_eq!(host.tell(Event::End(end)), Outcome::Ended(id));

    assert_eq!(host.unmarks(), [key(HERE, THERE)]);
    let report = host.report();
    assert_eq!((report.state, report.flow, report.tag), (ReportState::End, outbound(), tag(3, 14)));
    assert_eq!((report.start_time, report.end_time, report.usage), (begin, Some(host.now), usage));
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Requested { by: PIPE })]);
    assert!(host.engine.is_empty());
}

#[test]
fn a_flow_can_be_ended_by_its_number() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let end = Event::End(End::new(Selector::Id(id), API));
    assert_eq!(host.tell(end.clone()), Outcome::Ended(id));
    assert!(host.started(outbound(), tag(3, 14)) > id);
    assert_eq!(host.tell(end), Outcome::UnknownFlow, "a number is never given again");
}

#[test]
fn an_end_of_an_unknown_flow_does_nothing_but_count() {
    let mut host = Host::new();
    assert_eq!(host.end(outbound()), Outcome::UnknownFlow);
    assert_eq!(host.effects, []);
    assert_eq!(host.engine.counters().unknown_end, 1);
}

#[test]
fn no_flow_is_reported_to_end_before_it_started() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    let early = host.now.checked_sub(HOUR).unwrap();
    let end = End { end_time: Some(early), ..End::new(Selector::Flow(outbound()), PIPE) };
    host.tell(Event::End(end));
    assert_eq!(host.report().end_time, Some(host.now));
}

#[test]
fn the_times_of_the_announcer_are_kept() {
    let mut host = Host::new();
    let (begin, over) = ("2026-03-01T11:00:00Z".parse().unwrap(), "2026-03-01T11:30:00Z".parse().unwrap());
    let mut what = Announcement::new(outbound(), tag(3, 14), API);
    what.start_time = Some(begin);
    host.tell(Event::Start(what));
    host.tell(Event::End(End { end_time: Some(over), ..End::new(Selector::Flow(outbound()), API) }));
    assert_eq!((host.report().start_time, host.report().end_time), (begin, Some(over)));
}

#[test]
fn entropy_survives_everything_but_a_new_key() {
    let entropy = |host: &mut Host, flow: FiveTuple| {
        host.started(flow, tag(3, 14));
        let entropy = host.marks()[0].1.label.entropy();
        host.end(flow);
        entropy
    };
    let mut host = Host::new();
    let first = entropy(&mut host, outbound());
    assert_eq!(entropy(&mut host, outbound()), first, "END and START");
    assert_eq!(entropy(&mut host, outbound().reversed()), first, "announced by the other end");
    assert_eq!(entropy(&mut Host::new(), outbound()), first, "a restart");
    assert_eq!(entropy(&mut Host::new().lives_at(&[THERE]), outbound()), first, "another local end");

    let keys = (0..32).map(|key| {
        let mut host = Host::new();
        host.engine = Engine::new(Config::new([key; 16]));
        entropy(&mut host, outbound()).bits()
    });
    assert!(keys.collect::<BTreeSet<_>>().len() > 8, "the key decides");
}

#[test]
fn entropy_spreads_the_flows_of_two_hosts_over_all_32_values() {
    let mut host = Host::new();
    let values: BTreeSet<u32> = (1..=1000)
        .map(|port| {
            host.started(flow(HERE, &format!("[2001:db8::2]:{port}")), tag(3, 14));
            host.marks()[0].1.label.entropy().bits()
        })
        .collect();
    assert_eq!(values.len(), 32);
}

#[test]
fn new_addresses_turn_the_flows_that_they_concern() {
    let mut host = Host::new().lives_at(&[HERE]);
    let id = host.started(flow(THERE, HERE), tag(3, 14));
    host.started(ipv4(), tag(3, 14));
    let label = host.engine.get(id).unwrap().label.unwrap();
    host.addresses(&[THERE]);
    assert_eq!(host.unmarks(), [key(HERE, THERE)]);
    assert_eq!(host.marks(), [(key(THERE, HERE), Mark { label, strategy: Strategy::LABEL })]);
    assert!(matches!(host.effects[..], [Effect::Unmark { .. }, Effect::Mark { .. }, Effect::Changed(_)]));
    assert_eq!(host.engine.counters().reoriented, 1);

    host.addresses(&[THERE]);
    assert_eq!(host.effects, [], "the same addresses again");
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let mut host = Host::with(Settings { max_flows: 1, ..Settings::default() });
    let id = host.started(outbound(), tag(3, 14));
    let refused = host.start(ipv4(), tag(3, 14));
    assert_eq!(refused, Outcome::Rejected(Rejection::TableFull { max: 1 }));
    assert_eq!(host.effects, []);
    assert_eq!(host.engine.counters().rejected_full, 1);
    assert_eq!(host.start(outbound(), tag(3, 14)), Outcome::Refreshed(id), "known flows are not new");
    host.end(outbound());
    host.started(ipv4(), tag(3, 14));
}

#[test]
fn firefly_traffic_is_never_a_flow() {
    let collector = "[2001:db8::c]:7000";
    let guard = Guard { ports: [10514].into(), collectors: [collector.parse().unwrap()].into() };
    let mut host = Host::with(Settings { guard, ..Settings::default() });
    let firefly = "[2001:db8::9]:10514";
    for (src, dst) in [(HERE, firefly), (firefly, HERE), (HERE, collector), (collector, HERE)] {
        let outcome = host.start(udp(src, dst), tag(3, 14));
        assert!(
            matches!(outcome, Outcome::Rejected(Rejection::OwnFirefly { .. })),
            "{src} {dst}: {outcome:?}"
        );
        assert_eq!(host.effects, []);
    }
    assert_eq!(host.engine.counters().rejected_own, 4);
    host.started(flow(HERE, firefly), tag(3, 14)); // TCP is not firefly traffic.
    host.started(udp(HERE, "[2001:db8::c]:7001"), tag(3, 14)); // Nor is another port of the collector's host.
}

#[test]
fn a_rejection_says_what_to_do() {
    let full = Rejection::TableFull { max: 5 }.to_string();
    assert!(full.contains("5 flows") && full.contains("raise flows.max"), "{full}");
    let flow = udp(HERE, "[2001:db8::9]:10514");
    let own = Rejection::OwnFirefly { flow, end: flow.dst() }.to_string();
    assert!(own.contains(&flow.to_string()) && own.contains("announce the data flow"), "{own}");
}

#[test]
fn a_silent_marked_flow_is_asked_about_and_ends_if_the_kernel_saw_nothing() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    let begin = host.now;
    assert_eq!(host.engine.next_deadline(), Some(begin.checked_add(HOUR).unwrap()));
    host.wait(HOUR).tick();
    assert_eq!(host.probes(), [key(HERE, THERE)]);
    assert_eq!(host.engine.len(), 1, "not ended before the answer");

    assert!(matches!(host.seen(key(HERE, THERE), None), Outcome::Ended(_)));
    assert_eq!(host.unmarks(), [key(HERE, THERE)]);
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Idle)]);
    assert_eq!((host.report().state, host.report().end_time), (ReportState::End, Some(begin)));
    assert_eq!(host.engine.next_deadline(), None);
}

#[test]
fn packets_keep_a_flow_alive_that_nobody_announces_again() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    let packet = host.now.checked_sub(MINUTE).unwrap();
    assert_eq!(host.seen(key(HERE, THERE), Some(packet)), Outcome::Done);
    assert_eq!(host.engine.get(id).unwrap().last_activity, packet);
    assert_eq!(host.engine.next_deadline(), packet.checked_add(HOUR).ok());

    host.wait(HOUR).tick();
    assert_eq!(host.seen(key(HERE, THERE), Some(packet)), Outcome::Ended(id));
    assert_eq!(host.report().end_time, Some(packet));
}

#[test]
fn announcements_keep_a_flow_alive_without_asking_the_kernel() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    for _ in 0..10 {
        host.wait(HOUR - MINUTE);
        host.ongoing(outbound(), tag(3, 14));
        host.tick();
        assert_eq!(host.probes(), []);
    }
    assert_eq!(host.engine.alarms(), 1, "refreshes do not pile up alarms");
}

#[test]
fn a_probe_without_an_answer_is_repeated() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    assert_eq!(host.probes().len(), 1);
    host.wait(PROBE_RETRY / 2).tick();
    assert_eq!(host.probes(), [], "still waiting");
    host.wait(PROBE_RETRY / 2).tick();
    assert_eq!(host.probes().len(), 1);
    assert!(matches!(host.seen(key(HERE, THERE), None), Outcome::Ended(_)));
}

#[test]
fn an_answer_that_comes_after_a_refresh_does_not_end_the_flow() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    host.ongoing(outbound(), tag(3, 14));
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::Done);
    assert_eq!(host.engine.len(), 1);
}

#[test]
fn an_answer_about_an_earlier_flow_of_the_same_ends_does_not_end_this_one() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    host.end(outbound());
    host.started(outbound(), tag(3, 14));
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::Done);
    host.end(outbound());
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::UnknownFlow);
}

#[test]
fn words_of_the_kernel_that_nobody_asked_for_end_no_flow() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    let packet = host.now;
    host.wait(HOUR);
    for at in [None, Some(packet)] {
        assert_eq!(host.seen(key(HERE, THERE), at), Outcome::Done);
    }
    host.tick();
    assert_eq!(host.probes(), [key(HERE, THERE)]);
}

#[test]
fn an_answer_about_the_direction_before_a_turn_does_not_end_the_flow() {
    let mut host = Host::new().lives_at(&[HERE]);
    let id = host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    host.addresses(&[THERE]);
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::Done);
    host.wait(PROBE_RETRY).tick();
    assert_eq!(host.probes(), [key(THERE, HERE)]);
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::Done, "later still");
    assert_eq!(host.seen(key(THERE, HERE), None), Outcome::Ended(id));
}

#[test]
fn a_packet_from_the_future_counts_as_now() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    host.seen(key(HERE, THERE), Some(Timestamp::MAX));
    assert_eq!(host.engine.get(id).unwrap().last_activity, host.now);
}

#[test]
fn a_silent_flow_that_the_kernel_cannot_know_ends_at_once() {
    let mut host = Host::new();
    host.started(ipv4(), tag(3, 14));
    host.no_room(ipv4());
    host.wait(HOUR).tick();
    assert_eq!(host.probes(), []);
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Idle)]);
    assert_eq!(host.engine.counters().ended_idle, 1);
}

#[test]
fn without_an_idle_limit_no_flow_is_idle() {
    let mut host = Host::with(Settings { idle_limit: None, ..Settings::default() });
    host.started(ipv4(), tag(3, 14));
    assert_eq!(host.engine.next_deadline(), None);
    host.wait(HOUR * 1000).tick();
    assert_eq!(host.engine.len(), 1);
}

#[test]
fn one_tick_looks_at_a_bounded_number_of_flows() {
    let mut host = Host::new();
    for port in 1..=2000 {
        let flow = flow("192.0.2.1:1094", &format!("192.0.2.2:{port}"));
        host.started(flow, tag(3, 14));
        host.no_room(flow);
    }
    host.wait(HOUR).tick();
    assert_eq!(host.engine.len(), 2000 - MAX_PER_TICK);
    assert!(host.engine.next_deadline().unwrap() <= host.now, "the next tick is due");
    host.tick();
    assert!(host.engine.is_empty());
}

#[test]
fn a_flow_that_the_kernel_has_no_room_for_is_known_but_not_marked() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    assert_eq!(host.tell(Event::MarkFailed { key: key(HERE, THERE) }), Outcome::Done);
    assert_eq!(host.changes(), [ChangeKind::Updated]);
    let view = host.engine.get(id).unwrap();
    assert_eq!((view.marking, view.label), (Marking::TableFull, None));
    assert_eq!(host.engine.expected_marks().count(), 0);
    assert_eq!(host.engine.counters().mark_failed, 1);

    host.end(outbound());
    assert_eq!(host.unmarks(), []);
    assert_eq!(host.report().state, ReportState::End);
}

#[test]
fn a_flow_without_room_is_tried_again_when_announced() {
    for again in [tag(3, 14), tag(2, 9)] {
        let mut host = Host::new();
        let id = host.started(outbound(), tag(3, 14));
        host.tell(Event::MarkFailed { key: key(HERE, THERE) });
        host.start(outbound(), again);
        assert_eq!(host.marks()[0].1.label.tag(), Some(again));
        assert_eq!(host.engine.get(id).unwrap().marking, Marking::Marked);
        assert_eq!(host.engine.counters().mark_retried, 1);
    }
}

#[test]
fn a_late_failure_of_the_other_direction_is_not_of_this_mark() {
    let mut host = Host::new().lives_at(&[HERE]);
    let id = host.started(flow(THERE, HERE), tag(3, 14));
    host.addresses(&[THERE]);
    host.tell(Event::MarkFailed { key: key(HERE, THERE) });
    assert_eq!(host.engine.get(id).unwrap().marking, Marking::Marked);
}

#[test]
fn a_reload_changes_the_limits_and_loses_no_flow() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.started(ipv4(), tag(3, 14));
    host.no_room(ipv4());
    let strict = Settings { max_flows: 1, idle_limit: Some(MINUTE), ..Settings::default() };
    assert_eq!(host.tell(Event::Configure(strict)), Outcome::Done);
    assert_eq!((host.engine.len(), &host.effects[..]), (2, &[][..]));
    assert_eq!(host.engine.next_deadline(), host.now.checked_add(MINUTE).ok());
    assert!(matches!(host.start(udp(HERE, THERE), tag(1, 1)), Outcome::Rejected(_)));

    host.wait(MINUTE).tick();
    assert_eq!(
        (host.engine.len(), host.probes().len()),
        (1, 1),
        "one ended, the kernel is asked about the other"
    );

    host.tell(Event::Configure(Settings { idle_limit: None, ..Settings::default() }));
    assert_eq!(host.engine.next_deadline(), None);
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::Done, "no limit, so nothing to exceed");
}

#[test]
fn a_clock_that_is_set_back_does_not_make_flows_immortal() {
    let mut host = Host::new();
    let wrong = host.now;
    host.started(ipv4(), tag(3, 14));
    host.no_room(ipv4());
    host.now = wrong.checked_sub(HOUR * 24 * 365).unwrap();
    host.tick();
    assert_eq!(host.engine.counters().clock_steps, 1);
    host.wait(HOUR).tick();
    assert!(host.engine.is_empty());
    assert_eq!(host.report().end_time, Some(wrong), "never before the start");

    host.now = host.now.checked_sub(CLOCK_STEP).unwrap();
    host.tick();
    assert_eq!(host.engine.counters().clock_steps, 1, "small disorder is not a step");
}

#[test]
fn the_ends_of_time_are_harmless() {
    for now in [Timestamp::MIN, Timestamp::MAX] {
        let mut host = Host::with(Settings { idle_limit: Some(Duration::MAX), ..Settings::default() });
        host.now = now;
        host.started(outbound(), tag(3, 14));
        host.started(ipv4(), tag(3, 14));
        host.no_room(ipv4());
        host.tick();
        host.tell(Event::Configure(Settings { idle_limit: Some(Duration::ZERO), ..Settings::default() }));
        host.tick();
        host.seen(key(HERE, THERE), Some(now));
        assert!(host.engine.is_empty());
    }
}

#[test]
fn a_long_application_name_is_cut_between_characters() {
    let mut host = Host::new();
    let mut what = Announcement::new(outbound(), tag(3, 14), API);
    what.application = Some(Arc::from(format!("x{}", "é".repeat(MAX_APPLICATION))));
    host.tell(Event::Start(what));
    let kept = host.report().application.clone().unwrap();
    assert_eq!(kept.len(), MAX_APPLICATION - 1);
    assert_eq!(host.engine.counters().applications_cut, 1);
}

#[test]
fn an_application_is_learned_late_and_kept() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let mut what = Announcement::new(outbound(), tag(3, 14), PIPE);
    for name in ["xrootd", "other"] {
        what.application = Some(Arc::from(name));
        host.tell(Event::Start(what.clone()));
        assert_eq!(host.engine.get(id).unwrap().application.as_deref(), Some("xrootd"));
    }
}

#[test]
fn flows_are_listed_by_number() {
    let mut host = Host::new();
    let ids = [host.started(ipv4(), tag(3, 14)), host.started(outbound(), tag(2, 9))];
    assert_eq!(host.engine.iter().map(|flow| flow.id).collect::<Vec<_>>(), ids);
    let marks: Vec<_> = host.engine.expected_marks().collect();
    let label = host.engine.get(ids[1]).unwrap().label.unwrap();
    assert_eq!(marks[1..], [(key(HERE, THERE), Mark { label, strategy: Strategy::LABEL })]);
}

#[test]
fn counters_carry_their_names_and_meaning() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    let counters: Vec<_> = host.engine.counters().iter().collect();
    let started = counters.iter().find(|counter| counter.name == "started").unwrap();
    assert_eq!(started.value, 1);
    for counter in &counters {
        assert!(counter.help.ends_with('.') && !counter.help.starts_with(' '), "{counter:?}");
    }
    let names: BTreeSet<_> = counters.iter().map(|counter| counter.name).collect();
    assert_eq!(names.len(), counters.len());
}

#[test]
fn the_key_is_not_in_debug_output() {
    let config = Config::new([0xab; 16]);
    let shown = format!("{config:?} {:?}", Engine::new(config.clone()));
    assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab, "), "{shown}");
}

#[test]
fn addresses_are_compared_as_the_packets_carry_them() {
    let mapped: IpAddr = "::ffff:192.0.2.2".parse().unwrap();
    let mut host = Host::new();
    host.tell(Event::LocalAddresses([mapped].into()));
    host.started(ipv4(), tag(3, 14));
    assert_eq!(host.report().key.local, "192.0.2.2:40000".parse().unwrap());
}

#[test]
fn the_strategy_in_force_is_for_flows_that_name_none() {
    let mut host = Host::with(Settings { strategy: Strategy::DESTINATION, ..Settings::default() });
    let id = host.started(outbound(), tag(3, 14));
    assert_eq!(host.marks()[0].1.strategy, Strategy::DESTINATION);
    let what = Announcement {
        strategy: Some(Strategy::HOP_BY_HOP),
        ..Announcement::new(udp(HERE, THERE), tag(3, 14), API)
    };
    host.tell(Event::Start(what));
    assert_eq!(host.marks()[0].1.strategy, Strategy::HOP_BY_HOP);

    host.tell(Event::Configure(Settings::default()));
    assert_eq!(host.start(outbound(), tag(3, 14)), Outcome::Refreshed(id));
    assert_eq!(host.engine.get(id).unwrap().strategy, Strategy::DESTINATION, "a known flow keeps its own");
    assert_eq!(host.start(outbound(), tag(2, 9)), Outcome::Updated(id));
    assert_eq!(host.marks()[0].1.strategy, Strategy::DESTINATION, "with another tag, too");
}

#[test]
fn another_strategy_marks_anew_and_is_not_reported() {
    let both = Strategy::LABEL | Strategy::DESTINATION;
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let (begin, label) = (host.now, host.marks()[0].1.label);
    host.wait(MINUTE);
    let what =
        Announcement { strategy: Some(both), ..Announcement::new(outbound().reversed(), tag(3, 14), PIPE) };
    assert_eq!(host.tell(Event::Start(what.clone())), Outcome::Updated(id));
    let mark = Effect::Mark { key: key(HERE, THERE), mark: Mark { label, strategy: both }, start: begin };
    assert_eq!(host.effects[0], mark);
    assert_eq!((host.reports().len(), host.changes()), (0, vec![ChangeKind::Updated]));
    let view = host.engine.get(id).unwrap();
    assert_eq!((view.strategy, view.source, view.tagged_since), (both, API, begin));

    assert_eq!(host.tell(Event::Start(what)), Outcome::Refreshed(id));
    assert_eq!(host.effects, []);
}

#[test]
fn another_strategy_of_an_ipv4_flow_is_only_shown() {
    let mut host = Host::new();
    let id = host.started(ipv4(), tag(3, 14));
    let strategy = Some(Strategy::DESTINATION);
    host.tell(Event::Start(Announcement { strategy, ..Announcement::new(ipv4(), tag(3, 14), API) }));
    assert_eq!((host.marks().len(), host.changes()), (1, vec![ChangeKind::Updated]));
    assert_eq!(host.engine.get(id).unwrap().strategy, Strategy::DESTINATION);
}

#[test]
fn a_flow_that_a_rule_found_is_a_flow_like_others_until_its_socket_closes() {
    let mut host = Host::new().lives_at(&[HERE]);
    assert!(matches!(host.matched("xrootd", outbound(), tag(3, 14)), Outcome::Started(_)));
    assert!(matches!(host.effects[..], [Effect::Mark { .. }, Effect::Report(_), Effect::Changed(_)]));
    let view = host.engine.find(&outbound()).unwrap();
    assert_eq!((view.rule.as_deref(), view.source), (Some("xrootd"), RULES));
    let begin = host.now;

    host.wait(MINUTE);
    assert_eq!(host.closed(key(THERE, HERE)), Outcome::Ended(view.id), "seen from the other end");
    assert_eq!(host.unmarks(), [key(HERE, THERE)]);
    assert_eq!((host.report().start_time, host.report().end_time), (begin, Some(host.now)));
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Closed)]);
    assert_eq!(host.engine.counters().ended_closed, 1);
    assert_eq!(host.closed(key(HERE, THERE)), Outcome::UnknownFlow);
    assert_eq!(host.effects, []);
}

#[test]
fn an_announced_flow_whose_socket_closed_waits_for_its_end() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    host.wait(MINUTE);
    let closed = host.now;
    assert_eq!(host.closed(key(HERE, THERE)), Outcome::Done);
    assert_eq!(host.effects, []);
    host.wait(CLOSE_GRACE / 2);
    let usage = Some(Usage { sent: 10, received: 20 });
    let end = End { usage, ..End::new(Selector::Flow(outbound()), PIPE) };
    assert_eq!(host.tell(Event::End(end)), Outcome::Ended(id));
    assert_eq!((host.report().usage, host.report().end_time), (usage, Some(closed)));
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Requested { by: PIPE })]);
    assert_eq!(host.engine.next_deadline(), None);
}

#[test]
fn an_announced_flow_without_an_end_ends_some_seconds_after_its_socket() {
    for flow in [outbound(), ipv4()] {
        let mut host = Host::with(Settings { idle_limit: None, ..Settings::default() });
        host.started(flow, tag(3, 14));
        let closed = host.now;
        host.closed(flow.into());
        assert_eq!(host.engine.next_deadline(), closed.checked_add(CLOSE_GRACE).ok());
        host.wait(CLOSE_GRACE / 2).tick();
        host.ongoing(flow, tag(3, 14));
        host.wait(CLOSE_GRACE / 2).tick();
        assert_eq!(host.probes(), [], "the kernel has said it");
        assert_eq!(host.report().end_time, Some(closed));
        assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Closed)]);
        assert_eq!(host.engine.counters().ended_closed, 1);
    }
}

#[test]
fn a_start_after_the_close_is_a_new_connection_of_the_same_ends() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    host.closed(key(HERE, THERE));
    host.wait(CLOSE_GRACE / 2);
    assert_eq!(host.start(outbound(), tag(3, 14)), Outcome::Refreshed(id));
    let again = host.now;
    host.wait(CLOSE_GRACE).tick();
    assert_eq!(host.effects, []);
    assert_eq!(host.engine.next_deadline(), again.checked_add(HOUR).ok());
}

#[test]
fn a_flow_that_was_silent_waits_for_its_end_as_others_do() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    assert_eq!(host.probes().len(), 1);
    let closed = host.now;
    host.closed(key(HERE, THERE));
    assert_eq!(host.seen(key(HERE, THERE), None), Outcome::Done);
    assert_eq!(host.engine.next_deadline(), closed.checked_add(CLOSE_GRACE).ok());
    host.wait(CLOSE_GRACE).tick();
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Closed)]);
}

#[test]
fn a_close_in_the_future_counts_as_now() {
    let mut host = Host::new();
    host.started(outbound(), tag(3, 14));
    host.tell(Event::Closed { key: key(HERE, THERE), at: Timestamp::MAX });
    assert_eq!(host.engine.next_deadline(), host.now.checked_add(CLOSE_GRACE).ok());

    host.now = host.now.checked_sub(HOUR).unwrap();
    host.tick();
    assert_eq!(host.engine.next_deadline(), host.now.checked_add(CLOSE_GRACE).ok(), "the clock was set back");
}

#[test]
fn an_announcement_takes_a_flow_over_from_its_rule() {
    for announced in [tag(3, 14), tag(2, 9)] {
        let mut host = Host::new();
        let found = Announcement { idle_limit: Some(MINUTE), ..by_rule("any", outbound(), tag(3, 14)) };
        host.tell(Event::Start(found));
        host.start(outbound(), announced);
        let view = host.engine.find(&outbound()).unwrap();
        assert_eq!((view.tag, view.rule, view.source), (announced, None, API));
        assert_eq!(host.closed(key(HERE, THERE)), Outcome::Done, "its END is to come");
        host.start(outbound(), announced);
        host.wait(HOUR - MINUTE).tick();
        assert_eq!(host.probes(), [], "the limit was the rule's");
    }
}

#[test]
fn a_rule_has_no_say_over_a_flow_that_was_announced_meanwhile() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(3, 14));
    let before = host.engine.get(id);
    let late = Announcement {
        strategy: Some(Strategy::DESTINATION),
        idle_limit: Some(MINUTE),
        ..by_rule("any", outbound(), tag(2, 9))
    };
    assert_eq!(host.tell(Event::Start(late)), Outcome::Refreshed(id));
    assert_eq!((&host.effects[..], host.engine.get(id)), (&[][..], before));
    assert_eq!(host.engine.next_deadline(), host.now.checked_add(HOUR).ok());
}

#[test]
fn of_two_rules_the_later_word_counts() {
    let mut host = Host::new();
    host.matched("first", outbound(), tag(3, 14));
    host.matched("second", outbound(), tag(2, 9));
    let view = host.engine.find(&outbound()).unwrap();
    assert_eq!((view.tag, view.rule.as_deref()), (tag(2, 9), Some("second")));
    assert!(matches!(host.closed(key(HERE, THERE)), Outcome::Ended(_)));
}

#[test]
fn the_shorter_idle_limit_counts() {
    for (own, general, expected) in [
        (Some(MINUTE), Some(HOUR), Some(MINUTE)),
        (Some(HOUR), Some(MINUTE), Some(MINUTE)),
        (Some(MINUTE), None, Some(MINUTE)),
        (None, Some(HOUR), Some(HOUR)),
        (None, None, None),
    ] {
        let mut host = Host::with(Settings { idle_limit: general, ..Settings::default() });
        let what = Announcement { idle_limit: own, ..Announcement::new(udp(HERE, THERE), tag(3, 14), RULES) };
        host.tell(Event::Start(what));
        let deadline = expected.map(|limit| host.now.checked_add(limit).unwrap());
        assert_eq!(host.engine.next_deadline(), deadline, "{own:?} {general:?}");
    }
}

#[test]
fn a_limit_that_becomes_shorter_is_not_slept_through() {
    let mut host = Host::new();
    host.started(ipv4(), tag(3, 14));
    let what = Announcement { idle_limit: Some(MINUTE), ..Announcement::new(ipv4(), tag(3, 14), API) };
    host.tell(Event::Start(what));
    host.start(ipv4(), tag(3, 14));
    host.no_room(ipv4());
    host.wait(MINUTE).tick();
    assert_eq!(host.changes(), [ChangeKind::Ended(EndReason::Idle)]);
}

#[test]
fn what_the_kernel_marks_for_an_earlier_daemon_goes_on_without_a_second_start() {
    let mut host = Host::new().lives_at(&[HERE]);
    let begin: Timestamp = "2026-03-01T11:00:00Z".parse().unwrap();
    let what = Announcement {
        strategy: Some(Strategy::DESTINATION),
        start_time: Some(begin),
        ..Announcement::new(outbound(), tag(3, 14), KERNEL)
    };
    assert!(matches!(host.tell(Event::Adopt(what)), Outcome::Started(_)));
    let [Effect::Mark { mark, start, .. }, Effect::Changed(_)] = host.effects[..] else {
        panic!("{:?}", host.effects)
    };
    assert_eq!((mark.strategy, start), (Strategy::DESTINATION, begin));
    assert_eq!(host.changes(), [ChangeKind::Started]);
    let counters = host.engine.counters();
    assert_eq!((counters.started, counters.taken_over, counters.adopted), (1, 1, 0));

    assert!(matches!(host.closed(key(HERE, THERE)), Outcome::Ended(_)), "nobody announced it");
    assert_eq!((host.report().state, host.report().start_time), (ReportState::End, begin));
}

#[test]
fn an_announcement_that_comes_before_the_adoption_counts() {
    let mut host = Host::new();
    let id = host.started(outbound(), tag(2, 9));
    let what = Announcement::new(outbound(), tag(3, 14), KERNEL);
    assert_eq!(host.tell(Event::Adopt(what.clone())), Outcome::Refreshed(id));
    assert_eq!(host.effects, [], "the mark of the announcement has replaced what the kernel held");
    assert_eq!(host.engine.get(id).unwrap().tag, tag(2, 9));

    host.tell(Event::MarkFailed { key: key(HERE, THERE) });
    host.tell(Event::Adopt(what));
    assert_eq!(host.marks()[0].1.label.tag(), Some(tag(2, 9)));
}

#[test]
fn an_adopted_flow_that_is_announced_waits_for_its_end() {
    let mut host = Host::new();
    host.tell(Event::Adopt(Announcement::new(outbound(), tag(3, 14), KERNEL)));
    host.start(outbound(), tag(3, 14));
    assert_eq!(host.engine.find(&outbound()).unwrap().source, API);
    assert_eq!(host.closed(key(HERE, THERE)), Outcome::Done);
}

#[test]
fn a_mark_that_cannot_be_adopted_is_taken_off() {
    let left = || Event::Adopt(Announcement::new(udp(HERE, THERE), tag(3, 14), KERNEL));
    let held = FlowKey::from(udp(HERE, THERE));

    let mut host = Host::with(Settings { max_flows: 0, ..Settings::default() });
    assert_eq!(host.tell(left()), Outcome::Rejected(Rejection::TableFull { max: 0 }));
    assert_eq!(host.effects, [Effect::Unmark { key: held }]);

    let guard = Guard { ports: [40000].into(), ..Guard::default() };
    let mut host = Host::with(Settings { guard, ..Settings::default() });
    assert!(matches!(host.tell(left()), Outcome::Rejected(Rejection::OwnFirefly { .. })));
    assert_eq!(host.effects, [Effect::Unmark { key: held }]);

    let mut host = Host::new().lives_at(&[THERE]);
    assert!(matches!(host.tell(left()), Outcome::Started(_)));
    assert_eq!(host.unmarks(), [held], "the other end is the local one now");
    assert_eq!(host.marks()[0].0, FlowKey::from(udp(THERE, HERE)));
}

#[test]
fn reasons_have_names() {
    let names = [EndReason::Requested { by: API }, EndReason::Idle, EndReason::Closed].map(EndReason::name);
    assert_eq!(names, ["requested", "idle", "closed"]);
}

#[test]
fn a_flow_is_reported_again_and_again_at_its_own_pace() {
    let mut host =
        Host::with(Settings { report_every: Some(MINUTE), ..Settings::default() }).lives_at(&[HERE]);
    let usual = host.started(outbound(), tag(3, 14));
    host.wait(MINUTE / 2);
    let what = Announcement { report_every: Some(2 * MINUTE), ..Announcement::new(ipv4(), tag(2, 9), API) };
    assert!(matches!(host.tell(Event::Start(what)), Outcome::Started(_)));
    let mut told = Vec::new();
    for _ in 0..8 {
        host.wait(MINUTE / 2).tick();
        told.extend(host.reports().iter().map(|r| (r.state, r.id == usual, r.current_time == host.now)));
    }
    let ongoing = |usual| (ReportState::Ongoing, usual, true);
    assert_eq!(
        told,
        [ongoing(true), ongoing(true), ongoing(false), ongoing(true), ongoing(true), ongoing(false)]
    );
    host.end(outbound());
    host.end(ipv4());
    assert_eq!(host.engine.next_deadline(), None);
}

#[test]
fn a_report_that_is_very_late_is_made_once_and_then_on_time() {
    let mut host =
        Host::with(Settings { report_every: Some(MINUTE), idle_limit: None, ..Settings::default() });
    host.started(outbound(), tag(3, 14));
    host.wait(HOUR).tick();
    assert_eq!(host.report().state, ReportState::Ongoing);
    host.tick();
    assert_eq!(host.reports(), Vec::<&Report>::new());
    host.wait(MINUTE).tick();
    assert_eq!(host.report().state, ReportState::Ongoing);
    host.closed(FlowKey::from(outbound()));
    host.wait(CLOSE_GRACE - Duration::from_secs(1)).tick();
    assert_eq!(host.reports(), Vec::<&Report>::new(), "no news of a flow that waits for its END");
}

#[test]
fn a_report_brings_the_firefly_that_it_follows_from() {
    let mut host = Host::new();
    let firefly = |state| Some(Arc::new(Firefly::new(state, outbound(), tag(3, 14))));
    let start =
        Announcement { firefly: firefly(State::Start), ..Announcement::new(outbound(), tag(3, 14), API) };
    host.tell(Event::Start(start.clone()));
    assert_eq!(host.report().firefly, firefly(State::Start));
    host.tell(Event::Ongoing(Announcement { firefly: firefly(State::Ongoing), ..start }));
    assert_eq!(host.report().firefly, firefly(State::Ongoing));
    let end = End { firefly: firefly(State::End), ..End::new(Selector::Flow(outbound()), API) };
    host.tell(Event::End(end));
    assert_eq!(host.report().firefly, firefly(State::End));
}
