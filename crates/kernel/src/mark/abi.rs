//! Generated from `bpf/abi/mark.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
pub mod mark_layout {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Raised with every change of this file that a running program of an earlier flowtag would not understand: pinned maps\n of another layout are not adopted."]
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_LAYOUT: Type = 2;
}
#[doc = " What the programs are told before they are loaded."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_constants {
    #[doc = " number of slots less one"]
    pub slot_mask: __u32,
    pub pad: __u32,
    #[doc = " from which the entropy bits are made; the engine has the same"]
    pub entropy_key: [__u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_constants"][::core::mem::size_of::<mark_constants>() - 24usize];
    ["Alignment of mark_constants"][::core::mem::align_of::<mark_constants>() - 8usize];
    ["Offset of field: mark_constants::slot_mask"]
        [::core::mem::offset_of!(mark_constants, slot_mask) - 0usize];
    ["Offset of field: mark_constants::pad"][::core::mem::offset_of!(mark_constants, pad) - 4usize];
    ["Offset of field: mark_constants::entropy_key"]
        [::core::mem::offset_of!(mark_constants, entropy_key) - 8usize];
};
#[doc = " A flow as the packets that leave this host carry it. Every byte is significant to the hash: pad is zero."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_key {
    #[doc = " source address of the packet, network order; IPv4 as ::ffff:a.b.c.d"]
    pub local_addr: [__u8; 16usize],
    #[doc = " destination address of the packet, likewise"]
    pub remote_addr: [__u8; 16usize],
    #[doc = " source port, network order; 0 where the protocol has none"]
    pub local_port: __be16,
    #[doc = " destination port, likewise"]
    pub remote_port: __be16,
    #[doc = " IPPROTO_*"]
    pub protocol: __u8,
    pub pad: [__u8; 3usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_key"][::core::mem::size_of::<mark_key>() - 40usize];
    ["Alignment of mark_key"][::core::mem::align_of::<mark_key>() - 2usize];
    ["Offset of field: mark_key::local_addr"][::core::mem::offset_of!(mark_key, local_addr) - 0usize];
    ["Offset of field: mark_key::remote_addr"][::core::mem::offset_of!(mark_key, remote_addr) - 16usize];
    ["Offset of field: mark_key::local_port"][::core::mem::offset_of!(mark_key, local_port) - 32usize];
    ["Offset of field: mark_key::remote_port"][::core::mem::offset_of!(mark_key, remote_port) - 34usize];
    ["Offset of field: mark_key::protocol"][::core::mem::offset_of!(mark_key, protocol) - 36usize];
    ["Offset of field: mark_key::pad"][::core::mem::offset_of!(mark_key, pad) - 37usize];
};
pub mod mark_word {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What to write into packets: one word, so that it is read and changed at once. Bits 0 to 19: flow label, host order.\n Bits 20 to 22: where (flowtag_wire::Strategy). Bits 24 to 31: index into flowtag_tags, which counts it."]
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_WORD_LABEL: Type = 1048575;
    pub const MARK_WORD_STRATEGY_SHIFT: Type = 20;
    pub const MARK_WORD_IN_LABEL: Type = 1048576;
    pub const MARK_WORD_IN_DESTINATION: Type = 2097152;
    pub const MARK_WORD_IN_HOP_BY_HOP: Type = 4194304;
    pub const MARK_WORD_CLASS_SHIFT: Type = 24;
}
#[doc = " What to write into the packets of one flow."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_value {
    #[doc = " enum mark_word"]
    pub word: __u32,
    #[doc = " low half of jiffies64 at a recent packet, written by the kernel, seldom; 0: none yet"]
    pub last_seen: __u32,
    #[doc = " when the flow began, µs since the epoch; for the next daemon"]
    pub start: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_value"][::core::mem::size_of::<mark_value>() - 16usize];
    ["Alignment of mark_value"][::core::mem::align_of::<mark_value>() - 8usize];
    ["Offset of field: mark_value::word"][::core::mem::offset_of!(mark_value, word) - 0usize];
    ["Offset of field: mark_value::last_seen"][::core::mem::offset_of!(mark_value, last_seen) - 4usize];
    ["Offset of field: mark_value::start"][::core::mem::offset_of!(mark_value, start) - 8usize];
};
#[doc = " All flows whose keys have one hash, and one of them in full: a cache line that answers for most packets."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_slot {
    #[doc = " odd while user space writes, changed after"]
    pub sequence: __u32,
    #[doc = " 1: key and word are those of a flow in the table"]
    pub direct: __u16,
    #[doc = " how many flows of the table are in this slot, up to 65535; 0: a look-up would find nothing"]
    pub flows: __u16,
    #[doc = " as in struct mark_value"]
    pub word: __u32,
    #[doc = " as in struct mark_value"]
    pub last_seen: __u32,
    pub key: mark_key,
    pub pad: [__u8; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_slot"][::core::mem::size_of::<mark_slot>() - 64usize];
    ["Alignment of mark_slot"][::core::mem::align_of::<mark_slot>() - 4usize];
    ["Offset of field: mark_slot::sequence"][::core::mem::offset_of!(mark_slot, sequence) - 0usize];
    ["Offset of field: mark_slot::direct"][::core::mem::offset_of!(mark_slot, direct) - 4usize];
    ["Offset of field: mark_slot::flows"][::core::mem::offset_of!(mark_slot, flows) - 6usize];
    ["Offset of field: mark_slot::word"][::core::mem::offset_of!(mark_slot, word) - 8usize];
    ["Offset of field: mark_slot::last_seen"][::core::mem::offset_of!(mark_slot, last_seen) - 12usize];
    ["Offset of field: mark_slot::key"][::core::mem::offset_of!(mark_slot, key) - 16usize];
    ["Offset of field: mark_slot::pad"][::core::mem::offset_of!(mark_slot, pad) - 56usize];
};
pub mod mark_verdict {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What became of a packet. Each is a row of struct mark_counters."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " tag written, or found to be there already"]
    pub const MARK_MARKED: Type = 0;
    #[doc = " IPv6, TCP or UDP, in no flow that was announced and matched by no rule"]
    pub const MARK_NO_FLOW: Type = 1;
    #[doc = " IPv4 has no flow label"]
    pub const MARK_IPV4: Type = 2;
    #[doc = " ARP, LLDP, …"]
    pub const MARK_NOT_IP: Type = 3;
    #[doc = " IPv6 without ports (ICMPv6, ESP, a tunnel, …), matched by no rule"]
    pub const MARK_OTHER_PROTOCOL: Type = 4;
    #[doc = " not the first fragment, and the first was not seen"]
    pub const MARK_FRAGMENT: Type = 5;
    #[doc = " cut short, or more extension headers than MARK_MAX_EXTENSION_HEADERS"]
    pub const MARK_UNREADABLE: Type = 6;
    #[doc = " the kernel could not make the header writable (no memory); passed as it came"]
    pub const MARK_WRITE_FAILED: Type = 7;
    #[doc = " with the options header the packet would exceed the MTU; passed as it came"]
    pub const MARK_NO_ROOM: Type = 8;
    #[doc = " an authentication header covers what would change; passed as it came"]
    pub const MARK_PROTECTED: Type = 9;
    #[doc = " a rule says that it must not be marked"]
    pub const MARK_NEVER: Type = 10;
    #[doc = " label and option cleared at the edge"]
    pub const MARK_STRIPPED: Type = 11;
    #[doc = " nobody renewed the lease: the daemon is gone"]
    pub const MARK_EXPIRED: Type = 12;
    pub const MARK_VERDICTS: Type = 13;
    #[doc = " a power of two, so that the verifier knows the bound of an index"]
    pub const MARK_VERDICT_ROWS: Type = 16;
}
pub mod mark_limits {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    #[doc = " 802.1ad over 802.1Q"]
    pub const MARK_MAX_VLAN_TAGS: Type = 2;
    #[doc = " walked before the transport header is given up"]
    pub const MARK_MAX_EXTENSION_HEADERS: Type = 8;
    #[doc = " with counters of their own; slot 0 is shared by the rest"]
    pub const MARK_MAX_INTERFACES: Type = 255;
    #[doc = " jiffies (64 ms to 640 ms) by which last_seen may lag"]
    pub const MARK_LAST_SEEN_STEP: Type = 64;
    #[doc = " with counters of their own; index 0 is shared by the rest"]
    pub const MARK_MAX_TAGS: Type = 256;
    #[doc = " packets' verdicts remembered per CPU"]
    pub const MARK_RECENT: Type = 1024;
    #[doc = " combinations of tag, peer prefix and interface that are counted"]
    pub const MARK_MAX_ARRIVALS: Type = 16384;
    #[doc = " connections that rules found of which user space may not know yet"]
    pub const MARK_MAX_TOLD: Type = 8192;
    #[doc = " destinations whose path is known to be narrower"]
    pub const MARK_MAX_PATHS: Type = 4096;
    #[doc = " for which that is believed, as by net.ipv6.route.mtu_expires"]
    pub const MARK_PATH_SECONDS: Type = 600;
    #[doc = " jiffies between two MARK_EVENT_NO_ROOM of a CPU"]
    pub const MARK_TELL_STEP: Type = 16;
}
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_count {
    #[doc = " on the wire: a GSO packet counts as its segments"]
    pub packets: __u64,
    #[doc = " on the wire, with link header: a GSO packet counts the headers of each segment"]
    pub bytes: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_count"][::core::mem::size_of::<mark_count>() - 16usize];
    ["Alignment of mark_count"][::core::mem::align_of::<mark_count>() - 8usize];
    ["Offset of field: mark_count::packets"][::core::mem::offset_of!(mark_count, packets) - 0usize];
    ["Offset of field: mark_count::bytes"][::core::mem::offset_of!(mark_count, bytes) - 8usize];
};
#[doc = " Counters of one interface on one CPU."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_counters {
    pub by_verdict: [mark_count; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_counters"][::core::mem::size_of::<mark_counters>() - 256usize];
    ["Alignment of mark_counters"][::core::mem::align_of::<mark_counters>() - 8usize];
    ["Offset of field: mark_counters::by_verdict"]
        [::core::mem::offset_of!(mark_counters, by_verdict) - 0usize];
};
pub mod mark_interface_flags {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    #[doc = " there are rules"]
    pub const MARK_IF_RULES: Type = 1;
    #[doc = " there are prefixes to which tags must not leave"]
    pub const MARK_IF_STRIP_EGRESS: Type = 2;
    #[doc = " there are prefixes from which tags must not come in"]
    pub const MARK_IF_STRIP_INGRESS: Type = 4;
    #[doc = " IPv6 in IPv6: write into the inner header"]
    pub const MARK_IF_INNER: Type = 8;
    #[doc = " count the tags that arrive"]
    pub const MARK_IF_COUNT_INGRESS: Type = 16;
}
#[doc = " What the program must know of an interface."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_interface {
    #[doc = " index into the counters; 0: shared by all that got none of their own"]
    pub slot: __u16,
    #[doc = " bytes before the network header: 14 (Ethernet) or 0 (tun, WireGuard, ip6tnl)"]
    pub link_header_len: __u8,
    #[doc = " 0: never configured, pass the packet"]
    pub known: __u8,
    #[doc = " enum mark_interface_flags"]
    pub flags: __u8,
    #[doc = " bytes to take off the MSS and off path MTUs that arrive: 0, 8, 16"]
    pub overhead: __u8,
    pub pad: __u16,
    #[doc = " of the interface, bytes of network packet"]
    pub mtu: __u32,
    pub pad2: __u32,
    #[doc = " jiffies64 after which nothing is marked any more"]
    pub lease: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_interface"][::core::mem::size_of::<mark_interface>() - 24usize];
    ["Alignment of mark_interface"][::core::mem::align_of::<mark_interface>() - 8usize];
    ["Offset of field: mark_interface::slot"][::core::mem::offset_of!(mark_interface, slot) - 0usize];
    ["Offset of field: mark_interface::link_header_len"]
        [::core::mem::offset_of!(mark_interface, link_header_len) - 2usize];
    ["Offset of field: mark_interface::known"][::core::mem::offset_of!(mark_interface, known) - 3usize];
    ["Offset of field: mark_interface::flags"][::core::mem::offset_of!(mark_interface, flags) - 4usize];
    ["Offset of field: mark_interface::overhead"][::core::mem::offset_of!(mark_interface, overhead) - 5usize];
    ["Offset of field: mark_interface::pad"][::core::mem::offset_of!(mark_interface, pad) - 6usize];
    ["Offset of field: mark_interface::mtu"][::core::mem::offset_of!(mark_interface, mtu) - 8usize];
    ["Offset of field: mark_interface::pad2"][::core::mem::offset_of!(mark_interface, pad2) - 12usize];
    ["Offset of field: mark_interface::lease"][::core::mem::offset_of!(mark_interface, lease) - 16usize];
};
#[doc = " The verdict on a packet's key, remembered on the CPU that found it."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_recent {
    pub key: mark_key,
    #[doc = " of the rules that gave it"]
    pub generation: __u32,
    #[doc = " enum mark_word; 0: not to be marked"]
    pub word: __u32,
    #[doc = " cookie of the socket that sent it, 0: none; of TCP only whether there is one"]
    pub socket: __u64,
    #[doc = " enum mark_verdict"]
    pub verdict: __s32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_recent"][::core::mem::size_of::<mark_recent>() - 64usize];
    ["Alignment of mark_recent"][::core::mem::align_of::<mark_recent>() - 8usize];
    ["Offset of field: mark_recent::key"][::core::mem::offset_of!(mark_recent, key) - 0usize];
    ["Offset of field: mark_recent::generation"][::core::mem::offset_of!(mark_recent, generation) - 40usize];
    ["Offset of field: mark_recent::word"][::core::mem::offset_of!(mark_recent, word) - 44usize];
    ["Offset of field: mark_recent::socket"][::core::mem::offset_of!(mark_recent, socket) - 48usize];
    ["Offset of field: mark_recent::verdict"][::core::mem::offset_of!(mark_recent, verdict) - 56usize];
    ["Offset of field: mark_recent::pad"][::core::mem::offset_of!(mark_recent, pad) - 60usize];
};
pub mod mark_rule_limits {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " ---- Rules. Each condition of a packet (its remote address, its user, …) has a class; a class is the set of rules\n that it satisfies; the first rule in all sets applies. Everything is there twice (a bank each): one bank is read\n while the other is written."]
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_MAX_RULES: Type = 1024;
    #[doc = " MARK_MAX_RULES / 64"]
    pub const MARK_RULE_WORDS: Type = 16;
    #[doc = " per bank"]
    pub const MARK_MAX_CLASSES: Type = 4096;
    #[doc = " tags that one rule chooses from"]
    pub const MARK_RULE_TAGS: Type = 16;
    #[doc = " depth below the root at which a rule may name a cgroup"]
    pub const MARK_MAX_CGROUP_LEVELS: Type = 16;
    pub const MARK_BANKS: Type = 2;
}
pub mod mark_dimension {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Conditions. Those up to MARK_BY_CGROUP are looked up in flowtag_values."]
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_BY_PROTOCOL: Type = 0;
    pub const MARK_BY_INTERFACE: Type = 1;
    pub const MARK_BY_USER: Type = 2;
    pub const MARK_BY_PROCESS: Type = 3;
    pub const MARK_BY_CGROUP: Type = 4;
    pub const MARK_BY_LOCAL_PORT: Type = 5;
    pub const MARK_BY_REMOTE_PORT: Type = 6;
    pub const MARK_BY_LOCAL_ADDRESS: Type = 7;
    pub const MARK_BY_REMOTE_ADDRESS: Type = 8;
    pub const MARK_DIMENSIONS: Type = 9;
}
#[doc = " The rules that a value satisfies."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_rule_set {
    pub bits: [__u64; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_rule_set"][::core::mem::size_of::<mark_rule_set>() - 128usize];
    ["Alignment of mark_rule_set"][::core::mem::align_of::<mark_rule_set>() - 8usize];
    ["Offset of field: mark_rule_set::bits"][::core::mem::offset_of!(mark_rule_set, bits) - 0usize];
};
pub mod mark_action {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_ACTION_MARK: Type = 0;
    pub const MARK_ACTION_NEVER: Type = 1;
    pub const MARK_ACTION_RANDOM: Type = 2;
}
#[doc = " What a rule does."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_rule {
    #[doc = " enum mark_action"]
    pub action: __u32,
    #[doc = " bits of enum mark_word"]
    pub strategy: __u32,
    #[doc = " how many of `tag`"]
    pub tags: __u32,
    pub pad: __u32,
    #[doc = " label bits without entropy, and class, as in enum mark_word"]
    pub tag: [__u32; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_rule"][::core::mem::size_of::<mark_rule>() - 80usize];
    ["Alignment of mark_rule"][::core::mem::align_of::<mark_rule>() - 4usize];
    ["Offset of field: mark_rule::action"][::core::mem::offset_of!(mark_rule, action) - 0usize];
    ["Offset of field: mark_rule::strategy"][::core::mem::offset_of!(mark_rule, strategy) - 4usize];
    ["Offset of field: mark_rule::tags"][::core::mem::offset_of!(mark_rule, tags) - 8usize];
    ["Offset of field: mark_rule::pad"][::core::mem::offset_of!(mark_rule, pad) - 12usize];
    ["Offset of field: mark_rule::tag"][::core::mem::offset_of!(mark_rule, tag) - 16usize];
};
#[doc = " One bank. Index of flowtag_rule_banks."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_rule_bank {
    #[doc = " of the sets that are in use: rules / 64, rounded up"]
    pub words: __u32,
    #[doc = " bit per enum mark_dimension: some rule looks at it"]
    pub used: __u32,
    #[doc = " bit per level at which a rule names a cgroup; the root is 0"]
    pub cgroup_levels: __u32,
    #[doc = " class of values that no rule names"]
    pub any: [__u32; 9usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_rule_bank"][::core::mem::size_of::<mark_rule_bank>() - 48usize];
    ["Alignment of mark_rule_bank"][::core::mem::align_of::<mark_rule_bank>() - 4usize];
    ["Offset of field: mark_rule_bank::words"][::core::mem::offset_of!(mark_rule_bank, words) - 0usize];
    ["Offset of field: mark_rule_bank::used"][::core::mem::offset_of!(mark_rule_bank, used) - 4usize];
    ["Offset of field: mark_rule_bank::cgroup_levels"]
        [::core::mem::offset_of!(mark_rule_bank, cgroup_levels) - 8usize];
    ["Offset of field: mark_rule_bank::any"][::core::mem::offset_of!(mark_rule_bank, any) - 12usize];
};
#[doc = " Which bank is read. The only element of flowtag_rules."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_rules {
    #[doc = " raised with every change; bank = generation & 1"]
    pub generation: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_rules"][::core::mem::size_of::<mark_rules>() - 8usize];
    ["Alignment of mark_rules"][::core::mem::align_of::<mark_rules>() - 4usize];
    ["Offset of field: mark_rules::generation"][::core::mem::offset_of!(mark_rules, generation) - 0usize];
    ["Offset of field: mark_rules::pad"][::core::mem::offset_of!(mark_rules, pad) - 4usize];
};
#[doc = " Exact values: protocol, interface, user, process name, cgroup."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_rule_value {
    pub bank: __u8,
    #[doc = " enum mark_dimension"]
    pub dimension: __u8,
    pub pad: [__u8; 6usize],
    #[doc = " number, or 16 bytes of name"]
    pub value: [__u64; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_rule_value"][::core::mem::size_of::<mark_rule_value>() - 24usize];
    ["Alignment of mark_rule_value"][::core::mem::align_of::<mark_rule_value>() - 8usize];
    ["Offset of field: mark_rule_value::bank"][::core::mem::offset_of!(mark_rule_value, bank) - 0usize];
    ["Offset of field: mark_rule_value::dimension"]
        [::core::mem::offset_of!(mark_rule_value, dimension) - 1usize];
    ["Offset of field: mark_rule_value::pad"][::core::mem::offset_of!(mark_rule_value, pad) - 2usize];
    ["Offset of field: mark_rule_value::value"][::core::mem::offset_of!(mark_rule_value, value) - 8usize];
};
#[doc = " Classes of all ports of one side. Index of flowtag_ports: bank * 2 + (remote ? 1 : 0)."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_ports {
    pub class: [__u16; 65536usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_ports"][::core::mem::size_of::<mark_ports>() - 131072usize];
    ["Alignment of mark_ports"][::core::mem::align_of::<mark_ports>() - 2usize];
    ["Offset of field: mark_ports::class"][::core::mem::offset_of!(mark_ports, class) - 0usize];
};
pub mod mark_prefix_kind {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_PREFIX_RULE_LOCAL: Type = 0;
    pub const MARK_PREFIX_RULE_REMOTE: Type = 1;
    pub const MARK_PREFIX_STRIP: Type = 2;
}
#[doc = " Prefixes: of rules, value is the class; to be stripped, value is enum mark_strip."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_prefix {
    #[doc = " 16 + length of the prefix"]
    pub len: __u32,
    #[doc = " 0 for MARK_PREFIX_STRIP"]
    pub bank: __u8,
    #[doc = " enum mark_prefix_kind"]
    pub kind: __u8,
    pub addr: [__u8; 16usize],
    pub pad: [__u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_prefix"][::core::mem::size_of::<mark_prefix>() - 24usize];
    ["Alignment of mark_prefix"][::core::mem::align_of::<mark_prefix>() - 4usize];
    ["Offset of field: mark_prefix::len"][::core::mem::offset_of!(mark_prefix, len) - 0usize];
    ["Offset of field: mark_prefix::bank"][::core::mem::offset_of!(mark_prefix, bank) - 4usize];
    ["Offset of field: mark_prefix::kind"][::core::mem::offset_of!(mark_prefix, kind) - 5usize];
    ["Offset of field: mark_prefix::addr"][::core::mem::offset_of!(mark_prefix, addr) - 6usize];
    ["Offset of field: mark_prefix::pad"][::core::mem::offset_of!(mark_prefix, pad) - 22usize];
};
pub mod mark_strip {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_STRIP_EGRESS: Type = 1;
    pub const MARK_STRIP_INGRESS: Type = 2;
}
#[doc = " What a router said of the way to a destination."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_path {
    #[doc = " ns of CLOCK_MONOTONIC"]
    pub since: __u64,
    #[doc = " bytes of network packet"]
    pub mtu: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_path"][::core::mem::size_of::<mark_path>() - 16usize];
    ["Alignment of mark_path"][::core::mem::align_of::<mark_path>() - 8usize];
    ["Offset of field: mark_path::since"][::core::mem::offset_of!(mark_path, since) - 0usize];
    ["Offset of field: mark_path::mtu"][::core::mem::offset_of!(mark_path, mtu) - 8usize];
    ["Offset of field: mark_path::pad"][::core::mem::offset_of!(mark_path, pad) - 12usize];
};
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_address {
    pub addr: [__u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_address"][::core::mem::size_of::<mark_address>() - 16usize];
    ["Alignment of mark_address"][::core::mem::align_of::<mark_address>() - 1usize];
    ["Offset of field: mark_address::addr"][::core::mem::offset_of!(mark_address, addr) - 0usize];
};
#[doc = " Name of the process that made a socket; kept in the socket, inherited by what it accepts."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_owner {
    pub process: [__u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_owner"][::core::mem::size_of::<mark_owner>() - 16usize];
    ["Alignment of mark_owner"][::core::mem::align_of::<mark_owner>() - 1usize];
    ["Offset of field: mark_owner::process"][::core::mem::offset_of!(mark_owner, process) - 0usize];
};
pub mod mark_event_kind {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    #[doc = " a rule matched the first packet of a flow that is not in the table"]
    pub const MARK_EVENT_MATCHED: Type = 1;
    #[doc = " the TCP socket of a flow in the table closed"]
    pub const MARK_EVENT_CLOSED: Type = 2;
    #[doc = " a packet had no room for its option: the path MTU must be lowered"]
    pub const MARK_EVENT_NO_ROOM: Type = 3;
}
#[doc = " What the program tells user space."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_event {
    pub key: mark_key,
    #[doc = " enum mark_word"]
    pub word: __u32,
    #[doc = " uid of the socket, if any"]
    pub user: __u32,
    #[doc = " which matched"]
    pub rule: __u16,
    #[doc = " enum mark_event_kind"]
    pub kind: __u8,
    pub pad: __u8,
    #[doc = " of the rules"]
    pub generation: __u32,
    #[doc = " that made the socket, if known"]
    pub process: [__u8; 16usize],
    #[doc = " of the interface, less outer headers"]
    pub mtu: __u32,
    #[doc = " number of the network namespace of a socket that closed"]
    pub netns: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_event"][::core::mem::size_of::<mark_event>() - 80usize];
    ["Alignment of mark_event"][::core::mem::align_of::<mark_event>() - 4usize];
    ["Offset of field: mark_event::key"][::core::mem::offset_of!(mark_event, key) - 0usize];
    ["Offset of field: mark_event::word"][::core::mem::offset_of!(mark_event, word) - 40usize];
    ["Offset of field: mark_event::user"][::core::mem::offset_of!(mark_event, user) - 44usize];
    ["Offset of field: mark_event::rule"][::core::mem::offset_of!(mark_event, rule) - 48usize];
    ["Offset of field: mark_event::kind"][::core::mem::offset_of!(mark_event, kind) - 50usize];
    ["Offset of field: mark_event::pad"][::core::mem::offset_of!(mark_event, pad) - 51usize];
    ["Offset of field: mark_event::generation"][::core::mem::offset_of!(mark_event, generation) - 52usize];
    ["Offset of field: mark_event::process"][::core::mem::offset_of!(mark_event, process) - 56usize];
    ["Offset of field: mark_event::mtu"][::core::mem::offset_of!(mark_event, mtu) - 72usize];
    ["Offset of field: mark_event::netns"][::core::mem::offset_of!(mark_event, netns) - 76usize];
};
#[doc = " What the kernel knows of a TCP connection. Names and units are those of struct tcp_info, unless said otherwise."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_tcp {
    #[doc = " number of the socket; 0: it has none yet"]
    pub cookie: __u64,
    #[doc = " bytes of payload that were acknowledged"]
    pub sent: __u64,
    #[doc = " bytes of payload that came in order"]
    pub received: __u64,
    pub bytes_acked: __u64,
    pub bytes_received: __u64,
    pub bytes_sent: __u64,
    pub bytes_retrans: __u64,
    pub pacing_rate: __u64,
    pub max_pacing_rate: __u64,
    pub delivery_rate: __u64,
    #[doc = " jiffies"]
    pub rto: __u32,
    #[doc = " jiffies"]
    pub ato: __u32,
    pub snd_mss: __u32,
    pub rcv_mss: __u32,
    pub unacked: __u32,
    pub sacked: __u32,
    pub lost: __u32,
    pub retrans: __u32,
    #[doc = " jiffies ago"]
    pub last_data_sent: __u32,
    #[doc = " jiffies ago"]
    pub last_data_recv: __u32,
    #[doc = " jiffies ago"]
    pub last_ack_recv: __u32,
    pub pmtu: __u32,
    pub rcv_ssthresh: __u32,
    pub rtt: __u32,
    pub rttvar: __u32,
    pub snd_ssthresh: __u32,
    pub snd_cwnd: __u32,
    pub advmss: __u32,
    pub reordering: __u32,
    pub rcv_rtt: __u32,
    pub rcv_space: __u32,
    pub total_retrans: __u32,
    pub segs_out: __u32,
    pub segs_in: __u32,
    pub notsent_bytes: __u32,
    pub min_rtt: __u32,
    pub data_segs_in: __u32,
    pub data_segs_out: __u32,
    #[doc = " jiffies, apart from the next two"]
    pub busy_time: __u32,
    #[doc = " jiffies"]
    pub rwnd_limited: __u32,
    #[doc = " jiffies"]
    pub sndbuf_limited: __u32,
    pub delivered: __u32,
    pub delivered_ce: __u32,
    pub dsack_dups: __u32,
    pub reord_seen: __u32,
    pub rcv_ooopack: __u32,
    pub snd_wnd: __u32,
    pub rcv_wnd: __u32,
    pub rehash: __u32,
    #[doc = " ms"]
    pub total_rto_time: __u32,
    #[doc = " by SK_MEMINFO_* of linux/sock_diag.h, bytes; the last are packets that were dropped"]
    pub memory: [__u32; 9usize],
    pub total_rto: __u16,
    pub total_rto_recoveries: __u16,
    #[doc = " of a socket that closed: the one before"]
    pub state: __u8,
    pub ca_state: __u8,
    pub retransmits: __u8,
    pub probes: __u8,
    pub backoff: __u8,
    pub options: __u8,
    pub snd_wscale: __u8,
    pub rcv_wscale: __u8,
    #[doc = " 1: delivery_rate is only what the application gave"]
    pub app_limited: __u8,
    pub tos: __u8,
    pub pad: [__u8; 6usize],
    #[doc = " name of the congestion control"]
    pub congestion: [__u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_tcp"][::core::mem::size_of::<mark_tcp>() - 312usize];
    ["Alignment of mark_tcp"][::core::mem::align_of::<mark_tcp>() - 8usize];
    ["Offset of field: mark_tcp::cookie"][::core::mem::offset_of!(mark_tcp, cookie) - 0usize];
    ["Offset of field: mark_tcp::sent"][::core::mem::offset_of!(mark_tcp, sent) - 8usize];
    ["Offset of field: mark_tcp::received"][::core::mem::offset_of!(mark_tcp, received) - 16usize];
    ["Offset of field: mark_tcp::bytes_acked"][::core::mem::offset_of!(mark_tcp, bytes_acked) - 24usize];
    ["Offset of field: mark_tcp::bytes_received"]
        [::core::mem::offset_of!(mark_tcp, bytes_received) - 32usize];
    ["Offset of field: mark_tcp::bytes_sent"][::core::mem::offset_of!(mark_tcp, bytes_sent) - 40usize];
    ["Offset of field: mark_tcp::bytes_retrans"][::core::mem::offset_of!(mark_tcp, bytes_retrans) - 48usize];
    ["Offset of field: mark_tcp::pacing_rate"][::core::mem::offset_of!(mark_tcp, pacing_rate) - 56usize];
    ["Offset of field: mark_tcp::max_pacing_rate"]
        [::core::mem::offset_of!(mark_tcp, max_pacing_rate) - 64usize];
    ["Offset of field: mark_tcp::delivery_rate"][::core::mem::offset_of!(mark_tcp, delivery_rate) - 72usize];
    ["Offset of field: mark_tcp::rto"][::core::mem::offset_of!(mark_tcp, rto) - 80usize];
    ["Offset of field: mark_tcp::ato"][::core::mem::offset_of!(mark_tcp, ato) - 84usize];
    ["Offset of field: mark_tcp::snd_mss"][::core::mem::offset_of!(mark_tcp, snd_mss) - 88usize];
    ["Offset of field: mark_tcp::rcv_mss"][::core::mem::offset_of!(mark_tcp, rcv_mss) - 92usize];
    ["Offset of field: mark_tcp::unacked"][::core::mem::offset_of!(mark_tcp, unacked) - 96usize];
    ["Offset of field: mark_tcp::sacked"][::core::mem::offset_of!(mark_tcp, sacked) - 100usize];
    ["Offset of field: mark_tcp::lost"][::core::mem::offset_of!(mark_tcp, lost) - 104usize];
    ["Offset of field: mark_tcp::retrans"][::core::mem::offset_of!(mark_tcp, retrans) - 108usize];
    ["Offset of field: mark_tcp::last_data_sent"]
        [::core::mem::offset_of!(mark_tcp, last_data_sent) - 112usize];
    ["Offset of field: mark_tcp::last_data_recv"]
        [::core::mem::offset_of!(mark_tcp, last_data_recv) - 116usize];
    ["Offset of field: mark_tcp::last_ack_recv"][::core::mem::offset_of!(mark_tcp, last_ack_recv) - 120usize];
    ["Offset of field: mark_tcp::pmtu"][::core::mem::offset_of!(mark_tcp, pmtu) - 124usize];
    ["Offset of field: mark_tcp::rcv_ssthresh"][::core::mem::offset_of!(mark_tcp, rcv_ssthresh) - 128usize];
    ["Offset of field: mark_tcp::rtt"][::core::mem::offset_of!(mark_tcp, rtt) - 132usize];
    ["Offset of field: mark_tcp::rttvar"][::core::mem::offset_of!(mark_tcp, rttvar) - 136usize];
    ["Offset of field: mark_tcp::snd_ssthresh"][::core::mem::offset_of!(mark_tcp, snd_ssthresh) - 140usize];
    ["Offset of field: mark_tcp::snd_cwnd"][::core::mem::offset_of!(mark_tcp, snd_cwnd) - 144usize];
    ["Offset of field: mark_tcp::advmss"][::core::mem::offset_of!(mark_tcp, advmss) - 148usize];
    ["Offset of field: mark_tcp::reordering"][::core::mem::offset_of!(mark_tcp, reordering) - 152usize];
    ["Offset of field: mark_tcp::rcv_rtt"][::core::mem::offset_of!(mark_tcp, rcv_rtt) - 156usize];
    ["Offset of field: mark_tcp::rcv_space"][::core::mem::offset_of!(mark_tcp, rcv_space) - 160usize];
    ["Offset of field: mark_tcp::total_retrans"][::core::mem::offset_of!(mark_tcp, total_retrans) - 164usize];
    ["Offset of field: mark_tcp::segs_out"][::core::mem::offset_of!(mark_tcp, segs_out) - 168usize];
    ["Offset of field: mark_tcp::segs_in"][::core::mem::offset_of!(mark_tcp, segs_in) - 172usize];
    ["Offset of field: mark_tcp::notsent_bytes"][::core::mem::offset_of!(mark_tcp, notsent_bytes) - 176usize];
    ["Offset of field: mark_tcp::min_rtt"][::core::mem::offset_of!(mark_tcp, min_rtt) - 180usize];
    ["Offset of field: mark_tcp::data_segs_in"][::core::mem::offset_of!(mark_tcp, data_segs_in) - 184usize];
    ["Offset of field: mark_tcp::data_segs_out"][::core::mem::offset_of!(mark_tcp, data_segs_out) - 188usize];
    ["Offset of field: mark_tcp::busy_time"][::core::mem::offset_of!(mark_tcp, busy_time) - 192usize];
    ["Offset of field: mark_tcp::rwnd_limited"][::core::mem::offset_of!(mark_tcp, rwnd_limited) - 196usize];
    ["Offset of field: mark_tcp::sndbuf_limited"]
        [::core::mem::offset_of!(mark_tcp, sndbuf_limited) - 200usize];
    ["Offset of field: mark_tcp::delivered"][::core::mem::offset_of!(mark_tcp, delivered) - 204usize];
    ["Offset of field: mark_tcp::delivered_ce"][::core::mem::offset_of!(mark_tcp, delivered_ce) - 208usize];
    ["Offset of field: mark_tcp::dsack_dups"][::core::mem::offset_of!(mark_tcp, dsack_dups) - 212usize];
    ["Offset of field: mark_tcp::reord_seen"][::core::mem::offset_of!(mark_tcp, reord_seen) - 216usize];
    ["Offset of field: mark_tcp::rcv_ooopack"][::core::mem::offset_of!(mark_tcp, rcv_ooopack) - 220usize];
    ["Offset of field: mark_tcp::snd_wnd"][::core::mem::offset_of!(mark_tcp, snd_wnd) - 224usize];
    ["Offset of field: mark_tcp::rcv_wnd"][::core::mem::offset_of!(mark_tcp, rcv_wnd) - 228usize];
    ["Offset of field: mark_tcp::rehash"][::core::mem::offset_of!(mark_tcp, rehash) - 232usize];
    ["Offset of field: mark_tcp::total_rto_time"]
        [::core::mem::offset_of!(mark_tcp, total_rto_time) - 236usize];
    ["Offset of field: mark_tcp::memory"][::core::mem::offset_of!(mark_tcp, memory) - 240usize];
    ["Offset of field: mark_tcp::total_rto"][::core::mem::offset_of!(mark_tcp, total_rto) - 276usize];
    ["Offset of field: mark_tcp::total_rto_recoveries"]
        [::core::mem::offset_of!(mark_tcp, total_rto_recoveries) - 278usize];
    ["Offset of field: mark_tcp::state"][::core::mem::offset_of!(mark_tcp, state) - 280usize];
    ["Offset of field: mark_tcp::ca_state"][::core::mem::offset_of!(mark_tcp, ca_state) - 281usize];
    ["Offset of field: mark_tcp::retransmits"][::core::mem::offset_of!(mark_tcp, retransmits) - 282usize];
    ["Offset of field: mark_tcp::probes"][::core::mem::offset_of!(mark_tcp, probes) - 283usize];
    ["Offset of field: mark_tcp::backoff"][::core::mem::offset_of!(mark_tcp, backoff) - 284usize];
    ["Offset of field: mark_tcp::options"][::core::mem::offset_of!(mark_tcp, options) - 285usize];
    ["Offset of field: mark_tcp::snd_wscale"][::core::mem::offset_of!(mark_tcp, snd_wscale) - 286usize];
    ["Offset of field: mark_tcp::rcv_wscale"][::core::mem::offset_of!(mark_tcp, rcv_wscale) - 287usize];
    ["Offset of field: mark_tcp::app_limited"][::core::mem::offset_of!(mark_tcp, app_limited) - 288usize];
    ["Offset of field: mark_tcp::tos"][::core::mem::offset_of!(mark_tcp, tos) - 289usize];
    ["Offset of field: mark_tcp::pad"][::core::mem::offset_of!(mark_tcp, pad) - 290usize];
    ["Offset of field: mark_tcp::congestion"][::core::mem::offset_of!(mark_tcp, congestion) - 296usize];
};
#[doc = " What flowtag_statistics tells of a socket. The last has key.protocol 0, and in tcp.cookie how many sockets were looked\n at."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_measured {
    pub key: mark_key,
    pub tcp: mark_tcp,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_measured"][::core::mem::size_of::<mark_measured>() - 352usize];
    ["Alignment of mark_measured"][::core::mem::align_of::<mark_measured>() - 8usize];
    ["Offset of field: mark_measured::key"][::core::mem::offset_of!(mark_measured, key) - 0usize];
    ["Offset of field: mark_measured::tcp"][::core::mem::offset_of!(mark_measured, tcp) - 40usize];
};
#[doc = " MARK_EVENT_CLOSED, and the socket's last values."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_closed {
    pub event: mark_event,
    pub tcp: mark_tcp,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_closed"][::core::mem::size_of::<mark_closed>() - 392usize];
    ["Alignment of mark_closed"][::core::mem::align_of::<mark_closed>() - 8usize];
    ["Offset of field: mark_closed::event"][::core::mem::offset_of!(mark_closed, event) - 0usize];
    ["Offset of field: mark_closed::tcp"][::core::mem::offset_of!(mark_closed, tcp) - 80usize];
};
pub mod mark_arrival_how {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " ---- What arrives."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " the label reads as this tag, which is registered"]
    pub const MARK_ARRIVED_LABEL: Type = 0;
    #[doc = " destination option"]
    pub const MARK_ARRIVED_DESTINATION: Type = 1;
    #[doc = " hop-by-hop option"]
    pub const MARK_ARRIVED_HOP_BY_HOP: Type = 2;
    #[doc = " IPv6 without a registered tag; tag 0"]
    pub const MARK_ARRIVED_NOTHING: Type = 3;
    #[doc = " packet of a flow in the table with another tag than the flow's; tag: expected"]
    pub const MARK_ARRIVED_MISMATCH: Type = 4;
    #[doc = " packet of a flow in the table without any registered tag; tag: expected"]
    pub const MARK_ARRIVED_MISSING: Type = 5;
}
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_arrival {
    #[doc = " upper half of the source address, network order"]
    pub peer: __u64,
    pub ifindex: __u32,
    #[doc = " experiment << 6 | activity"]
    pub tag: __u16,
    #[doc = " enum mark_arrival_how"]
    pub how: __u8,
    pub pad: __u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_arrival"][::core::mem::size_of::<mark_arrival>() - 16usize];
    ["Alignment of mark_arrival"][::core::mem::align_of::<mark_arrival>() - 8usize];
    ["Offset of field: mark_arrival::peer"][::core::mem::offset_of!(mark_arrival, peer) - 0usize];
    ["Offset of field: mark_arrival::ifindex"][::core::mem::offset_of!(mark_arrival, ifindex) - 8usize];
    ["Offset of field: mark_arrival::tag"][::core::mem::offset_of!(mark_arrival, tag) - 12usize];
    ["Offset of field: mark_arrival::how"][::core::mem::offset_of!(mark_arrival, how) - 14usize];
    ["Offset of field: mark_arrival::pad"][::core::mem::offset_of!(mark_arrival, pad) - 15usize];
};
#[doc = " Tags that count as meant: a bit for each of experiment << 6 | activity."]
#[repr(C)]
#[derive(
    Debug,
    Copy,
    Clone,
    zerocopy :: FromBytes,
    zerocopy :: IntoBytes,
    zerocopy :: Immutable,
    zerocopy :: KnownLayout,
)]
pub struct mark_registered {
    pub bits: [__u64; 512usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_registered"][::core::mem::size_of::<mark_registered>() - 4096usize];
    ["Alignment of mark_registered"][::core::mem::align_of::<mark_registered>() - 8usize];
    ["Offset of field: mark_registered::bits"][::core::mem::offset_of!(mark_registered, bits) - 0usize];
};
pub mod mark_lost {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What the programs could not tell. Index of flowtag_lost; per CPU."]
    pub type Type = ::core::ffi::c_uint;
    pub const MARK_LOST_EVENTS: Type = 0;
    pub const MARK_LOST_ARRIVALS: Type = 1;
    pub const MARK_LOST_KINDS: Type = 2;
}
