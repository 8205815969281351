//! Rules between those who write them and the kernel: which there are, in which order, and what they come to on this
//! host at this moment.
//!
//! [`RuleStore`] has the rules of the configuration and those that the control API added; [`Resolved`] makes of them
//! what the kernel takes, with the built-in rules in front and the defaults of interfaces at the end. Nothing here
//! looks at the host: interfaces and cgroups are arguments.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flowtag_engine::Registry;
use flowtag_kernel::link::Interface;
use flowtag_kernel::mark::rules::{self as kernel, Cgroup};
use flowtag_wire::Strategy;
use serde::de::{IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::{self, Action, MAX_RULES, Many, Rule, RuleText};
use crate::supervisor::throttle::chain;

/// Who wrote a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// `mark.exclude_private`.
    Builtin,
    /// `[[rules]]`.
    Config,
    /// The control API.
    Api,
    /// `[mark.defaults]`.
    Default,
}

/// A rule as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleView {
    pub(crate) rule: Rule,
    pub(crate) origin: Origin,
    /// Whether it can match anything now: of the cgroups and interfaces that it names, one is there.
    pub(crate) resolved: bool,
}

/// Why the rules stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("there is a rule {0:?} already: delete it first, or use another name")]
    Exists(String),
    #[error("there is no rule {0:?}: `flowtag rule list` (GET /v1/rules) shows all")]
    Unknown(String),
    #[error("before: there is no rule {0:?} of the configuration or the API: `flowtag rule list` shows all")]
    UnknownBefore(String),
    #[error(
        "rule {0:?} is in the configuration: take it out of the file and reload (`systemctl reload flowtag`)"
    )]
    Configured(String),
    #[error("rule {0:?} is built in: set mark.exclude_private = false and reload to be without")]
    Builtin(String),
    #[error("rule {0:?} comes from [mark.defaults]: take it out of the configuration and reload")]
    Default(String),
    #[error("there are {MAX_RULES} rules, which is all that the kernel takes: delete some first")]
    Full,
    #[error("the kernel does not take the rules: {}", chain(.0))]
    Kernel(#[source] flowtag_kernel::Error),
    #[error("cannot keep the rules in {path}: {source}")]
    Save {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A rule and its place: the body of `POST /v1/rules`, and an entry of the file in which such rules are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Placed {
    #[serde(flatten)]
    pub(crate) rule: RuleText,
    /// The rule that it goes before; none: after those that are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
}

/// Not derived: `flatten` would take unknown keys.
impl<'de> Deserialize<'de> for Placed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Body;

        impl<'de> Visitor<'de> for Body {
            type Value = Placed;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a rule")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Placed, A::Error> {
                let mut before = None;
                let rule = serde::de::value::MapAccessDeserializer::new(Rest { map, before: &mut before });
                Ok(Placed { rule: RuleText::deserialize(rule)?, before })
            }
        }

        deserializer.deserialize_map(Body)
    }
}

/// All keys of an object but `before`, which is taken out on the way.
struct Rest<'a, A> {
    map: A,
    before: &'a mut Option<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Rest<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            if key != "before" {
                return seed.deserialize(key.into_deserializer()).map(Some);
            }
            *self.before = self.map.next_value()?;
        }
        Ok(None)
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// The rules that people wrote.
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleStore {
    configured: Vec<Rule>,
    /// In the order in which they came.
    added: Vec<Added>,
}

#[derive(Debug, Clone)]
struct Added {
    rule: Rule,
    before: Option<String>,
}

