//! Lines of a table that goes on: as many columns as the terminal has room for, the flow last, as it may be long.

use std::borrow::Cow;
use std::env;
use std::net::IpAddr;
use std::time::SystemTime;

use flowtag_kernel::probes::{Column, Context, Description, Flow, Record, Unit, Value};
use flowtag_wire::Endpoint;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use nix::libc;

use super::names::{Names, unit};

/// A terminal that does not say how wide it is, and a pipe.
const WIDTH: usize = 132;
/// What a flow needs at least.
const FLOW: usize = 30;
/// Columns of a terminal from which half of what is more goes to the flow.
const WIDE: usize = 100;
/// What a flow of IPv6 takes at most.
const WHOLE_FLOW: usize = 97;

/// Columns of the terminal; of what is no terminal what COLUMNS says.
pub(super) fn terminal_width() -> usize {
    let said = env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    said.or_else(|| {
        rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col))
    })
    .filter(|width| *width > 0)
    .unwrap_or(WIDTH)
}

/// What a column says of a record.
type Text = Box<dyn Fn(&Record, &View<'_>) -> String>;

/// A column as it is printed.
pub(super) struct Shown {
    heading: &'static str,
    width: usize,
    rank: u8,
    is_text: bool,
    text: Text,
}

/// What is needed to print a record.
pub(super) struct View<'a> {
    pub(super) names: &'a Names,
    /// When CLOCK_MONOTONIC was 0.
    pub(super) epoch: SystemTime,
}

/// The columns that fit.
pub(super) struct Layout {
    columns: Vec<Shown>,
    /// Room for the flow, if it is told.
    flow: Option<usize>,
}

impl Layout {
    /// For the records of a probe, each on its line.
    pub(super) fn new(probe: &'static Description, width: usize) -> Self {
        let mut columns = vec![Shown::context("TIME", 12, 0, |r, view| time(r.context.time, view))];
        columns.extend(probe.columns.iter().enumerate().map(|(n, column)| Shown::column(n, column)));
        columns.push(Shown::context("TAG", 20, 1, |r, view| {
            or_dash(r.context.tag.map(|t| view.names.tag_text(t)))
        }));
        columns.push(Shown::context("PROCESS", 20, 2, |r, _| process(&r.context)));
        columns.push(Shown::context("UNIT", 24, 6, |r, view| {
            let path = r.context.owner.cgroup.and_then(|id| view.names.cgroup(id));
            or_dash(path.as_deref().and_then(unit))
        }));
        let flow = (FLOW + width.saturating_sub(WIDE) / 2).min(WHOLE_FLOW);
        fit(&mut columns, width.saturating_sub(flow + 1));
        let used: usize = columns.iter().map(|c| c.width + 1).sum();
        Self { columns, flow: Some(width.saturating_sub(used).max(flow)) }
    }

    pub(super) fn header(&self) -> String {
        let cells = self.columns.iter().map(|c| c.pad(c.heading));
        let flow = self.flow.map(|_| "LOCAL → REMOTE".to_owned());
        join(cells.chain(flow))
    }

    pub(super) fn line(&self, record: &Record, view: &View<'_>) -> String {
        let cells = self.columns.iter().map(|c| c.pad(&(c.text)(record, view)));
        let flow =
            self.flow.map(|room| record.context.flow.map_or_else(|| "-".to_owned(), |f| flow_text(&f, room)));
        join(cells.chain(flow))
    }
}

/// Leaves out columns, the highest rank first, until the rest fits.
fn fit(columns: &mut Vec<Shown>, room: usize) {
    columns.retain(|c| c.rank != Column::HIDDEN);
    while columns.iter().map(|c| c.width + 1).sum::<usize>() > room {
        let Some(highest) = columns.iter().map(|c| c.rank).max().filter(|rank| *rank > 0) else { return };
        let Some(last) = columns.iter().rposition(|c| c.rank == highest) else { return };
        columns.remove(last);
    }
}

fn join(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
}

impl Shown {
    fn context(
        heading: &'static str,
        width: usize,
        rank: u8,
        text: impl Fn(&Record, &View<'_>) -> String + 'static,
    ) -> Self {
        Self { heading, width, rank, is_text: true, text: Box::new(text) }
    }

    fn column(index: usize, column: &'static Column) -> Self {
        let text = move |record: &Record, _: &View<'_>| {
            record.values.get(index).map_or("-".into(), |v| value(v, column.unit))
        };
        let is_text = column.unit == Unit::None && column.merge == flowtag_kernel::probes::Merge::Key;
        Self {
            heading: column.heading,
            width: column.width.into(),
            rank: column.rank,
            is_text,
            text: Box::new(text),
        }
    }

    /// Words to the left, numbers to the right.
    fn pad(&self, text: &str) -> String {
        let width = self.width;
        if self.is_text { format!("{:<width$}", clip(text, width)) } else { format!("{text:>width$}") }
    }
}

