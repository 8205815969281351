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

/// The packages with tests that depend on the kernel; the program of the first is /flowtag in the guest.
const PACKAGES: [&str; 3] = ["flowtag", "flowtag-kernel", "flowtag-testbed"];
/// Of the first, the modules that depend on the kernel. All others need programs that the guest does not have, or would
/// only be slow there.
const MODULES: [&str; 19] = [
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
/// Of these, what CI leaves out: what they find out of the kernel others do, too. To load the marking programs takes the
/// verifier of an emulated machine five seconds, and these do it most often.
const NOT_BRIEF: [&str; 8] = [
    "doctor",
    "firefly_input",
    "lifecycle",
    "observe_flows",
    "observe_latency",
    "observe_listen",
    "strategies",
    "survive",
];
/// Of the testbed's tests, those of devices that a machine may lack.
const TESTBED: [&str; 4] = ["bond", "ipvlan", "tunnel", "vlan"];
/// Kernels whose tracing programs cannot keep anything with a socket (before 5.11): commands that observe say so and end.
const OLD: [&str; 1] = ["5.10"];
/// What the tests of those commands begin with.
const OBSERVE: &str = "observe_";
/// What tests, programs and libraries are built with.
const PROFILE: &str = "ci";
/// Results of `--brief`, which `summary` counts.
pub(crate) const BRIEF_RESULTS: &str = "target/vm/brief";
/// Where the program is in a guest.
const PROGRAM: &str = "/flowtag";
/// Tests that run at the same time in a guest. It has one thread of emulation, which the verifier keeps busy: two at a time
/// gain little, and tests with limits miss them.
const AT_ONCE: usize = 1;
/// Seconds that one test may take in the guest.
const TEST_LIMIT: u32 = 300;

/// Runs a few tests at the same time and says when each began and ended, in lines that `results` reads; all that one
/// prints stays together.
const RUN: &str = r#"declare -A output
count=0
run() {
  read now _ </proc/uptime; echo "@begin $1 $2 $now"
  /usr/bin/timeout -k 5 LIMIT "/tests/$1" --exact "$2" --nocapture --test-threads=1 -q; status=$?
  read now _ </proc/uptime; printf '\n@end %s %s %s %s\n' "$1" "$2" $status "$now"
}
finish() { wait -n -p ended; cat "${output[$ended]}"; rm "${output[$ended]}"; unset "output[$ended]"; }
start() {
  [ ${#output[@]} -lt AT_ONCE ] || finish
  count=$((count + 1)); run "$1" "$2" >/tmp/output.$count 2>&1 & output[$!]=/tmp/output.$count
}
read now _ </proc/uptime; echo "@kernel $(uname -r) $now"
"#;
/// Waits for the last of them.
const END: &str = "while [ ${#output[@]} -gt 0 ]; do finish; done\n";

/// How `vm-test` is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A kernel to test under: 5.10, 6.1, 6.12, 6.18, 7.3 or `newest`; all if none is given.
    #[arg(short, long = "kernel", value_name = "K")]
    kernels: Vec<String>,
    /// A kernel without which this fails; any other that cannot be had is only a warning.
    #[arg(short, long, value_name = "K")]
    require: Vec<String>,
    /// Runs only the tests of this module; without any, all that depend on the kernel.
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// Leaves out what adds little, and tests with one hook, the newest that the kernel has; else with each.
    #[arg(long)]
    brief: bool,
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

/// What cargo built.
#[derive(Debug, Clone)]
struct Binary {
    kind: Kind,
    /// Of tests as nextest has it: `flowtag-kernel::it`.
    name: String,
    path: PathBuf,
    tests: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Program,
    Tests,
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
        script = script.replace("AT_ONCE", &AT_ONCE.to_string());
        for test in self.all_tests(version) {
            script += &format!("start {} {}\n", quote(&test.binary), quote(&test.name));
        }
        script + END
    }

    /// Whether a test is for a kernel of this version, as `6.12`.
    fn is_for(test: &str, version: &str) -> bool {
        !(OLD.contains(&version) && test.starts_with(OBSERVE))
    }

    /// Every test as if it had not been run.
    fn all_tests(&self, version: &str) -> Vec<TestResult> {
        let result = |binary: &Binary, test: &String| TestResult {
            binary: binary.name.clone(),
            name: test.clone(),
            outcome: Outcome::Failed,
            seconds: 0.0,
        };
        let all = self.binaries.iter().flat_map(|b| b.tests.iter().map(move |t| result(b, t)));
        all.filter(|t| Self::is_for(&t.name, version)).collect()
    }
}

fn plan<'a>(root: &Path, args: &'a Args) -> Result<Plan<'a>> {
    let results = root.join(results_directory(args));
    fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
    let built = build(root)?;
    let binaries = test_binaries(&built, args)?;
    let program = built.iter().find(|b| b.kind == Kind::Program).context("cargo built no program")?;
    let mut files = args.files.clone();
    let wanted = binaries.iter().map(|b| (&b.path, format!("/tests/{}", b.name)));
    for (path, to) in wanted.chain([(&program.path, PROGRAM.to_owned())]) {
        files.push(CopiedFile { from: strip(path, &results)?, to });
    }
    files.extend(goldens(root));
    let mut env = vec!["FLOWTAG_VM=1".into(), format!("FLOWTAG_BIN={PROGRAM}")];
    env.extend(std::env::var("CI").map(|v| format!("CI={v}")));
    env.extend(args.brief.then(|| "FLOWTAG_ONE_HOOK=1".to_owned()));
    env.extend(args.env.iter().cloned());
    Ok(Plan { args, binaries, files, env, results })
}

