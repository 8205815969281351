//! What each path does. Handlers translate; the engine decides.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Json, Router, middleware};
use flowtag_engine::{Event, FlowId, FlowView, Outcome, Registry, Selector};
use flowtag_wire::Experiment;
use nix::sys::signal::{self, Signal};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::asker::{Asker, count};
use super::body::{Body, Failure, root};
use super::model::{
    Batch, BatchError, BatchResult, EndRequest, EventRequest, Flow, FlowRequest, Flows, InterfaceStatus,
    MAX_EVENTS, ModelError, Object, ReloadResult, StartRequest, Started, Status, TagStatus, WatchLine,
};
use super::{Api, coverage, rules};
use crate::inputs::access;
use crate::supervisor::core::Stopping;
use crate::supervisor::service::Daemon;

/// Errors of a batch that are told one by one.
const MAX_ERRORS: usize = 100;
/// Flows in one answer unless the caller wants fewer.
const MAX_LISTED: usize = 100_000;

pub(super) const OPENAPI: &str = include_str!("../../../../../docs/openapi.yaml");

pub(super) type Answer<T> = Result<T, Failure>;

/// One method of one path.
struct Route {
    method: MethodFilter,
    path: &'static str,
    handler: fn(MethodFilter) -> MethodRouter<Api>,
}

/// All that is served; a test holds it against `docs/openapi.yaml`.
const ROUTES: [Route; 15] = [
    Route { method: MethodFilter::GET, path: "/v1/flows", handler: |m| on(m, list) },
    Route { method: MethodFilter::POST, path: "/v1/flows", handler: |m| on(m, start) },
    Route { method: MethodFilter::POST, path: "/v1/flows/end", handler: |m| on(m, end) },
    Route { method: MethodFilter::POST, path: "/v1/flows/find", handler: |m| on(m, find) },
    Route { method: MethodFilter::GET, path: "/v1/flows/{id}", handler: |m| on(m, show) },
    Route { method: MethodFilter::POST, path: "/v1/events", handler: |m| on(m, events) },
    Route { method: MethodFilter::GET, path: "/v1/rules", handler: |m| on(m, rules::list) },
    Route { method: MethodFilter::POST, path: "/v1/rules", handler: |m| on(m, rules::add) },
    Route { method: MethodFilter::DELETE, path: "/v1/rules/{name}", handler: |m| on(m, rules::delete) },
    Route { method: MethodFilter::GET, path: "/v1/coverage", handler: |m| on(m, coverage::show) },
    Route { method: MethodFilter::GET, path: "/v1/watch", handler: |m| on(m, watch) },
    Route { method: MethodFilter::GET, path: "/v1/status", handler: |m| on(m, status) },
    Route { method: MethodFilter::POST, path: "/v1/reload", handler: |m| on(m, reload) },
    Route { method: MethodFilter::GET, path: "/v1/health", handler: |m| on(m, health) },
    Route { method: MethodFilter::GET, path: "/v1/openapi.yaml", handler: |m| on(m, openapi) },
];

/// `admit` may put a guard before all routes, whose refusals are counted as well.
pub(super) fn router(api: Api, admit: impl FnOnce(Router<Api>) -> Router<Api>) -> Router {
    let counted = middleware::from_fn_with_state(Arc::clone(&api.counters), count);
    let routes = ROUTES
        .iter()
        .fold(Router::new(), |router, route| router.route(route.path, (route.handler)(route.method)))
        .fallback(|| async {
            Failure::new(StatusCode::NOT_FOUND, "there is no such path: see /v1/openapi.yaml")
        })
        .method_not_allowed_fallback(|| async {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take that method: see /v1/openapi.yaml",
            )
        });
    admit(routes).layer(counted).with_state(api)
}

async fn start(
    State(daemon): State<Daemon>,
    asker: Asker,
    Body(Object(request)): Body<Object<StartRequest>>,
) -> Answer<(StatusCode, Json<Started>)> {
    let registry = daemon.registry_now();
    let announcement = request.announcement(&registry)?;
    let what = format!("{} {}", announcement.flow, registry.describe(announcement.tag));
    let (policy, announcer) = (daemon.policy_now(), asker.announcer.clone());
    let judged = daemon.core.ask(move |state| {
        let event = Event::Start(announcement);
        policy.allows_event(announcer.who(), &event, &state.engine)?;
        let outcome = state.handle(event);
        let view = started(&outcome).and_then(|(_, id)| state.engine.get(id));
        Ok((outcome, view.map(|view| Flow::new(&view, &registry, state.marker.is_some()))))
    });
    let (outcome, flow) =
        judged.await?.inspect_err(|e| asker.log_denied(format_args!("start of {what}"), e))?;
    let (Some((word, _)), Some(flow)) = (started(&outcome), flow) else {
        let failure = refused(outcome);
        asker.log("start refused", format_args!("{what}: {failure}"));
        return Err(failure);
    };
    asker.counters.events.add(1);
    asker.log(word, what);
    let status = if word == "started" { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Started { outcome: word.to_owned(), flow })))
}

