//! `flowtag flow` as an administrator types it, against the running daemon.

use std::process::{Command, Output};
use std::time::Duration;

use crate::common;
use crate::common::daemon::Daemon;
use crate::common::{api, cli};
use flowtag_testbed::Process;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SRC: &str = "[2001:db8::1]:1094";
const DST: &str = "[2001:db8::2]:40000";
const TAG: &str = "cms/Analysis Input";
const LIMIT: Duration = Duration::from_secs(20);

fn daemon() -> Daemon {
    Daemon::start("[mark]\nenabled = false\n[flows]\nmax = 3\n[outputs.firefly]\nenabled = false\n")
}

fn start(daemon: &Daemon, tag: &str, dst: &str) -> String {
    cli::ok(daemon, &["flow", "start", "--tag", tag, "tcp", SRC, dst])
}

/// What a command that has to fail says, with exit status 1 and nothing on standard output.
#[track_caller]
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.starts_with("flowtag: "), "{stderr}");
    stderr
}

#[test]
fn a_flow_is_started_changed_and_ended_by_its_five_tuple() {
    let daemon = daemon();
    let off = "not marked: marking is off (mark.enabled)";
    assert_eq!(start(&daemon, TAG, DST), format!("flow 1 started: {TAG}; {off}\n"));
    assert_eq!(start(&daemon, "3/14", DST), format!("flow 1 refreshed: {TAG}; {off}\n"));
    assert_eq!(start(&daemon, "CMS/15", DST), format!("flow 1 updated: cms/Analysis Output; {off}\n"));
    let turned = cli::ok(&daemon, &["flow", "end", "tcp", DST, SRC]);
    assert_eq!(
        turned, "flow 1 ended: cms/Analysis Output\n",
        "written from the other end it is the same flow"
    );
    let again = refusal(&cli::run(&daemon, &["flow", "end", "tcp", SRC, DST]));
    assert!(again.contains("there is no such flow") && again.contains("flowtag flow list"), "{again}");
    daemon.stop();
}

#[test]
fn a_flow_is_ended_by_the_number_that_list_shows() {
    let daemon = daemon();
    start(&daemon, TAG, DST);
    let id = cli::json(&daemon, &["flow", "list"])["id"].to_string();
    assert_eq!(cli::ok(&daemon, &["flow", "end", &id]), format!("flow {id} ended: {TAG}\n"));
    assert_eq!(api::get(&daemon, "/v1/flows").json()["total"], 0);
    daemon.stop();
}

#[test]
fn scitag_and_application_reach_the_daemon() {
    let daemon = daemon();
    let args = ["flow", "start", "--scitag", "206", "--application", "xrootd 5.7", "udp", SRC, DST];
    let started = cli::json(&daemon, &args);
    assert_eq!(started["outcome"], "started");
    let expected = json!({ "protocol": "udp", "src": SRC, "dst": DST, "experiment": 3, "activity": 14 });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&started["flow"][key], value, "{key}");
    }
    assert_eq!(started["flow"]["application"], "xrootd 5.7");
    let ended = cli::json(&daemon, &["flow", "end", "udp", SRC, DST]);
    assert_eq!((&ended["id"], &ended["application"]), (&json!(1), &json!("xrootd 5.7")));
    daemon.stop();
}

