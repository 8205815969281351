//! Metrics, and logs of flows that start, go on and end, to an OpenTelemetry collector: OTLP as protobuf over HTTP.
//!
//! Metrics are cumulative, so one that is lost is made up for by the next. Logs are sent in batches, again and again while the
//! collector may take them later; what comes meanwhile waits in the queue.

mod message;
mod proto;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flowtag_engine::Registry;
use hyper::Method;
use jiff::Timestamp;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::message::Sender;
use self::proto::{ExportPartialSuccess, ExportServiceResponse};
use super::metrics::{Shown, Snapshot};
use super::{Feed, Record};
use crate::config;
use crate::https::{self, Request};
use crate::supervisor::counters::{Entry, Target, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::{Throttle, chain};

/// Log records in one request.
const BATCH: usize = 512;
/// How long the first log record of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// Tags with series of their own, as OpenTelemetry bounds the attributes of a metric.
const MAX_TAGS: usize = 1000;
/// For one request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bounds on the wait before logs are sent again; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Attempts for one batch of logs, after which it is given up: about a quarter of an hour.
const ATTEMPTS: u32 = 20;

counters! {
    /// What became of what was to be told.
    pub(crate) struct Counters {
        /// Exports of all metrics that the collector took.
        metrics_sent,
        /// Log records that the collector took.
        logs_sent,
        /// Log records that were given up.
        logs_failed,
        /// Requests that failed, those that were repeated included.
        requests_failed,
        /// Data points and log records that the collector refused out of requests that it took.
        rejected,
    }
}

/// The way to the collector.
struct Link {
    config: config::Otlp,
    sender: Sender,
    counters: Arc<Counters>,
    state: Arc<Mutex<State>>,
}

/// What went wrong last.
#[derive(Debug, Default)]
struct State {
    error: Option<String>,
    throttle: Throttle,
}

/// Why a request did not do.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{0}")]
    Http(String),
    #[error("{url} answered {status}: {text}")]
    Status { url: String, status: u16, text: String, wait: Option<Duration> },
}

/// The collector refused a part.
#[derive(Debug, thiserror::Error)]
#[error("the collector refused {rejected} of what it got: {text}")]
struct Partial {
    rejected: u64,
    text: String,
}

/// Makes it ready to run.
///
/// # Errors
/// The certificates cannot be read, or the daemon stops.
pub(crate) async fn prepare(config: &config::Otlp, daemon: &Daemon) -> anyhow::Result<Service> {
    https::client_config(config.ca_file.as_deref())?;
    let counters = Arc::new(Counters::default());
    let (feed, records, queue) = Feed::new("outputs.otlp", config.queue);
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    let state = Arc::new(Mutex::new(State::default()));
    let link = Arc::new(Link {
        config: config.clone(),
        sender: Sender { host, started: daemon.started },
        counters: Arc::clone(&counters),
        state: Arc::clone(&state),
    });
    let endpoint = config.endpoint.clone();
    let targets = move || {
        let error = state.lock().unwrap_or_else(PoisonError::into_inner).error.clone();
        vec![Target { name: endpoint.clone(), address: Some(endpoint.clone()), error }]
    };
    let mut sets: Vec<Arc<dyn crate::supervisor::counters::Counted>> = vec![counters];
    if config.logs {
        sets.push(queue);
    }
    let entry = Entry { targets: Arc::new(targets), ..Entry::new(sets) };
    let marks = daemon.core.ask(|state| state.marker.is_some()).await?;
    let (metrics, daemon) = (export_metrics(Arc::clone(&link), daemon.clone()), daemon.clone());
    let (feed, run): (_, futures_util::future::BoxFuture<'static, ()>) = if config.logs {
        let logs = Logs { link, records, daemon, marks }.run();
        // At the end of the queue all ends, metrics too.
        (
            Some(feed),
            Box::pin(async move {
                tokio::select! { () = logs => {}, () = metrics => {} }
            }),
        )
    } else {
        (None, Box::pin(metrics))
    };
    Ok(Service { entry, feed, run })
}

