//! `flowtag doctor` on hosts of a testbed: what it finds, how it ends, and that it leaves the host as it was.
//!
//! Works on every kernel from 5.10: where there is no tcx, doctor has to say that clsact is used instead.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::daemon::{Dir, binary};
use crate::common::hosts::Hosts;
use caps::{CapSet, Capability};
use flowtag_testbed::{Host, checked, require_root};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use tempfile::TempDir;

/// Of `nobody`.
const NOBODY: u32 = 65534;

/// A configuration in a directory of its own, so that no daemon of the machine is taken for the test's.
struct Config(TempDir);

impl Config {
    fn new(mark: &str) -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("readable by all");
        let here = dir.path().display();
        let text = format!(
            "runtime_dir = \"{here}/run\"\n[inputs.control]\npath = \"{here}/control.sock\"\n[mark]\n{mark}\n"
        );
        fs::write(dir.path().join("flowtag.toml"), text).expect("the configuration is written");
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("flowtag.toml")
    }
}

/// What one run printed with `--json`.
struct Report {
    json: Value,
    output: Output,
}

impl Report {
    #[track_caller]
    fn of(output: Output) -> Self {
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|e| panic!("not one JSON object ({e}): {output:?}"));
        Self { json, output }
    }

    fn check(&self, name: &str) -> &Value {
        let checks = self.json["checks"].as_array().expect("a list");
        checks
            .iter()
            .find(|c| c["name"] == name)
            .unwrap_or_else(|| panic!("no line {name} in {:#}", self.json))
    }

    #[track_caller]
    fn assert(&self, name: &str, status: &str, detail: &str) -> &Value {
        let check = self.check(name);
        assert_eq!(check["status"], status, "{:#}", self.json);
        assert!(check["detail"].as_str().is_some_and(|d| d.contains(detail)), "{detail:?} in {check:#}");
        check
    }

    /// Nothing of what was asked for is missing, and the exit status says the same.
    #[track_caller]
    fn assert_ok(&self, ok: bool) {
        assert_eq!(self.json["ok"], ok, "{:#}", self.json);
        assert_eq!(self.output.status.code(), Some(i32::from(!ok)), "{:#}", self.json);
    }
}

fn doctor(host: &Host, config: &Path) -> Output {
    let mut command = host.command(binary());
    command.args(["--json", "doctor", "--config"]).arg(config).output().expect("doctor runs")
}

fn report(host: &Host, mark: &str) -> Report {
    Report::of(doctor(host, &Config::new(mark).path()))
}

fn tc(host: &Host, args: &[&str]) -> String {
    checked(Command::new("tc").args(["-n", host.namespace()]).args(args)).expect("tc")
}

/// A filter of somebody else's, that takes every packet for its own: classic BPF, which is in every kernel that has
/// clsact for us.
fn add_foreign_filter(host: &Host, priority: &str) {
    tc(host, &["qdisc", "add", "dev", "eth0", "clsact"]);
    let filter = ["filter", "add", "dev", "eth0", "egress", "prio", priority, "protocol", "all"];
    let accept_all = ["bpf", "da", "bytecode", "1,6 0 0 0,"];
    tc(host, &[&filter[..], &accept_all].concat());
}

/// Everything of the network that doctor could have changed.
fn state(host: &Host) -> String {
    let mut state = tc(host, &["qdisc", "show"]);
    for hook in ["ingress", "egress"] {
        state += &tc(host, &["filter", "show", "dev", "eth0", hook]);
    }
    state + &host.ip(&["-json", "address"]).expect("ip")
}

/// Named namespaces, but for those of tests that run meanwhile.
fn namespaces() -> Vec<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|e| e.file_name().into_string().ok());
    names.filter(|n| !n.starts_with("flowtag-")).collect()
}

