//! Putting the program on an interface and taking it off again, and nothing else that is there.
//!
//! With tcx (kernel 6.6) the attachment is a link that vanishes with our process unless it is pinned. Before, it is a filter
//! on the clsact qdisc that stays when we are killed: it has a fixed handle, so that the next start replaces it, and we
//! remove the qdisc only if we made it and nobody else uses it by then.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::{Program, TC_EGRESS, TC_INGRESS, TcHook, TcHookBuilder};

use super::{ARRIVE, PROGRAM, Settings, pin};
use crate::link::Interface;
use crate::tc::Direction;
use crate::{Error, Result, tc};

/// Handle of our clsact filter: ours by number, and checked by the program's name before it is removed.
const HANDLE: u32 = 0xf107_a601;

/// How a program is attached to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// tcx link, kernel 6.6 and newer.
    Tcx,
    /// Filter on a clsact qdisc.
    Clsact,
}

impl Hook {
    /// Name in messages and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which hook to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HookChoice {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx or an error.
    Tcx,
    /// clsact, also where the kernel has tcx.
    Clsact,
}

/// One of the two hooks of an interface.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) interface: &'a Interface,
    pub(super) direction: Direction,
}

impl Place<'_> {
    const fn tcx(self) -> u32 {
        match self.direction {
            Direction::Egress => libbpf_sys::BPF_TCX_EGRESS,
            Direction::Ingress => libbpf_sys::BPF_TCX_INGRESS,
        }
    }

    fn clsact(self) -> libbpf_rs::TcAttachPoint {
        match self.direction {
            Direction::Egress => TC_EGRESS,
            Direction::Ingress => TC_INGRESS,
        }
    }
}

/// An attachment. Dropping a tcx link that is not pinned detaches; others stay until [`Self::detach`].
pub(super) enum Link {
    Tcx { fd: OwnedFd, pinned: Option<PathBuf> },
    Clsact { priority: u16, direction: Direction, owner: Owner },
}

impl Link {
    pub(super) const fn hook(&self) -> Hook {
        match self {
            Self::Tcx { .. } => Hook::Tcx,
            Self::Clsact { .. } => Hook::Clsact,
        }
    }

    /// Where it is kept.
    pub(super) fn pinned(&self) -> Option<&Path> {
        match self {
            Self::Tcx { pinned, .. } => pinned.as_deref(),
            Self::Clsact { .. } => None,
        }
    }

    pub(super) fn detach(self, interface: &Interface) -> Result<()> {
        match self {
            Self::Tcx { fd, pinned } => {
                pin::detach_link(&fd);
                match pinned.map(fs::remove_file) {
                    Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => {
                        Err(failed("detach from", interface, Hook::Tcx, e))
                    }
                    _ => Ok(()),
                }
            }
            Self::Clsact { priority, direction, owner } => {
                remove_filter(Place { interface, direction }, priority)?;
                owner.remove_qdisc_if_ours(interface)
            }
        }
    }

    /// Stays attached without us; to be called only where it is pinned or a filter.
    pub(super) fn leave(self) {
        drop(self);
    }
}

