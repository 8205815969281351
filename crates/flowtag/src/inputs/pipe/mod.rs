//! The named pipe that flowd's producers write to. Lossless: any number of lines a write, lines split over writes, a
//! last line without newline; while the engine is busy the pipe fills and the writer waits. What a pipe cannot do is
//! tell writers apart: one that leaves in the middle of a line while another has the pipe open spoils that other's next
//! line, which is an error in the log.

mod grammar;
mod lines;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use flowtag_engine::{Event, Outcome, Registry};
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::config::Gate;
use crate::inputs::access::{self, Announcer, Denied};
use crate::inputs::gate::{self, Created, GateError};
use crate::supervisor::core::Stopping;
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;
use grammar::LineError;
use lines::Lines;

counters! {
    /// What came through the pipe.
    pub(crate) struct Counters {
        /// Lines that became events.
        events,
        /// Lines that said nothing; each was logged.
        bad_lines,
        /// Events that the engine or an access rule refused.
        refused,
    }
}

/// The pipe, made or found, not yet read.
pub(crate) struct Input {
    gate: Gate,
    /// None: it was there before us and stays.
    _created: Option<Created>,
}

impl Input {
    /// Makes the pipe, or takes the one that is there. Needs the privileges of start-up.
    ///
    /// # Errors
    /// [`GateError`]; something that is not a pipe is left as it is.
    pub(crate) fn prepare(gate: &Gate) -> Result<Self, GateError> {
        gate::parent(&gate.path)?;
        let created = match fs::symlink_metadata(&gate.path) {
            Ok(found) if found.file_type().is_fifo() => {
                refuse_foreign(&gate.path, found.uid())?;
                None
            }
            Ok(found) => {
                return Err(GateError::NotAPipe { path: gate.path.clone(), kind: gate::kind_of(&found) });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                nix::unistd::mkfifo(&gate.path, Mode::S_IRUSR | Mode::S_IWUSR)
                    .map_err(|e| GateError::io("create pipe", &gate.path)(e.into()))?;
                Some(Created::new(&gate.path)?)
            }
            Err(e) => return Err(GateError::io("look at", &gate.path)(e)),
        };
        gate::secure(gate)?;
        if gate.mode & 0o002 != 0 {
            tracing::warn!(
                path = %gate.path.display(), mode = format!("{:04o}", gate.mode),
                "every user of this host can tag any flow by the pipe: set inputs.pipe.mode = \"0620\" and \
                 inputs.pipe.group, or limit what may be tagged by [[access]]"
            );
        }
        Ok(Self { gate: gate.clone(), _created: created })
    }

    pub(crate) fn service(self, daemon: &Daemon) -> Service {
        let counters = Arc::new(Counters::default());
        let at = Some(self.gate.path.display().to_string());
        let entry = Entry { at, ..Entry::new(vec![counters.clone()]) };
        let run = self.run(daemon.clone(), counters);
        Service { entry, feed: None, run: Box::pin(run) }
    }

    /// Reads until the daemon stops.
    async fn run(self, daemon: Daemon, counters: Arc<Counters>) {
        if let Err(error) = self.read(&daemon, &counters).await {
            tracing::error!(path = %self.gate.path.display(), %error, "the pipe broke and is not read any more");
        }
    }

    async fn read(&self, daemon: &Daemon, counters: &Counters) -> io::Result<()> {
        let announcer = Announcer::anonymous("pipe");
        let mut buffer = vec![0; 64 * 1024]; // a pipe's default capacity, pipe(7)
        let mut lines = Lines::default();
        let mut pipe = self.open()?;
        let mut throttle = Throttle::default();
        loop {
            let length = pipe.read(&mut buffer).await?;
            let registry = daemon.registry_now();
            let mut events = Vec::new();
            let mut take = |line: Result<&[u8], LineError>| take_line(line, &registry, counters, &mut events);
            if length > 0 {
                lines.push(&buffer[..length], &mut take);
            } else {
                lines.end(&mut take);
                // Opened anew before the old end closes, so that a writer that comes now finds a reader.
                pipe = self.open()?;
            }
            match access::events(daemon, &announcer, events).await {
                Ok(outcomes) => tell_refused(&outcomes, counters, &mut throttle),
                Err(Stopping) => return Ok(()),
            }
        }
    }

    fn open(&self) -> io::Result<pipe::Receiver> {
        let file =
            fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.gate.path)?;
        pipe::Receiver::from_file(file)
    }
}

/// It is opened again and again, by then without the privilege to open what belongs to others.
fn refuse_foreign(path: &Path, owner: u32) -> Result<(), GateError> {
    if owner == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(GateError::ForeignPipe { path: path.to_owned(), owner })
}

fn tell_refused(outcomes: &[Result<Outcome, Denied>], counters: &Counters, throttle: &mut Throttle) {
    for outcome in outcomes {
        match outcome {
            Ok(Outcome::Rejected(reason)) => {
                counters.refused.add(1);
                throttle.warn("an event of the pipe was refused", reason);
            }
            Err(denied) => {
                counters.refused.add(1);
                throttle.warn("an event of the pipe was denied", denied);
            }
            Ok(_) => {}
        }
    }
}

fn take_line(
    line: Result<&[u8], LineError>,
    registry: &Registry,
    counters: &Counters,
    events: &mut Vec<Event>,
) {
    let text = line.as_ref().map_or(&b""[..], |text| *text);
    match line.and_then(|text| grammar::parse(text, registry)) {
        Ok(event) => {
            counters.events.add(1);
            events.push(event);
        }
        Err(error) => {
            counters.bad_lines.add(1);
            let shown = text[..text.len().min(200)].escape_ascii();
            tracing::warn!(%error, line = %shown, "line in the pipe ignored");
        }
    }
}
