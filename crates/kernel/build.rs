//! Compiles the eBPF programs to CO-RE objects, which the crate embeds.
//!
//! By clang itself: libbpf-cargo would build a second libbpf for the host to do the same (CONTRIBUTING.md, dependencies).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// One object each: a folder's `NAME.bpf.c`.
const FEATURES: &[&str] = &["src/mark"];
/// Each folder in it is a probe.
const PROBES: &str = "src/probes";
const FLAGS: &[&str] = &["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-Wpadded"];
/// What no loader reads, the half of an object and more: DWARF, and relocations of what is not code.
const UNREAD: &[&str] = &[".debug_", ".rel.debug_", ".rel.BTF", ".rel.eh_frame", ".eh_frame"];

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let bpf = manifest.join("../../bpf");
    let probes = entries(&manifest.join(PROBES)).filter(|path| path.is_dir());
    let folders: Vec<_> = FEATURES.iter().map(|f| manifest.join(f)).chain(probes).collect();
    let objects = folders.iter().filter_map(|folder| {
        let name = folder.file_name().expect("a name").to_string_lossy();
        let source = folder.join(format!("{name}.bpf.c"));
        source.exists().then(|| (source, out.join(format!("{name}.bpf.o"))))
    });
    let running: Vec<_> =
        objects.map(|(source, object)| (compile(&bpf, &source, &object), source, object)).collect();
    for (compiler, source, object) in running {
        finish(compiler, &source, &object);
    }
    for source in folders.iter().flat_map(|folder| entries(folder)) {
        if source.extension().is_some_and(|e| e == "c" || e == "h") {
            println!("cargo:rerun-if-changed={}", source.display());
        }
    }
    println!("cargo:rerun-if-changed={}", bpf.display());
    println!("cargo:rerun-if-changed={}", manifest.join(PROBES).display());
    println!("cargo:rerun-if-env-changed=CLANG");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|e| panic!("{name}, which cargo sets: {e}"))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).expect("a folder of programs").flatten().map(|entry| entry.path())
}

/// Starts the compiler: all objects are made at the same time.
fn compile(bpf: &Path, source: &Path, object: &Path) -> Child {
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    // As libbpf's bpf_tracing.h calls it.
    let macro_arch = match arch.as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        other => other,
    };
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut command = Command::new(&clang);
    command.args(["-g", "-O2", "-target", "bpfel", "-fno-stack-protector", "-fno-addrsig"]).args(FLAGS);
    command.arg(format!("-D__TARGET_ARCH_{macro_arch}"));
    // System headers, so that their own padding does not trip -Wpadded. libbpf-sys says where libbpf's are.
    command.arg("-isystem").arg(bpf.join("vmlinux").join(&arch));
    command.arg("-isystem").arg(variable("DEP_BPF_INCLUDE"));
    command.arg("-I").arg(bpf.join("abi")).arg("-I").arg(bpf.join("lib"));
    command.arg("-c").arg(source).arg("-o").arg(object);
    command.spawn().unwrap_or_else(|e| {
        panic!("cannot start {}: {e}\nneeded: clang 14 or newer (`make setup` installs it)", clang.display())
    })
}

fn finish(mut compiler: Child, source: &Path, object: &Path) {
    let status = compiler.wait().expect("a child");
    assert!(
        status.success(),
        "clang could not compile {} ({status}); what it said is above\nneeded: clang 14 or newer (`make setup` installs it)",
        source.display()
    );
    let elf = fs::read(object).unwrap_or_else(|e| panic!("reading {}: {e}", object.display()));
    let stripped = strip(&elf).unwrap_or_else(|| panic!("{} is not what clang makes", object.display()));
    fs::write(object, stripped).unwrap_or_else(|e| panic!("writing {}: {e}", object.display()));
}

/// The relocatable ELF file (64 bits, little endian; elf(5)) without the contents of [`UNREAD`] sections. They keep their
/// headers, empty and of no type, so that no index changes.
fn strip(elf: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 64;
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    let u32_at = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?) as usize);
    let u64_at = |at: usize| usize::try_from(u64::from_le_bytes(elf.get(at..at + 8)?.try_into().ok()?)).ok();
    let (table, number, names) = (u64_at(40)?, u16_at(60)?, u16_at(62)?);
    let header = |section: usize| table + section * HEADER;
    let names = elf.get(u64_at(header(names) + 24)?..)?;
    let mut stripped = elf.get(..HEADER)?.to_vec();
    let mut headers = elf.get(table..header(number))?.to_vec();
    for (section, new) in headers.chunks_exact_mut(HEADER).enumerate() {
        let at = header(section);
        let name = names.get(u32_at(at)?..)?;
        if UNREAD.iter().any(|unread| name.starts_with(unread.as_bytes())) {
            new[4..].fill(0);
            continue;
        }
        let (offset, size, align) = (u64_at(at + 24)?, u64_at(at + 32)?, u64_at(at + 48)?);
        stripped.resize(stripped.len().next_multiple_of(align.max(1)), 0);
        new[24..32].copy_from_slice(&(stripped.len() as u64).to_le_bytes());
        const NOBITS: usize = 8;
        if u32_at(at + 4)? != NOBITS {
            stripped.extend(elf.get(offset..offset + size)?);
        }
    }
    stripped.resize(stripped.len().next_multiple_of(8), 0);
    let table = (stripped.len() as u64).to_le_bytes();
    stripped[40..48].copy_from_slice(&table);
    stripped.append(&mut headers);
    Some(stripped)
}
