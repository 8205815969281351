//! Rules as people write them, in the configuration and over the control API, and what they mean.
//!
//! Checked here is all that does not depend on the moment: cgroups and interfaces stay names, because they come and go
//! while the daemon runs.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use flowtag_engine::Registry;
use flowtag_wire::{Strategy, Tag};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::value::{Many, NameOrNumber};
use super::{Pattern, find_id};

/// Rules of configuration and API together. The kernel takes 1024; the rest is for the built-in ones and `mark.defaults`.
pub(crate) const MAX_RULES: usize = 1000;
/// Tags that one rule may choose from.
const MAX_TAGS: usize = 16;
const MAX_NAME: usize = 64;
/// The kernel cuts a process's name to 15 bytes (TASK_COMM_LEN of linux/sched.h is 16 with the closing zero).
const MAX_PROCESS: usize = 15;
/// Components of a cgroup's path: the programs look at no more levels, and the root is one of them.
const MAX_CGROUP_LEVELS: usize = 15;
/// Protocol numbers with ports that the programs read.
const WITH_PORTS: [u8; 2] = [6, 17];

/// A rule as written: the keys of `[[rules]]` and of `POST /v1/rules`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RuleText {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) cgroup: Many<String>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) user: Many<NameOrNumber>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) process: Many<String>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) protocol: Many<NameOrNumber>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) local_port: Many<NameOrNumber>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) remote_port: Many<NameOrNumber>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) local: Many<String>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) remote: Many<String>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) interface: Many<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tag: Option<String>,
    #[serde(skip_serializing_if = "Many::is_empty")]
    pub(crate) tags: Many<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strategy: Option<String>,
}

/// A rule that has been checked. An empty list is no condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    /// Names of units, or paths below the root of cgroup2 that begin with `/`.
    pub(crate) cgroups: Vec<String>,
    pub(crate) users: Vec<u32>,
    pub(crate) processes: Vec<String>,
    pub(crate) protocols: Vec<u8>,
    pub(crate) local_ports: Vec<RangeInclusive<u16>>,
    pub(crate) remote_ports: Vec<RangeInclusive<u16>>,
    pub(crate) local: Vec<IpNet>,
    pub(crate) remote: Vec<IpNet>,
    pub(crate) interfaces: Vec<Pattern>,
    pub(crate) action: Action,
    /// None: `mark.strategy`, whatever it is when the rule is put into force.
    pub(crate) strategy: Option<Strategy>,
    /// As it was written, for showing and keeping it.
    pub(crate) text: RuleText,
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// One of these tags, the same for all packets of a flow; at least one.
    Tags(Vec<Tag>),
    /// Any tag at all.
    Random,
    /// The packet stays as it is.
    Never,
}

/// What is wrong with a rule: which key, what was found, what would do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) struct RuleProblem {
    pub(crate) key: &'static str,
    /// As it would be written in JSON; none: the key as a whole.
    pub(crate) value: Option<String>,
    pub(crate) problem: String,
}

/// `remote = "2001:db8::1/32" has bits …`.
impl fmt::Display for RuleProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, problem } = self;
        match value {
            Some(value) => write!(f, "{key} = {value} {problem}"),
            None => write!(f, "{key} {problem}"),
        }
    }
}

impl Rule {
    /// # Errors
    /// The first key that cannot be so. The rule must have a name.
    pub(crate) fn new(text: RuleText, registry: &Registry) -> Result<Self, RuleProblem> {
        let Some(name) = &text.name else {
            return wrong("name", None, "is missing: a rule needs one, to be deleted by");
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(letter) {
            let fix = format!("is not a name: use 1 to {MAX_NAME} letters, digits, and any of - _ . @ +");
            return wrong("name", Some(quoted(name)), fix);
        }
        Self::internal(text, registry)
    }

    /// Also takes names with a `:`, which only rules of our own have: nobody's rule can be taken for one of them.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn internal(text: RuleText, registry: &Registry) -> Result<Self, RuleProblem> {
        let action = action(&text, registry)?;
        let rule = Self {
            name: text.name.as_deref().unwrap_or_default().into(),
            cgroups: each("cgroup", &text.cgroup, |c| cgroup(c))?,
            users: each("user", &text.user, user)?,
            processes: each("process", &text.process, |p| process(p))?,
            protocols: each("protocol", &text.protocol, protocol)?,
            local_ports: each("local_port", &text.local_port, ports)?,
            remote_ports: each("remote_port", &text.remote_port, ports)?,
            local: each("local", &text.local, |p| prefix(p))?,
            remote: each("remote", &text.remote, |p| prefix(p))?,
            interfaces: each("interface", &text.interface, |i| interface(i))?,
            strategy: strategy(&text, &action)?,
            action,
            text,
        };
        rule.contradiction().map_or(Ok(rule), Err)
    }