/// What became of a START that was taken, and the flow's number.
fn started(outcome: &Outcome) -> Option<(&'static str, FlowId)> {
    match outcome {
        Outcome::Started(id) => Some(("started", *id)),
        Outcome::Updated(id) => Some(("updated", *id)),
        Outcome::Refreshed(id) => Some(("refreshed", *id)),
        _ => None,
    }
}

async fn end(
    State(daemon): State<Daemon>,
    asker: Asker,
    Body(Object(request)): Body<Object<EndRequest>>,
) -> Answer<Json<Flow>> {
    let end = request.end()?;
    let which = end.which;
    let registry = daemon.registry_now();
    let (policy, announcer) = (daemon.policy_now(), asker.announcer.clone());
    let judged = daemon.core.ask(move |state| {
        let view = match which {
            Selector::Id(id) => state.engine.get(id),
            Selector::Flow(flow) => state.engine.find(&flow),
        };
        let flow = view.map(|view| Flow::new(&view, &registry, state.marker.is_some()));
        let event = Event::End(end);
        policy.allows_event(announcer.who(), &event, &state.engine)?;
        Ok((flow, state.handle(event)))
    });
    let (before, outcome) = judged.await?.inspect_err(|e| asker.log_denied("end", e))?;
    match (outcome, before) {
        (Outcome::Ended(_), Some(flow)) => {
            asker.counters.events.add(1);
            asker.log("ended", format_args!("{} {} > {} ({})", flow.protocol, flow.src, flow.dst, flow.id));
            Ok(Json(flow))
        }
        (other, _) => Err(refused(other)),
    }
}

async fn find(
    State(daemon): State<Daemon>,
    Body(Object(request)): Body<Object<FlowRequest>>,
) -> Answer<Json<Flow>> {
    let flow = request.flow().map_err(ModelError::from)?;
    let registry = daemon.registry_now();
    let found = daemon.core.ask(move |state| {
        state.engine.find(&flow).map(|view| Flow::new(&view, &registry, state.marker.is_some()))
    });
    found.await?.map(Json).ok_or_else(gone)
}

async fn show(State(daemon): State<Daemon>, id: Result<Path<String>, PathRejection>) -> Answer<Json<Flow>> {
    let Path(text) = id.map_err(|e| Failure::malformed(e.body_text()))?;
    let id = text.parse().map_err(|_| {
        let text: String = text.chars().take(40).collect();
        Failure::malformed(format!("{text:?} is not the number of a flow: see /v1/flows"))
    })?;
    daemon.flow(id).await?.map(Json).ok_or_else(gone)
}

async fn events(
    State(daemon): State<Daemon>,
    asker: Asker,
    Body(batch): Body<Batch>,
) -> Answer<Json<BatchResult>> {
    if batch.beyond > 0 {
        let error = format!("{} events in one request: send at most {MAX_EVENTS}", MAX_EVENTS + batch.beyond);
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    let registry = daemon.registry_now();
    let (mut taken, mut errors) = (Vec::with_capacity(batch.events.len()), Vec::new());
    for (index, request) in batch.events.iter().enumerate() {
        match event(request, &registry) {
            Ok(event) => taken.push((index, event)),
            Err(error) => errors.push(BatchError { index, error: error.to_string() }),
        }
    }
    let (indices, events): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
    let outcomes = access::events(&daemon, &asker.announcer, events).await?;
    let mut denied = Vec::new();
    for (index, outcome) in indices.into_iter().zip(outcomes) {
        match outcome {
            Ok(outcome @ (Outcome::Rejected(_) | Outcome::UnknownFlow)) => {
                errors.push(BatchError { index, error: refused(outcome).to_string() });
            }
            Ok(_) => {}
            Err(error) => denied.push((index, error)),
        }
    }
    asker.counters.refused.add(errors.len() as u64);
    asker.counters.denied.add(denied.len() as u64);
    if let Some((index, error)) = denied.first() {
        asker.log_denied(format_args!("{} events, of which first number {index}", denied.len()), error);
    }
    errors.extend(denied.iter().map(|(index, e)| BatchError { index: *index, error: e.to_string() }));
    let (rejected, accepted) = (errors.len(), batch.events.len() - errors.len());
    asker.counters.events.add(accepted as u64);
    asker.log("events", format_args!("{accepted} accepted, {rejected} rejected"));
    errors.sort_by_key(|error| error.index);
    errors.truncate(MAX_ERRORS);
    Ok(Json(BatchResult { accepted, rejected, errors }))
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

async fn list(
    State(daemon): State<Daemon>,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Answer<Json<Flows>> {
    let Query(filter) =
        filter.map_err(|e| Failure::malformed(format!("the query is not understood: {}", root(&e))))?;
    let registry = daemon.registry_now();
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
            Ok(change) => WatchLine::new(&change, &daemon.registry_now(), marks),
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
    let registry = daemon.registry_now();
    let (flows, max_flows, tags, counters, marker, flow_table) = daemon
        .core
        .ask(move |state| {
            let marker = state.marker.as_ref().map(|m| m.counters());
            let engine = state.engine.counters().iter().map(|c| (c.name.to_owned(), c.value)).collect();
            let tags = TagStatus::most(&state.accounts, &registry);
            let flow_table = state.marker.as_ref().and_then(|m| m.flow_table_id().ok());
            (state.engine.len(), state.engine.settings().max_flows, tags, engine, marker, flow_table)
        })
        .await?;
    let interfaces =
        marker.transpose().map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: daemon.started,
        flows,
        max_flows,
        flow_table,
        tags,
        interfaces: interfaces.map(|all| all.iter().map(InterfaceStatus::from).collect()),
        engine: counters,
        services: daemon.board.status(),
    }))
}

