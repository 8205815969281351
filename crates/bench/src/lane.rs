//! One veth pair for each thing to compare, so that they can take turns without anything being loaded in between.

use std::net::Ipv6Addr;

use anyhow::Result;
use flowtag_kernel::mark::{HookChoice, InterfaceCounters, Key, Marker, Settings, Verdict};
use flowtag_testbed::{Host, Link, LinkOptions, Testbed};
use flowtag_wire::{Endpoint, Protocol, Strategy};
use libbpf_rs::Program;
use libbpf_rs::query::ProgInfoIter;

use crate::site;

/// Flows in the table besides those that are measured.
const OTHERS: u16 = 10_000;

/// What is attached to the interface of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Nothing,
    /// A program that does nothing.
    Empty,
    /// The traffic is in no flow, and there are no rules.
    NoFlow,
    /// The traffic is in no flow, and none of a thousand rules matches.
    NoRule,
    /// A thousand rules, of which the last matches.
    LastRule,
    /// The traffic's flows are marked.
    Marked(Strategy),
    /// The flows are marked, and the program at ingress of the receiver is what is looked at.
    Arriving,
}

/// A veth pair from host `a` to host `b`, and what is attached to it.
pub(crate) struct Lane {
    pub(crate) link: Link,
    sender: Option<Marker>,
    receiver: Option<Marker>,
    pub(crate) way: Way,
}

impl Way {
    const fn strategy(self) -> Strategy {
        if let Self::Marked(strategy) = self { strategy } else { Strategy::LABEL }
    }
}

impl Lane {
    /// `name` is that of the interface at both ends.
    pub(crate) fn new(bed: &Testbed, (a, b): (&Host, &Host), name: &str, mtu: u32, way: Way) -> Result<Self> {
        let options = LinkOptions { mtu: Some(mtu), ..LinkOptions::default() };
        let link = bed.link_with(a, name, b, name, &options)?;
        let sender = (way != Way::Nothing).then(|| a.run(|| marker(name, way)));
        let receiver = (way == Way::Arriving).then(|| b.run(|| receiver(name)));
        Ok(Self {
            link,
            sender: sender.transpose()?.transpose()?,
            receiver: receiver.transpose()?.transpose()?,
            way,
        })
    }

    /// Announces these flows from `ports` to `to`, if flows are marked in this lane.
    pub(crate) fn announce(
        &mut self,
        protocol: Protocol,
        mut ports: impl Iterator<Item = u16>,
        to: u16,
    ) -> Result<()> {
        let (Way::Marked(_) | Way::Arriving, Some(marker)) = (self.way, &mut self.sender) else {
            return Ok(());
        };
        let mark = site::mark(self.way.strategy());
        let remote = Endpoint::new(self.link.b.ipv6.into(), to);
        let local = |port| Endpoint::new(self.link.a.ipv6.into(), port);
        ports.try_for_each(|port| Ok(marker.set(&Key { protocol, local: local(port), remote }, mark, 0)?))
    }

    /// ns that the program of this lane ran so far, and how often.
    pub(crate) fn spent(&self) -> Result<(u64, u64)> {
        let markers = self.receiver.as_ref().or(self.sender.as_ref());
        let Some(marker) = markers else { return Ok((0, 0)) };
        let program = match self.way {
            Way::Empty => marker.empty_program(),
            Way::Arriving => marker.arrive_program(),
            _ => marker.mark_program(),
        };
        let id = Program::id_from_fd(std::os::fd::AsFd::as_fd(&program))?;
        let info = ProgInfoIter::default().find(|info| info.id == id);
        Ok(info.map_or((0, 0), |info| (info.run_time_ns, info.run_cnt)))
    }

    /// Packets of TCP and UDP that left marked, and those that did not.
    pub(crate) fn packets(&self) -> Result<(u64, u64)> {
        let all = self.sender.as_ref().map(Marker::counters).transpose()?.unwrap_or_default();
        let sum = |of: &dyn Fn(Verdict) -> bool| {
            let counts = all.iter().flat_map(|i: &InterfaceCounters| &i.counts);
            counts.filter(|(verdict, _)| of(*verdict)).map(|(_, count)| count.packets).sum()
        };
        // Neighbours are looked for by ICMPv6.
        let unmarked = |v| !matches!(v, Verdict::Marked | Verdict::OtherProtocol | Verdict::NotIp);
        Ok((sum(&|v| v == Verdict::Marked), sum(&unmarked)))
    }
}

/// A marker that is attached to the interface `name` in this way.
pub(crate) fn marker(name: &str, way: Way) -> Result<Marker> {
    let strategy = way.strategy();
    let ingress = strategy.header_len() > 0;
    let mut marker = Marker::load(&Settings { ingress, ..Settings::default() })?;
    let interface = flowtag_kernel::link::find(name)?;
    let remote = Endpoint::new("2001:db8::2".parse::<Ipv6Addr>()?.into(), 1094);
    for port in 1..=OTHERS {
        let local = Endpoint::new("2001:db8::1".parse::<Ipv6Addr>()?.into(), port);
        marker.set(&Key { protocol: Protocol::Tcp, local, remote }, site::mark(strategy), 0)?;
    }
    let mut last = site::rule(strategy);
    match way {
        Way::NoRule => last.remote.push("2001:db9::/48".parse()?),
        Way::LastRule => last.remote.push("fd00::/8".parse()?),
        _ => {}
    }
    match way {
        Way::NoRule | Way::LastRule => drop(marker.set_rules(&site::rules(last))?),
        // What is not announced: the connections by which iperf3 talks to its server.
        Way::Marked(_) => {
            last.protocols.push(6);
            marker.set_rules(&[last])?;
        }
        _ => {}
    }
    marker.set_overhead(strategy.header_len() as u8)?;
    match way {
        Way::Empty => marker.attach_empty(&interface, HookChoice::Auto)?,
        _ => marker.attach(&interface, HookChoice::Auto)?,
    };
    Ok(marker)
}

fn receiver(name: &str) -> Result<Marker> {
    let mut marker = Marker::load(&Settings { ingress: true, ..Settings::default() })?;
    marker.set_registered([site::tag()].into_iter())?;
    marker.attach(&flowtag_kernel::link::find(name)?, HookChoice::Auto)?;
    Ok(marker)
}
