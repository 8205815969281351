//! Marking outlives the daemon: stopped, killed at any moment, started again with other settings; and it ends when that
//! is asked for.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path as FilePath;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common;
use crate::common::cli;
use crate::common::daemon::{Daemon, Dir, binary};
use crate::common::hosts::{
    Hosts, OnWire, Path, between, hooks, of_flow, on, on_wire, one_label, seen, tag, transfer,
};
use etherparse::PacketBuilder;
use flowtag_kernel::af_packet::{ETH_P_NONE, PacketSocket};
use flowtag_testbed::{Captured, LinkOptions, Process, Testbed, WAIT, checked, require_root, wait_until};
use flowtag_wire::firefly::State;
use flowtag_wire::packet::TcpFlags;
use flowtag_wire::{Firefly, FlowLabel, LinkType, Strategy};
use libbpf_rs::query::{MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{MapCore, MapHandle};
use nix::sys::signal::Signal;
use serde_json::Value;

const NAME: &str = "cms/Analysis Input";
/// Where a flow comes from that an earlier daemon left.
const FOUND: &str = "kernel";
/// What tcpdump's words for protocols and ports mean does not go past extension headers.
const ALL: &str = "ip6";

/// `mark` goes into that section, `rest` after it. The addresses of a testbed are private, so they are not excluded.
fn config(hook: &str, mark: &str, rest: &str) -> String {
    let always = "[mark]\ninterfaces = [\"eth*\"]\nexclude_private = false\n";
    format!("{always}hook = \"{hook}\"\n{mark}\n{rest}")
}

/// The one label of some datagrams from a's socket to b.
#[track_caller]
fn label_now(hosts: &Hosts, socket: &UdpSocket, to: u16) -> FlowLabel {
    let (src, dst) = (socket.local_addr().expect("bound"), hosts.dst(to));
    let capture = hosts.b.capture("eth0", ALL).expect("a capture");
    for _ in 0..3 {
        socket.send_to(b"is this marked?", dst).expect("sent");
    }
    capture.wait_for(3, WAIT).expect("captured");
    one_label(&between(&seen(&capture.stop().expect("captured")), src, dst))
}

fn unmarked() -> FlowLabel {
    FlowLabel::new(0).expect("in range")
}

/// What fireflies host b gets about its flows.
struct Collector(UdpSocket);

impl Collector {
    fn new(hosts: &Hosts) -> Self {
        let addr = hosts.dst(10514);
        let socket = hosts.b.run(|| UdpSocket::bind(addr)).expect("host b").expect("bind");
        socket.set_read_timeout(Some(WAIT)).expect("a timeout");
        Self(socket)
    }

    #[track_caller]
    fn receive(&self, state: State) -> Firefly {
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer).expect("a firefly");
        let firefly = Firefly::from_datagram(&buffer[..length]).expect("it can be read");
        assert_eq!(firefly.state, state, "{firefly:?}");
        firefly
    }

    fn is_empty(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let empty = self.0.recv(&mut [0; 1]).is_err();
        self.0.set_read_timeout(Some(WAIT)).expect("a timeout");
        empty
    }
}

fn flows(daemon: &Daemon) -> Vec<Value> {
    let text = cli::ok(daemon, &["--json", "flow", "list"]);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn flow<'a>(flows: &'a [Value], src: &str) -> &'a Value {
    flows.iter().find(|f| f["src"] == src).unwrap_or_else(|| panic!("{src} is not in {flows:?}"))
}

/// When a flow began, in microseconds: so it is kept in the kernel.
fn begun(flow: &Value) -> i64 {
    let text = flow["start_time"].as_str().expect("a time");
    text.parse::<jiff::Timestamp>().expect("a time").as_microsecond()
}

fn start(daemon: &Daemon, protocol: &str, src: SocketAddr, dst: SocketAddr, strategy: &str) {
    let (src, dst) = (src.to_string(), dst.to_string());
    cli::ok(daemon, &["flow", "start", "-t", NAME, "--strategy", strategy, protocol, &src, &dst]);
}

// ---- What is in the kernel.

/// Maps and programs of one daemon, by the numbers that the kernel gave them.
struct InKernel {
    maps: BTreeSet<u32>,
    programs: BTreeSet<u32>,
}

impl InKernel {
    #[track_caller]
    fn of(dir: &Dir) -> Self {
        Self::in_dir(dir.pin())
    }

