//! Configuration: `file` is what was written, [`Config`] is what it means, checked. Parsing and checking read
//! nothing but the files named; the daemon gets values that need no further doubt.

mod convert;
mod file;
mod filter;
mod observe;
mod parse;
mod rule;
mod services;
mod value;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::Registry;
use flowtag_kernel::mark::HookChoice;
use flowtag_wire::Strategy;
use ipnet::IpNet;

use crate::registry::Source;

pub(crate) use convert::{Converted, Finding, Severity};
pub(crate) use filter::Filter;
pub(crate) use observe::{Label, Observe};
pub(crate) use parse::suggest;
pub(crate) use rule::{Action, MAX_RULES, Rule, RuleProblem, RuleText};
pub(crate) use services::{
    Access, Addresses, ControlTcp, FireflyInput, FlowdGo, HostPort, Ipfix, Json, MetricNames, Otlp,
    Prometheus, Statistics, Xrootd,
};
pub(crate) use value::{Many, NameOrNumber};

/// Where the configuration is unless somebody says otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/flowtag/flowtag.toml";

/// Every key with its default and what it means; shipped as the configuration file.
pub(crate) const SAMPLE: &str = include_str!("sample.toml");

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) runtime_dir: PathBuf,
    pub(crate) log_level: String,
    pub(crate) mark: Option<Mark>,
    /// Where maps and links are kept over the daemon's end; none: they are not. Also known where marking is off, for
    /// what an earlier daemon left.
    pub(crate) pin: Option<PathBuf>,
    /// Whose traffic it is that nobody announced. In the order of the file.
    pub(crate) rules: Vec<Rule>,
    pub(crate) max_flows: u32,
    pub(crate) idle_limit: Option<Duration>,
    /// How often flows that go on are reported.
    pub(crate) report_every: Option<Duration>,
    pub(crate) statistics: Option<Statistics>,
    pub(crate) observe: Option<Observe>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) registry_source: Source,
    /// What is not as it should be with it.
    pub(crate) registry_notes: Vec<String>,
    pub(crate) registry_url: Option<RegistryUrl>,
    pub(crate) addresses: Addresses,
    pub(crate) access: Vec<Access>,
    pub(crate) control: Option<Gate>,
    pub(crate) control_tcp: Option<ControlTcp>,
    pub(crate) pipe: Option<Gate>,
    pub(crate) flowd_go: Option<FlowdGo>,
    pub(crate) firefly_input: Option<FireflyInput>,
    pub(crate) xrootd: Option<Xrootd>,
    pub(crate) firefly: Option<Firefly>,
    pub(crate) prometheus: Option<Prometheus>,
    pub(crate) otlp: Option<Otlp>,
    pub(crate) json: Option<Json>,
    pub(crate) ipfix: Option<Ipfix>,
    /// The file as written with all defaults filled in, for `config show`.
    pub(crate) effective: String,
    /// What became of its keys, where the file is flowd's or flowd-go's.
    pub(crate) findings: Vec<Finding>,
}

/// Where tags are written, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) interfaces: Vec<Pattern>,
    pub(crate) hook: HookChoice,
    pub(crate) tc_priority: u16,
    /// For announced flows and rules that name none.
    pub(crate) strategy: Strategy,
    /// Whether traffic that no network outside needs to account for is kept from rules.
    pub(crate) exclude_private: bool,
    pub(crate) on_stop: OnStop,
    /// How long packets are marked without a daemon: one minute to seven days.
    pub(crate) lease: Duration,
    /// IPv6 in IPv6: whether the inner header is written, and not the outer.
    pub(crate) inner: bool,
    /// Whether tags that arrive are counted.
    pub(crate) ingress: bool,
    /// Rules for the traffic of an interface that no other rule matches, from first to last.
    pub(crate) defaults: Vec<Rule>,
    pub(crate) strip: Vec<Strip>,
}

/// What becomes of marking when the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnStop {
    /// It goes on until the lease ends.
    Keep,
    /// It ends.
    Detach,
}

/// A border at which tags are taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strip {
    pub(crate) prefix: IpNet,
    /// From packets that leave for it.
    pub(crate) egress: bool,
    /// From packets that come from it.
    pub(crate) ingress: bool,
}

/// Which interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// All with a global IPv6 address.
    Auto,
    /// This one, which must exist at start.
    Name(String),
    /// All whose name matches, now or later.
    Glob(String),
}

impl Pattern {
    /// What is wrong where [`Self::read`] gives none.
    pub(crate) const FIX: &str = "is not an interface: 1 to 15 characters, no blank, no /";

    /// None where no interface can have such a name: IFNAMSIZ of linux/if.h is 16 with the closing zero; the kernel
    /// refuses slashes and blanks.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let impossible = text.is_empty() || text.contains('/') || text.contains(char::is_whitespace);
        if impossible || text.len() > 15 {
            return None;
        }
        Some(match text {
            "auto" => Self::Auto,
            glob if glob.contains(['*', '?']) => Self::Glob(glob.to_owned()),
            name => Self::Name(name.to_owned()),
        })
    }

    pub(crate) fn matches(&self, name: &str, has_global_ipv6: bool) -> bool {
        match self {
            Self::Auto => has_global_ipv6,
            Self::Name(wanted) => wanted == name,
            Self::Glob(glob) => glob_matches(glob.as_bytes(), name.as_bytes()),
        }
    }
}

