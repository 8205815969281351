//! What outlives the daemon: maps and links, kept as files on a bpffs.
//!
//! `DIR/flowtag_*` are maps, `DIR/tcx-egress-7` is the link of the marking program on interface 7, `DIR/close` and
//! `DIR/owner` are links of the programs for sockets, `DIR/layout-1` says which version of the shared types they have.
//! Removing the files ends all of it.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};
use zerocopy::FromBytes;

use super::abi::{mark_key, mark_layout::MARK_LAYOUT, mark_value};
use super::{Key, Mark, attach, flow_of, map};
use crate::link::Interface;
use crate::tc::Direction;
use crate::{Error, Result};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: FsType = FsType(0xcafe_4a11);
/// Links that belong to no interface: of the programs that tell of closed sockets, and that note who makes sockets.
pub(super) const CLOSING: &str = "close";
pub(super) const OWNER: &str = "owner";
/// The table of an earlier daemon, of another size than that of the next.
const EARLIER_FLOWS: &str = "earlier-flows";
/// Where the bpffs is on every host with systemd; mounted here where it is not, as bpftool does.
const USUAL_BPFFS: &str = "/sys/fs/bpf";

/// A flow that an earlier daemon marked and that is still marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// Which packets.
    pub key: Key,
    /// What they carry.
    pub mark: Mark,
    /// When the flow began, µs since the epoch.
    pub start: u64,
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> Error {
    Error::Pin { action, path: path.to_owned(), source }
}

/// Makes the directory and takes it: two daemons would spoil each other's maps. What has another layout is removed:
/// nobody could read it.
pub(super) fn prepare(dir: &Path) -> Result<Flock<File>> {
    let parent = dir.parent().unwrap_or(dir);
    if !is_bpffs(parent) && parent == Path::new(USUAL_BPFFS) {
        let mounted = mount(Some("bpf"), parent, Some("bpf"), MsFlags::empty(), Some("mode=0700"));
        mounted.map_err(|e| failed(parent, "mount a bpffs on", e.into()))?;
    }
    if !is_bpffs(parent) {
        return Err(failed(dir, "keep maps in", io::Error::other("its parent directory is not on a bpffs")));
    }
    let layout = dir.join(layout_name());
    if dir.exists() && !layout.exists() {
        remove_dir(dir)?;
    }
    fs::create_dir_all(&layout).map_err(|e| failed(dir, "make", e))?;
    let taken = File::open(&layout).map_err(|e| failed(dir, "open", e))?;
    Flock::lock(taken, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => {
            failed(dir, "keep maps in", io::Error::other("another flowtag does: give each its own mark.pin"))
        }
        errno => failed(dir, "take", errno.into()),
    })
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS)
}

/// A directory of that name, as a bpffs holds no ordinary files.
fn layout_name() -> String {
    format!("layout-{MARK_LAYOUT}")
}

/// The flows of an earlier daemon; none where it left nothing.
pub(super) fn read_flows(dir: &Path) -> Result<Vec<Adopted>> {
    let mut flows = read_table(&dir.join(map::FLOWS))?;
    let known: HashSet<Key> = flows.iter().map(|flow| flow.key).collect();
    let earlier = read_table(&dir.join(EARLIER_FLOWS))?;
    flows.extend(earlier.into_iter().filter(|flow| !known.contains(&flow.key)));
    Ok(flows)
}

fn read_table(path: &Path) -> Result<Vec<Adopted>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let read = |source| Error::Map { action: "read", map: "pinned flow table", source };
    let flows = MapHandle::from_pinned_path(path).map_err(read)?;
    let mut adopted = Vec::new();
    for bytes in flows.keys() {
        let value = flows.lookup(&bytes, MapFlags::ANY).map_err(read)?;
        let value = value.and_then(|v| mark_value::read_from_bytes(&v).ok());
        let key = mark_key::read_from_bytes(&bytes).ok().as_ref().and_then(flow_of);
        let (Some(key), Some(value)) = (key, value) else { continue };
        adopted.extend(Mark::from_word(value.word).map(|mark| Adopted { key, mark, start: value.start }));
    }
    Ok(adopted)
}

/// Removes the maps only: programs that use them go on with them. The flows are kept until they are in another table: who
/// puts them there may be killed meanwhile.
pub(super) fn set_maps_aside(dir: &Path) -> Result<()> {
    let (flows, earlier) = (dir.join(map::FLOWS), dir.join(EARLIER_FLOWS));
    if flows.exists() && !earlier.exists() {
        fs::rename(&flows, &earlier).map_err(|e| failed(&flows, "rename", e))?;
    }
    entries(dir)?
        .into_iter()
        .filter(|(name, _)| name.starts_with("flowtag_"))
        .try_for_each(|(_, path)| unlink(&path))
}