    /// By the maps that are kept there, and the programs that use them.
    #[track_caller]
    fn in_dir(pin: &FilePath) -> Self {
        let entries = std::fs::read_dir(pin).expect("kept");
        let named = |name: &str| name.starts_with("flowtag_");
        let paths = entries.flatten().filter(|e| named(&e.file_name().to_string_lossy())).map(|e| e.path());
        let map = |path| MapHandle::from_pinned_path(path).expect("a map").info().expect("info").info.id;
        let maps: BTreeSet<u32> = paths.map(map).collect();
        assert!(maps.len() > 10, "{maps:?}");
        let programs = users_of(&maps);
        assert!(!programs.is_empty());
        Self { maps, programs }
    }

    fn is_left(&self) -> bool {
        let any_map = MapInfoIter::default().any(|m| self.maps.contains(&m.id));
        any_map || ProgInfoIter::default().any(|p| self.programs.contains(&p.id))
    }

    /// The kernel lets go of programs and maps some time after their last user did.
    #[track_caller]
    fn wait_until_gone(&self) {
        let gone = || Ok((!self.is_left()).then_some(()));
        wait_until("all programs and maps to be gone", WAIT, gone).expect("nothing is left");
    }
}

fn users_of(maps: &BTreeSet<u32>) -> BTreeSet<u32> {
    let options = ProgInfoQueryOptions::default().include_map_ids(true);
    let uses = |ids: &[u32]| ids.iter().any(|id| maps.contains(id));
    ProgInfoIter::with_query_opts(options).filter(|p| uses(&p.map_ids)).map(|p| p.id).collect()
}

/// Filters and qdiscs of the interface, and what is attached to it otherwise.
fn attached(hosts: &Hosts) -> String {
    let tc = |what: &[&str]| checked(hosts.a.command("tc").args(what)).expect("tc");
    let filters = ["egress", "ingress"].map(|way| tc(&["filter", "show", "dev", "eth0", way]));
    let tcx = checked(hosts.a.command("bpftool").args(["net", "show", "dev", "eth0"])).expect("bpftool");
    filters.concat() + &tc(&["qdisc", "show", "dev", "eth0"]) + &tcx
}

// ---- Stories.

#[test]
fn a_stopped_daemon_leaves_marking_on_and_the_next_takes_the_flows_over() {
    require_root!();
    for hook in hooks() {
        println!("FEATURE marking goes on without a daemon hook={hook}");
        let hosts = Hosts::unlabelled("keep");
        let before = attached(&hosts);
        let collector = Collector::new(&hosts);
        let daemon = hosts.daemon(&config(hook, "", ""));
        let (label, option) = (hosts.udp(40000), hosts.udp(40001));
        start(&daemon, "udp", hosts.src(40000), hosts.dst(5201), "label");
        start(&daemon, "udp", hosts.src(40001), hosts.dst(5201), "label+destination");
        let starts = [collector.receive(State::Start), collector.receive(State::Start)];
        let marks = [label_now(&hosts, &label, 5201), label_now(&hosts, &option, 5201)];
        assert_eq!(marks.map(FlowLabel::tag), [Some(tag(3, 14)); 2]);
        let listed = flows(&daemon);

        let dir = daemon.leave();
        assert_eq!([&label, &option].map(|s| label_now(&hosts, s, 5201)), marks, "{hook}: nobody is there");
        assert!(collector.is_empty(), "a flow that is still marked has not ended");

        let daemon = Daemon::restart_with(dir, &config(hook, "", ""), hosts.on_a());
        assert_eq!([&label, &option].map(|s| label_now(&hosts, s, 5201)), marks, "{hook}: the next one");
        let now = flows(&daemon);
        assert_eq!(now.len(), 2);
        for (src, strategy) in [(hosts.src(40000), "label"), (hosts.src(40001), "label+destination")] {
            let (src, was) = (src.to_string(), flow(&listed, &src.to_string()));
            let is = flow(&now, &src);
            for key in ["strategy", "label", "experiment", "activity", "local", "remote"] {
                assert_eq!(is[key], was[key], "{key}");
            }
            assert_eq!(begun(is), begun(was));
            assert_eq!((&is["source"], &is["strategy"]), (&FOUND.into(), &strategy.into()));
        }
        assert!(collector.is_empty(), "it started once");

        let (src, dst) = (hosts.src(40000).to_string(), hosts.dst(5201).to_string());
        cli::ok(&daemon, &["flow", "end", "udp", &src, &dst]);
        let end = collector.receive(State::End);
        let begun = starts.iter().find(|f| f.flow == end.flow).expect("its START");
        assert_eq!(end.start_time, begun.start_time, "END has the time of the first START");
        assert_eq!((end.experiment, end.activity), (3, 14));
        assert_eq!(label_now(&hosts, &label, 5201), unmarked(), "{hook}: it ended");
        assert_eq!(label_now(&hosts, &option, 5201), marks[1], "{hook}: the other did not");
        daemon.stop();
        // Its directory is gone, and with that what it kept; a filter is not in there.
        if hook == "tcx" {
            assert_eq!(attached(&hosts), before);
        }
    }
}