#[test]
fn list_shows_a_line_a_flow_and_says_how_many_there_are() {
    let daemon = daemon();
    let list = |args: &[&str]| cli::ok(&daemon, &[&["flow", "list"], args].concat());
    assert!(list(&[]).ends_with("LAST SEEN\n0 flows\n"));
    start(&daemon, TAG, DST);
    assert!(list(&[]).ends_with("\n1 flow\n"));
    start(&daemon, "atlas/default", "[2001:db8::2]:40001");
    let table = list(&[]);
    let rows: Vec<Vec<_>> =
        table.lines().map(|l| l.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect()).collect();
    assert_eq!(rows[0], ["ID", "TAG", "LABEL", "PROTO", "LOCAL", "REMOTE", "FROM", "LAST SEEN"]);
    assert_eq!(rows[1][..7], ["1", TAG, "off", "tcp", SRC, DST, "api"]);
    assert_eq!(rows[2][..3], ["2", "atlas/default", "off"]);
    assert_eq!(rows[3], ["2 flows"]);
    assert!(list(&["--limit", "1"]).ends_with("\n1 of 2 flows\n"));
    let atlas = list(&["--experiment", "ATLAS"]);
    assert!(
        atlas.contains("atlas/default") && !atlas.contains("cms/") && atlas.ends_with("1 flow\n"),
        "{atlas}"
    );
    daemon.stop();
}

#[test]
fn a_strategy_is_shown_where_it_is_not_the_label() {
    let daemon = daemon();
    start(&daemon, TAG, DST);
    let args = ["flow", "start", "--tag", TAG, "--strategy", "HopByHop+destination", "tcp", SRC, DST];
    let off = "not marked: marking is off (mark.enabled)";
    assert_eq!(cli::ok(&daemon, &args), format!("flow 1 updated: {TAG}; {off}\n"));
    let table = cli::ok(&daemon, &["flow", "list"]);
    let rows: Vec<_> = table.lines().collect();
    assert!(
        rows[0].starts_with("ID  TAG                 LABEL  STRATEGY                PROTO  LOCAL"),
        "{table}"
    );
    assert!(rows[1].contains("  off    hop-by-hop+destination  tcp    "), "{table}");
    assert_eq!(cli::json(&daemon, &["flow", "list"])["strategy"], "hop-by-hop+destination");
    let ended = cli::json(&daemon, &["flow", "end", "1"]);
    assert_eq!((&ended["strategy"], &ended["rule"]), (&json!("hop-by-hop+destination"), &Value::Null));
    let refused =
        refusal(&cli::run(&daemon, &["flow", "start", "--tag", TAG, "--strategy", "l", "tcp", SRC, DST]));
    assert!(refused.contains("\"l\" is no strategy: use label, destination, hop-by-hop"), "{refused}");
    daemon.stop();
}

#[test]
fn a_flow_is_reported_as_often_as_its_start_asks_for() {
    let quiet = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n";
    let daemon =
        Daemon::start(&format!("{quiet}[outputs.json]\nenabled = true\npath = \"{{dir}}/flows.json\"\n"));
    start(&daemon, TAG, "[2001:db8::2]:1");
    cli::ok(&daemon, &["flow", "start", "--tag", TAG, "--report-every", "1s", "tcp", SRC, DST]);
    let told = || {
        let lines = std::fs::read_to_string(daemon.dir().join("flows.json"))?;
        let ongoing: Vec<_> =
            lines.lines().filter(|line| line.contains("\"ongoing\"")).map(str::to_owned).collect();
        Ok((ongoing.len() >= 2).then_some(ongoing))
    };
    let told = flowtag_testbed::wait_until("two reports", LIMIT, told).expect("reported");
    assert!(told.iter().all(|line| line.contains("\"flow_id\":2,")), "{told:?}");
    daemon.stop();
}

#[test]
fn list_prints_a_json_object_a_line() {
    let daemon = daemon();
    assert_eq!(cli::ok(&daemon, &["--json", "flow", "list"]), "", "no flow, no line");
    start(&daemon, TAG, DST);
    start(&daemon, "2/1", "[2001:db8::2]:40001");
    let text = cli::ok(&daemon, &["--json", "flow", "list"]);
    let ids: Vec<Value> =
        text.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["id"].clone()).collect();
    assert_eq!(ids, [1, 2]);
    daemon.stop();
}

#[test]
fn names_with_blanks_and_signs_reach_the_daemon_as_they_are() {
    let daemon = daemon();
    let name = "data & more/100% é?#";
    let refused = refusal(&cli::run(&daemon, &["flow", "list", "--experiment", name]));
    assert!(refused.contains(&format!("experiment {name:?} is not in the registry")), "{refused}");
    daemon.stop();
}

