//! Fireflies: UDP datagrams that say whose flow started or ended, to the flow's remote end and to collectors.
//!
//! The engine's reports wait in a bounded queue; what does not fit is dropped and counted. A collector that cannot be
//! resolved or reached changes nothing for the others.

mod resolve;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flowtag_engine::{Report, ReportState};
use flowtag_wire::firefly::{Firefly, State, Usage};
use flowtag_wire::syslog::{AppName, Header, Hostname};
use jiff::Timestamp;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use crate::config;
use crate::supervisor::throttle::Throttle;
pub(crate) use resolve::{Collectors, Resolver, Target};

/// Fits every IPv6 path (RFC 8200 §5: 1280 bytes) less IPv6 and UDP headers, so a firefly is never fragmented.
pub(crate) const MAX_DATAGRAM: usize = 1280 - 40 - 8;

/// Sender's name where a flow's own application is not known, and in the syslog header.
pub(crate) const APPLICATION: &str = concat!("flowtag-", env!("CARGO_PKG_VERSION"));

/// What became of fireflies since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    queued: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    unresolved: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Snapshot {
    /// Reports taken from the engine.
    pub(crate) queued: u64,
    /// Reports for which the queue had no room.
    pub(crate) dropped: u64,
    /// Datagrams handed to the kernel.
    pub(crate) sent: u64,
    /// Datagrams that could not be written or that the kernel refused.
    pub(crate) failed: u64,
    /// Datagrams not sent because the collector's name was not resolved yet.
    pub(crate) unresolved: u64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            queued: read(&self.queued),
            dropped: read(&self.dropped),
            sent: read(&self.sent),
            failed: read(&self.failed),
            unresolved: read(&self.unresolved),
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The engine's side of the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    reports: mpsc::Sender<Report>,
    counters: Arc<Counters>,
    throttle: Throttle,
}

impl Queue {
    /// Queues a report, or counts it as dropped. Never waits.
    pub(crate) fn push(&mut self, report: Report) {
        match self.reports.try_send(report) {
            Ok(()) => add(&self.counters.queued),
            Err(error) => {
                add(&self.counters.dropped);
                self.throttle.warn("a firefly was dropped: raise outputs.firefly.queue", &error);
            }
        }
    }
}

/// The sending side.
pub(crate) struct Output {
    reports: mpsc::Receiver<Report>,
    settings: watch::Receiver<config::Firefly>,
    collectors: Collectors,
    counters: Arc<Counters>,
    header: Header,
    sockets: Sockets,
    throttle: Throttle,
}

/// One unconnected socket a family; none where the host lacks the family.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Output {
    /// The output and the engine's way to it. `settings` may change while it runs.
    pub(crate) async fn new(
        settings: watch::Receiver<config::Firefly>,
        collectors: Collectors,
    ) -> (Self, Queue, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        let (sender, reports) = mpsc::channel(settings.borrow().queue);
        let host = nix::unistd::gethostname().unwrap_or_default();
        let header =
            Header::new(Hostname::sanitised(&host.to_string_lossy()), AppName::sanitised(APPLICATION));
        let sockets = Sockets {
            v4: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok(),
            v6: UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok(),
        };
        let throttle = Throttle::default();
        let queue = Queue { reports: sender, counters: Arc::clone(&counters), throttle: Throttle::default() };
        let output = Self {
            reports,
            settings,
            collectors,
            counters: Arc::clone(&counters),
            header,
            sockets,
            throttle,
        };
        (output, queue, counters)
    }

    /// Sends until the engine's side of the queue is gone and the queue is empty.
    pub(crate) async fn run(mut self) {
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        while let Some(report) = self.reports.recv().await {
            let destination = self.settings.borrow().destination_port.map(|p| (report.key.remote.addr(), p));
            let targets = self.collectors.for_experiment(report.tag.experiment);
            let written =
                firefly(&report).write_datagram(Timestamp::now(), &self.header, MAX_DATAGRAM, &mut datagram);
            if let Err(error) = written {
                add(&self.counters.failed);
                self.throttle.warn("a firefly could not be written", &error);
                continue;
            }
            if let Some((addr, port)) = destination {
                self.send(&datagram, SocketAddr::new(addr, port)).await;
            }
            for target in targets {
                match target.address() {
                    Some(addr) => self.send(&datagram, addr).await,
                    None => add(&self.counters.unresolved),
                }
            }
        }
    }

    async fn send(&mut self, datagram: &[u8], to: SocketAddr) {
        let socket = match to.ip() {
            IpAddr::V4(_) => &self.sockets.v4,
            IpAddr::V6(_) => &self.sockets.v6,
        };
        let Some(socket) = socket else { return add(&self.counters.failed) };
        match socket.send_to(datagram, to).await {
            Ok(_) => add(&self.counters.sent),
            Err(error) => {
                add(&self.counters.failed);
                self.throttle.warn("a firefly could not be sent", &error);
            }
        }
    }
}

fn firefly(report: &Report) -> Firefly {
    let state = match report.state {
        ReportState::Start => State::Start,
        ReportState::End => State::End,
        ReportState::Ongoing => State::Ongoing,
    };
    Firefly {
        start_time: Some(report.start_time),
        end_time: report.end_time,
        current_time: Some(report.current_time),
        application: Some(report.application.as_deref().unwrap_or(APPLICATION).to_owned()),
        usage: report.usage.map(|u| Usage { sent: Some(u.sent), received: Some(u.received) }),
        ..Firefly::new(state, report.flow, report.tag)
    }
}
