//! flowd's `flowd.cfg`: one plugin, several backends, keys in upper case.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::node::{Node, Section, Value};
use super::python::{Statement, statements};
use super::report::{Finding, Key, Problem, Severity};
use super::{COLLECTORS, Maker, NO_TAG, host_port, listen, origin, stun_server, tag_keys, tags};

type Done = Result<(), Problem>;

const PIPE: &str = "/var/run/flowd";
const RULES: &str = "rules";
/// What the plugins iperf and iperf_rr give to flows, which is written in them.
const IPERF: [(i64, i64); 8] = [(2, 9), (2, 19), (3, 3), (3, 4), (4, 3), (4, 4), (5, 10), (5, 14)];
const IPERF_RR: [(i64, i64); 4] = [(2, 19), (3, 3), (4, 3), (5, 10)];

pub(super) fn convert(text: &str) -> Result<Maker, Problem> {
    let mut maker = Maker::default();
    let mut root = maker.assignments(text)?;
    let plugin = root.take("PLUGIN");
    let name = plugin.as_ref().map_or(Ok(String::new()), Key::text)?;
    match &plugin {
        Some(key) => maker.plugin(key, &name, &mut root)?,
        None => maker.note(
            Finding::not_needed(&missing("PLUGIN"), "").lost("is missing: flowd does not start without"),
        ),
    }
    let backends = maker.backend_list(&mut root)?;
    let marks = backends.iter().any(|name| name.starts_with("ebpf"));
    maker.unused(&mut root, &name, &backends);
    maker.registry(&mut root)?;
    maker.settings(&mut root);
    maker.findings.extend(root.rest());
    maker.mark_or_not(marks, plugin.as_ref());
    Ok(maker)
}

fn missing(name: &str) -> Key {
    Key::new(name.to_owned(), Node { line: 1, value: Value::Null })
}

impl Maker {
    /// The last value of each name, as Python would have it.
    fn assignments(&mut self, text: &str) -> Result<Section, Problem> {
        let mut last: BTreeMap<String, Node> = BTreeMap::new();
        for statement in statements(text) {
            match statement {
                Statement::Assignment { name, node } => {
                    let line = node.line;
                    if let Some(old) = last.insert(name.clone(), node) {
                        let why = format!("it has another value in line {line}");
                        self.note(Finding::not_needed(&Key::new(name, old), why));
                    }
                }
                Statement::Other { line, text, problem } => {
                    let import = text.starts_with("import ") || text.starts_with("from ");
                    let severity = if import { Severity::Warning } else { Severity::Lost };
                    let key = Key::new(text, Node { line, value: Value::Null });
                    let advice = format!("{problem}, and flowtag runs nothing: write values");
                    self.note(Finding::not_supported(&key, severity, advice));
                }
            }
        }
        Section::root(Node { line: 1, value: Value::Map(last.into_iter().collect()) })
    }

    fn plugin(&mut self, key: &Key, name: &str, root: &mut Section) -> Done {
        match name {
            "np_api" => self.np_api(key, root),
            "firefly" => self.listener(key, root),
            "netstat" | "netlink" => self.connections(key, name, root),
            "iperf" | "iperf_rr" => self.iperf(key, name, root),
            _ => {
                let known = "np_api, firefly, netstat, netlink, iperf, iperf_rr";
                let advice =
                    format!("{name:?} is no plugin of flowd ({known}): write rules, or use another input");
                self.note(Finding::not_supported(key, Severity::Lost, advice));
                Ok(())
            }
        }
    }

    fn np_api(&mut self, key: &Key, root: &mut Section) -> Done {
        self.open_pipe(key);
        match root.take("NP_API_FILE") {
            Some(key) => self.set(&key, "inputs.pipe.path", key.text()?),
            None => self.draft.set("inputs.pipe.path", PIPE, "flowd's own, which producers know"),
        }
        Ok(())
    }

