//! Configurations of flowd and flowd-go: what becomes of every key, and that a daemon which is given one does what it says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::common;
use crate::common::daemon::binary;
use crate::common::hosts::{Hosts, Seen, between, seen, tag, transfer};
use flowtag_testbed::{Host, Process, require_root, wait_until};
use flowtag_wire::firefly::State;
use flowtag_wire::{Firefly, Tag};
use nix::sys::signal::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// Old configurations; between them they have every key that is documented anywhere.
const SAMPLES: [&str; 10] = [
    "flowd-go.yaml",
    "flowd-go-wrong.yaml",
    "flowd-go-1.json",
    "perfsonar.yaml",
    "how-to.json",
    "flowd.cfg",
    "flowd-netlink.cfg",
    "flowd-np.cfg",
    "flowd-firefly.cfg",
    "flowd-iperf.cfg",
];

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old").join(name)
}

fn flowtag(args: &[&str]) -> Output {
    Command::new(binary()).args(args).output().expect("the command line runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// What `flowtag --json config convert` says of each key.
#[track_caller]
fn findings(path: &Path) -> Vec<Value> {
    let output = flowtag(&["--json", "config", "convert", "--force", path.to_str().expect("readable")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The new configuration with all defaults, as `config show` prints it.
#[track_caller]
fn shown(path: &Path) -> Value {
    let output = flowtag(&["--json", "config", "show", path.to_str().expect("readable")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A key as the documentation has it: without what the administrator made up.
fn documented(key: &str) -> String {
    let ends = [(".manualMapping.", "ADDRESS"), (".fireflyReceivers.", "N")];
    let end =
        ends.iter().find_map(|(at, name)| key.split_once(at).map(|(head, _)| format!("{head}{at}{name}")));
    end.unwrap_or_else(|| key.to_owned())
}

// ---- The table.

#[test]
fn the_table_in_the_documentation_is_what_happens_to_every_key() {
    let page = include_str!("../../../../docs/migrate.md");
    let unquoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut table: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        // The page has other tables, too.
        let [key, became @ ("converted" | "not needed" | "not supported" | "unknown"), to, ..] =
            cells.as_slice()
        else {
            continue;
        };
        table.entry((unquoted(key).join(" "), (*became).to_owned())).or_default().extend(unquoted(to));
    }
    let mut happened: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for finding in SAMPLES.iter().flat_map(|name| findings(&sample(name))) {
        let word = |name: &str| finding[name].as_str().expect("a word").to_owned();
        let became = word("became").replace('-', " ");
        let to = happened.entry((documented(&word("key")), became)).or_default();
        to.extend(
            finding["to"].as_array().expect("keys").iter().map(|key| key.as_str().expect("a key").to_owned()),
        );
    }
    for list in table.values_mut().chain(happened.values_mut()) {
        list.sort();
        list.dedup();
    }
    let missing: Vec<_> = happened.iter().filter(|(key, to)| table.get(key) != Some(to)).collect();
    let stale: Vec<_> = table.iter().filter(|(key, to)| happened.get(key) != Some(to)).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "happens: {missing:#?}\nstands in docs/migrate.md: {stale:#?}"
    );
}

/// The keys that the manuals and samples of both have, by where they are.
const DOCUMENTED: &[(&str, &str)] = &[
    ("", "pidPath workDir stunServers plugins backends enrichers"),
    ("plugins.namedPipe.", "maxReaders buffSize pipePath"),
    ("plugins.api.", "bindAddress bindPort"),
    ("plugins.firefly.", "bindAddress bindPort bufferSize deadline hasSyslogHeader fireflyReceivers"),
    ("plugins.perfsonar.", "activityId experimentId activityID experimentID"),
    (
        "plugins.iperf3.",
        "minSourcePort maxSourcePort minDestinationPort maxDestinationPort cgroupPath programPath debugMode randomIDs \
         experimentIDs activityIDs experimentIds activityIds",
    ),
    (
        "backends.marker.",
        "targetInterfaces discoverInterfaces removeQdisc programPath markingStrategy matchAll debugMode",
    ),
    (
        "backends.firefly.",
        "destinationPort prependSyslog sendToCollector collectorAddress collectorPort enrich enrichmentMode stun",
    ),
    ("backends.firefly.stun.", "manualMapping.ADDRESS stunServers"),
    ("backends.prometheus.", "log bindAddress netlinkPort skopsPort"),
    ("enrichers.", "period netlink skops"),
    ("enrichers.netlink.", "protocol ext state"),
    ("enrichers.skops.", "cgroupPath programPath debugMode strategy"),
    (
        "",
        "PLUGIN BACKEND FLOW_MAP_API NP_API_FILE FIREFLY_LISTENER_HOST FIREFLY_LISTENER_PORT NETSTAT_EXPERIMENT \
         NETSTAT_ACTIVITY NETSTAT_INTERNAL_NETWORKS NETSTAT_TIMEOUT NETLINK_EXPERIMENT NETLINK_ACTIVITY \
         NETLINK_INTERNAL_NETWORKS NETLINK_TIMEOUT IPERF_FLOW_ID IPERF_INTERNAL_NETWORKS IP_DISCOVERY_ENABLED \
         UDP_FIREFLY_IP4_SRC UDP_FIREFLY_IP6_SRC UDP_FIREFLY_NETLINK UDP_FIREFLY_DST NETWORK_INTERFACE \
         PROMETHEUS_SRV_PORT EXPERIMENT IP4_DISCOVERY IP6_DISCOVERY STUN_SERVERS",
    ),
];

#[test]
fn the_samples_have_every_documented_key() {
    let all: Vec<_> = SAMPLES.iter().flat_map(|name| findings(&sample(name))).collect();
    let known: Vec<_> = all.iter().map(|f| documented(f["key"].as_str().expect("a key"))).collect();
    for (section, keys) in DOCUMENTED {
        for key in keys.split_whitespace().map(|key| format!("{section}{key}")) {
            let containers = ["plugins", "backends", "enrichers"];
            // Wrongly spelt keys are in a section that may be wrongly named, too.
            let is = |known: &&String| **known == key || known.ends_with(&format!(".{key}"));
            assert!(containers.contains(&key.as_str()) || known.iter().any(|k| is(&k)), "{key}");
        }
    }
}

#[test]
fn no_key_is_left_without_a_word() {
    for name in SAMPLES.iter().filter(|name| name.ends_with(".yaml")) {
        let old: BTreeMap<String, Value> =
            serde_saphyr::from_str(&fs::read_to_string(sample(name)).expect("a sample")).expect("YAML");
        let keys: Vec<_> =
            findings(&sample(name)).iter().map(|f| f["key"].as_str().expect("a key").to_owned()).collect();
        let mut pending: Vec<(String, Value)> = old.into_iter().collect();
        while let Some((path, value)) = pending.pop() {
            let told = keys.iter().any(|key| *key == path || key.starts_with(&format!("{path}.")));
            assert!(told, "{name}: {path}");
            let below = value.as_object().into_iter().flatten();
            pending.extend(below.map(|(key, value)| (format!("{path}.{key}"), value.clone())));
        }
    }
}

// ---- What is made.

#[test]
fn what_is_made_is_right_and_says_where_it_is_from() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in SAMPLES {
        let new = dir.path().join(format!("{name}.toml"));
        let (old, new) = (sample(name), new.to_str().expect("readable").to_owned());
        let old = old.to_str().expect("readable");
        let output = flowtag(&["config", "convert", "--force", old, "-o", &new]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        let check = flowtag(&["config", "check", &new]);
        assert!(check.status.success(), "{name}: {}", text(&check.stderr));
        assert!(check.stderr.is_empty(), "it is ours: {}", text(&check.stderr));
        let written = fs::read_to_string(&new).expect("written");
        assert!(written.starts_with("# Made of ") && written.contains("(line "), "{written}");
        assert_eq!(
            shown(Path::new(&new)),
            shown(Path::new(old)),
            "{name}: the old file is read as the new one"
        );
        assert!(flowtag(&["config", "check", old]).status.success(), "{name}");
    }
}

#[test]
fn the_values_of_flowd_go_are_where_they_belong() {
    let new = shown(&sample("flowd-go.yaml"));
    for (pointer, expected) in [
        ("/inputs/flowd_go/enabled", "true"),
        ("/inputs/flowd_go/listen", "\"127.0.0.1:7778\""),
        ("/inputs/pipe/path", "\"/var/run/flowd-go/np\""),
        ("/inputs/pipe/mode", "\"0666\""),
        ("/inputs/firefly/listen", "\"0.0.0.0:10515\""),
        ("/inputs/firefly/sources", r#"["0.0.0.0/0","::/0"]"#),
        ("/inputs/firefly/relay", r#"["192.0.2.100:10514","[2001:db8::100]:10514"]"#),
        ("/mark/interfaces", r#"["eth0","eth1"]"#),
        ("/mark/strategy", "\"hop-by-hop+destination\""),
        ("/mark/exclude_private", "false"),
        ("/rules/0/name", "\"iperf3\""),
        ("/rules/0/remote_port", "[\"5201-5210\"]"),
        ("/rules/0/tags", r#"["2/9","3/14","4/3"]"#),
        ("/rules/1/tag", "\"never\""),
        ("/rules/2/tag", "\"3/2\""),
        ("/outputs/firefly/collectors/0/address", "\"collector.example.org:10514\""),
        ("/outputs/firefly/content", "\"flowd-go\""),
        ("/outputs/firefly/destination", "true"),
        ("/flows/report_every", "\"5s\""),
        ("/statistics/period", "\"5s\""),
        ("/addresses/stun", r#"["stun.example.org:3478","stun2.example.org:3478"]"#),
        ("/addresses/map/10.0.0.5", "\"192.0.2.5\""),
        ("/outputs/prometheus/listen", "\"127.0.0.1:8080\""),
        ("/outputs/prometheus/names", "[\"flowd-go\"]"),
    ] {
        let value = new.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {new}"));
        assert_eq!(value.to_string(), expected, "{pointer}");
    }
    let perfsonar = shown(&sample("perfsonar.yaml"));
    assert_eq!(perfsonar["outputs"]["firefly"]["destination"], false, "perfsonar alone");
    assert_eq!(perfsonar["flows"]["report_every"], "1m");
    assert_eq!(perfsonar["rules"][1]["tag"], "2/2");
    let old = shown(&sample("flowd-go-1.json"));
    assert_eq!(old["mark"]["interfaces"], serde_json::json!(["auto"]));
    assert_eq!(old["outputs"]["firefly"]["collectors"], serde_json::json!([]), "sendToCollector is false");
}

#[test]
fn the_values_of_flowd_are_where_they_belong() {
    let new = shown(&sample("flowd.cfg"));
    for (pointer, expected) in [
        ("/registry/url", "\"https://scitags.example/api.json\""),
        ("/rules/0/remote", "[\"192.168.0.0/16\"]"),
        ("/rules/0/tag", "\"never\""),
        ("/rules/1/tag", "\"atlas/9\""),
        ("/rules/1/protocol", "[\"tcp\"]"),
        ("/mark/enabled", "true"),
        ("/mark/interfaces", r#"["eth0","eth1"]"#),
        ("/mark/exclude_private", "true"),
        ("/outputs/firefly/collectors/0/address", "\"collector.scitags.example:10514\""),
        ("/outputs/firefly/content", "\"flowd\""),
        ("/outputs/prometheus/listen", "\"0.0.0.0:9000\""),
        ("/addresses/stun", r#"["stun.example.org:19305","stun2.example.org:3478"]"#),
        ("/inputs/pipe/enabled", "false"),
    ] {
        let value = new.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {new}"));
        assert_eq!(value.to_string(), expected, "{pointer}");
    }
    let np = shown(&sample("flowd-np.cfg"));
    assert_eq!(np["inputs"]["pipe"]["path"], "/var/run/flowd");
    assert_eq!((&np["mark"]["enabled"], &np["outputs"]["firefly"]["enabled"]), (&true.into(), &false.into()));
    let netlink = shown(&sample("flowd-netlink.cfg"));
    assert_eq!(netlink["rules"][1]["tag"], "cms/Data Challenge", "{netlink}");
    assert_eq!(netlink["mark"]["enabled"], true, "rules need it");
    let iperf = shown(&sample("flowd-iperf.cfg"));
    assert_eq!(iperf["rules"][1]["tags"], serde_json::json!(["2/9", "3/14"]));
}

// ---- The command.

fn old_file(name: &str, content: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    fs::write(&path, content).expect("written");
    let path = path.to_str().expect("readable").to_owned();
    (dir, path)
}

#[test]
fn a_loss_is_a_failure_unless_it_is_accepted_and_a_trifle_is_none() {
    let (dir, old) = old_file("conf.yaml", "plugins:\n  perfsonar: {}\nbackends:\n  marker: {}\n");
    let new = dir.path().join("new.toml").to_str().expect("readable").to_owned();
    let output = flowtag(&["config", "convert", &old, "-o", &new]);
    let said = text(&output.stderr);
    assert!(!output.status.success() && !Path::new(&new).exists(), "{said}");
    assert!(said.contains("LOST: line 2: plugins.perfsonar: not supported: 0/0 is no tag"), "{said}");
    assert!(said.contains("warning: line 4: backends.marker: converted to mark.interfaces"), "{said}");
    assert!(said.contains("--force accepts that"), "{said}");
    assert!(flowtag(&["config", "convert", "-k", &old, "-o", &new]).status.success());
    assert!(flowtag(&["config", "check", &new]).status.success());

    let (_dir, old) =
        old_file("conf.yaml", "plugins:\n  api: {}\nbackends:\n  firefly:\n    prependSyslog: false\n");
    let output = flowtag(&["config", "convert", &old]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("# Not converted:\n# line 5: backends.firefly.prependSyslog"));
    assert!(text(&output.stderr).contains("prependSyslog: not supported: every firefly has the header"));
}

#[test]
fn nothing_is_overwritten_and_nothing_else_is_taken_for_an_old_file() {
    let (dir, old) = old_file("flowd.cfg", "PLUGIN='np_api'\n");
    let new = dir.path().join("new.toml");
    fs::write(&new, "mine").expect("written");
    let path = new.to_str().expect("readable");
    let output = flowtag(&["config", "convert", &old, "-o", path]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("is there already: remove it, or use --force"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(fs::read_to_string(&new).expect("it is there"), "mine");
    let (_dir, ours) = old_file("conf.yaml", "[mark]\nenabled = false\n");
    let output = flowtag(&["config", "convert", &ours]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("is no configuration of flowd-go or flowd"));
}

#[test]
fn what_neither_daemon_would_take_is_an_error_with_its_line() {
    for (name, content, expected) in [
        (
            "c.yaml",
            "plugins:\n  api:\n    bindPort: many\n",
            "line 3: plugins.api.bindPort = \"many\" is not a port",
        ),
        ("c.yaml", "plugins:\n  api:\n    bindPort: 65536\n", "is not a port: use 0 to 65535"),
        ("c.yaml", "plugins: [api]\n", "line 1: plugins = a list is not a mapping"),
        ("c.yaml", "plugins:\n  api: {}\n  api: {}\n", "as a configuration of flowd-go: line"),
        ("c.yaml", "plugins:\n\tapi: {}\n", "as a configuration of flowd-go: line"),
        ("c.json", "{ \"plugins\": { ", "as a configuration of flowd-go: line"),
        (
            "c.yaml",
            "backends:\n  marker:\n    markingStrategy: none\n",
            "is no strategy: use label, hopByHop",
        ),
        (
            "c.yaml",
            "plugins:\n  iperf3:\n    experimentIDs: [1]\n",
            "line 3: plugins.iperf3.experimentIDs = a list is not as long as the other list",
        ),
        (
            "c.yaml",
            "plugins:\n  iperf3: {minSourcePort: 9, maxSourcePort: 5}\n",
            "is above the highest port, 5",
        ),
        (
            "c.cfg",
            "PLUGIN='netstat'\nNETSTAT_EXPERIMENT=2\nNETSTAT_INTERNAL_NETWORKS=('x',)\n",
            "\"x\", which is no network",
        ),
        (
            "c.cfg",
            "PLUGIN='netstat'\nNETSTAT_EXPERIMENT='atlsa'\n",
            "experiment \"atlsa\" is not in the registry",
        ),
        ("c.cfg", "PLUGIN=5\nPLUGIN=[1]\n", "line 2: PLUGIN = a list is not a text"),
    ] {
        let (_dir, old) = old_file(name, content);
        for args in [["config", "convert", &old], ["config", "check", &old], ["run", "--config", &old]] {
            let output = flowtag(&args);
            let said = text(&output.stderr);
            assert!(!output.status.success() && said.contains(expected), "{args:?} {content:?}: {said}");
        }
    }
}

#[test]
fn python_is_never_run_and_what_would_have_to_be_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let trace = dir.path().join("ran");
    let code = format!(
        "import os\nPLUGIN = 'np_api'\nos.system('touch {0}')\nBACKEND = open('{0}', 'w').name\nif PLUGIN:\n    PLUGIN = 'x'\n",
        trace.display()
    );
    let (_dir, old) = old_file("flowd.cfg", &code);
    let output = flowtag(&["config", "convert", &old]);
    let said = text(&output.stderr);
    assert!(!trace.exists(), "it was run");
    assert!(!output.status.success());
    for expected in [
        "warning: line 1: import os: not supported: is not NAME = value",
        "LOST: line 3: os.system(",
        "LOST: line 4: BACKEND = open(",
        "LOST: line 5: if PLUGIN:",
        "LOST: line 6: PLUGIN = 'x': not supported: is indented",
        "flowtag runs nothing: write values",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_file_that_says_nothing_does_nothing() {
    let (_dir, old) = old_file("conf.yaml", "---\n# # Where should we place it?\n# pidPath: \"/x\"\n");
    let new = shown(Path::new(&old));
    assert_eq!(new["mark"]["enabled"], false);
    assert_eq!(new["outputs"]["firefly"]["enabled"], false);
}

#[test]
fn odd_names_cannot_pose_as_lines_of_their_own() {
    let odd = "\"a\\nmark.enabled = true\\r\\u001b[31m\": 1\nplugins:\n  \"x\\ny\": {}\n";
    let (_dir, old) = old_file("conf.yaml", odd);
    let output = flowtag(&["config", "convert", &old]);
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("a\u{fffd}mark.enabled = true\u{fffd}\u{fffd}[31m: unknown"), "{said}");
    assert_eq!(shown(Path::new(&old))["mark"]["enabled"], false);
    let (_dir, old) = old_file("flowd.cfg", "PLUGIN='np_api'\nprint('\u{1b}[31m\r')\n");
    assert!(text(&flowtag(&["config", "check", &old]).stderr).contains("LOST: line 2: print('\u{fffd}[31m"));
}

// ---- The daemon.

/// A daemon on a host that was given an old file, which cannot say where our own files are: it has a /run of its own.
struct Old {
    process: Process,
    config: PathBuf,
    _dir: tempfile::TempDir,
}

const OWN_RUN: &str = "mount -t tmpfs tmpfs /run && { umount /sys/fs/bpf 2>/dev/null; mount -t bpf bpf /sys/fs/bpf; } && exec \"$@\"";

impl Old {
    #[track_caller]
    fn start(host: &Host, name: &str, content: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join(name);
        fs::write(&config, content).expect("written");
        let mut command = host.command("sh");
        command.args(["-c", OWN_RUN, "sh"]).arg(binary()).arg("run").arg("--config").arg(&config);
        command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
        let process = Process::spawn(command).expect("the daemon's process");
        let mut old = Self { process, config, _dir: dir };
        old.wait_for_log("flowtag is ready");
        old
    }

    #[track_caller]
    fn wait_for_log(&mut self, text: &str) {
        if let Err(error) = self.process.wait_for_output(text, LIMIT) {
            panic!("{error:#}\n{}", self.process.stderr());
        }
    }

    /// As the daemon sees it. /var/run is a link to /run, which from here would be that of the machine.
    fn path(&self, path: &str) -> PathBuf {
        let path = path.replacen("/var/run", "/run", 1);
        Path::new("/proc")
            .join(self.process.pid().to_string())
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    /// Writes a line as a producer does.
    #[track_caller]
    fn write(&self, pipe: &str, line: &str) {
        let path = self.path(pipe);
        let mut pipe = fs::OpenOptions::new().write(true).open(&path).expect("the pipe is read");
        pipe.write_all(line.as_bytes()).expect("written");
    }

    /// Flows that the daemon knows, by their ports.
    fn flows(&self) -> Vec<Value> {
        let socket = self.path("/run/flowtag/control.sock");
        let output =
            Command::new(binary()).env("FLOWTAG_SOCKET", socket).args(["--json", "flow", "list"]).output();
        let output = output.expect("the command line runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[track_caller]
    fn wait_for_flow(&self, port: u16) {
        let known = || {
            self.flows()
                .iter()
                .any(|flow| flow["src"].as_str().is_some_and(|s| s.ends_with(&format!(":{port}"))))
        };
        let found = wait_until("the flow", LIMIT, || Ok(known().then_some(())));
        found.unwrap_or_else(|e| panic!("{e:#}: {:?}\n{}", self.flows(), self.process.stderr()));
    }

    #[track_caller]
    fn stop(self) {
        let ended = self.process.stop(Signal::SIGTERM).expect("it stops");
        assert!(ended.status.success(), "{}\n{}", ended.status, ended.stderr);
    }
}

/// `POST /flow` from the host itself.
#[track_caller]
fn post_flow(host: &Host, state: &str, src: SocketAddr, dst: SocketAddr) {
    let body = format!(
        r#"{{"State": "{state}", "Protocol": 0, "Family": 10, "Src": "{src}", "Dst": {{"IP": "{}", "Port": {}}}, "Experiment": 4, "Activity": 3}}"#,
        dst.ip(),
        dst.port()
    );
    let mut stream = host.run(|| TcpStream::connect("127.0.0.1:7777")).expect("the host").expect("the API");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.write_all(&common::api::request("POST", "/flow", body.as_bytes())).expect("sent");
    let answer = common::api::Answer::read(&mut std::io::BufReader::new(stream));
    assert_eq!(answer.status, 200, "{:?}", text(&answer.body));
}

struct Collector {
    socket: UdpSocket,
    /// Of other flows than the one that was waited for.
    others: RefCell<Vec<Firefly>>,
}

impl Collector {
    fn new(host: &Host, addr: SocketAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind(addr)).expect("host").expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self { socket, others: RefCell::default() }
    }

    /// The next firefly of the flow from this port.
    #[track_caller]
    fn receive(&self, port: u16) -> Firefly {
        let mut others = self.others.borrow_mut();
        if let Some(index) = others.iter().position(|firefly| firefly.flow.src().port() == port) {
            return others.remove(index);
        }
        loop {
            let mut buffer = [0; 2048];
            let length =
                self.socket.recv(&mut buffer).unwrap_or_else(|e| panic!("no firefly for {port}: {e}"));
            let firefly = Firefly::from_datagram(&buffer[..length]).expect("a firefly");
            if firefly.flow.src().port() == port {
                return firefly;
            }
            others.push(firefly);
        }
    }

    /// START and END of the flow from this port, with this tag.
    #[track_caller]
    fn expect(&self, port: u16, tag: Tag) {
        for state in [State::Start, State::End] {
            let firefly = self.receive(port);
            assert_eq!(firefly.state, state, "{port}");
            let said = (firefly.experiment, firefly.activity);
            assert_eq!(said, (u32::from(tag.experiment.get()), u32::from(tag.activity.get())), "{port}");
        }
    }
}

/// Those of these packets that carry data, and what their labels say.
#[track_caller]
fn tags_of(all: &[Seen], src: SocketAddr, dst: SocketAddr) -> Vec<Tag> {
    let packets = between(all, src, dst);
    let data: Vec<_> = packets.iter().filter(|p| p.payload > 0).collect();
    assert!(!data.is_empty(), "no packets from {src}");
    let mut tags: Vec<_> = data.iter().map(|p| p.label.expect("IPv6").tag()).collect();
    tags.dedup();
    tags.into_iter().map(|tag| tag.unwrap_or_else(|| panic!("{data:?}"))).collect()
}

fn line(state: &str, hosts: &Hosts, (src, dst): (u16, u16), ids: &str) -> String {
    format!("{state} tcp {} {src} {} {dst} {ids}\n", hosts.link.a.ipv6, hosts.link.b.ipv6)
}

/// Sends data from a's port to b's and closes.
fn talk(hosts: &Hosts, src: u16, dst: u16) {
    let mut connection = hosts.connect(src, dst);
    transfer(&mut connection, b"whose is this?");
}

#[test]
fn an_old_yaml_marks_and_reports_what_comes_by_pipe_api_and_rule() {
    require_root!();
    let hosts = Hosts::unlabelled("oldyaml");
    let collector = Collector::new(&hosts.b, hosts.dst(10520));
    let config = format!(
        "plugins:\n  namedPipe:\n    pipePath: /var/run/flowd-go/np\n  api: {{}}\n  iperf3:\n    minDestinationPort: 5201\n    \
         maxDestinationPort: 5210\n    experimentIDs: [5]\n    activityIDs: [10]\nbackends:\n  marker:\n    targetInterfaces: [eth0]\n  \
         firefly:\n    sendToCollector: true\n    collectorAddress: \"{}\"\n    collectorPort: 10520\n    prependSyslog: false\n",
        hosts.link.b.ipv6
    );
    let mut old = Old::start(&hosts.a, "conf.yaml", &config);
    old.wait_for_log("backends.firefly.prependSyslog: not supported");
    let capture = hosts.b.capture("eth0", "ip6 and tcp").expect("capture");
    old.write("/var/run/flowd-go/np", &line("START", &hosts, (40001, 6001), "3   14"));
    old.wait_for_flow(40001);
    talk(&hosts, 40001, 6001);
    old.write("/var/run/flowd-go/np", &line("end", &hosts, (40001, 6001), "14 3"));
    post_flow(&hosts.a, "START", hosts.src(40002), hosts.dst(6002));
    talk(&hosts, 40002, 6002);
    post_flow(&hosts.a, "end", hosts.src(40002), hosts.dst(6002));
    talk(&hosts, 40003, 5201);
    collector.expect(40001, tag(3, 14));
    collector.expect(40002, tag(4, 3));
    collector.expect(40003, tag(5, 10));
    let all = seen(&capture.stop().expect("captured"));
    for (src, dst, expected) in
        [(40001, 6001, tag(3, 14)), (40002, 6002, tag(4, 3)), (40003, 5201, tag(5, 10))]
    {
        assert_eq!(tags_of(&all, hosts.src(src), hosts.dst(dst)), [expected], "{src}");
    }

    // A reload reads it as it was read at start.
    fs::write(&old.config, config.replace("[5]", "[2]").replace("[10]", "[9]")).expect("written");
    old.process.signal(Signal::SIGHUP).expect("it runs");
    old.wait_for_log("the new configuration is in force");
    let capture = hosts.b.capture("eth0", "ip6 and tcp").expect("capture");
    talk(&hosts, 40004, 5202);
    collector.expect(40004, tag(2, 9));
    let all = seen(&capture.stop().expect("captured"));
    assert_eq!(tags_of(&all, hosts.src(40004), hosts.dst(5202)), [tag(2, 9)]);
    old.stop();
}

#[test]
fn an_old_perfsonar_host_marks_all_its_traffic() {
    require_root!();
    let hosts = Hosts::unlabelled("oldperf");
    let collector = Collector::new(&hosts.b, hosts.dst(10520));
    let config = format!(
        "plugins:\n  perfsonar:\n    activityId: 2\n    experimentId: 2\nbackends:\n  firefly:\n    sendToCollector: true\n    \
         collectorAddress: \"{}\"\n    collectorPort: 10520\n    enrich: true\n  marker:\n    targetInterfaces: [eth0]\n    \
         markingStrategy: label\n    forceHookRemoval: true\nenrichers:\n  period: 60000\n  netlink: {{}}\n  skops: {{}}\n",
        hosts.link.b.ipv6
    );
    let old = Old::start(&hosts.a, "conf.yaml", &config);
    let capture = hosts.b.capture("eth0", "ip6").expect("capture");
    talk(&hosts, 40001, 6001);
    hosts.udp(40002).send_to(b"a test", hosts.dst(6002)).expect("sent");
    collector.expect(40001, tag(2, 2));
    let all = seen(&capture.stop().expect("captured"));
    assert_eq!(tags_of(&all, hosts.src(40001), hosts.dst(6001)), [tag(2, 2)]);
    assert_eq!(tags_of(&all, hosts.src(40002), hosts.dst(6002)), [tag(2, 2)], "UDP as well");
    old.stop();
}

#[test]
fn an_old_flowd_cfg_marks_and_reports_what_storm_writes() {
    require_root!();
    let hosts = Hosts::unlabelled("oldcfg");
    let collector = Collector::new(&hosts.b, (hosts.link.b.ipv4, 10514).into());
    let config = format!(
        "PLUGIN='np_api'\nBACKEND='udp_firefly,ebpf_el9'\nNETWORK_INTERFACE='eth0'\nUDP_FIREFLY_DST='{}'\nUNKNOWN = 1\n",
        hosts.link.b.ipv4
    );
    let mut old = Old::start(&hosts.a, "flowd.cfg", &config);
    old.wait_for_log("configuration, line 5: UNKNOWN: unknown");
    let capture = hosts.b.capture("eth0", "ip6 and tcp").expect("capture");
    old.write("/var/run/flowd", &line("start", &hosts, (40001, 8443), "cms analysis-input"));
    old.wait_for_flow(40001);
    talk(&hosts, 40001, 8443);
    // Its NGINX writes them the other way round.
    old.write("/var/run/flowd", &line("end", &hosts, (40001, 8443), "14 3"));
    collector.expect(40001, tag(3, 14));
    let all = seen(&capture.stop().expect("captured"));
    assert_eq!(tags_of(&all, hosts.src(40001), hosts.dst(8443)), [tag(3, 14)]);
    old.stop();
}

#[test]
fn an_old_netstat_plugin_finds_connections_by_itself() {
    require_root!();
    let hosts = Hosts::unlabelled("oldnet");
    // Not private: flowd's netstat leaves private peers alone, and so does the rule.
    let (src, dst): (SocketAddr, SocketAddr) =
        ("[2001:db8:77::1]:40001".parse().expect("a"), "[2001:db8:77::2]:6001".parse().expect("b"));
    hosts.a.add_address("eth0", "2001:db8:77::1/64").expect("an address");
    hosts.b.add_address("eth0", "2001:db8:77::2/64").expect("an address");
    let collector = Collector::new(&hosts.b, (hosts.link.b.ipv4, 10514).into());
    let config = format!(
        "PLUGIN='netstat'\nBACKEND='udp_firefly'\nNETSTAT_EXPERIMENT='atlas'\nNETSTAT_ACTIVITY=9\n\
         NETSTAT_INTERNAL_NETWORKS=('2001:db8:99::/48',)\nUDP_FIREFLY_DST='{}'\n",
        hosts.link.b.ipv4
    );
    let old = Old::start(&hosts.a, "flowd.cfg", &config);
    let path = common::hosts::Path::new(
        &hosts.a,
        "2001:db8:77::1".parse().expect("a"),
        &hosts.b,
        "2001:db8:77::2".parse().expect("b"),
    );
    transfer(&mut path.connect(src.port(), dst.port()), b"whose is this?");
    collector.expect(40001, tag(2, 9));
    old.stop();
}
