//! What a flow costs in memory.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::daemon::{BATCH, Daemon, batch};
use crate::report::Report;

/// So that the table and everything before it has room.
const MAX: u32 = 1 << 20;

pub(crate) fn run(report: &mut Report, flowtag: &Path) -> Result<()> {
    report.section(
        "Memory and size",
        "Resident memory of the daemon with flows.max = 1048576, after START events for so many flows by the API. Its own \
         memory (RssAnon) without that of the idle daemon, and per flow; the rest is the program and the array of 64 bytes a \
         flow of flows.max that it shares with the kernel (RssFile, RssShmem). Aims: at most 400 bytes a flow, binary at most \
         10 MB.",
        &["", "own, MB", "own, bytes a flow", "shared and files, MB"],
    );
    let daemon = Daemon::start(flowtag, MAX)?;
    let (idle, files) = daemon.resident()?;
    let megabytes = |bytes: f64| format!("{:.1}", bytes / 1e6);
    report.row(&["idle, no flows".into(), megabytes(idle), "–".into(), megabytes(files)]);
    let mut from = 0;
    for flows in [10_000, 100_000, 1_000_000] {
        (from..flows).step_by(BATCH).try_for_each(|first| daemon.post(&batch(first..first + BATCH)))?;
        ensure!(daemon.flows()? == flows, "flows are missing");
        let (own, files) = daemon.resident()?;
        let each = format!("{:.0}", (own - idle) / flows as f64);
        report.row(&[format!("{flows} flows"), megabytes(own), each, megabytes(files)]);
        from = flows;
    }
    let size = fs::metadata(flowtag)?.len() as f64;
    report.row(&["release binary".into(), megabytes(size), String::new(), String::new()]);
    Ok(())
}