impl RuleStore {
    /// The rules that were added over the API and kept in `path`; none where there is no such file. What cannot be
    /// read is logged and left beside it.
    pub(crate) fn load(path: &Path, registry: &Registry) -> Self {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            text => text.map_err(|error| error.to_string()),
        };
        let read =
            text.and_then(|text| serde_json::from_str::<Vec<Placed>>(&text).map_err(|e| e.to_string()));
        let mut store = Self::default();
        let mut errors = Vec::new();
        match read {
            Err(error) => errors.push(error),
            Ok(rules) => {
                errors.extend(rules.into_iter().filter_map(|rule| store.put_back(rule, registry).err()))
            }
        }
        if !errors.is_empty() {
            keep_aside(path, &errors.join("; "));
        }
        store
    }

    fn put_back(&mut self, placed: Placed, registry: &Registry) -> Result<(), String> {
        let Placed { rule: text, before } = placed;
        let name = text.name.clone().unwrap_or_default();
        let rule = Rule::new(text, registry).map_err(|e| format!("rule {name:?}: {e}"))?;
        self.check_new(&rule).map_err(|e| e.to_string())?;
        self.added.push(Added { rule, before });
        Ok(())
    }

    /// Writes the added rules to `path`, all of them or nothing.
    ///
    /// # Errors
    /// [`RuleError::Save`]; what was there before is then still there.
    pub(crate) fn save(&self, path: &Path) -> Result<(), RuleError> {
        let rules = self.added.iter().map(|a| Placed { rule: a.rule.text.clone(), before: a.before.clone() });
        let rules: Vec<_> = rules.collect();
        let write = || {
            let new = path.with_extension("json.new");
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
            serde_json::to_writer_pretty(&mut file, &rules)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().map_err(|source| RuleError::Save { path: path.to_owned(), source })
    }

    /// Takes the rules of a new configuration in place of the old. One of the API with the same name makes way, which
    /// is logged.
    pub(crate) fn configure(&mut self, rules: Vec<Rule>) {
        self.configured = rules;
        self.added.retain(|added| {
            let replaced = self.configured.iter().any(|rule| rule.name == added.rule.name);
            if replaced {
                let rule = &*added.rule.name;
                tracing::warn!(
                    rule,
                    "the configuration has a rule of this name: the one of the API is dropped"
                );
            }
            !replaced
        });
    }

    /// # Errors
    /// The name is taken, there is no rule of the name `before`, or there are too many.
    pub(crate) fn add(&mut self, rule: Rule, before: Option<String>) -> Result<(), RuleError> {
        self.check_new(&rule)?;
        if let Some(before) = before.as_ref().filter(|before| !self.has(before)) {
            return Err(RuleError::UnknownBefore(before.chars().take(80).collect()));
        }
        self.added.push(Added { rule, before });
        Ok(())
    }

    fn check_new(&self, rule: &Rule) -> Result<(), RuleError> {
        if self.has(&rule.name) {
            return Err(RuleError::Exists(rule.name.to_string()));
        }
        if self.configured.len() + self.added.len() >= MAX_RULES { Err(RuleError::Full) } else { Ok(()) }
    }

    fn has(&self, name: &str) -> bool {
        self.configured.iter().chain(self.added.iter().map(|a| &a.rule)).any(|rule| &*rule.name == name)
    }

    /// # Errors
    /// Only what was added can be removed.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), RuleError> {
        let Some(at) = self.added.iter().position(|added| &*added.rule.name == name) else {
            let shown: String = name.chars().take(80).collect();
            return Err(match name {
                _ if self.has(name) => RuleError::Configured(shown),
                _ if name.starts_with("builtin:") => RuleError::Builtin(shown),
                _ if name.starts_with("default:") => RuleError::Default(shown),
                _ => RuleError::Unknown(shown),
            });
        };
        let gone = self.added.remove(at);
        // What stood before it stays where it is.
        for other in self.added.iter_mut().filter(|a| a.before.as_deref() == Some(name)) {
            other.before.clone_from(&gone.before);
        }
        Ok(())
    }

    /// All, in the order in which they were asked for.
    pub(crate) fn list(&self) -> Vec<(&Rule, Origin)> {
        let mut all: Vec<_> = self.configured.iter().map(|rule| (rule, Origin::Config)).collect();
        for added in &self.added {
            // The other may be gone since, with an older configuration.
            let at = added.before.as_ref().and_then(|b| all.iter().position(|(rule, _)| *rule.name == **b));
            all.insert(at.unwrap_or(all.len()), (&added.rule, Origin::Api));
        }
        all
    }
}

/// A file that is not understood must not be lost with the next save.
fn keep_aside(path: &Path, error: &str) {
    let aside = path.with_extension("json.broken");
    let (file, kept) = (path.display(), aside.display());
    match fs::rename(path, &aside) {
        Ok(()) => {
            tracing::error!(%file, %kept, error, "not all rules of the API could be read: the file is kept aside")
        }
        Err(why) => {
            tracing::error!(%file, error, %why, "not all rules of the API could be read, nor the file be kept")
        }
    }
}

