//! How a flow is found and how the kernel sees it.
//!
//! Announced `B > A` on the host with address A: [`Pair`] is `{A, B}` and finds the flow from either end,
//! [`FlowKey`] is `A > B` and matches the packets that leave. Neither is ever less than both addresses, both ports
//! and the protocol.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use flowtag_wire::{Endpoint, Entropy, FiveTuple, Protocol, keyed_hash};

/// A flow as the kernel matches it in packets that leave this host: from `local` to `remote`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The end on this host: source of the packets that are marked.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

impl FlowKey {
    /// Whichever end has an address of this host is the local one. Where both have (traffic within the host) or
    /// neither (forwarded traffic), the source as announced counts as local, so one direction is marked.
    #[must_use]
    pub fn orient(flow: &FiveTuple, local: &BTreeSet<IpAddr>) -> Self {
        let is_local = |end: Endpoint| local.contains(&end.addr());
        let turned = is_local(flow.dst()) && !is_local(flow.src());
        if turned { flow.reversed().into() } else { (*flow).into() }
    }

    /// Whether the packets have a flow label.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.local.addr().is_ipv6()
    }
}

/// The source is the local end.
impl From<FiveTuple> for FlowKey {
    fn from(flow: FiveTuple) -> Self {
        Self { protocol: flow.protocol(), local: flow.src(), remote: flow.dst() }
    }
}

/// `tcp [2001:db8::1]:443 > [2001:db8::2]:5001`, local end first.
impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.local, self.remote)
    }
}

/// The identity of a flow: protocol and both ends, the lesser first, so that either end's way of writing it gives
/// the same value. Complete: two connections cannot share both addresses, both ports and the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    protocol: Protocol,
    low: Endpoint,
    high: Endpoint,
}

impl Pair {
    fn new(protocol: Protocol, a: Endpoint, b: Endpoint) -> Self {
        Self { protocol, low: a.min(b), high: a.max(b) }
    }

    /// Five bits of [`keyed_hash`].
    pub(crate) fn entropy(&self, key: &[u8; 16]) -> Entropy {
        // The low half is as good as the whole: every bit of a SipHash depends on every bit of the input.
        Entropy::from_random(keyed_hash(self.protocol, [self.low, self.high], key) as u32)
    }
}

impl From<&FiveTuple> for Pair {
    fn from(flow: &FiveTuple) -> Self {
        Self::new(flow.protocol(), flow.src(), flow.dst())
    }
}

impl From<&FlowKey> for Pair {
    fn from(key: &FlowKey) -> Self {
        Self::new(key.protocol, key.local, key.remote)
    }
}
