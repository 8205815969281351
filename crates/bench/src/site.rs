//! What the sections share: a tag, a thousand rules, and the one CPU that everything compared runs on.

use anyhow::{Context, Result};
use flowtag_kernel::mark::Mark;
use flowtag_kernel::mark::rules::{Action, Cgroup, Rule};
use flowtag_wire::{Entropy, FlowLabel, Strategy, Tag};
use ipnet::Ipv6Net;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

pub(crate) const RULES: u16 = 1_000;

pub(crate) fn tag() -> Tag {
    Tag::new(3, 14).expect("in range")
}

pub(crate) fn mark(strategy: Strategy) -> Mark {
    Mark { label: FlowLabel::from_tag(tag(), Entropy::NONE), strategy }
}

/// A rule without conditions yet.
pub(crate) fn rule(strategy: Strategy) -> Rule {
    Rule::new("last", Action::Mark { tags: vec![tag()], strategy })
}

/// A thousand rules that together look at everything a rule can look at, of which at most the last one matches.
pub(crate) fn rules(last: Rule) -> Vec<Rule> {
    let mut rules: Vec<_> = (1..RULES).map(rule_of_others).collect();
    rules.push(last);
    rules
}

/// Of other networks, users, ports, units and programs than any traffic here has.
fn rule_of_others(n: u16) -> Rule {
    let mut rule = Rule { name: format!("rule-{n}").into(), ..rule(Strategy::LABEL) };
    rule.protocols.extend(n.is_multiple_of(2).then_some(6));
    let network = Ipv6Net::new_assert([0x2001, 0xdb9, n, 0, 0, 0, 0, 0].into(), 48).into();
    match n % 10 {
        0..=2 => rule.remote.push(network),
        3 => rule.local.push(network),
        4 | 5 => rule.users.push(200_000 + u32::from(n)),
        6 => rule.remote_ports.push(n..=n),
        7 => {
            rule.local_ports.push(n..=n);
            rule.interfaces = Some(vec![1_000_000 + u32::from(n)]);
        }
        8 => {
            rule.cgroups = Some(vec![Cgroup { id: 1 << 40 | u64::from(n), level: u32::from(n) / 10 % 3 + 1 }])
        }
        _ => rule.processes.push(format!("job-{n}")),
    }
    rule
}

/// Whatever of a thread and of what it starts from here on runs on the last CPU alone: no interrupts between CPUs, no
/// reordering, and what one packet costs more is lost throughput. Gives what to go back to.
pub(crate) fn pin() -> Result<CpuSet> {
    let all = sched_getaffinity(Pid::from_raw(0)).context("asking for our CPUs")?;
    let last = (0..CpuSet::count()).rev().find(|n| all.is_set(*n).unwrap_or(false)).context("no CPU")?;
    let mut one = CpuSet::new();
    one.set(last)?;
    run_on(&one)?;
    Ok(all)
}

pub(crate) fn run_on(cpus: &CpuSet) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), cpus).context("choosing the CPU")
}