    fn listener(&mut self, key: &Key, root: &mut Section) -> Done {
        let (host, port) = (root.take("FIREFLY_LISTENER_HOST"), root.take("FIREFLY_LISTENER_PORT"));
        let number = port.as_ref().map_or(Ok(10514), Key::port)?;
        let at = host.as_ref().map(|key| listen(key, number)).transpose()?;
        let at = at.unwrap_or_else(|| ([0, 0, 0, 0], number).into());
        self.draft.set("inputs.firefly.enabled", true, origin(key));
        self.draft.set(
            "inputs.firefly.listen",
            at.to_string(),
            origin(host.as_ref().or(port.as_ref()).unwrap_or(key)),
        );
        self.believe(at, &origin(key));
        let finding = Finding::converted(key, &["inputs.firefly.enabled", "inputs.firefly.listen"]);
        let open = "everybody's fireflies are believed, as before: inputs.firefly.sources can name who is";
        self.note(if at.ip().is_loopback() { finding } else { finding.warning(open) });
        for key in [host, port].into_iter().flatten() {
            self.note(Finding::converted(&key, &["inputs.firefly.listen"]));
        }
        Ok(())
    }

    /// flowd looks at all connections every few seconds; rules see them from their first packet, and those that are open
    /// already at start.
    fn connections(&mut self, key: &Key, name: &str, root: &mut Section) -> Done {
        let upper = name.to_ascii_uppercase();
        let mut either = |what: &[&'static str]| what.iter().find_map(|name| root.take(name));
        let (experiment, activity) = if name == "netlink" {
            (
                either(&["NETLINK_EXPERIMENT", "NETSTAT_EXPERIMENT", "EXPERIMENT"]),
                either(&["NETLINK_ACTIVITY", "NETSTAT_ACTIVITY", "ACTIVITY"]),
            )
        } else {
            (either(&["NETSTAT_EXPERIMENT", "EXPERIMENT"]), either(&["NETSTAT_ACTIVITY", "ACTIVITY"]))
        };
        self.internal(&["NETLINK_INTERNAL_NETWORKS", "NETSTAT_INTERNAL_NETWORKS"], root)?;
        self.note(Finding::converted(key, &[RULES]));
        let Some(experiment) = experiment else {
            let text = format!("{upper}_EXPERIMENT is missing: nobody can say whose the connections are");
            self.note(Finding::not_supported(key, Severity::Lost, text));
            return Ok(());
        };
        let owner = experiment.text()?;
        let purpose = activity.as_ref().map_or(Ok(String::new()), Key::text)?;
        let default = ["", "0"].contains(&purpose.as_str());
        let tag = format!("{owner}/{}", if default { "1" } else { &purpose });
        self.draft.rule(
            vec![("name", name.into()), ("protocol", "tcp".into()), ("tag", tag.into())],
            format!("{}, {}", origin(key), origin(&experiment)),
        );
        self.note(Finding::converted(&experiment, &["rules.tag"]));
        let text = "without an activity it is 1, `default`";
        match activity {
            Some(key) if default => self.note(Finding::converted(&key, &["rules.tag"]).warning(text)),
            Some(key) => self.note(Finding::converted(&key, &["rules.tag"])),
            None => self.note(Finding::converted(key, &["rules.tag"]).warning(text)),
        }
        Ok(())
    }

    /// Networks at the other end whose connections are left alone.
    fn internal(&mut self, names: &[&'static str], root: &mut Section) -> Done {
        for key in names.iter().filter_map(|name| root.take(name)).collect::<Vec<_>>() {
            let mut networks = Vec::new();
            for text in key.texts()? {
                let net = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
                let net = net.map_err(|_| key.problem(format!("has {text:?}, which is no network")))?;
                networks.push(net.trunc().to_string());
            }
            if networks.is_empty() {
                self.note(Finding::not_needed(&key, "it names none"));
                continue;
            }
            let name = key.path.to_ascii_lowercase();
            let keys = vec![("name", name.into()), ("remote", networks.into()), ("tag", "never".into())];
            self.draft.rule(keys, origin(&key));
            let finding = Finding::converted(&key, &["rules.remote"]);
            let single = matches!(key.value, Value::Text(_));
            let text =
                "a single network without a comma is a text, of which flowd takes every letter for a network";
            self.note(if single { finding.warning(text) } else { finding });
        }
        Ok(())
    }

    fn iperf(&mut self, key: &Key, name: &str, root: &mut Section) -> Done {
        self.internal(&["IPERF_INTERNAL_NETWORKS", "NETSTAT_INTERNAL_NETWORKS"], root)?;
        let ids = root.take("IPERF_FLOW_ID");
        let pairs = match &ids {
            Some(key) => pairs(key)?,
            None if name == "iperf" => IPERF.to_vec(),
            None => IPERF_RR.to_vec(),
        };
        let (tags, others) = tags(pairs);
        let mut rule = vec![("name", name.into()), ("protocol", "tcp".into())];
        if name == "iperf_rr" {
            rule.push(("local_port", "5201-5299".into()));
            self.draft.set("mark.exclude_private", false, "iperf_rr looks at private addresses, too");
        }
        self.note(
            Finding::converted(key, &[RULES])
                .saying("each flow gets one of the tags at random, and keeps it"),
        );
        if let Some(key) = &ids {
            let finding = Finding::converted(key, &["rules.tags"]);
            let text = format!("{} is no tag: {NO_TAG}", others.join(", "));
            self.note(match (tags.is_empty(), others.is_empty()) {
                (true, _) => finding.lost(text),
                (false, false) => finding.warning(text),
                (false, true) => finding,
            });
        }
        if !tags.is_empty() {
            rule.extend(tag_keys(tags));
            self.draft.rule(rule, origin(ids.as_ref().unwrap_or(key)));
        }
        Ok(())
    }

    /// Names of the backends.
    fn backend_list(&mut self, root: &mut Section) -> Result<Vec<String>, Problem> {
        let key = root.take("BACKEND");
        let names = key.as_ref().map_or(Ok("udp_firefly".to_owned()), Key::text)?;
        let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
        let key = key.unwrap_or_else(|| missing("BACKEND"));
        let fireflies = names.iter().any(|name| name == "udp_firefly");
        self.draft.set("outputs.firefly.enabled", fireflies, origin(&key));
        for name in &names {
            match name.as_str() {
                "udp_firefly" => {
                    self.note(Finding::converted(&key, &["outputs.firefly.enabled"]));
                    self.fireflies(root)?;
                }
                "ebpf" | "ebpf_el8" | "ebpf_el9" | "ebpf_rhel8" | "ebpf_rhel9" => {
                    self.note(Finding::converted(&key, &["mark.enabled"]));
                    self.ebpf(&key, root)?;
                }
                "prometheus" => {
                    self.note(Finding::converted(&key, &["outputs.prometheus.enabled"]));
                    self.metrics(&key, root)?;
                }
                _ => {
                    let known = "udp_firefly, ebpf_el8, ebpf_el9, prometheus";
                    let advice = format!("{name:?} is no backend of flowd ({known})");
                    self.note(Finding::not_supported(&key, Severity::Lost, advice));
                }
            }
        }
        Ok(names)
    }

    fn fireflies(&mut self, root: &mut Section) -> Done {
        let port = root.take("UDP_FIREFLY_PORT");
        let number = port.as_ref().map_or(Ok(10514), Key::port)?;
        if let Some(key) = port {
            self.set(&key, "outputs.firefly.destination_port", i64::from(number));
        }
        if let Some(key) = root.take("UDP_FIREFLY_DST") {
            let hosts = key.texts()?;
            hosts.iter().for_each(|host| self.draft.collector(host_port(host, number), origin(&key)));
            self.note(Finding::converted(&key, &[COLLECTORS]));
        }
        for (name, family) in [("UDP_FIREFLY_IP4_SRC", "IPv4"), ("UDP_FIREFLY_IP6_SRC", "IPv6")] {
            if let Some(key) = root.take(name) {
                let address = key.text()?;
                let advice = format!(
                    "flowtag maps addresses one by one: write \"{family} address of this host\" = \"{address}\" below \
                     [addresses.map]"
                );
                self.note(Finding::not_supported(&key, Severity::Lost, advice));
            }
        }
        for name in ["UDP_FIREFLY_NETLINK", "UDP_FIREFLY_WITH_NETLINK"] {
            match root.take(name) {
                Some(key) if key.bool()? => self.set(&key, "outputs.firefly.content", "flowd"),
                Some(key) => {
                    self.note(Finding::not_needed(&key, "outputs.firefly.content = \"none\" is without"))
                }
                None => {}
            }
        }
        self.discovery(root)
    }

    fn discovery(&mut self, root: &mut Section) -> Done {
        const SERVERS: [&str; 2] = ["stun.l.google.com:19305", "stun.services.mozilla.org:3478"];
        const HTTP: [&str; 2] = ["https://api4.my-ip.io/ip", "https://api6.my-ip.io/ip"];
        let (on, servers) = (root.take("IP_DISCOVERY_ENABLED"), root.take("STUN_SERVERS"));
        let enabled = on.as_ref().map_or(Ok(false), Key::bool)?;
        let list = servers.as_ref().map(stun_servers).transpose()?;
        match on {
            Some(key) if enabled => {
                let list = list.unwrap_or_else(|| SERVERS.map(str::to_owned).to_vec());
                self.draft.set("addresses.stun", list, origin(servers.as_ref().unwrap_or(&key)));
                self.draft.set("addresses.http", HTTP.to_vec(), origin(&key));
                let text = "for private addresses at either end";
                self.note(Finding::converted(&key, &["addresses.stun", "addresses.http"]).saying(text));
            }
            on => {
                self.not_needed(on, "nobody is asked unless addresses.stun or addresses.http names servers")
            }
        }
        if let Some(key) = servers {
            self.note(if enabled {
                Finding::converted(&key, &["addresses.stun"])
            } else {
                Finding::not_needed(&key, "IP_DISCOVERY_ENABLED is not True")
            });
        }
        Ok(())
    }

    fn ebpf(&mut self, backend: &Key, root: &mut Section) -> Done {
        self.draft.set("mark.enabled", true, origin(backend));
        match root.take("NETWORK_INTERFACE") {
            Some(key) => {
                let texts = key.texts()?;
                let names: Vec<_> =
                    texts.iter().flat_map(|t| t.split(',')).map(|n| n.trim().to_owned()).collect();
                self.set(&key, "mark.interfaces", names);
            }
            None => {
                let text =
                    "NETWORK_INTERFACE is missing, without which flowd does not start: taken is [\"auto\"]";
                self.note(Finding::converted(backend, &["mark.interfaces"]).warning(text));
            }
        }
        Ok(())
    }

    fn metrics(&mut self, backend: &Key, root: &mut Section) -> Done {
        const OPEN: &str = "it listens on all addresses, as before: better on one that others do not reach";
        let port = root.take("PROMETHEUS_SRV_PORT");
        let number = port.as_ref().map_or(Ok(9000), Key::port)?;
        let at = std::net::SocketAddr::from(([0, 0, 0, 0], number)).to_string();
        self.draft.set("outputs.prometheus.enabled", true, origin(backend));
        self.draft.set("outputs.prometheus.listen", at, origin(port.as_ref().unwrap_or(backend)));
        self.draft.set("outputs.prometheus.names", vec!["flowd"], origin(backend));
        let to = ["outputs.prometheus.listen"];
        self.note(Finding::converted(port.as_ref().unwrap_or(backend), &to).warning(OPEN));
        Ok(())
    }

    /// Keys of plugins and backends that are not switched on.
    fn unused(&mut self, root: &mut Section, plugin: &str, backends: &[String]) {
        const PLUGINS: [&str; 12] = [
            "NP_API_FILE",
            "FIREFLY_LISTENER_HOST",
            "FIREFLY_LISTENER_PORT",
            "NETSTAT_EXPERIMENT",
            "NETSTAT_ACTIVITY",
            "NETSTAT_INTERNAL_NETWORKS",
            "NETLINK_EXPERIMENT",
            "NETLINK_ACTIVITY",
            "NETLINK_INTERNAL_NETWORKS",
            "IPERF_FLOW_ID",
            "IPERF_INTERNAL_NETWORKS",
            "EXPERIMENT",
        ];
        const BACKENDS: [&str; 10] = [
            "UDP_FIREFLY_DST",
            "UDP_FIREFLY_PORT",
            "UDP_FIREFLY_IP4_SRC",
            "UDP_FIREFLY_IP6_SRC",
            "UDP_FIREFLY_NETLINK",
            "UDP_FIREFLY_WITH_NETLINK",
            "IP_DISCOVERY_ENABLED",
            "STUN_SERVERS",
            "NETWORK_INTERFACE",
            "PROMETHEUS_SRV_PORT",
        ];
        for name in PLUGINS.into_iter().chain(["ACTIVITY"]) {
            self.not_needed(root.take(name), &format!("PLUGIN is {plugin:?}, which does not use it"));
        }
        for name in BACKENDS {
            self.not_needed(
                root.take(name),
                &format!("BACKEND is {:?}, which does not use it", backends.join(", ")),
            );
        }
    }

    fn registry(&mut self, root: &mut Section) -> Done {
        if let Some(key) = root.take("FLOW_MAP_API") {
            self.draft.set("registry.url", key.text()?, origin(&key));
            let text = "certificates are verified, which flowd does not; until it is fetched, and where it cannot be, the copy \
                        that is built in counts";
            self.note(Finding::converted(&key, &["registry.url"]).saying(text));
        }
        Ok(())
    }

    /// flowd's settings, which some people put into its configuration, where flowd does not look.
    fn settings(&mut self, root: &mut Section) {
        for (name, why) in [
            ("CONFIG_PATH", "flowtag run --config says it"),
            ("PID_FILE", "systemd knows the process"),
            ("WORK_DIR", "runtime_dir is for flowtag's own files"),
            ("DEFAULT_BACKEND", "BACKEND says it"),
            ("NETSTAT_TIMEOUT", "connections are seen when they begin and end"),
            ("NETLINK_TIMEOUT", "connections are seen when they begin and end"),
            ("IP4_DISCOVERY", "every address of a flow is looked at, not that of one route"),
            ("IP6_DISCOVERY", "every address of a flow is looked at, not that of one route"),
        ] {
            self.not_needed(root.take(name), why);
        }
    }
}

/// A list of two numbers each.
fn pairs(key: &Key) -> Result<Vec<(i64, i64)>, Problem> {
    let wrong = || key.problem("is not a list of pairs, as [(2, 9), (3, 14)]");
    let Value::List(list) = &key.value else { return Err(wrong()) };
    let one = |node: &Node| match &node.value {
        Value::List(pair) => match pair.as_slice() {
            [Node { value: Value::Int(a), .. }, Node { value: Value::Int(b), .. }] => Ok((*a, *b)),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    };
    // (2, 9) alone, for ((2, 9),).
    if let [Node { value: Value::Int(a), .. }, Node { value: Value::Int(b), .. }] = list.as_slice() {
        return Ok(vec![(*a, *b)]);
    }
    list.iter().map(one).collect()
}

/// Pairs of host and port, or `HOST:PORT`.
fn stun_servers(key: &Key) -> Result<Vec<String>, Problem> {
    let wrong = || key.problem("is not a list of servers, as [('stun.example.org', 3478)]");
    let Value::List(list) = &key.value else { return Err(wrong()) };
    let one = |node: &Node| match &node.value {
        Value::Text(text) => Ok(stun_server(text)),
        Value::List(pair) => match pair.as_slice() {
            [Node { value: Value::Text(host), .. }, Node { value: Value::Int(port), .. }] => {
                let port = u16::try_from(*port).map_err(|_| wrong())?;
                Ok(host_port(host, port))
            }
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    };
    list.iter().map(one).collect()
}