/// What the kernel is given. Both lists have the same order: the first rule that matches applies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolved {
    pub(crate) rules: Vec<kernel::Rule>,
    pub(crate) views: Vec<RuleView>,
}

impl Resolved {
    /// `cgroup` finds a unit by its name or a cgroup by its path. Without `mark` there are only the rules of `store`.
    pub(crate) fn new(
        store: &RuleStore,
        mark: Option<&config::Mark>,
        firefly_ports: &BTreeSet<u16>,
        interfaces: &[Interface],
        cgroup: &dyn Fn(&str) -> Option<Cgroup>,
    ) -> Self {
        let strategy = mark.map(|mark| mark.strategy).unwrap_or_default();
        let resolve = |rule: &Rule| resolve(rule, strategy, interfaces, cgroup);
        let private = mark.filter(|mark| mark.exclude_private).map(|_| builtin()).unwrap_or_default();
        let builtin: Vec<_> = fireflies(firefly_ports).into_iter().chain(private).collect();
        let defaults = mark.map_or(&[][..], |mark| &mark.defaults);
        let asked = store.list();
        // Only what people wrote changes places among itself: what is excluded stays excluded.
        let ordered = kernel::order(asked.iter().map(|(rule, _)| resolve(rule)).collect());
        let rules: Vec<_> =
            builtin.iter().map(resolve).chain(ordered).chain(defaults.iter().map(resolve)).collect();

        let builtin = builtin.iter().map(|rule| (rule, Origin::Builtin));
        let defaults = defaults.iter().map(|rule| (rule, Origin::Default));
        let origins: std::collections::HashMap<_, _> =
            builtin.chain(asked).chain(defaults).map(|(rule, origin)| (&rule.name, (rule, origin))).collect();
        let view = |resolved: &kernel::Rule| {
            let (rule, origin) = origins.get(&resolved.name)?;
            let (interfaces, cgroups) = (resolved.interfaces.as_deref(), resolved.cgroups.as_deref());
            let nowhere =
                interfaces.is_some_and(<[u32]>::is_empty) || cgroups.is_some_and(<[Cgroup]>::is_empty);
            Some(RuleView { rule: (*rule).clone(), origin: *origin, resolved: !nowhere })
        };
        let views = rules.iter().filter_map(view).collect();
        Self { rules, views }
    }
}

fn resolve(
    rule: &Rule,
    strategy: Strategy,
    interfaces: &[Interface],
    cgroup: &dyn Fn(&str) -> Option<Cgroup>,
) -> kernel::Rule {
    let strategy = rule.strategy.unwrap_or(strategy);
    let wanted = |interface: &&Interface| rule.interfaces.iter().any(|p| p.matches(&interface.name, false));
    let indices = || interfaces.iter().filter(wanted).map(|interface| interface.index).collect();
    let cgroups = || rule.cgroups.iter().filter_map(|name| cgroup(name)).collect();
    kernel::Rule {
        name: rule.name.clone(),
        protocols: rule.protocols.clone(),
        interfaces: (!rule.interfaces.is_empty()).then(indices),
        users: rule.users.clone(),
        processes: rule.processes.clone(),
        cgroups: (!rule.cgroups.is_empty()).then(cgroups),
        local_ports: rule.local_ports.clone(),
        remote_ports: rule.remote_ports.clone(),
        local: rule.local.clone(),
        remote: rule.remote.clone(),
        action: match &rule.action {
            Action::Tags(tags) => kernel::Action::Mark { tags: tags.clone(), strategy },
            Action::Random => kernel::Action::Random { strategy },
            Action::Never => kernel::Action::Never,
        },
    }
}

/// Fireflies are nobody's traffic: each would be a flow to send fireflies about.
fn fireflies(ports: &BTreeSet<u16>) -> Option<Rule> {
    let text = RuleText {
        name: Some("builtin:fireflies".to_owned()),
        protocol: Many(vec![config::NameOrNumber::Name("udp".to_owned())]),
        remote_port: Many(ports.iter().map(|port| config::NameOrNumber::Number(i64::from(*port))).collect()),
        tag: Some("never".to_owned()),
        ..RuleText::default()
    };
    if ports.is_empty() { None } else { Rule::internal(text, Registry::embedded()).ok() }
}

