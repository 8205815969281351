//! Cgroups of version 2: by name, by id, and what each is in (cgroups(7)).
//!
//! Read as a whole, because rules name many and a unit that starts again gets a new cgroup: its id changes, its name
//! does not. Levels are counted as the kernel does, from the root of all cgroups.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::mark::rules::Cgroup;

/// Cgroups that are looked at, nearest to the root first.
const MAX_CGROUPS: usize = 1 << 16;
/// Inode of the root directory, which no other cgroup has: a mount of something below it has another.
const ROOT_ID: u64 = 1;

/// The cgroups of this host as they were when they were read.
#[derive(Debug, Clone)]
pub struct Cgroups {
    /// Breadth first: the root is the first, whatever a cgroup is in comes before it.
    all: Vec<Node>,
    by_id: HashMap<u64, usize>,
}

#[derive(Debug, Clone)]
struct Node {
    cgroup: Cgroup,
    /// Index of the cgroup that it is in; the root's is its own.
    parent: usize,
    name: OsString,
}

/// Where the root of the first file system of type `cgroup2` is mounted.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] where none is, with what to do.
pub fn root() -> io::Result<PathBuf> {
    mount_point(&fs::read("/proc/self/mountinfo")?).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 file system is mounted, so no cgroup can be found: mount it with `mount -t cgroup2 none \
             /sys/fs/cgroup`, or name no cgroups in rules",
        )
    })
}

/// As [`root`], where that is the root of all cgroups of this host.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] where it is only a part of them, as in a container.
pub fn whole() -> io::Result<PathBuf> {
    let root = root()?;
    if fs::metadata(&root)?.ino() == ROOT_ID { Ok(root) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// One cgroup by name, as [`Cgroups::resolve`]. For several, read once.
///
/// # Errors
/// As [`Cgroups::read`].
pub fn resolve(name: &str) -> io::Result<Option<Cgroup>> {
    Ok(Cgroups::read()?.resolve(name))
}

impl Cgroups {
    /// Reads the directories of the first file system of type `cgroup2`: a few milliseconds for a thousand.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where none is mounted, [`io::ErrorKind::Unsupported`] where it does not show all
    /// cgroups (in a container), both with what to do; and what reading its root gives.
    pub fn read() -> io::Result<Self> {
        let root = root()?;
        if fs::metadata(&root)?.ino() != ROOT_ID {
            let words = format!(
                "{} shows only a part of this host's cgroups, as in a container, so none can be told by its id: run \
                 flowtag in the cgroup namespace of the host, or name no cgroups in rules",
                root.display()
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, words));
        }
        Self::walk(&root)
    }

    /// All directories below `root`; those that vanish meanwhile are left out.
    fn walk(root: &Path) -> io::Result<Self> {
        let cgroup = Cgroup { id: fs::metadata(root)?.ino(), level: 0 };
        let mut all = vec![Node { cgroup, parent: 0, name: OsString::new() }];
        let mut waiting = VecDeque::from([(0, root.to_owned())]);
        let mut entries = Some(fs::read_dir(root)?);
        while let Some((parent, path)) = waiting.pop_front() {
            let level = all[parent].cgroup.level + 1;
            let entries = entries.take().or_else(|| fs::read_dir(&path).ok()).into_iter().flatten().flatten();
            for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                if all.len() == MAX_CGROUPS {
                    tracing::warn!(
                        limit = MAX_CGROUPS,
                        "more cgroups than are looked at; rules may miss some"
                    );
                    waiting.clear();
                    break;
                }
                waiting.push_back((all.len(), entry.path()));
                let cgroup = Cgroup { id: entry.ino(), level };
                all.push(Node { cgroup, parent, name: entry.file_name() });
            }
        }
        let by_id = all.iter().enumerate().map(|(n, node)| (node.cgroup.id, n)).collect();
        Ok(Self { all, by_id })
    }

    /// The cgroup of that name; none where there is none at present. A name that begins with `/` is a path below the
    /// root of the cgroups (`/system.slice/xrootd.service`), any other that of a directory anywhere, as systemd names
    /// it after a unit (`xrootd@cms.service`): the one nearest to the root.
    #[must_use]
    pub fn resolve(&self, name: &str) -> Option<Cgroup> {
        let found = if name.starts_with('/') {
            let mut parts = name.split('/').filter(|part| !part.is_empty());
            parts.try_fold(0, |parent, part| self.find(|node| node.parent == parent && node.name == part))
        } else {
            self.find(|node| node.name == name)
        };
        found.map(|n| self.all[n].cgroup)
    }

    /// The first below the root.
    fn find(&self, is_it: impl Fn(&Node) -> bool) -> Option<usize> {
        (1..self.all.len()).find(|n| is_it(&self.all[*n]))
    }

    /// Path below the root of all cgroups, as `/system.slice/xrootd.service`; none where there is none of that id. What is
    /// not text in it is replaced.
    #[must_use]
    pub fn path(&self, id: u64) -> Option<String> {
        let mut at = self.by_id.get(&id).copied()?;
        let mut parts = Vec::new();
        while at != 0 {
            parts.push(self.all[at].name.to_string_lossy());
            at = self.all[at].parent;
        }
        parts.reverse();
        Some(format!("/{}", parts.join("/")))
    }

    /// The cgroup with this id and all that it is in, up to the root; none where there is none of that id. What
    /// [`crate::mark::rules::Subject::cgroups`] wants.
    #[must_use]
    pub fn ancestors(&self, id: u64) -> Vec<u64> {
        let Some(mut at) = self.by_id.get(&id).copied() else { return Vec::new() };
        let mut ids = vec![id];
        while at != 0 {
            at = self.all[at].parent;
            ids.push(self.all[at].cgroup.id);
        }
        ids
    }
}

