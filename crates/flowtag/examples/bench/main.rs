//! What flowtag costs, measured side by side in one run: `make bench` writes the table to `docs/performance.md`.
//!
//! The machine is noisy, so everything that is compared is interleaved, A B A B …, and medians of the runs and of the
//! ratios within each pair are given, with the spread. Nothing here passes or fails.

mod daemon;
mod in_place;
mod program;
mod report;
mod throughput;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use report::Report;

fn main() -> Result<()> {
    ensure!(flowtag_testbed::root(), "eBPF and network namespaces need root: sudo make bench");
    let flowtag: PathBuf =
        std::env::current_exe()?.with_file_name("../flowtag").canonicalize().context("not built")?;
    let only: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    // Their clock would be in every figure; the section that wants them switches them on.
    let statistics = fs::read_to_string(in_place::SYSCTL)?;
    fs::write(in_place::SYSCTL, "0")?;
    let mut report = Report::new()?;
    if wanted("program") {
        program::run(&mut report)?;
    }
    if wanted("in-place") {
        in_place::run(&mut report)?;
    }
    if wanted("throughput") {
        throughput::run(&mut report)?;
    }
    if wanted("daemon") {
        daemon::run(&mut report, &flowtag)?;
    }
    fs::write(in_place::SYSCTL, statistics)?;
    let text = report.finish();
    println!("{text}");
    if only.is_empty() {
        let path = "docs/performance.md";
        fs::write(path, text)
            .with_context(|| format!("writing {path}: run it at the top of the repository"))?;
    }
    Ok(())
}
