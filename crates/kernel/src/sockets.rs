//! Connected sockets of this network namespace (sock_diag(7)), and who holds them: for rules that come when
//! connections are there already.
//!
//! Synchronous and asked of the network namespace that the calling thread is in.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use flowtag_wire::{Endpoint, Protocol};
use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr};

use crate::mark::rules::Subject;
use crate::{Error, Result};

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_CGROUP_ID` of `linux/inet_diag.h`, since Linux 5.8.
const CGROUP_ID: u16 = 21;
/// Sizes of `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const REQUEST_LEN: usize = 56;
const ANSWER_LEN: usize = 72;

/// `TCP_*` of the kernel's `net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
/// States in which there is a peer and a socket. SYN_RECV and TIME_WAIT have no socket any more or yet.
const CONNECTED: [u8; 7] = [ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING];

/// A TCP or UDP socket that has a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Its end on this host.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// `TCP_*` of the kernel's `net/tcp_states.h`: 1 for established, and for UDP.
    pub state: u8,
    /// User id of who made it; none where no process holds it any more.
    pub user: Option<u32>,
    /// Number in `/proc/PID/fd`; 0 where no process holds it any more.
    pub inode: u32,
    /// Id of its cgroup, from Linux 5.8.
    pub cgroup: Option<u64>,
}

impl Socket {
    /// What rules judge the packets of this socket by that leave through `interface`. `process` is as in [`owners`],
    /// `cgroups` as from [`crate::cgroup::Cgroups::ancestors`].
    #[must_use]
    pub fn subject(&self, interface: u32, process: Option<String>, cgroups: Vec<u64>) -> Subject {
        let subject = Subject::new(self.protocol.number(), self.local, self.remote);
        Subject { interface, user: self.user, process, cgroups, ..subject }
    }
}

/// All connected TCP and UDP sockets of this network namespace. Listeners, sockets that are still being accepted, and
/// what remains of closed ones (TIME_WAIT) are left out.
///
/// # Errors
/// [`Error::Query`] where netlink does not answer. A kernel without `udp_diag` or `tcp_diag` is no error: it has none
/// of these sockets to tell, and the log says so.
pub fn open_sockets() -> Result<Vec<Socket>> {
    let mut found = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            match dump(Request { family: family as u8, protocol, local_port: 0 }, &mut found) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                    tracing::warn!(%protocol, "the kernel lacks the module {protocol}_diag: open sockets are not seen");
                }
                result => result.map_err(|source| Error::Query { what: "its open sockets", source })?,
            }
        }
    }
    Ok(found)
}

/// Connected TCP sockets of this network namespace with this port at this end, as those of a server. The kernel passes over
/// all others, so this costs much less than [`open_sockets`].
///
/// # Errors
/// [`Error::Query`] where netlink does not answer.
pub fn connections_at(local_port: u16) -> Result<Vec<Socket>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = Request { family: family as u8, protocol: Protocol::Tcp, local_port };
        dump(request, &mut found)
            .map_err(|source| Error::Query { what: "the connections of a server", source })?;
    }
    Ok(found)
}

/// Names of the processes that hold sockets (`/proc/PID/comm`), by the sockets' inodes; of several that hold one, the
/// one with the lowest id. What may not be read (other users' processes, without CAP_SYS_PTRACE) is left out.
///
/// The kernel remembers the thread that made a socket, which may have another name.
#[must_use]
pub fn owners() -> HashMap<u32, String> {
    let mut processes: Vec<(u32, _)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    processes.sort_unstable();
    let mut owners = HashMap::new();
    for (_, process) in processes {
        let mut inodes = sockets_of(&process).peekable();
        if inodes.peek().is_none() {
            continue;
        }
        let Ok(name) = fs::read(process.join("comm")) else { continue };
        let name = String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned();
        inodes.for_each(|inode| {
            owners.entry(inode).or_insert_with(|| name.clone());
        });
    }
    owners
}