/// Traffic that stays on the host, on the link or within a private network.
fn builtin() -> Vec<Rule> {
    /// Name, addresses on this host, addresses at the other end.
    const EXCLUDED: [(&str, &[&str], &[&str]); 5] = [
        ("builtin:loopback", &[], &["::1", "127.0.0.0/8"]),
        ("builtin:link-local", &[], &["fe80::/10", "169.254.0.0/16"]),
        ("builtin:from-link-local", &["fe80::/10", "169.254.0.0/16"], &[]),
        ("builtin:multicast", &[], &["ff00::/8", "224.0.0.0/4", "255.255.255.255"]),
        ("builtin:private", &PRIVATE, &PRIVATE),
    ];
    /// RFC 4193, RFC 1918, RFC 6598.
    const PRIVATE: [&str; 5] = ["fc00::/7", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

    let list = |prefixes: &[&str]| Many(prefixes.iter().map(|p| (*p).to_owned()).collect());
    let text = |(name, local, remote): (&str, &[&str], &[&str])| RuleText {
        name: Some(name.to_owned()),
        local: list(local),
        remote: list(remote),
        tag: Some("never".to_owned()),
        ..RuleText::default()
    };
    // A test counts them: none is wrong.
    EXCLUDED.into_iter().filter_map(|rule| Rule::internal(text(rule), Registry::embedded()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use flowtag_kernel::mark::rules::{Subject, first};
    use flowtag_wire::Endpoint;

    use super::*;
    use crate::config::Config;

    fn placed(json: &str) -> Placed {
        serde_json::from_str(json).expect("a rule")
    }

    fn rule(json: &str) -> Rule {
        Rule::new(placed(json).rule, Registry::embedded()).expect("right")
    }

    /// A rule of which only the name matters.
    fn named(name: &str) -> Rule {
        rule(&format!("{{\"name\": \"{name}\", \"tag\": \"3/14\"}}"))
    }

    fn names<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<&'a str> {
        rules.into_iter().map(|rule| &*rule.name).collect()
    }

    fn listed(store: &RuleStore) -> Vec<&str> {
        names(store.list().into_iter().map(|(rule, _)| rule))
    }

    fn store(configured: &[&str], added: &[(&str, Option<&str>)]) -> RuleStore {
        let mut store = RuleStore::default();
        store.configure(configured.iter().map(|name| named(name)).collect());
        for (name, before) in added {
            store.add(named(name), before.map(str::to_owned)).expect("added");
        }
        store
    }

    fn endpoint(addr: &str) -> Endpoint {
        SocketAddr::new(addr.parse().expect("an address"), 443).into()
    }

    fn mark(toml: &str) -> config::Mark {
        Config::parse(toml, "t").expect("right").mark.expect("on")
    }

    #[test]
    fn rules_of_the_api_go_last_unless_they_say_before_which() {
        let store = store(&["a", "b"], &[("x", None), ("y", Some("b")), ("z", Some("b")), ("w", Some("x"))]);
        assert_eq!(listed(&store), ["a", "y", "z", "b", "w", "x"]);
        let origins: Vec<_> = store.list().into_iter().map(|(_, origin)| origin).collect();
        assert_eq!(origins.iter().filter(|o| **o == Origin::Config).count(), 2);
    }

    #[test]
    fn a_rule_keeps_its_place_when_the_one_that_it_was_put_before_goes() {
        let mut store = store(&["a", "b"], &[("x", Some("b")), ("y", Some("x"))]);
        assert_eq!(listed(&store), ["a", "y", "x", "b"]);
        store.remove("x").expect("it was added");
        assert_eq!(listed(&store), ["a", "y", "b"]);
        store.configure(vec![named("c")]);
        assert_eq!(listed(&store), ["c", "y"], "at the end, where its place is no more");
    }

    #[test]
    fn what_cannot_be_added_or_removed_says_why() {
        let mut store = store(&["a"], &[("x", None)]);
        for (error, expected) in [
            (store.add(named("a"), None), "there is a rule \"a\" already"),
            (store.add(named("x"), None), "there is a rule \"x\" already"),
            (store.add(named("y"), Some("q".into())), "before: there is no rule \"q\""),
            (store.remove("a"), "is in the configuration: take it out of the file and reload"),
            (store.remove("q"), "there is no rule \"q\""),
            (store.remove("builtin:private"), "mark.exclude_private = false"),
            (store.remove("default:eth0"), "[mark.defaults]"),
        ] {
            let error = error.expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(listed(&store), ["a", "x"], "nothing changed");
        for n in 0..MAX_RULES - 2 {
            store.add(named(&format!("n{n}")), None).expect("room");
        }
        assert!(matches!(store.add(named("one-more"), None), Err(RuleError::Full)));
    }

    #[test]
    fn the_configuration_goes_before_a_rule_of_the_api_with_its_name() {
        let mut store = store(&["a"], &[("x", None), ("y", None)]);
        store.configure(vec![named("x")]);
        assert_eq!(listed(&store), ["x", "y"]);
        assert!(matches!(store.remove("x"), Err(RuleError::Configured(_))));
    }

    #[test]
    fn added_rules_outlive_the_daemon() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rules.json");
        let mut before = store(&["a"], &[("x", Some("a"))]);
        let text =
            r#"{"name": "y", "user": ["root", 7], "local_port": "1-2", "tags": ["3/14", "cms/default"]}"#;
        before.add(rule(text), None).expect("added");
        before.save(&path).expect("saved");
        let mut after = RuleStore::load(&path, Registry::embedded());
        after.configure(vec![named("a")]);
        assert_eq!(listed(&after), ["x", "a", "y"]);
        assert_eq!(after.list().last().expect("one").0, &rule(text));
        assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 1, "no other file is left");
        let nowhere = dir.path().join("nowhere/rules.json");
        let error = before.save(&nowhere).expect_err("no directory").to_string();
        assert!(error.contains("cannot keep the rules in") && error.contains("No such file"), "{error}");
        assert!(listed(&RuleStore::load(&nowhere, Registry::embedded())).is_empty());
    }

    #[test]
    fn a_broken_file_is_kept_aside_and_what_is_right_in_it_is_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("rules.json");
        for (text, expected) in [
            ("[{\"name\": \"x\", \"tag\":", &[][..]),
            ("[{\"name\": \"x\", \"tga\": \"3/14\"}]", &[]),
            (r#"[{"name": "x", "tag": "gone/14"}, {"name": "y", "tag": "3/14"}, {"tag": "3/14"}]"#, &["y"]),
            (r#"[{"name": "x", "tag": "3/14"}, {"name": "x", "tag": "3/15"}]"#, &["x"]),
        ] {
            fs::write(&path, text).expect("written");
            assert_eq!(listed(&RuleStore::load(&path, Registry::embedded())), expected, "{text}");
            assert!(!path.exists());
            let aside = fs::read_to_string(dir.path().join("rules.json.broken")).expect("kept");
            assert_eq!(aside, text);
        }
    }

    #[test]
    fn a_place_is_no_key_of_the_rule_and_unknown_keys_are_refused() {
        let before = placed(r#"{"name": "x", "before": "a", "tag": "3/14"}"#);
        assert_eq!((before.before.as_deref(), before.rule.name.as_deref()), (Some("a"), Some("x")));
        assert_eq!(placed(r#"{"before": null, "tag": "3/14"}"#).before, None);
        assert_eq!(
            serde_json::to_string(&before).expect("JSON"),
            r#"{"name":"x","tag":"3/14","before":"a"}"#
        );
        for (json, expected) in [
            (r#"{"name": "x", "tga": "3/14"}"#, "unknown field `tga`"),
            (r#"{"before": 5}"#, "integer `5`"),
            ("[]", "a rule"),
            (r#"{"tag": "3/14", "tag": "3/15"}"#, "duplicate field `tag`"),
        ] {
            let error = serde_json::from_str::<Placed>(json).expect_err(json).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn interfaces_and_cgroups_are_found_or_nothing_matches() {
        let mut store = RuleStore::default();
        store.configure(vec![
            rule(r#"{"name": "here", "interface": "eth*", "cgroup": ["a.service", "b.service"], "tag": "3/14"}"#),
            rule(r#"{"name": "no-cgroup", "cgroup": "b.service", "tag": "3/14"}"#),
            rule(r#"{"name": "no-interface", "interface": "wg0", "tag": "3/14"}"#),
            rule(r#"{"name": "all", "tag": "3/14"}"#),
        ]);
        let interface = |index, name: &str| Interface { index, name: name.into(), link_type: 1, mtu: 1500 };
        let interfaces = [interface(1, "lo"), interface(2, "eth0"), interface(5, "eth1")];
        let cgroup = |name: &str| (name == "a.service").then_some(Cgroup { id: 77, level: 2 });
        let resolved = Resolved::new(&store, None, &BTreeSet::new(), &interfaces, &cgroup);
        let found: Vec<_> =
            resolved.rules.iter().map(|r| (r.interfaces.clone(), r.cgroups.as_ref().map(Vec::len))).collect();
        assert_eq!(found, [(Some(vec![2, 5]), Some(1)), (None, Some(0)), (Some(vec![]), None), (None, None)]);
        let views: Vec<_> = resolved.views.iter().map(|v| v.resolved).collect();
        assert_eq!(views, [true, false, false, true]);
    }

    #[test]
    fn a_rule_without_strategy_has_that_of_the_configuration() {
        let mut store = RuleStore::default();
        store.configure(vec![
            named("a"),
            rule(r#"{"name": "b", "tag": "random", "strategy": "label"}"#),
            rule(r#"{"name": "c", "tag": "never"}"#),
        ]);
        let mark = mark("[mark]\nstrategy = \"destination\"\nexclude_private = false\n");
        let actions = |mark| {
            let resolved = Resolved::new(&store, mark, &BTreeSet::new(), &[], &|_| None);
            resolved.rules.into_iter().map(|rule| rule.action).collect::<Vec<_>>()
        };
        let tags = vec![flowtag_wire::Tag::new(3, 14).expect("a tag")];
        let (label, destination) = (Strategy::LABEL, Strategy::DESTINATION);
        let expected = |strategy| {
            let first = kernel::Action::Mark { tags: tags.clone(), strategy };
            vec![first, kernel::Action::Random { strategy: label }, kernel::Action::Never]
        };
        assert_eq!(actions(Some(&mark)), expected(destination));
        assert_eq!(actions(None), expected(label));
    }

    #[test]
    fn the_longer_prefix_goes_first_but_never_before_what_is_excluded() {
        let mut store = RuleStore::default();
        store.configure(vec![
            named("everything"),
            rule(r#"{"name": "site", "local": "fc00::/7", "remote": "fd00::/48", "tag": "3/14"}"#),
            rule(r#"{"name": "host", "local": "fc00::/7", "remote": "fd00::1", "tag": "3/15"}"#),
        ]);
        let mark = mark("[mark.defaults]\neth0 = \"cms/default\"\n");
        let resolved = Resolved::new(&store, Some(&mark), &BTreeSet::new(), &[], &|_| None);
        let order = names(resolved.views.iter().map(|view| &view.rule));
        let kernel: Vec<_> = resolved.rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(order, kernel, "both lists have one order");
        assert!(order[..5].iter().all(|name| name.starts_with("builtin:")), "{order:?}");
        assert_eq!(order[5..], ["host", "site", "everything", "default:eth0"]);
        assert_eq!(resolved.views[8].origin, Origin::Default);
    }

    #[test]
    fn rules_leave_alone_what_stays_on_the_host_on_the_link_or_in_a_private_network() {
        let excluded = |local: &str, remote: &str| {
            let store = store(&["everything"], &[]);
            let resolved = Resolved::new(&store, Some(&mark("")), &BTreeSet::new(), &[], &|_| None);
            let subject = Subject::new(6, endpoint(local), endpoint(remote));
            let at = first(&resolved.rules, &subject).expect("one matches");
            resolved.views[at].origin == Origin::Builtin
        };
        assert_eq!(builtin().len(), 5, "none is wrong");
        for (local, remote, expected) in [
            ("::1", "::1", true),
            ("127.0.0.1", "127.0.0.53", true),
            ("2001:db8::1", "fe80::1", true),
            ("fe80::1", "2001:db8::1", true),
            ("2001:db8::1", "ff02::1", true),
            ("192.0.2.1", "224.0.0.251", true),
            ("192.0.2.1", "255.255.255.255", true),
            ("fd00::1", "fc00::2", true),
            ("10.0.0.1", "192.168.0.1", true),
            ("100.64.0.1", "172.31.0.1", true),
            ("fd00::1", "2001:db8::1", false),
            ("2001:db8::1", "fd00::1", false),
            ("10.0.0.1", "192.0.2.1", false),
            ("172.32.0.1", "10.0.0.1", false),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            assert_eq!(excluded(local, remote), expected, "{local} > {remote}");
        }
    }
}
