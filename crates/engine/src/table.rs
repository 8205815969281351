//! The flows by number, by identity and by the time at which they are due.
//!
//! Holds the three views of one set together and decides nothing. Each flow has at most one alarm, so nothing piles
//! up however often flows are refreshed or replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use jiff::Timestamp;

use crate::flow::{Flow, FlowId};
use crate::key::Pair;

#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Boxed, because numbers that only rise leave the nodes of the tree half empty.
    flows: BTreeMap<FlowId, Box<Flow>>,
    /// Numbers of flows by the hash of their identity. The identity itself is only in the flow: half of the places here may
    /// be empty.
    by_pair: HashTable<(u64, FlowId)>,
    hasher: RandomState,
    /// Possibly earlier than the flow's real deadline: a refresh leaves the alarm where it is, which makes it
    /// cheap, and the tick that finds it too early moves it.
    alarms: BTreeSet<(Timestamp, FlowId)>,
    last_id: u64,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn alarms(&self) -> usize {
        self.alarms.len()
    }

    /// A number that no flow had before. At a thousand million a second, 64 bits last for 584 years.
    pub(crate) fn next_id(&mut self) -> FlowId {
        self.last_id = self.last_id.wrapping_add(1);
        FlowId::new(self.last_id)
    }

    /// Adds a flow whose identity is not in the table and which has no alarm yet.
    pub(crate) fn insert(&mut self, flow: Flow) {
        let (id, hash) = (flow.id, self.hasher.hash_one(Pair::from(&flow.announced)));
        self.flows.insert(id, Box::new(flow));
        self.by_pair.insert_unique(hash, (hash, id), |(hash, _)| *hash);
    }

    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.set_alarm(id, None);
        let flow = self.flows.remove(&id)?;
        let hash = self.hasher.hash_one(Pair::from(&flow.announced));
        if let Ok(entry) = self.by_pair.find_entry(hash, |(_, other)| *other == id) {
            entry.remove();
        }
        Some(*flow)
    }

    pub(crate) fn id_of(&self, pair: impl Into<Pair>) -> Option<FlowId> {
        let pair = pair.into();
        let hash = self.hasher.hash_one(pair);
        let is_it = |flow: &Flow| Pair::from(&flow.announced) == pair;
        let found = self.by_pair.find(hash, |(other, id)| *other == hash && self.get(*id).is_some_and(is_it));
        found.map(|(_, id)| *id)
    }

    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(&id).map(Box::as_mut)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.values().map(Box::as_ref)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.flows.values_mut().map(Box::as_mut)
    }

    /// The earliest alarm.
    pub(crate) fn next_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Moves the alarm of a flow, or takes it away.
    pub(crate) fn set_alarm(&mut self, id: FlowId, at: Option<Timestamp>) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut flow.alarm, at) {
            self.alarms.remove(&(old, id));
        }
        self.alarms.extend(at.map(|at| (at, id)));
    }

    /// Sees to it that the flow's alarm goes off at `at` or before.
    pub(crate) fn wake_by(&mut self, id: FlowId, at: Option<Timestamp>) {
        let alarm = self.get(id).and_then(|flow| flow.alarm);
        if at.is_some_and(|at| alarm.is_none_or(|alarm| at < alarm)) {
            self.set_alarm(id, at);
        }
    }

    /// Takes the earliest alarm that is due; the flow has none until it is set again.
    pub(crate) fn pop_alarm(&mut self, now: Timestamp) -> Option<FlowId> {
        let (_, id) = *self.alarms.first().filter(|(at, _)| *at <= now)?;
        self.set_alarm(id, None);
        Some(id)
    }

    /// Sets every alarm anew and forgets which probes are out.
    pub(crate) fn rearm(&mut self, alarm: impl Fn(&Flow) -> Option<Timestamp>) {
        for flow in self.flows.values_mut() {
            flow.alarm = alarm(flow);
            flow.awaiting = false;
        }
        self.alarms = self.flows.values().filter_map(|flow| Some((flow.alarm?, flow.id))).collect();
    }
}
