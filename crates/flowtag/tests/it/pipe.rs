//! The named pipe, written to as producers do: every line counts, whatever the writes.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::{Daemon, binary};
use flowtag_testbed::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const CONFIG: &str =
    "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[inputs.pipe]\nenabled = true\n";

fn start(port: usize) -> String {
    format!("start tcp 2001:db8::1 {port} 2001:db8::2 5201 3 14\n")
}

fn write(daemon: &Daemon, chunks: &mut dyn Iterator<Item = &[u8]>) {
    let mut pipe = OpenOptions::new().write(true).open(daemon.pipe()).expect("the pipe is read");
    chunks.for_each(|chunk| pipe.write_all(chunk).expect("written"));
}

fn counts(daemon: &Daemon) -> serde_json::Value {
    cli::json(daemon, &["status"])["services"]["inputs.pipe"]["counts"].clone()
}

#[track_caller]
fn wait_for(daemon: &Daemon, key: &str, value: u64) {
    let reached = wait_until(key, LIMIT, || Ok((counts(daemon)[key].as_u64() >= Some(value)).then_some(())));
    reached.unwrap_or_else(|_| panic!("{key} is not {value}: {}", counts(daemon)));
}

/// Ports of the known flows in order of start.
fn ports(daemon: &Daemon) -> Vec<usize> {
    let list = cli::ok(daemon, &["--json", "flow", "list"]);
    let port = |line: &str| {
        let flow: serde_json::Value = serde_json::from_str(line).expect("JSON");
        flow["src"].as_str().and_then(|s| s.rsplit(':').next()).and_then(|p| p.parse().ok()).expect("a port")
    };
    list.lines().map(port).collect()
}

#[test]
fn ten_thousand_lines_in_awkward_writes_are_ten_thousand_events_in_order() {
    let text: String = (1..=10_000).map(start).collect();
    // One write of everything; writes of 7 bytes; writes that grow and end anywhere.
    let growing = |bytes: &'static [u8]| {
        let mut rest = bytes;
        (1..).map_while(move |n: usize| {
            let (head, tail) = rest.split_at_checked(n * 37 % 9000 + 1).unwrap_or((rest, &[]));
            rest = tail;
            (!head.is_empty()).then_some(head)
        })
    };
    let bytes: &'static [u8] = text.leak().as_bytes();
    let ways: [Box<dyn Iterator<Item = &[u8]>>; 3] =
        [Box::new(bytes.chunks(bytes.len())), Box::new(bytes.chunks(7)), Box::new(growing(bytes))];
    for mut way in ways {
        let daemon = Daemon::start(CONFIG);
        write(&daemon, &mut way);
        wait_for(&daemon, "events", 10_000);
        assert_eq!(ports(&daemon), (1..=10_000).collect::<Vec<_>>());
        assert_eq!(counts(&daemon)["bad_lines"], 0);
        daemon.stop();
    }
}

#[test]
fn garbage_between_lines_is_one_error_each_and_nothing_is_lost() {
    let daemon = Daemon::start(CONFIG);
    let garbage: [&[u8]; 6] = [
        b"start tcp 2001:db8::1\n",
        b"\xff\xfe\x00 garbage\n",
        b"start tcp 2001:db8::1 1 2001:db8::2 2 512 14\n",
        b"frobnicate tcp 2001:db8::1 1 2001:db8::2 2 3 14\n",
        &[b'x'; 20_000],
        b"\nstart tcp 10.0.0.1 1 2001:db8::2 2 3 14\n",
    ];
    let mut text = Vec::new();
    for port in 1..=600 {
        text.extend(start(port).as_bytes());
        text.extend(garbage[port % garbage.len()]);
        text.push(b'\n');
    }
    write(&daemon, &mut text.chunks(1013));
    wait_for(&daemon, "events", 600);
    wait_for(&daemon, "bad_lines", 600);
    assert_eq!(ports(&daemon), (1..=600).collect::<Vec<_>>());
    let log = daemon.log();
    assert_eq!(log.matches("line in the pipe ignored").count(), 600);
    for reason in ["fields where eight", "not UTF-8", "1 to 511", "\"frobnicate\"", "longer than", "families"]
    {
        assert!(log.contains(reason), "{reason}");
    }
}

