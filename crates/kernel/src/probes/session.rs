//! Probes that run together: they share what is known of sockets, and one reader reads all their rings.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use ipnet::IpNet;
use libbpf_rs::{RingBuffer, RingBufferBuilder};

use super::abi::observe_settings;
use super::description::{Description, Options, SUMS, Source};
use super::iterate::iterate;
use super::life::{self, Listed};
use super::load::{Loaded, Losses, Missing, Parts};
use super::record::Record;
use crate::mark::FlowTable;
use crate::{Error, Result};

/// Bytes of a probe's ring: 20 ms of three million events a second.
const RING: u32 = 16 * 1024 * 1024;
/// Records that are read at a time.
const MAX_SEEN: usize = 1 << 16;
/// Times that so many are read of rings that were full of the smallest events.
const MAX_READS: usize = 4;
/// How long events wait in the ring where it does not become full.
const GATHER: Duration = Duration::from_millis(50);

/// What is looked at. Everything else costs next to nothing.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Number of the only network namespace; none: all.
    pub netns: Option<u32>,
    /// Local or remote port.
    pub port: Option<u16>,
    /// Addresses of the other end.
    pub peer: Option<IpNet>,
    /// Look also at who writes: the owner of a socket that is handed over is right with its first write, for some 100 ns
    /// per call of every process.
    pub writers: bool,
    /// Bytes of each ring, a power of two.
    pub ring: u32,
}

impl Default for Scope {
    fn default() -> Self {
        Self { netns: None, port: None, peer: None, writers: true, ring: RING }
    }
}

/// Number of the network namespace that the calling thread is in.
///
/// # Errors
/// [`Error::Query`] where `/proc` is not to be read.
pub fn own_netns() -> Result<u32> {
    netns_of("/proc/thread-self/ns/net")
}

/// Number of the network namespace that a file stands for.
///
/// # Errors
/// [`Error::Query`] where there is no such file.
pub fn netns_of(path: impl AsRef<std::path::Path>) -> Result<u32> {
    use std::os::unix::fs::MetadataExt;
    let failed = |source| Error::Query { what: "the number of a network namespace", source };
    Ok(fs::metadata(path).map_err(failed)?.ino() as u32)
}

/// Running probes. Dropping it takes all of them out of the kernel.
pub struct Session {
    /// The first is always `life`, on which all others stand.
    loaded: Vec<Loaded>,
    /// Whether the first was asked for.
    has_life: bool,
    /// Whether it tells of open connections, too.
    tells_open: bool,
    ring: RingBuffer<'static>,
    seen: Arc<Mutex<Vec<(&'static str, Record)>>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl Session {
    /// Loads and attaches these probes, and learns whose the open sockets are. `flows` is the daemon's table
    /// ([`crate::mark::Marker::flow_table`]); without, no tag is known.
    ///
    /// # Errors
    /// [`Error::Probe`] where this kernel lacks what a probe needs, [`Error::Load`] where it refuses.
    pub fn start(
        scope: &Scope,
        flows: Option<&FlowTable>,
        probes: &[(&'static Description, Options)],
    ) -> Result<Self> {
        let life = probes.iter().find(|(probe, _)| std::ptr::eq(*probe, &life::PROBE));
        let (has_life, tells_open) = (life.is_some(), life.is_some_and(|(_, on)| on.has(life::OPEN)));
        let load = |probe: &'static Description, events, own, shared: &[_]| {
            let mut unwanted = (probe.leave_out)().to_vec();
            unwanted.extend((!scope.writers).then_some("flowtag_writer"));
            let settings = settings(scope, events);
            Loaded::load(probe, &Parts { settings, ring: scope.ring, own, unwanted: &unwanted, shared })
        };
        let table = flows.map(|table| ("flowtag_flows", table.as_fd()));
        let mut shared: Vec<_> = table.into_iter().collect();
        let (no_options, has_sums) = (Options::default(), life.is_some_and(|(_, on)| on.has(SUMS)));
        let own = (life::PROBE.settings)(life.map_or(&no_options, |(_, options)| options));
        let base = load(&life::PROBE, has_life && !has_sums, own, &shared)?;
        let sockets = base.handle("observe_sockets")?;
        shared.push(("observe_sockets", sockets.as_fd()));
        let mut loaded = vec![base];
        for (probe, options) in probes.iter().filter(|(probe, _)| !std::ptr::eq(*probe, &life::PROBE)) {
            let tells = probe.source.decode().is_some();
            loaded.push(load(probe, tells, (probe.settings)(options), &shared)?);
        }
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ring = reader(&loaded, &seen)?;
        let session = Self { loaded, has_life, tells_open, ring, seen };
        for loaded in &session.loaded {
            loaded.probe().at_start.iter().try_for_each(|program| iterate(loaded, program, &mut |_| {}))?;
        }
        // What there is already is where they count from.
        session.rows()?;
        Ok(session)
    }

    /// What was told since the last call, in each probe's order, with the probe's name; waits for at most `limit`, or until
    /// a ring is half full.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    pub fn next(&self, limit: Duration) -> io::Result<Vec<(&'static str, Record)>> {
        // Nobody is woken for a single event, so that an event costs little: look again many times a second.
        match self.ring.poll_raw(limit.min(GATHER)) {
            error if error < 0 && error != -libc::EINTR => return Err(io::Error::from_raw_os_error(-error)),
            _ => {}
        }
        match self.ring.consume_raw() {
            error if error < 0 && error != -libc::EINTR => return Err(io::Error::from_raw_os_error(-error)),
            _ => {}
        }
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// What is in the rings yet, when one is about to stop: no more than they hold, as more may come all the time.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn rest(&self) -> io::Result<Vec<(&'static str, Record)>> {
        let mut rest = Vec::new();
        for _ in 0..MAX_READS {
            let more = self.next(Duration::ZERO)?;
            let is_all = more.len() < MAX_SEEN;
            rest.extend(more);
            if is_all {
                break;
            }
        }
        Ok(rest)
    }

    /// The rows of those probes that sum up in the kernel, and of `life` the open connections if they are asked for.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn rows(&self) -> Result<Vec<(&'static str, Record)>> {
        let mut rows = Vec::new();
        for loaded in &self.loaded {
            if let Source::Rows(read) = loaded.probe().source {
                rows.extend(read(loaded)?.into_iter().map(|record| (loaded.probe().name, record)));
            }
        }
        if self.tells_open {
            rows.extend(self.sockets()?.iter().map(|socket| (life::PROBE.name, socket.record())));
        }
        Ok(rows)
    }

