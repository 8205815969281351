//! Many datagrams in one system call.
//!
//! The sockets are not registered with the runtime: epoll would be told of each datagram that leaves, which costs as much
//! as sending it.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};

/// Datagrams handed to the kernel at a time.
const AT_ONCE: usize = 64;
/// How long to wait for room in a socket. An interface that takes longer loses what does not fit: others wait as well.
const PATIENCE: Duration = Duration::from_millis(20);
/// How often it is looked for room.
const LOOK: Duration = Duration::from_millis(1);
/// How long a connected socket is used. Its source address is chosen when it is made, and may leave the host.
const RENEW: Duration = Duration::from_secs(60);

/// What became of some datagrams.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Handed to the kernel.
    pub(crate) sent: u64,
    /// Not taken by the kernel.
    pub(crate) failed: u64,
    /// Answers of the network that an earlier one did not arrive (ICMP).
    pub(crate) refused: u64,
    /// The latest reason for either.
    pub(crate) error: Option<io::Error>,
}

impl Sent {
    fn fail(&mut self, number: usize, error: io::Error) {
        self.failed += number as u64;
        self.error = Some(error);
    }
}

/// Sends each to its address; without one, to where the socket is connected to.
pub(crate) async fn send(socket: &UdpSocket, datagrams: &[(&[u8], Option<SocketAddr>)]) -> Sent {
    let (mut sent, mut rest, mut told) = (Sent::default(), datagrams, false);
    let mut waited = Duration::ZERO;
    let mut stopped = false; // by an error that the kernel does not say if it took others before
    while !rest.is_empty() {
        let some = &rest[..rest.len().min(AT_ONCE)];
        match send_some(socket, some) {
            Ok(number) => {
                sent.sent += number as u64;
                sent.refused += u64::from(stopped);
                if stopped {
                    sent.error = Some(io::ErrorKind::ConnectionRefused.into());
                }
                (told, stopped) = (false, number < some.len());
                rest = &rest[number..];
                waited = Duration::ZERO;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stopped = false;
                if waited >= PATIENCE {
                    sent.fail(rest.len(), error);
                    return sent;
                }
                tokio::time::sleep(LOOK).await;
                waited += LOOK;
            }
            // About an earlier datagram: this one was not tried.
            Err(error) if is_answer(&error) && !told => {
                sent.refused += 1;
                sent.error = Some(error);
                (told, stopped) = (true, false);
            }
            Err(error) => {
                stopped = false;
                sent.fail(1, error);
                rest = &rest[1..];
            }
        }
    }
    sent
}

/// Whether ICMP may say so of an earlier datagram.
fn is_answer(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable)
}

/// How many of them were taken, one at least.
fn send_some(socket: &UdpSocket, datagrams: &[(&[u8], Option<SocketAddr>)]) -> io::Result<usize> {
    let slices: Vec<_> = datagrams.iter().map(|(bytes, _)| [IoSlice::new(bytes)]).collect();
    let addresses: Vec<_> = datagrams.iter().map(|(_, to)| to.map(SocketAddrAny::from)).collect();
    let mut control: Vec<_> = datagrams.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let parts = slices.iter().zip(&addresses).zip(&mut control);
    let mut messages: Vec<_> = parts
        .map(|((slice, address), control)| match address {
            Some(address) => MMsgHdr::new_with_addr(address, slice, control),
            None => MMsgHdr::new(slice, control),
        })
        .collect();
    Ok(sendmmsg(socket.as_fd(), &mut messages, SendFlags::NOSIGNAL)?)
}

