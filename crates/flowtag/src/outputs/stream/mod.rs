//! syslog over TCP (RFC 6587, octet counting) and TLS (RFC 5425): one task a collector, so that none holds up another.
//!
//! What cannot be sent waits: in memory as far as the queue goes, or in a spool on disk. What the other host has not
//! confirmed when a connection breaks is sent again over the next one. Messages stay in order.
//!
//! ```text
//! queue ──▶ connection ──▶ in flight ──▶ confirmed
//!   │            ▲             │ (broken)
//!   └──────▶ store ◀───────────┘
//! ```

mod connection;
mod spool;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::health::Health;
use super::resolve::Host;
use crate::https;
use crate::supervisor::counters::counters;
use crate::supervisor::throttle::{Throttle, chain};
use connection::{Connection, Tls};
use spool::{Position, Spool, SpoolError};

/// Bounds on the wait between attempts to connect; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at what was confirmed, while something is not.
const LOOK: Duration = Duration::from_millis(100);
/// How long what waits is still sent after the end of the queue.
const FINISH: Duration = Duration::from_millis(150);
/// How long a spool is waited for while the task of the configuration before still has it.
const HAND_OVER: Duration = Duration::from_secs(2);
/// Taken from the queue, and sent from memory, at a time.
const BATCH: usize = 256;

/// A frame: length, space, syslog message.
pub(crate) type Message = Arc<[u8]>;

/// RFC 6587 §3.4.1, RFC 5425 §4.3.
pub(crate) fn frame(message: &[u8]) -> Message {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message);
    frame.into()
}

counters! {
    /// What became of messages to collectors by TCP and TLS.
    pub(crate) struct Counters {
        /// Messages that collectors' hosts confirmed.
        confirmed,
        /// Messages that were put on disk because their collector was away.
        spooled,
        /// Messages that a collector never got: no room in memory or on disk.
        lost,
        /// Connections to collectors that were made.
        connected,
    }
}

/// What one collector wants.
pub(crate) struct Settings {
    pub(crate) tls: bool,
    /// None: the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Directory and bytes.
    pub(crate) spool: Option<(PathBuf, u64)>,
    /// Messages that may wait in memory.
    pub(crate) queue: usize,
}

/// The sending side of one collector's task. Without it, the task ends.
pub(crate) struct Stream {
    queue: mpsc::Sender<Message>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Stream {
    /// To be called within the runtime.
    ///
    /// # Errors
    /// There is nobody to trust, or the spool cannot be used.
    pub(crate) async fn start(
        settings: Settings,
        host: Arc<Host>,
        health: Arc<Health>,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let tls = settings.tls.then(|| tls(&settings, &host)).transpose()?;
        let store = match &settings.spool {
            None => Store::Memory { waiting: VecDeque::new(), max: settings.queue },
            Some((dir, max)) => {
                let spool = open(dir, *max).await;
                Store::Disk(Box::new(
                    spool.context("cannot keep fireflies (outputs.firefly.collectors.spool)")?,
                ))
            }
        };
        let (queue, messages) = mpsc::channel(settings.queue);
        let task = Task {
            messages,
            host,
            health,
            tls,
            desk: Desk { store, counters: Arc::clone(&counters), throttle: Throttle::default() },
            ended: false,
        };
        Ok(Self { queue, counters, task: tokio::spawn(task.run()) })
    }

    /// Queues a frame, or counts it as lost. Never waits.
    pub(crate) fn send(&self, message: Message) {
        if self.queue.try_send(message).is_err() {
            self.counters.lost.add(1);
        }
    }

    /// Sends what waits, or puts it on disk. Takes [`FINISH`] at most, and a moment.
    pub(crate) async fn finish(self) {
        drop(self.queue);
        let _ = self.task.await;
    }
}

async fn open(dir: &Path, max: u64) -> Result<Spool, SpoolError> {
    let until = Instant::now() + HAND_OVER;
    loop {
        match Spool::open(dir, max) {
            Err(SpoolError::InUse { .. }) if Instant::now() < until => tokio::time::sleep(LOOK).await,
            opened => return opened,
        }
    }
}

fn tls(settings: &Settings, host: &Host) -> Result<Tls> {
    let config = https::client_config(settings.ca_file.as_deref());
    let config = config.with_context(|| format!("cannot speak TLS with {}", host.name))?;
    let name = ServerName::try_from(host.name.host.clone());
    let name = name.with_context(|| format!("{} is no name that a certificate can have", host.name.host))?;
    Ok(Tls { config: Arc::new(config), name })
}

/// Where messages wait.
enum Store {
    Memory { waiting: VecDeque<Message>, max: usize },
    Disk(Box<Spool>),
}

/// Where a message in flight came from.
#[derive(Debug, Clone, Copy)]
enum From {
    /// From the queue, or from memory.
    Queue,
    /// From disk: up to there.
    Disk(Position),
}

/// Messages that were written and not confirmed yet.
struct Flight {
    /// Of the connection's bytes, the last one of these messages.
    end: u64,
    messages: Vec<Message>,
    from: From,
}

/// The store and what is counted of it.
struct Desk {
    store: Store,
    counters: Arc<Counters>,
    throttle: Throttle,
}

impl Desk {
    fn is_empty(&self) -> bool {
        match &self.store {
            Store::Memory { waiting, .. } => waiting.is_empty(),
            Store::Disk(spool) => spool.is_empty(),
        }
    }

