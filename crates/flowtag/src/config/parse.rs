//! From text to [`Config`]: types first (serde), then meaning, each error with key, value, range and fix.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use flowtag_engine::Registry;
use flowtag_kernel::mark::{HookChoice, Settings};
use flowtag_wire::StrategyError;

use crate::registry::{self, Sourced};
use crate::supervisor::throttle::chain;

use super::rule::{self, MAX_RULES};
use super::{
    Config, ConfigError, Content, Firefly, Gate, Many, Mark, OnStop, Pattern, RegistryUrl, Rule, RuleText,
    Strip, file, find_id,
};

/// The kernel's time stamps of packets wrap after 49 days (2³² jiffies of 1 ms).
const MAX_IDLE_DAYS: u64 = 30;
/// Interfaces that may have a default of their own: with all other rules, no more than the kernel takes.
const MAX_DEFAULTS: usize = 16;

pub(super) fn parse(text: &str, path: &str) -> Result<Config, ConfigError> {
    let file: file::File = toml::from_str(text)
        .map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: explain(&e, text) })?;
    let effective = toml::to_string(&file).unwrap_or_default();
    let checker = Checker { path };
    let configured = checker.registry(&file)?;
    let Some(fetched) = checker.fetched(&file)? else { return checker.config(file, effective, configured) };
    let error = match checker.config(file, effective.clone(), fetched) {
        Err(error) => error,
        right => return right,
    };
    // A name that was removed from a registry elsewhere must not keep the daemon from starting here.
    let Ok(again) = toml::from_str::<file::File>(text) else { return Err(error) };
    let note = format!("names of the configuration are not looked up in what registry.url had: {error}");
    let configured = Sourced { notes: vec![note], ..configured };
    checker.config(again, effective, configured).map_err(|_| error)
}

/// The word of `known` that `word` was probably meant to be.
pub(crate) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(word, k), k));
    scored.min().filter(|(distance, k)| *distance <= 1 + k.len() / 3).map(|(_, k)| k)
}

/// serde's message with the line it is about; for an unknown key with the nearest that exists.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim();
    let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    let at = line.map(|n| format!("line {n}: ")).unwrap_or_default();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let (true, Some((wrong, known))) = (message.starts_with("unknown field"), quoted.split_first()) {
        let hint = suggest(wrong, known.iter().copied()).map(|k| format!(": did you mean `{k}`?"));
        let all = known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
        return format!("{at}key `{wrong}` does not exist{} (here are {all})", hint.unwrap_or_default());
    }
    format!("{at}{message}")
}

pub(super) struct Checker<'a> {
    path: &'a str,
}

