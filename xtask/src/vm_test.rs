//! The integration tests under other kernels: builds them once, boots each kernel once, runs every test by itself.
//!
//! Place in the flow: `make vm-test` and CI; the results feed `kernels-doc`. Every test gets a process of its own in
//! the guest, so that one that hangs or kills its process costs no other. A test without an answer has failed: it
//! must never be taken for one that passed.
//!
//! ```text
//! cargo xtask vm-test --kernel 6.1 --require 6.1 --test marking
//! ```

pub(crate) mod results;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::vm::kernel::{Arch, KERNELS, Kernel};
use crate::vm::{self, CopiedFile, Request, quote};
use results::{Outcome, Reader, Report, TestResult};

/// Whose integration tests are meant if nobody says.
const PACKAGE: &str = "flowtag";
/// Its tests that depend on the kernel. All others need programs that the guest does not have, or would only be slow there.
const TESTS: [&str; 19] = [
    "devices",
    "doctor",
    "firefly_input",
    "lifecycle",
    "marking",
    "observe_daemon",
    "observe_drops",
    "observe_flows",
    "observe_latency",
    "observe_life",
    "observe_listen",
    "observe_owner",
    "observe_resets",
    "observe_retrans",
    "observe_top",
    "rules",
    "statistics",
    "strategies",
    "survive",
];
/// Kernels whose tracing programs cannot keep anything with a socket (before 5.11): commands that observe say so and end.
const OLD: [&str; 1] = ["5.10"];
/// What the tests of those commands begin with.
const OBSERVE: &str = "observe_";
/// Seconds that one test may take in the guest.
const TEST_LIMIT: u32 = 300;

/// Runs one test and says when it began and ended, in lines that `results` reads.
const RUN: &str = r#"run() {
  read now _ </proc/uptime; echo "@begin $1 $2 $now"
  /usr/bin/timeout -k 5 LIMIT "/tests/$1" --exact "$2" --nocapture --test-threads=1 -q; status=$?
  read now _ </proc/uptime; printf '\n@end %s %s %s %s\n' "$1" "$2" $status "$now"
}
read now _ </proc/uptime; echo "@kernel $(uname -r) $now"
"#;

/// How `vm-test` is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A kernel to test under: 5.10, 6.1, 6.12, 6.18, 7.3 or `newest`; all if none is given.
    #[arg(short, long = "kernel", value_name = "K")]
    kernels: Vec<String>,
    /// A kernel without which this fails; any other that cannot be had is only a warning.
    #[arg(short, long, value_name = "K")]
    require: Vec<String>,
    /// Runs only this test binary; without any, all that depend on the kernel, of another package all.
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// The package whose tests are run; its program is /NAME in the guest, and FLOWTAG_BIN says so.
    #[arg(short, long, default_value = PACKAGE)]
    package: String,
    /// Copies a file into each guest.
    #[arg(short, long = "file", value_name = "SRC[:DST]")]
    files: Vec<CopiedFile>,
    /// Sets an environment variable of the tests.
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Seconds until a guest is stopped.
    #[arg(short, long, default_value_t = 1500)]
    timeout: u64,
    /// Kernels that run at the same time, each on one processor of this machine.
    #[arg(short, long, default_value_t = 1)]
    jobs: usize,
    /// Runs only the tests with this in their name.
    filter: Option<String>,
}

/// A test binary and its tests.
#[derive(Debug, Clone)]
struct Binary {
    name: String,
    path: PathBuf,
    tests: Vec<String>,
    ignored: Vec<String>,
}

/// What is the same for all kernels.
#[derive(Debug)]
struct Plan<'a> {
    args: &'a Args,
    binaries: Vec<Binary>,
    files: Vec<CopiedFile>,
    env: Vec<String>,
    results: PathBuf,
}

/// `cargo xtask vm-test`.
///
/// # Errors
/// The tests cannot be built, or there are none.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let plan = plan(root, args)?;
    let (kernels, missing) = fetch(args)?;
    let jobs = args.jobs.clamp(1, kernels.len().max(1));
    let (waiting, reports) = (Mutex::new(VecDeque::from(kernels)), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&plan, &waiting, &reports));
        }
    });
    let reports = reports.into_inner().unwrap_or_default();
    Ok(summary(&reports, missing))
}

