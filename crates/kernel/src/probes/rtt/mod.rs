//! Round-trip times of TCP, as the kernel measures them.

use zerocopy::IntoBytes;

use super::histogram::abi::{histogram_settings, histogram_source as source};
use super::histogram::{self, COLUMNS, Series};
use super::{Description, Loaded, Measure, Metric, Options, Source, whose};
use crate::btf::Vmlinux;
use crate::{Result, cgroup};

/// `flowtag latency rtt`.
pub static PROBE: Description = Description {
    name: "rtt",
    about: "Show round-trip times of TCP, as the kernel measures them: one sample each round trip",
    details: "From a segment of ours to its acknowledgement: the path there and back, and what the other end's kernel \
              waits before it acknowledges. The application at the other end has no part in it.",
    examples: &[
        ("latency rtt", "by peer and tag, all of it as Ctrl-C ends it"),
        ("latency rtt -i 5 --by prefix", "every 5 seconds, by /64 or /24 of the peer"),
        ("latency rtt --histogram --by tag", "with bars"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/rtt.bpf.o")),
    optional: &[
        (
            "flowtag_rtt",
            "each sample that the kernel takes; of each round the latest is used, except the first",
        ),
        ("flowtag_rtt_arm", "round-trip times of connections that were open before"),
        ("flowtag_rtt_segment", "round-trip times of connections that were open before"),
    ],
    flags: &[],
    columns: COLUMNS,
    metrics: &[Metric {
        name: "flowtag_tcp_rtt",
        unit: Some("seconds"),
        help: "Round-trip times of TCP connections, each sample that the kernel takes of one",
        labels: &[],
        measure: Measure::Distribution,
    }],
    settings,
    leave_out,
    // Asks for samples of all connections that are open by now.
    at_start: &["flowtag_rtt_arm"],
    source: Source::Rows(|loaded| Ok(series(loaded)?.iter().map(histogram::record).collect())),
};

/// Whether the kernel can be asked for samples of a socket that is open already (Linux 6.12).
fn can_arm() -> bool {
    Vmlinux::get().is_some_and(|kernel| kernel.has_enumerator("TCP_BPF_SOCK_OPS_CB_FLAGS"))
}

fn has_cgroups() -> bool {
    cgroup::whole().is_ok()
}

fn leave_out() -> &'static [&'static str] {
    match (has_cgroups(), can_arm()) {
        (true, true) => &["flowtag_rtt_segment"],
        (true, false) => &["flowtag_rtt_arm"],
        (false, _) => &["flowtag_rtt", "flowtag_rtt_arm"],
    }
}

fn settings(options: &Options) -> Vec<u8> {
    let source = if has_cgroups() { source::HISTOGRAM_UNARMED } else { source::HISTOGRAM_ALL };
    let settings = histogram_settings { parts: whose::parts(options, &["peer", "tag"]), source };
    settings.as_bytes().to_vec()
}

/// The distributions so far.
///
/// # Errors
/// [`crate::Error::Map`] where the kernel refuses.
pub fn series(loaded: &Loaded) -> Result<Vec<Series>> {
    histogram::read(loaded, &[])
}
