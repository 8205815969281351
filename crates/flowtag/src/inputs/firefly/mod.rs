//! Fireflies of others, over UDP: each announces or ends its flow, whatever dialect it is in.
//!
//! One task reads the socket, so that a flow's fireflies stay in order. While the engine is busy they wait in the socket's
//! buffer; the kernel counts what finds no room there. What a firefly says beyond the fields of an event travels with it to
//! the report that follows. A firefly that was sent from here, or was heard before, is not news. Never trusted: anything that
//! is not a firefly is counted and forgotten.

mod event;
mod relay;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flowtag_engine::{Event, Outcome};
use flowtag_kernel::socket_queue;
use flowtag_wire::{Firefly, ReadError, TagError};
use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};
use tokio::net::UdpSocket;

use crate::config;
use crate::inputs::access::{self, Announcer, Denied};
use crate::supervisor::core::Stopping;
use crate::supervisor::counters::{Counted, Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;
use relay::Relay;

/// As in `access.input`, and what flows say who announced them.
const NAME: &str = "firefly";
/// Datagrams that are handed to the engine at a time.
const AT_ONCE: usize = 64;
/// No firefly is that long; a longer datagram is cut off and so is none.
const MAX_DATAGRAM: usize = 16 << 10;
/// How often it is looked at what the kernel lost.
const LOOK: Duration = Duration::from_secs(1);

counters! {
    /// What came in fireflies.
    pub(crate) struct Counters {
        /// Fireflies that became events.
        events,
        /// Datagrams from addresses that are not in `sources`; ignored.
        foreign,
        /// Datagrams that are no fireflies.
        malformed,
        /// Fireflies that were sent from here, or heard before; ignored.
        repeated,
        /// Fireflies of experiments or activities that have no tag: relayed, not marked.
        out_of_range,
        /// Events that the engine or an access rule refused.
        refused,
        /// ENDs of flows that nobody knows.
        unknown,
        /// Datagrams that were sent on to `relay`, once for each.
        relayed,
        /// Datagrams that were not sent on because they came from there or were sent on before.
        relay_repeated,
        /// Datagrams that could not be sent on.
        relay_failed,
    }
}

/// What the kernel could not keep; read from it when somebody wants to know.
pub(in crate::inputs) struct Lost {
    socket: Arc<UdpSocket>,
    latest: AtomicU64,
}

impl Lost {
    pub(in crate::inputs) fn new(socket: Arc<UdpSocket>) -> Self {
        Self { socket, latest: AtomicU64::new(0) }
    }

    fn get(&self) -> u64 {
        if let Ok(drops) = socket_queue::drops(self.socket.as_fd()) {
            self.latest.store(drops.into(), Ordering::Relaxed);
        }
        self.latest.load(Ordering::Relaxed)
    }
}

impl Counted for Lost {
    fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        vec![("lost", "Datagrams that the kernel had no room for.", self.get())]
    }
}

/// The receiving side.
struct Input {
    socket: Arc<UdpSocket>,
    sources: Vec<IpNet>,
    relay: Relay,
    announcer: Announcer,
    daemon: Daemon,
    counters: Arc<Counters>,
    lost: Arc<Lost>,
    /// What was lost when it was last looked, and when that was.
    looked: (u64, Instant),
    throttle: Throttle,
}

/// Makes it ready to run.
///
/// # Errors
/// The address is in use or not ours.
pub(crate) async fn prepare(config: &config::FireflyInput, daemon: &Daemon) -> Result<Service> {
    let what = || format!("cannot listen for fireflies on {} (inputs.firefly.listen)", config.listen);
    let socket = Arc::new(bind(config).with_context(what)?);
    let at = Some(socket.local_addr().with_context(what)?.to_string());
    let counters = Arc::new(Counters::default());
    let lost = Arc::new(Lost::new(Arc::clone(&socket)));
    let relay = Relay::new(&config.relay, Arc::clone(&counters));
    let targets = relay.targets();
    let entry = Entry { at, targets, ..Entry::new(vec![counters.clone(), lost.clone()]) };
    let input = Input {
        socket,
        sources: config.sources.clone(),
        relay,
        announcer: Announcer::anonymous(NAME),
        daemon: daemon.clone(),
        counters,
        lost,
        looked: (0, Instant::now()),
        throttle: Throttle::default(),
    };
    Ok(Service { entry, feed: None, run: Box::pin(input.run()) })
}

/// Both families at `[::]`. A host without IPv6 has only the other.
fn bind(config: &config::FireflyInput) -> io::Result<UdpSocket> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), config.listen.port());
    match open(config.listen, config.buffer) {
        Err(error) if config.listen == any && error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), any.port()), config.buffer)
        }
        result => result,
    }
}