    /// Conditions of which each can hold, but never all at once.
    fn contradiction(&self) -> Option<RuleProblem> {
        let has_ports = !self.local_ports.is_empty() || !self.remote_ports.is_empty();
        let portless = !self.protocols.is_empty() && !self.protocols.iter().any(|p| WITH_PORTS.contains(p));
        let families =
            |nets: &[IpNet], v6: bool| !nets.is_empty() && nets.iter().all(|n| n.addr().is_ipv6() == v6);
        let mixed = |v6| families(&self.local, v6) && families(&self.remote, !v6);
        let problem = |key, text: &str| Some(RuleProblem { key, value: None, problem: text.to_owned() });
        if has_ports && portless {
            problem("protocol", "has no ports: leave local_port and remote_port out, or use tcp or udp")
        } else if mixed(true) || mixed(false) {
            problem(
                "remote",
                "and local are of different address families: no packet has IPv4 at one end and IPv6 at the other",
            )
        } else {
            None
        }
    }
}

fn wrong<T>(key: &'static str, value: Option<String>, problem: impl Into<String>) -> Result<T, RuleProblem> {
    Err(RuleProblem { key, value, problem: problem.into() })
}

/// A text as it may stand in an error.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// Reads all values of a key; `read` says what is wrong with one.
fn each<T: Shown, U>(
    key: &'static str,
    values: &Many<T>,
    read: impl Fn(&T) -> Result<U, String>,
) -> Result<Vec<U>, RuleProblem> {
    let read = |value: &T| read(value).or_else(|problem| wrong(key, Some(value.shown()), problem));
    values.iter().map(read).collect()
}

/// A value as the user wrote it.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for String {
    fn shown(&self) -> String {
        quoted(self)
    }
}

impl Shown for NameOrNumber {
    fn shown(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => quoted(name),
        }
    }
}

fn action(text: &RuleText, registry: &Registry) -> Result<Action, RuleProblem> {
    let resolve = |tag: &String| registry.resolve(tag).map_err(|e| format!("cannot be used: {e}"));
    match (text.tag.as_deref(), text.tags.0.len()) {
        (Some("random"), 0) => Ok(Action::Random),
        (Some("never"), 0) => Ok(Action::Never),
        (Some(tag), 0) => each("tag", &Many(vec![tag.to_owned()]), resolve).map(Action::Tags),
        (None, 0) => wrong("tag", None, "is missing: write EXPERIMENT/ACTIVITY, \"random\" or \"never\""),
        (None, 1..=MAX_TAGS) => each("tags", &text.tags, resolve).map(Action::Tags),
        (None, many) => wrong("tags", None, format!("has {many} tags: use 1 to {MAX_TAGS}")),
        (Some(_), _) => wrong("tags", None, "and tag are both there: leave one of them out"),
    }
}

fn strategy(text: &RuleText, action: &Action) -> Result<Option<Strategy>, RuleProblem> {
    let Some(strategy) = &text.strategy else { return Ok(None) };
    if *action == Action::Never {
        return wrong(
            "strategy",
            Some(quoted(strategy)),
            "has no meaning where nothing is marked: leave it out",
        );
    }
    let parsed = strategy.parse().or_else(|_| {
        let fix = "is no strategy: use label, destination, hop-by-hop, or several joined by +";
        wrong("strategy", Some(quoted(strategy)), fix)
    });
    parsed.map(Some)
}

/// A unit's name, or a path below the root without a slash at its end.
fn cgroup(text: &str) -> Result<String, String> {
    const MOUNTED: &str = "/sys/fs/cgroup/";
    if let Some(below) = text.strip_prefix(MOUNTED) {
        return Err(format!(
            "is a path in the file system: write it below the root of cgroup2, as \"/{below}\""
        ));
    }
    let path = text.trim_end_matches('/');
    let mut parts = path.strip_prefix('/').unwrap_or(path).split('/');
    let is_name = |part: &str| {
        !["", ".", ".."].contains(&part) && part.len() <= 255 && !part.contains(['*', '?', '\0'])
    };
    if !parts.clone().all(is_name) || !path.starts_with('/') && path.contains('/') {
        return Err(
            "is not a cgroup: write a unit's name, as \"xrootd@cms.service\", or a path below the root of \
            cgroup2, as \"/system.slice/xrootd.service\", without * and ?"
                .to_owned(),
        );
    }
    if parts.by_ref().count() > MAX_CGROUP_LEVELS {
        return Err(format!("is more than {MAX_CGROUP_LEVELS} levels below the root: name one further up"));
    }
    Ok(path.to_owned())
}

