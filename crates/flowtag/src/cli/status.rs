//! `flowtag status`: one screen on what the running daemon does, what to act on first.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use jiff::Timestamp;

use super::coverage::{bytes, share};
use super::{Control, output};
use crate::client::block_on;
use crate::inputs::control::model::{InterfaceStatus, Status as Daemon, TagStatus};

mod warnings;

/// A terminal that nobody made larger.
const WIDTH: usize = 80;
const HEIGHT: usize = 24;
/// Rows of tags and of interfaces, where there is room.
const MAX_TAGS: usize = 5;
const MAX_INTERFACES: usize = 5;
/// Lines of warnings, where there is room; and always.
const WARNINGS: (usize, usize) = (2, 8);
/// The widest place that is shown.
const MAX_AT: usize = 30;

/// Show what the running daemon does: what to act on, marking, flows, inputs and outputs.
///
/// Counts since the daemon started; those of an input or output since its configuration last changed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  flowtag status\n  flowtag --json status | jq .interfaces\n  \
    flowtag --json status | jq '.services[\"outputs.firefly\"].counts'")]
pub(crate) struct Status {
    #[command(flatten)]
    control: Control,
}

impl Status {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let get = async { self.control.connect().await?.get::<serde_json::Value>("/v1/status").await };
        let status = block_on(get)?;
        if json {
            return output::json(&status);
        }
        let daemon: Daemon = serde_json::from_value(status).map_err(|e| {
            anyhow::anyhow!("the daemon's answer is not understood ({e}): is it another version?")
        })?;
        let style = if output::wants_colour() { AnsiColor::Yellow.on_default().bold() } else { Style::new() };
        screen(&daemon, Timestamp::now(), style).into_iter().try_for_each(output::line)
    }
}

/// What is shown, in as few lines as a screen has where that is possible.
fn screen(daemon: &Daemon, now: Timestamp, loud: Style) -> Vec<String> {
    let warnings = warnings::of(daemon);
    let mut lines = vec![head(daemon, now)];
    let services = service_lines(daemon);
    // Besides what there may be more of: three blank lines, two titles and two sums, an interface and a tag.
    let room = HEIGHT.saturating_sub(lines.len() + services.len() + 9);
    let warnings = warning_lines(&warnings, room.clamp(WARNINGS.0, WARNINGS.1), loud);
    let room = room.saturating_sub(warnings.len());
    let interfaces = MAX_INTERFACES.min(1 + room / 2);
    let tags = MAX_TAGS.min(1 + room.saturating_sub(interfaces.min(interface_count(daemon))));
    lines.extend(warnings);
    lines.push(String::new());
    lines.extend(marking(daemon, interfaces));
    lines.push(String::new());
    lines.extend(flows(daemon, tags));
    lines.push(String::new());
    lines.extend(services);
    lines
}

fn interface_count(daemon: &Daemon) -> usize {
    daemon.interfaces.as_ref().map_or(0, Vec::len)
}

fn head(daemon: &Daemon, now: Timestamp) -> String {
    let up = u64::try_from(now.duration_since(daemon.started).as_secs()).unwrap_or_default();
    format!("flowtag {} (pid {}), up {}, since {:.0}", daemon.version, daemon.pid, uptime(up), daemon.started)
}

/// The two largest units: nobody counts the seconds of a week.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// In `limit` lines, of which the last may say how many there are more.
fn warning_lines(warnings: &[String], limit: usize, loud: Style) -> Vec<String> {
    let mut lines = Vec::new();
    for (told, text) in warnings.iter().enumerate() {
        let wrapped = output::wrap(text, WIDTH - 2, WIDTH - 2);
        let is_last = told + 1 == warnings.len();
        if lines.len() + wrapped.len() + usize::from(!is_last) > limit {
            let more = warnings.len() - told;
            lines.push(format!("{loud}!{loud:#} {more} more: see flowtag --json status, and the log"));
            break;
        }
        let marks = std::iter::once(format!("{loud}!{loud:#} ")).chain(std::iter::repeat("  ".to_owned()));
        lines.extend(marks.zip(wrapped).map(|(mark, line)| format!("{mark}{line}")));
    }
    lines
}

