//! The running daemon: events per second by pipe and by API, memory, size.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtag_testbed::{Process, wait_until};
use tempfile::TempDir;

use crate::report::{Figure, Report};

const RUNS: usize = 5;
const EVENTS: usize = 100_000;
const BATCH: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run(report: &mut Report, flowtag: &Path) -> Result<()> {
    report.section(
        "Events",
        "100,000 START events for 100,000 flows, each written into the kernel's map, from the first byte written to the \
         last flow known. Aim: at least 100,000 events/s.",
        &["input", "events/s"],
    );
    let (mut pipe, mut api) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        pipe.push(rate(&Daemon::start(flowtag, 1_000_000)?, by_pipe)?);
        api.push(rate(&Daemon::start(flowtag, 1_000_000)?, by_api)?);
    }
    report.row(&["named pipe".into(), Figure::of(&pipe).show(0)]);
    report.row(&["API, 10,000 events a request".into(), Figure::of(&api).show(0)]);
    memory(report, flowtag)
}

fn memory(report: &mut Report, flowtag: &Path) -> Result<()> {
    report.section(
        "Memory and size",
        "Resident memory of the daemon (VmRSS) with the default flows.max, after START events for so many flows. 64 bytes \
         for each flow of flows.max are the array that it shares with the kernel. Aim: at most 30 MB at 10,000 flows, \
         binary at most 10 MB.",
        &["", "MB"],
    );
    let daemon = Daemon::start(flowtag, 100_000)?;
    let megabytes = |kib: f64| format!("{:.1}", kib * 1024.0 / 1e6);
    report.row(&["idle, no flows".into(), megabytes(daemon.resident()?)]);
    for (flows, from) in [(10_000, 0), (100_000, 10_000)] {
        (from..flows).step_by(BATCH).try_for_each(|first| daemon.post(&batch(first..first + BATCH)))?;
        report.row(&[format!("{flows} flows"), megabytes(daemon.resident()?)]);
    }
    let size = fs::metadata(flowtag)?.len() as f64 / 1024.0;
    report.row(&["release binary".into(), megabytes(size)]);
    Ok(())
}

fn rate(daemon: &Daemon, send: fn(&Daemon) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    send(daemon)?;
    wait_until("all flows", LIMIT, || Ok((daemon.flows()? == EVENTS).then_some(())))?;
    Ok(EVENTS as f64 / start.elapsed().as_secs_f64())
}

/// Addresses and ports of event `n`.
fn ends(n: usize) -> (String, String) {
    (format!("2001:db8::{:x}", n / 50_000 + 1), format!("{}", n % 50_000 + 1))
}

fn by_pipe(daemon: &Daemon) -> Result<()> {
    let line = |n| {
        let (address, port) = ends(n);
        format!("start tcp {address} {port} 2001:db8:1::1 5201 3 14\n")
    };
    let text: String = (0..EVENTS).map(line).collect();
    let mut pipe = OpenOptions::new().write(true).open(daemon.dir.path().join("pipe"))?;
    Ok(pipe.write_all(text.as_bytes())?)
}

fn by_api(daemon: &Daemon) -> Result<()> {
    (0..EVENTS).step_by(BATCH).try_for_each(|first| daemon.post(&batch(first..first + BATCH)))
}

fn batch(numbers: std::ops::Range<usize>) -> String {
    let event = |n| {
        let (address, port) = ends(n);
        format!(
            r#"{{"state":"start","protocol":"tcp","src":"[{address}]:{port}","dst":"[2001:db8:1::1]:5201","experiment":3,"activity":14}}"#
        )
    };
    format!("[{}]", numbers.map(event).collect::<Vec<_>>().join(","))
}

struct Daemon {
    process: Process,
    dir: TempDir,
}

impl Daemon {
    fn start(flowtag: &Path, max_flows: u32) -> Result<Self> {
        let dir = TempDir::with_prefix("flowtag-bench-")?;
        let here = dir.path().display();
        let config = format!(
            "runtime_dir = \"{here}\"\n[log]\nlevel = \"warn\"\n[mark]\ninterfaces = [\"flowtag-none*\"]\npin = \"\"\n\
             [flows]\nmax = {max_flows}\n[outputs.firefly]\nenabled = false\n\
             [inputs.control]\npath = \"{here}/control.sock\"\n[inputs.pipe]\nenabled = true\npath = \"{here}/pipe\"\n"
        );
        fs::write(dir.path().join("flowtag.toml"), config)?;
        let mut command = Command::new(flowtag);
        command.arg("run").arg("--config").arg(dir.path().join("flowtag.toml"));
        let daemon = Self { process: Process::spawn(command)?, dir };
        wait_until("the daemon", LIMIT, || Ok(daemon.flows().ok().map(drop)))?;
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    fn flows(&self) -> Result<usize> {
        let status = self.request("GET", "/v1/flows?limit=0", "")?;
        let body = status.split_once("\r\n\r\n").context("an answer")?.1;
        let value: serde_json::Value = serde_json::from_str(body)?;
        Ok(value["total"].as_u64().context("a total")? as usize)
    }

    fn post(&self, events: &str) -> Result<()> {
        let answer = self.request("POST", "/v1/events", events)?;
        ensure!(answer.contains("\"rejected\":0"), "the daemon rejected events: {answer}");
        Ok(())
    }

    fn request(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// KiB.
    fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}
