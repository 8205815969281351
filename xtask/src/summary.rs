//! What a run of the tests comes to: the slowest, what was skipped and why, and the line that counts them.
//!
//! Place in the flow: the end of `make test`, and with `--guests` of `.ci/run`. It reads what nextest and `vm-test` wrote.
//! A test that was skipped is never one that passed; with `--guests`, one that ran nowhere is a failure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use roxmltree::{Document, Node};

use crate::kernels_doc;
use crate::vm_test::BRIEF_RESULTS;
use crate::vm_test::results::{Outcome, Report, skipped};

/// Where nextest writes (.config/nextest.toml).
const JUNIT: &str = "target/nextest/default/junit.xml";
const SLOWEST: usize = 10;

/// How `summary` is called.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also counts the results of `vm-test --brief`; what neither this machine nor a guest ran is a failure
    #[arg(long)]
    guests: bool,
}

/// One test on this machine.
#[derive(Debug, PartialEq)]
struct Test {
    binary: String,
    name: String,
    outcome: Outcome,
    /// Of a skipped one, why.
    reason: String,
    seconds: f64,
}

/// `cargo xtask summary`.
///
/// # Errors
/// There are no results, or they cannot be read.
pub(crate) fn run(root: &Path, args: &Args) -> Result<ExitCode> {
    let path = root.join(JUNIT);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("reading {}: run `make test` first", path.display()))?;
    let tests = tests(&text).with_context(|| format!("reading {}", path.display()))?;
    let guests = if args.guests { kernels_doc::reports(&root.join(BRIEF_RESULTS))? } else { Vec::new() };
    print!("{}", slowest(&tests));
    let (text, nowhere) = what_was_skipped(&tests, &guests);
    print!("{text}");
    for guest in &guests {
        println!("kernel {:<5} {}", guest.kernel, line(|outcome| guest.count(outcome)));
    }
    let here = |outcome| tests.iter().filter(|t| t.outcome == outcome).count();
    let sum = |outcome| here(outcome) + guests.iter().map(|g| g.count(outcome)).sum::<usize>();
    let is_bad = sum(Outcome::Failed) > 0 || (args.guests && nowhere > 0);
    if args.guests {
        println!("this machine {}", line(here));
    }
    println!("{}", line(sum));
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(count: impl Fn(Outcome) -> usize) -> String {
    let [passed, failed, skipped] = [Outcome::Ok, Outcome::Failed, Outcome::Skipped].map(count);
    format!("{passed} passed, {failed} failed, {skipped} skipped")
}

/// Of a JUnit file as nextest writes it.
fn tests(junit: &str) -> Result<Vec<Test>> {
    let document = Document::parse(junit)?;
    let cases = document.descendants().filter(|node| node.has_tag_name("testcase"));
    let tests: Vec<Test> = cases.filter_map(test).collect();
    ensure!(!tests.is_empty(), "no test ran");
    Ok(tests)
}

fn test(case: Node<'_, '_>) -> Option<Test> {
    let has = |tag: &str| case.children().any(|child| child.has_tag_name(tag));
    let printed = case.children().filter(|child| child.tag_name().name().starts_with("system-"));
    let lines = printed.filter_map(|child| child.text()).flat_map(str::lines);
    let reason = lines.filter_map(skipped).next();
    let outcome = match reason {
        _ if has("failure") || has("error") => Outcome::Failed,
        Some(_) => Outcome::Skipped,
        None => Outcome::Ok,
    };
    Some(Test {
        binary: case.attribute("classname")?.to_owned(),
        name: case.attribute("name")?.to_owned(),
        outcome,
        reason: reason.unwrap_or_default().to_owned(),
        seconds: case.attribute("time")?.parse().ok()?,
    })
}

fn slowest(tests: &[Test]) -> String {
    let mut sorted: Vec<&Test> = tests.iter().collect();
    sorted.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let lines =
        sorted.iter().take(SLOWEST).map(|t| format!("{:8.1} s  {} {}\n", t.seconds, t.binary, t.name));
    format!("\nthe slowest tests:\n{}", lines.collect::<String>())
}

