//! What a firefly says of the connection: `netlink`, in the shape of whoever is to read it.
//!
//! Pure: from the kernel's values to JSON. Whatever the shape, collectors find the round-trip time in milliseconds at
//! `netlink.rtt` where the shape has such a key at all. A value that the kernel did not measure is left out. What does not
//! fit a datagram is left out from the end: each shape lists what matters most first.

use flowtag_kernel::tcp_info::{Sample, TcpInfo};
use serde_json::{Map, Value, json};

use crate::config::Content;

/// A slow-start threshold from here on is none yet, to flowd.
const NO_THRESHOLD: u32 = 0xffff;
/// The time-out of a connection that measured nothing yet, in microseconds, to flowd.
const NO_TIMEOUT: u32 = 3_000_000;

/// Keys and values, the most important first.
type Fields = Vec<(&'static str, Value)>;

/// A `netlink` to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Details {
    /// Key of the object that `fields` are in; none: they are at the top.
    within: Option<&'static str>,
    /// At the top, beside that object.
    beside: Fields,
    fields: Fields,
}

impl Details {
    /// None: nothing is to be said.
    pub(super) fn new(content: Content, sample: &Sample) -> Option<Self> {
        let (within, beside, fields) = match content {
            Content::None => return None,
            Content::Flowtag => (None, Vec::new(), flowtag(sample)),
            Content::Flowd => {
                (Some("tcp_info"), [rtt(&sample.info), algorithm(sample)].concat(), flowd(&sample.info))
            }
            Content::FlowdGo => (None, Vec::new(), flowd_go_flat(&sample.info)),
            Content::FlowdGoLean => (Some("tcpInfo"), cong(sample), lean(&sample.info)),
            Content::FlowdGoFull => (Some("tcpInfo"), cong(sample), full(&sample.info)),
        };
        Some(Self { within, beside, fields })
    }

    /// Leaves out what matters least, until there are `excess` bytes of JSON less, or nothing is left. Says whether something
    /// is left.
    pub(super) fn shorten(&mut self, excess: usize) -> bool {
        let mut saved = 0;
        while saved < excess {
            let Some((key, value)) = self.fields.pop().or_else(|| self.beside.pop()) else { return false };
            saved += key.len() + value.to_string().len() + r#""":,"#.len();
        }
        !(self.fields.is_empty() && self.beside.is_empty())
    }

    pub(super) fn to_object(&self) -> Map<String, Value> {
        let object =
            |fields: &Fields| fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<Map<_, _>>();
        match self.within {
            None => object(&self.fields),
            Some(key) => {
                let mut top = object(&self.beside);
                top.insert(key.to_owned(), object(&self.fields).into());
                top
            }
        }
    }
}

/// Milliseconds, to the microsecond.
fn ms(microseconds: u32) -> Value {
    json!(f64::from(microseconds) / 1000.0)
}

fn rtt(info: &TcpInfo) -> Fields {
    vec![("rtt", ms(info.rtt))]
}

fn algorithm(sample: &Sample) -> Fields {
    sample.congestion.iter().map(|name| ("cong_algo", json!(&**name))).collect()
}

fn cong(sample: &Sample) -> Fields {
    sample.congestion.iter().map(|name| ("cong", json!({ "algorithm": &**name }))).collect()
}

/// Ours: what a person looks for first. All times in milliseconds.
fn flowtag(sample: &Sample) -> Fields {
    let info = &sample.info;
    let mut fields = rtt(info);
    fields.extend(info.least_rtt().map(|least| ("min_rtt", ms(least))));
    fields.extend([
        ("rtt_var", ms(info.rttvar)),
        ("segs_out", json!(info.data_segs_out)),
        ("segs_retrans", json!(info.total_retrans)),
        ("bytes_retrans", json!(info.bytes_retrans)),
        ("mss", json!(info.snd_mss)),
        ("pmtu", json!(info.pmtu)),
        ("cwnd", json!(info.snd_cwnd)),
        ("delivery_rate", json!(info.delivery_rate)),
        ("busy_ms", json!(info.busy_time / 1000)),
        ("rwnd_limited_ms", json!(info.rwnd_limited / 1000)),
        ("sndbuf_limited_ms", json!(info.sndbuf_limited / 1000)),
    ]);
    fields.extend(sample.congestion.iter().map(|name| ("cong", json!(&**name))));
    fields
}

const fn state_name(state: u8) -> &'static str {
    match state {
        1 => "established",
        2 => "syn-sent",
        3 | 12 => "syn-recv",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 => "unconnected",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listening",
        11 => "closing",
        _ => "invalid",
    }
}

