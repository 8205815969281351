//! What observing costs: time of the programs for each event, connection and gigabyte; what traffic loses by it; how many
//! events a second come through the ring; how soon it watches, and in how much memory.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtag_kernel::probes::yardstick::Flood;
use flowtag_kernel::probes::{
    Description, Loaded, Options, PROBES, SUMS, Scope, Session, drops, own_netns, yardstick,
};
use flowtag_testbed::{Host, Testbed};

use crate::in_place::SYSCTL;
use crate::report::{Figure, Report};
use crate::{connections, site, traffic};

/// What the daemon always has on.
const ALWAYS: [&str; 5] = ["life", "retrans", "resets", "drops", "rtt"];
const ROUNDS: usize = 9;
const PAIRS: usize = 15;
const CONNECTIONS: u16 = 1_000;
const BULK: &str = "2G";
const DATAGRAMS: usize = 100_000;
const FIRST: u16 = 20_000;

/// A port that nobody used lately.
fn next_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn always() -> impl Iterator<Item = &'static Description> {
    PROBES.iter().copied().filter(|probe| ALWAYS.contains(&probe.name))
}

/// As the daemon has them by default.
fn start(probes: impl Iterator<Item = &'static Description>) -> Result<Session> {
    start_in(Some(own_netns()?), probes)
}

/// The same in this network namespace, or in all.
fn start_in(netns: Option<u32>, probes: impl Iterator<Item = &'static Description>) -> Result<Session> {
    let options = || Options::new(["tag", SUMS, drops::NO_OWNERS].map(str::to_owned));
    let probes: Vec<_> = probes.map(|probe| (probe, options())).collect();
    let scope = Scope { netns, writers: false, ring: 1 << 20, ..Scope::default() };
    Ok(Session::start(&scope, None, &probes)?)
}

/// Reads and drops what is told, while something is done.
fn read_while<T>(session: &Session, act: impl FnOnce() -> Result<T> + Send) -> Result<T>
where
    T: Send,
{
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let result = act();
            done.store(true, Ordering::Relaxed);
            result
        });
        while !done.load(Ordering::Relaxed) {
            session.next(Duration::from_millis(20))?;
        }
        acting.join().expect("it does not panic")
    })
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let cpus = site::pin()?;
    with_statistics(|| programs(report))?;
    traffic_loss(report)?;
    site::run_on(&cpus)?;
    ring(report)?;
    attach(report)
}

fn with_statistics(act: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = fs::read_to_string(SYSCTL).context("the kernel's statistics")?;
    fs::write(SYSCTL, "1").context("switching the kernel's statistics on")?;
    let result = act();
    fs::write(SYSCTL, before)?;
    result
}

/// ns and runs of one program.
type Spent = Vec<(String, f64, f64)>;

fn spent(session: &Session) -> Result<Spent> {
    let mut all = Vec::new();
    for name in ["life"].into_iter().chain(session.probes().map(|l| l.probe().name).filter(|n| *n != "life"))
    {
        let times = session.probe(name).context("a probe")?.run_times()?;
        all.extend(times.into_iter().map(|t| (t.program, t.time.as_nanos() as f64, t.runs as f64)));
    }
    Ok(all)
}

/// What was added between two looks.
fn between(before: &Spent, after: &Spent) -> Spent {
    let differences = after.iter().zip(before).map(|(a, b)| (a.0.clone(), a.1 - b.1, a.2 - b.2));
    differences.filter(|(.., runs)| *runs > 0.0).collect()
}

/// A name of the program, and for each round ns a run and runs a unit.
type Costs = Vec<(String, Vec<f64>, Vec<f64>)>;

fn programs(report: &mut Report) -> Result<()> {
    let bed = Testbed::new("observe")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.link(&a, "eth0", &b, "eth0")?;
    let _server = traffic::iperf_server(&a, &b)?;
    let probes = || always().chain([&yardstick::COUNTED]);
    let everywhere = start_in(None, probes())?;
    let mut port = FIRST;
    let mut connect = || {
        port = if port > 60_000 { FIRST } else { port + CONNECTIONS };
        traffic::connections_by(traffic::connect_politely, b"", (&a, &b), &link, port, CONNECTIONS)
    };
    let thousands = f64::from(CONNECTIONS) / 1e3;
    let (costs, both) = cost(&everywhere, thousands, &mut connect)?;
    drop(everywhere);
    let empty = Figure::of(empty_of(&costs)).median;
    table(report, "Observing: a connection, both ends", "connections (thousands)", &costs, empty);
    let session = a.run(|| start(probes()))??;
    let (_, one) = cost(&session, thousands, &mut connect)?;
    let mut bulk = || traffic::iperf(&a, &link, next_port(), &["--bytes", BULK]).map(drop);
    let (bulk_costs, gigabytes) = cost(&session, 2.0, &mut bulk)?;
    table(report, "Observing: a gigabyte", "gigabytes", &bulk_costs, empty);
    report.section(
        "Observing: sums",
        "Time of all programs of the daemon's always-on set together, less as many runs of the empty program. Client and \
         server are both on this machine, in a network namespace each; the daemon watches its own, here the client's. Aims: \
         at most 3 µs a connection, 5 ms a gigabyte.",
        &["", "µs", "programs run"],
    );
    let show = |sums: &[(f64, f64)], factor: f64| {
        let over: Vec<_> = sums.iter().map(|(ns, runs)| (ns - runs * empty) * factor).collect();
        let runs: Vec<_> = sums.iter().map(|(_, runs)| *runs).collect();
        (Figure::of(&over), Figure::of(&runs))
    };
    for (what, sums) in [("a connection", &one), ("a connection, both ends watched", &both)] {
        let (time, runs) = show(sums, 1e-6);
        report.row(&[what.into(), time.show(2), format!("{:.1}", runs.median / 1e3)]);
    }
    let (time, runs) = show(&gigabytes, 1e-3);
    report.row(&["a gigabyte".into(), time.show(0), format!("{:.0}", runs.median)]);
    Ok(())
}

