//! Programs alone, by `BPF_PROG_TEST_RUN`.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use flowtag_kernel::mark::Key;
use flowtag_wire::option::{self, Place};
use flowtag_wire::{Endpoint, Protocol};
use libbpf_rs::{ProgramInput, ProgramMut};

use crate::site;

const RUNS: u32 = 11;
/// Different flows in one warm run: the table treats them differently, and traffic is of many.
pub(crate) const MIX: u32 = 32;
/// Packets that are each run once.
const EACH: u32 = 2_048;

/// How the time of one packet is found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// The same packet so many times, for each of a few; the mean. Caches are warm. What the program writes, it finds
    /// there the next time.
    Warm(u32),
    /// Packets that each run once, as the program never saw them; the mean without the upper and the lower twentieth,
    /// where interrupts are. Includes reading the clock.
    Each,
}

impl How {
    /// Long enough for the clock not to count.
    pub(crate) const WARM: Self = Self::Warm(5_000);
}

/// What is measured: a program, and the packet number `n` that it gets.
pub(crate) struct Case<'a> {
    program: ProgramMut<'a>,
    how: How,
    packet: Box<dyn Fn(u32) -> Vec<u8> + 'a>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(program: ProgramMut<'a>, how: How, packet: impl Fn(u32) -> Vec<u8> + 'a) -> Self {
        Self { program, how, packet: Box::new(packet) }
    }

    fn ns(&self, round: u32, after: &dyn Fn() -> Result<()>) -> Result<f64> {
        let (packets, repeat) = match self.how {
            How::Warm(repeat) => (0..MIX, repeat),
            How::Each => (round * EACH..(round + 1) * EACH, 1),
        };
        let mut all = Vec::with_capacity(packets.len());
        for n in packets {
            let packet = (self.packet)(n);
            let input = ProgramInput { data_in: Some(&packet), repeat, ..Default::default() };
            all.push(self.program.test_run(input)?.duration.as_nanos() as f64);
            if repeat > 1 {
                after()?;
            }
        }
        after()?;
        all.sort_by(f64::total_cmp);
        let cut = if repeat > 1 { 0 } else { all.len() / 20 };
        let kept = &all[cut..all.len() - cut];
        Ok(kept.iter().sum::<f64>() / kept.len() as f64)
    }
}

/// ns per packet of each case, in turns. `after` runs between packets, not measured.
pub(crate) fn measure<const N: usize>(
    cases: &[Case<'_>; N],
    after: &dyn Fn() -> Result<()>,
) -> Result<[Vec<f64>; N]> {
    let mut columns = [const { Vec::new() }; N];
    for round in 0..RUNS {
        for step in 0..N {
            let index = (round as usize + step) % N;
            columns[index].push(cases[index].ns(round, after)?);
        }
    }
    Ok(columns)
}

/// Flow `n`: sixteen between one pair of hosts.
pub(crate) fn key(n: u32) -> Key {
    let remote = Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n >> 4) + 2);
    let local: IpAddr = Ipv6Addr::from((0x2001_0db8_u128 << 96) + 1).into();
    Key {
        protocol: Protocol::Tcp,
        local: Endpoint::new(local, 1094),
        remote: Endpoint::new(remote.into(), 40_000 + (n & 15) as u16),
    }
}

/// A TCP packet to be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Packet {
    /// A flow label with the tag.
    pub(crate) label: bool,
    /// Options headers with the tag.
    pub(crate) options: &'static [Place],
    /// The first of its connection.
    pub(crate) syn: bool,
    /// From the other end of the flow.
    pub(crate) arriving: bool,
}

impl Packet {
    /// 114 bytes, and 8 for each options header.
    pub(crate) fn of(self, key: &Key) -> Vec<u8> {
        const TCP: u8 = 6;
        let (from, to) = if self.arriving { (key.remote, key.local) } else { (key.local, key.remote) };
        let label = if self.label { site::mark(flowtag_wire::Strategy::LABEL).label.value() } else { 0 };
        let first = self.options.first().map_or(TCP, |place| place.number());
        let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        out.extend((6 << 28 | label).to_be_bytes());
        out.extend([0, 60 + 8 * self.options.len() as u8, first, 64]);
        out.extend([from, to].into_iter().flat_map(|end| octets(end.addr())));
        for n in 0..self.options.len() {
            let next = self.options.get(n + 1).map_or(TCP, |place| place.number());
            out.extend(option::header(site::tag(), next));
        }
        out.extend([from, to].into_iter().flat_map(|end| end.port().to_be_bytes()));
        // Sequence numbers, length of the header, flags (RFC 9293 §3.1), and what needs no value here.
        out.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, if self.syn { 2 } else { 0x10 }]);
        out.extend([0; 46]);
        out
    }
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
    }
}
