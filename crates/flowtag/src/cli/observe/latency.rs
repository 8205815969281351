//! `flowtag latency`: four times of TCP, each measured where it passes, and what came of attempts to connect.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use flowtag_kernel::probes::histogram::{Histogram, Series};
use flowtag_kernel::probes::{
    self, Context, Description, Options, Record, Session, Unit, Value, connect, delay, request, rtt,
};
use flowtag_wire::expression::Expression;
use serde_json::{Map, json};

use super::args::{Wanted, Watch};
use super::group::Dimension;
use super::names::Names;
use super::table::{self, View};
use super::watch::{self, Stop};
use crate::cli::{output, registry};

/// Characters of the longest bar.
const BAR: u64 = 40;

/// Show how long TCP takes: to connect, on the path, in the socket, and in the application at the other end
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Four times that are often taken for one another (docs/latency.md):\n  \
    connect   from the SYN until the other end has answered, with the outcome\n  \
    rtt       from a segment to its acknowledgement: the path, and the other end's kernel\n  \
    delay     from the arrival of data until the application here has read it\n  \
    request   from the last byte of a request until the first of its reply: answer as who asks sees it, peer the\n            \
              same without the round trip, serve as who answers sees it\n\n\
    Without one of them, a line for each.\n\nExamples:\n  \
    flowtag latency                             all of them, as Ctrl-C ends it\n  \
    flowtag latency -i 5 --by tag               every 5 seconds, by owner\n  \
    flowtag latency rtt --by prefix             round-trip times by /64 or /24 of the peer\n  \
    flowtag latency connect                     a line for each attempt to connect")]
pub(in crate::cli) struct Latency {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    times: Times,
}

#[derive(Debug, Subcommand)]
enum What {
    #[command(about = connect::PROBE.about, after_help = super::help(&connect::PROBE))]
    Connect(Watch),
    #[command(about = rtt::PROBE.about, after_help = super::help(&rtt::PROBE))]
    Rtt(Times),
    #[command(about = delay::PROBE.about, after_help = super::help(&delay::PROBE))]
    Delay(Times),
    #[command(about = request::PROBE.about, after_help = super::help(&request::PROBE))]
    Request(Times),
}

#[derive(Debug, Args)]
struct Times {
    #[command(flatten)]
    watch: Watch,
    /// Draw each distribution, by powers of two
    #[arg(long)]
    histogram: bool,
}

impl Latency {
    pub(in crate::cli) fn run(self, json: bool) -> Result<()> {
        let (probe, by, times): (&[_], &[&str], _) = match self.what {
            None => (&[&connect::PROBE, &rtt::PROBE, &delay::PROBE, &request::PROBE], &[], self.times),
            Some(What::Connect(watch)) => {
                return watch::run(&connect::PROBE, Options::default(), watch, json);
            }
            Some(What::Rtt(times)) => (&[&rtt::PROBE], &["peer", "tag"], times),
            Some(What::Delay(times)) => (&[&delay::PROBE], &["process", "tag"], times),
            Some(What::Request(times)) => (&[&request::PROBE], &["peer", "process"], times),
        };
        times.run(probe, by, json)
    }
}

/// What distributions are put together by.
fn dimension(name: &str) -> Result<Dimension> {
    match Dimension::parse(name, &rtt::PROBE) {
        Ok(Dimension::Interface | Dimension::Column(..)) | Err(_) => bail!(
            "there are no distributions by {name:?}: choose of flow, tag, experiment, process, pid, cgroup, unit, user, peer, \
             prefix, netns"
        ),
        Ok(dimension) => Ok(dimension),
    }
}

/// What the kernel must tell apart for it.
fn part(dimension: Dimension) -> &'static str {
    match dimension.name() {
        "experiment" => "tag",
        "unit" => "cgroup",
        name => name,
    }
}

fn names_interface(expression: &Expression) -> bool {
    match expression {
        Expression::Interface(_) => true,
        Expression::Not(of) => names_interface(of),
        Expression::And(a, b) | Expression::Or(a, b) => names_interface(a) || names_interface(b),
        _ => false,
    }
}