#[test]
fn watch_tells_each_change_until_the_daemon_stops() {
    let daemon = daemon();
    let mut watch = watch(&daemon, &[]);
    let as_json = self::watch(&daemon, &["--json"]);
    // Watchers miss what was before them, so the flow is started until both have seen it.
    for (process, sign) in [(&watch, "started"), (&as_json, "\"started\"")] {
        flowtag_testbed::wait_until("the watcher to see a start", LIMIT, || {
            start(&daemon, TAG, DST);
            cli::ok(&daemon, &["flow", "end", "tcp", SRC, DST]);
            Ok(process.stdout().contains(sign).then_some(()))
        })
        .expect("a start");
    }
    start(&daemon, TAG, "[2001:db8::2]:7");
    start(&daemon, "cms/15", "[2001:db8::2]:7");
    cli::ok(&daemon, &["flow", "end", "tcp", SRC, "[2001:db8::2]:7"]);
    for expected in [
        "  started  cms/Analysis Input  tcp [2001:db8::1]:1094 > [2001:db8::2]:7",
        "  updated  cms/Analysis Output  tcp [2001:db8::1]:1094 > [2001:db8::2]:7",
        "  ended    cms/Analysis Output  tcp [2001:db8::1]:1094 > [2001:db8::2]:7  (requested)",
    ] {
        watch.wait_for_output(expected, LIMIT).expect("the change is told");
    }
    let as_json_too = || Ok(is_end(&last_line(&as_json.stdout()), "[2001:db8::2]:7").then_some(()));
    flowtag_testbed::wait_until("the end as JSON", LIMIT, as_json_too).expect("the same changes");
    daemon.stop();
    let ended = watch.wait(LIMIT).expect("it ends with the daemon");
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(1), "flowtag: the daemon stopped\n"));
}

