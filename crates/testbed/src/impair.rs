//! Links that lose and delay packets, on every kernel: no queueing discipline is asked for.
//!
//! ```text
//!  host a      middle namespace      host b
//!  eth0 ── near ── relay ── far ── eth0
//! ```
//!
//! A thread for each direction takes whole frames from one packet socket, holds them for the delay and gives them to
//! the other. Loss is a function of the packet's number, so that a test loses the same packets every time. What
//! hosts say without being asked (ARP, neighbour discovery, multicast listener reports) is delayed but never lost and
//! has no number. Everything that does not get through is counted by its cause.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flowtag_kernel::af_packet::{ETH_P_ALL, PacketSocket};

use crate::host::Host;
use crate::link::Link;
use crate::process::locked;

/// How long a thread may take to see that it must end.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// Any frame of a veth interface with offloads off, and more.
const FRAME_MAX: usize = 1 << 16;
/// Frames that may wait in the kernel for a relay thread that is not scheduled.
const RECEIVE_BUFFER: u32 = 32 << 20;
/// Places in the queue that only control frames may take: a full queue never costs a neighbour.
const CONTROL_ROOM: usize = 64;
/// At most this many frames are taken before what is due is sent.
const BATCH: usize = 64;

/// Which packets are lost, by their number: the first of a direction is number 1.
#[derive(Clone, Default)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Those whose number this divides; none for 0.
    EveryNth(u64),
    /// Those for which the function says so.
    Pattern(Arc<dyn Fn(u64) -> bool + Send + Sync>),
}

impl Loss {
    /// Loses the packets with these numbers.
    #[must_use]
    pub fn these(numbers: &[u64]) -> Self {
        let numbers = numbers.to_vec();
        Self::Pattern(Arc::new(move |n| numbers.contains(&n)))
    }

    /// Loses about `percent` of the packets, spread as if by chance and the same ones for the same seed.
    #[must_use]
    pub fn percent(percent: f64, seed: u64) -> Self {
        let limit = (percent.clamp(0.0, 100.0) / 100.0 * u64::MAX as f64) as u64;
        Self::Pattern(Arc::new(move |n| scatter(seed ^ scatter(n)) < limit))
    }

    fn takes(&self, number: u64) -> bool {
        match self {
            Self::None => false,
            Self::EveryNth(n) => number.checked_rem(*n) == Some(0),
            Self::Pattern(loses) => loses(number),
        }
    }
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::EveryNth(n) => write!(f, "EveryNth({n})"),
            Self::Pattern(_) => f.write_str("Pattern(..)"),
        }
    }
}

/// A number that depends on every bit of `x` (the finaliser of SplitMix64).
fn scatter(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// What a link does to packets.
#[derive(Debug, Clone)]
pub struct Impairment {
    /// Each way: the round trip takes twice as long.
    pub delay: Duration,
    /// On the way from `a` to `b`.
    pub loss: Loss,
    /// On the way from `b` to `a`.
    pub loss_back: Loss,
    /// Bits per second each way, link-layer header included; as fast as can be if none.
    pub rate: Option<u64>,
    /// Frames that wait each way, for their delay and the rate; one more is dropped and counted as overflow.
    pub queue: usize,
    /// MTU of the link; 1500 if none.
    pub mtu: Option<u32>,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            loss: Loss::None,
            loss_back: Loss::None,
            rate: None,
            queue: 10_000,
            mtu: None,
        }
    }
}

/// What became of the frames of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets that were passed on.
    pub forwarded: u64,
    /// Packets lost on purpose.
    pub dropped: u64,
    /// ARP, neighbour discovery and the like, passed on.
    pub control: u64,
    /// Packets lost because the queue was full.
    pub overflow: u64,
    /// Packets lost because they could not be sent.
    pub failed: u64,
    /// Frames lost because the relay did not take them in time; no number counts them.
    pub missed: u64,
}

#[derive(Debug, Default)]
struct Count {
    forwarded: AtomicU64,
    dropped: AtomicU64,
    control: AtomicU64,
    overflow: AtomicU64,
    failed: AtomicU64,
    missed: AtomicU64,
}

impl Count {
    fn read(&self) -> Counters {
        let of = |c: &AtomicU64| c.load(Ordering::SeqCst);
        Counters {
            forwarded: of(&self.forwarded),
            dropped: of(&self.dropped),
            control: of(&self.control),
            overflow: of(&self.overflow),
            failed: of(&self.failed),
            missed: of(&self.missed),
        }
    }
}

/// How one direction treats packets, and the number of the last one.
#[derive(Debug)]
struct Treatment {
    delay: Duration,
    loss: Loss,
    rate: Option<u64>,
    queue: usize,
    number: u64,
}

impl Treatment {
    fn new(impairment: &Impairment, loss: &Loss) -> Self {
        let &Impairment { delay, rate, queue, .. } = impairment;
        Self { delay, loss: loss.clone(), rate, queue, number: 0 }
    }

    /// Whether the next packet is lost.
    fn next_is_lost(&mut self) -> bool {
        self.number += 1;
        self.loss.takes(self.number)
    }
}

