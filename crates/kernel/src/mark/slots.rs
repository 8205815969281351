//! What stands before the table of flows, shared with the program as memory: a filter with one bit per hash, which stays
//! in the processor's cache and answers for packets of no flow; and slots with the number of flows that have a hash and
//! one of them in full, so that one cache line answers for most packets of flows. What they say is always also in the
//! table.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

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
    word: AtomicU32,
    last_seen: AtomicU32,
    key: [AtomicU32; KEY_WORDS],
    pad: [u8; 8],
}

const _: () = {
    assert!(size_of::<Slot>() == size_of::<mark_slot>());
    assert!(std::mem::offset_of!(Slot, flows) == std::mem::offset_of!(mark_slot, flows));
    assert!(std::mem::offset_of!(Slot, key) == std::mem::offset_of!(mark_slot, key));
};

/// An array map as memory.
struct Mapped<T> {
    first: NonNull<T>,
    count: usize,
}

// SAFETY: the memory is shared with the kernel anyway and only touched through atomics.
unsafe impl<T> Send for Mapped<T> {}

impl<T> Mapped<T> {
    fn new(array: &MapHandle) -> io::Result<Self> {
        let count = array.max_entries() as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (length, fd) = (count * size_of::<T>(), array.as_fd().as_raw_fd());
        // SAFETY: a new mapping at an address of the kernel's choice; the descriptor is open for the call.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { first, count })
    }

    fn get(&self, index: usize) -> &T {
        assert!(index < self.count);
        // SAFETY: the mapping holds `count` elements for as long as `self` lives, and the index is below that; the
        // elements are atomics, for which all bytes are valid, in pages of their own.
        unsafe { self.first.add(index).as_ref() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}

/// Both arrays. Only one thread writes: `&mut self`.
pub(super) struct Slots {
    slots: Mapped<Slot>,
    filter: Mapped<AtomicU64>,
}

impl Slots {
    /// How many slots for a table of so many flows: with as many as flows, most flows have one of their own.
    pub(super) fn count_for(max_flows: u32) -> u32 {
        max_flows.next_power_of_two().clamp(1 << 12, 1 << 20)
    }

    /// How many words of filter for so many slots.
    pub(super) const fn filter_words(slots: u32) -> u32 {
        slots / u64::BITS
    }

    /// Maps the arrays of the loaded program.
    pub(super) fn map(slots: &MapHandle, filter: &MapHandle) -> io::Result<Self> {
        Ok(Self { slots: Mapped::new(slots)?, filter: Mapped::new(filter)? })
    }

    /// Makes the arrays true to a table that an earlier process may have left half done. Packets of flows keep their
    /// marks meanwhile.
    pub(super) fn rebuild<'a>(&mut self, flows: impl Iterator<Item = (&'a mark_key, u32)>) {
        let mut counts = vec![0_u16; self.slots.count];
        let mut is_true = vec![false; self.slots.count];
        let flows: Vec<_> = flows.map(|(key, word)| (index(key, self.slots.count), key, word)).collect();
        for (index, key, word) in &flows {
            counts[*index] = counts[*index].saturating_add(1);
            let slot = self.slots.get(*index);
            is_true[*index] |=
                !slot.is_half_written() && slot.holds(key) && slot.word.load(Ordering::Relaxed) == *word;
        }
        for (index, key, word) in flows {
            let slot = self.slots.get(index);
            // It may hold a flow that was removed from the table.
            if !std::mem::replace(&mut is_true[index], true) {
                if slot.is_half_written() {
                    slot.sequence.fetch_add(1, Ordering::Relaxed);
                }
                slot.write(|| slot.fill(key, word));
            }
            slot.flows.store(counts[index], Ordering::Relaxed);
            self.set_filter(index);
        }
        for (index, _) in counts.iter().enumerate().filter(|(_, count)| **count == 0) {
            self.clear_filter(index);
            let slot = self.slots.get(index);
            slot.direct.store(0, Ordering::Relaxed);
            slot.flows.store(0, Ordering::Relaxed);
            slot.sequence.store(0, Ordering::Relaxed);
        }
    }

    fn set_filter(&self, index: usize) {
        self.filter.get(index / 64).fetch_or(1 << (index % 64), Ordering::Release);
    }

    fn clear_filter(&self, index: usize) {
        self.filter.get(index / 64).fetch_and(!(1 << (index % 64)), Ordering::Release);
    }

    /// A flow was put into the table. To be called after that.
    pub(super) fn added(&mut self, key: &mark_key, word: u32) {
        let index = index(key, self.slots.count);
        let slot = self.slots.get(index);
        if !slot.holds_any() {
            slot.write(|| slot.fill(key, word));
        }
        let flows = slot.flows.load(Ordering::Relaxed);
        // At the top of its range it stays there: the program then looks into the table, which is always right.
        slot.flows.store(flows.saturating_add(1), Ordering::Relaxed);
        self.set_filter(index);
    }

