//! Attempts to connect.

pub mod abi;

use self::abi::{connect_event, connect_kind as kind};
use super::record::{self, Context, Record, Value};
use super::{Column, Description, Measure, Metric, Source, Unit};

const UNSENT: &str = "attempts to connect of which no SYN is sent";

/// `flowtag latency connect`.
pub static PROBE: Description = Description {
    name: "connect",
    about: "Show each attempt to connect: how long it took, and what came of it",
    details: "From the SYN until the answer. OUTCOME is ok, refused, timeout, unreachable, reset, aborted (the \
              application gave up), unsent (no route or no port: no SYN left; told as the socket is closed or tried \
              again) or failed (anything else: ERROR says what).",
    examples: &[
        ("latency connect", "a line for each attempt"),
        ("latency connect --by outcome,peer -i 10", "how many, every 10 seconds"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/connect.bpf.o")),
    optional: &[("flowtag_connect4", UNSENT), ("flowtag_connect6", UNSENT), ("flowtag_connect_over", UNSENT)],
    flags: &[],
    columns: &[
        Column::text("outcome", "OUTCOME", 11, "What came of it"),
        Column::last("latency_us", "LATENCY", Unit::Micros, "From the first SYN until the outcome")
            .width(7)
            .merge(super::Merge::Max),
        Column::sum("syn_retries", "RETRIES", Unit::None, "SYNs that were sent again").width(7),
        Column::text("error", "ERROR", 22, "Error of the socket, in words").rank(2).merge(super::Merge::Last),
    ],
    metrics: &[Metric {
        name: "flowtag_tcp_connect",
        unit: Some("seconds"),
        help: "Time from the first SYN until the outcome of the attempt to connect",
        labels: &["outcome"],
        measure: Measure::Seconds("latency_us"),
    }],
    settings: |_| Vec::new(),
    leave_out: || &[],
    at_start: &[],
    source: Source::Events(decode),
};

fn outcome(raw: &connect_event) -> &'static str {
    match (u32::from(raw.event.kind), raw.error.cast_signed()) {
        (kind::CONNECT_OK, _) => "ok",
        (kind::CONNECT_ABORTED, _) => "aborted",
        (kind::CONNECT_UNSENT, _) => "unsent",
        (_, libc::ECONNREFUSED) => "refused",
        (_, libc::ETIMEDOUT) => "timeout",
        (_, libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN) => "unreachable",
        (_, libc::ECONNRESET) => "reset",
        _ => "failed",
    }
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let raw: connect_event = record::read(bytes)?;
    let latency = (raw.waited != 0).then_some(raw.waited / 1000);
    let error = (raw.error != 0).then(|| nix::errno::Errno::from_raw(raw.error.cast_signed()).desc());
    let values = vec![
        Value::from(outcome(&raw)),
        latency.into(),
        raw.retries.into(),
        error.map(Value::from).unwrap_or_default(),
    ];
    Some(Record { context: Context::from(&raw.event), values })
}
