//! A program that runs beside the test: its output is kept, and it never outlives its guard.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::exec::line;
use crate::wait::{WAIT, wait_until};

/// Beyond this the output of one stream is only counted.
const KEPT: usize = 16 << 20;

/// A running program, in a process group of its own. Dropping it kills the whole group and reaps the program.
#[derive(Debug)]
#[must_use = "dropping it kills the process"]
pub struct Process {
    child: Child,
    line: String,
    stdout: Stream,
    stderr: Stream,
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Exit status, or the signal that ended it.
    pub status: ExitStatus,
    /// Standard output, up to 16 MiB of it.
    pub stdout: String,
    /// Standard error, up to 16 MiB of it.
    pub stderr: String,
}

impl Process {
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let line = line(&command);
        // Without a terminal: in a process group of its own it would be stopped as it reads one.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting `{line}`; is it installed?"))?;
        let (stdout, stderr) = (Stream::of(child.stdout.take()), Stream::of(child.stderr.take()));
        Ok(Self { child, line, stdout, stderr })
    }

    /// The process id; that of the program itself, also in a namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the program alone.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.id(), signal).with_context(|| format!("sending {signal} to `{}`", self.line))
    }

    /// Waits until `wanted` is in what the program has written to either stream.
    ///
    /// # Errors
    /// It ended or the time ran out before: the error has what was written.
    pub fn wait_for_output(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        let what = format!("{wanted:?} from `{}`", self.line);
        let result = wait_until(&what, limit, || {
            let running = self.is_running();
            let found = self.stdout().contains(wanted) || self.stderr().contains(wanted);
            anyhow::ensure!(found || running, "`{}` ended before it wrote {wanted:?}", self.line);
            Ok(found.then_some(()))
        });
        result.with_context(|| format!("it wrote: {}{}", self.stdout(), self.stderr()))
    }

    /// Waits for the program to end.
    ///
    /// # Errors
    /// It runs longer than `limit`; it is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Ended> {
        let what = format!("`{}` to end", self.line);
        let status = wait_until(&what, limit, || Ok(self.child.try_wait()?))
            .with_context(|| format!("it wrote: {}{}", self.stdout(), self.stderr()))?;
        self.stdout.finish();
        self.stderr.finish();
        Ok(Ended { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Asks the program to end with `signal` and waits for it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(mut self, signal: Signal) -> Result<Ended> {
        if self.is_running() {
            self.signal(signal)?;
        }
        self.wait(WAIT)
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = killpg(self.id(), Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What came out of one pipe, read by a thread so that the program never waits for us.
#[derive(Debug)]
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn of(pipe: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let reader = pipe.map(|pipe| thread::spawn(move || read_all(pipe, &shared)));
        Self { text, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&locked(&self.text)).into_owned()
    }

    /// A grandchild may hold the pipe for longer: then what there is must do.
    fn finish(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        let ended = || Ok(reader.is_finished().then_some(()));
        if wait_until("the end of the output", Duration::from_secs(1), ended).is_ok() {
            let _ = reader.join();
        }
    }
}

fn read_all(mut pipe: impl Read, to: &Mutex<Vec<u8>>) {
    let mut part = [0; 8192];
    while let Ok(n @ 1..) = pipe.read(&mut part) {
        let mut text = locked(to);
        let room = KEPT.saturating_sub(text.len()).min(n);
        text.extend_from_slice(part.get(..room).unwrap_or_default());
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
