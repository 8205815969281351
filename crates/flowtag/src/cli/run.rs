//! `flowtag run`: the daemon.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::config::{Config, DEFAULT_PATH};
use crate::logging::Level;
use crate::supervisor;

/// Run the daemon: mark flows and send fireflies.
///
/// Stops on SIGTERM or SIGINT, reads its configuration again on SIGHUP. Needs root, or CAP_BPF, CAP_NET_ADMIN and
/// CAP_PERFMON; gives up all other capabilities after start.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag run\n  flowtag run --config ./flowtag.toml")]
pub(crate) struct Run {
    /// Configuration file [default: /etc/flowtag/flowtag.toml if it exists, else built-in defaults]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Run {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        if json {
            bail!(
                "the daemon prints no JSON: ask it with `flowtag --json status` or `flowtag --json flow watch`"
            );
        }
        let config = Config::load(self.config.as_deref())?;
        let level = Level::start(&config.log_level)?;
        config.log_findings();
        let path = self.config.unwrap_or_else(|| DEFAULT_PATH.into());
        let path = path.exists().then_some(path);
        supervisor::run(config, path, &level)
    }
}
