//! Putting rules and prefixes into the maps that the programs look them up in.
//!
//! There are two banks. The one that no packet is judged by is written; then one word says that it is the one that counts.
//! So a packet is judged by the old rules or by the new ones, never by a mixture.

use std::time::{Duration, Instant};

use flowtag_wire::{ScitagInteger, Tag};
use ipnet::IpNet;
use libbpf_rs::MapCore;
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{
    mark_interface_flags as bits, mark_prefix, mark_prefix_kind as kind, mark_registered, mark_rule,
    mark_rule_bank, mark_rule_limits as limits, mark_rule_value, mark_rules, mark_strip,
};
use super::rules::{Compiled, Rule, compile};
use super::{Maps, Marker, Settings, map, pin};
use crate::{Error, Result};

/// How long a program may still be at work with the bank that was replaced: longer than any packet takes.
const GRACE: Duration = Duration::from_millis(20);

/// A prefix whose hosts must not see tags, or whose tags must not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strip {
    /// Addresses at the other end.
    pub prefix: IpNet,
    /// Clear what goes there.
    pub egress: bool,
    /// Clear what comes from there.
    pub ingress: bool,
}

/// What is in the maps.
#[derive(Debug, Default)]
pub(super) struct Installed {
    generation: u32,
    count: usize,
    since: Option<Instant>,
    /// Both directions together, as `enum mark_strip`.
    strip: u32,
}