impl Checker<'_> {
    pub(super) fn wrong<T>(
        &self,
        key: &str,
        value: impl std::fmt::Debug,
        problem: impl Into<String>,
    ) -> Result<T, ConfigError> {
        let (path, key, value) = (self.path.to_owned(), key.to_owned(), format!("{value:?}"));
        Err(ConfigError::Value { path, key, value, problem: problem.into() })
    }

    fn config(&self, file: file::File, effective: String, from: Sourced) -> Result<Config, ConfigError> {
        let Sourced { registry, source: registry_source, notes: registry_notes } = from;
        let (control, pipe) = (&file.inputs.control, &file.inputs.pipe);
        let mark = self.mark(&file.mark, &registry)?;
        Ok(Config {
            runtime_dir: self.absolute("runtime_dir", &file.runtime_dir)?,
            log_level: self.log_level(&file.log.level)?,
            mark: file.mark.enabled.then_some(mark),
            pin: match file.mark.pin.as_str() {
                "" => None,
                path => Some(self.absolute("mark.pin", path)?),
            },
            rules: self.rules(file.rules, &registry)?,
            max_flows: self.number("flows.max", file.flows.max, 1, i64::from(Settings::MAX_FLOWS))?,
            idle_limit: self.idle_limit("flows.idle_limit", &file.flows.idle_limit)?,
            report_every: self.idle_limit("flows.report_every", &file.flows.report_every)?,
            statistics: self.statistics(&file.statistics)?,
            observe: self.observe(&file.observe)?,
            registry_url: self.registry_url(&file.registry)?,
            addresses: self.addresses(&file.addresses)?,
            access: file.access.iter().map(|a| self.access(a, &registry)).collect::<Result<_, _>>()?,
            control_tcp: self.control_tcp(control)?,
            flowd_go: self.flowd_go(&file.inputs.flowd_go)?,
            firefly_input: self.firefly_input(&file.inputs.firefly)?,
            xrootd: self.xrootd(&file.inputs.xrootd)?,
            prometheus: self.prometheus(&file.outputs.prometheus)?,
            otlp: self.otlp(&file.outputs.otlp)?,
            json: self.json(&file.outputs.json)?,
            ipfix: self.ipfix(&file.outputs.ipfix)?,
            control: self.gate(
                "inputs.control",
                control.enabled,
                &control.path,
                &control.mode,
                &control.group,
            )?,
            pipe: self.gate("inputs.pipe", pipe.enabled, &pipe.path, &pipe.mode, &pipe.group)?,
            firefly: self.firefly(&file.outputs.firefly, &registry)?,
            registry,
            registry_source,
            registry_notes,
            effective,
            findings: Vec::new(),
        })
    }

    pub(super) fn number<T: TryFrom<i64>>(
        &self,
        key: &str,
        value: i64,
        min: i64,
        max: i64,
    ) -> Result<T, ConfigError> {
        match T::try_from(value) {
            Ok(number) if (min..=max).contains(&value) => Ok(number),
            _ => self.wrong(key, value, format!("is out of range: use {min} to {max}")),
        }
    }

    pub(super) fn absolute(&self, key: &str, value: &str) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(value);
        if path.is_absolute() {
            Ok(path)
        } else {
            self.wrong(key, value, "is not an absolute path: begin with /")
        }
    }

    fn log_level(&self, value: &str) -> Result<String, ConfigError> {
        const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
        if LEVELS.contains(&value) {
            return Ok(value.to_owned());
        }
        self.wrong("log.level", value, format!("is not a level: use {}", LEVELS.join(", ")))
    }

    /// What `registry.file` has, or what is built in.
    fn registry(&self, file: &file::File) -> Result<Sourced, ConfigError> {
        let path = self.path_if_any("registry.file", &file.registry.file)?;
        registry::configured(path.as_deref()).or_else(|e| {
            self.wrong("registry.file", &file.registry.file, format!("cannot be used: {}", chain(&e)))
        })
    }

    /// The copy of what `registry.url` had, if there is one.
    fn fetched(&self, file: &file::File) -> Result<Option<Sourced>, ConfigError> {
        let url = Some(file.registry.url.as_str()).filter(|url| !url.is_empty());
        Ok(registry::newest(url, &self.absolute("runtime_dir", &file.runtime_dir)?))
    }

    fn registry_url(&self, file: &file::Registry) -> Result<Option<RegistryUrl>, ConfigError> {
        let range = (Duration::from_secs(60), Duration::from_secs(30 * 86400));
        let refresh = self.duration("registry.refresh", &file.refresh, range.0, range.1)?;
        let ca_file = self.path_if_any("registry.ca_file", &file.ca_file)?;
        if file.url.is_empty() {
            return Ok(None);
        }
        Ok(Some(RegistryUrl { url: self.url("registry.url", &file.url)?, refresh, ca_file }))
    }

    fn mark(&self, mark: &file::Mark, registry: &Registry) -> Result<Mark, ConfigError> {
        if mark.interfaces.is_empty() {
            let fix = "is empty: name interfaces, use [\"auto\"], or set mark.enabled = false";
            return self.wrong("mark.interfaces", &mark.interfaces, fix);
        }
        let hooks = [("auto", HookChoice::Auto), ("tcx", HookChoice::Tcx), ("clsact", HookChoice::Clsact)];
        let headers = [("outer", false), ("inner", true)];
        let on_stop = [("keep", OnStop::Keep), ("detach", OnStop::Detach)];
        let strategy = mark.strategy.parse();
        let checked = Mark {
            interfaces: mark.interfaces.iter().map(|p| self.pattern(p)).collect::<Result<_, _>>()?,
            hook: self.word("mark.hook", &mark.hook, "is not a hook", &hooks)?,
            tc_priority: self.number("mark.tc_priority", mark.tc_priority, 1, 65535)?,
            strategy: strategy.or_else(|StrategyError(_)| {
                let fix = "is no strategy: use label, destination, hop-by-hop, or several joined by +";
                self.wrong("mark.strategy", &mark.strategy, fix)
            })?,
            exclude_private: mark.exclude_private,
            on_stop: self.word("mark.on_stop", &mark.on_stop, "is unknown", &on_stop)?,
            lease: self.lease(&mark.lease)?,
            inner: self.word("mark.encapsulated", &mark.encapsulated, "is unknown", &headers)?,
            ingress: mark.ingress,
            defaults: self.defaults(&mark.defaults, registry)?,
            strip: mark.strip.iter().map(|s| self.strip(s)).collect::<Result<_, _>>()?,
        };
        let needs_ingress = if checked.strategy.header_len() > 0 {
            Some("mark.strategy adds headers, for which the MSS of arriving SYNs is lowered")
        } else if checked.strip.iter().any(|s| s.ingress) {
            Some("mark.strip has a prefix whose packets are cleared as they arrive")
        } else {
            None
        };
        match needs_ingress.filter(|_| !checked.ingress) {
            Some(why) => {
                self.wrong("mark.ingress", false, format!("does not go with the rest: {why}; set it to true"))
            }
            None => Ok(checked),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy, const N: usize>(
        &self,
        key: &str,
        value: &str,
        problem: &str,
        words: &[(&str, T); N],
    ) -> Result<T, ConfigError> {
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == value) {
            return Ok(*meaning);
        }
        let (last, others) =
            words.map(|(word, _)| word).split_last().map(|(l, o)| (*l, o.join(", "))).unwrap_or_default();
        self.wrong(key, value, format!("{problem}: use {others} or {last}"))
    }

    fn pattern(&self, text: &str) -> Result<Pattern, ConfigError> {
        Pattern::read(text).map_or_else(|| self.wrong("mark.interfaces", text, Pattern::FIX), Ok)
    }

    fn lease(&self, value: &str) -> Result<Duration, ConfigError> {
        const KEY: &str = "mark.lease";
        let Ok(lease) = humantime::parse_duration(value) else {
            return self.wrong(KEY, value, "is not a time: write 10m, 1h or 1day");
        };
        let range = Duration::from_secs(60)..=Duration::from_secs(7 * 86400);
        if range.contains(&lease) {
            Ok(lease)
        } else {
            self.wrong(KEY, value, "is out of range: use 1m to 7days")
        }
    }

    /// Names before patterns, so that an interface gets what was said of it by name.
    fn defaults(
        &self,
        defaults: &BTreeMap<String, String>,
        registry: &Registry,
    ) -> Result<Vec<Rule>, ConfigError> {
        if defaults.len() > MAX_DEFAULTS {
            let fix = format!("are too many: use at most {MAX_DEFAULTS}, with patterns");
            return self.wrong("mark.defaults", defaults.len(), fix);
        }
        let rule = |(interface, tag): (&String, &String)| {
            let text = RuleText {
                name: Some(format!("default:{interface}")),
                interface: Many(vec![interface.clone()]),
                tag: Some(tag.clone()),
                ..RuleText::default()
            };
            let key = format!("mark.defaults.{interface}");
            Rule::internal(text, registry).or_else(|e| self.wrong(&key, tag, e.problem))
        };
        let mut rules: Vec<_> = defaults.iter().map(rule).collect::<Result<_, _>>()?;
        rules.sort_by_key(|rule| matches!(rule.interfaces.as_slice(), [Pattern::Glob(_)]));
        Ok(rules)
    }

    fn strip(&self, strip: &file::Strip) -> Result<Strip, ConfigError> {
        let prefix =
            rule::prefix(&strip.prefix).or_else(|e| self.wrong("mark.strip.prefix", &strip.prefix, e))?;
        let directions = [("both", (true, true)), ("egress", (true, false)), ("ingress", (false, true))];
        let (egress, ingress) =
            self.word("mark.strip.direction", &strip.direction, "is not a direction", &directions)?;
        Ok(Strip { prefix, egress, ingress })
    }

    fn rules(&self, texts: Vec<RuleText>, registry: &Registry) -> Result<Vec<Rule>, ConfigError> {
        if texts.len() > MAX_RULES {
            return self.wrong("rules", texts.len(), format!("are too many: use at most {MAX_RULES}"));
        }
        let mut names = BTreeSet::new();
        let mut rules = Vec::with_capacity(texts.len());
        for (mut text, number) in texts.into_iter().zip(1..) {
            let name = text.name.get_or_insert_with(|| format!("rule-{number}")).clone();
            let rule = Rule::new(text, registry).map_err(|problem| {
                let (path, name) = (self.path.to_owned(), name.chars().take(80).collect());
                ConfigError::Rule { path, name, problem }
            })?;
            if !names.insert(name.clone()) {
                return self.wrong("rules.name", name, "is there twice: give each rule a name of its own");
            }
            rules.push(rule);
        }
        Ok(rules)
    }

    /// A time or "off".
    fn idle_limit(&self, key: &str, value: &str) -> Result<Option<Duration>, ConfigError> {
        if value == "off" {
            return Ok(None);
        }
        let fix = "is not a time: write 30s, 10m, 1h or off";
        let Ok(limit) = humantime::parse_duration(value) else { return self.wrong(key, value, fix) };
        if !(1..=MAX_IDLE_DAYS * 86400).contains(&limit.as_secs()) {
            return self.wrong(key, value, "is out of range: use 1s to 30days, or off");
        }
        Ok(Some(limit))
    }

    fn gate(
        &self,
        section: &str,
        enabled: bool,
        path: &str,
        mode: &str,
        group: &str,
    ) -> Result<Option<Gate>, ConfigError> {
        let key = |name: &str| format!("{section}.{name}");
        let path = self.absolute(&key("path"), path)?;
        let mode = match u32::from_str_radix(mode, 8) {
            Ok(bits) if bits <= 0o777 => bits,
            _ => {
                return self.wrong(&key("mode"), mode, "is not a file mode: write octal digits, as \"0660\"");
            }
        };
        let group = match group {
            "" => None,
            name => match find_id("/etc/group", name) {
                Some(gid) => Some(gid),
                None => {
                    return self.wrong(
                        &key("group"),
                        name,
                        "is not in /etc/group: create it or give its number",
                    );
                }
            },
        };
        Ok(enabled.then_some(Gate { path, mode, group }))
    }

    fn firefly(&self, firefly: &file::Firefly, registry: &Registry) -> Result<Option<Firefly>, ConfigError> {
        let contents = [
            ("flowtag", Content::Flowtag),
            ("flowd", Content::Flowd),
            ("flowd-go", Content::FlowdGo),
            ("flowd-go-lean", Content::FlowdGoLean),
            ("flowd-go-full", Content::FlowdGoFull),
            ("none", Content::None),
        ];
        let port = self.number("outputs.firefly.destination_port", firefly.destination_port, 1, 65535)?;
        let limit: u32 = self.number("outputs.firefly.rate_limit", firefly.rate_limit, 0, 1_000_000_000)?;
        let output = Firefly {
            destination_port: firefly.destination.then_some(port),
            content: self.word("outputs.firefly.content", &firefly.content, "is unknown", &contents)?,
            rate_limit: Some(limit).filter(|limit| *limit > 0),
            queue: self.number("outputs.firefly.queue", firefly.queue, 1, 1 << 20)?,
            collectors: firefly
                .collectors
                .iter()
                .map(|c| self.collector(c, registry))
                .collect::<Result<_, _>>()?,
        };
        Ok(firefly.enabled.then_some(output))
    }
}

