//! Marking: the flow label of announced flows, written into every packet that leaves an interface.
//!
//! User space puts flows into a map (key: the full five-tuple) and attaches one program to each interface; the
//! program looks every packet up, changes the 20 bits, counts what it did and passes the packet on. Cost and accuracy:
//! `README.md` in this folder.

#[rustfmt::skip]
mod abi;
mod attach;
mod packets;
mod slots;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use flowtag_wire::{Endpoint, FiveTuple, FlowLabel, Protocol};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object, ObjectBuilder};
use zerocopy::{FromBytes, IntoBytes};

use crate::link::Interface;
use crate::{Error, Result};
use abi::{mark_counters, mark_interface, mark_key, mark_limits, mark_value};
pub use attach::{Hook, HookChoice};
pub use packets::{Count, Verdict};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mark.bpf.o"));
const PROGRAM: &str = "flowtag_mark";
const FLOWS: &str = "flowtag_flows";
const SLOTS: &str = "flowtag_slots";
const INTERFACES: &str = "flowtag_ifaces";
const COUNTERS: &str = "flowtag_counts";

/// What the marker needs to know before it is loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Capacity of the map of flows: 1 to 4,194,304.
    pub max_flows: u32,
    /// Priority of our clsact filter: lower runs first. Unused with tcx.
    pub tc_priority: u16,
    /// Where to remember which qdiscs are ours, so that a start after SIGKILL still removes them; none: not remembered.
    pub state_dir: Option<PathBuf>,
}

impl Settings {
    /// Largest [`Self::max_flows`].
    pub const MAX_FLOWS: u32 = 4 << 20;
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_flows: 100_000, tc_priority: 7, state_dir: None }
    }
}

/// A flow as its packets leave this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source of the packets.
    pub local: Endpoint,
    /// Destination of the packets.
    pub remote: Endpoint,
}

/// Packets from the flow's source to its destination.
impl From<FiveTuple> for Key {
    fn from(flow: FiveTuple) -> Self {
        Self { protocol: flow.protocol(), local: flow.src(), remote: flow.dst() }
    }
}

/// The loaded marking program with its maps and the interfaces that it is attached to. Dropping it detaches.
pub struct Marker {
    object: Object,
    flows: MapHandle,
    slots: slots::Slots,
    interfaces: MapHandle,
    counters: MapHandle,
    settings: Settings,
    attached: HashMap<u32, Attached>,
}

struct Attached {
    interface: Interface,
    slot: u16,
    link: attach::Link,
}

/// What the marker did on one interface since it was attached.
#[derive(Debug, Clone)]
pub struct InterfaceCounters {
    /// Which interface.
    pub interface: Interface,
    /// How the program is attached.
    pub hook: Hook,
    /// Packets and bytes by what became of them.
    pub counts: Vec<(Verdict, Count)>,
    /// The interface shares its counters with others, because more than 255 are attached.
    pub shared: bool,
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marker").field("interfaces", &self.attached.len()).finish_non_exhaustive()
    }
}

impl Marker {
    /// Loads the program; nothing is attached and no packet is touched yet.
    ///
    /// # Errors
    /// [`Error::Load`]: no permission (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON or root), no BTF, no memory.
    pub fn load(settings: &Settings) -> Result<Self> {
        let load = |source| Error::Load { feature: "mark", source };
        let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(load)?;
        let (interfaces, slots) = (interface_limit(), slots::Slots::count_for(settings.max_flows));
        for mut map in open.maps_mut() {
            match map.name().to_str() {
                Some(FLOWS) => map.set_max_entries(settings.max_flows),
                Some(SLOTS) => map.set_max_entries(slots),
                Some(name) if name.ends_with(".rodata") => map.set_initial_value((slots - 1).as_bytes()),
                Some(INTERFACES) => map.set_max_entries(interfaces),
                _ => Ok(()),
            }
            .map_err(load)?;
        }
        let object = open.load().map_err(load)?;
        let handle = |name: &str| {
            let map = object.maps().find(|m| m.name() == name);
            MapHandle::try_from(&map.expect("the object has this map")).map_err(load)
        };
        let (flows, interfaces, counters) = (handle(FLOWS)?, handle(INTERFACES)?, handle(COUNTERS)?);
        let map = |source| Error::Query { what: "memory to share with the marking program", source };
        let slots = slots::Slots::map(&handle(SLOTS)?).map_err(map)?;
        Ok(Self {
            object,
            flows,
            slots,
            interfaces,
            counters,
            settings: settings.clone(),
            attached: HashMap::new(),
        })
    }

