//! Whether the daemon runs: by what its control socket answers and by who holds its lock. The lock is looked at and
//! never taken, not even for a moment: a daemon that starts just then would find it taken.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use flowtag_kernel::features::Check;
use nix::sys::stat::{major, minor};
use serde_json::Value;

use super::super::output;
use crate::client::{Client, block_on};
use crate::config::Config;

const NAME: &str = "daemon";
/// A daemon that is up answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the control socket is like.
#[derive(Debug, PartialEq, Eq)]
enum Socket {
    /// `inputs.control` is off.
    Off,
    Answers {
        pid: String,
        version: String,
    },
    Absent,
    /// There, and nobody listens.
    Stale,
    /// There, and not for this user.
    Forbidden,
    Fails(String),
}

/// What the lock file is like.
#[derive(Debug, PartialEq, Eq)]
enum Lock {
    Absent,
    /// Left by a daemon that has ended: the kernel let go of it.
    Free,
    HeldBy(String),
    Unknown(String),
}

/// The line, and whether a daemon runs as far as that is known.
pub(super) fn check(config: &Config) -> (Check, Option<bool>) {
    judge(socket(config), lock(&config.runtime_dir.join("lock")), config)
}

fn judge(socket: Socket, lock: Lock, config: &Config) -> (Check, Option<bool>) {
    let dir = config.runtime_dir.display();
    match (socket, lock) {
        (Socket::Answers { pid, version }, _) => {
            (Check::ok(NAME, format!("runs: flowtag {version}, pid {pid}")), Some(true))
        }
        (Socket::Off, Lock::HeldBy(pid)) => (
            Check::ok(NAME, format!("runs: pid {pid}, without a control socket (inputs.control)")),
            Some(true),
        ),
        (Socket::Forbidden, Lock::HeldBy(pid)) => (
            Check::ok(NAME, format!("runs: pid {pid}; its control socket is not open to this user")),
            Some(true),
        ),
        (Socket::Fails(why), Lock::HeldBy(pid)) => (silent(&pid, &why), Some(true)),
        (Socket::Absent | Socket::Stale, Lock::HeldBy(pid)) => {
            (silent(&pid, "nobody listens at inputs.control.path"), Some(true))
        }
        (Socket::Off | Socket::Absent, Lock::Absent) => (stopped("does not run"), Some(false)),
        (Socket::Off | Socket::Absent | Socket::Stale, Lock::Absent | Lock::Free) => {
            let left = "does not run; what an earlier run left";
            (stopped(&format!("{left} in {dir} is harmless, the next start takes it over")), Some(false))
        }
        (Socket::Fails(why), _) => (Check::warn(NAME, why, "see inputs.control in the configuration"), None),
        (_, Lock::Unknown(why)) => (
            Check::unknown(NAME, format!("not known whether it runs: {why}"), "run `flowtag doctor` as root"),
            None,
        ),
        (Socket::Forbidden, _) => {
            let detail = "not known whether it runs: its control socket is not open to this user, nobody holds the lock";
            (Check::unknown(NAME, detail, "run `flowtag doctor` as root"), None)
        }
    }
}

fn stopped(detail: &str) -> Check {
    Check::warn(NAME, detail, "`systemctl start flowtag`, or `flowtag run`")
}

fn silent(pid: &str, why: &str) -> Check {
    let fix = "is it starting or stopping, or was inputs.control changed since? see its log, else restart it";
    Check::warn(NAME, format!("pid {pid} holds the lock, but does not answer: {why}"), fix)
}

