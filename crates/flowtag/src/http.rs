//! The one HTTP server of the daemon, for whatever is served by HTTP: bounded in connections, in the length of a head,
//! and in patience with clients that say nothing or do not read.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::supervisor::throttle::Throttle;

/// How long a client may take for a TLS handshake, to send the head of a request, and its body, and how long it may be
/// silent between two requests: a connection that says nothing must not keep its place.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes kept per connection in each direction, which also bounds the head of a request.
const MAX_BUFFER: usize = 64 << 10;

/// Who is at the other end. Every handler can have it, as `Extension<Caller>`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// Of a UNIX socket (SO_PEERCRED, unix(7)), as it was when the caller connected.
    pub(crate) uid: Option<u32>,
    pub(crate) pid: Option<i32>,
    /// The primary group and the others (SO_PEERGROUPS), of the same moment.
    pub(crate) groups: Arc<[u32]>,
    /// Of TCP.
    pub(crate) peer: Option<SocketAddr>,
}

/// Where connections come from.
pub(crate) trait Accept: Send {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Caller)>> + Send;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Caller)> {
        let (stream, _) = Self::accept(self).await?;
        let credentials = stream.peer_cred().ok();
        let (uid, pid) = (credentials.map(|c| c.uid()), credentials.and_then(|c| c.pid()));
        let supplementary = flowtag_kernel::peer::groups(stream.as_fd()).unwrap_or_default();
        let groups = credentials.map(|c| c.gid()).into_iter().chain(supplementary).collect();
        Ok((stream, Caller { uid, pid, groups, peer: None }))
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Caller)> {
        let (stream, peer) = Self::accept(self).await?;
        let _ = stream.set_nodelay(true); // answers are written in one go
        Ok((stream, Caller { peer: Some(peer), ..Caller::default() }))
    }
}

/// What differs between those who serve.
#[derive(Clone)]
pub(crate) struct Server {
    /// For the log: `the control socket`.
    pub(crate) name: &'static str,
    /// Connections at a time; one more waits in the socket's backlog.
    pub(crate) max_connections: usize,
    /// How long a client may leave an answer unread. None: for ever, as one that watches may.
    pub(crate) write_patience: Option<Duration>,
    pub(crate) tls: Option<TlsAcceptor>,
}

impl Server {
    /// Plain, and bounded as usual.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, max_connections: 256, write_patience: None, tls: None }
    }
}

/// Serves until the task is aborted; its connections end with it.
pub(crate) async fn serve(listener: impl Accept, router: Router, server: Server) -> Infallible {
    let (mut connections, mut throttle) = (JoinSet::new(), Throttle::default());
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= server.max_connections {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, caller)) => {
                let router = router.clone().layer(Extension(caller.clone()));
                drop(connections.spawn(converse(stream, caller, router, server.clone())));
            }
            Err(error) => {
                // Out of descriptors, mostly: some will be given back.
                throttle.warn_at("cannot accept a connection", &server.name, &error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<S>(stream: S, caller: Caller, router: Router, server: Server)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(server.write_patience);
    let mut stream = Box::pin(stream);
    let result = match &server.tls {
        None => answer(stream, router).await,
        Some(tls) => match tokio::time::timeout(PATIENCE, tls.accept(&mut stream)).await {
            Ok(Ok(stream)) => answer(stream, router).await,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no TLS handshake within {PATIENCE:?}")),
        },
    };
    if let Err(error) = result {
        let name = server.name;
        tracing::debug!(error, name, uid = caller.uid, pid = caller.pid, peer = ?caller.peer, "a connection ended early");
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + Send, router: Router) -> Result<(), String> {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_BUFFER);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
    served.map_err(|error| error.to_string())
}
