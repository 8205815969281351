//! Who asks: what the access rules judge and what the log says.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use super::{Api, Counters};
use crate::http::Caller;
use crate::inputs::access::{Announcer, Denied};
use crate::supervisor::throttle::Throttle;

/// Whoever sent a request.
pub(super) struct Asker {
    caller: Caller,
    pub(super) announcer: Announcer,
    pub(super) counters: Arc<Counters>,
    throttle: Arc<Mutex<Throttle>>,
}

impl FromRequestParts<Api> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<Caller>().cloned().unwrap_or_default();
        let groups = Arc::clone(&caller.groups);
        let announcer = Announcer { input: api.input, user: caller.uid, groups };
        let (counters, throttle) = (Arc::clone(&api.counters), Arc::clone(&api.throttle));
        Ok(Self { caller, announcer, counters, throttle })
    }
}

impl Asker {
    pub(super) fn log(&self, what: &str, detail: impl Display) {
        let Caller { uid, pid, peer, .. } = self.caller;
        let peer = peer.map(tracing::field::display);
        tracing::info!(uid, pid, peer, "{what}: {detail}");
    }

    pub(super) fn log_denied(&self, what: impl Display, error: &Denied) {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(more) = throttle.pass("denied") else { return };
        let Caller { uid, pid, peer, .. } = self.caller;
        let (peer, more) = (peer.map(tracing::field::display), (more > 0).then_some(more));
        tracing::warn!(uid, pid, peer, more_since_last = more, "denied: {what}: {error}");
    }
}

/// Counts requests by what became of them; events are counted where they are known.
pub(super) async fn count(State(counters): State<Arc<Counters>>, request: Request, next: Next) -> Response {
    counters.requests.add(1);
    let response = next.run(request).await;
    match response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => counters.denied.add(1),
        status if status.is_client_error() || status.is_server_error() => counters.refused.add(1),
        _ => {}
    }
    response
}