/// One unconnected socket a family, for any destination; none where the host lacks the family.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    pub(crate) fn new() -> Self {
        Self {
            v4: bind((Ipv4Addr::UNSPECIFIED, 0).into()).ok(),
            v6: bind((Ipv6Addr::UNSPECIFIED, 0).into()).ok(),
        }
    }

    /// As [`send`]; all have an address.
    pub(crate) async fn send(&self, datagrams: &[(&[u8], SocketAddr)]) -> Sent {
        let mut all = Sent::default();
        for (socket, is_v4) in [(&self.v4, true), (&self.v6, false)] {
            let some: Vec<_> = datagrams
                .iter()
                .filter(|(_, to)| to.is_ipv4() == is_v4)
                .map(|(b, to)| (*b, Some(*to)))
                .collect();
            match socket {
                _ if some.is_empty() => {}
                None => all.fail(some.len(), io::ErrorKind::Unsupported.into()),
                Some(socket) => {
                    let Sent { sent, failed, refused, error } = send(socket, &some).await;
                    (all.sent, all.failed, all.refused) =
                        (all.sent + sent, all.failed + failed, all.refused + refused);
                    all.error = error.or(all.error);
                }
            }
        }
        all
    }
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket for one target, so that the network's answers are known to be of that target.
#[derive(Debug, Default)]
pub(crate) struct Connected(Option<(SocketAddr, Instant, UdpSocket)>);

impl Connected {
    /// Sends all of them to this address.
    pub(crate) async fn send(&mut self, to: SocketAddr, datagrams: &[(&[u8], Option<SocketAddr>)]) -> Sent {
        let now = Instant::now();
        let usable = |(address, made, _): &(SocketAddr, Instant, _)| {
            *address == to && now.saturating_duration_since(*made) < RENEW
        };
        if !self.0.as_ref().is_some_and(usable) {
            self.0 = match connect(to) {
                Ok(socket) => Some((to, now, socket)),
                Err(error) => {
                    let failed = datagrams.len() as u64;
                    return Sent { failed, error: Some(error), ..Sent::default() };
                }
            };
        }
        let Some((_, _, socket)) = &self.0 else { return Sent::default() };
        let sent = send(socket, datagrams).await;
        if sent.failed > 0 {
            self.0 = None;
        }
        sent
    }
}

fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        socket
    }

    #[tokio::test]
    async fn each_arrives_in_order_at_its_own_address_in_both_families() {
        let receivers = [localhost(), UdpSocket::bind("[::1]:0").expect("a socket")];
        let addresses = receivers.each_ref().map(|r| r.local_addr().expect("an address"));
        let texts: Vec<_> = (0..100).map(|n: u32| n.to_string()).collect();
        let datagrams: Vec<_> =
            texts.iter().enumerate().map(|(n, text)| (text.as_bytes(), addresses[n % 2])).collect();
        let sent = Sockets::new().send(&datagrams).await;
        assert_eq!((sent.sent, sent.failed), (100, 0), "{sent:?}");
        for (which, receiver) in receivers.iter().enumerate() {
            for text in texts.iter().skip(which).step_by(2) {
                let mut buffer = [0; 10];
                let length = receiver.recv(&mut buffer).expect("a datagram");
                assert_eq!(&buffer[..length], text.as_bytes());
            }
        }
    }

    #[tokio::test]
    async fn a_target_that_is_not_there_is_noticed_and_one_that_comes_back_loses_nothing() {
        let at = localhost().local_addr().expect("an address");
        let (mut target, datagrams) = (Connected::default(), [(&b"a"[..], None), (&b"b"[..], None)]);
        let mut refused = 0;
        while refused == 0 {
            let sent = target.send(at, &datagrams).await;
            assert!(sent.sent == 2 && sent.failed == 0, "{sent:?}");
            refused += sent.refused;
        }
        let back = UdpSocket::bind(at).expect("the port is free");
        assert_eq!(target.send(at, &datagrams).await.sent, 2);
        for wanted in [b"a", b"b"] {
            let mut buffer = [0; 1];
            back.recv(&mut buffer).expect("a datagram");
            assert_eq!(&buffer, wanted);
        }
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_does_not_hold_back_the_others() {
        let receiver = localhost();
        let to = receiver.local_addr().expect("an address");
        let long = vec![0; 70_000];
        let sent = Sockets::new().send(&[(b"a", to), (&long, to), (b"b", to)]).await;
        assert_eq!((sent.sent, sent.failed), (2, 1), "{sent:?}");
        assert!(sent.error.is_some());
    }
}
