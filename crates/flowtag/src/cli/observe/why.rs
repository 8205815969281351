//! `flowtag why`: what limits each connection, what shows it, and what would help.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use super::args::Watch;
use super::spans::{Seen, Watched};
use super::table::{self, View, flow_text, process, terminal_width};
use super::watch::{self, Stop, summary};
use crate::cli::output;
use crate::verdict::{Shares, Span, Way, advice};

/// How long is looked where nobody says so.
const TIME: Duration = Duration::from_secs(5);
/// Characters of a bar.
const BAR: usize = 20;

/// Say what limits each TCP connection, how one knows, and what would help
#[derive(Debug, Args)]
#[command(after_help = "Shares of the time in which sending was limited, with their letters in the bar:\n  \
    N network       the congestion window was full\n  \
    L recovery      loss or congestion was being repaired\n  \
    T timeout       the retransmission timer had to run out\n  \
    R receiver      the receiver's window was full\n  \
    B sndbuf        the send buffer was full of data in flight\n  \
    Q queue         a queue or the pacing of this host held data back\n  \
    . application   nothing waited to be sent\n\n\
    Examples:\n  \
    flowtag why                            every connection that moves data, over 5 seconds\n  \
    flowtag why --tag cms -d 30            those of an experiment, over half a minute\n  \
    flowtag why 'port 1094' -i 10          every 10 seconds until Ctrl-C\n  \
    flowtag why --pid 4711 --json          one object for each connection")]
pub(in crate::cli) struct Why {
    #[command(flatten)]
    watch: Watch,
    /// Also connections on which nothing moved
    #[arg(long)]
    idle: bool,
}

impl Why {
    pub(in crate::cli) fn run(self, json: bool) -> Result<()> {
        ensure!(
            self.watch.by.is_empty() && !self.watch.count,
            "a verdict is of one connection: --by and --count have no meaning here"
        );
        let mut watched = Watched::start(&self.watch)?;
        let once = self.watch.interval.is_none();
        let stop = Stop::new(self.watch.duration.or(once.then_some(TIME)))?;
        watch::tell_begin();
        let mut next = self.watch.interval.map(|interval| Instant::now() + interval);
        loop {
            let is_last = stop.is_now();
            if is_last || next.is_some_and(|at| Instant::now() >= at) {
                next = next.zip(self.watch.interval).map(|(at, interval)| at + interval);
                let seen = watched.look()?;
                print(self.shown(seen), &watched.view(), json)?;
            }
            if is_last {
                return summary(watched.losses()?, json);
            }
            std::thread::sleep(stop.wait(next).min(Duration::from_millis(50)));
        }
    }

    /// Those that moved most come first.
    fn shown(&self, mut seen: Vec<Seen>) -> Vec<Seen> {
        seen.retain(|one| self.idle || one.span.way != Way::None);
        seen.sort_by_key(|one| (std::cmp::Reverse(one.bytes()), one.cookie));
        seen
    }
}

fn print(seen: Vec<Seen>, view: &View<'_>, json: bool) -> Result<()> {
    if json {
        return seen.iter().try_for_each(|one| output::json(&one.json(view)));
    }
    if seen.is_empty() {
        return output::line("no connection moved data (--idle shows the rest)");
    }
    let width = terminal_width();
    seen.iter().flat_map(|one| lines(one, view, width)).try_for_each(output::line)
}

/// Four lines or more, and an empty one.
fn lines(seen: &Seen, view: &View<'_>, width: usize) -> Vec<String> {
    let context = &seen.record.context;
    let tag = context.tag.map(|tag| view.names.tag_text(tag));
    let whose = [
        Some(process(context)).filter(|p| p != "-"),
        tag,
        (seen.state != "ESTAB").then(|| seen.state.to_owned()),
    ];
    let flow = context.flow.map_or_else(String::new, |flow| flow_text(&flow, width));
    let mut head = vec![flow];
    for part in whose.into_iter().flatten() {
        match head.last_mut() {
            Some(line) if line.chars().count() + 2 + part.chars().count() <= width => {
                *line += &format!("  {part}")
            }
            _ => head.push(format!("  {part}")),
        }
    }
    let room = width.saturating_sub(2);
    let verdict = format!("{}{}", seen.verdict.words(), limits(&seen.span));
    let body = [verdict, evidence(&seen.span), format!("→ {}", advice(seen.verdict, &seen.span))];
    let wrapped = body.iter().flat_map(|text| indented(text, room));
    head.into_iter().chain(wrapped).chain([String::new()]).collect()
}

