//! Sums of records: by flow, by owner, by what a column says.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table};
use flowtag_kernel::probes::{Column, Description, Flow, Merge, Record, Unit, Value};
use ipnet::IpNet;
use serde_json::{Map, json};

use super::names::unit;
use super::table::{self, View};
use super::watch::context;
use crate::cli::output;

/// What a column that is no flow takes of a line, about.
const OTHERS: usize = 9;
/// What a flow has at least.
const FLOW: usize = 35;

/// What records are put together by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dimension {
    Flow,
    Tag,
    Experiment,
    Process,
    Pid,
    Cgroup,
    Unit,
    User,
    Peer,
    /// The peer's network: /64, and /24 of IPv4.
    Prefix,
    Interface,
    Netns,
    /// Index among the probe's columns.
    Column(usize, &'static str),
}

const NAMED: [(&str, Dimension); 12] = [
    ("flow", Dimension::Flow),
    ("tag", Dimension::Tag),
    ("experiment", Dimension::Experiment),
    ("process", Dimension::Process),
    ("pid", Dimension::Pid),
    ("cgroup", Dimension::Cgroup),
    ("unit", Dimension::Unit),
    ("user", Dimension::User),
    ("peer", Dimension::Peer),
    ("prefix", Dimension::Prefix),
    ("interface", Dimension::Interface),
    ("netns", Dimension::Netns),
];

impl Dimension {
    pub(super) fn parse(name: &str, probe: &'static Description) -> Result<Self> {
        if let Some((_, dimension)) = NAMED.into_iter().find(|(known, _)| *known == name) {
            return Ok(dimension);
        }
        let keys = || probe.columns.iter().enumerate().filter(|(_, c)| c.merge == Merge::Key);
        if let Some((index, column)) = keys().find(|(_, column)| column.name == name) {
            return Ok(Self::Column(index, column.name));
        }
        let known: Vec<_> = NAMED.iter().map(|(name, _)| *name).chain(keys().map(|(_, c)| c.name)).collect();
        bail!("there are no sums by {name:?} of {}: choose of {}", probe.name, known.join(", "))
    }

    pub(super) fn name(self) -> &'static str {
        if let Self::Column(_, name) = self {
            return name;
        }
        NAMED.into_iter().find(|(_, dimension)| *dimension == self).map_or("", |(name, _)| name)
    }

    /// What it is of a record; `-` where that is not known.
    pub(super) fn of(self, record: &Record, view: &View<'_>) -> String {
        let context = &record.context;
        let owner = &context.owner;
        let cgroup = || owner.cgroup.and_then(|id| view.names.cgroup(id));
        let found = match self {
            Self::Flow => {
                context.flow.map(|f| format!("{} {} → {}", table::protocol(f.protocol), f.local, f.remote))
            }
            Self::Tag => context.tag.map(|tag| view.names.tag_text(tag)),
            Self::Experiment => context.tag.map(|tag| {
                let name = view.names.registry().experiment_name(tag.experiment);
                name.map_or_else(|| tag.experiment.to_string(), str::to_owned)
            }),
            Self::Process => owner.process.clone(),
            Self::Pid => owner.pid.map(|pid| pid.to_string()),
            Self::Cgroup => cgroup(),
            Self::Unit => cgroup().as_deref().and_then(unit),
            Self::User => owner.user.map(|user| user.to_string()),
            Self::Peer => context.flow.map(|f| f.remote.addr().to_string()),
            Self::Prefix => context.flow.map(|f| prefix(f.remote.addr())),
            Self::Interface => context.interface.map(|index| view.names.interface_text(context.netns, index)),
            Self::Netns => context.netns.map(|netns| netns.to_string()),
            Self::Column(index, _) => record.values.get(index).and_then(|value| match value {
                Value::None => None,
                Value::Text(text) => Some(text.to_string()),
                Value::Count(number) => Some(number.to_string()),
                Value::Real(number) => Some(number.to_string()),
            }),
        };
        found.unwrap_or_else(|| "-".to_owned())
    }
}

