//! XRootD's monitoring stream: who is logged in and for whom they move data, made into flows.
//!
//! XRootD sends it over UDP (`xrootd.monitor`). It names a user's host, and neither port nor descriptor of the connection, so
//! the connection is looked for among those of this host: `servers` keeps what was said, `matching` decides. What cannot be
//! decided is counted and not announced. A site that can switch on `xrootd.pmark` has fireflies with all of it
//! (`inputs/firefly`).
//!
//! One task: it hears what waits in the socket, then looks at the connections of those hosts of which there is news. Looking
//! takes at most a tenth of the time.

mod hosts;
mod matching;
mod servers;
#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flowtag_engine::{Announcement, End, Event, FlowId, Outcome, Selector, Source};
use flowtag_kernel::sockets::{self, Socket};
use flowtag_wire::{FiveTuple, Protocol};
use tokio::net::UdpSocket;

use crate::config;
use crate::inputs::access::{self, Announcer, Denied};
use crate::inputs::firefly::{self, Lost};
use crate::supervisor::core::Stopping;
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;
use hosts::Hosts;
use matching::Found;
use servers::{News, ServerKey, Servers};

/// As in `access.input`, and what flows say who announced them.
const NAME: &str = "xrootd";
/// Datagrams that are heard before connections are looked at.
const AT_ONCE: usize = 64;
/// Bytes that the kernel keeps of what was not read yet.
const BUFFER: usize = 4 << 20;
/// Time between two looks, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// Share of the time that looking may take.
const SHARE: u32 = 10;
/// How often it is looked whether the address of a name has come.
const NAMELESS: Duration = Duration::from_millis(200);
const PURGE: Duration = Duration::from_secs(60);

counters! {
    /// What came of XRootD's monitoring.
    pub(crate) struct Counters {
        /// Datagrams of XRootD servers.
        datagrams,
        /// Datagrams from addresses that are not in `sources`; ignored.
        foreign,
        /// Datagrams and records that are not as XRootD documents them.
        malformed,
        /// Datagrams of the f-stream that were lost on the way, by their numbers.
        lost_on_way,
        /// Users who logged in.
        logins,
        /// Connections that were announced.
        flows,
        /// Of them, connections whose users have the same tag and were not told apart.
        shared,
        /// Users with a tag of whom it is not certain which connection is theirs; nothing was announced.
        ambiguous,
        /// Users with a tag whose connection was not found: it was over already, or is not of this host.
        unmatched,
        /// Flows that ended because their user left.
        ended,
        /// Users of experiments or activities that have no tag.
        out_of_range,
        /// Events that the engine or an access rule refused.
        refused,
        /// Servers, users and files that were not remembered because there are too many.
        dropped,
    }
}

struct Input {
    socket: Arc<UdpSocket>,
    config: config::Xrootd,
    daemon: Daemon,
    announcer: Announcer,
    counters: Arc<Counters>,
    throttle: Throttle,
    servers: Servers,
    hosts: Hosts,
    /// Earliest time of the next look.
    rest_until: Instant,
    purged: Instant,
}

/// Makes it ready to run.
///
/// # Errors
/// The address is in use or not ours.
pub(crate) async fn prepare(config: &config::Xrootd, daemon: &Daemon) -> Result<Service> {
    let what =
        || format!("cannot listen for XRootD's monitoring on {} (inputs.xrootd.listen)", config.listen);
    let socket = Arc::new(firefly::open(config.listen, BUFFER).with_context(what)?);
    let at = Some(socket.local_addr().with_context(what)?.to_string());
    let counters = Arc::new(Counters::default());
    let lost = Arc::new(Lost::new(Arc::clone(&socket)));
    let entry = Entry { at, ..Entry::new(vec![counters.clone(), lost]) };
    let input = Input {
        socket,
        config: config.clone(),
        daemon: daemon.clone(),
        announcer: Announcer::anonymous(NAME),
        counters,
        throttle: Throttle::default(),
        servers: Servers::default(),
        hosts: Hosts::default(),
        rest_until: Instant::now(),
        purged: Instant::now(),
    };
    Ok(Service { entry, feed: None, run: Box::pin(input.run()) })
}

/// Told beside a refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not in inputs.xrootd.sources")]
struct Foreign(IpAddr);

/// Told where nothing can be announced.
#[derive(Debug, thiserror::Error)]
#[error(
    "users of {host} with different tags are logged in at port {port}: let XRootD send fireflies (xrootd.pmark) to \
     inputs.firefly"
)]
struct Ambiguous {
    host: String,
    port: u16,
}

