//! What the probes told, added up by labels: a bounded number of series for each metric, and one for all that has no room.
//!
//! Whose a flow is stays a number here; names are put to it when somebody asks, as they may change meanwhile.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use flowtag_kernel::probes::{Alike, Context, Description, Measure, Metric, Record, Unit, Value};

use crate::config::{Label, Observe};
use crate::names::Names;
use crate::outputs::metrics::{Distribution, OTHER};

use super::owner::{Owner, Whose};

type Text = Cow<'static, str>;

/// What tells the series of a metric apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) whose: Whose,
    /// As many as [`Series::names`].
    pub(crate) texts: Vec<Text>,
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Count(u64),
    Real(f64),
    Spread(Distribution),
}

impl Cell {
    fn add(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(sum), Self::Count(more)) => *sum = sum.saturating_add(*more),
            (Self::Real(sum), Self::Real(more)) => *sum += more,
            (Self::Spread(sum), Self::Spread(more)) => sum.add(more),
            // A column is always of one kind.
            _ => {}
        }
    }
}

/// All series of one metric.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) metric: &'static Metric,
    pub(crate) probe: &'static str,
    /// Labels besides those that say whose it is.
    pub(crate) names: Vec<&'static str>,
    /// Records, or rows at a time, that had no series of their own.
    pub(crate) dropped: u64,
    whose: &'static [&'static str],
    /// Columns that are labels.
    columns: Vec<usize>,
    /// Which labels of the configuration come after those of the metric.
    more: Vec<Label>,
    measured: Measured,
    max: usize,
    /// Those that have series.
    own: HashSet<Key>,
    told: HashMap<Key, Cell>,
    /// What the kernel has summed up since the probe was loaded.
    summed: HashMap<Key, Cell>,
    dropped_rows: u64,
}

/// What of a record is measured.
#[derive(Debug, Clone, Copy)]
enum Measured {
    One,
    /// This column, divided by this to be in the metric's unit; none: it is a number without a unit, or in its own.
    Sum(usize, Option<f64>),
    /// This column, of µs.
    Spread(Option<usize>),
}

impl Series {
    /// None: it names columns that there are not.
    fn new(probe: &'static Description, metric: &'static Metric, config: &Observe) -> Option<Self> {
        let column = |name: &str| probe.columns.iter().position(|column| column.name == name);
        let measured = match metric.measure {
            Measure::Records => Measured::One,
            Measure::Sum(name) => {
                let at = column(name)?;
                Measured::Sum(at, divisor(metric, probe.columns.get(at)?.unit))
            }
            Measure::Seconds(name) => Measured::Spread(Some(column(name)?)),
            // The kernel sums it up: it is in no column.
            Measure::Distribution => Measured::Spread(None),
        };
        let further = [
            (Label::Interface, "interface"),
            (Label::Process, "process"),
            (Label::Unit, "unit"),
            (Label::Peer, "peer"),
        ];
        let further =
            further.into_iter().filter(|(label, name)| config.has(*label) && !metric.labels.contains(name));
        let (more, names): (Vec<_>, Vec<_>) = further.unzip();
        Some(Self {
            metric,
            probe: probe.name,
            whose: match (config.has(Label::Experiment), config.has(Label::Activity)) {
                (false, _) => &[],
                (true, false) => &["experiment"],
                (true, true) => &["experiment", "activity"],
            },
            names: metric.labels.iter().copied().chain(names).collect(),
            dropped: 0,
            columns: metric.labels.iter().map(|name| column(name)).collect::<Option<_>>()?,
            more,
            measured,
            max: config.max_series,
            own: HashSet::new(),
            told: HashMap::new(),
            summed: HashMap::new(),
            dropped_rows: 0,
        })
    }

    /// The key that is counted under: this one, or that of all others.
    fn admit(&mut self, key: Key) -> Option<Key> {
        if self.own.contains(&key) {
            return Some(key);
        }
        if self.own.len() < self.max {
            self.own.insert(key.clone());
            return Some(key);
        }
        None
    }

