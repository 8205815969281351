//! Loading a probe's object: with what this kernel has, and with the maps that all probes share.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::Duration;

use libbpf_rs::{Link, Map, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, ProgramMut};
use zerocopy::{FromBytes, IntoBytes};

use super::abi::{observe_count, observe_settings};
use super::description::Description;
use crate::btf::Vmlinux;
use crate::features::hooks;
use crate::{Error, Result, cgroup};

/// A probe's programs in the kernel. Dropping it takes them out.
#[derive(Debug)]
pub struct Loaded {
    probe: &'static Description,
    object: Object,
    links: Vec<Link>,
    missing: Vec<Missing>,
    netns: Option<u32>,
}

/// What this kernel cannot do of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The hook that is not there: `tracepoint tcp_probe`.
    pub hook: String,
    /// What is not known for want of it.
    pub consequence: String,
}

/// What a program cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunTime {
    /// Name of the program.
    pub program: String,
    /// How long it ran, the kernel's clock included.
    pub time: Duration,
    /// How often.
    pub runs: u64,
}

/// Counts of what a probe could not tell, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Events that were told.
    pub events: u64,
    /// Events that were not: the ring was full.
    pub lost: u64,
    /// Sockets or keys that got an entry in a map.
    pub flows: u64,
    /// That did not: the map was full.
    pub evicted: u64,
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.lost += other.lost;
        self.flows += other.flows;
        self.evicted += other.evicted;
    }
}

/// What an object is loaded with.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) settings: observe_settings,
    /// Bytes of the ring, a power of two.
    pub(super) ring: u32,
    /// Bytes of `.rodata.probe`.
    pub(super) own: Vec<u8>,
    /// Programs that are left out though the kernel has their hooks.
    pub(super) unwanted: &'a [&'a str],
    /// Maps that exist already, by name.
    pub(super) shared: &'a [(&'static str, BorrowedFd<'a>)],
}

/// Bytes of a ring into which nothing is put.
const SMALLEST: u32 = 4096;
/// Programs of which a run more or less changes nothing.
const HARMLESS: [&str; 4] = ["flowtag_reader", "flowtag_writer", "flowtag_why_ack", "flowtag_why_again"];

impl Loaded {
    /// Loads the programs and attaches those at tracepoints and on the root of all cgroups.
    pub(super) fn load(probe: &'static Description, parts: &Parts<'_>) -> Result<Self> {
        let failed = |source| Error::Load { feature: probe.name, source };
        let (mut open, mut missing) = open(probe, parts, &[])?;
        let object = match open.load() {
            Ok(object) => object,
            // The verifier of this kernel may object to what is only nice to have.
            Err(first) => {
                let without: Vec<_> = probe.optional.iter().map(|(program, _)| *program).collect();
                open = self::open(probe, parts, &without)?.0;
                missing = probe.optional.iter().map(|optional| refused(optional, &first)).collect();
                open.load().map_err(|_| failed(first))?
            }
        };
        let netns = Some(parts.settings.netns).filter(|netns| *netns != 0);
        let mut loaded = Self { probe, object, links: Vec::new(), missing, netns };
        loaded.attach()?;
        Ok(loaded)
    }

    fn attach(&mut self) -> Result<()> {
        let failed = |source| Error::Load { feature: self.probe.name, source };
        for program in self.object.progs_mut().filter(|p| p.autoload()) {
            match Hook::of(program.section()) {
                Some(Hook::Tracepoint(_)) => self.links.push(program.attach_trace().map_err(failed)?),
                Some(Hook::Cgroup) => {
                    let root = cgroup::whole().and_then(File::open);
                    let root =
                        root.map_err(|source| Error::Query { what: "the root of its cgroups", source })?;
                    self.links.push(program.attach_cgroup(root.as_raw_fd()).map_err(failed)?);
                }
                Some(Hook::Iterator(_)) | None => {}
            }
        }
        Ok(())
    }

