//! Fireflies: messages that say whose flow started or ended, to the flow's remote end and to collectors.
//!
//! Records wait in a bounded queue; what does not fit is dropped and counted. They are taken many at a time, written into one
//! buffer, and handed to the kernel many at a time. A collector that cannot be resolved or reached changes nothing for the
//! others.
//!
//! Nothing goes in circles: flows that are firefly traffic are not told; a firefly, or a flow, that a host told us of is not
//! told to that host; and whoever listens for fireflies here knows which were sent from here ([`recent::Fireflies`]).

mod batch;
mod collector;
mod compose;
mod content;
mod limit;
pub(crate) mod recent;
pub(crate) mod udp;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use flowtag_engine::{FlowId, FlowKey, Report, ReportState};
use flowtag_wire::syslog::{AppName, Header, Hostname};
use flowtag_wire::{Endpoint, FiveTuple, Protocol};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::stream;
use super::{Feed, LostEnds, Record};
use crate::config;
use crate::supervisor::addresses::Addresses;
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;
use batch::Batch;
use collector::Collector;
pub(crate) use compose::{APPLICATION, MAX_DATAGRAM};

/// Records taken from the queue at a time.
const AT_ONCE: usize = 256;
/// Flows of which it is known which host told us of them.
const MAX_TOLD: usize = 1 << 17;
/// How often it is looked whether ENDs of such flows were dropped.
const LOOK: Duration = Duration::from_secs(60);

counters! {
    /// What became of fireflies.
    pub(crate) struct Counters {
        /// Datagrams handed to the kernel.
        sent,
        /// Datagrams that could not be written or that the kernel refused.
        failed,
        /// Datagrams not sent because the collector's name was not resolved yet.
        unresolved,
        /// Answers of the network that a collector cannot be reached (ICMP).
        unreachable,
        /// Fireflies not sent to a target because of rate_limit.
        limited,
        /// Fireflies not sent to the host that told us of the flow.
        echoes,
        /// Records that were not told because the flow is firefly traffic itself.
        own,
        /// Fireflies that did not fit a packet, and lack details.
        shortened,
    }
}

/// The sending side.
struct Output {
    records: mpsc::Receiver<Arc<Record>>,
    config: config::Firefly,
    collectors: Vec<Collector>,
    counters: Arc<Counters>,
    header: Header,
    addresses: Addresses,
    recent: Arc<recent::Fireflies>,
    sockets: udp::Sockets,
    hosts: limit::Hosts,
    /// Which host told us of a flow.
    told: HashMap<FlowId, IpAddr>,
    lost: LostEnds,
    daemon: Daemon,
    batch: Batch,
    /// What is just being written.
    datagram: Vec<u8>,
    throttle: Throttle,
}

/// Makes it ready to run.
///
/// # Errors
/// A collector by TLS has nobody to trust, or a spool cannot be used.
pub(crate) async fn prepare(config: &config::Firefly, daemon: &Daemon) -> Result<Service> {
    let (counters, streams) = (Arc::new(Counters::default()), Arc::new(stream::Counters::default()));
    let (feed, records, queue) = Feed::new("outputs.firefly", config.queue);
    let mut collectors = Vec::with_capacity(config.collectors.len());
    for collector in &config.collectors {
        collectors.push(Collector::new(collector, config, &streams).await?);
    }
    let faces: Vec<_> = collectors.iter().map(Collector::face).collect();
    let host = nix::unistd::gethostname().unwrap_or_default();
    let output = Output {
        records,
        config: config.clone(),
        collectors,
        counters: Arc::clone(&counters),
        header: Header::new(Hostname::sanitised(&host.to_string_lossy()), AppName::sanitised(APPLICATION)),
        addresses: daemon.addresses.clone(),
        recent: Arc::clone(&daemon.fireflies),
        sockets: udp::Sockets::new(),
        hosts: limit::Hosts::default(),
        told: HashMap::new(),
        lost: LostEnds::new(Arc::clone(&queue)),
        daemon: daemon.clone(),
        batch: Batch::default(),
        datagram: Vec::with_capacity(MAX_DATAGRAM),
        throttle: Throttle::default(),
    };
    let targets = move || faces.iter().map(collector::Face::target).collect();
    let entry = Entry { targets: Arc::new(targets), ..Entry::new(vec![queue, counters, streams]) };
    Ok(Service { entry, feed: Some(feed), run: Box::pin(output.run()) })
}

