//! The registry of a running daemon and of the command line: from a file, from a URL, and from servers that are wrong.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::{Daemon, Dir, binary};
use crate::common::web::{self, Authority, Web};
use flowtag_testbed::{require_root, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// One experiment with these activities.
fn registry(experiment: u16, name: &str, activities: &[(u8, &str)]) -> String {
    let activities: Vec<_> =
        activities.iter().map(|(id, name)| json!({ "activityName": name, "activityId": id })).collect();
    let experiment = json!({ "expName": name, "expId": experiment, "activities": activities });
    json!({ "experiments": [experiment], "version": 1, "modified": "2026-01-02T03:04:05+00:00" }).to_string()
}

/// The daemon without marking, with this registry.
fn config(registry: &str) -> String {
    format!("[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[registry]\n{registry}\n")
}

fn start(port: u16, tag: &str) -> Vec<String> {
    let src = format!("[2001:db8::1]:{port}");
    ["flow", "start", "-t", tag, "tcp", &src, "[2001:db8::2]:9"].map(str::to_owned).to_vec()
}

/// Starts a flow with a tag by name and says what number that is.
#[track_caller]
fn number_of(daemon: &Daemon, port: u16, tag: &str) -> String {
    let args = start(port, tag);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let flow = cli::json(daemon, &args);
    let flow = if flow["flow"].is_object() { flow["flow"].clone() } else { flow };
    format!("{}/{}", flow["experiment"], flow["activity"])
}

fn knows(daemon: &Daemon, port: u16, tag: &str) -> bool {
    let args = start(port, tag);
    cli::run(daemon, &args.iter().map(String::as_str).collect::<Vec<_>>()).status.success()
}

fn count(daemon: &Daemon, name: &str) -> u64 {
    cli::json(daemon, &["status"])["services"]["registry"]["counts"][name].as_u64().expect("a number")
}

#[track_caller]
fn wait_for_count(daemon: &Daemon, name: &str, least: u64) {
    wait_until(&format!("{name} to be {least}"), LIMIT, || Ok((count(daemon, name) >= least).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
}

/// On this host.
fn here(args: &[OsString]) -> Command {
    let mut command = Command::new(&args[0]);
    command.args(&args[1..]);
    command
}

fn flowtag(args: &[&str]) -> Output {
    Command::new(binary()).args(args).output().expect("the command line runs")
}

#[track_caller]
fn lines(args: &[&str]) -> Vec<Value> {
    let output = flowtag(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[track_caller]
fn error(args: &[&str]) -> String {
    let output = flowtag(args);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_newer_registry_is_fetched_kept_and_used_after_a_restart_without_its_server() {
    require_root!();
    let authority = Authority::new();
    let ca_dir = TempDir::new().expect("a directory");
    let ca = authority.write(ca_dir.path(), "ca.pem");
    let first = registry(77, "New Experiment", &[(1, "default"), (5, "Bulk Data"), (6, "Tape")]);
    let web = Web::local(Some(authority.server("127.0.0.1")), move |head| {
        match head.to_lowercase().contains("if-none-match: \"one\"") {
            true => web::with("304 Not Modified", "ETag: \"one\"\r\n", ""),
            false => web::with("200 OK", "ETag: \"one\"\r\n", &first),
        }
    });
    let from = format!("url = \"{}\"\nca_file = \"{}\"\n", web.url("https", "/r.json"), ca.display());
    let mut daemon = Daemon::start(&config(&from));
    daemon.wait_for_log("a new registry is in force");
    assert_eq!(number_of(&daemon, 1, "new-experiment/bulk_data"), "77/5", "by whatever way it is written");
    assert!(!knows(&daemon, 2, "cms/default"), "what the new one has not is no name any more");
    assert_eq!((count(&daemon, "updated"), count(&daemon, "failures")), (1, 0));

    // The same again: nothing is transferred, nothing changes.
    daemon.reload(&config(&from));
    wait_for_count(&daemon, "unchanged", 1);
    assert!(web.requests().last().expect("requests").to_lowercase().contains("if-none-match"));

    // Another edition: numbers and names of what is in use change.
    let rule = "[[rules]]\nname = \"bulk\"\nprotocol = \"tcp\"\nremote_port = 1094\ntag = \"new experiment/Tape\"\n\
                [[access]]\ntags = [\"New Experiment\"]\n";
    daemon.reload(&(config(&from) + rule));
    wait_for_count(&daemon, "unchanged", 2);
    let second = registry(77, "New Experiment", &[(1, "default"), (9, "Bulk Data"), (5, "Other")]);
    web.answer(move |_| web::with("200 OK", "ETag: \"two\"\r\n", &second));
    daemon.reload(&(config(&from) + rule));
    daemon.wait_for_log("another number to a name that is in use");
    let line = |log: &str, part: &str| log.lines().find(|l| l.contains(part)).map(str::to_owned);
    let log = daemon.log();
    let renumbered = line(&log, "another number to a name").expect("a line");
    for part in ["New Experiment/Bulk Data", "77/5", "77/9", "Other", "flows=1"] {
        assert!(renumbered.contains(part), "{part}: {renumbered}");
    }
    let removed = line(&log, "removes a tag that is in use").expect("a line");
    assert!(removed.contains("New Experiment/Tape") && removed.contains("rule bulk"), "{removed}");
    assert_eq!(number_of(&daemon, 3, "newexperiment/bulkdata"), "77/9", "inputs see the new one");
    let flows = cli::ok(&daemon, &["--json", "flow", "list"]);
    assert!(flows.contains("\"activity\":5"), "the flow keeps its number: {flows}");

    // The server is gone: the copy is used, and it is not asked again before its time.
    let dir = daemon.leave();
    let asked = web.requests().len();
    web.answer(|_| b"gone".to_vec());
    let daemon = Daemon::restart_with(dir, &config(&from), here);
    assert_eq!(number_of(&daemon, 4, "new experiment/other"), "77/5");
    assert_eq!((web.requests().len(), count(&daemon, "fetches")), (asked, 0));
    daemon.stop();
}

#[test]
fn what_is_no_registry_never_replaces_one() {
    require_root!();
    let web = Web::local(None, |_| web::ok(&registry(77, "good", &[(2, "thing")])));
    let from = format!("url = \"{}\"", web.url("http", "/"));
    let mut daemon = Daemon::start(&config(&from));
    daemon.wait_for_log("a new registry is in force");
    assert!(daemon.log().contains("registry.url is http://"), "{}", daemon.log());
    let copy = daemon.dir().join("run/registry.json");
    let kept = fs::read(&copy).expect("the copy");
    let huge = "x".repeat(5 << 20);
    let bad: [(Vec<u8>, &str); 7] = [
        (web::ok("<html>maintenance</html>"), "is no registry"),
        (web::ok("{\"experiments\":[]}"), "lists no experiments"),
        (web::ok(&registry(9999, "far", &[])), "9999"),
        (web::ok(&huge), "more than 4194304 bytes"),
        (web::with("404 Not Found", "", "no"), "404"),
        (web::with("304 Not Modified", "", ""), ""), // it was asked without an ETag, but there is a copy
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\xff\xfe\xfd".to_vec(), "something else than text"),
    ];
    for (n, (answer, part)) in bad.into_iter().enumerate() {
        let (failures, unchanged) = (count(&daemon, "failures"), count(&daemon, "unchanged"));
        web.answer(move |_| answer.clone());
        daemon.reload(&config(&from));
        if part.is_empty() {
            wait_for_count(&daemon, "unchanged", unchanged + 1);
            continue;
        }
        wait_for_count(&daemon, "failures", failures + 1);
        let shown =
            cli::json(&daemon, &["status"])["services"]["registry"]["targets"][0]["error"].to_string();
        assert!(shown.contains(part), "{part}: {shown}");
        assert_eq!(number_of(&daemon, 100 + u16::try_from(n).expect("few"), "good/thing"), "77/2");
    }
    let text = String::from_utf8(kept).expect("text");
    let now: Value = serde_json::from_slice(&fs::read(&copy).expect("the copy")).expect("JSON");
    let before: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(now["text"], before["text"], "the copy is the good one");
    assert_eq!(
        fs::read_dir(daemon.dir().join("run"))
            .expect("it")
            .flatten()
            .filter(|f| f.file_name().to_string_lossy().starts_with("registry.json"))
            .count(),
        1
    );
    // Another URL has another copy.
    web.answer(|_| web::with("500 Internal Server Error", "", ""));
    daemon.reload(&config(&format!("url = \"{}\"", web.url("http", "/other"))));
    wait_for_count(&daemon, "failures", 6);
    wait_until("the built-in names", LIMIT, || Ok(knows(&daemon, 200, "cms/default").then_some(())))
        .expect("them");
    daemon.stop();
}

#[test]
fn a_server_that_nobody_vouches_for_is_not_believed() {
    require_root!();
    let (ours, other) = (Authority::new(), Authority::new());
    let dir = TempDir::new().expect("a directory");
    let ca = ours.write(dir.path(), "ca.pem");
    let web = Web::local(Some(other.server("127.0.0.1")), |_| web::ok(&registry(77, "evil", &[])));
    let from = |ca: &Path| format!("url = \"{}\"\nca_file = \"{}\"", web.url("https", "/"), ca.display());
    let mut daemon = Daemon::start(&config(&from(&ca)));
    daemon.wait_for_log("the registry stays as it is");
    let log = daemon.log();
    assert!(log.contains("UnknownIssuer") || log.contains("certificate"), "{log}");
    assert!(!knows(&daemon, 1, "evil/default") && knows(&daemon, 2, "cms/default"));
    daemon.reload(&config(&from(&dir.path().join("none.pem"))));
    daemon.wait_for_log("cannot read certificates");
    daemon.stop();
}

#[test]
fn a_copy_of_an_earlier_day_is_used_at_once_and_a_broken_one_is_not() {
    require_root!();
    let url = "https://127.0.0.1:1/registry.json";
    let copy = |text: &str| {
        json!({ "url": url, "etag": null, "checked": "2026-01-01T00:00:00Z", "text": text }).to_string()
    };
    let good = copy(&registry(77, "earlier", &[(2, "day")]));
    let rule = "[[rules]]\nname = \"x\"\nprotocol = \"tcp\"\ntag = \"earlier/day\"\n";
    for (what, text, extra, known) in [
        ("a good one, with names in the configuration", good.clone(), rule, true),
        ("cut", good[..good.len() / 2].to_owned(), "", false),
        ("no registry", copy("<html>"), "", false),
        ("of another URL", good.replace("registry.json", "other.json"), "", false),
    ] {
        let dir = Dir::new();
        fs::create_dir(dir.path().join("run")).expect("a directory");
        fs::write(dir.path().join("run/registry.json"), text).expect("written");
        let daemon = Daemon::restart_with(dir, &(config(&format!("url = \"{url}\"\n")) + extra), here);
        assert_eq!(knows(&daemon, 1, "earlier/day"), known, "{what}: {}", daemon.log());
        daemon.stop();
    }
}

#[test]
fn a_name_that_a_fetched_registry_lost_keeps_no_daemon_from_starting() {
    require_root!();
    let url = "https://127.0.0.1:1/registry.json";
    let dir = Dir::new();
    let text = registry(77, "only", &[(2, "this")]);
    let copy = json!({ "url": url, "etag": null, "checked": "2026-01-01T00:00:00Z", "text": text });
    fs::create_dir(dir.path().join("run")).expect("a directory");
    fs::write(dir.path().join("run/registry.json"), copy.to_string()).expect("written");
    let rule = "[[rules]]\nname = \"old\"\nprotocol = \"tcp\"\ntag = \"cms/Analysis Input\"\n";
    let mut daemon = Daemon::restart_with(dir, &(config(&format!("url = \"{url}\"\n")) + rule), here);
    daemon.wait_for_log("are not looked up in what registry.url had");
    daemon.wait_for_log("removes a tag that is in use");
    wait_until("the copy to be in force", LIMIT, || Ok(knows(&daemon, 1, "only/this").then_some(())))
        .expect("it");
    let rules = cli::ok(&daemon, &["--json", "rule", "list"]);
    assert!(rules.contains("\"old\""), "the rule is there, with its number: {rules}");
    daemon.stop();
}

#[test]
fn a_file_is_read_again_and_may_have_the_commas_of_the_published_one() {
    require_root!();
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("names.json");
    fs::write(&file, "{\"experiments\":[{\"expName\":\"mine\",\"expId\":7,\"activities\":[],},],}")
        .expect("written");
    let config = config(&format!("file = \"{}\"", file.display()));
    let mut daemon = Daemon::start(&config);
    daemon.wait_for_log("commas before closing brackets");
    assert_eq!(number_of(&daemon, 1, "MINE/default"), "7/1");
    fs::write(&file, registry(8, "mine", &[(1, "default")])).expect("written");
    daemon.reload(&config);
    daemon.wait_for_log("another number to a name that is in use");
    assert_eq!(number_of(&daemon, 2, "mine/default"), "8/1");
    fs::write(&file, "broken").expect("written");
    daemon.reload(&config);
    daemon.wait_for_log("the old one stays in force");
    assert_eq!(number_of(&daemon, 3, "mine/default"), "8/1");
    daemon.stop();
}

#[test]
fn the_command_line_lists_shows_checks_and_fetches() {
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("readable").to_owned();
    let write = |name: &str, text: &str| {
        fs::write(path(name), text).expect("written");
        path(name)
    };
    let plain = write("plain.toml", "");
    let list = lines(&["--json", "registry", "list", "--config", &plain]);
    assert_eq!((&list[0]["source"], &list[0]["version"]), (&"built-in".into(), &"1".into()), "{}", list[0]);
    assert_eq!((list.len(), &list[3]["name"]), (15, &"cms".into()));
    let show = lines(&["--json", "registry", "show", "CMS", "--config", &plain]);
    assert!(
        show.len() == 24 && show.iter().any(|a| a["name"] == "Analysis Input" && a["scitag_integer"] == 206)
    );
    let text = flowtag(&["registry", "list", "-c", &plain]).stdout;
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("built in (flowtag ") && text.contains("modified 2025-"), "{text}");
    assert!(error(&["registry", "show", "cmss", "-c", &plain]).contains("did you mean \"cms\"?"));
    assert!(error(&["registry", "refresh", "-c", &plain]).contains("set registry.url"));

    let one = write("one.json", &registry(3, "cms", &[(1, "default"), (20, "Analysis Input")]));
    let check = lines(&["--json", "registry", "check", &one, "-c", &plain]).remove(0);
    let change = |name: &str| {
        let all = check["changes"].as_array().expect("a list");
        all.iter().find(|c| c["name"] == name).cloned().unwrap_or_else(|| panic!("{name}: {check}"))
    };
    assert_eq!(change("cms/Analysis Input")["name_has_number_now"], "3/20");
    assert_eq!(change("atlas")["kind"], "removed");
    let embedded = concat!(env!("CARGO_MANIFEST_DIR"), "/../../data/scitags-registry.json");
    let same = flowtag(&["registry", "check", embedded, "-c", &plain]).stdout;
    assert!(String::from_utf8(same).expect("text").contains("the same names and numbers"));
    let commas = write("commas.json", "{\"experiments\":[{\"expName\":\"a\",\"expId\":1,},],}");
    let check = lines(&["--json", "registry", "check", &commas, "-c", &plain]).remove(0);
    assert!(check["notes"][0].as_str().expect("a note").contains("commas"), "{check}");
    let html = write("page.html", "<html>");
    assert!(error(&["registry", "check", &html, "-c", &plain]).contains("not a usable registry"));
    assert!(error(&["registry", "check", "/dev/zero", "-c", &plain]).contains("not a usable registry"));
    assert!(error(&["registry", "check", &path("none"), "-c", &plain]).contains("No such file"));

    let web = Web::local(None, |_| web::ok(&registry(77, "fetched", &[(2, "thing")])));
    let url = web.url("http", "/");
    let toml = format!("runtime_dir = \"{}\"\n[registry]\nurl = \"{url}\"\n", dir.path().display());
    let fetching = write("fetching.toml", &toml);
    let fetched = flowtag(&["registry", "refresh", "-c", &fetching]);
    let text = String::from_utf8(fetched.stdout).expect("text");
    assert!(fetched.status.success() && text.contains("systemctl reload flowtag"), "{text}");
    let list = lines(&["--json", "registry", "list", "-c", &fetching]);
    assert_eq!((&list[0]["source"], &list[1]["name"]), (&"url".into(), &"fetched".into()), "{list:?}");
    web.answer(|_| web::with("503 Service Unavailable", "", ""));
    assert!(error(&["registry", "refresh", "-c", &fetching]).contains("503"));
}
