//! Bytes and packets of each flow at each interface.

pub mod abi;
mod count;

use std::collections::HashMap;
use std::net::IpAddr;

use flowtag_wire::Endpoint;

use self::abi::{top_flow, top_interface, top_interface_key, top_key, top_receiver, top_receiver_key};
use self::count::{Counted, counted};
use super::iterate::iterate;
use super::load::Loaded;
use super::record::{Context, Flow, Owner, Record, Value, monotonic};
use super::{Column, Description, Source, Unit};
use crate::Result;
use crate::mark::{Mark, printable_name};

/// `flowtag top`.
pub static PROBE: Description = Description {
    name: "top",
    about: "Show who sends and receives how much: bytes and packets by process, cgroup, tag, peer, interface",
    details: "Each line is of what --by says, by default of a process; - is what no process here has a socket for: forwarded \
              packets, ARP, answers of the kernel. Bytes and packets are those of the kernel's counters of the interface, headers \
              included. A flow that passes several interfaces (bond, VLAN, bridge) is counted once, where it has most; with --by \
              interface at each.",
    examples: &[
        ("top", "processes by bytes, every 5 seconds"),
        ("top --by tag,peer -i 10", "who sends for whom, and where to"),
        ("top --by unit 'port 1094 or 1095'", "services that use these ports"),
        ("--json top --by interface -d 60", "interfaces, for a program"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/top.bpf.o")),
    optional: &[("flowtag_receivers", "whose datagrams are that nobody answers")],
    flags: &[],
    columns: &[
        Column::sum("tx_bytes", "TX", Unit::Bytes, "Bytes sent, as the interface counts them").width(7),
        Column::sum("rx_bytes", "RX", Unit::Bytes, "Bytes received, likewise").width(7),
        Column::sum("tx_packets", "TX PKTS", Unit::Count, "Packets sent").width(7),
        Column::sum("rx_packets", "RX PKTS", Unit::Count, "Packets received").width(7),
    ],
    metrics: &[],
    settings: |_| Vec::new(),
    leave_out: || &[],
    at_start: &[],
    source: Source::Rows(rows),
};

/// Which column is of bytes sent, and which of bytes received.
const BYTES: [usize; 2] = [0, 1];

fn rows(loaded: &Loaded) -> Result<Vec<Record>> {
    let interfaces: HashMap<_, _> = entries::<top_interface_key, top_interface>(loaded, "top_interfaces")?
        .map(|(key, value)| ((key.netns, key.interface), value))
        .collect();
    let flows: Vec<_> = entries::<top_key, top_flow>(loaded, "top_flows")?.collect();
    iterate(loaded, "flowtag_receivers", &mut |_| {})?;
    let receivers = entries(loaded, "top_receivers")?;
    let owners = Owners::new(&flows, receivers);
    let mut rows: Vec<_> = flows.iter().map(|(key, flow)| row(key, flow, &interfaces, &owners)).collect();
    rows.extend(interfaces.iter().filter_map(|(key, interface)| other(*key, interface)));
    Ok(rows)
}

fn entries<K: zerocopy::FromBytes, V: zerocopy::FromBytes>(
    loaded: &Loaded,
    map: &'static str,
) -> Result<impl Iterator<Item = (K, V)>> {
    Ok(loaded
        .entries::<K, V>(map)?
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.into_iter().next()?))))
}

fn row(
    key: &top_key,
    flow: &top_flow,
    interfaces: &HashMap<(u32, u32), top_interface>,
    owners: &Owners,
) -> Record {
    let interface = interfaces.get(&(key.netns, key.interface));
    let context = Context {
        flow: Flow::from_key(&key.key),
        tag: Mark::from_word(flow.word).and_then(|mark| mark.label.tag()),
        ..context(key.netns, key.interface)
    };
    let (cookie, owner) = owners.of(key.netns, context.flow).unwrap_or_default();
    let context = Context { cookie, owner, ..context };
    let sums = [(&flow.sent, true), (&flow.received, false)];
    record(context, sums.map(|(sum, is_sent)| counted(sum, interface, is_sent)))
}

/// What had no row of its own.
fn other(key: (u32, u32), interface: &top_interface) -> Option<Record> {
    let sums = [(&interface.sent, true), (&interface.received, false)];
    let counts = sums.map(|(sum, is_sent)| counted(sum, Some(interface), is_sent));
    (counts != [Counted::default(); 2]).then(|| record(context(key.0, key.1), counts))
}