fn socket(config: &Config) -> Socket {
    let Some(gate) = &config.control else { return Socket::Off };
    let status = block_on(async {
        let ask = async { Client::connect(Some(&gate.path)).await?.get::<Value>("/v1/status").await };
        tokio::time::timeout(PATIENCE, ask).await.context("the daemon did not answer within 3 s")?
    });
    match status {
        Ok(status) => Socket::Answers { pid: text(&status["pid"]), version: text(&status["version"]) },
        Err(error) => match error.chain().find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => Socket::Absent,
            Some(io::ErrorKind::ConnectionRefused) => Socket::Stale,
            Some(io::ErrorKind::PermissionDenied) => Socket::Forbidden,
            _ => Socket::Fails(output::chain(&error).replace("\n  because: ", ": ")),
        },
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn lock(path: &Path) -> Lock {
    let file = match fs::metadata(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Lock::Absent,
        Err(e) => return Lock::Unknown(format!("{} cannot be looked at ({e})", path.display())),
    };
    match fs::read_to_string("/proc/locks") {
        Ok(locks) => holder(&locks, file.dev(), file.ino()).map_or(Lock::Free, Lock::HeldBy),
        Err(e) => Lock::Unknown(format!("/proc/locks cannot be read ({e})")),
    }
}

/// proc_locks(5): `1: FLOCK  ADVISORY  WRITE 6583 fe:00:5341325 0 EOF`; one who waits has an arrow before the kind.
fn holder(locks: &str, device: u64, inode: u64) -> Option<String> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().skip(1).collect();
        match fields[..] {
            ["FLOCK", _, _, pid, of, ..] if of == file => Some(pid.to_owned()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use flowtag_kernel::features::Status;
    use nix::sys::stat::makedev;

    use super::*;

    /// `cat /proc/locks`, with one line of a process that waits added.
    const LOCKS: &str = "\
        1: FLOCK  ADVISORY  WRITE 6583 fe:00:5341325 0 EOF\n\
        2: POSIX  ADVISORY  READ 6590 fe:00:77 0 EOF\n\
        3: FLOCK  ADVISORY  READ 71 00:1a:77 0 EOF\n\
        3: -> FLOCK  ADVISORY  WRITE 72 00:1a:78 0 EOF\n";

    #[test]
    fn a_lock_is_found_by_device_and_inode() {
        let holder = |major, minor, inode| holder(LOCKS, makedev(major, minor), inode);
        assert_eq!(holder(0xfe, 0, 5_341_325).as_deref(), Some("6583"));
        assert_eq!(holder(0, 0x1a, 77).as_deref(), Some("71"));
        assert_eq!(holder(0xfe, 0, 77), None, "not our kind of lock");
        assert_eq!(holder(0, 0x1a, 78), None, "only waits for it");
        assert_eq!(holder(0xfe, 1, 5_341_325), None, "another device");
    }

    #[test]
    fn nonsense_holds_no_lock() {
        for text in ["", "\n", "1:", "1: FLOCK", "1: FLOCK ADVISORY WRITE 1"] {
            assert_eq!(holder(text, 0, 0), None, "{text:?}");
        }
    }

    #[test]
    fn socket_and_lock_together_tell_whether_it_runs() {
        let config = Config::parse("", "t").expect("right");
        let held = || Lock::HeldBy("7".into());
        let answers = || Socket::Answers { pid: "7".into(), version: "1".into() };
        for (socket, lock, status, running) in [
            (answers(), held(), Status::Ok, Some(true)),
            (answers(), Lock::Unknown(String::new()), Status::Ok, Some(true)),
            (Socket::Off, held(), Status::Ok, Some(true)),
            (Socket::Forbidden, held(), Status::Ok, Some(true)),
            (Socket::Stale, held(), Status::Warn, Some(true)),
            (Socket::Fails("x".into()), held(), Status::Warn, Some(true)),
            (Socket::Absent, Lock::Absent, Status::Warn, Some(false)),
            (Socket::Stale, Lock::Free, Status::Warn, Some(false)),
            (Socket::Off, Lock::Free, Status::Warn, Some(false)),
            (Socket::Absent, Lock::Unknown("x".into()), Status::Unknown, None),
            (Socket::Forbidden, Lock::Free, Status::Unknown, None),
        ] {
            let description = format!("{socket:?} {lock:?}");
            let (check, known) = judge(socket, lock, &config);
            assert_eq!((check.status, known), (status, running), "{description}: {check:?}");
        }
    }
}
