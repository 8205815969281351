//! Events a second by each input, while so many flows live.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use flowtag_testbed::wait_until;

use crate::daemon::{BATCH, Daemon, LIMIT, batch, ends};
use crate::report::{Figure, Report};

const RUNS: usize = 5;
/// Clients of flowd-go's API at a time; divides all numbers of flows.
const CLIENTS: usize = 4;

/// An input, how it writes an event, and how many of them are sent.
struct Input {
    name: &'static str,
    /// Events; half of them start a flow, half end the oldest.
    events: usize,
    write: fn(n: usize, starts: bool) -> String,
    send: fn(&Daemon, Ports, &[String]) -> Result<()>,
}

#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    firefly: u16,
}

const INPUTS: [Input; 4] = [
    Input { name: "named pipe", events: 200_000, write: line, send: by_pipe },
    Input { name: "API, 10,000 events a request", events: 200_000, write: object, send: by_api },
    Input { name: "flowd-go's API, one event a request", events: 20_000, write: flowd_go, send: by_http },
    Input { name: "fireflies", events: 100_000, write: firefly, send: by_udp },
];

pub(crate) fn run(report: &mut Report, flowtag: &Path) -> Result<()> {
    report.section(
        "Events",
        "Events of one program on loopback, in turns START of a new flow and END of the oldest, so that the number of flows \
         stays; each START is written into the kernel's map and each END taken out of it. From the first byte written to the \
         last event handled; none is lost. 200,000 events (20,000 by flowd-go's API over 4 connections, 100,000 fireflies). \
         Aim: at least 200,000 events/s by pipe and API.",
        &["input", "events/s with 1,000 flows", "with 100,000 flows"],
    );
    let mut rates = vec![[const { Vec::new() }; 2]; INPUTS.len()];
    for _ in 0..RUNS {
        for (input, rates) in INPUTS.iter().zip(&mut rates) {
            for (live, rates) in [1_000, 100_000].into_iter().zip(rates) {
                let measured = rate(flowtag, input, live);
                rates.push(measured.with_context(|| format!("{} with {live} flows", input.name))?);
            }
        }
    }
    for (input, [few, many]) in INPUTS.iter().zip(&rates) {
        report.row(&[input.name.into(), Figure::of(few).show(0), Figure::of(many).show(0)]);
    }
    Ok(())
}

fn rate(flowtag: &Path, input: &Input, live: usize) -> Result<f64> {
    let ports = Ports {
        http: TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?.local_addr()?.port(),
        firefly: UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?.local_addr()?.port(),
    };
    let config = format!(
        "enabled = false\n[inputs.flowd_go]\nenabled = true\nlisten = \"[::1]:{}\"\n\
         [inputs.firefly]\nenabled = true\nlisten = \"[::1]:{}\"\nbuffer = 1073741824\n",
        ports.http, ports.firefly
    );
    let daemon = Daemon::start_with(flowtag, 1_000_000, &config)?;
    let step = BATCH.min(live);
    (0..live).step_by(step).try_for_each(|first| daemon.post(&batch(first..first + step)))?;
    let pairs = input.events / 2;
    let events: Vec<_> =
        (0..pairs).flat_map(|n| [(input.write)(live + n, true), (input.write)(n, false)]).collect();
    let start = Instant::now();
    (input.send)(&daemon, ports, &events)?;
    let handled = || {
        let status = daemon.get("/v1/status")?;
        let count =
            |name: &str| status["engine"][name].as_u64().with_context(|| format!("{name} in {status}"));
        let (started, ended) = (count("started")? as usize - live, count("ended")? as usize);
        Ok((started == pairs && ended == pairs).then_some(()))
    };
    wait_until("all events", LIMIT, handled)?;
    let rate = input.events as f64 / start.elapsed().as_secs_f64();
    ensure!(daemon.flows()? == live, "{} flows where there should be {live}", daemon.flows()?);
    Ok(rate)
}

fn line(n: usize, starts: bool) -> String {
    let (address, port) = ends(n);
    let state = if starts { "start" } else { "end" };
    format!("{state} tcp {address} {port} 2001:db8:1::1 5201 3 14\n")
}

fn by_pipe(daemon: &Daemon, _: Ports, events: &[String]) -> Result<()> {
    let text = events.concat();
    let mut pipe = OpenOptions::new().write(true).open(daemon.dir.path().join("pipe"))?;
    Ok(pipe.write_all(text.as_bytes())?)
}

fn object(n: usize, starts: bool) -> String {
    let (address, port) = ends(n);
    let flow = format!(r#""protocol":"tcp","src":"[{address}]:{port}","dst":"[2001:db8:1::1]:5201""#);
    if starts {
        format!(r#"{{"state":"start",{flow},"experiment":3,"activity":14}}"#)
    } else {
        format!(r#"{{"state":"end",{flow}}}"#)
    }
}

fn by_api(daemon: &Daemon, _: Ports, events: &[String]) -> Result<()> {
    events.chunks(BATCH).try_for_each(|events| daemon.post(&format!("[{}]", events.join(","))))
}

fn flowd_go(n: usize, starts: bool) -> String {
    let (address, port) = ends(n);
    let state = if starts { 2 } else { 3 };
    let body = format!(
        r#"{{"State":{state},"Protocol":0,"Family":10,"Src":"[{address}]:{port}","Dst":"[2001:db8:1::1]:5201","Experiment":3,"Activity":14}}"#
    );
    let length = body.len();
    format!(
        "POST /flow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Each client has every fourth pair of events: the START of a flow and its END are of the same.
fn by_http(_: &Daemon, ports: Ports, events: &[String]) -> Result<()> {
    let share = |client| events.chunks(2).skip(client).step_by(CLIENTS).flatten();
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|client| scope.spawn(move || requests(ports.http, share(client)))).collect();
        clients.into_iter().try_for_each(|client| {
            client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        })
    })
}

fn requests<'a>(port: u16, events: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port)))?;
    stream.set_nodelay(true)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let (mut line, mut body) = (String::new(), Vec::new());
    for event in events {
        stream.write_all(event.as_bytes())?;
        line.clear();
        answers.read_line(&mut line)?;
        ensure!(line.contains(" 200 "), "{line}");
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            ensure!(answers.read_line(&mut line)? > 0, "the answer is cut short");
            if let Some((_, value)) =
                line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case("content-length"))
            {
                length = value.trim().parse()?;
            }
        }
        body.resize(length, 0);
        answers.read_exact(&mut body)?;
    }
    Ok(())
}

fn firefly(n: usize, starts: bool) -> String {
    let (address, port) = ends(n);
    let (state, end) =
        if starts { ("start", "") } else { ("end", r#","end-time":"2026-03-01T11:00:00.500000+00:00""#) };
    format!(
        r#"<134>1 - se01.example.org xrootd - firefly-json - {{"version":1,"flow-lifecycle":{{"state":"{state}","current-time":"2026-03-01T11:00:00.500001+00:00","start-time":"2026-03-01T10:00:00.500000+00:00"{end}}},"context":{{"experiment-id":3,"activity-id":14,"application":"xrootd/v5.7"}},"flow-id":{{"afi":"ipv6","src-ip":"{address}","dst-ip":"2001:db8:1::1","protocol":"tcp","src-port":{port},"dst-port":5201}}}}"#
    )
}

fn by_udp(_: &Daemon, ports: Ports, events: &[String]) -> Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
    socket.connect((Ipv6Addr::LOCALHOST, ports.firefly))?;
    Ok(events.iter().try_for_each(|event| socket.send(event.as_bytes()).map(drop))?)
}
