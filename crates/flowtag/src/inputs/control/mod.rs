//! The control API: HTTP/JSON on a UNIX socket. `docs/openapi.yaml` says what it takes and gives.
//!
//! Who may connect is decided by the socket's mode and group; the uid of whoever changes something is logged. Bad
//! requests get a 4xx with a reason; the daemon goes on.

mod body;
pub(crate) mod coverage;
mod listener;
pub(crate) mod model;
mod routes;
mod rules;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::Gate;
use crate::inputs::gate::{self, Created, GateError};
use crate::supervisor::counters::Entry;
use crate::supervisor::service::{Daemon, Service};

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
        let entry = Entry { at: Some(self.path.display().to_string()), ..Entry::new(Vec::new()) };
        Service { entry, feed: None, run: Box::pin(self.run(daemon.clone())) }
    }

    /// Serves until the daemon stops.
    async fn run(self, daemon: Daemon) {
        let Err(error) = listener::serve(self.listener, routes::router(daemon)).await;
        tracing::error!(%error, "the control socket broke and is not served any more");
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
