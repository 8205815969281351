//! From a firefly to the event that it tells. Pure.

use std::sync::Arc;

use flowtag_engine::{Announcement, End, Event, Selector, Source, Usage};
use flowtag_wire::firefly::{Firefly, State};
use flowtag_wire::{Tag, TagError};
use serde_json::{Map, Value};

/// What is kept of `netlink`, `storage-stats` and foreign keys together, in bytes of JSON: more does not fit the firefly
/// that follows, and thousands may wait to be sent.
const MAX_KEPT: usize = 1232;

/// The event of a firefly. An END needs no tag: the flow keeps the one it has.
///
/// # Errors
/// Experiment or activity have no tag, so the flow cannot be marked.
pub(super) fn of(mut firefly: Firefly) -> Result<Event, TagError> {
    const SOURCE: Source = Source(super::NAME);
    let tag: Result<Tag, TagError> = firefly.tag();
    let (state, flow) = (firefly.state, firefly.flow);
    keep_what_fits(&mut firefly);
    let told = Some(Arc::new(firefly));
    let firefly = told.as_deref();
    if state == State::End {
        let usage = firefly.and_then(|f| f.usage);
        let usage = usage.and_then(|u| Some(Usage { sent: u.sent?, received: u.received? }));
        let end_time = firefly.and_then(|f| f.end_time.or(f.current_time));
        return Ok(Event::End(End {
            end_time,
            usage,
            firefly: told,
            ..End::new(Selector::Flow(flow), SOURCE)
        }));
    }
    let announcement = Announcement {
        start_time: firefly.and_then(|f| f.start_time),
        application: firefly.and_then(|f| f.application.as_deref()).map(Arc::from),
        firefly: told,
        ..Announcement::new(flow, tag?, SOURCE)
    };
    Ok(if state == State::Start { Event::Start(announcement) } else { Event::Ongoing(announcement) })
}

/// Gives up what a firefly that is written would give up, in the same order.
fn keep_what_fits(firefly: &mut Firefly) {
    let object =
        |object: &Map<String, Value>| object.iter().map(|(k, v)| k.len() + v.to_string().len() + 4).sum();
    let mut room = MAX_KEPT;
    let mut fits = |length: usize| {
        let left = room.checked_sub(length);
        room = left.unwrap_or(room);
        left.is_some()
    };
    firefly.storage_stats = firefly.storage_stats.take().filter(|stats| fits(stats.to_string().len()));
    firefly.netlink = firefly.netlink.take().filter(|netlink| fits(object(netlink)));
    if !fits(object(&firefly.extra)) {
        firefly.extra.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn firefly(state: State) -> Firefly {
        let ends = ("[2001:db8::1]:1".parse().expect("an end"), "[2001:db8::2]:2".parse().expect("an end"));
        let flow = flowtag_wire::FiveTuple::new(flowtag_wire::Protocol::Tcp, ends.0, ends.1).expect("a flow");
        Firefly::new(state, flow, Tag::new(3, 14).expect("a tag"))
    }

    #[test]
    fn an_end_needs_no_tag_and_others_do() {
        let foreign = |state| Firefly { experiment: 512, ..firefly(state) };
        assert!(matches!(of(foreign(State::End)), Ok(Event::End(_))));
        for state in [State::Start, State::Ongoing] {
            of(foreign(state)).expect_err("no such tag");
        }
        assert!(matches!(of(firefly(State::Ongoing)), Ok(Event::Ongoing(_))));
    }

    #[test]
    fn half_a_usage_is_none_to_the_engine_and_stays_in_the_firefly() {
        let half = Some(flowtag_wire::Usage { sent: Some(1), received: None });
        let Ok(Event::End(end)) = of(Firefly { usage: half, ..firefly(State::End) }) else {
            panic!("an end")
        };
        assert_eq!(end.usage, None);
        assert_eq!(end.firefly.expect("the firefly").usage, half);
    }

    #[test]
    fn what_cannot_be_told_anyway_is_not_kept() {
        let long = |length| json!("x".repeat(length));
        let told = Firefly {
            netlink: Some(Map::from_iter([("rtt".to_owned(), json!(1.5))])),
            storage_stats: Some(long(600)),
            extra: Map::from_iter([("skOps".to_owned(), long(700))]),
            ..firefly(State::Start)
        };
        let Ok(Event::Start(announcement)) = of(told.clone()) else { panic!("a start") };
        let kept = announcement.firefly.expect("the firefly");
        assert_eq!((&kept.netlink, &kept.storage_stats), (&told.netlink, &told.storage_stats));
        assert!(kept.extra.is_empty());
    }
}
