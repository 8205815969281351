//! What the kernel says of a socket's queues: datagrams that found no room, bytes that the other end has not confirmed.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Numbers that `SO_MEMINFO` gives: `SK_MEMINFO_VARS` of `linux/sock_diag.h`.
const NUMBERS: usize = 9;
/// Which of them is the number of lost datagrams: `SK_MEMINFO_DROPS`.
const DROPS: usize = 8;

/// Datagrams that this socket did not get since it was made, because its buffer was full or a checksum was wrong
/// (`SO_MEMINFO`, Linux 4.12). Wraps at 2³².
///
/// # Errors
/// The kernel is older, or the descriptor is no socket.
pub fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut numbers = [0_u32; NUMBERS];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: `numbers` is valid for writes of `length` bytes, which the kernel does not exceed, and any bytes are u32;
    // `length` is a live socklen_t; the descriptor is borrowed, so it is open.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        )
    } != 0;
    if failed {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of::<u32>() * (DROPS + 1) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(numbers[DROPS])
}

/// Bytes that were written to this TCP socket and that its other end has not confirmed (`SIOCOUTQ`, tcp(7)). Also says so
/// of a connection that broke.
///
/// # Errors
/// The descriptor is no connected socket.
pub fn unconfirmed(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int through the pointer, which is live; the descriptor is borrowed, so it is open.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_full_buffer_loses_datagrams_and_each_is_counted() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender.connect(receiver.local_addr().expect("an address")).expect("connected");
        assert_eq!(drops(receiver.as_fd()).expect("a socket"), 0);
        (0..10_000).for_each(|_| drop(sender.send(&[0; 1000])));
        receiver.set_nonblocking(true).expect("a flag");
        let read = std::iter::from_fn(|| receiver.recv(&mut [0; 1000]).ok()).count();
        assert_eq!(drops(receiver.as_fd()).expect("a socket") as usize, 10_000 - read);
    }

    #[test]
    fn what_nobody_read_yet_is_confirmed_all_the_same_and_what_found_no_room_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut server, _) = listener.accept().expect("a connection");
        client.write_all(b"small").expect("written");
        server.read_exact(&mut [0; 5]).expect("read");
        let empty = || unconfirmed(client.as_fd()).expect("connected") == 0;
        flowtag_testbed::wait_until("all to be confirmed", std::time::Duration::from_secs(10), || {
            Ok(empty().then_some(()))
        })
        .expect("confirmed");
        client.set_nonblocking(true).expect("a flag");
        while client.write(&[0; 65536]).is_ok() {}
        assert!(unconfirmed(client.as_fd()).expect("connected") > 0);
    }
}
