//! What a guest said about its tests.

use serde::{Deserialize, Serialize};

use crate::vm::kernel::Kernel;
use crate::vm::qemu;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    Failed,
    /// It said that it, or a part of it, could not run there.
    Skipped,
}

/// One test under one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TestResult {
    pub(crate) binary: String,
    pub(crate) name: String,
    #[serde(rename = "result")]
    pub(crate) outcome: Outcome,
    /// By the guest's clock.
    pub(crate) seconds: f64,
}

/// What a test showed to work, by its line `FEATURE <name> hook=<hook>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Feature {
    pub(crate) name: String,
    pub(crate) hook: String,
    /// Whether the test that said so passed.
    pub(crate) ok: bool,
}

/// `target/vm/<kernel>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// As it was asked for: `6.1`.
    pub(crate) kernel: String,
    /// What `uname -r` says.
    pub(crate) release: String,
    pub(crate) package: String,
    /// Until the first test could begin, by the guest's clock.
    pub(crate) boot_seconds: f64,
    /// By the guest's clock, boot included.
    pub(crate) seconds: f64,
    /// Whether the guest ended as it should.
    pub(crate) complete: bool,
    pub(crate) tests: Vec<TestResult>,
    pub(crate) features: Vec<Feature>,
}

impl Report {
    /// Of a guest that never spoke: what was to be run has failed.
    pub(crate) fn without_answer(kernel: &Kernel, all: &[TestResult]) -> Self {
        Self {
            kernel: kernel.version.clone(),
            release: String::new(),
            package: kernel.package.clone(),
            boot_seconds: 0.0,
            seconds: 0.0,
            complete: false,
            tests: all.to_vec(),
            features: Vec::new(),
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.tests.iter().filter(|t| t.outcome == outcome).count()
    }

    pub(crate) fn failed(&self) -> impl Iterator<Item = &TestResult> {
        self.tests.iter().filter(|t| t.outcome == Outcome::Failed)
    }
}

/// Reads a guest's output as it comes; what people should see of it has the kernel's version before each line.
#[derive(Debug)]
pub(crate) struct Reader {
    kernel: String,
    line: Vec<u8>,
    release: String,
    booted: f64,
    last: f64,
    running: Option<Running>,
    ended: Vec<TestResult>,
    features: Vec<Feature>,
    shown: String,
}

/// The test that is running, when it began, and the features it has shown.
#[derive(Debug)]
struct Running {
    binary: String,
    name: String,
    since: f64,
    is_skipped: bool,
    features: Vec<(String, String)>,
}

impl Reader {
    pub(crate) fn new(kernel: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            line: Vec::new(),
            release: String::new(),
            booted: 0.0,
            last: 0.0,
            running: None,
            ended: Vec::new(),
            features: Vec::new(),
            shown: String::new(),
        }
    }

    /// Takes the next piece and gives the lines to show.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take(String::from_utf8_lossy(&line).trim_end_matches('\r'));
            } else {
                self.line.push(*byte);
            }
        }
        std::mem::take(&mut self.shown)
    }

    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words {
            ["@kernel", release, now] => {
                self.release = release.to_owned();
                self.booted = seconds(now);
                self.last = self.booted;
            }
            ["@begin", binary, name, now] => self.begin(binary, name, seconds(now)),
            ["@end", binary, name, status, now] => self.end(binary, name, status, seconds(now)),
            _ => {
                self.note(line);
                if !is_noise(line) {
                    self.show(line);
                }
            }
        }
    }

    fn begin(&mut self, binary: &str, name: &str, since: f64) {
        let (binary, name) = (binary.to_owned(), name.to_owned());
        self.running = Some(Running { binary, name, since, is_skipped: false, features: Vec::new() });
    }

    fn end(&mut self, binary: &str, name: &str, status: &str, now: f64) {
        self.last = now;
        let Some(test) = self.running.take().filter(|t| t.binary == binary && t.name == name) else { return };
        let ok = status == "0";
        let seconds = now - test.since;
        let (outcome, words) = match (ok, test.is_skipped) {
            (false, _) => (Outcome::Failed, format!("FAILED (status {status})")),
            (true, true) => (Outcome::Skipped, "skipped".to_owned()),
            (true, false) => (Outcome::Ok, "ok".to_owned()),
        };
        self.show(&format!("test {binary}::{name} ... {words} ({seconds:.1} s)"));
        for (name, hook) in test.features {
            self.features.push(Feature { name, hook, ok });
        }
        self.ended.push(TestResult { binary: test.binary, name: test.name, outcome, seconds });
    }

    fn note(&mut self, line: &str) {
        let Some(test) = &mut self.running else { return };
        test.features.extend(feature(line));
        test.is_skipped |= skipped(line).is_some();
    }

    fn show(&mut self, line: &str) {
        self.shown += &format!("[{}] {line}\n", self.kernel);
    }

    /// The report, with every test of `all` that did not end as failed.
    pub(crate) fn finish(mut self, kernel: &Kernel, outcome: qemu::Outcome, all: &[TestResult]) -> Report {
        if !self.line.is_empty() {
            self.push(b"\n");
        }
        let result = |wanted: &TestResult| {
            let same = |t: &&TestResult| (&t.binary, &t.name) == (&wanted.binary, &wanted.name);
            self.ended.iter().find(same).unwrap_or(wanted).clone()
        };
        let tests = all.iter().map(result).collect();
        let features = merged(self.features);
        Report {
            release: self.release,
            boot_seconds: self.booted,
            seconds: self.last,
            complete: matches!(outcome, qemu::Outcome::Exited(_)),
            tests,
            features,
            ..Report::without_answer(kernel, &[])
        }
    }
}

