//! Commands that observe, run as a user runs them, on real traffic; and what they print, held against a file.

use std::env;
use std::fs;
use std::path::Path;

use flowtag_testbed::{Host, Process, WAIT};
use nix::sys::signal::Signal;
use regex::Regex;
use serde_json::Value;

use super::daemon;

/// A command that watches.
pub struct Observing {
    process: Process,
}

impl Observing {
    /// Starts `flowtag ARGS` on a host, and waits until it watches.
    #[track_caller]
    pub fn start(host: &Host, args: &[&str]) -> Self {
        Self::begin(host, args, None, 80)
    }

    /// As above, on a terminal with so many columns.
    #[track_caller]
    pub fn start_on(columns: u16, host: &Host, args: &[&str]) -> Self {
        Self::begin(host, args, None, columns)
    }

    /// As above, with the tags of a daemon.
    #[track_caller]
    pub fn start_with(host: &Host, args: &[&str], socket: Option<&Path>) -> Self {
        Self::begin(host, args, socket, 80)
    }

    #[track_caller]
    fn begin(host: &Host, args: &[&str], socket: Option<&Path>, columns: u16) -> Self {
        // As cargo names this program it differs from build to build.
        fs::write("/proc/self/comm", "tests").expect("a name");
        let mut command = host.command(daemon::binary());
        command.args(args).env("COLUMNS", columns.to_string()).env("TZ", "UTC").env("RUST_BACKTRACE", "0");
        let nowhere = Path::new("/nonexistent/flowtag.sock");
        command.env("FLOWTAG_SOCKET", socket.unwrap_or(nowhere));
        let mut process = Process::spawn(command).expect("flowtag");
        process.wait_for_output("watching", WAIT).expect("it watches");
        Self { process }
    }

    /// Waits until this is in the output.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.process.wait_for_output(text, WAIT).expect("told");
    }

    /// What it has printed so far.
    pub fn so_far(&self) -> String {
        self.process.stdout()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends it as Ctrl-C does; what it printed.
    #[track_caller]
    pub fn stop(self) -> String {
        let ended = self.process.stop(Signal::SIGINT).expect("it ends");
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// As [`Self::stop`], of a command with `--json`: the records, and the summary.
    #[track_caller]
    pub fn stop_json(self) -> (Vec<Value>, Value) {
        let text = self.stop();
        let mut lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        let summary = lines.pop().expect("a summary");
        assert!(summary["summary"].is_object(), "the last line is the summary: {summary}");
        (lines, summary["summary"].clone())
    }
}

/// Holds what a command printed against `tests/golden/NAME`, after each pattern was replaced: values that differ from run to
/// run. With FLOWTAG_BLESS=1 the file is written.
#[track_caller]
pub fn golden(name: &str, output: &str, replace: &[(&str, &str)]) {
    let found = replace.iter().fold(output.to_owned(), |text, (pattern, with)| {
        Regex::new(pattern).expect("a pattern").replace_all(&text, *with).into_owned()
    });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("FLOWTAG_BLESS").is_some_and(|v| v == "1") {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, &found).expect("the file");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found, expected,
        "not as in tests/golden/{name}; FLOWTAG_BLESS=1 writes it anew\nit was:\n{output}"
    );
}

/// The record's keys, sorted: what programs rely on.
pub fn keys(record: &Value) -> String {
    let mut keys: Vec<_> = record.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys.join("\n") + "\n"
}
