//! What is written as a firefly satisfies the schema and RFC 5424, whatever was to be said and whoever said it
//! first.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use flowtag_wire::firefly::MAX_DATAGRAM;
use flowtag_wire::{Firefly, FiveTuple, State, Usage, WriteError};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::common::collector::VALIDATOR;
use crate::dialects::{DCACHE, FLOWD, FLOWD_GO, XROOTD, full, header, read, time};

fn is_valid(json: &Value) -> bool {
    VALIDATOR.errors(json).is_empty()
}

#[test]
fn the_schema_check_has_teeth() {
    let valid = json_of(XROOTD.as_bytes());
    assert!(is_valid(&valid));
    for (section, key, value) in [
        ("flow-lifecycle", "start-time", json!("")),
        ("flow-lifecycle", "start-time", json!("2026-03-01 10:00")),
        ("flow-id", "src-ip", json!("2001:db8::1%eth0")),
        ("flow-id", "afi", json!("ipv4")),
        ("context", "user", json!("me")),
    ] {
        let mut broken = valid.clone();
        broken[section][key] = value;
        assert!(!is_valid(&broken), "{section}.{key}");
    }
}

fn json_of(datagram: &[u8]) -> Value {
    let start = datagram.iter().position(|b| *b == b'{').unwrap();
    serde_json::from_slice(&datagram[start..]).unwrap()
}

/// RFC 5424 §6 by hand: PRI VERSION SP TIMESTAMP SP HOST SP APP SP - SP MSGID SP - SP.
#[track_caller]
fn check_header(datagram: &[u8], now: Timestamp) {
    let text = std::str::from_utf8(datagram).unwrap();
    let parts: Vec<&str> = text.splitn(8, ' ').collect();
    assert_eq!((parts[0], parts[4], parts[5], parts[6]), ("<134>1", "-", "firefly-json", "-"));
    let shape: String = parts[1].chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999999+99:99");
    let micros = parts[1].parse::<Timestamp>().unwrap().as_microsecond();
    assert_eq!(micros, now.as_nanosecond().div_euclid(1000) as i64);
    for (field, max) in [(parts[2], 255), (parts[3], 48)] {
        assert!((1..=max).contains(&field.len()) && field.bytes().all(|b| (33..=126).contains(&b)));
    }
    assert!(parts[7].starts_with('{'));
}

#[test]
fn every_dialect_is_relayed_as_a_valid_firefly_and_keeps_what_it_said() {
    let now = time("2026-03-01T10:06:00.999999999Z");
    for dialect in [XROOTD, DCACHE, FLOWD, FLOWD_GO] {
        let firefly = read(dialect).with_required_times(now);
        let datagram = firefly.to_datagram(now, &header(), MAX_DATAGRAM).unwrap();
        check_header(&datagram, now);
        let json = json_of(&datagram);
        assert_eq!(VALIDATOR.errors(&json), [""; 0], "{json}");
        let before = json_of(dialect.trim_end().as_bytes());
        for key in ["usage", "storage-stats", "skOps", "context"] {
            assert_eq!(json.get(key), before.get(key), "{key}");
        }
    }
}

#[test]
fn parts_are_given_up_in_order_until_the_datagram_fits() {
    let now = Timestamp::UNIX_EPOCH;
    let whole = full().to_datagram(now, &header(), usize::MAX).unwrap();
    let mut seen = Vec::new();
    for max in (0..=whole.len()).rev() {
        let Ok(datagram) = full().to_datagram(now, &header(), max) else { break };
        assert!(datagram.len() <= max);
        let json = json_of(&datagram);
        assert!(is_valid(&json));
        assert_eq!(json["usage"]["received"], 1234, "what collectors count always stays");
        let name = json["context"]["application"].as_str().unwrap_or_default().to_owned();
        assert!("a \"quoted\" näme".starts_with(&name));
        let parts = ["skOps", "netlink", "storage-stats"].map(|key| json.get(key).is_some());
        let step = (parts, name);
        if seen.last() != Some(&step) {
            seen.push(step);
        }
    }
    let parts: Vec<[bool; 3]> = seen.iter().map(|s| s.0).collect();
    assert_eq!(parts[..4], [[true; 3], [false, true, true], [false, false, true], [false; 3]]);
    assert_eq!(seen.last().unwrap().1, "", "the name goes last, character by character");
    assert_eq!(seen.len(), 4 + "a \"quoted\" näme".chars().count());
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    (-62_000_000_000_000_000_i64..253_000_000_000_000_000)
        .prop_map(|us| Timestamp::from_microsecond(us).unwrap())
}

fn any_flow() -> impl Strategy<Value = FiveTuple> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (a.into(), b.into()));
    let addrs = prop_oneof![v4, v6];
    (any::<bool>(), addrs, any::<u16>(), any::<u16>()).prop_filter_map("not a flow", |(udp, (a, b), p, q)| {
        let protocol = if udp { flowtag_wire::Protocol::Udp } else { flowtag_wire::Protocol::Tcp };
        let end = flowtag_wire::Endpoint::new;
        FiveTuple::new(protocol, end(a, p), end(b, q)).ok()
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let number = any::<f64>().prop_filter("not in JSON", |n| n.is_finite());
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        number.prop_map(Value::from),
        ".*".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".*", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

fn any_firefly() -> impl Strategy<Value = Firefly> {
    let state = prop_oneof![Just(State::Start), Just(State::End), Just(State::Ongoing)];
    let times = (any_time(), any_time(), prop::option::of(any_time()));
    let usage = prop::option::of((any::<Option<u64>>(), any::<Option<u64>>()));
    let more = (prop::option::of(any_json()), prop::option::of(any_json()), any_json());
    let ids = any::<(u32, u32)>();
    (state, times, any_flow(), ids, prop::option::of(".*"), usage, more).prop_map(
        |(state, (start, end, current_time), flow, (experiment, activity), application, usage, more)| {
            Firefly {
                state,
                start_time: Some(start),
                end_time: Some(end),
                current_time,
                flow,
                experiment,
                activity,
                application,
                usage: usage.map(|(received, sent)| Usage { received, sent }),
                netlink: more.0.map(|v| Map::from_iter([("tcpInfo".to_owned(), v)])),
                storage_stats: more.1,
                extra: Map::from_iter([("skOps".to_owned(), more.2)]),
                sender: None,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_unchanged(firefly in any_firefly(), now in any_time()) {
        let datagram = firefly.to_datagram(now, &header(), usize::MAX).unwrap();
        check_header(&datagram, now);
        prop_assert!(is_valid(&json_of(&datagram)));
        if datagram.len() <= MAX_DATAGRAM {
            prop_assert_eq!(Firefly::from_datagram(&datagram).unwrap(), firefly);
        }
    }

    #[test]
    fn a_shortened_datagram_fits_and_is_valid(firefly in any_firefly(), max in 300..1500_usize) {
        match firefly.to_datagram(Timestamp::UNIX_EPOCH, &header(), max) {
            Ok(datagram) => {
                prop_assert!(datagram.len() <= max);
                prop_assert!(is_valid(&json_of(&datagram)));
            }
            Err(error) => prop_assert!(matches!(error, WriteError::TooLong { .. }), "{}", error),
        }
    }
}
