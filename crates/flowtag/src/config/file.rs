//! The configuration file as written: one struct a component, defaults, nothing checked beyond types. What the keys
//! mean is said once, in `sample.toml`; a test holds the two against each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rule::RuleText;
use super::value::NameOrNumber;

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

section! { Flows { max: i64 = 100_000, idle_limit: String = "1h".into(), } }
section! { Registry { file: String = String::new(), } }
section! { Inputs { control: Control = Control::default(), pipe: Pipe = Pipe::default(), } }
section! {
    Control {
        enabled: bool = true,
        path: String = "/run/flowtag/control.sock".into(),
        mode: String = "0660".into(),
        group: String = String::new(),
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
section! { Outputs { firefly: Firefly = Firefly::default(), } }
section! {
    Firefly {
        enabled: bool = true,
        destination: bool = true,
        destination_port: i64 = 10514,
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
    pub(crate) experiments: Vec<NameOrNumber>,
}
