//! The metrics of flowd and flowd-go: their names, labels and units, with the values that the names promise.
//!
//! Of flows whose connection this host knows, one series each. What only grows is a counter, and counts from the start of the
//! connection. Where flowd-go prints an address of its own program in `flow`, these are the ports.

use crate::outputs::metrics::{Described, Each, Family, Kind, Labels, Number, Snapshot, described};

use Kind::{Counter as C, Gauge as G};

/// The kernel's values of a flow.
macro_rules! tcp {
    ($field:ident) => {
        |each: &Each| Some(Number::Count(each.tcp.as_ref()?.info.$field.into()))
    };
    ($field:ident ms) => {
        |each: &Each| Some(millis(each.tcp.as_ref()?.info.$field.into()))
    };
}

/// The kernel's memory of a flow's socket.
macro_rules! memory {
    ($field:ident) => {
        |each: &Each| Some(Number::Count(each.tcp.as_ref()?.memory?.$field.into()))
    };
}

/// Milliseconds, of microseconds.
#[expect(clippy::cast_precision_loss, reason = "beyond 285 years only")]
fn millis(micros: u64) -> Number {
    Number::Real(micros as f64 / 1e3)
}

/// What both of them have, with the same meaning.
const BOTH: [Described<Each>; 18] = [
    described(G, "flow_tcp_pmtu", None, "MTU of the path in bytes", tcp!(pmtu)),
    described(G, "flow_tcp_mss", None, "MSS of the sender in bytes", tcp!(snd_mss)),
    described(G, "flow_tcp_rcvmss", None, "MSS of the receiver in bytes", tcp!(rcv_mss)),
    described(G, "flow_tcp_advmss", None, "Advertised MSS in bytes", tcp!(advmss)),
    described(G, "flow_tcp_cwnd", None, "Congestion window in segments", tcp!(snd_cwnd)),
    described(G, "flow_tcp_ssthresh", None, "Slow-start threshold in segments", tcp!(snd_ssthresh)),
    described(C, "flow_tcp_bytes_sent", None, "Bytes sent", tcp!(bytes_sent)),
    described(C, "flow_tcp_bytes_acked", None, "Bytes acknowledged", tcp!(bytes_acked)),
    described(C, "flow_tcp_bytes_received", None, "Bytes received", tcp!(bytes_received)),
    described(C, "flow_tcp_segs_out", None, "Segments sent", tcp!(segs_out)),
    described(C, "flow_tcp_segs_in", None, "Segments received", tcp!(segs_in)),
    described(C, "flow_tcp_data_segs_out", None, "Segments with data sent", tcp!(data_segs_out)),
    described(C, "flow_tcp_data_segs_in", None, "Segments with data received", tcp!(data_segs_in)),
    described(G, "flow_tcp_lastsnd", None, "Since data was sent, in milliseconds", tcp!(last_data_sent)),
    described(G, "flow_tcp_lastrcv", None, "Since data was received, in milliseconds", tcp!(last_data_recv)),
    described(
        G,
        "flow_tcp_lastack",
        None,
        "Since an acknowledgement was received, in milliseconds",
        tcp!(last_ack_recv),
    ),
    described(G, "flow_tcp_rcv_space", None, "Receive buffer space in bytes", tcp!(rcv_space)),
    described(G, "flow_tcp_rcv_ssthresh", None, "Clamp of the receive window in bytes", tcp!(rcv_ssthresh)),
];

