//! The command line, as a user types it, against a running daemon.

use std::process::{Command, Output};

use super::daemon::Daemon;

pub fn run(daemon: &Daemon, args: &[&str]) -> Output {
    Command::new(super::daemon::binary())
        .env("FLOWTAG_SOCKET", daemon.socket())
        .args(args)
        .output()
        .expect("the command line runs")
}

/// Standard output of a command that must succeed.
#[track_caller]
pub fn ok(daemon: &Daemon, args: &[&str]) -> String {
    let output = run(daemon, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "flowtag {args:?}: {stderr}\n{}", daemon.log());
    String::from_utf8(output.stdout).expect("text")
}

/// The first JSON object that a command prints.
#[track_caller]
pub fn json(daemon: &Daemon, args: &[&str]) -> serde_json::Value {
    let text = ok(daemon, &[&["--json"], args].concat());
    serde_json::from_str(text.lines().next().expect("a line")).expect("JSON")
}
