//! Rust for the types that kernel and user space share: one C header in `bpf/abi`, one generated file beside the
//! feature that uses it. The result is checked in, so a build needs no libclang; `--check` (run by `make lint`)
//! fails when somebody changed a header and forgot.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

/// Header, prefix of its types, generated file.
const HEADERS: &[(&str, &str, &str)] = &[("bpf/abi/mark.h", "mark_.*", "crates/kernel/src/mark/abi.rs")];

const PREAMBLE: &str = "//! Generated from `HEADER` by `cargo xtask gen`: change the header, not this file.\n\n\
    #![allow(missing_docs, unreachable_pub, dead_code, non_camel_case_types, non_upper_case_globals, clippy::all)]\n\n";

/// Every shared type is plain bytes without holes: a hole makes `IntoBytes` fail to derive, and so the build.
#[derive(Debug)]
struct Zerocopy;

impl ParseCallbacks for Zerocopy {
    fn add_derives(&self, _: &DeriveInfo<'_>) -> Vec<String> {
        ["FromBytes", "IntoBytes", "Immutable", "KnownLayout"].map(|d| format!("zerocopy::{d}")).to_vec()
    }
}

/// Writes the generated files, or with `check` compares them.
///
/// # Errors
/// A header that does not parse; with `check`, a file that is not what its header says.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    for (header, types, output) in HEADERS {
        let wanted = generate(root, header, types)?;
        let path = root.join(output);
        if !check {
            fs::write(&path, wanted).with_context(|| format!("writing {output}"))?;
        } else if fs::read_to_string(&path).unwrap_or_default() != wanted {
            bail!("{output} is not what {header} says: run `cargo xtask gen` and commit the result");
        }
    }
    Ok(())
}

fn generate(root: &Path, header: &str, types: &str) -> Result<String> {
    let bindings = bindgen::Builder::default()
        .header(root.join(header).display().to_string())
        .clang_args(["-target", "bpf", "-include", "linux/types.h", "-fparse-all-comments"])
        .clang_args(["-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu"])
        .allowlist_type(types)
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .use_core()
        .derive_copy(true)
        .layout_tests(true)
        .disable_header_comment()
        .rustfmt_configuration_file(Some(root.join("rustfmt.toml")))
        .formatter(bindgen::Formatter::Rustfmt)
        .parse_callbacks(Box::new(Zerocopy))
        .generate()
        .with_context(|| format!("parsing {header}"))?;
    Ok(PREAMBLE.replace("HEADER", header) + &bindings.to_string())
}