#[derive(Debug)]
struct Direction {
    treatment: Mutex<Treatment>,
    count: Count,
    /// Where frames come from. Not kept alive by who only counts: it would keep its namespace.
    source: Weak<PacketSocket>,
}

impl Direction {
    fn new(impairment: &Impairment, loss: &Loss, source: &Arc<PacketSocket>) -> Arc<Self> {
        let treatment = Mutex::new(Treatment::new(impairment, loss));
        Arc::new(Self { treatment, count: Count::default(), source: Arc::downgrade(source) })
    }

    /// The kernel forgets what was missed as it is told, so it is added up here.
    fn counters(&self) -> Counters {
        let missed = self.source.upgrade().and_then(|s| s.statistics().ok()).map_or(0, |s| s.dropped);
        self.count.missed.fetch_add(missed.into(), Ordering::SeqCst);
        self.count.read()
    }
}

/// A link with a relay in its middle. The bed keeps the relay running; this only looks and changes.
#[derive(Debug, Clone)]
pub struct ImpairedLink {
    link: Link,
    a_to_b: Arc<Direction>,
    b_to_a: Arc<Direction>,
}

impl ImpairedLink {
    /// What became of the frames from `a` to `b`.
    #[must_use]
    pub fn a_to_b(&self) -> Counters {
        self.a_to_b.counters()
    }

    /// What became of the frames from `b` to `a`.
    #[must_use]
    pub fn b_to_a(&self) -> Counters {
        self.b_to_a.counters()
    }

    /// Treats packets differently from now on, and numbers them from 1 again. The MTU stays.
    pub fn set(&self, impairment: &Impairment) {
        *locked(&self.a_to_b.treatment) = Treatment::new(impairment, &impairment.loss);
        *locked(&self.b_to_a.treatment) = Treatment::new(impairment, &impairment.loss_back);
    }
}

impl std::ops::Deref for ImpairedLink {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

/// The two threads of an impaired link; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Between the interfaces `near` and `far` of the middle host.
    pub(crate) fn start(middle: &Host, link: Link, impairment: &Impairment) -> Result<(Self, ImpairedLink)> {
        let (a, b) = (open(middle, "near")?, open(middle, "far")?);
        let a_to_b = Direction::new(impairment, &impairment.loss, &a);
        let b_to_a = Direction::new(impairment, &impairment.loss_back, &b);
        let mut relay = Self { stop: Arc::default(), threads: Vec::new() };
        relay.pass(Arc::clone(&a), Arc::clone(&b), &a_to_b)?;
        relay.pass(b, a, &b_to_a)?;
        Ok((relay, ImpairedLink { link, a_to_b, b_to_a }))
    }