/// To be called when all flows are in the new table.
pub(super) fn forget_earlier_flows(dir: &Path) -> Result<()> {
    unlink(&dir.join(EARLIER_FLOWS))
}

/// Removes links but these.
pub(super) fn remove_links(dir: &Path, keep: &[PathBuf]) -> Result<()> {
    entries(dir)?
        .into_iter()
        .filter(|(name, path)| name.starts_with("tcx-") && !keep.contains(path))
        .try_for_each(|(_, path)| unlink(&path))
}

/// Removes the directory and all in it, which ends what only they kept alive.
pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    for (_, path) in entries(dir)? {
        unlink(&path)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(dir, "remove", e)),
        _ => Ok(()),
    }
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(dir, "read", e)),
        Ok(entries) => Ok(entries
            .flatten()
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
            .collect()),
    }
}

fn unlink(path: &Path) -> Result<()> {
    let is_link = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tcx-"));
    if let Some(link) = is_link.then(|| open_link(path)).flatten() {
        detach_link(&link);
    }
    let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(path, "remove", e)),
        _ => Ok(()),
    }
}

/// Where the link of an interface is kept.
pub(super) fn link_path(dir: &Path, interface: &Interface, direction: Direction) -> PathBuf {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    dir.join(format!("tcx-{direction}-{}", interface.index))
}

/// The link that is kept on this interface, if it still is the interface that it was made for.
pub(super) fn link_of(path: &Path, interface: &Interface) -> Option<OwnedFd> {
    open_link(path).filter(|fd| interface_of(fd) == Some(interface.index))
}

fn open_link(path: &Path) -> Option<OwnedFd> {
    let text = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: `text` is a string that ends with zero and lives through the call.
    let fd = unsafe { libbpf_sys::bpf_obj_get(text.as_ptr()) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the call returned a new descriptor that nobody else has.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Index of the interface that a tcx link is on; 0: it is gone.
fn interface_of(link: &OwnedFd) -> Option<u32> {
    let mut info = libbpf_sys::bpf_link_info::default();
    let mut size = size_of_val(&info) as libbpf_sys::__u32;
    // SAFETY: the descriptor is open for the call, which writes at most `size` bytes to `info`.
    let failed = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(link.as_raw_fd(), (&raw mut info).cast(), &raw mut size)
    };
    if failed != 0 || info.type_ != libbpf_sys::BPF_LINK_TYPE_TCX {
        return None;
    }
    // SAFETY: for links of this type the kernel filled in this member of the union, which is plain numbers.
    Some(unsafe { info.__bindgen_anon_1.tcx.ifindex })
}

/// Detaches at once, where letting go of the last reference does so some time later. One whose interface is gone is
/// detached already.
pub(super) fn detach_link(link: &OwnedFd) {
    // SAFETY: the descriptor is open for the call.
    unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) };
}

/// Keeps a link that belongs to no interface, in place of an earlier daemon's.
pub(super) fn keep_link(dir: &Path, name: &str, link: &libbpf_rs::Link) -> Result<()> {
    let path = dir.join(name);
    keep(link.as_fd(), &path).map_err(|e| failed(&path, "keep a link as", e))
}

/// Lets go of a link that is kept, if it is.
pub(super) fn forget_link(dir: &Path, name: &str) -> Result<()> {
    unlink(&dir.join(name))
}

/// Keeps a link or a program alive under a name.
pub(super) fn keep(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let _ = fs::remove_file(path); // of an interface that is gone
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the descriptor is open and `text`, which ends with zero, lives through the call.
    match unsafe { libbpf_sys::bpf_obj_pin(fd.as_raw_fd(), text.as_ptr()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Removes everything of flowtag from this network namespace and from `dir`: what `flowtag detach` does. Returns what was
/// removed: names of interfaces, and `dir`.
///
/// # Errors
/// What could not be removed; the rest is.
pub fn remove_pinned(dir: Option<&Path>, state_dir: Option<&Path>) -> Result<Vec<String>> {
    let mut removed: Vec<String> = Vec::new();
    let mut result = Ok(());
    if let Some(dir) = dir.filter(|d| d.exists()) {
        for interface in crate::link::all()? {
            if link_of(&link_path(dir, &interface, Direction::Egress), &interface).is_some() {
                removed.push(interface.name);
            }
        }
        result = remove_dir(dir);
        removed.push(dir.display().to_string());
    }
    removed.extend(attach::remove_all_leftovers(state_dir, |_| None)?);
    result.map(|()| removed)
}
