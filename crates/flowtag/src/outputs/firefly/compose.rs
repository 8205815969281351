//! From a record to the firefly that tells it, and to at most so many bytes of it.

use flowtag_engine::{Report, ReportState};
use flowtag_wire::FiveTuple;
use flowtag_wire::firefly::{Firefly, State, Usage, WriteError};
use flowtag_wire::syslog::Header;
use jiff::Timestamp;

use super::content::Details;
use crate::config::Content;
use crate::outputs::Record;

/// Fits every IPv6 path (RFC 8200 §5: 1280 bytes) less IPv6 and UDP headers, so a firefly is never fragmented.
pub(crate) const MAX_DATAGRAM: usize = 1280 - 40 - 8;

/// Sender's name where a flow's own application is not known, and in the syslog header.
pub(crate) const APPLICATION: &str = concat!("flowtag-", env!("CARGO_PKG_VERSION"));

pub(super) const fn state(report: &Report) -> State {
    match report.state {
        ReportState::Start => State::Start,
        ReportState::End => State::End,
        ReportState::Ongoing => State::Ongoing,
    }
}

/// The firefly of a record, without what the kernel measured, and that besides.
///
/// What an announcer's firefly said stays: its times, the bytes that it counted, `storage-stats` and foreign keys, and its
/// `netlink` where we measured nothing. Whose traffic it is, since when and until when are the engine's. `flow` is the
/// record's, with the addresses that the world is to see.
pub(super) fn compose(record: &Record, flow: FiveTuple, content: Content) -> (Firefly, Option<Details>) {
    let report = &record.report;
    let details = record.tcp.as_ref().and_then(|sample| Details::new(content, sample));
    let mut firefly = Firefly {
        start_time: Some(report.start_time),
        end_time: report.end_time,
        current_time: Some(report.current_time),
        application: Some(report.application.as_deref().unwrap_or(APPLICATION).to_owned()),
        usage: report.usage.map(|u| Usage { sent: Some(u.sent), received: Some(u.received) }),
        ..Firefly::new(state(report), flow, report.tag)
    };
    if let Some(told) = &report.firefly {
        firefly.current_time = told.current_time.or(firefly.current_time);
        firefly.usage = merged(told.usage, firefly.usage);
        firefly.storage_stats.clone_from(&told.storage_stats);
        firefly.extra.clone_from(&told.extra);
        if details.is_none() {
            firefly.netlink.clone_from(&told.netlink);
        }
        if report.application.is_none() {
            firefly.application = told.application.clone().or(firefly.application);
        }
    }
    (firefly, details)
}

fn merged(told: Option<Usage>, counted: Option<Usage>) -> Option<Usage> {
    let (Some(told), Some(counted)) = (told, counted) else { return told.or(counted) };
    Some(Usage { sent: told.sent.or(counted.sent), received: told.received.or(counted.received) })
}