    /// The probes that were asked for, as they run.
    pub fn probes(&self) -> impl Iterator<Item = &Loaded> {
        self.loaded.iter().skip(usize::from(!self.has_life))
    }

    /// The running probe of that name; `life` is always there.
    #[must_use]
    pub fn probe(&self, name: &str) -> Option<&Loaded> {
        self.loaded.iter().find(|loaded| loaded.probe().name == name)
    }

    /// What this kernel lacks, each once.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let mut seen = HashSet::new();
        let all = self.loaded.iter().flat_map(Loaded::missing);
        all.filter(|m| seen.insert(&m.hook)).cloned().collect()
    }

    /// What was told and what was lost, of all probes.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn losses(&self) -> Result<Losses> {
        let mut all = Losses::default();
        for loaded in &self.loaded {
            all += loaded.losses()?;
        }
        Ok(all)
    }

    /// Looks through the open files of all processes for the owners of sockets that nobody knows better. Some milliseconds
    /// for a thousand processes.
    ///
    /// # Errors
    /// [`Error::Query`] where the kernel refuses.
    pub fn learn_owners(&self) -> Result<()> {
        let Some(base) = self.loaded.first() else { return Ok(()) };
        iterate(base, life::HOLDERS, &mut |_| {})
    }

    /// Every TCP socket that has a peer, as it is now; of all network namespaces that the session looks at. Nothing where
    /// this kernel lacks the iterator (Linux 5.9).
    ///
    /// # Errors
    /// [`Error::Query`] where the kernel refuses.
    pub fn sockets(&self) -> Result<Vec<Listed>> {
        self.loaded.first().map_or_else(|| Ok(Vec::new()), Listed::all)
    }
}

fn reader(loaded: &[Loaded], seen: &Arc<Mutex<Vec<(&'static str, Record)>>>) -> Result<RingBuffer<'static>> {
    let failed = |source| Error::Map { action: "read", map: "events", source };
    let mut builder = RingBufferBuilder::new();
    let maps = loaded.iter().map(|l| l.map("observe_events")).collect::<Vec<_>>();
    for (loaded, map) in loaded.iter().zip(&maps) {
        let (Some(map), Some(decode)) = (map, loaded.probe().source.decode()) else { continue };
        let (name, sink) = (loaded.probe().name, Arc::clone(seen));
        let take = move |bytes: &[u8]| {
            let record = decode(bytes).map(|record| (name, record));
            let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend(record);
            // Where more comes than is read, whoever reads must be heard of in between.
            if seen.len() < MAX_SEEN { 0 } else { -libc::EINTR }
        };
        builder.add(map, take).map_err(failed)?;
    }
    builder.build().map_err(failed)
}

fn settings(scope: &Scope, events: bool) -> observe_settings {
    let (peer, peer_mask) = scope.peer.map_or_else(Default::default, prefix);
    observe_settings {
        peer,
        peer_mask,
        wake: u64::from(scope.ring / 2),
        netns: scope.netns.unwrap_or(0),
        port: scope.port.unwrap_or(0).to_be(),
        events: u16::from(events),
    }
}

/// Address and mask as two words each, of the bytes in network order. IPv4 as IPv4-mapped.
fn prefix(net: IpNet) -> ([u64; 2], [u64; 2]) {
    let (addr, len) = match net.network() {
        IpAddr::V4(addr) => (addr.to_ipv6_mapped(), net.prefix_len() + 96),
        IpAddr::V6(addr) => (addr, net.prefix_len()),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    let words = |bits: u128| {
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        [high.to_be(), low.to_be()]
    };
    (words(addr.to_bits()), words(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_compared_as_the_programs_see_addresses() {
        for (net, inside, outside) in [
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::/65", "2001:db8::7fff:ffff:ffff:ffff", "2001:db8::8000:0:0:0"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("::/0", "::1", ""),
        ] {
            let (peer, mask) = prefix(net.parse().unwrap());
            let matches = |addr: &str| {
                let addr: IpAddr = addr.parse().unwrap();
                let bytes = match addr {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
                (word(0) ^ peer[0]) & mask[0] == 0 && (word(8) ^ peer[1]) & mask[1] == 0
            };
            assert!(matches(inside), "{inside} is in {net}");
            assert!(outside.is_empty() || !matches(outside), "{outside} is not in {net}");
        }
    }
}
