//! Flow records for IPFIX collectors over UDP (RFC 7011): one when a flow ends, and one whenever it is reported.
//!
//! Records that wait are put into one message up to the length that fits every path. All collectors get the same messages; one
//! that is not resolved or cannot be reached sees by the sequence numbers what it missed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::{EndReason, FlowId, Report, ReportState};
use flowtag_kernel::tcp_info::Sample;
use flowtag_wire::ipfix::{Counts, EndReason as Reason, Exporter, FlowRecord};
use jiff::Timestamp;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::firefly::MAX_DATAGRAM;
use super::resolve::Host;
use super::{Feed, LostEnds, Record};
use crate::config;
use crate::supervisor::accounts::Volume;
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;

/// Records that are taken from the queue at a time.
const BATCH: usize = 256;
/// Bytes of TCP headers without options and with time stamps.
const HEADERS: (u64, u64) = (20, 32);

counters! {
    /// What became of flow records.
    pub(crate) struct Counters {
        /// Flow records written into messages.
        records,
        /// Messages handed to the kernel, by collector.
        sent,
        /// Messages that the kernel refused, by collector.
        failed,
        /// Messages not sent because the collector's name was not resolved yet.
        unresolved,
    }
}

struct Output {
    records: mpsc::Receiver<Arc<Record>>,
    daemon: Daemon,
    collectors: Arc<[Host]>,
    template_every: Duration,
    /// Where collectors were when they got templates last.
    informed: Vec<Option<SocketAddr>>,
    exporter: Exporter,
    /// Packets carry labels of ours.
    marks: bool,
    told: Told,
    counters: Arc<Counters>,
    sockets: Sockets,
    message: Vec<u8>,
    throttle: Throttle,
}

/// One unconnected socket a family; none where the host lacks the family.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

/// Makes it ready to run.
///
/// # Errors
/// The daemon stops.
pub(crate) async fn prepare(config: &config::Ipfix, daemon: &Daemon) -> anyhow::Result<Service> {
    let counters = Arc::new(Counters::default());
    let (feed, records, queue) = Feed::new("outputs.ipfix", config.queue);
    let collectors: Arc<[Host]> = config.collectors.iter().cloned().map(Host::follow).collect();
    let output = Output {
        records,
        daemon: daemon.clone(),
        informed: vec![None; collectors.len()],
        collectors: Arc::clone(&collectors),
        template_every: config.template_every,
        exporter: Exporter::new(config.domain, config.enterprise),
        marks: daemon.core.ask(|state| state.marker.is_some()).await?,
        told: Told { flows: HashMap::new(), lost: LostEnds::new(Arc::clone(&queue)) },
        counters: Arc::clone(&counters),
        sockets: Sockets {
            v4: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok(),
            v6: UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.ok(),
        },
        message: Vec::with_capacity(MAX_DATAGRAM),
        throttle: Throttle::default(),
    };
    let targets = move || collectors.iter().map(Host::target).collect();
    let entry = Entry { targets: Arc::new(targets), ..Entry::new(vec![queue, counters]) };
    Ok(Service { entry, feed: Some(feed), run: Box::pin(output.run()) })
}

impl Output {
    /// Sends until the engine's side of the queue is gone and the queue is empty.
    async fn run(mut self) {
        let mut templates =
            tokio::time::interval_at(Instant::now() + self.template_every, self.template_every);
        templates.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        self.send(true, &[]).await;
        loop {
            tokio::select! {
                biased; // templates are due also while records keep coming
                _ = templates.tick() => {
                    self.send(true, &[]).await;
                    self.told.lost.forget_what_ended(&mut self.told.flows, &self.daemon).await;
                }
                taken = self.records.recv_many(&mut batch, BATCH) => match taken {
                    0 => return,
                    _ => self.tell(batch.drain(..)).await,
                },
            }
        }
    }

    async fn tell(&mut self, batch: impl Iterator<Item = Arc<Record>>) {
        let records: Vec<FlowRecord> =
            batch.filter_map(|record| self.told.record(&record, self.marks)).collect();
        let mut left = &records[..];
        while !left.is_empty() {
            let taken = self.send(self.is_news_to_somebody(), left).await;
            self.counters.records.add(taken as u64);
            left = left.get(taken.max(1)..).unwrap_or_default();
        }
    }