#[test]
fn on_a_good_host_all_is_well_and_nothing_is_left() {
    require_root!();
    let hosts = Hosts::new("doctor-good");
    let (before, namespaces_before) = (state(&hosts.a), namespaces());
    let report = report(&hosts.a, "");
    report.assert_ok(true);
    for name in ["configuration", "kernel", "BTF", "JIT", "capabilities", "memlock", "marking program"] {
        report.assert(name, "ok", "");
    }
    report.assert("clsact", "ok", "attaches");
    report.assert("ingress hook", "ok", &format!("attaches by {}", used_hook(&report)));
    report.assert("socket creation", "ok", "loads");
    report.assert("socket closing", "ok", "inet_sock_set_state");
    report.assert("path MTU", "ok", "CAP_NET_RAW");
    report.assert("mark.interfaces", "ok", "chooses eth0");
    report.assert("interface eth0", "ok", "Ethernet, global IPv6 address; marked on");
    report.assert("interface lo", "ok", "not marked on");
    report.assert("attached programs", "ok", "none");
    report.assert("daemon", "warn", "does not run");
    assert!(!before.contains("clsact"), "{before}");
    assert_eq!(state(&hosts.a), before);
    assert_eq!(namespaces(), namespaces_before);
    println!("FEATURE doctor hook={}", used_hook(&report));
}

/// Where there is no tcx, it is said that clsact is used instead.
fn used_hook(report: &Report) -> &'static str {
    if report.check("tcx")["status"] == "ok" {
        return "tcx";
    }
    report.assert("tcx", "warn", "clsact is used instead");
    "clsact"
}

#[test]
fn an_interface_that_does_not_exist_is_missing() {
    require_root!();
    let hosts = Hosts::new("doctor-nosuch");
    let report = report(&hosts.a, "interfaces = [\"nosuch0\"]");
    report.assert_ok(false);
    let check = report.assert("mark.interfaces", "missing", "\"nosuch0\" is not an interface of this host");
    assert!(check["remedy"].as_str().is_some_and(|r| r.contains("nosuch0*")), "{check}");
    report.assert("interface eth0", "ok", "not marked on");
}

#[test]
fn a_wrong_configuration_is_missing_and_the_rest_is_still_told() {
    require_root!();
    let hosts = Hosts::new("doctor-config");
    let report = report(&hosts.a, "interfacse = [\"eth0\"]");
    report.assert_ok(false);
    report.assert("configuration", "missing", "did you mean `interfaces`?");
    report.assert("BTF", "ok", "");
    let absent = Report::of(doctor(&hosts.a, Path::new("/nonexistent/flowtag.toml")));
    absent.assert_ok(false);
    absent.assert("configuration", "missing", "cannot read /nonexistent/flowtag.toml");
}

#[test]
fn what_only_marking_needs_is_not_missed_where_marking_is_off() {
    require_root!();
    let hosts = Hosts::new("doctor-off");
    let report = report(&hosts.a, "enabled = false\ninterfaces = [\"nosuch0\"]");
    report.assert_ok(true);
    report.assert("mark.interfaces", "ok", "not used");
    report.assert("interface eth0", "ok", "marking is off");
}

#[test]
fn a_filter_that_runs_before_ours_is_told_and_left_alone() {
    require_root!();
    let hosts = Hosts::new("doctor-foreign");
    add_foreign_filter(&hosts.a, "3");
    let before = state(&hosts.a);

    let before_it = report(&hosts.a, "hook = \"clsact\"");
    before_it.assert_ok(true);
    let check = before_it.assert("egress eth0", "warn", "clsact bpf (priority 3); what runs before flowtag");
    assert!(!check["detail"].as_str().expect("text").contains("= flowtag"), "{check}");
    assert!(check["remedy"].as_str().is_some_and(|r| r.contains("tc_priority below 3")), "{check}");

    let after_it = report(&hosts.a, "hook = \"clsact\"\ntc_priority = 2");
    after_it.assert("egress eth0", "ok", "clsact bpf (priority 3)");
    assert_eq!(state(&hosts.a), before, "the filter and the qdisc are not ours");
}

