//! Requests in, answers out: JSON with bounded length, and every error as `{"error": …}`.

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::ModelError;
use crate::supervisor::core::Stopping;

/// The longest body that is read, in bytes: ten thousand events fit.
pub(super) const MAX_BODY: usize = 4 << 20;

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: String,
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

impl Failure {
    pub(super) fn error(&self) -> &str {
        &self.error
    }

    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.error })).into_response()
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

impl From<Stopping> for Failure {
    fn from(error: Stopping) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// A JSON body, whatever its `Content-Type` says.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(unreadable)?;
        let value = serde_json::from_slice(&bytes).map_err(|e| {
            Failure::new(StatusCode::BAD_REQUEST, format!("the body is not what this request takes: {e}"))
        })?;
        Ok(Self(value))
    }
}

fn unreadable(rejection: BytesRejection) -> Failure {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {MAX_BODY} bytes: send fewer events at a time"),
        ),
        status => Failure::new(status, format!("the body could not be read: {}", rejection.body_text())),
    }
}
