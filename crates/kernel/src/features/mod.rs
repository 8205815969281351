//! What this host can do for flowtag, each answer with its reason: asked of the kernel, of its BTF and of files in
//! /proc and /sys, never of the version string.
//!
//! Place in the flow: before it. `flowtag doctor` prints the answers; a command that depends on one may ask for it
//! by itself. A check must leave nothing behind and disturb nothing: programs are loaded and not run, and what has to
//! be attached is attached inside a network namespace that exists for that moment only.
//!
//! ```no_run
//! use flowtag_kernel::features::{self, Status};
//!
//! let tcx = features::tcx();
//! if tcx.status != Status::Ok {
//!     eprintln!("{}: {} ({})", tcx.name, tcx.detail, tcx.remedy.unwrap_or_default());
//! }
//! ```

pub(crate) mod hooks;
mod probes;
mod process;
mod system;
mod trial;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

pub use hooks::{AttachedProgram, Place, attached};
pub use probes::probes;
pub use process::{Capabilities, capabilities, memlock, path_mtu};
pub use system::{btf, cgroup2, kernel, lockdown, pin_directory, tracefs, unprivileged_bpf};
pub use trial::{clsact, ingress, jit, marking_program, sockets, tcx};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is there and works.
    Ok,
    /// It is not there, or does not work.
    Missing,
    /// It works, but somebody should know of something.
    Warn,
    /// It could not be found out, mostly for want of a permission.
    Unknown,
}

impl Status {
    /// The word in messages and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: short, lower case, the same on every host.
    pub name: Cow<'static, str>,
    /// How it ended.
    pub status: Status,
    /// What was found; for a lack also why.
    pub detail: String,
    /// What a person can do about it, in one line.
    pub remedy: Option<String>,
}

impl Check {
    /// It works.
    #[must_use]
    pub fn ok(name: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, detail: detail.into(), remedy: None }
    }

    /// It does not work, and `remedy` is what to do.
    #[must_use]
    pub fn missing(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: Status::Missing, remedy: Some(remedy.into()), ..Self::ok(name, detail) }
    }

    /// It works, but `remedy` would be better done.
    #[must_use]
    pub fn warn(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: Status::Warn, ..Self::missing(name, detail, remedy) }
    }

    /// It could not be found out; `remedy` is how it could be.
    #[must_use]
    pub fn unknown(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: Status::Unknown, ..Self::missing(name, detail, remedy) }
    }
}

/// What to do where only root may look.
const AS_ROOT: &str = "run `flowtag doctor` as root";

/// An error with its causes, on one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
