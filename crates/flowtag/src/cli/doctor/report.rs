//! How the checks are printed: 80 columns for people, one object for programs.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use flowtag_kernel::features::{Check, Status};
use serde_json::{Value, json};

use super::super::output::{self, wrap};

const WIDTH: usize = 80;
/// Status words and a blank.
const STATUS: usize = 8;
/// Names and two blanks; a longer name pushes its detail to the right.
const NAME: usize = 19;
const INDENT: usize = STATUS + NAME;
const REMEDY: &str = "fix: ";

/// Whether all that was asked for works, as far as could be found out.
pub(super) fn is_ok(checks: &[Check]) -> bool {
    count(checks, Status::Missing) == 0
}

/// # Errors
/// Standard output is closed.
pub(super) fn json(checks: &[Check]) -> Result<()> {
    output::json(&json!({ "ok": is_ok(checks), "checks": checks.iter().map(object).collect::<Vec<_>>() }))
}

fn object(check: &Check) -> Value {
    let mut object = json!({ "name": check.name, "status": check.status.word(), "detail": check.detail });
    if let Some(remedy) = &check.remedy {
        object["remedy"] = remedy.as_str().into();
    }
    object
}

/// # Errors
/// Standard output is closed.
pub(super) fn print(checks: &[Check]) -> Result<()> {
    let colour = output::wants_colour();
    for check in checks {
        lines(check, colour).into_iter().try_for_each(output::line)?;
    }
    output::line("")?;
    wrap(&summary(checks), WIDTH, WIDTH).into_iter().try_for_each(output::line)
}

/// One check: what was found, and below what to do about it.
fn lines(check: &Check, colour: bool) -> Vec<String> {
    let style = if colour { style(check.status) } else { Style::new() };
    let name = format!("{:<width$}", check.name, width = NAME - 2);
    let first = format!("{style}{:<STATUS$}{style:#}{name}  ", check.status);
    let room = WIDTH - INDENT;
    let first_room = room.saturating_sub(name.chars().count() + 2 - NAME);
    let mut out = indented(&first, &wrap(&check.detail, first_room, room), INDENT);
    if let Some(remedy) = &check.remedy {
        let room = room - REMEDY.len();
        let first = " ".repeat(INDENT) + REMEDY;
        out.extend(indented(&first, &wrap(remedy, room, room), INDENT + REMEDY.len()));
    }
    out
}

fn indented(first: &str, lines: &[String], by: usize) -> Vec<String> {
    let start = |n: usize| if n == 0 { first.to_owned() } else { " ".repeat(by) };
    lines.iter().enumerate().map(|(n, line)| (start(n) + line).trim_end().to_owned()).collect()
}

fn style(status: Status) -> Style {
    let colour = match status {
        Status::Ok => AnsiColor::Green,
        Status::Missing => AnsiColor::Red,
        Status::Warn => AnsiColor::Yellow,
        Status::Unknown => AnsiColor::Cyan,
    };
    colour.on_default()
}

fn count(checks: &[Check], status: Status) -> usize {
    checks.iter().filter(|c| c.status == status).count()
}

fn summary(checks: &[Check]) -> String {
    let [missing, warnings, unknown] =
        [Status::Missing, Status::Warn, Status::Unknown].map(|status| count(checks, status));
    let mut parts = vec![match (missing, unknown) {
        (0, 0) => "all that the configuration asks for works".to_owned(),
        (0, _) => "all that could be checked works".to_owned(),
        (n, _) => format!("{} that the configuration asks for {} missing", things(n, "thing"), is(n)),
    }];
    parts.extend((warnings > 0).then(|| things(warnings, "warning")));
    parts.extend((unknown > 0).then(|| format!("{unknown} could not be checked")));
    parts.join("; ")
}

fn things(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

const fn is(n: usize) -> &'static str {
    if n == 1 { "is" } else { "are" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_80_columns() {
        let words = "some words that go on for longer than one line of a terminal has room ".repeat(4);
        for name in ["tcx", "interface enp65s0f0np0", "a name that is much too long for its column"] {
            for line in lines(&Check::missing(name, words.clone(), words.clone()), false) {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn a_remedy_stands_below_the_detail() {
        let check = Check::missing("tcx", "not there", "get a kernel");
        let expected =
            ["missing tcx                not there", "                           fix: get a kernel"];
        assert_eq!(lines(&check, false), expected);
        assert_eq!(lines(&Check::ok("tcx", ""), false), ["ok      tcx"]);
    }

    #[test]
    fn a_name_that_others_chose_cannot_forge_a_line() {
        let printed = lines(&Check::ok("egress eth0", "tcx evil\nok      tcx \x1b[2J"), false);
        assert_eq!(printed, ["ok      egress eth0        tcx evil ok tcx [2J"]);
    }

    #[test]
    fn colours_are_only_on_the_status() {
        let [line] = lines(&Check::ok("tcx", "there"), true).try_into().expect("one line");
        assert_eq!(line, "\x1b[32mok      \x1b[0mtcx                there");
    }

    #[test]
    fn the_summary_counts() {
        let [ok, missing] = [Check::ok("a", "b"), Check::missing("a", "b", "c")];
        let [warn, unknown] = [Check::warn("a", "b", "c"), Check::unknown("a", "b", "c")];
        for (checks, expected) in [
            (&[ok.clone()][..], "all that the configuration asks for works"),
            (&[ok, warn.clone()], "all that the configuration asks for works; 1 warning"),
            (&[unknown.clone(), unknown], "all that could be checked works; 2 could not be checked"),
            (std::slice::from_ref(&missing), "1 thing that the configuration asks for is missing"),
            (
                &[missing.clone(), missing.clone(), warn],
                "2 things that the configuration asks for are missing; 1 warning",
            ),
        ] {
            assert_eq!(summary(checks), expected);
        }
    }

    #[test]
    fn json_has_a_remedy_only_where_there_is_one() {
        let text = |check: &Check| object(check).to_string();
        assert_eq!(text(&Check::ok("a", "b")), r#"{"detail":"b","name":"a","status":"ok"}"#);
        assert!(text(&Check::warn("a", "b", "c")).contains(r#""remedy":"c""#));
    }
}
