//! The programs where they work: added time per run on real traffic, with caches as they are, by the kernel's own
//! statistics (`kernel.bpf_stats_enabled`).

use anyhow::{Context, Result};
use flowtag_testbed::{Host, Testbed};
use flowtag_wire::{Protocol, Strategy};

use crate::lane::{Lane, Way};
use crate::report::{Figure, Report};
use crate::traffic;

const ROUNDS: usize = 9;
const CONNECTIONS: u16 = 300;
const DATAGRAMS: usize = 20_000;
const FIRST: u16 = 20_000;
pub(crate) const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

const WAYS: [(&str, Way); 6] = [
    ("empty", Way::Empty),
    ("no flow, no rule", Way::NoFlow),
    ("1,000 rules, none matches", Way::NoRule),
    ("label", Way::Marked(Strategy::LABEL)),
    ("destination option", Way::Marked(Strategy::DESTINATION)),
    ("arriving with a label", Way::Arriving),
];

#[derive(Debug, Clone, Copy)]
enum Traffic {
    Bulk,
    Datagrams,
    Connections,
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let before = std::fs::read_to_string(SYSCTL).context("the kernel's statistics")?;
    std::fs::write(SYSCTL, "1").context("switching the kernel's statistics on")?;
    let result = measure(report);
    std::fs::write(SYSCTL, before)?;
    result
}

fn measure(report: &mut Report) -> Result<()> {
    let mut header = vec!["traffic"];
    header.extend(WAYS.map(|(name, _)| name));
    report.section(
        "In place",
        "ns per run of the program on real traffic over veth pairs, by the kernel's statistics, whose clock is in all \
         of them: the empty program, and what the others add to it, pair by pair. 10,000 other flows are in the table. \
         A run is a packet as the interface gets it: of the bulk stream up to 64 KiB. The last column is the program at \
         ingress of the receiver. Aims: at most 10 added without a tag, 45 for a label, 120 for an option.",
        &header,
    );
    let bed = Testbed::new("inplace")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let mut lanes = Vec::new();
    for (n, (_, way)) in WAYS.iter().enumerate() {
        lanes.push(Lane::new(&bed, (&a, &b), &format!("eth{n}"), 1500, *way)?);
    }
    let _server = traffic::iperf_server(&a, &b)?;
    let traffics = [
        ("one bulk TCP stream", Traffic::Bulk),
        ("UDP, 100 bytes", Traffic::Datagrams),
        ("short TCP connections", Traffic::Connections),
    ];
    let mut ports = FIRST;
    for (name, traffic) in traffics {
        let mut columns = vec![Vec::new(); lanes.len()];
        for round in 0..ROUNDS {
            ports += CONNECTIONS;
            for step in 0..lanes.len() {
                let index = (round + step) % lanes.len();
                columns[index].push(one((&a, &b), &mut lanes[index], traffic, ports)?);
            }
        }
        let added = |column: &Vec<f64>| Figure::difference(column, &columns[0]).show(0);
        let mut row = vec![name.to_owned(), Figure::of(&columns[0]).show(0)];
        row.extend(columns[1..].iter().map(added));
        report.row(&row);
    }
    Ok(())
}

/// ns per run.
fn one((a, b): (&Host, &Host), lane: &mut Lane, traffic: Traffic, port: u16) -> Result<f64> {
    match traffic {
        Traffic::Bulk => lane.announce(Protocol::Tcp, port..=port, traffic::IPERF)?,
        Traffic::Datagrams => lane.announce(Protocol::Udp, port..=port, traffic::SERVER)?,
        Traffic::Connections => lane.announce(Protocol::Tcp, port..port + CONNECTIONS, traffic::SERVER)?,
    }
    let before = lane.spent()?;
    match traffic {
        Traffic::Bulk => drop(traffic::iperf(a, &lane.link, port, &["--bytes", "500M"])?),
        Traffic::Datagrams => traffic::datagrams(a, b, &lane.link, port, DATAGRAMS)?,
        Traffic::Connections => traffic::connections(a, b, &lane.link, port, CONNECTIONS)?,
    }
    let after = lane.spent()?;
    Ok((after.0 - before.0) as f64 / (after.1 - before.1) as f64)
}
