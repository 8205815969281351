//! Loading the programs: with the maps that an earlier daemon left, if they fit, else with new ones.

use std::path::Path;

use libbpf_rs::{MapCore, MapHandle, Object, ObjectBuilder, OpenObject};
use zerocopy::IntoBytes;

use super::abi::{mark_constants, mark_interface};
use super::slots::Slots;
use super::{Maps, Marker, Settings, install, map, pin, tags};
use crate::{Error, Result};

static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mark.bpf.o"));
/// Which an old kernel may refuse; what they are for is then not available. Tried with all, without the first, and so on.
const OPTIONAL: [&[&str]; 2] = [&["flowtag_statistics"], &["flowtag_owner", "flowtag_close"]];
/// Maps that outlive the daemon. Not among them: caches.
const KEPT: [&str; 20] = [
    map::FLOWS,
    map::SLOTS,
    map::FILTER,
    map::INTERFACES,
    map::COUNTERS,
    map::TAGS,
    map::CLASSES,
    map::EVENTS,
    map::LOST,
    map::TOLD,
    map::OWNERS,
    map::RULES,
    map::BANKS,
    map::SETS,
    map::ACTIONS,
    map::VALUES,
    map::PORTS,
    map::PREFIXES,
    map::KNOWN,
    map::ARRIVED,
];

impl Marker {
    /// Loads the programs; nothing new is attached and no packet is touched yet. What an earlier daemon left pinned goes
    /// on, and its flows are [`Self::adopted`].
    ///
    /// # Errors
    /// [`Error::Load`]: no permission (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON or root), no BTF, no memory.
    /// [`Error::Pin`]: no bpffs where [`Settings::pin`] says.
    pub fn load(settings: &Settings) -> Result<Self> {
        let taken = settings.pin.as_deref().map(pin::prepare).transpose()?;
        let inherited = settings.pin.as_ref().is_some_and(|dir| dir.join(map::FLOWS).exists());
        let adopted = settings.pin.as_deref().map(pin::read_flows).transpose()?.unwrap_or_default();
        let object = load_with_pins(settings)?;
        let failed = |source| Error::Load { feature: "mark", source };
        let maps = Maps::of(&object).map_err(failed)?;
        let shared = |source| Error::Query { what: "memory to share with the marking program", source };
        let slots = Slots::map(maps.get(map::SLOTS), maps.get(map::FILTER)).map_err(shared)?;
        let tags = tags::Tags::read(&maps)?;
        let rules = install::Installed::read(&maps)?;
        let closing = object.progs_mut().find(|p| p.name() == "flowtag_close" && p.autoload());
        let closing = closing.map(|p| p.attach_trace()).transpose().map_err(failed)?;
        if let (Some(dir), Some(link)) = (&settings.pin, &closing) {
            pin::keep_link(dir, pin::CLOSING, link)?;
        }
        let earlier = earlier_slots(&maps)?;
        let mut marker = Self {
            flags: install::flags(settings, &rules),
            object,
            maps,
            slots,
            tags,
            settings: settings.clone(),
            attached: std::collections::HashMap::new(),
            adopted: Vec::new(),
            earlier,
            inherited,
            rules,
            overhead: 0,
            closing,
            owner: None,
            taken,
        };
        marker.adopt(adopted)?;
        Ok(marker)
    }

    /// Puts the flows of an earlier daemon into the table, unless they are in it already, and makes the slots true. Of a
    /// table that is smaller now, those that it holds.
    fn adopt(&mut self, adopted: Vec<pin::Adopted>) -> Result<()> {
        if self.settings.pin.is_none() {
            return Ok(());
        }
        let mut kept = Vec::with_capacity(adopted.len());
        for flow in &adopted {
            let (key, word) = (super::key_of(&flow.key), self.word(flow.mark)?);
            let value = super::abi::mark_value { word, last_seen: 0, start: flow.start };
            match self.maps.get(map::FLOWS).update(
                key.as_bytes(),
                value.as_bytes(),
                libbpf_rs::MapFlags::NO_EXIST,
            ) {
                Ok(()) => {}
                Err(e) if e.kind() == libbpf_rs::ErrorKind::AlreadyExists => {}
                Err(e) if e.kind() == libbpf_rs::ErrorKind::TooBig => {
                    let unmarked = adopted.len() - kept.len();
                    tracing::warn!(unmarked, "flows.max is less than the flows of the daemon before");
                    break;
                }
                Err(e) => return Err(self.write_error(e)),
            }
            kept.push((key, word));
        }
        self.slots.rebuild(kept.iter().map(|(key, word)| (key, *word)));
        self.adopted = adopted.into_iter().take(kept.len()).collect();
        if let Some(dir) = &self.settings.pin {
            pin::forget_earlier_flows(dir)?;
        }
        Ok(())
    }
}

