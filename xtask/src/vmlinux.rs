//! `bpf/vmlinux/<arch>/vmlinux.h`: the types of a kernel, from the package that Debian ships.
//!
//! Place in the flow: once, when the pinned kernel changes; the header is checked in. The kernel is only read, so
//! the header of any architecture can be made on any machine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::vm::kernel::{Arch, Kernel};

/// How compressed data begins, and what reads it from its standard input.
const COMPRESSIONS: &[(&[u8], &str)] = &[
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x02\x21\x4c\x18", "lz4"),
];
/// Magic, version, no flags, and a header of 24 bytes (Documentation/bpf/btf.rst), little-endian.
const BTF: &[u8] = b"\x9f\xeb\x01\x00\x18\x00\x00\x00";
/// Anything smaller is the BTF of a program, or chance.
const BTF_MIN: usize = 1 << 20;

/// How `vmlinux` is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Architecture of the kernel.
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// 6.18, or another that `vm` knows.
    #[arg(short, long, default_value = "6.18")]
    kernel: String,
    /// Writes here instead.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `cargo xtask vmlinux`.
///
/// # Errors
/// The kernel cannot be had or has no BTF, or bpftool fails.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let kernel = Kernel::fetch(&args.kernel, args.arch)?;
    let path = kernel.image()?;
    let image = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let btf = find_btf(&image).with_context(|| format!("looking for the types in {}", path.display()))?;
    let header = header(&btf, &kernel)?;
    let place = root.join("bpf/vmlinux").join(args.arch.name()).join("vmlinux.h");
    let output = args.output.clone().unwrap_or(place);
    fs::create_dir_all(output.parent().unwrap_or(root)).context("making its directory")?;
    fs::write(&output, &header).with_context(|| format!("writing {}", output.display()))?;
    println!(
        "{}: {} bytes, from {} {}",
        output.display(),
        header.len(),
        kernel.package,
        kernel.package_version
    );
    Ok(())
}

/// In the image itself, or in whatever compressed part of it can be read.
fn find_btf(image: &[u8]) -> Result<Vec<u8>> {
    if let Some(btf) = largest_btf(image) {
        return Ok(btf.to_vec());
    }
    let mut tried = Vec::new();
    for (magic, tool) in COMPRESSIONS {
        for start in positions(image, magic) {
            let unpacked = unpack(tool, image.get(start..).unwrap_or_default())?;
            tried.push(format!("{tool} at {start}: {} bytes", unpacked.len()));
            if let Some(btf) = largest_btf(&unpacked) {
                return Ok(btf.to_vec());
            }
        }
    }
    ensure!(!tried.is_empty(), "the kernel is compressed in a way this does not know (xz, zstd, gzip, lz4)");
    anyhow::bail!("no BTF in it; unpacked {}", tried.join(", "))
}

/// What the tool makes of it; it will complain about what follows the compressed data.
fn unpack(tool: &str, data: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(tool);
    command.arg("-dc").args((tool == "xz").then_some("--single-stream"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("starting {tool}; is it installed?"))?;
    let stdin = child.stdin.take();
    std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(data)));
        child.wait_with_output().map(|output| output.stdout).with_context(|| format!("running {tool}"))
    })
}

/// The largest whole BTF: magic, and lengths that fit each other and the data.
fn largest_btf(data: &[u8]) -> Option<&[u8]> {
    let whole = |start: usize| {
        let btf = data.get(start..)?;
        let word = |n: usize| {
            btf.get(4 * n..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b) as usize)
        };
        let [types_at, types, strings_at, strings] = [word(2)?, word(3)?, word(4)?, word(5)?];
        let adjacent = types_at == 0 && strings_at == types && types > 0 && strings > 0;
        btf.get(..24 + types + strings).filter(|_| adjacent)
    };
    let found = positions(data, BTF).filter_map(whole).max_by_key(|b| b.len());
    found.filter(|b| b.len() >= BTF_MIN)
}

fn positions<'a>(data: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    data.windows(pattern.len()).enumerate().filter(move |(_, w)| *w == pattern).map(|(n, _)| n)
}

/// What bpftool makes of the types, below a line that says where they are from.
fn header(btf: &[u8], kernel: &Kernel) -> Result<String> {
    let file = tempfile::NamedTempFile::new().context("making a file")?;
    fs::write(file.path(), btf).context("writing the BTF")?;
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["btf", "dump", "file"]).arg(file.path()).args(["format", "c"]);
    let types = crate::vm::checked(&mut bpftool)?;
    let origin = format!("{} {}", kernel.package, kernel.package_version);
    Ok(format!("/* Types of {origin} (Debian), by `cargo xtask vmlinux`: do not change. */\n{types}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn btf(types: usize, strings: usize) -> Vec<u8> {
        let mut btf = BTF.to_vec();
        for word in [0, types as u32, types as u32, strings as u32] {
            btf.extend(word.to_le_bytes());
        }
        btf.resize(24 + types + strings, 7);
        btf
    }

    #[test]
    fn the_kernels_btf_is_the_large_whole_one() {
        let (large, small) = (btf(BTF_MIN, 100), btf(100, 10));
        let data = [b"ELF".as_slice(), &small, BTF, &large, &small, b"end"].concat();
        assert_eq!(largest_btf(&data), Some(large.as_slice()));
        assert_eq!(largest_btf(&data[..BTF_MIN]), None);
        assert_eq!(largest_btf(&small), None);
        assert_eq!(largest_btf(b""), None);
    }

    #[test]
    fn btf_is_found_in_a_compressed_part() {
        let large = btf(BTF_MIN, 100);
        let mut gzip = Command::new("gzip")
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gzip");
        gzip.stdin.take().expect("a pipe").write_all(&large).expect("written");
        let packed = gzip.wait_with_output().expect("packed").stdout;
        let image = [b"MZ stub \x1f\x8b\x08 not really".as_slice(), &packed, b"trailer"].concat();
        assert_eq!(find_btf(&image).expect("found"), large);
        assert!(find_btf(b"nothing compressed").is_err());
    }
}
