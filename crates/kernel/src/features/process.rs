//! What this process may do: capabilities and limits.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::geteuid;

use super::{AS_ROOT, Check, system};
use crate::path_mtu::PathMtu;

/// Bits of `linux/capability.h`.
const NET_ADMIN: u32 = 12;
const SYS_RESOURCE: u32 = 24;
const PERFMON: u32 = 38;
const BPF: u32 = 39;
const SYS_ADMIN: u32 = 21;

/// What the daemon needs, by name.
const NEEDED: [(u32, &str); 3] = [(BPF, "CAP_BPF"), (NET_ADMIN, "CAP_NET_ADMIN"), (PERFMON, "CAP_PERFMON")];

/// The effective capabilities of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of the calling thread; none of them where /proc is not mounted.
    #[must_use]
    pub fn of_this_thread() -> Self {
        Self::known().unwrap_or(Self(0))
    }

    /// Those of the calling thread; none where /proc is not mounted.
    #[must_use]
    pub fn known() -> Option<Self> {
        parse(&fs::read_to_string("/proc/thread-self/status").ok()?).map(Self)
    }

    /// Names of those without which no tracing program can be loaded and that are not there. CAP_SYS_ADMIN, which they were
    /// once part of, has them.
    #[must_use]
    pub fn lacking_to_trace(self) -> Vec<&'static str> {
        let needed = [(BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")];
        let lacks = |bit: u32| !self.has(bit) && !self.has(SYS_ADMIN);
        needed.into_iter().filter(|(bit, _)| lacks(*bit)).map(|(_, name)| name).collect()
    }

    /// Names of those that the daemon needs and that are not there.
    #[must_use]
    pub fn lacking(self) -> Vec<&'static str> {
        NEEDED.into_iter().filter(|(bit, _)| !self.has(*bit)).map(|(_, name)| name).collect()
    }

    const fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }
}

/// Field `CapEff` of proc_pid_status(5).
fn parse(status: &str) -> Option<u64> {
    let field = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(field.trim(), 16).ok()
}

/// Whether this process has the capabilities that the daemon needs. Lacking them is a fault of root's (a container,
/// a bounding set); anybody else is expected to lack them, and that says nothing about the daemon.
#[must_use]
pub fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let lacking = Capabilities::of_this_thread().lacking();
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        return if geteuid().is_root() {
            let fix = format!(
                "start the container or unit with {lacking} (docker --cap-add, CapabilityBoundingSet=)"
            );
            Check::missing(NAME, format!("this process is root without {lacking}"), fix)
        } else {
            Check::unknown(NAME, format!("not root, and without {lacking}, which the daemon needs"), AS_ROOT)
        };
    }
    if in_user_namespace() {
        let detail = "all that are needed, but only inside a user namespace, where they give no right to load programs";
        return Check::warn(NAME, detail, "run flowtag outside of the user namespace (rootless container)");
    }
    Check::ok(NAME, NEEDED.map(|(_, name)| name).join(", "))
}

fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !maps_everybody(&map))
}

/// user_namespaces(7): only the first namespace maps all users to themselves.
fn maps_everybody(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether room can be made on a path that is too narrow for an options header: the daemon tells its own host so by ICMPv6,
/// for which it opens a socket at start. CAP_NET_RAW is given up after that.
#[must_use]
pub fn path_mtu() -> Check {
    const NAME: &str = "path MTU";
    let Err(error) = PathMtu::open() else {
        return Check::ok(NAME, "can be lowered to make room for options headers (CAP_NET_RAW)");
    };
    if error.kind() != std::io::ErrorKind::PermissionDenied {
        let fix = "load IPv6 (ipv6.disable=0), or write tags into labels only";
        return Check::missing(NAME, format!("cannot be lowered: no socket for ICMPv6 ({error})"), fix);
    }
    if geteuid().is_root() {
        let detail =
            "cannot be lowered without CAP_NET_RAW at start: full packets have no room for an options header";
        Check::missing(NAME, detail, "start the container or unit with CAP_NET_RAW")
    } else {
        Check::unknown(NAME, "not root, and without CAP_NET_RAW, which the daemon needs at start", AS_ROOT)
    }
}

/// Whether locked memory is limited, on kernels that count maps and programs as such (before 5.11). Ask before
/// anything is loaded: libbpf raises the limit of its process by itself.
#[must_use]
pub fn memlock() -> Check {
    const NAME: &str = "memlock";
    match system::counts_memlock() {
        None => {
            Check::unknown(NAME, "without BTF it is not known how this kernel counts memory", system::BTF_FIX)
        }
        Some(false) => Check::ok(NAME, "no limit: this kernel counts the memory of programs by cgroup"),
        Some(true) => match getrlimit(Resource::RLIMIT_MEMLOCK) {
            Ok((limit, _)) => judge_memlock(limit, Capabilities::of_this_thread().has(SYS_RESOURCE)),
            Err(e) => Check::unknown(NAME, format!("the limit cannot be read ({e})"), AS_ROOT),
        },
    }
}

fn judge_memlock(limit: u64, may_raise: bool) -> Check {
    const NAME: &str = "memlock";
    if limit == RLIM_INFINITY {
        return Check::ok(NAME, "unlimited, on a kernel that counts programs as locked memory");
    }
    let detail = format!("{} KiB, on a kernel that counts programs as locked memory", limit / 1024);
    if may_raise {
        return Check::ok(NAME, detail + "; flowtag raises it");
    }
    let fix = "set LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited`, or grant CAP_SYS_RESOURCE";
    if geteuid().is_root() { Check::missing(NAME, detail, fix) } else { Check::unknown(NAME, detail, fix) }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_of_a_thread() {
        for (description, status, lacking) in [
            ("all", "Name:\tx\nCapEff:\t000001ffffffffff\n", &[][..]),
            ("the three", "CapEff:\t000000c000001000\n", &[]),
            ("network only", "CapEff:\t0000000000001000\n", &["CAP_BPF", "CAP_PERFMON"]),
            ("none", "CapEff:\t0\n", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]),
        ] {
            assert_eq!(Capabilities(parse(status).expect("a field")).lacking(), lacking, "{description}");
        }
        for nonsense in ["", "CapPrm:\tff\n", "CapEff:\tzz\n", "CapEff:", "CapEff: fffffffffffffffff"] {
            assert_eq!(parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn only_the_first_user_namespace_maps_everybody() {
        assert!(maps_everybody("         0          0 4294967295\n"));
        for other in ["", "0 100000 65536\n", "0 0 4294967295\n1 1 1\n", "0 1000 1"] {
            assert!(!maps_everybody(other), "{other:?}");
        }
    }

    #[test]
    fn a_limit_counts_only_where_it_cannot_be_raised() {
        assert_eq!(judge_memlock(RLIM_INFINITY, false).status, Status::Ok);
        assert_eq!(judge_memlock(65536, true).status, Status::Ok);
        let short = judge_memlock(65536, false);
        assert_ne!(short.status, Status::Ok);
        assert!(short.detail.starts_with("64 KiB"), "{}", short.detail);
    }
}
