//! TCP connections that end with RST.

pub mod abi;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use zerocopy::IntoBytes;

use self::abi::{resets_deduced as deduced, resets_event, resets_kind as kind, resets_settings};
use super::record::{self, Context, Record, Value, state_name};
use super::{Column, Description, Measure, Metric, Options, Source};
use crate::btf::Vmlinux;

/// `flowtag resets`.
pub static PROBE: Description = Description {
    name: "resets",
    about: "Show each TCP connection that ends with RST: whose, who sent it, and why",
    details: "Reasons in capitals are the running kernel's (Linux 6.10 and later); those in small letters are deduced \
              from the socket, as are all of what is received: a RST does not say why it was sent. See docs/resets.md.",
    examples: &[
        ("resets", "each RST, sent or received"),
        ("resets --by reason,process", "which programs reset connections, and why"),
        ("resets --json -d 60 port 1094", "one minute of one service, for a program"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/resets.bpf.o")),
    optional: &[(
        "flowtag_resets_unwanted",
        "RST that is sent where there is no socket, unless the tracepoint tcp_send_reset tells of it",
    )],
    flags: &[],
    columns: &[
        Column::text("reason", "REASON", 23, "Why: the kernel's word, or what the socket shows"),
        Column::text("direction", "DIRECTION", 9, "Who sent it: sent by this host, or received"),
        Column::text("reason_source", "SAID BY", 7, "Who says so: kernel, or deduced").rank(7),
        Column::text("state", "STATE", 10, "State of the connection before").rank(1),
    ],
    metrics: &[Metric {
        name: "flowtag_tcp_resets",
        unit: None,
        help: "TCP segments with RST that were sent, and connections that ended with one that was received",
        labels: &["direction", "reason"],
        measure: Measure::Records,
    }],
    settings,
    leave_out: || if has_reason() { &["flowtag_resets_unwanted"] } else { &[] },
    at_start: &[],
    source: Source::Events(decode),
};

/// Whether the tracepoint says why, and also fires where there is no socket (Linux 6.10).
fn has_reason() -> bool {
    Vmlinux::get().and_then(|k| k.argument_of_enum("tcp_send_reset", "sk_rst_reason")) == Some(2)
}

fn settings(_: &Options) -> Vec<u8> {
    let kernel = Vmlinux::get();
    let dropped_at = kernel.and_then(|k| k.argument_of_enum("kfree_skb", "skb_drop_reason"));
    let no_socket = || number(kernel?, "skb_drop_reason", "SKB_DROP_REASON_NO_SOCKET");
    let settings = resets_settings {
        has_reason: has_reason().into(),
        no_socket: dropped_at.and_then(|_| no_socket()).unwrap_or(0),
        reason_at: dropped_at.and_then(|at| at.try_into().ok()).unwrap_or(0),
        pad: 0,
    };
    settings.as_bytes().to_vec()
}

/// The number of a name of an enumeration of the running kernel.
fn number(kernel: &Vmlinux, enumeration: &str, name: &str) -> Option<u32> {
    let names = kernel.names(enumeration, "");
    let found = names.iter().find(|(_, known)| *known == name);
    found.and_then(|(number, _)| (*number).try_into().ok())
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let raw: resets_event = record::read(bytes)?;
    let is_received = u32::from(raw.event.kind) == kind::RESETS_RECEIVED;
    let is_deduced = raw.deduced != deduced::RESETS_UNKNOWN;
    let reason = if is_deduced { deduced_word(raw.deduced).into() } else { kernel_word(raw.reason) };
    let values = vec![
        Value::Text(reason),
        Value::from(if is_received { "received" } else { "sent" }),
        Value::from(if is_deduced { "deduced" } else { "kernel" }),
        Value::from((raw.event.state != 0).then(|| state_name(raw.event.state))),
    ];
    let mut context = Context::from(&raw.event);
    if raw.event.owner.pid == 0 && raw.event.owner.cgroup == 0 {
        // Without a socket it is nobody's, and not root's.
        context.owner.user = None;
    }
    Some(Record { context, values })
}

/// In small letters, so that it is not taken for one of the kernel's.
fn deduced_word(number: u32) -> &'static str {
    match number {
        deduced::RESETS_NO_SOCKET => "no_socket",
        deduced::RESETS_NOT_EXPECTED => "not_expected",
        deduced::RESETS_CLOSED => "closed",
        deduced::RESETS_LINGER => "linger",
        deduced::RESETS_KEEPALIVE => "keepalive",
        deduced::RESETS_REFUSED => "refused",
        deduced::RESETS_BY_PEER => "by_peer",
        _ => "aborted",
    }
}

fn kernel_word(number: u32) -> Cow<'static, str> {
    static NAMES: OnceLock<HashMap<u64, String>> = OnceLock::new();
    let read = || Vmlinux::get().map(|kernel| kernel.names("sk_rst_reason", "SK_RST_REASON_"));
    let names = NAMES.get_or_init(|| read().unwrap_or_default());
    names.get(&number.into()).map_or_else(|| number.to_string().into(), |name| name.as_str().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_told_from_what_is_deduced() {
        for (reason, deduced, kind, word, source, direction) in [
            (1, deduced::RESETS_UNKNOWN, kind::RESETS_SENT, "NO_SOCKET", "kernel", "sent"),
            (0, deduced::RESETS_LINGER, kind::RESETS_SENT, "linger", "deduced", "sent"),
            (0, deduced::RESETS_REFUSED, kind::RESETS_RECEIVED, "refused", "deduced", "received"),
            (9999, deduced::RESETS_UNKNOWN, kind::RESETS_SENT, "9999", "kernel", "sent"),
        ] {
            if source == "kernel" && reason == 1 && kernel_word(1) != "NO_SOCKET" {
                continue; // this kernel has no reasons
            }
            let mut raw = resets_event { reason, deduced, ..zerocopy::FromZeros::new_zeroed() };
            raw.event.kind = kind.try_into().expect("small");
            let record = decode(raw.as_bytes()).expect("a whole event");
            assert_eq!(record.values[..3], [word.to_owned().into(), direction.into(), source.into()]);
            assert_eq!(record.values.len(), PROBE.columns.len());
            assert_eq!(record.context.owner.user, None, "nobody's");
        }
    }
}