/// Takes kernels until none is left.
fn work(plan: &Plan<'_>, waiting: &Mutex<VecDeque<Kernel>>, reports: &Mutex<Vec<Report>>) {
    let next = || waiting.lock().ok()?.pop_front();
    while let Some(kernel) = next() {
        let report = test(plan, &kernel).unwrap_or_else(|e| {
            eprintln!("xtask vm-test: kernel {}: {e:#}", kernel.version);
            Report::without_answer(&kernel, &plan.all_tests(&kernel.version))
        });
        if let Ok(mut reports) = reports.lock() {
            reports.push(report);
        }
    }
}

/// Boots one kernel and writes its results.
fn test(plan: &Plan<'_>, kernel: &Kernel) -> Result<Report> {
    let request = Request {
        kernel,
        script: plan.script(&kernel.version),
        files: plan.files.clone(),
        modules: Vec::new(),
        env: plan.env.clone(),
        timeout: Duration::from_secs(plan.args.timeout),
        log: Some(plan.results.join(format!("{}.console", kernel.version))),
        icount: false,
    };
    println!("[{}] {} {}", kernel.version, kernel.package, kernel.package_version);
    let mut reader = Reader::new(&kernel.version);
    let outcome = vm::boot(&request, |bytes| vm::print(reader.push(bytes).as_bytes()))?;
    let report = reader.finish(kernel, outcome, &plan.all_tests(&kernel.version));
    let path = plan.results.join(format!("{}.json", kernel.version));
    let json = serde_json::to_string_pretty(&report).context("writing results")?;
    fs::write(&path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    Ok(report)
}

impl Plan<'_> {
    fn script(&self, version: &str) -> String {
        let mut script = RUN.replace("LIMIT", &TEST_LIMIT.to_string());
        for binary in self.binaries_for(version) {
            for test in binary.tests.iter().filter(|t| !binary.ignored.contains(t)) {
                script += &format!("run {} {}\n", quote(&binary.name), quote(test));
            }
        }
        script
    }

    /// Those that are for a kernel of this version, as `6.12`.
    fn binaries_for(&self, version: &str) -> impl Iterator<Item = &Binary> {
        let is_old = OLD.contains(&version);
        self.binaries.iter().filter(move |b| !(is_old && b.name.starts_with(OBSERVE)))
    }

    /// Every test as if it had not been run.
    fn all_tests(&self, version: &str) -> Vec<TestResult> {
        let result = |binary: &Binary, test: &String| TestResult {
            binary: binary.name.clone(),
            name: test.clone(),
            outcome: if binary.ignored.contains(test) { Outcome::Ignored } else { Outcome::Failed },
            seconds: 0.0,
        };
        self.binaries_for(version).flat_map(|b| b.tests.iter().map(move |t| result(b, t))).collect()
    }
}

fn plan<'a>(root: &Path, args: &'a Args) -> Result<Plan<'a>> {
    let results = root.join(results_directory(args));
    fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
    let binaries = test_binaries(root, args)?;
    let mut files = args.files.clone();
    let mut env = vec!["FLOWTAG_VM=1".into()];
    env.extend(std::env::var("CI").map(|v| format!("CI={v}")));
    for program in build(root, &["build", "--package", &args.package], "bin")? {
        env.extend((program.name == PACKAGE).then(|| "FLOWTAG_BIN=/flowtag".to_owned()));
        files.push(CopiedFile { from: program.path, to: format!("/{}", program.name) });
    }
    let in_guest = |b: &Binary| CopiedFile { from: b.path.clone(), to: format!("/tests/{}", b.name) };
    files.extend(binaries.iter().map(in_guest));
    files.extend(goldens(root));
    env.extend(args.env.iter().cloned());
    Ok(Plan { args, binaries, files, env, results })
}

/// What outputs are held against: the tests look for it where it was as they were built.
fn goldens(root: &Path) -> Vec<CopiedFile> {
    let all = fs::read_dir(root.join("crates/flowtag/tests/golden")).into_iter().flatten().flatten();
    let files = all.map(|entry| entry.path()).filter(|path| path.is_file());
    files.map(|path| CopiedFile { to: path.display().to_string(), from: path }).collect()
}

/// Results of a part of the tests are kept apart: nobody shall take them for all.
fn results_directory(args: &Args) -> &'static str {
    let whole = args.package == PACKAGE && args.tests.is_empty() && args.filter.is_none();
    if whole { "target/vm" } else { "target/vm/partial" }
}

