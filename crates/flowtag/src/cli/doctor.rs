//! `flowtag doctor`.

use anyhow::Result;
use clap::Args;

/// Not there yet.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

impl Doctor {
    pub(crate) fn run(self, _json: bool) -> Result<()> {
        anyhow::bail!("not there yet")
    }
}