/// Replaces `out` by the datagram, and says whether something was left out of it.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(
    mut firefly: Firefly,
    details: Option<Details>,
    (now, header): (Timestamp, &Header),
    out: &mut Vec<u8>,
) -> Result<bool, WriteError> {
    let whole = |firefly: &Firefly, out: &mut Vec<u8>| firefly.write_datagram(now, header, usize::MAX, out);
    if let Some(details) = &details {
        firefly.netlink = Some(details.to_object());
    }
    whole(&firefly, out)?;
    if out.len() <= MAX_DATAGRAM {
        return Ok(false);
    }
    if let Some(mut details) = details {
        // Foreign keys go before anything of the connection, which goes before what storage systems say.
        firefly.extra.clear();
        whole(&firefly, out)?;
        let excess = out.len().saturating_sub(MAX_DATAGRAM);
        firefly.netlink = (excess == 0 || details.shorten(excess)).then(|| details.to_object());
    }
    firefly.write_datagram(now, header, MAX_DATAGRAM, out).map(|()| true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flowtag_engine::{FlowId, Source};
    use flowtag_kernel::tcp_info::{Sample, TcpInfo};
    use flowtag_wire::syslog::{AppName, Hostname};
    use flowtag_wire::{Protocol, Tag};
    use serde_json::{Map, Value, json};

    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::new(1_700_000_000 + second, 0).expect("a time")
    }

    fn record(state: ReportState) -> Record {
        let (src, dst) = ("[2001:db8::1]:1", "[2001:db8::2]:2");
        let ends = (src.parse().expect("an end"), dst.parse().expect("an end"));
        let flow = FiveTuple::new(Protocol::Tcp, ends.0, ends.1).expect("a flow");
        let report = Report {
            state,
            id: FlowId::new(1),
            flow,
            key: flow.into(),
            tag: Tag::new(3, 14).expect("a tag"),
            start_time: time(0),
            end_time: (state == ReportState::End).then(|| time(60)),
            current_time: time(61),
            application: None,
            source: Source("test"),
            usage: None,
            firefly: None,
            label: None,
            rule: None,
            ended: None,
        };
        Record { report, tcp: None }
    }

    fn sample() -> Arc<Sample> {
        let info =
            TcpInfo { rtt: 12_345, max_pacing_rate: u64::MAX, bytes_acked: u64::MAX, ..TcpInfo::default() };
        Arc::new(Sample { info, ..Sample::default() })
    }

    fn told(record: &Record) -> Firefly {
        Firefly {
            current_time: Some(time(59)),
            usage: Some(Usage { sent: Some(5), received: None }),
            netlink: Some(Map::from_iter([("rtt".to_owned(), json!(1.5))])),
            storage_stats: Some(json!({ "read-bw": 1.5 })),
            extra: Map::from_iter([("skOps".to_owned(), json!({ "rtt": 1 }))]),
            application: Some("dCache".to_owned()),
            ..Firefly::new(State::End, record.report.flow, Tag::new(3, 14).expect("a tag"))
        }
    }

    #[test]
    fn what_an_announcer_said_stays() {
        let mut record = record(ReportState::End);
        let told = told(&record);
        record.report.firefly = Some(Arc::new(told.clone()));
        record.report.usage = Some(flowtag_engine::Usage { sent: 7, received: 8 });
        let (firefly, details) = compose(&record, record.report.flow, Content::Flowtag);
        assert_eq!(details, None);
        assert_eq!(
            firefly.usage,
            Some(Usage { sent: Some(5), received: Some(8) }),
            "what it counted, then ours"
        );
        assert_eq!((firefly.start_time, firefly.end_time), (Some(time(0)), Some(time(60))), "the engine's");
        let rest = |f: &Firefly| {
            (
                f.current_time,
                f.netlink.clone(),
                f.storage_stats.clone(),
                f.extra.clone(),
                f.application.clone(),
            )
        };
        assert_eq!(rest(&firefly), rest(&told));
        record.tcp = Some(sample());
        let (_, details) = compose(&record, record.report.flow, Content::Flowtag);
        assert_eq!(details.expect("we measured").to_object()["rtt"], json!(12.345));
    }

    #[test]
    fn a_firefly_is_never_longer_than_a_packet_and_keeps_what_matters() {
        let header = Header::new(Hostname::sanitised(&"h".repeat(255)), AppName::sanitised(APPLICATION));
        for content in [
            Content::Flowtag,
            Content::Flowd,
            Content::FlowdGo,
            Content::FlowdGoLean,
            Content::FlowdGoFull,
            Content::None,
        ] {
            let mut record = record(ReportState::End);
            record.tcp = Some(sample());
            record.report.application = Some("a".repeat(128).into());
            record.report.usage = Some(flowtag_engine::Usage { sent: u64::MAX, received: u64::MAX });
            let extra = Map::from_iter([("skOps".to_owned(), json!("x".repeat(1000)))]);
            record.report.firefly = Some(Arc::new(Firefly { extra, ..told(&record) }));
            let (firefly, details) = compose(&record, record.report.flow, content);
            let mut out = Vec::new();
            assert!(
                write(firefly, details, (time(61), &header), &mut out).expect("written"),
                "something is missing"
            );
            assert!(out.len() <= MAX_DATAGRAM, "{content:?}: {}", out.len());
            let read = Firefly::from_datagram(&out).expect("read");
            assert_eq!(read.usage.expect("usage").sent, Some(5), "{content:?}");
            let netlink = Value::from(read.netlink.expect("netlink"));
            let rtt = [&netlink["rtt"], &netlink["tcpInfo"]["rtt"]];
            assert!(rtt.iter().any(|rtt| rtt.is_number()), "{content:?}: {netlink}");
            assert!(read.storage_stats.is_some(), "{content:?}");
        }
    }
}
