//! Marking: whose traffic a packet is, written into every packet that leaves an interface, and read from those that
//! arrive.
//!
//! User space puts flows into a table (key: the full five-tuple) and rules into maps, and attaches a program to each
//! interface; the program looks every packet up, writes the flow label or an option into it, counts what it did and passes
//! the packet on. Cost and accuracy: `README.md` in this folder.

#[rustfmt::skip]
pub(crate) mod abi;
mod attach;
mod coverage;
mod events;
mod flow_table;
mod install;
mod load;
mod packets;
mod pin;
pub mod rules;
mod slots;
mod tags;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use flowtag_wire::{Endpoint, FiveTuple, FlowLabel, Protocol, Strategy};
use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};
use zerocopy::{FromBytes, IntoBytes};

use crate::link::Interface;
use crate::{Error, Result};
use abi::{
    mark_counters, mark_interface, mark_interface_flags as flags, mark_key, mark_limits, mark_value,
    mark_word,
};
pub use attach::{Hook, HookChoice};
pub use coverage::{Arrival, Arrived, Coverage};
pub(crate) use events::printable_name;
pub use events::{Event, Events};
pub use flow_table::FlowTable;
pub use install::Strip;
pub use packets::{Count, Verdict};
pub use pin::{Adopted, remove_pinned};

const PROGRAM: &str = "flowtag_mark";
const ARRIVE: &str = "flowtag_arrive";

/// Names of the maps, as in the program.
mod map {
    pub(super) const FLOWS: &str = "flowtag_flows";
    pub(super) const SLOTS: &str = "flowtag_slots";
    pub(super) const FILTER: &str = "flowtag_filter";
    pub(super) const INTERFACES: &str = "flowtag_ifaces";
    pub(super) const COUNTERS: &str = "flowtag_counts";
    pub(super) const TAGS: &str = "flowtag_tags";
    pub(super) const CLASSES: &str = "flowtag_classes";
    pub(super) const EVENTS: &str = "flowtag_events";
    pub(super) const LOST: &str = "flowtag_lost";
    pub(super) const TOLD: &str = "flowtag_told";
    pub(super) const OWNERS: &str = "flowtag_owners";
    pub(super) const RULES: &str = "flowtag_rules";
    pub(super) const BANKS: &str = "flowtag_banks";
    pub(super) const SETS: &str = "flowtag_sets";
    pub(super) const ACTIONS: &str = "flowtag_actions";
    pub(super) const VALUES: &str = "flowtag_values";
    pub(super) const PORTS: &str = "flowtag_ports";
    pub(super) const PREFIXES: &str = "flowtag_prefixes";
    pub(super) const KNOWN: &str = "flowtag_known";
    pub(super) const ARRIVED: &str = "flowtag_arrived";
}

/// What the marker needs to know before it is loaded.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Capacity of the table of flows: 1 to 4,194,304.
    pub max_flows: u32,
    /// Priority of our clsact filters: lower runs first. Unused with tcx.
    pub tc_priority: u16,
    /// Where to remember which qdiscs are ours, so that a start after SIGKILL still removes them; none: not remembered.
    pub state_dir: Option<PathBuf>,
    /// Directory on a bpffs where maps and links are kept, so that marking outlives the process; none: it does not.
    pub pin: Option<PathBuf>,
    /// From which the entropy of flows that rules find is made; the engine's.
    pub entropy_key: [u8; 16],
    /// How long marking goes on after the last [`Marker::renew_lease`]: 1 s to 7 days.
    pub lease: Duration,
    /// IPv6 in IPv6: write into the inner header instead of the outer.
    pub inner: bool,
    /// Look at packets that arrive, too: to count their tags, and to make room for headers.
    pub ingress: bool,
}

impl Settings {
    /// Largest [`Self::max_flows`].
    pub const MAX_FLOWS: u32 = 4 << 20;
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_flows: 100_000,
            tc_priority: 7,
            state_dir: None,
            pin: None,
            entropy_key: [0; 16],
            lease: Duration::from_secs(3600),
            inner: false,
            ingress: false,
        }
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

/// What is written into the packets of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Tag and entropy.
    pub label: FlowLabel,
    /// Where it is written.
    pub strategy: Strategy,
}

