//! The marking program alone, by `BPF_PROG_TEST_RUN`: ns per packet with warm caches.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use anyhow::Result;
use flowtag_kernel::mark::{HookChoice, Key, Marker, Settings};
use flowtag_testbed::Testbed;
use flowtag_wire::{Endpoint, Entropy, FlowLabel, Protocol, Tag};
use libbpf_rs::{ProgramInput, ProgramMut};

use crate::report::{Figure, Report};

const RUNS: usize = 15;
/// Different flows in one run: the table treats them differently, and traffic is of many.
const MIX: u32 = 32;
const REPEAT: u32 = 20_000;
const FLOWS: [u32; 4] = [1, 1_000, 100_000, 1_000_000];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut marker = Marker::load(&Settings { max_flows: 1 << 20, ..Settings::default() })?;
    marker.configure_test_run()?;
    report.section(
        "Program",
        "ns per packet by `BPF_PROG_TEST_RUN`, which includes the kernel's own loop: an empty program, packets of 32 \
         flows that are not announced, packets of 32 that are. Caches are warm. Aim: hit at most 3 × empty, and flat (at most 1.5 ×) over the table's size.",
        &["flows in the table", "empty", "miss", "hit", "hit / empty"],
    );
    let mut filled = 0;
    for flows in FLOWS {
        (filled..flows).try_for_each(|n| marker.set(&key(n), label().into(), 0))?;
        filled = flows;
        let mut columns = [const { Vec::new() }; 3];
        for _ in 0..RUNS {
            columns[0].push(ns(&marker.empty_program(), |n| n)?);
            columns[1].push(ns(&marker.mark_program(), |n| flows + n)?);
            columns[2].push(ns(&marker.mark_program(), |n| {
                (u64::from(n) * u64::from(flows) / u64::from(MIX)) as u32
            })?);
        }
        let [empty, miss, hit] = &columns;
        let ratio = Figure::ratio(hit, empty).show(2);
        let figures = [empty, miss, hit].map(|c| Figure::of(c).show(0));
        report.row(&[&[flows.to_string()][..], &figures, &[ratio]].concat());
    }
    attach(report)
}

fn key(n: u32) -> Key {
    let remote = Ipv6Addr::from((0x2001_0db8_u128 << 96) + u128::from(n) + 2);
    let local: IpAddr = Ipv6Addr::from((0x2001_0db8_u128 << 96) + 1).into();
    Key {
        protocol: Protocol::Tcp,
        local: Endpoint::new(local, 1094),
        remote: Endpoint::new(remote.into(), 40000),
    }
}

fn label() -> FlowLabel {
    FlowLabel::from_tag(Tag::new(3, 14).expect("in range"), Entropy::NONE)
}

/// A TCP packet of flow `n`.
fn packet(n: u32) -> Vec<u8> {
    let key = key(n);
    let octets = |addr| match addr {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
    };
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, 6, 64];
    out.extend(octets(key.local.addr()));
    out.extend(octets(key.remote.addr()));
    out.extend(key.local.port().to_be_bytes());
    out.extend(key.remote.port().to_be_bytes());
    out.extend([0; 56]);
    out
}

/// Mean over the packets of the flows that `flow` chooses.
fn ns(program: &ProgramMut<'_>, flow: impl Fn(u32) -> u32) -> Result<f64> {
    let mut total = 0.0;
    for n in 0..MIX {
        let packet = packet(flow(n));
        let input = ProgramInput { data_in: Some(&packet), repeat: REPEAT, ..Default::default() };
        total += program.test_run(input)?.duration.as_nanos() as f64;
    }
    Ok(total / f64::from(MIX))
}

fn attach(report: &mut Report) -> Result<()> {
    report.section(
        "Load and attach",
        "ms from nothing to marking on one interface. Aim: at most 300 ms.",
        &["hook", "load", "attach"],
    );
    let bed = Testbed::new("attach")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    bed.link(&a, "eth0", &b, "eth0")?;
    for hook in [HookChoice::Auto, HookChoice::Clsact] {
        let (mut load, mut attach, mut name) = (Vec::new(), Vec::new(), String::new());
        for _ in 0..RUNS {
            a.run(|| -> Result<()> {
                let start = Instant::now();
                let mut marker = Marker::load(&Settings::default())?;
                load.push(start.elapsed().as_secs_f64() * 1e3);
                let eth0 = flowtag_kernel::link::find("eth0")?;
                let start = Instant::now();
                name = marker.attach(&eth0, hook)?.to_string();
                attach.push(start.elapsed().as_secs_f64() * 1e3);
                Ok(())
            })??;
        }
        report.row(&[name, Figure::of(&load).show(1), Figure::of(&attach).show(1)]);
    }
    Ok(())
}
