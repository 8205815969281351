//! What is said of one event of a flow: the schema of `docs/json.md`. Keys say their unit.

use flowtag_engine::{EndReason, Registry, ReportState};
use flowtag_kernel::tcp_info::Sample;
use flowtag_wire::Tag;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::outputs::Record;

/// One event.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    /// When flowtag learnt of it.
    pub(crate) time: Timestamp,
    /// `start`, `ongoing` or `end`.
    pub(crate) event: &'static str,
    flow_id: u64,
    protocol: &'static str,
    source_address: String,
    source_port: u16,
    destination_address: String,
    destination_port: u16,
    /// Which end is on this host: `source` or `destination`.
    local_end: &'static str,
    experiment: u16,
    activity: u8,
    experiment_name: Option<&'a str>,
    activity_name: Option<&'a str>,
    /// As `0x30038`.
    flow_label: Option<String>,
    announced_by: &'static str,
    rule: Option<&'a str>,
    application: Option<&'a str>,
    start_time: Timestamp,
    end_time: Option<Timestamp>,
    /// `requested`, `idle`, `closed` or `retagged`.
    end_reason: Option<&'static str>,
    duration_seconds: Option<f64>,
    /// Of payload, from the source.
    sent_bytes: Option<u64>,
    /// Of payload, to the source.
    received_bytes: Option<u64>,
    /// As dCache says it.
    storage_stats: Option<&'a Value>,
    tcp: Option<Tcp<'a>>,
}

/// What the kernel of this host measured of the connection, seen from this host.
#[derive(Debug, Serialize)]
struct Tcp<'a> {
    congestion_control: Option<&'a str>,
    rtt_microseconds: u32,
    rtt_variation_microseconds: u32,
    min_rtt_microseconds: Option<u32>,
    retransmission_timeout_microseconds: u32,
    congestion_window_segments: u32,
    slow_start_threshold_segments: Option<u32>,
    mss_bytes: u32,
    path_mtu_bytes: u32,
    sent_bytes: u64,
    received_bytes: u64,
    retransmitted_bytes: u64,
    sent_segments: u32,
    received_segments: u32,
    retransmitted_segments: u32,
    reordering_events: u32,
    out_of_order_segments: u32,
    ecn_marked_segments: u32,
    peer_window_bytes: u32,
    pacing_bytes_per_second: Option<u64>,
    delivery_bytes_per_second: u64,
    busy_microseconds: u64,
    receive_window_limited_microseconds: u64,
    send_buffer_limited_microseconds: u64,
}

impl<'a> Line<'a> {
    /// `marks`: packets carry labels of ours.
    pub(crate) fn new(record: &'a Record, registry: &'a Registry, marks: bool) -> Self {
        let report = &record.report;
        let Tag { experiment, activity } = report.tag;
        let (flow, is_end) = (report.flow, report.state == ReportState::End);
        let seconds = |end: Timestamp| end.duration_since(report.start_time).as_secs_f64();
        Self {
            time: report.current_time,
            event: event(report.state),
            flow_id: report.id.get(),
            protocol: flow.protocol().name(),
            source_address: flow.src().addr().to_string(),
            source_port: flow.src().port(),
            destination_address: flow.dst().addr().to_string(),
            destination_port: flow.dst().port(),
            local_end: if flow.src() == report.key.local { "source" } else { "destination" },
            experiment: experiment.get(),
            activity: activity.get(),
            experiment_name: registry.experiment_name(experiment),
            activity_name: registry.activity_name(experiment, activity),
            flow_label: report.label.filter(|_| marks).map(|label| label.to_string()),
            announced_by: report.source.0,
            rule: report.rule.as_deref(),
            application: report.application.as_deref(),
            start_time: report.start_time,
            end_time: report.end_time,
            end_reason: is_end.then(|| report.ended.map_or("retagged", EndReason::name)),
            duration_seconds: report.end_time.map(seconds),
            sent_bytes: report.usage.map(|usage| usage.sent),
            received_bytes: report.usage.map(|usage| usage.received),
            storage_stats: report.firefly.as_ref().and_then(|firefly| firefly.storage_stats.as_ref()),
            tcp: record.tcp.as_deref().map(Tcp::new),
        }
    }
}

const fn event(state: ReportState) -> &'static str {
    match state {
        ReportState::Start => "start",
        ReportState::Ongoing => "ongoing",
        ReportState::End => "end",
    }
}

impl<'a> Tcp<'a> {
    fn new(sample: &'a Sample) -> Self {
        /// The kernel's word for none yet.
        const NO_THRESHOLD: u32 = 0x7fff_ffff;
        let info = &sample.info;
        Self {
            congestion_control: sample.congestion.as_deref(),
            rtt_microseconds: info.rtt,
            rtt_variation_microseconds: info.rttvar,
            min_rtt_microseconds: info.least_rtt(),
            retransmission_timeout_microseconds: info.rto,
            congestion_window_segments: info.snd_cwnd,
            slow_start_threshold_segments: Some(info.snd_ssthresh).filter(|t| *t < NO_THRESHOLD),
            mss_bytes: info.snd_mss,
            path_mtu_bytes: info.pmtu,
            sent_bytes: sample.sent,
            received_bytes: sample.received,
            retransmitted_bytes: info.bytes_retrans,
            sent_segments: info.segs_out,
            received_segments: info.segs_in,
            retransmitted_segments: info.total_retrans,
            reordering_events: info.reord_seen,
            out_of_order_segments: info.rcv_ooopack,
            ecn_marked_segments: info.delivered_ce,
            peer_window_bytes: info.snd_wnd,
            pacing_bytes_per_second: Some(info.pacing_rate).filter(|rate| *rate != u64::MAX),
            delivery_bytes_per_second: info.delivery_rate,
            busy_microseconds: info.busy_time,
            receive_window_limited_microseconds: info.rwnd_limited,
            send_buffer_limited_microseconds: info.sndbuf_limited,
        }
    }
}