    /// The probe whose programs they are.
    #[must_use]
    pub fn probe(&self) -> &'static Description {
        self.probe
    }

    /// Number of the only network namespace that is looked at; none: all.
    pub(super) fn netns(&self) -> Option<u32> {
        self.netns
    }

    /// What this kernel lacks for it.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// A map of the object.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<Map<'_>> {
        self.object.maps().find(|map| map.name() == name)
    }

    /// A handle of a map that outlives this.
    ///
    /// # Errors
    /// [`Error::Map`] where there is none of that name.
    pub fn handle(&self, name: &'static str) -> Result<MapHandle> {
        let failed = |source| Error::Map { action: "open", map: name, source };
        let missing = || libbpf_rs::Error::from_raw_os_error(libc::ENOENT);
        let map = self.map(name).ok_or_else(missing).map_err(failed)?;
        MapHandle::try_from(&map).map_err(failed)
    }

    /// A program that was loaded; none where this kernel lacks its hook.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<ProgramMut<'_>> {
        self.object.progs_mut().find(|p| p.name() == name && p.autoload())
    }

    /// Every program that was loaded.
    pub fn programs(&self) -> impl Iterator<Item = ProgramMut<'_>> {
        self.object.progs_mut().filter(|p| p.autoload())
    }

    /// How long each program ran and how often, while somebody had the kernel count that (`kernel.bpf_stats_enabled`).
    /// Names are those of the object: the kernel cuts them.
    ///
    /// # Errors
    /// [`Error::Query`] where the kernel refuses.
    pub fn run_times(&self) -> Result<Vec<RunTime>> {
        let failed = |source| Error::Query { what: "how long its programs ran", source };
        let one = |program: ProgramMut<'_>| {
            let info = hooks::info(program.as_fd()).map_err(failed)?;
            let name = program.name().to_string_lossy().into_owned();
            Ok(RunTime { program: name, time: Duration::from_nanos(info.run_time_ns), runs: info.runs })
        };
        self.programs().map(one).collect()
    }

    /// Bytes of the kernel's memory that the maps take, as the kernel counts them (since Linux 6.4 what is in use, before what
    /// they may use); without what is kept with sockets.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let of = |map: Map<'_>| {
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).ok()?;
            text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse::<u64>().ok()
        };
        self.object.maps().filter_map(of).sum()
    }

    /// What was told and what was lost since the start.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn losses(&self) -> Result<Losses> {
        let of = |what: observe_count::Type| self.sum("observe_counts", what);
        Ok(Losses {
            events: of(observe_count::OBSERVE_EVENTS)?,
            lost: of(observe_count::OBSERVE_LOST)? + self.missed()?,
            flows: of(observe_count::OBSERVE_FLOWS)?,
            evicted: of(observe_count::OBSERVE_EVICTED)?,
        })
    }

    /// How often the kernel left a program out because an interrupt came in the middle of a run of the same program. Those
    /// that only learn owners, or look at what has been since their last run, lose nothing by it.
    fn missed(&self) -> Result<u64> {
        let failed = |source| Error::Query { what: "how often its programs were left out", source };
        let counts = self.programs().filter(|p| !p.name().to_str().is_some_and(|n| HARMLESS.contains(&n)));
        counts.map(|p| Ok(hooks::info(p.as_fd()).map_err(failed)?.misses)).sum()
    }

    /// The sum over all CPUs of an element of a per-CPU array of 64-bit numbers.
    fn sum(&self, name: &'static str, index: u32) -> Result<u64> {
        let failed = |source| Error::Map { action: "read", map: name, source };
        let Some(map) = self.map(name) else { return Ok(0) };
        let values = map.lookup_percpu(index.as_bytes(), MapFlags::ANY).map_err(failed)?;
        Ok(values.iter().flatten().filter_map(|v| u64::read_from_bytes(v).ok()).sum())
    }

    /// Every entry of a map, as keys and values of these types; of a per-CPU map one for each CPU.
    ///
    /// # Errors
    /// [`Error::Map`] where the kernel refuses.
    pub fn entries<K: FromBytes, V: FromBytes>(&self, name: &'static str) -> Result<Vec<(K, Vec<V>)>> {
        let failed = |source| Error::Map { action: "read", map: name, source };
        let Some(map) = self.map(name) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for key in map.keys() {
            let Ok(decoded) = K::read_from_bytes(&key) else { continue };
            let values = if map.map_type().is_percpu() {
                map.lookup_percpu(&key, MapFlags::ANY).map_err(failed)?.unwrap_or_default()
            } else {
                map.lookup(&key, MapFlags::ANY).map_err(failed)?.into_iter().collect()
            };
            found.push((
                decoded,
                values.iter().filter_map(|v| V::read_from_prefix(v).ok()).map(|v| v.0).collect(),
            ));
        }
        Ok(found)
    }
}

