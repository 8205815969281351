//! Network interfaces and addresses of this network namespace, and whether packets of an interface have a link header.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

pub use crate::netlink::Watch;
use crate::{Error, Result, netlink};

/// A network interface of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index, unique in the namespace while the interface exists.
    pub index: u32,
    /// Name, as `ip link` prints it.
    pub name: String,
    /// `ARPHRD_*` of `linux/if_arp.h`.
    pub link_type: u16,
    /// Longest network packet in bytes.
    pub mtu: u32,
}

impl Interface {
    /// Bytes before the network header at the egress hook.
    ///
    /// # Errors
    /// [`Error::LinkType`] for a link whose header is not known (InfiniBand, IEEE 802.15.4, CAN, …).
    pub fn link_header_len(&self) -> Result<u8> {
        match self.link_type {
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Ok(14),
            // PPP, TUNNEL, TUNNEL6, SIT, IPGRE, RAWIP, IP6GRE, NONE (tun, WireGuard)
            512 | 768 | 769 | 776 | 778 | 519 | 823 | 0xfffe => Ok(0),
            link_type => Err(Error::LinkType { interface: self.name.clone(), link_type }),
        }
    }

    /// The loopback interface, whose packets never leave the host.
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        self.link_type == libc::ARPHRD_LOOPBACK
    }
}

/// An address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Index of the interface that has it.
    pub interface: u32,
    /// The address.
    pub addr: IpAddr,
    /// Valid beyond the link and the host (RFC 4007 §4: global scope).
    pub global: bool,
}

/// The interface of that name.
///
/// # Errors
/// [`Error::NoInterface`] where there is none.
pub fn find(name: &str) -> Result<Interface> {
    let named = all()?.into_iter().find(|i| i.name == name);
    named.ok_or_else(|| Error::NoInterface(name.to_owned()))
}

/// All interfaces, by index.
///
/// # Errors
/// [`Error::Query`] where netlink does not answer.
pub fn all() -> Result<Vec<Interface>> {
    let query = |source: io::Error| Error::Query { what: "its interfaces", source };
    let answer = netlink::dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).map_err(query)?;
    let mut found: Vec<_> = answer.iter().filter_map(interface).collect();
    found.sort_by_key(|i| i.index);
    Ok(found)
}

/// All addresses of this host.
///
/// # Errors
/// [`Error::Query`] where netlink does not answer.
pub fn addresses() -> Result<BTreeSet<Address>> {
    let query = |source: io::Error| Error::Query { what: "its addresses", source };
    let answer = netlink::dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).map_err(query)?;
    Ok(answer.iter().filter_map(address).collect())
}

fn interface(message: &RouteNetlinkMessage) -> Option<Interface> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let name = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mtu = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Some(Interface {
        index: link.header.index,
        name,
        link_type: link.header.link_layer_type.into(),
        mtu: mtu.unwrap_or(1280), // RFC 8200 §5: every IPv6 link has that
    })
}

/// `IFA_LOCAL` is this host's end of a point-to-point link, where `IFA_ADDRESS` is the peer's.
fn address(message: &RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    let addr = local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    })?;
    let global = message.header.scope == AddressScope::Universe && !addr.is_loopback();
    Some(Address { interface: message.header.index, addr, global })
}
