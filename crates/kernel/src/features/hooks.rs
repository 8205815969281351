//! Who is attached to an interface: programs by tcx and filters by clsact, ours among them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::Program;

use crate::tc::{self, Direction};
use crate::{Error, Result};

/// Programs on one hook that the kernel allows: `BPF_MPROG_MAX` of `linux/bpf_mprog.h`.
const TCX_MAX: usize = 64;

/// All programs of flowtag have names that begin so.
const OURS: &str = "flowtag_";

/// A program or filter that sees the packets of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedProgram {
    /// Which way the packets go that it sees.
    pub direction: Direction,
    /// How it is attached.
    pub place: Place,
    /// Its name as the kernel or tc has it; none where it has none or we may not ask.
    pub name: Option<String>,
}

/// Where a program is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the list of tcx programs, which run before all clsact filters.
    Tcx {
        /// Number of the program, as in `bpftool prog show id N`.
        id: u32,
    },
    /// On the clsact qdisc.
    Clsact {
        /// Lower runs first.
        priority: u16,
        /// `bpf`, `flower`, `u32`, …
        kind: String,
    },
}

impl AttachedProgram {
    /// Whether it is flowtag's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.name.as_deref().is_some_and(|n| n.starts_with(OURS))
    }
}

/// All that is attached to an interface of the calling thread's network namespace, ingress first, each direction in
/// the order in which packets meet it.
///
/// # Errors
/// [`Error::Query`]: an interface that is gone, or no CAP_NET_ADMIN.
pub fn attached(ifindex: u32) -> Result<Vec<AttachedProgram>> {
    let filters = tc::filters(ifindex)?;
    let mut found = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let ids = tcx_ids(ifindex, direction)
            .map_err(|source| Error::Query { what: "the tcx programs of an interface", source })?;
        found.extend(ids.into_iter().map(|id| of_tcx(direction, id)));
        found.extend(filters.iter().filter(|f| f.direction == direction).map(of_clsact));
    }
    Ok(found)
}

/// A program that was detached meanwhile has no name either.
fn of_tcx(direction: Direction, id: u32) -> AttachedProgram {
    let fd = Program::fd_from_id(id);
    let name = fd.ok().and_then(|fd| info(fd.as_fd()).ok()).map(|info| info.name);
    AttachedProgram { direction, place: Place::Tcx { id }, name: name.filter(|n| !n.is_empty()) }
}

fn of_clsact(filter: &tc::Filter) -> AttachedProgram {
    let place = Place::Clsact { priority: filter.priority, kind: filter.kind.clone() };
    AttachedProgram { direction: filter.direction, place, name: filter.name.clone() }
}

/// Numbers of the programs in one of an interface's two tcx lists; none on a kernel without tcx.
fn tcx_ids(ifindex: u32, direction: Direction) -> io::Result<Vec<u32>> {
    let attach_type = match direction {
        Direction::Ingress => libbpf_sys::BPF_TCX_INGRESS,
        Direction::Egress => libbpf_sys::BPF_TCX_EGRESS,
    };
    let mut ids = [0u32; TCX_MAX];
    let mut options = libbpf_sys::bpf_prog_query_opts {
        sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as libbpf_sys::size_t,
        prog_ids: ids.as_mut_ptr(),
        ..Default::default()
    };
    options.__bindgen_anon_1.prog_cnt = TCX_MAX as u32;
    // SAFETY: `options` is a whole structure of the size it says, and `ids` has room for as many numbers as it says
    // and lives longer than the call.
    let result =
        unsafe { libbpf_sys::bpf_prog_query_opts(ifindex.cast_signed(), attach_type, &raw mut options) };
    // SAFETY: both members of the union are the same u32, set above and by the kernel.
    let count = unsafe { options.__bindgen_anon_1.prog_cnt } as usize;
    match -result {
        libc::EINVAL => Ok(Vec::new()),
        1.. => Err(io::Error::from_raw_os_error(-result)),
        _ => Ok(ids.get(..count).unwrap_or(&ids).to_vec()),
    }
}

/// What the kernel tells about a loaded program.
#[derive(Debug)]
pub(crate) struct Info {
    /// Cut to 15 bytes by the kernel.
    pub(crate) name: String,
    /// Whether it was compiled to machine code.
    pub(crate) is_compiled: bool,
    /// ns that it ran, while somebody had the kernel count that.
    pub(crate) run_time_ns: u64,
    /// How often it ran in that time.
    pub(crate) runs: u64,
    /// How often it did not, because it interrupted itself.
    pub(crate) misses: u64,
}

pub(crate) fn info(program: BorrowedFd<'_>) -> io::Result<Info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the descriptor is open for the call, `info` is all zero, so that the kernel fills in no arrays, and has
    // the size that is given.
    let result =
        unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut size) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(Info {
        name: text(info.name.map(|c| c as u8).as_slice()),
        is_compiled: info.jited_prog_len > 0,
        run_time_ns: info.run_time_ns,
        runs: info.run_cnt,
        misses: info.recursion_misses,
    })
}

/// Up to the zero byte that closes a C string, if there is one.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_the_zero_byte_or_the_end() {
        for (bytes, expected) in [
            (&b"flowtag_mark\0\0\0\0"[..], "flowtag_mark"),
            (b"0123456789abcdef", "0123456789abcdef"),
            (b"", ""),
        ] {
            assert_eq!(text(bytes), expected);
        }
    }

    #[test]
    fn ours_are_told_by_name() {
        for (name, expected) in [
            (Some("flowtag_mark"), true),
            (Some("flowtag_mark:[42]"), true),
            (Some("cil_to_netdev"), false),
            (Some(""), false),
            (None, false),
        ] {
            let program = AttachedProgram {
                direction: Direction::Egress,
                place: Place::Tcx { id: 1 },
                name: name.map(str::to_owned),
            };
            assert_eq!(program.is_ours(), expected, "{name:?}");
        }
    }
}
