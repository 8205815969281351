//! What each parser of hostile bytes promises, as functions: libFuzzer calls them (`make fuzz`), and an
//! ordinary test with every seed (`crates/wire/tests/it/fuzz.rs`).

mod capture;
mod expression;
mod firefly;
mod option;
mod packet;
mod stun;
mod xrootd;

/// A check, which panics where a promise is broken.
pub(crate) type Check = fn(&[u8]);

/// By the name of the folder in `seeds`.
pub(crate) const TARGETS: &[(&str, Check)] = &[
    ("capture", capture::run),
    ("expression", expression::run),
    ("firefly", firefly::run),
    ("option", option::run),
    ("packet", packet::run),
    ("stun", stun::run),
    ("xrootd", xrootd::run),
];
