//! How many connections a second one CPU makes: the first packets of each are judged by the rules.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtag_kernel::mark::{Event, Events};
use flowtag_testbed::{Host, Link, Testbed};
use nix::sys::resource::{UsageWho, getrusage};

use crate::lane::{self, Way};
use crate::report::{Figure, Report};
use crate::traffic::{self, Connect, SERVER};

const ROUNDS: usize = 21;
const RUN: Duration = Duration::from_millis(300);
const WAYS: [(&str, Way); 4] = [
    ("nothing attached", Way::Nothing),
    ("no flow, no rule", Way::NoFlow),
    ("1,000 rules, none matches", Way::NoRule),
    ("1,000 rules, the last matches", Way::LastRule),
];

/// What was done in one turn.
struct Run {
    made: u64,
    per_second: f64,
    /// µs for one connection.
    cpu: f64,
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "Connections",
        "Connections made and closed per second over a veth pair, client and server on one CPU, in turns of 0.3 s. What \
         the program tells of matches is read meanwhile, on the same CPU, and dropped. Aim: at least 0.97 of nothing \
         attached. CPU is of client, server, reader and what the kernel does for them.",
        &["", "connections/s", "ratio", "CPU µs per connection", "ratio"],
    );
    let bed = Testbed::new("rate")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.link(&a, "eth0", &b, "eth0")?;
    let mut columns = WAYS.map(|_| Vec::new());
    for round in 0..ROUNDS {
        for step in 0..WAYS.len() {
            let way = (round + step) % WAYS.len();
            columns[way].push(one((&a, &b), &link, WAYS[way].1).with_context(|| WAYS[way].0)?);
        }
    }
    for ((name, _), column) in WAYS.iter().zip(&columns) {
        let of = |runs: &[Run], pick: fn(&Run) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
        let ratio = |pick| Figure::ratio(&of(column, pick), &of(&columns[0], pick)).show(3);
        report.row(&[
            (*name).to_owned(),
            Figure::of(&of(column, |r| r.per_second)).show(0),
            ratio(|r| r.per_second),
            Figure::of(&of(column, |r| r.cpu)).show(1),
            ratio(|r| r.cpu),
        ]);
    }
    Ok(())
}

/// Loaded anew each time: a program that watches sockets runs for all hosts while a marker is there.
fn one(hosts: (&Host, &Host), link: &Link, way: Way) -> Result<Run> {
    let attach = || lane::marker(&link.a.device, way);
    let marker = (way != Way::Nothing).then(|| hosts.0.run(attach)).transpose()?.transpose()?;
    let Some(marker) = marker else { return rate(traffic::connect, hosts, link) };
    let (events, done) = (marker.events()?, AtomicBool::new(false));
    let (run, told) = thread::scope(|scope| {
        let reader = scope.spawn(|| read(events, &done));
        let run = rate(traffic::connect, hosts, link);
        done.store(true, Ordering::Relaxed);
        (run, reader.join().expect("it does not panic"))
    });
    let (run, told) = (run?, told?);
    let expected = if way == Way::LastRule { run.made } else { 0 };
    ensure!(told == expected, "{told} matches were told of {} connections, not {expected}", run.made);
    Ok(run)
}

/// How many matches were told.
fn read(events: Events, done: &AtomicBool) -> Result<u64> {
    let mut told = 0;
    loop {
        let last = done.load(Ordering::Relaxed);
        let seen = events.next(Duration::from_millis(20))?;
        told += seen.iter().filter(|event| matches!(event, Event::Matched { .. })).count() as u64;
        if last && seen.is_empty() {
            return Ok(told);
        }
    }
}

/// Connections a second, made and closed in the time [`RUN`].
pub(crate) fn per_second(connect: Connect, hosts: (&Host, &Host), link: &Link) -> Result<f64> {
    Ok(rate(connect, hosts, link)?.per_second)
}

/// Connections for the time [`RUN`].
fn rate(connect: Connect, (a, b): (&Host, &Host), link: &Link) -> Result<Run> {
    let to = SocketAddr::from((link.b.ipv6, SERVER));
    let listener = b.run(|| TcpListener::bind(to))??;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| -> std::io::Result<()> {
            while !done.load(Ordering::Relaxed) {
                listener.accept()?;
            }
            Ok(())
        });
        let count = || -> Result<Run> {
            let (mut made, start, before) = (0_u64, Instant::now(), cpu()?);
            while start.elapsed() < RUN {
                traffic::wait_for_end(&mut connect(None, to)?);
                made += 1;
            }
            let per_second = made as f64 / start.elapsed().as_secs_f64();
            let cpu = (cpu()? - before) / made as f64;
            done.store(true, Ordering::Relaxed);
            traffic::connect(None, to)?; // for the server to see it
            Ok(Run { made: made + 1, per_second, cpu })
        };
        let run = a.run(count)??;
        server.join().expect("it does not panic")?;
        Ok(run)
    })
}

/// µs that this process spent so far.
fn cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}