/// Says when it is dropped, also by a panic, that others may stop.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What arrived while `act` ran and datagrams went from this port of host a to port 5201 of host b without pause.
fn while_datagrams_go(hosts: &Hosts, port: u16, act: impl FnOnce()) -> Captured {
    let capture = hosts.b.capture("eth0", ALL).expect("a capture");
    let (socket, dst, stop) = (hosts.udp(port), hosts.dst(5201), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                socket.send_to(b"still marked?", dst).expect("sent");
                thread::sleep(Duration::from_micros(300));
            }
        });
        let _stop = Stop(&stop);
        act();
    });
    capture.stop().expect("captured")
}

#[test]
fn no_packet_is_unmarked_across_a_restart_also_with_another_size_of_the_table() {
    require_root!();
    for hook in hooks() {
        let hosts = Hosts::unlabelled("resize");
        let sized = |max: u32| config(hook, "", &format!("[flows]\nmax = {max}\n"));
        let daemon = hosts.daemon(&sized(1000));
        let (src, dst) = (hosts.src(40000), hosts.dst(5201));
        start(&daemon, "udp", src, dst, "label+hop-by-hop");
        let mut daemon = Some(daemon);
        let captured = while_datagrams_go(&hosts, 40000, || {
            for max in [1000, 100_000, 100_000, 2000, 10] {
                let dir = daemon.take().expect("a daemon").leave();
                let next = Daemon::restart_with(dir, &sized(max), hosts.on_a());
                let list = flows(&next);
                assert_eq!(list.len(), 1, "{hook}, {max}: it is taken over");
                assert_eq!(list[0]["source"], FOUND);
                daemon = Some(next);
            }
        });
        let frames = captured.frames().expect("frames");
        let packets = on_wire(&frames, LinkType::Ethernet);
        let packets = of_flow(&packets, src, dst);
        assert!(packets.len() > 1000, "{} packets", packets.len());
        for packet in &packets {
            let fault = packet.fault(tag(3, 14), Strategy::LABEL | Strategy::HOP_BY_HOP);
            assert_eq!(fault, None, "{hook}: {}", packet.story());
        }
        one_label(&between(&seen(&captured), src, dst));
        daemon.expect("a daemon").stop();
    }
}

// ---- Killed at any moment.

/// Pseudo-random numbers that a failing test can name (Numerical Recipes, ranqd1).
struct Chance(u32);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u64::from(self.0 >> 8) % limit
    }
}

/// Bytes that tell their place.
fn bulk(at: u64, length: usize) -> Vec<u8> {
    (at..at + length as u64).map(|i| (i % 251) as u8).collect()
}

/// Sends until it is told to stop, then closes. Gives how much.
fn send_bulk(mut client: TcpStream, stop: &AtomicBool) -> u64 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        client.write_all(&bulk(sent, 3000)).expect("sent");
        sent += 3000;
        // So that the capture keeps up.
        thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Reads to the end; every byte has to be the one that was sent. Gives how many.
fn read_bulk(mut server: TcpStream) -> u64 {
    let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let n = server.read(&mut buffer).expect("it goes on");
        if n == 0 {
            return read;
        }
        assert!(buffer[..n] == bulk(read, n), "other bytes after {read}");
        read += n as u64;
    }
}

/// Lets flows come and go by the daemon's pipe, whenever there is one who reads it: a kill hits in the middle of that.
fn come_and_go(pipe: &FilePath, stop: &AtomicBool) {
    let mut chance = Chance(7);
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(1));
        let open = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(pipe);
        let Ok(mut pipe) = open else { continue };
        let line = |n: u64| {
            let (what, port) = (["start", "end"][(n % 2) as usize], n / 2);
            format!("{what} udp fd00:f1:1::1 {port} fd00:f1:1::2 9 3 14\n")
        };
        let lines: String = (0..20).map(|_| line(chance.below(400) + 2)).collect();
        let _ = pipe.write_all(lines.as_bytes()); // the reader may be killed meanwhile
    }
}

