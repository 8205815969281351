//! The array before the table of flows, shared with the program as memory: how many flows have a hash, and one of them
//! in full, so that one cache line answers for most packets. What it says is always also in the table.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use libbpf_rs::{MapCore, MapHandle};
use zerocopy::IntoBytes;

use super::abi::{mark_key, mark_slot};

const KEY_WORDS: usize = size_of::<mark_key>() / 4;

/// A slot as both sides read and change it. Laid out as `struct mark_slot`.
#[repr(C)]
struct Slot {
    sequence: AtomicU32,
    direct: AtomicU16,
    flows: AtomicU16,
    label: AtomicU32,
    last_seen: AtomicU32,
    key: [AtomicU32; KEY_WORDS],
    pad: [u8; 8],
}

const _: () = {
    assert!(size_of::<Slot>() == size_of::<mark_slot>());
    assert!(std::mem::offset_of!(Slot, flows) == std::mem::offset_of!(mark_slot, flows));
    assert!(std::mem::offset_of!(Slot, key) == std::mem::offset_of!(mark_slot, key));
};

/// The mapped array. Only one thread writes: `&mut self`.
pub(super) struct Slots {
    first: NonNull<Slot>,
    count: usize,
}

// SAFETY: the memory is shared with the kernel anyway and only touched through atomics.
unsafe impl Send for Slots {}

impl Slots {
    /// How many slots for a table of so many flows: with as many as flows, most flows have one of their own.
    pub(super) fn count_for(max_flows: u32) -> u32 {
        max_flows.next_power_of_two().clamp(1 << 12, 1 << 20)
    }

    /// Maps the array of the loaded program.
    pub(super) fn map(array: &MapHandle) -> io::Result<Self> {
        let count = array.max_entries() as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (length, fd) = (count * size_of::<Slot>(), array.as_fd().as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice; the descriptor is open for the call.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { first, count })
    }

    /// A flow was put into the table. To be called after that.
    pub(super) fn added(&mut self, key: &mark_key, label: u32) {
        let slot = self.slot(key);
        if slot.direct.load(Ordering::Relaxed) == 0 {
            slot.write(|| slot.fill(key, label));
        }
        // At the top of its range it stays there: the program then looks into the table, which is always right.
        let _ = slot.flows.fetch_update(Ordering::Release, Ordering::Relaxed, |n| n.checked_add(1));
    }

    /// The label of a flow in the table is another. To be called after that.
    pub(super) fn changed(&mut self, key: &mark_key, label: u32) {
        let slot = self.slot(key);
        if slot.holds(key) {
            slot.write(|| slot.fill(key, label));
        }
    }

    /// A flow was removed from the table. To be called after that.
    pub(super) fn removed(&mut self, key: &mark_key) {
        let slot = self.slot(key);
        if slot.holds(key) {
            slot.write(|| slot.direct.store(0, Ordering::Relaxed));
        }
        let fewer = |n: u16| if n == u16::MAX { None } else { n.checked_sub(1) };
        let _ = slot.flows.fetch_update(Ordering::Release, Ordering::Relaxed, fewer);
    }

    /// Low half of jiffies at a recent packet of a flow that is kept here; 0: none yet.
    pub(super) fn last_seen(&self, key: &mark_key) -> Option<u32> {
        let slot = self.slot(key);
        slot.holds(key).then(|| slot.last_seen.load(Ordering::Relaxed))
    }

    fn slot(&self, key: &mark_key) -> &Slot {
        // SAFETY: the mapping holds `count` slots for as long as `self` lives, and the index is below that; `Slot` is
        // atomics for which all bytes are valid, page-aligned as a whole.
        unsafe { self.first.add(index(key, self.count)).as_ref() }
    }
}

impl Slot {
    fn holds(&self, key: &mark_key) -> bool {
        self.direct.load(Ordering::Relaxed) == 1
            && words(key).zip(&self.key).all(|(word, held)| held.load(Ordering::Relaxed) == word)
    }

    /// The program takes nothing from here while `change` is at work.
    fn write(&self, change: impl FnOnce()) {
        self.sequence.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.sequence.fetch_add(1, Ordering::Release);
    }

    fn fill(&self, key: &mark_key, label: u32) {
        words(key).zip(&self.key).for_each(|(word, held)| held.store(word, Ordering::Relaxed));
        self.label.store(label, Ordering::Relaxed);
        self.last_seen.store(0, Ordering::Relaxed);
        self.direct.store(1, Ordering::Relaxed);
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<Slot>()) };
    }
}

/// The key as it stands in memory.
fn words(key: &mark_key) -> impl Iterator<Item = u32> + '_ {
    key.as_bytes().as_chunks::<4>().0.iter().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// As `slot_of` of the program: ports and the last words of both addresses.
fn index(key: &mark_key, count: usize) -> usize {
    let word = |n| words(key).nth(n).unwrap_or_default();
    let hash = word(8).wrapping_mul(0x9e37_79b1)
        ^ word(7).wrapping_mul(0x85eb_ca6b)
        ^ word(3).wrapping_mul(0xc2b2_ae35);
    let hash = (hash ^ hash >> 16).wrapping_mul(0x7feb_352d);
    (hash ^ hash >> 15) as usize & (count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: u8, port: u16) -> mark_key {
        let mut key = mark_key {
            local_addr: [0; 16],
            remote_addr: [0; 16],
            local_port: port.to_be(),
            remote_port: 5201_u16.to_be(),
            protocol: 6,
            pad: [0; 3],
        };
        key.remote_addr[15] = address;
        key
    }

    #[test]
    fn neighbours_are_spread_over_the_slots() {
        const COUNT: usize = 1 << 16;
        let used: std::collections::HashSet<_> =
            (0..=255).flat_map(|a| (0..256).map(move |p| index(&key(a, 40_000 + p), COUNT))).collect();
        // As many keys as slots, thrown at random, hit 1 − 1/e of them.
        let share = used.len() as f64 / COUNT as f64;
        assert!((0.6..0.67).contains(&share), "{share}");
    }
}
