//! Distributions of times that probes keep in the kernel: read, put together, and made percentiles and buckets of.
//!
//! Place in the flow: programs → maps → [`read`] → [`Series`] → command line and metrics. H2 histograms with a grouping of
//! 3: a bucket is an eighth of its lower bound wide, so that its middle is wrong by at most 6.25 %.

pub mod abi;

use std::collections::BTreeMap;

use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromBytes, IntoBytes};

use self::abi::{histogram_key, histogram_limits as limits, histogram_times};
use super::load::Loaded;
use super::record::{Context, Record, Value};
use super::{Column, Unit, whose};
use crate::{Error, Result};

const BUCKETS: usize = limits::HISTOGRAM_BUCKETS as usize;
const LINEAR: usize = 1 << limits::HISTOGRAM_LINEAR_BITS;
const GROUP: usize = 1 << limits::HISTOGRAM_GROUPING;
/// Bounds of the buckets that metrics have, in seconds.
pub const BOUNDS: [f64; 19] = [
    10e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];
/// How often times of which length were met. Times are whole µs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    sum: u64,
    smallest: u64,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], sum: 0, smallest: u64::MAX, largest: 0 }
    }
}

/// A distribution, and what it is of.
#[derive(Debug, Clone)]
pub struct Series {
    /// As far as the options tell distributions apart: tag, owner, the peer's address. The rest is none, or 0 in the flow.
    pub context: Context,
    /// Which of the probe's distributions it is: `answer`, `peer` or `serve` of `request`; empty of others.
    pub part: &'static str,
    /// Of all that had no room of their own.
    pub is_other: bool,
    /// Not measured, as the probe explains.
    pub skipped: u64,
    /// The times.
    pub histogram: Histogram,
}

/// First µs of a bucket.
fn lower(bucket: usize) -> u64 {
    let Some(above) = bucket.checked_sub(LINEAR) else { return bucket as u64 };
    ((GROUP + above % GROUP) as u64) << (above / GROUP + 1)
}

/// The bucket of so many µs; the programs do the same.
fn bucket_of(us: u64) -> usize {
    if us < LINEAR as u64 {
        return us as usize;
    }
    let power = us.ilog2();
    if power >= limits::HISTOGRAM_BITS {
        return BUCKETS - 1;
    }
    let within = (us >> (power - limits::HISTOGRAM_GROUPING)) as usize & (GROUP - 1);
    LINEAR + (power - limits::HISTOGRAM_LINEAR_BITS) as usize * GROUP + within
}

/// Middle of a bucket, in µs; of a bucket of one value that value.
fn middle(bucket: usize) -> f64 {
    if bucket + 1 >= BUCKETS {
        lower(bucket) as f64
    } else {
        (lower(bucket) + lower(bucket + 1) - 1) as f64 / 2.0
    }
}