#[test]
fn a_running_daemon_is_found_and_what_a_killed_one_left() {
    require_root!();
    let hosts = Hosts::new("doctor-daemon");
    let daemon = hosts.daemon("[mark]\ninterfaces = [\"eth0\"]\nhook = \"clsact\"");
    let config = daemon.dir().join("flowtag.toml");

    let running = Report::of(doctor(&hosts.a, &config));
    running.assert_ok(true);
    running.assert("daemon", "ok", &format!("pid {}", daemon.pid()));
    running.assert("egress eth0", "ok", "= flowtag");

    let dir = daemon.kill();
    let killed = Report::of(doctor(&hosts.a, &config));
    killed.assert_ok(true);
    killed.assert("daemon", "warn", "does not run");
    for hook in ["egress eth0", "ingress eth0"] {
        let check = killed.assert(hook, "warn", "an earlier one left this");
        assert!(check["remedy"].as_str().is_some_and(|r| r.contains("flowtag detach")), "{check}");
    }
    drop(dir);
}

#[test]
fn a_place_to_keep_maps_is_looked_at_and_left_alone() {
    require_root!();
    let hosts = Hosts::new("doctor-pin");
    let dir = Dir::new();
    let kept = report(&hosts.a, &format!("pin = \"{}\"", dir.pin().display()));
    kept.assert_ok(true);
    kept.assert("pin directory", "ok", "on a bpffs");
    assert!(!dir.pin().exists(), "nothing is made");

    let elsewhere = report(&hosts.a, &format!("pin = \"{}/pin\"", dir.path().display()));
    elsewhere.assert_ok(false);
    let check = elsewhere.assert("pin directory", "missing", "not on a bpffs");
    assert!(check["remedy"].as_str().is_some_and(|r| r.contains("mount -t bpf")), "{check}");

    report(&hosts.a, "pin = \"\"").assert("pin directory", "ok", "marking ends with the daemon");
}

/// Runs doctor on a host after `change` to what its process has: mounts of its own, and capabilities.
fn after(host: &Host, config: &Config, change: impl FnOnce() + Send) -> Report {
    let changed = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("mounts of its own");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts that nobody else sees");
        change();
        Command::new(binary()).args(["--json", "doctor", "--config"]).arg(config.path()).output()
    };
    Report::of(host.run(changed).expect("the host's namespace").expect("doctor runs"))
}

fn unmount_cgroup2() {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").expect("mounts");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    for place in fields.filter(|f| f[2] == "cgroup2").map(|f| f[1].to_owned()) {
        umount2(place.as_str(), MntFlags::MNT_DETACH).expect("unmounted");
    }
}

#[test]
fn cgroups_are_missed_only_where_a_rule_names_one_or_a_process() {
    require_root!();
    let hosts = Hosts::new("doctor-cgroup");
    for (condition, missed) in [
        ("cgroup = \"xrootd@cms.service\"", true),
        ("process = \"xrootd\"", true),
        ("remote_port = 1094", false),
    ] {
        let config = Config::new(&format!("[[rules]]\n{condition}\ntag = \"3/14\""));
        let report = after(&hosts.a, &config, unmount_cgroup2);
        report.assert_ok(!missed);
        let check = report.assert("cgroup v2", if missed { "missing" } else { "warn" }, "not mounted");
        assert!(check["remedy"].as_str().is_some_and(|r| r.contains("mount -t cgroup2")), "{check}");
    }
}

#[test]
fn the_right_to_lower_path_mtus_is_missed_only_where_packets_get_longer() {
    require_root!();
    let hosts = Hosts::new("doctor-mtu");
    let drop_it = || {
        for set in [CapSet::Bounding, CapSet::Effective, CapSet::Permitted] {
            caps::drop(None, set, Capability::CAP_NET_RAW).expect("root may");
        }
    };
    for (mark, status) in [("strategy = \"label+destination\"", "missing"), ("strategy = \"label\"", "warn")]
    {
        let report = after(&hosts.a, &Config::new(mark), drop_it);
        report.assert_ok(status == "warn");
        let check = report.assert("path MTU", status, "without CAP_NET_RAW");
        assert!(check["remedy"].as_str().is_some_and(|r| r.contains("CAP_NET_RAW")), "{check}");
    }
}