    fn other(&self) -> Key {
        Key { whose: Whose::Other, texts: vec![OTHER.into(); self.names.len()] }
    }

    /// Of so many that are alike.
    fn cell(&self, record: &Record, count: u64) -> Option<Cell> {
        match self.measured {
            Measured::One => Some(Cell::Count(count)),
            Measured::Sum(at, divisor) => match (record.values.get(at)?, divisor) {
                (Value::Count(n), None) => Some(Cell::Count(*n)),
                (Value::Count(n), Some(divisor)) => Some(Cell::Real(real(*n) / divisor)),
                (Value::Real(x), divisor) => Some(Cell::Real(x / divisor.unwrap_or(1.0))),
                (Value::None | Value::Text(_), _) => None,
            },
            Measured::Spread(at) => match record.values.get(at?)? {
                Value::Count(micros) => Some(Cell::Spread(Distribution::of(real(*micros) / 1e6))),
                Value::Real(micros) => Some(Cell::Spread(Distribution::of(micros / 1e6))),
                Value::None | Value::Text(_) => None,
            },
        }
    }

    fn key(&self, record: &Record, owner: &Owner<'_>) -> Key {
        let own = self.columns.iter().map(|at| text(record.values.get(*at).unwrap_or(&Value::None)));
        let more = self.more.iter().map(|label| owner.text(*label));
        Key { whose: owner.whose, texts: own.chain(more).collect() }
    }

    fn take(&mut self, record: &Record, owner: &Owner<'_>) {
        let Some(cell) = self.cell(record, 1) else { return };
        let key = self.key(record, owner);
        let key = self.admit(key).unwrap_or_else(|| {
            self.dropped += 1;
            self.other()
        });
        add(&mut self.told, key, &cell);
    }

    /// What the kernel has summed up by now, in place of what it had.
    fn set(&mut self, rows: impl Iterator<Item = (Key, Cell)>) {
        let (mut now, mut dropped) = (HashMap::new(), 0);
        for (key, cell) in rows {
            let key = match key.whose {
                Whose::Other => self.other(),
                _ => self.admit(key).unwrap_or_else(|| {
                    dropped += 1;
                    self.other()
                }),
            };
            add(&mut now, key, &cell);
        }
        self.dropped_rows = self.dropped_rows.max(dropped);
        self.summed = now;
    }

    /// What was summed up stays, though those who did so end.
    fn seal(&mut self) {
        for (key, cell) in std::mem::take(&mut self.summed) {
            add(&mut self.told, key, &cell);
        }
        self.dropped += std::mem::take(&mut self.dropped_rows);
    }

    fn seen(&self) -> Seen {
        let mut cells = self.told.clone();
        self.summed.iter().for_each(|(key, cell)| add(&mut cells, key.clone(), cell));
        Seen {
            metric: self.metric,
            whose: self.whose,
            names: self.names.clone(),
            cells: cells.into_iter().collect(),
            dropped: self.dropped + self.dropped_rows,
        }
    }
}

fn add(cells: &mut HashMap<Key, Cell>, key: Key, cell: &Cell) {
    match cells.get_mut(&key) {
        Some(sum) => sum.add(cell),
        None => drop(cells.insert(key, cell.clone())),
    }
}

/// What the column is divided by where the metric is in seconds.
fn divisor(metric: &Metric, unit: Unit) -> Option<f64> {
    match (metric.unit, unit) {
        (Some("seconds"), Unit::Micros) => Some(1e6),
        (Some("seconds"), Unit::Nanos) => Some(1e9),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "of times only: beyond 100 days in ns")]
fn real(number: u64) -> f64 {
    number as f64
}

