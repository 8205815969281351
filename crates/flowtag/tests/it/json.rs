//! Events of flows as lines of JSON.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, transfer};
use crate::common::{api, cli};
use flowtag_testbed::{require_root, wait_until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const QUIET: &str = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n";
const TO_FILE: &str = "[outputs.json]\nenabled = true\npath = \"{dir}/flows.json\"\n";

fn file(daemon: &Daemon) -> PathBuf {
    daemon.dir().join("flows.json")
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[track_caller]
fn wait_for(path: &Path, number: usize) -> Vec<Value> {
    let there = || {
        let whole = fs::read_to_string(path).unwrap_or_default().matches('\n').count() >= number;
        Ok(whole.then(|| lines(path)))
    };
    let lines = wait_until("the lines", LIMIT, there).expect("written");
    assert_eq!(lines.len(), number);
    lines
}

fn counts(daemon: &Daemon) -> Value {
    cli::json(daemon, &["status"])["services"]["outputs.json"]["counts"].clone()
}

fn start(daemon: &Daemon, port: u16) {
    assert_eq!(api::post(daemon, "/v1/flows", &api::start(port, 1094)).status, 201);
}

fn end(daemon: &Daemon, port: u16, usage: &Value) {
    let mut end =
        json!({ "protocol": "tcp", "src": format!("[2001:db8::1]:{port}"), "dst": "[2001:db8::2]:1094" });
    end["usage"] = usage.clone();
    assert_eq!(api::post(daemon, "/v1/flows/end", &end).status, 200);
}

/// Keys of an object, in order.
fn keys(value: &Value) -> Vec<String> {
    value.as_object().expect("an object").keys().cloned().collect()
}

#[test]
fn start_and_end_are_lines_with_all_keys_that_are_documented() {
    let daemon = Daemon::start(&format!("{QUIET}{TO_FILE}"));
    start(&daemon, 40000);
    end(&daemon, 40000, &json!({ "sent": 1000, "received": 20 }));
    let lines = wait_for(&file(&daemon), 2);
    assert_eq!(fs::metadata(file(&daemon)).expect("the file").permissions().mode() & 0o7777, 0o640);
    let (first, last) = (&lines[0], &lines[1]);
    for line in [first, last] {
        let of = |keys: &[&str]| keys.iter().map(|key| line[*key].clone()).collect::<Vec<_>>();
        let whose = ["experiment", "activity", "experiment_name", "activity_name"];
        assert_eq!(of(&whose), [json!(3), json!(14), json!("cms"), json!("Analysis Input")]);
        let ends = ["source_address", "source_port", "destination_address", "destination_port", "protocol"];
        assert_eq!(
            of(&ends),
            [json!("2001:db8::1"), json!(40000), json!("2001:db8::2"), json!(1094), json!("tcp")]
        );
        assert_eq!(
            of(&["flow_id", "announced_by", "rule", "flow_label"]),
            [json!(1), json!("api"), json!(null), json!(null)]
        );
    }
    assert_eq!(
        (&first["event"], &first["end_time"], &first["end_reason"]),
        (&json!("start"), &Value::Null, &Value::Null)
    );
    assert_eq!((&last["event"], &last["end_reason"]), (&json!("end"), &json!("requested")));
    assert_eq!((&last["sent_bytes"], &last["received_bytes"]), (&json!(1000), &json!(20)));
    assert_eq!(first["start_time"], last["start_time"]);
    assert!(last["duration_seconds"].as_f64() >= Some(0.0));
    let documented = include_str!("../../../../docs/json.md");
    for key in keys(last) {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }
    assert_eq!(keys(first), keys(last), "always the same keys");
}

#[test]
fn the_line_of_a_real_connection_has_its_label_its_rule_and_what_the_kernel_measured() {
    require_root!();
    let hosts = Hosts::new("json-tcp");
    let rule = "[[rules]]\nname = \"data\"\nremote_port = 5201\ntag = \"cms/Cache\"\n";
    let daemon = hosts.daemon(&format!(
        "[mark]\ninterfaces = [\"eth*\"]\nexclude_private = false\n[outputs.firefly]\nenabled = false\n{TO_FILE}{rule}"
    ));
    let mut connection = hosts.connect(40000, 5201);
    transfer(&mut connection, &vec![1; 70_000]);
    let list = || Ok(Some(cli::ok(&daemon, &["--json", "flow", "list"])).filter(|list| !list.is_empty()));
    let flow = wait_until("the rule's flow", LIMIT, list).expect("found");
    let label = serde_json::from_str::<Value>(&flow).expect("JSON")["label"].clone();
    assert!(label.is_string(), "{flow}");
    drop(connection);
    let lines = wait_for(&file(&daemon), 2);
    let end = &lines[1];
    assert_eq!(
        (&end["flow_label"], &end["rule"], &end["end_reason"]),
        (&label, &json!("data"), &json!("closed"))
    );
    assert_eq!((&end["sent_bytes"], &end["received_bytes"]), (&json!(70_000), &json!(0)));
    assert_eq!(end["local_end"], "source");
    let tcp = &end["tcp"];
    assert_eq!(tcp["sent_bytes"], 70_000);
    assert!(tcp["rtt_microseconds"].as_u64() > Some(0) && tcp["path_mtu_bytes"] == 1500, "{tcp}");
    let documented = include_str!("../../../../docs/json.md");
    for key in keys(tcp) {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/json.md");
    }
}

#[test]
fn after_a_rotation_a_reload_goes_on_in_a_new_file() {
    let daemon = Daemon::start(&format!("{QUIET}{TO_FILE}"));
    start(&daemon, 1);
    wait_for(&file(&daemon), 1);
    let old = daemon.dir().join("flows.json.1");
    fs::rename(file(&daemon), &old).expect("rotated");
    start(&daemon, 2);
    wait_for(&old, 2);
    daemon.reload(&format!("{QUIET}{TO_FILE}"));
    wait_until("a new file", LIMIT, || Ok(file(&daemon).exists().then_some(()))).expect("made");
    start(&daemon, 3);
    assert_eq!(wait_for(&file(&daemon), 1)[0]["source_port"], 3);
    assert_eq!(lines(&old).len(), 2, "nothing more in the old one");
    assert_eq!(counts(&daemon)["written"], 3);
}

#[test]
fn a_full_disk_loses_lines_once_said_and_the_rest_is_whole_when_there_is_room_again() {
    require_root!();
    let hosts = Hosts::new("json-full");
    // The host's mount namespace ends with the test.
    let disk = |dir: &str| format!("{dir}/disk");
    let toml = format!("{QUIET}[outputs.json]\nenabled = true\npath = \"{{dir}}/disk/flows.json\"\n");
    let mut daemon = Daemon::start_with(&toml, |args| {
        let config = Path::new(args.last().expect("the configuration")).parent().expect("its directory");
        let disk = disk(config.to_str().expect("readable"));
        fs::create_dir(&disk).expect("a directory");
        let script = "mount -t tmpfs -o size=16k none \"$0\" && exec \"$@\"";
        let mut command = hosts.a.command("sh");
        command.arg("-c").arg(script).arg(&disk).args(args);
        command
    });
    let root = PathBuf::from(format!(
        "/proc/{}/root{}",
        daemon.pid(),
        disk(daemon.dir().to_str().expect("readable"))
    ));
    let path = root.join("flows.json");
    let failed = |daemon: &Daemon| counts(daemon)["failed"].as_u64().expect("a number");
    for port in 1..=60 {
        start(&daemon, port);
    }
    wait_until("a full disk", LIMIT, || Ok((failed(&daemon) > 0).then_some(()))).expect("full");
    daemon.wait_for_log("lines of outputs.json could not be written");
    let told = || {
        let counts = counts(&daemon);
        let (written, failed) = (counts["written"].as_u64(), counts["failed"].as_u64());
        Ok(written.zip(failed).filter(|(written, failed)| written + failed == 60))
    };
    let (written, _) = wait_until("all to be tried", LIMIT, told).expect("tried");
    assert_eq!(lines(&path).len() as u64, written, "what is there is whole");
    assert_eq!(daemon.log().matches("lines of outputs.json could not").count(), 1, "said once");
    fs::OpenOptions::new().write(true).truncate(true).open(&path).expect("room is made");
    start(&daemon, 100);
    assert_eq!(wait_for(&path, 1)[0]["source_port"], 100);
    daemon.stop();
}

#[test]
fn the_standard_output_gets_lines_and_one_that_nobody_reads_holds_nothing_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("stdout");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a named pipe");
    let open = || fs::OpenOptions::new().read(true).write(true).open(&fifo);
    let mut out = BufReader::new(open().expect("both ends, so that nobody waits for the other"));
    let daemon =
        Daemon::start_with(&format!("{QUIET}[outputs.json]\nenabled = true\nqueue = 100\n"), |args| {
            let mut command = Command::new("sh");
            command.arg("-c").arg("exec \"$@\" > \"$0\"").arg(&fifo).args(args);
            command
        });
    start(&daemon, 1);
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON")["source_port"], 1);
    // More than the pipe and the queue hold, and nobody reads any more.
    let event = |port: u16| {
        let mut event = api::start(port, 1094);
        event["state"] = json!("start");
        event
    };
    let events: Vec<_> = (2..=5000).map(event).collect();
    assert_eq!(api::post(&daemon, "/v1/events", &json!(events)).json()["accepted"], 4999);
    let dropped = || Ok(counts(&daemon)["dropped"].as_u64().filter(|dropped| *dropped > 3000));
    wait_until("records to be dropped", LIMIT, dropped).expect("counted");
    let stopped = daemon.stop();
    assert!(stopped.took < Duration::from_secs(5), "stopped after {:?}", stopped.took);
}

#[test]
fn a_change_of_the_output_under_load_loses_no_line() {
    const FLOWS: u16 = 2000;
    let config = |queue: u32| format!("{QUIET}{TO_FILE}queue = {queue}\n");
    let daemon = Daemon::start(&config(10_000));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..FLOWS).for_each(|n| start(&daemon, 10_000 + n)));
        for change in 0..4 {
            let at_least = usize::from(FLOWS) * change / 5;
            wait_until("some lines", LIMIT, || Ok((lines_so_far(&daemon) >= at_least).then_some(())))
                .expect("they come");
            daemon.reload(&config(10_001 + u32::try_from(change).expect("small")));
        }
    });
    wait_for(&file(&daemon), FLOWS.into());
}

fn lines_so_far(daemon: &Daemon) -> usize {
    fs::read_to_string(file(daemon)).unwrap_or_default().matches('\n').count()
}
