//! What all commands that observe have in common: arguments, errors, tables, JSON, how they end.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use crate::common::daemon;
use crate::common::hosts::Hosts;
use crate::common::observe::Observing;
use flowtag_kernel::probes::{Measure, Merge, PROBES, Source};
use flowtag_testbed::{Process, WAIT, require_root, wait_until};

fn flowtag(args: &[&str]) -> Output {
    Command::new(daemon::binary()).args(args).output().expect("it runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One whole connection, from host a to host b.
fn connection(hosts: &Hosts, port: u16) {
    let at = hosts.dst(port);
    let listener = hosts.b.run(|| TcpListener::bind(at)).expect("host b").expect("bind");
    let client = hosts.a.run(|| TcpStream::connect(at)).expect("host a").expect("connect");
    let (server, _) = listener.accept().expect("accept");
    drop((client, server));
}

#[test]
fn what_cannot_be_done_says_what_would_do() {
    for (args, expected) in [
        (&["life", "prot 80"][..], "\"prot\": no word of expressions: did you mean"),
        (&["life", "port", "8o"], "at character 6, \"8o\": no port"),
        (&["life", "--tag", "nobody/nothing"], "--tag"),
        (&["life", "--netns", "no-such-namespace"], "there is no network namespace \"no-such-namespace\""),
        (&["life", "--netns", "4000000001"], "lsns -t net"),
        (&["life", "--netns", "/etc/passwd/x"], "no file of a network namespace"),
        (&["life", "--by", "colour"], "there are no sums by \"colour\""),
    ] {
        let output = flowtag(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn without_privileges_it_says_which_are_lacking() {
    require_root!();
    // A copy that is open to everybody: the folder of the build may not be.
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open");
    let program = dir.path().join("flowtag");
    fs::copy(daemon::binary(), &program).expect("a copy");
    let output = Command::new(program).args(["life", "-d", "1"]).uid(65534).gid(65534).output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("this process lacks CAP_BPF, CAP_PERFMON"), "{text}");
    assert!(!text.contains("libbpf:"), "{text}");
}

#[test]
fn who_has_read_enough_ends_it() {
    require_root!();
    let hosts = Hosts::new("frhead");
    let mut command = hosts.a.command("sh");
    command.args(["-c", &format!("{} life | head -n 1", daemon::binary().display())]);
    let mut shell = Process::spawn(command).expect("a shell");
    shell.wait_for_output("watching", WAIT).expect("it watches");
    connection(&hosts, 5000);
    let ended = shell.wait(WAIT).expect("it ends though nothing more happens");
    assert!(ended.status.success());
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    assert!(!ended.stderr.to_lowercase().contains("pipe"), "{}", ended.stderr);
}

#[test]
fn a_duration_ends_it_though_nothing_happens() {
    require_root!();
    let hosts = Hosts::new("frtime");
    for args in [["life", "-d", "0.5"], ["top", "-d", "0.5"]] {
        let mut command = hosts.a.command(daemon::binary());
        command.args(args);
        let begin = Instant::now();
        let ended = Process::spawn(command).expect("it starts").wait(WAIT).expect("it ends");
        assert!(ended.status.success() && begin.elapsed().as_millis() >= 500, "{args:?}: {}", ended.stderr);
        assert!(ended.stdout.contains("lost 0") && ended.stdout.contains("evicted 0"), "{}", ended.stdout);
    }
}

#[test]
fn an_expression_chooses_and_sums_have_keys() {
    require_root!();
    let hosts = Hosts::new("frexpr");
    let chosen = Observing::start(&hosts.a, &["--json", "life", "dst port 5001 and not port 5002"]);
    let by_pid = Observing::start(&hosts.a, &["--json", "life", "--by", "peer,pid", "-i", "1h"]);
    let mine = format!("pid {} and process observe_frame-of-any-name", std::process::id());
    let none = Observing::start(&hosts.a, &["--json", "life", &mine]);
    let mut all = Observing::start(&hosts.a, &["--json", "life"]);
    (5001..5004).for_each(|port| connection(&hosts, port));
    all.wait_for("\"remote_port\":5003");
    let (records, _) = chosen.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["remote_port"], 5001);
    assert_eq!((none.stop_json().0.len(), all.stop_json().0.len()), (0, 3));
    let (rows, summary) = by_pid.stop_json();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    let row = &rows[0];
    assert_eq!((&row["events"], &row["pid"]), (&3.into(), &std::process::id().into()));
    assert_eq!(row["remote_address"], hosts.dst(1).ip().to_string());
    assert!(row["interval_s"].is_f64() && row["sent_bytes"].is_u64(), "{row}");
    assert_eq!(summary["lost"], 0);
}

#[test]
fn lines_fit_a_terminal_and_flows_are_whole_where_there_is_room() {
    require_root!();
    let hosts = Hosts::new("frwide");
    let (long, far) = ("2001:db8:1111:2222:3333:4444:5555:1", "2001:db8:1111:2222:3333:4444:5555:2");
    hosts.a.add_address("eth0", &format!("{long}/64")).expect("an address");
    hosts.b.add_address("eth0", &format!("{far}/64")).expect("an address");
    let at: SocketAddr = format!("[{far}]:5000").parse().expect("an address");
    let start = |width: &str| {
        let mut command = hosts.a.command(daemon::binary());
        command.args(["life"]).env("COLUMNS", width).env("TZ", "UTC");
        let mut process = Process::spawn(command).expect("it starts");
        process.wait_for_output("watching", WAIT).expect("it watches");
        process
    };
    let (mut narrow, mut wide) = (start("80"), start("250"));
    let listener = hosts.b.run(|| TcpListener::bind(at)).expect("host b").expect("bind");
    drop(hosts.a.run(|| TcpStream::connect(at)).expect("host a").expect("connect"));
    drop(listener.accept().expect("accept"));
    narrow.wait_for_output(":5000", WAIT).expect("a line");
    wide.wait_for_output(":5000", WAIT).expect("a line");
    let line = |process: &Process| {
        process.stdout().lines().find(|line| line.contains(":5000")).expect("a line").to_owned()
    };
    assert!(line(&narrow).chars().count() <= 80, "{}", line(&narrow));
    assert!(line(&narrow).contains("…2]:5000"), "{}", line(&narrow));
    assert!(
        line(&wide).contains(&format!("[{long}]:")) && line(&wide).contains(&at.to_string()),
        "{}",
        line(&wide)
    );
}

#[test]
fn a_namespace_may_be_named_from_outside() {
    require_root!();
    let hosts = Hosts::new("frnetns");
    let bed = hosts.a.namespace_path();
    let start = |netns: &str| {
        let mut command = Command::new(daemon::binary());
        command.args(["--json", "life", "--netns", netns, "port 5000"]);
        let mut process = Process::spawn(command).expect("it starts");
        process.wait_for_output("watching", WAIT).expect("it watches");
        process
    };
    let (mut one, mut all) = (start(&bed.display().to_string()), start("all"));
    connection(&hosts, 5000);
    let ends =
        |process: &Process| process.stdout().lines().filter(|line| line.contains("remote_port")).count();
    one.wait_for_output("remote_port", WAIT).expect("host a's end");
    all.wait_for_output("remote_port", WAIT).expect("an end");
    wait_until("both ends", WAIT, || Ok((ends(&all) == 2).then_some(()))).expect("both ends");
    assert_eq!(ends(&one), 1, "{}", one.stdout());
}

/// Descriptions are what help, tables, JSON, metrics and the reference are made of.
#[test]
fn every_probe_is_described() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let context: HashSet<_> = CONTEXT.iter().copied().collect();
    for probe in PROBES {
        let name = probe.name;
        let readme = fs::read_to_string(root.join(format!("crates/kernel/src/probes/{name}/README.md")));
        let readme = readme.unwrap_or_else(|e| panic!("{name} has no README.md: {e}")).to_lowercase();
        for said in [
            &["since"][..],
            &["exact", "accura"],
            &["gap", "miss", "limit"],
            &["cost: see docs/performance.md"],
        ] {
            assert!(
                said.iter().any(|word| readme.contains(word)),
                "README.md of {name} says nothing of {said:?}"
            );
        }
        assert!(!probe.about.ends_with('.'), "{name}");
        // Some are parts of a command of another name.
        let help = flowtag(&[name, "--help"]);
        if help.status.success() {
            assert!(root.join(format!("docs/{name}.md")).exists(), "docs/{name}.md");
            assert!(
                String::from_utf8_lossy(&help.stdout).contains("Examples:\n  flowtag"),
                "{name} has no examples"
            );
        }
        for (line, _) in probe.examples {
            assert!(!line.starts_with("flowtag"), "{name}: {line}");
        }
        let mut names = HashSet::new();
        for column in probe.columns {
            assert!(names.insert(column.name), "{name} has {} twice", column.name);
            // What is no number says the same as the key that it replaces.
            let is_same = column.merge != Merge::Sum || !context.contains(column.name);
            assert!(is_same, "{name}: {} is a key of every record", column.name);
            assert!(!column.help.is_empty() && !column.help.ends_with('.'), "{name}: {}", column.help);
        }
        for metric in probe.metrics {
            assert!(
                metric.name.starts_with("flowtag_") && !metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
            let of = match metric.measure {
                Measure::Sum(column) | Measure::Seconds(column) => Some(column),
                Measure::Records | Measure::Distribution => None,
            };
            for column in metric.labels.iter().copied().chain(of) {
                assert!(names.contains(column), "{}: {name} has no column {column}", metric.name);
            }
        }
        if matches!(probe.source, Source::Rows(_)) {
            assert!(probe.columns.iter().any(|c| c.merge != Merge::Key), "{name} sums nothing");
        }
    }
}

const CONTEXT: [&str; 18] = [
    "time",
    "protocol",
    "local_address",
    "local_port",
    "remote_address",
    "remote_port",
    "experiment",
    "activity",
    "experiment_name",
    "activity_name",
    "pid",
    "process",
    "user",
    "unit",
    "cgroup",
    "netns",
    "interface",
    "socket_cookie",
];

#[test]
fn help_has_columns_and_examples_and_packages_get_their_pages() {
    let pages = tempfile::tempdir().expect("a directory");
    let to = pages.path().to_str().expect("a path");
    assert!(flowtag(&["generate", "man", "--to", to]).status.success());
    let completions = String::from_utf8(flowtag(&["generate", "bash"]).stdout).expect("text");
    for name in ["life", "top", "retrans"] {
        let help = String::from_utf8(flowtag(&[name, "--help"]).stdout).expect("text");
        let probe = PROBES.iter().find(|probe| probe.name == name).expect("a probe");
        assert!(help.starts_with(probe.about), "{help}");
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("no {text:?} in {help}"));
        assert!(at("Usage:") < at("Columns") && at("Columns") < at("Examples:"));
        assert!(probe.columns.iter().all(|column| help.contains(column.name)), "{help}");
        let page = fs::read_to_string(pages.path().join(format!("flowtag-{name}.1"))).expect("a page");
        assert!(page.contains("Examples"), "{page}");
        assert!(completions.contains(&format!("flowtag,{name})\n")), "{name} is not completed");
    }
}
