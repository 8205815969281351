//! Totals by whose traffic it is, for metrics: what was reported and measured so far.
//!
//! A total never goes back, whatever becomes of the flows that it is of. Bytes and segments are those of this host: sent is
//! what left it, whichever end the flow was announced from.

use std::collections::{BTreeMap, HashMap};

use flowtag_engine::{Change, ChangeKind, EndReason, FlowId, Report, ReportState};
use flowtag_kernel::tcp_info::Sample;
use flowtag_wire::Tag;

use super::statistics::Carried;
use crate::outputs::Record;

/// What was measured of one flow, or of all flows with one tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    /// Bytes of payload that the other end has got, as the kernel knows or an END said.
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Segments, those without payload included.
    pub(crate) segments_sent: u64,
    pub(crate) segments_received: u64,
    /// Segments sent again.
    pub(crate) retransmitted: u64,
    /// Microseconds with something to send.
    pub(crate) busy: u64,
    /// Microseconds in which the other end's window held it back.
    pub(crate) receiver_limited: u64,
    /// Microseconds in which this end's buffer held it back.
    pub(crate) buffer_limited: u64,
}

/// All that happened to flows of one tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Flows that are known now.
    pub(crate) open: u64,
    pub(crate) started: u64,
    pub(crate) ended: Ended,
    pub(crate) volume: Volume,
}

/// Flows that ended, by how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) requested: u64,
    pub(crate) idle: u64,
    pub(crate) closed: u64,
    /// They go on under another tag.
    pub(crate) retagged: u64,
}

/// What was reported so far.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    tags: BTreeMap<Tag, Totals>,
    /// What is counted already of flows that are known, and of which anything is.
    flows: HashMap<FlowId, Counted>,
    /// The kernel's counters of connections when their flows ended.
    carried: Carried<Raw>,
    /// The latest END: if its flow goes on, it had this tag before.
    moved: Option<(FlowId, Tag)>,
}

#[derive(Debug, Default)]
struct Counted {
    volume: Volume,
    /// The kernel's counters as they were last.
    last: Raw,
}

/// Those counters of a connection that make a [`Volume`]. Some have 32 bits and begin anew.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Raw {
    /// Of the socket; 0: unknown.
    cookie: u64,
    sent: u64,
    received: u64,
    segments_sent: u32,
    segments_received: u32,
    retransmitted: u32,
    busy: u64,
    receiver_limited: u64,
    buffer_limited: u64,
}

impl From<&Sample> for Raw {
    fn from(Sample { info, sent, received, cookie, .. }: &Sample) -> Self {
        Self {
            cookie: *cookie,
            sent: *sent,
            received: *received,
            segments_sent: info.segs_out,
            segments_received: info.segs_in,
            retransmitted: info.total_retrans,
            busy: info.busy_time,
            receiver_limited: info.rwnd_limited,
            buffer_limited: info.sndbuf_limited,
        }
    }
}

impl Raw {
    /// Takes what came to it since it was `self`; all of it where a new connection has taken the place of the one before.
    fn advance(&mut self, now: Self) -> Volume {
        let is_another = match (self.cookie, now.cookie) {
            (0, _) | (_, 0) => now.received < self.received,
            (before, now) => before != now,
        };
        let before = if is_another { Self::default() } else { *self };
        let steps = [
            (now.segments_sent, before.segments_sent),
            (now.segments_received, before.segments_received),
            (now.retransmitted, before.retransmitted),
        ];
        let [sent, received, again] = steps.map(|(now, before)| now.wrapping_sub(before));
        let is_older = |step: &u32| *step > u32::MAX / 2;
        if before != Self::default() && [sent, received, again].iter().any(is_older) {
            return Volume::default(); // than what is known already
        }
        let more = |of: fn(&Self) -> u64| of(&now).saturating_sub(of(&before));
        let volume = Volume {
            sent: more(|raw| raw.sent),
            received: more(|raw| raw.received),
            segments_sent: sent.into(),
            segments_received: received.into(),
            retransmitted: again.into(),
            busy: more(|raw| raw.busy),
            receiver_limited: more(|raw| raw.receiver_limited),
            buffer_limited: more(|raw| raw.buffer_limited),
        };
        // What is worked out from several counters may be a byte less for once.
        let (sent, received) = (now.sent.max(before.sent), now.received.max(before.received));
        *self = Self { sent, received, ..now };
        volume
    }
}

impl Volume {
    /// Each of both put together by `combine`.
    pub(crate) fn with(self, other: Self, combine: fn(u64, u64) -> u64) -> Self {
        Self {
            sent: combine(self.sent, other.sent),
            received: combine(self.received, other.received),
            segments_sent: combine(self.segments_sent, other.segments_sent),
            segments_received: combine(self.segments_received, other.segments_received),
            retransmitted: combine(self.retransmitted, other.retransmitted),
            busy: combine(self.busy, other.busy),
            receiver_limited: combine(self.receiver_limited, other.receiver_limited),
            buffer_limited: combine(self.buffer_limited, other.buffer_limited),
        }
    }