fn test_binaries(root: &Path, args: &Args) -> Result<Vec<Binary>> {
    let wanted: Vec<&str> = match args.tests.as_slice() {
        [] if args.package == PACKAGE => TESTS.to_vec(),
        [] => vec!["*"],
        tests => tests.iter().map(String::as_str).collect(),
    };
    let mut arguments = vec!["test", "--no-run", "--package", &args.package];
    arguments.extend(wanted.iter().flat_map(|name| ["--test", name]));
    let mut binaries = build(root, &arguments, "test")?;
    for binary in &mut binaries {
        binary.tests = list(&binary.path, &[])?;
        binary.ignored = list(&binary.path, &["--ignored"])?;
        if let Some(filter) = &args.filter {
            binary.tests.retain(|t| t.contains(filter));
        }
    }
    binaries.retain(|b| !b.tests.is_empty());
    ensure!(!binaries.is_empty(), "package {} has no such integration tests", args.package);
    Ok(binaries)
}

/// Builds and gives the executables of one kind of target.
fn build(root: &Path, arguments: &[&str], kind: &str) -> Result<Vec<Binary>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(arguments).args(["--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed ({})", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(|l| executable(l, kind)).collect())
}

/// From one of cargo's messages.
fn executable(message: &str, kind: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_kind = message["target"]["kind"].as_array()?.iter().any(|k| k == kind);
    let (name, path) = (message["target"]["name"].as_str()?, message["executable"].as_str()?);
    let binary = || Binary { name: name.into(), path: path.into(), tests: Vec::new(), ignored: Vec::new() };
    is_kind.then(binary)
}

/// Names of the tests in a binary.
fn list(binary: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new(binary);
    let output = command.args(["--list", "--format", "terse"]).args(arguments).output();
    let output = output.with_context(|| format!("listing the tests of {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|l| l.strip_suffix(": test")).map(str::to_owned).collect())
}

/// The kernels that can be had, and whether a required one cannot.
fn fetch(args: &Args) -> Result<(Vec<Kernel>, bool)> {
    let all = || KERNELS.iter().map(|(version, _)| (*version).to_owned());
    let mut wanted: Vec<String> =
        if args.kernels.is_empty() { all().collect() } else { args.kernels.clone() };
    wanted.extend(args.require.iter().cloned());
    let (mut kernels, mut missing): (Vec<Kernel>, bool) = (Vec::new(), false);
    for version in &wanted {
        match Kernel::fetch(version, Arch::X86_64) {
            Ok(kernel) if kernels.iter().any(|k| k.version == kernel.version) => {}
            Ok(kernel) => kernels.push(kernel),
            Err(e) if args.require.contains(version) => {
                eprintln!("xtask vm-test: ERROR: {e:#}; it is required");
                missing = true;
            }
            Err(e) => eprintln!("\nxtask vm-test: WARNING: NOT TESTED under kernel {version}: {e:#}\n"),
        }
    }
    ensure!(!kernels.is_empty(), "no kernel can be had");
    Ok((kernels, missing))
}

/// Prints what each kernel said; the last line has the sum.
fn summary(reports: &[Report], missing: bool) -> ExitCode {
    let count = |outcome| reports.iter().map(|r| r.count(outcome)).sum::<usize>();
    println!();
    for report in reports {
        let failed: Vec<String> = report.failed().map(|t| format!("{}::{}", t.binary, t.name)).collect();
        let names = if failed.is_empty() { String::new() } else { format!(": {}", failed.join(", ")) };
        let (ok, bad) = (report.count(Outcome::Ok), report.count(Outcome::Failed));
        println!(
            "kernel {:<5} {ok} ok, {bad} failed, up in {:.1} s, {:.0} s in all{names}",
            report.kernel, report.boot_seconds, report.seconds
        );
    }
    let failed = count(Outcome::Failed);
    println!("{} passed, {failed} failed, {} skipped", count(Outcome::Ok), count(Outcome::Ignored));
    if failed > 0 || missing { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_told_by_their_kind() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"marking"},"executable":"/t/marking-1"}"#;
        let found = executable(message, "test").expect("a test");
        assert_eq!((found.name.as_str(), found.path.as_path()), ("marking", Path::new("/t/marking-1")));
        assert!(executable(message, "bin").is_none());
        for other in ["", "{}", r#"{"target":{"kind":["test"],"name":"x"},"executable":null}"#, "Compiling x"]
        {
            assert!(executable(other, "test").is_none(), "{other}");
        }
    }
}