    /// Keeps messages after those that wait.
    fn keep(&mut self, messages: &[Message]) {
        match &mut self.store {
            Store::Memory { waiting, max } => {
                let room = max.saturating_sub(waiting.len()).min(messages.len());
                waiting.extend(messages[..room].iter().cloned());
                self.counters.lost.add((messages.len() - room) as u64);
            }
            Store::Disk(spool) => tokio::task::block_in_place(|| {
                for message in messages {
                    match spool.push(message) {
                        Ok(()) => self.counters.spooled.add(1),
                        Err(error) => {
                            self.counters.lost.add(1);
                            self.throttle.warn("a firefly is lost: it cannot wait on disk", &error);
                        }
                    }
                }
            }),
        }
    }

    /// The next that wait.
    fn take(&mut self) -> (Vec<Message>, From) {
        match &mut self.store {
            Store::Memory { waiting, .. } => {
                (waiting.drain(..waiting.len().min(BATCH)).collect(), From::Queue)
            }
            Store::Disk(spool) => {
                let (messages, position) = tokio::task::block_in_place(|| spool.read());
                (messages, From::Disk(position))
            }
        }
    }

    fn confirm(&mut self, flight: &Flight) {
        self.counters.confirmed.add(flight.messages.len() as u64);
        if let (From::Disk(position), Store::Disk(spool)) = (flight.from, &mut self.store) {
            tokio::task::block_in_place(|| spool.commit(position));
        }
    }

    /// The connection broke with these on their way.
    fn put_back(&mut self, flights: VecDeque<Flight>) {
        if let Store::Disk(spool) = &mut self.store {
            spool.rewind();
        }
        let queued = flights.into_iter().filter(|flight| matches!(flight.from, From::Queue));
        let messages: Vec<_> = queued.flat_map(|flight| flight.messages).collect();
        match &mut self.store {
            Store::Memory { waiting, .. } => messages.into_iter().rev().for_each(|m| waiting.push_front(m)),
            Store::Disk(_) => self.keep(&messages),
        }
    }
}

/// What one collector's task holds.
struct Task {
    messages: mpsc::Receiver<Message>,
    host: Arc<Host>,
    health: Arc<Health>,
    tls: Option<Tls>,
    desk: Desk,
    /// The queue is at its end.
    ended: bool,
}

impl Task {
    async fn run(mut self) {
        let mut wait = RETRY.0;
        while !self.ended {
            let attempt = attempt(Arc::clone(&self.host), self.tls.clone());
            match self.keep_until(attempt).await {
                Some(Ok(connection)) => {
                    self.desk.counters.connected.add(1);
                    self.health.good();
                    let confirmed = self.desk.counters.confirmed.get();
                    let Err(error) = self.serve(connection).await else { break };
                    self.health.bad(error.to_string());
                    if self.desk.counters.confirmed.get() > confirmed {
                        wait = RETRY.0;
                    }
                }
                Some(Err(error)) => self.health.bad(chain(&error)),
                None => break,
            }
            if self.keep_until(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
            wait = (wait * 2).min(RETRY.1);
        }
        if let Store::Memory { waiting, .. } = &self.desk.store {
            self.desk.counters.lost.add(waiting.len() as u64);
        }
    }

    /// Keeps what comes until something else is done. None: the queue ended before.
    async fn keep_until<T>(&mut self, done: impl Future<Output = T>) -> Option<T> {
        let mut batch = Vec::with_capacity(BATCH);
        tokio::pin!(done);
        loop {
            tokio::select! {
                result = &mut done => return Some(result),
                number = self.messages.recv_many(&mut batch, BATCH) => {
                    if number == 0 {
                        self.ended = true;
                        return None;
                    }
                    self.desk.keep(&batch);
                    batch.clear();
                }
            }
        }
    }

    /// Sends over one connection until the queue ends. An error: the connection is of no more use.
    async fn serve(&mut self, mut connection: Connection) -> io::Result<()> {
        let mut flights = VecDeque::new();
        let sent = self.send_all(&mut connection, &mut flights).await;
        if sent.is_ok() {
            let finish = async {
                connection.close().await;
                while !flights.is_empty() {
                    tokio::time::sleep(LOOK / 10).await;
                    self.settle(&connection, &mut flights);
                }
            };
            let _ = tokio::time::timeout(FINISH, finish).await;
        }
        self.settle(&connection, &mut flights);
        self.desk.put_back(flights);
        sent
    }

    async fn send_all(
        &mut self,
        connection: &mut Connection,
        flights: &mut VecDeque<Flight>,
    ) -> io::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.settle(connection, flights);
            if !self.desk.is_empty() {
                let (messages, from) = self.desk.take();
                self.write(connection, messages, from, flights).await?;
                self.keep_what_came();
                continue;
            }
            if self.ended {
                return Ok(());
            }
            tokio::select! {
                number = self.messages.recv_many(&mut batch, BATCH) => match number {
                    0 => self.ended = true,
                    _ => self.write(connection, std::mem::take(&mut batch), From::Queue, flights).await?,
                },
                error = connection.closed() => return Err(error),
                () = tokio::time::sleep(LOOK), if !flights.is_empty() => {}
            }
        }
    }

