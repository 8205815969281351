//! Sums of records: by flow, by owner, by what a column says.

use std::cmp::Reverse;
use std::collections::HashMap;

use anyhow::{Result, bail};
use comfy_table::CellAlignment;
use flowtag_kernel::probes::{Column, Description, Merge, Record, Value};
use serde_json::{Map, json};

use super::names::unit;
use super::table::{self, View};
use crate::cli::output;

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
    Interface,
    Netns,
    /// Index among the probe's columns.
    Column(usize, &'static str),
}

const NAMED: [(&str, Dimension); 11] = [
    ("flow", Dimension::Flow),
    ("tag", Dimension::Tag),
    ("experiment", Dimension::Experiment),
    ("process", Dimension::Process),
    ("pid", Dimension::Pid),
    ("cgroup", Dimension::Cgroup),
    ("unit", Dimension::Unit),
    ("user", Dimension::User),
    ("peer", Dimension::Peer),
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
            Self::Interface => context.interface.map(|index| {
                view.names.interface(context.netns, index).unwrap_or_else(|| format!("if{index}"))
            }),
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
    records: u64,
    values: Vec<Value>,
}

impl Groups {
    pub(super) fn new(probe: &'static Description, by: Vec<Dimension>, counts_events: bool) -> Self {
        Self { probe, by, counts_events, rows: HashMap::new() }
    }

    pub(super) fn add(&mut self, record: &Record, view: &View<'_>) {
        let key = self.by.iter().map(|dimension| dimension.of(record, view)).collect();
        let empty = || Row { records: 0, values: vec![Value::None; record.values.len()] };
        let row = self.rows.entry(key).or_insert_with(empty);
        row.records += 1;
        for ((sum, value), column) in row.values.iter_mut().zip(&record.values).zip(self.probe.columns) {
            merge(sum, value, column.merge);
        }
    }

    /// What is here and was not there: of columns that are summed the difference. Rows without any are left out.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut rows = HashMap::new();
        for (key, row) in &self.rows {
            let mut row = row.clone();
            if let Some(old) = before.rows.get(key) {
                for ((new, old), column) in row.values.iter_mut().zip(&old.values).zip(self.probe.columns) {
                    if let (Merge::Sum, Value::Count(new), Value::Count(old)) = (column.merge, new, old) {
                        *new = new.saturating_sub(*old);
                    }
                }
            }
            let sums = || self.sums().filter_map(|n| row.values.get(n));
            if sums().count() == 0 || sums().any(|v| number(v) > 0.0) {
                rows.insert(key.clone(), row);
            }
        }
        Self { probe: self.probe, by: self.by.clone(), counts_events: self.counts_events, rows }
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

    pub(super) fn print(&self) -> Result<()> {
        let mut header: Vec<_> = self.by.iter().map(|d| d.name().to_uppercase().replace('_', " ")).collect();
        if self.counts_events {
            header.push("EVENTS".to_owned());
        }
        header.extend(
            self.merged().filter(|(_, c)| c.rank != Column::HIDDEN).map(|(_, c)| c.heading.to_owned()),
        );
        let mut table = output::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for (key, row) in self.sorted() {
            let mut cells = key.clone();
            if self.counts_events {
                cells.push(row.records.to_string());
            }
            let shown = self.merged().filter(|(_, c)| c.rank != Column::HIDDEN);
            cells.extend(
                shown.map(|(n, c)| row.values.get(n).map_or("-".into(), |v| table::value(v, c.unit))),
            );
            table.add_row(cells);
        }
        for number in self.by.len()..header.len() {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        output::print_table(&table)
    }

    pub(super) fn print_json(&self, time: jiff::Timestamp) -> Result<()> {
        for (key, row) in self.sorted() {
            let mut object = Map::new();
            object.insert("time".into(), json!(time));
            object.extend(self.by.iter().zip(key).map(|(d, text)| (d.name().to_owned(), json!(text))));
            if self.counts_events {
                object.insert("events".into(), json!(row.records));
            }
            let values =
                self.merged().filter_map(|(n, c)| Some((c.name.to_owned(), json_of(row.values.get(n)?))));
            object.extend(values);
            output::json(&object)?;
        }
        Ok(())
    }
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
    if matches!((how, value), (_, Value::None) | (Merge::Key | Merge::Drop, _)) {
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
