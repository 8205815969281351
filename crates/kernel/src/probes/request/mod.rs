//! Requests and their replies on one TCP connection.

pub mod abi;

use zerocopy::IntoBytes;

use super::histogram::abi::histogram_settings;
use super::histogram::{self, COLUMNS, Series};
use super::{Description, Loaded, Options, Source, whose};
use crate::Result;

/// By [`abi::request_kind`].
const KINDS: [&str; abi::request_kind::REQUEST_KINDS as usize] = ["answer", "peer", "serve"];

/// `flowtag latency request`.
pub static PROBE: Description = Description {
    name: "request",
    about: "Show how long requests wait for their replies, on the side that asks and on the side that answers",
    details: "WHAT is answer (this end asked: from the last byte of the request until the first of the reply), peer (of \
              that, what is not the round trip: the other end's own time) or serve (the other end asked: from the last \
              byte of the request until the first of the reply). A request counts if the other end had all of it when \
              it began to reply: pipelines and streams in both directions are left out, and counted as skipped.",
    examples: &[
        ("latency request", "by peer and process, all of it as Ctrl-C ends it"),
        ("latency request --port 443 -i 5", "every 5 seconds, of one port"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/request.bpf.o")),
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
    let settings = histogram_settings { parts: whose::parts(options, &["peer", "process"]), source: 0 };
    settings.as_bytes().to_vec()
}

/// The distributions so far.
///
/// # Errors
/// [`crate::Error::Map`] where the kernel refuses.
pub fn series(loaded: &Loaded) -> Result<Vec<Series>> {
    histogram::read(loaded, &KINDS)
}
