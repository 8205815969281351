//! Metrics for Prometheus: `GET /metrics`, as OpenMetrics or in the classic text format, as the scraper asks for.
//!
//! A scrape looks at the core's state once, so that what it says belongs together, and copies no more than `max_series` flows
//! while the core waits. Everything else is done beside it.

mod compat;
mod connections;
mod text;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use self::connections::Beyond;
use self::text::Format;
use super::metrics::{Family, Shown, Snapshot};
use crate::config::{self, MetricNames};
use crate::http::{self, Server};
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};

counters! {
    /// What became of requests for metrics.
    pub(crate) struct Counters {
        /// Scrapes that were answered.
        scrapes,
        /// Scrapes that could not be answered.
        failed,
    }
}

/// What requests share.
struct Output {
    config: config::Prometheus,
    daemon: Daemon,
    counters: Counters,
    series: Mutex<Series>,
}

/// What has to be the same from scrape to scrape.
struct Series {
    shown: Shown,
    beyond: Beyond,
}

/// Makes it ready to run.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn prepare(config: &config::Prometheus, daemon: &Daemon) -> Result<Service> {
    let listen = config.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: set another outputs.prometheus.listen"))?;
    let at = listener.local_addr().unwrap_or(listen);
    let series = Series { shown: Shown::new(config.max_series), beyond: Beyond::default() };
    let output = Arc::new(Output {
        config: config.clone(),
        daemon: daemon.clone(),
        counters: Counters::default(),
        series: Mutex::new(series),
    });
    let counted = Arc::clone(&output);
    let entry = Entry { at: Some(format!("http://{at}/metrics")), ..Entry::new(vec![counted]) };
    let router = Router::new()
        .route("/metrics", get(scrape))
        .fallback(|| async { (StatusCode::NOT_FOUND, "metrics are at /metrics\n") })
        .with_state(output);
    let server =
        Server { write_patience: Some(Duration::from_secs(30)), ..Server::new("outputs.prometheus") };
    let run = async move { match http::serve(listener, router, server).await {} };
    Ok(Service { entry, feed: None, run: Box::pin(run) })
}

impl crate::supervisor::counters::Counted for Output {
    fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.counters.counts()
    }
}

async fn scrape(State(output): State<Arc<Output>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let text = match output.families().await {
        Ok(families) => text::write(families, format).map_err(|e| e.to_string()),
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => {
            output.counters.scrapes.add(1);
            ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
        }
        Err(error) => {
            output.counters.failed.add(1);
            (StatusCode::SERVICE_UNAVAILABLE, error + "\n").into_response()
        }
    }
}

impl Output {
    async fn families(&self) -> Result<Vec<Family>, String> {
        let (ours, names) = (self.config.names.contains(&MetricNames::Flowtag), &self.config.names);
        let per_flow = (ours && self.config.per_flow) || names.iter().any(|n| *n != MetricNames::Flowtag);
        let flows = if per_flow { self.config.max_series } else { 0 };
        // Before the snapshot: what was looked at later must not be told before.
        let mut series = self.series.lock().await;
        let series = &mut *series;
        let snapshot = Snapshot::take(&self.daemon, flows).await.map_err(|e| e.to_string())?;
        let mut families = if ours { snapshot.families(&mut series.shown) } else { Vec::new() };
        if ours && self.config.per_flow {
            families.extend(connections::families(&snapshot, &mut series.beyond));
        }
        if names.contains(&MetricNames::Flowd) {
            families.extend(compat::flowd(&snapshot));
        }
        if names.contains(&MetricNames::FlowdGo) {
            families.extend(compat::flowd_go(&snapshot));
        }
        Ok(families)
    }
}
