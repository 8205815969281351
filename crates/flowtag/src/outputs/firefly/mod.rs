//! Fireflies: UDP datagrams that say whose flow started or ended, to the flow's remote end and to collectors.
//!
//! The engine's reports wait in a bounded queue; what does not fit is dropped and counted. A collector that cannot be
//! resolved or reached changes nothing for the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use flowtag_engine::{Report, ReportState};
use flowtag_wire::firefly::{Firefly, State, Usage};
use flowtag_wire::syslog::{AppName, Header, Hostname};
use jiff::Timestamp;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::resolve::Host;
use super::{Feed, Record};
use crate::config;
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;

/// Fits every IPv6 path (RFC 8200 §5: 1280 bytes) less IPv6 and UDP headers, so a firefly is never fragmented.
pub(crate) const MAX_DATAGRAM: usize = 1280 - 40 - 8;

/// Sender's name where a flow's own application is not known, and in the syslog header.
pub(crate) const APPLICATION: &str = concat!("flowtag-", env!("CARGO_PKG_VERSION"));

counters! {
    /// What became of fireflies.
    pub(crate) struct Counters {
        /// Datagrams handed to the kernel.
        sent,
        /// Datagrams that could not be written or that the kernel refused.
        failed,
        /// Datagrams not sent because the collector's name was not resolved yet.
        unresolved,
    }
}

/// The sending side.
struct Output {
    records: mpsc::Receiver<Arc<Record>>,
    config: config::Firefly,
    collectors: Arc<[Collector]>,
    counters: Arc<Counters>,
    header: Header,
    sockets: Sockets,
    throttle: Throttle,
}

/// A collector whose name is followed.
struct Collector {
    config: config::Collector,
    host: Host,
}

/// One unconnected socket a family; none where the host lacks the family.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

/// Makes it ready to run.
///
/// # Errors
/// None so far.
pub(crate) async fn prepare(config: &config::Firefly, _daemon: &Daemon) -> anyhow::Result<Service> {
    let counters = Arc::new(Counters::default());
    let (feed, records, queue) = Feed::new("outputs.firefly", config.queue);
    let collector =
        |c: &config::Collector| Collector { config: c.clone(), host: Host::follow(c.address.clone()) };
    let collectors: Arc<[Collector]> = config.collectors.iter().map(collector).collect();
    let host = nix::unistd::gethostname().unwrap_or_default();
    let output = Output {
        records,
        config: config.clone(),
        collectors: Arc::clone(&collectors),
        counters: Arc::clone(&counters),
        header: Header::new(Hostname::sanitised(&host.to_string_lossy()), AppName::sanitised(APPLICATION)),
        sockets: Sockets {
            v4: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok(),
            v6: UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok(),
        },
        throttle: Throttle::default(),
    };
    let targets = move || collectors.iter().map(|c| c.host.target()).collect();
    let entry = Entry { targets: Arc::new(targets), ..Entry::new(vec![queue, counters]) };
    Ok(Service { entry, feed: Some(feed), run: Box::pin(output.run()) })
}

impl Output {
    /// Sends until the engine's side of the queue is gone and the queue is empty.
    async fn run(mut self) {
        let mut datagram = Vec::with_capacity(MAX_DATAGRAM);
        while let Some(record) = self.records.recv().await {
            let report = &record.report;
            let ends = [report.key.local.addr(), report.key.remote.addr()];
            let written =
                firefly(report).write_datagram(Timestamp::now(), &self.header, MAX_DATAGRAM, &mut datagram);
            if let Err(error) = written {
                self.counters.failed.add(1);
                self.throttle.warn("a firefly could not be written", &error);
                continue;
            }
            if let Some(port) = self.config.destination_port {
                self.send(&datagram, SocketAddr::new(report.key.remote.addr(), port)).await;
            }
            for collector in Arc::clone(&self.collectors).iter() {
                if !collector.config.filter.wants(report.tag, ends) {
                    continue;
                }
                match collector.host.address() {
                    Some(addr) => self.send(&datagram, addr).await,
                    None => self.counters.unresolved.add(1),
                }
            }
        }
    }

    async fn send(&mut self, datagram: &[u8], to: SocketAddr) {
        let socket = match to.ip() {
            IpAddr::V4(_) => &self.sockets.v4,
            IpAddr::V6(_) => &self.sockets.v6,
        };
        let Some(socket) = socket else { return self.counters.failed.add(1) };
        match socket.send_to(datagram, to).await {
            Ok(_) => self.counters.sent.add(1),
            Err(error) => {
                self.counters.failed.add(1);
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
