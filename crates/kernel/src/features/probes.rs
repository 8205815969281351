//! Which probes this kernel can run: what each hangs on, and what is not known where something is missing. Nothing is loaded.

use super::Check;
use crate::probes::{Description, Need, PROBES};

/// A line for each probe.
#[must_use]
pub fn probes() -> Vec<Check> {
    PROBES.iter().map(|probe| check(probe)).collect()
}

fn check(probe: &'static Description) -> Check {
    let name = format!("probe {}", probe.name);
    match probe.needs() {
        Ok(needs) => judge(name, &needs),
        Err(error) => Check::missing(name, super::chain(&error), "report it: the program is broken"),
    }
}

fn judge(name: String, needs: &[Need]) -> Check {
    const NEWER: &str = "none on this kernel; a newer one may have it";
    let (mut there, mut without) = (Vec::new(), Vec::new());
    for need in needs {
        let Some(lack) = &need.lack else {
            there.push(need.hook.as_str());
            continue;
        };
        let Some(consequence) = need.consequence else {
            return Check::missing(name, format!("this kernel does not have {lack}"), NEWER);
        };
        without.push(format!("{consequence} (for want of {lack})"));
    }
    let by = format!("by {}", list(&there));
    if without.is_empty() {
        return Check::ok(name, by);
    }
    Check::warn(name, format!("{by}; not known: {}", without.join(", ")), NEWER)
}

/// `tracepoints a, b, iterator over c`.
fn list(hooks: &[&str]) -> String {
    const KIND: &str = "tracepoint ";
    let (points, others): (Vec<&str>, Vec<&str>) =
        hooks.iter().copied().partition(|hook| hook.starts_with(KIND));
    let names: Vec<_> = points.iter().map(|point| point.trim_start_matches(KIND)).collect();
    let head = match names.as_slice() {
        [] => None,
        [one] => Some(format!("{KIND}{one}")),
        all => Some(format!("tracepoints {}", all.join(", "))),
    };
    let others = others.into_iter().map(str::to_owned);
    head.into_iter().chain(others).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    fn need(hook: &str, there: bool, consequence: Option<&'static str>) -> Need {
        let lack = (!there).then(|| format!("the {hook}"));
        Need { hook: hook.to_owned(), lack, consequence }
    }

    #[test]
    fn what_is_only_nice_to_have_is_not_missing() {
        let whose = Some("whose it is");
        for (needs, status, detail) in [
            (
                vec![need("tracepoint a", true, None), need("tracepoint b", true, whose)],
                Status::Ok,
                "by tracepoints a, b",
            ),
            (
                vec![need("tracepoint a", true, None), need("tracepoint b", false, whose)],
                Status::Warn,
                "by tracepoint a; not known: whose it is (for want of the tracepoint b)",
            ),
            (
                vec![need("tracepoint a", false, None)],
                Status::Missing,
                "this kernel does not have the tracepoint a",
            ),
        ] {
            let check = judge("probe x".to_owned(), &needs);
            assert_eq!((check.status, check.detail.as_str()), (status, detail));
        }
    }
}
