//! The control API: HTTP/JSON on a UNIX socket. `docs/openapi.yaml` says what it takes and gives.
//!
//! Who may connect is decided by the socket's mode and group, and who may tag as what by the uid and the groups of whoever
//! connected; the uid of whoever changes something is logged. Bad requests get a 4xx with a reason; the daemon goes on.
//! [`tcp`] serves the same to other hosts.

mod asker;
mod body;
pub(crate) mod coverage;
pub(crate) mod model;
mod routes;
mod rules;
pub(crate) mod tcp;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::extract::FromRef;

use crate::config::Gate;
use crate::http;
use crate::inputs::gate::{self, Created, GateError};
use crate::supervisor::counters::{Entry, counters};
use crate::supervisor::service::{Daemon, Service};
use crate::supervisor::throttle::Throttle;

counters! {
    /// What came through the API.
    pub(crate) struct Counters {
        /// Requests of any kind.
        requests,
        /// Events that were taken.
        events,
        /// Requests and events of a batch that were wrong, or that the engine refused.
        refused,
        /// Requests and events of a batch that are not for whoever sent them: no access block allows it, or the token is wrong.
        denied,
    }
}

/// What all handlers have.
#[derive(Clone)]
struct Api {
    daemon: Daemon,
    /// As in `access.input`.
    input: &'static str,
    counters: Arc<Counters>,
    /// Of denials in the log.
    throttle: Arc<Mutex<Throttle>>,
}

impl Api {
    fn new(input: &'static str, daemon: &Daemon) -> Self {
        Self { daemon: daemon.clone(), input, counters: Arc::default(), throttle: Arc::default() }
    }
}

impl FromRef<Api> for Daemon {
    fn from_ref(api: &Api) -> Self {
        api.daemon.clone()
    }
}

/// The socket, bound and not yet served.
pub(crate) struct Input {
    listener: UnixListener,
    path: PathBuf,
    _created: Created,
}

impl Input {
    /// Binds the socket. Needs the privileges of start-up.
    ///
    /// # Errors
    /// [`GateError`]; a socket that somebody listens on, or anything that is not a socket, is left as it is.
    pub(crate) fn prepare(gate: &Gate) -> Result<Self, GateError> {
        gate::parent(&gate.path)?;
        remove_stale(&gate.path)?;
        let listener = bind_closed(&gate.path).map_err(GateError::io("listen on", &gate.path))?;
        let created = Created::new(&gate.path)?;
        gate::secure(gate)?;
        listener.set_nonblocking(true).map_err(GateError::io("listen on", &gate.path))?;
        Ok(Self { listener, path: gate.path.clone(), _created: created })
    }

    pub(crate) fn service(self, daemon: &Daemon) -> Service {
        let api = Api::new("control", daemon);
        let at = Some(self.path.display().to_string());
        let entry = Entry { at, ..Entry::new(vec![api.counters.clone()]) };
        Service { entry, feed: None, run: Box::pin(self.run(api)) }
    }

    /// Serves until the daemon stops.
    async fn run(self, api: Api) {
        match tokio::net::UnixListener::from_std(self.listener) {
            Ok(listener) => {
                let server = http::Server::new("inputs.control");
                match http::serve(listener, routes::router(api, std::convert::identity), server).await {}
            }
            Err(error) => tracing::error!(
                path = %self.path.display(), %error,
                "the control socket is not served: restart flowtag (systemctl restart flowtag)"
            ),
        }
    }
}

/// Nobody but us may connect before mode and group are set.
fn bind_closed(path: &Path) -> io::Result<UnixListener> {
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    listener
}

/// A socket that nobody listens on is what a killed predecessor left.
fn remove_stale(path: &Path) -> Result<(), GateError> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(GateError::io("look at", path))?,
    };
    if !found.file_type().is_socket() {
        return Err(GateError::NotASocket { path: path.to_owned(), kind: gate::kind_of(&found) });
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(GateError::io("remove the stale socket", path))
        }
        _ => Err(GateError::InUse { path: path.to_owned() }),
    }
}