/// A daemon that is not waited for.
fn spawn(hosts: &Hosts, dir: &Dir) -> Process {
    let mut command = hosts.a.command(binary());
    command.arg("run").arg("--config").arg(dir.path().join("flowtag.toml"));
    command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET");
    hosts.a.spawn(command).expect("a process")
}

const KILLS: u32 = 24;

/// Lets daemons run for a while each. Some get no further than into their start.
fn kill_again_and_again(hosts: &Hosts, dir: &Dir) {
    let seed = std::process::id();
    let (mut chance, mut ready) = (Chance(seed), 0);
    let file = dir.path().join("flowtag.toml");
    let toml = std::fs::read_to_string(&file).expect("the configuration");
    for number in 0..KILLS {
        if number % 6 == 5 {
            // A table of another size has to be filled with what was in the last.
            let sized = toml.replace("max = 100000", &format!("max = {}", 2000 + number));
            std::fs::write(&file, sized).expect("written");
        }
        let mut daemon = spawn(hosts, dir);
        if number % 4 == 3 {
            daemon.wait_for_output("flowtag is ready", WAIT).expect("it starts");
        }
        thread::sleep(Duration::from_micros(chance.below(400_000)));
        ready += u32::from(daemon.stderr().contains("flowtag is ready"));
        let ended = daemon.stop(Signal::SIGKILL).expect("killed");
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert_eq!(ended.status.code(), None, "it ended by itself:\n{}", ended.stderr);
    }
    println!("{ready} of {KILLS} were ready when they were killed, seed {seed}");
}

#[test]
fn a_daemon_killed_at_any_moment_loses_no_byte_and_no_mark() {
    require_root!();
    let strategy = Strategy::LABEL | Strategy::DESTINATION;
    for hook in hooks() {
        println!("FEATURE SIGKILL at any moment hook={hook}");
        let hosts = Hosts::unlabelled("kills");
        let rest =
            "[flows]\nmax = 100000\n[outputs.firefly]\nenabled = false\n[inputs.pipe]\nenabled = true\n";
        let toml = config(hook, &format!("strategy = \"{strategy}\""), rest);
        let daemon = hosts.daemon(&toml);
        let capture = hosts.b.capture("eth0", ALL).expect("a capture");
        // Connected while there is a daemon, so that its segments leave room for the option.
        let (client, server) = hosts.connect(40000, 5201);
        let (src, dst) = (hosts.src(40000), hosts.dst(5201));
        start(&daemon, "tcp", src, dst, &strategy.to_string());
        let was = flows(&daemon);
        let (pipe, stop) = (daemon.pipe(), AtomicBool::new(false));
        let dir = daemon.kill();
        let daemon = thread::scope(|scope| {
            let sender = scope.spawn(|| send_bulk(client, &stop));
            let reader = scope.spawn(|| read_bulk(server));
            let churn = scope.spawn(|| come_and_go(&pipe, &stop));
            let stopped = Stop(&stop);
            kill_again_and_again(&hosts, &dir);
            let daemon = Daemon::restart_with(dir, &toml, hosts.on_a());
            let (now, src) = (flows(&daemon), src.to_string());
            let (is, was) = (flow(&now, &src), flow(&was, &src));
            assert_eq!([&is["strategy"], &is["label"]], [&was["strategy"], &was["label"]], "{hook}");
            assert_eq!(begun(is), begun(was), "{hook}");
            drop(stopped);
            churn.join().expect("flows came and went");
            let sent = sender.join().expect("the sender");
            assert_eq!(reader.join().expect("the reader"), sent, "{hook}: bytes");
            daemon
        });
        assert_all_marked_after_the_first(&capture.stop().expect("captured"), src, dst, strategy);
        assert_table_is_as_listed(&daemon);
        daemon.stop();
    }
}

