//! How much of the traffic carries its tag, how much does not and why, and which tags arrive.

use std::net::Ipv6Addr;

use flowtag_wire::{ScitagInteger, Tag};
use ipnet::Ipv6Net;
use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{mark_arrival, mark_arrival_how as how, mark_count, mark_counters, mark_lost};
use super::packets;
use super::{Attached, Count, InterfaceCounters, Marker, Verdict, map};
use crate::{Error, Result};

/// What the programs counted since they were attached.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// What left by tag; none: tags beyond the 255 that have counters of their own.
    pub sent: Vec<(Option<Tag>, Count)>,
    /// What left by interface and what became of it.
    pub interfaces: Vec<InterfaceCounters>,
    /// What arrived.
    pub arrived: Vec<Arrived>,
    /// Matches and closed sockets that could not be told because nobody read them in time.
    pub lost_events: u64,
    /// Packets of combinations of tag, peer and interface beyond the 16384 that are kept; counted under the peer `::/64`.
    pub lost_arrivals: u64,
}

/// Packets that arrived with one tag from one prefix on one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// What they are.
    pub how: Arrival,
    /// The tag that they carry; for [`Arrival::Mismatch`] and [`Arrival::Missing`] the one that they should; none:
    /// [`Arrival::Nothing`].
    pub tag: Option<Tag>,
    /// Where they come from.
    pub peer: Ipv6Net,
    /// Index of the interface.
    pub interface: u32,
    /// How many.
    pub count: Count,
}

/// How a packet that arrived is tagged. [`Self::Mismatch`] and [`Self::Missing`] are counted in addition to one of the
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Arrival {
    /// Its flow label reads as a registered tag. Of random labels one in a hundred does, too.
    Label = how::MARK_ARRIVED_LABEL,
    /// By a destination option.
    Destination = how::MARK_ARRIVED_DESTINATION,
    /// By a hop-by-hop option.
    HopByHop = how::MARK_ARRIVED_HOP_BY_HOP,
    /// Not at all.
    Nothing = how::MARK_ARRIVED_NOTHING,
    /// With another tag than the flow that it belongs to.
    Mismatch = how::MARK_ARRIVED_MISMATCH,
    /// Without a tag, though it belongs to a flow.
    Missing = how::MARK_ARRIVED_MISSING,
}

impl Arrival {
    const ALL: [Self; 6] =
        [Self::Label, Self::Destination, Self::HopByHop, Self::Nothing, Self::Mismatch, Self::Missing];

    /// Name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Destination => "destination",
            Self::HopByHop => "hop-by-hop",
            Self::Nothing => "nothing",
            Self::Mismatch => "mismatch",
            Self::Missing => "missing",
        }
    }
}

impl Marker {
    /// What the programs did on each interface.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn counters(&self) -> Result<Vec<InterfaceCounters>> {
        let mut all: Vec<_> = self.attached.values().map(|a| self.counters_of(a)).collect::<Result<_>>()?;
        all.sort_by_key(|c| c.interface.index);
        Ok(all)
    }

    fn counters_of(&self, attached: &Attached) -> Result<InterfaceCounters> {
        let slot = u32::from(attached.slot);
        let rows: Vec<mark_counters> = self.maps.read_percpu(map::COUNTERS, slot.as_bytes())?;
        Ok(InterfaceCounters {
            interface: attached.interface.clone(),
            hook: attached.egress.hook(),
            counts: Verdict::ALL.iter().map(|v| (*v, packets::sum(*v, rows.iter()))).collect(),
            shared: attached.slot == 0,
        })
    }

    /// What left and what arrived, by tag.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn coverage(&self) -> Result<Coverage> {
        Ok(Coverage {
            sent: self.sent()?,
            interfaces: self.counters()?,
            arrived: self.arrived()?,
            lost_events: self.lost_events()?,
            lost_arrivals: self.lost(mark_lost::MARK_LOST_ARRIVALS)?,
        })
    }

    /// What left, by tag; none: tags beyond those that have counters of their own.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn sent(&self) -> Result<Vec<(Option<Tag>, Count)>> {
        let mut sent = Vec::new();
        let classes = self.tags.iter().map(|(tag, class)| (Some(tag), class));
        for (tag, class) in classes.chain([(None, 0)]) {
            let rows: Vec<mark_count> = self.maps.read_percpu(map::TAGS, u32::from(class).as_bytes())?;
            let count = rows.into_iter().fold(Count::default(), Count::add);
            sent.extend((count.packets > 0).then_some((tag, count)));
        }
        sent.sort_by_key(|(tag, _)| *tag);
        Ok(sent)
    }

    fn arrived(&self) -> Result<Vec<Arrived>> {
        let table = self.maps.get(map::ARRIVED);
        let read = |source| Error::Map { action: "read", map: map::ARRIVED, source };
        let mut arrived = Vec::new();
        for key in table.keys() {
            let Some(per_cpu) = table.lookup_percpu(&key, MapFlags::ANY).map_err(read)? else { continue };
            let rows = per_cpu.iter().filter_map(|b| mark_count::read_from_prefix(b).ok());
            let count = rows.fold(Count::default(), |sum, (c, _)| sum.add(c));
            if count.packets == 0 {
                continue; // kept for peers without room of their own
            }
            arrived.extend(mark_arrival::read_from_bytes(&key).ok().and_then(|key| entry(&key, count)));
        }
        arrived.sort_by_key(|a| (a.how, a.tag, a.peer, a.interface));
        Ok(arrived)
    }

    /// Matches and closed sockets that could not be told because nobody read them in time.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn lost_events(&self) -> Result<u64> {
        self.lost(mark_lost::MARK_LOST_EVENTS)
    }

    fn lost(&self, what: u32) -> Result<u64> {
        Ok(self.maps.read_percpu::<u64>(map::LOST, what.as_bytes())?.into_iter().sum())
    }
}

fn entry(key: &mark_arrival, count: Count) -> Option<Arrived> {
    let how = Arrival::ALL.into_iter().find(|h| *h as u32 == u32::from(key.how))?;
    let mut address = [0; 16];
    address[..8].copy_from_slice(key.peer.as_bytes());
    Some(Arrived {
        how,
        tag: ScitagInteger::new(key.tag.into()).ok().and_then(|n| Tag::try_from(n).ok()),
        peer: Ipv6Net::new(Ipv6Addr::from(address), 64).ok()?,
        interface: key.ifindex,
        count,
    })
}
