//! What the sections of inputs and outputs mean, and of what serves them: statistics, addresses, access.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use flowtag_engine::Registry;
use flowtag_wire::{Activity, Experiment};
use ipnet::IpNet;

use super::parse::Checker;
use super::{Collector, ConfigError, Filter, Many, NameOrNumber, Transport, file, find_id, rule};

/// A host by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How often the kernel is asked for statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Statistics {
    pub(crate) period: Duration,
}

/// How addresses of this host are turned into those that the world sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// From the longest prefix to the shortest; both of one family and length.
    pub(crate) map: Vec<(IpNet, IpNet)>,
    pub(crate) stun: Vec<HostPort>,
    /// URLs.
    pub(crate) http: Vec<String>,
    pub(crate) timeout: Duration,
    pub(crate) refresh: Duration,
}

/// Who may tag as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    /// Names of inputs; empty: any.
    pub(crate) inputs: Vec<String>,
    /// User ids; with groups empty as well: anybody.
    pub(crate) users: Vec<u32>,
    /// Group ids.
    pub(crate) groups: Vec<u32>,
    /// Never empty.
    pub(crate) tags: Filter,
}

/// The control API on TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlTcp {
    pub(crate) listen: SocketAddr,
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate chain and key.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
}

/// flowd-go's HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlowdGo {
    pub(crate) listen: SocketAddr,
}

/// Fireflies of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FireflyInput {
    pub(crate) listen: SocketAddr,
    pub(crate) sources: Vec<IpNet>,
    pub(crate) relay: Vec<HostPort>,
    /// Bytes.
    pub(crate) buffer: usize,
}

/// XRootD's monitoring stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Xrootd {
    pub(crate) listen: SocketAddr,
    pub(crate) sources: Vec<IpNet>,
}

/// The endpoint for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prometheus {
    pub(crate) listen: SocketAddr,
    pub(crate) per_flow: bool,
    pub(crate) max_series: usize,
    /// Never empty.
    pub(crate) names: Vec<MetricNames>,
}

/// Whose names metrics have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricNames {
    Flowtag,
    Flowd,
    FlowdGo,
}

/// An OpenTelemetry collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Otlp {
    /// URL without the path of the signal, and without a slash at its end.
    pub(crate) endpoint: String,
    pub(crate) period: Duration,
    pub(crate) metrics: bool,
    pub(crate) logs: bool,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) queue: usize,
}

/// Fireflies as lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Json {
    /// None: standard output.
    pub(crate) path: Option<PathBuf>,
    pub(crate) queue: usize,
}

/// IPFIX collectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ipfix {
    /// Never empty.
    pub(crate) collectors: Vec<HostPort>,
    /// Private enterprise number.
    pub(crate) enterprise: u32,
    pub(crate) domain: u32,
    pub(crate) template_every: Duration,
    pub(crate) queue: usize,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);