impl Input {
    /// Listens until it is dropped.
    async fn run(mut self) {
        let mut buffer = vec![0; flowtag_wire::xrootd::MAX_DATAGRAM];
        loop {
            let next = self.servers.next_look().map(|at| at.max(self.rest_until));
            tokio::select! {
                readable = self.socket.readable() => if let Err(error) = readable {
                    self.throttle.warn("XRootD's monitoring cannot be received", &error);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                },
                () = sleep_until(next) => {}
                () = self.hosts.answer() => {}
            }
            let ended = self.hear(&mut buffer);
            if self.end(ended).await.is_err() || self.look().await.is_err() {
                return;
            }
        }
    }

    /// What waits in the socket, as far as it is taken at a time; gives the flows that are over by it.
    fn hear(&mut self, buffer: &mut [u8]) -> Vec<Event> {
        let registry = self.daemon.registry_now();
        let mut ended = Vec::new();
        for _ in 0..AT_ONCE {
            let (length, from) = match self.socket.try_recv_from(buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.throttle.warn("XRootD's monitoring cannot be received", &error);
                    break;
                }
            };
            let from = from.ip().to_canonical();
            if !self.config.sources.iter().any(|prefix| prefix.contains(&from)) {
                self.counters.foreign.add(1);
                self.throttle.warn("a datagram was ignored", &Foreign(from));
                continue;
            }
            self.counters.datagrams.add(1);
            let bytes = buffer.get(..length).unwrap_or_default();
            let news = self.servers.hear(bytes, from, &registry, Instant::now());
            ended.extend(self.count(news).map(end_of));
        }
        ended
    }

    fn count(&mut self, news: News) -> impl Iterator<Item = (FlowId, Option<flowtag_engine::Usage>)> + use<> {
        let counters = &self.counters;
        counters.logins.add(news.logins);
        counters.lost_on_way.add(news.lost);
        counters.dropped.add(news.dropped);
        if let Some(error) = news.malformed {
            counters.malformed.add(1);
            self.throttle.warn("not XRootD's monitoring", &error);
        }
        if let Some(error) = news.out_of_range {
            counters.out_of_range.add(1);
            self.throttle.warn("a user of XRootD is not marked", &error);
        }
        news.ended.into_iter()
    }

    async fn end(&mut self, ended: Vec<Event>) -> Result<(), Stopping> {
        if ended.is_empty() {
            return Ok(());
        }
        let outcomes = access::events(&self.daemon, &self.announcer, ended).await?;
        self.refused(&outcomes);
        let ended = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Outcome::Ended(_))));
        self.counters.ended.add(ended.count() as u64);
        Ok(())
    }

    fn refused(&mut self, outcomes: &[Result<Outcome, Denied>]) {
        for outcome in outcomes {
            let error: &(dyn std::error::Error + 'static) = match outcome {
                Ok(Outcome::Rejected(reason)) => reason,
                Err(denied) => denied,
                Ok(_) => continue,
            };
            self.counters.refused.add(1);
            self.throttle.warn("a flow of XRootD was refused", error);
        }
    }

    /// Looks at the connections of all servers and hosts that are due.
    async fn look(&mut self) -> Result<(), Stopping> {
        let now = Instant::now();
        if now.duration_since(self.purged) >= PURGE {
            self.purged = now;
            self.servers.look_everywhere(now);
            self.servers.purge(now);
        }
        if now < self.rest_until {
            return Ok(());
        }
        let due = self.servers.due(now);
        if due.is_empty() {
            return Ok(());
        }
        for (key, port, hosts) in due {
            let Some(sockets) = self.connections(port).await else { continue };
            self.look_at(key, port, &hosts, &sockets).await?;
        }
        self.rest_until = Instant::now() + PAUSE.max(now.elapsed() * SHARE);
        Ok(())
    }

    async fn connections(&mut self, port: u16) -> Option<Vec<Socket>> {
        let found = tokio::task::spawn_blocking(move || sockets::connections_at(port)).await.ok()?;
        found.inspect_err(|error| self.throttle.warn("connections of XRootD cannot be found", error)).ok()
    }

    async fn look_at(
        &mut self,
        key: ServerKey,
        port: u16,
        hosts: &[Box<str>],
        sockets: &[Socket],
    ) -> Result<(), Stopping> {
        let mut found = Vec::new();
        let now = Instant::now();
        for host in hosts {
            let addresses = self.hosts.addresses(host, now);
            let Some(server) = self.servers.servers.get_mut(&key) else { return Ok(()) };
            let Some(addresses) = addresses else {
                server.postpone(host, now + NAMELESS);
                continue;
            };
            let matched = server.match_client(host, &addresses, sockets, now);
            self.counters.ambiguous.add(matched.ambiguous);
            self.counters.unmatched.add(matched.unmatched);
            if matched.ambiguous > 0 {
                let error = Ambiguous { host: host.to_string(), port };
                self.throttle.warn("it is not certain whose connection is whose", &error);
            }
            found.extend(matched.found);
        }
        self.announce(key, found).await
    }

    async fn announce(&mut self, key: ServerKey, found: Vec<Found>) -> Result<(), Stopping> {
        let flows = found.into_iter().filter_map(|found| Some((flow_of(&found)?, found)));
        let (flows, found): (Vec<_>, Vec<_>) = flows.unzip();
        if found.is_empty() {
            return Ok(());
        }
        let events = flows.iter().zip(&found).map(|(flow, found)| start_of(*flow, found)).collect();
        let outcomes = access::events(&self.daemon, &self.announcer, events).await?;
        self.refused(&outcomes);
        let ids: Vec<_> = outcomes.iter().map(|outcome| known(outcome.as_ref().ok()?)).collect();
        let asked: Vec<_> = ids.iter().zip(flows).map(|(id, flow)| (*id, flow)).collect();
        // Where somebody else was first, the other end may be the source.
        let as_said = self.daemon.core.ask(move |state| {
            let same =
                |(id, flow): (Option<FlowId>, FiveTuple)| state.engine.get(id?).map(|view| view.flow == flow);
            asked.into_iter().map(|asked| same(asked).unwrap_or_default()).collect::<Vec<_>>()
        });
        let as_said = as_said.await?;
        for ((found, id), is_ours) in found.iter().zip(ids).zip(as_said) {
            let is_first = self.servers.announced(key, found, id, is_ours);
            self.counters.flows.add(u64::from(id.is_some() && is_first));
            self.counters.shared.add(u64::from(id.is_some() && found.user.is_none()));
        }
        Ok(())
    }
}

