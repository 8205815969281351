//! One collector: who wants what, and how it gets there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use flowtag_wire::Protocol;
use flowtag_wire::firefly::State;

use super::batch::{Batch, Message};
use super::limit::Bucket;
use super::{Counters, udp};
use crate::config;
use crate::outputs::health::Health;
use crate::outputs::resolve::Host;
use crate::outputs::stream::{self, Stream, frame};
use crate::supervisor::counters::Target;

/// How long a UDP collector may be silent about trouble until it counts as reached: it never says so.
const QUIET: Duration = Duration::from_secs(60);

/// What status shows of a collector.
#[derive(Clone)]
pub(super) struct Face {
    host: Arc<Host>,
    health: Arc<Health>,
}

impl Face {
    pub(super) fn target(&self) -> Target {
        let target = self.host.target();
        Target { error: target.error.or_else(|| self.health.error()), ..target }
    }
}

enum Way {
    Udp(udp::Connected),
    Stream(Stream),
}

pub(super) struct Collector {
    config: config::Collector,
    face: Face,
    way: Way,
    bucket: Option<(u32, Bucket)>,
}

impl Collector {
    /// To be called within the runtime.
    ///
    /// # Errors
    /// See [`Stream::start`].
    pub(super) async fn new(
        config: &config::Collector,
        output: &config::Firefly,
        streams: &Arc<stream::Counters>,
    ) -> Result<Self> {
        let host = Arc::new(Host::follow(config.address.clone()));
        let patience = if config.transport == config::Transport::Udp { QUIET } else { Duration::ZERO };
        let health = Arc::new(Health::new(config.address.to_string(), patience));
        let way = match &config.transport {
            config::Transport::Udp => Way::Udp(udp::Connected::default()),
            config::Transport::Stream { tls, ca_file, spool, spool_max } => {
                let settings = stream::Settings {
                    tls: *tls,
                    ca_file: ca_file.clone(),
                    spool: spool.clone().map(|dir| (dir, *spool_max)),
                    queue: output.queue,
                };
                let (host, health) = (Arc::clone(&host), Arc::clone(&health));
                Way::Stream(Stream::start(settings, host, health, Arc::clone(streams)).await?)
            }
        };
        let bucket = output.rate_limit.map(|rate| (rate, Bucket::new(rate, Instant::now())));
        Ok(Self { config: config.clone(), face: Face { host, health }, way, bucket })
    }

    pub(super) fn face(&self) -> Face {
        self.face.clone()
    }

    /// Whether a flow is how we reach this collector.
    pub(super) fn is_reached_by(&self, protocol: Protocol, ends: [SocketAddr; 2]) -> bool {
        let stream = matches!(self.way, Way::Stream(_));
        stream == (protocol == Protocol::Tcp)
            && self.face.host.address().is_some_and(|address| ends.contains(&address))
    }

    /// Whether it is to get this one.
    fn wants(&mut self, message: &Message, to: Option<SocketAddr>, counters: &Counters) -> bool {
        if !self.config.filter.wants(message.tag, message.ends) {
            return false;
        }
        if message.told_by.is_some() && message.told_by == to.map(|to| to.ip()) {
            counters.echoes.add(1);
            return false;
        }
        let mut within = |state: State| {
            self.bucket.as_mut().is_none_or(|(rate, bucket)| bucket.take(*rate, state, Instant::now()))
        };
        let wanted = within(message.state);
        counters.limited.add(u64::from(!wanted));
        wanted
    }

    /// Sends those of the batch that it wants.
    pub(super) async fn send(&mut self, batch: &Batch, counters: &Counters) {
        let to = self.face.host.address();
        let mut wanted = Vec::with_capacity(batch.messages.len());
        for message in &batch.messages {
            if self.wants(message, to, counters) {
                wanted.push((batch.bytes(message), None));
            }
        }
        if wanted.is_empty() {
            return;
        }
        match &mut self.way {
            Way::Stream(stream) => wanted.iter().for_each(|(bytes, _)| stream.send(frame(bytes))),
            Way::Udp(socket) => {
                let Some(to) = to else { return counters.unresolved.add(wanted.len() as u64) };
                let sent = socket.send(to, &wanted).await;
                counters.sent.add(sent.sent);
                counters.failed.add(sent.failed);
                counters.unreachable.add(sent.refused);
                match sent.error {
                    Some(error) => self.face.health.bad(error.to_string()),
                    None => self.face.health.good(),
                }
            }
        }
    }

    pub(super) async fn finish(self) {
        if let Way::Stream(stream) = self.way {
            stream.finish().await;
        }
    }
}
