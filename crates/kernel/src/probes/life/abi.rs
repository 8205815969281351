//! Generated from `crates/kernel/src/probes/life/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
pub mod life_kind {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    pub const LIFE_CLOSED: Type = 1;
}
pub mod life_facts {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " What the kernel knows of a connection at its end, beside its state and its error."]
    pub type Type = ::core::ffi::c_uint;
    pub const LIFE_FIN_RECEIVED: Type = 1;
    #[doc = " no process has it any more"]
    pub const LIFE_ORPHAN: Type = 2;
    #[doc = " it sent nothing"]
    pub const LIFE_UNSENT: Type = 4;
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
pub struct life_settings {
    #[doc = " 1: ends are summed up by how they came, not told one by one"]
    pub sums: __u32,
    #[doc = " enum observe_part: and by whose they are"]
    pub parts: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of life_settings"][::core::mem::size_of::<life_settings>() - 8usize];
    ["Alignment of life_settings"][::core::mem::align_of::<life_settings>() - 4usize];
    ["Offset of field: life_settings::sums"][::core::mem::offset_of!(life_settings, sums) - 0usize];
    ["Offset of field: life_settings::parts"][::core::mem::offset_of!(life_settings, parts) - 4usize];
};
#[doc = " What tells two sums of ends apart."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct life_sum {
    pub whose: observe_whose,
    #[doc = " before the end"]
    pub state: __u16,
    #[doc = " as that of struct observe_socket"]
    pub error: __u16,
    #[doc = " enum observe_socket_flags"]
    pub flags: __u8,
    #[doc = " enum life_facts"]
    pub facts: __u8,
    pub pad: [__u8; 2usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of life_sum"][::core::mem::size_of::<life_sum>() - 96usize];
    ["Alignment of life_sum"][::core::mem::align_of::<life_sum>() - 8usize];
    ["Offset of field: life_sum::whose"][::core::mem::offset_of!(life_sum, whose) - 0usize];
    ["Offset of field: life_sum::state"][::core::mem::offset_of!(life_sum, state) - 88usize];
    ["Offset of field: life_sum::error"][::core::mem::offset_of!(life_sum, error) - 90usize];
    ["Offset of field: life_sum::flags"][::core::mem::offset_of!(life_sum, flags) - 92usize];
    ["Offset of field: life_sum::facts"][::core::mem::offset_of!(life_sum, facts) - 93usize];
    ["Offset of field: life_sum::pad"][::core::mem::offset_of!(life_sum, pad) - 94usize];
};
#[doc = " A connection that is over. event.state: the state before; socket.error: why, 0: because an end closed it."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct life_event {
    pub event: observe_event,
    pub socket: observe_socket,
    pub tcp: mark_tcp,
    #[doc = " enum life_facts"]
    pub facts: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of life_event"][::core::mem::size_of::<life_event>() - 496usize];
    ["Alignment of life_event"][::core::mem::align_of::<life_event>() - 8usize];
    ["Offset of field: life_event::event"][::core::mem::offset_of!(life_event, event) - 0usize];
    ["Offset of field: life_event::socket"][::core::mem::offset_of!(life_event, socket) - 104usize];
    ["Offset of field: life_event::tcp"][::core::mem::offset_of!(life_event, tcp) - 176usize];
    ["Offset of field: life_event::facts"][::core::mem::offset_of!(life_event, facts) - 488usize];
    ["Offset of field: life_event::pad"][::core::mem::offset_of!(life_event, pad) - 492usize];
};