/// In the flow label.
impl From<FlowLabel> for Mark {
    fn from(label: FlowLabel) -> Self {
        Self { label, strategy: Strategy::LABEL }
    }
}

impl Mark {
    pub(crate) fn from_word(word: u32) -> Option<Self> {
        let label = FlowLabel::new(u64::from(word & mark_word::MARK_WORD_LABEL)).ok()?;
        let strategy = Strategy::from_bits((word >> mark_word::MARK_WORD_STRATEGY_SHIFT & 0xf) as u8)?;
        Some(Self { label, strategy })
    }
}

/// The loaded programs with their maps and the interfaces that they are attached to. Dropping it detaches, unless
/// [`Marker::leave`] is called.
pub struct Marker {
    object: Object,
    maps: Maps,
    slots: slots::Slots,
    tags: tags::Tags,
    settings: Settings,
    attached: HashMap<u32, Attached>,
    adopted: Vec<Adopted>,
    /// Slots of the counters of interfaces that an earlier daemon was attached to, by index.
    earlier: HashMap<u32, u16>,
    /// An earlier daemon left something that is not ours to end if we cannot start.
    inherited: bool,
    rules: install::Installed,
    /// What all interfaces are told: [`mark_interface_flags`](abi::mark_interface_flags) and bytes of headers.
    flags: u8,
    overhead: u8,
    /// Tells of closed sockets while it lives; none: this kernel cannot.
    #[expect(dead_code, reason = "held open: closing it detaches")]
    closing: Option<libbpf_rs::Link>,
    owner: Option<libbpf_rs::Link>,
    #[expect(dead_code, reason = "held open: closing it lets another daemon have the directory")]
    taken: Option<nix::fcntl::Flock<std::fs::File>>,
}

struct Attached {
    interface: Interface,
    slot: u16,
    egress: attach::Link,
    ingress: Option<attach::Link>,
}

/// Handles of all maps, by name.
struct Maps(HashMap<String, MapHandle>);

impl Maps {
    fn of(object: &Object) -> libbpf_rs::Result<Self> {
        let named =
            |m: libbpf_rs::Map<'_>| Ok((m.name().to_string_lossy().into_owned(), MapHandle::try_from(&m)?));
        object.maps().map(named).collect::<libbpf_rs::Result<_>>().map(Self)
    }

    fn get(&self, name: &str) -> &MapHandle {
        self.0.get(name).expect("the object has this map")
    }

    fn write(&self, name: &'static str, key: &[u8], value: &[u8]) -> Result<()> {
        let failed = |source| Error::Map { action: "write to", map: name, source };
        self.get(name).update(key, value, MapFlags::ANY).map_err(failed)
    }

    fn read<T: FromBytes>(&self, name: &'static str, key: &[u8]) -> Result<Option<T>> {
        let failed = |source| Error::Map { action: "read", map: name, source };
        let bytes = self.get(name).lookup(key, MapFlags::ANY).map_err(failed)?;
        Ok(bytes.and_then(|b| T::read_from_prefix(&b).map(|(value, _)| value).ok()))
    }

    fn read_percpu<T: FromBytes>(&self, name: &'static str, key: &[u8]) -> Result<Vec<T>> {
        let failed = |source| Error::Map { action: "read", map: name, source };
        let per_cpu = self.get(name).lookup_percpu(key, MapFlags::ANY).map_err(failed)?.unwrap_or_default();
        Ok(per_cpu.iter().filter_map(|b| T::read_from_prefix(b).ok()).map(|(value, _)| value).collect())
    }
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
    /// Attaches the programs to an interface: from here on its packets are marked and counted. An interface that is
    /// attached already stays as it is; what a previous daemon left there is replaced without a gap.
    ///
    /// # Errors
    /// [`Error::LinkType`], [`Error::Index`] and [`Error::Attach`]; the interface is then as it was before.
    pub fn attach(&mut self, interface: &Interface, choice: HookChoice) -> Result<Hook> {
        self.attach_program(PROGRAM, self.settings.ingress.then_some(ARRIVE), interface, choice)
    }