/// What the kernel must tell apart, so that an expression can choose.
fn needs(expression: &Expression) -> Vec<&'static str> {
    match expression {
        Expression::Any | Expression::Protocol(_) | Expression::Interface(_) => Vec::new(),
        Expression::Net(..) | Expression::Ports(..) | Expression::Ipv4 | Expression::Ipv6 => vec!["flow"],
        Expression::Tagged | Expression::Tag(_) | Expression::Experiment(_) => vec!["tag"],
        Expression::Pid(_) => vec!["pid"],
        Expression::User(_) => vec!["user"],
        Expression::Process(_) => vec!["process"],
        Expression::Cgroup(_) => vec!["cgroup"],
        Expression::Not(of) => needs(of),
        Expression::And(left, right) | Expression::Or(left, right) => [needs(left), needs(right)].concat(),
    }
}

/// One line: times of one kind, of whatever they are put together by.
#[derive(Debug, Clone, Default)]
struct Row {
    times: Histogram,
    skipped: u64,
}

/// In the order in which they are printed: of which kind, then of whom.
type Rows = BTreeMap<Key, Row>;
type Key = (usize, String, Vec<String>);

impl Times {
    fn run(self, wanted_probes: &[&'static Description], by: &[&str], json: bool) -> Result<()> {
        let names = Names::new(registry::of_this_host());
        let wanted = self.watch.wanted(&names)?;
        ensure!(
            !names_interface(wanted.expression()),
            "distributions are of no interface: leave it out of the expression"
        );
        let by = self.by(by)?;
        let mut parts: Vec<String> = by.iter().map(|by| part(*by).to_owned()).collect();
        parts.extend(needs(wanted.expression()).into_iter().map(str::to_owned));
        parts.push("all".to_owned());
        let probes: Vec<_> =
            wanted_probes.iter().map(|p| (*p, Options::new(parts.iter().cloned()))).collect();
        let flows = watch::daemon_flows(&self.watch);
        let session = watch::start(&self.watch.scope()?, flows.as_ref(), &probes)?;
        let stop = Stop::new(self.watch.duration)?;
        watch::tell_begin();
        let view = View { names: &names, epoch: probes::wall_clock() };
        let shown = Shown { by, json, bars: self.histogram, kinds: wanted_probes.len() };
        let mut watching = Watching { session: &session, wanted, view, shown, attempts: Rows::new() };
        watching.run(&stop, self.watch.interval)?;
        watch::summary(session.losses()?, json)
    }

    fn by(&self, default: &[&str]) -> Result<Vec<Dimension>> {
        if self.watch.count {
            return Ok(vec![Dimension::Flow]);
        }
        if self.watch.by.is_empty() {
            return default.iter().map(|name| dimension(name)).collect();
        }
        self.watch.by.iter().map(|name| dimension(name)).collect()
    }
}

struct Watching<'a> {
    session: &'a Session,
    wanted: Wanted,
    view: View<'a>,
    shown: Shown,
    /// Attempts to connect come one by one.
    attempts: Rows,
}