    /// Whether a collector has another address than when it got the templates.
    fn is_news_to_somebody(&self) -> bool {
        self.collectors.iter().zip(&self.informed).any(|(host, informed)| {
            let address = host.address();
            address.is_some() && address != *informed
        })
    }

    /// Sends one message to all, and says how many records were in it.
    async fn send(&mut self, templates: bool, records: &[FlowRecord]) -> usize {
        let now = u32::try_from(Timestamp::now().as_second()).unwrap_or_default();
        let taken = self.exporter.write(now, templates, records, MAX_DATAGRAM, &mut self.message);
        for (host, informed) in self.collectors.iter().zip(&mut self.informed) {
            let Some(to) = host.address() else {
                self.counters.unresolved.add(1);
                continue;
            };
            if templates {
                *informed = Some(to);
            }
            let socket = match to.ip() {
                IpAddr::V4(_) => &self.sockets.v4,
                IpAddr::V6(_) => &self.sockets.v6,
            };
            let Some(socket) = socket else {
                self.counters.failed.add(1);
                continue;
            };
            match socket.send_to(&self.message, to).await {
                Ok(_) => self.counters.sent.add(1),
                Err(error) => {
                    self.counters.failed.add(1);
                    let what = "flow records could not be sent to an IPFIX collector";
                    self.throttle.warn_at(what, &host.name, &error);
                }
            }
        }
        taken
    }
}

/// What was told of flows that go on, so that each record has only what is new.
struct Told {
    flows: HashMap<FlowId, Total>,
    lost: LostEnds,
}

/// What a flow moved so far: sent and received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Total([Counts; 2]);

impl Told {
    /// None: a flow that only begins has nothing to tell.
    fn record(&mut self, record: &Record, marks: bool) -> Option<FlowRecord> {
        let report = &record.report;
        let reason = reason(report)?;
        let total = Total::new(report, record.tcp.as_deref());
        let before = match reason {
            Reason::Active | Reason::Forced => self.flows.insert(report.id, total),
            Reason::Idle | Reason::End => self.flows.remove(&report.id),
        };
        let Total([sent, received]) = total.since(before.unwrap_or_default());
        let millis = |at: Timestamp| u64::try_from(at.as_millisecond()).unwrap_or_default();
        Some(FlowRecord {
            id: report.id.get(),
            protocol: report.key.protocol,
            local: report.key.local,
            remote: report.key.remote,
            tag: report.tag,
            label: report.label.filter(|_| marks),
            start: millis(report.start_time),
            end: millis(report.end_time.unwrap_or(report.current_time)),
            reason,
            sent,
            received,
        })
    }
}

fn reason(report: &Report) -> Option<Reason> {
    Some(match (report.state, report.ended) {
        (ReportState::Start, _) => return None,
        (ReportState::Ongoing, _) => Reason::Active,
        (ReportState::End, None) => Reason::Forced,
        (ReportState::End, Some(EndReason::Idle)) => Reason::Idle,
        (ReportState::End, Some(EndReason::Requested { .. } | EndReason::Closed)) => Reason::End,
    })
}

impl Total {
    /// By the kernel's counters of the connection; by what the announcer said where it said more, or there are none.
    fn new(report: &Report, tcp: Option<&Sample>) -> Self {
        let told = Volume::told(report);
        let Some(Sample { info, sent, received, .. }) = tcp else {
            let counts = |payload| Counts { octets: payload, packets: 0, payload };
            return Self([counts(told.sent), counts(told.received)]);
        };
        let ip = if report.flow.is_ipv6() { 40 } else { 20 };
        let headers = ip + if info.options & 1 == 0 { HEADERS.0 } else { HEADERS.1 };
        let counts = |bytes: u64, packets: u32, payload: u64| {
            let packets = u64::from(packets);
            Counts { octets: bytes.saturating_add(packets * headers), packets, payload }
        };
        Self([
            counts(info.bytes_sent.max(*sent), info.segs_out, told.sent.max(*sent)),
            counts(*received, info.segs_in, told.received.max(*received)),
        ])
    }

    fn since(self, before: Self) -> Self {
        let [a, b] = [0, 1].map(|i| {
            let (now, before) = (self.0[i], before.0[i]);
            Counts {
                octets: now.octets.saturating_sub(before.octets),
                packets: now.packets.saturating_sub(before.packets),
                payload: now.payload.saturating_sub(before.payload),
            }
        });
        Self([a, b])
    }
}