fn option_names(options: u8) -> Value {
    let names = [(1, "ts"), (2, "sack"), (8, "ecn")];
    names.iter().filter(|(bit, _)| options & bit != 0).map(|(_, name)| *name).collect()
}

/// Window scales: what is sent in the low half, what is received in the high half.
const fn window_scales(info: &TcpInfo) -> (u8, u8) {
    (info.wscales & 0xf, info.wscales >> 4)
}

/// Values with the names that both flowd and flowd-go give them, in flowd's units: round-trip times and time-outs in
/// milliseconds, the least round-trip time in microseconds.
fn flowd_common(info: &TcpInfo) -> Fields {
    let (snd_wscale, rcv_wscale) = window_scales(info);
    let mut fields =
        vec![("rtt", ms(info.rtt)), ("rttvar", ms(info.rttvar)), ("state", json!(state_name(info.state)))];
    fields.extend(info.least_rtt().map(|least| ("min_rtt", json!(least))));
    fields.extend([
        ("total_retrans", json!(info.total_retrans)),
        ("pmtu", json!(info.pmtu)),
        ("snd_mss", json!(info.snd_mss)),
        ("snd_cwnd", json!(info.snd_cwnd)),
        ("bytes_acked", json!(info.bytes_acked)),
        ("bytes_received", json!(info.bytes_received)),
        ("delivery_rate", json!(info.delivery_rate)),
        ("pacing_rate", json!(info.pacing_rate)),
        ("data_segs_out", json!(info.data_segs_out)),
        ("data_segs_in", json!(info.data_segs_in)),
        ("segs_out", json!(info.segs_out)),
        ("segs_in", json!(info.segs_in)),
        ("rcv_rtt", ms(info.rcv_rtt)),
        ("rcv_space", json!(info.rcv_space)),
        ("rcv_ssthresh", json!(info.rcv_ssthresh)),
        ("rcv_mss", json!(info.rcv_mss)),
        ("advmss", json!(info.advmss)),
        ("busy_time", json!(info.busy_time)),
        ("rwnd_limited", json!(info.rwnd_limited)),
        ("sndbuf_limited", json!(info.sndbuf_limited)),
        ("retrans", json!(info.retrans)),
        ("retransmits", json!(info.retransmits)),
        ("lost", json!(info.lost)),
        ("unacked", json!(info.unacked)),
        ("sacked", json!(info.sacked)),
        ("notsent_bytes", json!(info.notsent_bytes)),
        ("opts", option_names(info.options)),
        ("ca_state", json!(info.ca_state)),
        ("reordering", json!(info.reordering)),
        ("snd_wscale", json!(snd_wscale)),
        ("rcv_wscale", json!(rcv_wscale)),
        ("ato", ms(info.ato)),
        ("last_data_sent", json!(info.last_data_sent)),
        ("last_data_recv", json!(info.last_data_recv)),
        ("last_ack_recv", json!(info.last_ack_recv)),
        ("last_ack_sent", json!(info.last_ack_sent)),
        ("delivery_rate_app_limited", json!(info.flags & 1)),
        ("probes", json!(info.probes)),
        ("max_pacing_rate", json!(info.max_pacing_rate)),
        ("fackets", json!(info.fackets)),
    ]);
    fields
}

/// flowd knows "none yet" of two values, and leaves them out.
fn flowd(info: &TcpInfo) -> Fields {
    let mut fields = flowd_common(info);
    let rto = (info.rto != NO_TIMEOUT).then(|| ("rto", ms(info.rto)));
    let ssthresh = (info.snd_ssthresh < NO_THRESHOLD).then(|| ("snd_ssthresh", json!(info.snd_ssthresh)));
    fields.extend(rto.into_iter().chain(ssthresh));
    fields
}

/// flowd-go writes 0 for it.
fn flowd_go_flat(info: &TcpInfo) -> Fields {
    let mut fields = flowd_common(info);
    let ssthresh = if info.snd_ssthresh < NO_THRESHOLD { info.snd_ssthresh } else { 0 };
    let rto = if info.rto == NO_TIMEOUT { json!(0) } else { ms(info.rto) };
    fields.extend([("rto", rto), ("snd_ssthresh", json!(ssthresh)), ("backoff", json!(info.backoff))]);
    fields
}

