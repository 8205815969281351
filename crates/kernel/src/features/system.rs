//! What the kernel says about itself: BTF, settings, mounted file systems.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Enum, Struct, Typedef};
use nix::errno::Errno;
use nix::sys::statfs::{FsType, statfs};
use nix::sys::utsname::uname;
use nix::unistd::{AccessFlags, access, geteuid};

use super::{AS_ROOT, Check, chain};
use crate::cgroup::Cgroups;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

pub(super) const BTF_FIX: &str =
    "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y (EL 8.2, Debian 11, Ubuntu 20.10 and newer are)";

/// Release and architecture, for whoever reads the report: no decision depends on it.
#[must_use]
pub fn kernel() -> Check {
    const NAME: &str = "kernel";
    match uname() {
        Ok(name) => {
            let [release, machine] = [name.release(), name.machine()].map(|s| s.to_string_lossy());
            Check::ok(NAME, format!("Linux {release}, {machine}"))
        }
        Err(e) => Check::unknown(NAME, format!("it does not say its name ({e})"), "see `uname -a`"),
    }
}

/// Whether the kernel describes its types, without which no program can be fitted to it.
#[must_use]
pub fn btf() -> Check {
    const NAME: &str = "BTF";
    match (fs::metadata(VMLINUX), Btf::from_vmlinux()) {
        (Ok(file), Ok(_)) => Check::ok(NAME, format!("{VMLINUX}, {} KiB", file.len() / 1024)),
        (Ok(_), Err(e)) => {
            Check::missing(NAME, format!("{VMLINUX} is there but not usable: {}", chain(&e)), BTF_FIX)
        }
        (Err(e), _) if e.kind() == io::ErrorKind::NotFound => Check::missing(
            NAME,
            format!("no {VMLINUX}: this kernel has none, or /sys is not mounted"),
            BTF_FIX,
        ),
        (Err(e), _) => Check::unknown(NAME, format!("{VMLINUX} cannot be looked at ({e})"), AS_ROOT),
    }
}

/// Whether the kernel knows the attach type of tcx (6.6, or backported); none without BTF.
pub(super) fn knows_tcx() -> Option<bool> {
    let btf = Btf::from_vmlinux().ok()?;
    let types = btf.type_by_name::<Enum<'_>>("bpf_attach_type")?;
    Some(types.iter().any(|member| member.name.is_some_and(|n| n == "BPF_TCX_EGRESS")))
}

