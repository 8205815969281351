//! How a flow is found and how the kernel sees it.
//!
//! Announced `B > A` on the host with address A: [`Pair`] is `{A, B}` and finds the flow from either end,
//! [`FlowKey`] is `A > B` and matches the packets that leave. Neither is ever less than both addresses, both ports
//! and the protocol.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;

use flowtag_wire::{Endpoint, Entropy, FiveTuple, Protocol};
use siphasher::sip::SipHasher24;

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

    /// Five bits from SipHash-2-4 of the pair under `key`.
    ///
    /// draft-cc-v6ops-wlcg-flow-label-marking wants the bits chosen at random once per flow and stable for its
    /// lifetime. A keyed hash is both without being remembered: it survives a repeated START, an END and START of
    /// the same 5-tuple, a change of direction and a restart with the same key, and tells outsiders nothing.
    pub(crate) fn entropy(&self, key: &[u8; 16]) -> Entropy {
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(&[self.protocol.number()]);
        for end in [self.low, self.high] {
            hasher.write(&octets(end.addr()));
            hasher.write(&end.port().to_be_bytes());
        }
        // The low half is as good as the whole: every bit of a SipHash depends on every bit of the input.
        Entropy::from_random(hasher.finish() as u32)
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

/// 16 octets for either family, so that the hashed input has one length. IPv4 as `::ffff:a.b.c.d`, which no IPv6
/// endpoint can be: [`Endpoint`] unwraps it.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}
