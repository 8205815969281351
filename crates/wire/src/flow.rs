//! Flow identity: both addresses, both ports, protocol. Never less.

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

/// Transport protocols whose flows can be told apart by ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Protocol {
    /// The IANA protocol number, as in the IPv6 next header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The lower-case name, as fireflies carry it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Protocol {
    type Err = FlowError;
    fn from_str(s: &str) -> Result<Self, FlowError> {
        [Self::Tcp, Self::Udp]
            .into_iter()
            .find(|p| p.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| FlowError::Protocol(s.chars().take(40).collect()))
    }
}

/// Why something is not a flow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Not a protocol with ports that we know.
    #[error("protocol {0:?} is not known: use tcp or udp")]
    Protocol(String),
    /// Not `ADDRESS:PORT`.
    #[error("{0:?} is not an address and port: write 192.0.2.1:443 or [2001:db8::1]:443")]
    Endpoint(String),
    /// A flow goes between addresses of one family.
    #[error("{0} and {1} are of different address families: a flow is IPv4 or IPv6 at both ends")]
    MixedFamilies(IpAddr, IpAddr),
    /// `::`, `0.0.0.0`, multicast or broadcast cannot be one end of a flow.
    #[error("{0} is not the address of a host: give the unicast address that the packets carry")]
    NotUnicast(IpAddr),
    /// Port 0 is never on the wire.
    #[error("port 0 is not a port of a flow: use 1 to 65535")]
    PortZero,
    /// Both ends are the same socket.
    #[error("source and destination are both {0}")]
    SameEnds(Endpoint),
}

/// One end of a flow. IPv4-mapped IPv6 addresses are the IPv4 address that they mean.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    addr: IpAddr,
    port: u16,
}

impl Endpoint {
    /// `::ffff:192.0.2.1` becomes `192.0.2.1`: that is what the packets carry (RFC 4291 §2.5.5.2).
    #[must_use]
    pub fn new(addr: IpAddr, port: u16) -> Self {
        Self { addr: addr.to_canonical(), port }
    }

    /// The address in the packets.
    #[must_use]
    pub const fn addr(self) -> IpAddr {
        self.addr
    }

    /// The port, host byte order.
    #[must_use]
    pub const fn port(self) -> u16 {
        self.port
    }

    fn check(self) -> Result<(), FlowError> {
        let broadcast = matches!(self.addr, IpAddr::V4(a) if a.is_broadcast());
        if self.addr.is_unspecified() || self.addr.is_multicast() || broadcast {
            return Err(FlowError::NotUnicast(self.addr));
        }
        if self.port == 0 { Err(FlowError::PortZero) } else { Ok(()) }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(a: SocketAddr) -> Self {
        Self::new(a.ip(), a.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(e: Endpoint) -> Self {
        Self::new(e.addr, e.port)
    }
}

/// `192.0.2.1:443` or `[2001:db8::1]:443` (RFC 5952 §6).
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Endpoint {
    type Err = FlowError;
    fn from_str(s: &str) -> Result<Self, FlowError> {
        s.parse::<SocketAddr>().map(Self::from).map_err(|_| FlowError::Endpoint(s.chars().take(80).collect()))
    }
}

/// A flow as somebody named it: source and destination as they said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    protocol: Protocol,
    src: Endpoint,
    dst: Endpoint,
}

impl FiveTuple {
    /// # Errors
    /// Addresses that no packet of a flow can carry, port 0, two families, twice the same end.
    pub fn new(protocol: Protocol, src: Endpoint, dst: Endpoint) -> Result<Self, FlowError> {
        src.check()?;
        dst.check()?;
        if src.addr.is_ipv4() != dst.addr.is_ipv4() {
            return Err(FlowError::MixedFamilies(src.addr, dst.addr));
        }
        if src == dst {
            return Err(FlowError::SameEnds(src));
        }
        Ok(Self { protocol, src, dst })
    }

    /// Transport protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Source, as named.
    #[must_use]
    pub const fn src(&self) -> Endpoint {
        self.src
    }

    /// Destination, as named.
    #[must_use]
    pub const fn dst(&self) -> Endpoint {
        self.dst
    }

    /// Whether the packets are IPv6, the only ones with a flow label.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.src.addr.is_ipv6()
    }

    /// The same flow seen from the other end.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { protocol: self.protocol, src: self.dst, dst: self.src }
    }
}

/// SipHash-2-4 under `key` of the flow between two ends, the same from either: protocol, then address and port of the
/// lesser end and of the greater, IPv4 as `::ffff:a.b.c.d`.
///
/// From it come the entropy bits of a label: draft-cc-v6ops-wlcg-flow-label-marking wants them random once per flow and
/// stable for its lifetime. A keyed hash is both without being remembered: it survives a repeated START, a change of
/// direction and a restart with the same key, the programs in the kernel can compute it, and it tells outsiders nothing.
#[must_use]
pub fn keyed_hash(protocol: Protocol, ends: [Endpoint; 2], key: &[u8; 16]) -> u64 {
    let [a, b] = ends;
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(&[protocol.number()]);
    for end in [a.min(b), a.max(b)] {
        let address = match end.addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        hasher.write(&address.octets());
        hasher.write(&end.port.to_be_bytes());
    }
    hasher.finish()
}

/// `tcp [2001:db8::1]:443 > [2001:db8::2]:5001`.
impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.src, self.dst)
    }
}
