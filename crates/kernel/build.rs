//! Compiles the eBPF programs to CO-RE objects, which the crate embeds.

use std::env;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

const PROGRAMS: &[&str] = &["src/mark/mark.bpf.c"];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let bpf = manifest.join("../../bpf");
    // A system header, so that its own padding does not trip -Wpadded.
    let vmlinux = format!("-isystem{}", bpf.join("vmlinux").join(&arch).display());
    let includes =
        [vmlinux, format!("-I{}", bpf.join("abi").display()), format!("-I{}", bpf.join("lib").display())];
    for source in PROGRAMS {
        let object = out.join(Path::new(source).with_extension("o").file_name().expect("a file"));
        let flags = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-Wpadded"].map(str::to_owned);
        let result = SkeletonBuilder::new()
            .source(manifest.join(source))
            .obj(&object)
            .clang_args(flags.into_iter().chain(includes.iter().cloned()))
            .build();
        if let Err(e) = result {
            panic!(
                "clang could not compile {source}: {e:#}\nneeded: clang 14 or newer (`make setup` installs it)"
            );
        }
    }
    for source in ["src/mark"].into_iter().flat_map(|folder| sources(&manifest.join(folder))) {
        println!("cargo:rerun-if-changed={}", source.display());
    }
    println!("cargo:rerun-if-changed={}", bpf.display());
}

/// What an object is made of beside the headers of `bpf`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a feature's folder").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|e| e == "c" || e == "h")).collect()
}