/// Of the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)): where the root of the first file system of type
/// `cgroup2` is mounted.
fn mount_point(mountinfo: &[u8]) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        // Optional fields end with a hyphen; the type is next.
        fields.find(|field| *field == b"-")?;
        (fields.next()? == b"cgroup2" && root == b"/").then(|| OsString::from_vec(unescaped(point)).into())
    })
}

/// Space, tab, newline and backslash are written `\040`, `\011`, `\012`, `\134`.
fn unescaped(mut field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    while let Some((byte, rest)) = field.split_first() {
        let octal = (*byte == b'\\').then(|| rest.first_chunk::<3>()).flatten();
        let code = octal.and_then(|o| u8::from_str_radix(str::from_utf8(o).ok()?, 8).ok());
        plain.push(code.unwrap_or(*byte));
        field = if code.is_some() { &rest[3..] } else { rest };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn the_first_mount_of_the_root_is_found_whatever_its_path() {
        let line = |root: &str, point: &str, optional: &str, kind: &str| {
            format!("41 31 0:38 {root} {point} rw,nosuid{optional} - {kind} {kind} rw\n")
        };
        let v1 = line("/", "/sys/fs/cgroup/cpu", " shared:9", "cgroup");
        let part = line("/../..", "/somewhere", "", "cgroup2");
        let v2 = line("/", "/sys/fs/my\\040cgroup", " shared:9 master:1", "cgroup2");
        let later = line("/", "/later", "", "cgroup2");
        let found = |text: &[&str]| mount_point(text.concat().as_bytes());
        assert_eq!(found(&[&v1, &part, &v2, &later]), Some("/sys/fs/my cgroup".into()));
        assert_eq!(found(&[&v1, &part]), None);
        assert_eq!(found(&["", "nonsense\n", "1 2 3\n"]), None);
        assert_eq!(unescaped(br"a\134b\04\999"), br"a\b\04\999");
    }

    #[test]
    fn cgroups_are_found_by_unit_and_by_path_with_level_and_ancestors() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(&path).unwrap();
            id(&path)
        };
        let deep = make("machine.slice/inner.scope/system.slice/xrootd.service");
        let slice = make("system.slice");
        let unit = make("system.slice/system-xrootd.slice/xrootd@cms.service");
        let plain = make("system.slice/xrootd.service");
        fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let cgroups = Cgroups::walk(root.path()).unwrap();
        for (name, expected) in [
            ("/", Some((id(root.path()), 0))),
            ("/system.slice", Some((slice, 1))),
            ("/system.slice/", Some((slice, 1))),
            ("xrootd@cms.service", Some((unit, 3))),
            ("xrootd.service", Some((plain, 2))),
            ("/machine.slice/inner.scope/system.slice/xrootd.service", Some((deep, 4))),
            ("/xrootd.service", None),
            ("/system.slice/../system.slice", None),
            ("system.slice/xrootd.service", None),
            ("cgroup.procs", None),
            ("", None),
        ] {
            assert_eq!(cgroups.resolve(name), expected.map(|(id, level)| Cgroup { id, level }), "{name}");
        }
        assert_eq!(cgroups.ancestors(plain), [plain, slice, id(root.path())]);
        assert_eq!(cgroups.ancestors(id(root.path())), [id(root.path())]);
        assert!(cgroups.ancestors(u64::MAX).is_empty());
    }

    #[test]
    fn the_cgroups_of_this_host_are_read_or_it_is_said_why_not() {
        match Cgroups::read() {
            Ok(cgroups) => {
                assert_eq!(cgroups.resolve("/"), Some(Cgroup { id: ROOT_ID, level: 0 }));
                let own = fs::read_to_string("/proc/self/cgroup").unwrap();
                let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
                let own = cgroups.resolve(own).unwrap();
                assert_eq!(cgroups.ancestors(own.id).len(), own.level as usize + 1);
            }
            Err(e) => {
                assert!(e.to_string().contains("cgroup2") || e.to_string().contains("namespace"), "{e}")
            }
        }
    }

    /// The id that the kernel goes by is the inode of the directory also where the entry of it is read.
    #[test]
    fn a_new_cgroup_has_the_id_of_its_directory() {
        let Some(root) = mount_point(&fs::read("/proc/self/mountinfo").unwrap()) else { return };
        let name = format!("flowtag-{}-cgroup-test", std::process::id());
        let path = root.join(&name);
        if fs::create_dir(&path).is_err() {
            return; // not root, or not ours to change
        }
        let (expected, found) = (id(&path), resolve(&name));
        fs::remove_dir(&path).unwrap();
        assert_eq!(found.unwrap(), Some(Cgroup { id: expected, level: 1 }));
        assert_eq!(resolve(&name).unwrap(), None);
    }
}