/// With the capital that flowd-go's lean mode has in one key.
fn lean(info: &TcpInfo) -> Fields {
    let mut fields = vec![("rtt", json!(info.rtt)), ("rttVar", json!(info.rttvar))];
    fields.extend(info.least_rtt().map(|least| ("minRtt", json!(least))));
    fields.extend([
        ("bytesSent", json!(info.bytes_sent)),
        ("deliveryRate", json!(info.delivery_rate)),
        ("Retransmits", json!(info.retransmits)),
        ("pMtu", json!(info.pmtu)),
        ("sndMss", json!(info.snd_mss)),
        ("sndCwnd", json!(info.snd_cwnd)),
        ("sndSsThresh", json!(info.snd_ssthresh)),
        ("advMss", json!(info.advmss)),
    ]);
    fields
}

/// Times in microseconds, as the kernel has them.
fn full(info: &TcpInfo) -> Fields {
    let (snd_wscale, rcv_wscale) = window_scales(info);
    let mut fields = lean(info);
    fields.retain(|(key, _)| *key != "Retransmits");
    fields.extend([
        ("totalRetrans", json!(info.total_retrans)),
        ("bytesRetrans", json!(info.bytes_retrans)),
        ("bytesAcked", json!(info.bytes_acked)),
        ("bytesRecv", json!(info.bytes_received)),
        ("state", json!(info.state)),
        ("caState", json!(info.ca_state)),
        ("retransmits", json!(info.retransmits)),
        ("dataSegsOut", json!(info.data_segs_out)),
        ("dataSegsIn", json!(info.data_segs_in)),
        ("segsOut", json!(info.segs_out)),
        ("segsIn", json!(info.segs_in)),
        ("busyTime", json!(info.busy_time)),
        ("rwndLimited", json!(info.rwnd_limited)),
        ("sndBufLimited", json!(info.sndbuf_limited)),
        ("pacingRate", json!(info.pacing_rate)),
        ("sndWnd", json!(info.snd_wnd)),
        ("rcvRtt", json!(info.rcv_rtt)),
        ("rcvSpace", json!(info.rcv_space)),
        ("rcvSsThresh", json!(info.rcv_ssthresh)),
        ("rcvMss", json!(info.rcv_mss)),
        ("rto", json!(info.rto)),
        ("ato", json!(info.ato)),
        ("lost", json!(info.lost)),
        ("retrans", json!(info.retrans)),
        ("unAcked", json!(info.unacked)),
        ("sAcked", json!(info.sacked)),
        ("notsentBytes", json!(info.notsent_bytes)),
        ("delivered", json!(info.delivered)),
        ("deliveredCe", json!(info.delivered_ce)),
        ("dsAckDups", json!(info.dsack_dups)),
        ("reordSeen", json!(info.reord_seen)),
        ("reordering", json!(info.reordering)),
        ("rcvOooPack", json!(info.rcv_ooopack)),
        ("lastDataSent", json!(info.last_data_sent)),
        ("lastDataRecv", json!(info.last_data_recv)),
        ("lastAckRecv", json!(info.last_ack_recv)),
    ]);
    fields.extend(seldom(info, snd_wscale, rcv_wscale));
    fields
}

