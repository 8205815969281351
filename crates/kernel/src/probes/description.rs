//! What a probe is, in data: its table, JSON, metrics, help and page of the reference all come from here.

use std::fmt;

use super::load::Loaded;
use super::record::Record;
use crate::Result;

/// A probe. One folder holds it whole.
#[derive(Debug)]
pub struct Description {
    /// Name of the folder, the command and the metrics' part: `retrans`.
    pub name: &'static str,
    /// What it shows: the first line of `--help`.
    pub about: &'static str,
    /// The rest of `--help`: what each line means, how exact it is.
    pub details: &'static str,
    /// Command lines (without `flowtag`), and what each is for.
    pub examples: &'static [(&'static str, &'static str)],
    /// The eBPF object, as compiled.
    pub object: &'static [u8],
    /// Programs that may be missing, and what is missing then. All others are needed.
    pub optional: &'static [(&'static str, &'static str)],
    /// Switches of its own.
    pub flags: &'static [Flag],
    /// What it tells of each event or row, beside the [`super::Context`].
    pub columns: &'static [Column],
    /// What the daemon exports of it.
    pub metrics: &'static [Metric],
    /// Bytes of `.rodata.probe`, which the programs see as their own settings; empty: there are none.
    pub settings: fn(&Options) -> Vec<u8>,
    /// Programs that this kernel needs not, though it has their hooks: another does the same.
    pub leave_out: fn() -> &'static [&'static str],
    /// Iterators that run once, as it begins.
    pub at_start: &'static [&'static str],
    /// How it tells.
    pub source: Source,
}

/// A record from an event's bytes. None: not of this probe, or not whole.
pub type Decode = fn(&[u8]) -> Option<Record>;

/// How records come.
#[derive(Clone, Copy)]
pub enum Source {
    /// Each as it happens, through the ring.
    Events(Decode),
    /// Likewise; or, with the option [`SUMS`], none of them, but how many of them were alike. That is all that a metric
    /// takes which counts records, and costs a fraction.
    EventsOrSums(Decode, fn(&Loaded) -> Result<Vec<Alike>>),
    /// Sums since the start, read from maps. Columns that are [`Merge::Sum`] only grow; the rest tell rows apart, or are
    /// the latest.
    Rows(fn(&Loaded) -> Result<Vec<Record>>),
}

/// Asks the programs for sums in place of events.
pub const SUMS: &str = "sums";

/// Events that were alike since the start.
#[derive(Debug)]
pub struct Alike {
    /// Of whom, as far as the options tell them apart, and the columns that are labels of metrics. None: of all that had no
    /// room of their own.
    pub record: Option<Record>,
    /// How many.
    pub count: u64,
}

impl Source {
    /// Of those that tell events.
    pub(super) const fn decode(self) -> Option<Decode> {
        match self {
            Self::Events(decode) | Self::EventsOrSums(decode, _) => Some(decode),
            Self::Rows(_) => None,
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Events(_) => "Events",
            Self::EventsOrSums(..) => "EventsOrSums",
            Self::Rows(_) => "Rows",
        })
    }
}

/// A switch of the command line that changes what the programs do.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// `--NAME`.
    pub name: &'static str,
    /// What it does, as in `--help`.
    pub help: &'static str,
}

/// Which [`Flag`]s are on.
#[derive(Debug, Clone, Default)]
pub struct Options {
    on: Vec<String>,
}

impl Options {
    /// With these flags on.
    pub fn new(on: impl IntoIterator<Item = String>) -> Self {
        Self { on: on.into_iter().collect() }
    }

    /// Whether this flag is on.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.on.iter().any(|name| name == flag)
    }
}

/// One thing that is told.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Key in JSON, with its unit: `rtt_us`.
    pub name: &'static str,
    /// Heading of the table.
    pub heading: &'static str,
    /// How it is written for people.
    pub unit: Unit,
    /// One sentence without its full stop.
    pub help: &'static str,
    /// Characters in the table; longer values move the line.
    pub width: u8,
    /// 0 is always in the table; others, the lower the sooner, where there is room; [`Column::HIDDEN`] only in JSON.
    pub rank: u8,
    /// What becomes of it where several records are made one.
    pub merge: Merge,
}

impl Column {
    /// Only in JSON.
    pub const HIDDEN: u8 = u8::MAX;

    /// A word, by which records can be told apart.
    #[must_use]
    pub const fn text(name: &'static str, heading: &'static str, width: u8, help: &'static str) -> Self {
        Self { name, heading, unit: Unit::None, help, width, rank: 0, merge: Merge::Key }
    }

    /// A number that is added up where records are made one.
    #[must_use]
    pub const fn sum(name: &'static str, heading: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, heading, unit, help, width: 8, rank: 0, merge: Merge::Sum }
    }

    /// A number of which the latest holds.
    #[must_use]
    pub const fn last(name: &'static str, heading: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { merge: Merge::Last, ..Self::sum(name, heading, unit, help) }
    }

    /// With another [`Column::rank`].
    #[must_use]
    pub const fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }

    /// With another [`Column::width`].
    #[must_use]
    pub const fn width(self, width: u8) -> Self {
        Self { width, ..self }
    }

    /// With another [`Merge`].
    #[must_use]
    pub const fn merge(self, merge: Merge) -> Self {
        Self { merge, ..self }
    }
}

/// How a number is written for people; JSON has it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As it is.
    None,
    /// `1.2M`: powers of 1000, as interfaces and rates are told.
    Bytes,
    /// `1.2M`.
    Count,
    /// Of µs: `820us`, `1.20ms`, `3.4s`.
    Micros,
    /// Of ns, likewise.
    Nanos,
    /// Of 0 to 100: `12.3%`.
    Percent,
    /// Bytes a second, told in bits: `9.41G`.
    Rate,
    /// CLOCK_MONOTONIC in ns, told as the time of day.
    Moment,
}

/// What becomes of a column where several records are made one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// One may ask for groups by it; otherwise it is left out of groups.
    Key,
    /// Added up.
    Sum,
    /// The latest.
    Last,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// A socket's number that only grows: the latest of each socket, added up.
    Each,
    /// How many per cent of the column `of` the column `part` is, of what these have become.
    Share {
        /// Name of a column.
        part: &'static str,
        /// Name of a column.
        of: &'static str,
    },
    /// Left out.
    Drop,
}

/// What the daemon exports of a probe. Labels of the owner (experiment, activity, …) are added by whoever exports.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// In snake case, without unit and `_total`: `flowtag_tcp_retransmit`.
    pub name: &'static str,
    /// In the plural: `segments`.
    pub unit: Option<&'static str>,
    /// One sentence without its full stop.
    pub help: &'static str,
    /// Columns that are labels.
    pub labels: &'static [&'static str],
    /// What is counted.
    pub measure: Measure,
}

/// What a metric counts.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Records.
    Records,
    /// The sum of a column.
    Sum(&'static str),
    /// The distribution of a column of µs, in seconds.
    Seconds(&'static str),
    /// What the kernel summed up as distributions, in seconds ([`super::histogram`]).
    Distribution,
}
