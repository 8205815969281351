//! How long data waits in a socket until the application reads it.

use zerocopy::IntoBytes;

use super::histogram::abi::histogram_settings;
use super::histogram::{self, COLUMNS, Series};
use super::{Description, Loaded, Options, Source, whose};
use crate::Result;

/// `flowtag latency delay`.
pub static PROBE: Description = Description {
    name: "delay",
    about: "Show how long data waits in sockets: from its arrival until the application has read it",
    details: "The application's own slowness, or that of the CPU it waits for: no network is in it. One segment of a \
              socket is followed at a time.",
    examples: &[
        ("latency delay", "by process and tag, all of it as Ctrl-C ends it"),
        ("latency delay --by process,peer -i 5", "every 5 seconds"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/delay.bpf.o")),
    optional: &[],
    flags: &[],
    columns: COLUMNS,
    metrics: &[],
    settings,
    leave_out: || &[],
    at_start: &[],
    source: Source::Rows(|loaded| Ok(series(loaded)?.iter().map(histogram::record).collect())),
};

fn settings(options: &Options) -> Vec<u8> {
    let settings = histogram_settings { parts: whose::parts(options, &["process", "tag"]), source: 0 };
    settings.as_bytes().to_vec()
}

/// The distributions so far.
///
/// # Errors
/// [`crate::Error::Map`] where the kernel refuses.
pub fn series(loaded: &Loaded) -> Result<Vec<Series>> {
    histogram::read(loaded, &[])
}