impl Histogram {
    /// Counts one time of so many µs.
    pub fn record(&mut self, us: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(us)) {
            *count += 1;
        }
        self.sum += us;
        self.smallest = self.smallest.min(us);
        self.largest = self.largest.max(us);
    }

    /// How many times were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All times together, exact.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum as f64 / 1e6
    }

    /// Exact unless two CPUs met a new one at once; then, and in a difference ([`Self::since`]), within the bucket.
    #[must_use]
    pub fn smallest(&self) -> Option<u64> {
        let first = self.counts.iter().position(|n| *n > 0)?;
        let (from, to) = bounds(first);
        Some(self.smallest.clamp(from, to))
    }

    /// As [`Self::smallest`]; a time that is longer than all buckets is told as it is.
    #[must_use]
    pub fn largest(&self) -> Option<u64> {
        let last = self.counts.iter().rposition(|n| *n > 0)?;
        let (from, to) = bounds(last);
        Some(self.largest.clamp(from, to))
    }

    /// The time in µs that so many of hundred do not exceed: the middle of its bucket, so at most 6.25 % off.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let (least, most) = (self.smallest()? as f64, self.largest()? as f64);
        let rank = ((percent / 100.0 * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|n| {
            seen += n;
            seen >= rank
        });
        // Not `clamp`: in a copy that is taken while a sample is added the least may be above the most.
        found.map(|bucket| middle(bucket).max(least).min(most))
    }

    /// Counts up to each bound, in seconds: 1-2-5 from 10 µs to 10 s. What is above is in [`Self::count`]. A time counts as
    /// the middle of its bucket.
    #[must_use]
    pub fn classic(&self) -> Vec<(f64, u64)> {
        let up_to = |le: f64| {
            let below = self.counts.iter().enumerate().filter(|(n, _)| middle(*n) <= le * 1e6);
            below.map(|(_, count)| count).sum()
        };
        BOUNDS.into_iter().map(|le| (le, up_to(le))).collect()
    }

    /// Buckets that are not empty: first and last µs that are in them, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(n, count)| (bounds(n).0, bounds(n).1, *count))
    }

    /// Puts the times of another in.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
        self.smallest = self.smallest.min(other.smallest);
        self.largest = self.largest.max(other.largest);
    }

    /// What was counted since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts).map(|(now, old)| now.saturating_sub(*old));
        Self { counts: counts.collect(), sum: self.sum.saturating_sub(before.sum), ..self.clone() }
    }
}

fn bounds(bucket: usize) -> (u64, u64) {
    let last = if bucket + 1 >= BUCKETS { u64::MAX } else { lower(bucket + 1) - 1 };
    (lower(bucket), last)
}

impl From<&histogram_times> for Histogram {
    fn from(raw: &histogram_times) -> Self {
        Self { counts: raw.count.to_vec(), sum: raw.sum, smallest: !raw.smallest, largest: raw.largest }
    }
}

