//! What is shown: connections in order, which one is chosen, and how each went over the last minutes.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use anyhow::Result;
use clap::ValueEnum;
use flowtag_kernel::probes::Losses;

use super::super::names::Names;
use super::super::spans::Seen;
use super::super::table::process;
use crate::verdict::Way;

/// Looks that are remembered of a connection.
const HISTORY: usize = 240;

/// By what connections are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Bytes both ways
    Rate,
    /// Bytes sent
    Tx,
    /// Bytes received
    Rx,
    /// Round-trip time
    Rtt,
    /// Retransmitted parts
    Retr,
    /// Congestion window
    Cwnd,
    /// Tag
    Tag,
    /// Process
    Process,
    /// Other end
    Remote,
    /// State of the connection
    State,
    /// What limits it
    Verdict,
}

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) seen: Seen,
    pub(super) tag: Option<String>,
    pub(super) process: String,
}

/// One look at a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    /// Bytes per second, both ways.
    pub(super) rate: f32,
    pub(super) rtt: u32,
    pub(super) cwnd: u32,
}

/// What fills the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    Help,
    /// With what has been typed.
    Filter(String),
    /// Of one connection.
    Detail(u64),
}

/// All of it.
#[derive(Debug)]
pub(super) struct Model {
    rows: Vec<Row>,
    history: HashMap<u64, VecDeque<Point>>,
    pub(super) sort: Sort,
    /// The other way round.
    pub(super) is_reversed: bool,
    pub(super) shows_idle: bool,
    pub(super) mode: Mode,
    /// The one that the cursor is on; none: the first.
    chosen: Option<u64>,
    pub(super) filter: String,
    /// What was wrong with the last filter.
    pub(super) error: Option<String>,
    pub(super) losses: Losses,
}

impl Model {
    pub(super) fn new(sort: Sort, shows_idle: bool) -> Self {
        Self {
            rows: Vec::new(),
            history: HashMap::new(),
            sort,
            is_reversed: false,
            shows_idle,
            mode: Mode::List,
            chosen: None,
            filter: String::new(),
            error: None,
            losses: Losses::default(),
        }
    }

    /// With what was seen now.
    pub(super) fn update(&mut self, seen: Vec<Seen>, names: &Names) {
        let row = |seen: Seen| Row {
            tag: seen.record.context.tag.map(|tag| names.tag_text(tag)),
            process: process(&seen.record.context),
            seen,
        };
        self.rows = seen.into_iter().map(row).collect();
        self.remember();
        self.order();
    }

    /// Of those that move data, and for as long as they are open.
    fn remember(&mut self) {
        let mut before = std::mem::take(&mut self.history);
        for row in &self.rows {
            let known = before.remove(&row.seen.cookie);
            if known.is_none() && row.seen.span.way == Way::None {
                continue;
            }
            let mut points = known.unwrap_or_default();
            points.push_back(Point::of(row));
            points.drain(..points.len().saturating_sub(HISTORY));
            self.history.insert(row.seen.cookie, points);
        }
    }

    pub(super) fn sort_by(&mut self, sort: Sort) {
        self.is_reversed = self.sort == sort && !self.is_reversed;
        self.sort = sort;
        self.order();
    }

    fn order(&mut self) {
        let (sort, is_reversed) = (self.sort, self.is_reversed);
        self.rows.sort_by(|a, b| {
            let order = compare(sort, a, b);
            let order = if is_reversed { order.reverse() } else { order };
            order.then_with(|| a.seen.cookie.cmp(&b.seen.cookie))
        });
    }

    /// In their order.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| self.shows_idle || row.seen.span.way != Way::None)
    }

    /// All that pass the filter, the idle ones included.
    pub(super) fn total(&self) -> usize {
        self.rows.len()
    }

    /// Bytes per second, sent and received.
    pub(super) fn rates(&self) -> (f64, f64) {
        self.rows
            .iter()
            .fold((0.0, 0.0), |(tx, rx), row| (tx + row.seen.span.tx_rate(), rx + row.seen.span.rx_rate()))
    }

    /// The place of the cursor among those that are shown.
    pub(super) fn cursor(&self) -> usize {
        let chosen = self.chosen.and_then(|cookie| self.shown().position(|row| row.seen.cookie == cookie));
        chosen.unwrap_or(0)
    }

    pub(super) fn move_by(&mut self, rows: isize) {
        let last = self.shown().count().saturating_sub(1);
        let at = self.cursor().saturating_add_signed(rows).min(last);
        let chosen = self.shown().nth(at).map(|row| row.seen.cookie);
        self.chosen = chosen;
    }

    /// The one that the cursor is on.
    pub(super) fn at_cursor(&self) -> Option<u64> {
        self.shown().nth(self.cursor()).map(|row| row.seen.cookie)
    }

    pub(super) fn row(&self, cookie: u64) -> Option<&Row> {
        self.rows.iter().find(|row| row.seen.cookie == cookie)
    }

    /// The latest last.
    pub(super) fn points(&self, cookie: u64) -> impl Iterator<Item = &Point> {
        self.history.get(&cookie).into_iter().flatten()
    }

    /// After a filter was tried.
    pub(super) fn filtered(&mut self, result: Result<()>, text: &str) {
        match result {
            Ok(()) => {
                text.clone_into(&mut self.filter);
                self.error = None;
                self.mode = Mode::List;
            }
            Err(error) => self.error = Some(format!("{:#}", error)),
        }
    }
}

impl Point {
    fn of(row: &Row) -> Self {
        let span = &row.seen.span;
        Self {
            rate: (span.tx_rate() + span.rx_rate()) as f32,
            rtt: span.rtt.or(span.rcv_rtt).unwrap_or(0),
            cwnd: span.cwnd,
        }
    }
}

/// Numbers from the largest, words from A.
fn compare(sort: Sort, a: &Row, b: &Row) -> Ordering {
    let (x, y) = (&a.seen.span, &b.seen.span);
    let remote = |row: &Row| row.seen.record.context.flow.map(|flow| flow.remote);
    match sort {
        Sort::Rate => (y.tx_rate() + y.rx_rate()).total_cmp(&(x.tx_rate() + x.rx_rate())),
        Sort::Tx => y.tx_rate().total_cmp(&x.tx_rate()),
        Sort::Rx => y.rx_rate().total_cmp(&x.rx_rate()),
        Sort::Rtt => y.rtt.cmp(&x.rtt),
        Sort::Retr => y.retransmission().total_cmp(&x.retransmission()),
        Sort::Cwnd => y.cwnd.cmp(&x.cwnd),
        // Those with a tag come before those without.
        Sort::Tag => (a.tag.is_none(), &a.tag).cmp(&(b.tag.is_none(), &b.tag)),
        Sort::Process => a.process.cmp(&b.process),
        Sort::Remote => remote(a).cmp(&remote(b)),
        Sort::State => a.seen.state.cmp(b.seen.state),
        Sort::Verdict => a.seen.verdict.cmp(&b.seen.verdict),
    }
}