/// flowd-go 2.4, beside [`BOTH`]. Times in microseconds but for `last…`, in milliseconds; rates in bytes per second.
const FLOWD_GO: [Described<Each>; 12] = [
    described(G, "flow_tcp_retrans", None, "Retransmitted packets", tcp!(total_retrans)),
    described(G, "flow_tcp_rto", None, "Retransmission time-out in microseconds", tcp!(rto)),
    described(G, "flow_tcp_ato", None, "Delayed acknowledgement time-out in microseconds", tcp!(ato)),
    described(G, "flow_tcp_rtt", None, "Round-trip time in microseconds", tcp!(rtt)),
    described(G, "flow_tcp_rtt_var", None, "Round-trip time variation in microseconds", tcp!(rttvar)),
    described(G, "flow_tcp_minrtt", None, "Least round-trip time in microseconds", |each| {
        Some(Number::Count(each.tcp.as_ref()?.info.least_rtt()?.into()))
    }),
    described(G, "flow_tcp_pacing_rate", None, "Pacing rate in bytes per second", tcp!(pacing_rate)),
    described(G, "flow_tcp_delivery_rate", None, "Delivery rate in bytes per second", tcp!(delivery_rate)),
    described(G, "flow_tcp_delivered", None, "Packets delivered, retransmissions included", tcp!(delivered)),
    described(G, "flow_tcp_busy", None, "Time spent sending in microseconds", tcp!(busy_time)),
    described(
        G,
        "flow_tcp_rwnd_limited",
        None,
        "Time stalled by the receiver's window in microseconds",
        tcp!(rwnd_limited),
    ),
    described(
        G,
        "flow_tcp_rcv_snd_wnd",
        None,
        "Window that the other end announced, in bytes",
        tcp!(snd_wnd),
    ),
];

/// flowd 1.1, beside [`BOTH`], which passes on what `ss -i` prints: times in milliseconds, rates in bits per second.
const FLOWD: [Described<Each>; 27] = [
    described(G, "flow_tcp_rto", None, "Retransmission time-out in milliseconds", tcp!(rto ms)),
    described(G, "flow_tcp_ato", None, "Delayed acknowledgement time-out in milliseconds", tcp!(ato ms)),
    described(G, "flow_tcp_rtt", None, "Round-trip time in milliseconds", tcp!(rtt ms)),
    described(G, "flow_tcp_rtt_var", None, "Round-trip time variation in milliseconds", tcp!(rttvar ms)),
    described(
        G,
        "flow_tcp_rcv_rtt",
        None,
        "Round-trip time as the receiver estimates it, in milliseconds",
        tcp!(rcv_rtt ms),
    ),
    described(G, "flow_tcp_minrtt", None, "Least round-trip time in milliseconds", |each| {
        Some(millis(each.tcp.as_ref()?.info.least_rtt()?.into()))
    }),
    described(C, "flow_tcp_retrans", None, "Segments sent again", tcp!(total_retrans)),
    described(C, "flow_tcp_bytes_retrans", None, "Bytes sent again", tcp!(bytes_retrans)),
    described(G, "flow_tcp_pacing_rate", None, "Pacing rate in bits per second", |each| {
        Some(Number::Count(each.tcp.as_ref()?.info.pacing_rate.saturating_mul(8)))
    }),
    described(G, "flow_tcp_delivery_rate", None, "Delivery rate in bits per second", |each| {
        Some(Number::Count(each.tcp.as_ref()?.info.delivery_rate.saturating_mul(8)))
    }),
    described(G, "flow_tcp_delivered", None, "Segments delivered, retransmissions included", tcp!(delivered)),
    described(G, "flow_tcp_unacked", None, "Segments not acknowledged yet", tcp!(unacked)),
    described(G, "flow_tcp_lost", None, "Segments taken for lost", tcp!(lost)),
    described(G, "flow_tcp_busy", None, "Time spent sending in milliseconds", tcp!(busy_time ms)),
    described(
        G,
        "flow_tcp_rwnd_limited",
        None,
        "Time stalled by the receiver's window in milliseconds",
        tcp!(rwnd_limited ms),
    ),
    described(
        G,
        "flow_tcp_sndbuf_limited",
        None,
        "Time stalled by the send buffer in milliseconds",
        tcp!(sndbuf_limited ms),
    ),
    described(G, "flow_tcp_snd_wnd", None, "Window that the other end announced, in bytes", tcp!(snd_wnd)),
    described(G, "flow_tcp_notsent", None, "Bytes that wait to be sent", tcp!(notsent_bytes)),
    described(G, "flow_tcp_skmem_rmem_alloc", None, "Bytes received and not read yet", memory!(rmem_alloc)),
    described(G, "flow_tcp_skmem_rcv_buf", None, "Bytes that may be received", memory!(rcvbuf)),
    described(G, "flow_tcp_skmem_wmem_allow", None, "Bytes handed to the interface", memory!(wmem_alloc)),
    described(G, "flow_tcp_skmem_snd_buf", None, "Bytes that may wait to be sent", memory!(sndbuf)),
    described(G, "flow_tcp_skmem_fwd_alloc", None, "Bytes reserved in advance", memory!(fwd_alloc)),
    described(
        G,
        "flow_tcp_skmem_wmem_queued",
        None,
        "Bytes to be sent or acknowledged",
        memory!(wmem_queued),
    ),
    described(G, "flow_tcp_skmem_opt_mem", None, "Bytes for options and filters", memory!(optmem)),
    described(
        G,
        "flow_tcp_skmem_back_log",
        None,
        "Bytes that wait for the lock of the socket",
        memory!(backlog),
    ),
    described(G, "flow_tcp_skmem_sock_drop", None, "Packets dropped for want of room", memory!(drops)),
];

