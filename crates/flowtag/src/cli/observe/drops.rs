//! `flowtag drops`: sums kept in the kernel, what is no loss hidden but counted, and who called whom below each row.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use comfy_table::CellAlignment;
use flowtag_kernel::probes::{self, Description, Loaded, Losses, Options, Unit, Value, drops};
use jiff::Timestamp;
use serde_json::{Map, json};

use super::args::{Wanted, Watch};
use super::group::Dimension;
use super::names::Names;
use super::table::{self, View};
use super::watch::{self, Stop};
use crate::cli::{output, registry};

/// How often sums are told that nobody said an interval for.
const INTERVAL: Duration = Duration::from_secs(5);
/// What is always told of a drop; a table has the first three.
const KEYS: [&str; 8] =
    ["reason", "location", "interface", "function", "protocol", "netns", "process", "cgroup"];
const IN_TABLE: usize = 3;
/// What the stack's calls are joined by.
const CALLS: char = ';';
/// Of a place in the kernel at least so much is told.
const SHORTEST_PLACE: usize = 16;

pub(super) fn run(probe: &'static Description, options: &Options, watch: &Watch, json: bool) -> Result<()> {
    let names = Names::new(registry::of_this_host());
    let flows = watch::daemon_flows(watch);
    let shape = Shape::new(probe, options, watch, json, flows.is_some())?;
    let session = watch::start(&watch.scope()?, flows.as_ref(), &[(probe, shape.options())])?;
    let Some(loaded) = session.probe(probe.name) else { bail!("{} does not run", probe.name) };
    let wanted = watch.wanted(&names)?;
    let stop = Stop::new(watch.duration)?;
    watch::tell_begin();
    let view = View { names: &names, epoch: probes::wall_clock() };
    let running = Running { loaded, wanted, view, shape, json };
    let hidden = running.watch(&stop, watch.interval.unwrap_or(INTERVAL))?;
    summary(session.losses()?, &hidden, json)
}

/// What rows are told apart by, and what is shown of them.
struct Shape {
    probe: &'static Description,
    by: Vec<Dimension>,
    all: bool,
    flows: bool,
    stack: bool,
}

impl Shape {
    fn new(
        probe: &'static Description,
        options: &Options,
        watch: &Watch,
        json: bool,
        knows_tags: bool,
    ) -> Result<Self> {
        let asked = watch.by.iter().map(|name| dimension(name, probe)).collect::<Result<Vec<_>>>()?;
        let by_flow = watch.count
            || asked.iter().any(|by| matches!(by, Dimension::Flow | Dimension::Peer | Dimension::Prefix));
        let mut by = if watch.count { vec![Dimension::Flow] } else { asked };
        if by.is_empty() {
            let keys = KEYS.iter().take(if json { KEYS.len() } else { IN_TABLE });
            by = keys.map(|name| dimension(name, probe)).collect::<Result<_>>()?;
            by.extend((knows_tags || json).then_some(Dimension::Tag));
            by.extend(options.has("flows").then_some(Dimension::Flow));
        }
        let stack = options.has("stack");
        if stack {
            by.push(dimension("stack", probe)?);
        }
        // An expression asks what only the packet's addresses can answer.
        let flows = by_flow || options.has("flows") || watch.has_expression();
        Ok(Self { probe, by, all: options.has("all"), flows, stack })
    }

    /// What the program in the kernel is told.
    fn options(&self) -> Options {
        let on = [("flows", self.flows), ("stack", self.stack)].into_iter().filter(|(_, on)| *on);
        Options::new(on.map(|(name, _)| name.to_owned()))
    }

    fn heading(&self, by: Dimension) -> String {
        match by {
            Dimension::Column(index, name) => {
                self.probe.columns.get(index).map_or(name, |column| column.heading).to_owned()
            }
            _ => by.name().to_uppercase(),
        }
    }
}

/// The probe knows interfaces and protocols better than others do: of all namespaces, and of what is no flow.
fn dimension(name: &str, probe: &'static Description) -> Result<Dimension> {
    let column = probe.columns.iter().enumerate().find(|(_, c)| c.name == name && c.unit == Unit::None);
    match column.filter(|(_, c)| c.merge == probes::Merge::Key) {
        Some((index, column)) => Ok(Dimension::Column(index, column.name)),
        None => Dimension::parse(name, probe),
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    packets: u64,
    bytes: u64,
}

/// By what [`Shape::by`] says.
type Sums = HashMap<Vec<String>, Sum>;
/// Packets that are no loss, by what they are instead.
type Hidden = BTreeMap<&'static str, u64>;

struct Running<'a> {
    loaded: &'a Loaded,
    wanted: Wanted,
    view: View<'a>,
    shape: Shape,
    json: bool,
}