#[track_caller]
fn assert_all_marked_after_the_first(
    captured: &Captured,
    src: SocketAddr,
    dst: SocketAddr,
    strategy: Strategy,
) {
    let frames = captured.frames().expect("frames");
    assert_eq!(captured.dropped, 0, "tcpdump kept up");
    let packets = on_wire(&frames, LinkType::Ethernet);
    let packets: Vec<_> = of_flow(&packets, src, dst);
    let fault = |p: &OnWire<'_>| p.fault(tag(3, 14), strategy);
    let first = packets.iter().position(|p| fault(p).is_none()).expect("some packet is marked");
    println!("{} packets, the first {first} before the flow was announced", packets.len());
    assert!(packets.len() > first + 1000);
    for packet in &packets[..first] {
        assert!(packet.option_tags.is_empty() && packet.flow_label == Some(unmarked()), "{}", packet.story());
    }
    for packet in &packets[first..] {
        assert_eq!(fault(packet), None, "{}", packet.story());
        assert_eq!(packet.flow_label, packets[first].flow_label, "{}", packet.story());
    }
}

/// Every flow that the daemon knows is in the kernel's table, and no other.
#[track_caller]
fn assert_table_is_as_listed(daemon: &Daemon) {
    let listed = || flows(daemon).len();
    let table = MapHandle::from_pinned_path(daemon.pin().join("flowtag_flows")).expect("the table is kept");
    wait_until("the table to be as the list", WAIT, || Ok((table.keys().count() == listed()).then_some(())))
        .unwrap_or_else(|e| panic!("{e:#}: {} and {}", table.keys().count(), listed()));
}

// ---- The end.

#[test]
fn detach_takes_everything_out_of_the_kernel() {
    require_root!();
    for hook in hooks() {
        for killed in [false, true] {
            let hosts = Hosts::unlabelled("detach");
            let before = attached(&hosts);
            let daemon = hosts.daemon(&config(hook, "", ""));
            let socket = hosts.udp(40000);
            start(&daemon, "udp", hosts.src(40000), hosts.dst(5201), "label");
            let dir = if killed { daemon.kill() } else { daemon.leave() };
            assert_eq!(label_now(&hosts, &socket, 5201).tag(), Some(tag(3, 14)), "{hook}");
            let kernel = InKernel::of(&dir);
            let mut detach = hosts.a.command(binary());
            detach.args(["--json", "detach", "--pin"]).arg(dir.pin());
            detach.arg("--runtime-dir").arg(dir.path().join("run"));
            let said: Value = serde_json::from_str(&checked(&mut detach).expect("detached")).expect("JSON");
            let pin = dir.pin().to_str().expect("readable");
            assert_eq!(said["removed"], serde_json::json!([pin, "eth0"]), "{hook}");
            assert_eq!(attached(&hosts), before, "{hook}: on the interface");
            assert!(!dir.pin().exists(), "{hook}: the directory");
            kernel.wait_until_gone();
            assert_eq!(label_now(&hosts, &socket, 5201), unmarked(), "{hook}: nothing is marked");
            // And the next daemon begins with nothing.
            let daemon = Daemon::restart_with(dir, &config(hook, "", ""), hosts.on_a());
            assert_eq!(flows(&daemon), [] as [Value; 0]);
            daemon.stop();
        }
    }
}

#[test]
fn a_daemon_that_is_to_detach_leaves_nothing() {
    require_root!();
    for hook in hooks() {
        let hosts = Hosts::unlabelled("leave");
        let before = attached(&hosts);
        let toml = config(hook, "on_stop = \"detach\"", "");
        let daemon = hosts.daemon(&toml);
        let socket = hosts.udp(40000);
        start(&daemon, "udp", hosts.src(40000), hosts.dst(5201), "label");
        assert_eq!(label_now(&hosts, &socket, 5201).tag(), Some(tag(3, 14)));
        let kernel = InKernel::in_dir(daemon.pin());
        let dir = daemon.leave();
        assert_eq!(attached(&hosts), before, "{hook}: on the interface");
        assert!(!dir.pin().exists(), "{hook}: the directory");
        kernel.wait_until_gone();
        assert_eq!(label_now(&hosts, &socket, 5201), unmarked(), "{hook}");
        let daemon = Daemon::restart_with(dir, &toml, hosts.on_a());
        assert_eq!(flows(&daemon), [] as [Value; 0], "{hook}: nothing to take over");
        daemon.stop();
    }
}

