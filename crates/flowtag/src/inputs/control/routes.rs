//! What each path does. Handlers translate; the engine decides.

use std::convert::Infallible;
use std::sync::atomic::Ordering;

use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use flowtag_engine::{Event, FlowId, FlowView, Outcome, Registry, Selector};
use flowtag_kernel::mark::InterfaceCounters;
use flowtag_wire::Experiment;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::Daemon;
use super::body::{Body, Failure, MAX_BODY};
use super::listener::Caller;
use super::model::{
    BatchError, BatchResult, CollectorStatus, Count, EndRequest, EventRequest, Flow, FlowRequest, Flows,
    InterfaceStatus, MAX_EVENTS, ModelError, PipeStatus, StartRequest, Started, Status, WatchLine,
};

/// Errors of a batch that are told one by one.
const MAX_ERRORS: usize = 100;
/// Flows in one answer unless the caller wants fewer.
const MAX_LISTED: usize = 100_000;

const OPENAPI: &str = include_str!("../../../../../docs/openapi.yaml");

type Answer<T> = Result<T, Failure>;

pub(super) fn router(daemon: Daemon) -> Router {
    Router::new()
        .route("/v1/flows", get(list).post(start))
        .route("/v1/flows/end", post(end))
        .route("/v1/flows/find", post(find))
        .route("/v1/flows/{id}", get(show))
        .route("/v1/events", post(events))
        .route("/v1/watch", get(watch))
        .route("/v1/status", get(status))
        .route("/v1/health", get(health))
        .route("/v1/openapi.yaml", get(openapi))
        .fallback(|| async { Failure::new(StatusCode::NOT_FOUND, "there is no such path: see /v1/openapi.yaml") })
        .method_not_allowed_fallback(|| async {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method: see /v1/openapi.yaml")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

fn log(caller: Caller, what: &str, detail: impl std::fmt::Display) {
    tracing::info!(uid = caller.uid, pid = caller.pid, "{what}: {detail}");
}

async fn start(
    State(daemon): State<Daemon>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<StartRequest>,
) -> Answer<(StatusCode, Json<Started>)> {
    let registry = daemon.registry();
    let announcement = request.announcement(&registry)?;
    log(caller, "start", format_args!("{} {}", announcement.flow, registry.describe(announcement.tag)));
    let outcome = daemon.core.event(Event::Start(announcement)).await?;
    let (status, word, id) = match outcome {
        Outcome::Started(id) => (StatusCode::CREATED, "started", id),
        Outcome::Updated(id) => (StatusCode::OK, "updated", id),
        Outcome::Refreshed(id) => (StatusCode::OK, "refreshed", id),
        other => return Err(refused(other)),
    };
    let flow = daemon.flow(id).await?.ok_or_else(gone)?;
    Ok((status, Json(Started { outcome: word.to_owned(), flow })))
}

async fn end(
    State(daemon): State<Daemon>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<EndRequest>,
) -> Answer<Json<Flow>> {
    let end = request.end()?;
    log(caller, "end", format_args!("{:?}", end.which));
    let which = end.which;
    let registry = daemon.registry();
    let (before, outcome) = daemon
        .core
        .ask(move |state| {
            let view = match which {
                Selector::Id(id) => state.engine.get(id),
                Selector::Flow(flow) => state.engine.find(&flow),
            };
            let flow = view.map(|view| Flow::new(&view, &registry, state.marker.is_some()));
            (flow, state.handle(Event::End(end)))
        })
        .await?;
    match (outcome, before) {
        (Outcome::Ended(_), Some(flow)) => Ok(Json(flow)),
        (other, _) => Err(refused(other)),
    }
}

async fn find(State(daemon): State<Daemon>, Body(request): Body<FlowRequest>) -> Answer<Json<Flow>> {
    let flow = request.flow().map_err(ModelError::from)?;
    let registry = daemon.registry();
    let found = daemon.core.ask(move |state| {
        state.engine.find(&flow).map(|view| Flow::new(&view, &registry, state.marker.is_some()))
    });
    found.await?.map(Json).ok_or_else(gone)
}

async fn show(State(daemon): State<Daemon>, Path(id): Path<String>) -> Answer<Json<Flow>> {
    let id: FlowId = id.parse().map_err(|_| {
        Failure::new(StatusCode::BAD_REQUEST, format!("{id:?} is not the number of a flow: see /v1/flows"))
    })?;
    daemon.flow(id).await?.map(Json).ok_or_else(gone)
}

async fn events(
    State(daemon): State<Daemon>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(requests): Body<Vec<EventRequest>>,
) -> Answer<Json<BatchResult>> {
    if requests.len() > MAX_EVENTS {
        let error = format!("{} events in one request: send at most {MAX_EVENTS}", requests.len());
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    let registry = daemon.registry();
    let mut result = BatchResult::default();
    let mut reject = |index, error: String| {
        result.rejected += 1;
        if result.errors.len() < MAX_ERRORS {
            result.errors.push(BatchError { index, error });
        }
    };
    let mut accepted = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        match event(request, &registry) {
            Ok(event) => accepted.push((index, event)),
            Err(error) => reject(index, error.to_string()),
        }
    }
    let (indices, events): (Vec<_>, Vec<_>) = accepted.into_iter().unzip();
    let outcomes = daemon.core.events(events).await?;
    for (index, outcome) in indices.into_iter().zip(outcomes) {
        match outcome {
            Outcome::Rejected(_) | Outcome::UnknownFlow => reject(index, refused(outcome).to_string()),
            _ => result.accepted += 1,
        }
    }
    log(caller, "events", format_args!("{} accepted, {} rejected", result.accepted, result.rejected));
    Ok(Json(result))
}

fn event(request: &EventRequest, registry: &Registry) -> Result<Event, ModelError> {
    Ok(match request {
        EventRequest::Start(start) => Event::Start(start.announcement(registry)?),
        EventRequest::Ongoing(start) => Event::Ongoing(start.announcement(registry)?),
        EventRequest::End(end) => Event::End(end.end()?),
    })
}

/// Which flows a list is of.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    experiment: Option<String>,
    limit: Option<usize>,
}

async fn list(State(daemon): State<Daemon>, filter: Result<Query<Filter>, axum::extract::rejection::QueryRejection>) -> Answer<Json<Flows>> {
    let Query(filter) = filter.map_err(|e| Failure::new(StatusCode::BAD_REQUEST, e.body_text()))?;
    let registry = daemon.registry();
    let experiment: Option<Experiment> =
        filter.experiment.map(|e| registry.resolve_experiment(&e)).transpose().map_err(ModelError::from)?;
    let limit = filter.limit.unwrap_or(MAX_LISTED).min(MAX_LISTED);
    let (total, views, marks) = daemon
        .core
        .ask(move |state| {
            let wanted = |view: &FlowView| experiment.is_none_or(|e| view.tag.experiment == e);
            let total = match experiment {
                None => state.engine.len(),
                Some(_) => state.engine.iter().filter(wanted).count(),
            };
            let views: Vec<_> = state.engine.iter().filter(wanted).take(limit).collect();
            (total, views, state.marker.is_some())
        })
        .await?;
    let flows = views.iter().map(|view| Flow::new(view, &registry, marks)).collect();
    Ok(Json(Flows { total, flows }))
}

/// One JSON object a line, as flows start, change and end.
async fn watch(State(daemon): State<Daemon>) -> Answer<Response> {
    let changes = daemon.core.watch();
    let marks = daemon.core.ask(|state| state.marker.is_some()).await?;
    let lines = futures_util::stream::unfold((changes, daemon), move |(mut changes, daemon)| async move {
        let line = match changes.recv().await {
            Ok(change) => WatchLine::new(&change, &daemon.registry(), marks),
            Err(RecvError::Lagged(changes)) => WatchLine::Lost { changes },
            Err(RecvError::Closed) => return None,
        };
        let mut text = serde_json::to_string(&line).unwrap_or_default();
        text.push('\n');
        Some((Ok::<_, Infallible>(text), (changes, daemon)))
    });
    let body = axum::body::Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn status(State(daemon): State<Daemon>) -> Answer<Json<Status>> {
    let (flows, max_flows, counters, marker) = daemon
        .core
        .ask(|state| {
            let marker = state.marker.as_ref().map(|m| m.counters());
            let engine = state.engine.counters().iter().map(|c| (c.name, c.value)).collect();
            (state.engine.len(), state.engine.settings().max_flows, engine, marker)
        })
        .await?;
    let interfaces = marker.transpose().map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: daemon.started,
        flows,
        max_flows,
        interfaces: interfaces.map(|all| all.iter().map(interface_status).collect()),
        engine: counters,
        fireflies: daemon.fireflies.as_ref().map(|c| c.snapshot()),
        collectors: daemon.collectors.all().iter().map(|t| collector_status(t)).collect(),
        pipe: daemon.pipe.as_ref().map(|c| PipeStatus {
            events: c.events.load(Ordering::Relaxed),
            bad_lines: c.bad_lines.load(Ordering::Relaxed),
        }),
    }))
}

