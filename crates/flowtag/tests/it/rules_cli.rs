//! `flowtag rule`, `flowtag coverage` and `flowtag detach` as an administrator types them.

use std::process::{Command, Output};

use crate::common;
use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, transfer};
use crate::common::{api, cli};
use flowtag_testbed::require_root;
use serde_json::{Value, json};

const CONFIG: &str = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n\
    [[rules]]\nname = \"configured\"\nremote = [\"2001:db8:c::/48\"]\ntag = \"cms/default\"\n";

fn daemon() -> Daemon {
    Daemon::start(CONFIG)
}

/// What a command that has to fail says, with nothing on standard output.
#[track_caller]
fn refusal(output: &Output, status: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    stderr
}

fn add<'a>(name: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["rule", "add", "--name", name], args].concat()
}

#[test]
fn rules_are_added_listed_in_order_and_deleted() {
    let daemon = daemon();
    let xrootd = ["--cgroup", "xrootd@cms.service", "--local-port", "1094,20000-25000", "--user", "root"];
    let tag = ["--tag", "cms/Analysis Input", "--strategy", "destination"];
    let added = cli::ok(&daemon, &add("xrootd", &[&xrootd[..], &tag[..]].concat()));
    assert!(added.starts_with("rule xrootd added: cms/Analysis Input"), "{added}");
    let ssh = ["--before", "configured", "--remote-port", "22", "--tag", "never"];
    assert_eq!(cli::ok(&daemon, &add("ssh", &ssh)), "rule ssh added: never\n");
    let text = cli::ok(&daemon, &["rule", "list"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..6],
        [
            "NAME        TAG                 STRATEGY     FROM    MATCHES",
            "ssh         never                            api     remote port 22",
            "configured  cms/default                      config  remote 2001:db8:c::/48",
            "xrootd      cms/Analysis Input  destination  api     cgroup xrootd@cms.service",
            "                                                     user root",
            "                                                     local port 1094,",
        ]
    );
    assert_eq!(lines.last(), Some(&"marking is off (mark.enabled): no rule applies"));
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    assert_eq!(cli::ok(&daemon, &["rule", "del", "ssh"]), "rule ssh deleted\n");
    let left = cli::ok(&daemon, &["--json", "rule", "list"]);
    let left: Vec<Value> = left.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(left.iter().map(|rule| &rule["rule"]["name"]).collect::<Vec<_>>(), ["configured", "xrootd"]);
    daemon.stop();
}

#[test]
fn all_options_reach_the_daemon_as_the_keys_of_the_configuration() {
    let daemon = daemon();
    let options = [
        ("--cgroup", "/system.slice"),
        ("--cgroup", "b.service"),
        ("--user", "root,994"),
        ("--process", "xrootd"),
        ("--protocol", "tcp,17"),
        ("--local-port", "1094"),
        ("--remote-port", "1-2,3"),
        ("--local", "2001:db8::1"),
        ("--remote", "2001:db8::/32,192.0.2.0/24"),
        ("--interface", "eth*"),
        ("--tag", "3/14"),
        ("--tag", "atlas/default"),
        ("--strategy", "label+hop-by-hop"),
    ];
    let args: Vec<_> = options.iter().flat_map(|(option, value)| [*option, *value]).collect();
    let added = cli::json(&daemon, &add("all", &args));
    let rule = json!({
        "name": "all", "cgroup": ["/system.slice", "b.service"], "user": ["root", 994], "process": ["xrootd"],
        "protocol": ["tcp", 17], "local_port": [1094], "remote_port": ["1-2", 3], "local": ["2001:db8::1"],
        "remote": ["2001:db8::/32", "192.0.2.0/24"], "interface": ["eth*"], "tags": ["3/14", "atlas/default"],
        "strategy": "label+hop-by-hop",
    });
    assert_eq!((&added["rule"], &added["origin"]), (&rule, &json!("api")));
    assert_eq!(api::get(&daemon, "/v1/rules").json()["rules"][1], added);
    assert_eq!(cli::json(&daemon, &["rule", "del", "all"])["rule"], rule);
    daemon.stop();
}

