//! One JSON object a line for each firefly, to a file or to the standard output.
//!
//! A thread of its own writes, because a file system that hangs and a pipe that nobody reads hold the writer, and must not hold
//! the daemon: what waits meanwhile is in the queue.

pub(crate) mod line;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use self::line::Line;
use super::{Feed, Record};
use crate::config;
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;

/// Records that are taken from the queue and written at a time.
const BATCH: usize = 256;
/// Owner writes, group reads.
const MODE: u32 = 0o640;

counters! {
    /// What became of lines.
    pub(crate) struct Counters {
        /// Lines written.
        written,
        /// Lines that could not be written, because the disk is full or the reader is gone.
        failed,
        /// Times the file was opened anew.
        reopened,
    }
}

/// Makes it ready to run.
///
/// # Errors
/// The file cannot be opened.
pub(crate) async fn prepare(config: &config::Json, daemon: &Daemon) -> Result<Service> {
    let counters = Arc::new(Counters::default());
    let (feed, records, queue) = Feed::new("outputs.json", config.queue);
    let file = config.path.as_deref().map_or_else(stdout, open);
    let at = config.path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
    let writer = Writer {
        file: file.with_context(|| format!("cannot write to {at} (outputs.json.path)"))?,
        path: config.path.clone(),
        records,
        marks: daemon.core.ask(|state| state.marker.is_some()).await?,
        daemon: daemon.clone(),
        counters: Arc::clone(&counters),
        throttle: Throttle::default(),
        torn: false,
    };
    let entry = Entry { at: Some(at), ..Entry::new(vec![queue, counters]) };
    Ok(Service { entry, feed: Some(feed), run: Box::pin(run(writer)) })
}

/// Until the thread has written all that was queued.
async fn run(writer: Writer) {
    let runtime = Handle::current();
    let (done, ended) = oneshot::channel::<()>();
    let write = move || {
        runtime.block_on(writer.run());
        drop(done);
    };
    match std::thread::Builder::new().name("flowtag-json".to_owned()).spawn(write) {
        Ok(_) => drop(ended.await),
        Err(error) => tracing::error!(%error, "no thread for outputs.json: nothing is written"),
    }
}

/// Never waits: a named pipe without a reader is an error.
fn open(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.append(true).mode(MODE).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = options.create_new(true).open(path)?;
            file.set_permissions(fs::Permissions::from_mode(MODE))?; // whatever the umask
            Ok(file)
        }
        opened => opened,
    }
}

/// Without the buffer of [`io::stdout`], which would keep what could not be written.
fn stdout() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

struct Writer {
    file: File,
    /// None: the file is the standard output.
    path: Option<PathBuf>,
    records: mpsc::Receiver<Arc<Record>>,
    daemon: Daemon,
    /// Packets carry labels of ours.
    marks: bool,
    counters: Arc<Counters>,
    throttle: Throttle,
    /// The last that was written is not the end of a line.
    torn: bool,
}

impl Writer {
    /// Writes until the engine's side of the queue is gone and the queue is empty.
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut reloads = self.daemon.policy.clone(); // told with every reload, whether or not it is another
        reloads.mark_unchanged();
        loop {
            tokio::select! {
                biased; // a new file is for what comes after the reload
                Ok(()) = reloads.changed() => self.reopen(),
                taken = self.records.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    tokio::task::block_in_place(|| self.tell(&batch)); // disks may be slow
                    batch.clear();
                }
            }
        }
    }

    /// After a log rotation the old file has another name. What cannot be opened leaves the old one in use.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(new) => {
                self.file = new;
                self.torn = false;
                self.counters.reopened.add(1);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot open the file of outputs.json anew, the old one is used");
            }
        }
    }

    fn tell(&mut self, batch: &[Arc<Record>]) {
        let registry = self.daemon.registry_now();
        let mut text = Vec::with_capacity(batch.len() * 1024);
        if self.torn {
            text.push(b'\n');
        }
        for record in batch {
            // Only a broken `Serialize` could fail, and ours are derived.
            let _ = serde_json::to_writer(&mut text, &Line::new(record, &registry, self.marks));
            text.push(b'\n');
        }
        let (written, error) = self.write_all(&text);
        let done = &text[..written];
        let begun = usize::from(self.torn && written > 0);
        let lines = done.iter().filter(|byte| **byte == b'\n').count().saturating_sub(begun);
        self.torn = done.last().map_or(self.torn, |last| *last != b'\n');
        self.counters.written.add(lines as u64);
        if let Some(error) = error {
            self.counters.failed.add((batch.len() - lines.min(batch.len())) as u64);
            let at = self.path.as_deref().unwrap_or(Path::new("standard output")).display();
            self.throttle.warn_at("lines of outputs.json could not be written", &at, &error);
            let torn = done.iter().rev().take_while(|byte| **byte != b'\n').count();
            self.mend(torn as u64);
        }
    }

    /// How much was written, and why it was not all.
    fn write_all(&mut self, text: &[u8]) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    /// Takes half a line off the end of the file, so that a reader gets whole ones. Where that is not possible, the next
    /// line begins with a line break.
    fn mend(&mut self, half: u64) {
        if half > 0 && self.path.is_some() {
            let shortened = self.file.metadata().and_then(|metadata| {
                let whole = metadata.len().checked_sub(half).ok_or(io::ErrorKind::InvalidData)?;
                self.file.set_len(whole)
            });
            self.torn = shortened.is_err();
        }
    }
}
