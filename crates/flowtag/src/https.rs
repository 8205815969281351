//! Asks a server over HTTP or HTTPS, for everything of flowtag that does: one exchange a call, on a connection of its own.
//!
//! Bounded in time (names, connection, TLS, all of the answer) and in memory (`max_body`). No proxies, no cookies, no
//! compression. Redirects are followed within one scheme, so that `https://` never ends in the clear. Names are resolved by
//! a library in the process, because a static binary cannot load the system's resolver modules.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::outputs::resolve;

/// How often one answer may point elsewhere.
const MAX_REDIRECTS: usize = 5;

/// Who asks.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("flowtag/", env!("CARGO_PKG_VERSION")));

/// One question; see [`Self::get`] for the usual one.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// `https://` or `http://`.
    pub(crate) url: &'a str,
    /// Besides Host, User-Agent and Content-Length.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// Certificates (PEM) to trust in place of the system's.
    pub(crate) ca_file: Option<&'a Path>,
    /// For all of it: from the name to the last byte of the answer.
    pub(crate) timeout: Duration,
    /// Bytes of the answer; one that is longer is an error.
    pub(crate) max_body: usize,
    /// Address of this host to ask from. None: whichever the route has.
    pub(crate) source: Option<IpAddr>,
}

impl<'a> Request<'a> {
    /// GET without headers, ten seconds, 64 KiB.
    pub(crate) const fn get(url: &'a str) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
            ca_file: None,
            timeout: Duration::from_secs(10),
            max_body: 64 << 10,
            source: None,
        }
    }
}

/// What a server answered, whatever its status.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("{0:?} is not a URL: write https://HOST/PATH")]
    Url(String),
    #[error("{name:?} cannot be a header: names are letters, digits and -, values have no line breaks")]
    Header { name: String },
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("no answer from {url} within {}", humantime::format_duration(*timeout))]
    Timeout { url: String, timeout: Duration },
    #[error("cannot reach {url}")]
    Connect {
        url: String,
        #[source]
        source: hyper_util::client::legacy::Error,
    },
    #[error("{url} did not answer in HTTP")]
    Exchange {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the answer of {url} has more than {max} bytes: is it the right URL?")]
    TooLong { url: String, max: usize },
    #[error(
        "{url} points to {to:?}: only {MAX_REDIRECTS} such answers are followed, and none to another scheme"
    )]
    Redirect { url: String, to: String },
}

/// Why it is not known whom to trust.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("cannot read certificates from {path}: it has to be a PEM file that the daemon may read")]
    File {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} has no certificate that can be used: it has to have one at least, in PEM")]
    EmptyFile { path: PathBuf },
    #[error("this host has no certificates to trust: install ca-certificates, or name a file (ca_file)")]
    NoSystemRoots,
    #[error("cannot set TLS up")]
    Tls(#[source] rustls::Error),
}

/// Asks, and reads all of the answer.
///
/// # Errors
/// No answer: [`HttpError`]. An answer that says no (4xx, 5xx) is an answer.
pub(crate) async fn request(request: Request<'_>) -> Result<Response, HttpError> {
    let (url, timeout) = (request.url.to_owned(), request.timeout);
    let exchange = tokio::time::timeout(timeout, follow(request)).await;
    exchange.unwrap_or(Err(HttpError::Timeout { url, timeout }))
}

/// TLS as a client: versions 1.2 and 1.3, certificates verified against `ca_file`, or the system's without it.
///
/// # Errors
/// There is nobody to trust.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TrustError> {
    let roots = ca_file.map_or_else(system_roots, roots_of)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(TrustError::Tls)?.with_root_certificates(roots).with_no_client_auth())
}

fn system_roots() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    // Some that cannot be read or parsed do not make the others worth less.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustError::NoSystemRoots) } else { Ok(roots) }
}

