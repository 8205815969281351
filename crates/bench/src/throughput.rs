//! iperf3 over veth pairs: nothing attached, a label, an option; in turns.

use anyhow::{Context, Result, ensure};
use flowtag_testbed::{Host, Testbed};
use flowtag_wire::{Protocol, Strategy};

use crate::lane::{Lane, Way};
use crate::report::{Figure, Report};
use crate::traffic;

const ROUNDS: usize = 23;
const BYTES: &str = "750M";
const FIRST: u16 = 10_000;
const MTUS: [u32; 2] = [1500, 9000];
const STREAMS: [u16; 2] = [1, 8];
const WAYS: [(&str, Way); 3] = [
    ("nothing attached", Way::Nothing),
    ("label", Way::Marked(Strategy::LABEL)),
    ("destination option", Way::Marked(Strategy::DESTINATION)),
];

/// One run of iperf3.
#[derive(Default)]
struct Run {
    gbit: f64,
    /// CPU seconds of both iperf3 per gigabyte: what the kernel does for them on their CPU is in it, programs included.
    cpu: f64,
    retransmitted: u64,
    unmarked: u64,
}

/// Of one MTU and number of streams, by [`WAYS`].
type Runs = [Vec<Run>; WAYS.len()];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "Throughput",
        "iperf3 over veth pairs, sender and receiver on one CPU, so that what a packet costs more is lost throughput; \
         Reno, 0.75 GB a run, in turns. For the option the MSS is lowered by its eight bytes. CPU is of both iperf3 and \
         what the kernel does for them, the programs included; for the option it is also that the receiver parses it and \
         looks up a route for each packet, which `ip_early_demux` spares it for TCP without extension headers. Ratios \
         are to nothing attached. Retransmissions are TcpRetransSegs of the sender; unmarked is every packet of TCP with \
         another verdict than `marked`; both over all runs. Aims: label at least 0.99, option at least 0.97, no \
         retransmissions, none unmarked.",
        &["MTU", "streams", "", "Gbit/s", "ratio", "CPU s per GB", "ratio", "retransmissions", "unmarked"],
    );
    let bed = Testbed::new("speed")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let mut lanes = Vec::new();
    for mtu in MTUS {
        for (n, (_, way)) in WAYS.iter().enumerate() {
            lanes.push(Lane::new(&bed, (&a, &b), &format!("mtu{mtu}-{n}"), mtu, *way)?);
        }
    }
    let _server = traffic::iperf_server(&a, &b)?;
    let mut groups: Vec<Runs> = (0..MTUS.len() * STREAMS.len()).map(|_| Runs::default()).collect();
    let mut port = FIRST;
    for round in 0..ROUNDS {
        for (n, group) in groups.iter_mut().enumerate() {
            port += STREAMS[1]; // nobody's in the run before
            for step in 0..WAYS.len() {
                let way = (round + step) % WAYS.len();
                let lane = &mut lanes[n / 2 * WAYS.len() + way];
                let taken = one(&a, lane, port, STREAMS[n % 2]);
                group[way].push(taken.with_context(|| format!("{:?}", WAYS[way]))?);
            }
        }
    }
    for (n, group) in groups.iter().enumerate() {
        rows(report, [MTUS[n / 2].to_string(), STREAMS[n % 2].to_string()], group);
    }
    Ok(())
}

fn rows(report: &mut Report, what: [String; 2], runs: &Runs) {
    let column = |way: usize, pick: fn(&Run) -> f64| runs[way].iter().map(pick).collect::<Vec<_>>();
    let sum = |way: usize, pick: fn(&Run) -> u64| runs[way].iter().map(pick).sum::<u64>().to_string();
    for (way, (name, _)) in WAYS.iter().enumerate() {
        let (gbit, cpu) = (column(way, |r| r.gbit), column(way, |r| r.cpu));
        let figures = [
            (*name).to_owned(),
            Figure::of(&gbit).show(1),
            Figure::ratio(&gbit, &column(0, |r| r.gbit)).show(3),
            Figure::of(&cpu).show(3),
            Figure::ratio(&cpu, &column(0, |r| r.cpu)).show(3),
            sum(way, |r| r.retransmitted),
            if way == 0 { "–".to_owned() } else { sum(way, |r| r.unmarked) },
        ];
        report.row(&[&what[..], &figures].concat());
    }
}

fn one(a: &Host, lane: &mut Lane, port: u16, streams: u16) -> Result<Run> {
    lane.announce(Protocol::Tcp, port..port + streams, traffic::IPERF)?;
    let (before, packets) = (retransmitted(a)?, lane.packets()?);
    let end = traffic::iperf(a, &lane.link, port, &["--bytes", BYTES, "--parallel", &streams.to_string()])?;
    let after = lane.packets()?;
    ensure!(lane.way == Way::Nothing || after.0 > packets.0, "no packet was marked");
    let number = |path: &str| end.pointer(path).and_then(serde_json::Value::as_f64).context(path.to_owned());
    let busy =
        number("/cpu_utilization_percent/host_total")? + number("/cpu_utilization_percent/remote_total")?;
    let gigabytes = number("/sum_received/bytes")? / 1e9;
    Ok(Run {
        gbit: number("/sum_received/bits_per_second")? / 1e9,
        cpu: busy / 100.0 * number("/sum_sent/seconds")? / gigabytes,
        retransmitted: retransmitted(a)? - before,
        unmarked: after.1 - packets.1,
    })
}

/// Segments of TCP that the host sent again (RFC 4022, `TcpRetransSegs`).
fn retransmitted(host: &Host) -> Result<u64> {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) =
        (lines.next().context("names of TCP's counters")?, lines.next().context("their values")?);
    let named =
        names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "RetransSegs");
    Ok(named.context("no RetransSegs")?.1.parse()?)
}
