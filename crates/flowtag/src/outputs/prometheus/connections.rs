//! One series a flow: how it fares.

use std::collections::HashMap;
use std::sync::Arc;

use flowtag_engine::FlowId;

use crate::outputs::metrics::{Described, Each, Family, Kind, Labels, Number, OTHER, Snapshot, described};
use crate::supervisor::accounts::Volume;

use Kind::{Counter as C, Gauge as G};

/// What each flow moved; what has no series of its own is added up.
const VOLUMES: [Described<Volume>; 6] = [
    described(C, "flowtag_connection_tx", Some("bytes"), "Payload that the flow sent from this host", |v| {
        Some(Number::Count(v.sent))
    }),
    described(
        C,
        "flowtag_connection_rx",
        Some("bytes"),
        "Payload that the flow received at this host",
        |v| Some(Number::Count(v.received)),
    ),
    described(C, "flowtag_connection_retransmit", Some("segments"), "TCP segments sent again", |v| {
        Some(Number::Count(v.retransmitted))
    }),
    described(C, "flowtag_connection_busy", Some("seconds"), "Time with something to send", |v| {
        Some(Number::seconds(v.busy))
    }),
    described(
        C,
        "flowtag_connection_rwnd_limited",
        Some("seconds"),
        "Time in which the other end's window held the flow back",
        |v| Some(Number::seconds(v.receiver_limited)),
    ),
    described(
        C,
        "flowtag_connection_sndbuf_limited",
        Some("seconds"),
        "Time in which this end's send buffer held the flow back",
        |v| Some(Number::seconds(v.buffer_limited)),
    ),
];

/// How each flow is now.
const STATES: [Described<Each>; 8] = [
    described(
        G,
        "flowtag_connection_start_time",
        Some("seconds"),
        "When the flow began, since the epoch",
        |e| Some(Number::seconds(e.view.start_time.as_microsecond().try_into().unwrap_or_default())),
    ),
    described(G, "flowtag_connection_rtt", Some("seconds"), "Smoothed round-trip time", |e| {
        Some(Number::seconds(e.tcp.as_ref()?.info.rtt.into()))
    }),
    described(G, "flowtag_connection_min_rtt", Some("seconds"), "Least round-trip time of late", |e| {
        Some(Number::seconds(e.tcp.as_ref()?.info.least_rtt()?.into()))
    }),
    described(G, "flowtag_connection_cwnd", Some("segments"), "Congestion window", |e| {
        Some(Number::Count(e.tcp.as_ref()?.info.snd_cwnd.into()))
    }),
    described(G, "flowtag_connection_mss", Some("bytes"), "Payload in a segment that is sent", |e| {
        Some(Number::Count(e.tcp.as_ref()?.info.snd_mss.into()))
    }),
    described(G, "flowtag_connection_path_mtu", Some("bytes"), "MTU of the path", |e| {
        Some(Number::Count(e.tcp.as_ref()?.info.pmtu.into()))
    }),
    described(
        G,
        "flowtag_connection_pacing",
        Some("bytes_per_second"),
        "Rate at which packets are paced",
        |e| Some(Number::Count(e.tcp.as_ref()?.info.pacing_rate)),
    ),
    described(
        G,
        "flowtag_connection_delivery",
        Some("bytes_per_second"),
        "Rate of the latest delivery",
        |e| Some(Number::Count(e.tcp.as_ref()?.info.delivery_rate)),
    ),
];

/// What is in the series of single flows, so that the sum of the others can be told and never goes back.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    /// What was last told of flows that have series.
    told: HashMap<FlowId, Volume>,
    /// All that was ever told in such series and is not in `other`.
    sum: Volume,
    /// No flow beyond this number was known at the last scrape.
    newest: u64,
}

impl Beyond {
    /// What all flows moved less what flows with series of their own did, while they had them.
    fn other(&mut self, snapshot: &Snapshot) -> Volume {
        let mut told = HashMap::with_capacity(snapshot.flows.len());
        for each in &snapshot.flows {
            let (id, now) = (each.view.id, each.volume.unwrap_or_default());
            // What moved before the flow got its series is in `other` already, unless nobody could see it there.
            let unseen = if id.get() > self.newest { Volume::default() } else { now };
            let before = self.told.get(&id).copied().unwrap_or(unseen);
            self.sum += now.with(before, u64::saturating_sub);
            told.insert(id, now);
        }
        self.newest = snapshot.newest.max(self.newest);
        self.told = told;
        snapshot.moved().with(self.sum, u64::saturating_sub)
    }
}

pub(super) fn families(snapshot: &Snapshot, beyond: &mut Beyond) -> Vec<Family> {
    let other = Labels::from(
        ["protocol", "local", "remote", "experiment", "activity"].map(|name| (name, OTHER.to_owned())),
    );
    let other = (other, beyond.other(snapshot));
    let labels: Vec<Labels> = snapshot.flows.iter().map(|each| labels(snapshot, each)).collect();
    let labelled = || labels.iter().zip(&snapshot.flows);
    let volumes: Vec<(Labels, Volume)> =
        labelled().filter_map(|(l, each)| Some((Arc::clone(l), each.volume?))).chain([other]).collect();
    let moved = VOLUMES.iter().map(|described| described.family(volumes.iter().map(|(l, v)| (l, v))));
    moved.chain(STATES.iter().map(|described| described.family(labelled()))).collect()
}

fn labels(snapshot: &Snapshot, each: &Each) -> Labels {
    let (view, owner) = (&each.view, snapshot.owner(each.view.tag));
    let ends = [
        ("protocol", view.key.protocol.to_string()),
        ("local", view.key.local.to_string()),
        ("remote", view.key.remote.to_string()),
    ];
    ends.into_iter().chain(owner).collect()
}