fn user(user: &NameOrNumber) -> Result<u32, String> {
    const UNKNOWN: &str = "is not in /etc/passwd: create it or give its number";
    match user {
        // 2^32 - 1 is no user: it means that one stays as it is (setresuid(2)).
        NameOrNumber::Number(uid) => u32::try_from(*uid)
            .ok()
            .filter(|uid| *uid != u32::MAX)
            .ok_or_else(|| format!("is out of range: use 0 to {}", u32::MAX - 1)),
        NameOrNumber::Name(name) => find_id("/etc/passwd", name).ok_or_else(|| UNKNOWN.to_owned()),
    }
}

fn process(name: &str) -> Result<String, String> {
    if name.is_empty() || name.starts_with('/') || name.contains('\0') {
        return Err("is not a process's name: write what /proc/PID/comm has".to_owned());
    }
    if name.len() > MAX_PROCESS {
        let end = (0..=MAX_PROCESS).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
        let cut = &name[..end];
        return Err(format!("is longer than the {MAX_PROCESS} bytes that the kernel keeps: write {cut:?}"));
    }
    Ok(name.to_owned())
}

fn protocol(protocol: &NameOrNumber) -> Result<u8, String> {
    const FIX: &str = "is not a protocol: use tcp, udp, icmpv6 or a number from 1 to 255";
    let text = protocol.to_string();
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmpv6" => Ok(58),
        number => number.parse().ok().filter(|n| *n != 0).ok_or_else(|| FIX.to_owned()),
    }
}

/// `1094` or `20000-25000`.
fn ports(ports: &NameOrNumber) -> Result<RangeInclusive<u16>, String> {
    const FIX: &str = "is not a port or a range of ports: use 1 to 65535, or \"20000-25000\"";
    let text = ports.to_string();
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(first), Some(last)) => {
            Err(format!("is a range that ends before it begins: write \"{last}-{first}\""))
        }
        _ => Err(FIX.to_owned()),
    }
}

/// `2001:db8::/32`, or one address.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    const FIX: &str = "is not an address or prefix: write 2001:db8::1, 2001:db8::/32 or 192.0.2.0/24";
    let net =
        text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| FIX.to_owned())?;
    if net == net.trunc() {
        Ok(net)
    } else {
        Err(format!("has bits beyond its length: write {}", net.trunc()))
    }
}

