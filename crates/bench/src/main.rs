//! What flowtag costs, measured side by side in one run: `make bench` writes the table to `docs/performance.md`. Names
//! of sections as arguments measure only those, and print.
//!
//! The machine is noisy, so everything that is compared is interleaved, A B A B …, and medians of the runs and of the
//! ratios within each pair are given, with the spread. Nothing here passes or fails.

mod connections;
mod daemon;
mod fireflies;
mod in_place;
mod inputs;
mod lane;
mod load;
mod memory;
mod observe;
mod program;
mod report;
mod site;
mod statistics;
mod test_run;
mod throughput;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use report::Report;

const SECTIONS: [&str; 10] = [
    "program",
    "load",
    "in-place",
    "throughput",
    "connections",
    "statistics",
    "observe",
    "inputs",
    "fireflies",
    "memory",
];

fn main() -> Result<()> {
    if let [hold, connections] = &std::env::args().skip(1).collect::<Vec<_>>()[..]
        && hold == statistics::HOLD
    {
        return statistics::keep(connections);
    }
    ensure!(flowtag_testbed::root(), "eBPF and network namespaces need root: sudo make bench");
    let flowtag: PathBuf =
        std::env::current_exe()?.with_file_name("flowtag").canonicalize().context("not built")?;
    let only: Vec<String> = std::env::args().skip(1).collect();
    let unknown = only.iter().find(|name| !SECTIONS.contains(&name.as_str()));
    ensure!(unknown.is_none(), "there is no section {unknown:?}: name some of {}", SECTIONS.join(", "));
    // Their clock would be in every figure; the section that wants them switches them on.
    let statistics = fs::read_to_string(in_place::SYSCTL)?;
    fs::write(in_place::SYSCTL, "0")?;
    let mut report = Report::new()?;
    let wanted = SECTIONS.into_iter().filter(|name| only.is_empty() || only.iter().any(|o| o == name));
    let result = wanted
        .into_iter()
        .try_for_each(|name| section(name, &mut report, &flowtag).with_context(|| format!("section {name}")));
    fs::write(in_place::SYSCTL, statistics)?;
    result?;
    let text = report.finish();
    println!("{text}");
    if only.is_empty() {
        let path = "docs/performance.md";
        fs::write(path, text)
            .with_context(|| format!("writing {path}: run it at the top of the repository"))?;
    }
    Ok(())
}

fn section(name: &str, report: &mut Report, flowtag: &Path) -> Result<()> {
    match name {
        // As many threads as it likes.
        "inputs" => return inputs::run(report, flowtag),
        "memory" => return memory::run(report, flowtag),
        "fireflies" => return fireflies::run(report, flowtag),
        // Pins what must be on one CPU by itself.
        "observe" => return observe::run(report),
        _ => {}
    }
    let cpus = site::pin()?;
    match name {
        "program" => program::run(report)?,
        "load" => load::run(report)?,
        "in-place" => in_place::run(report)?,
        "throughput" => throughput::run(report)?,
        "statistics" => statistics::run(report)?,
        _ => connections::run(report)?,
    }
    site::run_on(&cpus)
}
