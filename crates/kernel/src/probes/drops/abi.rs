//! Generated from `crates/kernel/src/probes/drops/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
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
pub struct drops_settings {
    #[doc = " 1: the third argument of the tracepoint is the reason (Linux 5.17)"]
    pub has_reason: __u32,
    #[doc = " 1: the fourth is the receiving socket, or NULL (Linux 6.11)"]
    pub has_socket: __u32,
    #[doc = " 1: rows are told apart by flow, too"]
    pub flows: __u32,
    #[doc = " 1: and by who called whom"]
    pub stacks: __u32,
    #[doc = " 1: and by process and cgroup"]
    pub owners: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of drops_settings"][::core::mem::size_of::<drops_settings>() - 24usize];
    ["Alignment of drops_settings"][::core::mem::align_of::<drops_settings>() - 4usize];
    ["Offset of field: drops_settings::has_reason"]
        [::core::mem::offset_of!(drops_settings, has_reason) - 0usize];
    ["Offset of field: drops_settings::has_socket"]
        [::core::mem::offset_of!(drops_settings, has_socket) - 4usize];
    ["Offset of field: drops_settings::flows"][::core::mem::offset_of!(drops_settings, flows) - 8usize];
    ["Offset of field: drops_settings::stacks"][::core::mem::offset_of!(drops_settings, stacks) - 12usize];
    ["Offset of field: drops_settings::owners"][::core::mem::offset_of!(drops_settings, owners) - 16usize];
    ["Offset of field: drops_settings::pad"][::core::mem::offset_of!(drops_settings, pad) - 20usize];
};
pub mod drops_limits {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const DROPS_MAX_ROWS: Type = 4096;
    #[doc = " rows where they are told apart by flow"]
    pub const DROPS_MAX_FLOWS: Type = 16384;
    pub const DROPS_MAX_STACKS: Type = 1024;
    #[doc = " calls between the drop and the program, at least"]
    pub const DROPS_STACK_SKIP: Type = 2;
    #[doc = " callers that are kept of each"]
    pub const DROPS_STACK_DEPTH: Type = 32;
    pub const DROPS_MAX_NAMES: Type = 1024;
}
#[doc = " What a row is of. Every byte is significant to the hash."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct drops_key {
    #[doc = " zero: not asked for, or no IP packet"]
    pub flow: mark_key,
    #[doc = " address in the kernel's code"]
    pub location: __u64,
    #[doc = " of the socket, version 2; 0: no socket, or not known"]
    pub cgroup: __u64,
    #[doc = " enum skb_drop_reason of the running kernel"]
    pub reason: __u32,
    #[doc = " 0: not known"]
    pub netns: __u32,
    #[doc = " 0: none, or not known"]
    pub interface: __u32,
    #[doc = " enum mark_word of the flow, if the daemon knows it; of a label only the tag"]
    pub word: __u32,
    #[doc = " who has the socket; 0: no socket, or not known"]
    pub pid: __u32,
    #[doc = " key of drops_stacks; below 0: not asked for, or no room"]
    pub stack: __s32,
    #[doc = " 0: no packet of a network but a message of a UNIX or netlink socket"]
    pub ethertype: __be16,
    #[doc = " IPPROTO_*; 0: no IP packet, or unreadable"]
    pub protocol: __u8,
    pub pad: [__u8; 5usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of drops_key"][::core::mem::size_of::<drops_key>() - 88usize];
    ["Alignment of drops_key"][::core::mem::align_of::<drops_key>() - 8usize];
    ["Offset of field: drops_key::flow"][::core::mem::offset_of!(drops_key, flow) - 0usize];
    ["Offset of field: drops_key::location"][::core::mem::offset_of!(drops_key, location) - 40usize];
    ["Offset of field: drops_key::cgroup"][::core::mem::offset_of!(drops_key, cgroup) - 48usize];
    ["Offset of field: drops_key::reason"][::core::mem::offset_of!(drops_key, reason) - 56usize];
    ["Offset of field: drops_key::netns"][::core::mem::offset_of!(drops_key, netns) - 60usize];
    ["Offset of field: drops_key::interface"][::core::mem::offset_of!(drops_key, interface) - 64usize];
    ["Offset of field: drops_key::word"][::core::mem::offset_of!(drops_key, word) - 68usize];
    ["Offset of field: drops_key::pid"][::core::mem::offset_of!(drops_key, pid) - 72usize];
    ["Offset of field: drops_key::stack"][::core::mem::offset_of!(drops_key, stack) - 76usize];
    ["Offset of field: drops_key::ethertype"][::core::mem::offset_of!(drops_key, ethertype) - 80usize];
    ["Offset of field: drops_key::protocol"][::core::mem::offset_of!(drops_key, protocol) - 82usize];
    ["Offset of field: drops_key::pad"][::core::mem::offset_of!(drops_key, pad) - 83usize];
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
pub struct drops_sum {
    #[doc = " a GSO packet is one"]
    pub packets: __u64,
    #[doc = " as long as it was when it was dropped: headers that were taken off are not in it"]
    pub bytes: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of drops_sum"][::core::mem::size_of::<drops_sum>() - 16usize];
    ["Alignment of drops_sum"][::core::mem::align_of::<drops_sum>() - 8usize];
    ["Offset of field: drops_sum::packets"][::core::mem::offset_of!(drops_sum, packets) - 0usize];
    ["Offset of field: drops_sum::bytes"][::core::mem::offset_of!(drops_sum, bytes) - 8usize];
};
#[doc = " An interface is known by both."]
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
pub struct drops_interface {
    pub netns: __u32,
    pub interface: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of drops_interface"][::core::mem::size_of::<drops_interface>() - 8usize];
    ["Alignment of drops_interface"][::core::mem::align_of::<drops_interface>() - 4usize];
    ["Offset of field: drops_interface::netns"][::core::mem::offset_of!(drops_interface, netns) - 0usize];
    ["Offset of field: drops_interface::interface"]
        [::core::mem::offset_of!(drops_interface, interface) - 4usize];
};
#[doc = " Of an interface or a process, closed by a zero byte."]
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
pub struct drops_name {
    pub text: [__u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of drops_name"][::core::mem::size_of::<drops_name>() - 16usize];
    ["Alignment of drops_name"][::core::mem::align_of::<drops_name>() - 1usize];
    ["Offset of field: drops_name::text"][::core::mem::offset_of!(drops_name, text) - 0usize];
};
