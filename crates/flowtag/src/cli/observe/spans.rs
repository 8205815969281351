//! What each connection did between two looks, with its verdict: what `why` and `flows` show.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use flowtag_kernel::probes::why::{self, Look};
use flowtag_kernel::probes::{self, Losses, Options, Record, Session, state_name};
use serde_json::{Map, Value, json};

use super::args::{Wanted, Watch};
use super::names::Names;
use super::table::View;
use super::watch::{self, context, daemon_flows};
use crate::cli::registry;
use crate::verdict::{Shares, Span, Verdict, Way, advice};

/// Looks at connections, and remembers the look before.
#[derive(Debug)]
pub(super) struct Watched {
    session: Session,
    pub(super) names: Names,
    wanted: Wanted,
    before: HashMap<u64, Look>,
}

/// A connection in the time between two looks.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Whose it is; it has no values.
    pub(super) record: Record,
    pub(super) cookie: u64,
    pub(super) state: &'static str,
    pub(super) span: Span,
    pub(super) verdict: Verdict,
}

impl Watched {
    /// Starts, and looks for the first time.
    pub(super) fn start(watch: &Watch) -> Result<Self> {
        let names = Names::new(registry::of_this_host());
        let wanted = watch.wanted(&names)?;
        let flows = daemon_flows(watch);
        let session = watch::start(&watch.scope()?, flows.as_ref(), &[(&why::PROBE, Options::default())])?;
        let mut watched = Self { session, names, wanted, before: HashMap::new() };
        watched.look()?;
        Ok(watched)
    }

    /// What was told and what was lost.
    pub(super) fn losses(&self) -> Result<Losses> {
        let flows = self.session.probe(why::PROBE.name).map(|probe| probe.losses()).transpose()?;
        let all = self.session.losses()?;
        // The session counts a socket once more for whose it is.
        Ok(Losses { flows: flows.map_or(all.flows, |own| own.flows), ..all })
    }

    /// What each wanted connection did since the last call; also those that ended.
    pub(super) fn look(&mut self) -> Result<Vec<Seen>> {
        let loaded = self.session.probe(why::PROBE.name).context("the probe is loaded")?;
        let looks = Look::take(loaded)?;
        let mut after = HashMap::with_capacity(looks.len());
        let mut all = Vec::with_capacity(looks.len());
        for look in looks {
            let Some(cookie) = look.context.cookie else { continue };
            if self.wanted.wants(&look.context, &self.names) {
                all.push(Seen::new(cookie, self.before.get(&cookie), &look));
            }
            if !look.is_closed {
                after.insert(cookie, look);
            }
        }
        self.before = after;
        Ok(all)
    }

    /// Only connections that match this expression from now on.
    pub(super) fn filter(&mut self, text: &str) -> Result<()> {
        self.wanted.expect(text, &self.names)
    }

    pub(super) fn view(&self) -> View<'_> {
        View { names: &self.names, epoch: probes::wall_clock() }
    }
}

impl Seen {
    fn new(cookie: u64, before: Option<&Look>, now: &Look) -> Self {
        let span = Span::between(before, now);
        let record = Record { context: now.context.clone(), values: Vec::new() };
        let state = if now.is_closed { "CLOSED" } else { state_name(now.state) };
        Self { record, cookie, state, verdict: Verdict::of(&span), span }
    }

    /// Bytes both ways.
    pub(super) fn bytes(&self) -> u64 {
        self.span.sent + self.span.received
    }

    /// As one line of JSON has it.
    pub(super) fn json(&self, view: &View<'_>) -> Map<String, Value> {
        let mut object = context(&self.record, view);
        object.insert("state".to_owned(), json!(self.state));
        object.insert("verdict".to_owned(), json!(self.verdict.name()));
        object.insert("advice".to_owned(), json!(advice(self.verdict, &self.span)));
        object.extend(shares(&self.span));
        object.extend(evidence(&self.span));
        object
    }
}

/// Only of who sends: whoever receives is not limited by any of these.
fn shares(span: &Span) -> impl Iterator<Item = (String, Value)> + use<> {
    let sends = span.way == Way::Sends;
    let shares: Shares = span.shares;
    let named = shares.named().into_iter();
    named.map(move |(name, share)| {
        (format!("share_{name}_percent"), json!(sends.then(|| tenths(share * 100.0))))
    })
}

fn evidence(span: &Span) -> impl Iterator<Item = (String, Value)> + use<> {
    let way = match span.way {
        Way::None => "none",
        Way::Sends => "sends",
        Way::Receives => "receives",
    };
    let fields = [
        ("direction", json!(way)),
        ("watched_us", json!((span.time * 1e6).round())),
        ("tx_bytes", json!(span.sent)),
        ("rx_bytes", json!(span.received)),
        ("tx_rate_bytes_per_second", json!(span.tx_rate().round())),
        ("rx_rate_bytes_per_second", json!(span.rx_rate().round())),
        ("sent_segments", json!(span.segments)),
        ("retransmitted_segments", json!(span.retransmitted)),
        ("retransmission_percent", json!((span.retransmission() * 1e5).round() / 1e3)),
        ("rtt_us", json!(span.rtt)),
        ("min_rtt_us", json!(span.min_rtt)),
        ("queueing_us", json!(span.queueing.round())),
        ("receiver_rtt_us", json!(span.rcv_rtt)),
        ("cwnd_segments", json!(span.cwnd)),
        ("mss_bytes", json!(span.mss)),
        ("peer_window_min_bytes", json!(span.peer_window_min)),
        ("peer_window_max_bytes", json!(span.peer_window_max)),
        ("peer_window_shut_percent", json!(tenths(span.shut * 100.0))),
        ("zero_windows", json!(span.zero_windows)),
        ("window_max_bytes", json!(span.window)),
        ("unread_bytes", json!(span.unread)),
        ("unread_max_bytes", json!(span.unread_max)),
        ("unread_percent", json!(tenths(span.unread_share * 100.0))),
        ("not_sent_bytes", json!(span.not_sent)),
        ("sndbuf_bytes", json!(span.sndbuf)),
        ("sndbuf_fixed", json!(span.sndbuf_fixed)),
        ("rcvbuf_bytes", json!(span.rcvbuf)),
        ("rcvbuf_fixed", json!(span.rcvbuf_fixed)),
        ("pacing_limit_bytes_per_second", json!(span.paced)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value))
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