/// Whether the kernel has the tracepoint at which sockets change their state; none without BTF. Each tracepoint has a
/// type of its own, by which programs for it are fitted.
pub(super) fn knows_socket_states() -> Option<bool> {
    let btf = Btf::from_vmlinux().ok()?;
    Some(btf.type_by_name::<Typedef<'_>>("btf_trace_inet_sock_set_state").is_some())
}

/// Whether maps and programs count against RLIMIT_MEMLOCK; none without BTF. Memory was charged to a user in
/// `bpf_map_memory` until 5.11, which charges cgroups and dropped the type.
pub(super) fn counts_memlock() -> Option<bool> {
    Some(Btf::from_vmlinux().ok()?.type_by_name::<Struct<'_>>("bpf_map_memory").is_some())
}

/// The mode of kernel_lockdown(7). It never hinders marking; probes that read the kernel's memory it may.
#[must_use]
pub fn lockdown() -> Check {
    const NAME: &str = "lockdown";
    match fs::read_to_string("/sys/kernel/security/lockdown") {
        Ok(modes) => match chosen(&modes) {
            Some("confidentiality") => Check::ok(
                NAME,
                "confidentiality: programs that read the kernel's memory are refused; marking is not",
            ),
            Some(mode) => Check::ok(NAME, mode),
            None => Check::ok(NAME, format!("{:?}, which is not understood", modes.trim())),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Check::ok(NAME, "not told: securityfs is not mounted, or the kernel has no lockdown")
        }
        Err(e) => {
            Check::unknown(NAME, format!("/sys/kernel/security/lockdown cannot be read ({e})"), AS_ROOT)
        }
    }
}

/// The word in brackets of `none [integrity] confidentiality`.
fn chosen(modes: &str) -> Option<&str> {
    modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

/// Who may use bpf(2), for whoever reads the report: flowtag does not depend on it.
#[must_use]
pub fn unprivileged_bpf() -> Check {
    const NAME: &str = "unprivileged BPF";
    const KEY: &str = "kernel.unprivileged_bpf_disabled";
    let detail = match fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled") {
        Ok(value) => match value.trim() {
            "0" => format!("allowed ({KEY} = 0)"),
            "1" => format!("refused until the next boot ({KEY} = 1)"),
            "2" => format!("refused ({KEY} = 2)"),
            other => format!("{KEY} = {other:?}, which is not understood"),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!("allowed: this kernel has no {KEY}"),
        Err(e) => return Check::unknown(NAME, format!("{KEY} cannot be read ({e})"), AS_ROOT),
    };
    Check::ok(NAME, detail)
}

/// Whether cgroup v2 is mounted and shows all cgroups, by which rules tell services apart. Rules with a process's name
/// need it as well: the program that notes the name is attached to the root of all cgroups.
#[must_use]
pub fn cgroup2() -> Check {
    const NAME: &str = "cgroup v2";
    let beside = if mounted("cgroup").is_ok_and(|v1| !v1.is_empty()) { ", beside cgroup v1" } else { "" };
    let fix = "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified";
    let mut check = file_system(NAME, "cgroup2", fix);
    check.detail += beside;
    match Cgroups::read() {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            let fix = "run flowtag in the cgroup namespace of the host, or name neither cgroups nor processes in rules";
            Check::missing(NAME, "shows only a part of this host's cgroups, as in a container", fix)
        }
        _ => check,
    }
}

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// The only place at which the daemon mounts a bpffs by itself.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

/// Whether maps and links can be kept in `dir`, so that marking outlives the daemon; none: they are not kept.
#[must_use]
pub fn pin_directory(dir: Option<&Path>) -> Check {
    const NAME: &str = "pin directory";
    let Some(dir) = dir else {
        return Check::ok(NAME, "none (mark.pin is empty): marking ends with the daemon");
    };
    let (parent, shown) = (dir.parent().unwrap_or(dir), dir.display());
    let fix = format!(
        "mount -t bpf bpf {}; or set mark.pin to a directory on a bpffs, or to \"\"",
        parent.display()
    );
    match statfs(parent).map(|s| s.filesystem_type() == BPF_FS) {
        Ok(true) => match access(parent, AccessFlags::W_OK) {
            Ok(()) => Check::ok(NAME, format!("{shown}, on a bpffs")),
            Err(Errno::EACCES) if !geteuid().is_root() => {
                Check::unknown(NAME, format!("{shown}, on a bpffs that only root may write to"), AS_ROOT)
            }
            Err(e) => {
                let fix = "mount it for writing; in a unit: ReadWritePaths= with its path";
                let detail = format!("{shown}: the bpffs cannot be written to ({})", e.desc());
                Check::missing(NAME, detail, fix)
            }
        },
        Ok(false) if parent == Path::new(USUAL_BPFFS) => {
            let detail =
                format!("{shown}: no bpffs is mounted there; the daemon tries to, which takes CAP_SYS_ADMIN");
            Check::warn(NAME, detail, "mount -t bpf bpf /sys/fs/bpf")
        }
        Ok(false) => Check::missing(
            NAME,
            format!("{shown}: its parent is not on a bpffs, the daemon would not start"),
            fix,
        ),
        Err(Errno::EACCES) => Check::unknown(NAME, format!("{shown} cannot be looked at"), AS_ROOT),
        Err(e) => Check::missing(NAME, format!("{shown}: its parent cannot be used ({})", e.desc()), fix),
    }
}

/// Where the file system is mounted that describes tracepoints.
#[must_use]
pub fn tracefs() -> Check {
    file_system("tracefs", "tracefs", "mount -t tracefs tracefs /sys/kernel/tracing")
}

fn file_system(name: &'static str, kind: &str, fix: &str) -> Check {
    match mounted(kind) {
        Ok(places) if places.is_empty() => Check::missing(name, "not mounted", fix),
        Ok(places) => {
            let places: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
            Check::ok(name, format!("mounted at {}", places.join(", ")))
        }
        Err(e) => Check::unknown(name, format!("/proc/self/mountinfo cannot be read ({e})"), AS_ROOT),
    }
}

/// Where file systems of this type are mounted, as this process sees it.
fn mounted(kind: &str) -> io::Result<Vec<PathBuf>> {
    let mut places: Vec<_> = mounts(&fs::read_to_string("/proc/self/mountinfo")?, kind).collect();
    places.dedup();
    Ok(places)
}

/// proc_pid_mountinfo(5): the fifth field is the mount point, the type follows a lone dash.
fn mounts<'a>(mountinfo: &'a str, kind: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    mountinfo.lines().filter_map(move |line| {
        let (place, file_system) = line.split_once(" - ")?;
        (file_system.split(' ').next()? == kind).then_some(())?;
        Some(PathBuf::from(unescape(place.split(' ').nth(4)?)))
    })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                out.push(char::from(code));
                out.push_str(&part[3..]);
            }
            _ => out = out + "\\" + part,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `cat /proc/self/mountinfo` on a host with both versions of cgroups, cut, and one name with a blank added.
    const MOUNTINFO: &str = "\
        22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
        30 24 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        33 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        39 30 0:36 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
        40 22 0:37 / /mnt/a\\040b rw - cgroup2 none rw\n";

    #[test]
    fn mounts_are_found_by_type() {
        let found = |kind| mounts(MOUNTINFO, kind).collect::<Vec<_>>();
        assert_eq!(found("cgroup2"), [Path::new("/sys/fs/cgroup/unified"), Path::new("/mnt/a b")]);
        assert_eq!(found("cgroup"), [Path::new("/sys/fs/cgroup/memory")]);
        assert!(found("bpf").is_empty());
    }

    #[test]
    fn nonsense_has_no_mounts() {
        for text in ["", " - ", "a - cgroup2", "1 2 3 4 - cgroup2 x", "\n\n - cgroup2\n"] {
            assert_eq!(mounts(text, "cgroup2").count(), 0, "{text:?}");
        }
    }

    #[test]
    fn escapes_that_are_none_stay_as_they_are() {
        for (text, expected) in [
            ("/a", "/a"),
            ("/a\\040b\\134", "/a b\\"),
            ("/a\\04", "/a\\04"),
            ("/a\\999", "/a\\999"),
            ("\\", "\\"),
            ("\\ää", "\\ää"),
            ("\\377x", "\\377x"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn the_mode_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some("integrity"));
        for nonsense in ["", "none integrity", "none [integrity", "]["] {
            assert_eq!(chosen(nonsense), None, "{nonsense:?}");
        }
    }
}
