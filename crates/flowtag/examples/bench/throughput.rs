//! iperf3 over a veth pair: nothing attached, an empty program, marking; in turns.

use std::time::Duration;

use anyhow::{Context, Result};
use flowtag_kernel::mark::{HookChoice, Key, Marker, Settings};
use flowtag_testbed::{Host, Link, Testbed, checked};
use flowtag_wire::{Endpoint, Entropy, FlowLabel, Protocol, Tag};

use crate::report::{Figure, Report};

const PAIRS: usize = 15;
const SECONDS: &str = "1";
const CLIENT: u16 = 40000;
const SERVER: u16 = 5201;

/// What is on the interface while iperf3 runs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Nothing,
    Empty,
    Miss,
    Marked,
}

/// One run of iperf3.
struct Run {
    gbit: f64,
    /// CPU seconds of the whole machine per gigabyte.
    cpu: f64,
    retransmits: u64,
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "Throughput",
        "One iperf3 stream of a second over a veth pair, in turns: nothing attached; a program that does nothing; the program and the flow \
         not announced; the flow marked. CPU is of the whole machine (sender, receiver, kernel). Ratios are to nothing \
         attached. Aim: marked at least 0.99 of unmarked.",
        &["", "Gbit/s", "ratio", "CPU s per GB", "ratio", "retransmissions"],
    );
    let bed = Testbed::new("speed")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.link(&a, "eth0", &b, "eth0")?;
    let ways = [Way::Nothing, Way::Empty, Way::Miss, Way::Marked];
    let mut runs = ways.map(|way| (way, Vec::new()));
    for round in 0..PAIRS {
        for step in 0..ways.len() {
            // Another order each round: who comes first is not always the same.
            let (way, taken) = &mut runs[(round + step) % ways.len()];
            taken.push(one(&a, &b, &link, *way).with_context(|| format!("{way:?}"))?);
        }
    }
    let column = |way: usize, pick: fn(&Run) -> f64| runs[way].1.iter().map(pick).collect::<Vec<_>>();
    for (index, name) in
        ["nothing attached", "empty program", "not announced", "marked"].into_iter().enumerate()
    {
        let (gbit, cpu) = (column(index, |r| r.gbit), column(index, |r| r.cpu));
        report.row(&[
            name.to_owned(),
            Figure::of(&gbit).show(1),
            Figure::ratio(&gbit, &column(0, |r| r.gbit)).show(3),
            Figure::of(&cpu).show(3),
            Figure::ratio(&cpu, &column(0, |r| r.cpu)).show(3),
            runs[index].1.iter().map(|r| r.retransmits).sum::<u64>().to_string(),
        ]);
    }
    Ok(())
}

fn one(a: &Host, b: &Host, link: &Link, way: Way) -> Result<Run> {
    let marker = (way != Way::Nothing).then(|| a.run(|| attach(link, way))).transpose()?.transpose()?;
    let mut server = b.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = b.spawn(server)?;
    server.wait_for_output("Server listening", Duration::from_secs(20))?;
    let before = busy()?;
    let mut client = a.command("iperf3");
    let port = CLIENT.to_string();
    client.args(["--json", "--client", &link.b.ipv6.to_string(), "--cport", &port, "--time", SECONDS]);
    let report: serde_json::Value = serde_json::from_str(&checked(&mut client)?)?;
    let cpu = busy()? - before;
    server.wait(Duration::from_secs(20))?;
    drop(marker);
    let end = &report["end"];
    let bytes = end["sum_received"]["bytes"].as_f64().context("bytes")?;
    Ok(Run {
        gbit: end["sum_received"]["bits_per_second"].as_f64().context("speed")? / 1e9,
        cpu: cpu / (bytes / 1e9),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or_default(),
    })
}

fn attach(link: &Link, way: Way) -> Result<Marker> {
    let mut marker = Marker::load(&Settings::default())?;
    let eth0 = flowtag_kernel::link::find("eth0")?;
    match way {
        Way::Empty => marker.attach_empty(&eth0, HookChoice::Auto)?,
        _ => marker.attach(&eth0, HookChoice::Auto)?,
    };
    if way == Way::Marked {
        let (local, remote) =
            (Endpoint::new(link.a.ipv6.into(), CLIENT), Endpoint::new(link.b.ipv6.into(), SERVER));
        let label = FlowLabel::from_tag(Tag::new(3, 14)?, Entropy::NONE);
        marker.set(&Key { protocol: Protocol::Tcp, local, remote }, label.into(), 0)?;
    }
    Ok(marker)
}

/// Seconds that the machine's CPUs were not idle (proc(5), /proc/stat, in ticks of 1/100 s).
fn busy() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map(|t| t.parse().unwrap_or(0.0)).collect();
    // user, nice, system, idle, iowait, irq, softirq
    let of = |index: usize| ticks.get(index).copied().unwrap_or_default();
    Ok([0, 1, 2, 5, 6].into_iter().map(of).sum::<f64>() / 100.0)
}