    /// Attaches the program to an interface: from here on its packets are marked and counted. An interface that is
    /// attached already stays as it is.
    ///
    /// # Errors
    /// [`Error::LinkType`], [`Error::Index`] and [`Error::Attach`]; the interface is then as it was before.
    pub fn attach(&mut self, interface: &Interface, choice: HookChoice) -> Result<Hook> {
        self.attach_program(PROGRAM, interface, choice)
    }

    fn attach_program(&mut self, program: &str, interface: &Interface, choice: HookChoice) -> Result<Hook> {
        if let Some(attached) = self.attached.get(&interface.index) {
            return Ok(attached.link.hook());
        }
        let slot = self.free_slot();
        self.configure(interface, slot)?;
        let link = attach::attach(&self.program(program), interface, choice, &self.settings)?;
        let hook = link.hook();
        self.attached.insert(interface.index, Attached { interface: interface.clone(), slot, link });
        Ok(hook)
    }

    /// Detaches the program from an interface; one that is gone, or was never attached, is no error.
    ///
    /// # Errors
    /// [`Error::Attach`] where the kernel refuses.
    pub fn detach(&mut self, index: u32) -> Result<()> {
        match self.attached.remove(&index) {
            Some(attached) => attached.link.detach(&attached.interface),
            None => Ok(()),
        }
    }

    /// Detaches from all interfaces, to the end also where one fails.
    ///
    /// # Errors
    /// The first failure.
    pub fn detach_all(&mut self) -> Result<()> {
        let indices: Vec<_> = self.attached.keys().copied().collect();
        indices.into_iter().map(|i| self.detach(i)).fold(Ok(()), Result::and)
    }

    /// Removes what a killed predecessor left on any interface; to be called after attaching, so that an interface that
    /// is still marked on was never without. Returns the names of the interfaces that were cleaned.
    ///
    /// # Errors
    /// The first interface that could not be cleaned; the others are.
    pub fn remove_leftovers(&self) -> Result<Vec<String>> {
        let mut cleaned = Vec::new();
        let mut result = Ok(());
        for interface in crate::link::all()? {
            let hook = self.attached.get(&interface.index).map(|a| a.link.hook());
            let keep = (hook == Some(Hook::Clsact)).then_some(self.settings.tc_priority);
            match attach::remove_leftovers(&interface, keep, self.settings.state_dir.as_deref()) {
                Ok(true) => cleaned.push(interface.name),
                Ok(false) => {}
                Err(e) => result = result.and(Err(e)),
            }
        }
        result.map(|()| cleaned)
    }

    /// An interface may have got another name since it was attached to.
    pub fn rename(&mut self, interface: &Interface) {
        if let Some(attached) = self.attached.get_mut(&interface.index) {
            attached.interface.name.clone_from(&interface.name);
        }
    }

