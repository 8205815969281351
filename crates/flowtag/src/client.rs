//! Talks to the running daemon over its control socket, for the commands that do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// The daemon answers within milliseconds; it says nothing for longer only where it has too many other clients.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon, one request at a time.
pub(crate) struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

/// Runs one command's conversation with the daemon.
pub(crate) fn block_on<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the I/O loop")?.block_on(conversation)
}

impl Client {
    /// # Errors
    /// Says whether the daemon does not run, or this user may not talk to it, and what to do.
    pub(crate) async fn connect(socket: Option<&Path>) -> Result<Self> {
        let path = socket.map_or_else(default_socket, Path::to_owned);
        let stream = UnixStream::connect(&path).await.map_err(|e| explain(&path, e))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.context("the daemon does not speak HTTP")?;
        tokio::spawn(connection); // ends when the sender is dropped
        Ok(Self { sender })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = serde_json::to_vec(body).context("cannot write the request")?;
        self.ask(Method::POST, path, body.into()).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        self.ask(Method::DELETE, path, Bytes::new()).await
    }

    /// Gives each line of an endless answer to `take`.
    pub(crate) async fn lines(
        &mut self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut body = self.send(Method::GET, path, Bytes::new()).await?.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Err(error) if is_cut_short(&error) => break,
                frame => frame.context("the daemon broke off")?,
            };
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                take(&rest[..end])?;
                rest.drain(..=end);
            }
        }
        bail!("the daemon stopped")
    }

    async fn ask<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let answer = self.send(method, path, body).await?.into_body().collect().await;
        let answer = answer.context("the daemon broke off")?.to_bytes();
        serde_json::from_slice(&answer)
            .context("the daemon's answer is not understood: is it another version?")
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("cannot write the request")?;
        let answer = tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await;
        let answer = answer.map_err(|_| {
            anyhow!("the daemon did not answer within {PATIENCE:?}: too many other clients may be connected, see its log")
        })?;
        let answer = answer.context("the daemon did not answer")?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }
}

/// RFC 3986 §2.1, for names with blanks and signs in paths and queries.
pub(crate) fn percent_encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// An answer without an end is cut short when the daemon stops; no other reason would help the user.
fn is_cut_short(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    cause.is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof)
}

async fn refusal(answer: Response<Incoming>) -> anyhow::Error {
    let status: StatusCode = answer.status();
    let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(body) => anyhow!(body.error),
        Err(_) => anyhow!("the daemon refused: {status}"),
    }
}

/// Where this host's daemon listens; a configuration that is wrong is for `flowtag config check` to say.
fn default_socket() -> PathBuf {
    let configured = crate::config::Config::load(None).ok().and_then(|c| c.control).map(|gate| gate.path);
    configured.unwrap_or_else(|| "/run/flowtag/control.sock".into())
}

fn explain(path: &Path, error: std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind;
    let fix = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "flowtag does not run (`systemctl start flowtag` or `flowtag run`), or it listens elsewhere (--socket)"
        }
        ErrorKind::PermissionDenied => "run as root, or as a member of the group in inputs.control.group",
        _ => "see inputs.control in the configuration",
    };
    anyhow::Error::new(error).context(format!("cannot reach the daemon at {}: {fix}", path.display()))
}
