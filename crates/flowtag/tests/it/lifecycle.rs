//! The daemon comes and goes: killed, restarted, reloaded, among others on the same interface; it leaves nothing.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::cli;
use crate::common::daemon::{Daemon, binary, is_guest};
use crate::common::hosts::{Hosts, between, hooks, one_label, seen, tag};
use flowtag_kernel::mark::{HookChoice, Marker, Settings};
use flowtag_testbed::{Host, checked, require_root, wait_until};
use nix::sys::signal::Signal;

const LIMIT: Duration = Duration::from_secs(60);

fn a_second() -> Duration {
    Duration::from_secs(if is_guest() { 10 } else { 1 })
}

fn config(hook: &str) -> String {
    format!("[mark]\ninterfaces = [\"eth*\"]\nhook = \"{hook}\"\non_stop = \"detach\"\n")
}

/// Sends datagrams of a flow until one arrives with its label, or fails.
fn assert_marks(hosts: &Hosts, daemon: &Daemon) -> flowtag_wire::FlowLabel {
    let (src, dst) = (hosts.src(40000), hosts.dst(5201));
    cli::ok(
        daemon,
        &["flow", "start", "-t", "cms/Analysis Input", "udp", &src.to_string(), &dst.to_string()],
    );
    let capture = hosts.b.capture("eth0", "udp port 5201").expect("capture");
    hosts.udp(40000).send_to(b"is this marked?", dst).expect("sent");
    capture.wait_for(1, LIMIT).expect("captured");
    let label = one_label(&between(&seen(&capture.stop().expect("captured")), src, dst));
    assert_eq!(label.tag(), Some(tag(3, 14)), "{label}");
    label
}

/// What `tc` and `bpftool` see on the host's interface.
fn attached(host: &Host) -> String {
    let filters = checked(host.command("tc").args(["filter", "show", "dev", "eth0", "egress"])).expect("tc");
    let qdiscs = checked(host.command("tc").args(["qdisc", "show", "dev", "eth0"])).expect("tc");
    filters + &qdiscs
}

/// The kernel counts runs of programs while this lives.
struct Statistics(String);

impl Statistics {
    const SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

    fn on() -> Self {
        let before = std::fs::read_to_string(Self::SYSCTL).expect("statistics");
        std::fs::write(Self::SYSCTL, "1").expect("statistics");
        Self(before)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::SYSCTL, &self.0);
    }
}

/// Somebody else's program on the interface, which passes every packet on and of which the kernel counts the runs.
fn neighbour(host: &Host, hook: &str) -> Marker {
    let choice = if hook == "tcx" { HookChoice::Tcx } else { HookChoice::Clsact };
    host.run(|| {
        let settings = Settings { tc_priority: 9, ..Settings::default() };
        let mut neighbour = Marker::load(&settings).expect("loads");
        let eth0 = flowtag_kernel::link::find("eth0").expect("eth0");
        neighbour.attach_empty(&eth0, choice).expect("attaches");
        neighbour
    })
    .expect("host")
}

fn neighbour_runs() -> u64 {
    libbpf_rs::query::ProgInfoIter::default().filter(|p| p.name == "flowtag_empty").map(|p| p.run_cnt).sum()
}

#[test]
fn a_killed_daemon_marks_again_after_the_next_start_and_a_clean_stop_leaves_nothing() {
    require_root!();
    for hook in hooks() {
        println!("FEATURE restart after SIGKILL hook={hook}");
        let hosts = Hosts::new("kill");
        let before = attached(&hosts.a);
        let daemon = hosts.daemon(&config(hook));
        let label = assert_marks(&hosts, &daemon);
        let dir = daemon.kill();
        let daemon = Daemon::restart_with(dir, &config(hook), hosts.on_a());
        assert_eq!(assert_marks(&hosts, &daemon), label, "the same entropy as before the kill");
        let ended = daemon.stop();
        assert!(ended.took < a_second(), "stopped after {:?}", ended.took);
        assert_eq!(attached(&hosts.a), before, "{hook}: nothing is left");
    }
}

#[test]
fn a_killed_daemon_that_does_not_mark_there_any_more_leaves_nothing_either() {
    require_root!();
    let hosts = Hosts::new("moved");
    hosts.bed.link(&hosts.a, "other0", &hosts.b, "other0").expect("a link");
    let before = attached(&hosts.a);
    let daemon = hosts.daemon(&config("clsact"));
    let dir = daemon.kill();
    assert_ne!(attached(&hosts.a), before, "a clsact filter survives its daemon");
    let moved = "[mark]\ninterfaces = [\"other0\"]\nhook = \"clsact\"\n";
    let mut daemon = Daemon::restart_with(dir, moved, hosts.on_a());
    daemon.wait_for_log("removed what a killed flowtag left");
    assert_eq!(attached(&hosts.a), before);
    daemon.stop();
}

