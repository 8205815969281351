//! TCP segments that are sent again.

pub mod abi;

use nix::errno::Errno;
use zerocopy::IntoBytes;

use self::abi::{retrans_event, retrans_kind as kind, retrans_settings};
use super::record::{self, Context, Record, Value, state_name};
use super::{Column, Description, Measure, Merge, Metric, Options, Source, Unit};
use crate::btf::Vmlinux;

/// `flowtag retrans`.
pub static PROBE: Description = Description {
    name: "retrans",
    about: "Show each TCP segment that is sent again: whose, why, and whether it worked",
    details: "Segments are counted as the kernel counts them: those that went out are together what the counters \
              RetransSegs less TCPRetransFail of `nstat` grow by. SENT, AGAIN, RETR and DUP are of whole connections, \
              from their begin to their last retransmission. See docs/retrans.md.",
    examples: &[
        ("retrans", "each retransmission"),
        ("retrans -c", "how many, and which part of what was sent, by flow"),
        ("retrans -i 10 --by type", "every ten seconds, by what made TCP send again"),
        ("retrans --tag atlas --json", "those of one experiment, for a program"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/retrans.bpf.o")),
    optional: &[("flowtag_retrans_synack", "SYN-ACK that is sent again")],
    flags: &[],
    columns: &[
        Column::text("type", "TYPE", 6, "Why: SYN, SYNACK, RTO, FAST or TLP"),
        Column::text("state", "STATE", 10, "State of the connection"),
        Column::last("seq", "SEQ", Unit::None, "Sequence number of the first byte")
            .width(10)
            .merge(Merge::Drop)
            .rank(3),
        Column::sum("length_bytes", "LEN", Unit::Bytes, "Payload").width(6).rank(1),
        Column::sum("segments", "SEGS", Unit::None, "Segments that went out").width(4).rank(3),
        Column::sum("failed_segments", "FAIL", Unit::None, "Segments that could not be sent")
            .width(4)
            .rank(5),
        Column::last("rtt_us", "RTT", Unit::Micros, "Smoothed round-trip time").width(7),
        Column::last("cwnd_segments", "CWND", Unit::None, "Congestion window").width(5).rank(1),
        Column::text("error", "ERROR", 7, "Why it could not be sent"),
        Column::last("sent_segments", "SENT", Unit::Count, "Segments that the flow has sent so far")
            .merge(Merge::Each)
            .width(6)
            .rank(7),
        Column::last(
            "retransmitted_segments",
            "AGAIN",
            Unit::Count,
            "How many of them it had sent before, of any type",
        )
        .merge(Merge::Each)
        .width(6)
        .rank(8),
        Column::last("retransmitted_percent", "RETR", Unit::Percent, "Which part that is")
            .width(6)
            .merge(Merge::Share { part: "retransmitted_segments", of: "sent_segments" })
            .rank(4),
        Column::last(
            "spurious_segments",
            "DUP",
            Unit::Count,
            "How many the receiver had already, as it says itself (DSACK)",
        )
        .merge(Merge::Each)
        .width(5)
        .rank(8),
    ],
    metrics: &[Metric {
        name: "flowtag_tcp_retransmit",
        unit: Some("segments"),
        help: "TCP segments that were sent again",
        labels: &["type"],
        measure: Measure::Sum("segments"),
    }],
    settings,
    leave_out: || &[],
    at_start: &[],
    source: Source::Events(decode),
};

fn settings(_: &Options) -> Vec<u8> {
    let arguments = Vmlinux::get().and_then(|kernel| kernel.arguments("tcp_retransmit_skb"));
    let settings = retrans_settings { has_error: u32::from(arguments.is_some_and(|n| n > 2)), pad: 0 };
    settings.as_bytes().to_vec()
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let raw: retrans_event = record::read(bytes)?;
    let (segments, failed) = if raw.error == 0 { (raw.segments, 0) } else { (0, raw.segments) };
    let known = raw.sent > 0;
    let share = 100.0 * f64::from(raw.total) / f64::from(raw.sent);
    let values = vec![
        Value::from(type_word(raw.event.kind)),
        Value::from(state_name(raw.event.state)),
        raw.seq.into(),
        raw.length.into(),
        segments.into(),
        failed.into(),
        (raw.rtt > 0).then_some(raw.rtt).into(),
        (raw.cwnd > 0).then_some(raw.cwnd).into(),
        (raw.error != 0).then(|| error_word(raw.error)).into(),
        known.then_some(raw.sent).into(),
        known.then_some(raw.total).into(),
        known.then_some(share).into(),
        known.then_some(raw.spurious).into(),
    ];
    Some(Record { context: Context::from(&raw.event), values })
}

fn type_word(kind: u16) -> &'static str {
    match kind.into() {
        kind::RETRANS_SYN => "SYN",
        kind::RETRANS_SYNACK => "SYNACK",
        kind::RETRANS_RTO => "RTO",
        kind::RETRANS_TLP => "TLP",
        _ => "FAST",
    }
}

/// Positive is a verdict of the interface's queue (`NET_XMIT_DROP`), negative an errno.
fn error_word(error: i32) -> String {
    if error > 0 { "DROPPED".to_owned() } else { format!("{:?}", Errno::from_raw(error.saturating_neg())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_sent_is_not_counted_as_sent() {
        for (error, word, segments, failed) in [
            (0, Value::None, 3u32, 0u32),
            (-16, Value::from("EBUSY"), 0, 3),
            (-113, Value::from("EHOSTUNREACH"), 0, 3),
            (1, Value::from("DROPPED"), 0, 3),
        ] {
            let raw = retrans_event { error, segments: 3, ..zerocopy::FromZeros::new_zeroed() };
            let record = decode(raw.as_bytes()).expect("a whole event");
            let value = |name| {
                let at = PROBE.columns.iter().position(|c| c.name == name).expect("a column");
                record.values[at].clone()
            };
            assert_eq!(
                (value("error"), value("segments"), value("failed_segments")),
                (word, segments.into(), failed.into()),
                "{error}"
            );
            assert_eq!(value("retransmitted_percent"), Value::None, "unknown is not 0 %");
        }
    }

    #[test]
    fn there_is_a_value_for_each_column() {
        let raw: retrans_event = zerocopy::FromZeros::new_zeroed();
        assert_eq!(decode(raw.as_bytes()).map(|r| r.values.len()), Some(PROBE.columns.len()));
    }
}
