//! Compiles the eBPF programs to CO-RE objects, which the crate embeds.

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

/// One object each: a folder's `NAME.bpf.c`.
const FEATURES: &[&str] = &["src/mark"];
/// Each folder in it is a probe.
const PROBES: &str = "src/probes";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let bpf = manifest.join("../../bpf");
    // A system header, so that its own padding does not trip -Wpadded.
    let vmlinux = format!("-isystem{}", bpf.join("vmlinux").join(&arch).display());
    let includes =
        [vmlinux, format!("-I{}", bpf.join("abi").display()), format!("-I{}", bpf.join("lib").display())];
    let probes = folders(&manifest.join(PROBES));
    let folders: Vec<_> = FEATURES.iter().map(|f| manifest.join(f)).chain(probes).collect();
    for folder in &folders {
        let name = folder.file_name().expect("a name").to_string_lossy();
        let (source, object) = (folder.join(format!("{name}.bpf.c")), out.join(format!("{name}.bpf.o")));
        if !source.exists() {
            continue;
        }
        let flags = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-Wpadded"].map(str::to_owned);
        let result = SkeletonBuilder::new()
            .source(&source)
            .obj(&object)
            .clang_args(flags.into_iter().chain(includes.iter().cloned()))
            .build();
        if let Err(e) = result {
            panic!(
                "clang could not compile {}: {e:#}\nneeded: clang 14 or newer (`make setup` installs it)",
                source.display()
            );
        }
    }
    for source in folders.iter().flat_map(|folder| sources(folder)) {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    println!("cargo:rerun-if-changed={}", bpf.display());
    println!("cargo:rerun-if-changed={}", manifest.join(PROBES).display());
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(of).expect("the probes").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir()).collect()
}

/// What an object is made of beside the headers of `bpf`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a feature's folder").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "c" || e == "h")).collect()
}
