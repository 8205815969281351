//! One look at the TCP statistics of all sockets, by each way to ask for them, side by side with `ss`.

use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtag_kernel::mark::{Key, Marker, Settings};
use flowtag_kernel::tcp_info::Inquiry;
use flowtag_testbed::{Host, Process, Testbed, checked};
use flowtag_wire::Strategy;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;

use crate::report::{Figure, Report};
use crate::site;

/// The first argument of this program where it only holds sockets; the next is how many connections.
pub(crate) const HOLD: &str = "hold-sockets";
const ROUNDS: usize = 11;
const SOCKETS: [usize; 3] = [1_000, 10_000, 50_000];
/// Connections of one process: two descriptors each, within the usual hard limit.
const EACH: usize = 5_000;
const LIMIT: Duration = Duration::from_secs(120);
const WAYS: [&str; 4] =
    ["iter/tcp, all are of flows", "iter/tcp, one in fifty is", "sock_diag, all are of flows", "`ss -tinH`"];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.section(
        "Statistics",
        "One pass over so many TCP sockets (both ends of connections over loopback, in a namespace of their own), of which \
         the values of flows are decoded: time, and CPU of user and kernel. Aim: 50,000 sockets within 45 ms.",
        &["sockets", "way", "ms", "CPU ms"],
    );
    for sockets in SOCKETS {
        let bed = Testbed::new("sockets")?;
        let host = bed.host("a")?;
        let _held = hold(&host, sockets / 2)?;
        let columns = host.run(|| measure(sockets, &host))??;
        for (way, runs) in WAYS.iter().zip(columns) {
            let (wall, cpu): (Vec<f64>, Vec<f64>) = runs.into_iter().unzip();
            let show = |values: &[f64]| Figure::of(values).show(1);
            report.row(&[sockets.to_string(), (*way).to_owned(), show(&wall), show(&cpu)]);
        }
    }
    Ok(())
}

/// Processes with so many connections.
fn hold(host: &Host, connections: usize) -> Result<Vec<Process>> {
    let mut held = Vec::new();
    for first in (0..connections).step_by(EACH) {
        let mut command = host.command(std::env::current_exe()?);
        command.args([HOLD, &EACH.min(connections - first).to_string()]);
        let mut process = Process::spawn(command)?;
        process.wait_for_output("ready", LIMIT).context("a process that holds sockets")?;
        held.push(process);
    }
    Ok(held)
}

/// What such a process does, until it is killed.
pub(crate) fn keep(connections: &str) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let listener = TcpListener::bind("[::1]:0")?;
    let at = listener.local_addr()?;
    let connect = |_| Ok((TcpStream::connect(at)?, listener.accept()?));
    let held = (0..connections.parse()?).map(connect).collect::<Result<Vec<_>>>()?;
    println!("ready");
    loop {
        std::thread::park();
        black_box(&held);
    }
}

/// Milliseconds, and those of the CPU, of each way and round.
fn measure(sockets: usize, host: &Host) -> Result<[Vec<(f64, f64)>; WAYS.len()]> {
    let mut inquiry = Inquiry::open()?;
    let mut keys: Vec<Key> = Vec::new();
    inquiry.all(&mut |found| vec![true; found.len()], &mut |key, _| keys.push(key))?;
    ensure!(keys.len() == sockets, "{} sockets, not {sockets}", keys.len());
    let (all, some) = (marker(keys.iter())?, marker(keys.iter().step_by(50))?);
    let sweeps = [&all, &some].map(|marker| marker.statistics().map(|sweep| sweep.context("iter/tcp")));
    let [all, some] = sweeps;
    let (all, some) = (all??, some??);
    let mut columns = [const { Vec::new() }; WAYS.len()];
    for round in 0..ROUNDS {
        for step in 0..WAYS.len() {
            let way = (round + step) % WAYS.len();
            let mut found = 0;
            let mut take = |_, sample| {
                black_box(sample);
                found += 1;
            };
            let (begin, before) = (Instant::now(), cpu()?);
            let expected = match way {
                0 => all.all(&mut take).map(|_| sockets)?,
                1 => some.all(&mut take).map(|_| sockets.div_ceil(50))?,
                2 => inquiry.all(&mut |found| vec![true; found.len()], &mut take).map(|_| sockets)?,
                _ => ss(host, &mut found)?,
            };
            columns[way].push((begin.elapsed().as_secs_f64() * 1e3, cpu()? - before));
            ensure!(found == expected, "{}: {found} sockets of {expected}", WAYS[way]);
        }
    }
    Ok(columns)
}

fn marker<'a>(keys: impl Iterator<Item = &'a Key>) -> Result<Marker> {
    let mut marker = Marker::load(&Settings::default())?;
    let mark = site::mark(Strategy::LABEL);
    for key in keys {
        marker.set(key, mark, 0)?;
    }
    Ok(marker)
}

/// Two lines a socket.
fn ss(host: &Host, found: &mut usize) -> Result<usize> {
    let lines = checked(host.command("ss").args(["-tinH"]))?.lines().count();
    *found = lines / 2;
    Ok(*found)
}

/// Of this thread and of processes that it waited for.
fn cpu() -> Result<f64> {
    let millis = |time: TimeVal| time.tv_sec() as f64 * 1e3 + time.tv_usec() as f64 / 1e3;
    let (own, children) = (getrusage(UsageWho::RUSAGE_THREAD)?, getrusage(UsageWho::RUSAGE_CHILDREN)?);
    let all = [own.user_time(), own.system_time(), children.user_time(), children.system_time()];
    Ok(all.into_iter().map(millis).sum())
}
