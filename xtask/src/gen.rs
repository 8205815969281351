//! Rust for the types that kernel and user space share: one C header in `bpf/abi`, one generated file beside the
//! feature that uses it. The result is checked in, so a build needs no libclang; `--check` (run by `make lint`)
//! fails when somebody changed a header and forgot.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

const PROBES: &str = "crates/kernel/src/probes";

/// A header, and what becomes of it.
struct Header {
    path: String,
    /// What all its types begin with.
    prefix: String,
    /// The generated file.
    output: String,
    /// Rust modules with the types of the headers that it includes.
    uses: &'static [&'static str],
}

impl Header {
    fn new(
        path: impl Into<String>,
        prefix: &str,
        output: impl Into<String>,
        uses: &'static [&'static str],
    ) -> Self {
        Self { path: path.into(), prefix: prefix.to_owned(), output: output.into(), uses }
    }
}

/// The headers of `bpf/abi`, and the one of each probe.
fn headers(root: &Path) -> Result<Vec<Header>> {
    const MARK: &str = "crate::mark::abi";
    let mut headers = vec![
        Header::new("bpf/abi/mark.h", "mark", "crates/kernel/src/mark/abi.rs", &[]),
        Header::new("bpf/abi/observe.h", "observe", format!("{PROBES}/abi.rs"), &[MARK]),
    ];
    let mut probes: Vec<_> =
        fs::read_dir(root.join(PROBES))?.flatten().map(|entry| entry.file_name()).collect();
    probes.sort();
    for probe in probes {
        let name = probe.to_string_lossy();
        let folder = format!("{PROBES}/{name}");
        if root.join(&folder).join("abi.h").exists() {
            let uses = &[MARK, "crate::probes::abi"];
            headers.push(Header::new(format!("{folder}/abi.h"), &name, format!("{folder}/abi.rs"), uses));
        }
    }
    Ok(headers)
}

const PREAMBLE: &str = "//! Generated from `HEADER` by `cargo xtask gen`: change the header, not this file.\n\n\
    #![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]\n\
    #![allow(non_camel_case_types, non_upper_case_globals, clippy::all)]\n\n";

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
    for header in headers(root)? {
        let wanted = generate(root, &header)?;
        let Header { path: header, output, .. } = &header;
        let path = root.join(output);
        if !check {
            fs::write(&path, wanted).with_context(|| format!("writing {output}"))?;
        } else if fs::read_to_string(&path).unwrap_or_default() != wanted {
            bail!("{output} is not what {header} says: run `cargo xtask gen` and commit the result");
        }
    }
    Ok(())
}

fn generate(root: &Path, header: &Header) -> Result<String> {
    let mut builder = bindgen::Builder::default()
        .header(root.join(&header.path).display().to_string())
        .clang_args(["-target", "bpf", "-include", "linux/types.h", "-fparse-all-comments"])
        .clang_args(["-I/usr/include/x86_64-linux-gnu", "-I/usr/include/aarch64-linux-gnu"])
        .clang_arg(format!("-I{}", root.join("bpf/abi").display()))
        .allowlist_type(format!("{}_.*", header.prefix))
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .use_core()
        .derive_copy(true)
        .layout_tests(true)
        .disable_header_comment()
        .rustfmt_configuration_file(Some(root.join("rustfmt.toml")))
        .formatter(bindgen::Formatter::Rustfmt)
        .parse_callbacks(Box::new(Zerocopy));
    for (used, prefix) in header.uses.iter().zip(["mark", "observe"]) {
        builder = builder.blocklist_type(format!("{prefix}_.*")).raw_line(format!("use {used}::*;"));
    }
    let bindings = builder.generate().with_context(|| format!("parsing {}", header.path))?;
    Ok(PREAMBLE.replace("HEADER", &header.path) + &bindings.to_string())
}