impl Installed {
    /// What an earlier daemon left.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let rules: Option<mark_rules> = maps.read(map::RULES, 0_u32.as_bytes())?;
        let generation = rules.map_or(0, |r| r.generation);
        let bank: Option<mark_rule_bank> = maps.read(map::BANKS, (generation & 1).as_bytes())?;
        let count = if generation == 0 { 0 } else { bank.map_or(0, |b| b.words as usize) };
        let mut strip = 0;
        for key in maps.get(map::PREFIXES).keys() {
            if mark_prefix::read_from_bytes(&key).is_ok_and(|k| u32::from(k.kind) == kind::MARK_PREFIX_STRIP)
            {
                strip |= maps.read::<u32>(map::PREFIXES, &key)?.unwrap_or(0);
            }
        }
        Ok(Self { generation, count, since: None, strip })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What interfaces are told before any rule is set by us.
pub(super) fn flags(settings: &Settings, installed: &Installed) -> u8 {
    let flag = |on, bit| if on { bit } else { 0 };
    let rules = flag(!installed.is_empty(), bits::MARK_IF_RULES);
    let ingress = flag(settings.ingress, bits::MARK_IF_COUNT_INGRESS);
    let out = flag(installed.strip & mark_strip::MARK_STRIP_EGRESS != 0, bits::MARK_IF_STRIP_EGRESS);
    let into = flag(installed.strip & mark_strip::MARK_STRIP_INGRESS != 0, bits::MARK_IF_STRIP_INGRESS);
    (rules | ingress | out | into) as u8
}

impl Marker {
    /// From now on packets in no flow of the table are judged by these rules, in this order, and no others. Gives the
    /// number by which [`super::Event::Matched`] refers to them.
    ///
    /// # Errors
    /// [`Error::Rules`]: they cannot be compiled; the old rules stay in force. [`Error::Map`] where the kernel refuses.
    pub fn set_rules(&mut self, rules: &[Rule]) -> Result<u32> {
        let mut class = 0;
        let mut failed = None;
        let compiled = compile(rules, &mut |tag| match self.tags.class(tag, &self.maps) {
            Ok(n) => n,
            Err(e) => {
                failed = Some(e);
                std::mem::take(&mut class)
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if self.rules.count == 0 && rules.is_empty() {
            return Ok(self.rules.generation);
        }
        if let Some(since) = self.rules.since {
            std::thread::sleep(GRACE.saturating_sub(since.elapsed()));
        }
        let generation = self.rules.generation.wrapping_add(1).max(1);
        self.write_bank(generation & 1, &compiled)?;
        self.watch_owners(rules)?;
        let header = mark_rules { generation, pad: 0 };
        self.maps.write(map::RULES, 0_u32.as_bytes(), header.as_bytes())?;
        self.rules = Installed {
            generation,
            count: rules.len(),
            since: Some(Instant::now()),
            strip: self.rules.strip,
        };
        self.set_flag(bits::MARK_IF_RULES, !rules.is_empty())?;
        Ok(generation)
    }

    fn set_flag(&mut self, flag: u32, on: bool) -> Result<()> {
        let before = self.flags;
        self.flags = if on { before | flag as u8 } else { before & !(flag as u8) };
        if self.flags == before { Ok(()) } else { self.renew_lease() }
    }

    fn write_bank(&self, bank: u32, compiled: &Compiled) -> Result<()> {
        self.forget(map::VALUES, |key: &mark_rule_value| u32::from(key.bank) == bank)?;
        self.forget(map::PREFIXES, |key: &mark_prefix| {
            u32::from(key.kind) != kind::MARK_PREFIX_STRIP && u32::from(key.bank) == bank
        })?;
        for (class, set) in (0_u32..).zip(&compiled.sets) {
            self.maps.write(
                map::SETS,
                (bank * limits::MARK_MAX_CLASSES + class).as_bytes(),
                set.as_bytes(),
            )?;
        }
        for (number, action) in (0_u32..).zip(&compiled.actions) {
            let mut rule =
                mark_rule { action: action.action, strategy: action.strategy, tags: 0, pad: 0, tag: [0; 16] };
            rule.tags = action.tags.len() as u32;
            rule.tag.iter_mut().zip(&action.tags).for_each(|(slot, tag)| *slot = *tag);
            self.maps.write(
                map::ACTIONS,
                (bank * limits::MARK_MAX_RULES + number).as_bytes(),
                rule.as_bytes(),
            )?;
        }
        for (side, classes) in (0_u32..).zip([&compiled.local_ports, &compiled.remote_ports]) {
            if let Some(classes) = classes {
                self.maps.write(map::PORTS, (bank * 2 + side).as_bytes(), classes.as_bytes())?;
            }
        }
        let bank8 = bank as u8;
        for value in &compiled.values {
            let key =
                mark_rule_value { bank: bank8, dimension: value.dimension, pad: [0; 6], value: value.value };
            self.maps.write(map::VALUES, key.as_bytes(), u32::from(value.class).as_bytes())?;
        }
        for prefix in &compiled.prefixes {
            let side =
                if prefix.remote { kind::MARK_PREFIX_RULE_REMOTE } else { kind::MARK_PREFIX_RULE_LOCAL };
            let key = prefix_key(bank8, side as u8, prefix.addr, prefix.len);
            self.maps.write(map::PREFIXES, key.as_bytes(), u32::from(prefix.class).as_bytes())?;
        }
        let header = mark_rule_bank {
            words: compiled.bank.words,
            used: compiled.bank.used,
            cgroup_levels: compiled.bank.cgroup_levels,
            any: compiled.bank.any.map(u32::from),
        };
        self.maps.write(map::BANKS, bank.as_bytes(), header.as_bytes())
    }

    fn forget<K: FromBytes>(&self, name: &'static str, which: impl Fn(&K) -> bool) -> Result<()> {
        let map = self.maps.get(name);
        let old: Vec<_> =
            map.keys().filter(|bytes| K::read_from_bytes(bytes).is_ok_and(|k| which(&k))).collect();
        let failed = |source| Error::Map { action: "delete from", map: name, source };
        old.iter().try_for_each(|key| map.delete(key).map_err(failed))
    }

    /// Names of processes are noted as sockets are made, while some rule asks for them.
    fn watch_owners(&mut self, rules: &[Rule]) -> Result<()> {
        if rules.iter().all(|rule| rule.processes.is_empty()) {
            self.owner = None;
            return self.settings.pin.as_deref().map_or(Ok(()), |dir| pin::forget_link(dir, pin::OWNER));
        }
        if self.owner.is_some() {
            return Ok(());
        }
        let query =
            |source| Error::Query { what: "the cgroup hierarchy, which rules with `process` need", source };
        let root = crate::cgroup::root().map_err(query)?;
        let root = std::fs::File::open(root).map_err(query)?;
        let program = self.program("flowtag_owner");
        let failed = |source| Error::Map {
            action: "attach the program that notes who makes sockets to",
            map: "cgroup hierarchy",
            source,
        };
        let link = program.attach_cgroup(std::os::fd::AsRawFd::as_raw_fd(&root)).map_err(failed)?;
        if let Some(dir) = &self.settings.pin {
            pin::keep_link(dir, pin::OWNER, &link)?;
        }
        self.owner = Some(link);
        Ok(())
    }

    /// From now on tags are cleared in packets to and from these prefixes, and no others.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn set_strip(&mut self, prefixes: &[Strip]) -> Result<()> {
        if prefixes.is_empty() && self.rules.strip == 0 {
            return Ok(());
        }
        self.forget(map::PREFIXES, |key: &mark_prefix| u32::from(key.kind) == kind::MARK_PREFIX_STRIP)?;
        for strip in prefixes {
            let egress = if strip.egress { mark_strip::MARK_STRIP_EGRESS } else { 0 };
            let ingress = if strip.ingress { mark_strip::MARK_STRIP_INGRESS } else { 0 };
            let (addr, len) = mapped(strip.prefix);
            let key = prefix_key(0, kind::MARK_PREFIX_STRIP as u8, addr, len);
            self.maps.write(map::PREFIXES, key.as_bytes(), (egress | ingress).as_bytes())?;
        }
        let directions = |s: &Strip| u32::from(s.egress) | u32::from(s.ingress) << 1;
        self.rules.strip = prefixes.iter().map(directions).fold(0, |all, s| all | s);
        self.set_flag(bits::MARK_IF_STRIP_EGRESS, prefixes.iter().any(|s| s.egress))?;
        self.set_flag(bits::MARK_IF_STRIP_INGRESS, prefixes.iter().any(|s| s.ingress))
    }

    /// Tags that count as meant where they arrive in a flow label, as most random labels read as some tag.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn set_registered(&self, tags: impl Iterator<Item = Tag>) -> Result<()> {
        let mut known = mark_registered { bits: [0; 512] };
        for tag in tags {
            let number = usize::from(ScitagInteger::from(tag).get());
            known.bits[number / 64] |= 1 << (number % 64);
        }
        self.maps.write(map::KNOWN, 0_u32.as_bytes(), known.as_bytes())
    }

    /// Whether the kernel notes who makes sockets, which rules with process names need.
    #[must_use]
    pub fn knows_processes(&self) -> bool {
        self.object.progs().any(|p| p.name() == "flowtag_owner" && p.autoload())
    }
}

fn prefix_key(bank: u8, kind: u8, addr: [u8; 16], len: u8) -> mark_prefix {
    mark_prefix { len: 16 + u32::from(len), bank, kind, addr, pad: [0; 2] }
}

/// IPv4 as IPv4-mapped, as in the keys of flows.
fn mapped(prefix: IpNet) -> ([u8; 16], u8) {
    match prefix {
        IpNet::V6(net) => (net.network().octets(), net.prefix_len()),
        IpNet::V4(net) => (net.network().to_ipv6_mapped().octets(), 96 + net.prefix_len()),
    }
}
