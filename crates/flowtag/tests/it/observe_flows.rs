//! `flowtag flows` on real connections; how it draws is tested beside it.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use crate::common;
use crate::common::cli;
use crate::common::hosts::{Hosts, transfer};
use crate::common::observe::{Observing, golden, keys};
use flowtag_testbed::{WAIT, require_root, skip, wait_until};

const BYTES: usize = 10_000_000;

/// Sends, and waits for an answer, with which the last bytes are acknowledged.
fn exchange(connection: &mut (std::net::TcpStream, std::net::TcpStream)) {
    transfer(connection, &vec![1; BYTES]);
    let (client, server) = connection;
    server.write_all(&[1]).expect("sent");
    client.read_exact(&mut [0]).expect("received");
}

#[test]
fn rates_are_of_the_bytes_that_moved_and_the_tag_is_the_daemons() {
    require_root!();
    let hosts = Hosts::new("flows");
    let rule = "[[rules]]\nname = \"data\"\nremote_port = 5000\ntag = \"cms/Cache\"\n";
    let daemon = hosts.daemon(&format!(
        "[mark]\ninterfaces = [\"eth*\"]\nexclude_private = false\n[outputs.firefly]\nenabled = false\n{rule}"
    ));
    let mut connection = hosts.connect(40000, 5000);
    transfer(&mut connection, &[1; 1000]);
    let list = || Ok(Some(cli::ok(&daemon, &["--json", "flow", "list"])).filter(|list| !list.is_empty()));
    wait_until("the rule's flow", WAIT, list).expect("found");
    // Another, which the filter leaves out.
    let mut other = hosts.connect(40001, 5001);
    let args = ["flows", "--once", "-i", "60", "port 5000"];
    let json = Observing::start_with(&hosts.a, &[&["--json"], &args[..]].concat(), Some(daemon.socket()));
    let table = Observing::start_with(&hosts.a, &args, Some(daemon.socket()));
    exchange(&mut connection);
    exchange(&mut other);
    let (records, summary) = json.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    let record = &records[0];
    assert_eq!((&record["tx_bytes"], &record["rx_bytes"]), (&BYTES.into(), &1.into()));
    let number = |key: &str| record[key].as_f64().expect("a number");
    let bytes = number("tx_rate_bytes_per_second") * number("watched_us") / 1e6;
    assert!((bytes / BYTES as f64 - 1.0).abs() < 0.01, "{bytes}: {record:#}");
    assert_eq!((&record["experiment_name"], &record["activity_name"]), (&"cms".into(), &"Cache".into()));
    assert_eq!(record["pid"], std::process::id());
    assert_eq!((&summary["lost"], &summary["evicted"]), (&0.into(), &0.into()));
    golden("flows.keys", &keys(record), &[]);
    let replace = [
        (
            r"(?m)^cms/Cache +\S+ +\S+ +\S+ +0\.\d \S+( \S+)? +\[.*$",
            "cms/Cache    1.00G     8 1.00ms   0.0 VERDICT     [a]:40000 → [b]:5000",
        ),
        (r"events \d+", "events 1"),
        (r"flows \d+", "flows 1"),
    ];
    golden("flows.txt", &table.stop(), &replace);
}

/// The terminal of whoever is asked is as before, whether a key or a signal ends the command.
#[test]
fn a_terminal_is_given_back() {
    require_root!();
    if !std::path::Path::new("/usr/bin/script").exists() {
        skip!("no script(1), which makes a terminal");
    }
    let hosts = Hosts::new("flows_tty");
    let _connection = hosts.connect(40000, 5000);
    let flows = format!("{} flows --idle", common::daemon::binary().to_string_lossy());
    for (how, ends) in [
        ("a signal", format!("timeout --foreground -s TERM 4 {flows}")),
        ("a key", format!("timeout --foreground 60 {flows}")),
    ] {
        // script(1) gives it a terminal; what is written there comes out.
        let line = format!("stty rows 24 cols 80; echo MODE=$(stty -g); {ends}; echo; echo MODE=$(stty -g)");
        let mut command = hosts.a.command("script");
        command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("script");
        let mut input = child.stdin.take().expect("a pipe");
        std::thread::sleep(Duration::from_secs(3));
        if how == "a key" {
            input.write_all(b"q").expect("a key");
        }
        let output = child.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("\u{1b}[?1049h") && text.contains("\u{1b}[?1049l"), "{how}: {text}");
        assert!(text.contains("LOCAL → REMOTE") && text.contains("evicted 0"), "{how}: {text}");
        let modes: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("MODE=")).collect();
        assert_eq!(modes.len(), 2, "{how}: {text}");
        assert_eq!(modes[0], modes[1], "{how}: {text}");
        drop(input);
    }
}