#[test]
fn what_cannot_be_is_said_with_key_value_and_fix() {
    let daemon = daemon();
    for (args, expected) in [
        (add("x", &["--tag", "cmss/14"]), "tag = \"cmss/14\" cannot be used"),
        (add("x", &["--tag", "cmss/14"]), "did you mean \"cms\"?"),
        (add("x", &["--tag", "3/14", "--remote", "2001:db8::1/32"]), "write 2001:db8::/32"),
        (
            add("x", &["--tag", "3/14", "--user", "no-such-user"]),
            "user = \"no-such-user\" is not in /etc/passwd",
        ),
        (add("x", &["--tag", "3/14", "--local-port", "0"]), "local_port = 0 is not a port"),
        (add("a b", &["--tag", "3/14"]), "name = \"a b\" is not a name"),
        (add("configured", &["--tag", "3/14"]), "there is a rule \"configured\" already"),
        (add("x", &["--tag", "3/14", "--before", "nothing"]), "before: there is no rule \"nothing\""),
        (vec!["rule", "del", "configured"], "take it out of the file and reload"),
        (vec!["rule", "del", "data & more/é?#"], "there is no rule \"data & more/é?#\": `flowtag rule list`"),
    ] {
        let refused = refusal(&cli::run(&daemon, &args), 1);
        assert!(refused.starts_with("flowtag: ") && refused.contains(expected), "{args:?}: {refused}");
    }
    let untagged = refusal(&cli::run(&daemon, &add("x", &["--remote", "2001:db8::/32"])), 2);
    assert!(untagged.contains("--tag <TAG>"), "{untagged}");
    assert_eq!(cli::ok(&daemon, &["rule", "list"]).lines().count(), 3, "nothing was added");
    daemon.stop();
}

#[test]
fn every_command_has_help_with_an_example() {
    for args in [
        &["rule"][..],
        &["rule", "list"],
        &["rule", "add"],
        &["rule", "del"],
        &["coverage"],
        &["detach"],
        &["flow", "start"],
        &["flow", "end"],
        &["flow", "list"],
        &["flow", "watch"],
    ] {
        let output =
            Command::new(common::daemon::binary()).args(args).arg("--help").output().expect("it runs");
        let help = String::from_utf8(output.stdout).expect("text");
        let example = format!("\n  flowtag {}", args.join(" "));
        assert!(help.contains("Examples:") && help.contains(&example), "{args:?}: {help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    }
    let help =
        Command::new(common::daemon::binary()).args(["flow", "end", "--help"]).output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("text");
    assert!(help.contains("flow end [OPTIONS] <PROTOCOL> <SRC> <DST>") && !help.contains("..."), "{help}");
}

#[test]
fn without_marking_there_is_no_coverage() {
    let daemon = daemon();
    assert_eq!(cli::ok(&daemon, &["coverage"]), "marking is off (mark.enabled): nothing is counted\n");
    assert_eq!(cli::json(&daemon, &["coverage"]), api::get(&daemon, "/v1/coverage").json());
    daemon.stop();
}

#[test]
fn packets_of_a_flow_are_counted_for_its_tag_and_others_for_what_they_lack() {
    require_root!();
    let hosts = Hosts::new("coverage");
    let daemon =
        hosts.daemon("[mark]\ninterfaces = [\"eth0\"]\npin = \"\"\n[outputs.firefly]\nenabled = false\n");
    let (src, dst) = (hosts.src(1094), hosts.dst(40000));
    cli::ok(
        &daemon,
        &["flow", "start", "--tag", "cms/Analysis Input", "tcp", &src.to_string(), &dst.to_string()],
    );
    transfer(&mut hosts.connect(1094, 40000), &[7; 100_000]);
    transfer(&mut hosts.connect(1095, 40001), &[7; 1000]);
    let text = cli::ok(&daemon, &["coverage"]);
    let row = |start: &str| {
        text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
    };
    assert!(row("3/14  cms/Analysis Input").contains(" kB "), "{text}");
    assert!(row("in no flow, and no rule matches").ends_with('%'), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let told = cli::json(&daemon, &["coverage"]);
    assert!(told["sent"][0]["bytes"].as_u64().expect("a number") > 100_000, "{told:#}");
    assert_eq!(told["interfaces"][0]["name"], "eth0");
    daemon.stop();
}

#[test]
fn detach_refuses_while_a_daemon_runs_and_finds_nothing_after_it() {
    require_root!();
    let hosts = Hosts::new("detach");
    let toml = "[mark]\ninterfaces = [\"eth0\"]\nhook = \"clsact\"\npin = \"\"\n[outputs.firefly]\nenabled = false\n";
    let daemon = hosts.daemon(toml);
    let runtime = daemon.dir().join("run");
    let detach = |runtime: &std::path::Path, more: &[&str]| {
        let mut command = hosts.a.command(common::daemon::binary());
        command
            .args(["--json", "detach", "--pin", "/nonexistent/pin", "--runtime-dir"])
            .arg(runtime)
            .args(more);
        command.output().expect("it runs")
    };
    let refused = refusal(&detach(&runtime, &[]), 1);
    assert!(refused.contains("a daemon runs") && refused.contains("--force"), "{refused}");
    let dir = daemon.kill();
    let removed = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["removed"].clone()
    };
    let runtime = dir.path().join("run");
    assert_eq!(removed(detach(&runtime, &[])), json!(["eth0"]), "what the killed daemon left");
    assert_eq!(removed(detach(&runtime, &[])), json!([]));
    assert_eq!(removed(detach(&dir.path().join("never"), &[])), json!([]), "where no daemon ever was");
}