pub(super) fn attach(
    program: &Program<'_>,
    name: &str,
    place: Place<'_>,
    choice: HookChoice,
    settings: &Settings,
) -> Result<Link> {
    match choice {
        HookChoice::Tcx => attach_tcx(program, place, settings),
        HookChoice::Clsact => attach_clsact(program, name, place, settings),
        HookChoice::Auto => match attach_tcx(program, place, settings) {
            // A kernel without tcx does not know the attach type.
            Err(Error::Attach { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                attach_clsact(program, name, place, settings)
            }
            result => result,
        },
    }
}

/// In place of what an earlier daemon left, without a gap; else new.
fn attach_tcx(program: &Program<'_>, place: Place<'_>, settings: &Settings) -> Result<Link> {
    let fail = |e| failed("attach to", place.interface, Hook::Tcx, e);
    let Some(dir) = &settings.pin else {
        return Ok(Link::Tcx { fd: new_tcx(program, place)?, pinned: None });
    };
    let path = pin::link_path(dir, place.interface, place.direction);
    if let Some(fd) = pin::link_of(&path, place.interface) {
        // SAFETY: both descriptors are open for the call; no options.
        let error = unsafe {
            libbpf_sys::bpf_link_update(fd.as_raw_fd(), program.as_fd().as_raw_fd(), std::ptr::null())
        };
        return match error {
            0 => Ok(Link::Tcx { fd, pinned: Some(path) }),
            error => Err(fail(io::Error::from_raw_os_error(-error))),
        };
    }
    let fd = new_tcx(program, place)?;
    pin::keep(fd.as_fd(), &path).map_err(fail)?;
    Ok(Link::Tcx { fd, pinned: Some(path) })
}

/// At the head of the list: we always pass on to the next program, but the next might not pass on to us.
fn new_tcx(program: &Program<'_>, place: Place<'_>) -> Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t,
        flags: libbpf_sys::BPF_F_BEFORE,
        ..Default::default()
    };
    // SAFETY: the program's descriptor is open for the call, and `options` is a whole structure of the size it says,
    // zero where not set.
    let fd = unsafe {
        libbpf_sys::bpf_link_create(
            program.as_fd().as_raw_fd(),
            place.interface.index.cast_signed(),
            place.tcx(),
            &raw const options,
        )
    };
    if fd < 0 {
        return Err(failed("attach to", place.interface, Hook::Tcx, io::Error::from_raw_os_error(-fd)));
    }
    // SAFETY: the call returned a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach_clsact(program: &Program<'_>, name: &str, place: Place<'_>, settings: &Settings) -> Result<Link> {
    let Place { interface, direction } = place;
    let owner = Owner::take(interface, settings.state_dir.as_deref())?;
    refuse_foreign_handle(place, settings.tc_priority, name)?;
    let mut hook = TcHookBuilder::new(program.as_fd())
        .ifindex(interface.index.cast_signed())
        .replace(true)
        .handle(HANDLE)
        .priority(u32::from(settings.tc_priority))
        .hook(place.clsact());
    hook.create()
        .and_then(|mut hook| hook.attach())
        .map_err(|e| failed("attach to", interface, Hook::Clsact, crate::to_io(&e)))?;
    Ok(Link::Clsact { priority: settings.tc_priority, direction, owner })
}

fn is_ours(filter: &tc::Filter, direction: Direction, priority: u16) -> bool {
    filter.direction == direction && filter.handle == HANDLE && filter.priority == priority
}

/// Somebody else's filter under our priority and handle would be replaced.
fn refuse_foreign_handle(place: Place<'_>, priority: u16, name: &str) -> Result<()> {
    let foreign = |f: &tc::Filter| {
        is_ours(f, place.direction, priority) && !has_our_name(f) && program_name(f) != Some(name)
    };
    if tc::filters(place.interface.index)?.iter().any(foreign) {
        let taken = io::Error::from_raw_os_error(libc::EEXIST);
        return Err(failed("attach to", place.interface, Hook::Clsact, taken));
    }
    Ok(())
}

/// libbpf names a filter after its program and the program's number: `flowtag_mark:[42]`.
fn program_name(filter: &tc::Filter) -> Option<&str> {
    filter.name.as_deref().and_then(|name| name.split(':').next())
}

fn has_our_name(filter: &tc::Filter) -> bool {
    program_name(filter).is_some_and(|name| [PROGRAM, ARRIVE].contains(&name))
}

fn remove_filter(place: Place<'_>, priority: u16) -> Result<()> {
    let ours = |f: &tc::Filter| is_ours(f, place.direction, priority) && has_our_name(f);
    if !tc::filters(place.interface.index)?.iter().any(ours) {
        return Ok(());
    }
    hook_for(place, priority)
        .detach()
        .map_err(|e| failed("detach from", place.interface, Hook::Clsact, crate::to_io(&e)))
}

/// A hook for everything but attaching: no program needed.
fn hook_for(place: Place<'_>, priority: u16) -> TcHook {
    // SAFETY: the descriptor is never used, as neither detach nor destroy takes a program; 0 is only a placeholder.
    let no_program = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
    TcHookBuilder::new(no_program)
        .ifindex(place.interface.index.cast_signed())
        .handle(HANDLE)
        .priority(u32::from(priority))
        .hook(place.clsact())
}

