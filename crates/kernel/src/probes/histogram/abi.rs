//! Generated from `crates/kernel/src/probes/histogram/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
pub mod histogram_limits {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    #[doc = " distributions; the first is of whatever has no room of its own"]
    pub const HISTOGRAM_SLOTS: Type = 1024;
    #[doc = " below 16 µs each has a bucket of its own"]
    pub const HISTOGRAM_LINEAR_BITS: Type = 4;
    #[doc = " above, 8 for each power of two: a bucket is an eighth of its lower bound wide"]
    pub const HISTOGRAM_GROUPING: Type = 3;
    #[doc = " 67 s and above share the last one"]
    pub const HISTOGRAM_BITS: Type = 26;
    pub const HISTOGRAM_BUCKETS: Type = 193;
}
pub mod histogram_source {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Where the samples come from; 0: from one place."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " also from sockets that the kernel does not call us for"]
    pub const HISTOGRAM_UNARMED: Type = 1;
    #[doc = " the kernel never calls us"]
    pub const HISTOGRAM_ALL: Type = 2;
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
pub struct histogram_settings {
    #[doc = " enum observe_part"]
    pub parts: __u32,
    #[doc = " enum histogram_source"]
    pub source: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of histogram_settings"][::core::mem::size_of::<histogram_settings>() - 8usize];
    ["Alignment of histogram_settings"][::core::mem::align_of::<histogram_settings>() - 4usize];
    ["Offset of field: histogram_settings::parts"]
        [::core::mem::offset_of!(histogram_settings, parts) - 0usize];
    ["Offset of field: histogram_settings::source"]
        [::core::mem::offset_of!(histogram_settings, source) - 4usize];
};
#[doc = " What tells two distributions apart."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct histogram_key {
    pub whose: observe_whose,
    #[doc = " of the probe's several distributions which"]
    pub kind: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of histogram_key"][::core::mem::size_of::<histogram_key>() - 96usize];
    ["Alignment of histogram_key"][::core::mem::align_of::<histogram_key>() - 8usize];
    ["Offset of field: histogram_key::whose"][::core::mem::offset_of!(histogram_key, whose) - 0usize];
    ["Offset of field: histogram_key::kind"][::core::mem::offset_of!(histogram_key, kind) - 88usize];
    ["Offset of field: histogram_key::pad"][::core::mem::offset_of!(histogram_key, pad) - 92usize];
};
#[doc = " Times in µs. All zero: none yet."]
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
pub struct histogram_times {
    pub sum: __u64,
    pub largest: __u64,
    #[doc = " inverted"]
    pub smallest: __u64,
    #[doc = " not measured, as the probe explains"]
    pub skipped: __u64,
    pub count: [__u64; 193usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of histogram_times"][::core::mem::size_of::<histogram_times>() - 1576usize];
    ["Alignment of histogram_times"][::core::mem::align_of::<histogram_times>() - 8usize];
    ["Offset of field: histogram_times::sum"][::core::mem::offset_of!(histogram_times, sum) - 0usize];
    ["Offset of field: histogram_times::largest"][::core::mem::offset_of!(histogram_times, largest) - 8usize];
    ["Offset of field: histogram_times::smallest"]
        [::core::mem::offset_of!(histogram_times, smallest) - 16usize];
    ["Offset of field: histogram_times::skipped"]
        [::core::mem::offset_of!(histogram_times, skipped) - 24usize];
    ["Offset of field: histogram_times::count"][::core::mem::offset_of!(histogram_times, count) - 32usize];
};