fn seldom(info: &TcpInfo, snd_wscale: u8, rcv_wscale: u8) -> [(&'static str, Value); 9] {
    [
        ("options", json!(info.options)),
        ("sndWscale", json!(snd_wscale)),
        ("rcvdWscale", json!(rcv_wscale)),
        ("deliveryRateAppLimited", json!(info.flags & 1)),
        ("fastOpenClientFail", json!(info.flags >> 1 & 3)),
        ("probes", json!(info.probes)),
        ("backoff", json!(info.backoff)),
        ("lastAckSent", json!(info.last_ack_sent)),
        ("fAckets", json!(info.fackets)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        let info = TcpInfo {
            state: 1,
            options: 1 | 2 | 8,
            wscales: 0x97,
            flags: 1 | 2 << 1,
            rtt: 250,
            rttvar: 1500,
            min_rtt: 199,
            rto: 201_000,
            snd_mss: 1428,
            pmtu: 1500,
            snd_ssthresh: 0x7fff_ffff,
            snd_cwnd: 10,
            total_retrans: 7,
            retransmits: 2,
            bytes_acked: 1 << 40,
            bytes_sent: (1 << 40) + 7 * 1428,
            busy_time: 3_000_000,
            max_pacing_rate: u64::MAX,
            ..TcpInfo::default()
        };
        Sample { info, congestion: "cubic".parse().ok(), ..Sample::default() }
    }

    #[track_caller]
    fn object(content: Content, sample: &Sample) -> Map<String, Value> {
        Details::new(content, sample).expect("something to say").to_object()
    }

    #[test]
    fn collectors_find_a_round_trip_time_below_a_millisecond() {
        for content in [Content::Flowtag, Content::Flowd, Content::FlowdGo] {
            assert_eq!(object(content, &sample())["rtt"], json!(0.25), "{content:?}");
        }
        assert_eq!(Details::new(Content::None, &sample()), None);
    }

    #[test]
    fn ours_is_small_and_has_times_in_milliseconds() {
        let ours = object(Content::Flowtag, &sample());
        assert_eq!((&ours["min_rtt"], &ours["rtt_var"]), (&json!(0.199), &json!(1.5)));
        assert_eq!(
            (&ours["segs_retrans"], &ours["mss"], &ours["pmtu"]),
            (&json!(7), &json!(1428), &json!(1500))
        );
        assert_eq!((&ours["busy_ms"], &ours["cong"]), (&json!(3000), &json!("cubic")));
        assert!(Value::from(ours).to_string().len() < 300);
    }

    #[test]
    fn flowd_has_its_units_and_leaves_out_what_is_not_known() {
        let all = object(Content::Flowd, &sample());
        assert_eq!(all["cong_algo"], "cubic");
        let info = all["tcp_info"].as_object().expect("an object");
        assert_eq!(
            (&info["rtt"], &info["rto"], &info["min_rtt"]),
            (&json!(0.25), &json!(201.0), &json!(199))
        );
        assert_eq!((&info["state"], &info["opts"]), (&json!("established"), &json!(["ts", "sack", "ecn"])));
        assert_eq!((&info["snd_wscale"], &info["rcv_wscale"]), (&json!(7), &json!(9)));
        assert_eq!(info.get("snd_ssthresh"), None, "none yet");
        let unmeasured = Sample {
            info: TcpInfo { min_rtt: u32::MAX, rto: NO_TIMEOUT, ..sample().info },
            ..Sample::default()
        };
        let all = object(Content::Flowd, &unmeasured);
        assert_eq!(
            (all.get("cong_algo"), all["tcp_info"].get("min_rtt"), all["tcp_info"].get("rto")),
            (None, None, None)
        );
    }

    #[test]
    fn flowd_go_is_flat_lean_or_full_with_the_kernels_numbers() {
        let flat = object(Content::FlowdGo, &sample());
        assert_eq!(
            (&flat["snd_ssthresh"], &flat["backoff"], &flat["state"]),
            (&json!(0), &json!(0), &json!("established"))
        );
        assert_eq!(flat["bytes_acked"], json!(1_u64 << 40));
        let lean = object(Content::FlowdGoLean, &sample());
        assert_eq!(lean["cong"], json!({ "algorithm": "cubic" }));
        let keys: Vec<_> =
            lean["tcpInfo"].as_object().expect("an object").keys().map(String::as_str).collect();
        let wanted = [
            "Retransmits",
            "advMss",
            "bytesSent",
            "deliveryRate",
            "minRtt",
            "pMtu",
            "rtt",
            "rttVar",
            "sndCwnd",
            "sndMss",
            "sndSsThresh",
        ];
        assert_eq!(keys, wanted);
        assert_eq!(lean["tcpInfo"]["rtt"], json!(250), "in microseconds");
        let full = object(Content::FlowdGoFull, &sample());
        let info = full["tcpInfo"].as_object().expect("an object");
        assert_eq!((&info["deliveryRateAppLimited"], &info["fastOpenClientFail"]), (&json!(1), &json!(2)));
        assert_eq!(info["bytesSent"], json!((1_u64 << 40) + 7 * 1428));
        assert_eq!(info.len(), 55, "{info:?}");
    }

    #[test]
    fn what_matters_most_is_left_when_room_is_short() {
        for content in
            [Content::Flowtag, Content::Flowd, Content::FlowdGo, Content::FlowdGoLean, Content::FlowdGoFull]
        {
            let mut details = Details::new(content, &sample()).expect("something to say");
            let whole = Value::from(details.to_object()).to_string().len();
            assert!(details.shorten(whole / 2), "{content:?}");
            let left = Value::from(details.to_object());
            assert!(left.to_string().len() <= whole - whole / 2, "{content:?}: {left}");
            let within = left.get("tcp_info").or(left.get("tcpInfo")).unwrap_or(&left);
            assert!(within.get("rtt").is_some(), "{content:?}: {left}");
            assert!(!details.shorten(whole), "{content:?}: nothing is left");
        }
    }
}
