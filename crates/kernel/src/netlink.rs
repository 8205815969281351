//! Questions to the kernel's routing tables by netlink (rtnetlink(7)), and its word that something changed.
//!
//! Synchronous and asked of the network namespace that the calling thread is in; `/sys/class/net` would tell of the
//! namespace that sysfs was mounted in.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Answer of the kernel to one request, complete.
pub(crate) fn dump(message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    while !read_datagram(&socket, &mut found)? {}
    Ok(found)
}

/// Reads one datagram of a dump; true when it was the last.
fn read_datagram(socket: &Socket, found: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
    let (datagram, _) = socket.recv_from_full()?;
    let mut rest = datagram.as_slice();
    while let Some(length) = rest.first_chunk().map(|l| u32::from_ne_bytes(*l) as usize) {
        // What somebody else configured may be newer than our decoder: passed over, not a failure.
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map(|m| m.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(e)) => return Err(e.to_io()),
            Ok(NetlinkPayload::InnerMessage(inner)) => found.push(inner),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a netlink message is not understood"),
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Ok(false)
}

/// Multicast groups of `linux/rtnetlink.h`: links, IPv4 addresses, IPv6 addresses.
const GROUPS: [u32; 3] = [1, 5, 9];

/// Tells when links or addresses of this network namespace change.
#[derive(Debug)]
pub struct Watch(Socket);

impl Watch {
    /// From here on no change is missed.
    ///
    /// # Errors
    /// [`crate::Error::Query`] where netlink is not to be had.
    pub fn new() -> crate::Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            GROUPS.iter().try_for_each(|group| socket.add_membership(*group))?;
            Ok(Self(socket))
        };
        open().map_err(|source| crate::Error::Query { what: "changes of its interfaces", source })
    }

    /// Blocks until something changed. What it was must be asked anew: changes may have been coalesced or lost.
    ///
    /// # Errors
    /// [`crate::Error::Query`] where the socket broke.
    pub fn wait(&self) -> crate::Result<()> {
        match self.0.recv_from_full() {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Ok(()), // more than fitted: a change all the same
            Err(source) => Err(crate::Error::Query { what: "changes of its interfaces", source }),
        }
    }
}
