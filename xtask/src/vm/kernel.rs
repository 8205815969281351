//! Kernels: which there are, where they come from, and their modules in the order in which they load.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::Apt;

/// Version and suite, oldest first. 5.10 and 6.18 may vanish from theirs.
pub(crate) const KERNELS: &[(&str, &str)] = &[
    ("5.10", "bullseye-security"),
    ("6.1", "bookworm-security"),
    ("6.12", "bookworm-security"),
    ("6.18", "trixie-backports"),
    ("7.3", "trixie-backports"),
];

/// Loaded in every guest that has them; what is not found is built in or not to be had.
pub(crate) const MODULES: &[&str] = &[
    "veth",
    "dummy",
    "bridge",
    "8021q",
    "macvlan",
    "ipvlan",
    "bonding",
    "tun",
    "sit",
    "ip6_tunnel",
    "wireguard", // devices
    "sch_netem",
    "sch_ingress",
    "sch_fq",
    "sch_fq_codel",
    "sch_tbf",
    "sch_htb",
    "cls_bpf",
    "act_bpf", // tc
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "af_packet_diag", // ss
    "tcp_bbr",
    "tls",
    "nf_tables",
    "nft_numgen",
    "nft_reject_inet",
    "nft_ct",
    "nft_limit", // sockets and filters
];

/// The processor that a kernel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// As Debian calls it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// As Rust calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// As it was asked for: `6.1`.
    pub(crate) version: String,
    /// Name of the package.
    pub(crate) package: String,
    /// Version of the package.
    pub(crate) package_version: String,
    directory: PathBuf,
}

impl Kernel {
    /// Gets the newest package of a version, or `newest` of all versions that can be had. Packages are kept in
    /// `$FLOWTAG_VM_CACHE` or the user's cache directory; an older one kept there serves where no newer can be had.
    ///
    /// # Errors
    /// An unknown version, or one that neither apt nor the cache has.
    pub(crate) fn fetch(version: &str, arch: Arch) -> Result<Self> {
        if version == "newest" {
            let mut newest_first = KERNELS.iter().rev().map(|(version, _)| Self::fetch(version, arch));
            return newest_first.find_map(Result::ok).context("none of the kernels can be had");
        }
        let known = || KERNELS.iter().map(|(v, _)| *v).collect::<Vec<_>>().join(", ");
        let Some((_, suite)) = KERNELS.iter().find(|(v, _)| *v == version) else {
            bail!("kernel {version:?} is not known: use {} or newest", known());
        };
        let cache = cache()?;
        let lock = File::create(cache.join("lock")).context("making a lock file in the cache")?;
        lock.lock().context("waiting for another xtask to fetch its kernel")?;
        match Self::newest_package(&cache, version, suite, arch) {
            Ok(kernel) => Ok(kernel),
            Err(e) => match Self::cached(&cache, version, arch) {
                Some(kernel) => {
                    eprintln!("xtask: no newer kernel {version} than the cached {}: {e:#}", kernel.package);
                    Ok(kernel)
                }
                None => Err(e.context(format!("kernel {version} for {} cannot be had", arch.debian()))),
            },
        }
    }

    fn newest_package(cache: &Path, version: &str, suite: &str, arch: Arch) -> Result<Self> {
        let apt = Apt::open(cache, suite, arch.debian())?;
        let names = apt.names(&format!("linux-image-{version}"))?;
        let fitting = names.iter().filter(|n| is_package_of(n, version, arch));
        let package = fitting.max_by_key(|n| numbers(n)).with_context(|| format!("{suite} has none"))?;
        let package_version = apt.version(package)?;
        let directory = cache.join(package);
        let complete = directory.join("complete");
        if fs::read_to_string(&complete).ok().as_ref() != Some(&package_version) {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
            for part in parts(package, &apt.dependencies(package)?) {
                apt.unpack(&part, &directory)?;
            }
            fs::write(&complete, &package_version).context("noting that the kernel is complete")?;
        }
        Ok(Self { version: version.to_owned(), package: package.clone(), package_version, directory })
    }

