//! `flowtag coverage`: how much of the traffic says whose it is, how much does not and why, and which tags arrive.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use clap::Args;
use comfy_table::{CellAlignment, Table};
use flowtag_kernel::mark::Verdict;

use super::{Control, output};
use crate::client::block_on;
use crate::inputs::control::coverage::{Coverage, Owner, Received};
use crate::inputs::control::model::Count;

/// Show how much of the traffic carries a tag, why the rest does not, and which tags arrive.
///
/// Counts since the daemon attached to the interfaces. A packet that was sent in segments counts as these.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    flowtag coverage\n  \
    flowtag --json coverage | jq '.sent[] | [.experiment_name, .bytes]'\n  \
    flowtag --json coverage | jq '.received[] | select(.how == \"label\") | .peer'")]
pub(crate) struct Show {
    #[command(flatten)]
    control: Control,
}

impl Show {
    pub(crate) fn run(self, json: bool) -> Result<()> {
        let coverage: Coverage = block_on(async { self.control.connect().await?.get("/v1/coverage").await })?;
        if json { output::json(&coverage) } else { lines(&coverage).into_iter().try_for_each(output::line) }
    }
}

fn lines(coverage: &Coverage) -> Vec<String> {
    if !coverage.marking {
        return vec!["marking is off (mark.enabled): nothing is counted".to_owned()];
    }
    let mut lines = sent(coverage);
    lines.extend(unmarked(coverage));
    lines.extend(received(coverage));
    lines.extend(mismatches(coverage));
    let lost = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let events = "events of the kernel were lost: some flows are missing, or end late";
    let arrivals = "packets from too many networks to keep apart count as from ::/64";
    let notes: Vec<_> = [lost(coverage.lost_events, events), lost(coverage.lost_arrivals, arrivals)]
        .into_iter()
        .flatten()
        .collect();
    if !notes.is_empty() {
        lines.push(String::new());
        lines.extend(notes);
    }
    lines
}

fn sent(coverage: &Coverage) -> Vec<String> {
    let mut sum = Count::default();
    coverage.sent.iter().for_each(|sent| sum += sent.count);
    let (all, share) = (coverage.ipv6, share(sum.packets, coverage.ipv6.packets));
    if all.packets == 0 {
        return vec!["No IPv6 packet was sent yet.".to_owned()];
    }
    let head = format!("Of {} IPv6 packets sent, {} carry a tag ({share}).", all.packets, sum.packets);
    let mut table = output::table(&["TAG", "SENT WITH IT", "PACKETS", "BYTES", "OF IPV6"]);
    let mut rows: Vec<_> = coverage.sent.iter().collect();
    rows.sort_by_key(|sent| Reverse(sent.count.packets));
    for sent in &rows {
        table.add_row([
            sent.owner
                .experiment
                .zip(sent.owner.activity)
                .map_or("-".to_owned(), |(e, a)| format!("{e}/{a}")),
            name(&sent.owner).unwrap_or_else(|| "tags beyond 255".to_owned()),
            sent.count.packets.to_string(),
            bytes(sent.count.bytes),
            self::share(sent.count.packets, all.packets),
        ]);
    }
    if rows.is_empty() { vec![head] } else { section(head, numbers(table, 3)) }
}

/// Packets that left without a tag; by interface, too, where there are several.
fn unmarked(coverage: &Coverage) -> Vec<String> {
    let mut by_verdict: BTreeMap<&str, Vec<(&str, Count)>> = BTreeMap::new();
    let mut shared = false;
    for interface in &coverage.interfaces {
        if interface.shared_counters && std::mem::replace(&mut shared, true) {
            continue; // has the same counters as the one before
        }
        let name = if interface.shared_counters { "others" } else { interface.name.as_str() };
        for (verdict, count) in interface.counts.iter().filter(|(v, c)| *v != "marked" && c.packets > 0) {
            by_verdict.entry(verdict).or_default().push((name, *count));
        }
    }
    let mut rows: Vec<_> =
        by_verdict.into_iter().map(|(verdict, counts)| (total(&counts), verdict, counts)).collect();
    rows.sort_by_key(|(sum, ..)| Reverse(sum.packets));
    if rows.is_empty() {
        return Vec::new();
    }
    let mut table = output::table(&["SENT WITHOUT", "PACKETS", "BYTES", "OF IPV6"]);
    for (sum, verdict, counts) in rows {
        let is_ipv6 = !["ipv4", "not_ip"].contains(&verdict);
        let share = if is_ipv6 { share(sum.packets, coverage.ipv6.packets) } else { "-".to_owned() };
        table.add_row([meaning(verdict), sum.packets.to_string(), bytes(sum.bytes), share]);
        if coverage.interfaces.len() > 1 {
            for (interface, count) in counts {
                let cells = [format!("  on {interface}"), count.packets.to_string(), bytes(count.bytes)];
                table.add_row(cells.into_iter().chain([String::new()]));
            }
        }
    }
    section(String::new(), numbers(table, 3))
}