fn text(value: &Value) -> Text {
    match value {
        Value::None => "unknown".into(),
        // Where in the kernel's code, and the kernel does not tell the name: then the number is a secret, too.
        Value::Text(text) if text.starts_with("0xffff") => "unknown".into(),
        Value::Text(text) => text.clone(),
        Value::Count(n) => n.to_string().into(),
        Value::Real(x) => x.to_string().into(),
    }
}

/// All series of one metric at one moment.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) metric: &'static Metric,
    /// Labels that say whose it is: as many of experiment and activity as are asked for.
    pub(crate) whose: &'static [&'static str],
    /// Further labels.
    pub(crate) names: Vec<&'static str>,
    pub(crate) cells: Vec<(Key, Cell)>,
    pub(crate) dropped: u64,
}

/// All metrics of all probes.
#[derive(Debug)]
pub(super) struct Table {
    config: Observe,
    series: Vec<Series>,
}

impl Table {
    pub(super) fn new(config: &Observe) -> Self {
        Self { config: config.clone(), series: Vec::new() }
    }

    /// For these probes; what was told of them before stays, unless series are told apart in another way since.
    pub(super) fn adapt(&mut self, config: &Observe, probes: &[&'static Description]) {
        let how = |c: &Observe| (c.labels.clone(), c.peer, c.max_series);
        if how(&self.config) != how(config) {
            self.series.clear();
        }
        self.config = config.clone();
        let all = probes.iter().flat_map(|probe| probe.metrics.iter().map(move |metric| (*probe, metric)));
        for (probe, metric) in all {
            if !self.series.iter().any(|series| std::ptr::eq(series.metric, metric)) {
                self.series.extend(Series::new(probe, metric, config));
            }
        }
    }

    /// Counts what was told.
    pub(super) fn take(&mut self, probe: &str, record: &Record, names: &Names) {
        let owner = Owner::new(&record.context, &self.config, names);
        self.series.iter_mut().filter(|s| s.probe == probe).for_each(|series| series.take(record, &owner));
    }

    /// What a probe has summed up in the kernel.
    pub(super) fn set(&mut self, probe: &str, rows: &[Alike], names: &Names) {
        let config = &self.config;
        for series in self.series.iter_mut().filter(|s| s.probe == probe && !s.is_spread()) {
            let of = |Alike { record, count }: &Alike| {
                let Some(record) = record else {
                    let counts = matches!(series.measured, Measured::One);
                    return counts.then(|| (series.other(), Cell::Count(*count)));
                };
                let owner = Owner::new(&record.context, config, names);
                Some((series.key(record, &owner), series.cell(record, *count)?))
            };
            let rows: Vec<_> = rows.iter().filter_map(of).collect();
            series.set(rows.into_iter());
        }
    }

    /// The distributions of a probe that sums up in the kernel.
    pub(super) fn spread(&mut self, probe: &str, all: &[(Option<Context>, Distribution)], names: &Names) {
        let config = &self.config;
        for series in self.series.iter_mut().filter(|s| s.probe == probe && s.is_spread()) {
            let of = |(context, distribution): &(Option<Context>, Distribution)| {
                let key = match context {
                    Some(context) => {
                        let owner = Owner::new(context, config, names);
                        series.key(&Record { context: context.clone(), values: Vec::new() }, &owner)
                    }
                    None => series.other(),
                };
                (key, Cell::Spread(distribution.clone()))
            };
            let rows: Vec<_> = all.iter().map(of).collect();
            series.set(rows.into_iter());
        }
    }

    pub(super) fn seal(&mut self) {
        self.series.iter_mut().for_each(Series::seal);
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.series.iter().map(Series::seen).collect()
    }

    /// Over all metrics.
    pub(super) fn dropped(&self) -> u64 {
        self.series.iter().map(|series| series.dropped + series.dropped_rows).sum()
    }
}

impl Series {
    const fn is_spread(&self) -> bool {
        matches!(self.measured, Measured::Spread(_))
    }
}

#[cfg(test)]
mod tests;