fn flow_of(found: &Found) -> Option<FiveTuple> {
    FiveTuple::new(Protocol::Tcp, found.connection.local, found.connection.remote).ok()
}

fn start_of(flow: FiveTuple, found: &Found) -> Event {
    let announcement = Announcement::new(flow, found.tag, Source(NAME));
    Event::Start(Announcement { application: found.application.clone(), ..announcement })
}

fn end_of((flow, usage): (FlowId, Option<flowtag_engine::Usage>)) -> Event {
    Event::End(End { usage, ..End::new(Selector::Id(flow), Source(NAME)) })
}

const fn known(outcome: &Outcome) -> Option<FlowId> {
    match outcome {
        Outcome::Started(id) | Outcome::Updated(id) | Outcome::Refreshed(id) => Some(*id),
        _ => None,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => tokio::time::sleep(PURGE).await,
    }
}

/// Servers with a known port that have hosts to be looked at.
type Due = Vec<(ServerKey, u16, Vec<Box<str>>)>;

impl Servers {
    fn next_look(&self) -> Option<Instant> {
        let known = self.servers.values().filter(|server| server.port.is_some());
        known.flat_map(|server| server.clients.values()).filter_map(|client| client.next()).min()
    }

    fn due(&self, now: Instant) -> Due {
        let due = self.servers.iter().filter_map(|(key, server)| {
            let hosts = server.clients.iter().filter(|(_, client)| client.next().is_some_and(|at| at <= now));
            Some((*key, server.port?, hosts.map(|(host, _)| host.clone()).collect()))
        });
        due.filter(|(_, _, hosts): &(_, _, Vec<_>)| !hosts.is_empty()).collect()
    }

    fn look_everywhere(&mut self, now: Instant) {
        let clients = self.servers.values_mut().flat_map(|server| server.clients.values_mut());
        clients.for_each(|client| client.look(now));
    }

    /// What became of an announcement; true unless the same connection was announced before.
    fn announced(&mut self, key: ServerKey, found: &Found, flow: Option<FlowId>, is_ours: bool) -> bool {
        let user = found.user.and_then(|user| self.servers.get_mut(&key)?.users.get_mut(&user));
        let Some(claim) = user.and_then(|user| user.connection.as_mut()) else { return true };
        claim.is_ours = is_ours;
        std::mem::replace(&mut claim.flow, flow).is_none()
    }
}