#[test]
fn a_filter_under_another_priority_or_beside_tcx_is_removed_by_the_next_start() {
    require_root!();
    let clsact = |priority: u16| format!("{}tc_priority = {priority}\n", config("clsact"));
    for next in [clsact(8), config(hooks()[0])] {
        let hosts = Hosts::new("priority");
        let before = attached(&hosts.a);
        let dir = hosts.daemon(&clsact(7)).kill();
        let mut daemon = Daemon::restart_with(dir, &next, hosts.on_a());
        let filters = attached(&hosts.a).matches("handle 0xf107a601").count();
        let expected = usize::from(next.contains("clsact"));
        assert_eq!(filters, expected, "{next}: {}", attached(&hosts.a));
        if filters == 0 || next.contains("= 8") {
            daemon.wait_for_log("removed what a killed flowtag left");
        }
        assert_marks(&hosts, &daemon);
        daemon.stop();
        assert_eq!(attached(&hosts.a), before, "{next}");
    }
}

#[test]
fn local_is_known_without_marking_and_the_loop_guard_follows_a_reload() {
    require_root!();
    let hosts = Hosts::new("local");
    let off = "[mark]\nenabled = false\n";
    let mut daemon = hosts.daemon(off);
    let (far, near) = (hosts.dst(5201).to_string(), hosts.src(40000).to_string());
    cli::ok(&daemon, &["flow", "start", "-t", "3/14", "tcp", &far, &near]);
    wait_until("the local end to be known", LIMIT, || {
        Ok((cli::json(&daemon, &["flow", "list"])["local"] == near.as_str()).then_some(()))
    })
    .expect("the destination is this host");
    let start = |daemon: &Daemon, port| {
        let fireflies = hosts.dst(port).to_string();
        cli::run(daemon, &["flow", "start", "-t", "3/14", "udp", &near, &fireflies]).status.success()
    };
    assert!(!start(&daemon, 10514) && start(&daemon, 10515), "fireflies are no flows");
    daemon.reload(&format!("{off}[outputs.firefly]\ndestination_port = 10515\n"));
    daemon.wait_for_log("the new configuration is in force");
    assert!(start(&daemon, 10514) && !start(&daemon, 10515), "fireflies go elsewhere now");
}

#[test]
fn a_neighbour_on_the_interface_goes_on_before_during_and_after() {
    require_root!();
    let _statistics = Statistics::on();
    for hook in hooks() {
        let hosts = Hosts::new("neighbour");
        let neighbour = neighbour(&hosts.a, hook);
        let alone = attached(&hosts.a);
        let daemon = hosts.daemon(&config(hook));
        let before = neighbour_runs();
        assert_marks(&hosts, &daemon);
        assert!(neighbour_runs() > before, "{hook}: the neighbour sees the packets that we marked");
        daemon.stop();
        let before = neighbour_runs();
        hosts.udp(40002).send_to(b"x", hosts.dst(5201)).expect("sent");
        assert!(neighbour_runs() > before, "{hook}: and still does when we are gone");
        assert_eq!(attached(&hosts.a), alone, "{hook}: its filter and qdisc are as they were");
        hosts.a.run(|| drop(neighbour)).expect("host");
    }
}

#[test]
fn a_qdisc_of_somebody_else_is_not_removed() {
    require_root!();
    let hosts = Hosts::new("qdisc");
    checked(hosts.a.command("tc").args(["qdisc", "add", "dev", "eth0", "clsact"])).expect("tc");
    let before = attached(&hosts.a);
    let daemon = hosts.daemon(&config("clsact"));
    assert_marks(&hosts, &daemon);
    daemon.stop();
    assert_eq!(attached(&hosts.a), before);
}

#[test]
fn interfaces_that_come_later_are_marked_on() {
    require_root!();
    let hosts = Hosts::new("hotplug");
    let mut daemon = hosts.daemon("[mark]\ninterfaces = [\"auto\"]\n");
    daemon.wait_for_log("marking on interface interface=\"eth0\"");
    let later = hosts.bed.link(&hosts.a, "later0", &hosts.b, "later0").expect("a link");
    daemon.wait_for_log("marking on interface interface=\"later0\"");
    let (src, dst) = ((later.a.ipv6, 40000), (later.b.ipv6, 5201));
    let capture = hosts.b.capture("later0", "udp").expect("capture");
    let (from, to) = (common::hosts::plain(src.0, src.1), common::hosts::plain(dst.0, dst.1));
    cli::ok(&daemon, &["flow", "start", "-t", "3/14", "udp", &from, &to]);
    let socket = hosts.a.run(|| std::net::UdpSocket::bind(src)).expect("host").expect("bind");
    socket.send_to(b"new interface", dst).expect("sent");
    capture.wait_for(1, LIMIT).expect("captured");
    let all = seen(&capture.stop().expect("captured"));
    assert_eq!(one_label(&between(&all, src.into(), dst.into())).tag(), Some(tag(3, 14)));
    hosts.a.ip(&["link", "del", "later0"]).expect("deleted");
    daemon.wait_for_log("no longer marking on interface interface=\"later0\"");
    hosts.a.ip(&["addr", "flush", "dev", "eth0", "scope", "global"]).expect("flushed");
    daemon.wait_for_log("no longer marking on interface interface=\"eth0\"");
    daemon.stop();
}