    fn cached(cache: &Path, version: &str, arch: Arch) -> Option<Self> {
        let names = fs::read_dir(cache).ok()?.flatten().filter_map(|e| e.file_name().into_string().ok());
        let complete = |n: &String| cache.join(n).join("complete").exists();
        let package =
            names.filter(|n| is_package_of(n, version, arch) && complete(n)).max_by_key(|n| numbers(n))?;
        let directory = cache.join(&package);
        let package_version = fs::read_to_string(directory.join("complete")).ok()?;
        Some(Self { version: version.to_owned(), package, package_version, directory })
    }

    /// The compressed kernel.
    ///
    /// # Errors
    /// The package has none where they are known to be.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let found = self.files().into_iter().find(|p| file_name(p).starts_with("vmlinuz"));
        found.with_context(|| format!("{} has no vmlinuz", self.package))
    }

    /// Its configuration, which libbpf reads in the guest.
    pub(crate) fn config(&self) -> Option<PathBuf> {
        self.files().into_iter().find(|p| file_name(p).starts_with("config-"))
    }

    /// The named modules and all they depend on, uncompressed and in load order.
    ///
    /// # Errors
    /// A module cannot be read.
    pub(crate) fn modules<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<Vec<(String, Vec<u8>)>> {
        let is_module = |p: &PathBuf| file_name(p).contains(".ko");
        let found =
            self.files().into_iter().filter(is_module).map(|p| (module_name(&file_name(&p)), p)).collect();
        let mut order = LoadOrder { found, modules: Vec::new() };
        names.map(|name| order.add(name)).collect::<Result<Vec<_>>>()?;
        Ok(order.modules)
    }

    /// One that has no files.
    #[cfg(test)]
    pub(crate) fn for_test(version: &str) -> Self {
        let text = || version.to_owned();
        Self { version: text(), package: text(), package_version: text(), directory: PathBuf::new() }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(&self.directory, &mut files);
        files.sort();
        files
    }
}

/// Modules as they are found to be needed: each after those that it depends on.
#[derive(Debug)]
struct LoadOrder {
    found: HashMap<String, PathBuf>,
    modules: Vec<(String, Vec<u8>)>,
}

impl LoadOrder {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = module_name(name);
        let known = self.modules.iter().any(|(n, _)| *n == name);
        let Some(path) = self.found.get(&name).filter(|_| !known) else { return Ok(()) };
        let module = read_uncompressed(path)?;
        for dependency in dependencies(&module) {
            self.add(&dependency)?;
        }
        self.modules.push((name, module));
        Ok(())
    }
}

/// Where kernels are kept.
fn cache() -> Result<PathBuf> {
    let chosen = std::env::var_os("FLOWTAG_VM_CACHE").map(PathBuf::from);
    let usual = || std::env::var_os("XDG_CACHE_HOME").map(|c| PathBuf::from(c).join("flowtag-vm"));
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache/flowtag-vm"));
    let cache = chosen.or_else(usual).or_else(home).context("no place for kernels: set FLOWTAG_VM_CACHE")?;
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    fs::canonicalize(&cache).with_context(|| format!("looking at {}", cache.display()))
}

/// Whether this is `linux-image-<version>…-cloud-<arch>`, signed and without debugging symbols.
fn is_package_of(name: &str, version: &str, arch: Arch) -> bool {
    let rest = name.strip_prefix("linux-image-").and_then(|n| n.strip_prefix(version));
    let middle = rest.and_then(|n| n.strip_suffix(arch.debian())).and_then(|n| n.strip_suffix("-cloud-"));
    let plain = |m: &str| {
        m.starts_with('.') && m.replace("+deb", "").bytes().all(|b| b.is_ascii_digit() || b".-+".contains(&b))
    };
    middle.is_some_and(plain)
}

