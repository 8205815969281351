//! The text formats: OpenMetrics 1.0, and Prometheus' own of before, which differ in how families are headed.

use std::collections::HashMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::outputs::metrics::{BOUNDS, Distribution, Family, Kind, Labels, Number};

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    Classic,
}

impl Format {
    /// What an `Accept` header prefers (RFC 9110 §12.5.1); the classic format for who does not care.
    pub(super) fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let parts = accept.split(',').map(|part| part.split(';').map(str::trim));
            let matching = parts.filter_map(|mut words| {
                words.next()?.eq_ignore_ascii_case(wanted).then(|| {
                    let q = words.find_map(|word| word.strip_prefix("q="));
                    q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0))
                })
            });
            matching.fold(0.0, f32::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Classic }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All families as text.
///
/// # Errors
/// None that a string could have.
pub(super) fn write(families: Vec<Family>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(match format {
        Format::OpenMetrics => text,
        Format::Classic => classic(&text),
    })
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().filter(|family| !family.points.is_empty()).try_for_each(|family| {
            let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let metric = encoder.encode_descriptor(&family.name, &family.help, unit.as_ref(), kind)?;
            points(metric, family)
        })
    }
}

fn points(mut metric: MetricEncoder<'_>, family: &Family) -> fmt::Result {
    type None<'a> = Option<&'a Exemplar<[(&'static str, String); 0], f64>>;
    family.points.iter().try_for_each(|(labels, number): &(Labels, Number)| {
        let labels: &[(&'static str, String)] = labels;
        let mut point = metric.encode_family(&labels)?;
        match (family.kind, number) {
            (Kind::Counter, Number::Count(n)) => point.encode_counter(n, None as None<'_>),
            (Kind::Counter, Number::Real(x)) => point.encode_counter(x, None as None<'_>),
            (Kind::Gauge, Number::Count(n)) => point.encode_gauge(n),
            (Kind::Gauge, Number::Real(x)) => point.encode_gauge(x),
            (Kind::Histogram, Number::Spread(spread)) => histogram(point, spread),
            // No number is of another kind than its family.
            (Kind::Histogram, _) | (_, Number::Spread(_)) => Err(fmt::Error),
        }
    })
}

fn histogram(mut point: MetricEncoder<'_>, spread: &Distribution) -> fmt::Result {
    type None<'a> = Option<&'a HashMap<usize, Exemplar<[(&'static str, String); 0], f64>>>;
    let ends = BOUNDS.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<_> = ends.zip(spread.counts).collect();
    point.encode_histogram(spread.sum, spread.count(), &buckets, None as None<'_>)
}

/// In the classic format a family of counters is called what its samples are called, with `_total`; there are no units and no
/// end.
fn classic(text: &str) -> String {
    let heads = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let kinds: HashMap<&str, &str> = heads.collect();
    let mut all = String::with_capacity(text.len());
    for line in text.lines() {
        let head = line.strip_prefix("# ").and_then(|head| head.split_once(' '));
        match head {
            None if line == "# EOF" => continue,
            None => all.push_str(line),
            Some(("UNIT", _)) => continue,
            Some((what, rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let total = if kinds.get(name) == Some(&"counter") { "_total" } else { "" };
                all.extend(["# ", what, " ", name, total, " ", rest]);
            }
        }
        all.push('\n');
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_the_format_that_it_prefers() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("application/openmetrics-text"), Format::OpenMetrics);
        assert_eq!(Format::accepted("text/plain, application/openmetrics-text;q=0.1"), Format::Classic);
        assert_eq!(Format::accepted("application/openmetrics-text;q=0"), Format::Classic);
        for accept in ["", "*/*", "text/html", ";;,,q=", "application/openmetrics-text;q=x"] {
            assert_eq!(Format::accepted(accept), Format::Classic, "{accept}");
        }
    }

    #[test]
    fn both_formats_have_the_same_samples() {
        let labels = Labels::from([("name", "a \"b\"\\\nc".to_owned())]);
        let family = |name: &'static str, kind, unit| Family {
            name: name.into(),
            unit,
            kind,
            help: "What it is".into(),
            points: vec![(labels.clone(), Number::Count(7)), (Labels::from([]), Number::Real(0.5))],
        };
        let families =
            vec![family("a_moved", Kind::Counter, Some("bytes")), family("a_rtt", Kind::Gauge, None)];
        let open = write(families.clone(), Format::OpenMetrics).expect("text");
        let expected = "# HELP a_moved_bytes What it is\n# TYPE a_moved_bytes counter\n# UNIT a_moved_bytes bytes\n\
                        a_moved_bytes_total{name=\"a \\\"b\\\"\\\\\\nc\"} 7\na_moved_bytes_total{} 0.5\n\
                        # HELP a_rtt What it is\n# TYPE a_rtt gauge\n\
                        a_rtt{name=\"a \\\"b\\\"\\\\\\nc\"} 7\na_rtt{} 0.5\n# EOF\n";
        assert_eq!(open, expected);
        let classic = write(families, Format::Classic).expect("text");
        let expected = "# HELP a_moved_bytes_total What it is\n# TYPE a_moved_bytes_total counter\n\
                        a_moved_bytes_total{name=\"a \\\"b\\\"\\\\\\nc\"} 7\na_moved_bytes_total{} 0.5\n\
                        # HELP a_rtt What it is\n# TYPE a_rtt gauge\n\
                        a_rtt{name=\"a \\\"b\\\"\\\\\\nc\"} 7\na_rtt{} 0.5\n";
        assert_eq!(classic, expected);
    }
}