#[cfg(test)]
mod tests {
    use flowtag_wire::{Strategy, Tag};

    use super::super::{Action, SAMPLE};
    use super::*;

    fn error(text: &str) -> String {
        parse(text, "flowtag.toml").expect_err("it is wrong").to_string()
    }

    #[test]
    fn the_sample_is_the_defaults_and_has_every_key() {
        let sample: toml::Table = toml::from_str(SAMPLE).expect("the sample parses");
        let mut defaults = toml::Table::try_from(file::File::default()).expect("defaults are a table");
        let none = Some(toml::Value::Array(Vec::new()));
        for (section, list) in
            [("outputs.firefly", "collectors"), ("mark", "strip"), ("", "rules"), ("", "access")]
        {
            let parts = section.split('.').filter(|part| !part.is_empty());
            let section = parts.fold(&mut defaults, |t, part| t[part].as_table_mut().expect("a table"));
            assert_eq!(section.remove(list), none, "{list}");
        }
        assert_eq!(sample, defaults);
    }

    /// The keys of a block that is only a comment in the sample, which is right once the signs are taken away.
    fn commented(header: &str) -> Vec<String> {
        let block = SAMPLE.split(&format!("# [[{header}]]\n")).nth(1).expect("an example");
        let lines = block.lines().take_while(|line| line.starts_with("# "));
        let text: String = lines.map(|line| format!("{}\n", &line[2..])).collect();
        let table: toml::Table = toml::from_str(&text).expect("it parses");
        table.keys().cloned().collect()
    }

