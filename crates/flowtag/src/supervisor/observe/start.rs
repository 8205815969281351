//! Which of the probes that are wanted this kernel runs, and what to say of the others.

use anyhow::{Result, bail};
use flowtag_kernel::Error;
use flowtag_kernel::mark::FlowTable;
use flowtag_kernel::probes::{
    Description, Measure, Missing, Options, SUMS, Scope, Session, Source, drops, own_netns,
};

use crate::config::{Label, Observe};
use crate::supervisor::throttle::chain;

/// Bytes of a probe's ring: two thousand closed connections, or seven thousand retransmissions, in the twentieth of a second
/// between two looks; it is looked at sooner where it is half full.
const RING: u32 = 1 << 20;

/// Probes that run, and those that do not.
pub(super) struct Started {
    /// None: none of them runs.
    pub(super) session: Option<Session>,
    probes: Vec<&'static Description>,
    /// And why.
    refused: Vec<(&'static str, String)>,
}

/// # Errors
/// A probe was asked for by name, and cannot run.
pub(super) fn start(config: &Observe, flows: Option<&FlowTable>) -> Result<Started> {
    let scope = Scope { netns: Some(own_netns()?), writers: false, ring: RING, ..Scope::default() };
    let mut wanted: Vec<_> = config.descriptions().map(|probe| (probe, options(probe, config))).collect();
    let mut refused = Vec::new();
    loop {
        let error = match Session::start(&scope, flows, &wanted) {
            Ok(session) => {
                let probes = wanted.into_iter().map(|(probe, _)| probe).collect();
                return Ok(Started { session: Some(session), probes, refused });
            }
            Err(error) => error,
        };
        let (name, why) = (blamed(&error), chain(&error));
        if config.strict {
            bail!("{why} (observe.probes)");
        }
        let before = wanted.len();
        // All stand on the first: without it there is none.
        let falls = |probe: &Description| name.is_none_or(|name| name == "life" || name == probe.name);
        refused.extend(
            wanted.extract_if(.., |(probe, _)| falls(probe)).map(|(probe, _)| (probe.name, why.clone())),
        );
        if wanted.is_empty() || wanted.len() == before {
            return Ok(Started { session: None, probes: Vec::new(), refused });
        }
    }
}

/// The probe that an error is of; none: of all.
fn blamed(error: &Error) -> Option<&'static str> {
    match error {
        Error::Probe { probe, .. } => Some(probe),
        Error::Load { feature, .. } => Some(feature),
        _ => None,
    }
}

/// What the kernel tells apart, of probes that sum up there.
fn options(probe: &Description, config: &Observe) -> Options {
    if probe.name == drops::PROBE.name {
        let is_by_owner = config.has(Label::Process) || config.has(Label::Unit);
        return Options::new((!is_by_owner).then(|| drops::NO_OWNERS.to_owned()));
    }
    let has_sums = matches!(probe.source, Source::EventsOrSums(..));
    if !is_spread(probe) && !has_sums {
        return Options::default();
    }
    // The kernel's prefixes are of 24 and 64 bits.
    let peer = if config.peer.0 <= 24 && config.peer.1 <= 64 { "prefix" } else { "peer" };
    let keys = [
        (Label::Experiment, "tag"),
        (Label::Peer, peer),
        (Label::Process, "process"),
        (Label::Unit, "cgroup"),
        (Label::Interface, "interface"),
        (Label::Interface, "netns"),
    ];
    let wanted = keys.iter().filter(|(label, _)| config.has(*label)).map(|(_, key)| *key);
    let keys = if wanted.clone().next().is_some() { wanted.collect() } else { vec!["all"] };
    Options::new(keys.into_iter().chain(has_sums.then_some(SUMS)).map(str::to_owned))
}

/// Whether the kernel sums up distributions.
pub(super) fn is_spread(probe: &Description) -> bool {
    probe.metrics.iter().any(|metric| matches!(metric.measure, Measure::Distribution))
}

impl Started {
    /// Those that run.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.probes.iter().map(|probe| probe.name).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    }

    pub(super) fn down(&self) -> Vec<&'static str> {
        self.refused.iter().map(|(name, _)| *name).collect()
    }

    /// What does not run, in words for `flowtag status`.
    pub(super) fn problems(&self) -> Vec<String> {
        let one = |(name, why): &(&str, String)| format!("{name} does not run: {why}");
        self.refused.iter().map(one).collect()
    }

    pub(super) fn log(&self) {
        for (probe, why) in &self.refused {
            tracing::warn!(
                probe,
                error = why,
                "a probe does not run: its metrics are missing (flowtag doctor)"
            );
        }
        let missing = self.session.as_ref().map(Session::missing).unwrap_or_default();
        for Missing { hook, consequence } in missing {
            tracing::info!(hook, "this kernel does not tell {consequence}");
        }
    }
}
