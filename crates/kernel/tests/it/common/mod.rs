//! What the tests of the programs share: an interface to run them on, packets by the byte, and what has to become of
//! them, written anew.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::missing_panics_doc)]

pub mod model;
pub mod packets;
pub mod random;

use std::net::Ipv6Addr;
use std::time::Duration;

use flowtag_kernel::link::{self, Interface};
use flowtag_kernel::mark::{Event, Events, HookChoice, Key, Mark, Marker, Settings, Verdict};
use flowtag_testbed::{LinkOptions, Testbed};
use flowtag_wire::{Endpoint, Entropy, FlowLabel, Protocol, Strategy, Tag};
use libbpf_rs::{ProgramInput, ProgramMut};
use nix::sched::CpuSet;
use proptest::test_runner::Config as ProptestConfig;

/// Of the interface, bytes of IPv6 packet.
pub const MTU: usize = 1500;
/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// An emulated machine has a tenth of the time for each packet: of what is tried in great numbers it tries a few.
fn is_guest() -> bool {
    std::env::var_os("FLOWTAG_VM").is_some()
}

/// So many random cases, nothing of which is kept.
pub fn cases(number: u32) -> ProptestConfig {
    let cases = if is_guest() { number / 10 } else { number };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Of all lengths of a packet, each so many-th.
pub fn stride() -> usize {
    if is_guest() { 7 } else { 1 }
}

pub fn local() -> Ipv6Addr {
    "2001:db8::1".parse().expect("literal")
}

pub fn remote() -> Ipv6Addr {
    "2001:db8:0:1::2".parse().expect("literal")
}

/// The flow of the packets that [`packets`] makes.
pub fn flow(protocol: Protocol) -> Key {
    Key {
        protocol,
        local: Endpoint::new(local().into(), 1094),
        remote: Endpoint::new(remote().into(), 40000),
    }
}

pub fn tag() -> Tag {
    Tag::new(3, 14).expect("in range")
}

pub fn label() -> FlowLabel {
    FlowLabel::from_tag(tag(), Entropy::from_random(0x4_0102))
}

/// Each of the seven.
pub fn strategies() -> impl Iterator<Item = Strategy> {
    (1..8).filter_map(Strategy::from_bits)
}

pub fn marked(strategy: Strategy) -> Mark {
    Mark { label: label(), strategy }
}

/// What the kernel knows of a packet beside its bytes: `struct __sk_buff` of linux/bpf.h.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context {
    pub wire_len: u32,
    pub gso_segs: u32,
    pub gso_size: u32,
}

impl Context {
    fn bytes(self, ifindex: u32) -> [u8; 184] {
        let mut bytes = [0; 184];
        for (at, value) in [(40, ifindex), (160, self.wire_len), (164, self.gso_segs), (176, self.gso_size)] {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// A marker on an interface of its own, on which nothing passes but what the test sends.
pub struct Rig {
    pub marker: Marker,
    pub eth0: Interface,
    events: Events,
}

impl Rig {
    /// Runs `story` on a host with the interface.
    pub fn on(name: &str, settings: &Settings, story: impl FnOnce(&mut Self) + Send) {
        let bed = Testbed::new(name).expect("a testbed: run the tests as root");
        let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
        let bare = LinkOptions { addresses: false, ..LinkOptions::default() };
        bed.link_with(&a, "eth0", &b, "eth0", &bare).expect("a link");
        a.ip(&["link", "set", "eth0", "down"]).expect("a quiet link");
        a.run(|| story(&mut Self::new(settings))).expect("on host a");
    }

    /// In the network namespace of the calling thread, which from here on stays on its CPU: what was found for the last
    /// packet is remembered by CPU.
    pub fn new(settings: &Settings) -> Self {
        let mut here = CpuSet::new();
        here.set(nix::sched::sched_getcpu().expect("a CPU")).expect("in range");
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &here).expect("the thread stays");
        let mut marker = Marker::load(settings).expect("the programs load");
        let eth0 = link::find("eth0").expect("eth0");
        assert_eq!(eth0.mtu as usize, MTU);
        marker.attach(&eth0, HookChoice::Auto).expect("they can be attached");
        let events = marker.events().expect("events");
        Self { marker, eth0, events }
    }

    /// What the programs told since the last time.
    pub fn told(&self) -> Vec<Event> {
        self.events.next(Duration::ZERO).expect("the ring can be read")
    }

    /// From now on packets of both protocols' flow carry this.
    pub fn announce(&mut self, mark: Mark) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            self.marker.set(&flow(protocol), mark, 0).expect("room in the table");
        }
    }

    /// What becomes of a packet that leaves, and why.
    #[track_caller]
    pub fn leave(&self, packet: &[u8]) -> (Verdict, Vec<u8>) {
        self.leave_with(packet, Context::default())
    }

    #[track_caller]
    pub fn leave_with(&self, packet: &[u8], context: Context) -> (Verdict, Vec<u8>) {
        let before = self.packets();
        let out = run(&self.marker.mark_program(), packet, context.bytes(self.eth0.index));
        let grown: Vec<_> = self.packets().into_iter().zip(before).filter(|(a, b)| a != b).collect();
        let [((verdict, _), _)] = grown[..] else { panic!("one verdict is counted, not {grown:?}") };
        (verdict, out)
    }

    /// What becomes of a packet that arrives.
    #[track_caller]
    pub fn arrive(&self, packet: &[u8]) -> Vec<u8> {
        run(&self.marker.arrive_program(), packet, Context::default().bytes(self.eth0.index))
    }

    fn packets(&self) -> Vec<(Verdict, u64)> {
        let counters = self.marker.counters().expect("counters");
        let mine = counters.into_iter().find(|c| c.interface.index == self.eth0.index).expect("of eth0");
        mine.counts.into_iter().map(|(verdict, count)| (verdict, count.packets)).collect()
    }

    #[track_caller]
    pub fn assert_leaves(&self, packet: &[u8], verdict: Verdict, expected: &[u8]) {
        let (found, out) = self.leave(packet);
        assert_eq!(hex(&out), hex(expected), "after {}", hex(packet));
        assert_eq!(found, verdict, "{}", hex(packet));
    }

    #[track_caller]
    pub fn assert_untouched(&self, packet: &[u8], verdict: Verdict) {
        self.assert_leaves(packet, verdict, packet);
    }
}

/// One run of a program on one packet (`BPF_PROG_TEST_RUN`), which has to pass it on.
#[track_caller]
fn run(program: &ProgramMut<'_>, packet: &[u8], mut context: [u8; 184]) -> Vec<u8> {
    let mut out = vec![0; packet.len() + 64];
    let input = ProgramInput {
        context_in: Some(&mut context),
        data_in: Some(packet),
        data_out: Some(&mut out),
        ..Default::default()
    };
    let result = program.test_run(input).expect("the kernel runs the program");
    assert_eq!(result.return_value.cast_signed(), -1, "TC_ACT_UNSPEC: the next program decides");
    let length = result.data.expect("data came back").len();
    out.truncate(length);
    out
}

/// In groups of eight, as RFC 8200 draws headers.
pub fn hex(bytes: &[u8]) -> String {
    let group = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    bytes.chunks(8).map(group).collect::<Vec<_>>().join(" ")
}
