//! Iterators: programs that the kernel runs for each of its sockets or open files when we ask.
//!
//! The iterators over sockets see those of one network namespace: that of the thread that asks. So a thread goes through
//! the namespaces that are looked at.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::thread;

use libbpf_rs::{Iter, Link};
use nix::sched::{CloneFlags, setns};
use zerocopy::FromBytes;

use super::load::{Hook, Loaded};
use super::session::{netns_of, own_netns};
use crate::{Error, Result};

/// Bytes that are read at a time; the kernel fills 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Everything that an iterator writes, as records of this type. Nothing where this kernel lacks the iterator.
///
/// # Errors
/// [`Error::Query`] where the kernel refuses.
pub(super) fn records<T: FromBytes>(loaded: &Loaded, program: &str) -> Result<Vec<T>> {
    let (mut found, mut rest) = (Vec::new(), Vec::new());
    iterate(loaded, program, &mut |bytes| {
        rest.extend_from_slice(bytes);
        let whole = rest.len() - rest.len() % size_of::<T>();
        found
            .extend(rest.drain(..whole).as_slice().chunks_exact(size_of::<T>()).flat_map(T::read_from_bytes));
    })?;
    Ok(found)
}

/// Runs an iterator, and gives what it writes to `take`, in pieces of any length. Nothing where this kernel lacks it.
///
/// # Errors
/// [`Error::Query`] where the kernel refuses.
pub(super) fn iterate(loaded: &Loaded, program: &str, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let Some(program) = loaded.program(program) else { return Ok(()) };
    let is_of_netns = matches!(Hook::of(program.section()), Some(Hook::Iterator("tcp" | "udp")));
    let link = program.attach().map_err(|e| failed(crate::to_io(&e)))?;
    if !is_of_netns || loaded.netns().is_some_and(|netns| own_netns().ok() == Some(netns)) {
        return read(Iter::new(&link).map_err(|e| failed(crate::to_io(&e)))?, take);
    }
    in_namespaces(&link, loaded.netns())?.into_iter().try_for_each(|iter| read(iter, take))
}

fn failed(source: std::io::Error) -> Error {
    Error::Query { what: "what its iterator sees", source }
}

fn read(mut iter: Iter, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match iter.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(buffer.get(..read).unwrap_or_default()),
            // So much in a row that is left out that the kernel wants to be asked again.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// One iterator for each namespace that is wanted and may be entered; our own comes first.
fn in_namespaces(link: &Link, netns: Option<u32>) -> Result<Vec<Iter>> {
    let files = namespaces(netns);
    let enter = || {
        let own = if netns.is_none() { Some(Iter::new(link)) } else { None };
        let entered = files.iter().filter(|file| setns(file, CloneFlags::CLONE_NEWNET).is_ok());
        own.into_iter().chain(entered.map(|_| Iter::new(link))).collect::<libbpf_rs::Result<Vec<_>>>()
    };
    // A thread that ends with it takes the change along.
    let iterators = thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, enter).map(thread::ScopedJoinHandle::join)
    });
    let iterators = iterators.map_err(failed)?.map_err(|_| failed(std::io::ErrorKind::Other.into()))?;
    iterators.map_err(|e| failed(crate::to_io(&e)))
}

/// Files of the network namespaces that some process is in or that have a name: the one that is wanted, or all but our own.
fn namespaces(wanted: Option<u32>) -> Vec<File> {
    let mut seen: HashSet<u32> = own_netns().into_iter().collect();
    let paths = processes().chain(directory("/run/netns")).chain(directory("/run/docker/netns"));
    let mut is_new = |path: &PathBuf| {
        let netns = netns_of(path).ok();
        netns.is_some_and(|n| wanted.is_none_or(|wanted| wanted == n) && seen.insert(n))
    };
    paths.filter(|path| is_new(path)).filter_map(|path| File::open(path).ok()).collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let is_number = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    directory("/proc").filter(is_number).map(|path| path.join("ns/net"))
}

fn directory(path: &str) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}
