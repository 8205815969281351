//! Who may tag as what: each by their own uid and groups on the control socket, and nobody knows who on the pipe.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::daemon::{Daemon, binary};
use crate::common::{api, cli};
use flowtag_testbed::{require_root, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// Nobody in particular: uids and gids that no host gives to its users.
const ALICE: &str = "64001";
const BOB: &str = "64002";
const OPERATORS: &str = "64100";
const SRC: &str = "[2001:db8::1]:1094";

const BASE: &str = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[inputs.pipe]\nenabled = true\n\
    [inputs.control]\nmode = \"0666\"\n";
const BLOCKS: &str = "[[access]]\ninput = \"control\"\nuser = 64001\ntags = \"cms\"\n\
    [[access]]\ninput = \"control\"\ngroup = 64100\ntags = \"atlas/perfSONAR\"\n\
    [[access]]\ninput = \"pipe\"\ntags = \"lhcb\"\n";

fn limited() -> Daemon {
    let daemon = Daemon::start(&format!("{BASE}{BLOCKS}"));
    // Not only for whoever made the directory.
    fs::set_permissions(daemon.dir(), Permissions::from_mode(0o711)).expect("chmod");
    daemon
}

/// A command of somebody with these groups, of which the first is the primary one.
fn by(user: &str, groups: &[&str], program: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", groups.first().copied().unwrap_or(user)]);
    match groups.get(1..) {
        Some(more) if !more.is_empty() => command.args(["--groups", &more.join(",")]),
        _ => command.arg("--clear-groups"),
    };
    command.arg(program);
    command
}

fn flowtag(daemon: &Daemon, user: &str, groups: &[&str], args: &[&str]) -> Output {
    let mut command = by(user, groups, &binary());
    command.env("FLOWTAG_SOCKET", daemon.socket()).args(args).output().expect("setpriv runs")
}

#[track_caller]
fn allowed(daemon: &Daemon, user: &str, groups: &[&str], args: &[&str]) -> String {
    let output = flowtag(daemon, user, groups, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{user} {args:?}: {stderr}\n{}", daemon.log());
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn denied(daemon: &Daemon, user: &str, groups: &[&str], args: &[&str], why: &str) {
    let output = flowtag(daemon, user, groups, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{user} {args:?} is let through");
    let expected = format!("flowtag: user {user} may not {why}");
    assert!(stderr.starts_with(&expected), "{user} {args:?}: {stderr} is not\n{expected}");
    assert!(stderr.contains("no [[access]] block of the configuration allows it"), "{stderr}");
}

fn counts(daemon: &Daemon, service: &str) -> Value {
    cli::json(daemon, &["status"])["services"][service]["counts"].clone()
}

/// The tag of the only flow.
fn tag(daemon: &Daemon) -> String {
    let flows = api::get(daemon, "/v1/flows").json();
    assert_eq!(flows["total"], 1, "{flows:#}");
    format!("{}/{}", flows["flows"][0]["experiment_name"], flows["flows"][0]["activity_name"])
        .replace('"', "")
}

#[test]
fn everybody_tags_as_what_they_may_and_nothing_else() {
    require_root!();
    let daemon = limited();
    let start = |tag, dst| ["flow", "start", "--tag", tag, "tcp", SRC, dst];
    allowed(&daemon, ALICE, &[], &start("cms/Analysis Input", "[2001:db8::2]:1"));
    denied(&daemon, ALICE, &[], &start("atlas/perfSONAR", "[2001:db8::2]:2"), "tag as ");
    denied(&daemon, BOB, &[], &start("cms/Analysis Input", "[2001:db8::2]:3"), "tag as ");
    allowed(&daemon, BOB, &[OPERATORS], &start("atlas/perfSONAR", "[2001:db8::2]:4"));
    allowed(&daemon, BOB, &[BOB, "64101", OPERATORS], &start("atlas/perfSONAR", "[2001:db8::2]:5"));
    denied(&daemon, BOB, &[OPERATORS], &start("atlas/14", "[2001:db8::2]:6"), "tag as ");
    allowed(&daemon, "0", &[], &start("atlas/14", "[2001:db8::2]:7"));
    assert_eq!(api::get(&daemon, "/v1/flows").json()["total"], 4);
    let counts = counts(&daemon, "inputs.control");
    assert_eq!((&counts["denied"], &counts["events"], &counts["refused"]), (&json!(3), &json!(4), &json!(0)));
    let log = daemon.log();
    let line = log.lines().find(|l| l.contains("denied: start of tcp [2001:db8::1]:1094 > [2001:db8::2]:2 "));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("atlas/perfSONAR") && line.contains("uid=64001") && line.contains("pid="),
        "{line}"
    );
    daemon.stop();
}

#[test]
fn a_flow_is_ended_and_changed_only_by_whoever_may_have_begun_it() {
    require_root!();
    let daemon = limited();
    let dst = "[2001:db8::2]:1";
    allowed(&daemon, ALICE, &[], &["flow", "start", "--tag", "cms/Analysis Input", "tcp", SRC, dst]);
    let other = ["flow", "start", "--tag", "atlas/perfSONAR", "tcp", SRC, dst];
    denied(&daemon, BOB, &[OPERATORS], &other, "give another tag to a flow of ");
    denied(&daemon, BOB, &[OPERATORS], &["flow", "end", "1"], "end a flow of ");
    denied(&daemon, BOB, &[OPERATORS], &["flow", "end", "tcp", dst, SRC], "end a flow of ");
    assert_eq!(tag(&daemon), "cms/Analysis Input");
    allowed(&daemon, ALICE, &[], &["flow", "start", "--tag", "cms/perfSONAR", "tcp", SRC, dst]);
    assert_eq!(tag(&daemon), "cms/perfSONAR");
    allowed(&daemon, ALICE, &[], &["flow", "end", "1"]);
    assert_eq!(api::get(&daemon, "/v1/flows").json()["total"], 0);
    daemon.stop();
}

/// One request of somebody, by curl: the status and the body.
fn post(daemon: &Daemon, user: &str, path: &str, body: &Value) -> (String, Value) {
    let mut curl = by(user, &[], "curl".as_ref());
    curl.args(["--silent", "--write-out", "\n%{http_code}", "--unix-socket"]).arg(daemon.socket());
    curl.arg(format!("http://localhost{path}")).args(["--data", &body.to_string()]);
    let output = curl.output().expect("curl runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.to_owned(), serde_json::from_str(body).expect("JSON"))
}

#[test]
fn of_a_batch_that_is_taken_which_may_be() {
    require_root!();
    let daemon = limited();
    let event = |state: &str, port: u16, experiment: &str| {
        json!({ "state": state, "protocol": "tcp", "src": SRC, "dst": format!("[2001:db8::2]:{port}"),
            "experiment": experiment, "activity": "perfSONAR" })
    };
    let end = |port: u16| json!({ "state": "end", "protocol": "tcp", "src": SRC, "dst": format!("[2001:db8::2]:{port}") });
    assert_eq!(api::post(&daemon, "/v1/events", &json!([event("start", 9, "atlas")])).json()["accepted"], 1);
    let batch = json!([
        event("start", 1, "cms"),
        event("ongoing", 2, "cms"),
        event("ongoing", 3, "atlas"), // not Alice's
        end(1),                       // of this batch
        end(9),                       // root's
        event("start", 9, "cms"),
        end(77), // of nobody
    ]);
    let (status, result) = post(&daemon, ALICE, "/v1/events", &batch);
    assert_eq!((status.as_str(), &result["accepted"], &result["rejected"]), ("200", &json!(3), &json!(4)));
    let errors = result["errors"].as_array().expect("a list");
    let error = |index: u64| {
        let error = errors.iter().find(|e| e["index"] == index).unwrap_or_else(|| panic!("{result:#}"));
        error["error"].as_str().expect("text").to_owned()
    };
    assert!(error(2).starts_with("user 64001 may not tag as "), "{}", error(2));
    assert!(error(4).starts_with("user 64001 may not end a flow of "), "{}", error(4));
    assert!(error(5).starts_with("user 64001 may not give another tag to a flow of "), "{}", error(5));
    assert!(error(6).starts_with("there is no such flow"), "{}", error(6));
    let counts = counts(&daemon, "inputs.control");
    assert_eq!((&counts["events"], &counts["denied"], &counts["refused"]), (&json!(4), &json!(3), &json!(1)));
    assert_eq!(post(&daemon, BOB, "/v1/flows", &api::start(1, 2)).0, "403");
    daemon.stop();
}

#[test]
fn rules_are_changed_by_whoever_may_tag_as_they_say() {
    require_root!();
    let daemon = limited();
    let rule = |name: &str, tag: Value| json!({ "name": name, "remote": "2001:db8::/32", "tag": tag });
    assert_eq!(post(&daemon, ALICE, "/v1/rules", &rule("own", json!("cms/perfSONAR"))).0, "201");
    let (status, body) = post(&daemon, ALICE, "/v1/rules", &rule("foreign", json!("atlas/perfSONAR")));
    assert_eq!(
        (status.as_str(), body["error"].as_str().map(|e| e.contains("\"foreign\""))),
        ("403", Some(true))
    );
    let two = json!({ "name": "two", "tags": ["cms/perfSONAR", "atlas/perfSONAR"] });
    assert_eq!(post(&daemon, ALICE, "/v1/rules", &two).0, "403", "one of its tags is not hers");
    for tag in ["random", "never"] {
        assert_eq!(post(&daemon, ALICE, "/v1/rules", &rule("any", json!(tag))).0, "403", "{tag}");
    }
    denied(&daemon, BOB, &[OPERATORS], &["rule", "del", "own"], "have rule \"own\"");
    allowed(&daemon, ALICE, &[], &["rule", "del", "own"]);
    allowed(&daemon, "0", &[], &["rule", "add", "--name", "any", "--tag", "never"]);
    daemon.stop();
}

#[test]
fn the_pipe_asks_as_well_and_a_reload_changes_the_answer() {
    require_root!();
    let daemon = limited();
    let write = |text: &str| {
        let mut pipe = fs::OpenOptions::new().write(true).open(daemon.pipe()).expect("the pipe is read");
        pipe.write_all(text.as_bytes()).expect("written");
    };
    let wait_for = |key: &str, number: u64| {
        wait_until(key, LIMIT, || {
            Ok((counts(&daemon, "inputs.pipe")[key].as_u64() >= Some(number)).then_some(()))
        })
        .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
    };
    cli::ok(&daemon, &["flow", "start", "--tag", "cms/perfSONAR", "tcp", SRC, "[2001:db8::2]:1"]);
    write(
        "start tcp 2001:db8::1 1094 2001:db8::2 2 4 14\nstart tcp 2001:db8::1 1094 2001:db8::2 3 3 14\n\
         end tcp 2001:db8::1 1094 2001:db8::2 1 3 14\n",
    );
    wait_for("refused", 2);
    assert!(daemon.log().contains("an event of the pipe was denied"), "{}", daemon.log());
    assert_eq!(api::get(&daemon, "/v1/flows").json()["total"], 2);
    daemon.reload(BASE);
    wait_until("the reload", LIMIT, || {
        Ok(daemon.log().contains("the new configuration is in force").then_some(()))
    })
    .expect("reloaded");
    write("end tcp 2001:db8::1 1094 2001:db8::2 1 3 14\n");
    wait_until("the end", LIMIT, || Ok((api::get(&daemon, "/v1/flows").json()["total"] == 1).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
    daemon.stop();
}

#[test]
fn a_reload_by_the_api_says_what_is_not_in_force_and_is_not_for_everybody() {
    require_root!();
    let daemon = limited();
    let (status, body) = post(&daemon, ALICE, "/v1/reload", &Value::Null);
    assert_eq!(status, "403", "{body}");
    assert_eq!(post(&daemon, "0", "/v1/reload", &Value::Null), ("200".to_owned(), json!({ "problems": [] })));
    let config = daemon.dir().join("flowtag.toml");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, format!("{text}\n[flows]\nmax = 7\n")).expect("written");
    let (_, body) = post(&daemon, "0", "/v1/reload", &Value::Null);
    assert_eq!(body["problems"], json!(["flows.max: this change takes effect only with a restart"]));
    fs::write(&config, "frobnicate = 1\n").expect("written");
    let (_, body) = post(&daemon, "0", "/v1/reload", &Value::Null);
    let problem = body["problems"][0].as_str().expect("a problem");
    assert!(
        problem.contains("the old configuration stays in force") && problem.contains("frobnicate"),
        "{problem}"
    );
    daemon.stop();
}

#[test]
fn a_pipe_that_all_may_write_to_is_warned_of() {
    let config = format!("{BASE}[inputs.pipe]\n").replace("[inputs.pipe]\nenabled = true\n", "");
    let daemon = Daemon::start(&format!("{config}enabled = true\nmode = \"0622\"\n"));
    assert!(
        daemon.log().contains("every user of this host can tag any flow by the pipe"),
        "{}",
        daemon.log()
    );
    daemon.stop();
    let daemon = Daemon::start(BASE);
    assert!(!daemon.log().contains("every user of this host"), "{}", daemon.log());
    let mode = fs::metadata(daemon.pipe()).expect("a pipe").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o620);
    daemon.stop();
}
