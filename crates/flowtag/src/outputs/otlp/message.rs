//! Metrics and events as messages of OTLP.

use flowtag_engine::Registry;
use jiff::Timestamp;
use serde_json::Value;

use super::proto::{
    AggregationTemporality, AnyValue, ExportLogsServiceRequest, ExportMetricsServiceRequest, Gauge,
    Histogram, HistogramDataPoint, InstrumentationScope, KeyValue, LogRecord, Metric, NumberDataPoint,
    Resource, ResourceLogs, ResourceMetrics, ScopeLogs, ScopeMetrics, SeverityNumber, Sum, any_value, metric,
    number_data_point,
};
use crate::outputs::Record;
use crate::outputs::json::line::Line;
use crate::outputs::metrics::{BOUNDS, Family, Kind, Labels, Number};

/// Who tells it: the same in all messages.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    pub(super) host: String,
    /// When the daemon started, and its counters with it.
    pub(super) started: Timestamp,
}

impl Sender {
    pub(super) fn metrics(&self, families: Vec<Family>, now: Timestamp) -> ExportMetricsServiceRequest {
        let metrics = families.into_iter().map(|family| self.metric(family, now)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics }];
        let resource = Some(self.resource());
        let resource_metrics = vec![ResourceMetrics { resource, scope_metrics }];
        ExportMetricsServiceRequest { resource_metrics }
    }

    pub(super) fn logs(&self, log_records: Vec<LogRecord>) -> ExportLogsServiceRequest {
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records }];
        let resource_logs = vec![ResourceLogs { resource: Some(self.resource()), scope_logs }];
        ExportLogsServiceRequest { resource_logs }
    }

    fn metric(&self, family: Family, now: Timestamp) -> Metric {
        let (kind, aggregation_temporality) = (family.kind, AggregationTemporality::Cumulative.into());
        let points = family.points.into_iter();
        let number = |point| self.point(kind, point, now);
        let data = match kind {
            Kind::Gauge => metric::Data::Gauge(Gauge { data_points: points.filter_map(number).collect() }),
            Kind::Counter => metric::Data::Sum(Sum {
                data_points: points.filter_map(number).collect(),
                aggregation_temporality,
                is_monotonic: true,
            }),
            Kind::Histogram => metric::Data::Histogram(Histogram {
                data_points: points.filter_map(|point| self.distribution(point, now)).collect(),
                aggregation_temporality,
            }),
        };
        Metric {
            name: family.name.replacen('_', ".", 1),
            description: family.help.into_owned(),
            unit: unit(family.unit),
            data: Some(data),
        }
    }

    fn point(
        &self,
        kind: Kind,
        (labels, number): (Labels, Number),
        now: Timestamp,
    ) -> Option<NumberDataPoint> {
        let value = match number {
            Number::Count(n) => number_data_point::Value::AsInt(n.try_into().unwrap_or(i64::MAX)),
            Number::Real(x) => number_data_point::Value::AsDouble(x),
            Number::Spread(_) => return None,
        };
        Some(NumberDataPoint {
            attributes: attributes(&labels),
            start_time_unix_nano: if kind == Kind::Counter { nanos(self.started) } else { 0 },
            time_unix_nano: nanos(now),
            value: Some(value),
        })
    }

    fn distribution(&self, (labels, number): (Labels, Number), now: Timestamp) -> Option<HistogramDataPoint> {
        let Number::Spread(distribution) = number else { return None };
        Some(HistogramDataPoint {
            attributes: attributes(&labels),
            start_time_unix_nano: nanos(self.started),
            time_unix_nano: nanos(now),
            count: distribution.count(),
            sum: Some(distribution.sum),
            bucket_counts: distribution.counts.to_vec(),
            explicit_bounds: BOUNDS.to_vec(),
        })
    }

    fn resource(&self) -> Resource {
        let attributes = vec![
            text("service.name", "flowtag"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", self.host.as_str()),
        ];
        Resource { attributes }
    }
}

/// One event of a flow; none: there is nothing to say.
pub(super) fn log(record: &Record, registry: &Registry, marks: bool) -> Option<LogRecord> {
    let line = Line::new(record, registry, marks);
    let (time, event) = (nanos(line.time), line.event);
    let Value::Object(fields) = serde_json::to_value(&line).ok()? else { return None };
    let mut attributes = Vec::with_capacity(fields.len() + 24);
    flatten("flowtag", Value::Object(fields), &mut attributes);
    Some(LogRecord {
        time_unix_nano: time,
        observed_time_unix_nano: time,
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(string(format!("{event} of {}", record.report.flow))),
        attributes,
        event_name: format!("flowtag.flow.{event}"),
    })
}

/// Keys of objects in objects are joined with dots. What is null is left out.
fn flatten(name: &str, value: Value, attributes: &mut Vec<KeyValue>) {
    let value = match value {
        Value::Null => return,
        Value::Object(fields) => {
            fields.into_iter().for_each(|(key, value)| flatten(&format!("{name}.{key}"), value, attributes));
            return;
        }
        Value::Bool(b) => AnyValue { value: Some(any_value::Value::BoolValue(b)) },
        Value::Number(n) => AnyValue {
            value: n
                .as_i64()
                .map(any_value::Value::IntValue)
                .or_else(|| n.as_f64().map(any_value::Value::DoubleValue)),
        },
        Value::String(s) => string(s),
        Value::Array(_) => string(value.to_string()),
    };
    attributes.push(KeyValue { key: name.to_owned(), value: Some(value) });
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| text(name, value.as_str())).collect()
}

fn scope() -> InstrumentationScope {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    InstrumentationScope { name: "flowtag".to_owned(), version }
}

fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(string(value.to_owned())) }
}

const fn string(text: String) -> AnyValue {
    AnyValue { value: Some(any_value::Value::StringValue(text)) }
}

/// As UCUM writes it, which OpenTelemetry wants.
fn unit(unit: Option<&str>) -> String {
    match unit {
        None => "1".to_owned(),
        Some("bytes") => "By".to_owned(),
        Some("seconds") => "s".to_owned(),
        Some("bytes_per_second") => "By/s".to_owned(),
        Some(other) => format!("{{{}}}", other.trim_end_matches('s')),
    }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outputs::metrics::Distribution;

    #[test]
    fn a_distribution_has_one_count_more_than_bounds_and_adds_up() {
        let mut times = Distribution::of(15e-6);
        times.add(&Distribution::of(60.0));
        let family = Family {
            name: "flowtag_tcp_rtt".into(),
            unit: Some("seconds"),
            kind: Kind::Histogram,
            help: "Times".into(),
            points: vec![(Labels::from([("experiment", "cms".to_owned())]), Number::Spread(Box::new(times)))],
        };
        let sender = Sender { host: "h".to_owned(), started: Timestamp::UNIX_EPOCH };
        let metric = sender.metric(family, Timestamp::now());
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("flowtag.tcp_rtt", "s"));
        let Some(metric::Data::Histogram(histogram)) = metric.data else { panic!("{metric:?}") };
        let [point] = histogram.data_points.as_slice() else { panic!("{histogram:?}") };
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(
            (point.count, point.bucket_counts.iter().sum::<u64>(), point.sum),
            (2, 2, Some(60.000_015))
        );
        assert_eq!((point.bucket_counts[1], point.bucket_counts[19]), (1, 1));
    }
}