    fn pass(
        &mut self,
        from: Arc<PacketSocket>,
        to: Arc<PacketSocket>,
        direction: &Arc<Direction>,
    ) -> Result<()> {
        let mut lane =
            Lane { from, to, direction: Arc::clone(direction), waiting: VecDeque::new(), free_at: None };
        let stop = Arc::clone(&self.stop);
        let run = move || lane.run(&stop);
        let thread =
            thread::Builder::new().name("flowtag-relay".into()).spawn(run).context("starting a relay")?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn open(middle: &Host, device: &str) -> Result<Arc<PacketSocket>> {
    let socket = middle.run(|| PacketSocket::open(device, ETH_P_ALL))??;
    socket.ignore_outgoing()?;
    socket.set_receive_buffer(RECEIVE_BUFFER)?;
    Ok(Arc::new(socket))
}

/// One direction at work.
#[derive(Debug)]
struct Lane {
    from: Arc<PacketSocket>,
    to: Arc<PacketSocket>,
    direction: Arc<Direction>,
    /// Frames with the time when they leave, which never decreases.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    /// When the last frame has left at the given rate.
    free_at: Option<Instant>,
}

impl Lane {
    fn run(&mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; FRAME_MAX];
        while !stop.load(Ordering::SeqCst) {
            self.take_some(&mut buffer);
            self.send_due();
        }
    }

    /// Waits for the first frame until one that waits is due, then takes what is there already.
    fn take_some(&mut self, buffer: &mut [u8]) {
        let mut patience = self.until_due().unwrap_or(STOP_CHECK).min(STOP_CHECK);
        for _ in 0..BATCH {
            match self.from.recv(buffer, Some(patience)) {
                Ok(Some(got)) => self.accept(buffer.get(..got.len).unwrap_or_default()),
                Ok(None) => return,
                // The interface is going away with its namespace: do not spin.
                Err(_) => return thread::sleep(Duration::from_millis(1)),
            }
            patience = Duration::ZERO;
        }
    }

    fn until_due(&self) -> Option<Duration> {
        self.waiting.front().map(|(due, _)| due.saturating_duration_since(Instant::now()))
    }

    /// Decides what becomes of a frame.
    fn accept(&mut self, frame: &[u8]) {
        let count = &self.direction.count;
        let mut treatment = locked(&self.direction.treatment);
        let control = is_control(frame);
        if !control && treatment.next_is_lost() {
            count.dropped.fetch_add(1, Ordering::SeqCst);
        } else if self.waiting.len() >= treatment.queue.saturating_add(if control { CONTROL_ROOM } else { 0 })
        {
            count.overflow.fetch_add(1, Ordering::SeqCst);
        } else {
            let sent = self.free_at.map_or(Instant::now(), |t| t.max(Instant::now()))
                + time_on_wire(frame, treatment.rate);
            self.free_at = treatment.rate.map(|_| sent);
            let last = self.waiting.back().map(|(due, _)| *due);
            let due = sent + treatment.delay;
            self.waiting.push_back((last.map_or(due, |l| l.max(due)), frame.to_vec()));
        }
    }

    fn send_due(&mut self) {
        while self.until_due() == Some(Duration::ZERO) {
            let Some((_, frame)) = self.waiting.pop_front() else { return };
            let count = &self.direction.count;
            let counter = match self.to.send(&frame) {
                Ok(()) if is_control(&frame) => &count.control,
                Ok(()) => &count.forwarded,
                Err(_) => &count.failed,
            };
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn time_on_wire(frame: &[u8], rate: Option<u64>) -> Duration {
    let bits = 8 * frame.len() as u64;
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bits as f64 / rate.max(1) as f64))
}

/// Whether hosts send such a frame on their own: ARP, IGMP, and IPv6 neighbour discovery and listener reports
/// (RFC 4861, RFC 3810).
fn is_control(frame: &[u8]) -> bool {
    let Some((protocol, packet)) = network_layer(frame) else { return false };
    match protocol {
        0x0806 => true,
        0x0800 => packet.get(9) == Some(&2),
        0x86dd => is_control_ipv6(packet),
        _ => false,
    }
}

/// Protocol and packet behind the Ethernet header and any VLAN tags.
fn network_layer(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = frame.get(12..)?;
    loop {
        let (protocol, after) = rest.split_first_chunk()?;
        match u16::from_be_bytes(*protocol) {
            0x8100 | 0x88a8 => rest = after.get(2..)?,
            protocol => return Some((protocol, after)),
        }
    }
}

/// Multicast of the link's scope, or ICMPv6 of the types 130 to 137 and 143.
fn is_control_ipv6(packet: &[u8]) -> bool {
    let to_link = packet.get(24..26) == Some(&[0xff, 0x02]);
    let icmp = packet.get(6) == Some(&58);
    let kind = packet.get(40).copied().unwrap_or_default();
    icmp && (130..=137).contains(&kind) || to_link && packet.get(6) == Some(&0) || icmp && kind == 143
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(loss: &Loss, of: u64) -> Vec<u64> {
        (1..=of).filter(|n| loss.takes(*n)).collect()
    }

    #[test]
    fn loss_depends_on_the_number_alone() {
        assert!(lost(&Loss::None, 100).is_empty());
        assert!(lost(&Loss::EveryNth(0), 100).is_empty());
        assert_eq!(lost(&Loss::EveryNth(4), 12), [4, 8, 12]);
        assert_eq!(lost(&Loss::these(&[1, 7]), 12), [1, 7]);
        assert_eq!(lost(&Loss::percent(3.0, 1), 1000), lost(&Loss::percent(3.0, 1), 1000));
        let some = lost(&Loss::percent(3.0, 1), 100_000).len();
        assert!((2_800..3_200).contains(&some), "{some}");
        assert_eq!(lost(&Loss::percent(100.0, 1), 50).len(), 50);
    }

    fn ipv6(next_header: u8, destination: u16, kind: u8, tag: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; 12], tag, &[0x86, 0xdd]].concat();
        let mut packet = vec![0; 48];
        (packet[6], packet[40]) = (next_header, kind);
        packet[24..26].copy_from_slice(&destination.to_be_bytes());
        frame.extend(packet);
        frame
    }

    #[test]
    fn what_hosts_say_on_their_own_has_no_number() {
        let arp = [&[0; 12][..], &[0x08, 0x06], &[0; 28]].concat();
        assert!(is_control(&arp));
        for (name, frame, wanted) in [
            ("neighbour solicitation", ipv6(58, 0xff02, 135, &[]), true),
            ("neighbour advertisement", ipv6(58, 0xfd00, 136, &[]), true),
            ("listener report behind hop-by-hop", ipv6(0, 0xff02, 58, &[]), true),
            ("the same in two VLANs", ipv6(0, 0xff02, 58, &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]), true),
            ("echo request", ipv6(58, 0xfd00, 128, &[]), false),
            ("packet too big", ipv6(58, 0xfd00, 2, &[]), false),
            ("TCP", ipv6(6, 0xfd00, 135, &[]), false),
            ("hop-by-hop to a host", ipv6(0, 0xfd00, 58, &[]), false),
            ("nothing", vec![], false),
            ("a cut tag", [0x81, 0].repeat(8), false),
        ] {
            assert_eq!(is_control(&frame), wanted, "{name}");
        }
    }

    #[test]
    fn a_rate_is_the_time_that_a_frame_takes() {
        assert_eq!(time_on_wire(&[0; 1250], Some(1_000_000)), Duration::from_millis(10));
        assert_eq!(time_on_wire(&[0; 1250], None), Duration::ZERO);
    }
}
