//! What other probes are measured against: an empty program, and one that tells as fast as it can. Not a command.

pub mod abi;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::observe_event;
use super::record::{self, Context, Record};
use super::{Description, Session, Source};
use crate::{Error, Result};

/// Events that one run of the program `flowtag_flood` tells.
pub const BURST: u64 = abi::yardstick_limits::YARDSTICK_BURST as u64;

static READ: AtomicU64 = AtomicU64::new(0);

/// How many events the probe [`COUNTED`] has read, ever.
#[must_use]
pub fn read() -> u64 {
    READ.load(Ordering::Relaxed)
}

/// Events are counted as they are read.
pub static COUNTED: Description = description(|_| {
    READ.fetch_add(1, Ordering::Relaxed);
    None
});

/// Events become records.
pub static RECORDED: Description = description(|bytes| {
    let raw: observe_event = record::read(bytes)?;
    Some(Record { context: Context::from(&raw), values: Vec::new() })
});

/// The program that tells, apart from the session, so that one thread may run it while another reads.
#[derive(Debug)]
pub struct Flood(OwnedFd);

impl Flood {
    /// Of a session that runs this probe.
    ///
    /// # Errors
    /// [`Error::Query`]: it does not run it, or there are too many open files.
    pub fn of(session: &Session) -> Result<Self> {
        let failed = |source| Error::Query { what: "the program that floods", source };
        let loaded = session.probe("yardstick");
        let program = loaded
            .and_then(|l| l.program("flowtag_flood"))
            .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        program.as_fd().try_clone_to_owned().map(Self).map_err(failed)
    }

    /// Tells [`BURST`] events.
    ///
    /// # Errors
    /// [`Error::Query`] where the kernel refuses.
    pub fn run(&self) -> Result<()> {
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        // SAFETY: the descriptor is open for the call, and `options` is a whole structure of the size it says, which names
        // no memory beside it.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &raw mut options) };
        let failed = |source| Error::Query { what: "a run of the program that floods", source };
        if result < 0 { Err(failed(io::Error::from_raw_os_error(-result))) } else { Ok(()) }
    }
}

const fn description(decode: fn(&[u8]) -> Option<Record>) -> Description {
    Description {
        name: "yardstick",
        about: "What other probes are measured against",
        details: "",
        examples: &[],
        object: include_bytes!(concat!(env!("OUT_DIR"), "/yardstick.bpf.o")),
        optional: &[],
        flags: &[],
        columns: &[],
        metrics: &[],
        settings: |_| Vec::new(),
        leave_out: || &[],
        at_start: &[],
        source: Source::Events(decode),
    }
}
