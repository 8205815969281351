//! The table of flows, for others who want to know whose a flow is: probes, in this process or another.

use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{MapCore, MapHandle};

use super::abi::{mark_key, mark_value};
use super::{Marker, map};
use crate::{Error, Result};

/// The kernel's map of flows, which may be looked into and not changed.
#[derive(Debug)]
pub struct FlowTable(MapHandle);

impl Marker {
    /// The kernel's number of the table, by which [`FlowTable::from_id`] finds it.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn flow_table_id(&self) -> Result<u32> {
        let failed = |source| Error::Map { action: "ask for", map: map::FLOWS, source };
        Ok(self.maps.get(map::FLOWS).info().map_err(failed)?.info.id)
    }

    /// A handle of the table.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn flow_table(&self) -> Result<FlowTable> {
        let failed = |source| Error::Map { action: "open", map: map::FLOWS, source };
        MapHandle::try_from(self.maps.get(map::FLOWS)).map(FlowTable).map_err(failed)
    }
}

impl FlowTable {
    /// The table of a daemon that runs; none where there is none of this number, or we may not look (CAP_SYS_ADMIN).
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        let map = MapHandle::from_map_id(id).ok()?;
        let fits = map.key_size() as usize == size_of::<mark_key>()
            && map.value_size() as usize == size_of::<mark_value>()
            && map.name() == map::FLOWS;
        fits.then_some(Self(map))
    }
}

impl AsFd for FlowTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