/// For ever. Without metrics it only waits.
async fn export_metrics(link: Arc<Link>, daemon: Daemon) {
    if !link.config.metrics {
        return std::future::pending().await;
    }
    let mut shown = Shown::new(MAX_TAGS);
    let mut ticks = tokio::time::interval(link.config.period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(snapshot) = Snapshot::take(&daemon, 0).await else { return std::future::pending().await };
        let request = link.sender.metrics(snapshot.families(&mut shown), Timestamp::now());
        match link.send("v1/metrics", request.encode_to_vec()).await {
            Ok(answer) => {
                link.counters.metrics_sent.add(1);
                link.partial(&answer);
            }
            Err(error) => link.failed("metrics could not be sent to the OpenTelemetry collector", &error),
        }
    }
}

struct Logs {
    link: Arc<Link>,
    records: mpsc::Receiver<Arc<Record>>,
    daemon: Daemon,
    marks: bool,
}

impl Logs {
    /// Sends until the engine's side of the queue is gone and the queue is empty.
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.records.recv_many(&mut batch, BATCH).await > 0 {
            self.fill(&mut batch).await;
            self.tell(&batch).await;
            batch.clear();
        }
    }

    /// Waits a little for more.
    async fn fill(&mut self, batch: &mut Vec<Arc<Record>>) {
        let until = tokio::time::Instant::now() + LINGER;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            match tokio::time::timeout_at(until, self.records.recv_many(batch, room)).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    async fn tell(&self, batch: &[Arc<Record>]) {
        let registry: Arc<Registry> = self.daemon.registry_now();
        let logs: Vec<_> = batch.iter().filter_map(|r| message::log(r, &registry, self.marks)).collect();
        let number = logs.len() as u64;
        let body = self.link.sender.logs(logs).encode_to_vec();
        let mut wait = RETRY.0;
        for _ in 0..ATTEMPTS {
            match self.link.send("v1/logs", body.clone()).await {
                Ok(answer) => {
                    self.link.counters.logs_sent.add(number);
                    return self.link.partial(&answer);
                }
                Err(error) => {
                    self.link.failed("logs could not be sent to the OpenTelemetry collector", &error);
                    let Some(at_least) = error.retry() else { break };
                    if self.records.is_closed() {
                        break; // the daemon stops
                    }
                    tokio::time::sleep(wait.max(at_least).min(RETRY.1)).await;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
        self.link.counters.logs_failed.add(number);
    }
}

impl SendError {
    /// How long to wait at least before it is tried again; none: that would not help.
    fn retry(&self) -> Option<Duration> {
        match self {
            Self::Http(_) => Some(Duration::ZERO),
            Self::Status { status: 429 | 502 | 503 | 504, wait, .. } => Some(wait.unwrap_or_default()),
            Self::Status { .. } => None,
        }
    }
}

impl Link {
    /// The body of a good answer.
    async fn send(&self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, SendError> {
        let url = format!("{}/{path}", self.config.endpoint);
        let ours = [("content-type".to_owned(), "application/x-protobuf".to_owned())];
        let theirs = self.config.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        let ca_file: Option<PathBuf> = self.config.ca_file.clone();
        let request = Request {
            method: Method::POST,
            headers: ours.into_iter().chain(theirs).collect(),
            body: body.into(),
            ca_file: ca_file.as_deref(),
            timeout: PATIENCE,
            ..Request::get(&url)
        };
        let answer = https::request(request).await.map_err(|error| SendError::Http(chain(&error)))?;
        if answer.status.is_success() {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).error = None;
            return Ok(answer.body.to_vec());
        }
        let wait = answer.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text: String = String::from_utf8_lossy(&answer.body).chars().take(200).collect();
        let text = text.escape_debug().to_string();
        Err(SendError::Status {
            url,
            status: answer.status.as_u16(),
            text,
            wait: wait.map(Duration::from_secs),
        })
    }

    fn failed(&self, what: &'static str, error: &SendError) {
        self.counters.requests_failed.add(1);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.error = Some(error.to_string());
        state.throttle.warn(what, error);
    }

    fn partial(&self, answer: &[u8]) {
        let answer = ExportServiceResponse::decode(answer).ok();
        let Some(partial) = answer.and_then(|answer| answer.partial_success) else { return };
        let ExportPartialSuccess { rejected, error_message: text } = partial;
        let rejected = u64::try_from(rejected).unwrap_or_default();
        if rejected > 0 || !text.is_empty() {
            self.counters.rejected.add(rejected);
            let text: String = text.chars().take(200).collect();
            let partial = Partial { rejected, text: text.escape_debug().to_string() };
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.throttle.warn("the OpenTelemetry collector did not take all", &partial);
        }
    }
}
