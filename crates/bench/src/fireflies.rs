//! Fireflies a second, out and in, over loopback.

use std::net::{Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtag_testbed::wait_until;

use crate::daemon::{Daemon, EVENTS, LIMIT, by_pipe};
use crate::report::{Figure, Report};

const RUNS: usize = 5;

pub(crate) fn run(report: &mut Report, flowtag: &Path) -> Result<()> {
    report.section(
        "Fireflies",
        "100,000 flows started by the pipe, and a START firefly of each to so many collectors on loopback, which read them: from \
         the first line written to the last datagram sent. The last row: as many START fireflies sent to the daemon by one \
         program as fast as it can, from the first sent to the last one taken. Aim: at least 200,000 fireflies/s out.",
        &["", "fireflies/s", "read by collectors"],
    );
    for collectors in [1, 4] {
        let (mut rates, mut shares) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (rate, share) = out(flowtag, collectors)?;
            rates.push(rate);
            shares.push(100.0 * share);
        }
        let name = format!("out, {collectors} collector{}", if collectors == 1 { "" } else { "s" });
        report.row(&[name, Figure::of(&rates).show(0), format!("{} %", Figure::of(&shares).show(1))]);
    }
    let rates = (0..RUNS).map(|_| inward(flowtag)).collect::<Result<Vec<_>>>()?;
    report.row(&["in".into(), Figure::of(&rates).show(0), String::new()]);
    Ok(())
}

/// Datagrams a second, and the share of them that collectors read.
fn out(flowtag: &Path, collectors: usize) -> Result<(f64, f64)> {
    let sockets: Vec<_> = (0..collectors)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(256 << 20))?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let mut config = "destination = false\nqueue = 1048576\n".to_owned();
    for socket in &sockets {
        config += &format!("[[outputs.firefly.collectors]]\naddress = \"{}\"\n", socket.local_addr()?);
    }
    let daemon = Daemon::start_with(flowtag, 1_000_000, &config)?;
    let (read, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let wanted = EVENTS * collectors;
    let seconds = std::thread::scope(|scope| -> Result<f64> {
        for socket in &sockets {
            scope.spawn(|| {
                let mut buffer = [0; 2048];
                loop {
                    match socket.recv(&mut buffer) {
                        Ok(_) => drop(read.fetch_add(1, Ordering::Relaxed)),
                        Err(_) if done.load(Ordering::Relaxed) => return,
                        Err(_) => {}
                    }
                }
            });
        }
        let start = Instant::now();
        by_pipe(&daemon)?;
        let sent =
            wait_until("all fireflies", LIMIT, || Ok((count(&daemon, "sent")? >= wanted).then_some(())));
        let seconds = start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        sent.map(|()| seconds)
    })?;
    ensure!(count(&daemon, "dropped")? == 0 && count(&daemon, "failed")? == 0, "fireflies were lost");
    Ok((wanted as f64 / seconds, read.load(Ordering::Relaxed) as f64 / wanted as f64))
}

/// Fireflies a second that become flows.
fn inward(flowtag: &Path) -> Result<f64> {
    let port = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?.local_addr()?.port();
    let config = format!(
        "enabled = false\n[inputs.firefly]\nenabled = true\nlisten = \"[::1]:{port}\"\nbuffer = 1073741824\n"
    );
    let daemon = Daemon::start_with(flowtag, 1_000_000, &config)?;
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
    socket.connect((Ipv6Addr::LOCALHOST, port))?;
    let texts: Vec<_> = (0..EVENTS).map(firefly).collect();
    let start = Instant::now();
    texts.iter().try_for_each(|text| socket.send(text.as_bytes()).map(drop))?;
    let counter_of = |name| counter(&daemon, "inputs.firefly", name);
    let taken = || -> Result<usize> { Ok(counter_of("events")? + counter_of("lost")?) };
    wait_until("all fireflies", LIMIT, || Ok((taken()? >= EVENTS).then_some(())))?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(counter(&daemon, "inputs.firefly", "events")? as f64 / seconds)
}

fn firefly(n: usize) -> String {
    let (host, port) = (n / 50_000 + 1, n % 50_000 + 1);
    format!(
        r#"<134>1 - se01.example.org xrootd - firefly-json - {{"version":1,"flow-lifecycle":{{"state":"start","current-time":"2026-03-01T10:00:00.500001+00:00","start-time":"2026-03-01T10:00:00.500000+00:00"}},"context":{{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"}},"flow-id":{{"afi":"ipv6","src-ip":"2001:db8::{host:x}","dst-ip":"2001:db8:1::1","protocol":"tcp","src-port":{port},"dst-port":1094}}}}"#
    )
}

fn count(daemon: &Daemon, counter_name: &str) -> Result<usize> {
    counter(daemon, "outputs.firefly", counter_name)
}

fn counter(daemon: &Daemon, service: &str, name: &str) -> Result<usize> {
    let status = daemon.request("GET", "/v1/status", "")?;
    let body = status.split_once("\r\n\r\n").context("an answer")?.1;
    let value: serde_json::Value = serde_json::from_str(body)?;
    Ok(value["services"][service]["counts"][name].as_u64().with_context(|| format!("no counter {name}"))?
        as usize)
}