/// What a datagram from a's `port` carries when it leaves by `device`.
fn sent_by(hosts: &Hosts, device: &str, src: SocketAddr, dst: SocketAddr) -> Option<flowtag_wire::Tag> {
    let capture = hosts.b.capture(device, "udp port 5201").expect("capture");
    let socket = hosts.a.run(|| std::net::UdpSocket::bind(src)).expect("host").expect("bind");
    socket.send_to(b"whose is this?", dst).expect("sent");
    capture.wait_for(1, LIMIT).expect("captured");
    one_label(&between(&seen(&capture.stop().expect("captured")), src, dst)).tag()
}

#[test]
fn a_rule_that_names_an_interface_holds_on_one_that_comes_later() {
    require_root!();
    let hosts = Hosts::new("rulelater");
    let rule = "[[rules]]\ninterface = \"later*\"\ntag = \"3/14\"\n";
    let mark = "[mark]\ninterfaces = [\"eth*\", \"later*\"]\nexclude_private = false\non_stop = \"detach\"\n";
    let mut daemon = hosts.daemon(&format!("{mark}{rule}"));
    let later = hosts.bed.link(&hosts.a, "later0", &hosts.b, "later0").expect("a link");
    daemon.wait_for_log("marking on interface interface=\"later0\"");
    let (src, dst) = ((later.a.ipv6, 40000).into(), (later.b.ipv6, 5201).into());
    assert_eq!(sent_by(&hosts, "later0", src, dst), Some(tag(3, 14)));
    assert_ne!(sent_by(&hosts, "eth0", hosts.src(40000), hosts.dst(5201)), Some(tag(3, 14)));
    daemon.stop();
}

#[test]
fn a_start_that_fails_leaves_what_runs_and_one_without_marking_ends_it() {
    require_root!();
    for hook in hooks() {
        let hosts = Hosts::new("failed");
        let before = attached(&hosts.a);
        let keep = config(hook).replace("detach", "keep");
        let daemon = hosts.daemon(&keep);
        let label = assert_marks(&hosts, &daemon);
        let dir = daemon.kill();
        let path = dir.path().join("flowtag.toml");
        let right = std::fs::read_to_string(&path).expect("the configuration");
        std::fs::write(&path, right.replace("eth*", "eht0")).expect("a misspelt interface");
        let run = hosts.a.command(binary()).args(["run", "--config"]).arg(&path).output().expect("it runs");
        assert!(!run.status.success(), "eht0 is not there");
        assert_eq!(sent_by(&hosts, "eth0", hosts.src(40000), hosts.dst(5201)), label.tag(), "{hook}");
        let off = keep.replace("[mark]\n", "[mark]\nenabled = false\n");
        let mut daemon = Daemon::restart_with(dir, &off, hosts.on_a());
        daemon.wait_for_log("removed what an earlier flowtag left");
        assert_eq!(attached(&hosts.a), before, "{hook}");
        assert_ne!(sent_by(&hosts, "eth0", hosts.src(40000), hosts.dst(5201)), label.tag(), "{hook}");
        daemon.stop();
    }
}

#[test]
fn a_reload_changes_what_it_can_and_a_bad_one_changes_nothing() {
    require_root!();
    let hosts = Hosts::new("reload");
    let mut daemon = hosts.daemon(&config("auto"));
    let label = assert_marks(&hosts, &daemon);
    daemon.reload("[mark]\ninterfacse = [\"eth*\"]\n");
    daemon.wait_for_log("did you mean `interfaces`?");
    daemon.wait_for_log("the old one stays in force");
    assert_eq!(assert_marks(&hosts, &daemon), label);
    daemon.reload("[mark]\ninterfaces = [\"nothing*\"]\n[flows]\nmax = 7\n");
    daemon.wait_for_log("no longer marking on interface");
    daemon.wait_for_log("takes effect only with a restart");
    assert_eq!(cli::json(&daemon, &["status"])["flows"], 1, "no flow is lost");
    daemon.reload(&config("auto"));
    wait_until("marking again", LIMIT, || {
        Ok((daemon.log().matches("marking on interface interface=\"eth0\" hook").count() == 2).then_some(()))
    })
    .expect("marking again");
    assert_eq!(assert_marks(&hosts, &daemon), label);
    daemon.stop();
}

