//! Raw frames on one interface: a safe wrapper of AF_PACKET sockets.
//!
//! Place in the flow: below capture, below the tests that send frames no socket would build, and below the testbed's
//! relay. A VLAN tag that the kernel has taken out of a frame is put back, so what is received is what was on the
//! wire and can be sent on as it is. A socket here only copies frames: it must never answer, change or hold back the
//! traffic of the interface.
//!
//! ```no_run
//! use flowtag_kernel::af_packet::{ETH_P_ALL, PacketSocket};
//! use std::time::Duration;
//!
//! let socket = PacketSocket::open("eth0", ETH_P_ALL)?;
//! let mut frame = [0; 2048];
//! if let Some(got) = socket.recv(&mut frame, Some(Duration::from_secs(1)))? {
//!     println!("{:?}: {:02x?}", got.packet_type, &frame[..got.len]);
//! }
//! # Ok::<(), flowtag_kernel::af_packet::PacketSocketError>(())
//! ```

use std::ffi::CString;
use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Every protocol, in both directions.
pub const ETH_P_ALL: u16 = 0x0003;
/// IPv4.
pub const ETH_P_IP: u16 = 0x0800;
/// IPv6.
pub const ETH_P_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q tag.
pub const ETH_P_8021Q: u16 = 0x8100;
/// Receives nothing: for a socket that only sends.
pub const ETH_P_NONE: u16 = 0;

/// Destination and source address: a VLAN tag comes right after them (IEEE 802.1Q §9.3).
const ADDRESSES_LEN: usize = 12;
const VLAN_TAG_LEN: usize = 4;
/// Room for one `tpacket_auxdata` control message.
const CONTROL_WORDS: usize = 16;

/// What could not be done, on which interface, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum PacketSocketError {
    /// The name is none of an interface in this network namespace.
    #[error("cannot open a packet socket on {interface}: no such interface here; `ip link` lists them")]
    NoInterface {
        /// As it was asked for.
        interface: String,
        /// The system's word.
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("cannot open a packet socket on {interface}: run as root or with CAP_NET_RAW")]
    Open {
        /// As it was asked for.
        interface: String,
        /// The system's word.
        source: io::Error,
    },
    /// The socket could not be bound or set up.
    #[error(
        "cannot {what} of the packet socket on {interface}: check with `ip link show {interface}` that it exists"
    )]
    SetUp {
        /// Which step.
        what: &'static str,
        /// The interface of the socket.
        interface: String,
        /// The system's word.
        source: io::Error,
    },
    /// A frame could not be sent.
    #[error(
        "cannot send a frame of {len} bytes on {interface}: the interface must be up and its MTU large enough"
    )]
    Send {
        /// Bytes in the frame, link-layer header included.
        len: usize,
        /// The interface of the socket.
        interface: String,
        /// The system's word.
        source: io::Error,
    },
    /// Waiting for or reading a frame failed.
    #[error("cannot receive from {interface}: the interface must exist and be up")]
    Receive {
        /// The interface of the socket.
        interface: String,
        /// The system's word.
        source: io::Error,
    },
}

/// Whom the kernel takes a received frame to be for (packet(7), `sll_pkttype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// Addressed to this interface.
    Host,
    /// Link-layer broadcast.
    Broadcast,
    /// Link-layer multicast.
    Multicast,
    /// Addressed to another interface: seen where the interface is promiscuous or the link is point to point.
    OtherHost,
    /// Sent from here.
    Outgoing,
    /// A number this module does not know.
    Other(u8),
}

impl From<u8> for PacketType {
    fn from(value: u8) -> Self {
        match value {
            libc::PACKET_HOST => Self::Host,
            libc::PACKET_BROADCAST => Self::Broadcast,
            libc::PACKET_MULTICAST => Self::Multicast,
            libc::PACKET_OTHERHOST => Self::OtherHost,
            libc::PACKET_OUTGOING => Self::Outgoing,
            other => Self::Other(other),
        }
    }
}

/// A frame that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the caller's buffer that hold the frame.
    pub len: usize,
    /// Length of the frame on the wire: above `len` if the buffer was too small.
    pub wire_len: usize,
    /// Whom the frame is for; [`PacketType::Outgoing`] for what this host sends.
    pub packet_type: PacketType,
}

/// What the kernel counted since the last time it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames for this socket, the lost ones included.
    pub frames: u32,
    /// Frames lost because the receive buffer was full.
    pub dropped: u32,
}

/// A raw socket bound to one interface. Several threads may send and receive through one socket.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    interface: String,
}

