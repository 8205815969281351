//! libFuzzer for one of the targets, which FLOWTAG_FUZZ names: `fuzz/run` calls it.
#![no_main]

#[path = "../targets/mod.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static CHECK: LazyLock<targets::Check> = LazyLock::new(|| {
    let name = std::env::var("FLOWTAG_FUZZ").unwrap_or_default();
    let target = targets::TARGETS.iter().find(|(target, _)| *target == name);
    target.unwrap_or_else(|| panic!("FLOWTAG_FUZZ={name:?} is no target of fuzz/targets")).1
});

fuzz_target!(|data: &[u8]| CHECK(data));