#[test]
fn a_last_line_without_newline_counts_when_its_writer_leaves() {
    let daemon = Daemon::start(CONFIG);
    write(&daemon, &mut [start(1).trim_end().as_bytes()].into_iter());
    wait_for(&daemon, "events", 1);
    write(&daemon, &mut [start(2).as_bytes()].into_iter());
    wait_for(&daemon, "events", 2);
    assert_eq!(ports(&daemon), [1, 2]);
}

#[test]
fn writers_come_and_go_and_a_shell_is_one_of_them() {
    let daemon = Daemon::start(CONFIG);
    for port in 1..=50 {
        let line = start(port);
        let script = format!("echo '{}' > {}", line.trim_end(), daemon.pipe().display());
        assert!(Command::new("sh").args(["-c", &script]).status().expect("sh").success());
    }
    wait_for(&daemon, "events", 50);
    let ends: String = (1..=50).map(|p| start(p).replace("start", "end").replace("3 14", "14 3")).collect();
    write(&daemon, &mut [ends.as_bytes()].into_iter());
    wait_for(&daemon, "events", 100);
    assert!(ports(&daemon).is_empty(), "an END counts by its flow, whatever its identifiers");
}

#[test]
fn the_pipe_is_made_with_its_mode_and_removed_at_the_end() {
    let daemon = Daemon::start(CONFIG);
    let pipe = daemon.pipe();
    let metadata = pipe.metadata().expect("it is there");
    assert!(metadata.file_type().is_fifo());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o620, "not world-writable");
    daemon.stop();
    assert!(!pipe.exists());
}

/// Starts a daemon whose pipe is at `dir`/pipe, which must fail, and gives what it said.
fn refusal(dir: &Path) -> String {
    let config = dir.join("flowtag.toml");
    let here = dir.display();
    let text = format!(
        "runtime_dir = \"{here}\"\n{CONFIG}path = \"{here}/pipe\"\n[inputs.control]\nenabled = false\n"
    );
    std::fs::write(&config, text).expect("written");
    let output = Command::new(binary()).args(["run", "-c"]).arg(&config).output().expect("it runs");
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_regular_file_in_its_place_is_an_error_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pipe");
    std::fs::write(&path, "start tcp …").expect("written");
    let said = refusal(dir.path());
    assert!(said.contains("a regular file, not a named pipe") && said.contains("remove the file"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "start tcp …");
}

#[test]
fn a_pipe_of_somebody_else_is_an_error_and_stays() {
    flowtag_testbed::require_root!();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::os::unix::fs::chown(&path, Some(65534), None).expect("root");
    let said = refusal(dir.path());
    assert!(said.contains("belongs to uid 65534"), "{said}");
    assert!(path.exists());
}

#[test]
fn refused_events_are_counted_and_said_once() {
    let daemon = Daemon::start(&format!("{CONFIG}[flows]\nmax = 10\n"));
    let text: String = (1..=30).map(start).collect();
    write(&daemon, &mut [text.as_bytes()].into_iter());
    wait_for(&daemon, "refused", 20);
    assert_eq!(daemon.log().matches("an event of the pipe was refused").count(), 1, "{}", daemon.log());
}

#[test]
fn a_pipe_that_was_removed_is_told_of_and_made_again_by_a_reload() {
    let daemon = Daemon::start(CONFIG);
    let mut writer = OpenOptions::new().write(true).open(daemon.pipe()).expect("the pipe is read");
    writer.write_all(start(1).as_bytes()).expect("written");
    wait_for(&daemon, "events", 1);
    std::fs::remove_file(daemon.pipe()).expect("removed");
    drop(writer);
    let runs = || cli::json(&daemon, &["status"])["services"]["inputs.pipe"]["running"].as_bool();
    wait_until("the end of it", LIMIT, || Ok((runs() == Some(false)).then_some(()))).expect("it broke");
    let shown = cli::ok(&daemon, &["status"]);
    assert!(shown.contains("inputs.pipe does not run: see the log, then reload"), "{shown}");
    daemon.reload(CONFIG);
    wait_until("another", LIMIT, || Ok((runs() == Some(true)).then_some(()))).expect("made again");
    write(&daemon, &mut [start(2).as_bytes()].into_iter());
    wait_for(&daemon, "events", 1);
    assert_eq!(ports(&daemon), [1, 2]);
}
