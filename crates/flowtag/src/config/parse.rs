//! From text to [`Config`]: types first (serde), then meaning, each error with key, value, range and fix.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flowtag_engine::Registry;
use flowtag_kernel::mark::{HookChoice, Settings};
use flowtag_wire::Experiment;

use super::{Collector, Config, ConfigError, Firefly, Gate, Mark, Pattern, file};

/// The kernel's time stamps of packets wrap after 49 days (2³² jiffies of 1 ms).
const MAX_IDLE_DAYS: u64 = 30;

pub(super) fn parse(text: &str, path: &str) -> Result<Config, ConfigError> {
    let file: file::File = toml::from_str(text)
        .map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: explain(&e, text) })?;
    let effective = toml::to_string(&file).unwrap_or_default();
    Checker { path }.config(file, effective)
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

struct Checker<'a> {
    path: &'a str,
}

impl Checker<'_> {
    fn wrong<T>(
        &self,
        key: &str,
        value: impl std::fmt::Debug,
        problem: impl Into<String>,
    ) -> Result<T, ConfigError> {
        let (path, key, value) = (self.path.to_owned(), key.to_owned(), format!("{value:?}"));
        Err(ConfigError::Value { path, key, value, problem: problem.into() })
    }

    fn config(&self, file: file::File, effective: String) -> Result<Config, ConfigError> {
        let registry = self.registry(&file.registry.file)?;
        let (control, pipe) = (&file.inputs.control, &file.inputs.pipe);
        Ok(Config {
            runtime_dir: self.absolute("runtime_dir", &file.runtime_dir)?,
            log_level: self.log_level(&file.log.level)?,
            mark: if file.mark.enabled { Some(self.mark(&file.mark)?) } else { None },
            max_flows: self.number("flows.max", file.flows.max, 1, i64::from(Settings::MAX_FLOWS))?,
            idle_limit: self.idle_limit(&file.flows.idle_limit)?,
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
            effective,
        })
    }

    fn number<T: TryFrom<i64>>(&self, key: &str, value: i64, min: i64, max: i64) -> Result<T, ConfigError> {
        match T::try_from(value) {
            Ok(number) if (min..=max).contains(&value) => Ok(number),
            _ => self.wrong(key, value, format!("is out of range: use {min} to {max}")),
        }
    }

    fn absolute(&self, key: &str, value: &str) -> Result<PathBuf, ConfigError> {
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

    fn registry(&self, file: &str) -> Result<Arc<Registry>, ConfigError> {
        if file.is_empty() {
            return Ok(Arc::new(Registry::embedded().clone()));
        }
        let text = fs::read_to_string(file);
        let parsed =
            text.map_err(|e| e.to_string()).and_then(|t| Registry::from_json(&t).map_err(|e| e.to_string()));
        match parsed {
            Ok(registry) => Ok(Arc::new(registry)),
            Err(e) => self.wrong("registry.file", file, format!("cannot be used: {e}")),
        }
    }

    fn mark(&self, mark: &file::Mark) -> Result<Mark, ConfigError> {
        if mark.interfaces.is_empty() {
            let fix = "is empty: name interfaces, use [\"auto\"], or set mark.enabled = false";
            return self.wrong("mark.interfaces", &mark.interfaces, fix);
        }
        let hook = match mark.hook.as_str() {
            "auto" => HookChoice::Auto,
            "tcx" => HookChoice::Tcx,
            "clsact" => HookChoice::Clsact,
            other => return self.wrong("mark.hook", other, "is not a hook: use auto, tcx or clsact"),
        };
        Ok(Mark {
            interfaces: mark.interfaces.iter().map(|p| self.pattern(p)).collect::<Result<_, _>>()?,
            hook,
            tc_priority: self.number("mark.tc_priority", mark.tc_priority, 1, 65535)?,
        })
    }

    fn pattern(&self, text: &str) -> Result<Pattern, ConfigError> {
        // IFNAMSIZ of linux/if.h is 16 with the closing zero; the kernel refuses slashes and blanks in names.
        let impossible = text.is_empty() || text.contains('/') || text.contains(char::is_whitespace);
        if impossible || text.len() > 15 {
            return self.wrong(
                "mark.interfaces",
                text,
                "is not an interface: 1 to 15 characters, no blank, no /",
            );
        }
        Ok(match text {
            "auto" => Pattern::Auto,
            glob if glob.contains(['*', '?']) => Pattern::Glob(glob.to_owned()),
            name => Pattern::Name(name.to_owned()),
        })
    }

    fn idle_limit(&self, value: &str) -> Result<Option<Duration>, ConfigError> {
        const KEY: &str = "flows.idle_limit";
        if value == "off" {
            return Ok(None);
        }
        let fix = "is not a time: write 30s, 10m, 1h or off";
        let Ok(limit) = humantime::parse_duration(value) else { return self.wrong(KEY, value, fix) };
        if !(1..=MAX_IDLE_DAYS * 86400).contains(&limit.as_secs()) {
            return self.wrong(KEY, value, "is out of range: use 1s to 30days, or off");
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
            name => match find_group(name) {
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
        let port = self.number("outputs.firefly.destination_port", firefly.destination_port, 1, 65535)?;
        let queue = self.number("outputs.firefly.queue", firefly.queue, 1, 1 << 20)?;
        let collectors =
            firefly.collectors.iter().map(|c| self.collector(c, registry)).collect::<Result<_, _>>()?;
        let destination_port = firefly.destination.then_some(port);
        Ok(firefly.enabled.then_some(Firefly { destination_port, queue, collectors }))
    }

    fn collector(&self, collector: &file::Collector, registry: &Registry) -> Result<Collector, ConfigError> {
        const KEY: &str = "outputs.firefly.collectors.address";
        const FIX: &str = "is not HOST:PORT: write collector.example.org:10514 or [2001:db8::1]:10514";
        let Some((host, port)) = collector.address.rsplit_once(':') else {
            return self.wrong(KEY, &collector.address, FIX);
        };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(literal) if literal.parse::<IpAddr>().is_ok() => literal,
            None if !host.is_empty() && !host.contains([':', '[', ']', '/', ' ']) => host,
            _ => return self.wrong(KEY, &collector.address, FIX),
        };
        let Some(port) = port.parse::<u16>().ok().filter(|p| *p > 0) else {
            return self.wrong(KEY, &collector.address, "has a port that is out of range: use 1 to 65535");
        };
        let experiments = self.experiments(&collector.experiments, registry)?;
        Ok(Collector { host: host.to_owned(), port, experiments })
    }

    fn experiments(
        &self,
        list: &[file::NameOrNumber],
        registry: &Registry,
    ) -> Result<BTreeSet<Experiment>, ConfigError> {
        let resolve = |item: &file::NameOrNumber| {
            let text = item.to_string();
            registry.resolve_experiment(&text).or_else(|e| {
                self.wrong(
                    "outputs.firefly.collectors.experiments",
                    &text,
                    format!("is not an experiment: {e}"),
                )
            })
        };
        list.iter().map(resolve).collect()
    }
}

/// A group's number. Read from the file and not asked of NSS, which a static binary cannot load.
fn find_group(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|l| l.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::SAMPLE;
    use super::*;

    fn error(text: &str) -> String {
        parse(text, "flowtag.toml").expect_err("it is wrong").to_string()
    }

    #[test]
    fn the_sample_is_the_defaults_and_has_every_key() {
        let sample: toml::Table = toml::from_str(SAMPLE).expect("the sample parses");
        let mut defaults = toml::Table::try_from(file::File::default()).expect("defaults are a table");
        let firefly = defaults["outputs"]["firefly"].as_table_mut().expect("a table");
        assert_eq!(firefly.remove("collectors"), Some(toml::Value::Array(Vec::new())));
        assert_eq!(sample, defaults);
        let collector =
            SAMPLE.split("# [[outputs.firefly.collectors]]").nth(1).expect("an example of a collector");
        let uncommented: String =
            collector.lines().map(|l| l.trim_start_matches("# ").to_owned() + "\n").collect();
        let keys: Vec<_> = uncommented.lines().filter_map(|l| l.split_once(" = ")).map(|(k, _)| k).collect();
        assert_eq!(keys, ["address", "experiments"]);
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
        ] {
            let message = error(text);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn experiments_of_a_collector_are_names_or_numbers_in_range() {
        let collector = |list: &str| {
            format!("[[outputs.firefly.collectors]]\naddress = \"[::1]:10514\"\nexperiments = [{list}]")
        };
        let config = parse(&collector("\"cms\", 2"), "t").expect("right");
        let wanted = [2, 3].map(|n| Experiment::new(n).expect("in range"));
        assert_eq!(config.firefly.expect("on").collectors[0].experiments, BTreeSet::from(wanted));
        let message = error(&collector("512"));
        assert!(
            message.contains("outputs.firefly.collectors.experiments") && message.contains("512"),
            "{message}"
        );
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
}
