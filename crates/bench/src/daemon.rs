//! A running daemon, and what is asked of it.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowtag_testbed::{Process, wait_until};
use tempfile::TempDir;

pub(crate) const EVENTS: usize = 100_000;
pub(crate) const BATCH: usize = 10_000;
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Addresses and ports of event `n`.
pub(crate) fn ends(n: usize) -> (String, String) {
    (format!("2001:db8::{:x}", n / 50_000 + 1), format!("{}", n % 50_000 + 1))
}

pub(crate) fn by_pipe(daemon: &Daemon) -> Result<()> {
    let line = |n| {
        let (address, port) = ends(n);
        format!("start tcp {address} {port} 2001:db8:1::1 5201 3 14\n")
    };
    let text: String = (0..EVENTS).map(line).collect();
    let mut pipe = OpenOptions::new().write(true).open(daemon.dir.path().join("pipe"))?;
    Ok(pipe.write_all(text.as_bytes())?)
}

/// START events of the API.
pub(crate) fn batch(numbers: std::ops::Range<usize>) -> String {
    let event = |n| {
        let (address, port) = ends(n);
        format!(
            r#"{{"state":"start","protocol":"tcp","src":"[{address}]:{port}","dst":"[2001:db8:1::1]:5201","experiment":3,"activity":14}}"#
        )
    };
    format!("[{}]", numbers.map(event).collect::<Vec<_>>().join(","))
}

pub(crate) struct Daemon {
    process: Process,
    pub(crate) dir: TempDir,
}

impl Daemon {
    /// Without fireflies out.
    pub(crate) fn start(flowtag: &Path, max_flows: u32) -> Result<Self> {
        Self::start_with(flowtag, max_flows, "enabled = false\n")
    }

    /// With these lines for `[outputs.firefly]`.
    pub(crate) fn start_with(flowtag: &Path, max_flows: u32, firefly: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("flowtag-bench-")?;
        let here = dir.path().display();
        let config = format!(
            "runtime_dir = \"{here}\"\n[log]\nlevel = \"warn\"\n[mark]\ninterfaces = [\"flowtag-none*\"]\npin = \"\"\n\
             [flows]\nmax = {max_flows}\n[outputs.firefly]\n{firefly}\
             [inputs.control]\npath = \"{here}/control.sock\"\n[inputs.pipe]\nenabled = true\npath = \"{here}/pipe\"\n"
        );
        fs::write(dir.path().join("flowtag.toml"), config)?;
        let mut command = Command::new(flowtag);
        command.arg("run").arg("--config").arg(dir.path().join("flowtag.toml"));
        let daemon = Self { process: Process::spawn(command)?, dir };
        wait_until("the daemon", LIMIT, || Ok(daemon.flows().ok().map(drop)))?;
        Ok(daemon)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// Flows in the table.
    pub(crate) fn flows(&self) -> Result<usize> {
        let flows = self.get("/v1/flows?limit=0")?;
        Ok(flows["total"].as_u64().context("a total")? as usize)
    }

    pub(crate) fn get(&self, path: &str) -> Result<serde_json::Value> {
        let answer = self.request("GET", path, "")?;
        Ok(serde_json::from_str(answer.split_once("\r\n\r\n").context("an answer")?.1)?)
    }

    pub(crate) fn post(&self, events: &str) -> Result<()> {
        let answer = self.request("POST", "/v1/events", events)?;
        ensure!(answer.contains("\"rejected\":0"), "the daemon rejected events: {answer}");
        Ok(())
    }

    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Bytes of resident memory: of its own, and shared with the kernel or of files.
    pub(crate) fn resident(&self) -> Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let kib = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a kind of memory")?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
        };
        Ok((kib("RssAnon")? * 1024.0, (kib("RssFile")? + kib("RssShmem")?) * 1024.0))
    }
}