fn total(counts: &[(&str, Count)]) -> Count {
    let mut sum = Count::default();
    counts.iter().for_each(|(_, count)| sum += *count);
    sum
}

/// The word itself where the daemon is newer than this program.
fn meaning(verdict: &str) -> String {
    let known = Verdict::ALL.into_iter().find(|v| v.name() == verdict);
    known.map_or_else(|| verdict.replace('_', " "), |v| v.meaning().to_owned())
}

fn received(coverage: &Coverage) -> Vec<String> {
    if coverage.received.is_empty() {
        return vec![
            String::new(),
            "Nothing that arrives is counted (mark.ingress), or nothing came.".to_owned(),
        ];
    }
    let mut table = output::table(&["RECEIVED WITH", "BY", "FROM", "PACKETS", "BYTES"]);
    for (who, how, from, count) in grouped(&coverage.received, "no registered tag") {
        let how = if how == "nothing" { "-" } else { how };
        table.add_row([who, how.to_owned(), from, count.packets.to_string(), bytes(count.bytes)]);
    }
    section(String::new(), numbers(table, 2))
}

fn mismatches(coverage: &Coverage) -> Vec<String> {
    if coverage.mismatches.is_empty() {
        return Vec::new();
    }
    let mut table = output::table(&["RECEIVED FOR FLOWS OF", "WITH", "FROM", "PACKETS", "BYTES"]);
    for (who, how, from, count) in grouped(&coverage.mismatches, "-") {
        let with = if how == "missing" { "no tag" } else { "another tag" };
        table.add_row([who, with.to_owned(), from, count.packets.to_string(), bytes(count.bytes)]);
    }
    section(String::new(), numbers(table, 2))
}

/// By tag and how it is carried, most packets first.
fn grouped<'a>(received: &'a [Received], nobody: &str) -> Vec<(String, &'a str, String, Count)> {
    let mut groups: BTreeMap<_, (BTreeSet<&str>, Count)> = BTreeMap::new();
    for arrived in received {
        let who = name(&arrived.owner).unwrap_or_else(|| nobody.to_owned());
        let (peers, count) = groups.entry((who, arrived.how.as_str())).or_default();
        peers.insert(&arrived.peer);
        *count += arrived.count;
    }
    let mut rows: Vec<_> =
        groups.into_iter().map(|((who, how), (peers, count))| (who, how, network(&peers), count)).collect();
    rows.sort_by_key(|(.., count)| Reverse(count.packets));
    rows
}

fn network(peers: &BTreeSet<&str>) -> String {
    match peers.first() {
        Some(only) if peers.len() == 1 => (*only).to_owned(),
        _ => format!("{} networks", peers.len()),
    }
}

/// `cms/Analysis Input`, with numbers where there is no name; none without a tag.
fn name(owner: &Owner) -> Option<String> {
    let (experiment, activity) = owner.experiment.zip(owner.activity)?;
    let experiment = owner.experiment_name.clone().unwrap_or_else(|| experiment.to_string());
    let activity = owner.activity_name.clone().unwrap_or_else(|| activity.to_string());
    Some(format!("{experiment}/{activity}"))
}

fn section(head: String, table: Table) -> Vec<String> {
    let blank = if head.is_empty() { None } else { Some(String::new()) };
    std::iter::once(head).chain(blank).chain(output::table_lines(&table)).collect()
}

