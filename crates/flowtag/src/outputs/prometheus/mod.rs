//! Metrics for Prometheus.

use anyhow::{Result, bail};

use crate::config;
use crate::supervisor::service::{Daemon, Service};

/// Makes it ready to run.
///
/// # Errors
/// What it needs cannot be had.
pub(crate) async fn prepare(_config: &config::Prometheus, _daemon: &Daemon) -> Result<Service> {
    bail!("is not there yet")
}