fn last_line(text: &str) -> Value {
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

fn is_end(line: &Value, dst: &str) -> bool {
    line["change"] == "ended" && line["reason"] == "requested" && line["flow"]["dst"] == dst
}

#[track_caller]
fn watch(daemon: &Daemon, args: &[&str]) -> Process {
    let mut command = Command::new(common::daemon::binary());
    command.args(args).args(["flow", "watch", "--socket"]).arg(daemon.socket());
    Process::spawn(command).expect("the command line runs")
}

#[test]
fn watch_ends_quietly_when_its_reader_does() {
    let daemon = daemon();
    let shell = format!("{} flow watch | head -n 1", common::daemon::binary().to_string_lossy());
    let mut command = Command::new("sh");
    command.args(["-c", &shell]).env("FLOWTAG_SOCKET", daemon.socket());
    let mut pipeline = Process::spawn(command).expect("sh");
    flowtag_testbed::wait_until("the pipeline to end", LIMIT, || {
        start(&daemon, TAG, DST);
        cli::ok(&daemon, &["flow", "end", "tcp", SRC, DST]);
        Ok((!pipeline.is_running()).then_some(()))
    })
    .expect("head has its line, and watch no reader");
    let ended = pipeline.wait(LIMIT).expect("it ended");
    assert_eq!(ended.stderr, "", "a broken pipe is no error");
    assert_eq!(ended.stdout.lines().count(), 1);
    daemon.stop();
}

#[test]
fn what_the_daemon_refuses_is_said_with_its_reason() {
    let daemon = daemon();
    for (args, expected) in [
        (&["flow", "start", "--tag", "cmss/14", "tcp", SRC, DST][..], "did you mean \"cms\"?"),
        (&["flow", "start", "--tag", "cms", "tcp", SRC, DST], "write EXPERIMENT/ACTIVITY"),
        (
            &["flow", "start", "--tag", "512/14", "tcp", SRC, DST],
            "experiment 512 is out of range: use 1 to 511",
        ),
        (&["flow", "start", "--scitag", "64", "tcp", SRC, DST], "scitag integer 64 is out of range"),
        (&["flow", "start", "--tag", "3/14", "tcp", SRC, "192.0.2.1:1"], "different address families"),
        (&["flow", "start", "--tag", "3/14", "sctp", SRC, DST], "use tcp or udp"),
        (&["flow", "start", "--tag", "3/14", "--application", "a\nb", "tcp", SRC, DST], "control characters"),
        (&["flow", "end", "one"], "\"one\" is not a flow's number"),
        (&["flow", "end", "tcp", SRC], "give its number, or protocol, source and destination"),
        (&["flow", "end", "99"], "there is no such flow"),
    ] {
        let refused = refusal(&cli::run(&daemon, args));
        assert!(refused.contains(expected), "{args:?}: {refused}");
    }
    for port in 1..=3 {
        start(&daemon, TAG, &format!("[2001:db8::2]:{port}"));
    }
    let full = refusal(&cli::run(&daemon, &["flow", "start", "--tag", TAG, "tcp", SRC, DST]));
    assert!(full.contains("the flow table is full: it may hold 3 flows"), "{full}");
    daemon.stop();
}

#[test]
fn without_a_daemon_every_command_says_how_to_start_it() {
    let daemon = daemon();
    let socket = daemon.dir().join("elsewhere.sock");
    let commands: [&[&str]; 9] = [
        &["rule", "list"],
        &["rule", "add", "--name", "x", "--tag", TAG],
        &["rule", "del", "x"],
        &["coverage"],
        &["flow", "start", "--tag", TAG, "tcp", SRC, DST],
        &["flow", "end", "1"],
        &["flow", "list"],
        &["flow", "watch"],
        &["status"],
    ];
    for args in commands {
        let output = Command::new(common::daemon::binary()).args(args).arg("--socket").arg(&socket).output();
        let refused = refusal(&output.expect("the command line runs"));
        assert!(refused.contains(&format!("cannot reach the daemon at {}", socket.display())), "{refused}");
        assert!(refused.contains("systemctl start flowtag"), "{refused}");
        assert!(refused.contains("because: No such file or directory"), "{refused}");
    }
    daemon.stop();
}

#[test]
fn a_socket_that_a_killed_daemon_left_is_told_like_no_daemon_and_replaced() {
    let mut daemon = daemon();
    daemon.signal(Signal::SIGKILL);
    flowtag_testbed::wait_until("the daemon to die", LIMIT, || Ok((!daemon.is_running()).then_some(())))
        .expect("it died");
    assert!(daemon.socket().exists(), "nobody could remove it");
    let refused = refusal(&cli::run(&daemon, &["status"]));
    assert!(refused.contains("flowtag run") && refused.contains("Connection refused"), "{refused}");
    let again = Daemon::start(&format!(
        "[mark]\nenabled = false\n[inputs.control]\npath = \"{}\"\n",
        daemon.socket().display()
    ));
    cli::ok(&again, &["status"]);
    again.stop();
}

#[test]
fn who_may_not_connect_is_told_who_may() {
    let daemon = daemon();
    std::fs::set_permissions(daemon.socket(), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .expect("chmod");
    let refused = refusal(&without_override(|| cli::run(&daemon, &["status"])));
    assert!(
        refused.contains("run as root, or as a member of the group in inputs.control.group"),
        "{refused}"
    );
    assert!(refused.contains("because: Permission denied"), "{refused}");
    daemon.stop();
}

/// Runs on a thread whose children cannot pass over the mode of a file, also where the test runs as root.
fn without_override<T: Send>(closure: impl FnOnce() -> T + Send) -> T {
    use caps::{CapSet, Capability};
    let run = || {
        // Without the right to do this there is nothing to give up either.
        let _ = caps::drop(None, CapSet::Bounding, Capability::CAP_DAC_OVERRIDE);
        closure()
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("the closure"))
}
