//! What an interface counts of its packets, which drivers do in their own ways.

use super::abi::{top_interface, top_interface_flags as flags, top_sum};

/// As in `/sys/class/net/*/statistics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

/// Which parts an interface counts: hardware what is on the wire, virtual devices packets as the kernel hands them over.
pub(super) fn counted(sum: &top_sum, interface: Option<&top_interface>, is_sent: bool) -> Counted {
    let has = |flag: flags::Type| interface.is_some_and(|i| i.flags & flag != 0);
    let is = |text: &str, of: fn(&top_interface) -> &[u8; 16]| {
        interface.is_some_and(|i| of(i).split(|byte| *byte == 0).next() == Some(text.as_bytes()))
    };
    let link = sum.bytes + sum.link_bytes;
    // The loopback interface and what a bridge takes for itself are counted when the link header is off.
    if has(flags::TOP_LOOPBACK) || (is("bridge", |i| &i.kind) && !is_sent) {
        return Counted { bytes: sum.bytes, packets: sum.packets };
    }
    // The host of a virtual machine makes the segments.
    let is_cut_elsewhere = is("virtio_net", |i| &i.driver) && is_sent;
    if !has(flags::TOP_PHYSICAL) || is_cut_elsewhere {
        return Counted { bytes: link, packets: sum.packets };
    }
    Counted { bytes: link + sum.segment_bytes, packets: sum.segments }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: top_sum =
        top_sum { bytes: 10_000, link_bytes: 14, segment_bytes: 400, packets: 1, segments: 7 };

    fn interface(flags: flags::Type, kind: &str, driver: &str) -> top_interface {
        let name = |text: &str| {
            let mut name = [0; 16];
            name[..text.len()].copy_from_slice(text.as_bytes());
            name
        };
        let none = || top_sum { bytes: 0, link_bytes: 0, segment_bytes: 0, packets: 0, segments: 0 };
        top_interface {
            sent: none(),
            received: none(),
            name: name("x"),
            kind: name(kind),
            driver: name(driver),
            flags,
            pad: 0,
        }
    }

    #[test]
    fn interfaces_count_in_their_own_ways() {
        for (what, interface, is_sent, expected) in [
            ("veth", interface(0, "veth", ""), true, (10_014, 1)),
            ("loopback", interface(flags::TOP_LOOPBACK, "", ""), true, (10_000, 1)),
            ("a bridge that sends", interface(0, "bridge", ""), true, (10_014, 1)),
            ("a bridge that receives", interface(0, "bridge", ""), false, (10_000, 1)),
            ("hardware", interface(flags::TOP_PHYSICAL, "", "ixgbe"), true, (10_414, 7)),
            ("virtio that sends", interface(flags::TOP_PHYSICAL, "", "virtio_net"), true, (10_014, 1)),
            ("virtio that receives", interface(flags::TOP_PHYSICAL, "", "virtio_net"), false, (10_414, 7)),
        ] {
            let (bytes, packets) = expected;
            assert_eq!(counted(&SUM, Some(&interface), is_sent), Counted { bytes, packets }, "{what}");
        }
    }
}
