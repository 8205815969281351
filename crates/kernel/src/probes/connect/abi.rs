//! Generated from `crates/kernel/src/probes/connect/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
pub mod connect_kind {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What became of an attempt."]
    pub type Type = ::core::ffi::c_uint;
    pub const CONNECT_OK: Type = 1;
    #[doc = " the kernel gave up: error says why"]
    pub const CONNECT_FAILED: Type = 2;
    #[doc = " the application gave up"]
    pub const CONNECT_ABORTED: Type = 3;
    #[doc = " no SYN left"]
    pub const CONNECT_UNSENT: Type = 4;
}
#[doc = " event.state: the state before."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct connect_event {
    pub event: observe_event,
    #[doc = " ns since the SYN was sent; 0: not known"]
    pub waited: __u64,
    #[doc = " SYNs sent again"]
    pub retries: __u32,
    #[doc = " errno; 0: none"]
    pub error: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of connect_event"][::core::mem::size_of::<connect_event>() - 120usize];
    ["Alignment of connect_event"][::core::mem::align_of::<connect_event>() - 8usize];
    ["Offset of field: connect_event::event"][::core::mem::offset_of!(connect_event, event) - 0usize];
    ["Offset of field: connect_event::waited"][::core::mem::offset_of!(connect_event, waited) - 104usize];
    ["Offset of field: connect_event::retries"][::core::mem::offset_of!(connect_event, retries) - 112usize];
    ["Offset of field: connect_event::error"][::core::mem::offset_of!(connect_event, error) - 116usize];
};
