//! Generated from `crates/kernel/src/probes/request/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub mod request_kind {
    #[allow(unused_imports)]
    use super::*;
    #[doc = " Which time it is."]
    pub type Type = ::core::ffi::c_uint;
    #[doc = " of who asks: until the reply comes"]
    pub const REQUEST_ANSWER: Type = 0;
    #[doc = " of that, what is not the round trip"]
    pub const REQUEST_PEER: Type = 1;
    #[doc = " of who is asked: until the reply leaves"]
    pub const REQUEST_SERVE: Type = 2;
    pub const REQUEST_KINDS: Type = 3;
}
