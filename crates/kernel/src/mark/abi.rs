//! Generated from `bpf/abi/mark.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, non_camel_case_types, non_upper_case_globals, clippy::all)]

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
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
    #[doc = " source address of the packet, network order"]
    pub local_addr: [__u8; 16usize],
    #[doc = " destination address of the packet, network order"]
    pub remote_addr: [__u8; 16usize],
    #[doc = " source port, network order"]
    pub local_port: __be16,
    #[doc = " destination port, network order"]
    pub remote_port: __be16,
    #[doc = " IPPROTO_TCP or IPPROTO_UDP"]
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
    #[doc = " flow label to write, 20 bits, host order"]
    pub label: __u32,
    #[doc = " low half of jiffies64 at a recent packet, written by the kernel, seldom; 0: none yet"]
    pub last_seen: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_value"][::core::mem::size_of::<mark_value>() - 8usize];
    ["Alignment of mark_value"][::core::mem::align_of::<mark_value>() - 4usize];
    ["Offset of field: mark_value::label"][::core::mem::offset_of!(mark_value, label) - 0usize];
    ["Offset of field: mark_value::last_seen"][::core::mem::offset_of!(mark_value, last_seen) - 4usize];
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
    #[doc = " 1: key and label are those of a flow in the table"]
    pub direct: __u16,
    #[doc = " how many flows of the table are in this slot, up to 65535; 0: a look-up would find nothing"]
    pub flows: __u16,
    #[doc = " as in struct mark_value"]
    pub label: __u32,
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
    ["Offset of field: mark_slot::label"][::core::mem::offset_of!(mark_slot, label) - 8usize];
    ["Offset of field: mark_slot::last_seen"][::core::mem::offset_of!(mark_slot, last_seen) - 12usize];
    ["Offset of field: mark_slot::key"][::core::mem::offset_of!(mark_slot, key) - 16usize];
    ["Offset of field: mark_slot::pad"][::core::mem::offset_of!(mark_slot, pad) - 56usize];
};
pub mod mark_verdict {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What became of a packet. Each is a row of struct mark_counters."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " label written, or found to be right already"]
    pub const MARK_MARKED: Type = 0;
    #[doc = " IPv6, TCP or UDP, and in no flow that was announced"]
    pub const MARK_NO_FLOW: Type = 1;
    #[doc = " IPv4 has no flow label"]
    pub const MARK_IPV4: Type = 2;
    #[doc = " ARP, LLDP, …"]
    pub const MARK_NOT_IP: Type = 3;
    #[doc = " IPv6 without ports: ICMPv6, ESP, a tunnel, …"]
    pub const MARK_OTHER_PROTOCOL: Type = 4;
    #[doc = " not the first fragment: no ports in it"]
    pub const MARK_FRAGMENT: Type = 5;
    #[doc = " cut short, or more extension headers than MARK_MAX_EXTENSION_HEADERS"]
    pub const MARK_UNREADABLE: Type = 6;
    #[doc = " the kernel could not make the header writable (no memory); passed as it came"]
    pub const MARK_WRITE_FAILED: Type = 7;
    pub const MARK_VERDICTS: Type = 8;
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
    pub by_verdict: [mark_count; 8usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_counters"][::core::mem::size_of::<mark_counters>() - 128usize];
    ["Alignment of mark_counters"][::core::mem::align_of::<mark_counters>() - 8usize];
    ["Offset of field: mark_counters::by_verdict"]
        [::core::mem::offset_of!(mark_counters, by_verdict) - 0usize];
};
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
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of mark_interface"][::core::mem::size_of::<mark_interface>() - 4usize];
    ["Alignment of mark_interface"][::core::mem::align_of::<mark_interface>() - 2usize];
    ["Offset of field: mark_interface::slot"][::core::mem::offset_of!(mark_interface, slot) - 0usize];
    ["Offset of field: mark_interface::link_header_len"]
        [::core::mem::offset_of!(mark_interface, link_header_len) - 2usize];
    ["Offset of field: mark_interface::known"][::core::mem::offset_of!(mark_interface, known) - 3usize];
};