fn prefix(addr: IpAddr) -> String {
    let len = if addr.is_ipv4() { 24 } else { 64 };
    IpNet::new(addr, len).map_or_else(|_| addr.to_string(), |net| net.trunc().to_string())
}

impl Dimension {
    /// What it is of a record in JSON: its name with the words of the table, and the keys that a record has for it.
    fn json(self, text: &str, record: &Record, view: &View<'_>) -> Vec<(String, serde_json::Value)> {
        let keys: &[&str] = match self {
            Self::Flow => &["protocol", "local_address", "local_port", "remote_address", "remote_port"],
            Self::Tag => &["experiment", "activity", "experiment_name", "activity_name"],
            Self::Experiment => &["experiment", "experiment_name"],
            Self::Process => &["process"],
            Self::Pid => &["pid"],
            Self::Cgroup => &["cgroup"],
            Self::Unit => &["unit"],
            Self::User => &["user"],
            Self::Peer => &["remote_address"],
            Self::Prefix => &[],
            Self::Interface => &["interface", "netns"],
            Self::Netns => &["netns"],
            Self::Column(..) => &[],
        };
        let mut all = context(record, view);
        let found = keys.iter().map(|key| ((*key).to_owned(), all.remove(*key).unwrap_or_default()));
        let own = (self.name().to_owned(), if text == "-" { json!(null) } else { json!(text) });
        std::iter::once(own).chain(found).collect()
    }
}

/// Sums by some dimensions.
#[derive(Debug)]
pub(super) struct Groups {
    probe: &'static Description,
    by: Vec<Dimension>,
    /// Whether to tell how many records there were.
    counts_events: bool,
    rows: HashMap<Vec<String>, Row>,
}

#[derive(Debug, Clone)]
struct Row {
    /// What it is of, in JSON.
    of: Map<String, serde_json::Value>,
    /// The flow, where rows are of flows.
    flow: Option<Flow>,
    records: u64,
    values: Vec<Value>,
    /// The latest of each socket in each column that is [`Merge::Each`].
    each: HashMap<(Option<u64>, usize), u64>,
}

impl Row {
    fn new(columns: usize) -> Self {
        let (of, flow) = (Map::new(), None);
        Self { of, flow, records: 0, values: vec![Value::None; columns], each: HashMap::new() }
    }

    fn add(&mut self, record: &Record, columns: &[Column]) {
        self.records += 1;
        for (n, ((sum, value), column)) in self.values.iter_mut().zip(&record.values).zip(columns).enumerate()
        {
            match (column.merge, value) {
                (Merge::Each, &Value::Count(new)) => {
                    let old = self.each.insert((record.context.cookie, n), new).unwrap_or(0);
                    *sum = Value::Count((number(sum) as u64 + new).saturating_sub(old));
                }
                (how, _) => merge(sum, value, how),
            }
        }
    }
}

impl Groups {
    pub(super) fn new(probe: &'static Description, by: Vec<Dimension>, counts_events: bool) -> Self {
        Self { probe, by, counts_events, rows: HashMap::new() }
    }

    pub(super) fn add(&mut self, record: &Record, view: &View<'_>) {
        let key: Vec<_> = self.by.iter().map(|dimension| dimension.of(record, view)).collect();
        let of = || self.by.iter().zip(&key).flat_map(|(by, text)| by.json(text, record, view)).collect();
        let empty = || Row { of: of(), ..Row::new(record.values.len()) };
        let flow = record.context.flow.filter(|_| self.by.contains(&Dimension::Flow));
        let row = self.rows.entry(key.clone()).or_insert_with(empty);
        row.flow = flow;
        row.add(record, self.probe.columns);
    }

