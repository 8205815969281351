//! What the section `observe` means: which probes the daemon runs, and what tells their series apart.

use flowtag_kernel::probes::{Description, PROBES};

use super::parse::Checker;
use super::{ConfigError, file};

/// Probes that cost so little that they are always on.
const CHEAP: [&str; 5] = ["life", "retrans", "resets", "drops", "rtt"];

/// What the daemon watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observe {
    /// Names of probes, each once.
    pub(crate) probes: Vec<&'static str>,
    /// Whether all of them were asked for by name, and so have to run.
    pub(crate) strict: bool,
    pub(crate) labels: Vec<Label>,
    /// Bits of an address that tell peers apart, of IPv4 and IPv6.
    pub(crate) peer: (u8, u8),
    /// Of one metric.
    pub(crate) max_series: usize,
}

/// What tells series apart, besides the labels of the metric itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Experiment,
    Activity,
    Interface,
    Process,
    Unit,
    Peer,
}

impl Observe {
    pub(crate) fn has(&self, label: Label) -> bool {
        self.labels.contains(&label)
    }

    /// What the probes are, in the order of help.
    pub(crate) fn descriptions(&self) -> impl Iterator<Item = &'static Description> {
        PROBES.iter().copied().filter(|probe| self.probes.contains(&probe.name))
    }
}

impl Checker<'_> {
    pub(super) fn observe(&self, file: &file::Observe) -> Result<Option<Observe>, ConfigError> {
        let strict = file.probes != ["auto"];
        let probes = if strict { self.probes(&file.probes)? } else { CHEAP.to_vec() };
        let observe = Observe {
            probes,
            strict,
            labels: self.labels(&file.labels)?,
            peer: (
                self.number("observe.peer_ipv4", file.peer_ipv4, 0, 32)?,
                self.number("observe.peer_ipv6", file.peer_ipv6, 0, 128)?,
            ),
            max_series: self.number("observe.max_series", file.max_series, 10, 1_000_000)?,
        };
        Ok(file.enabled.then_some(observe))
    }

    /// Those that have metrics; others only have a command.
    fn probes(&self, names: &[String]) -> Result<Vec<&'static str>, ConfigError> {
        const KEY: &str = "observe.probes";
        if names.is_empty() {
            return self.wrong(KEY, "[]", "is empty: use [\"auto\"], or observe.enabled = false");
        }
        let known = || PROBES.iter().filter(|probe| !probe.metrics.is_empty() || CHEAP.contains(&probe.name));
        let one = |name: &String| match known().find(|probe| probe.name == name) {
            Some(probe) => Ok(probe.name),
            None => {
                let known: Vec<_> = known().map(|probe| probe.name).collect();
                self.wrong(
                    KEY,
                    name,
                    format!("is no probe with metrics: use \"auto\" alone, or {}", known.join(", ")),
                )
            }
        };
        let mut probes: Vec<_> = names.iter().map(one).collect::<Result<_, _>>()?;
        probes.sort_unstable();
        probes.dedup();
        Ok(probes)
    }

    fn labels(&self, names: &[String]) -> Result<Vec<Label>, ConfigError> {
        const KEY: &str = "observe.labels";
        let known = [
            ("experiment", Label::Experiment),
            ("activity", Label::Activity),
            ("interface", Label::Interface),
            ("process", Label::Process),
            ("unit", Label::Unit),
            ("peer", Label::Peer),
        ];
        let one = |name: &String| self.word(KEY, name, "is no label", &known);
        let labels: Vec<_> = names.iter().map(one).collect::<Result<_, _>>()?;
        if labels.contains(&Label::Activity) && !labels.contains(&Label::Experiment) {
            return self.wrong(KEY, "activity", "means nothing without \"experiment\": add it");
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_cannot_be_watched_is_refused_with_what_can() {
        for (text, expected) in [
            ("probes = [\"nonsense\"]", "observe.probes = \"nonsense\" is no probe with metrics"),
            (
                "probes = [\"auto\", \"life\"]",
                "observe.probes = \"auto\" is no probe with metrics: use \"auto\" alone",
            ),
            ("probes = []", "observe.probes = \"[]\" is empty"),
            ("labels = [\"port\"]", "observe.labels = \"port\" is no label"),
            ("labels = [\"activity\"]", "means nothing without \"experiment\""),
            ("max_series = 1", "observe.max_series"),
            ("peer_ipv6 = 129", "observe.peer_ipv6"),
        ] {
            let error = Config::parse(&format!("[observe]\n{text}\n"), "t").expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let named =
            Config::parse("[observe]\nprobes = [\"retrans\", \"life\", \"life\"]", "t").expect("right");
        let named = named.observe.expect("on");
        assert_eq!((named.probes, named.strict), (vec!["life", "retrans"], true));
        let default = Config::parse("", "t").expect("right").observe.expect("on unless switched off");
        assert!(!default.strict && default.descriptions().any(|probe| probe.name == "retrans"));
        assert!(Config::parse("[observe]\nenabled = false", "t").expect("right").observe.is_none());
    }
}
