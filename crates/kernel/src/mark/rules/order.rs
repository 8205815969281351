//! Longest match: which of two rules goes first that differ only in their prefixes.

use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{Cgroup, Rule, canonical};

/// Puts specific rules before general ones: a rule goes before all rules that have the same other conditions and whose
/// prefixes, local and remote, hold all of its own addresses and more. No other two rules change places.
///
/// Such a rule would never apply after the general one, and applies before it to nothing that any other rule had. Rules
/// of which each has addresses that the other lacks stay in the order that they have.
#[must_use]
pub fn order(rules: Vec<Rule>) -> Vec<Rule> {
    let mut ordered: Vec<(Rest, Prefixes, Rule)> = Vec::with_capacity(rules.len());
    for rule in rules {
        let (rest, prefixes) = (Rest::of(&rule), Prefixes::of(&rule));
        let general =
            ordered.iter().position(|(r, p, _)| *r == rest && p.covers(&prefixes) && !prefixes.covers(p));
        ordered.insert(general.unwrap_or(ordered.len()), (rest, prefixes, rule));
    }
    ordered.into_iter().map(|(_, _, rule)| rule).collect()
}

/// All conditions but the prefixes, so that equal ones compare equal.
#[derive(PartialEq, Eq)]
struct Rest {
    protocols: Vec<u8>,
    interfaces: Option<Vec<u32>>,
    users: Vec<u32>,
    processes: Vec<String>,
    cgroups: Option<Vec<u64>>,
    local_ports: Vec<(u16, u16)>,
    remote_ports: Vec<(u16, u16)>,
}

impl Rest {
    fn of(rule: &Rule) -> Self {
        let ports = |ranges: &[RangeInclusive<u16>]| sorted(ranges.iter().map(|r| (*r.start(), *r.end())));
        let ids = |cgroups: &Vec<Cgroup>| sorted(cgroups.iter().map(|c| c.id));
        Self {
            protocols: sorted(rule.protocols.iter().copied()),
            interfaces: rule.interfaces.as_ref().map(|i| sorted(i.iter().copied())),
            users: sorted(rule.users.iter().copied()),
            processes: sorted(rule.processes.iter().cloned()),
            cgroups: rule.cgroups.as_ref().map(ids),
            local_ports: ports(&rule.local_ports),
            remote_ports: ports(&rule.remote_ports),
        }
    }
}

fn sorted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = values.collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Addresses that a rule asks for; of each end none for any address.
struct Prefixes {
    local: Option<Vec<IpNet>>,
    remote: Option<Vec<IpNet>>,
}

impl Prefixes {
    /// Neighbours are joined: what is inside several prefixes of a list is then inside one of them.
    fn of(rule: &Rule) -> Self {
        let joined = |nets: &[IpNet]| {
            let nets: Vec<IpNet> = nets.iter().copied().map(canonical).collect();
            (!nets.is_empty()).then(|| IpNet::aggregate(&nets))
        };
        Self { local: joined(&rule.local), remote: joined(&rule.remote) }
    }

    fn covers(&self, other: &Self) -> bool {
        let side = |general: &Option<Vec<IpNet>>, specific: &Option<Vec<IpNet>>| match (general, specific) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(general), Some(specific)) => specific.iter().all(|s| general.iter().any(|g| g.contains(s))),
        };
        side(&self.local, &other.local) && side(&self.remote, &other.remote)
    }
}
