//! Generated from `bpf/abi/observe.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;

pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub type __be16 = __u16;
#[doc = " What every object of a probe is told before it is loaded."]
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
pub struct observe_settings {
    #[doc = " remote address, network order; compared where peer_mask has bits"]
    pub peer: [__u64; 2usize],
    #[doc = " 0: any"]
    pub peer_mask: [__u64; 2usize],
    #[doc = " bytes in the ring at which the reader is woken; below, it comes by itself"]
    pub wake: __u64,
    #[doc = " number of the only network namespace that is looked at; 0: all"]
    pub netns: __u32,
    #[doc = " local or remote, network order; 0: any"]
    pub port: __be16,
    #[doc = " 1: events go into the ring; 0: only maps are kept"]
    pub events: __u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_settings"][::core::mem::size_of::<observe_settings>() - 48usize];
    ["Alignment of observe_settings"][::core::mem::align_of::<observe_settings>() - 8usize];
    ["Offset of field: observe_settings::peer"][::core::mem::offset_of!(observe_settings, peer) - 0usize];
    ["Offset of field: observe_settings::peer_mask"]
        [::core::mem::offset_of!(observe_settings, peer_mask) - 16usize];
    ["Offset of field: observe_settings::wake"][::core::mem::offset_of!(observe_settings, wake) - 32usize];
    ["Offset of field: observe_settings::netns"][::core::mem::offset_of!(observe_settings, netns) - 40usize];
    ["Offset of field: observe_settings::port"][::core::mem::offset_of!(observe_settings, port) - 44usize];
    ["Offset of field: observe_settings::events"]
        [::core::mem::offset_of!(observe_settings, events) - 46usize];
};
#[doc = " Whose a socket is."]
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
pub struct observe_owner {
    #[doc = " id of its cgroup of version 2; 0: not known"]
    pub cgroup: __u64,
    #[doc = " process (thread group) in the first PID namespace; 0: not known"]
    pub pid: __u32,
    #[doc = " of the socket"]
    pub user: __u32,
    #[doc = " name of the process (its first thread), closed by a zero byte; empty: not known"]
    pub process: [__u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_owner"][::core::mem::size_of::<observe_owner>() - 32usize];
    ["Alignment of observe_owner"][::core::mem::align_of::<observe_owner>() - 8usize];
    ["Offset of field: observe_owner::cgroup"][::core::mem::offset_of!(observe_owner, cgroup) - 0usize];
    ["Offset of field: observe_owner::pid"][::core::mem::offset_of!(observe_owner, pid) - 8usize];
    ["Offset of field: observe_owner::user"][::core::mem::offset_of!(observe_owner, user) - 12usize];
    ["Offset of field: observe_owner::process"][::core::mem::offset_of!(observe_owner, process) - 16usize];
};
#[doc = " What every event begins with."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct observe_event {
    #[doc = " CLOCK_MONOTONIC, ns"]
    pub time: __u64,
    #[doc = " of the socket; 0: none"]
    pub cookie: __u64,
    pub key: mark_key,
    pub owner: observe_owner,
    #[doc = " number of the network namespace, as /proc/PID/ns/net has it"]
    pub netns: __u32,
    #[doc = " enum mark_word of the flow, if the daemon knows it; 0: it does not"]
    pub word: __u32,
    #[doc = " index in that namespace; 0: none or not known"]
    pub interface: __u32,
    #[doc = " which of a probe's events it is"]
    pub kind: __u16,
    #[doc = " TCP_* of net/tcp_states.h; 0: no TCP socket"]
    pub state: __u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_event"][::core::mem::size_of::<observe_event>() - 104usize];
    ["Alignment of observe_event"][::core::mem::align_of::<observe_event>() - 8usize];
    ["Offset of field: observe_event::time"][::core::mem::offset_of!(observe_event, time) - 0usize];
    ["Offset of field: observe_event::cookie"][::core::mem::offset_of!(observe_event, cookie) - 8usize];
    ["Offset of field: observe_event::key"][::core::mem::offset_of!(observe_event, key) - 16usize];
    ["Offset of field: observe_event::owner"][::core::mem::offset_of!(observe_event, owner) - 56usize];
    ["Offset of field: observe_event::netns"][::core::mem::offset_of!(observe_event, netns) - 88usize];
    ["Offset of field: observe_event::word"][::core::mem::offset_of!(observe_event, word) - 92usize];
    ["Offset of field: observe_event::interface"]
        [::core::mem::offset_of!(observe_event, interface) - 96usize];
    ["Offset of field: observe_event::kind"][::core::mem::offset_of!(observe_event, kind) - 100usize];
    ["Offset of field: observe_event::state"][::core::mem::offset_of!(observe_event, state) - 102usize];
};
pub mod observe_part {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " By what sums that are kept in the kernel are told apart."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " remote address"]
    pub const OBSERVE_BY_PEER: Type = 1;
    #[doc = " the /64 or /24 that it is in"]
    pub const OBSERVE_BY_PREFIX: Type = 2;
    #[doc = " of SciTags"]
    pub const OBSERVE_BY_TAG: Type = 4;
    #[doc = " name"]
    pub const OBSERVE_BY_PROCESS: Type = 8;
    pub const OBSERVE_BY_PID: Type = 16;
    pub const OBSERVE_BY_CGROUP: Type = 32;
    pub const OBSERVE_BY_USER: Type = 64;
    pub const OBSERVE_BY_NETNS: Type = 128;
    #[doc = " both ends"]
    pub const OBSERVE_BY_FLOW: Type = 256;
    #[doc = " that the socket is bound to"]
    pub const OBSERVE_BY_INTERFACE: Type = 512;
}
#[doc = " Whose a sum is. Parts that are not asked for are zero."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct observe_whose {
    pub flow: mark_key,
    pub owner: observe_owner,
    #[doc = " the tag and where it is written, no entropy"]
    pub word: __u32,
    #[doc = " number of the network namespace"]
    pub netns: __u32,
    #[doc = " index in that namespace"]
    pub interface: __u32,
    #[doc = " enum observe_part: what is known"]
    pub parts: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_whose"][::core::mem::size_of::<observe_whose>() - 88usize];
    ["Alignment of observe_whose"][::core::mem::align_of::<observe_whose>() - 8usize];
    ["Offset of field: observe_whose::flow"][::core::mem::offset_of!(observe_whose, flow) - 0usize];
    ["Offset of field: observe_whose::owner"][::core::mem::offset_of!(observe_whose, owner) - 40usize];
    ["Offset of field: observe_whose::word"][::core::mem::offset_of!(observe_whose, word) - 72usize];
    ["Offset of field: observe_whose::netns"][::core::mem::offset_of!(observe_whose, netns) - 76usize];
    ["Offset of field: observe_whose::interface"]
        [::core::mem::offset_of!(observe_whose, interface) - 80usize];
    ["Offset of field: observe_whose::parts"][::core::mem::offset_of!(observe_whose, parts) - 84usize];
};
#[doc = " Which of a probe's sums a socket goes into; kept with it."]
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
pub struct observe_place {
    pub slot: __u32,
    #[doc = " low half of jiffies64, and odd; 0: never"]
    pub looked_up: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_place"][::core::mem::size_of::<observe_place>() - 8usize];
    ["Alignment of observe_place"][::core::mem::align_of::<observe_place>() - 4usize];
    ["Offset of field: observe_place::slot"][::core::mem::offset_of!(observe_place, slot) - 0usize];
    ["Offset of field: observe_place::looked_up"][::core::mem::offset_of!(observe_place, looked_up) - 4usize];
};
pub mod observe_source {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " How the owner of a socket is known: the higher the better."]
    pub type Type = ::core::ffi::c_uint;
    pub const OBSERVE_UNKNOWN: Type = 0;
    #[doc = " whose listener accepted it, or is about to"]
    pub const OBSERVE_LISTENER: Type = 1;
    #[doc = " who holds a descriptor of it"]
    pub const OBSERVE_HOLDER: Type = 2;
    #[doc = " who called connect() or listen()"]
    pub const OBSERVE_OPENER: Type = 3;
    #[doc = " who last read or wrote"]
    pub const OBSERVE_USER: Type = 4;
}
pub mod observe_socket_flags {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    #[doc = " this end connected"]
    pub const OBSERVE_ACTIVE: Type = 1;
    #[doc = " this end accepted"]
    pub const OBSERVE_PASSIVE: Type = 2;
    #[doc = " the other end sent RST"]
    pub const OBSERVE_RESET_RECEIVED: Type = 4;
    #[doc = " this end sent RST"]
    pub const OBSERVE_RESET_SENT: Type = 8;
    #[doc = " how long the handshake took is known"]
    pub const OBSERVE_TIMED: Type = 16;
}
#[doc = " What is remembered of a socket for as long as it lives."]
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
pub struct observe_socket {
    pub owner: observe_owner,
    #[doc = " CLOCK_MONOTONIC, ns: SYN sent, or received; 0: before we looked"]
    pub opened: __u64,
    #[doc = " likewise; 0: not yet, or before we looked"]
    pub established: __u64,
    #[doc = " SYN or SYN-ACK sent again, known when established or closed"]
    pub syn_retries: __u32,
    #[doc = " enum observe_source"]
    pub source: __u8,
    #[doc = " enum observe_socket_flags"]
    pub flags: __u8,
    #[doc = " errno of the last error that was reported on it"]
    pub error: __u16,
    #[doc = " Of `rtt`: it has something for nearly every connection, and room of its own costs more than all that it does."]
    pub rtt: observe_place,
    #[doc = " rtt_seq as the last sample was taken at tcp_probe"]
    pub rtt_round: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_socket"][::core::mem::size_of::<observe_socket>() - 72usize];
    ["Alignment of observe_socket"][::core::mem::align_of::<observe_socket>() - 8usize];
    ["Offset of field: observe_socket::owner"][::core::mem::offset_of!(observe_socket, owner) - 0usize];
    ["Offset of field: observe_socket::opened"][::core::mem::offset_of!(observe_socket, opened) - 32usize];
    ["Offset of field: observe_socket::established"]
        [::core::mem::offset_of!(observe_socket, established) - 40usize];
    ["Offset of field: observe_socket::syn_retries"]
        [::core::mem::offset_of!(observe_socket, syn_retries) - 48usize];
    ["Offset of field: observe_socket::source"][::core::mem::offset_of!(observe_socket, source) - 52usize];
    ["Offset of field: observe_socket::flags"][::core::mem::offset_of!(observe_socket, flags) - 53usize];
    ["Offset of field: observe_socket::error"][::core::mem::offset_of!(observe_socket, error) - 54usize];
    ["Offset of field: observe_socket::rtt"][::core::mem::offset_of!(observe_socket, rtt) - 56usize];
    ["Offset of field: observe_socket::rtt_round"]
        [::core::mem::offset_of!(observe_socket, rtt_round) - 64usize];
    ["Offset of field: observe_socket::pad"][::core::mem::offset_of!(observe_socket, pad) - 68usize];
};
#[doc = " What the iterator over all TCP sockets tells."]
#[repr(C)]
#[derive(zerocopy :: FromBytes, zerocopy :: IntoBytes, zerocopy :: Immutable, zerocopy :: KnownLayout)]
pub struct observe_tcp {
    pub event: observe_event,
    pub socket: observe_socket,
    pub tcp: mark_tcp,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of observe_tcp"][::core::mem::size_of::<observe_tcp>() - 488usize];
    ["Alignment of observe_tcp"][::core::mem::align_of::<observe_tcp>() - 8usize];
    ["Offset of field: observe_tcp::event"][::core::mem::offset_of!(observe_tcp, event) - 0usize];
    ["Offset of field: observe_tcp::socket"][::core::mem::offset_of!(observe_tcp, socket) - 104usize];
    ["Offset of field: observe_tcp::tcp"][::core::mem::offset_of!(observe_tcp, tcp) - 176usize];
};
pub mod observe_count {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Index of observe_counts; per CPU, of each object."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " told through the ring"]
    pub const OBSERVE_EVENTS: Type = 0;
    #[doc = " not told: the ring was full"]
    pub const OBSERVE_LOST: Type = 1;
    #[doc = " sockets or keys that entries were made for"]
    pub const OBSERVE_FLOWS: Type = 2;
    #[doc = " had no room in a map"]
    pub const OBSERVE_EVICTED: Type = 3;
    pub const OBSERVE_COUNTS: Type = 4;
}
