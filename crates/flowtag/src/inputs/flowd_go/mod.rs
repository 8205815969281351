//! flowd-go's HTTP API: `POST /flow` with its JSON, for clients that were written for it. What is no flow is an error and
//! never a firefly, and nothing changes by a GET.

mod model;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;

use crate::config;
use crate::http::{self, PATIENCE, Server};
use crate::inputs::access::{self, Announcer};
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;
use flowtag_engine::Outcome;
use model::FlowId;

/// The longest body; one flow needs less than 1 kB.
const MAX_BODY: usize = 64 << 10;

const PLACE: &str = "POST /flow takes flow events";
const DUMMY: &str = "a GET changes nothing here, and flowd-go's dummy flow says nothing to anybody: announce a flow by POST /flow";
const FOREIGN: &str = "a web page may not announce flows: leave the Origin header out";

counters! {
    /// What came by flowd-go's API.
    pub(crate) struct Counters {
        /// Requests that became events.
        events,
        /// Requests that said nothing that could be used.
        bad_requests,
        /// Events that the engine or an access rule refused.
        refused,
    }
}

struct Api {
    daemon: Daemon,
    counters: Arc<Counters>,
    announcer: Announcer,
    throttle: Mutex<Throttle>,
}

/// Makes it ready to run.
///
/// # Errors
/// What it needs cannot be had.
pub(crate) async fn prepare(config: &config::FlowdGo, daemon: &Daemon) -> Result<Service> {
    let listener = tokio::net::TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {} (inputs.flowd_go.listen): does flowd-go still run?", config.listen)
    })?;
    if !config.listen.ip().to_canonical().is_loopback() {
        tracing::warn!(
            listen = %config.listen,
            "whoever reaches this port can tag any flow: listen on loopback, or limit what may be tagged by [[access]]"
        );
    }
    let counters = Arc::new(Counters::default());
    let at = listener.local_addr().map_or(config.listen, |at| at);
    let api = Api {
        daemon: daemon.clone(),
        counters: counters.clone(),
        announcer: Announcer::anonymous("flowd-go"),
        throttle: Mutex::default(),
    };
    let server = Server { write_patience: Some(PATIENCE), ..Server::new("flowd-go's API") };
    let run = async move {
        http::serve(listener, router(Arc::new(api)), server).await;
    };
    let entry = Entry { at: Some(at.to_string()), ..Entry::new(vec![counters]) };
    Ok(Service { entry, feed: None, run: Box::pin(run) })
}

fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/", get(routes))
        .route("/flow", post(flow))
        .route("/dummy/start", any(dummy))
        .route("/dummy/end", any(dummy))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, format!("there is no such path: {PLACE}")) })
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, format!("this path does not take that method: {PLACE}"))
        })
        .with_state(api)
}

#[derive(Serialize)]
struct Routes {
    #[serde(rename = "ApiRoutes")]
    routes: [Route; 2],
}

#[derive(Serialize)]
struct Route {
    method: &'static str,
    path: &'static str,
    name: &'static str,
}

async fn routes() -> Response {
    let route = |method, path, name| Route { method, path, name };
    let routes = [
        route("GET", "/", "the paths that there are"),
        route("POST", "/flow", "a flow starts, goes on or ends"),
    ];
    pretty(StatusCode::OK, &Routes { routes })
}

async fn dummy() -> Response {
    ([(header::ALLOW, "")], failure(StatusCode::METHOD_NOT_ALLOWED, DUMMY.to_owned())).into_response()
}

async fn flow(State(api): State<Arc<Api>>, headers: HeaderMap, request: Request) -> Response {
    // Browsers say where a script comes from; no client of flowd-go does.
    if headers.contains_key(header::ORIGIN) {
        return api.bad(StatusCode::FORBIDDEN, FOREIGN);
    }
    let bytes = match tokio::time::timeout(PATIENCE, read(request.into_body())).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err((status, error))) => return api.bad(status, error),
        Err(_) => {
            return api
                .bad(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {PATIENCE:?}"));
        }
    };
    let (flow, event) =
        match FlowId::read(&bytes).and_then(|flow| Ok((flow.event(&api.daemon.registry_now())?, flow))) {
            Ok((event, flow)) => (flow, event),
            Err(error) => return api.bad(StatusCode::BAD_REQUEST, error.to_string()),
        };
    api.counters.events.add(1);
    match access::events(&api.daemon, &api.announcer, vec![event]).await.map(|mut outcomes| outcomes.pop()) {
        Ok(Some(Ok(Outcome::Rejected(reason)))) => api.refused(StatusCode::INSUFFICIENT_STORAGE, &reason),
        Ok(Some(Err(denied))) => api.refused(StatusCode::FORBIDDEN, &denied),
        // The end of an unknown flow, too: two ENDs of one flow are nothing special.
        Ok(_) => pretty(StatusCode::OK, &flow),
        Err(stopping) => failure(StatusCode::SERVICE_UNAVAILABLE, stopping.to_string()),
    }
}

async fn read(body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err((
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {MAX_BODY} bytes: send one flow"),
        )),
        Err(error) => Err((StatusCode::BAD_REQUEST, format!("the body could not be read: {error}"))),
    }
}

impl Api {
    fn bad(&self, status: StatusCode, error: impl Into<String>) -> Response {
        let error = error.into();
        self.counters.bad_requests.add(1);
        self.warn("a request to flowd-go's API was not understood", &Message(error.clone()));
        failure(status, error)
    }

    fn refused(&self, status: StatusCode, error: &(dyn std::error::Error + 'static)) -> Response {
        self.counters.refused.add(1);
        self.warn("an event of flowd-go's API was refused", error);
        failure(status, error.to_string())
    }

    fn warn(&self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner).warn(what, error);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Message(String);

/// As flowd-go words errors.
fn failure(status: StatusCode, message: String) -> Response {
    #[derive(Serialize)]
    struct Failure {
        message: String,
    }
    (status, axum::Json(Failure { message })).into_response()
}

/// As flowd-go writes objects: with an indent of four blanks.
fn pretty(status: StatusCode, value: &impl Serialize) -> Response {
    let mut body = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut writer = serde_json::Serializer::with_formatter(&mut body, form);
    if let Err(error) = value.serialize(&mut writer) {
        return failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    }
    body.push(b'\n');
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