/// A socket that takes IPv4 as well if it is IPv6's.
pub(in crate::inputs) fn open(at: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = nix::sys::socket::socket(family, SockType::Datagram, flags, None)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    // More than net.core.rmem_max takes CAP_NET_ADMIN.
    setsockopt(&socket, sockopt::RcvBufForce, &buffer)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &buffer))?;
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    UdpSocket::from_std(socket.into())
}

/// Why a firefly became no event.
#[derive(Debug, thiserror::Error)]
enum NoEvent {
    #[error("a datagram of {from}")]
    Malformed {
        from: IpAddr,
        #[source]
        source: ReadError,
    },
    #[error("a firefly of {from} cannot be marked")]
    NoTag {
        from: IpAddr,
        #[source]
        source: TagError,
    },
}

/// Told beside a refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not in inputs.firefly.sources")]
struct Foreign(IpAddr);

/// Told beside a number of lost datagrams.
#[derive(Debug, thiserror::Error)]
#[error("{0} so far: raise inputs.firefly.buffer")]
struct LostSoFar(u64);

/// Told beside an END that ends nothing.
#[derive(Debug, thiserror::Error)]
#[error("its START was never heard, or it is over already")]
struct UnknownFlow;

impl Input {
    /// Listens until it is dropped.
    async fn run(mut self) {
        let listening = Listening::begin(&self.daemon);
        let mut buffer = vec![0; MAX_DATAGRAM + 1];
        loop {
            if let Err(error) = self.socket.readable().await {
                self.throttle.warn("fireflies cannot be received", &error);
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let events = self.read(&mut buffer);
            self.relay.send().await;
            match access::events(&self.daemon, &self.announcer, events).await {
                Ok(outcomes) => self.count(&outcomes),
                Err(Stopping) => break,
            }
            self.tell_lost();
        }
        drop(listening);
    }

    /// What waits in the socket, as far as it is taken at a time.
    fn read(&mut self, buffer: &mut [u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..AT_ONCE {
            let (length, from) = match self.socket.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.throttle.warn("a firefly cannot be received", &error);
                    break;
                }
            };
            let from = from.ip().to_canonical();
            events.extend(self.take(buffer.get(..length).unwrap_or_default(), from));
        }
        self.counters.events.add(events.len() as u64);
        events
    }

    fn take(&mut self, datagram: &[u8], from: IpAddr) -> Option<Event> {
        if !self.sources.iter().any(|prefix| prefix.contains(&from)) {
            self.counters.foreign.add(1);
            self.throttle.warn("a datagram was ignored", &Foreign(from));
            return None;
        }
        let read = match datagram.len() {
            ..=MAX_DATAGRAM => Firefly::from_datagram(datagram),
            more => Err(ReadError::TooLong(more)),
        };
        let mut firefly = match read {
            Ok(firefly) => firefly,
            Err(source) => {
                self.counters.malformed.add(1);
                self.throttle.warn("not a firefly", &NoEvent::Malformed { from, source });
                return None;
            }
        };
        if !self.daemon.fireflies.is_new(&firefly) {
            self.counters.repeated.add(1);
            return None;
        }
        self.relay.take(datagram, from);
        // A program on this host is not a host that knows it all already.
        firefly.sender = Some(from).filter(|from| !from.is_loopback());
        event::of(firefly).map_err(|source| self.no_tag(from, source)).ok()
    }

    fn no_tag(&mut self, from: IpAddr, source: TagError) {
        self.counters.out_of_range.add(1);
        self.throttle.warn("a firefly is not marked", &NoEvent::NoTag { from, source });
    }

    fn count(&mut self, outcomes: &[Result<Outcome, Denied>]) {
        for outcome in outcomes {
            match outcome {
                Ok(Outcome::Rejected(reason)) => {
                    self.counters.refused.add(1);
                    self.throttle.warn("a firefly was refused", reason);
                }
                Err(denied) => {
                    self.counters.refused.add(1);
                    self.throttle.warn("a firefly was refused", denied);
                }
                Ok(Outcome::UnknownFlow) => {
                    self.counters.unknown.add(1);
                    self.throttle.warn("a firefly ended a flow that is not known", &UnknownFlow);
                }
                Ok(_) => {}
            }
        }
    }

    fn tell_lost(&mut self) {
        let (before, when) = self.looked;
        if when.elapsed() < LOOK {
            return;
        }
        let lost = self.lost.get();
        self.looked = (lost, Instant::now());
        if lost > before {
            self.throttle.warn("fireflies were lost", &LostSoFar(lost));
        }
    }
}

/// While it lives, what is sent is remembered.
struct Listening(Daemon);

impl Listening {
    fn begin(daemon: &Daemon) -> Self {
        daemon.fireflies.listen(true);
        Self(daemon.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fireflies.listen(false);
    }
}
