//! Generated from `crates/kernel/src/probes/why/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
#[doc = " What this probe's programs are told."]
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
pub struct why_settings {
    #[doc = " length of a jiffy, ns"]
    pub tick: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of why_settings"][::core::mem::size_of::<why_settings>() - 8usize];
    ["Alignment of why_settings"][::core::mem::align_of::<why_settings>() - 8usize];
    ["Offset of field: why_settings::tick"][::core::mem::offset_of!(why_settings, tick) - 0usize];
};
pub mod why_state {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What keeps a sender from sending more while it has data that is not acknowledged."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " the congestion window is full"]
    pub const WHY_NETWORK: Type = 0;
    #[doc = " the receiver's window is full"]
    pub const WHY_RECEIVER: Type = 1;
    #[doc = " the send buffer is full, of data that is in flight"]
    pub const WHY_SNDBUF: Type = 2;
    #[doc = " nothing waits to be sent"]
    pub const WHY_APPLICATION: Type = 3;
    #[doc = " loss or congestion was seen and is being repaired"]
    pub const WHY_RECOVERY: Type = 4;
    #[doc = " the retransmission timer had, or has, to run out"]
    pub const WHY_TIMEOUT: Type = 5;
    #[doc = " an interface's queue or the pacing rate of this host"]
    pub const WHY_QUEUE: Type = 6;
    pub const WHY_STATES: Type = 7;
}
#[doc = " What is kept with each socket."]
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
pub struct why_flow {
    #[doc = " it is accounted for; CLOCK_MONOTONIC, ns"]
    pub since: __u64,
    #[doc = " until when it is accounted for; CLOCK_MONOTONIC, ns"]
    pub time: __u64,
    #[doc = " by enum why_state"]
    pub ns: [__u64; 7usize],
    #[doc = " ns: the peer's window had no room for a segment"]
    pub shut: __u64,
    #[doc = " ns: more than half of what may be received waited to be read"]
    pub unread: __u64,
    #[doc = " µs that round trips took above the least, times µs"]
    pub queueing: __u64,
    #[doc = " ns that queueing was measured over"]
    pub weight: __u64,
    #[doc = " times the peer closed its window"]
    pub zero_windows: __u32,
    #[doc = " 1: it is closed"]
    pub is_shut: __u32,
    #[doc = " Since the iterator looked last:"]
    pub peer_window_min: __u32,
    pub peer_window_max: __u32,
    #[doc = " that this end announced"]
    pub window_max: __u32,
    #[doc = " bytes"]
    pub unread_max: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of why_flow"][::core::mem::size_of::<why_flow>() - 128usize];
    ["Alignment of why_flow"][::core::mem::align_of::<why_flow>() - 8usize];
    ["Offset of field: why_flow::since"][::core::mem::offset_of!(why_flow, since) - 0usize];
    ["Offset of field: why_flow::time"][::core::mem::offset_of!(why_flow, time) - 8usize];
    ["Offset of field: why_flow::ns"][::core::mem::offset_of!(why_flow, ns) - 16usize];
    ["Offset of field: why_flow::shut"][::core::mem::offset_of!(why_flow, shut) - 72usize];
    ["Offset of field: why_flow::unread"][::core::mem::offset_of!(why_flow, unread) - 80usize];
    ["Offset of field: why_flow::queueing"][::core::mem::offset_of!(why_flow, queueing) - 88usize];
    ["Offset of field: why_flow::weight"][::core::mem::offset_of!(why_flow, weight) - 96usize];
    ["Offset of field: why_flow::zero_windows"][::core::mem::offset_of!(why_flow, zero_windows) - 104usize];
    ["Offset of field: why_flow::is_shut"][::core::mem::offset_of!(why_flow, is_shut) - 108usize];
    ["Offset of field: why_flow::peer_window_min"]
        [::core::mem::offset_of!(why_flow, peer_window_min) - 112usize];
    ["Offset of field: why_flow::peer_window_max"]
        [::core::mem::offset_of!(why_flow, peer_window_max) - 116usize];
    ["Offset of field: why_flow::window_max"][::core::mem::offset_of!(why_flow, window_max) - 120usize];
    ["Offset of field: why_flow::unread_max"][::core::mem::offset_of!(why_flow, unread_max) - 124usize];
};
#[doc = " What the iterator, and the end of a connection, tell of a socket."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct why_row {
    pub event: observe_event,
    pub tcp: mark_tcp,
    pub flow: why_flow,
    #[doc = " bytes received in order that wait to be read"]
    pub unread: __u32,
    #[doc = " enum why_fixed"]
    pub fixed: __u8,
    #[doc = " 1: SO_MAX_PACING_RATE is what limits the pacing"]
    pub is_paced: __u8,
    #[doc = " 1: the application wants to write and there is no room"]
    pub is_blocked: __u8,
    pub pad: __u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of why_row"][::core::mem::size_of::<why_row>() - 552usize];
    ["Alignment of why_row"][::core::mem::align_of::<why_row>() - 8usize];
    ["Offset of field: why_row::event"][::core::mem::offset_of!(why_row, event) - 0usize];
    ["Offset of field: why_row::tcp"][::core::mem::offset_of!(why_row, tcp) - 104usize];
    ["Offset of field: why_row::flow"][::core::mem::offset_of!(why_row, flow) - 416usize];
    ["Offset of field: why_row::unread"][::core::mem::offset_of!(why_row, unread) - 544usize];
    ["Offset of field: why_row::fixed"][::core::mem::offset_of!(why_row, fixed) - 548usize];
    ["Offset of field: why_row::is_paced"][::core::mem::offset_of!(why_row, is_paced) - 549usize];
    ["Offset of field: why_row::is_blocked"][::core::mem::offset_of!(why_row, is_blocked) - 550usize];
    ["Offset of field: why_row::pad"][::core::mem::offset_of!(why_row, pad) - 551usize];
};
pub mod why_fixed {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Buffers whose size the application chose, so that the kernel does not adjust them."]
    pub type Type = ::core::ffi::c_uint;
    pub const WHY_SNDBUF_FIXED: Type = 1;
    pub const WHY_RCVBUF_FIXED: Type = 2;
}
