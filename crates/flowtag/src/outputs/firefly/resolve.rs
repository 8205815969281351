//! Names of collectors to addresses: asked at start, again when the record expires, and again after a failure. DNS
//! is spoken by a library in the process, because a static binary cannot load the system's resolver modules.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowtag_wire::Experiment;
use hickory_resolver::TokioResolver;
use tokio::task::JoinHandle;

use crate::config;

/// Bounds on how long an answer is believed, whatever its TTL.
const BELIEVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
/// Bounds on the wait after a failure; it doubles in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A collector and the address that its name has now.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) config: config::Collector,
    state: Mutex<Resolution>,
}

#[derive(Debug, Default, Clone)]
struct Resolution {
    address: Option<IpAddr>,
    error: Option<String>,
}

impl Target {
    fn new(config: config::Collector) -> Self {
        let state = Resolution { address: config.host.parse().ok(), error: None };
        Self { config, state: Mutex::new(state) }
    }

    /// None: not resolved yet.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.read().address.map(|ip| SocketAddr::new(ip, self.config.port))
    }

    /// Why the last attempt to resolve failed. An earlier address stays in use.
    pub(crate) fn error(&self) -> Option<String> {
        self.read().error
    }

    fn read(&self) -> Resolution {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, outcome: Result<IpAddr, String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(address) => *state = Resolution { address: Some(address), error: None },
            Err(error) => state.error = Some(error),
        }
    }

    fn wants(&self, experiment: Experiment) -> bool {
        self.config.experiments.is_empty() || self.config.experiments.contains(&experiment)
    }
}

/// All collectors, shared by those who send and those who show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collectors(Arc<Mutex<Vec<Arc<Target>>>>);

impl Collectors {
    pub(crate) fn all(&self) -> Vec<Arc<Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn for_experiment(&self, experiment: Experiment) -> Vec<Arc<Target>> {
        let mut all = self.all();
        all.retain(|t| t.wants(experiment));
        all
    }

    fn replace(&self, targets: Vec<Arc<Target>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }
}

/// Keeps [`Collectors`] resolved; dropping it stops that.
#[derive(Debug)]
pub(crate) struct Resolver {
    collectors: Collectors,
    tasks: Vec<JoinHandle<()>>,
}

impl Resolver {
    pub(crate) const fn new(collectors: Collectors) -> Self {
        Self { collectors, tasks: Vec::new() }
    }

    /// From now on these are the collectors. One that was there before keeps its address.
    pub(crate) fn configure(&mut self, wanted: &[config::Collector]) {
        self.tasks.drain(..).for_each(|task| task.abort());
        let before = self.collectors.all();
        let keep = |config: &config::Collector| {
            let known = before.iter().find(|t| t.config == *config).cloned();
            known.unwrap_or_else(|| Arc::new(Target::new(config.clone())))
        };
        let targets: Vec<_> = wanted.iter().map(keep).collect();
        let named = targets.iter().filter(|t| t.config.host.parse::<IpAddr>().is_err());
        self.tasks = named.map(|t| tokio::spawn(keep_resolved(Arc::clone(t)))).collect();
        self.collectors.replace(targets);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn keep_resolved(target: Arc<Target>) {
    let mut wait = RETRY.0;
    loop {
        match look_up(&target.config.host).await {
            Ok((address, until)) => {
                if target.read().address != Some(address) {
                    tracing::info!(collector = %target.config, %address, "collector resolved");
                }
                target.set(Ok(address));
                wait = RETRY.0;
                let believe = until.saturating_duration_since(Instant::now());
                tokio::time::sleep(believe.clamp(BELIEVE.0, BELIEVE.1)).await;
            }
            Err(error) => {
                if target.error().is_none() {
                    tracing::warn!(collector = %target.config, error, "collector cannot be resolved, trying again");
                }
                target.set(Err(error));
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
