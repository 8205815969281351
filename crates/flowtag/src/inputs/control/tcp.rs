//! The control API on TCP (`inputs.control.listen`): for whoever has the token, by TLS where a certificate is configured.
//!
//! Who connects is not known here, so of the access rules only those without user and group apply. Token and certificate
//! are read again on SIGHUP.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use super::body::Failure;
use super::{Api, routes};
use crate::config::ControlTcp;
use crate::http::{self, Server};
use crate::supervisor::counters::Entry;
use crate::supervisor::service::{Daemon, Service};

/// Shorter ones can be guessed.
const MIN_TOKEN: usize = 16;
/// Of files with tokens, certificates and keys, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// How long an answer may be left unread.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);

/// Binds the port and reads token and certificate.
///
/// # Errors
/// One of them cannot be had, or is readable by those whom it is to keep out.
pub(crate) async fn prepare(config: &ControlTcp, daemon: &Daemon) -> Result<Service> {
    let secrets = Secrets::read(config)?;
    let listen = config.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} (inputs.control.listen): use another port, of 1024 or above")
    })?;
    if config.tls.is_none() && !listen.ip().to_canonical().is_loopback() {
        tracing::warn!(%listen, "the token can be read on the way: set inputs.control.tls_certificate and tls_key");
    }
    let hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let address = listener.local_addr().context("cannot tell where it listens")?;
    let api = Api::new("control-tcp", daemon);
    let entry = Entry { at: Some(format!("{scheme}://{address}")), ..Entry::new(vec![api.counters.clone()]) };
    let run = serve(listener, api, secrets, config.clone(), hangup);
    Ok(Service { entry, feed: None, run: Box::pin(run) })
}

async fn serve(listener: TcpListener, api: Api, secrets: Secrets, config: ControlTcp, mut hangup: Signal) {
    let server = Server {
        write_patience: Some(WRITE_PATIENCE),
        tls: secrets.acceptor.clone(),
        ..Server::new("inputs.control_tcp")
    };
    let guard = middleware::from_fn_with_state(secrets.token.clone(), admit);
    let serving = http::serve(listener, routes::router(api, |router| router.layer(guard)), server);
    let refreshing = async {
        while hangup.recv().await.is_some() {
            if let Err(error) = secrets.refresh(&config) {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the old token and certificate go on being used (inputs.control)"
                );
            }
        }
    };
    tokio::select! {
        never = serving => match never {},
        () = refreshing => {}
    }
}

/// What is read from files, and may change.
struct Secrets {
    token: Arc<Token>,
    certificate: Option<Arc<Certificate>>,
    acceptor: Option<TlsAcceptor>,
}

/// None: whoever reaches the port may use it.
type Token = RwLock<Option<Vec<u8>>>;

impl Secrets {
    fn read(config: &ControlTcp) -> Result<Self> {
        let token = config.token_file.as_deref().map(read_token).transpose()?;
        let certificate = config.tls.as_ref().map(read_certificate).transpose()?;
        let certificate = certificate.map(|key| Arc::new(Certificate(RwLock::new(Arc::new(key)))));
        let acceptor = certificate.clone().map(acceptor).transpose()?;
        Ok(Self { token: Arc::new(RwLock::new(token)), certificate, acceptor })
    }

    fn refresh(&self, config: &ControlTcp) -> Result<()> {
        let token = config.token_file.as_deref().map(read_token).transpose()?;
        let certificate = config.tls.as_ref().map(read_certificate).transpose()?;
        *self.token.write().unwrap_or_else(PoisonError::into_inner) = token;
        if let (Some(place), Some(key)) = (&self.certificate, certificate) {
            *place.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        }
        Ok(())
    }
}

fn acceptor(certificate: Arc<Certificate>) -> Result<TlsAcceptor> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().context("cannot set up TLS")?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificate for the next connection.
#[derive(Debug)]
struct Certificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read_certificate((certificate, key): &(PathBuf, PathBuf)) -> Result<CertifiedKey> {
    let names = || format!("{} and {}", certificate.display(), key.display());
    let (certificates, _) = read(certificate, "inputs.control.tls_certificate")?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificates)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is not in the form of PEM", certificate.display()))?;
    ensure!(
        !chain.is_empty(),
        "{} has no certificate (inputs.control.tls_certificate): it needs the chain as PEM, the server's own first",
        certificate.display()
    );
    let (text, metadata) = read(key, "inputs.control.tls_key")?;
    refuse_open(key, &metadata, 0o007, "inputs.control.tls_key")?;
    let private = PrivateKeyDer::from_pem_slice(&text)
        .with_context(|| format!("{} has no private key (inputs.control.tls_key)", key.display()))?;
    CertifiedKey::from_der(chain, private, &ring::default_provider()).with_context(|| {
        format!("{} do not belong together (inputs.control.tls_certificate, tls_key)", names())
    })
}

fn read_token(path: &Path) -> Result<Vec<u8>> {
    let (text, metadata) = read(path, "inputs.control.token_file")?;
    refuse_open(path, &metadata, 0o077, "inputs.control.token_file")?;
    let token = text.trim_ascii();
    if token.len() < MIN_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
        bail!(
            "{} has no token (inputs.control.token_file): it must be one line of at least {MIN_TOKEN} letters and \
             digits, as `openssl rand -hex 32` makes",
            path.display()
        );
    }
    Ok(token.to_vec())
}

fn read(path: &Path, key: &str) -> Result<(Vec<u8>, std::fs::Metadata)> {
    let read = || -> io::Result<_> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text)?;
        Ok((text, metadata))
    };
    read().with_context(|| format!("cannot read {} ({key})", path.display()))
}

/// A secret that others can read or replace is none.
fn refuse_open(path: &Path, metadata: &std::fs::Metadata, others: u32, key: &str) -> Result<()> {
    let (path, mode, owner) = (path.display(), metadata.mode() & 0o7777, metadata.uid());
    let us = nix::unistd::geteuid().as_raw();
    ensure!(owner == 0 || owner == us, "{path} belongs to uid {owner} ({key}): chown {us} {path}");
    ensure!(
        mode & others == 0,
        "{path} has mode {mode:04o}, so others can read it ({key}): chmod 0600 {path}"
    );
    Ok(())
}

/// Lets requests pass that have the token.
async fn admit(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    // Browsers say on whose behalf they send. Nothing on a page has business here, and on loopback there is no other
    // hindrance.
    if request.headers().contains_key(header::ORIGIN) {
        let error = "requests of web pages are not taken";
        return Failure::new(StatusCode::FORBIDDEN, error).into_response();
    }
    let is_right = token
        .read()
        .unwrap_or_else(PoisonError::into_inner)
        .as_ref()
        .is_none_or(|token| given(request.headers()).is_some_and(|given| token.ct_eq(given).into()));
    if is_right {
        return next.run(request).await;
    }
    let error =
        "the token is missing or wrong: send `Authorization: Bearer TOKEN`, as in inputs.control.token_file";
    let mut response = Failure::new(StatusCode::UNAUTHORIZED, error).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// RFC 6750 §2.1; the scheme's name in any case, RFC 9110 §11.1.
fn given(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