fn interface_status(counters: &InterfaceCounters) -> InterfaceStatus {
    let count = |c: &flowtag_kernel::mark::Count| Count { packets: c.packets, bytes: c.bytes };
    InterfaceStatus {
        name: counters.interface.name.clone(),
        index: counters.interface.index,
        hook: counters.hook.to_string(),
        shared_counters: counters.shared,
        counts: counters.counts.iter().map(|(v, c)| (v.name().to_owned(), count(c))).collect(),
    }
}

fn collector_status(target: &crate::outputs::firefly::Target) -> CollectorStatus {
    CollectorStatus {
        collector: target.config.to_string(),
        address: target.address().map(|a| a.to_string()),
        error: target.error(),
    }
}

async fn health(State(daemon): State<Daemon>) -> Answer<Json<serde_json::Value>> {
    daemon.core.ask(|_| ()).await?;
    Ok(Json(serde_json::json!({ "health": "ok" })))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI)
}

fn gone() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "there is no such flow: see /v1/flows")
}

fn refused(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Rejected(reason @ flowtag_engine::Rejection::TableFull { .. }) => {
            Failure::new(StatusCode::INSUFFICIENT_STORAGE, reason.to_string())
        }
        Outcome::Rejected(reason) => Failure::new(StatusCode::UNPROCESSABLE_ENTITY, reason.to_string()),
        _ => gone(),
    }
}

impl Daemon {
    fn registry(&self) -> std::sync::Arc<Registry> {
        self.registry.borrow().clone()
    }

    async fn flow(&self, id: FlowId) -> Answer<Option<Flow>> {
        let registry = self.registry();
        let view = self.core.ask(move |state| {
            state.engine.get(id).map(|view| Flow::new(&view, &registry, state.marker.is_some()))
        });
        Ok(view.await?)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.error())
    }
}