fn empty_of(costs: &Costs) -> &[f64] {
    costs.iter().find(|(name, ..)| name == "flowtag_empty").map_or(&[], |(_, ns, _)| ns)
}

/// Costs by program, and for each round ns and runs of all, a unit.
fn cost(
    session: &Session,
    units: f64,
    act: &mut (dyn FnMut() -> Result<()> + Send),
) -> Result<(Costs, Vec<(f64, f64)>)> {
    let (mut costs, mut totals): (Costs, _) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = spent(session)?;
        read_while(session, &mut *act)?;
        let differences = between(&before, &spent(session)?);
        let ours = || differences.iter().filter(|(name, ..)| name != "flowtag_empty");
        totals.push((ours().map(|d| d.1).sum::<f64>() / units, ours().map(|d| d.2).sum::<f64>() / units));
        for (name, ns, runs) in differences {
            let index = costs.iter().position(|(known, ..)| *known == name).unwrap_or_else(|| {
                costs.push((name, Vec::new(), Vec::new()));
                costs.len() - 1
            });
            costs[index].1.push(ns / runs);
            costs[index].2.push(runs / units);
        }
    }
    Ok((costs, totals))
}

fn table(report: &mut Report, title: &str, unit: &str, costs: &Costs, empty: f64) {
    let what = format!(
        "ns per run of each program on real traffic, by the kernel's statistics, whose clock is in it; the empty program at \
         the tracepoint inet_sock_set_state ({empty:.0} ns) is taken off in the second column. Runs are for each of the \
         {unit}. The rings are read meanwhile."
    );
    report.section(title, &what, &["program", "ns a run", "− empty", "runs"]);
    for (name, ns, runs) in costs {
        let over: Vec<_> = ns.iter().map(|ns| ns - empty).collect();
        let name = name.trim_start_matches("flowtag_").to_owned();
        report.row(&[
            name,
            Figure::of(ns).show(0),
            Figure::of(&over).show(0),
            format!("{:.1}", Figure::of(runs).median),
        ]);
    }
}

/// What is measured of traffic, without and with observing.
type Pairs = [Vec<f64>; 2];

fn traffic_loss(report: &mut Report) -> Result<()> {
    report.section(
        "Observing: what traffic loses",
        "Without and with the daemon's always-on set, in turns; sender, receiver and reader on one CPU. Aims: bulk at least \
         0.99, datagrams and connections at least 0.97.",
        &["", "without", "with", "ratio"],
    );
    let bed = Testbed::new("loss")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.link(&a, "eth0", &b, "eth0")?;
    let _server = traffic::iperf_server(&a, &b)?;
    let bulk = || {
        let end = traffic::iperf(&a, &link, next_port(), &["--bytes", "750M"])?;
        Ok(end
            .pointer("/sum_received/bits_per_second")
            .and_then(serde_json::Value::as_f64)
            .context("a rate")?
            / 1e9)
    };
    row(report, "bulk TCP, Gbit/s", 1, &pairs(&a, &bulk)?);
    let datagrams = || {
        let start = Instant::now();
        traffic::datagrams_read(&a, &b, &link, FIRST, DATAGRAMS / 50)?;
        Ok(DATAGRAMS as f64 / start.elapsed().as_secs_f64())
    };
    row(report, "UDP, 100 bytes, datagrams/s", 0, &pairs(&a, &datagrams)?);
    let connect = || connections::per_second(traffic::connect_politely, (&a, &b), &link);
    row(report, "connections/s that end in FIN", 0, &pairs(&a, &connect)?);
    let reset = || connections::per_second(traffic::connect, (&a, &b), &link);
    row(report, "connections/s that end in RST", 0, &pairs(&a, &reset)?);
    Ok(())
}

fn pairs(a: &Host, act: &(dyn Fn() -> Result<f64> + Sync)) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    for round in 0..PAIRS {
        for step in 0..2 {
            let with = (round + step) % 2;
            let figure = if with == 1 {
                let session = a.run(|| start(always()))??;
                read_while(&session, act)?
            } else {
                act()?
            };
            pairs[with].push(figure);
        }
    }
    Ok(pairs)
}