    fn attach_program(
        &mut self,
        egress: &'static str,
        ingress: Option<&'static str>,
        interface: &Interface,
        choice: HookChoice,
    ) -> Result<Hook> {
        if let Some(attached) = self.attached.get(&interface.index) {
            return Ok(attached.egress.hook());
        }
        let earlier = self.earlier.get(&interface.index).copied();
        let slot = earlier.unwrap_or_else(|| self.free_slot());
        self.configure(interface, slot)?;
        if earlier.is_none() {
            self.reset_counters(slot)?;
        }
        let attach = |name, direction| {
            let place = attach::Place { interface, direction };
            attach::attach(&self.program(name), name, place, choice, &self.settings)
        };
        let link = attach(egress, crate::tc::Direction::Egress)?;
        let hook = link.hook();
        let ingress = match ingress.map(|name| attach(name, crate::tc::Direction::Ingress)).transpose() {
            Ok(ingress) => ingress,
            Err(error) => {
                link.detach(interface)?;
                return Err(error);
            }
        };
        let attached = Attached { interface: interface.clone(), slot, egress: link, ingress };
        self.attached.insert(interface.index, attached);
        Ok(hook)
    }

    /// Detaches the programs from an interface; one that is gone, or was never attached, is no error.
    ///
    /// # Errors
    /// [`Error::Attach`] where the kernel refuses.
    pub fn detach(&mut self, index: u32) -> Result<()> {
        let Some(Attached { interface, egress, ingress, .. }) = self.attached.remove(&index) else {
            return Ok(());
        };
        self.earlier.remove(&index);
        let nothing = [0_u8; size_of::<mark_interface>()];
        self.maps.write(map::INTERFACES, index.as_bytes(), &nothing)?;
        let result = ingress.map_or(Ok(()), |link| link.detach(&interface));
        egress.detach(&interface).and(result)
    }

    /// Detaches from all interfaces, to the end also where one fails, and forgets what was kept for the next daemon.
    ///
    /// # Errors
    /// The first failure.
    pub fn detach_all(&mut self) -> Result<()> {
        let indices: Vec<_> = self.attached.keys().copied().collect();
        let result = indices.into_iter().map(|i| self.detach(i)).fold(Ok(()), Result::and);
        self.owner = None;
        match &self.settings.pin {
            Some(dir) => pin::remove_dir(dir).and(result),
            None => result,
        }
    }

    /// Ends without detaching: marking goes on until the lease ends, and the next daemon adopts it. Without a place to
    /// pin, the same as dropping.
    pub fn leave(mut self) {
        if self.settings.pin.is_none() {
            return;
        }
        for (_, attached) in self.attached.drain() {
            attached.egress.leave();
            if let Some(ingress) = attached.ingress {
                ingress.leave();
            }
        }
        self.inherited = true; // by the next
    }

    /// Whether marking can outlive the process.
    #[must_use]
    pub const fn is_pinned(&self) -> bool {
        self.settings.pin.is_some()
    }

    /// Removes what a killed predecessor left on any interface; to be called after attaching, so that an interface that
    /// is still marked on was never without. Returns the names of the interfaces that were cleaned.
    ///
    /// # Errors
    /// The first interface that could not be cleaned; the others are.
    pub fn remove_leftovers(&self) -> Result<Vec<String>> {
        if let Some(dir) = &self.settings.pin {
            let links = self.attached.values().flat_map(|a| [Some(&a.egress), a.ingress.as_ref()]).flatten();
            let kept: Vec<_> = links.filter_map(attach::Link::pinned).map(ToOwned::to_owned).collect();
            pin::remove_links(dir, &kept)?;
        }
        attach::remove_all_leftovers(self.settings.state_dir.as_deref(), |index| {
            let clsact = self.attached.get(&index).filter(|a| a.egress.hook() == Hook::Clsact)?;
            Some((self.settings.tc_priority, clsact.ingress.is_some()))
        })
    }