/// Each reason with its tests, and how many of them no guest ran either.
fn what_was_skipped(tests: &[Test], guests: &[Report]) -> (String, usize) {
    let ran = |test: &Test, guest: &Report| {
        guest.tests.iter().any(|t| (&t.binary, &t.name, t.outcome) == (&test.binary, &test.name, Outcome::Ok))
    };
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut nowhere = 0;
    for test in tests.iter().filter(|t| t.outcome == Outcome::Skipped) {
        let kernels: Vec<&str> =
            guests.iter().filter(|g| ran(test, g)).map(|guest| guest.kernel.as_str()).collect();
        nowhere += usize::from(kernels.is_empty());
        let also = match (guests, kernels.as_slice()) {
            ([], _) => String::new(),
            (_, []) => " RAN NOWHERE".to_owned(),
            (_, kernels) => format!(" (ran under {})", kernels.join(", ")),
        };
        reasons.entry(&test.reason).or_default().push(format!("{} {}{also}", test.binary, test.name));
    }
    let lines = reasons.iter().map(|(reason, tests)| format!("  {reason}:\n    {}\n", tests.join("\n    ")));
    let text: String = lines.collect();
    (if text.is_empty() { text } else { format!("\nskipped:\n{text}\n") }, nowhere)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::kernel::Kernel;
    use crate::vm_test::results::TestResult;

    const RUN: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="1">
  <testsuite name="flowtag::it" tests="3">
    <testcase name="devices::bond" classname="flowtag::it" time="0.500">
      <system-out>running 1 test</system-out>
      <system-err>SKIPPED (the kernel has no bond): it::devices at devices.rs:1</system-err>
    </testcase>
    <testcase name="marking::syn" classname="flowtag::it" time="2.000"><system-err>fine</system-err></testcase>
    <testcase name="why::loss" classname="flowtag::it" time="9.100">
      <failure type="test failure">panicked</failure>
      <system-err>SKIPPED (a part): x at y.rs:1</system-err>
    </testcase>
  </testsuite>
</testsuites>"#;

    fn guest(outcome: Outcome) -> Report {
        let test =
            TestResult { binary: "flowtag::it".into(), name: "devices::bond".into(), outcome, seconds: 1.0 };
        Report { tests: vec![test], ..Report::without_answer(&Kernel::for_test("6.1"), &[]) }
    }

    #[test]
    fn a_skipped_test_is_neither_passed_nor_failed() {
        let tests = tests(RUN).expect("read");
        let outcomes: Vec<_> = tests.iter().map(|t| (t.outcome, t.reason.as_str())).collect();
        assert_eq!(
            outcomes,
            [(Outcome::Skipped, "the kernel has no bond"), (Outcome::Ok, ""), (Outcome::Failed, "a part")]
        );
        assert!(slowest(&tests).starts_with("\nthe slowest tests:\n     9.1 s  flowtag::it why::loss\n"));
    }

    #[test]
    fn what_no_guest_ran_either_ran_nowhere() {
        let tests = tests(RUN).expect("read");
        for (guests, expected, marker) in [
            (vec![], 1, ""),
            (vec![guest(Outcome::Ok)], 0, "(ran under 6.1)"),
            (vec![guest(Outcome::Skipped)], 1, "RAN NOWHERE"),
            (vec![guest(Outcome::Failed), guest(Outcome::Ok)], 0, "(ran under 6.1)"),
        ] {
            let (text, nowhere) = what_was_skipped(&tests, &guests);
            assert_eq!(nowhere, expected, "{text}");
            assert!(
                text.contains("the kernel has no bond:\n    flowtag::it devices::bond")
                    && text.contains(marker)
            );
        }
    }

    #[test]
    fn no_test_at_all_is_an_error() {
        assert!(tests("<testsuites/>").is_err());
        assert!(tests("").is_err());
    }
}