impl Running<'_> {
    /// Tells what came in each interval, and for people at the end all of it.
    fn watch(&self, stop: &Stop, interval: Duration) -> Result<Hidden> {
        let mut next = Instant::now() + interval;
        let mut before = Sums::new();
        loop {
            let is_last = stop.is_now();
            if is_last || Instant::now() >= next {
                next += interval;
                let (now, hidden) = self.read()?;
                let is_whole = is_last && !self.json;
                self.print(&since(&now, if is_whole { None } else { Some(&before) }))?;
                before = now;
                if is_last {
                    return Ok(hidden);
                }
            }
            std::thread::sleep(stop.wait(Some(next)).min(Duration::from_millis(100)));
        }
    }

    fn read(&self) -> Result<(Sums, Hidden)> {
        let (mut sums, mut hidden) = (Sums::new(), Hidden::new());
        for drops::Row { record, benign } in drops::rows(self.loaded)? {
            if !self.wanted.wants(&record.context, self.view.names) {
                continue;
            }
            let [.., Value::Count(packets), Value::Count(bytes)] = record.values.as_slice() else { continue };
            match benign.filter(|_| !self.shape.all) {
                Some(word) => *hidden.entry(word).or_default() += packets,
                None => {
                    let key = self.shape.by.iter().map(|by| by.of(&record, &self.view)).collect();
                    let sum: &mut Sum = sums.entry(key).or_default();
                    sum.packets += packets;
                    sum.bytes += bytes;
                }
            }
        }
        Ok((sums, hidden))
    }

    fn print(&self, sums: &Sums) -> Result<()> {
        let mut rows: Vec<_> = sums.iter().collect();
        rows.sort_by_key(|(key, sum)| (Reverse(sum.packets), (*key).clone()));
        if self.json {
            return rows.into_iter().try_for_each(|(key, sum)| output::json(&self.object(key, *sum)));
        }
        if rows.is_empty() {
            return Ok(());
        }
        output::line("")?;
        self.print_table(&rows)
    }

    fn object(&self, key: &[String], sum: Sum) -> Map<String, serde_json::Value> {
        let mut object = Map::new();
        object.insert("time".to_owned(), json!(Timestamp::now()));
        for (by, text) in self.shape.by.iter().zip(key) {
            let value = match (by.name(), text.as_str()) {
                ("stack", "-") => json!([]),
                (_, "-") => serde_json::Value::Null,
                ("stack", calls) => json!(calls.split(CALLS).collect::<Vec<_>>()),
                ("netns", number) => json!(number.parse::<u64>().ok()),
                (_, text) => json!(text),
            };
            object.insert(by.name().to_owned(), value);
        }
        object.insert("packets".to_owned(), json!(sum.packets));
        object.insert("bytes".to_owned(), json!(sum.bytes));
        object
    }

    fn print_table(&self, rows: &[(&Vec<String>, &Sum)]) -> Result<()> {
        // The stack is the last of the key, and stands below its row.
        let shown = self.shape.by.len() - usize::from(self.shape.stack);
        let header = self.shape.by.iter().take(shown).map(|by| self.shape.heading(*by));
        let header: Vec<_> = header.chain(["PACKETS".to_owned(), "BYTES".to_owned()]).collect();
        let cells = rows.iter().map(|(key, sum)| {
            let mut cells: Vec<_> = key.iter().take(shown).cloned().collect();
            cells.push(sum.packets.to_string());
            cells.push(table::value(&Value::Count(sum.bytes), Unit::Bytes));
            cells
        });
        let mut cells: Vec<Vec<String>> = cells.collect();
        self.shorten(&header, &mut cells);
        let mut lines = lines(&header, cells, shown).into_iter();
        lines.next().map_or(Ok(()), output::line)?;
        for (line, (key, _)) in lines.zip(rows) {
            output::line(line)?;
            let calls = key.get(shown).filter(|calls| *calls != "-");
            calls
                .into_iter()
                .flat_map(|c| c.split(CALLS))
                .try_for_each(|c| output::line(format_args!("    {c}")))?;
        }
        Ok(())
    }

    /// Takes what is too much for the terminal from the places in the kernel, which say most with their beginning.
    fn shorten(&self, header: &[String], cells: &mut [Vec<String>]) {
        let is_place = |by: &Dimension| matches!(by.name(), "location" | "function");
        let Some(place) = self.shape.by.iter().position(is_place) else { return };
        let length = |text: &String| text.chars().count();
        let width = |n: usize| {
            cells.iter().filter_map(|row| row.get(n)).chain(header.get(n)).map(length).max().unwrap_or(0)
        };
        let used = (0..header.len()).map(width).sum::<usize>() + 2 * header.len().saturating_sub(1);
        let over = used.saturating_sub(table::terminal_width());
        let room = width(place).saturating_sub(over).max(SHORTEST_PLACE);
        for cell in cells.iter_mut().filter_map(|row| row.get_mut(place)) {
            *cell = table::clip(cell, room).into_owned();
        }
    }
}

/// The header, and a line for each row; numbers to the right.
fn lines(header: &[String], cells: Vec<Vec<String>>, words: usize) -> Vec<String> {
    let mut table = output::table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    table.add_rows(cells);
    for number in words..header.len() {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::table_lines(&table)
}

/// What came since; rows without anything are left out.
fn since(now: &Sums, before: Option<&Sums>) -> Sums {
    let less = |(key, sum): (&Vec<String>, &Sum)| {
        let old = before.and_then(|b| b.get(key)).copied().unwrap_or_default();
        let packets = sum.packets.saturating_sub(old.packets);
        let sum = Sum { packets, bytes: sum.bytes.saturating_sub(old.bytes) };
        (packets > 0).then(|| (key.clone(), sum))
    };
    now.iter().filter_map(less).collect()
}

fn summary(losses: Losses, hidden: &Hidden, json: bool) -> Result<()> {
    if json {
        let Losses { events, lost, flows, evicted } = losses;
        let counts = json!({
            "events": events, "lost": lost, "flows": flows, "evicted": evicted, "hidden_packets": hidden,
        });
        return output::json(&json!({ "summary": counts }));
    }
    if !hidden.is_empty() {
        let by: Vec<_> = hidden.iter().map(|(word, packets)| format!("{word} {packets},")).collect();
        let text = format!("no loss, so hidden: {} shown with --all", by.join(" "));
        output::wrap(&text, table::terminal_width(), table::terminal_width())
            .into_iter()
            .try_for_each(output::line)?;
    }
    watch::summary(losses, false)
}
