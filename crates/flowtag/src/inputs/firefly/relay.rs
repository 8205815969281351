//! Datagrams that are sent on as they came, to other receivers. Never waits for them, and breaks circles.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use super::Counters;
use crate::config::HostPort;
use crate::outputs::firefly::recent::Recent;
use crate::outputs::firefly::udp::Sockets;
use crate::outputs::resolve::Host;
use crate::supervisor::counters::Target;
use crate::supervisor::throttle::Throttle;

/// The receivers, and what waits for them.
pub(super) struct Relay {
    hosts: Arc<[Host]>,
    sockets: Sockets,
    recent: Recent,
    waiting: Vec<Box<[u8]>>,
    counters: Arc<Counters>,
    throttle: Throttle,
}

impl Relay {
    /// To be called within the runtime.
    pub(super) fn new(to: &[HostPort], counters: Arc<Counters>) -> Self {
        Self {
            hosts: to.iter().cloned().map(Host::follow).collect(),
            sockets: Sockets::new(),
            recent: Recent::default(),
            waiting: Vec::new(),
            counters,
            throttle: Throttle::default(),
        }
    }

    pub(super) fn targets(&self) -> Arc<dyn Fn() -> Vec<Target> + Send + Sync> {
        let hosts = Arc::clone(&self.hosts);
        Arc::new(move || hosts.iter().map(Host::target).collect())
    }

    /// To be sent on with the next [`Self::send`], unless it came from there or was sent on of late.
    pub(super) fn take(&mut self, datagram: &[u8], from: IpAddr) {
        if self.hosts.is_empty() {
            return;
        }
        // Programs on this host are told apart by nothing, and they are whom one relays from and to.
        let came_from = |host: &Host| host.address().is_some_and(|a| a.ip().to_canonical() == from);
        let is_echo = !from.is_loopback() && self.hosts.iter().any(came_from);
        if is_echo || !self.recent.insert(&datagram, Instant::now()) {
            return self.counters.relay_repeated.add(1);
        }
        self.waiting.push(datagram.into());
    }

    pub(super) async fn send(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let addresses: Vec<_> = self.hosts.iter().filter_map(Host::address).collect();
        let unresolved = self.hosts.len() - addresses.len();
        self.counters.relay_failed.add((unresolved * self.waiting.len()) as u64);
        let mut datagrams: Vec<(&[u8], SocketAddr)> = Vec::new();
        for datagram in &self.waiting {
            datagrams.extend(addresses.iter().map(|to| (&**datagram, *to)));
        }
        let sent = self.sockets.send(&datagrams).await;
        self.counters.relayed.add(sent.sent);
        self.counters.relay_failed.add(sent.failed);
        if let Some(error) = sent.error {
            self.throttle.warn("a firefly could not be sent on (inputs.firefly.relay)", &error);
        }
        self.waiting.clear();
    }
}