fn interface(text: &str) -> Result<Pattern, String> {
    match Pattern::read(text) {
        Some(Pattern::Auto) => Err("is for mark.interfaces: leave the condition out".to_owned()),
        Some(pattern) => Ok(pattern),
        None => Err(Pattern::FIX.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Result<Rule, String> {
        let text = serde_json::from_str(json).expect("the right types");
        Rule::new(text, Registry::embedded()).map_err(|e| e.to_string())
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_rule_means_what_its_text_says() {
        let all = rule(
            r#"{"name": "xrootd", "cgroup": ["xrootd@cms.service", "/system.slice/"], "user": ["root", 994],
                "process": "xrootd", "protocol": ["TCP", "icmpv6", 17], "local_port": [1094, "20000-25000"],
                "remote_port": "1-65535", "local": "2001:db8::1", "remote": ["2001:db8::/32", "192.0.2.0/24"],
                "interface": ["eth*", "wg0"], "tag": "cms/Analysis Input", "strategy": "destination+label"}"#,
        )
        .expect("right");
        assert_eq!(&*all.name, "xrootd");
        assert_eq!(all.cgroups, ["xrootd@cms.service", "/system.slice"]);
        assert_eq!(all.users, [0, 994]);
        assert_eq!(all.processes, ["xrootd"]);
        assert_eq!(all.protocols, [6, 58, 17]);
        assert_eq!(all.local_ports, [1094..=1094, 20000..=25000]);
        assert_eq!(all.remote_ports, [1..=65535]);
        assert_eq!(all.local, [net("2001:db8::1/128")]);
        assert_eq!(all.remote, [net("2001:db8::/32"), net("192.0.2.0/24")]);
        assert_eq!(all.interfaces, [Pattern::Glob("eth*".into()), Pattern::Name("wg0".into())]);
        assert_eq!(all.action, Action::Tags(vec![Tag::new(3, 14).expect("a tag")]));
        assert_eq!(all.strategy, Some(Strategy::LABEL | Strategy::DESTINATION));
    }

    #[test]
    fn a_rule_without_conditions_is_a_rule() {
        let everything = rule(r#"{"name": "perfsonar", "tag": "default/perfSONAR"}"#).expect("right");
        assert_eq!(everything.action, Action::Tags(vec![Tag::new(1, 2).expect("a tag")]));
        assert_eq!((everything.strategy, everything.remote.len()), (None, 0));
        assert_eq!(rule(r#"{"name": "r", "tag": "random"}"#).expect("right").action, Action::Random);
        assert_eq!(rule(r#"{"name": "n", "tag": "never"}"#).expect("right").action, Action::Never);
        let Action::Tags(tags) = rule(r#"{"name": "t", "tags": ["3/14", "2/9"]}"#).expect("right").action
        else {
            panic!("two tags")
        };
        assert_eq!(tags.len(), 2);
    }

    #[test]
    fn a_rule_is_shown_as_it_was_written() {
        let json = r#"{"name":"x","user":["root",994],"local_port":[1094,"2000-3000"],"tag":"CMS/14"}"#;
        assert_eq!(serde_json::to_string(&rule(json).expect("right").text).expect("JSON"), json);
    }

    #[test]
    fn what_cannot_be_is_named_with_key_value_and_fix() {
        for (keys, expected) in [
            (r#""tag": null"#, "tag is missing: write EXPERIMENT/ACTIVITY"),
            (r#""tag": "3/14", "tags": ["3/15"]"#, "tags and tag are both there"),
            (
                r#""tag": "cmss/14""#,
                "tag = \"cmss/14\" cannot be used: experiment \"cmss\" is not in the registry; did you mean \"cms\"?",
            ),
            (r#""tags": ["3/14", "never"]"#, "tags = \"never\" cannot be used"),
            (r#""tag": "3/64""#, "use 1 to 63"),
            (
                r#""tag": "3/14", "strategy": "lable""#,
                "strategy = \"lable\" is no strategy: use label, destination",
            ),
            (r#""tag": "never", "strategy": "label""#, "strategy = \"label\" has no meaning"),
            (r#""tag": "3/14", "user": "nobody-here""#, "user = \"nobody-here\" is not in /etc/passwd"),
            (r#""tag": "3/14", "user": -1"#, "user = -1 is out of range: use 0 to 4294967294"),
            (r#""tag": "3/14", "process": "xrootd-cmsd-longname""#, "write \"xrootd-cmsd-lon\""),
            (r#""tag": "3/14", "process": "/usr/bin/xrootd""#, "/proc/PID/comm"),
            (
                r#""tag": "3/14", "protocol": "sctp""#,
                "protocol = \"sctp\" is not a protocol: use tcp, udp, icmpv6",
            ),
            (r#""tag": "3/14", "protocol": 256"#, "protocol = 256 is not a protocol"),
            (r#""tag": "3/14", "local_port": [1, 0]"#, "local_port = 0 is not a port"),
            (
                r#""tag": "3/14", "remote_port": "2-1""#,
                "remote_port = \"2-1\" is a range that ends before it begins: write \"1-2\"",
            ),
            (
                r#""tag": "3/14", "remote": "2001:db8::1/32""#,
                "remote = \"2001:db8::1/32\" has bits beyond its length: write 2001:db8::/32",
            ),
            (r#""tag": "3/14", "local": "cern.ch""#, "local = \"cern.ch\" is not an address or prefix"),
            (r#""tag": "3/14", "interface": "auto""#, "interface = \"auto\" is for mark.interfaces"),
            (r#""tag": "3/14", "interface": "a/b""#, "interface = \"a/b\" is not an interface"),
            (r#""tag": "3/14", "cgroup": "/sys/fs/cgroup/system.slice""#, "as \"/system.slice\""),
            (r#""tag": "3/14", "cgroup": "system.slice/x.service""#, "is not a cgroup"),
            (r#""tag": "3/14", "cgroup": "/a/../b""#, "is not a cgroup"),
            (r#""tag": "3/14", "cgroup": "/""#, "is not a cgroup"),
            (r#""tag": "3/14", "cgroup": "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16""#, "more than 15 levels"),
            (r#""tag": "3/14", "protocol": "icmpv6", "local_port": 1"#, "protocol has no ports"),
            (r#""tag": "3/14", "local": "192.0.2.1", "remote": "::/0""#, "different address families"),
        ] {
            let error = rule(&format!("{{\"name\": \"x\", {keys}}}")).expect_err(keys);
            assert!(error.contains(expected), "{keys}: {error}");
        }
    }

    #[test]
    fn names_are_such_that_shells_and_paths_take_them() {
        for name in ["", "a b", "a/b", "builtin:x", "é", &"x".repeat(65)] {
            let error = rule(&format!("{{\"name\": \"{name}\", \"tag\": \"3/14\"}}")).expect_err(name);
            assert!(error.contains("is not a name: use 1 to 64"), "{error}");
        }
        assert!(rule("{\"tag\": \"3/14\"}").expect_err("no name").contains("name is missing"));
    }
}