#[test]
fn a_connection_that_closed_while_no_daemon_ran_is_ended_by_the_next() {
    require_root!();
    let hook = hooks()[0];
    let hosts = Hosts::unlabelled("closed");
    let collector = Collector::new(&hosts);
    let daemon = hosts.daemon(&config(hook, "", ""));
    let (gone, stays) = (hosts.connect(40000, 5201), hosts.connect(40001, 5202));
    start(&daemon, "tcp", hosts.src(40000), hosts.dst(5201), "label");
    let begun = collector.receive(State::Start);
    start(&daemon, "tcp", hosts.src(40001), hosts.dst(5202), "label");
    collector.receive(State::Start);
    let dir = daemon.leave();
    let (client, server) = gone;
    drop(server); // which then waits for the other's last word, not the other for its
    drop(client);
    let states = || checked(hosts.a.command("ss").args(["-Htan", "sport = :40000"])).expect("ss");
    wait_until("the connection to close", WAIT, || Ok(states().is_empty().then_some(()))).expect("closed");
    let daemon = Daemon::restart_with(dir, &config(hook, "", ""), hosts.on_a());
    let end = collector.receive(State::End);
    assert_eq!((end.flow, end.start_time), (begun.flow, begun.start_time));
    assert!(end.end_time > end.start_time);
    let listed = flows(&daemon);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["src"], hosts.src(40001).to_string());
    assert!(collector.is_empty(), "the other goes on");
    drop(stays);
    let end = collector.receive(State::End);
    assert_eq!(end.flow.src(), flowtag_wire::Endpoint::from(hosts.src(40001)));
    daemon.stop();
}

#[test]
fn two_daemons_cannot_share_a_directory_of_pins() {
    require_root!();
    let hosts = Hosts::unlabelled("shared");
    let daemon = hosts.daemon(&config("auto", "", ""));
    let pin = daemon.pin().to_str().expect("readable").to_owned();
    let other = Dir::new();
    let here = other.path().to_str().expect("readable");
    let toml = config("auto", &format!("pin = \"{pin}\""), "")
        + &format!("[inputs.control]\npath = \"{here}/control.sock\"\n");
    let file = other.path().join("other.toml");
    std::fs::write(&file, format!("runtime_dir = \"{here}/run\"\n{toml}")).expect("written");
    let mut command = hosts.a.command(binary());
    let output: Output = command.args(["run", "--config"]).arg(&file).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{stderr}");
    assert!(stderr.contains(&pin) && stderr.contains("mark.pin"), "{stderr}");
    assert!(stderr.contains("another flowtag"), "{stderr}");
    // Nor does it spoil what the first has there.
    let socket = hosts.udp(40000);
    start(&daemon, "udp", hosts.src(40000), hosts.dst(5201), "label");
    assert_eq!(label_now(&hosts, &socket, 5201).tag(), Some(tag(3, 14)));
    daemon.stop();
}

const RULE: &str = "[[rules]]\nname = \"peers\"\nremote = [\"fd00:f1::/32\"]\nprotocol = [\"tcp\"]\n\
                    tag = \"cms/Analysis Input\"\nstrategy = \"label+destination\"\n";

#[test]
fn rules_go_on_without_a_daemon_and_the_next_one_tells_of_it() {
    require_root!();
    for hook in hooks() {
        println!("FEATURE rules without a daemon hook={hook}");
        let hosts = Hosts::unlabelled("rules");
        let collector = Collector::new(&hosts);
        let toml = config(hook, "", RULE);
        let dir = hosts.daemon(&toml).leave();
        let capture = hosts.b.capture("eth0", ALL).expect("a capture");
        let mut open = hosts.connect(40000, 5201);
        transfer(&mut open, &bulk(0, 5000));
        let short = hosts.connect(40001, 5201);
        drop(short.1);
        drop(short.0);
        assert!(collector.is_empty(), "nobody is there");
        let daemon = Daemon::restart_with(dir, &toml, hosts.on_a());
        transfer(&mut open, &bulk(0, 5000));
        let captured = capture.stop().expect("captured");
        let frames = captured.frames().expect("frames");
        for port in [40000, 40001] {
            let packets = on_wire(&frames, LinkType::Ethernet);
            let packets = of_flow(&packets, hosts.src(port), hosts.dst(5201));
            assert!(packets[0].has(TcpFlags::SYN), "from the first packet on");
            for packet in &packets {
                let fault = packet.fault(tag(3, 14), Strategy::LABEL | Strategy::DESTINATION);
                assert_eq!(fault, None, "{hook}: {}", packet.story());
            }
            let labels: BTreeSet<_> = packets.iter().filter_map(|p| p.flow_label).collect();
            assert_eq!(labels.len(), 1, "{hook}: {labels:?}");
        }
        // Told of are both; the one that is closed has ended.
        let mut told = Vec::new();
        while told.len() < 3 {
            let mut buffer = [0; 2048];
            let length = collector.0.recv(&mut buffer).expect("a firefly");
            let firefly = Firefly::from_datagram(&buffer[..length]).expect("it can be read");
            told.push((firefly.flow.src().port(), firefly.state));
        }
        told.sort_unstable_by_key(|(port, state)| (*port, *state == State::End));
        assert_eq!(told, [(40000, State::Start), (40001, State::Start), (40001, State::End)], "{hook}");
        let listed = flows(&daemon);
        assert_eq!(listed.len(), 1, "{hook}: {listed:?}");
        assert_eq!(listed[0]["src"], hosts.src(40000).to_string());
        assert!(listed[0]["rule"].is_string(), "{hook}: {listed:?}");
        drop(open);
        assert_eq!(collector.receive(State::End).flow.src().port(), 40000);
        daemon.stop();
    }
}

