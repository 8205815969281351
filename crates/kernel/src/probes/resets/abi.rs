//! Generated from `crates/kernel/src/probes/resets/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
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
pub struct resets_settings {
    #[doc = " 1: the tracepoint says why, and fires also where there is no socket (Linux 6.10)"]
    pub has_reason: __u32,
    #[doc = " else SKB_DROP_REASON_NO_SOCKET, by which those are seen; 0: not at all"]
    pub no_socket: __u32,
    #[doc = " which argument of kfree_skb is the reason"]
    pub reason_at: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of resets_settings"][::core::mem::size_of::<resets_settings>() - 16usize];
    ["Alignment of resets_settings"][::core::mem::align_of::<resets_settings>() - 4usize];
    ["Offset of field: resets_settings::has_reason"]
        [::core::mem::offset_of!(resets_settings, has_reason) - 0usize];
    ["Offset of field: resets_settings::no_socket"]
        [::core::mem::offset_of!(resets_settings, no_socket) - 4usize];
    ["Offset of field: resets_settings::reason_at"]
        [::core::mem::offset_of!(resets_settings, reason_at) - 8usize];
    ["Offset of field: resets_settings::pad"][::core::mem::offset_of!(resets_settings, pad) - 12usize];
};
pub mod resets_kind {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const RESETS_SENT: Type = 1;
    pub const RESETS_RECEIVED: Type = 2;
}
pub mod resets_deduced {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Why, where the kernel does not say: as far as the socket shows."]
    pub type Type = ::core::ffi::c_uint;
    pub const RESETS_UNKNOWN: Type = 0;
    #[doc = " nobody has that port, or no longer that connection"]
    pub const RESETS_NO_SOCKET: Type = 1;
    #[doc = " what came does not fit the connection's state"]
    pub const RESETS_NOT_EXPECTED: Type = 2;
    #[doc = " closed with data that nobody had read, or given up by the kernel after its close"]
    pub const RESETS_CLOSED: Type = 3;
    #[doc = " closed with SO_LINGER of 0"]
    pub const RESETS_LINGER: Type = 4;
    #[doc = " the other end did not answer keep-alive probes"]
    pub const RESETS_KEEPALIVE: Type = 5;
    #[doc = " ended by hand (`ss -K`), or for want of memory"]
    pub const RESETS_ABORTED: Type = 6;
    #[doc = " received: the other end does not listen"]
    pub const RESETS_REFUSED: Type = 7;
    #[doc = " received: the other end ended the connection"]
    pub const RESETS_BY_PEER: Type = 8;
}
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct resets_event {
    pub event: observe_event,
    #[doc = " enum sk_rst_reason of the running kernel, where it says why"]
    pub reason: __u32,
    #[doc = " enum resets_deduced, where it does not"]
    pub deduced: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of resets_event"][::core::mem::size_of::<resets_event>() - 112usize];
    ["Alignment of resets_event"][::core::mem::align_of::<resets_event>() - 8usize];
    ["Offset of field: resets_event::event"][::core::mem::offset_of!(resets_event, event) - 0usize];
    ["Offset of field: resets_event::reason"][::core::mem::offset_of!(resets_event, reason) - 104usize];
    ["Offset of field: resets_event::deduced"][::core::mem::offset_of!(resets_event, deduced) - 108usize];
};
