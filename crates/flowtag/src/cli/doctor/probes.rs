//! What this kernel can tell of connections and packets, and whether the configuration asks for it.

use flowtag_kernel::features::{self, Check, Status};

use super::unneeded;
use crate::config::{Config, Observe};

/// A line for each probe.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let judged = |check: Check| {
        let name = check.name.trim_start_matches("probe ").to_owned();
        judge(config.observe.as_ref(), &name, check)
    };
    features::probes().into_iter().map(judged).collect()
}

/// Only what was asked for by name has to be there.
fn judge(observe: Option<&Observe>, name: &str, mut check: Check) -> Check {
    if check.status != Status::Missing {
        return check;
    }
    let is_exported = observe.is_some_and(|observe| observe.probes.contains(&name));
    if is_exported && observe.is_some_and(|observe| observe.strict) {
        check.remedy = Some("leave it out of observe.probes, or use a newer kernel".to_owned());
        return check;
    }
    let metrics = if is_exported { ", and the daemon exports nothing of it" } else { "" };
    unneeded(check, &format!("`flowtag {name}` does not run here{metrics}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_missed_only_where_it_was_asked_for_by_name() {
        let lack = || Check::missing("probe retrans", "this kernel does not have the tracepoint x", "none");
        for (text, status, end) in [
            ("", Status::Warn, "and the daemon exports nothing of it"),
            ("[observe]\nenabled = false", Status::Warn, "`flowtag retrans` does not run here"),
            ("[observe]\nprobes = [\"life\"]", Status::Warn, "`flowtag retrans` does not run here"),
            ("[observe]\nprobes = [\"retrans\"]", Status::Missing, "the tracepoint x"),
        ] {
            let config = Config::parse(text, "t").expect("right");
            let check = judge(config.observe.as_ref(), "retrans", lack());
            assert_eq!(check.status, status, "{text}");
            assert!(check.detail.ends_with(end), "{text}: {}", check.detail);
        }
        let there = Check::ok("probe retrans", "by tracepoint x");
        assert_eq!(judge(None, "retrans", there.clone()), there);
    }
}
