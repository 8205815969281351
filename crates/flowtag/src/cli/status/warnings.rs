//! What somebody should look at, with what would do about it.

use crate::inputs::control::model::Status as Daemon;
use crate::supervisor::counters::{ServiceStatus, Target};

/// What counters that ought to be zero tell: beginning of the section, counter, what was counted, what to do. `{}` stands
/// for the section.
const LOSSES: [(&str, &str, &str, &str); 20] = [
    ("outputs.", "dropped", "records were dropped, the queue was full", "raise {}.queue"),
    (
        "inputs.xrootd",
        "lost",
        "datagrams were lost before they were read",
        "is the host overloaded? in a container, raise its host's net.core.rmem_max to 4194304",
    ),
    ("inputs.", "lost", "datagrams were lost before they were read", "raise {}.buffer"),
    (
        "outputs.",
        "lost",
        "messages were lost while their collector was away",
        "give it a spool, or raise spool_max",
    ),
    ("outputs.json", "failed", "lines could not be written", "is the disk full?"),
    ("outputs.", "failed", "could not be sent", "see the log"),
    ("outputs.", "unresolved", "were not sent, the name was not resolved", "can this host resolve it?"),
    ("outputs.", "logs_failed", "log records were given up", "does the collector answer?"),
    ("outputs.", "rejected", "points and records were refused by the collector", "see its log"),
    ("outputs.", "limited", "fireflies were dropped by the rate limit", "raise {}.rate_limit"),
    ("inputs.", "bad_lines", "lines were not understood", "see the log for them"),
    ("inputs.", "bad_requests", "requests were not understood", "see the log for them"),
    ("inputs.", "malformed", "datagrams were not understood", "see the log for who sends them"),
    ("inputs.", "foreign", "datagrams came from others than {}.sources", "add who may"),
    ("inputs.", "relay_failed", "datagrams could not be relayed", "see the log"),
    ("inputs.", "denied", "requests or events were denied", "see the log for whose, and [[access]]"),
    ("statistics", "failed", "questions were refused by the kernel", "see the log"),
    ("observe", "lost", "events were lost, a ring was full", "is the host overloaded?"),
    ("observe", "evicted", "sockets or keys had no room", "see the log, and docs/observe-daemon.md"),
    ("registry", "failures", "times there was no new registry", "see the log, and registry.url"),
];

/// Most urgent first: what does not work, then what was lost.
pub(super) fn of(daemon: &Daemon) -> Vec<String> {
    let mut warnings = marking(daemon);
    warnings.extend(table(daemon));
    let broken = daemon.services.iter().filter(|(_, service)| !service.running);
    warnings.extend(broken.map(|(name, _)| format!("{name} does not run: see the log, then reload")));
    warnings.extend(daemon.services.iter().flat_map(|(name, service)| problems(name, service)));
    warnings.extend(daemon.services.iter().flat_map(|(name, service)| targets(name, service)));
    warnings.extend(daemon.services.iter().flat_map(|(name, service)| losses(name, service)));
    warnings
}

fn marking(daemon: &Daemon) -> Vec<String> {
    let Some(interfaces) = &daemon.interfaces else { return Vec::new() };
    if interfaces.is_empty() {
        return vec![
            "nothing is marked: no interface is as mark.interfaces says; see flowtag doctor".to_owned(),
        ];
    }
    let sum = |verdict: &str| -> u64 {
        interfaces.iter().filter_map(|interface| interface.counts.get(verdict)).map(|c| c.packets).sum()
    };
    let troubles = [
        ("expired", "left unmarked, the lease had ended: is the daemon often stopped? raise mark.lease"),
        ("write_failed", "could not be written to: see KNOWN_ISSUES, and report it"),
        ("no_room", "had no room for an options header: lower the MTU of the route, or use \"label\""),
        ("unreadable", "could not be read to the end of their headers"),
    ];
    let told = troubles.into_iter().filter(|(verdict, _)| sum(verdict) > 0);
    told.map(|(verdict, text)| format!("{} packets {text}", sum(verdict))).collect()
}

fn table(daemon: &Daemon) -> Vec<String> {
    let counter = |name: &str| daemon.engine.get(name).copied().unwrap_or_default();
    let mut warnings = Vec::new();
    let (full, max) = (counter("rejected_full"), daemon.max_flows);
    if full > 0 {
        warnings.push(format!(
            "{full} announcements were refused, the flow table was full: raise flows.max ({max})"
        ));
    } else if daemon.flows.saturating_mul(10) >= max.saturating_mul(9) {
        warnings.push(format!("the flow table is nearly full ({} of {max}): raise flows.max", daemon.flows));
    }
    let failed = counter("mark_failed").saturating_sub(counter("mark_retried"));
    if failed > 0 {
        warnings.push(format!("{failed} flows are not marked, the kernel's table was full: raise flows.max"));
    }
    warnings
}

fn problems(name: &str, service: &ServiceStatus) -> Vec<String> {
    service.problems.iter().map(|problem| format!("{name}: {problem}")).collect()
}

fn targets(name: &str, service: &ServiceStatus) -> Vec<String> {
    let one = |Target { name: target, address, error }: &Target| match (address, error) {
        (Some(_), None) => None,
        (None, None) => Some(format!("{name}: {target} is not resolved yet")),
        (None, Some(error)) => Some(format!("{name}: nothing reaches {target}: {error}")),
        (Some(_), Some(error)) => Some(format!("{name}: {target}: {error}")),
    };
    service.targets.iter().filter_map(one).collect()
}

fn losses(name: &str, service: &ServiceStatus) -> Vec<String> {
    // The first that fits is the more precise one.
    let of = |counter: &str| LOSSES.iter().find(|loss| name.starts_with(loss.0) && loss.1 == counter);
    let one = |(counter, number): (&String, &u64)| {
        let (_, _, what, fix) = of(counter).filter(|_| *number > 0)?;
        // Of a target that is not resolved, it was said already.
        let is_said = counter == "unresolved" && service.targets.iter().any(|t| t.address.is_none());
        let fill = |text: &str| text.replace("{}", name);
        (!is_said).then(|| format!("{name}: {number} {}: {}", fill(what), fill(fix)))
    };
    service.counts.iter().filter_map(one).collect()
}
