//! The guest's whole file system: a cpio archive of busybox, a few tools with their libraries, and the modules.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Copied where this machine has them; busybox stands in for the rest of a userland. The last line are those that
/// start other programs: busybox's would run its own `ping` for the real one.
const TOOLS: &[&str] = &[
    "sh", "bash", "ip", "tc", "ss", "ethtool", "bpftool", "iperf3", "tcpdump", "nft", "curl", "ping",
    "socat", "nsenter", "unshare", "mount", "timeout",
];
const PLACES: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// First program of the guest. The command writes to the second serial port, and the marker after it is the only
/// proof that it ended; the first port is the kernel's console.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/opt/busybox HOME=/root TERM=dumb
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /etc /var /opt/busybox
/bin/busybox --install -s /opt/busybox
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/net; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debugfs /sys/kernel/debug; mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs tmpfs /run; chmod 1777 /tmp; ln -s /run /var/run; ln -s /proc/self/fd /dev/fd
echo root:x:0:0::/root:/bin/sh >/etc/passwd; echo root:x:0: >/etc/group
printf '127.0.0.1 localhost\n::1 localhost\n' >/etc/hosts
for m in $(cat /modules/order); do insmod /modules/$m.ko || echo "<3>xtask: no module $m" >/dev/kmsg; done
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ulimit -n 65536; hostname flowtag-vm; ip link set lo up; stty -F /dev/ttyS1 raw -echo 115200
cd /; setsid /bin/bash /command </dev/null >/dev/ttyS1 2>&1; status=$?
printf '\n@NONCE@:%d\n' $status >/dev/ttyS1; sync; poweroff -f
"#;

/// Files by their place in the guest.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

impl Initramfs {
    /// Init, busybox, and the script that is run, with its environment.
    pub(crate) fn base(&mut self, nonce: &str, script: &str, env: &[String]) -> Result<()> {
        let busybox = find("busybox").context("no busybox: install busybox-static")?;
        self.copy(&busybox, "/bin/busybox")?;
        self.put("/init", PROGRAM, INIT.replace("@NONCE@", nonce).into_bytes());
        let exports: String = env.iter().map(|e| format!("export {}\n", super::quote(e))).collect();
        self.put("/command", FILE, format!("{exports}{script}\n").into_bytes());
        let console = Entry { mode: CHARACTER_DEVICE, device: (5, 1), data: Vec::new() };
        self.files.insert("dev/console".into(), console);
        Ok(())
    }

    /// The tools that this machine has.
    pub(crate) fn tools(&mut self) {
        for tool in TOOLS {
            let Some(path) = find(tool) else { continue };
            if let Err(e) = self.copy(&path, &format!("/usr/bin/{tool}")) {
                eprintln!("xtask: the guest goes without {tool}: {e:#}");
            }
        }
        for (name, busybox) in [("sh", "/bin/sh"), ("bash", "/bin/bash")] {
            if let Some(shell) = self.files.get(&format!("usr/bin/{name}")).cloned() {
                self.files.insert(busybox.trim_start_matches('/').into(), shell);
            }
        }
    }

    /// Kernel modules, in load order.
    pub(crate) fn modules(&mut self, modules: &[(String, Vec<u8>)]) {
        let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
        self.put("/modules/order", FILE, order.into_bytes());
        for (name, data) in modules {
            self.put(&format!("/modules/{name}.ko"), FILE, data.clone());
        }
    }

    /// A file of this machine, with the libraries that it needs if it is a program.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("copying {} into the guest", from.display()))?;
        let executable = fs::metadata(from).is_ok_and(|m| m.permissions().mode() & 0o111 != 0);
        self.put(to, if executable { PROGRAM } else { FILE }, data);
        for library in libraries(from) {
            let data = fs::read(&library).with_context(|| format!("copying {library} into the guest"))?;
            self.put(&library, PROGRAM, data);
        }
        Ok(())
    }

    pub(crate) fn put(&mut self, place: &str, mode: u32, data: Vec<u8>) {
        self.files.insert(place.trim_matches('/').to_owned(), Entry { mode, data, ..Entry::default() });
    }

    /// An uncompressed archive in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format),
    /// with every directory before what is in it.
    pub(crate) fn cpio(&self) -> Vec<u8> {
        let mut all = BTreeMap::new();
        for (place, entry) in &self.files {
            for (slash, _) in place.match_indices('/') {
                let directory = Entry { mode: DIRECTORY, ..Entry::default() };
                all.entry(place.get(..slash).unwrap_or_default()).or_insert(directory);
            }
            all.insert(place.as_str(), entry.clone());
        }
        let mut archive = Vec::new();
        for (number, (place, entry)) in all.iter().enumerate() {
            append(&mut archive, number as u32 + 1, place, entry);
        }
        append(&mut archive, 0, "TRAILER!!!", &Entry::default());
        archive
    }
}

/// Header of thirteen numbers in eight hexadecimal digits, name and data, each padded to four bytes.
fn append(archive: &mut Vec<u8>, inode: u32, name: &str, entry: &Entry) {
    let (major, minor) = entry.device;
    let (size, name_size) = (entry.data.len() as u32, name.len() as u32 + 1);
    archive.extend(b"070701");
    for number in [inode, entry.mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0] {
        archive.extend(format!("{number:08X}").into_bytes());
    }
    for part in [format!("{name}\0").as_bytes(), &entry.data] {
        archive.extend(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

/// A program by its name.
fn find(tool: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(tool)).find(|path| path.is_file())
}

/// What the dynamic linker would load for a program; nothing for any other file.
fn libraries(program: &Path) -> Vec<String> {
    let Ok(output) = Command::new("ldd").arg(program).output() else { return Vec::new() };
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
}

/// `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld-linux.so.2 (0x…)`.
fn parse_ldd(text: &str) -> Vec<String> {
    let path = |line: &str| {
        let (before, _) = line.split_once(" (0x")?;
        let path = before.rsplit("=> ").next()?.trim();
        path.starts_with('/').then(|| path.to_owned())
    };
    text.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_cpio_reads() {
        let mut image = Initramfs::default();
        image.put("/a/b/program", PROGRAM, b"#!/bin/sh\n".to_vec());
        image.put("/a/file", FILE, b"12345".to_vec());
        let archive = image.cpio();
        assert_eq!(archive.len() % 4, 0);
        let names: Vec<&str> = ["a", "a/b", "a/b/program", "a/file", "TRAILER!!!"].into();
        let mut rest = archive.as_slice();
        for name in names {
            assert_eq!(rest[..6], *b"070701");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).expect("text");
                usize::from_str_radix(digits, 16).expect("a number")
            };
            assert_eq!(rest[110..110 + name.len()], *name.as_bytes());
            assert_eq!(field(11), name.len() + 1);
            let data = (110 + field(11)).next_multiple_of(4);
            if name == "a/file" {
                assert_eq!((field(1) as u32, &rest[data..data + field(6)]), (FILE, b"12345".as_slice()));
            }
            rest = &rest[(data + field(6)).next_multiple_of(4)..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn libraries_are_taken_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f00)\n\
                    \tlibgone.so => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f11)\n";
        assert_eq!(parse_ldd(text), ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }
}
