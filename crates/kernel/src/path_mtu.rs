//! Making our own stack believe that the path to a destination is narrower, so that it leaves room for a header.
//!
//! TCP connections that begin while headers are added get their room by a smaller MSS. For the rest (UDP, and connections
//! that are older than the strategy) the host tells itself what a router would: Packet Too Big (RFC 4443 §3.2), about a
//! socket of our own that is connected to the destination. The kernel remembers the MTU for that destination for some
//! minutes (`net.ipv6.route.mtu_expires`) and then forgets it by itself.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use zerocopy::IntoBytes;

/// RFC 8200 §5: no path is narrower.
const MIN_MTU: u32 = 1280;
/// RFC 863, discard: nothing is ever sent there.
const DISCARD: u16 = 9;
const UDP: u8 = 17;

/// May send ICMPv6; to be opened while the process has CAP_NET_RAW.
#[derive(Debug)]
pub struct PathMtu {
    icmp: OwnedFd,
}

impl PathMtu {
    /// # Errors
    /// No CAP_NET_RAW, or no IPv6.
    pub fn open() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMPV6)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that nobody else has.
        Ok(Self { icmp: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// From now on the path from `local` to `remote` has at most this MTU, in bytes of network packet. Tells whether that
    /// is news.
    ///
    /// # Errors
    /// `local` is not of this host, or there is no way to `remote`; and MTUs below 1280.
    pub fn lower(&self, local: IpAddr, remote: IpAddr, mtu: u32) -> io::Result<bool> {
        let (IpAddr::V6(local), IpAddr::V6(remote)) = (local, remote) else {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        };
        if mtu < MIN_MTU {
            return Err(io::Error::other("the path would be narrower than IPv6 allows"));
        }
        let socket = UdpSocket::bind(SocketAddr::from((local, 0)))?;
        socket.connect(SocketAddr::from((remote, DISCARD)))?;
        if path_mtu(&socket)? <= mtu {
            return Ok(false);
        }
        self.send(&too_big(local, remote, socket.local_addr()?.port(), mtu), local)?;
        Ok(true)
    }

    /// The kernel fills in the checksum (RFC 3542 §3.1).
    fn send(&self, message: &[u8], to: Ipv6Addr) -> io::Result<()> {
        let to = SocketAddrV6::new(to, 0, 0, 0);
        let address = libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
            sin6_scope_id: 0,
        };
        // SAFETY: the message and the address live through the call, which reads as many bytes of them as is said.
        let sent = unsafe {
            libc::sendto(
                self.icmp.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// `IPV6_MTU` of ipv6(7): of the path that the socket is connected to.
fn path_mtu(socket: &UdpSocket) -> io::Result<u32> {
    let mut mtu: libc::c_int = 0;
    let mut len = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the call writes at most `len` bytes to `mtu`.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
            (&raw mut mtu).cast(),
            &raw mut len,
        )
    };
    if failed != 0 { Err(io::Error::last_os_error()) } else { Ok(mtu.unsigned_abs()) }
}

/// RFC 4443 §3.2: type 2, the MTU, and the packet that was too big, of which headers are enough.
fn too_big(local: Ipv6Addr, remote: Ipv6Addr, port: u16, mtu: u32) -> Vec<u8> {
    let mut message = vec![2, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x60, 0, 0, 0]);
    message.extend(8_u16.to_be_bytes());
    message.extend([UDP, 64]);
    message.extend(local.octets());
    message.extend(remote.octets());
    message.extend([port.to_be(), DISCARD.to_be(), 8_u16.to_be(), 0].as_bytes());
    message
}
