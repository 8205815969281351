//! The bed: what belongs to one test, and goes away with it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, ensure};

use crate::cleanup;
use crate::host::Host;
use crate::impair::{ImpairedLink, Impairment, Relay};
use crate::link::{Chain, Ends, Link, LinkOptions, NO_OFFLOADS, set_up, side};
use crate::process::locked;
use crate::tun::TunLink;

/// Hosts and links of one test. Dropping it kills what runs on the hosts and removes them.
#[derive(Debug)]
pub struct Testbed {
    name: String,
    links: AtomicU8,
    relays: Mutex<Vec<Relay>>,
    hosts: Mutex<Vec<Host>>,
}

impl Testbed {
    /// A bed without hosts. `name` is the test's own within its process: beds of one name collide.
    ///
    /// # Errors
    /// A name that cannot be part of a namespace's.
    pub fn new(name: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        ensure!(
            (1..=64).contains(&name.len()) && name.bytes().all(plain),
            "{name:?} is no name for a testbed: use up to 64 letters, digits, - and _"
        );
        cleanup::prepare()?;
        Ok(Self {
            name: name.to_owned(),
            links: AtomicU8::new(1),
            relays: Mutex::default(),
            hosts: Mutex::default(),
        })
    }

    /// Adds a host: a fresh network namespace with the loopback interface up.
    ///
    /// # Errors
    /// Not root, or the bed has such a host already.
    pub fn host(&self, name: &str) -> Result<Host> {
        let host = Host::create(&self.name, name).with_context(|| format!("making host {name}"))?;
        locked(&self.hosts).push(host.clone());
        Ok(host)
    }

    /// Links two hosts by a veth pair; when this returns, both ends can be used.
    ///
    /// # Errors
    /// An interface of that name exists.
    pub fn link(&self, a: &Host, a_device: &str, b: &Host, b_device: &str) -> Result<Link> {
        self.link_with(a, a_device, b, b_device, &LinkOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// An interface of that name exists, or an option does not fit.
    pub fn link_with(
        &self,
        a: &Host,
        a_device: &str,
        b: &Host,
        b_device: &str,
        options: &LinkOptions,
    ) -> Result<Link> {
        let ends = Ends { a: (a, a_device), b: (b, b_device) };
        ends.join()?;
        self.set_up(&ends, options)
    }

    /// Links `eth0` of two hosts by a path that loses and delays packets. The ends have no offloads: a frame is one
    /// packet of the wire, so the numbers in [`Loss`](crate::Loss) count packets.
    ///
    /// # Errors
    /// One of the hosts has an `eth0` already, or `ethtool` is missing.
    pub fn impaired_link(&self, a: &Host, b: &Host, impairment: Impairment) -> Result<ImpairedLink> {
        self.impaired_link_between((a, "eth0"), (b, "eth0"), impairment)
    }

    /// The same for other interfaces.
    ///
    /// # Errors
    /// As [`impaired_link`](Self::impaired_link).
    pub fn impaired_link_between(
        &self,
        a: (&Host, &str),
        b: (&Host, &str),
        impairment: Impairment,
    ) -> Result<ImpairedLink> {
        let middle = self.host(&format!("middle{}", self.links.load(Ordering::SeqCst)))?;
        middle.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        for (end, inner) in [(a, "near"), (b, "far")] {
            Ends { a: end, b: (&middle, inner) }.join()?;
            if let Some(mtu) = impairment.mtu {
                middle.ip(&["link", "set", "dev", inner, "mtu", &mtu.to_string()])?;
            }
            middle.offloads(inner, &NO_OFFLOADS)?;
            middle.bring_up(inner, &[])?;
        }
        let options = LinkOptions { mtu: impairment.mtu, offloads: false, ..LinkOptions::default() };
        let link = self.set_up(&Ends { a, b }, &options)?;
        let (relay, link) = Relay::start(&middle, link, &impairment).context("starting the relay")?;
        locked(&self.relays).push(relay);
        Ok(link)
    }

    /// Links two hosts by a pair of tun devices of this name: packets without a link-layer header. Needs socat.
    ///
    /// # Errors
    /// The kernel has no tun devices, or socat is missing.
    pub fn tun_link(&self, a: &Host, b: &Host, device: &str) -> Result<TunLink> {
        TunLink::start(a, b, device, self.next_link()?)
    }

    /// Joins two hosts by a third that forwards: `eth0` of the router is to `a`, its `eth1` to `b`, and each end knows
    /// the way to the other's link.
    ///
    /// # Errors
    /// An interface of that name exists, or an option does not fit.
    pub fn chain(
        &self,
        a: (&Host, &str),
        router: &Host,
        b: (&Host, &str),
        options: &LinkOptions,
    ) -> Result<Chain> {
        let near = self.link_with(a.0, a.1, router, "eth0", options)?;
        let far = self.link_with(router, "eth1", b.0, b.1, options)?;
        router.forward()?;
        for (end, own, other) in [(a.0, &near.b, &far.b), (b.0, &far.a, &near.a)] {
            end.add_route(&format!("{}/128", other.ipv6), &["via", &own.ipv6.to_string()])?;
            end.add_route(&format!("{}/32", other.ipv4), &["via", &own.ipv4.to_string()])?;
        }
        Ok(Chain { near, far })
    }

    fn set_up(&self, ends: &Ends<'_>, options: &LinkOptions) -> Result<Link> {
        let n = self.next_link()?;
        set_up(ends.a, n, 1, options)?;
        set_up(ends.b, n, 2, options)?;
        Ok(Link { a: side(ends.a, n, 1)?, b: side(ends.b, n, 2)? })
    }

    /// Every link has a number of its own, and so addresses of its own.
    fn next_link(&self) -> Result<u8> {
        let next = |n: u8| n.checked_add(1);
        self.links
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
            .map_err(|_| anyhow::anyhow!("testbed {} has 254 links: more have no addresses", self.name))
    }
}

impl Drop for Testbed {
    /// Relays first: their sockets would keep the namespaces alive.
    fn drop(&mut self) {
        locked(&self.relays).clear();
        for host in locked(&self.hosts).drain(..) {
            if let Err(e) = cleanup::remove(host.namespace()) {
                eprintln!("flowtag-testbed: {e:#}");
            }
        }
    }
}
