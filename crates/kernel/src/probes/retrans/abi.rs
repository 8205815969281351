//! Generated from `crates/kernel/src/probes/retrans/abi.h` by `cargo xtask gen`: change the header, not this file.

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
pub struct retrans_settings {
    #[doc = " 1: the tracepoint says whether it worked (Linux 6.17)"]
    pub has_error: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of retrans_settings"][::core::mem::size_of::<retrans_settings>() - 8usize];
    ["Alignment of retrans_settings"][::core::mem::align_of::<retrans_settings>() - 4usize];
    ["Offset of field: retrans_settings::has_error"]
        [::core::mem::offset_of!(retrans_settings, has_error) - 0usize];
    ["Offset of field: retrans_settings::pad"][::core::mem::offset_of!(retrans_settings, pad) - 4usize];
};
pub mod retrans_kind {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const RETRANS_SYN: Type = 1;
    pub const RETRANS_SYNACK: Type = 2;
    pub const RETRANS_RTO: Type = 3;
    pub const RETRANS_FAST: Type = 4;
    pub const RETRANS_TLP: Type = 5;
}
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct retrans_event {
    pub event: observe_event,
    #[doc = " of the first byte, relative to nothing: as on the wire, host order"]
    pub seq: __u32,
    #[doc = " bytes of payload"]
    pub length: __u32,
    #[doc = " a GSO packet is several"]
    pub segments: __u32,
    #[doc = " smoothed, µs; 0: none yet"]
    pub rtt: __u32,
    #[doc = " segments; 0: there is no congestion window yet"]
    pub cwnd: __u32,
    #[doc = " 0, minus errno, or NET_XMIT_*: it could not be sent"]
    pub error: __s32,
    #[doc = " segments that the socket has sent so far, as far as they can be sent again; 0: not known"]
    pub sent: __u32,
    #[doc = " of them, retransmissions"]
    pub total: __u32,
    #[doc = " of these, how many the receiver said (DSACK) that it had already"]
    pub spurious: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of retrans_event"][::core::mem::size_of::<retrans_event>() - 144usize];
    ["Alignment of retrans_event"][::core::mem::align_of::<retrans_event>() - 8usize];
    ["Offset of field: retrans_event::event"][::core::mem::offset_of!(retrans_event, event) - 0usize];
    ["Offset of field: retrans_event::seq"][::core::mem::offset_of!(retrans_event, seq) - 104usize];
    ["Offset of field: retrans_event::length"][::core::mem::offset_of!(retrans_event, length) - 108usize];
    ["Offset of field: retrans_event::segments"][::core::mem::offset_of!(retrans_event, segments) - 112usize];
    ["Offset of field: retrans_event::rtt"][::core::mem::offset_of!(retrans_event, rtt) - 116usize];
    ["Offset of field: retrans_event::cwnd"][::core::mem::offset_of!(retrans_event, cwnd) - 120usize];
    ["Offset of field: retrans_event::error"][::core::mem::offset_of!(retrans_event, error) - 124usize];
    ["Offset of field: retrans_event::sent"][::core::mem::offset_of!(retrans_event, sent) - 128usize];
    ["Offset of field: retrans_event::total"][::core::mem::offset_of!(retrans_event, total) - 132usize];
    ["Offset of field: retrans_event::spurious"][::core::mem::offset_of!(retrans_event, spurious) - 136usize];
    ["Offset of field: retrans_event::pad"][::core::mem::offset_of!(retrans_event, pad) - 140usize];
};
