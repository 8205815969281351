//! Generated from `crates/kernel/src/probes/listen/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
#[doc = " Kept with a listener, and copied to each socket that it accepts."]
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
pub struct listen_origin {
    #[doc = " the listener's"]
    pub cookie: __u64,
    #[doc = " what it had dropped before anybody looked"]
    pub drops: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of listen_origin"][::core::mem::size_of::<listen_origin>() - 16usize];
    ["Alignment of listen_origin"][::core::mem::align_of::<listen_origin>() - 8usize];
    ["Offset of field: listen_origin::cookie"][::core::mem::offset_of!(listen_origin, cookie) - 0usize];
    ["Offset of field: listen_origin::drops"][::core::mem::offset_of!(listen_origin, drops) - 8usize];
    ["Offset of field: listen_origin::pad"][::core::mem::offset_of!(listen_origin, pad) - 12usize];
};
#[doc = " A listener as it is now."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct listen_row {
    pub event: observe_event,
    #[doc = " connections that wait to be accepted"]
    pub backlog: __u32,
    #[doc = " how many may; one more has room, too"]
    pub limit: __u32,
    #[doc = " the most that waited since somebody looks"]
    pub peak: __u32,
    #[doc = " connections whose handshake is not complete"]
    pub syn: __u32,
    #[doc = " of them, those whose SYN-ACK was not sent again"]
    pub young: __u32,
    #[doc = " SYN and handshakes that were dropped since somebody looks"]
    pub drops: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of listen_row"][::core::mem::size_of::<listen_row>() - 128usize];
    ["Alignment of listen_row"][::core::mem::align_of::<listen_row>() - 8usize];
    ["Offset of field: listen_row::event"][::core::mem::offset_of!(listen_row, event) - 0usize];
    ["Offset of field: listen_row::backlog"][::core::mem::offset_of!(listen_row, backlog) - 104usize];
    ["Offset of field: listen_row::limit"][::core::mem::offset_of!(listen_row, limit) - 108usize];
    ["Offset of field: listen_row::peak"][::core::mem::offset_of!(listen_row, peak) - 112usize];
    ["Offset of field: listen_row::syn"][::core::mem::offset_of!(listen_row, syn) - 116usize];
    ["Offset of field: listen_row::young"][::core::mem::offset_of!(listen_row, young) - 120usize];
    ["Offset of field: listen_row::drops"][::core::mem::offset_of!(listen_row, drops) - 124usize];
};
