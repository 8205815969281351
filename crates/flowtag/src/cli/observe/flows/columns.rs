//! Lines of the table: as many columns as there is room for, the flow last.

use super::super::table::{clip, duration, flow_text, scaled};
use super::model::{Row, Sort};

/// What a flow needs at least.
const FLOW: usize = 30;

/// A column: heading, width, and what it says.
#[derive(Clone, Copy)]
struct Column {
    heading: &'static str,
    width: usize,
    sort: Sort,
    is_text: bool,
    text: fn(&Row) -> String,
}

const fn number(heading: &'static str, width: usize, sort: Sort, text: fn(&Row) -> String) -> Column {
    Column { heading, width, sort, is_text: false, text }
}

const fn word(heading: &'static str, width: usize, sort: Sort, text: fn(&Row) -> String) -> Column {
    Column { heading, width, sort, is_text: true, text }
}

const OWNER: Column =
    word("OWNER", 10, Sort::Tag, |row| row.tag.clone().unwrap_or_else(|| row.process.clone()));
const TAG: Column = word("TAG", 20, Sort::Tag, |row| row.tag.clone().unwrap_or_else(|| "-".to_owned()));
const PROCESS: Column = word("PROCESS", 18, Sort::Process, |row| row.process.clone());
const TX: Column = number("TX", 5, Sort::Tx, |row| rate(row.seen.span.tx_rate()));
const RX: Column = number("RX", 5, Sort::Rx, |row| rate(row.seen.span.rx_rate()));
const RTT: Column = number("RTT", 6, Sort::Rtt, |row| micros(row.seen.span.rtt.or(row.seen.span.rcv_rtt)));
const MIN: Column = number("MIN", 6, Sort::Rtt, |row| micros(row.seen.span.min_rtt));
const CWND: Column = number("CWND", 5, Sort::Cwnd, |row| scaled(row.seen.span.cwnd.into()));
const RETR: Column =
    number("RETR%", 5, Sort::Retr, |row| format!("{:.1}", row.seen.span.retransmission() * 100.0));
const STATE: Column = word("STATE", 10, Sort::State, |row| row.seen.state.to_owned());
const VERDICT: Column = word("VERDICT", 11, Sort::Verdict, |row| row.seen.verdict.short().to_owned());

/// From which width on each is there.
const COLUMNS: [(usize, Column); 10] = [
    (140, TAG),
    (140, PROCESS),
    (0, TX),
    (0, RX),
    (0, RTT),
    (88, MIN),
    (95, CWND),
    (0, RETR),
    (107, STATE),
    (0, VERDICT),
];

/// The columns that fit.
pub(super) struct Layout {
    columns: Vec<Column>,
    flow: usize,
}

impl Layout {
    pub(super) fn new(width: usize) -> Self {
        let fits = COLUMNS.iter().filter(|(from, _)| *from <= width).map(|(_, column)| *column);
        let owner = (width < 140).then_some(OWNER);
        let columns: Vec<_> = owner.into_iter().chain(fits).collect();
        let used: usize = columns.iter().map(|column| column.width + 1).sum();
        Self { columns, flow: width.saturating_sub(used).max(FLOW) }
    }

    pub(super) fn header(&self) -> String {
        let cells = self.columns.iter().map(|column| column.pad(column.heading));
        join(cells.chain(["LOCAL → REMOTE".to_owned()]))
    }

    /// Where in the header the heading that lines are ordered by begins and ends, in characters.
    pub(super) fn sorted(&self, sort: Sort) -> Option<(usize, usize)> {
        let at = self.columns.iter().position(|column| column.sort == sort)?;
        let start: usize = self.columns.iter().take(at).map(|column| column.width + 1).sum();
        Some((start, start + self.columns.get(at)?.width))
    }

    pub(super) fn line(&self, row: &Row) -> String {
        let cells = self.columns.iter().map(|column| column.pad(&(column.text)(row)));
        let flow = row.seen.record.context.flow;
        let flow = flow.map_or_else(|| "-".to_owned(), |flow| flow_text(&flow, self.flow));
        join(cells.chain([flow]))
    }
}

impl Column {
    /// Words to the left, numbers to the right.
    fn pad(&self, text: &str) -> String {
        let width = self.width;
        let text = clip(text, width);
        if self.is_text { format!("{text:<width$}") } else { format!("{text:>width$}") }
    }
}

fn join(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

/// Bits per second.
pub(super) fn rate(bytes: f64) -> String {
    scaled(bytes * 8.0)
}

pub(super) fn micros(micros: Option<u32>) -> String {
    micros.map_or_else(|| "-".to_owned(), |micros| duration(f64::from(micros) * 1e3))
}