impl PacketSocket {
    /// Opens a socket on the interface of that name in the calling thread's network namespace, for frames of
    /// `protocol` (host byte order, [`ETH_P_ALL`] for all, [`ETH_P_NONE`] to send only).
    ///
    /// # Errors
    /// No such interface, or no CAP_NET_RAW.
    pub fn open(interface: &str, protocol: u16) -> Result<Self, PacketSocketError> {
        let failed = |source| PacketSocketError::NoInterface { interface: interface.to_owned(), source };
        let name = CString::new(interface).map_err(|e| failed(e.into()))?;
        // SAFETY: `name` is a NUL-terminated string that lives across the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Self::bound(index, interface.to_owned(), protocol)
    }

    /// The same by interface index.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_index(ifindex: u32, protocol: u16) -> Result<Self, PacketSocketError> {
        Self::bound(ifindex, format!("interface {ifindex}"), protocol)
    }

    /// Made with protocol 0 and bound afterwards: nothing of another interface can slip in between.
    fn bound(index: u32, interface: String, protocol: u16) -> Result<Self, PacketSocketError> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(PacketSocketError::Open { interface, source: io::Error::last_os_error() });
        }
        // SAFETY: `fd` was opened just now and nobody else owns it.
        let socket = Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, interface };
        socket.set_option(libc::SOL_PACKET, libc::PACKET_AUXDATA, 1, "ask for the VLAN tags")?;
        socket.bind(index, protocol)?;
        Ok(socket)
    }

    fn bind(&self, index: u32, protocol: u16) -> Result<(), PacketSocketError> {
        let failed = |source| self.set_up_failed("bind the interface", source);
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: i32::try_from(index)
                .map_err(|_| failed(io::Error::from_raw_os_error(libc::ENODEV)))?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a whole sockaddr_ll and the length is its own.
        let result = unsafe {
            libc::bind(self.raw(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        if result == 0 { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
    }

    /// The interface, as it was named when the socket was opened.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Leaves out the frames that this host sends itself.
    ///
    /// # Errors
    /// The kernel is older than 4.20.
    pub fn ignore_outgoing(&self) -> Result<(), PacketSocketError> {
        self.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1, "leave out the outgoing frames")
    }

    /// Sets how many bytes of frames may wait to be received, beyond the system's limit.
    ///
    /// # Errors
    /// No CAP_NET_ADMIN.
    pub fn set_receive_buffer(&self, bytes: u32) -> Result<(), PacketSocketError> {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        self.set_option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes, "set the receive buffer")
    }

    /// Frames seen and lost since the last call.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn statistics(&self) -> Result<Statistics, PacketSocketError> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as u32;
        // SAFETY: `stats` and `len` are writable, and `len` says how large `stats` is.
        let result = unsafe {
            libc::getsockopt(
                self.raw(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut len,
            )
        };
        if result == 0 {
            Ok(Statistics { frames: stats.tp_packets, dropped: stats.tp_drops })
        } else {
            Err(self.set_up_failed("read the statistics", io::Error::last_os_error()))
        }
    }

    /// Sends one frame, link-layer header and any VLAN tag included, as it is.
    ///
    /// # Errors
    /// The interface is down or gone, or the frame exceeds its MTU.
    pub fn send(&self, frame: &[u8]) -> Result<(), PacketSocketError> {
        loop {
            // SAFETY: pointer and length are those of a live slice, which is only read.
            let sent = unsafe { libc::send(self.raw(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let source = io::Error::last_os_error();
            if source.kind() != io::ErrorKind::Interrupted {
                let (len, interface) = (frame.len(), self.interface.clone());
                return Err(PacketSocketError::Send { len, interface, source });
            }
        }
    }

    /// Receives the next frame, with its VLAN tag in place; none if there is none within `timeout` (for ever if
    /// none is given, at once for zero).
    ///
    /// # Errors
    /// The interface went down or away.
    pub fn recv(
        &self,
        buffer: &mut [u8],
        timeout: Option<Duration>,
    ) -> Result<Option<Received>, PacketSocketError> {
        let failed = |source| PacketSocketError::Receive { interface: self.interface.clone(), source };
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            match receive(self.raw(), buffer) {
                Ok(received) => return Ok(Some(received)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
                    if left == Some(Duration::ZERO) || !wait_readable(self.raw(), left).map_err(failed)? {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(failed(e)),
            }
        }
    }

    fn set_option(
        &self,
        level: i32,
        option: i32,
        value: i32,
        what: &'static str,
    ) -> Result<(), PacketSocketError> {
        // SAFETY: the option takes an int, and the pointer is to a live one.
        let result = unsafe {
            libc::setsockopt(self.raw(), level, option, (&raw const value).cast(), size_of::<i32>() as u32)
        };
        if result == 0 { Ok(()) } else { Err(self.set_up_failed(what, io::Error::last_os_error())) }
    }

    fn set_up_failed(&self, what: &'static str, source: io::Error) -> PacketSocketError {
        PacketSocketError::SetUp { what, interface: self.interface.clone(), source }
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether something came within the time: nanoseconds count here, unlike in SO_RCVTIMEO, which rounds to jiffies.
fn wait_readable(fd: RawFd, timeout: Option<Duration>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let limit = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), |t| &raw const *t);
    // SAFETY: one pollfd is passed and lives across the call; `limit` is null or points to a live timespec.
    match unsafe { libc::ppoll(&raw mut poll, 1, limit, std::ptr::null()) } {
        n if n >= 0 => Ok(n > 0),
        _ => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            e => Err(e),
        },
    }
}

/// One recvmsg that does not wait.
fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Received> {
    // u64 for the alignment that a cmsghdr needs.
    let mut control = [0_u64; CONTROL_WORDS];
    // SAFETY: all zero is a valid sockaddr_ll: it has only integers.
    let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut io = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
    message.msg_iov = &raw mut io;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in `message` is to a live, writable object of the length given beside it.
    let got = unsafe { libc::recvmsg(fd, &raw mut message, libc::MSG_DONTWAIT | libc::MSG_TRUNC) };
    let wire_len = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let plain = Received { len: wire_len.min(buffer.len()), wire_len, packet_type: from.sll_pkttype.into() };
    Ok(vlan_tag(&message).map_or(plain, |tag| insert_tag(buffer, plain, tag)))
}

/// The tag that the kernel took out of the frame: protocol and control information (packet(7), PACKET_AUXDATA).
fn vlan_tag(message: &libc::msghdr) -> Option<[u8; VLAN_TAG_LEN]> {
    // SAFETY: `message` was filled by recvmsg, and its control buffer lives in the caller.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    let wanted = (libc::SOL_PACKET, libc::PACKET_AUXDATA);
    // SAFETY: CMSG_LEN only computes.
    let len = unsafe { libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) } as usize;
    if (header.cmsg_level, header.cmsg_type) != wanted || (header.cmsg_len as usize) < len {
        return None;
    }
    // SAFETY: the message says it has a whole tpacket_auxdata, plain integers, at CMSG_DATA; alignment is not assumed.
    let aux = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
    if aux.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let has_protocol = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let protocol = if has_protocol { aux.tp_vlan_tpid } else { ETH_P_8021Q };
    let ([p0, p1], [t0, t1]) = (protocol.to_be_bytes(), aux.tp_vlan_tci.to_be_bytes());
    Some([p0, p1, t0, t1])
}

/// Puts the tag after the addresses; what no longer fits the buffer is cut, and `wire_len` says so.
fn insert_tag(buffer: &mut [u8], plain: Received, tag: [u8; VLAN_TAG_LEN]) -> Received {
    if plain.len < ADDRESSES_LEN {
        return plain;
    }
    let len = (plain.len + VLAN_TAG_LEN).min(buffer.len());
    let Some(rest) = buffer.get_mut(ADDRESSES_LEN..len) else { return plain };
    if let Some(moved) = rest.len().checked_sub(VLAN_TAG_LEN) {
        rest.copy_within(..moved, VLAN_TAG_LEN);
    }
    rest.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
    Received { len, wire_len: plain.wire_len + VLAN_TAG_LEN, ..plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: [u8; 4] = [0x81, 0x00, 0x20, 0x64];

    fn received(len: usize, wire_len: usize) -> Received {
        Received { len, wire_len, packet_type: PacketType::Host }
    }

    #[test]
    fn a_tag_goes_after_the_addresses() {
        let mut buffer: Vec<u8> = (0..24).collect();
        let got = insert_tag(&mut buffer, received(20, 20), TAG);
        assert_eq!(got, received(24, 24));
        assert_eq!(buffer[..12], (0..12).collect::<Vec<u8>>());
        assert_eq!(buffer[12..16], TAG);
        assert_eq!(buffer[16..], (12..20).collect::<Vec<u8>>());
    }

    #[test]
    fn a_tag_that_makes_the_frame_too_long_cuts_its_end() {
        let mut buffer: Vec<u8> = (0..20).collect();
        assert_eq!(insert_tag(&mut buffer, received(20, 60), TAG), received(20, 64));
        assert_eq!(buffer[12..], [0x81, 0x00, 0x20, 0x64, 12, 13, 14, 15]);
        for short in 0..16 {
            let got = insert_tag(&mut buffer[..short], received(short, 60), TAG);
            assert_eq!(got.len, short, "a buffer of {short} bytes");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        for name in ["flowtag-none", "with\0nul", ""] {
            let error = PacketSocket::open(name, ETH_P_ALL).expect_err("no such interface");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn packet_types_follow_the_kernel() {
        let all = [0, 1, 2, 3, 4, 9].map(PacketType::from);
        use PacketType::{Broadcast, Host, Multicast, Other, OtherHost, Outgoing};
        assert_eq!(all, [Host, Broadcast, Multicast, OtherHost, Outgoing, Other(9)]);
    }
}
