//! The real daemon with a configuration of the test's own, in a directory that goes away with it.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use flowtag_testbed::{Process, wait_until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// How long a start or a stop may take before the test gives up; ample for an emulated machine.
const LIMIT: Duration = Duration::from_secs(180);

/// An emulated machine: an order of magnitude slower, and with few programs. Where its own program is says so.
pub fn is_guest() -> bool {
    std::env::var_os("FLOWTAG_BIN").is_some()
}

/// The program under test: FLOWTAG_BIN where the tests run on another machine than the one that built them.
pub fn binary() -> OsString {
    std::env::var_os("FLOWTAG_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_flowtag").into())
}

/// A running daemon. Dropping it kills the process and removes its directory.
pub struct Daemon {
    process: Process,
    dir: Dir,
    socket: PathBuf,
}

/// The directory of a daemon, and where its maps and links are kept. Both are removed when it is dropped.
pub struct Dir {
    temp: TempDir,
    pin: PathBuf,
}

const BPFFS: &str = "/sys/fs/bpf";
const PIN_PREFIX: &str = "flowtag-test-";

impl Dir {
    /// A fresh one.
    #[track_caller]
    pub fn new() -> Self {
        let temp = TempDir::new().expect("a temporary directory");
        let name = temp.path().file_name().expect("it has a name").to_string_lossy().replace('.', "");
        let pin = Path::new(BPFFS).join(format!("{PIN_PREFIX}{}-{name}", std::process::id()));
        prepare_bpffs();
        Self { temp, pin }
    }

    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Where the daemon keeps its maps and links.
    pub fn pin(&self) -> &Path {
        &self.pin
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        remove_pins(&self.pin);
    }
}

/// A bpffs, mounted where the daemon would mount it: on a host of a testbed it has a mount namespace of its own, and what
/// it mounts there ends with it. And nothing in it that a killed test left.
fn prepare_bpffs() {
    if !flowtag_testbed::root() {
        return;
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        let flags = nix::mount::MsFlags::empty();
        // Two tests may try at once.
        let _ = nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), flags, None::<&str>);
    }
    for entry in fs::read_dir(BPFFS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PIN_PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_pins(&entry.path());
        }
    }
}

fn remove_pins(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
    }
    let _ = fs::remove_dir(dir);
}

/// How a daemon stopped.
pub struct Stopped {
    /// From SIGTERM to the end of the process.
    pub took: Duration,
    pub log: String,
}

impl Daemon {
    /// Starts a daemon and waits until it answers. `{dir}` in the configuration stands for a directory of its own,
    /// where runtime_dir, socket and pipe are unless the configuration says otherwise.
    #[track_caller]
    pub fn start(toml: &str) -> Self {
        Self::start_with(toml, |args| {
            let mut command = Command::new(&args[0]);
            command.args(&args[1..]);
            command
        })
    }

    /// Like [`Self::start`]; `command` makes the command from program and arguments, for a daemon on another host of
    /// a testbed.
    #[track_caller]
    pub fn start_with(toml: &str, command: impl FnOnce(&[OsString]) -> Command) -> Self {
        Self::restart_with(Dir::new(), toml, command)
    }

