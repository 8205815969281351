//! The configuration file as written: one struct a component, defaults, nothing checked beyond types. What the keys
//! mean is said once, in `sample.toml`; a test holds the two against each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rule::RuleText;
use super::value::{Many, NameOrNumber};

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }
    };
}

section! {
    /// The whole file.
    File {
        runtime_dir: String = "/run/flowtag".into(),
        log: Log = Log::default(),
        mark: Mark = Mark::default(),
        flows: Flows = Flows::default(),
        registry: Registry = Registry::default(),
        inputs: Inputs = Inputs::default(),
        outputs: Outputs = Outputs::default(),
        statistics: Statistics = Statistics::default(),
        observe: Observe = Observe::default(),
        addresses: Addresses = Addresses::default(),
        access: Vec<Access> = Vec::new(),
        rules: Vec<RuleText> = Vec::new(),
    }
}
section! { Log { level: String = "info".into(), } }
section! {
    Mark {
        enabled: bool = true,
        interfaces: Vec<String> = vec!["auto".into()],
        hook: String = "auto".into(),
        tc_priority: i64 = 7,
        strategy: String = "label".into(),
        exclude_private: bool = true,
        on_stop: String = "keep".into(),
        lease: String = "1h".into(),
        pin: String = "/sys/fs/bpf/flowtag".into(),
        encapsulated: String = "outer".into(),
        ingress: bool = true,
        defaults: BTreeMap<String, String> = BTreeMap::new(),
        strip: Vec<Strip> = Vec::new(),
    }
}

/// Prefix at whose border tags end; it has no default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Strip {
    pub(crate) prefix: String,
    #[serde(default = "both")]
    pub(crate) direction: String,
}

fn both() -> String {
    "both".to_owned()
}

section! {
    Flows { max: i64 = 100_000, idle_limit: String = "1h".into(), report_every: String = "off".into(), }
}
section! {
    Registry {
        file: String = String::new(),
        url: String = String::new(),
        refresh: String = "1day".into(),
        ca_file: String = String::new(),
    }
}
section! { Statistics { enabled: bool = true, period: String = "10s".into(), } }
section! {
    Observe {
        enabled: bool = true,
        probes: Vec<String> = vec!["auto".into()],
        labels: Vec<String> = vec!["experiment".into(), "activity".into()],
        peer_ipv4: i64 = 24,
        peer_ipv6: i64 = 48,
        max_series: i64 = 1000,
    }
}
section! {
    Addresses {
        map: BTreeMap<String, String> = BTreeMap::new(),
        stun: Vec<String> = Vec::new(),
        http: Vec<String> = Vec::new(),
        timeout: String = "3s".into(),
        refresh: String = "10m".into(),
    }
}

/// Who may tag as what; all conditions have to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Access {
    #[serde(default)]
    pub(crate) input: Many<String>,
    #[serde(default)]
    pub(crate) user: Many<NameOrNumber>,
    #[serde(default)]
    pub(crate) group: Many<NameOrNumber>,
    pub(crate) tags: Many<NameOrNumber>,
}

section! {
    Inputs {
        control: Control = Control::default(),
        pipe: Pipe = Pipe::default(),
        flowd_go: FlowdGo = FlowdGo::default(),
        firefly: FireflyInput = FireflyInput::default(),
        xrootd: Xrootd = Xrootd::default(),
    }
}
section! {
    Control {
        enabled: bool = true,
        path: String = "/run/flowtag/control.sock".into(),
        mode: String = "0660".into(),
        group: String = String::new(),
        listen: String = String::new(),
        token_file: String = String::new(),
        tls_certificate: String = String::new(),
        tls_key: String = String::new(),
    }
}
section! {
    Pipe {
        enabled: bool = false,
        path: String = "/run/flowtag/pipe".into(),
        mode: String = "0620".into(),
        group: String = String::new(),
    }
}
section! { FlowdGo { enabled: bool = false, listen: String = "127.0.0.1:7777".into(), } }
section! {
    FireflyInput {
        enabled: bool = false,
        listen: String = "[::]:10514".into(),
        sources: Vec<String> = vec!["127.0.0.0/8".into(), "::1/128".into()],
        relay: Vec<String> = Vec::new(),
        buffer: i64 = 4 << 20,
    }
}
section! {
    Xrootd {
        enabled: bool = false,
        listen: String = "127.0.0.1:9931".into(),
        sources: Vec<String> = vec!["127.0.0.0/8".into(), "::1/128".into()],
    }
}
section! {
    Outputs {
        firefly: Firefly = Firefly::default(),
        prometheus: Prometheus = Prometheus::default(),
        otlp: Otlp = Otlp::default(),
        json: Json = Json::default(),
        ipfix: Ipfix = Ipfix::default(),
    }
}
section! {
    Firefly {
        enabled: bool = true,
        destination: bool = true,
        destination_port: i64 = 10514,
        content: String = "flowtag".into(),
        rate_limit: i64 = 0,
        queue: i64 = 16384,
        collectors: Vec<Collector> = Vec::new(),
    }
}

/// One collector; `address` has no default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collector {
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) tags: Many<NameOrNumber>,
    #[serde(default)]
    pub(crate) prefixes: Many<String>,
    #[serde(default = "udp")]
    pub(crate) transport: String,
    #[serde(default)]
    pub(crate) ca_file: String,
    #[serde(default)]
    pub(crate) spool: String,
    #[serde(default = "spool_max")]
    pub(crate) spool_max: i64,
}

fn udp() -> String {
    "udp".to_owned()
}

const fn spool_max() -> i64 {
    64 << 20
}

section! {
    Prometheus {
        enabled: bool = false,
        listen: String = "127.0.0.1:9418".into(),
        per_flow: bool = false,
        max_series: i64 = 1000,
        names: Vec<String> = vec!["flowtag".into()],
    }
}
section! {
    Otlp {
        enabled: bool = false,
        endpoint: String = "http://127.0.0.1:4318".into(),
        period: String = "10s".into(),
        metrics: bool = true,
        logs: bool = true,
        headers: BTreeMap<String, String> = BTreeMap::new(),
        ca_file: String = String::new(),
        queue: i64 = 16384,
    }
}
section! { Json { enabled: bool = false, path: String = "-".into(), queue: i64 = 16384, } }
section! {
    Ipfix {
        enabled: bool = false,
        collectors: Vec<String> = Vec::new(),
        enterprise: i64 = 32473,
        domain: i64 = 1,
        template_every: String = "1m".into(),
        queue: i64 = 16384,
    }
}
