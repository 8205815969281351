//! What the engine is told about how to work. Values only; reading and checking files is the binary's affair.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use flowtag_wire::{Endpoint, FiveTuple, Protocol, Strategy};

/// What an engine needs from its birth.
#[derive(Clone)]
pub struct Config {
    /// Secret from which the entropy of every label is derived. Kept across restarts, so that a flow keeps its
    /// label (and its path) through them; a new key gives running flows new entropy.
    pub entropy_key: [u8; 16],
    /// What may change while the engine runs.
    pub settings: Settings,
}

impl Config {
    /// The default settings with this key.
    #[must_use]
    pub fn new(entropy_key: [u8; 16]) -> Self {
        Self { entropy_key, settings: Settings::default() }
    }
}

/// Shows that there is a key, not the key: it must not end up in a log.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a reload may replace ([`crate::Event::Configure`]) without losing a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Most flows known at a time. A START beyond is refused; lowering it evicts nothing. Default 100 000.
    pub max_flows: usize,
    /// How long a flow may be silent, by its announcements and by its packets, before it is ended. `None`: only an
    /// END ends it. Default one hour.
    pub idle_limit: Option<Duration>,
    /// Where the tag is written on flows whose announcement does not say. Flows that are known when it changes keep
    /// theirs. Default: the flow label.
    pub strategy: Strategy,
    /// How often an `Ongoing` report is made of each flow, counted from its start. `None`: only of flows that ask for it.
    /// Default: none.
    pub report_every: Option<Duration>,
    /// Which flows are firefly traffic and so never flows of their own.
    pub guard: Guard,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_flows: 100_000,
            idle_limit: Some(Duration::from_secs(3600)),
            strategy: Strategy::LABEL,
            report_every: None,
            guard: Guard::default(),
        }
    }
}

/// Recognises firefly traffic, which must never be reported: each report would be a flow to report again.
///
/// Empty by default: the caller knows where its fireflies go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Guard {
    /// UDP ports that fireflies are sent to on the far end of a flow (commonly 10514).
    pub ports: BTreeSet<u16>,
    /// Collectors that fireflies are sent to.
    pub collectors: BTreeSet<Endpoint>,
}

impl Guard {
    /// The end that makes `flow` firefly traffic: UDP from or to a firefly port or a collector.
    #[must_use]
    pub fn firefly_end(&self, flow: &FiveTuple) -> Option<Endpoint> {
        if flow.protocol() != Protocol::Udp {
            return None;
        }
        [flow.dst(), flow.src()]
            .into_iter()
            .find(|end| self.ports.contains(&end.port()) || self.collectors.contains(end))
    }
}
