//! Requests in, answers out: JSON with bounded length, and every error as `{"error": …}`.

use std::error::Error;
use std::fmt;

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::ModelError;
use crate::http::PATIENCE;
use crate::inputs::access::Denied;
use crate::rules::RuleError;
use crate::supervisor::core::Stopping;

/// The longest body that is taken, in bytes: ten thousand events fit.
const MAX_BODY: usize = 4 << 20;
/// The longest body that is read to its end before it is refused. Most clients look for an answer only when they have
/// sent everything, and would report a broken connection instead.
const MAX_READ: usize = 16 * MAX_BODY;

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
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    /// The request has not the form that it must have; what it means does not matter yet.
    pub(super) fn malformed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
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

impl From<RuleError> for Failure {
    fn from(error: RuleError) -> Self {
        let status = match &error {
            RuleError::Exists(_) | RuleError::Configured(_) => StatusCode::CONFLICT,
            RuleError::Builtin(_) | RuleError::Default(_) => StatusCode::CONFLICT,
            RuleError::Unknown(_) => StatusCode::NOT_FOUND,
            RuleError::UnknownBefore(_) => StatusCode::UNPROCESSABLE_ENTITY,
            RuleError::Kernel(flowtag_kernel::Error::Rules(_)) => StatusCode::UNPROCESSABLE_ENTITY,
            RuleError::Kernel(_) => StatusCode::INTERNAL_SERVER_ERROR,
            RuleError::Full => StatusCode::INSUFFICIENT_STORAGE,
            RuleError::Save { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Denied> for Failure {
    fn from(error: Denied) -> Self {
        Self::new(StatusCode::FORBIDDEN, error.to_string())
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

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let read = tokio::time::timeout(PATIENCE, read(request.into_body())).await;
        let bytes = read.unwrap_or_else(|_| {
            let error =
                format!("the body did not arrive within {PATIENCE:?}: send all that Content-Length promises");
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, error))
        })?;
        // Keeping track of where it is costs, and is only needed to say where it went wrong.
        if let Ok(value) = serde_json::from_slice(&bytes) {
            return Ok(Self(value));
        }
        let Json(value) = Json::from_bytes(&bytes).map_err(|e| {
            Failure::malformed(format!("the body is not what this request takes: {}", root(&e)))
        })?;
        Ok(Self(value))
    }
}

/// The last of the causes, which is the parser's own words with the path of the key.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |e| (**e).source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

async fn read(mut body: axum::body::Body) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Failure::malformed(format!("the body could not be read: {}", root(&e))))?;
        let data = frame.into_data().unwrap_or_default(); // trailers say nothing to us
        length += data.len();
        if length <= MAX_BODY {
            bytes.extend_from_slice(&data);
        } else if length <= MAX_READ {
            bytes = Vec::new();
        } else {
            break;
        }
    }
    if length > MAX_BODY {
        let error = format!("the body is longer than {MAX_BODY} bytes: send fewer events at a time");
        return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error));
    }
    Ok(bytes)
}