#[test]
fn our_own_program_is_told_from_others_by_either_hook() {
    require_root!();
    let hosts = Hosts::new("doctor-ours");
    let daemon = hosts.daemon("[mark]\ninterfaces = [\"eth0\"]");
    let report = Report::of(doctor(&hosts.a, &daemon.dir().join("flowtag.toml")));
    report.assert_ok(true);
    let shown =
        if used_hook(&report) == "tcx" { "tcx flowtag_mark (id " } else { "clsact bpf flowtag_mark:[" };
    report.assert("egress eth0", "ok", shown);
    report.assert("egress eth0", "ok", "= flowtag");
}

#[test]
fn a_daemon_without_control_socket_is_found_by_its_lock() {
    require_root!();
    let hosts = Hosts::new("doctor-lock");
    let config = Config::new("enabled = false");
    let run = config.0.path().join("run");
    fs::create_dir(&run).expect("a directory");
    let lock = fs::File::create(run.join("lock")).expect("a lock file");
    Report::of(doctor(&hosts.a, &config.path())).assert("daemon", "warn", "harmless");
    lock.try_lock().expect("nobody holds it");
    let held = Report::of(doctor(&hosts.a, &config.path()));
    held.assert("daemon", "warn", &format!("pid {} holds the lock", std::process::id()));
}

/// The test binary may stand where only root can read: nobody gets a copy of the program.
fn as_nobody(host: &Host, config: &Config, args: &[&str]) -> Output {
    let program = config.0.path().join("flowtag");
    // By another process: a test beside this one that forks just now would keep our descriptor open for writing, and a
    // program that somebody writes to cannot be run (ETXTBSY).
    let copied = Command::new("cp").arg(binary()).arg(&program).status().expect("cp");
    assert!(copied.success());
    let mut command = Command::new(program);
    command.args(args).arg("--config").arg(config.path()).current_dir("/").uid(NOBODY).gid(NOBODY);
    host.run(|| command.output()).expect("the host's namespace").expect("doctor runs")
}

#[test]
fn without_root_it_says_what_could_not_be_checked_and_why() {
    require_root!();
    let hosts = Hosts::new("doctor-nobody");
    let report = Report::of(as_nobody(&hosts.a, &Config::new(""), &["--json", "doctor"]));
    report.assert("capabilities", "unknown", "not root, and without CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
    report.assert("marking program", "unknown", "lacks CAP_BPF");
    report.assert("socket creation", "unknown", "does not load");
    report.assert("path MTU", "unknown", "CAP_NET_RAW");
    report.assert("clsact", "unknown", "cannot be made");
    for check in report.json["checks"].as_array().expect("a list").iter().filter(|c| c["status"] == "unknown")
    {
        assert!(check["remedy"].as_str().is_some_and(|r| !r.is_empty()), "{check}");
    }
    report.assert("BTF", "ok", "");
    report.assert("interface eth0", "ok", "global IPv6 address; marked on");
    report.assert_ok(true);
}

#[test]
fn without_root_a_lack_that_can_be_seen_still_counts() {
    require_root!();
    let hosts = Hosts::new("doctor-nobody2");
    let config = Config::new("interfaces = [\"nosuch0\"]");
    let report = Report::of(as_nobody(&hosts.a, &config, &["--json", "doctor"]));
    report.assert_ok(false);
    report.assert("mark.interfaces", "missing", "nosuch0");
}

#[test]
fn for_people_it_fits_in_80_columns_and_ends_with_a_summary() {
    require_root!();
    let hosts = Hosts::new("doctor-text");
    let config = Config::new("");
    let mut command = hosts.a.command(binary());
    let output = command.args(["doctor", "--config"]).arg(config.path()).output().expect("doctor runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let long: Vec<_> = text.lines().filter(|l| l.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");
    assert!(!text.contains('\x1b'), "no colours where there is no terminal: {text}");
    let last = text.lines().last().expect("a line");
    assert!(last.starts_with("all that the configuration asks for works"), "{text}");
    assert!(output.stderr.is_empty(), "libbpf is silent: {}", String::from_utf8_lossy(&output.stderr));
}