    /// While others wait before them.
    fn keep_what_came(&mut self) {
        let mut batch = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            batch.push(message);
        }
        if !batch.is_empty() {
            self.desk.keep(&batch);
        }
    }

    async fn write(
        &mut self,
        connection: &mut Connection,
        messages: Vec<Message>,
        from: From,
        flights: &mut VecDeque<Flight>,
    ) -> io::Result<()> {
        let bytes = messages.concat();
        // In flight before the first byte is: an end that is never reached until all were written.
        flights.push_back(Flight { end: u64::MAX, messages, from });
        let write = tokio::time::timeout(PATIENCE, connection.write(&bytes));
        let written = match self.unless_ended(write).await {
            Some(Ok(written)) => written,
            Some(Err(_)) | None => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Some(flight) = flights.back_mut().filter(|_| written.is_ok()) {
            flight.end = connection.written();
        }
        written
    }

    /// As [`Self::keep_until`], and when the queue ends it may still take [`FINISH`].
    async fn unless_ended<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(what);
        if !self.ended
            && let Some(result) = self.keep_while(&mut what).await
        {
            return Some(result);
        }
        tokio::time::timeout(FINISH, what).await.ok()
    }

    /// Waits for it while the queue is open. What comes meanwhile stays in the queue.
    async fn keep_while<T>(&mut self, what: impl Future<Output = T>) -> Option<T> {
        let queue_ends = async {
            while !self.messages.is_closed() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            result = what => Some(result),
            () = queue_ends => None,
        }
    }

    /// Forgets what arrived.
    fn settle(&mut self, connection: &Connection, flights: &mut VecDeque<Flight>) {
        if flights.is_empty() {
            return;
        }
        let confirmed = connection.confirmed();
        while flights.front().is_some_and(|flight| flight.end <= confirmed) {
            let Some(flight) = flights.pop_front() else { return };
            self.desk.confirm(&flight);
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("its name is not resolved")]
    Unresolved,
    #[error("cannot connect")]
    Io(#[source] io::Error),
}

async fn attempt(host: Arc<Host>, tls: Option<Tls>) -> Result<Connection, ConnectError> {
    let to = host.address().ok_or(ConnectError::Unresolved)?;
    Connection::open(to, tls.as_ref()).await.map_err(ConnectError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spool_is_handed_over_by_the_task_that_had_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = Spool::open(dir.path(), 1 << 20).expect("opened");
        let let_go = async {
            tokio::time::sleep(LOOK * 3).await;
            drop(before);
        };
        let (opened, ()) = tokio::join!(open(dir.path(), 1 << 20), let_go);
        let _held = opened.expect("opened when the other is done");
        let refused = open(dir.path(), 1 << 20).await;
        assert!(matches!(refused, Err(SpoolError::InUse { .. })), "{refused:?}");
    }
}
