//! Keeps the capabilities that the daemon needs after start, and gives up all others for good.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// Writing maps, attaching to new interfaces, reading counters (capabilities(7)).
const NEEDED: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// To be called while there is one thread: capabilities belong to threads, and new ones inherit.
pub(crate) fn drop_all_but_needed() -> Result<(), CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = NEEDED.into_iter().filter(|c| permitted.contains(c)).collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        // A program that we might ever execute gets nothing back.
        caps::read(None, CapSet::Bounding)?
            .difference(&keep)
            .try_for_each(|c| caps::drop(None, CapSet::Bounding, *c))?;
    }
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    // Needs nothing and cannot fail on a kernel that has it (3.5).
    let _ = nix::sys::prctl::set_no_new_privs();
    Ok(())
}
