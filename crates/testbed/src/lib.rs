//! A network in one machine, for tests, benches and the demo: hosts are network namespaces, links are veth pairs,
//! and a link can lose and delay packets on any kernel.
//!
//! Place in the flow: beside it. Tests build a [`Testbed`], run the real programs in its hosts, and look at the
//! packets with [`Host::capture`]. It must never touch anything that is not its own: every namespace it makes is
//! named `flowtag-<pid>-<bed>-<host>`, and only such names are ever removed.
//!
//! ```no_run
//! use flowtag_testbed::Testbed;
//!
//! # fn main() -> anyhow::Result<()> {
//! let bed = Testbed::new("ping")?;
//! let (a, b) = (bed.host("a")?, bed.host("b")?);
//! let link = bed.link(&a, "eth0", &b, "eth0")?;
//! let capture = b.capture("eth0", "icmp6[icmp6type] = icmp6-echo")?;
//! assert!(a.command("ping").args(["-c1", &link.b.ipv6.to_string()]).status()?.success());
//! assert_eq!(capture.stop()?.frames()?.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! What is left behind by a panic is removed as the bed is dropped, by SIGINT or SIGTERM in a thread of its own,
//! and by SIGKILL as the next bed of any process is made.

mod bed;
mod capture;
mod cleanup;
mod device;
mod exec;
mod host;
mod impair;
mod link;
mod process;
mod schema;
mod tun;
mod wait;

pub use bed::Testbed;
pub use capture::{Capture, Captured, Frame};
pub use device::{Missing, Tunnel};
pub use exec::checked;
pub use host::Host;
pub use impair::{Counters, ImpairedLink, Impairment, Loss};
pub use link::{Chain, Link, LinkOptions, Side};
pub use process::{Ended, Process};
pub use schema::JsonSchema;
pub use tun::TunLink;
pub use wait::{WAIT, wait_until};

use std::io::Write;

use anyhow::Result;

/// Whether this process is root, which every testbed needs.
#[must_use]
pub fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether the test at `place` can run; what [`require_root!`] is made of.
///
/// # Panics
/// Not root, and `FLOWTAG_SKIP_ROOT=1` does not allow to skip.
#[must_use]
pub fn root_or_skip(place: &str) -> bool {
    if root() {
        return true;
    }
    let skip = std::env::var_os("FLOWTAG_SKIP_ROOT").is_some_and(|v| v == "1");
    assert!(
        skip,
        "{place} needs root for its network namespaces: run as root, or set FLOWTAG_SKIP_ROOT=1 to skip"
    );
    skipped("needs root", place);
    false
}

/// Says loudly that the test at `place`, or a part of it, does not run here: it is counted as skipped, not as passed
/// (`cargo xtask summary`, `vm-test`). What [`skip!`] is made of.
pub fn skipped(reason: impl std::fmt::Display, place: &str) {
    // Past the test harness, which would keep the output of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED ({reason}): {place}");
}

/// Returns from a test that cannot run here, with the given value if any, and says why.
///
/// ```no_run
/// fn story() {
///     if !std::path::Path::new("/usr/bin/script").exists() {
///         flowtag_testbed::skip!("no script(1), which makes a terminal");
///     }
/// }
/// ```
#[macro_export]
macro_rules! skip {
    ($reason:expr) => {
        $crate::skip!($reason, ())
    };
    ($reason:expr, $value:expr) => {{
        $crate::skipped($reason, concat!(module_path!(), " at ", file!(), ":", line!()));
        return $value;
    }};
}

/// Fails a test that is not run as root, with a message that says so; returns from it, with the given value if any,
/// where `FLOWTAG_SKIP_ROOT=1` allows to skip it.
///
/// ```no_run
/// fn story() -> anyhow::Result<()> {
///     flowtag_testbed::require_root!(Ok(()));
///     let _bed = flowtag_testbed::Testbed::new("story")?;
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! require_root {
    () => {
        $crate::require_root!(())
    };
    ($skipped:expr) => {
        if !$crate::root_or_skip(concat!(module_path!(), " at ", file!(), ":", line!())) {
            return $skipped;
        }
    };
}

/// What was made, or none if this kernel has nothing of the kind, said loudly; what [`made_or_skip!`] is made of.
///
/// # Panics
/// It failed for any other reason.
#[must_use]
pub fn made_or_skip_at<T>(place: &str, made: Result<T>) -> Option<T> {
    match made {
        Ok(made) => Some(made),
        Err(error) if error.is::<Missing>() => {
            skipped(error, place);
            None
        }
        Err(error) => panic!("{place}: {error:#}"),
    }
}

/// Gives what was made. Returns from the test, with the given value if any, where the kernel has no such device.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// # let host = flowtag_testbed::Testbed::new("x")?.host("a")?;
/// flowtag_testbed::made_or_skip!(host.add_macvlan("eth0", "mac0", &["2001:db8::1/64"]), Ok(()));
/// # Ok(())
/// # }
/// ```
#[macro_export]
macro_rules! made_or_skip {
    ($made:expr) => {
        $crate::made_or_skip!($made, ())
    };
    ($made:expr, $skipped:expr) => {
        match $crate::made_or_skip_at(concat!(module_path!(), " at ", file!(), ":", line!()), $made) {
            Some(made) => made,
            None => return $skipped,
        }
    };
}