fn context(netns: u32, interface: u32) -> Context {
    Context { time: monotonic(), netns: Some(netns), interface: Some(interface), ..Context::default() }
}

fn record(context: Context, [sent, received]: [Counted; 2]) -> Record {
    let values = [sent.bytes, received.bytes, sent.packets, received.packets].map(Value::from).to_vec();
    Record { context, values }
}

type Socket = (Option<u64>, Owner);

/// Whose flows are, from what they sent; of those that only receive from the sockets there are.
#[derive(Default)]
struct Owners {
    flows: HashMap<(u32, Flow), Socket>,
    /// By network namespace, protocol and local end, which may be of any address.
    receivers: HashMap<(u32, u8, Endpoint), Socket>,
}

impl Owners {
    fn new(
        flows: &[(top_key, top_flow)],
        receivers: impl Iterator<Item = (top_receiver_key, top_receiver)>,
    ) -> Self {
        let mut owners = Self::default();
        for (key, flow) in flows.iter().filter(|(_, flow)| flow.is_of_socket != 0) {
            let Some(known) = Flow::from_key(&key.key) else { continue };
            let cookie = (flow.cookie != 0).then_some(flow.cookie);
            let socket = (cookie, Owner::from(&flow.owner));
            let is_better = |old: &Socket| old.1.pid.is_none();
            let entry = owners.flows.entry((key.netns, known)).or_insert_with(|| socket.clone());
            if is_better(entry) {
                *entry = socket;
            }
        }
        for (key, receiver) in receivers {
            let Some(flow) = Flow::from_key(&key.key) else { continue };
            let cookie = (receiver.cookie != 0).then_some(receiver.cookie);
            let at = (key.netns, flow.protocol, flow.local);
            owners.receivers.insert(at, (cookie, Owner::from(&receiver.owner)));
        }
        owners
    }

    fn of(&self, netns: u32, flow: Option<Flow>) -> Option<Socket> {
        let flow = flow?;
        let any = |addr: IpAddr| (netns, flow.protocol, Endpoint::new(addr, flow.local.port()));
        let sent = self.flows.get(&(netns, flow)).filter(|(_, owner)| owner.pid.is_some());
        let found = sent
            .or_else(|| self.receivers.get(&(netns, flow.protocol, flow.local)))
            .or_else(|| {
                self.receivers
                    .get(&any(std::net::Ipv4Addr::UNSPECIFIED.into()))
                    .filter(|_| flow.local.addr().is_ipv4())
            })
            .or_else(|| self.receivers.get(&any(std::net::Ipv6Addr::UNSPECIFIED.into())));
        found.or_else(|| self.flows.get(&(netns, flow))).cloned()
    }
}

/// A flow that passes several interfaces of a network namespace once: where it has most bytes. What is of no flow stays.
#[must_use]
pub fn once(records: Vec<Record>) -> Vec<Record> {
    let bytes = |record: &Record| {
        let of = |n: usize| match record.values.get(n) {
            Some(Value::Count(bytes)) => *bytes,
            _ => 0,
        };
        BYTES.map(of).iter().sum::<u64>()
    };
    let mut most: HashMap<_, (u64, u32)> = HashMap::new();
    for record in &records {
        let Context { netns, flow: Some(flow), interface: Some(interface), .. } = record.context else {
            continue;
        };
        let this = (bytes(record), interface);
        most.entry((netns, flow)).and_modify(|most| *most = this.max(*most)).or_insert(this);
    }
    let is_most = |record: &Record| {
        let most = record.context.flow.and_then(|flow| most.get(&(record.context.netns, flow)));
        most.is_none_or(|(_, interface)| record.context.interface == Some(*interface))
    };
    records.into_iter().filter(is_most).collect()
}

/// Names of the interfaces that were seen, by network namespace and index: also of namespaces that cannot be entered.
///
/// # Errors
/// [`crate::Error::Map`] where the kernel refuses.
pub fn interfaces(loaded: &Loaded) -> Result<Vec<(u32, u32, String)>> {
    let all = entries::<top_interface_key, top_interface>(loaded, "top_interfaces")?;
    Ok(all.filter_map(|(key, i)| Some((key.netns, key.interface, printable_name(&i.name)?))).collect())
}