/// A copy without symbols: a guest has no disk, all of it is memory.
fn strip(program: &Path, results: &Path) -> Result<PathBuf> {
    let to = results.join(program.file_name().context("a program without a name")?);
    let status = Command::new("strip").arg("-o").arg(&to).arg(program).status().context("starting strip")?;
    ensure!(status.success(), "strip {} failed ({status})", program.display());
    Ok(to)
}

/// What outputs are held against: the tests look for it where it was as they were built.
fn goldens(root: &Path) -> Vec<CopiedFile> {
    let all = fs::read_dir(root.join("crates/flowtag/tests/golden")).into_iter().flatten().flatten();
    let files = all.map(|entry| entry.path()).filter(|path| path.is_file());
    files.map(|path| CopiedFile { to: path.display().to_string(), from: path }).collect()
}

/// Results of a part of the tests are kept apart: nobody shall take them for all.
fn results_directory(args: &Args) -> &'static str {
    let whole = args.modules.is_empty() && args.filter.is_none();
    match (whole, args.brief) {
        (true, false) => "target/vm",
        (true, true) => BRIEF_RESULTS,
        (false, _) => "target/vm/partial",
    }
}

fn test_binaries(built: &[Binary], args: &Args) -> Result<Vec<Binary>> {
    let mut binaries: Vec<Binary> = built.iter().filter(|b| b.kind == Kind::Tests).cloned().collect();
    for binary in &mut binaries {
        let ignored = list(&binary.path, &["--ignored"])?;
        binary.tests = list(&binary.path, &[])?;
        binary.tests.retain(|test| !ignored.contains(test) && is_wanted(&binary.name, test, args));
    }
    binaries.retain(|b| !b.tests.is_empty());
    ensure!(!binaries.is_empty(), "there are no such integration tests");
    Ok(binaries)
}

/// By the module that it is in.
fn is_wanted(binary: &str, test: &str, args: &Args) -> bool {
    let module = test.split("::").next().unwrap_or_default();
    let in_module = match args.modules.as_slice() {
        [] if binary.starts_with("flowtag-kernel::") => true,
        [] if binary.starts_with("flowtag-testbed::") => TESTBED.iter().any(|device| test.contains(device)),
        [] => MODULES.contains(&module) && !(args.brief && NOT_BRIEF.contains(&module)),
        modules => modules.iter().any(|wanted| wanted == module),
    };
    in_module && args.filter.as_ref().is_none_or(|filter| test.contains(filter))
}

/// Builds what `make test` runs, with the same command, so that nothing is compiled twice.
fn build(root: &Path) -> Result<Vec<Binary>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["test", "--no-run", "--workspace", "--profile", PROFILE]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().context("starting cargo")?;
    if !output.status.success() {
        bail!("cargo could not build the tests ({})", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect())
}

/// From one of cargo's messages: the program, or the integration tests of a package of [`PACKAGES`].
fn executable(message: &str) -> Option<Binary> {
    let message: Value = serde_json::from_str(message).ok()?;
    let (target, path) = (&message["target"], message["executable"].as_str()?);
    let name = target["name"].as_str()?;
    let is_kind = |kind: &str| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == kind));
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?.file_name()?.to_str()?;
    let package = PACKAGES.iter().find(|p| p.strip_prefix("flowtag-").unwrap_or(p) == folder)?;
    let (kind, name) = if is_kind("test") {
        (Kind::Tests, format!("{package}::{name}"))
    } else if is_kind("bin") && message["profile"]["test"] == false && name == *package {
        (Kind::Program, name.to_owned())
    } else {
        return None;
    };
    Some(Binary { kind, name, path: path.into(), tests: Vec::new() })
}

/// Names of the tests in a binary.
fn list(binary: &Path, arguments: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new(binary);
    let output = command.args(["--list", "--format", "terse"]).args(arguments).output();
    let output = output.with_context(|| format!("listing the tests of {}", binary.display()))?;
    ensure!(output.status.success(), "{} cannot list its tests ({})", binary.display(), output.status);
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
    println!("{} passed, {failed} failed, {} skipped", count(Outcome::Ok), count(Outcome::Skipped));
    // A guest that died after its last test is no guest that passed.
    for report in reports.iter().filter(|report| !report.complete) {
        println!("kernel {} did not end as it should", report.kernel);
    }
    let is_whole = reports.iter().all(|report| report.complete);
    if failed > 0 || missing || !is_whole { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_tests_are_known_by_package_and_kind() {
        let message = |folder: &str, kind: &str, name: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/r/crates/{folder}/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":"/t/{name}-1"}}"#
            )
        };
        let found = executable(&message("kernel", "test", "it", true)).expect("tests");
        assert_eq!((found.kind, found.name.as_str()), (Kind::Tests, "flowtag-kernel::it"));
        assert_eq!(found.path, Path::new("/t/it-1"));
        let found = executable(&message("flowtag", "bin", "flowtag", false)).expect("the program");
        assert_eq!((found.kind, found.name.as_str()), (Kind::Program, "flowtag"));
        for other in [
            message("flowtag", "bin", "flowtag", true),
            message("wire", "test", "it", true),
            message("demo", "bin", "flowtag-demo", false),
            message("flowtag", "test", "it", true).replace(r#""/t/it-1""#, "null"),
            "{}".to_owned(),
            "Compiling x".to_owned(),
        ] {
            assert!(executable(&other).is_none(), "{other}");
        }
    }
}
