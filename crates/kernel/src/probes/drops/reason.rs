//! What the kernel's reasons are called, and which of them are no loss.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::btf::Vmlinux;

/// Reasons of the network's core; the other subsystems have enumerations of their own in the high 16 bits.
const REASONS: (&str, &str) = ("skb_drop_reason", "SKB_DROP_REASON_");
const SUBSYSTEMS: (&str, &str) = ("skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_");
const SUBSYSTEM_SHIFT: u32 = 16;
/// Enumerations of subsystems that are part of the kernel itself; those of modules are in no BTF that is read here.
const OF_SUBSYSTEMS: &[(&str, &str)] =
    &[("qdisc_drop_reason", ""), ("mac80211_drop_reason", ""), ("ovs_drop_reason", "")];

/// Reasons for which nothing is lost that anybody waits for, by their names of whatever kernel: numbers move with every
/// release.
pub const BENIGN: &[(&str, &str)] = &[
    ("SKB_NOT_DROPPED_YET", "it is not dropped"),
    ("SKB_CONSUMED", "it was used to the end"),
    ("TCP_OLD_DATA", "its data had come before"),
    ("TCP_OFOMERGE", "its data had come before, and waits for what is missing before it"),
    ("TCP_OLD_SEQUENCE", "it came before, or asks whether the other end still lives (keepalive)"),
    ("TCP_OLD_ACK", "a later acknowledgement overtook it"),
    ("TCP_RESET", "a reset, which did its work: `flowtag resets` tells of it"),
    ("DUP_FRAG", "the same fragment had come before"),
    ("OTHERHOST", "it was for another host: a port that mirrors, or an interface that listens to all"),
    ("UNHANDLED_PROTO", "of a protocol that nobody here speaks: LLDP, spanning tree"),
    ("MAC_IEEE_MAC_CONTROL", "it was for the next device only: PAUSE"),
    ("IPV6_NDISC_NS_OTHERHOST", "a neighbour asked for another host"),
];

/// No reason; before Linux 5.17 there is none.
const UNSAID: &[&str] = &["-", "NOT_SPECIFIED"];
/// Reasons that say nothing, or only that a queue went away. With these, what is of no network is a message of a UNIX or
/// netlink socket.
const VAGUE: &[&str] =
    &["-", "NOT_SPECIFIED", "SOCKET_CLOSE", "QUEUE_PURGE", "UNIX_DISCONNECT", "UNIX_SKIP_OOB"];

/// Frees the parts of a packet, which was counted as a whole if it was dropped: some kernels report parts also of what was
/// used to the end.
const FREES_PARTS: &str = "skb_release_data";

/// Functions that end like this, without a reason, what was no loss; and the word for it.
pub const BENIGN_PLACES: &[(&str, &str)] = &[
    ("ip6_mc_input", "(multicast that nobody joined)"),
    ("icmpv6_rcv", "(ICMPv6 that was handled)"),
    ("igmp_rcv", "(IGMP that was handled)"),
];

/// What is no loss, and the word under which it is counted.
pub(super) fn benign(reason: &str, function: &str, is_message: bool) -> Option<&'static str> {
    if let Some((name, _)) = BENIGN.iter().find(|(name, _)| *name == reason) {
        return Some(name);
    }
    // The compiler names what it made of a function `FUNCTION.isra.0`.
    let function = function.split('.').next().unwrap_or_default();
    if function == FREES_PARTS {
        return Some("(part of a packet)");
    }
    let place = BENIGN_PLACES.iter().find(|(place, _)| *place == function && UNSAID.contains(&reason));
    place.map(|(_, word)| *word).or((is_message && VAGUE.contains(&reason)).then_some("(UNIX or netlink)"))
}

/// As the running kernel calls it, without the prefix that all have: `NO_SOCKET`.
pub fn reason_name(reason: u32) -> String {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| Names::of(Vmlinux::get())).get(reason)
}

/// Of the running kernel.
#[derive(Debug, Default)]
struct Names {
    reasons: HashMap<u64, String>,
    subsystems: HashMap<u64, String>,
}

impl Names {
    fn of(kernel: Option<&Vmlinux>) -> Self {
        let Some(kernel) = kernel else { return Self::default() };
        let mut reasons = kernel.names(REASONS.0, REASONS.1);
        for (enumeration, prefix) in OF_SUBSYSTEMS {
            let more = kernel.names(enumeration, prefix).into_iter();
            reasons.extend(more.filter(|(value, _)| value >> SUBSYSTEM_SHIFT != 0));
        }
        Self { reasons, subsystems: kernel.names(SUBSYSTEMS.0, SUBSYSTEMS.1) }
    }

    fn get(&self, reason: u32) -> String {
        if let Some(name) = self.reasons.get(&reason.into()) {
            return name.clone();
        }
        let (subsystem, number) = (reason >> SUBSYSTEM_SHIFT, reason & ((1 << SUBSYSTEM_SHIFT) - 1));
        match self.subsystems.get(&subsystem.into()) {
            Some(name) => format!("{name} reason {number}"),
            None => format!("subsys {subsystem} reason {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_running_kernel() {
        let numbers = Vmlinux::get().unwrap().names(REASONS.0, "");
        let Some((number, _)) = numbers.iter().find(|(_, name)| *name == "SKB_DROP_REASON_NO_SOCKET") else {
            return;
        };
        assert_eq!(reason_name(*number as u32), "NO_SOCKET");
    }

    #[test]
    fn a_number_without_a_name_says_whose_it_is() {
        let subsystems = [(0, "CORE".to_owned()), (2, "OPENVSWITCH".to_owned())].into();
        let names = Names { reasons: [(3, "NO_SOCKET".to_owned())].into(), subsystems };
        assert_eq!(names.get(3), "NO_SOCKET");
        assert_eq!(names.get(2 << 16 | 7), "OPENVSWITCH reason 7");
        assert_eq!(names.get(9 << 16 | 1), "subsys 9 reason 1");
    }

    #[test]
    fn what_is_no_loss_is_told_by_name() {
        assert_eq!(benign("TCP_OLD_DATA", "tcp_data_queue", false), Some("TCP_OLD_DATA"));
        assert_eq!(benign("NO_SOCKET", "udp_rcv", false), None);
        assert_eq!(benign("NOT_SPECIFIED", "skb_release_data", false), Some("(part of a packet)"));
        assert_eq!(benign("SOCKET_CLOSE", "unix_release_sock", true), Some("(UNIX or netlink)"));
        assert_eq!(benign("NOT_SPECIFIED", "icmpv6_rcv.part.0", false), Some("(ICMPv6 that was handled)"));
        assert_eq!(benign("ICMP_CSUM", "icmpv6_rcv", false), None);
        assert_eq!(benign("IP_OUTNOROUTES", "__ip_queue_xmit", true), None);
    }
}