fn row(report: &mut Report, name: &str, digits: usize, [without, with]: &Pairs) {
    let show = |values: &[f64]| Figure::of(values).show(digits);
    report.row(&[name.to_owned(), show(without), show(with), Figure::ratio(with, without).show(3)]);
}

fn ring(report: &mut Report) -> Result<()> {
    report.section(
        "Observing: the ring",
        "Events a second that one program tells as fast as it can (112 bytes each) while one thread reads, each on its own \
         CPU. *Counted*: read and counted; *records*: made into what commands print. Told and lost are the program's own \
         counts, and what was read is counted apart: the difference must be 0. The second ring is too small. Aim: at least \
         3,000,000 a second without loss.",
        &["reader", "ring", "events/s read", "lost", "told − read"],
    );
    for (name, probe, ring) in [
        ("counted", &yardstick::COUNTED, 16 << 20),
        ("records", &yardstick::RECORDED, 16 << 20),
        ("counted", &yardstick::COUNTED, 4096),
    ] {
        let runs = (0..5).map(|_| flood(probe, ring)).collect::<Result<Vec<_>>>()?;
        let rates: Vec<_> = runs.iter().map(|r| r.0).collect();
        let lost: Vec<_> = runs.iter().map(|r| r.1 * 100.0).collect();
        let missing: i64 = runs.iter().map(|r| r.2).sum();
        let size = if ring < 1 << 20 { format!("{} KiB", ring >> 10) } else { format!("{} MiB", ring >> 20) };
        report.row(&[
            name.to_owned(),
            size,
            Figure::of(&rates).show(0),
            format!("{} %", Figure::of(&lost).show(1)),
            missing.to_string(),
        ]);
    }
    Ok(())
}

/// Events read a second, share that was lost, and how many are missing without having been counted as lost.
fn flood(probe: &'static Description, ring: u32) -> Result<(f64, f64, i64)> {
    const TIME: Duration = Duration::from_secs(1);
    let scope = Scope { ring, writers: false, ..Scope::default() };
    let session = Session::start(&scope, None, &[(probe, Options::default())])?;
    let loaded = session.probe("yardstick").context("the yardstick")?;
    let flood = Flood::of(&session)?;
    let (counted, done) = (yardstick::read(), AtomicBool::new(false));
    let start = Instant::now();
    let records = thread::scope(|scope| -> Result<u64> {
        let flooding = scope.spawn(|| {
            while start.elapsed() < TIME {
                flood.run()?;
            }
            done.store(true, Ordering::Relaxed);
            anyhow::Ok(())
        });
        let mut records = 0;
        while !done.load(Ordering::Relaxed) {
            records += session.next(Duration::from_millis(10))?.len() as u64;
        }
        records += session.rest()?.len() as u64;
        flooding.join().expect("it does not panic")?;
        Ok(records)
    })?;
    let (read, losses) = (yardstick::read() - counted + records, loaded.losses()?);
    let share = losses.lost as f64 / (losses.events + losses.lost) as f64;
    Ok((read as f64 / start.elapsed().as_secs_f64(), share, losses.events as i64 - read as i64))
}

fn attach(report: &mut Report) -> Result<()> {
    report.section(
        "Observing: start and memory",
        "From nothing until everything is watched, and memory of the process and of the maps with 5,000 connections (10,000 \
         sockets, as both ends are here). Aims: at most 300 ms, 30 MB.",
        &["", "ms", "process, MB", "maps, MB"],
    );
    for (name, all) in [("always-on set", false), ("every probe", true)] {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let probes: Vec<_> = if all { PROBES.to_vec() } else { always().collect() };
            let session = start(probes.into_iter())?;
            times.push(begin.elapsed().as_secs_f64() * 1e3);
            drop(session);
        }
        let before = resident()?;
        let probes: Vec<_> = if all { PROBES.to_vec() } else { always().collect() };
        let session = start(probes.into_iter())?;
        let held = hold(5_000)?;
        session.next(Duration::from_millis(100))?;
        let own = (resident()? - before).max(0.0);
        let life = session.probe("life").context("life")?;
        let all = session.probes().filter(|l| l.probe().name != "life").chain([life]);
        let maps = all.map(Loaded::memory).sum::<u64>() as f64 / 1e6;
        drop(held);
        report.row(&[name.to_owned(), Figure::of(&times).show(0), format!("{own:.1}"), format!("{maps:.1}")]);
    }
    Ok(())
}

/// Connections to ourselves.
fn hold(count: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(hard > 2 * count as u64 + 100, "{hard} open files are too few");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let listener = TcpListener::bind("[::1]:0")?;
    let to: SocketAddr = listener.local_addr()?;
    (0..count).map(|_| Ok((TcpStream::connect(to)?, listener.accept()?.0))).collect()
}

/// MB of this process's own memory.
fn resident() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
    let kilobytes: f64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}