fn refused((program, consequence): &(&str, &str), error: &libbpf_rs::Error) -> Missing {
    Missing {
        hook: format!("what the program {program} takes: {error}"),
        consequence: (*consequence).to_owned(),
    }
}

/// Where a program is attached, as its section's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook<'a> {
    Tracepoint(&'a str),
    /// Run on request.
    Iterator(&'a str),
    Cgroup,
}

impl<'a> Hook<'a> {
    pub(super) fn of(section: &'a OsStr) -> Option<Self> {
        let section = section.to_str()?;
        match section.split_once('/') {
            Some(("tp_btf", name)) => Some(Self::Tracepoint(name)),
            Some(("iter", what)) => Some(Self::Iterator(what)),
            Some((kind, _)) if kind.starts_with("cgroup") => Some(Self::Cgroup),
            None if section == "sockops" => Some(Self::Cgroup),
            _ => None,
        }
    }

    /// None: it is there, as far as one can know without loading.
    pub(super) fn lack(self) -> Option<String> {
        let Some(kernel) = Vmlinux::get() else { return Some("BTF (/sys/kernel/btf/vmlinux)".to_owned()) };
        match self {
            _ if !keeps_with_sockets(kernel) => {
                Some("what tracing programs may keep with a socket (Linux 5.11)".to_owned())
            }
            Self::Tracepoint(name) => {
                kernel.arguments(name).is_none().then(|| format!("the tracepoint {name}"))
            }
            Self::Iterator(what) => {
                let there = kernel.has_struct(&format!("bpf_iter__{what}"));
                (!there).then(|| format!("the iterator over {what}"))
            }
            Self::Cgroup => cgroup::whole().is_err().then(|| "a mounted cgroup2 file system".to_owned()),
        }
    }
}

/// On this every probe stands. The kernel's BTF does not tell; a function that is as old as it does.
fn keeps_with_sockets(kernel: &Vmlinux) -> bool {
    static ONCE: OnceLock<bool> = OnceLock::new();
    *ONCE.get_or_init(|| kernel.has_enumerator("BPF_FUNC_sock_from_file"))
}

/// The object as this kernel can load it.
fn open(
    probe: &'static Description,
    parts: &Parts<'_>,
    without: &[&str],
) -> Result<(OpenObject, Vec<Missing>)> {
    let failed = |source| Error::Load { feature: probe.name, source };
    let mut open = ObjectBuilder::default().open_memory(probe.object).map_err(failed)?;
    let mut missing = Vec::new();
    for mut program in open.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if parts.unwanted.contains(&name.as_str()) || without.contains(&name.as_str()) {
            program.set_autoload(false);
        } else if let Some(hook) = Hook::of(program.section()).and_then(Hook::lack) {
            program.set_autoload(false);
            let optional = probe.optional.iter().find(|(optional, _)| *optional == name);
            let (_, consequence) =
                optional.ok_or_else(|| Error::Probe { probe: probe.name, hook: hook.clone() })?;
            missing.push(Missing { hook, consequence: (*consequence).to_owned() });
        }
    }
    fill(&mut open, parts).map_err(failed)?;
    Ok((open, missing))
}

/// Settings, sizes, and maps that exist already.
fn fill(open: &mut OpenObject, parts: &Parts<'_>) -> libbpf_rs::Result<()> {
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if let Some((_, fd)) = parts.shared.iter().find(|(shared, _)| *shared == name) {
            map.reuse_fd(*fd)?;
        } else if name == "observe_events" {
            map.set_max_entries(if parts.settings.events == 0 { SMALLEST } else { parts.ring })?;
        } else if name.ends_with(".rodata.observe") {
            set(&mut map, parts.settings.as_bytes());
        } else if name.ends_with(".rodata.probe") {
            set(&mut map, &parts.own);
        }
    }
    Ok(())
}

fn set(map: &mut libbpf_rs::OpenMapMut<'_>, bytes: &[u8]) {
    if let Some(data) = map.initial_value_mut().and_then(|d| d.get_mut(..bytes.len())) {
        data.copy_from_slice(bytes);
    }
}
