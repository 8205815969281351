//! `flowtag status` as an administrator looks at it: one screen, what to act on first.

use std::process::Command;
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::{Daemon, binary};
use crate::common::hosts::{Hosts, transfer};
use flowtag_testbed::{require_root, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const START: [&str; 6] = ["flow", "start", "--tag", "cms/Analysis Input", "tcp", "[2001:db8::1]:1094"];

fn start(daemon: &Daemon, dst: &str) {
    cli::ok(daemon, &[&START[..], &[dst]].concat());
}

#[track_caller]
fn assert_fits(screen: &str) {
    assert!(screen.lines().count() <= 24, "{screen}");
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
}

#[test]
fn it_says_what_there_is_on_one_screen() {
    let daemon =
        Daemon::start("[mark]\nenabled = false\n[flows]\nmax = 50\n[outputs.firefly]\nenabled = false\n");
    start(&daemon, "[2001:db8::2]:1");
    start(&daemon, "[2001:db8::2]:2");
    let screen = cli::ok(&daemon, &["status"]);
    assert_fits(&screen);
    let head = format!("flowtag {} (pid {}), up ", env!("CARGO_PKG_VERSION"), daemon.pid());
    assert!(screen.starts_with(&head), "{screen}");
    for line in [
        "Marking is off (mark.enabled).",
        "    2  cms/Analysis Input   0 B       0 B",
        "2 flows of at most 50.",
    ] {
        assert!(screen.lines().any(|l| l == line), "{line} is not in\n{screen}");
    }
    let control = screen.lines().find(|l| l.starts_with("inputs.control ")).expect("the control socket");
    assert!(control.contains("events 2"), "{screen}");
    assert!(!screen.lines().any(|l| l.starts_with('!')), "{screen}");
    let json = cli::json(&daemon, &["status"]);
    assert_eq!((&json["flows"], &json["tags"][0]["flows"]), (&2.into(), &2.into()));
    daemon.stop();
}

#[test]
fn what_does_not_work_comes_first() {
    let daemon = Daemon::start(
        "[mark]\nenabled = false\n[flows]\nmax = 1\n[inputs.pipe]\nenabled = true\n[outputs.firefly]\n\
         destination = false\n[[outputs.firefly.collectors]]\naddress = \"[::1]:9\"\n\
         [[outputs.firefly.collectors]]\naddress = \"collector.invalid:10514\"\n",
    );
    start(&daemon, "[2001:db8::2]:1");
    assert!(!cli::run(&daemon, &[&START[..], &["[2001:db8::2]:2"]].concat()).status.success());
    std::fs::write(daemon.pipe(), "frobnicate\n").expect("written");
    let screen = || cli::ok(&daemon, &["status"]);
    wait_until("the warnings", LIMIT, || {
        let screen = screen();
        Ok((screen.contains("bad lines") || screen.contains("lines were not understood")).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", screen()));
    let screen = screen();
    assert_fits(&screen);
    let warnings: Vec<_> = screen.lines().skip(1).take_while(|l| !l.is_empty()).collect();
    let all = warnings.join("\n");
    assert!(warnings[0].starts_with("! 1 announcements were refused, the flow table was full"), "{screen}");
    assert!(all.contains("! outputs.firefly: nothing reaches collector.invalid:10514: "), "{screen}");
    assert!(all.contains("! inputs.pipe: 1 lines were not understood: see the log"), "{screen}");
    assert!(!all.contains("[::1]:9"), "{screen}");
    daemon.stop();
}

#[test]
fn it_says_how_much_is_marked_on_which_interface() {
    require_root!();
    let hosts = Hosts::new("status");
    let daemon = hosts.daemon("[mark]\ninterfaces = [\"eth0\"]\n");
    let mut flow = hosts.connect(40000, 5201);
    let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
    cli::ok(&daemon, &["flow", "start", "--tag", "cms/Analysis Input", "tcp", &src, &dst]);
    transfer(&mut flow, &[1; 200_000]);
    let screen = cli::ok(&daemon, &["status"]);
    let row = screen.lines().find(|l| l.starts_with("eth0 ")).unwrap_or_else(|| panic!("{screen}"));
    assert!(row.contains('%') && row.contains("cx"), "{screen}");
    assert_fits(&screen);
}

#[test]
fn without_a_daemon_it_fails() {
    let dir = tempfile::tempdir().expect("a directory");
    for json in [&["status"][..], &["--json", "status"]] {
        let output = Command::new(binary())
            .args(json)
            .arg("--socket")
            .arg(dir.path().join("none"))
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("systemctl start flowtag"));
        assert!(output.stdout.is_empty());
    }
}