    /// What a column is of a row.
    fn value(&self, row: &Row, index: usize, column: &Column) -> Value {
        let of = |name: &str| {
            let at = self.probe.columns.iter().position(|c| c.name == name);
            at.and_then(|at| row.values.get(at)).map_or(0.0, number)
        };
        match column.merge {
            Merge::Share { of: whole, .. } if of(whole) == 0.0 => Value::None,
            Merge::Share { part, of: whole } => Value::Real(100.0 * of(part) / of(whole)),
            _ => row.values.get(index).cloned().unwrap_or_default(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn sums(&self) -> impl Iterator<Item = usize> {
        self.probe.columns.iter().enumerate().filter(|(_, c)| c.merge == Merge::Sum).map(|(n, _)| n)
    }

    /// Largest first: by records, or by the first sum.
    fn sorted(&self) -> Vec<(&Vec<String>, &Row)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        let first = self.sums().next();
        let size = |row: &Row| match first {
            Some(n) if !self.counts_events => row.values.get(n).map_or(0.0, number) as u64,
            _ => row.records,
        };
        rows.sort_by_key(|(key, row)| (Reverse(size(row)), (*key).clone()));
        rows
    }

    fn merged(&self) -> impl Iterator<Item = (usize, &'static Column)> {
        let told = |merge| !matches!(merge, Merge::Key | Merge::Drop);
        self.probe.columns.iter().enumerate().filter(move |(_, c)| told(c.merge))
    }

    /// Sums of bytes, which may be told per second.
    fn bytes(&self) -> impl Iterator<Item = (usize, &'static Column)> {
        let is_sum = |c: &Column| c.merge == Merge::Sum && c.unit == Unit::Bytes && c.rank != Column::HIDDEN;
        self.probe.columns.iter().enumerate().filter(move |(_, c)| is_sum(c))
    }

    /// As a table; with a time that the sums are of, also what they are per second. Columns that matter less are left out
    /// where the terminal has no room for them.
    pub(super) fn print(&self, over: Option<Duration>) -> Result<()> {
        let mut shown: Vec<_> = self.merged().filter(|(_, c)| c.rank != Column::HIDDEN).collect();
        loop {
            let table = self.table(over, &shown);
            let width = output::table_lines(&table).iter().map(|line| line.chars().count()).max();
            let highest = shown.iter().map(|(_, c)| c.rank).max().filter(|rank| *rank > 0);
            let last = highest.and_then(|rank| shown.iter().rposition(|(_, c)| c.rank == rank));
            match last {
                Some(last) if width > Some(table::terminal_width()) => drop(shown.remove(last)),
                _ => return output::print_table(&table),
            }
        }
    }

    fn table(&self, over: Option<Duration>, columns: &[(usize, &'static Column)]) -> Table {
        let shown = || columns.iter().copied();
        let rates = || over.into_iter().flat_map(|over| self.bytes().map(move |(n, c)| (n, c, over)));
        let mut header: Vec<_> = self.by.iter().map(|d| d.name().to_uppercase().replace('_', " ")).collect();
        header.extend(self.counts_events.then(|| "EVENTS".to_owned()));
        header.extend(shown().map(|(_, c)| c.heading.to_owned()));
        header.extend(rates().map(|(_, c, _)| format!("{}/s", c.heading)));
        let mut table = output::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
        let room = table::terminal_width().saturating_sub(OTHERS * (header.len() - 1)).max(FLOW);
        for (key, row) in self.sorted() {
            let mut cells = self.words(key, row, room);
            cells.extend(self.counts_events.then(|| row.records.to_string()));
            cells.extend(shown().map(|(n, c)| table::value(&self.value(row, n, c), c.unit)));
            cells.extend(rates().map(|(n, c, over)| table::value(&rate(row, n, over), c.unit)));
            table.add_row(cells);
        }
        for number in self.by.len()..header.len() {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// What a row is of, a flow as short as its room.
    fn words(&self, key: &[String], row: &Row, room: usize) -> Vec<String> {
        let word = |(by, text): (&Dimension, &String)| match row.flow {
            Some(flow) if *by == Dimension::Flow => {
                let protocol = table::protocol(flow.protocol);
                format!("{protocol} {}", table::flow_text(&flow, room.saturating_sub(protocol.len() + 1)))
            }
            _ => text.clone(),
        };
        self.by.iter().zip(key).map(word).collect()
    }

    /// An object a row; `over` is the time that the sums are of.
    pub(super) fn print_json(
        &self,
        time: jiff::Timestamp,
        over: Option<Duration>,
        has_rates: bool,
    ) -> Result<()> {
        for (_, row) in self.sorted() {
            let mut object = Map::new();
            object.insert("time".into(), json!(time));
            object.extend(over.map(|over| ("interval_s".to_owned(), json!(over.as_secs_f64()))));
            object.extend(row.of.clone());
            object.extend(self.counts_events.then(|| ("events".to_owned(), json!(row.records))));
            let value = |(n, c): (usize, &Column)| (c.name.to_owned(), json_of(&self.value(row, n, c)));
            object.extend(self.merged().map(value));
            if let Some(over) = over.filter(|_| has_rates) {
                let rate = |(n, c): (usize, &Column)| {
                    (format!("{}_per_second", c.name), json_of(&rate(row, n, over)))
                };
                object.extend(self.bytes().map(rate));
            }
            output::json(&object)?;
        }
        Ok(())
    }
}

/// What a sum is per second, to whole ones.
fn rate(row: &Row, index: usize, over: Duration) -> Value {
    let sum = row.values.get(index).map_or(0.0, number);
    Value::Count((sum / over.as_secs_f64().max(f64::EPSILON)).round() as u64)
}

pub(super) fn json_of(value: &Value) -> serde_json::Value {
    match value {
        Value::None => serde_json::Value::Null,
        Value::Text(text) => json!(text),
        Value::Count(number) => json!(number),
        Value::Real(number) => json!(number),
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Count(number) => *number as f64,
        Value::Real(number) => *number,
        Value::None | Value::Text(_) => 0.0,
    }
}

fn merge(into: &mut Value, value: &Value, how: Merge) {
    if matches!((how, value), (_, Value::None) | (Merge::Key | Merge::Drop | Merge::Share { .. }, _)) {
        return;
    }
    let (old, new) = (number(into), number(value));
    match how {
        Merge::Sum => match (&mut *into, value) {
            (Value::Count(sum), Value::Count(more)) => *sum += more,
            (Value::None, _) => *into = value.clone(),
            _ => *into = Value::Real(old + new),
        },
        Merge::Max if *into != Value::None && old >= new => {}
        Merge::Min if *into != Value::None && old <= new => {}
        _ => *into = value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use flowtag_kernel::probes::{Context, retrans};

    use super::*;

    #[test]
    fn a_share_is_of_the_latest_of_each_socket() {
        let column = |name| retrans::PROBE.columns.iter().position(|c| c.name == name).unwrap();
        let (part, of) = (column("retransmitted_segments"), column("sent_segments"));
        let record = |cookie, again: u64, sent: u64| {
            let mut values = vec![Value::None; retrans::PROBE.columns.len()];
            (values[part], values[of]) = (again.into(), sent.into());
            Record { context: Context { cookie: Some(cookie), ..Context::default() }, values }
        };
        let groups = Groups::new(&retrans::PROBE, Vec::new(), true);
        let mut row = Row::new(retrans::PROBE.columns.len());
        let share = column("retransmitted_percent");
        let percent = |row: &Row| groups.value(row, share, &retrans::PROBE.columns[share]);
        assert_eq!(percent(&row), Value::None);
        for (cookie, again, sent, expected) in [(1, 1, 10, 10.0), (1, 4, 50, 8.0), (2, 1, 50, 5.0)] {
            row.add(&record(cookie, again, sent), retrans::PROBE.columns);
            assert_eq!(percent(&row), Value::Real(expected));
        }
        assert_eq!((&row.values[of], row.records), (&Value::Count(100), 3));
    }

    #[test]
    fn a_prefix_is_a_64_or_a_24() {
        for (addr, expected) in [("2001:db8:1:2:3::4", "2001:db8:1:2::/64"), ("192.0.2.7", "192.0.2.0/24")] {
            assert_eq!(prefix(addr.parse().unwrap()), expected);
        }
    }
}
