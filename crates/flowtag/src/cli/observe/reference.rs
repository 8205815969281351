//! The page of the reference on all probes, made from their descriptions: `flowtag generate reference`.

use flowtag_kernel::probes::{Column, Description, Measure, Merge, Metric, PROBES, Source, Unit};

/// In Markdown.
pub(in crate::cli) fn page() -> String {
    let mut text = "# Probes\n\nWritten by `flowtag generate reference`; do not edit. Each is a command of the same name, an \
         object of JSON a record (`--json`), and metrics of the daemon. What every record has beside these columns is in \
         [observe.md](../observe.md).\n"
        .to_owned();
    PROBES.iter().for_each(|probe| text += &section(probe));
    text
}

fn section(probe: &Description) -> String {
    let mut text = format!("\n## {}\n\n{}. {}\n", probe.name, probe.about, how(probe));
    text += "\n| key in JSON | heading | unit | sums | what |\n|---|---|---|---|---|\n";
    probe.columns.iter().for_each(|column| text += &row(column));
    if !probe.flags.is_empty() {
        text += "\n| switch | what |\n|---|---|\n";
        probe.flags.iter().for_each(|flag| text += &format!("| `--{}` | {} |\n", flag.name, flag.help));
    }
    if !probe.metrics.is_empty() {
        text += "\n| metric | labels | what |\n|---|---|---|\n";
        probe.metrics.iter().for_each(|metric| text += &metric_row(metric));
    }
    if !probe.optional.is_empty() {
        text += "\nWhere a kernel lacks the hook of a program, this is not known:\n\n";
        let line = |(program, what): &(&str, &str)| format!("- `{program}`: {what}\n");
        text.extend(probe.optional.iter().map(line));
    }
    text
}

fn how(probe: &Description) -> &'static str {
    match probe.source {
        Source::Events(_) | Source::EventsOrSums(..) => "A record for each event.",
        Source::Rows(_) => "Sums, kept in the kernel.",
    }
}

fn row(column: &Column) -> String {
    let unit = match column.unit {
        Unit::None => "",
        Unit::Bytes => "bytes",
        Unit::Count => "count",
        Unit::Micros => "µs",
        Unit::Nanos => "ns",
        Unit::Percent => "%",
        Unit::Rate => "bytes/s",
        Unit::Moment => "RFC 3339",
    };
    let merge = match column.merge {
        Merge::Key => "by it",
        Merge::Sum => "sum",
        Merge::Last => "latest",
        Merge::Each => "sum of each socket's latest",
        Merge::Share { .. } => "anew, of the sums",
        Merge::Max => "largest",
        Merge::Min => "smallest",
        _ => "–",
    };
    let heading = if column.rank == Column::HIDDEN { "–" } else { column.heading };
    format!("| `{}` | {heading} | {unit} | {merge} | {} |\n", column.name, column.help)
}

/// With the suffixes of Prometheus.
fn metric_row(metric: &Metric) -> String {
    let unit = metric.unit.map_or_else(String::new, |unit| format!("_{unit}"));
    let end = match metric.measure {
        Measure::Records | Measure::Sum(_) => "_total",
        Measure::Seconds(_) | Measure::Distribution => "",
    };
    format!("| `{}{unit}{end}` | {} | {} |\n", metric.name, metric.labels.join(", "), metric.help)
}
