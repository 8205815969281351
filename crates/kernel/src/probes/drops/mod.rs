//! Packets that the kernel drops: why, where in its code, at which interface, of whose flow.

pub mod abi;
mod reason;

use std::collections::HashMap;

use zerocopy::IntoBytes;

pub use self::reason::{BENIGN, BENIGN_PLACES, reason_name};

use self::abi::{drops_interface, drops_key, drops_limits, drops_name, drops_settings, drops_sum};
use super::record::{self, Context, Flow, Owner, Record, Value};
use super::{Column, Description, Flag, Loaded, Measure, Metric, Options, Source, Unit};
use crate::btf::Vmlinux;
use crate::kallsyms::{self, Symbol};
use crate::mark::{self, Mark};
use crate::{Result, link};

const TRACEPOINT: &str = "kfree_skb";
/// Where the tracepoint has the reason, on every kernel that has it.
const REASON_ARGUMENT: usize = 2;
/// What found no room in the map of rows.
const OTHER: &str = "(other)";

/// `flowtag drops`.
pub static PROBE: Description = Description {
    name: "drops",
    about: "Show which packets this host drops: why, where in the kernel, at which interface, of whose flow",
    details: "Reasons are the kernel's own, as the running kernel calls them; before Linux 5.17 there are none, and only the \
              place in the kernel's code is told. What is no loss is hidden, and counted at the end.",
    examples: &[
        ("drops", "sums every five seconds, all at the end"),
        ("drops -i 1 --by reason", "once a second, by reason alone"),
        ("drops --by flow,reason", "which flows lose packets here"),
        ("drops --stack --port 1094", "how the kernel came to the place"),
        ("drops --tag cms --json -d 1m", "of an experiment, for programs"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/drops.bpf.o")),
    optional: &[],
    flags: &[
        Flag { name: "all", help: "Show also what is no loss: duplicates, resets, packets for other hosts" },
        Flag { name: "flows", help: "Tell flows apart (`--by flow` and `--by peer` do by themselves)" },
        Flag { name: "stack", help: "Show below each row which functions called which" },
    ],
    columns: &[
        Column::text("reason", "REASON", 28, "Why, in the kernel's words"),
        Column::text(
            "location",
            "LOCATION",
            32,
            "Where in the kernel's code: function and bytes from its beginning",
        ),
        Column::text("function", "FUNCTION", 28, "The function alone").rank(Column::HIDDEN),
        Column::text("interface", "IF", 10, "Interface that it came in by, or was to leave by"),
        Column::text("protocol", "PROTOCOL", 8, "Transport protocol, or what it is instead of IP")
            .rank(Column::HIDDEN),
        Column::text("stack", "STACK", 28, "Functions that led there, the innermost first")
            .rank(Column::HIDDEN),
        Column::sum("packets", "PACKETS", Unit::None, "Packets; one before it is cut (GSO) is one"),
        Column::sum("bytes", "BYTES", Unit::Bytes, "Bytes of them, without headers that were taken off"),
    ],
    metrics: &[Metric {
        name: "flowtag_skb_drops",
        unit: Some("packets"),
        help: "Packets that the kernel dropped",
        labels: &["reason", "location", "interface"],
        measure: Measure::Sum("packets"),
    }],
    settings,
    leave_out: || &[],
    at_start: &[],
    source: Source::Rows(losses_only),
};

/// Rows are not told apart by process and cgroup, of which there is no end in a long time.
pub const NO_OWNERS: &str = "no-owners";

fn settings(options: &Options) -> Vec<u8> {
    let kernel = Vmlinux::get();
    let reason = kernel.and_then(|k| k.argument_of_enum(TRACEPOINT, "skb_drop_reason"));
    let arguments = kernel.and_then(|k| k.arguments(TRACEPOINT)).unwrap_or(0);
    let settings = drops_settings {
        has_reason: (reason == Some(REASON_ARGUMENT)).into(),
        has_socket: (reason == Some(REASON_ARGUMENT) && arguments > REASON_ARGUMENT + 1).into(),
        flows: options.has("flows").into(),
        stacks: options.has("stack").into(),
        owners: (!options.has(NO_OWNERS)).into(),
        pad: 0,
    };
    settings.as_bytes().to_vec()
}

/// A row, and why it is no loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What is told.
    pub record: Record,
    /// The word under which it is counted where it is hidden; none: it is a loss.
    pub benign: Option<&'static str>,
}

fn losses_only(loaded: &Loaded) -> Result<Vec<Record>> {
    Ok(rows(loaded)?.into_iter().filter(|row| row.benign.is_none()).map(|row| row.record).collect())
}

/// All rows, what is no loss among them.
///
/// # Errors
/// [`crate::Error::Map`] where the kernel refuses.
pub fn rows(loaded: &Loaded) -> Result<Vec<Row>> {
    let mut raw: Vec<(drops_key, drops_sum)> = sums(loaded.entries("drops_rows")?);
    raw.extend(sums(loaded.entries("drops_flows")?));
    let known = Known::of(loaded, &raw)?;
    let mut rows: Vec<_> = raw.iter().map(|(key, sum)| known.row(key, sum)).collect();
    let other: Vec<(u32, drops_sum)> = sums(loaded.entries("drops_other")?);
    rows.extend(other.iter().filter(|(_, sum)| sum.packets > 0).map(|(_, sum)| other_row(sum)));
    Ok(rows)
}

/// Of all CPUs together.
fn sums<K>(entries: Vec<(K, Vec<drops_sum>)>) -> Vec<(K, drops_sum)> {
    let add = |values: Vec<drops_sum>| {
        values.iter().fold(drops_sum { packets: 0, bytes: 0 }, |sum, one| drops_sum {
            packets: sum.packets + one.packets,
            bytes: sum.bytes + one.bytes,
        })
    };
    entries.into_iter().map(|(key, values)| (key, add(values))).collect()
}

fn other_row(sum: &drops_sum) -> Row {
    let mut values = vec![Value::None; PROBE.columns.len() - 2];
    if let Some(first) = values.first_mut() {
        *first = OTHER.into();
    }
    values.extend([sum.packets.into(), sum.bytes.into()]);
    let context = Context { time: record::monotonic(), ..Context::default() };
    Row { record: Record { context, values }, benign: None }
}

/// Names of what rows have numbers for.
struct Known {
    has_reason: bool,
    symbols: HashMap<u64, Symbol>,
    stacks: HashMap<i32, Vec<u64>>,
    interfaces: HashMap<(u32, u32), String>,
    processes: HashMap<u32, String>,
}

type Stack = [u64; drops_limits::DROPS_STACK_DEPTH as usize];

impl Known {
    fn of(loaded: &Loaded, raw: &[(drops_key, drops_sum)]) -> Result<Self> {
        let stacks: HashMap<i32, Vec<u64>> = if raw.iter().any(|(key, _)| key.stack >= 0) {
            let entries = loaded.entries::<i32, Stack>("drops_stacks")?.into_iter();
            let calls = |stack: &Stack| stack.iter().copied().take_while(|address| *address != 0).collect();
            entries.filter_map(|(id, stacks)| Some((id, calls(stacks.first()?)))).collect()
        } else {
            HashMap::new()
        };
        let addresses = raw.iter().map(|(key, _)| key.location).chain(stacks.values().flatten().copied());
        let symbols = kallsyms::locate(addresses);
        let kernel = Vmlinux::get();
        Ok(Self {
            has_reason: kernel.is_some_and(|k| k.argument_of_enum(TRACEPOINT, "skb_drop_reason").is_some()),
            symbols,
            stacks,
            interfaces: interfaces(loaded)?,
            processes: names(loaded.entries::<u32, drops_name>("drops_processes")?),
        })
    }

    fn row(&self, key: &drops_key, sum: &drops_sum) -> Row {
        let reason = if self.has_reason { reason_name(key.reason) } else { "-".to_owned() };
        let function = self.symbols.get(&key.location).map_or("", |symbol| symbol.name.as_str());
        let benign = reason::benign(&reason, function, key.ethertype == 0 && key.interface == 0);
        let function = (!function.is_empty()).then(|| function.to_owned());
        let values = vec![
            Value::from(self.has_reason.then_some(reason)),
            self.place(key.location).into(),
            function.into(),
            self.interface(key).into(),
            protocol(key).into(),
            self.stack(key).into(),
            sum.packets.into(),
            sum.bytes.into(),
        ];
        Row { record: Record { context: self.context(key), values }, benign }
    }

    fn context(&self, key: &drops_key) -> Context {
        let owner = Owner {
            pid: (key.pid != 0).then_some(key.pid),
            user: None,
            process: self.processes.get(&key.pid).cloned(),
            cgroup: (key.cgroup != 0).then_some(key.cgroup),
        };
        Context {
            time: record::monotonic(),
            flow: Flow::from_key(&key.flow),
            cookie: None,
            tag: Mark::from_word(key.word).and_then(|mark| mark.label.tag()),
            owner,
            netns: (key.netns != 0).then_some(key.netns),
            interface: (key.interface != 0).then_some(key.interface),
        }
    }

    fn place(&self, address: u64) -> String {
        self.symbols.get(&address).map_or_else(|| format!("{address:#x}"), Symbol::to_string)
    }

    fn interface(&self, key: &drops_key) -> Option<String> {
        let name = || self.interfaces.get(&(key.netns, key.interface)).cloned();
        (key.interface != 0).then(|| name().unwrap_or_else(|| format!("if{}", key.interface)))
    }

    /// Without the functions that only carry the drop to whoever looks at it.
    fn stack(&self, key: &drops_key) -> Option<String> {
        let calls = self.stacks.get(&key.stack)?;
        let start = calls.iter().position(|address| *address == key.location).unwrap_or(0);
        let calls: Vec<_> = calls.iter().skip(start).map(|address| self.place(*address)).collect();
        Some(calls.join(";"))
    }
}

/// Of all namespaces, as the program met them, and of our own.
fn interfaces(loaded: &Loaded) -> Result<HashMap<(u32, u32), String>> {
    let own = super::own_netns().unwrap_or(0);
    let here = link::all().unwrap_or_default().into_iter().map(|link| ((own, link.index), link.name));
    let met = loaded.entries::<drops_interface, drops_name>("drops_interfaces")?.into_iter();
    let met = names(met.map(|(key, name)| ((key.netns, key.interface), name)).collect());
    Ok(here.chain(met).collect())
}

fn names<K: Eq + std::hash::Hash>(entries: Vec<(K, Vec<drops_name>)>) -> HashMap<K, String> {
    let name = |values: &[drops_name]| mark::printable_name(&values.first()?.text);
    entries.into_iter().filter_map(|(key, values)| Some((key, name(&values)?))).collect()
}

/// `tcp`, `arp`, `0x88cc`.
fn protocol(key: &drops_key) -> Option<String> {
    let by_number: &[(u8, &str)] =
        &[(1, "icmp"), (2, "igmp"), (6, "tcp"), (17, "udp"), (58, "icmp6"), (132, "sctp")];
    let by_ethertype: &[(u16, &str)] = &[
        (0x0800, "ip"),
        (0x0806, "arp"),
        (0x86dd, "ip6"),
        (0x8100, "vlan"),
        (0x88a8, "vlan"),
        (0x88cc, "lldp"),
    ];
    let ethertype = u16::from_be(key.ethertype);
    let known = |name: &&str| (*name).to_owned();
    if key.protocol != 0 {
        let name = by_number.iter().find(|(number, _)| *number == key.protocol).map(|(_, name)| name);
        return Some(name.map_or_else(|| key.protocol.to_string(), known));
    }
    let name = by_ethertype.iter().find(|(number, _)| *number == ethertype).map(|(_, name)| name);
    (ethertype != 0).then(|| name.map_or_else(|| format!("{ethertype:#06x}"), known))
}