    /// Like [`Self::start_with`], in the directory of a daemon that was killed.
    #[track_caller]
    pub fn restart_with(dir: Dir, toml: &str, command: impl FnOnce(&[OsString]) -> Command) -> Self {
        let socket = write_config(&dir, toml);
        let args = [binary(), "run".into(), "--config".into(), config_path(dir.path()).into()];
        let mut command = command(&args);
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        let process = Process::spawn(command).expect("the daemon's process");
        let mut daemon = Self { process, dir, socket };
        daemon.wait_until_ready();
        daemon
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        let ready = wait_until("the daemon to answer", LIMIT, || {
            anyhow::ensure!(self.process.is_running(), "the daemon ended");
            Ok(is_healthy(&self.socket).then_some(()))
        });
        if let Err(error) = ready {
            panic!("{error:#}\n{}", self.log());
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where its named pipe is, if it has one.
    pub fn pipe(&self) -> PathBuf {
        self.dir.path().join("pipe")
    }

    /// The directory that `{dir}` stands for.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where it keeps its maps and links.
    pub fn pin(&self) -> &Path {
        self.dir.pin()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal).expect("the daemon runs");
    }

    /// Writes another configuration and has it read.
    #[track_caller]
    pub fn reload(&self, toml: &str) {
        write_config(&self.dir, toml);
        self.signal(Signal::SIGHUP);
    }

    /// Waits until the log has this text.
    #[track_caller]
    pub fn wait_for_log(&mut self, text: &str) {
        if let Err(error) = self.process.wait_for_output(text, LIMIT) {
            panic!("{error:#}");
        }
    }

    /// Ends it by SIGKILL and gives its directory with what it left there.
    #[track_caller]
    pub fn kill(self) -> Dir {
        self.process.stop(Signal::SIGKILL).expect("it is killed");
        self.dir
    }

    /// Stops it as systemd would, and gives its directory with what it left there and in the kernel.
    #[track_caller]
    pub fn leave(self) -> Dir {
        let ended = self.process.stop(Signal::SIGTERM).expect("it stops");
        assert!(ended.status.success(), "{}\n{}", ended.status, ended.stderr);
        self.dir
    }

    /// Stops it as systemd would. It has to succeed and to leave no socket.
    #[track_caller]
    pub fn stop(self) -> Stopped {
        self.stop_with(Signal::SIGTERM)
    }

    /// The same with another signal.
    #[track_caller]
    pub fn stop_with(self, signal: Signal) -> Stopped {
        let start = Instant::now();
        self.process.signal(signal).expect("the daemon runs until it is stopped");
        let ended = self.process.wait(LIMIT).expect("it stops");
        let took = start.elapsed();
        assert!(ended.status.success(), "{}\n{}", ended.status, ended.stderr);
        assert!(!self.socket.exists(), "the socket is left behind:\n{}", ended.stderr);
        Stopped { took, log: ended.stderr }
    }
}

fn config_path(dir: &Path) -> PathBuf {
    dir.join("flowtag.toml")
}

/// Writes the configuration with all paths inside `dir` and says where the socket is.
#[track_caller]
fn write_config(dir: &Dir, toml: &str) -> PathBuf {
    let here = dir.path().to_str().expect("a readable path");
    let mut config: toml::Table =
        toml.replace("{dir}", here).parse().expect("the test's configuration is TOML");
    let mut default = |section: &[&str], key: &str, file: &str| {
        let table = section.iter().fold(&mut config, |table, name| {
            let table = table.entry(*name).or_insert_with(|| toml::Table::new().into());
            table.as_table_mut().expect("a section")
        });
        let path = Path::new(here).join(file);
        table
            .entry(key)
            .or_insert_with(|| path.to_str().expect("readable").into())
            .as_str()
            .expect("a path")
            .into()
    };
    let _: PathBuf = default(&["mark"], "pin", dir.pin().to_str().expect("a readable path"));
    let _: PathBuf = default(&[], "runtime_dir", "run");
    let _: PathBuf = default(&["inputs", "pipe"], "path", "pipe");
    let socket = default(&["inputs", "control"], "path", "control.sock");
    // To load the probes takes an emulated machine ten seconds: there only the tests that are about them have them.
    if is_guest() {
        let off = toml::Table::from_iter([("enabled".to_owned(), false.into())]);
        config.entry("observe").or_insert_with(|| off.into());
    }
    fs::write(config_path(dir.path()), config.to_string()).expect("the configuration is written");
    socket
}

/// Asks `GET /v1/health`; a socket that is bound but not served yet does not count.
fn is_healthy(socket: &Path) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
