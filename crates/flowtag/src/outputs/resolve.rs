//! Names of those whom flowtag sends something to addresses: asked at start, again when the record expires, and again
//! after a failure. DNS is spoken by a library in the process, because a static binary cannot load the system's resolver
//! modules.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use tokio::task::AbortHandle;

use crate::config::HostPort;
use crate::supervisor::counters::Target;

/// Bounds on how long an answer is believed, whatever its TTL.
const BELIEVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// Bounds on the wait after a failure; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A host and the address that its name has now. Its name is followed until it is dropped.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: HostPort,
    state: Arc<Mutex<Resolution>>,
    /// None: an address needs no resolver.
    follower: Option<AbortHandle>,
}

#[derive(Debug, Default, Clone)]
struct Resolution {
    address: Option<IpAddr>,
    error: Option<String>,
}

impl Host {
    /// Begins to follow a name; to be called within the runtime.
    pub(crate) fn follow(name: HostPort) -> Self {
        let address = name.host.parse().ok();
        let state = Arc::new(Mutex::new(Resolution { address, error: None }));
        let follower = address
            .is_none()
            .then(|| tokio::spawn(keep_resolved(name.clone(), Arc::clone(&state))).abort_handle());
        Self { name, state, follower }
    }

    /// None: not resolved yet.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        read(&self.state).address.map(|ip| SocketAddr::new(ip, self.name.port))
    }

    pub(crate) fn target(&self) -> Target {
        let address = self.address().map(|a| a.to_string());
        Target { name: self.name.to_string(), address, error: self.error() }
    }

    /// Why the last attempt to resolve failed. An earlier address stays in use.
    pub(crate) fn error(&self) -> Option<String> {
        read(&self.state).error
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.follower.iter().for_each(AbortHandle::abort);
    }
}

fn read(state: &Mutex<Resolution>) -> Resolution {
    state.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn keep_resolved(name: HostPort, state: Arc<Mutex<Resolution>>) {
    let write = |new: Resolution| *state.lock().unwrap_or_else(PoisonError::into_inner) = new;
    let mut wait = RETRY.0;
    loop {
        let before = read(&state);
        match look_up(&name.host).await {
            Ok((address, until)) => {
                if before.address != Some(address) {
                    tracing::info!(host = %name, %address, "name resolved");
                }
                write(Resolution { address: Some(address), error: None });
                wait = RETRY.0;
                let believe = until.saturating_duration_since(Instant::now());
                tokio::time::sleep(believe.clamp(BELIEVE.0, BELIEVE.1)).await;
            }
            Err(error) => {
                if before.error.is_none() {
                    tracing::warn!(host = %name, error, "name cannot be resolved, trying again");
                }
                write(Resolution { error: Some(error), ..before });
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

/// A new resolver each time: `/etc/resolv.conf` and `/etc/hosts` may have changed.
async fn look_up(host: &str) -> Result<(IpAddr, Instant), String> {
    let resolver = TokioResolver::builder_tokio().and_then(|b| b.build()).map_err(|e| e.to_string())?;
    let answer = resolver.lookup_ip(host).await.map_err(|e| e.to_string())?;
    let address = answer.iter().next().ok_or("the name has no address")?;
    Ok((address, answer.as_lookup().valid_until()))
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name {host:?} cannot be resolved: {reason}")]
pub(crate) struct LookUpError {
    host: String,
    reason: String,
}

/// All addresses of a name or of an address in text, of both families, asked for now.
///
/// # Errors
/// There is no resolver, it does not know the name, or the name has no address.
pub(crate) async fn addresses(host: &str) -> Result<Vec<IpAddr>, LookUpError> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let fail = |reason: String| LookUpError { host: host.to_owned(), reason };
    let resolver = TokioResolver::builder_tokio().and_then(|b| b.build()).map_err(|e| fail(e.to_string()))?;
    let found = resolver.lookup_ip(host).await.map_err(|e| fail(e.to_string()))?;
    let found: Vec<_> = found.iter().collect();
    if found.is_empty() { Err(fail("it has no address".to_owned())) } else { Ok(found) }
}
