//! Which groups the process at the other end of a UNIX socket belongs to.
//!
//! The kernel kept them when that process connected, beside the uid of `SO_PEERCRED`. `/proc/PID/status` would say what
//! they are now, of a process that may be another by then: pids are given again.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Groups of one process at most: `NGROUPS_MAX` of Linux.
const MAX_GROUPS: usize = 65536;

/// The supplementary groups of whoever connected this socket (`SO_PEERGROUPS`, Linux 4.13). Their primary group is with
/// the uid (`SO_PEERCRED`).
///
/// # Errors
/// The descriptor is no UNIX socket.
pub fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut length = libc::socklen_t::try_from(groups.len() * size_of::<libc::gid_t>()).unwrap_or(0);
        // SAFETY: `groups` is valid for writes of `length` bytes, which the kernel does not exceed, and any bytes are
        // gid_t; `length` is a live socklen_t; the descriptor is borrowed, so it is open.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        } != 0;
        let number = length as usize / size_of::<libc::gid_t>();
        if !failed {
            groups.truncate(number);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small: the kernel says how many there are.
        if error.raw_os_error() != Some(libc::ERANGE) || number <= groups.len() || number > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(number, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn groups_are_those_of_the_process_that_connected() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let mut told = groups(ours.as_fd()).expect("a UNIX socket");
        let mut own: Vec<u32> =
            nix::unistd::getgroups().expect("our groups").into_iter().map(nix::unistd::Gid::as_raw).collect();
        told.sort_unstable();
        own.sort_unstable();
        assert_eq!(told, own);
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        groups(udp.as_fd()).expect_err("it has no peer with credentials");
    }
}
