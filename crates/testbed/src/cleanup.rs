//! Which namespaces are ours, and how they go away whatever happens.
//!
//! Three ways lead here: a bed that is dropped, a signal that ends this process, and the start of a later process
//! that finds what a killed one left. A name that is not `flowtag-<pid>-…` is never touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exec::checked;
use crate::wait::{WAIT, wait_until};

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
const PREFIX: &str = "flowtag-";

/// Set once a signal ends this process: no namespace is made any more.
static ENDING: AtomicBool = AtomicBool::new(false);

/// `/run/netns/<namespace>`.
pub(crate) fn path(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

/// What every namespace of this process begins with.
pub(crate) fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// Removes what dead processes left, and from now on what this one has when a signal ends it.
pub(crate) fn prepare() -> Result<()> {
    sweep();
    static WATCH: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let watch = || watch_signals().map_err(|e| format!("{e:#}"));
    WATCH.get_or_init(watch).clone().map_err(anyhow::Error::msg)
}

/// # Errors
/// The name exists, or the process is about to end.
pub(crate) fn add(namespace: &str) -> Result<()> {
    if ENDING.load(Ordering::SeqCst) {
        anyhow::bail!("not making namespace {namespace}: a signal is ending this process");
    }
    checked(Command::new("ip").args(["netns", "add", namespace])).with_context(|| {
        format!("making namespace {namespace}: needs root, and a bed of this name only once")
    })?;
    Ok(())
}

/// Kills what runs in the namespace and removes it; one that is gone already is no error.
pub(crate) fn remove(namespace: &str) -> Result<()> {
    let gone = || !path(namespace).exists();
    let result = wait_until(&format!("the processes in {namespace} to end"), WAIT, || {
        let pids = pids_in(namespace);
        for pid in &pids {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        Ok(pids.is_empty().then_some(()))
    });
    match checked(Command::new("ip").args(["netns", "del", namespace])) {
        Err(e) if !gone() => Err(e.context(format!("removing namespace {namespace}"))),
        _ if gone() => Ok(()),
        _ => result,
    }
}

/// Never this process: a thread of it may be inside for a moment.
fn pids_in(namespace: &str) -> Vec<Pid> {
    let listed = checked(Command::new("ip").args(["netns", "pids", namespace])).unwrap_or_default();
    let own = Pid::this();
    listed
        .split_whitespace()
        .filter_map(|p| p.parse().ok())
        .map(Pid::from_raw)
        .filter(|p| *p != own)
        .collect()
}

/// Namespaces whose process is dead: it was killed before it could remove them.
fn sweep() {
    for name in names().iter().filter(|n| owner(n).is_some_and(|pid| !is_alive(pid))) {
        if let Err(e) = remove(name) {
            eprintln!("flowtag-testbed: {e:#}");
        }
    }
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// The process in `flowtag-<pid>-…`; none for a name of somebody else's.
fn owner(namespace: &str) -> Option<u32> {
    let (pid, rest) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    let digits = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    (digits && !rest.is_empty()).then(|| pid.parse().ok()).flatten()
}

/// A zombie is dead: it may have nobody to reap it. The state comes after the name, which may have any character.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A thread that clears up and then lets the signal do what it would have done.
fn watch_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("watching for SIGINT, SIGTERM and SIGHUP")?;
    let watch = move || {
        if let Some(signal) = signals.forever().next() {
            ENDING.store(true, Ordering::SeqCst);
            remove_own();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    thread::Builder::new()
        .name("flowtag-testbed-signals".into())
        .spawn(watch)
        .context("starting a thread")?;
    Ok(())
}

/// Twice, for a namespace that was being made as the signal came.
fn remove_own() {
    let prefix = own_prefix();
    for _ in 0..2 {
        for name in names().iter().filter(|n| n.starts_with(&prefix)) {
            if let Err(e) = remove(name) {
                eprintln!("flowtag-testbed: {e:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_alive, owner};

    #[test]
    fn only_our_names_have_an_owner() {
        let cases = [
            ("flowtag-12-bed-a", Some(12)),
            ("flowtag-12-b", Some(12)),
            ("flowtag-12-", None),
            ("flowtag-12", None),
            ("flowtag--bed-a", None),
            ("flowtag-+12-bed-a", None),
            ("flowtag-x-bed-a", None),
            ("flowtag-99999999999-bed-a", None),
            ("other-12-bed-a", None),
            ("", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(owner(name), wanted, "{name}");
        }
    }

    #[test]
    fn a_zombie_is_not_alive() {
        assert!(is_alive(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().expect("`true` starts");
        while is_alive(child.id()) {
            std::thread::yield_now();
        }
        assert!(child.wait().expect("a status").success());
    }
}