pub(super) fn clip(text: &str, width: usize) -> Cow<'_, str> {
    if text.chars().count() <= width {
        return text.into();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut.into()
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

pub(super) fn process(context: &Context) -> String {
    match (&context.owner.process, context.owner.pid) {
        (Some(name), Some(pid)) => format!("{name}[{pid}]"),
        (Some(name), None) => name.clone(),
        (None, Some(pid)) => format!("[{pid}]"),
        (None, None) => "-".to_owned(),
    }
}

/// When a record's moment was.
pub(super) fn timestamp(time: std::time::Duration, view: &View<'_>) -> Timestamp {
    Timestamp::try_from(view.epoch + time).unwrap_or_default()
}

fn time(time: std::time::Duration, view: &View<'_>) -> String {
    clock(timestamp(time, view))
}

/// Time of day where we are.
pub(super) fn clock(time: Timestamp) -> String {
    let zoned: Zoned = time.to_zoned(TimeZone::system());
    zoned.strftime("%H:%M:%S%.3f").to_string()
}

/// A value for people.
pub(super) fn value(value: &Value, unit: Unit) -> String {
    match value {
        Value::None => "-".to_owned(),
        Value::Text(text) => text.replace(|c: char| c.is_control(), "?"),
        Value::Count(number) => number_text(*number as f64, unit, true),
        Value::Real(number) => number_text(*number, unit, false),
    }
}

fn number_text(number: f64, unit: Unit, is_whole: bool) -> String {
    match unit {
        Unit::None if is_whole => format!("{number:.0}"),
        Unit::None => format!("{number:.2}"),
        Unit::Bytes | Unit::Count => scaled(number),
        Unit::Rate => scaled(number * 8.0),
        Unit::Micros => duration(number * 1e3),
        Unit::Nanos | Unit::Moment => duration(number),
        Unit::Percent => format!("{number:.1}%"),
    }
}

/// Three digits and a power of 1000.
pub(super) fn scaled(number: f64) -> String {
    let mut rest = number;
    for suffix in ["", "K", "M", "G", "T", "P"] {
        if rest < 999.5 {
            return if suffix.is_empty() {
                format!("{rest:.0}")
            } else {
                format!("{}{suffix}", three_digits(rest))
            };
        }
        rest /= 1000.0;
    }
    format!("{rest:.0}E")
}

/// Of nanoseconds.
pub(super) fn duration(nanos: f64) -> String {
    for (limit, unit, factor) in [(999.5, "ns", 1.0), (999.5e3, "us", 1e3), (999.5e6, "ms", 1e6)] {
        if nanos < limit {
            return if factor == 1.0 {
                format!("{nanos:.0}ns")
            } else {
                format!("{}{unit}", three_digits(nanos / factor))
            };
        }
    }
    format!("{}s", three_digits(nanos / 1e9))
}

fn three_digits(number: f64) -> String {
    match number {
        n if n < 9.995 => format!("{n:.2}"),
        n if n < 99.95 => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

/// Both ends, shortened where they have no room: the local one sooner, as one knows it better.
pub(super) fn flow_text(flow: &Flow, room: usize) -> String {
    let both = |local, remote| format!("{} → {}", short(flow.local, local), short(flow.remote, remote));
    let shorter = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2)].into_iter().map(|(l, r)| both(l, r));
    shorter.into_iter().find(|text| text.chars().count() <= room).unwrap_or_else(|| both(3, 3))
}

/// The first and the last part of an address say most.
fn short(end: Endpoint, level: u8) -> String {
    let (IpAddr::V6(addr), 1..) = (end.addr(), level) else { return end.to_string() };
    let [first, second, .., last] = addr.segments();
    let short = match level {
        1 => format!("[{first:x}:{second:x}…{last:x}]:{}", end.port()),
        2 => format!("[{first:x}…{last:x}]:{}", end.port()),
        _ => format!("[…{last:x}]:{}", end.port()),
    };
    let whole = end.to_string();
    if whole.chars().count() <= short.chars().count() { whole } else { short }
}

/// Words for protocols.
pub(super) fn protocol(number: u8) -> Cow<'static, str> {
    match i32::from(number) {
        libc::IPPROTO_TCP => "tcp".into(),
        libc::IPPROTO_UDP => "udp".into(),
        libc::IPPROTO_ICMP => "icmp".into(),
        libc::IPPROTO_ICMPV6 => "icmp6".into(),
        _ => number.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_three_digits_and_a_unit() {
        for (number, expected) in [
            (0.0, "0"),
            (999.0, "999"),
            (999.6, "1.00K"),
            (1500.0, "1.50K"),
            (12_345_678.0, "12.3M"),
            (1e12, "1.00T"),
        ] {
            assert_eq!(scaled(number), expected);
        }
        for (nanos, expected) in [
            (500.0, "500ns"),
            (1500.0, "1.50us"),
            (820e3, "820us"),
            (999.9e3, "1.00ms"),
            (2e9, "2.00s"),
            (100e9, "100s"),
        ] {
            assert_eq!(duration(nanos), expected);
        }
    }

    #[test]
    fn a_flow_is_shortened_to_its_room() {
        let end = |text: &str| text.parse::<Endpoint>().unwrap();
        let flow = Flow {
            protocol: 6,
            local: end("[2001:db8:1:2:3:4:5:6]:40000"),
            remote: end("[2001:db8:a:b:c:d:e:f]:1094"),
        };
        assert_eq!(flow_text(&flow, 80), "[2001:db8:1:2:3:4:5:6]:40000 → [2001:db8:a:b:c:d:e:f]:1094");
        assert_eq!(flow_text(&flow, 44), "[2001:db8…6]:40000 → [2001:db8…f]:1094");
        assert_eq!(flow_text(&flow, 30), "[2001…6]:40000 → [2001…f]:1094");
        assert_eq!(flow_text(&flow, 25), "[…6]:40000 → […f]:1094");
        let widest = Flow {
            local: end("[2001:db8:1:2:3:4:5:ffff]:65535"),
            remote: end("[2001:db8:a:b:c:d:e:eeee]:65535"),
            ..flow
        };
        assert_eq!(flow_text(&widest, FLOW), "[…ffff]:65535 → […eeee]:65535");
    }
}