    /// The word of a flow in the table is another. To be called after that.
    pub(super) fn changed(&mut self, key: &mark_key, word: u32) {
        let slot = self.slot(key);
        if slot.holds(key) {
            slot.write(|| slot.fill(key, word));
        }
    }

    /// A flow was removed from the table. To be called after that.
    pub(super) fn removed(&mut self, key: &mark_key) {
        let index = index(key, self.slots.count);
        let slot = self.slots.get(index);
        if slot.holds(key) {
            slot.write(|| slot.direct.store(0, Ordering::Relaxed));
        }
        let flows = slot.flows.load(Ordering::Relaxed);
        if flows < u16::MAX {
            slot.flows.store(flows.saturating_sub(1), Ordering::Relaxed);
        }
        if flows <= 1 {
            self.clear_filter(index);
        }
    }

    /// Low half of jiffies at a recent packet of a flow that is kept here; 0: none yet.
    pub(super) fn last_seen(&self, key: &mark_key) -> Option<u32> {
        let slot = self.slot(key);
        slot.holds(key).then(|| slot.last_seen.load(Ordering::Relaxed))
    }

    fn slot(&self, key: &mark_key) -> &Slot {
        self.slots.get(index(key, self.slots.count))
    }
}

impl Slot {
    fn holds_any(&self) -> bool {
        self.direct.load(Ordering::Relaxed) == 1
    }

    /// By whoever was killed meanwhile.
    fn is_half_written(&self) -> bool {
        self.sequence.load(Ordering::Relaxed) % 2 == 1
    }

    fn holds(&self, key: &mark_key) -> bool {
        self.holds_any() && words(key).zip(&self.key).all(|(word, held)| held.load(Ordering::Relaxed) == word)
    }

    /// The program takes nothing from here while `change` is at work.
    fn write(&self, change: impl FnOnce()) {
        self.sequence.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        self.sequence.fetch_add(1, Ordering::Release);
    }

    fn fill(&self, key: &mark_key, word: u32) {
        words(key).zip(&self.key).for_each(|(word, held)| held.store(word, Ordering::Relaxed));
        self.word.store(word, Ordering::Relaxed);
        self.last_seen.store(0, Ordering::Relaxed);
        self.direct.store(1, Ordering::Relaxed);
    }
}

/// The key as it stands in memory.
fn words(key: &mark_key) -> impl Iterator<Item = u32> + '_ {
    key.as_bytes().as_chunks::<4>().0.iter().map(|chunk| u32::from_ne_bytes(*chunk))
}

/// As `hash_of` of the program: ports and the last words of both addresses.
fn index(key: &mark_key, count: usize) -> usize {
    let word = |n| u64::from(words(key).nth(n).unwrap_or_default());
    let hash = word(8).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ word(7).wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ word(3).wrapping_mul(0x1656_67b1_9e37_79f9);
    let hash = (hash ^ hash >> 32).wrapping_mul(0xc2b2_ae3d_27d4_eb4f) >> 32;
    hash as usize & (count - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: u32, local_port: u16, remote_port: u16) -> mark_key {
        let mut key = mark_key {
            local_addr: [0; 16],
            remote_addr: [0; 16],
            local_port: local_port.to_be(),
            remote_port: remote_port.to_be(),
            protocol: 6,
            pad: [0; 3],
        };
        key.remote_addr[12..].copy_from_slice(&address.to_be_bytes());
        key
    }

    #[test]
    fn neighbours_are_spread_over_the_slots_whatever_they_differ_in() {
        const COUNT: usize = 1 << 16;
        let all = |key: fn(u32) -> mark_key| {
            (0..COUNT as u32).map(|n| index(&key(n), COUNT)).collect::<std::collections::HashSet<_>>().len()
        };
        for (what, used) in [
            ("local ports", all(|n| key(1, n as u16, 5201))),
            ("remote ports", all(|n| key(1, 1094, n as u16))),
            ("hosts", all(|n| key(n, 1094, 40000))),
            ("networks", all(|n| key(n << 16, 1094, 40000))),
            ("ports and hosts", all(|n| key(n >> 4, 1094, 40000 + (n & 15) as u16))),
            ("both ports", all(|n| key(1, 50000 + (n >> 8) as u16, 40000 + (n & 255) as u16))),
        ] {
            // As many keys as slots, thrown at random, hit 1 − 1/e of them.
            let share = used as f64 / COUNT as f64;
            assert!((0.6..0.7).contains(&share), "{what}: {share}");
        }
    }
}