/// Each feature once; it works only if every test that showed it passed.
fn merged(features: Vec<Feature>) -> Vec<Feature> {
    let mut merged: Vec<Feature> = Vec::new();
    for feature in features {
        match merged.iter_mut().find(|f| f.name == feature.name && f.hook == feature.hook) {
            Some(known) => known.ok &= feature.ok,
            None => merged.push(feature),
        }
    }
    merged.sort_by(|a, b| (&a.name, &a.hook).cmp(&(&b.name, &b.hook)));
    merged
}

/// `FEATURE <name> hook=<hook>`, also where the test harness has begun the line.
fn feature(line: &str) -> Option<(String, String)> {
    let (before, rest) = line.split_once("FEATURE ")?;
    let fits = before.is_empty() || before.ends_with("... ");
    let (name, hook) = rest.trim().rsplit_once(" hook=").filter(|_| fits)?;
    let whole = !name.trim().is_empty() && !hook.is_empty() && !hook.contains(char::is_whitespace);
    whole.then(|| (name.trim().to_owned(), hook.to_owned()))
}

/// `SKIPPED (<reason>): <place>`, as the testbed says it, also where the test harness has begun the line.
pub(crate) fn skipped(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("SKIPPED (")?;
    let (reason, _) = rest.rsplit_once("): ")?;
    (before.is_empty() || before.ends_with("... ")).then_some(reason)
}

/// What the harness prints around a single test.
fn is_noise(line: &str) -> bool {
    let line = line.trim();
    ["", ".", "F", "running 1 test", "failures:"].contains(&line)
        || line.starts_with("test result: ")
        || line.ends_with(" --- FAILED")
}

fn seconds(text: &str) -> f64 {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str, outcome: Outcome) -> TestResult {
        TestResult { binary: "marking".into(), name: name.into(), outcome, seconds: 0.0 }
    }

    const OUTPUT: &str = "@kernel 6.1.0-40-cloud-amd64 3.50\n\
        @begin marking tcp::syn 3.60\n\nrunning 1 test\nFEATURE label hook=tcx\nFEATURE label hook=clsact\r\n.\n\n@end marking tcp::syn 0 5.10\n\
        @begin marking udp 5.20\nFEATURE label hook=tcx\nthread panicked\n@end marking udp 101 6.20\n\
        @begin marking bond 6.20\n\nrunning 1 test\nSKIPPED (no bond): devices at devices.rs:1\n.\n@end marking bond 0 6.30\n\
        @begin marking lost 6.30\nFEATURE options hook=tcx\nand then the guest died";

    fn report(outcome: qemu::Outcome) -> Report {
        let kernel = Kernel::for_test("6.1");
        let mut reader = Reader::new("6.1");
        for piece in OUTPUT.as_bytes().chunks(7) {
            reader.push(piece);
        }
        let all = ["tcp::syn", "udp", "bond", "lost", "never"].map(|n| test(n, Outcome::Failed));
        reader.finish(&kernel, outcome, &all)
    }

    #[test]
    fn only_a_test_that_ended_well_has_passed() {
        let report = report(qemu::Outcome::Died);
        let outcomes: Vec<Outcome> = report.tests.iter().map(|t| t.outcome).collect();
        use Outcome::{Failed, Ok, Skipped};
        assert_eq!(outcomes, [Ok, Failed, Skipped, Failed, Failed]);
        assert!((report.tests[0].seconds - 1.5).abs() < 1e-9);
        assert_eq!((report.release.as_str(), report.boot_seconds), ("6.1.0-40-cloud-amd64", 3.5));
        assert!(!report.complete);
        assert_eq!((report.count(Ok), report.failed().count()), (1, 3));
    }

    #[test]
    fn a_feature_works_if_every_test_that_shows_it_passed() {
        let features = report(qemu::Outcome::Exited(0)).features;
        let named = |hook: &str, ok| Feature { name: "label".into(), hook: hook.into(), ok };
        assert_eq!(features, [named("clsact", true), named("tcx", false)]);
    }

    #[test]
    fn people_see_what_tests_print_and_how_they_end() {
        let shown = Reader::new("6.1").push(OUTPUT.as_bytes());
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "[6.1] FEATURE label hook=tcx",
                "[6.1] FEATURE label hook=clsact",
                "[6.1] test marking::tcp::syn ... ok (1.5 s)",
            ]
        );
        assert_eq!(lines[5], "[6.1] test marking::udp ... FAILED (status 101) (1.0 s)");
    }

    #[test]
    fn feature_lines_are_told_from_others() {
        assert_eq!(
            feature("FEATURE drop reasons hook=tp_btf"),
            Some(("drop reasons".into(), "tp_btf".into()))
        );
        assert_eq!(feature("test a ... FEATURE x hook=y"), Some(("x".into(), "y".into())));
        for line in [
            "",
            "FEATURE",
            "FEATURE x",
            "FEATURE  hook=y",
            "FEATURE x hook=",
            "FEATURE x hook=a b",
            "no FEATURE x hook=y",
        ] {
            assert_eq!(feature(line), None, "{line}");
        }
    }

    #[test]
    fn a_report_survives_its_file() {
        let report = report(qemu::Outcome::Exited(0));
        let json = serde_json::to_string(&report).expect("JSON");
        assert!(json.contains(r#""result":"failed""#));
        assert_eq!(serde_json::from_str::<Report>(&json).expect("a report"), report);
    }
}