/// What SIGHUP does, with an answer.
async fn reload(State(daemon): State<Daemon>, asker: Asker) -> Answer<Json<ReloadResult>> {
    let allowed = daemon.policy_now().allows_reload(asker.announcer.who());
    allowed.inspect_err(|error| asker.log_denied("reload", error))?;
    asker.log("reload", "the configuration is read again");
    let mut reloaded = daemon.reloaded.clone();
    let before = reloaded.borrow_and_update().number;
    signal::raise(Signal::SIGHUP)
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot reload: {e}")))?;
    let last = reloaded.wait_for(|last| last.number > before).await.map_err(|_| Stopping)?;
    Ok(Json(ReloadResult { problems: last.problems.clone() }))
}

async fn health(State(daemon): State<Daemon>) -> Answer<Json<serde_json::Value>> {
    daemon.core.ask(|_| ()).await?;
    Ok(Json(serde_json::json!({ "health": "ok" })))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI)
}

fn gone() -> Failure {
    Failure::new(
        StatusCode::NOT_FOUND,
        "there is no such flow: `flowtag flow list` (GET /v1/flows) shows all",
    )
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
    async fn flow(&self, id: FlowId) -> Answer<Option<Flow>> {
        let registry = self.registry_now();
        let view = self.core.ask(move |state| {
            state.engine.get(id).map(|view| Flow::new(&view, &registry, state.marker.is_some()))
        });
        Ok(view.await?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::Method;
    use serde_json::Value;

    use super::*;

    fn spec() -> Value {
        serde_saphyr::from_str(OPENAPI).expect("YAML")
    }

    fn words(list: &Value) -> BTreeSet<&str> {
        list.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
    }

    #[test]
    fn what_is_routed_is_what_is_documented() {
        let spec = spec();
        let mut documented = Vec::new();
        for (path, item) in spec["paths"].as_object().expect("paths") {
            for name in item.as_object().expect("methods").keys() {
                let method: Method = name.to_uppercase().parse().expect("a method");
                documented.push((path.as_str(), MethodFilter::try_from(method).expect("a usual method")));
            }
        }
        for route in &ROUTES {
            let (path, method) = (route.path, route.method);
            assert!(documented.contains(&(path, method)), "{method:?} {path} is not in docs/openapi.yaml");
        }
        assert_eq!(documented.len(), ROUTES.len(), "docs/openapi.yaml has a path that is not served");
    }

    /// Marking needs privileges that the test of the running daemon has not, so these words are held here.
    #[test]
    fn words_for_marking_are_documented() {
        use flowtag_engine::Marking;
        use flowtag_kernel::mark::Verdict;

        let spec = spec();
        let schemas = &spec["components"]["schemas"];
        let verdicts = &schemas["InterfaceStatus"]["properties"]["counts"]["propertyNames"]["enum"];
        assert_eq!(words(verdicts), Verdict::ALL.map(Verdict::name).into_iter().collect());
        let markings = [Marking::Marked, Marking::NotIpv6, Marking::TableFull].map(Marking::name);
        let shown = markings.into_iter().chain(["off"]).collect();
        assert_eq!(words(&schemas["Flow"]["properties"]["marking"]["enum"]), shown);
    }
}
