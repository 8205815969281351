//! `flowtag detach`: takes everything of flowtag out of the kernel.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use flowtag_kernel::mark;

use super::output;
use crate::config::Config;

/// Take everything of flowtag out of the kernel: programs, maps, filters.
///
/// Marking goes on for a while after the daemon has stopped or was killed (mark.on_stop, mark.lease); this ends it. No
/// packet is lost. Flows that are marked then are not taken over by the next daemon.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    systemctl stop flowtag && flowtag detach\n  \
    flowtag detach --pin /sys/fs/bpf/other --runtime-dir /run/other")]
pub(crate) struct Detach {
    /// Where maps and links are kept [default: mark.pin of the configuration]
    #[arg(long, value_name = "DIR")]
    pin: Option<PathBuf>,
    /// The daemon's directory [default: runtime_dir of the configuration]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Also while a daemon runs: it goes on without marking anything
    #[arg(long)]
    force: bool,
}

impl Detach {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let (pin, runtime_dir) = match (self.pin, self.runtime_dir) {
            (Some(pin), Some(runtime_dir)) => (Some(pin), runtime_dir),
            (pin, runtime_dir) => {
                let config = Config::load(None).context("give --pin and --runtime-dir")?;
                (pin.or(config.pin), runtime_dir.unwrap_or(config.runtime_dir))
            }
        };
        let lock = lock(&runtime_dir)?;
        if matches!(lock, Lock::Held) && !self.force {
            bail!(
                "a daemon runs with {}: stop it first (`systemctl stop flowtag`), or add --force",
                runtime_dir.display()
            );
        }
        let removed: BTreeSet<_> = mark::remove_pinned(pin.as_deref(), Some(&runtime_dir))
            .context("not everything of flowtag could be taken out of the kernel: run as root")?
            .into_iter()
            .collect();
        if json {
            return output::json(&serde_json::json!({ "removed": removed }));
        }
        if removed.is_empty() {
            return output::line("nothing of flowtag is in the kernel");
        }
        let removed: Vec<_> = removed.iter().map(String::as_str).collect();
        output::line(format_args!("removed: {}", removed.join(", ")))
    }
}

/// Whether a daemon runs.
enum Lock {
    Held,
    /// Nobody can start until this is dropped.
    Ours(#[expect(dead_code, reason = "held open: closing it unlocks")] File),
    /// No daemon was ever started there.
    Absent,
}

fn lock(runtime_dir: &Path) -> Result<Lock> {
    let path = runtime_dir.join("lock");
    let file = match OpenOptions::new().append(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Absent),
        file => file.with_context(|| {
            format!("cannot see whether a daemon runs, by {}: run as root", path.display())
        })?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock::Ours(file)),
        Err(TryLockError::WouldBlock) => Ok(Lock::Held),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot see whether a daemon runs, by {}", path.display()))
        }
    }
}