/// Where interfaces are counted that an earlier daemon was attached to.
fn earlier_slots(maps: &Maps) -> Result<std::collections::HashMap<u32, u16>> {
    let mut slots = std::collections::HashMap::new();
    for interface in crate::link::all()? {
        let known: Option<mark_interface> =
            maps.read(map::INTERFACES, interface.index.as_bytes()).ok().flatten();
        slots.extend(known.filter(|i| i.known != 0).map(|i| (interface.index, i.slot)));
    }
    Ok(slots)
}

/// Maps of another size (`flows.max` changed, or interfaces with larger indices) are replaced by new ones.
fn load_with_pins(settings: &Settings) -> Result<Object> {
    let Some(dir) = settings.pin.as_deref() else { return load(settings, None) };
    // Seen before libbpf sees it, which would print a line for each map.
    let table = MapHandle::from_pinned_path(dir.join(map::FLOWS)).ok();
    if table.is_some_and(|table| table.max_entries() != settings.max_flows) {
        pin::set_maps_aside(dir)?;
    }
    match load(settings, Some(dir)) {
        Err(Error::Load { .. }) if dir.join(map::FLOWS).exists() => {
            pin::set_maps_aside(dir)?;
            load(settings, Some(dir))
        }
        result => result,
    }
}

/// Once more without the optional programs where the kernel refuses one.
fn load(settings: &Settings, pin: Option<&Path>) -> Result<Object> {
    let failed = |source| Error::Load { feature: "mark", source };
    let try_without = |left_out: usize| {
        let without = OPTIONAL.iter().take(left_out).copied().flatten().copied().collect::<Vec<_>>();
        open(settings, pin, &without).and_then(OpenObject::load)
    };
    match try_without(0) {
        Ok(object) => Ok(object),
        Err(first) => {
            (1..=OPTIONAL.len()).find_map(|left_out| try_without(left_out).ok()).ok_or_else(|| failed(first))
        }
    }
}

fn open(settings: &Settings, pin: Option<&Path>, without: &[&str]) -> libbpf_rs::Result<OpenObject> {
    let mut open = ObjectBuilder::default().open_memory(OBJECT)?;
    let slots = Slots::count_for(settings.max_flows);
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let path = pin.filter(|_| KEPT.contains(&name.as_str())).map(|dir| dir.join(&name));
        match name.as_str() {
            map::FLOWS => map.set_max_entries(settings.max_flows)?,
            map::SLOTS => map.set_max_entries(slots)?,
            map::FILTER => map.set_max_entries(Slots::filter_words(slots))?,
            map::INTERFACES => {
                let kept = path.as_ref().and_then(|path| MapHandle::from_pinned_path(path).ok());
                map.set_max_entries(interface_limit(kept.map_or(0, |m| m.max_entries())))?;
            }
            name if name.ends_with(".rodata") => {
                // Behind our variable may be what the compiler put there.
                let constants = constants(slots, &settings.entropy_key);
                if let Some(data) = map.initial_value_mut().and_then(|d| d.get_mut(..size_of_val(&constants)))
                {
                    data.copy_from_slice(constants.as_bytes());
                }
            }
            _ => {}
        }
        if let Some(path) = path {
            map.set_pin_path(path)?;
        }
    }
    for mut program in open.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if without.contains(&name.as_str()) {
            program.set_autoload(false);
        }
    }
    Ok(open)
}

fn constants(slots: u32, entropy_key: &[u8; 16]) -> mark_constants {
    let (first, second) = entropy_key.split_at(8);
    // As SipHash takes its key: two words of the bytes in order, little-endian.
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
    mark_constants { slot_mask: slots - 1, pad: 0, entropy_key: [word(first), word(second)] }
}

/// Indices only grow; room for as many again before a restart is needed. 20 bytes each.
fn interface_limit(kept: u32) -> u32 {
    let largest = crate::link::all().ok().and_then(|all| all.last().map(|i| i.index)).unwrap_or(0);
    if largest < kept { kept } else { largest.saturating_mul(2).clamp(4096, 1 << 24).next_power_of_two() }
}