fn failed(action: &'static str, interface: &Interface, hook: Hook, source: io::Error) -> Error {
    let fix = match source.raw_os_error().or(match source.kind() {
        io::ErrorKind::PermissionDenied => Some(libc::EPERM),
        _ => None,
    }) {
        Some(libc::EPERM | libc::EACCES) => "run as root or grant CAP_BPF and CAP_NET_ADMIN",
        Some(libc::ENODEV) => "the interface is gone",
        Some(libc::EINVAL) => "this kernel has no tcx (6.6 or newer has); set mark.hook = \"auto\"",
        Some(libc::EEXIST) => {
            "another filter has our priority and handle; set mark.tc_priority to a free one"
        }
        Some(libc::ERANGE) => "64 programs are attached there already, which is the kernel's limit",
        _ => "`flowtag doctor` says what this host lacks",
    };
    Error::Attach { action, interface: interface.name.clone(), hook, fix, source }
}

/// Whether an interface's clsact qdisc is ours to remove, kept in a file so that it is known after SIGKILL too.
#[derive(Debug)]
pub(super) struct Owner {
    ours: bool,
    record: Option<PathBuf>,
}

impl Owner {
    /// Makes the qdisc if there is none, which makes it ours.
    fn take(interface: &Interface, state_dir: Option<&Path>) -> Result<Self> {
        let record = state_dir.map(|d| d.join(format!("clsact-{}", interface.index)));
        if tc::has_clsact(interface.index)? {
            let ours = record.as_ref().is_some_and(|r| r.exists());
            return Ok(Self { ours, record });
        }
        if let Some(record) = &record {
            // Written before the qdisc exists: a record without a qdisc is harmless, the reverse is not.
            let write =
                |source| Error::Query { what: "a place to remember our qdisc (state directory)", source };
            fs::write(record, "").map_err(write)?;
        }
        Ok(Self { ours: true, record })
    }

    fn remove_qdisc_if_ours(self, interface: &Interface) -> Result<()> {
        if self.ours && tc::has_clsact(interface.index)? && tc::filters(interface.index)?.is_empty() {
            let mut hook = hook_for(Place { interface, direction: Direction::Egress }, 0);
            hook.attach_point(TC_EGRESS | TC_INGRESS).handle(0);
            hook.destroy().map_err(|e| failed("detach from", interface, Hook::Clsact, crate::to_io(&e)))?;
        }
        if let Some(record) = self.record {
            let _ = fs::remove_file(record); // absent where the qdisc was never ours
        }
        Ok(())
    }
}

/// Removes what a killed predecessor left on any interface. `keep` says for an interface which priority is in use, and
/// whether at ingress, too. Returns the names of the interfaces that were cleaned.
pub(super) fn remove_all_leftovers(
    state_dir: Option<&Path>,
    keep: impl Fn(u32) -> Option<(u16, bool)>,
) -> Result<Vec<String>> {
    let mut cleaned = Vec::new();
    let mut result = Ok(());
    for interface in crate::link::all()? {
        match remove_leftovers(&interface, keep(interface.index), state_dir) {
            Ok(true) => cleaned.push(interface.name),
            Ok(false) => {}
            Err(e) => result = result.and(Err(e)),
        }
    }
    result.map(|()| cleaned)
}

/// Our filters, under whatever priority, but those in use, and then the qdisc if it is ours. True when there was
/// something.
fn remove_leftovers(
    interface: &Interface,
    keep: Option<(u16, bool)>,
    state_dir: Option<&Path>,
) -> Result<bool> {
    let in_use = |f: &tc::Filter| {
        keep.is_some_and(|(priority, ingress)| {
            f.priority == priority && (f.direction == Direction::Egress || ingress)
        })
    };
    let ours = |f: &tc::Filter| f.handle == HANDLE && has_our_name(f) && !in_use(f);
    let left: Vec<_> = tc::filters(interface.index)?.into_iter().filter(ours).collect();
    if left.is_empty() {
        return Ok(false);
    }
    for filter in left {
        remove_filter(Place { interface, direction: filter.direction }, filter.priority)?;
    }
    if keep.is_none() {
        Owner::take(interface, state_dir)?.remove_qdisc_if_ours(interface)?;
    }
    Ok(true)
}