/// The metrics of flowd-go.
pub(super) fn flowd_go(snapshot: &Snapshot) -> Vec<Family> {
    let labels = |each: &Each| {
        let (flow, tag) = (each.view.flow, each.view.tag);
        Labels::from([
            ("act", tag.activity.to_string()),
            ("exp", tag.experiment.to_string()),
            ("src", flow.src().addr().to_string()),
            ("dst", flow.dst().addr().to_string()),
            ("flow", format!("<{}:{}>", flow.src().port(), flow.dst().port())),
            ("flavour", "Netlink".to_owned()),
        ])
    };
    let algorithm = |each: &Each| Some([("alg", each.tcp.as_ref()?.congestion.as_deref()?.to_owned())]);
    families(
        snapshot,
        &FLOWD_GO,
        labels,
        ("flow_tcp_rcv_ca_info", "1, with the congestion control"),
        algorithm,
    )
}

/// The metrics of flowd.
pub(super) fn flowd(snapshot: &Snapshot) -> Vec<Family> {
    let labels = |each: &Each| {
        let (flow, [experiment, activity, ..]) = (each.view.flow, snapshot.owner(each.view.tag));
        Labels::from([
            ("src", flow.src().addr().to_string()),
            ("dst", flow.dst().addr().to_string()),
            ("exp", experiment.1),
            ("act", activity.1),
            ("flow", format!("{}:{}", flow.src().port(), flow.dst().port())),
        ])
    };
    let options = |each: &Each| Some([("opts", options(each)?)]);
    families(
        snapshot,
        &FLOWD,
        labels,
        ("flow_tcp_ca_info", "1, with options of TCP and congestion control"),
        options,
    )
}

/// As `ss -i` prints them.
fn options(each: &Each) -> Option<String> {
    let tcp = each.tcp.as_ref()?;
    let names = [(1, "ts"), (2, "sack"), (8, "ecn"), (16, "ecnseen"), (32, "fastopen")];
    let set = names.iter().filter(|(bit, _)| tcp.info.options & bit != 0).map(|(_, name)| (*name).to_owned());
    let scales = tcp.info.snd_wscale().zip(tcp.info.rcv_wscale());
    let scales = scales.map(|(sent, received)| format!("wscale:{sent},{received}"));
    Some(set.chain(tcp.congestion.as_deref().map(str::to_owned)).chain(scales).collect::<Vec<_>>().join(" "))
}

fn families(
    snapshot: &Snapshot,
    own: &[Described<Each>],
    labels: impl Fn(&Each) -> Labels,
    (info, help): (&'static str, &'static str),
    more: impl Fn(&Each) -> Option<[(&'static str, String); 1]>,
) -> Vec<Family> {
    let flows: Vec<_> =
        snapshot.flows.iter().filter(|each| each.tcp.is_some()).map(|each| (labels(each), each)).collect();
    let mut families: Vec<_> = BOTH
        .iter()
        .chain(own)
        .map(|described| described.family(flows.iter().map(|(labels, each)| (labels, *each))))
        .collect();
    let infos = flows.iter().filter_map(|(labels, each)| {
        Some((labels.iter().cloned().chain(more(each)?).collect(), Number::Count(1)))
    });
    families.push(Family {
        name: info.into(),
        unit: None,
        kind: Kind::Gauge,
        help: help.into(),
        points: infos.collect(),
    });
    families
}
