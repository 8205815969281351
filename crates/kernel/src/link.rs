//! Network interfaces as the programs see them: name, index, and whether packets have a link header.

use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// A network interface of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Index, unique in the namespace while the interface exists.
    pub index: u32,
    /// Name, as `ip link` prints it.
    pub name: String,
    /// `ARPHRD_*` of `linux/if_arp.h`.
    pub link_type: u16,
}

impl Interface {
    /// Bytes before the network header at the egress hook.
    ///
    /// # Errors
    /// [`Error::LinkType`] for a link whose header is not known (InfiniBand, IEEE 802.15.4, CAN, …).
    pub fn link_header_len(&self) -> Result<u8> {
        match self.link_type {
            // ARPHRD_ETHER, ARPHRD_LOOPBACK
            libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Ok(14),
            // PPP, TUNNEL, TUNNEL6, SIT, IPGRE, RAWIP, IP6GRE, NONE (tun, WireGuard)
            512 | 768 | 769 | 776 | 778 | 519 | 823 | 0xfffe => Ok(0),
            link_type => Err(Error::LinkType { interface: self.name.clone(), link_type }),
        }
    }
}

/// The interface of that name.
///
/// # Errors
/// [`Error::NoInterface`] where there is none.
pub fn find(name: &str) -> Result<Interface> {
    let missing = || Error::NoInterface(name.to_owned());
    if name.is_empty() || name.contains('/') {
        return Err(missing());
    }
    read(&Path::new("/sys/class/net").join(name)).ok_or_else(missing)
}

/// All interfaces, by index.
///
/// # Errors
/// [`Error::Query`] where `/sys/class/net` cannot be read.
pub fn all() -> Result<Vec<Interface>> {
    let query = |source| Error::Query { what: "its interfaces (/sys/class/net)", source };
    let entries = fs::read_dir("/sys/class/net").map_err(query)?;
    // An entry that vanishes while we read is an interface that was removed.
    let mut found: Vec<_> = entries.flatten().filter_map(|e| read(&e.path())).collect();
    found.sort_by_key(|i| i.index);
    Ok(found)
}

fn read(dir: &Path) -> Option<Interface> {
    let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u32>().ok();
    Some(Interface {
        index: number("ifindex")?,
        link_type: number("type")?.try_into().ok()?,
        name: dir.file_name()?.to_str()?.to_owned(),
    })
}