fn roots_of(path: &Path) -> Result<RootCertStore, TrustError> {
    let fail = |source| TrustError::File { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path).map_err(fail)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() { Err(TrustError::EmptyFile { path: path.to_owned() }) } else { Ok(roots) }
}

type Connector = HttpsConnector<HttpConnector<Resolver>>;

async fn follow(request: Request<'_>) -> Result<Response, HttpError> {
    let mut url = parse(request.url)?;
    let mut headers = headers(&request)?;
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector(&request, &url).await?);
    for _ in 0..=MAX_REDIRECTS {
        let answer = exchange(&client, &request, &url, &headers).await?;
        let Some(next) = redirect(&request, &url, &answer)? else {
            return read(&request, &url, answer).await;
        };
        if next.authority() != url.authority() {
            headers.remove(AUTHORIZATION);
        }
        url = next;
    }
    Err(HttpError::Redirect { url: request.url.to_owned(), to: url.to_string() })
}

fn parse(url: &str) -> Result<Uri, HttpError> {
    let uri = url.parse::<Uri>().ok();
    let is_http = |uri: &Uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some();
    uri.filter(is_http).ok_or_else(|| HttpError::Url(url.to_owned()))
}

fn headers(request: &Request<'_>) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::from_iter([(USER_AGENT, AGENT)]);
    for (name, value) in &request.headers {
        let parsed = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
        let (key, value) = parsed.ok_or_else(|| HttpError::Header { name: name.clone() })?;
        headers.insert(key, value);
    }
    Ok(headers)
}

/// Certificates are read anew each time: they are renewed more often than daemons are restarted.
async fn connector(request: &Request<'_>, url: &Uri) -> Result<Connector, HttpError> {
    let tls = if url.scheme_str() == Some("https") {
        let ca_file = request.ca_file.map(Path::to_owned);
        let load = tokio::task::spawn_blocking(move || client_config(ca_file.as_deref())).await;
        load.unwrap_or(Err(TrustError::NoSystemRoots))?
    } else {
        untrusting()?
    };
    let mut tcp = HttpConnector::new_with_resolver(Resolver { source: request.source });
    tcp.enforce_http(false); // TLS is what goes on top
    tcp.set_local_address(request.source);
    let builder = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(builder.enable_http1().wrap_connector(tcp))
}

/// For http://, where nobody is asked for a certificate.
fn untrusting() -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(TrustError::Tls)?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

async fn exchange(
    client: &Client<Connector, Full<Bytes>>,
    request: &Request<'_>,
    url: &Uri,
    headers: &HeaderMap,
) -> Result<hyper::Response<Incoming>, HttpError> {
    let mut question = hyper::Request::new(Full::new(request.body.clone()));
    *question.method_mut() = request.method.clone();
    *question.uri_mut() = url.clone();
    *question.headers_mut() = headers.clone();
    client.request(question).await.map_err(|source| match source.is_connect() {
        true => HttpError::Connect { url: url.to_string(), source },
        false => HttpError::Exchange { url: url.to_string(), source: source.into() },
    })
}

/// Where the answer points, if that is its whole content. What was posted is not posted elsewhere.
fn redirect(
    request: &Request<'_>,
    url: &Uri,
    answer: &hyper::Response<Incoming>,
) -> Result<Option<Uri>, HttpError> {
    let moved = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    if !moved || request.method != Method::GET {
        return Ok(None);
    }
    let to = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()).unwrap_or_default();
    let next = resolve_reference(url, to).filter(|next| next.scheme() == url.scheme());
    let fail = || HttpError::Redirect { url: url.to_string(), to: to.chars().take(200).collect() };
    next.map(Some).ok_or_else(fail)
}

/// RFC 3986 §5.2 for what servers write: a whole URL, one without scheme, or a path from the root.
fn resolve_reference(base: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with("//") {
        return parse(&format!("{}:{to}", base.scheme_str()?)).ok();
    }
    if to.starts_with('/') {
        return parse(&format!("{}://{}{to}", base.scheme_str()?, base.authority()?)).ok();
    }
    parse(to).ok()
}