    /// An interface may have got another name or MTU since it was attached to.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn refresh(&mut self, interface: &Interface) -> Result<()> {
        let Some(attached) = self.attached.get_mut(&interface.index) else { return Ok(()) };
        let mtu = std::mem::replace(&mut attached.interface, interface.clone()).mtu;
        if mtu == interface.mtu {
            Ok(())
        } else {
            self.configure(interface, self.attached[&interface.index].slot)
        }
    }

    /// The interfaces that the program is attached to.
    pub fn interfaces(&self) -> impl Iterator<Item = (&Interface, Hook)> {
        self.attached.values().map(|a| (&a.interface, a.egress.hook()))
    }

    /// From now on packets of `flow` carry `mark`, in place of an earlier one. `start` is when the flow began, in
    /// microseconds since the epoch; it is only kept for the next daemon.
    ///
    /// # Errors
    /// [`Error::Full`] when the table is full: the flow is then not marked, and no other is affected.
    pub fn set(&mut self, flow: &Key, mark: Mark, start: u64) -> Result<()> {
        let word = self.word(mark)?;
        let (key, value) = (key_of(flow), mark_value { word, last_seen: 0, start });
        let update = |flags| self.maps.get(map::FLOWS).update(key.as_bytes(), value.as_bytes(), flags);
        match update(MapFlags::NO_EXIST) {
            Ok(()) => self.slots.added(&key, word),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::AlreadyExists => {
                update(MapFlags::EXIST).map_err(|e| self.write_error(e))?;
                self.slots.changed(&key, word);
            }
            Err(e) => return Err(self.write_error(e)),
        }
        Ok(())
    }

    /// The word for the program, with the class that counts the tag.
    fn word(&mut self, mark: Mark) -> Result<u32> {
        let class = match mark.label.tag() {
            Some(tag) => self.tags.class(tag, &self.maps)?,
            None => 0,
        };
        Ok(u32::from(class) << mark_word::MARK_WORD_CLASS_SHIFT
            | u32::from(mark.strategy.bits()) << mark_word::MARK_WORD_STRATEGY_SHIFT
            | mark.label.value())
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
        match self.maps.get(map::FLOWS).delete(key.as_bytes()) {
            Ok(()) => self.slots.removed(&key),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Map { action: "delete from", map: "flow table", source }),
        }
        Ok(())
    }

    /// How long ago the program last saw a packet of `flow`, to about 0.6 s; none: never, or not a flow of the table.
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
        Ok(Some(tick() * (self.now()? as u32).wrapping_sub(seen)))
    }

    fn value(&self, key: &mark_key) -> Result<Option<mark_value>> {
        self.maps.read(map::FLOWS, key.as_bytes())
    }

    /// What the kernel writes into packets of `flow`; none: nothing.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn mark(&self, flow: &Key) -> Result<Option<Mark>> {
        Ok(self.value(&key_of(flow))?.and_then(|v| Mark::from_word(v.word)))
    }

    /// What a previous daemon left in the table, as it was when this one was loaded.
    #[must_use]
    pub fn adopted(&self) -> &[Adopted] {
        &self.adopted
    }

    /// Marking goes on for [`Settings::lease`] from now.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn renew_lease(&self) -> Result<()> {
        self.attached.values().try_for_each(|a| self.configure(&a.interface, a.slot))
    }

    /// Bytes by which headers make packets longer: so much is taken off the MSS and the path MTUs that arrive, so that
    /// our own stack leaves room. 0: nothing is changed.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn set_overhead(&mut self, bytes: u8) -> Result<()> {
        if std::mem::replace(&mut self.overhead, bytes) == bytes { Ok(()) } else { self.renew_lease() }
    }

    /// Puts the program that does nothing on an interface, for benches to compare with and for tests as a neighbour.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_empty(&mut self, interface: &Interface, choice: HookChoice) -> Result<Hook> {
        self.attach_program("flowtag_empty", None, interface, choice)
    }

    /// The marking program, for benches.
    #[must_use]
    pub fn mark_program(&self) -> libbpf_rs::ProgramMut<'_> {
        self.program(PROGRAM)
    }

    /// The program for packets that arrive, for tests and benches.
    #[must_use]
    pub fn arrive_program(&self) -> libbpf_rs::ProgramMut<'_> {
        self.program(ARRIVE)
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
        self.configure(&Self::test_run_interface(), 0)
    }

    fn test_run_interface() -> Interface {
        Interface { index: 1, name: "test-run".into(), link_type: libc::ARPHRD_ETHER, mtu: 1500 }
    }

    /// The kernel's jiffies.
    fn now(&self) -> Result<u64> {
        let failed = |source| Error::Map { action: "read", map: "clock", source };
        let mut frame = [0u8; 64]; // the kernel wants at least an Ethernet header to run a program on
        let sent = frame;
        let input = libbpf_rs::ProgramInput {
            data_in: Some(&sent),
            data_out: Some(&mut frame),
            ..Default::default()
        };
        self.program("flowtag_now").test_run(input).map_err(failed)?;
        Ok(frame.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)))
    }

    fn program(&self, name: &str) -> libbpf_rs::ProgramMut<'_> {
        self.object.progs_mut().find(|p| p.name() == name).expect("the object has this program")
    }

    /// None: the kernel did not take it.
    pub(crate) fn loaded(&self, name: &str) -> Option<libbpf_rs::ProgramMut<'_>> {
        self.object.progs_mut().find(|p| p.name() == name && p.autoload())
    }

    /// Tells the programs about an interface, and how long they may go on.
    fn configure(&self, interface: &Interface, slot: u16) -> Result<()> {
        let limit = self.maps.get(map::INTERFACES).max_entries();
        if interface.index >= limit {
            return Err(Error::Index { interface: interface.name.clone(), index: interface.index, limit });
        }
        let jiffies =
            u64::try_from(self.settings.lease.as_nanos() / tick().as_nanos().max(1)).unwrap_or(u64::MAX);
        let value = mark_interface {
            slot,
            link_header_len: interface.link_header_len()?,
            known: 1,
            flags: self.flags | if self.settings.inner { flags::MARK_IF_INNER as u8 } else { 0 },
            overhead: self.overhead,
            pad: 0,
            mtu: interface.mtu,
            pad2: 0,
            lease: self.now()?.saturating_add(jiffies),
        };
        self.maps.write(map::INTERFACES, interface.index.as_bytes(), value.as_bytes())
    }

    fn reset_counters(&self, slot: u16) -> Result<()> {
        if slot == 0 {
            return Ok(());
        }
        let write = |source| Error::Map { action: "write to", map: "counters", source };
        let cpus = libbpf_rs::num_possible_cpus().map_err(write)?;
        let zero = vec![vec![0u8; size_of::<mark_counters>()]; cpus];
        let key = u32::from(slot);
        self.maps.get(map::COUNTERS).update_percpu(key.as_bytes(), &zero, MapFlags::ANY).map_err(write)
    }

    /// Slot 0 is shared by all interfaces that come when the others are taken.
    fn free_slot(&self) -> u16 {
        let taken = self.attached.values().map(|a| a.slot).chain(self.earlier.values().copied());
        let taken: std::collections::HashSet<_> = taken.collect();
        (1..=mark_limits::MARK_MAX_INTERFACES as u16).find(|s| !taken.contains(s)).unwrap_or(0)
    }
}

/// A start that fails leaves what an earlier daemon left.
impl Drop for Marker {
    fn drop(&mut self) {
        if self.inherited {
            return;
        }
        if let Err(e) = self.detach_all() {
            tracing::warn!(error = %e, "not all interfaces could be detached");
        }
    }
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

/// The flow of a key; none for protocols without ports.
pub(crate) fn flow_of(key: &mark_key) -> Option<Key> {
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|p| p.number() == key.protocol)?;
    let end = |addr: [u8; 16], port: u16| Endpoint::new(IpAddr::from(addr), u16::from_be(port));
    Some(Key {
        protocol,
        local: end(key.local_addr, key.local_port),
        remote: end(key.remote_addr, key.remote_port),
    })
}

/// IPv4 as IPv4-mapped, which is never in an IPv6 packet.
fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Length of a jiffy: the kernel's coarse clocks advance by one (`CONFIG_HZ`, without needing the kernel's config).
pub(crate) fn tick() -> Duration {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `resolution` is a valid timespec that the call only writes to, and this clock exists on every Linux.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    Duration::new(resolution.tv_sec.unsigned_abs(), resolution.tv_nsec as u32)
}