/// Of many a connection the daemon hears when it is over already.
#[test]
fn short_connections_that_a_rule_found_have_all_ended() {
    require_root!();
    let hosts = Hosts::unlabelled("short");
    let daemon = hosts.daemon(&config(hooks()[0], "", RULE));
    let dst = hosts.dst(5201);
    let listener = hosts.b.run(|| common::hosts::listen(dst)).expect("host b");
    let count = 300;
    thread::scope(|scope| {
        scope.spawn(|| (0..count).for_each(|_| drop(listener.accept().expect("accepted"))));
        hosts
            .a
            .run(|| (0..count).for_each(|_| drop(TcpStream::connect(dst).expect("connected"))))
            .expect("a");
    });
    let status = || cli::json(&daemon, &["status"]);
    let over = || Ok((status()["engine"]["ended_closed"].as_u64() == Some(count)).then_some(()));
    wait_until("all connections to have ended", WAIT, over).unwrap_or_else(|e| panic!("{e:#}: {}", status()));
    assert_eq!(flows(&daemon), [] as [Value; 0]);
    assert_eq!(status()["engine"]["started"], count);
    daemon.stop();
}

/// The kernel notes who makes sockets, also while no daemon runs; and what it noted is there for the next.
#[test]
fn a_rule_for_a_process_goes_on_without_a_daemon() {
    require_root!();
    let rule = "[[rules]]\nname = \"mine\"\nprocess = [\"survivor\"]\ntag = \"cms/Analysis Input\"\n";
    for hook in hooks() {
        let hosts = Hosts::unlabelled("process");
        let toml = config(hook, "", rule);
        let daemon = hosts.daemon(&toml);
        let on_a = |name: &str, what: &(dyn Fn() -> TcpListener + Sync)| {
            // A thread's name is the process's, as far as sockets are concerned.
            let named = || {
                thread::scope(|s| {
                    let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(s, what);
                    thread.expect("a thread").join().expect("it ends")
                })
            };
            hosts.a.run(named).expect("host a")
        };
        let listen = |port| move || TcpListener::bind(("::", port)).expect("listen");
        let before = on_a("survivor", &listen(7001));
        let dir = daemon.leave();
        let between = on_a("survivor", &listen(7002));
        let other = on_a("somebody", &listen(7003));
        let mut listeners = [(before, 7001, true), (between, 7002, true), (other, 7003, false)];
        assert_marked_from(&hosts, &mut listeners, hook, "without a daemon");
        let daemon = Daemon::restart_with(dir, &toml, hosts.on_a());
        assert_marked_from(&hosts, &mut listeners, hook, "with the next daemon");
        drop(daemon);
    }
}

/// Connects from b to each port of a, and looks at what comes back.
fn assert_marked_from(hosts: &Hosts, listeners: &mut [(TcpListener, u16, bool)], hook: &str, when: &str) {
    let capture = hosts.b.capture("eth0", ALL).expect("a capture");
    for (listener, port, _) in &*listeners {
        let to = hosts.src(*port);
        let mut client = hosts.b.run(|| TcpStream::connect(to)).expect("host b").expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        server.write_all(b"hello").expect("sent");
        drop(server);
        client.read_to_end(&mut Vec::new()).expect("received");
    }
    let captured = seen(&capture.stop().expect("captured"));
    for (_, port, marked) in listeners {
        let packets: Vec<_> = captured.iter().filter(|p| p.src == hosts.src(*port)).cloned().collect();
        let data: Vec<_> = packets.iter().filter(|p| p.payload > 0).cloned().collect();
        let tag = one_label(&data).tag();
        assert_eq!(tag.is_some(), *marked, "{hook}, {when}, port {port}");
    }
}

