//! Generated from `crates/kernel/src/probes/top/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
#[doc = " A flow at an interface."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct top_key {
    #[doc = " all zero: no IP, or nothing that could be read"]
    pub key: mark_key,
    pub netns: __u32,
    #[doc = " index in that namespace"]
    pub interface: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_key"][::core::mem::size_of::<top_key>() - 48usize];
    ["Alignment of top_key"][::core::mem::align_of::<top_key>() - 4usize];
    ["Offset of field: top_key::key"][::core::mem::offset_of!(top_key, key) - 0usize];
    ["Offset of field: top_key::netns"][::core::mem::offset_of!(top_key, netns) - 40usize];
    ["Offset of field: top_key::interface"][::core::mem::offset_of!(top_key, interface) - 44usize];
};
#[doc = " Interfaces count differently, so each part is counted for itself."]
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
pub struct top_sum {
    #[doc = " from the network header on, of packets as the kernel hands them over"]
    pub bytes: __u64,
    #[doc = " of link headers before that"]
    pub link_bytes: __u64,
    #[doc = " headers that further segments have on the wire, and VLAN tags that the hardware adds"]
    pub segment_bytes: __u64,
    #[doc = " as the kernel hands them over: of GSO and GRO one for many segments"]
    pub packets: __u64,
    #[doc = " as they are on the wire"]
    pub segments: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_sum"][::core::mem::size_of::<top_sum>() - 40usize];
    ["Alignment of top_sum"][::core::mem::align_of::<top_sum>() - 8usize];
    ["Offset of field: top_sum::bytes"][::core::mem::offset_of!(top_sum, bytes) - 0usize];
    ["Offset of field: top_sum::link_bytes"][::core::mem::offset_of!(top_sum, link_bytes) - 8usize];
    ["Offset of field: top_sum::segment_bytes"][::core::mem::offset_of!(top_sum, segment_bytes) - 16usize];
    ["Offset of field: top_sum::packets"][::core::mem::offset_of!(top_sum, packets) - 24usize];
    ["Offset of field: top_sum::segments"][::core::mem::offset_of!(top_sum, segments) - 32usize];
};
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct top_flow {
    pub sent: top_sum,
    pub received: top_sum,
    pub owner: observe_owner,
    #[doc = " of the socket; 0: not known"]
    pub cookie: __u64,
    #[doc = " enum mark_word; 0: not known"]
    pub word: __u32,
    #[doc = " 1: a socket sent it, and the owner is that one's"]
    pub is_of_socket: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_flow"][::core::mem::size_of::<top_flow>() - 128usize];
    ["Alignment of top_flow"][::core::mem::align_of::<top_flow>() - 8usize];
    ["Offset of field: top_flow::sent"][::core::mem::offset_of!(top_flow, sent) - 0usize];
    ["Offset of field: top_flow::received"][::core::mem::offset_of!(top_flow, received) - 40usize];
    ["Offset of field: top_flow::owner"][::core::mem::offset_of!(top_flow, owner) - 80usize];
    ["Offset of field: top_flow::cookie"][::core::mem::offset_of!(top_flow, cookie) - 112usize];
    ["Offset of field: top_flow::word"][::core::mem::offset_of!(top_flow, word) - 120usize];
    ["Offset of field: top_flow::is_of_socket"][::core::mem::offset_of!(top_flow, is_of_socket) - 124usize];
};
pub mod top_interface_flags {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const TOP_LOOPBACK: Type = 1;
    #[doc = " hardware, or what a hypervisor makes look so"]
    pub const TOP_PHYSICAL: Type = 2;
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
pub struct top_interface_key {
    pub netns: __u32,
    pub interface: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_interface_key"][::core::mem::size_of::<top_interface_key>() - 8usize];
    ["Alignment of top_interface_key"][::core::mem::align_of::<top_interface_key>() - 4usize];
    ["Offset of field: top_interface_key::netns"][::core::mem::offset_of!(top_interface_key, netns) - 0usize];
    ["Offset of field: top_interface_key::interface"]
        [::core::mem::offset_of!(top_interface_key, interface) - 4usize];
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
pub struct top_interface {
    #[doc = " of flows that had no room of their own"]
    pub sent: top_sum,
    pub received: top_sum,
    #[doc = " closed by a zero byte"]
    pub name: [__u8; 16usize],
    #[doc = " as `ip link add type` has it; empty: no virtual one"]
    pub kind: [__u8; 16usize],
    #[doc = " of hardware"]
    pub driver: [__u8; 16usize],
    #[doc = " enum top_interface_flags"]
    pub flags: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_interface"][::core::mem::size_of::<top_interface>() - 136usize];
    ["Alignment of top_interface"][::core::mem::align_of::<top_interface>() - 8usize];
    ["Offset of field: top_interface::sent"][::core::mem::offset_of!(top_interface, sent) - 0usize];
    ["Offset of field: top_interface::received"][::core::mem::offset_of!(top_interface, received) - 40usize];
    ["Offset of field: top_interface::name"][::core::mem::offset_of!(top_interface, name) - 80usize];
    ["Offset of field: top_interface::kind"][::core::mem::offset_of!(top_interface, kind) - 96usize];
    ["Offset of field: top_interface::driver"][::core::mem::offset_of!(top_interface, driver) - 112usize];
    ["Offset of field: top_interface::flags"][::core::mem::offset_of!(top_interface, flags) - 128usize];
    ["Offset of field: top_interface::pad"][::core::mem::offset_of!(top_interface, pad) - 132usize];
};
#[doc = " A UDP socket that may only receive."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct top_receiver_key {
    #[doc = " remote end zero: it is not connected"]
    pub key: mark_key,
    pub netns: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_receiver_key"][::core::mem::size_of::<top_receiver_key>() - 44usize];
    ["Alignment of top_receiver_key"][::core::mem::align_of::<top_receiver_key>() - 4usize];
    ["Offset of field: top_receiver_key::key"][::core::mem::offset_of!(top_receiver_key, key) - 0usize];
    ["Offset of field: top_receiver_key::netns"][::core::mem::offset_of!(top_receiver_key, netns) - 40usize];
};
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct top_receiver {
    pub owner: observe_owner,
    #[doc = " 0: it has none yet"]
    pub cookie: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of top_receiver"][::core::mem::size_of::<top_receiver>() - 40usize];
    ["Alignment of top_receiver"][::core::mem::align_of::<top_receiver>() - 8usize];
    ["Offset of field: top_receiver::owner"][::core::mem::offset_of!(top_receiver, owner) - 0usize];
    ["Offset of field: top_receiver::cookie"][::core::mem::offset_of!(top_receiver, cookie) - 32usize];
};