/// `*` stands for any characters, `?` for one: all that interface names need.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob_matches(rest, name) || name.split_first().is_some_and(|(_, n)| glob_matches(glob, n))
        }
        (Some((b'?', g)), Some((_, n))) => glob_matches(g, n),
        (Some((a, g)), Some((b, n))) => a == b && glob_matches(g, n),
        _ => false,
    }
}

/// A file through which others reach us, and who may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) path: PathBuf,
    /// Permission bits.
    pub(crate) mode: u32,
    /// None: the daemon's own group.
    pub(crate) group: Option<u32>,
}

/// Where fireflies go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Firefly {
    /// Port at the remote end of the flow; none: not sent there.
    pub(crate) destination_port: Option<u16>,
    pub(crate) content: Content,
    /// Datagrams a second and target; none: no limit.
    pub(crate) rate_limit: Option<u32>,
    pub(crate) queue: usize,
    pub(crate) collectors: Vec<Collector>,
}

/// One collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    pub(crate) address: HostPort,
    pub(crate) filter: Filter,
    pub(crate) transport: Transport,
}

/// How fireflies reach a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram each.
    Udp,
    /// syslog over TCP (RFC 6587) or TLS (RFC 5425).
    Stream {
        tls: bool,
        /// None: the system's.
        ca_file: Option<PathBuf>,
        /// Directory for what cannot be sent now; none: it is dropped.
        spool: Option<PathBuf>,
        /// Bytes.
        spool_max: u64,
    },
}

/// What fireflies say of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Small: RTT, losses, MTU.
    Flowtag,
    /// As flowd: what `ss` prints.
    Flowd,
    /// As flowd-go in its mode `compatible`.
    FlowdGo,
    /// As flowd-go in its mode `lean`.
    FlowdGoLean,
    /// As flowd-go without a mode.
    FlowdGoFull,
    /// Nothing.
    None,
}

/// Where the registry is fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegistryUrl {
    pub(crate) url: String,
    pub(crate) refresh: Duration,
    pub(crate) ca_file: Option<PathBuf>,
}

/// What is wrong with a configuration: which key, what was found, what would do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {message}")]
    Syntax { path: String, message: String },
    #[error("{path}: {key} = {value} {problem}")]
    Value { path: String, key: String, value: String, problem: String },
    #[error("{path}: rule {name:?}: {problem}")]
    Rule { path: String, name: String, problem: RuleProblem },
}

/// The number of a user or group in a file like `/etc/passwd`. Read from the file and not asked of NSS, which a static
/// binary cannot load.
fn find_id(file: &str, name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

impl Config {
    /// UDP ports of fireflies, which are never flows of their own.
    pub(crate) fn firefly_ports(&self) -> BTreeSet<u16> {
        let output = self.firefly.iter().flat_map(|output| {
            let by_udp = output.collectors.iter().filter(|c| c.transport == Transport::Udp);
            output.destination_port.into_iter().chain(by_udp.map(|c| c.address.port))
        });
        let input = self.firefly_input.iter().flat_map(|input| {
            std::iter::once(input.listen.port()).chain(input.relay.iter().map(|relay| relay.port))
        });
        output.chain(input).collect()
    }

    /// The configuration in `path`; the defaults where `path` is `None` and there is no file at [`DEFAULT_PATH`].
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (path, required) = path.map_or((Path::new(DEFAULT_PATH), false), |p| (p, true));
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &path.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !required => {
                Self::parse("", "built-in defaults")
            }
            Err(source) => Err(ConfigError::Read { path: path.display().to_string(), source }),
        }
    }

    /// # Errors
    /// The first key that is unknown, of the wrong type or out of range.
    pub(crate) fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        let Some(converted) = Self::convert(text, path)? else { return parse::parse(text, path) };
        let config = parse::parse(&converted.toml, &format!("{path} (converted)"))?;
        Ok(Self { findings: converted.findings, ..config })
    }

    /// The configuration of flowd or flowd-go as ours; none where it is ours already.
    ///
    /// # Errors
    /// It is one of theirs, and wrong.
    pub(crate) fn convert(text: &str, path: &str) -> Result<Option<Converted>, ConfigError> {
        convert::detect(text).map(|format| convert::convert(text, path, format)).transpose()
    }

    /// Says what became of the keys of an old configuration, but of those that are simply converted.
    pub(crate) fn log_findings(&self) {
        for finding in self.findings.iter().filter(|finding| !finding.is_plain()) {
            match finding.severity {
                Severity::Fine => tracing::info!("configuration, {finding}"),
                Severity::Warning => tracing::warn!("configuration, {finding}"),
                Severity::Lost => tracing::error!("configuration, {finding}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_shell_would() {
        for (glob, name, expected) in [
            ("eth*", "eth0", true),
            ("eth*", "veth0", false),
            ("*", "", true),
            ("en?0", "enp0", true),
            ("en?0", "en0", false),
            ("*.7", "eth0.7", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(glob_matches(glob.as_bytes(), name.as_bytes()), expected, "{glob} {name}");
        }
    }
}