#[test]
fn it_stops_within_a_second_while_events_pour_in() {
    require_root!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let hosts = Hosts::new("load");
        let daemon = hosts.daemon(&format!("{}[inputs.pipe]\nenabled = true\n", config("auto")));
        let pipe = daemon.pipe();
        let writer = std::thread::spawn(move || {
            use std::io::Write;
            let mut pipe = std::fs::OpenOptions::new().write(true).open(pipe)?;
            for port in (1..60000).cycle() {
                writeln!(pipe, "start tcp fd00:f1:1::1 {port} fd00:f1:1::2 5201 3 14")?;
            }
            Ok::<_, std::io::Error>(())
        });
        wait_until("events to pour in", LIMIT, || {
            Ok((cli::json(&daemon, &["status"])["flows"].as_u64() > Some(1000)).then_some(()))
        })
        .expect("events pour in");
        let ended = daemon.stop_with(signal);
        assert!(ended.took < a_second(), "{signal} took {:?}", ended.took);
        writer.join().expect("writer").expect_err("the pipe has no reader any more");
    }
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    let daemon = Daemon::start("[mark]\nenabled = false\n");
    let output = Command::new(binary()).args(["run", "-c"]).arg(daemon.dir().join("flowtag.toml")).output();
    let output = output.expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("another flowtag runs"), "{stderr}");
    cli::ok(&daemon, &["status"]);
}

#[test]
fn capabilities_that_are_not_needed_are_given_up() {
    require_root!();
    let hosts = Hosts::new("caps");
    let daemon = hosts.daemon(&config("auto"));
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("its threads") {
        let status = std::fs::read_to_string(task.expect("a thread").path().join("status")).expect("status");
        let value = |key: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("a line");
            u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
        };
        // CAP_NET_ADMIN 12, CAP_PERFMON 38, CAP_BPF 39 (linux/capability.h).
        let needed = 1 << 12 | 1 << 38 | 1 << 39;
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(value(set), needed, "{set}");
        }
        assert_eq!(value("NoNewPrivs:"), 1);
    }
}

#[test]
fn a_full_table_is_told_and_counted_and_the_flows_in_it_go_on() {
    require_root!();
    let hosts = Hosts::new("full");
    let daemon = hosts.daemon(&format!("{}[flows]\nmax = 2\n", config("auto")));
    assert_marks(&hosts, &daemon);
    cli::ok(&daemon, &["flow", "start", "-t", "3/14", "udp", "[fd00:f1:1::1]:1", "[fd00:f1:1::2]:1"]);
    let third =
        cli::run(&daemon, &["flow", "start", "-t", "3/14", "udp", "[fd00:f1:1::1]:2", "[fd00:f1:1::2]:2"]);
    let stderr = String::from_utf8_lossy(&third.stderr);
    assert!(!third.status.success() && stderr.contains("full"), "{stderr}");
    let status = cli::json(&daemon, &["status"]);
    assert_eq!((&status["flows"], &status["engine"]["rejected_full"]), (&2.into(), &1.into()));
    assert_marks(&hosts, &daemon);
}

#[test]
fn a_silent_flow_is_ended_and_one_with_packets_is_not() {
    require_root!();
    let hosts = Hosts::new("idle");
    // Longer than it takes to announce a flow and to send its first packet, also on a slow machine.
    let limit = 2 * a_second();
    let idle = format!("[flows]\nidle_limit = \"{}s\"\n", limit.as_secs());
    let daemon = hosts.daemon(&format!("{}{idle}", config("auto")));
    assert_marks(&hosts, &daemon);
    cli::ok(&daemon, &["flow", "start", "-t", "3/14", "udp", "[fd00:f1:1::1]:1", "[fd00:f1:1::2]:1"]);
    let socket = hosts.udp(40000);
    let start = Instant::now();
    wait_until("the silent flow to end", LIMIT, || {
        socket.send_to(b"still here", hosts.dst(5201))?;
        Ok((cli::json(&daemon, &["status"])["flows"] == 1).then_some(()))
    })
    .expect("the silent flow ends");
    assert!(start.elapsed() > limit * 3 / 4, "not before its limit");
    let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
    assert_eq!(cli::json(&daemon, &["flow", "list"])["src"], src);
    cli::ok(&daemon, &["flow", "end", "udp", &src, &dst]);
}