async fn read(
    request: &Request<'_>,
    url: &Uri,
    answer: hyper::Response<Incoming>,
) -> Result<Response, HttpError> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, request.max_body).collect().await;
    let body = body.map_err(|source| match source.is::<LengthLimitError>() {
        true => HttpError::TooLong { url: url.to_string(), max: request.max_body },
        false => HttpError::Exchange { url: url.to_string(), source },
    })?;
    Ok(Response { status: head.status, headers: head.headers, body: body.to_bytes() })
}

/// Names for the connector, in the form that it wants.
#[derive(Clone)]
struct Resolver {
    source: Option<IpAddr>,
}

impl tower_service::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = resolve::LookUpError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let source = self.source;
        Box::pin(async move {
            let mut found = resolve::addresses(name.as_str()).await?;
            found.retain(|ip| source.is_none_or(|source| source.is_ipv4() == ip.is_ipv4()));
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each connection with the same, and tells what it was asked.
    async fn server(answer: String) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or_default();
                let _ = tell.send(String::from_utf8_lossy(&head[..length]).to_lowercase());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (at, told)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
    }

    #[tokio::test]
    async fn a_token_is_shown_to_nobody_else() {
        let (second, mut at_second) = server(answer("200 OK", "", "there")).await;
        let there = format!("Location: http://{second}/x?y\r\n");
        let (first, mut at_first) = server(answer("307 Temporary Redirect", &there, "")).await;
        let url = format!("http://{first}/a");
        let headers = vec![("authorization".to_owned(), "Bearer secret".to_owned())];
        let got = request(Request { headers, ..Request::get(&url) }).await.expect("an answer");
        assert_eq!((got.status, &got.body[..]), (StatusCode::OK, &b"there"[..]));
        let (first, second) = (at_first.recv().await.expect("asked"), at_second.recv().await.expect("asked"));
        assert!(first.starts_with("get /a http/1.1") && first.contains("bearer secret"), "{first}");
        assert!(second.starts_with("get /x?y http/1.1") && !second.contains("secret"), "{second}");
    }

    #[tokio::test]
    async fn what_is_posted_goes_nowhere_else() {
        let elsewhere = "Location: http://127.0.0.1:1/\r\n";
        let (at, mut asked) = server(answer("308 Permanent Redirect", elsewhere, "")).await;
        let url = format!("http://{at}/v1/logs");
        let post = Request { method: Method::POST, body: "{}".into(), ..Request::get(&url) };
        let got = request(post).await.expect("an answer");
        assert_eq!(got.status, StatusCode::PERMANENT_REDIRECT);
        assert!(asked.recv().await.expect("asked").contains("content-length: 2"));
    }

    #[tokio::test]
    async fn what_cannot_be_asked_is_an_error() {
        for url in ["", "ftp://x/", "http:///", "https://", "example.org", "http://a b/"] {
            assert!(matches!(request(Request::get(url)).await, Err(HttpError::Url(_))), "{url}");
        }
        let headers = vec![("a b".to_owned(), "c".to_owned())];
        let wrong = request(Request { headers, ..Request::get("http://127.0.0.1:1/") }).await;
        assert!(matches!(wrong, Err(HttpError::Header { name }) if name == "a b"));
        let none =
            Request { ca_file: Some(Path::new("/nonexistent")), ..Request::get("https://127.0.0.1:1/") };
        let error = request(none).await.expect_err("no such file").to_string();
        assert!(error.contains("cannot read certificates from /nonexistent"), "{error}");
        let empty = Request { ca_file: Some(Path::new("/dev/null")), ..Request::get("https://127.0.0.1:1/") };
        assert!(request(empty).await.expect_err("no certificate").to_string().contains("no certificate"));
    }
}
