//! Accepting connections: bounded in number and in patience, with the caller's credentials.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Connections at a time; one more waits in the socket's backlog.
const MAX_CONNECTIONS: usize = 256;
/// How long a client may take to send the head of a request, and its body, and how long it may be silent between two
/// requests: a connection that says nothing must not keep its place.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes kept per connection in each direction, which also bounds the head of a request.
const MAX_BUFFER: usize = 64 << 10;

/// Who is at the other end (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) uid: Option<u32>,
    pub(super) pid: Option<i32>,
}

/// Serves until the task is aborted; its connections end with it.
pub(super) async fn serve(listener: UnixListener, router: Router) -> io::Result<Infallible> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => drop(connections.spawn(converse(stream, router.clone()))),
            Err(error) => {
                // Out of descriptors, mostly: some will be given back.
                tracing::warn!(%error, "the control socket cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, router: Router) {
    let credentials = stream.peer_cred().ok();
    let caller = Caller { uid: credentials.map(|c| c.uid()), pid: credentials.and_then(|c| c.pid()) };
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(MAX_BUFFER);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, uid = caller.uid, pid = caller.pid, "a control connection ended early");
    }
}