/// Numbers stand below each other in the last `columns`.
fn numbers(mut table: Table, columns: usize) -> Table {
    let first = table.column_count().saturating_sub(columns);
    table.column_iter_mut().skip(first).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

pub(super) fn share(part: u64, all: u64) -> String {
    if all == 0 {
        return "-".to_owned();
    }
    // Both are far below 2^53.
    let percent = 100.0 * part as f64 / all as f64;
    match percent {
        few if part > 0 && few < 0.05 => "<0.1%".to_owned(),
        most if part < all && most >= 99.95 => ">99.9%".to_owned(),
        percent => format!("{percent:.1}%"),
    }
}

/// Three digits and a decimal unit: `1.35 GB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1000.0, larger);
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::control::coverage::Sent;
    use crate::inputs::control::model::InterfaceStatus;

    fn count(packets: u64, bytes: u64) -> Count {
        Count { packets, bytes }
    }

    fn cms() -> Owner {
        Owner {
            experiment: Some(3),
            activity: Some(14),
            experiment_name: Some("cms".into()),
            activity_name: Some("Analysis Input".into()),
        }
    }

    fn received(how: &str, owner: Owner, net: u8, packets: u64) -> Received {
        let peer = format!("2001:db8:0:{net}::/64");
        Received {
            how: how.into(),
            owner,
            peer,
            interface: "eth0".into(),
            count: count(packets, packets * 1000),
        }
    }

    fn interface(name: &str, counts: &[(&str, u64)]) -> InterfaceStatus {
        let counts =
            counts.iter().map(|(v, packets)| ((*v).to_owned(), count(*packets, packets * 100))).collect();
        InterfaceStatus { name: name.into(), index: 2, hook: "tcx".into(), shared_counters: false, counts }
    }

    fn coverage() -> Coverage {
        let unregistered = Owner { experiment: Some(400), activity: Some(2), ..Owner::default() };
        Coverage {
            marking: true,
            ipv6: count(1_224_000, 1_700_000_000),
            sent: vec![
                Sent { owner: unregistered, count: count(120, 1200) },
                Sent { owner: cms(), count: count(900_123, 1_350_000_000) },
            ],
            interfaces: vec![
                interface("eth0", &[("marked", 900_243), ("no_flow", 300_000), ("not_ip", 0)]),
                interface("eth1", &[("no_flow", 23_757), ("ipv4", 10_000)]),
            ],
            received: vec![
                received("label", cms(), 1, 500),
                received("label", cms(), 2, 41),
                received("destination", cms(), 1, 7),
                received("nothing", Owner::default(), 9, 80_000),
            ],
            mismatches: vec![received("missing", cms(), 9, 12)],
            lost_events: 0,
            lost_arrivals: 3,
        }
    }

    #[test]
    fn all_sections_fit_80_columns() {
        let lines = lines(&coverage());
        assert_eq!(
            lines,
            [
                "Of 1224000 IPv6 packets sent, 900243 carry a tag (73.5%).",
                "",
                "TAG    SENT WITH IT        PACKETS    BYTES  OF IPV6",
                "3/14   cms/Analysis Input   900123  1.35 GB    73.5%",
                "400/2  400/2                   120  1.20 kB    <0.1%",
                "",
                "SENT WITHOUT                     PACKETS    BYTES  OF IPV6",
                "in no flow, and no rule matches   323757  32.4 MB    26.5%",
                "  on eth0                         300000  30.0 MB",
                "  on eth1                          23757  2.38 MB",
                "IPv4 has no flow label             10000  1.00 MB        -",
                "  on eth1                          10000  1.00 MB",
                "",
                "RECEIVED WITH       BY           FROM               PACKETS    BYTES",
                "no registered tag   -            2001:db8:0:9::/64    80000  80.0 MB",
                "cms/Analysis Input  label        2 networks             541   541 kB",
                "cms/Analysis Input  destination  2001:db8:0:1::/64        7  7.00 kB",
                "",
                "RECEIVED FOR FLOWS OF  WITH    FROM               PACKETS    BYTES",
                "cms/Analysis Input     no tag  2001:db8:0:9::/64       12  12.0 kB",
                "",
                "3 packets from too many networks to keep apart count as from ::/64",
            ]
        );
    }

    #[test]
    fn nothing_yet_and_nothing_at_all_are_said() {
        let nothing = Coverage { marking: true, ..Coverage::default() };
        let expected = [
            "No IPv6 packet was sent yet.",
            "",
            "Nothing that arrives is counted (mark.ingress), or nothing came.",
        ];
        assert_eq!(lines(&nothing), expected);
        assert_eq!(lines(&Coverage::default()), ["marking is off (mark.enabled): nothing is counted"]);
    }

    #[test]
    fn every_reason_is_explained_in_half_a_line() {
        for verdict in Verdict::ALL {
            assert!(meaning(verdict.name()).chars().count() <= 50, "{verdict:?}");
        }
        assert_eq!(meaning("of_tomorrow"), "of tomorrow");
    }

    #[test]
    fn a_share_is_none_or_all_only_if_it_is() {
        for (part, all, expected) in [
            (0, 0, "-"),
            (0, 9, "0.0%"),
            (1, 9999, "<0.1%"),
            (1, 3, "33.3%"),
            (9998, 9999, ">99.9%"),
            (9, 9, "100.0%"),
        ] {
            assert_eq!(share(part, all), expected);
        }
    }

    #[test]
    fn bytes_have_three_digits() {
        for (number, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_999, "1.00 MB"),
            (1_350_000_000, "1.35 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(number), expected, "{number}");
        }
    }
}