/// Everything that a probe of this kind has counted since it began. What is empty is left out.
///
/// # Errors
/// [`Error::Map`] where the kernel refuses.
pub fn read(loaded: &Loaded, kinds: &[&'static str]) -> Result<Vec<Series>> {
    let mut found = Vec::new();
    let mut slots: BTreeMap<u32, Option<histogram_key>> = BTreeMap::from([(0, None)]);
    let known = loaded.entries::<u32, histogram_key>("histogram_slots")?;
    slots.extend(known.into_iter().map(|(slot, keys)| (slot, keys.into_iter().next())));
    for (slot, key) in slots {
        let Some(raw) = times(loaded, slot)? else { continue };
        let histogram = Histogram::from(&raw);
        if histogram.count() == 0 && raw.skipped == 0 {
            continue;
        }
        let kind = key.as_ref().map_or(0, |key| key.kind as usize);
        let part = kinds.get(kind).copied().unwrap_or_default();
        let context = key.as_ref().map(|key| whose::context(&key.whose)).unwrap_or_default();
        found.push(Series { context, part, is_other: key.is_none(), skipped: raw.skipped, histogram });
    }
    Ok(found)
}

fn times(loaded: &Loaded, slot: u32) -> Result<Option<histogram_times>> {
    let failed = |source| Error::Map { action: "read", map: "histogram_times", source };
    let Some(map) = loaded.map("histogram_times") else { return Ok(None) };
    let bytes = map.lookup(slot.as_bytes(), MapFlags::ANY).map_err(failed)?;
    Ok(bytes.and_then(|b| histogram_times::read_from_bytes(&b).ok()))
}

/// Columns of a probe of this kind; the first says which distribution it is.
pub(crate) const COLUMNS: &[Column] = &[
    Column::text("what", "WHAT", 8, "Which of the times it is; - where there is one only"),
    Column::sum("samples", "SAMPLES", Unit::Count, "Times that were measured"),
    Column::sum("sum_us", "SUM", Unit::Micros, "All of them together").rank(Column::HIDDEN),
    Column::sum("skipped", "SKIPPED", Unit::Count, "Not measured: requests that overlapped replies")
        .rank(Column::HIDDEN),
    Column::last("min_us", "MIN", Unit::Micros, "The shortest").merge(super::Merge::Min),
    Column::last("p50_us", "P50", Unit::Micros, "Half of them were not longer").merge(super::Merge::Drop),
    Column::last("p90_us", "P90", Unit::Micros, "90 % of them were not longer").merge(super::Merge::Drop),
    Column::last("p99_us", "P99", Unit::Micros, "99 % of them were not longer").merge(super::Merge::Drop),
    Column::last("p99_9_us", "P99.9", Unit::Micros, "99.9 % of them were not longer")
        .merge(super::Merge::Drop),
    Column::last("max_us", "MAX", Unit::Micros, "The longest").merge(super::Merge::Max),
];

/// A distribution as a row of [`COLUMNS`].
pub(crate) fn record(series: &Series) -> Record {
    let times = &series.histogram;
    let part = (!series.part.is_empty()).then_some(series.part);
    let values = vec![
        part.map(Value::from).unwrap_or_default(),
        times.count().into(),
        times.sum.into(),
        series.skipped.into(),
        times.smallest().into(),
        times.percentile(50.0).into(),
        times.percentile(90.0).into(),
        times.percentile(99.0).into(),
        times.percentile(99.9).into(),
        times.largest().into(),
    ];
    Record { context: series.context.clone(), values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_whose_bounds_are_around_it() {
        for us in (0..5000).chain([65_535, 65_536, 1_000_000, (1 << 26) - 1, 1 << 26, u64::MAX]) {
            let (from, to) = bounds(bucket_of(us));
            assert!((from..=to).contains(&us), "{us} is not from {from} to {to}");
        }
        assert_eq!(bucket_of(1 << 26), BUCKETS - 1);
        assert!((1..BUCKETS).all(|n| lower(n) == bounds(n - 1).1 + 1), "no gap and no overlap");
    }

    #[test]
    fn the_middle_of_a_bucket_is_wrong_by_a_sixteenth_at_most() {
        for us in (1_u64..100_000).step_by(7) {
            let error = (middle(bucket_of(us)) - us as f64).abs() / us as f64;
            assert!(error <= 0.0625, "{us}: {error}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let mut times = Histogram::default();
        assert_eq!((times.percentile(50.0), times.smallest(), times.largest()), (None, None, None));
        (1..=1000).for_each(|us| times.record(us));
        assert_eq!((times.count(), times.smallest(), times.largest()), (1000, Some(1), Some(1000)));
        for (percent, expected) in [(50.0, 500.0), (90.0, 900.0), (99.0, 990.0), (99.9, 999.0), (0.0, 1.0)] {
            let found = times.percentile(percent).unwrap();
            assert!((found - expected).abs() <= expected * 0.0625, "p{percent} is {expected}, not {found}");
        }
        assert!((times.sum_seconds() - 0.5005).abs() < 1e-9);
    }

    #[test]
    fn a_difference_has_only_what_came_since() {
        let mut before = Histogram::default();
        before.record(10);
        let mut now = before.clone();
        now.record(100_000);
        let since = now.since(&before);
        assert_eq!(since.count(), 1);
        assert_eq!(bucket_of(since.smallest().unwrap()), bucket_of(100_000));
        assert_eq!(since.largest(), Some(100_000));
        before.add(&since);
        assert_eq!(before, now);
    }

    #[test]
    fn classic_buckets_only_grow() {
        let mut times = Histogram::default();
        [5, 15, 1000, 40_000, 20_000_000].into_iter().for_each(|us| times.record(us));
        let classic = times.classic();
        let up_to = |le: f64| classic.iter().find(|(bound, _)| *bound >= le).unwrap().1;
        assert_eq!((up_to(10e-6), up_to(20e-6), up_to(2e-3), up_to(50e-3), up_to(10.0)), (1, 2, 3, 4, 4));
        assert!(classic.windows(2).all(|w| w[0].1 <= w[1].1 && w[0].0 < w[1].0));
    }
}