    /// What a report says was sent and received, seen from this host.
    pub(crate) fn told(report: &Report) -> Self {
        let Some(usage) = report.usage else { return Self::default() };
        let (sent, received) = if report.flow.src() == report.key.local {
            (usage.sent, usage.received)
        } else {
            (usage.received, usage.sent)
        };
        Self { sent, received, ..Self::default() }
    }
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        *self = self.with(other, u64::saturating_add);
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.open += other.open;
        self.started += other.started;
        self.ended.requested += other.ended.requested;
        self.ended.idle += other.ended.idle;
        self.ended.closed += other.ended.closed;
        self.ended.retagged += other.ended.retagged;
        self.volume += other.volume;
    }
}

impl Accounts {
    /// Counts what a report says, to the tag that it is about.
    pub(crate) fn reported(&mut self, record: &Record) {
        let report = &record.report;
        if let Some(sample) = &record.tcp {
            self.sampled(report.id, report.tag, sample);
        }
        let told = Volume::told(report);
        if told != Volume::default() {
            let counted = &mut self.flows.entry(report.id).or_default().volume;
            let more = told.with(*counted, u64::saturating_sub);
            *counted += more;
            self.tags.entry(report.tag).or_default().volume += more;
        }
        if report.state == ReportState::End {
            self.moved = Some((report.id, report.tag));
        }
    }

    /// Counts what the kernel measured of the connection of a flow, to the tag that the flow has now.
    pub(crate) fn sampled(&mut self, id: FlowId, tag: Tag, sample: &Sample) {
        let new = || Counted { last: self.carried.of(sample.cookie), ..Counted::default() };
        let counted = self.flows.entry(id).or_insert_with(new);
        let more = counted.last.advance(sample.into());
        counted.volume += more;
        self.tags.entry(tag).or_default().volume += more;
    }

    /// Counts a flow that came, went, or has another tag. A report of the change was counted before.
    pub(crate) fn changed(&mut self, change: &Change) {
        let (id, tag) = (change.flow.id, change.flow.tag);
        match change.kind {
            ChangeKind::Started => self.opened(tag),
            ChangeKind::Updated => {
                if let Some((_, before)) = self.moved.filter(|(moved, before)| *moved == id && *before != tag)
                {
                    self.closed(before).retagged += 1;
                    self.opened(tag);
                }
            }
            ChangeKind::Ended(reason) => {
                if let Some(Counted { last, .. }) = self.flows.remove(&id) {
                    self.carried.put(last.cookie, last);
                }
                let ended = self.closed(tag);
                let how = match reason {
                    EndReason::Requested { .. } => &mut ended.requested,
                    EndReason::Idle => &mut ended.idle,
                    EndReason::Closed => &mut ended.closed,
                };
                *how += 1;
            }
        }
        self.moved = None;
    }

    fn opened(&mut self, tag: Tag) {
        let totals = self.tags.entry(tag).or_default();
        totals.open += 1;
        totals.started += 1;
    }

    fn closed(&mut self, tag: Tag) -> &mut Ended {
        let totals = self.tags.entry(tag).or_default();
        totals.open = totals.open.saturating_sub(1);
        &mut totals.ended
    }

    /// By tag.
    pub(crate) fn totals(&self) -> impl Iterator<Item = (Tag, Totals)> {
        self.tags.iter().map(|(tag, totals)| (*tag, *totals))
    }