    /// The interfaces that the program is attached to.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Interface, Hook)> {
        self.attached.values().map(|a| (&a.interface, a.link.hook()))
    }

    /// From now on packets of `flow` carry `label`. Replaces an earlier label.
    ///
    /// # Errors
    /// [`Error::Full`] when the map is full: the flow is then not marked, and no other is affected.
    pub fn set(&mut self, flow: &Key, label: FlowLabel) -> Result<()> {
        let (key, value) = (key_of(flow), mark_value { label: label.value(), last_seen: 0 });
        let update = |flags| self.flows.update(key.as_bytes(), value.as_bytes(), flags);
        match update(MapFlags::NO_EXIST) {
            Ok(()) => self.slots.added(&key, value.label),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::AlreadyExists => {
                update(MapFlags::EXIST).map_err(|e| self.write_error(e))?;
                self.slots.changed(&key, value.label);
            }
            Err(e) => return Err(self.write_error(e)),
        }
        Ok(())
    }

    fn write_error(&self, source: libbpf_rs::Error) -> Error {
        match source.kind() {
            libbpf_rs::ErrorKind::TooBig => Error::Full { max: self.settings.max_flows },
            _ => Error::Map { action: "write to", map: "flow table", source },
        }
    }

    /// Packets of `flow` are no longer marked; no error where they were not.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn remove(&mut self, flow: &Key) -> Result<()> {
        let key = key_of(flow);
        match self.flows.delete(key.as_bytes()) {
            Ok(()) => self.slots.removed(&key),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Map { action: "delete from", map: "flow table", source }),
        }
        Ok(())
    }

    /// How long ago the program last saw a packet of `flow`, to about 0.6 s; none: never, or not a marked flow.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn last_seen(&self, flow: &Key) -> Result<Option<Duration>> {
        let key = key_of(flow);
        let seen = match self.slots.last_seen(&key) {
            Some(jiffies) => Some(jiffies),
            None => self.value(&key)?.map(|v| v.last_seen),
        };
        let Some(seen) = seen.filter(|jiffies| *jiffies != 0) else { return Ok(None) };
        Ok(Some(tick() * self.now()?.wrapping_sub(seen)))
    }

    fn value(&self, key: &mark_key) -> Result<Option<mark_value>> {
        let read = |source| Error::Map { action: "read", map: "flow table", source };
        let bytes = self.flows.lookup(key.as_bytes(), MapFlags::ANY).map_err(read)?;
        Ok(bytes.and_then(|b| mark_value::read_from_bytes(&b).ok()))
    }

    /// Label of `flow` in the kernel; none: not marked.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn label(&self, flow: &Key) -> Result<Option<FlowLabel>> {
        Ok(self.value(&key_of(flow))?.and_then(|v| FlowLabel::new(u64::from(v.label)).ok()))
    }

    /// What the program did on each interface.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn counters(&self) -> Result<Vec<InterfaceCounters>> {
        let mut all: Vec<_> = self.attached.values().map(|a| self.counters_of(a)).collect::<Result<_>>()?;
        all.sort_by_key(|c| c.interface.index);
        Ok(all)
    }

    /// Puts the program that does nothing on an interface, for benches to compare with and for tests as a
    /// neighbour.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_empty(&mut self, interface: &Interface, choice: HookChoice) -> Result<Hook> {
        self.attach_program("flowtag_empty", interface, choice)
    }

    /// The marking program, for benches.
    #[must_use]
    pub fn mark_program(&self) -> libbpf_rs::ProgramMut<'_> {
        self.program(PROGRAM)
    }

    /// A program that does nothing, for benches.
    #[must_use]
    pub fn empty_program(&self) -> libbpf_rs::ProgramMut<'_> {
        self.program("flowtag_empty")
    }

    /// Makes packets of `BPF_PROG_TEST_RUN`, which come from interface 1, look as if from an Ethernet.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn configure_test_run(&self) -> Result<()> {
        let ethernet = Interface { index: 1, name: "test-run".into(), link_type: libc::ARPHRD_ETHER };
        self.configure(&ethernet, 0)
    }

    /// Low half of the kernel's jiffies.
    fn now(&self) -> Result<u32> {
        let frame = [0u8; 64]; // the kernel wants at least an Ethernet header to run a program on
        let input = libbpf_rs::ProgramInput { data_in: Some(&frame), ..Default::default() };
        let run = self.program("flowtag_now").test_run(input);
        Ok(run.map_err(|source| Error::Map { action: "read", map: "clock", source })?.return_value)
    }

    fn program(&self, name: &str) -> libbpf_rs::ProgramMut<'_> {
        self.object.progs_mut().find(|p| p.name() == name).expect("the object has this program")
    }

    fn counters_of(&self, attached: &Attached) -> Result<InterfaceCounters> {
        let read = |source| Error::Map { action: "read", map: "counters", source };
        let slot = u32::from(attached.slot);
        let per_cpu = self.counters.lookup_percpu(slot.as_bytes(), MapFlags::ANY).map_err(read)?;
        let per_cpu = per_cpu.unwrap_or_default();
        let rows: Vec<_> = per_cpu.iter().filter_map(|b| mark_counters::read_from_prefix(b).ok()).collect();
        Ok(InterfaceCounters {
            interface: attached.interface.clone(),
            hook: attached.link.hook(),
            counts: Verdict::ALL
                .iter()
                .map(|v| (*v, packets::sum(*v, rows.iter().map(|(row, _)| row))))
                .collect(),
            shared: attached.slot == 0,
        })
    }

    /// Tells the program about an interface and sets its counters to zero.
    fn configure(&self, interface: &Interface, slot: u16) -> Result<()> {
        let write = |source| Error::Map { action: "write to", map: "interface table", source };
        let value = mark_interface { slot, link_header_len: interface.link_header_len()?, known: 1 };
        if interface.index >= self.interfaces.max_entries() {
            let (index, limit) = (interface.index, self.interfaces.max_entries());
            return Err(Error::Index { interface: interface.name.clone(), index, limit });
        }
        if slot != 0 {
            let zero = vec![vec![0u8; size_of::<mark_counters>()]; num_cpus()?];
            let key = u32::from(slot);
            self.counters.update_percpu(key.as_bytes(), &zero, MapFlags::ANY).map_err(write)?;
        }
        self.interfaces.update(interface.index.as_bytes(), value.as_bytes(), MapFlags::ANY).map_err(write)
    }

    /// Slot 0 is shared by all interfaces that come when the others are taken.
    fn free_slot(&self) -> u16 {
        let taken: std::collections::HashSet<_> = self.attached.values().map(|a| a.slot).collect();
        (1..=mark_limits::MARK_MAX_INTERFACES as u16).find(|s| !taken.contains(s)).unwrap_or(0)
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        if let Err(e) = self.detach_all() {
            tracing::warn!(error = %e, "not all interfaces could be detached");
        }
    }
}

fn num_cpus() -> Result<usize> {
    libbpf_rs::num_possible_cpus().map_err(|source| Error::Map { action: "size", map: "counters", source })
}

/// Indices only grow; room for as many again before a restart is needed. Eight bytes each.
fn interface_limit() -> u32 {
    let largest = crate::link::all().ok().and_then(|all| all.last().map(|i| i.index)).unwrap_or(0);
    largest.saturating_mul(2).clamp(4096, 1 << 24).next_power_of_two()
}

fn key_of(flow: &Key) -> mark_key {
    mark_key {
        local_addr: octets(flow.local.addr()),
        remote_addr: octets(flow.remote.addr()),
        local_port: flow.local.port().to_be(),
        remote_port: flow.remote.port().to_be(),
        protocol: flow.protocol.number(),
        pad: [0; 3],
    }
}

/// IPv4 as IPv4-mapped, which is never in an IPv6 packet: such an entry would be harmless.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Length of a jiffy: the kernel's coarse clocks advance by one (`CONFIG_HZ`, without needing the kernel's config).
fn tick() -> Duration {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `resolution` is a valid timespec that the call only writes to, and this clock exists on every Linux.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    Duration::new(resolution.tv_sec.unsigned_abs(), resolution.tv_nsec as u32)
}
