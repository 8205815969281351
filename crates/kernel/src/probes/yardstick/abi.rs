//! Generated from `crates/kernel/src/probes/yardstick/abi.h` by `cargo xtask gen`: change the header, not this file.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]
#![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]

use crate::mark::abi::*;
use crate::probes::abi::*;

pub mod yardstick_limits {
    #[allow(unused_imports)]
    use super::*;
    pub type Type = ::core::ffi::c_uint;
    #[doc = " events of one run"]
    pub const YARDSTICK_BURST: Type = 512;
}
