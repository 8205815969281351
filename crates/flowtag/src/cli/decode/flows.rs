//! Counts by flow: packets, bytes, times, and everything that the packets of a flow say about its owner.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use flowtag_wire::packet::Ports;
use flowtag_wire::{FlowLabel, Packet, Record};
use jiff::Timestamp;

use super::evidence::Evidence;
use super::tags::Tags;

/// Different labels and options that are kept of one flow. A sender with a new label in each packet fills it.
pub(super) const MAX_CLAIMS: usize = 16;

/// One direction of a flow. Packets without ports (ICMP, later fragments) are a flow of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) ports: Option<(u16, u16)>,
    pub(super) protocol: u8,
}

impl Key {
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        let ports = packet.ports.map(|Ports { src, dst }| (src, dst));
        Self { src: packet.src, dst: packet.dst, ports, protocol: packet.protocol }
    }

    /// The protocol's name, or its number.
    pub(super) fn protocol_name(&self) -> String {
        match self.protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            other => format!("protocol-{other}"),
        }
    }
}

/// `tcp [2001:db8::1]:443 > [2001:db8::2]:5001`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol_name();
        match self.ports {
            Some((src, dst)) => {
                let (src, dst) = (SocketAddr::new(self.src, src), SocketAddr::new(self.dst, dst));
                write!(f, "{protocol} {src} > {dst}")
            }
            None => write!(f, "{protocol} {} > {}", self.src, self.dst),
        }
    }
}

/// Packets and their bytes on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Count {
    pub(super) const fn add(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Something that packets of the flow say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) evidence: Evidence,
    pub(super) count: Count,
}

/// What is known of one flow.
#[derive(Debug, Default)]
pub(super) struct Flow {
    pub(super) count: Count,
    pub(super) first: Option<Timestamp>,
    pub(super) last: Option<Timestamp>,
    /// At most [`MAX_CLAIMS`], in the order of their appearance.
    pub(super) claims: Vec<Claim>,
    /// Labels and options, counted by packet, for which `claims` had no room.
    pub(super) claims_not_kept: u64,
    /// How often a packet had another label than the one before it.
    pub(super) label_changes: u64,
    latest_label: Option<FlowLabel>,
    is_label_not_kept: bool,
}

/// What became of the label over the life of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stability {
    /// IPv4 has none.
    Ipv4,
    /// It is 0 in every packet.
    Unset,
    /// The same in every packet.
    Stable,
    /// The same wherever it is not 0.
    Partial,
    /// Two and more values.
    Changed {
        /// The bits that are a tag differ.
        tag: bool,
        /// The bits that are none differ.
        entropy: bool,
    },
}

impl Flow {
    fn see(&mut self, record: &Record<'_>) {
        self.count.add(record.original_len);
        // Interfaces of one file may be out of order.
        if let Some(time) = record.timestamp {
            self.first = Some(self.first.map_or(time, |first| first.min(time)));
            self.last = Some(self.last.map_or(time, |last| last.max(time)));
        }
    }

    /// Whether this is the first time that the flow says this tag.
    fn claim(&mut self, evidence: Evidence, bytes: u32) -> bool {
        if let Some(claim) = self.claims.iter_mut().find(|claim| claim.evidence == evidence) {
            claim.count.add(bytes);
            return false;
        }
        if self.claims.len() >= MAX_CLAIMS {
            self.claims_not_kept += 1;
            self.is_label_not_kept |= matches!(evidence, Evidence::Label(_));
            return false;
        }
        let is_new = self.claims.iter().all(|claim| claim.evidence.tag() != evidence.tag());
        // Most flows say one thing for ever: no room is made for more.
        self.claims.reserve_exact(1);
        self.claims.push(Claim { evidence, count: Count { packets: 1, bytes: bytes.into() } });
        is_new
    }

    fn follow_label(&mut self, label: Option<FlowLabel>) {
        let changed = self.latest_label.is_some() && self.latest_label != label;
        self.label_changes += u64::from(changed);
        self.latest_label = label;
    }

    pub(super) fn stability(&self) -> Stability {
        let labels = || self.labels().filter(|label| label.value() != 0);
        let Some(first) = labels().next() else {
            return if self.latest_label.is_none() { Stability::Ipv4 } else { Stability::Unset };
        };
        if labels().all(|label| label == first) && !self.is_label_not_kept {
            return if self.label_changes == 0 { Stability::Stable } else { Stability::Partial };
        }
        let tag_bits = |label: FlowLabel| label.value() ^ label.entropy().bits();
        let entropy = self.is_label_not_kept || labels().any(|label| label.entropy() != first.entropy());
        Stability::Changed { tag: labels().any(|label| tag_bits(label) != tag_bits(first)), entropy }
    }

    fn labels(&self) -> impl Iterator<Item = FlowLabel> {
        self.claims.iter().filter_map(|claim| match claim.evidence {
            Evidence::Label(label) => Some(label),
            Evidence::Option(..) => None,
        })
    }
}

/// All flows of a file, and what is counted by tag.
pub(super) struct Flows {
    table: Table,
    /// Packets of flows for which there was no room.
    pub(super) beyond: Count,
    /// The sum over all flows.
    pub(super) claims_not_kept: u64,
    pub(super) tags: Tags,
}

/// The flows by key.
struct Table {
    /// Where in `flows` a flow is: a hash table keeps up to twice the room that it needs, so its entries are small.
    index: HashMap<Key, usize>,
    flows: Vec<Flow>,
    max: usize,
}

impl Table {
    /// None if the flow is new and there is no room for it.
    fn get(&mut self, key: Key) -> Option<&mut Flow> {
        let next = self.flows.len();
        let place = match self.index.entry(key) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(_) if next >= self.max => return None,
            Entry::Vacant(entry) => {
                self.flows.push(Flow::default());
                *entry.insert(next)
            }
        };
        self.flows.get_mut(place)
    }
}

impl Flows {
    /// Keeps at most `max` flows.
    pub(super) fn new(max: usize) -> Self {
        let table = Table { index: HashMap::new(), flows: Vec::new(), max };
        Self { table, beyond: Count::default(), claims_not_kept: 0, tags: Tags::new() }
    }

    pub(super) fn add(&mut self, packet: &Packet<'_>, record: &Record<'_>) {
        let bytes = record.original_len;
        self.tags.add(packet, bytes);
        let Some(flow) = self.table.get(Key::of(packet)) else {
            return self.beyond.add(bytes);
        };
        flow.see(record);
        flow.follow_label(packet.flow_label);
        let before = flow.claims_not_kept;
        for evidence in Evidence::of(packet) {
            if flow.claim(evidence, bytes) {
                self.tags.add_flow(evidence.tag());
            }
        }
        self.claims_not_kept += flow.claims_not_kept - before;
    }

    /// How many flows are kept.
    pub(super) fn len(&self) -> usize {
        self.table.flows.len()
    }

    /// Most bytes first; equal ones always in the same order.
    pub(super) fn sorted(&self) -> Vec<(&Key, &Flow)> {
        let Table { index, flows, .. } = &self.table;
        let mut flows: Vec<_> = index.iter().filter_map(|(key, at)| Some((key, flows.get(*at)?))).collect();
        flows.sort_unstable_by(|a, b| b.1.count.bytes.cmp(&a.1.count.bytes).then(a.0.cmp(b.0)));
        flows
    }
}
