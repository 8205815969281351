//! Captured packets: what the tag, the flow label and the transport header of a frame say.
//!
//! Place in the data flow: the collector and `flowtag decode` hand in the frames of a capture file or of the
//! kernel's capture program; accounting and display take the [`Packet`]. It borrows the frame and copies nothing
//! but a few numbers. Nothing here trusts a length field beyond the bytes that are there, and a frame that ends
//! early still gives what came before: [`Packet::stopped`] says where and why reading ended.
//!
//! ```
//! use flowtag_wire::packet::{LinkType, Packet};
//!
//! // A TCP SYN from ::1 port 40000 to ::1 port 1094, marked as experiment 3, activity 14, without a link layer.
//! let mut frame = vec![0x60, 0x03, 0x00, 0x38, 0, 20, 6, 64];
//! frame.extend([[0; 15].as_slice(), &[1], &[0; 15], &[1]].concat());
//! frame.extend([0x9c, 0x40, 0x04, 0x46, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
//!
//! let packet = Packet::parse(LinkType::Ip, &frame)?;
//! assert_eq!(packet.flow_label.and_then(|l| l.tag()).map(|t| t.to_string()).as_deref(), Some("3/14"));
//! assert_eq!(packet.ports.map(|p| p.dst), Some(1094));
//! # Ok::<(), flowtag_wire::packet::PacketError>(())
//! ```

mod ip;
mod link;
mod transport;

use std::fmt;
use std::net::IpAddr;

use crate::option::{Found, OptionError, Place};
use crate::{Endpoint, FiveTuple, FlowLabel, Protocol};

pub use link::LinkType;
pub use transport::{Tcp, TcpFlags};

/// At most so many tags are kept of one packet; no sender that we know puts in more than two.
pub const MAX_OPTION_TAGS: usize = 8;

/// A header within a frame, for error messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Ethernet, Linux cooked capture.
    Link,
    /// IEEE 802.1Q or 802.1ad.
    Vlan,
    /// The version nibble of a frame without a link layer.
    Ip,
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
    /// An extension header of RFC 8200 §4.
    Extension,
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 792 and RFC 4443.
    Icmp,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Link => "link",
            Self::Vlan => "VLAN",
            Self::Ip => "IP",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Extension => "IPv6 extension",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        })
    }
}

/// Why a frame, or the rest of it, could not be read. Offsets are bytes from the start of the frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// No link type of [`LinkType`].
    #[error("link type {0} is not supported: capture Ethernet, raw IP or Linux cooked (SLL, SLL2)")]
    LinkType(u32),
    /// The frame ends within a header.
    #[error(
        "the {layer} header at offset {offset} has {have} of {need} bytes: capture more bytes of each packet"
    )]
    Truncated {
        /// The header that is cut off.
        layer: Layer,
        /// Where it begins.
        offset: usize,
        /// Bytes that it needs, as far as is known.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// Neither IPv4 nor IPv6, or a third VLAN tag.
    #[error("the EtherType {ethertype:#06x} at offset {offset} is not IP behind at most two VLAN tags")]
    NotIp {
        /// The EtherType or protocol.
        ethertype: u16,
        /// Where it stands.
        offset: usize,
    },
    /// A field contradicts the format.
    #[error("the {layer} header at offset {offset} is malformed: {what}")]
    Malformed {
        /// The header.
        layer: Layer,
        /// Where it begins.
        offset: usize,
        /// Which rule it breaks.
        what: &'static str,
    },
    /// An options header is malformed.
    #[error("the options header at offset {offset} cannot be read")]
    Options {
        /// Where it begins.
        offset: usize,
        /// What is wrong in it.
        #[source]
        source: OptionError,
    },
}

/// Source and destination port, host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

/// Which piece of a datagram a fragment is (RFC 791 §3.1, RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Groups the fragments of one datagram; 16 bits in IPv4.
    pub id: u32,
    /// Where the piece belongs, in bytes; a multiple of 8.
    pub offset: u32,
    /// Whether another piece follows.
    pub more: bool,
}

impl Fragment {
    /// An atomic fragment is the whole datagram (RFC 6946).
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// A tag option and the header that it was in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OptionTag {
    /// The kind of options header.
    pub place: Place,
    /// What it says.
    pub found: Found,
}

/// One packet. What a fragment or a short capture does not show is absent, not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// VLAN identifiers (0 to 4095), the outer first.
    pub vlans: [Option<u16>; 2],
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Differentiated services code point, 0 to 63 (RFC 2474).
    pub dscp: u8,
    /// Explicit congestion notification, 0 to 3 (RFC 3168).
    pub ecn: u8,
    /// The flow label, IPv6 only.
    pub flow_label: Option<FlowLabel>,
    /// Hop limit or time to live.
    pub hop_limit: u8,
    /// The protocol behind all extension headers, or the number of the header at which reading stopped.
    pub protocol: u8,
    /// Set on fragments.
    pub fragment: Option<Fragment>,
    /// Tags found in options headers, in the order of the packet, at most [`MAX_OPTION_TAGS`].
    pub option_tags: Vec<OptionTag>,
    /// Ports of TCP and UDP.
    pub ports: Option<Ports>,
    /// The TCP header.
    pub tcp: Option<Tcp>,
    /// Where the transport's payload begins, in bytes from the start of the frame.
    pub payload_offset: usize,
    /// Bytes of payload on the wire; none if the packet does not say (segmentation offload, jumbograms).
    pub payload_len: Option<usize>,
    /// The bytes of the payload that were captured.
    pub payload: &'a [u8],
    /// Why the rest of the packet could not be read.
    pub stopped: Option<PacketError>,
    upper: &'a [u8],
    upper_len: Option<usize>,
    is_source_routed: bool,
}

impl<'a> Packet<'a> {
    /// Reads a frame as far as it can be read.
    ///
    /// # Errors
    /// [`PacketError`] if there is no complete IP header. What is wrong after it is in [`Self::stopped`].
    pub fn parse(link: LinkType, frame: &'a [u8]) -> Result<Self, PacketError> {
        let link = link::read(link, frame)?;
        let mut packet = ip::read(frame, link.ip_offset)?;
        packet.vlans = link.vlans;
        Ok(packet)
    }

    /// 4 or 6.
    #[must_use]
    pub const fn ip_version(&self) -> u8 {
        if self.src.is_ipv4() { 4 } else { 6 }
    }

    /// The flow that the packet belongs to; none for fragments without ports, other protocols and multicast.
    #[must_use]
    pub fn flow(&self) -> Option<FiveTuple> {
        let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == self.protocol)?;
        let ports = self.ports?;
        FiveTuple::new(protocol, Endpoint::new(self.src, ports.src), Endpoint::new(self.dst, ports.dst)).ok()
    }

    /// Whether the checksum of TCP, UDP or ICMPv6 is right; none if that cannot be told: the packet is cut off, a
    /// fragment, source-routed, of another protocol, or UDP over IPv4 without a checksum.
    ///
    /// Packets captured where they were sent are often "wrong", because the network card fills the checksum in.
    #[must_use]
    pub fn checksum_ok(&self) -> Option<bool> {
        transport::checksum_ok(self)
    }
}
