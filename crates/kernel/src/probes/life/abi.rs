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
}
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
    ["Size of life_event"][::core::mem::size_of::<life_event>() - 480usize];
    ["Alignment of life_event"][::core::mem::align_of::<life_event>() - 8usize];
    ["Offset of field: life_event::event"][::core::mem::offset_of!(life_event, event) - 0usize];
    ["Offset of field: life_event::socket"][::core::mem::offset_of!(life_event, socket) - 104usize];
    ["Offset of field: life_event::tcp"][::core::mem::offset_of!(life_event, tcp) - 160usize];
    ["Offset of field: life_event::facts"][::core::mem::offset_of!(life_event, facts) - 472usize];
    ["Offset of field: life_event::pad"][::core::mem::offset_of!(life_event, pad) - 476usize];
};
