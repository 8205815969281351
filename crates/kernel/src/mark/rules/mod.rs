//! Rules: whose traffic a packet is that nobody announced, by what can be seen of it and of the socket that sent it.
//!
//! [`order()`] makes a list of rules one that is read from first to last, [`first`] says which of them applies, and
//! [`compile()`] makes the sets of them that the program reads. Nothing here touches the kernel.
//!
//! ```
//! use flowtag_kernel::mark::rules::{self, Action, Rule, Subject};
//!
//! let never = Rule { remote: vec!["2001:db8::/32".parse()?], ..Rule::new("lab", Action::Never) };
//! let subject = Subject::new(6, "[2001:db8::1]:40000".parse()?, "[2001:db8::2]:1094".parse()?);
//! assert_eq!(rules::first(&[never], &subject), Some(0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compile;
mod order;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use flowtag_wire::{Endpoint, Entropy, FlowLabel, Strategy, Tag, keyed_hash};
use ipnet::{IpNet, Ipv4Net};

pub use compile::{Bank, Class, Compiled, Prefix, RuleAction, RuleSet, RulesError, Value, compile};
pub use order::order;

/// One rule. An empty list is no condition; of a list, one value must match; all conditions must hold. The first rule
/// that matches applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Name in messages, unique.
    pub name: Arc<str>,
    /// `IPPROTO_*`: 6 TCP, 17 UDP, 58 ICMPv6, …
    pub protocols: Vec<u8>,
    /// Indices of interfaces. `Some` of an empty list: none of them is there, so nothing matches.
    pub interfaces: Option<Vec<u32>>,
    /// User ids of the socket.
    pub users: Vec<u32>,
    /// Names of the thread that made the socket (`/proc/PID/comm`), at most 15 bytes.
    pub processes: Vec<String>,
    /// Cgroups (version 2) of the socket or above it. `Some` of an empty list: none of them is there.
    pub cgroups: Option<Vec<Cgroup>>,
    /// Ports on this host.
    pub local_ports: Vec<RangeInclusive<u16>>,
    /// Ports at the other end.
    pub remote_ports: Vec<RangeInclusive<u16>>,
    /// Addresses on this host.
    pub local: Vec<IpNet>,
    /// Addresses at the other end.
    pub remote: Vec<IpNet>,
    /// What to do.
    pub action: Action,
}

/// A cgroup that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cgroup {
    /// Its id: the inode of its directory.
    pub id: u64,
    /// How far below the root it is; the root is 0.
    pub level: u32,
}

/// What a rule does with the packets that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Marks them with one of these tags (1 to 16), the same for all packets of a flow.
    Mark {
        /// To choose from.
        tags: Vec<Tag>,
        /// Where the tag is written.
        strategy: Strategy,
    },
    /// Marks them with any tag at all, the same for all packets of a flow: for tests of a network.
    Random {
        /// Where the tag is written.
        strategy: Strategy,
    },
    /// Leaves them alone, whatever later rules say.
    Never,
}

/// What a packet is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// The end on this host; port 0 where the protocol has none.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// Index of the interface that the packet leaves by.
    pub interface: u32,
    /// User id of the socket, if there is one.
    pub user: Option<u32>,
    /// Name of the thread that made the socket, if known.
    pub process: Option<String>,
    /// Ids of the socket's cgroup and of all above it.
    pub cgroups: Vec<u64>,
}

impl Rule {
    /// A rule without conditions: it matches everything.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, action: Action) -> Self {
        Self {
            name: name.into(),
            protocols: Vec::new(),
            interfaces: None,
            users: Vec::new(),
            processes: Vec::new(),
            cgroups: None,
            local_ports: Vec::new(),
            remote_ports: Vec::new(),
            local: Vec::new(),
            remote: Vec::new(),
            action,
        }
    }

    /// Whether all conditions hold. What is not known of the subject (user, process, cgroups) meets no condition.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        let Subject { protocol, local, remote, interface, user, process, cgroups } = subject;
        one_of(&self.protocols, |p| p == protocol)
            && self.interfaces.as_ref().is_none_or(|i| i.contains(interface))
            && one_of(&self.users, |u| Some(*u) == *user)
            && one_of(&self.processes, |p| Some(p) == process.as_ref())
            && self.cgroups.as_ref().is_none_or(|c| c.iter().any(|c| cgroups.contains(&c.id)))
            && one_of(&self.local_ports, |range| range.contains(&local.port()))
            && one_of(&self.remote_ports, |range| range.contains(&remote.port()))
            && one_of(&self.local, |net| contains(*net, local.addr()))
            && one_of(&self.remote, |net| contains(*net, remote.addr()))
    }
}

impl Subject {
    /// A packet of which no more is known than its ends: no interface, no socket.
    #[must_use]
    pub const fn new(protocol: u8, local: Endpoint, remote: Endpoint) -> Self {
        Self { protocol, local, remote, interface: 0, user: None, process: None, cgroups: Vec::new() }
    }
}

/// Number of the first rule that matches. What the program does in the kernel, said plainly.
#[must_use]
pub fn first(rules: &[Rule], subject: &Subject) -> Option<usize> {
    rules.iter().position(|rule| rule.matches(subject))
}

/// An empty list is no condition.
fn one_of<T>(values: &[T], holds: impl Fn(&T) -> bool) -> bool {
    values.is_empty() || values.iter().any(holds)
}

/// `::/0` does not mean IPv4.
fn contains(net: IpNet, addr: IpAddr) -> bool {
    canonical(net).contains(&addr.to_canonical())
}

/// Without host bits; a prefix of IPv4-mapped addresses as the IPv4 prefix that it means.
fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|addr| Ipv4Net::new(addr, v6.prefix_len() - 96).ok())
            .map_or(net, IpNet::V4)
            .trunc(),
        net => net.trunc(),
    }
}

impl Action {
    /// What the program writes into the packets of a flow to which the rule applies; none: nothing. `entropy_key` is
    /// [`super::Settings::entropy_key`].
    #[must_use]
    pub fn mark(&self, flow: &super::Key, entropy_key: &[u8; 16]) -> Option<super::Mark> {
        let hash = keyed_hash(flow.protocol, [flow.local, flow.remote], entropy_key);
        let choice = (hash >> 32) as u32;
        let (tag, strategy) = match self {
            Self::Mark { tags, strategy } => (*tags.get(choice as usize % tags.len().max(1))?, *strategy),
            Self::Random { strategy } => {
                let (experiment, activity) = (1 + (choice & 0xffff) % 511, 1 + (choice >> 16) % 63);
                (Tag::new(experiment.into(), activity.into()).ok()?, *strategy)
            }
            Self::Never => return None,
        };
        Some(super::Mark { label: FlowLabel::from_tag(tag, Entropy::from_random(hash as u32)), strategy })
    }
}
