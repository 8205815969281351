//! `flowtag tag`.

use anyhow::Result;
use clap::Args;

/// Not there yet.
#[derive(Debug, Args)]
pub(crate) struct Tag {}

impl Tag {
    pub(crate) fn run(self, _json: bool) -> Result<()> {
        anyhow::bail!("not there yet")
    }
}
