use std::borrow::Cow;

use flowtag_engine::Registry;
use flowtag_kernel::probes::{Column, Flow, Owner as Holder, Source};
use flowtag_wire::{Endpoint, Tag};

use super::*;
use crate::config::Config;

static EVENTS: Description = Description {
    name: "events",
    about: "",
    details: "",
    examples: &[],
    object: &[],
    optional: &[],
    flags: &[],
    columns: &[
        Column::text("type", "TYPE", 4, ""),
        Column::sum("length_bytes", "LEN", Unit::Bytes, ""),
        Column::sum("wait_us", "WAIT", Unit::Micros, ""),
    ],
    metrics: &[
        metric("m_records", None, Measure::Records),
        metric("m_moved", Some("bytes"), Measure::Sum("length_bytes")),
        metric("m_waited", Some("seconds"), Measure::Sum("wait_us")),
        metric("m_wait", Some("seconds"), Measure::Seconds("wait_us")),
    ],
    settings: |_| Vec::new(),
    leave_out: || &[],
    at_start: &[],
    source: Source::Events(|_| None),
};

const fn metric(name: &'static str, unit: Option<&'static str>, measure: Measure) -> Metric {
    Metric { name, unit, help: "", labels: &["type"], measure }
}

fn record(kind: &'static str, length: u64, wait: Option<u64>, tag: Option<Tag>) -> Record {
    let end = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().expect("an end"));
    let flow = Flow { protocol: 6, local: end("192.0.2.1:1"), remote: end("198.51.100.77:2") };
    let owner = Holder { process: Some("xrootd".to_owned()), ..Holder::default() };
    let context = Context { flow: Some(flow), tag, owner, ..Context::default() };
    Record { context, values: vec![kind.into(), length.into(), wait.into()] }
}

fn config(text: &str) -> Observe {
    Config::parse(&format!("[observe]\n{text}"), "t").expect("right").observe.expect("on")
}

fn names() -> Names {
    Names::new(Cow::Borrowed(Registry::embedded()))
}

fn tables(text: &str) -> Table {
    let config = config(text);
    let mut table = Table::new(&config);
    table.adapt(&config, &[&EVENTS]);
    table
}

fn seen(table: &Table, name: &str) -> Vec<(Key, Cell)> {
    let mut all = table.seen();
    let at = all.iter().position(|seen| seen.metric.name == name).expect("a metric");
    let mut cells = all.swap_remove(at).cells;
    cells.sort_by_key(|(key, _)| format!("{key:?}"));
    cells
}

fn key(whose: Whose, texts: &[&'static str]) -> Key {
    Key { whose, texts: texts.iter().map(|text| (*text).into()).collect() }
}

#[test]
fn each_measure_is_counted_by_its_labels_and_by_whose_it_is() {
    let (mut table, names) = (tables(""), names());
    let tag = Tag::new(3, 14).expect("a tag");
    for record in [
        record("RTO", 100, Some(30), Some(tag)),
        record("RTO", 50, Some(3_000_000), Some(tag)),
        record("TLP", 7, None, None),
    ] {
        table.take("events", &record, &names);
        table.take("another probe", &record, &names);
    }
    let (cms, nobody) = (key(Whose::Tag(tag), &["RTO"]), key(Whose::Nobody, &["TLP"]));
    let counts = |a, b| vec![(nobody.clone(), Cell::Count(a)), (cms.clone(), Cell::Count(b))];
    assert_eq!(seen(&table, "m_records"), counts(1, 2));
    assert_eq!(seen(&table, "m_moved"), counts(7, 150));
    assert_eq!(seen(&table, "m_waited"), [(cms.clone(), Cell::Real(3.00003))], "what is not known is not 0");
    let mut both = Distribution::of(30e-6);
    both.add(&Distribution::of(3.0));
    assert_eq!((both.counts[2], both.counts[17]), (1, 1), "within 50 µs, and within 5 s");
    assert_eq!(seen(&table, "m_wait"), [(cms, Cell::Spread(both))]);
}

#[test]
fn series_are_told_apart_by_what_the_configuration_says() {
    let tag = Tag::new(3, 14).expect("a tag");
    for (labels, whose, texts) in [
        ("", Whose::Unasked, &["RTO"][..]),
        ("\"experiment\"", Whose::Experiment(tag.experiment), &["RTO"]),
        ("\"peer\", \"process\"", Whose::Unasked, &["RTO", "xrootd", "198.51.96.0/20"]),
        ("\"unit\", \"interface\"", Whose::Unasked, &["RTO", "unknown", "unknown"]),
    ] {
        let (mut table, names) = (tables(&format!("labels = [{labels}]\npeer_ipv4 = 20")), names());
        table.take("events", &record("RTO", 1, None, Some(tag)), &names);
        assert_eq!(seen(&table, "m_records"), [(key(whose, texts), Cell::Count(1))], "{labels}");
    }
}

#[test]
fn what_has_no_room_is_added_up_as_other_and_counted_and_who_has_a_series_keeps_it() {
    let (mut table, names) = (tables("max_series = 10"), names());
    let tag = |n: u64| Tag::new(1 + n / 60, 1 + n % 60);
    for _ in 0..2 {
        for n in 0..100 {
            table.take("events", &record("RTO", 5, None, Some(tag(n).expect("a tag"))), &names);
        }
    }
    let cells = seen(&table, "m_moved");
    assert_eq!(cells.len(), 11);
    let other = cells.iter().find(|(key, _)| key.whose == Whose::Other).expect("the rest");
    assert_eq!(other, &(key(Whose::Other, &["other"]), Cell::Count(2 * 90 * 5)));
    assert!(
        cells.iter().filter(|(key, _)| key.whose != Whose::Other).all(|(_, cell)| *cell == Cell::Count(10))
    );
    let moved = table.seen().into_iter().find(|seen| seen.metric.name == "m_moved").expect("a metric");
    assert_eq!(moved.dropped, 2 * 90);
}

#[test]
fn sums_of_the_kernel_replace_those_before_and_stay_when_their_probe_ends() {
    let (mut table, names) = (tables(""), names());
    let moved = |table: &Table| match seen(table, "m_moved").as_slice() {
        [(_, Cell::Count(moved))] => *moved,
        other => panic!("{other:?}"),
    };
    let row = |length| Alike { record: Some(record("RTO", length, None, None)), count: 1 };
    let rows = |length| [row(length), row(1)];
    table.set("events", &rows(10), &names);
    table.set("events", &rows(20), &names);
    assert_eq!(moved(&table), 21);
    table.seal();
    let same = config("");
    table.adapt(&same, &[&EVENTS]);
    table.set("events", &rows(1), &names);
    assert_eq!(moved(&table), 23, "the kernel began anew, what is told did not");
    let other = config("labels = []");
    table.adapt(&other, &[&EVENTS]);
    table.set("events", &rows(1), &names);
    assert_eq!(moved(&table), 2, "series of another kind begin anew");
}

#[test]
fn what_is_alike_counts_as_often_as_it_was() {
    let (mut table, names) = (tables(""), names());
    let alike = |count, kind| Alike { record: Some(record(kind, 0, None, None)), count };
    let rest = Alike { record: None, count: 2 };
    table.set("events", &[alike(40, "RTO"), alike(1, "TLP"), alike(2, "RTO"), rest], &names);
    let [rto, tlp] = ["RTO", "TLP"].map(|kind| key(Whose::Nobody, &[kind]));
    let expected =
        [(rto, Cell::Count(42)), (tlp, Cell::Count(1)), (key(Whose::Other, &["other"]), Cell::Count(2))];
    assert_eq!(seen(&table, "m_records"), expected);
}