/// The kernel tells of all sockets, also of those that only seem to be ours. Not so of what we forward.
#[test]
fn a_socket_of_another_host_with_the_same_addresses_does_not_end_a_flow() {
    require_root!();
    let (hosts, twins) = (Hosts::unlabelled("one"), Hosts::unlabelled("twin"));
    assert_eq!(hosts.src(40000), twins.src(40000), "beds have the same addresses");
    let daemon = hosts.daemon(&config(hooks()[0], "", RULE));
    let [_own, own_later] = [hosts.connect(40000, 5201), hosts.connect(40001, 5202)];
    wait_until("both to be known", WAIT, || Ok((flows(&daemon).len() == 2).then_some(()))).expect("known");
    drop(twins.connect(40000, 5201));
    drop(own_later);
    wait_until("one to end", WAIT, || Ok((flows(&daemon).len() == 1).then_some(()))).expect("it ended");
    assert_eq!(flows(&daemon)[0]["src"], hosts.src(40000).to_string());
    daemon.stop();
}

#[test]
fn a_router_hears_of_the_end_of_a_connection_from_this_machine() {
    require_root!();
    let bed = Testbed::new("router").expect("a testbed");
    let [c, router, b] = ["c", "router", "b"].map(|name| bed.host(name).expect("a host"));
    let options = LinkOptions::default();
    let chain = bed.chain((&c, "eth0"), &router, (&b, "eth1"), &options).expect("a router");
    let daemon = Daemon::start_with(&config(hooks()[0], "", RULE), on(&router));
    let path = Path::new(&c, chain.near.a.ipv6, &b, chain.far.b.ipv6);
    let mut connection = path.connect(40000, 5201);
    transfer(&mut connection, b"hello");
    let known = |count| move |flows: Vec<Value>| (flows.len() == count).then_some(());
    wait_until("it to be known", WAIT, || Ok(known(1)(flows(&daemon)))).expect("one flow, both ways");
    drop(connection);
    wait_until("it to end", WAIT, || Ok(known(0)(flows(&daemon)))).expect("it ended");
    daemon.stop();
}

/// Who only knocks must not fill the table: the answer is marked, and nobody is told.
#[test]
fn connections_that_never_come_about_are_no_flows() {
    require_root!();
    let hosts = Hosts::unlabelled("knock");
    let daemon = hosts.daemon(&config(hooks()[0], "", RULE));
    let to = hosts.src(7000);
    let listener = hosts.a.run(|| common::hosts::listen(to)).expect("host a");
    let capture = hosts.b.capture("eth0", ALL).expect("a capture");
    let count = 100;
    let (near, far) = (&hosts.link.b, &hosts.link.a);
    let knock = || {
        let socket = PacketSocket::open("eth0", ETH_P_NONE).expect("a packet socket");
        for port in 30_000..30_000 + count {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(near.mac, far.mac)
                .ipv6(near.ipv6.octets(), far.ipv6.octets(), 64)
                .tcp(port, 7000, 1, 64_000)
                .syn()
                .write(&mut frame, &[])
                .expect("a SYN");
            socket.send(&frame).expect("sent");
        }
    };
    hosts.b.run(knock).expect("host b");
    // An answer each, and what b has to say to that, as it knows of no connection.
    capture.wait_for(3 * usize::from(count), WAIT).expect("captured");
    let captured = capture.stop().expect("captured");
    let frames = captured.frames().expect("frames");
    let answers = on_wire(&frames, LinkType::Ethernet).into_iter();
    let answers: Vec<_> = answers.filter(|p| p.has(TcpFlags::SYN) && p.has(TcpFlags::ACK)).collect();
    assert!(answers.len() >= usize::from(count), "{} answers", answers.len());
    for answer in &answers {
        assert_eq!(
            answer.fault(tag(3, 14), Strategy::LABEL | Strategy::DESTINATION),
            None,
            "{}",
            answer.story()
        );
    }
    // A connection that does come about is known when all before it were heard of.
    let client = hosts.b.run(|| TcpStream::connect(to)).expect("host b").expect("connected");
    let server = loop {
        let (server, peer) = listener.accept().expect("accepted");
        if peer.port() == client.local_addr().expect("bound").port() {
            break server;
        }
    };
    (&server).write_all(b"hello").expect("sent");
    wait_until("the connection to be known", WAIT, || Ok((!flows(&daemon).is_empty()).then_some(())))
        .expect("known");
    assert_eq!(flows(&daemon).len(), 1);
    daemon.stop();
}
