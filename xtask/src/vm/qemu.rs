//! One run of QEMU: how it is called and why, and how the guest's answer is told from what it prints.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Lines of the console that are shown when the guest gave no answer.
const LAST_LINES: usize = 60;

/// A guest about to run.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// Receives the kernel's console.
    pub(crate) console: PathBuf,
    pub(crate) memory_mib: usize,
    pub(crate) timeout: Duration,
    pub(crate) icount: bool,
    pub(crate) nonce: String,
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended with this status.
    Exited(u8),
    /// The time ran out.
    TimedOut,
    /// The guest died without an answer.
    Died,
}

impl Outcome {
    /// Status of a guest that gave no answer.
    pub(crate) const NO_MARKER: u8 = 125;

    /// As an exit status.
    pub(crate) const fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::TimedOut => 124,
            Self::Died => Self::NO_MARKER,
        }
    }
}

/// What no command prints by chance.
pub(crate) fn nonce() -> Result<String> {
    let mut bytes = [0; 8];
    let mut random = fs::File::open("/dev/urandom").context("opening /dev/urandom")?;
    random.read_exact(&mut bytes).context("reading /dev/urandom")?;
    Ok(format!("XTASK-{:016x}", u64::from_ne_bytes(bytes)))
}

impl Guest {
    /// Runs the guest to its end or its time limit.
    pub(crate) fn run(&self, output: impl FnMut(&[u8])) -> Result<Outcome> {
        let child = self.command().spawn();
        let mut child = child.context("starting qemu-system-x86_64: install qemu-system-x86")?;
        let answer = self.listen(&mut child, output);
        // Stopped in any case: after the marker the guest only powers off.
        let _ = child.kill();
        let _ = child.wait();
        let outcome = answer?;
        self.report(outcome);
        Ok(outcome)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        // Never outlives this process, however that ends.
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // One thread for all CPUs: with one each, the kernel's patching of its own code races with its execution, and
        // it panics in int3 as probes are attached under load.
        command.args(["-accel", "tcg,thread=single"]);
        // The HPET is slow to read; TCG copies byte by byte for rep movsb, which erms and fsrm ask for, and walks one
        // more level of page tables for la57.
        command.args(["-machine", "pc,hpet=off", "-cpu", "max,la57=off,erms=off,fsrm=off"]);
        match self.icount {
            true => command.args(["-icount", "shift=2,sleep=off", "-smp", "1"]),
            false => command.args(["-smp", "2"]),
        };
        command.args(["-m", &self.memory_mib.to_string(), "-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none"]).arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.args(["-serial", &format!("file:{}", self.console.display()), "-serial", "stdio"]);
        let kernel = "console=ttyS0 loglevel=5 panic=-1 oops=panic nowatchdog tsc=reliable";
        command.args(["-append", kernel]).stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Passes on what the command prints until the marker, the end of the guest or the time limit.
    fn listen(&self, child: &mut Child, mut output: impl FnMut(&[u8])) -> Result<Outcome> {
        let mut pipe = child.stdout.take().context("QEMU has no output")?;
        let mut scanner = Scanner::new(&self.nonce);
        let mut part = vec![0; 1 << 16];
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                output(&scanner.held);
                return Ok(Outcome::TimedOut);
            }
            let limit = PollTimeout::try_from(left.min(Duration::from_secs(1))).unwrap_or(PollTimeout::ZERO);
            if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], limit).unwrap_or(0) < 1 {
                continue;
            }
            let count = pipe.read(&mut part).context("reading from QEMU")?;
            if count == 0 {
                output(&scanner.held);
                return Ok(Outcome::Died);
            }
            let (text, status) = scanner.push(part.get(..count).unwrap_or_default());
            output(&text);
            if let Some(status) = status {
                return Ok(Outcome::Exited(status));
            }
        }
    }

    /// What the console has to say: warnings always, its end if there was no answer.
    fn report(&self, outcome: Outcome) {
        let console = String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned();
        for line in console.lines().filter(|l| is_warning(l)) {
            eprintln!("{line}");
        }
        let why = match outcome {
            Outcome::Exited(_) => return,
            Outcome::TimedOut => format!("no answer within {} s", self.timeout.as_secs()),
            Outcome::Died if console.contains("Kernel panic") => "the kernel panicked".into(),
            Outcome::Died => "the guest ended without an answer".into(),
        };
        let lines: Vec<&str> = console.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        eprintln!("\nxtask vm: {why}; the console's last lines:\n{}", last.join("\n"));
    }
}

fn is_warning(line: &str) -> bool {
    ["WARNING:", "BUG:", "stall", "xtask:"].iter().any(|w| line.contains(w))
}

/// Finds the marker in a stream that comes in pieces.
#[derive(Debug)]
struct Scanner {
    marker: Vec<u8>,
    /// May be the marker's beginning.
    held: Vec<u8>,
}

impl Scanner {
    /// A newline, the nonce, a colon; three digits and a newline at most follow.
    fn new(nonce: &str) -> Self {
        Self { marker: format!("\n{nonce}:").into_bytes(), held: Vec::new() }
    }

    /// What is certainly not the marker, and the status once the marker is whole.
    fn push(&mut self, bytes: &[u8]) -> (Vec<u8>, Option<u8>) {
        self.held.extend(bytes);
        let found = self.held.windows(self.marker.len()).position(|w| w == self.marker);
        let Some(start) = found else {
            let keep = self.held.len().saturating_sub(self.marker.len());
            return (self.held.drain(..keep).collect(), None);
        };
        let text = self.held.drain(..start).collect();
        let answer = self.held.get(self.marker.len()..).unwrap_or_default();
        let digits = answer.iter().position(|b| *b == b'\n').and_then(|end| answer.get(..end));
        // A command cannot print the nonce, so what follows it is the status.
        let status = digits.map(|d| String::from_utf8_lossy(d).parse().unwrap_or(Outcome::NO_MARKER));
        if status.is_some() {
            self.held.clear();
        }
        (text, status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(stream: &[u8], pieces: usize) -> (Vec<u8>, Option<u8>) {
        let mut scanner = Scanner::new("N-1");
        let mut all = Vec::new();
        for piece in stream.chunks(pieces) {
            let (text, status) = scanner.push(piece);
            all.extend(text);
            if status.is_some() {
                return (all, status);
            }
        }
        all.extend(&scanner.held);
        (all, None)
    }

    #[test]
    fn the_marker_is_found_however_it_is_cut() {
        for pieces in 1..30 {
            assert_eq!(
                scan(b"one\ntwo\n\nN-1:7\nmore", pieces),
                (b"one\ntwo\n".to_vec(), Some(7)),
                "{pieces}"
            );
            assert_eq!(scan(b"\nN-1:0\n", pieces), (vec![], Some(0)), "{pieces}");
        }
    }

    #[test]
    fn without_a_marker_all_is_output_and_nothing_is_an_answer() {
        for stream in ["", "one", "\nN-2:0\n", "\nN-1:0", "xN-1:0\n"] {
            assert_eq!(scan(stream.as_bytes(), 4), (stream.as_bytes().to_vec(), None), "{stream:?}");
        }
        assert_eq!(scan(b"\nN-1:what\n", 3).1, Some(125));
    }

    #[test]
    fn an_outcome_is_an_exit_status() {
        assert_eq!(
            [Outcome::Exited(3), Outcome::TimedOut, Outcome::Died].map(Outcome::status),
            [3, 124, 125]
        );
    }
}
