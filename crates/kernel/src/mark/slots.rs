//! The filter before the table of flows, shared with the program as memory: how many flows have a hash, and a generation
//! number that makes labels invalid that sockets keep.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libbpf_rs::MapHandle;
use zerocopy::IntoBytes;

use super::abi::{mark_key, mark_limits, mark_slot};

const SLOTS: usize = mark_limits::MARK_SLOTS as usize;

/// A slot as both sides change and read it. Laid out as `struct mark_slot`.
#[repr(C)]
struct Slot {
    generation: AtomicU32,
    flows: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == size_of::<mark_slot>());

/// The mapped array.
pub(super) struct Slots(NonNull<Slot>);

// SAFETY: the memory is shared with the kernel anyway and only touched through atomics.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps the array of the loaded program.
    pub(super) fn map(array: &MapHandle) -> io::Result<Self> {
        let length = SLOTS * size_of::<Slot>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the descriptor is open for the call.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, array.as_fd().as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::Error::other("mapped at address 0"))
    }

    /// A flow was put into the table. To be called after that.
    pub(super) fn added(&self, key: &mark_key) {
        let slot = self.slot(key);
        slot.generation.fetch_add(1, Ordering::Release);
        slot.flows.fetch_add(1, Ordering::Release);
    }

    /// The label of a flow in the table is another. To be called after that.
    pub(super) fn changed(&self, key: &mark_key) {
        self.slot(key).generation.fetch_add(1, Ordering::Release);
    }

    /// A flow was removed from the table. To be called after that.
    pub(super) fn removed(&self, key: &mark_key) {
        let slot = self.slot(key);
        slot.generation.fetch_add(1, Ordering::Release);
        slot.flows.fetch_sub(1, Ordering::Release);
    }

    fn slot(&self, key: &mark_key) -> &Slot {
        // SAFETY: the mapping holds SLOTS slots for as long as `self` lives, and `index` is below that; `Slot` is
        // atomics for which all bytes are valid, page-aligned as a whole.
        unsafe { self.0.add(index(key)).as_ref() }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), SLOTS * size_of::<Slot>()) };
    }
}

/// As `slot_of` of the program: ports and the last words of both addresses, as they stand in memory.
fn index(key: &mark_key) -> usize {
    let bytes = key.as_bytes();
    let word = |n: usize| u32::from_ne_bytes([bytes[4 * n], bytes[4 * n + 1], bytes[4 * n + 2], bytes[4 * n + 3]]);
    let hash = word(8).wrapping_mul(0x9e37_79b1)
        ^ word(7).wrapping_mul(0x85eb_ca6b)
        ^ word(3).wrapping_mul(0xc2b2_ae35);
    (hash ^ hash >> 15) as usize & (SLOTS - 1)
}