fn indented(text: &str, room: usize) -> impl Iterator<Item = String> + use<> {
    let indent = if text.starts_with('→') { "  " } else { "" };
    let lines = output::wrap(text, room, room.saturating_sub(indent.len()));
    lines
        .into_iter()
        .enumerate()
        .map(move |(n, line)| format!("  {}{line}", if n == 0 { "" } else { indent }))
}

/// A bar and its parts, the largest first; nothing of who receives.
pub(super) fn limits(span: &Span) -> String {
    if span.way != Way::Sends {
        return String::new();
    }
    let mut parts: Vec<_> = span.shares.named().into_iter().filter(|(_, share)| *share >= 0.005).collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let texts: Vec<_> = parts.iter().map(|(name, share)| format!("{name} {:.0}%", share * 100.0)).collect();
    format!(": [{}] {}", bar(&span.shares), texts.join(", "))
}

/// Shares as letters; who has the largest rest gets what is left of the room.
fn bar(shares: &Shares) -> String {
    const LETTERS: [char; 7] = ['N', 'L', 'T', 'R', 'B', 'Q', '.'];
    let exact = shares.named().map(|(_, share)| share * BAR as f64);
    let mut counts = exact.map(|share| share.floor() as usize);
    let mut order: Vec<usize> = (0..exact.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
    let left = BAR.saturating_sub(counts.iter().sum());
    order.into_iter().take(left).for_each(|n| counts[n] += 1);
    LETTERS.iter().zip(counts).flat_map(|(letter, count)| std::iter::repeat_n(*letter, count)).collect()
}

/// The numbers that matter for this way of the data.
pub(super) fn evidence(span: &Span) -> String {
    let mut parts = Vec::new();
    let rate = |bytes: f64| format!("{}bit/s", table::scaled(bytes * 8.0));
    if span.sent > 0 || span.way == Way::Sends {
        parts.push(format!("out {}", rate(span.tx_rate())));
    }
    if span.received > 0 {
        parts.push(format!("in {}", rate(span.rx_rate())));
    }
    match span.way {
        Way::Receives => parts.extend(of_receiver(span)),
        _ => parts.extend(of_sender(span)),
    }
    parts.join(", ")
}

fn micros(micros: u32) -> String {
    table::duration(f64::from(micros) * 1e3)
}

fn bytes(bytes: u32) -> String {
    format!("{}B", table::scaled(bytes.into()))
}

/// A size, and whether the kernel may change it.
fn buffer(name: &str, size: u32, fixed: bool) -> String {
    format!("{name} {}{}", bytes(size), if fixed { " (set by the application)" } else { "" })
}

fn of_sender(span: &Span) -> Vec<String> {
    let mut parts = Vec::new();
    if let (Some(rtt), Some(least)) = (span.rtt, span.min_rtt) {
        parts.push(format!("RTT {} (least {})", micros(rtt), micros(least)));
    }
    parts.push(format!("cwnd {}", span.cwnd));
    parts.push(format!("{:.1}% sent again", span.retransmission() * 100.0));
    let (low, high) = (bytes(span.peer_window_min), bytes(span.peer_window_max));
    let zero =
        if span.zero_windows > 0 { format!(", closed {} times", span.zero_windows) } else { String::new() };
    parts.push(format!("peer's window {low} to {high}{zero}"));
    parts.push(buffer("send buffer", span.sndbuf, span.sndbuf_fixed));
    if span.not_sent > 0 {
        parts.push(format!("{} not sent", bytes(span.not_sent)));
    }
    parts
}

fn of_receiver(span: &Span) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(rtt) = span.rcv_rtt {
        parts.push(format!("RTT {}", micros(rtt)));
    }
    parts.push(format!("window {}", bytes(span.window)));
    parts.push(format!(
        "unread up to {}, {:.0}% of the time much",
        bytes(span.unread_max),
        span.unread_share * 100.0
    ));
    parts.push(buffer("receive buffer", span.rcvbuf, span.rcvbuf_fixed));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_always_as_long() {
        for (shares, expected) in [
            (Shares { network: 1.0, ..Shares::default() }, "NNNNNNNNNNNNNNNNNNNN"),
            (
                Shares { network: 0.5, receiver: 0.26, application: 0.24, ..Shares::default() },
                "NNNNNNNNNNRRRRR.....",
            ),
            (
                Shares { recovery: 0.333, timeout: 0.333, queue: 0.334, ..Shares::default() },
                "LLLLLLLTTTTTTQQQQQQQ",
            ),
        ] {
            assert_eq!(bar(&shares).len(), BAR);
            assert_eq!(bar(&shares), expected);
        }
    }
}