/// Inodes of the sockets that a process holds: its descriptors are links to `socket:[INODE]`.
fn sockets_of(process: &Path) -> impl Iterator<Item = u32> {
    fs::read_dir(process.join("fd")).into_iter().flatten().flatten().filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// Asks for the sockets of one protocol and address family.
fn dump(request: Request, found: &mut Vec<Socket>) -> io::Result<()> {
    let mut netlink = Netlink::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let protocol = request.protocol;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    netlink.send(&bytes, 0)?;
    while !read_datagram(&netlink.recv_from_full()?.0, protocol, found)? {}
    Ok(())
}

/// Reads one datagram of an answer; true when it was the last.
fn read_datagram(mut rest: &[u8], protocol: Protocol, found: &mut Vec<Socket>) -> io::Result<bool> {
    while let Some(length) = rest.first_chunk().map(|l| u32::from_ne_bytes(*l) as usize) {
        match NetlinkMessage::<Answer>::deserialize(rest).map(|m| m.payload) {
            Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
            }
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(e)) => return Err(e.to_io()),
            Ok(NetlinkPayload::InnerMessage(Answer(bytes))) => found.extend(socket(&bytes, protocol)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a netlink message is not understood"),
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct inet_diag_req_v2`: no extensions, any addresses.
struct Request {
    family: u8,
    protocol: Protocol,
    /// 0: any.
    local_port: u16,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        REQUEST_LEN
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let states = CONNECTED.iter().fold(0_u32, |bits, state| bits | 1 << state);
        buffer.fill(0);
        buffer[0] = self.family;
        buffer[1] = self.protocol.number();
        buffer[4..8].copy_from_slice(&states.to_ne_bytes());
        buffer[8..10].copy_from_slice(&self.local_port.to_be_bytes());
    }
}

/// `struct inet_diag_msg` and attributes, not looked at yet.
struct Answer(Vec<u8>);

impl NetlinkDeserializable for Answer {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> std::result::Result<Self, DecodeError> {
        Ok(Self(payload.to_vec()))
    }
}

/// Decodes a socket; none for one without a peer, and for what is cut short. FIN_WAIT2 without a process is TIME_WAIT
/// under another name: the kernel keeps no socket for it.
fn socket(bytes: &[u8], protocol: Protocol) -> Option<Socket> {
    let (message, attributes) = bytes.split_at_checked(ANSWER_LEN)?;
    let port = |at: usize| message.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let word = |at: usize| message.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let (family, state) = (message[0], message[1]);
    let end = |addr, at| Some(Endpoint::new(address(family, message.get(addr..addr + 16)?)?, port(at)?));
    let (local, remote, inode) = (end(8, 4)?, end(24, 6)?, word(68)?);
    if !CONNECTED.contains(&state) || remote.port() == 0 || (state == FIN_WAIT2 && inode == 0) {
        return None;
    }
    // Older kernels say 0 (root) of a socket that no process holds.
    let user = if inode == 0 { None } else { word(64) };
    Some(Socket { protocol, local, remote, state, user, inode, cgroup: cgroup_id(attributes) })
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => bytes.first_chunk().map(|a: &[u8; 4]| Ipv4Addr::from(*a).into()),
        libc::AF_INET6 => bytes.first_chunk().map(|a: &[u8; 16]| Ipv6Addr::from(*a).into()),
        _ => None,
    }
}

fn cgroup_id(attributes: &[u8]) -> Option<u64> {
    let found = NlasIterator::new(attributes).flatten().find(|a: &NlaBuffer<&[u8]>| a.kind() == CGROUP_ID)?;
    found.value().first_chunk().map(|id| u64::from_ne_bytes(*id))
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::{Duration, Instant};

    use super::*;

    fn inode(socket: &impl AsFd) -> u32 {
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_fd().as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    fn find(socket: &impl AsFd) -> Option<Socket> {
        let inode = inode(socket);
        open_sockets().unwrap().into_iter().find(|s| s.inode == inode)
    }

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < end, "not so after 10 s: {what}");
            std::thread::yield_now();
        }
    }

    fn own_user() -> Option<u32> {
        Some(nix::unistd::geteuid().as_raw())
    }

    fn own_name() -> String {
        fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned()
    }

    #[test]
    fn both_ends_of_a_connection_are_found_and_its_listener_is_not() {
        for host in ["127.0.0.1", "[::1]"] {
            let listener = TcpListener::bind(format!("{host}:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let client = TcpStream::connect(address).unwrap();
            let (server, _) = listener.accept().unwrap();
            assert_eq!(find(&listener), None);
            let found = find(&client).unwrap();
            let near = client.local_addr().unwrap();
            assert_eq!((found.local, found.remote), (near.into(), address.into()));
            assert_eq!((found.protocol, found.state, found.user), (Protocol::Tcp, ESTABLISHED, own_user()));
            let found = find(&server).unwrap();
            assert_eq!((found.local, found.remote), (address.into(), near.into()));
        }
    }

    #[test]
    fn the_connections_of_one_port_are_found_and_no_others() {
        for host in ["127.0.0.1", "[::1]"] {
            let listener = TcpListener::bind(format!("{host}:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let client = TcpStream::connect(address).unwrap();
            let (server, _) = listener.accept().unwrap();
            let found = connections_at(address.port()).unwrap();
            let found: Vec<_> = found.iter().map(|s| (s.local, s.remote, s.inode)).collect();
            assert_eq!(found, [(address.into(), client.local_addr().unwrap().into(), inode(&server))]);
        }
    }

    #[test]
    fn ipv4_over_an_ipv6_socket_is_ipv4() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert!(peer.is_ipv6(), "the test wants a mapped address: {peer}");
        let found = find(&server).unwrap();
        assert_eq!(found.local, Endpoint::new(Ipv4Addr::LOCALHOST.into(), port));
        assert_eq!(found.remote, client.local_addr().unwrap().into());
    }

    #[test]
    fn udp_is_found_once_it_is_connected() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let (a, b) = (UdpSocket::bind(host).unwrap(), UdpSocket::bind(host).unwrap());
            assert_eq!(find(&a), None);
            a.connect(b.local_addr().unwrap()).unwrap();
            let found = find(&a).unwrap();
            assert_eq!((found.protocol, found.state), (Protocol::Udp, ESTABLISHED));
            assert_eq!(found.local, a.local_addr().unwrap().into());
            assert_eq!(found.remote, b.local_addr().unwrap().into());
            assert_eq!(find(&b), None);
        }
    }

    #[test]
    fn a_connection_that_is_being_closed_is_found_until_it_is() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, near) = listener.accept().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        wait_until("the other end has heard of it", || find(&client).unwrap().state == FIN_WAIT2);
        assert_eq!(find(&server).unwrap().state, CLOSE_WAIT);
        drop(server);
        drop(client); // closed first: what remains is in TIME_WAIT
        let near = near.into();
        wait_until("nothing is left", || {
            open_sockets().unwrap().iter().all(|s| s.local != near && s.remote != near)
        });
    }

    #[test]
    fn a_socket_is_of_the_cgroup_that_its_process_was_in() {
        let Ok(cgroups) = crate::cgroup::Cgroups::read() else { return };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let found = find(&client).unwrap();
        if found.cgroup.is_some() {
            assert_eq!(found.cgroup, cgroups.resolve(own).map(|c| c.id));
        }
    }

    #[test]
    fn the_owner_of_a_socket_is_this_process() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(owners().get(&inode(&socket)), Some(&own_name()));
    }

    #[test]
    fn rules_judge_a_socket_by_what_is_known_of_it() {
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        socket.connect("[::1]:9").unwrap();
        let found = find(&socket).unwrap();
        let subject = found.subject(7, Some("xrootd".into()), vec![5, 1]);
        assert_eq!((subject.protocol, subject.interface, subject.user), (17, 7, own_user()));
        assert_eq!((subject.local, subject.remote), (found.local, found.remote));
        assert_eq!((subject.process.as_deref(), subject.cgroups), (Some("xrootd"), vec![5, 1]));
    }

    /// As a kernel before 6.17 tells of a socket that is closed but still has data to send.
    #[test]
    fn an_orphan_is_not_of_root() {
        let mut message = vec![0; ANSWER_LEN];
        message[0] = libc::AF_INET as u8;
        message[1] = FIN_WAIT1;
        message[4..8].copy_from_slice(&[0x04, 0x46, 0x9c, 0x40]);
        message[8..12].copy_from_slice(&[192, 0, 2, 1]);
        message[24..28].copy_from_slice(&[192, 0, 2, 2]);
        let orphan = socket(&message, Protocol::Tcp).unwrap();
        assert_eq!((orphan.user, orphan.inode), (None, 0));
        assert_eq!(orphan.local, "192.0.2.1:1094".parse().unwrap());
        assert_eq!(orphan.remote, "192.0.2.2:40000".parse().unwrap());
        message[1] = FIN_WAIT2;
        assert_eq!(socket(&message, Protocol::Tcp), None, "no socket any more");
    }

    #[test]
    fn what_is_cut_short_is_passed_over() {
        let mut message = vec![0; ANSWER_LEN + 12];
        message[0] = libc::AF_INET6 as u8;
        message[1] = ESTABLISHED;
        message[6..8].copy_from_slice(&[0, 80]);
        message[ANSWER_LEN..].copy_from_slice(&[12, 0, 21, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        for length in 0..ANSWER_LEN {
            assert_eq!(socket(&message[..length], Protocol::Tcp), None);
        }
        for length in ANSWER_LEN..message.len() {
            assert_eq!(socket(&message[..length], Protocol::Tcp).unwrap().cgroup, None);
        }
        if cfg!(target_endian = "little") {
            assert_eq!(socket(&message, Protocol::Tcp).unwrap().cgroup, Some(9));
        }
    }
}