impl Output {
    /// Sends until the engine's side of the queue is gone and the queue is empty.
    async fn run(mut self) {
        let mut records = Vec::with_capacity(AT_ONCE);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased; // it is due also while records keep coming
                _ = look.tick() => {
                    self.lost.forget_what_ended(&mut self.told, &self.daemon).await;
                    continue;
                }
                taken = self.records.recv_many(&mut records, AT_ONCE) => {
                    if taken == 0 {
                        break;
                    }
                }
            }
            let now = Timestamp::now();
            self.batch.clear();
            records.drain(..).for_each(|record| self.write(&record, now));
            self.send_to_destinations().await;
            for collector in &mut self.collectors {
                collector.send(&self.batch, &self.counters).await;
            }
        }
        futures_util::future::join_all(self.collectors.into_iter().map(Collector::finish)).await;
    }

    /// Adds the firefly of a record to the batch.
    fn write(&mut self, record: &Record, now: Timestamp) {
        let report = &record.report;
        let told_by = self.told_by(report);
        if self.is_own(&report.flow) {
            return self.counters.own.add(1);
        }
        let (firefly, details) =
            compose::compose(record, self.as_the_world_sees_it(report), self.config.content);
        self.recent.sent(&firefly);
        match compose::write(firefly, details, (now, &self.header), &mut self.datagram) {
            Ok(shortened) => {
                self.counters.shortened.add(u64::from(shortened));
                let FlowKey { local, remote, .. } = report.key;
                let ends = [local.addr(), remote.addr()];
                self.batch.push(&self.datagram, compose::state(report), report.tag, ends, told_by);
            }
            Err(error) => {
                self.counters.failed.add(1);
                self.throttle.warn("a firefly could not be written", &error);
            }
        }
    }

    /// The host that told us of this, or of the flow as it began.
    fn told_by(&mut self, report: &Report) -> Option<IpAddr> {
        let sender = report.firefly.as_ref().and_then(|firefly| firefly.sender);
        let before = match report.state {
            ReportState::End => self.told.remove(&report.id),
            _ => self.told.get(&report.id).copied(),
        };
        if let Some(sender) =
            sender.filter(|_| report.state == ReportState::Start && self.told.len() < MAX_TOLD)
        {
            self.told.insert(report.id, sender);
        }
        sender.or(before)
    }

    /// Whether the flow is firefly traffic. The engine refuses it, but a reload may make a known flow into some.
    fn is_own(&self, flow: &FiveTuple) -> bool {
        let ends = [flow.src(), flow.dst()].map(|end| SocketAddr::new(end.addr(), end.port()));
        let to_destination =
            |end: &SocketAddr| self.config.destination_port.is_some_and(|port| port == end.port());
        (flow.protocol() == Protocol::Udp && ends.iter().any(to_destination))
            || self.collectors.iter().any(|c| c.is_reached_by(flow.protocol(), ends))
    }

    /// Source and destination with the addresses that they have outside of this host's network.
    fn as_the_world_sees_it(&self, report: &Report) -> FiveTuple {
        let flow = report.flow;
        let seen = |end: Endpoint| {
            let ip = if end == report.key.local {
                self.addresses.public(end.addr())
            } else {
                self.addresses.mapped(end.addr())
            };
            Endpoint::new(ip, end.port())
        };
        // Of two families there is no flow: then the addresses stay as they are.
        FiveTuple::new(flow.protocol(), seen(flow.src()), seen(flow.dst())).unwrap_or(flow)
    }

    async fn send_to_destinations(&mut self) {
        let Some(port) = self.config.destination_port else { return };
        let now = Instant::now();
        let mut datagrams = Vec::with_capacity(self.batch.messages.len());
        for message in &self.batch.messages {
            let [_, remote] = message.ends;
            if message.told_by == Some(remote) {
                self.counters.echoes.add(1);
                continue;
            }
            if let Some(rate) = self.config.rate_limit
                && !self.hosts.take(remote, rate, message.state, now)
            {
                self.counters.limited.add(1);
                continue;
            }
            datagrams.push((self.batch.bytes(message), SocketAddr::new(remote, port)));
        }
        let sent = self.sockets.send(&datagrams).await;
        self.counters.sent.add(sent.sent);
        self.counters.failed.add(sent.failed);
        if let Some(error) = sent.error {
            self.throttle.warn("a firefly could not be sent to the remote end of its flow", &error);
        }
    }
}