    /// What is counted of a flow that is known; none: nobody measured it.
    pub(crate) fn flow(&self, id: FlowId) -> Option<Volume> {
        self.flows.get(&id).map(|counted| counted.volume)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flowtag_engine::{
        Announcement, Config, Effect, End, Engine, Event, Guard, Selector, Settings, Source, Usage,
    };
    use flowtag_kernel::tcp_info::TcpInfo;
    use flowtag_wire::{FiveTuple, Protocol};
    use jiff::Timestamp;

    use super::*;

    const TEST: Source = Source("test");

    /// An engine whose reports carry what `tcp` says.
    struct Desk {
        engine: Engine,
        accounts: Accounts,
        tcp: Option<Sample>,
    }

    impl Desk {
        fn new() -> Self {
            let settings = Settings { guard: Guard::default(), ..Settings::default() };
            let engine = Engine::new(Config { settings, entropy_key: [7; 16] });
            Self { engine, accounts: Accounts::default(), tcp: None }
        }

        fn handle(&mut self, event: Event) {
            for effect in self.engine.handle(Timestamp::UNIX_EPOCH, event).effects {
                match effect {
                    Effect::Report(report) => {
                        let tcp = self.tcp.clone().map(Arc::new);
                        self.accounts.reported(&Record { report: *report, tcp });
                    }
                    Effect::Changed(change) => self.accounts.changed(&change),
                    _ => {}
                }
            }
        }

        fn of(&self, tag: Tag) -> Totals {
            self.accounts.totals().find(|(t, _)| *t == tag).map(|(_, totals)| totals).unwrap_or_default()
        }
    }

    fn flow(port: u16) -> FiveTuple {
        let (src, dst) = (format!("[2001:db8::1]:{port}"), "[2001:db8::2]:1094");
        let (src, dst) = (src.parse().expect("an end"), dst.parse().expect("an end"));
        FiveTuple::new(Protocol::Tcp, src, dst).expect("a flow")
    }

    fn tag(activity: u64) -> Tag {
        Tag::new(3, activity).expect("in range")
    }

    fn start(port: u16, activity: u64) -> Event {
        Event::Start(Announcement::new(flow(port), tag(activity), TEST))
    }

    fn sample(cookie: u64, sent: u64, received: u64, segments: u32) -> Sample {
        let info = TcpInfo { segs_out: segments, ..TcpInfo::default() };
        Sample { info, cookie, sent, received, ..Sample::default() }
    }

    #[test]
    fn a_flow_with_another_tag_leaves_what_it_moved_with_the_old_one() {
        let mut desk = Desk::new();
        desk.handle(start(1, 1));
        desk.handle(start(2, 1));
        desk.tcp = Some(sample(1, 1000, 10, 5));
        desk.handle(start(1, 2));
        desk.tcp = Some(sample(1, 1500, 10, 6));
        desk.handle(Event::End(End::new(Selector::Flow(flow(1)), TEST)));
        let (old, new) = (desk.of(tag(1)), desk.of(tag(2)));
        assert_eq!((old.open, old.started, old.ended.retagged, old.volume.sent), (1, 2, 1, 1000));
        assert_eq!((new.open, new.started, new.ended.requested, new.volume.sent), (0, 1, 1, 500));
        assert_eq!((new.volume.received, new.volume.segments_sent), (0, 1));
        assert!(desk.accounts.flows.is_empty(), "a flow that is over is forgotten");
    }

    #[test]
    fn the_next_flow_of_a_connection_counts_from_where_the_last_ended() {
        let mut desk = Desk::new();
        desk.tcp = Some(sample(1, 1000, 10, 5));
        desk.handle(start(1, 1));
        desk.handle(Event::End(End::new(Selector::Flow(flow(1)), TEST)));
        desk.tcp = Some(sample(1, 1200, 10, 6));
        desk.handle(start(1, 2));
        desk.handle(Event::End(End::new(Selector::Flow(flow(1)), TEST)));
        assert_eq!((desk.of(tag(1)).volume.sent, desk.of(tag(2)).volume.sent), (1000, 200));
        assert_eq!(desk.of(tag(2)).volume.segments_sent, 1);
    }

    #[test]
    fn what_an_end_says_counts_only_beyond_what_was_measured() {
        let mut desk = Desk::new();
        desk.handle(start(1, 1));
        let id = desk.engine.iter().next().expect("the flow").id;
        desk.accounts.sampled(id, tag(1), &sample(1, 700, 70, 7));
        let usage = Some(Usage { sent: 1000, received: 5 });
        desk.handle(Event::End(End { usage, ..End::new(Selector::Id(id), TEST) }));
        let volume = desk.of(tag(1)).volume;
        assert_eq!((volume.sent, volume.received), (1000, 70));
    }

    #[test]
    fn values_that_are_older_than_those_known_add_nothing() {
        let mut accounts = Accounts::default();
        let id = FlowId::new(1);
        accounts.sampled(id, tag(1), &sample(1, 1000, 10, 50));
        accounts.sampled(id, tag(1), &sample(1, 1000, 10, 49));
        accounts.sampled(id, tag(1), &sample(1, 1000, 10, 51));
        assert_eq!(accounts.flow(id).expect("measured").segments_sent, 51);
    }

    /// The END of a flow that was announced from the far end.
    #[test]
    fn sent_is_what_left_this_host() {
        let mut desk = Desk::new();
        desk.handle(Event::LocalAddresses(["2001:db8::2".parse().expect("an address")].into()));
        desk.handle(start(1, 1));
        let usage = Some(Usage { sent: 1000, received: 5 });
        desk.handle(Event::End(End { usage, ..End::new(Selector::Flow(flow(1)), TEST) }));
        assert_eq!((desk.of(tag(1)).volume.sent, desk.of(tag(1)).volume.received), (5, 1000));
    }

    #[test]
    fn a_new_connection_in_place_of_the_old_and_counters_that_begin_anew_only_add() {
        let mut accounts = Accounts::default();
        let id = FlowId::new(1);
        accounts.sampled(id, tag(1), &sample(1, 1000, 0, u32::MAX));
        accounts.sampled(id, tag(1), &sample(1, 2000, 0, 9));
        let volume = accounts.flow(id).expect("measured");
        assert_eq!((volume.sent, volume.segments_sent), (2000, u64::from(u32::MAX) + 10));
        accounts.sampled(id, tag(1), &sample(1, 1999, 0, 9));
        accounts.sampled(id, tag(1), &sample(1, 2000, 0, 9));
        assert_eq!(accounts.flow(id).expect("measured").sent, 2000, "nothing is counted twice");
        accounts.sampled(id, tag(1), &sample(2, 300, 0, 3));
        let volume = accounts.flow(id).expect("measured");
        assert_eq!((volume.sent, volume.segments_sent), (2300, u64::from(u32::MAX) + 13));
    }
}
