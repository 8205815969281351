//! Talks to the running daemon over its control socket, or over TCP to one elsewhere, for the commands that do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::{https, outputs::resolve};

/// The daemon answers within milliseconds; it says nothing for longer only where it has too many other clients.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon, one request at a time.
pub(crate) struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

/// A daemon that is reached over TCP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote<'a> {
    /// `https://HOST:PORT`, or `http://…`.
    pub(crate) url: &'a str,
    pub(crate) token_file: Option<&'a Path>,
    /// Certificates to trust in place of the system's.
    pub(crate) ca_file: Option<&'a Path>,
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
        Self::talk(stream, HeaderValue::from_static("localhost"), None).await
    }

    /// # Errors
    /// Says what of the way to the daemon fails.
    pub(crate) async fn dial(remote: Remote<'_>) -> Result<Self> {
        let url = remote.url;
        let (host, port, is_tls) = parse(url)?;
        let authorization = remote.token_file.map(bearer).transpose()?;
        let stream = tokio::time::timeout(PATIENCE, reach(&host, port)).await;
        let stream = stream.unwrap_or_else(|_| Err(anyhow!("no answer within {PATIENCE:?}")));
        let stream = stream.with_context(|| {
            format!("cannot reach the daemon at {url}: does it listen there (inputs.control.listen)?")
        })?;
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let shown = HeaderValue::try_from(shown).context("the host of the URL is no name")?;
        if !is_tls {
            return Self::talk(stream, shown, authorization).await;
        }
        let name = ServerName::try_from(host).context("the host of the URL is no name")?;
        let tls = TlsConnector::from(Arc::new(https::client_config(remote.ca_file)?));
        let stream = tokio::time::timeout(PATIENCE, tls.connect(name, stream)).await;
        let stream = stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let stream = stream.with_context(|| {
            format!("no TLS with the daemon at {url}: has it a certificate (inputs.control.tls_certificate), for that name, of an authority that is trusted here (--ca-file)?")
        })?;
        Self::talk(stream, shown, authorization).await
    }

    async fn talk(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: HeaderValue,
        authorization: Option<HeaderValue>,
    ) -> Result<Self> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.context("the daemon does not speak HTTP")?;
        tokio::spawn(connection); // ends when the sender is dropped
        Ok(Self { sender, host, authorization })
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
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, &self.host)
            .header(hyper::header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(hyper::header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).context("cannot write the request")?;
        let answer = tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await;
        let answer = answer.map_err(|_| {
            anyhow!("the daemon did not answer within {PATIENCE:?}: too many other clients may be connected, see its log")
        })?;
        let answer = answer.context("the daemon did not answer")?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }
}

/// Host without brackets, port, and whether TLS is spoken.
fn parse(url: &str) -> Result<(String, u16, bool)> {
    let wrong = || anyhow!("{url:?} is not where a daemon could be: write https://HOST:PORT");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let (host, port) = (uri.host().ok_or_else(wrong)?, uri.port_u16().ok_or_else(wrong)?);
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong());
    }
    Ok((host.trim_matches(['[', ']']).to_owned(), port, is_tls))
}

async fn reach(host: &str, port: u16) -> Result<TcpStream> {
    let addresses = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => resolve::addresses(host).await?,
    };
    let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    Ok(TcpStream::connect(&addresses[..]).await?)
}

fn bearer(path: &Path) -> Result<HeaderValue> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the token in {} (--token-file)", path.display()))?;
    let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
        .with_context(|| format!("{} (--token-file) is not one line with a token", path.display()))?;
    value.set_sensitive(true);
    Ok(value)
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