/// The numbers in a name, for finding the newest.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Since 6.19 a linux-image package has no files and depends on the two that have.
fn parts(package: &str, dependencies: &[String]) -> Vec<String> {
    let is_part = |d: &&String| d.starts_with("linux-binary-") || d.starts_with("linux-modules-");
    let parts: Vec<String> = dependencies.iter().filter(is_part).cloned().collect();
    if parts.is_empty() { vec![package.to_owned()] } else { parts }
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `nf-tables.ko.xz` is `nf_tables`, as the kernel calls it.
fn module_name(file: &str) -> String {
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// From the module's own `depends=a,b` (section .modinfo: strings that end in NUL).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|w| w == KEY).map(|p| p + KEY.len());
    let value = start.and_then(|s| module.get(s..)).and_then(|rest| rest.split(|b| *b == 0).next());
    let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    text.split(',').filter(|n| !n.is_empty()).map(module_name).collect()
}

fn read_uncompressed(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).with_context(|| format!("reading {}", path.display())),
    };
    let output =
        Command::new(tool).arg("-dc").arg(path).output().with_context(|| format!("starting {tool}"))?;
    if !output.status.success() {
        bail!("{tool} cannot read {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_by_version_and_architecture() {
        let cases = [
            ("linux-image-6.1.0-40-cloud-amd64", "6.1", true),
            ("linux-image-6.12.90+deb12-cloud-amd64", "6.12", true),
            ("linux-image-6.12.90+deb13.1-cloud-amd64", "6.12", true),
            ("linux-image-6.12.90+deb12-cloud-amd64", "6.1", false),
            ("linux-image-6.1.0-40-amd64", "6.1", false),
            ("linux-image-6.1.0-40-cloud-amd64-dbg", "6.1", false),
            ("linux-image-6.1.0-40-cloud-amd64-unsigned", "6.1", false),
            ("linux-image-6.1.0-40-rt-cloud-amd64", "6.1", false),
            ("linux-image-6.1.0-40-cloud-arm64", "6.1", false),
        ];
        for (name, version, wanted) in cases {
            assert_eq!(is_package_of(name, version, Arch::X86_64), wanted, "{name} for {version}");
        }
        assert!(is_package_of("linux-image-6.18.5+deb13-cloud-arm64", "6.18", Arch::Aarch64));
    }

    #[test]
    fn the_newest_package_is_found_by_its_numbers() {
        let names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-40-cloud-amd64"];
        assert_eq!(names.iter().max_by_key(|n| numbers(n)), Some(&names[1]));
    }

    #[test]
    fn a_package_of_packages_is_taken_apart() {
        let depends = ["kmod", "linux-binary-7.3", "linux-modules-7.3"].map(str::to_owned);
        assert_eq!(parts("linux-image-7.3", &depends), ["linux-binary-7.3", "linux-modules-7.3"]);
        assert_eq!(parts("linux-image-6.1", &depends[..1]), ["linux-image-6.1"]);
    }

    #[test]
    fn modules_load_after_what_they_depend_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let module = |name: &str, depends: &str| {
            let path = directory.path().join(name);
            fs::write(&path, format!("ELF\0license=GPL\0depends={depends}\0name=x\0")).expect("written");
            (module_name(name), path)
        };
        let found = [
            module("sch-b.ko", "lib_c,lib-a"),
            module("lib_a.ko", "lib_c"),
            module("lib_c.ko", ""),
            module("other.ko", "not_there"),
        ];
        let mut order = LoadOrder { found: found.into(), modules: Vec::new() };
        for name in ["sch_b", "lib_c", "built_in", "other"] {
            order.add(name).expect("readable");
        }
        let names: Vec<&str> = order.modules.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["lib_c", "lib_a", "sch_b", "other"]);
    }

    #[test]
    fn a_module_without_information_depends_on_nothing() {
        assert!(dependencies(b"").is_empty());
        assert!(dependencies(b"\0depends=").is_empty());
        assert_eq!(dependencies(b"x\0depends=a,b-c\0"), ["a", "b_c"]);
    }
}