impl Checker<'_> {
    pub(super) fn statistics(&self, file: &file::Statistics) -> Result<Option<Statistics>, ConfigError> {
        let period = self.duration("statistics.period", &file.period, SECOND, HOUR)?;
        Ok(file.enabled.then_some(Statistics { period }))
    }

    pub(super) fn addresses(&self, file: &file::Addresses) -> Result<Addresses, ConfigError> {
        let minute = Duration::from_secs(60);
        let mut map = Vec::new();
        for (from, to) in &file.map {
            let key = format!("addresses.map.{from:?}");
            let prefix = |text: &str| rule::prefix(text).or_else(|e| self.wrong(&key, text, e));
            let (from, to) = (prefix(from)?, prefix(to)?);
            if from.prefix_len() != to.prefix_len() || from.max_prefix_len() != to.max_prefix_len() {
                let fix = format!(
                    "is not of the size of {from}: use an address for an address, a prefix for one as long"
                );
                return self.wrong(&key, to.to_string(), fix);
            }
            map.push((from, to));
        }
        map.sort_by_key(|(from, _)| std::cmp::Reverse(from.prefix_len()));
        let url = |url: &String| self.url("addresses.http", url);
        Ok(Addresses {
            map,
            stun: self.hosts("addresses.stun", &file.stun)?,
            http: file.http.iter().map(url).collect::<Result<_, _>>()?,
            timeout: self.duration("addresses.timeout", &file.timeout, SECOND / 10, minute)?,
            refresh: self.duration("addresses.refresh", &file.refresh, 10 * SECOND, DAY)?,
        })
    }

    pub(super) fn access(&self, file: &file::Access, registry: &Registry) -> Result<Access, ConfigError> {
        const INPUTS: [&str; 6] = ["control", "control-tcp", "pipe", "flowd-go", "firefly", "xrootd"];
        if let Some(input) = file.input.iter().find(|input| !INPUTS.contains(&input.as_str())) {
            return self.wrong("access.input", input, format!("is no input: use {}", INPUTS.join(", ")));
        }
        if file.tags.is_empty() {
            return self.wrong("access.tags", "[]", "is empty: name what may be tagged, as [\"cms\"]");
        }
        let ids = |key: &str, list: &Many<NameOrNumber>, from: &str| {
            let id = |item: &NameOrNumber| {
                let text = item.to_string();
                let fix = || format!("is not in {from}: create it or give its number");
                find_id(from, &text).map_or_else(|| self.wrong(key, &text, fix()), Ok)
            };
            list.iter().map(id).collect::<Result<Vec<_>, _>>()
        };
        Ok(Access {
            inputs: file.input.0.clone(),
            users: ids("access.user", &file.user, "/etc/passwd")?,
            groups: ids("access.group", &file.group, "/etc/group")?,
            tags: self.filter("access", &file.tags, &Many::default(), registry)?,
        })
    }

    pub(super) fn control_tcp(&self, file: &file::Control) -> Result<Option<ControlTcp>, ConfigError> {
        let path = |key: &str, value: &str| match value {
            "" => Ok(None),
            path => self.absolute(&format!("inputs.control.{key}"), path).map(Some),
        };
        let token_file = path("token_file", &file.token_file)?;
        let certificate = path("tls_certificate", &file.tls_certificate)?;
        let key = path("tls_key", &file.tls_key)?;
        let tls = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, Some(_)) => {
                return self.wrong("inputs.control.tls_certificate", "", "is missing: tls_key needs it");
            }
            (Some(_), None) => {
                return self.wrong("inputs.control.tls_key", "", "is missing: tls_certificate needs it");
            }
        };
        if file.listen.is_empty() || !file.enabled {
            return Ok(None);
        }
        let listen = self.listen("inputs.control.listen", &file.listen)?;
        if token_file.is_none() && !listen.ip().to_canonical().is_loopback() {
            let fix =
                "is reached from other hosts: set inputs.control.token_file, or listen on 127.0.0.1 or [::1]";
            return self.wrong("inputs.control.listen", &file.listen, fix);
        }
        Ok(Some(ControlTcp { listen, token_file, tls }))
    }

    pub(super) fn flowd_go(&self, file: &file::FlowdGo) -> Result<Option<FlowdGo>, ConfigError> {
        let listen = self.listen("inputs.flowd_go.listen", &file.listen)?;
        Ok(file.enabled.then_some(FlowdGo { listen }))
    }

    pub(super) fn firefly_input(
        &self,
        file: &file::FireflyInput,
    ) -> Result<Option<FireflyInput>, ConfigError> {
        let input = FireflyInput {
            listen: self.listen("inputs.firefly.listen", &file.listen)?,
            sources: self.prefixes("inputs.firefly.sources", &file.sources)?,
            relay: self.hosts("inputs.firefly.relay", &file.relay)?,
            buffer: self.number("inputs.firefly.buffer", file.buffer, 65536, 1 << 30)?,
        };
        Ok(file.enabled.then_some(input))
    }

    pub(super) fn xrootd(&self, file: &file::Xrootd) -> Result<Option<Xrootd>, ConfigError> {
        let listen = self.listen("inputs.xrootd.listen", &file.listen)?;
        let sources = self.prefixes("inputs.xrootd.sources", &file.sources)?;
        Ok(file.enabled.then_some(Xrootd { listen, sources }))
    }

    pub(super) fn prometheus(&self, file: &file::Prometheus) -> Result<Option<Prometheus>, ConfigError> {
        let known = [
            ("flowtag", MetricNames::Flowtag),
            ("flowd", MetricNames::Flowd),
            ("flowd-go", MetricNames::FlowdGo),
        ];
        let name = |name: &String| self.word("outputs.prometheus.names", name, "is unknown", &known);
        if file.names.is_empty() {
            return self.wrong("outputs.prometheus.names", "[]", "is empty: use [\"flowtag\"]");
        }
        let both = ["flowd", "flowd-go"];
        if both.iter().all(|name| file.names.iter().any(|n| n == name)) {
            let fix = "has metrics of the same name and another unit in both: use one of them";
            return self.wrong("outputs.prometheus.names", both.join(", "), fix);
        }
        let prometheus = Prometheus {
            listen: self.listen("outputs.prometheus.listen", &file.listen)?,
            per_flow: file.per_flow,
            max_series: self.number("outputs.prometheus.max_series", file.max_series, 10, 1_000_000)?,
            names: file.names.iter().map(name).collect::<Result<_, _>>()?,
        };
        Ok(file.enabled.then_some(prometheus))
    }

    pub(super) fn otlp(&self, file: &file::Otlp) -> Result<Option<Otlp>, ConfigError> {
        let otlp = Otlp {
            endpoint: self.url("outputs.otlp.endpoint", &file.endpoint)?.trim_end_matches('/').to_owned(),
            period: self.duration("outputs.otlp.period", &file.period, SECOND, HOUR)?,
            metrics: file.metrics,
            logs: file.logs,
            headers: file.headers.clone(),
            ca_file: self.path_if_any("outputs.otlp.ca_file", &file.ca_file)?,
            queue: self.queue("outputs.otlp.queue", file.queue)?,
        };
        Ok(file.enabled.then_some(otlp))
    }

    pub(super) fn json(&self, file: &file::Json) -> Result<Option<Json>, ConfigError> {
        let path = match file.path.as_str() {
            "-" => None,
            path => Some(self.absolute("outputs.json.path", path)?),
        };
        let queue = self.queue("outputs.json.queue", file.queue)?;
        Ok(file.enabled.then_some(Json { path, queue }))
    }

    pub(super) fn ipfix(&self, file: &file::Ipfix) -> Result<Option<Ipfix>, ConfigError> {
        if file.enabled && file.collectors.is_empty() {
            return self.wrong(
                "outputs.ipfix.collectors",
                "[]",
                "is empty: name one, as [\"192.0.2.1:4739\"]",
            );
        }
        let ipfix = Ipfix {
            collectors: self.hosts("outputs.ipfix.collectors", &file.collectors)?,
            enterprise: self.number("outputs.ipfix.enterprise", file.enterprise, 1, u32::MAX.into())?,
            domain: self.number("outputs.ipfix.domain", file.domain, 0, u32::MAX.into())?,
            template_every: self.duration(
                "outputs.ipfix.template_every",
                &file.template_every,
                SECOND,
                HOUR,
            )?,
            queue: self.queue("outputs.ipfix.queue", file.queue)?,
        };
        Ok(file.enabled.then_some(ipfix))
    }

    pub(super) fn collector(
        &self,
        file: &file::Collector,
        registry: &Registry,
    ) -> Result<Collector, ConfigError> {
        const KEY: &str = "outputs.firefly.collectors";
        let words = [("udp", false), ("tcp", false), ("tls", true)];
        let tls = self.word(&format!("{KEY}.transport"), &file.transport, "is no transport", &words)?;
        let spool = self.path_if_any(&format!("{KEY}.spool"), &file.spool)?;
        let transport = match file.transport.as_str() {
            "udp" if spool.is_some() => {
                let fix =
                    "has no use with transport = \"udp\", which does not tell what arrived: use tcp or tls";
                return self.wrong(&format!("{KEY}.spool"), &file.spool, fix);
            }
            "udp" => Transport::Udp,
            _ => Transport::Stream {
                tls,
                ca_file: self.path_if_any(&format!("{KEY}.ca_file"), &file.ca_file)?,
                spool,
                spool_max: self.number(&format!("{KEY}.spool_max"), file.spool_max, 4096, 1 << 40)?,
            },
        };
        Ok(Collector {
            address: self.host_port(&format!("{KEY}.address"), &file.address)?,
            filter: self.filter(KEY, &file.tags, &file.prefixes, registry)?,
            transport,
        })
    }

    /// `tags` and `prefixes` of a section.
    fn filter(
        &self,
        section: &str,
        tags: &Many<NameOrNumber>,
        prefixes: &Many<String>,
        registry: &Registry,
    ) -> Result<Filter, ConfigError> {
        let tag = |item: &NameOrNumber| {
            let text = item.to_string();
            owner(&text, registry)
                .or_else(|e| self.wrong(&format!("{section}.tags"), &text, format!("is not a tag: {e}")))
        };
        Ok(Filter {
            tags: tags.iter().map(tag).collect::<Result<_, _>>()?,
            prefixes: self.prefixes(&format!("{section}.prefixes"), &prefixes.0)?,
        })
    }

    pub(super) fn duration(
        &self,
        key: &str,
        value: &str,
        min: Duration,
        max: Duration,
    ) -> Result<Duration, ConfigError> {
        let Ok(duration) = humantime::parse_duration(value) else {
            return self.wrong(key, value, "is not a time: write 500ms, 30s, 10m, 1h or 1day");
        };
        if (min..=max).contains(&duration) {
            return Ok(duration);
        }
        let [min, max] = [min, max].map(humantime::format_duration);
        self.wrong(key, value, format!("is out of range: use {min} to {max}"))
    }

    pub(super) fn path_if_any(&self, key: &str, value: &str) -> Result<Option<PathBuf>, ConfigError> {
        if value.is_empty() { Ok(None) } else { self.absolute(key, value).map(Some) }
    }

    fn queue(&self, key: &str, value: i64) -> Result<usize, ConfigError> {
        self.number(key, value, 1, 1 << 20)
    }

    fn listen(&self, key: &str, value: &str) -> Result<SocketAddr, ConfigError> {
        let fix = "is not ADDRESS:PORT: write 127.0.0.1:7777 or [::]:7777";
        value.parse().or_else(|_| self.wrong(key, value, fix))
    }

    pub(super) fn url(&self, key: &str, value: &str) -> Result<String, ConfigError> {
        let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
        match rest {
            Some(rest)
                if !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace) =>
            {
                Ok(value.to_owned())
            }
            _ => self.wrong(key, value, "is not a URL: write https://HOST/PATH"),
        }
    }

    fn prefixes(&self, key: &str, list: &[String]) -> Result<Vec<IpNet>, ConfigError> {
        list.iter().map(|text| rule::prefix(text).or_else(|e| self.wrong(key, text, e))).collect()
    }

    fn hosts(&self, key: &str, list: &[String]) -> Result<Vec<HostPort>, ConfigError> {
        list.iter().map(|text| self.host_port(key, text)).collect()
    }

    fn host_port(&self, key: &str, value: &str) -> Result<HostPort, ConfigError> {
        const FIX: &str = "is not HOST:PORT: write collector.example.org:10514 or [2001:db8::1]:10514";
        let Some((host, port)) = value.rsplit_once(':') else { return self.wrong(key, value, FIX) };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(literal) if literal.parse::<IpAddr>().is_ok() => literal,
            None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => host,
            _ => return self.wrong(key, value, FIX),
        };
        let Some(port) = port.parse::<u16>().ok().filter(|p| *p > 0) else {
            return self.wrong(key, value, "has a port that is out of range: use 1 to 65535");
        };
        Ok(HostPort { host: host.to_owned(), port })
    }
}

/// `EXPERIMENT` or `EXPERIMENT/ACTIVITY`, as names or numbers.
fn owner(text: &str, registry: &Registry) -> Result<(Experiment, Option<Activity>), String> {
    let (experiment, activity) = match text.split_once('/') {
        Some((experiment, activity)) => (experiment, Some(activity)),
        None => (text, None),
    };
    let experiment = registry.resolve_experiment(experiment).map_err(|e| e.to_string())?;
    let activity = activity.map(|a| registry.resolve_activity(experiment, a)).transpose();
    Ok((experiment, activity.map_err(|e| e.to_string())?))
}
