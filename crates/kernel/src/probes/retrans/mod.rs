//! TCP segments that are sent again.

pub mod abi;

use zerocopy::IntoBytes;

use self::abi::{retrans_event, retrans_kind as kind, retrans_settings};
use super::record::{self, Context, Record, Value, state_name};
use super::{Column, Description, Measure, Merge, Metric, Options, Source, Unit};
use crate::btf::Vmlinux;

/// `flowtag retrans`.
pub static PROBE: Description = Description {
    name: "retrans",
    about: "Show each TCP segment that is sent again: whose, why, and whether it worked",
    details: "",
    examples: &[],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/retrans.bpf.o")),
    optional: &[],
    flags: &[],
    columns: &[
        Column::text("type", "TYPE", 6, "Why: SYN, SYNACK, RTO, FAST or TLP"),
        Column::text("state", "STATE", 10, "State of the connection"),
        Column::last("seq", "SEQ", Unit::None, "Sequence number of the first byte")
            .width(10)
            .merge(Merge::Drop)
            .rank(3),
        Column::sum("length_bytes", "LEN", Unit::Bytes, "Payload").width(6).rank(1),
        Column::sum("segments", "SEGS", Unit::None, "Segments").width(4).rank(2),
        Column::last("rtt_us", "RTT", Unit::Micros, "Smoothed round-trip time").width(7),
        Column::last("cwnd_segments", "CWND", Unit::None, "Congestion window").width(5),
        Column::text("error", "ERROR", 12, "Why it could not be sent").rank(1),
    ],
    metrics: &[Metric {
        name: "flowtag_tcp_retransmit",
        unit: Some("segments"),
        help: "TCP segments that were sent again",
        labels: &["type"],
        measure: Measure::Sum("segments"),
    }],
    settings,
    source: Source::Events(decode),
};

fn settings(_: &Options) -> Vec<u8> {
    let arguments = Vmlinux::get().and_then(|kernel| kernel.arguments("tcp_retransmit_skb"));
    let settings = retrans_settings { has_error: u32::from(arguments.is_some_and(|n| n > 2)), pad: 0 };
    settings.as_bytes().to_vec()
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let raw: retrans_event = record::read(bytes)?;
    let kind = match u32::from(raw.event.kind) {
        kind::RETRANS_SYN => "SYN",
        kind::RETRANS_SYNACK => "SYNACK",
        kind::RETRANS_RTO => "RTO",
        kind::RETRANS_TLP => "TLP",
        _ => "FAST",
    };
    let error = (raw.error != 0).then(|| std::io::Error::from_raw_os_error(-raw.error).to_string());
    let values = vec![
        Value::from(kind),
        Value::from(state_name(raw.event.state)),
        raw.seq.into(),
        raw.length.into(),
        raw.segments.into(),
        raw.rtt.into(),
        raw.cwnd.into(),
        error.into(),
    ];
    Some(Record { context: Context::from(&raw.event), values })
}