fn marking(daemon: &Daemon, limit: usize) -> Vec<String> {
    let interfaces = match &daemon.interfaces {
        None => return vec!["Marking is off (mark.enabled).".to_owned()],
        Some(none) if none.is_empty() => return vec!["Marking on no interface.".to_owned()],
        Some(interfaces) => interfaces,
    };
    let mut sorted: Vec<_> = interfaces.iter().map(|interface| (ipv6(interface), interface)).collect();
    sorted.sort_by_key(|(ipv6, _)| std::cmp::Reverse(*ipv6));
    let mut table = output::table(&["INTERFACE", "HOOK", "IPV6 SENT", "MARKED", "NOT MARKED"]);
    for (ipv6, interface) in sorted.iter().take(limit) {
        table.add_row([
            interface.name.clone(),
            interface.hook.clone(),
            count(*ipv6),
            share(packets(interface, "marked"), *ipv6),
            unmarked(interface, *ipv6),
        ]);
    }
    let mut lines = table_of(table, &[2, 3]);
    if sorted.len() > limit {
        lines.push(format!("{} more interfaces", sorted.len() - limit));
    }
    lines
}

fn packets(interface: &InterfaceStatus, verdict: &str) -> u64 {
    interface.counts.get(verdict).map_or(0, |count| count.packets)
}

/// Packets that could have a label.
fn ipv6(interface: &InterfaceStatus) -> u64 {
    let of_ipv6 = |(verdict, _): &(&String, _)| !matches!(verdict.as_str(), "ipv4" | "not_ip");
    interface.counts.iter().filter(of_ipv6).map(|(_, count)| count.packets).sum()
}

/// Why the rest is not: the two most frequent reasons.
fn unmarked(interface: &InterfaceStatus, ipv6: u64) -> String {
    let mut reasons: Vec<_> = interface
        .counts
        .iter()
        .filter(|(verdict, count)| {
            !matches!(verdict.as_str(), "marked" | "ipv4" | "not_ip") && count.packets > 0
        })
        .map(|(verdict, count)| (count.packets, verdict.replace('_', " ")))
        .collect();
    reasons.sort_by_key(|(packets, _)| std::cmp::Reverse(*packets));
    let one = |(packets, verdict): &(u64, String)| format!("{verdict} {}", share(*packets, ipv6));
    let mut text = reasons.iter().take(2).map(one).collect::<Vec<_>>().join(", ");
    if reasons.len() > 2 {
        text.push_str(", …");
    }
    text
}

fn flows(daemon: &Daemon, limit: usize) -> Vec<String> {
    let (now, most) = (daemon.flows as u64, daemon.max_flows as u64);
    let head = format!("{} flows of at most {}.", count(now), count(most));
    let open: Vec<_> = daemon.tags.iter().filter(|tag| tag.flows > 0).collect();
    if open.is_empty() {
        return vec![head];
    }
    let mut table = output::table(&["FLOWS", "OF", "SENT", "RECEIVED"]);
    for tag in open.iter().take(limit) {
        table.add_row([count(tag.flows), name(tag), bytes(tag.sent), bytes(tag.received)]);
    }
    let shown: u64 = open.iter().take(limit).map(|tag| tag.flows).sum();
    let mut lines = table_of(table, &[0, 2, 3]);
    let rest = now.saturating_sub(shown);
    let rest = if rest > 0 { format!(" {} of them with other tags.", count(rest)) } else { String::new() };
    lines.push(format!("{head}{rest}"));
    lines
}

fn name(tag: &TagStatus) -> String {
    let number = |name: &Option<String>, number: u32| name.clone().unwrap_or_else(|| number.to_string());
    let experiment = number(&tag.experiment_name, tag.experiment.into());
    format!("{experiment}/{}", number(&tag.activity_name, tag.activity.into()))
}

/// Inputs, outputs and what serves them, one a line, cut at the right.
fn service_lines(daemon: &Daemon) -> Vec<String> {
    let mut table = output::table(&["PART", "AT", "COUNTS"]);
    for (name, service) in &daemon.services {
        let at = service.at.clone().unwrap_or_else(|| match service.targets.as_slice() {
            [] => String::new(),
            [one] => one.name.clone(),
            many => format!("{} targets", many.len()),
        });
        table.add_row([name.clone(), clip(&at, MAX_AT), counts(service.counts.iter())]);
    }
    table_of(table, &[])
}

/// Only what is not zero, most readers want no more.
fn counts<'a>(all: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let mut some: Vec<_> = all.filter(|(_, number)| **number != 0).collect();
    some.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
    let mut text = String::new();
    for (name, number) in some {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{} {}", name.replace('_', " "), count(*number));
    }
    if text.is_empty() { "nothing yet".to_owned() } else { text }
}

/// Exact up to five digits, then three of them with a unit: `12345`, `1.23 M`.
fn count(number: u64) -> String {
    if number < 100_000 { number.to_string() } else { bytes(number).replace('B', "").trim_end().to_owned() }
}

fn table_of(mut table: Table, right: &[usize]) -> Vec<String> {
    for (index, column) in table.column_iter_mut().enumerate() {
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::table_lines(&table).iter().map(|line| clip(line, WIDTH)).collect()
}

fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests;