impl Watching<'_> {
    fn run(&mut self, stop: &Stop, interval: Option<std::time::Duration>) -> Result<()> {
        let mut next = interval.map(|i| Instant::now() + i);
        let mut before = Rows::new();
        loop {
            let is_last = stop.is_now();
            self.take_attempts(stop.wait(next))?;
            let is_due = next.is_some_and(|at| Instant::now() >= at);
            if is_last || is_due {
                let now = self.rows()?;
                // At the end, all of it; programs add up by themselves.
                let all = is_last && !(self.shown.json && interval.is_some());
                self.shown.print(&if all { now.clone() } else { since(&now, &before) })?;
                before = now;
                next = next.zip(interval).map(|(at, i)| at + i);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn take_attempts(&mut self, limit: std::time::Duration) -> Result<()> {
        for (_, record) in self.session.next(limit)? {
            let [Value::Text(outcome), Value::Count(latency), ..] = record.values.as_slice() else {
                continue;
            };
            if self.wanted.wants(&record.context, self.view.names) {
                let key = (0, format!("connect {outcome}"), self.shown.key(&record, &self.view));
                self.attempts.entry(key).or_default().times.record(*latency);
            }
        }
        Ok(())
    }

    /// What the kernel has counted so far.
    fn rows(&self) -> Result<Rows> {
        let mut rows = self.attempts.clone();
        for loaded in self.session.probes() {
            let (order, series) = match loaded.probe().name {
                "rtt" => (1, rtt::series(loaded)?),
                "delay" => (2, delay::series(loaded)?),
                "request" => (3, request::series(loaded)?),
                _ => continue,
            };
            for one in &series {
                self.put(&mut rows, order, loaded.probe().name, one);
            }
        }
        Ok(rows)
    }

    fn put(&self, rows: &mut Rows, order: usize, probe: &str, series: &Series) {
        if !self.wanted.wants(&series.context, self.view.names) {
            return;
        }
        let what = if series.part.is_empty() { probe } else { series.part };
        let key = if series.is_other {
            self.shown.by.iter().map(|_| "other".to_owned()).collect()
        } else {
            self.shown.key(&record_of(&series.context), &self.view)
        };
        let row = rows.entry((order, what.to_owned(), key)).or_default();
        row.times.add(&series.histogram);
        row.skipped += series.skipped;
    }
}

fn record_of(context: &Context) -> Record {
    Record { context: context.clone(), values: Vec::new() }
}

/// What is here and was not there.
fn since(now: &Rows, before: &Rows) -> Rows {
    let difference = |(key, row): (&_, &Row)| {
        let old = before.get(key).cloned().unwrap_or_default();
        let row =
            Row { times: row.times.since(&old.times), skipped: row.skipped.saturating_sub(old.skipped) };
        (row.times.count() > 0 || row.skipped > 0).then(|| (Clone::clone(key), row))
    };
    now.iter().filter_map(difference).collect()
}

/// How it is printed.
struct Shown {
    by: Vec<Dimension>,
    json: bool,
    bars: bool,
    /// How many probes there are.
    kinds: usize,
}

impl Shown {
    fn key(&self, record: &Record, view: &View<'_>) -> Vec<String> {
        self.by.iter().map(|by| by.of(record, view)).collect()
    }

    fn print(&self, rows: &Rows) -> Result<()> {
        if self.json {
            return rows
                .iter()
                .try_for_each(|((_, what, key), row)| output::json(&self.object(what, key, row)));
        }
        if rows.is_empty() {
            return Ok(());
        }
        self.print_table(rows)?;
        for ((_, what, key), row) in rows.iter().filter(|_| self.bars) {
            output::line(format_args!("\n{}", [std::slice::from_ref(what), key].concat().join(" ")))?;
            bars(&row.times).into_iter().try_for_each(output::line)?;
        }
        output::line("")
    }

    /// Of one kind there are requests only, in three parts.
    fn has_what(&self, rows: &Rows) -> bool {
        self.kinds > 1 || rows.keys().any(|(order, ..)| *order == 3)
    }

    fn print_table(&self, rows: &Rows) -> Result<()> {
        let has_what = self.has_what(rows);
        let has_skipped = rows.values().any(|row| row.skipped > 0);
        let mut header: Vec<_> = has_what.then(|| "WHAT".to_owned()).into_iter().collect();
        header.extend(self.by.iter().map(|by| by.name().to_uppercase()));
        let keys = header.len();
        header.extend(["SAMPLES", "MIN", "P50", "P90", "P99", "P99.9", "MAX"].map(str::to_owned));
        header.extend(has_skipped.then(|| "SKIPPED".to_owned()));
        let mut table = output::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for ((_, what, key), row) in sorted(rows) {
            let mut cells: Vec<_> = has_what.then(|| what.clone()).into_iter().collect();
            cells.extend(key.iter().cloned().chain(numbers(&row.times)));
            cells.extend(has_skipped.then(|| row.skipped.to_string()));
            table.add_row(cells);
        }
        for number in keys..header.len() {
            if let Some(column) = table.column_mut(number) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        output::print_table(&table)
    }

    fn object(&self, what: &str, key: &[String], row: &Row) -> Map<String, serde_json::Value> {
        let times = &row.times;
        let mut object = Map::new();
        object.insert("time".into(), json!(jiff::Timestamp::now()));
        object.insert("what".into(), json!(what));
        object.extend(self.by.iter().zip(key).map(|(by, text)| (by.name().to_owned(), json!(text))));
        object.insert("samples".into(), json!(times.count()));
        object.insert("skipped".into(), json!(row.skipped));
        object.insert("sum_us".into(), json!((times.sum_seconds() * 1e6).round() as u64));
        object.insert("min_us".into(), json!(times.smallest()));
        for (name, percent) in [("p50_us", 50.0), ("p90_us", 90.0), ("p99_us", 99.0), ("p99_9_us", 99.9)] {
            object.insert(name.into(), json!(times.percentile(percent)));
        }
        object.insert("max_us".into(), json!(times.largest()));
        let bucket = |(from, to, n): (u64, u64, u64)| json!({ "from_us": from, "to_us": to, "samples": n });
        object.insert("buckets".into(), times.buckets().map(bucket).collect());
        object
    }
}

/// Of each kind the one with most samples first.
fn sorted(rows: &Rows) -> Vec<(&Key, &Row)> {
    let mut all: Vec<_> = rows.iter().collect();
    all.sort_by_key(|((order, what, _), row)| (*order, what.clone(), std::cmp::Reverse(row.times.count())));
    all
}

fn numbers(times: &Histogram) -> Vec<String> {
    let whole = |us: Option<u64>| table::value(&us.into(), Unit::Micros);
    let mut cells = vec![table::value(&times.count().into(), Unit::None), whole(times.smallest())];
    cells.extend([50.0, 90.0, 99.0, 99.9].map(|p| table::value(&times.percentile(p).into(), Unit::Micros)));
    cells.push(whole(times.largest()));
    cells
}

/// A line for each power of two between the shortest and the longest time.
fn bars(times: &Histogram) -> Vec<String> {
    let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
    for (from, _, count) in times.buckets() {
        *counts.entry(from.checked_ilog2().map_or(0, |power| power + 1)).or_default() += count;
    }
    let (Some((first, _)), Some((last, _))) = (counts.first_key_value(), counts.last_key_value()) else {
        return Vec::new();
    };
    let most = counts.values().copied().max().unwrap_or(1);
    let line = |power: u32| {
        let count = counts.get(&power).copied().unwrap_or(0);
        let bar = "█".repeat((count * BAR / most) as usize);
        let bound =
            |power: u32| table::duration(if power == 0 { 0.0 } else { (1_u64 << (power - 1)) as f64 * 1e3 });
        format!("  {:>7} to {:>7} {count:>9} {bar}", bound(power), bound(power + 1)).trim_end().to_owned()
    };
    (*first..=*last).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_by_powers_of_two_and_leave_no_gap() {
        let mut times = Histogram::default();
        [0, 70, 100, 127, 300].into_iter().for_each(|us| times.record(us));
        let lines = bars(&times);
        assert_eq!(lines.len(), 10, "{lines:#?}");
        assert!(lines[0].starts_with("      0ns to  1.00us         1 █"), "{lines:#?}");
        assert_eq!(lines[7], format!("   64.0us to   128us         3 {}", "█".repeat(40)));
        assert_eq!(lines[8], "    128us to   256us         0");
    }

    #[test]
    fn what_distributions_can_be_told_apart_by_is_said() {
        assert_eq!(part(dimension("experiment").unwrap()), "tag");
        assert_eq!(dimension("prefix").unwrap(), Dimension::Prefix);
        assert!(dimension("interface").unwrap_err().to_string().contains("prefix"));
    }
}