    #[test]
    fn blocks_without_defaults_are_in_the_sample_with_every_key() {
        assert_eq!(
            commented("outputs.firefly.collectors"),
            ["address", "ca_file", "prefixes", "spool", "spool_max", "tags", "transport"]
        );
        assert_eq!(commented("access"), ["group", "input", "tags", "user"]);
        assert_eq!(commented("mark.strip"), ["direction", "prefix"]);
        let mut keys: Vec<_> = known_keys("[[rules]]\nnone = 1\n");
        keys.sort();
        assert_eq!(commented("rules"), keys);
    }

    /// The keys that the error for a wrong one lists.
    fn known_keys(text: &str) -> Vec<String> {
        let message = error(text);
        let (_, list) = message.split_once("(here are ").expect("a list");
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn a_misspelt_key_is_named_with_the_nearest() {
        let message = error("[mark]\ninterfacse = [\"eth0\"]\n");
        assert!(
            message.contains("line 2: key `interfacse` does not exist: did you mean `interfaces`?"),
            "{message}"
        );
    }

    #[test]
    fn numbers_out_of_range_name_key_value_and_range() {
        for (text, expected) in [
            ("[flows]\nmax = 0", "flows.max = 0 is out of range: use 1 to 4194304"),
            ("[mark]\ntc_priority = 65536", "mark.tc_priority = 65536 is out of range: use 1 to 65535"),
            ("[outputs.firefly]\nqueue = 0", "outputs.firefly.queue = 0 is out of range: use 1 to 1048576"),
            (
                "[flows]\nidle_limit = \"soon\"",
                "flows.idle_limit = \"soon\" is not a time: write 30s, 10m, 1h or off",
            ),
            ("[inputs.pipe]\nmode = \"0999\"", "inputs.pipe.mode = \"0999\" is not a file mode"),
            ("runtime_dir = \"run\"", "runtime_dir = \"run\" is not an absolute path"),
            (
                "[mark]\nstrategy = \"lable\"",
                "mark.strategy = \"lable\" is no strategy: use label, destination",
            ),
            ("[mark]\non_stop = \"stay\"", "mark.on_stop = \"stay\" is unknown: use keep or detach"),
            ("[mark]\nlease = \"59s\"", "mark.lease = \"59s\" is out of range: use 1m to 7days"),
            ("[mark]\nlease = \"8days\"", "mark.lease = \"8days\" is out of range"),
            ("[mark]\nlease = \"long\"", "mark.lease = \"long\" is not a time"),
            ("[mark]\npin = \"bpf\"", "mark.pin = \"bpf\" is not an absolute path"),
            (
                "[mark]\nencapsulated = \"both\"",
                "mark.encapsulated = \"both\" is unknown: use outer or inner",
            ),
            ("[mark]\nhook = \"xdp\"", "mark.hook = \"xdp\" is not a hook: use auto, tcx or clsact"),
        ] {
            let message = error(text);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn tags_of_a_collector_are_names_or_numbers_in_range() {
        let collector = |list: &str| {
            format!("[[outputs.firefly.collectors]]\naddress = \"[::1]:10514\"\ntags = [{list}]")
        };
        let config = parse(&collector("\"cms\", 2, \"atlas/9\""), "t").expect("right");
        let filter = &config.firefly.expect("on").collectors[0].filter;
        let shown: Vec<_> = filter.tags.iter().map(|(e, a)| (e.get(), a.map(|a| a.get()))).collect();
        assert_eq!(shown, [(3, None), (2, None), (2, Some(9))]);
        let message = error(&collector("512"));
        assert!(message.contains("outputs.firefly.collectors.tags") && message.contains("512"), "{message}");
        assert!(message.contains("1 to 511"), "{message}");
        assert!(error(&collector("\"atlsa\"")).contains("atlas"));
    }

    #[test]
    fn collectors_are_hosts_with_a_port() {
        for (address, good) in [
            ("collector.example.org:10514", true),
            ("192.0.2.1:1", true),
            ("[2001:db8::1]:65535", true),
            ("2001:db8::1:10514", false),
            ("collector.example.org", false),
            ("collector.example.org:0", false),
            (":10514", false),
            ("[nonsense]:1", false),
        ] {
            let text = format!("[[outputs.firefly.collectors]]\naddress = \"{address}\"");
            assert_eq!(parse(&text, "t").is_ok(), good, "{address}");
        }
    }

    #[test]
    fn what_a_mark_section_means() {
        let text = "[mark]\nstrategy = \"hop-by-hop+destination\"\nexclude_private = false\non_stop = \"detach\"\n\
            lease = \"7days\"\npin = \"\"\nencapsulated = \"inner\"\n\
            [mark.defaults]\n\"eth*\" = \"never\"\neth1 = \"cms/default\"\n\
            [[mark.strip]]\nprefix = \"2001:db8::/32\"\ndirection = \"ingress\"\n[[mark.strip]]\nprefix = \"fc00::/7\"\n";
        let config = parse(text, "t").expect("right");
        let mark = config.mark.expect("on");
        assert_eq!(mark.strategy, Strategy::HOP_BY_HOP | Strategy::DESTINATION);
        assert_eq!((mark.exclude_private, mark.inner, mark.ingress), (false, true, true));
        assert_eq!((mark.on_stop, mark.lease.as_secs(), config.pin), (OnStop::Detach, 7 * 86400, None));
        let defaults: Vec<_> = mark.defaults.iter().map(|rule| (&*rule.name, &rule.action)).collect();
        let cms = Action::Tags(vec![Tag::new(3, 1).expect("a tag")]);
        assert_eq!(defaults, [("default:eth1", &cms), ("default:eth*", &Action::Never)], "names go first");
        let strip: Vec<_> = mark.strip.iter().map(|s| (s.prefix.to_string(), s.egress, s.ingress)).collect();
        assert_eq!(strip, [("2001:db8::/32".to_owned(), false, true), ("fc00::/7".to_owned(), true, true)]);
        assert_eq!(parse("", "t").expect("right").pin, Some("/sys/fs/bpf/flowtag".into()));
    }

    #[test]
    fn what_needs_the_packets_that_arrive_is_refused_without_them() {
        let without = |rest: &str| error(&format!("[mark]\ningress = false\n{rest}"));
        for (rest, why) in [
            ("strategy = \"destination\"\n", "mark.strategy adds headers"),
            ("[[mark.strip]]\nprefix = \"::/0\"\n", "mark.strip has a prefix"),
        ] {
            let message = without(rest);
            assert!(
                message.contains("mark.ingress = false does not go") && message.contains(why),
                "{message}"
            );
        }
        let egress = "[[mark.strip]]\nprefix = \"::/0\"\ndirection = \"egress\"\n";
        assert!(parse(&format!("[mark]\ningress = false\n{egress}"), "t").is_ok());
    }

    #[test]
    fn defaults_and_strips_that_cannot_be_are_named() {
        for (text, expected) in [
            (
                "defaults]\neth0 = \"cms\"",
                "mark.defaults.eth0 = \"cms\" cannot be used: \"cms\" is not a tag",
            ),
            ("defaults]\n\"eth 0\" = \"3/14\"", "mark.defaults.eth 0 = \"3/14\" is not an interface"),
            ("[mark.strip]]\nprefix = \"2001:db8::1/32\"", "mark.strip.prefix = \"2001:db8::1/32\" has bits"),
            (
                "[mark.strip]]\nprefix = \"::/0\"\ndirection = \"in\"",
                "mark.strip.direction = \"in\" is not a direction: use both, egress or ingress",
            ),
            ("[mark.strip]]\ndirection = \"both\"", "missing field `prefix`"),
        ] {
            let text = if text.starts_with('[') { format!("[{text}") } else { format!("[mark.{text}") };
            let message = error(&text);
            assert!(message.contains(expected), "{message}");
        }
        let many: String = (0..17).map(|n| format!("eth{n} = \"3/1\"\n")).collect();
        assert!(error(&format!("[mark.defaults]\n{many}")).contains("use at most 16"));
    }

    #[test]
    fn rules_are_read_in_order_and_wrong_ones_named() {
        let rules =
            "[[rules]]\ntag = \"3/14\"\n[[rules]]\nname = \"ssh\"\nremote_port = 22\ntag = \"never\"\n";
        let names = |text: &str| -> Vec<String> {
            parse(text, "t").expect("right").rules.iter().map(|rule| rule.name.to_string()).collect()
        };
        assert_eq!(names(rules), ["rule-1", "ssh"]);
        for (rule, expected) in [
            ("tga = \"3/14\"", "line 2: key `tga` does not exist: did you mean `tag`?"),
            ("remote = 5", "line 2: invalid type: integer `5`, expected a string"),
            (
                "name = \"a\"\nlocal_port = 0\ntag = \"3/14\"",
                "t.toml: rule \"a\": local_port = 0 is not a port",
            ),
            ("local_port = 1", "t.toml: rule \"rule-1\": tag is missing"),
            (
                "name = \"a\"\ntag = \"3/14\"\n[[rules]]\nname = \"a\"\ntag = \"3/15\"",
                "rules.name = \"a\" is there twice: give each rule a name of its own",
            ),
        ] {
            let message = parse(&format!("[[rules]]\n{rule}\n"), "t.toml").expect_err(rule).to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
