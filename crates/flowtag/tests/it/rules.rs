//! Rules on real sockets: whose packets are marked that nobody announced, as the receiving host captures them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common;
use crate::common::cli;
use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, Path, Seen, between, hooks, seen, tag, transfer};
use flowtag_testbed::{Captured, Process, WAIT, checked, require_root, wait_until};
use flowtag_wire::firefly::State;
use flowtag_wire::{Firefly, FlowLabel, Tag};

/// Set in the copy of this test binary that a test starts as another program: what it is to do.
const TALK: &str = "FLOWTAG_TALK";

/// Marking on `eth*` by these rules. The addresses of a testbed are private, so they are not excluded.
fn config(rules: &str) -> String {
    config_with("exclude_private = false", rules)
}

fn config_with(mark: &str, rest: &str) -> String {
    format!("[mark]\ninterfaces = [\"eth*\"]\npin = \"\"\n{mark}\n{rest}")
}

/// What a label says: nothing if it is 0.
#[track_caller]
fn meaning(label: FlowLabel) -> Option<Tag> {
    let tag = label.tag();
    assert!(label.value() == 0 || tag.is_some(), "neither a tag nor nothing: {label}");
    (label.value() != 0).then_some(tag).flatten()
}

/// What all of these packets say.
#[track_caller]
fn said(packets: &[Seen]) -> Option<Tag> {
    let all: BTreeSet<FlowLabel> = packets.iter().filter_map(|p| p.label).collect();
    assert_eq!(all.len(), 1, "one label on {} packets, not {all:?}", packets.len());
    meaning(*all.first().expect("one"))
}

/// Packets that left host a for this port of host b.
fn to_port(all: &[Seen], hosts: &Hosts, port: u16) -> Vec<Seen> {
    let is = |p: &&Seen| p.dst.port() == port && p.src.ip() == hosts.link.a.ipv6;
    all.iter().filter(is).cloned().collect()
}

/// Starts a capture of host b's `eth0`, lets `act` run, and gives what arrived.
#[track_caller]
fn while_captured(hosts: &Hosts, act: impl FnOnce()) -> Captured {
    let capture = hosts.b.capture("eth0", "ip6 and (tcp or udp)").expect("capture");
    act();
    capture.stop().expect("captured")
}

fn send_udp(hosts: &Hosts, src: SocketAddr, dst: SocketAddr) {
    let socket = hosts.a.run(|| common::hosts::when_free(|| UdpSocket::bind(src))).expect("host a");
    for _ in 0..3 {
        socket.send_to(b"whose is this?", dst).expect("sent");
    }
}

// ---- Another program with an owner of its own.

/// What a program is like that a rule may mean.
#[derive(Default)]
struct Program<'a> {
    user: Option<u32>,
    cgroup: Option<&'a FilePath>,
    name: Option<&'a str>,
}

impl Program<'_> {
    fn start(&self, hosts: &Hosts, what: &str, address: SocketAddr) -> Process {
        let mut command = hosts.a.command(std::env::current_exe().expect("this test"));
        command.args([
            "--exact",
            "rules::talks_as_it_is_told",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ]);
        command.env(TALK, what).env("FLOWTAG_TALK_ADDRESS", address.to_string());
        command.env("FLOWTAG_TALK_USER", self.user.unwrap_or_default().to_string());
        command.env("FLOWTAG_TALK_CGROUP", self.cgroup.unwrap_or(FilePath::new("")));
        command.env("FLOWTAG_TALK_NAME", self.name.unwrap_or_default());
        hosts.a.spawn(command).expect("a program")
    }

    /// Connects to this port of host b, says hello and closes.
    #[track_caller]
    fn connects(&self, hosts: &Hosts, to: u16) {
        let dst = hosts.dst(to);
        let listener = hosts.b.run(|| common::hosts::listen(dst)).expect("host b");
        let program = self.start(hosts, "connect", dst);
        let accepted = thread::spawn(move || {
            let (mut server, _) = listener.accept().expect("accept");
            let mut words = String::new();
            server.read_to_string(&mut words).expect("all of it");
            words
        });
        let ended = program.wait(WAIT).expect("it ends");
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        assert_eq!(accepted.join().expect("server"), "hello");
    }

    /// Sends datagrams to this port of host b.
    #[track_caller]
    fn sends(&self, hosts: &Hosts, to: u16) {
        let ended = self.start(hosts, "send", hosts.dst(to)).wait(WAIT).expect("it ends");
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    }

    /// Accepts a connection from host b at this port and says hello.
    #[track_caller]
    fn accepts(&self, hosts: &Hosts, port: u16) {
        let address = hosts.src(port);
        let mut program = self.start(hosts, "accept", address);
        program.wait_for_output("listening", WAIT).expect("it listens");
        let mut client = hosts.b.run(|| TcpStream::connect(address)).expect("host b").expect("connected");
        let mut words = String::new();
        client.read_to_string(&mut words).expect("all of it");
        drop(client);
        assert_eq!(words, "hello");
        assert!(program.wait(WAIT).expect("it ends").status.success());
    }
}

/// Not a test of its own: the program that [`Program`] starts.
#[test]
#[ignore = "run by the tests that need another program"]
fn talks_as_it_is_told() {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let what = std::env::var(TALK).expect("what to do");
    let (cgroup, name, user) = (of("FLOWTAG_TALK_CGROUP"), of("FLOWTAG_TALK_NAME"), of("FLOWTAG_TALK_USER"));
    if !cgroup.is_empty() {
        fs::write(FilePath::new(&cgroup).join("cgroup.procs"), "0").expect("the cgroup takes this process");
    }
    if !name.is_empty() {
        let name = std::ffi::CString::new(name).expect("a name");
        nix::sys::prctl::set_name(&name).expect("a name");
    }
    let user: u32 = user.parse().expect("a number");
    nix::unistd::setuid(user.into()).expect("another user");
    talk(&what, of("FLOWTAG_TALK_ADDRESS").parse().expect("an address"));
}

fn talk(what: &str, address: SocketAddr) {
    match what {
        "connect" => TcpStream::connect(address).expect("connected").write_all(b"hello").expect("sent"),
        "send" => {
            let socket = UdpSocket::bind("[::]:0").expect("bind");
            for _ in 0..3 {
                socket.send_to(b"hello", address).expect("sent");
            }
        }
        "accept" => {
            let listener = TcpListener::bind(address).expect("listen");
            println!("listening");
            let (mut server, _) = listener.accept().expect("accept");
            server.write_all(b"hello").expect("sent");
        }
        other => panic!("{other:?} is nothing to do"),
    }
}

// ---- Conditions.

#[test]
fn ports_prefixes_protocols_interfaces_and_order_choose_the_rule() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-table");
    let second = hosts.bed.link(&hosts.a, "eth1", &hosts.b, "eth1").expect("a second link");
    for address in ["fd00:f9::9", "fd00:f9:0:1::9"] {
        hosts.b.add_address("lo", &format!("{address}/128")).expect("an address");
        hosts
            .a
            .add_route(&format!("{address}/128"), &["via", &hosts.link.b.ipv6.to_string()])
            .expect("a route");
    }
    hosts.a.add_address("eth0", "fd00:f1:1::1111/64").expect("an address");
    let _daemon = hosts.daemon(&config(RULE_TABLE));
    let (src, dst) = (|port| hosts.src(port), |port| hosts.dst(port));
    let at = |address: &str, port: u16| -> SocketAddr {
        (address.parse::<Ipv6Addr>().expect("an address"), port).into()
    };
    let eth1 = |port| (SocketAddr::from((second.a.ipv6, port)), SocketAddr::from((second.b.ipv6, 6000)));
    let rows: Vec<(&str, SocketAddr, SocketAddr, Option<Tag>)> = vec![
        ("nothing fits", src(40000), dst(6000), None),
        ("first of a range", src(41000), dst(6000), Some(tag(2, 2))),
        ("last of a range", src(41009), dst(6000), Some(tag(2, 2))),
        ("behind a range", src(41010), dst(6000), None),
        ("a port beside the range", src(41020), dst(6000), Some(tag(2, 2))),
        ("never, before the range", src(41005), dst(6000), None),
        ("remote port", src(40001), dst(1094), Some(tag(2, 3))),
        ("two conditions hold", src(42000), dst(1095), Some(tag(2, 4))),
        ("one of two conditions fails", src(42001), dst(1095), None),
        ("the wide prefix", src(40002), at("fd00:f9::9", 6000), Some(tag(2, 5))),
        ("the longer prefix, though later", src(40003), at("fd00:f9:0:1::9", 6000), Some(tag(2, 6))),
        ("local address", at("fd00:f1:1::1111", 40004), dst(6000), Some(tag(2, 7))),
        ("protocol", src(40005), dst(7777), Some(tag(2, 8))),
        ("the first of two that fit", src(40006), dst(8888), Some(tag(2, 9))),
        ("interface", eth1(40007).0, eth1(40007).1, Some(tag(2, 11))),
    ];
    let far = hosts.b.capture("eth1", "udp").expect("capture");
    let captured = while_captured(&hosts, || {
        rows.iter().for_each(|(_, src, dst, _)| send_udp(&hosts, *src, *dst));
        // The rule for port 7777 is for UDP alone.
        transfer(&mut hosts.connect(40005, 7777), b"TCP");
    });
    let mut all = seen(&captured);
    all.extend(seen(&far.stop().expect("captured")));
    let (tcp, udp): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.protocol == 6);
    let mut wrong = Vec::new();
    for (what, src, dst, expected) in rows {
        let packets = between(&udp, src, dst);
        assert_eq!(packets.len(), 3, "{what}: all datagrams arrive");
        let told = said(&packets);
        if told != expected {
            wrong.push(format!("{what}: {src} to {dst}: {told:?} where there should be {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(said(&between(&tcp, src(40005), dst(7777))), None, "TCP to the port of a rule for UDP");
}

/// Every rule has a tag of its own, so that a packet says which one it was.
const RULE_TABLE: &str = r#"
    [outputs.firefly]
    enabled = false
    [[rules]]
    name = "not-this-one"
    local_port = 41005
    tag = "never"
    [[rules]]
    local_port = ["41000-41009", 41020]
    tag = "2/2"
    [[rules]]
    remote_port = 1094
    tag = "2/3"
    [[rules]]
    local_port = 42000
    remote_port = 1095
    tag = "2/4"
    [[rules]]
    remote = "fd00:f9::/32"
    tag = "2/5"
    [[rules]]
    remote = ["fd00:f9:0:1::/64"]
    tag = "2/6"
    [[rules]]
    local = "fd00:f1:1::1111/128"
    tag = "2/7"
    [[rules]]
    protocol = "udp"
    remote_port = 7777
    tag = "2/8"
    [[rules]]
    name = "first"
    remote_port = 8888
    tag = "2/9"
    [[rules]]
    name = "second"
    remote_port = 8888
    tag = "2/10"
    [[rules]]
    interface = "eth1"
    tag = "2/11"
"#;

#[test]
fn a_user_is_told_by_number_and_by_name() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-user");
    let rules = "[[rules]]\nuser = [54321]\ntag = \"3/14\"\n[[rules]]\nuser = \"root\"\ntag = \"2/9\"\n";
    let _daemon = hosts.daemon(&config(rules));
    let captured = while_captured(&hosts, || {
        for (to, user) in [(6001, 54321), (6002, 54322), (6003, 0)] {
            let program = Program { user: Some(user), ..Program::default() };
            program.connects(&hosts, to);
            program.sends(&hosts, to + 100);
        }
    });
    let all = seen(&captured);
    for (to, expected) in [(6001, Some(tag(3, 14))), (6002, None), (6003, Some(tag(2, 9)))] {
        assert_eq!(said(&to_port(&all, &hosts, to)), expected, "TCP to {to}");
        assert_eq!(said(&to_port(&all, &hosts, to + 100)), expected, "UDP to {}", to + 100);
    }
    assert!(to_port(&all, &hosts, 6001)[0].syn, "the SYN is among them");
}

/// A cgroup of our own below the root of cgroup2; removed with what is below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn root() -> PathBuf {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let words = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let mut of_cgroup2 = words.filter(|w| w.get(2) == Some(&"cgroup2")).map(|w| w[1].into());
        of_cgroup2.next().expect("cgroup2 is mounted")
    }

    /// As a service manager would call it, for no other process.
    fn unit(what: &str) -> String {
        format!("flowtag-test-{}-{what}.service", std::process::id())
    }

    fn new(unit: &str) -> Self {
        let path = Self::root().join(unit);
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    fn below(&self, name: &str) -> Self {
        let path = self.0.join(name);
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may still be in it.
        let gone = wait_until("the cgroup to be empty", WAIT, || Ok(fs::remove_dir(&self.0).ok()));
        if let Err(error) = gone {
            eprintln!("{}: {error:#}", self.0.display());
        }
    }
}

#[test]
fn a_cgroup_is_told_by_its_unit_or_its_path_and_means_all_below_it() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-cgroup");
    let [by_unit, by_path, other] = ["unit", "path", "other"].map(|w| Cgroup::new(&Cgroup::unit(w)));
    let (unit_below, path_below) = (by_unit.below("worker"), by_path.below("worker"));
    let rules = format!(
        "[[rules]]\ncgroup = \"{}\"\ntag = \"3/14\"\n[[rules]]\ncgroup = \"/{}/worker\"\ntag = \"2/9\"\n",
        Cgroup::unit("unit"),
        Cgroup::unit("path"),
    );
    let _daemon = hosts.daemon(&config(&rules));
    let rows = [
        (6001, &by_unit, Some(tag(3, 14))),
        (6002, &unit_below, Some(tag(3, 14))),
        (6003, &by_path, None),
        (6004, &path_below, Some(tag(2, 9))),
        (6005, &other, None),
    ];
    let captured = while_captured(&hosts, || {
        for (to, cgroup, _) in rows {
            let program = Program { cgroup: Some(&cgroup.0), ..Program::default() };
            program.connects(&hosts, to);
            program.sends(&hosts, to + 100);
        }
    });
    let all = seen(&captured);
    for (to, cgroup, expected) in rows {
        let what = cgroup.0.display();
        assert_eq!(said(&to_port(&all, &hosts, to)), expected, "TCP of {what}");
        assert_eq!(said(&to_port(&all, &hosts, to + 100)), expected, "UDP of {what}");
    }
}

#[test]
fn a_service_that_starts_later_is_found() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-late");
    let unit = Cgroup::unit("late");
    let _daemon = hosts.daemon(&config(&format!("[[rules]]\ncgroup = \"{unit}\"\ntag = \"3/14\"\n")));
    // The second has another id than the first, as after a restart of the service.
    for (round, port) in [("first start", 6000_u16), ("second start", 6500)] {
        let cgroup = Cgroup::new(&unit);
        let mut tries = port..port + 100;
        wait_until(&format!("a packet with the tag after the {round}"), WAIT, || {
            let to = tries.next().expect("fewer tries than ports");
            let program = Program { cgroup: Some(&cgroup.0), ..Program::default() };
            let captured = while_captured(&hosts, || program.sends(&hosts, to));
            Ok((said(&to_port(&seen(&captured), &hosts, to)) == Some(tag(3, 14))).then_some(()))
        })
        .expect("it is marked");
    }
}

#[test]
fn a_process_is_told_by_its_name() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-process");
    let rules = "[[rules]]\nprocess = [\"iperf3\", \"xrootd\"]\ntag = \"3/14\"\n";
    let _daemon = hosts.daemon(&config(rules));
    let captured = while_captured(&hosts, || {
        let mut server = hosts.b.command("iperf3");
        server.args(["-s", "-1", "-p", "6001", "--forceflush"]);
        let mut server = hosts.b.spawn(server).expect("iperf3");
        server.wait_for_output("Server listening", WAIT).expect("it listens");
        let mut client = hosts.a.command("iperf3");
        client.args(["-p", "6001", "-n", "100K", "-c", &hosts.link.b.ipv6.to_string()]);
        checked(&mut client).expect("a transfer");
        server.wait(WAIT).expect("it ends");
        Program { name: Some("xrootd"), ..Program::default() }.connects(&hosts, 6002);
        Program { name: Some("xrootd"), ..Program::default() }.sends(&hosts, 6003);
        Program { name: Some("xrootd2"), ..Program::default() }.connects(&hosts, 6004);
        Program { name: Some("other"), ..Program::default() }.sends(&hosts, 6005);
    });
    let all = seen(&captured);
    // Control connection and data are two flows.
    let iperf: BTreeSet<_> = to_port(&all, &hosts, 6001).iter().map(|p| p.src).collect();
    assert_eq!(iperf.len(), 2);
    for src in iperf {
        let packets = between(&all, src, hosts.dst(6001));
        assert!(packets[0].syn);
        assert_eq!(said(&packets), Some(tag(3, 14)), "iperf3 from {src}");
    }
    for (to, expected) in [(6002, Some(tag(3, 14))), (6003, Some(tag(3, 14))), (6004, None), (6005, None)] {
        assert_eq!(said(&to_port(&all, &hosts, to)), expected, "to {to}");
    }
}

#[test]
fn the_accepting_side_is_marked_from_its_syn_ack_on() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-accept");
    let unit = Cgroup::unit("accept");
    let cgroup = Cgroup::new(&unit);
    let rules = format!(
        r#"
        [[rules]]
        local_port = 6001
        tag = "2/1"
        [[rules]]
        user = 54321
        tag = "2/2"
        [[rules]]
        process = "xrootd"
        tag = "2/3"
        [[rules]]
        cgroup = "{unit}"
        tag = "2/4"
        "#
    );
    let _daemon = hosts.daemon(&config(&rules));
    let rows: [(u16, Program<'_>, Option<Tag>); 5] = [
        (6001, Program::default(), Some(tag(2, 1))),
        (6002, Program { user: Some(54321), ..Program::default() }, Some(tag(2, 2))),
        (6003, Program { name: Some("xrootd"), ..Program::default() }, Some(tag(2, 3))),
        (6004, Program { cgroup: Some(&cgroup.0), ..Program::default() }, Some(tag(2, 4))),
        (6005, Program::default(), None),
    ];
    let captured = while_captured(&hosts, || rows.iter().for_each(|(port, p, _)| p.accepts(&hosts, *port)));
    let all = seen(&captured);
    for (port, _, expected) in rows {
        let packets: Vec<_> = all.iter().filter(|p| p.src == hosts.src(port)).cloned().collect();
        assert!(packets[0].syn, "the SYN-ACK from {port} is the first");
        let told: Vec<_> = packets.iter().filter_map(|p| p.label).map(meaning).collect();
        assert!(
            told.iter().all(|t| *t == expected),
            "from {port}: {told:?} where there should be {expected:?}"
        );
    }
}

#[test]
fn the_whole_connection_is_marked_from_its_syn_to_its_last_packet() {
    require_root!();
    for hook in hooks() {
        println!("FEATURE rules hook={hook}");
        let hosts = Hosts::unlabelled("rule-syn");
        let mark = format!("exclude_private = false\nhook = \"{hook}\"");
        let _daemon = hosts.daemon(&config_with(&mark, "[[rules]]\nremote_port = 5201\ntag = \"3/14\"\n"));
        let captured = while_captured(&hosts, || {
            let mut connection = hosts.connect(40000, 5201);
            transfer(&mut connection, &[1; 100_000]);
            let (client, mut server) = connection;
            drop(client);
            assert_eq!(server.read(&mut [0; 1]).expect("the FIN"), 0);
        });
        let packets = between(&seen(&captured), hosts.src(40000), hosts.dst(5201));
        assert!(packets[0].syn && packets.len() > 3, "{} packets", packets.len());
        assert_eq!(said(&packets), Some(tag(3, 14)), "{hook}");
    }
}

/// In TIME_WAIT there is no socket that could tell the owner, and what was found before is judged anew after a change.
#[test]
fn what_a_connection_sends_when_its_socket_is_gone_has_its_tag() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-late");
    let daemon = hosts.daemon(&config("[[rules]]\nuser = 0\nprotocol = \"tcp\"\ntag = \"3/14\"\n"));
    let captured = while_captured(&hosts, || {
        let (client, mut server) = hosts.connect(40000, 5201);
        drop(client);
        assert_eq!(server.read(&mut [0; 1]).expect("the FIN"), 0);
        wait_until("the flow to end", WAIT, || {
            Ok(cli::ok(&daemon, &["flow", "list", "--json"]).is_empty().then_some(()))
        })
        .expect("its socket closed");
        cli::ok(&daemon, &["rule", "add", "--name", "other", "--remote-port", "9", "--tag", "2/9"]);
        drop(server);
    });
    let packets = between(&seen(&captured), hosts.src(40000), hosts.dst(5201));
    assert!(packets.len() >= 4, "SYN, ACK, FIN, and the ACK of the other FIN: {} packets", packets.len());
    assert_eq!(said(&packets), Some(tag(3, 14)));
}

#[test]
fn one_of_several_tags_or_any_is_chosen_per_flow_and_stays() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-choice");
    let rules = r#"
        [outputs.firefly]
        enabled = false
        [[rules]]
        remote_port = 6001
        tags = ["3/14", "2/9", "2/10"]
        [[rules]]
        remote_port = 6002
        tag = "random"
    "#;
    let _daemon = hosts.daemon(&config(rules));
    let ports = 41000..41060;
    let captured = while_captured(&hosts, || {
        // Twice over, so that the packets of one flow have others between them.
        for port in ports.clone().chain(ports.clone()) {
            [6001, 6002].iter().for_each(|to| send_udp(&hosts, hosts.src(port), hosts.dst(*to)));
        }
    });
    let all = seen(&captured);
    let chosen = |to| -> BTreeSet<Tag> {
        let of = |port| said(&between(&all, hosts.src(port), hosts.dst(to))).expect("every flow is marked");
        ports.clone().map(of).collect()
    };
    assert_eq!(chosen(6001), [tag(3, 14), tag(2, 9), tag(2, 10)].into());
    assert!(chosen(6002).len() > 50, "of 60 flows hardly two have the same of 32,193 tags");
}

#[test]
fn private_traffic_is_left_alone_unless_it_is_announced() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-private");
    hosts.a.add_address("eth0", "2001:db8:f1::1/64").expect("an address");
    hosts.b.add_address("eth0", "2001:db8:f1::2/64").expect("an address");
    let daemon = hosts.daemon(&config_with("", "[[rules]]\nname = \"everything\"\ntag = \"3/14\"\n"));
    let global = |n: u16, port: u16| -> SocketAddr {
        (Ipv6Addr::new(0x2001, 0xdb8, 0xf1, 0, 0, 0, 0, n), port).into()
    };
    let (src, dst) = (hosts.src(40001).to_string(), hosts.dst(6001).to_string());
    cli::ok(&daemon, &["flow", "start", "--tag", "2/9", "udp", &src, &dst]);
    let captured = while_captured(&hosts, || {
        send_udp(&hosts, hosts.src(40000), hosts.dst(6000));
        send_udp(&hosts, hosts.src(40001), hosts.dst(6001));
        send_udp(&hosts, global(1, 40002), global(2, 6002));
    });
    let all = seen(&captured);
    assert_eq!(said(&between(&all, hosts.src(40000), hosts.dst(6000))), None, "private to private");
    assert_eq!(said(&between(&all, hosts.src(40001), hosts.dst(6001))), Some(tag(2, 9)), "announced");
    assert_eq!(said(&between(&all, global(1, 40002), global(2, 6002))), Some(tag(3, 14)), "global");
}

#[test]
fn what_no_rule_matches_gets_the_default_of_its_interface() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-default");
    let rules = "[mark.defaults]\neth0 = \"cms/default\"\n[[rules]]\nremote_port = 6001\ntag = \"3/14\"\n\
                 [[rules]]\nremote_port = 6002\ntag = \"never\"\n";
    let _daemon = hosts.daemon(&config(rules));
    let captured = while_captured(&hosts, || {
        [6000, 6001, 6002].iter().for_each(|to| send_udp(&hosts, hosts.src(40000), hosts.dst(*to)));
    });
    let all = seen(&captured);
    for (to, expected) in [(6000, Some(tag(3, 1))), (6001, Some(tag(3, 14))), (6002, None)] {
        assert_eq!(said(&between(&all, hosts.src(40000), hosts.dst(to))), expected, "to {to}");
    }
}

// ---- Reports.

/// Fireflies as they come to host b.
struct Collector(UdpSocket);

impl Collector {
    fn new(hosts: &Hosts) -> Self {
        let address = hosts.dst(10514);
        let socket = hosts.b.run(|| UdpSocket::bind(address)).expect("host b").expect("bind");
        socket.set_read_timeout(Some(WAIT)).expect("a timeout");
        Self(socket)
    }

    #[track_caller]
    fn receive(&self) -> Firefly {
        let mut buffer = [0; 2048];
        let length = self.0.recv(&mut buffer).expect("a firefly");
        Firefly::from_datagram(&buffer[..length]).expect("it can be read")
    }

    fn is_empty(&self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        self.0.recv(&mut [0; 1]).is_err()
    }
}

/// Both ends of a firefly's flow, whichever is its source.
fn ends(firefly: &Firefly) -> BTreeSet<String> {
    [firefly.flow.src().to_string(), firefly.flow.dst().to_string()].into()
}

#[test]
fn start_and_end_are_reported_of_a_connection_that_nobody_announced() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-firefly");
    let collector = Collector::new(&hosts);
    // The daemon's own datagrams match it, too, and must not be reported.
    let _daemon = hosts.daemon(&config("[[rules]]\nname = \"everything\"\ntag = \"cms/Analysis Input\"\n"));
    let mut connection = hosts.connect(40000, 5201);
    transfer(&mut connection, &[1; 100_000]);
    let start = collector.receive();
    drop(connection);
    let end = collector.receive();
    let flow: BTreeSet<String> = [hosts.src(40000).to_string(), hosts.dst(5201).to_string()].into();
    assert_eq!((start.state, end.state), (State::Start, State::End));
    for firefly in [&start, &end] {
        assert_eq!((firefly.experiment, firefly.activity), (3, 14));
        assert_eq!(ends(firefly), flow);
    }
    assert!(start.start_time.is_some());
    assert_eq!(start.start_time, end.start_time, "END keeps START's time");
    assert!(end.end_time > end.start_time, "{end:?}");
    assert!(collector.is_empty(), "one connection, two fireflies");
}

#[test]
fn sockets_that_were_open_before_the_daemon_are_found() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-open");
    let collector = Collector::new(&hosts);
    let mut connection = hosts.connect(40000, 5201);
    let _other = hosts.connect(40001, 5202);
    let _daemon = hosts.daemon(&config("[[rules]]\nremote_port = 5201\ntag = \"3/14\"\n"));
    let start = collector.receive();
    assert_eq!((start.state, start.experiment, start.activity), (State::Start, 3, 14));
    assert_eq!(ends(&start), [hosts.src(40000).to_string(), hosts.dst(5201).to_string()].into());
    let captured = while_captured(&hosts, || transfer(&mut connection, &[1; 10_000]));
    let packets = between(&seen(&captured), hosts.src(40000), hosts.dst(5201));
    assert_eq!(said(&packets), Some(tag(3, 14)));
    drop(connection);
    let end = collector.receive();
    assert_eq!((end.state, end.start_time), (State::End, start.start_time));
    assert!(collector.is_empty(), "nothing of the connection that no rule means");
}

// ---- Changes.

#[test]
fn a_rule_is_added_shown_and_deleted_while_the_daemon_runs() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-add");
    let daemon =
        hosts.daemon(&config("[[rules]]\nname = \"configured\"\nremote_port = 6001\ntag = \"2/9\"\n"));
    let say = |port: u16, to: u16| {
        let captured = while_captured(&hosts, || send_udp(&hosts, hosts.src(port), hosts.dst(to)));
        said(&between(&seen(&captured), hosts.src(port), hosts.dst(to)))
    };
    assert_eq!(say(40000, 6000), None);
    let remote = format!("{}/128", hosts.link.b.ipv6);
    cli::ok(&daemon, &["rule", "add", "--name", "added", "--remote", &remote, "--tag", "cms/default"]);
    assert_eq!(say(40000, 6000), Some(tag(3, 1)), "a flow that was seen unmarked before");
    assert_eq!(say(40001, 6000), Some(tag(3, 1)), "a new flow");
    assert_eq!(say(40001, 6001), Some(tag(2, 9)), "rules of the configuration go first");
    let list = cli::ok(&daemon, &["rule", "list"]);
    assert!(list.contains("configured") && list.contains("added") && list.contains(&remote), "{list}");
    cli::ok(
        &daemon,
        &[
            "rule",
            "add",
            "--name",
            "first",
            "--before",
            "configured",
            "--remote-port",
            "6000-6001",
            "--tag",
            "3/14",
        ],
    );
    assert_eq!(say(40002, 6001), Some(tag(3, 14)), "a rule before the others");

    for name in ["first", "added"] {
        cli::ok(&daemon, &["rule", "del", name]);
    }
    assert_eq!(say(40003, 6000), None, "a new flow after the rule was deleted");
    assert_eq!(say(40003, 6001), Some(tag(2, 9)));
    let refused = cli::run(&daemon, &["rule", "del", "configured"]);
    let reason = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && reason.contains("configuration"), "{reason}");
    daemon.stop();
}

#[test]
fn rules_of_the_api_outlive_the_daemon() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-kept");
    let daemon = hosts.daemon(&config(""));
    cli::ok(&daemon, &["rule", "add", "--name", "kept", "--remote-port", "6000", "--tag", "3/14"]);
    let daemon = Daemon::restart_with(daemon.kill(), &config(""), hosts.on_a());
    let captured = while_captured(&hosts, || send_udp(&hosts, hosts.src(40000), hosts.dst(6000)));
    assert_eq!(said(&between(&seen(&captured), hosts.src(40000), hosts.dst(6000))), Some(tag(3, 14)));
    daemon.stop();
}

/// Sends on new and old flows until it is told to stop.
fn keep_sending(hosts: &Hosts, stop: &AtomicBool) {
    let (source, target) = (hosts.link.a.ipv6, hosts.link.b.ipv6);
    let bind = || UdpSocket::bind((source, 0)).expect("bind");
    let old = bind();
    while !stop.load(Ordering::SeqCst) {
        let new = bind();
        for to in 6000..6008 {
            for socket in [&old, &new, &new] {
                socket.send_to(b"under load", (target, to)).expect("sent");
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Tells the sender to stop, also where the test fails: it would be waited for in vain.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn no_packet_has_a_third_tag_while_rules_change() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-load");
    let rules = |tag: &str| {
        let rule = |port: u16| format!("[[rules]]\nremote_port = {port}\ntag = \"{tag}\"\n");
        let quiet = "[outputs.firefly]\nenabled = false\n".to_owned();
        config(&(quiet + &(6000..6008).map(rule).collect::<String>()))
    };
    let mut daemon = hosts.daemon(&rules("3/14"));
    let stop = AtomicBool::new(false);
    let mut connection = hosts.connect(40000, 6000);
    let captured = while_captured(&hosts, || {
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| hosts.a.run(|| keep_sending(&hosts, &stop)).expect("host a"));
            for _ in 0..8 {
                for tag in ["2/9", "3/14"] {
                    daemon.reload(&rules(tag));
                    transfer(&mut connection, &[1; 2000]);
                    thread::sleep(Duration::from_millis(60));
                }
                cli::ok(
                    &daemon,
                    &[
                        "rule",
                        "add",
                        "--name",
                        "over",
                        "--before",
                        "rule-1",
                        "--remote-port",
                        "6000-6007",
                        "--tag",
                        "2/9",
                    ],
                );
                transfer(&mut connection, &[1; 2000]);
                cli::ok(&daemon, &["rule", "del", "over"]);
            }
        });
    });
    daemon.wait_for_log("the new configuration is in force");
    let all = seen(&captured);
    let ours = all.iter().filter(|p| p.src.ip() == hosts.link.a.ipv6);
    let mut tags: BTreeMap<Option<Tag>, usize> = BTreeMap::new();
    let mut entropy: BTreeMap<_, BTreeSet<FlowLabel>> = BTreeMap::new();
    for packet in ours {
        let label = packet.label.expect("IPv6");
        *tags.entry(meaning(label)).or_default() += 1;
        entropy.entry((packet.protocol, packet.src, packet.dst, meaning(label))).or_default().insert(label);
    }
    println!("{tags:?}");
    let allowed = [None, Some(tag(3, 14)), Some(tag(2, 9))];
    assert!(tags.keys().all(|tag| allowed.contains(tag)), "{tags:?}");
    assert!(tags.contains_key(&allowed[1]) && tags.contains_key(&allowed[2]), "both were in force: {tags:?}");
    assert!(entropy.values().all(|labels| labels.len() == 1), "one entropy per flow");
}

#[test]
fn a_reload_brings_and_takes_rules() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-reload");
    let mut daemon = hosts.daemon(&config(""));
    let path = Path::over(&hosts.link);
    let rules = "[[rules]]\nname = \"new\"\nremote_port = 6000\ntag = \"3/14\"\n";
    daemon.reload(&config(rules));
    daemon.wait_for_log("the new configuration is in force");
    let captured = while_captured(&hosts, || drop(path.connect(40000, 6000)));
    assert_eq!(said(&between(&seen(&captured), hosts.src(40000), hosts.dst(6000))), Some(tag(3, 14)));
    daemon.reload(&config(""));
    wait_until("the rule to go", WAIT, || {
        let list = cli::ok(&daemon, &["rule", "list"]);
        Ok((!list.contains("new")).then_some(()))
    })
    .expect("no rule");
    let captured = while_captured(&hosts, || drop(path.connect(40001, 6000)));
    assert_eq!(said(&between(&seen(&captured), hosts.src(40001), hosts.dst(6000))), None);
}

#[test]
fn a_wrong_rule_is_refused_and_changes_nothing() {
    require_root!();
    let hosts = Hosts::unlabelled("rule-wrong");
    let daemon = hosts.daemon(&config("[[rules]]\nname = \"good\"\nremote_port = 6000\ntag = \"3/14\"\n"));
    for (args, hint) in [
        (&["rule", "add", "--name", "bad", "--tag", "900/1"][..], "900"),
        (&["rule", "add", "--name", "bad", "--tag", "3/14", "--remote", "fd00::/200"], "fd00::/200"),
        (&["rule", "add", "--name", "good", "--tag", "3/14"], "good"),
        (&["rule", "del", "nobody"], "nobody"),
    ] {
        let output = cli::run(&daemon, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(hint), "{args:?}: {said}");
    }
    let captured = while_captured(&hosts, || send_udp(&hosts, hosts.src(40000), hosts.dst(6000)));
    assert_eq!(said(&between(&seen(&captured), hosts.src(40000), hosts.dst(6000))), Some(tag(3, 14)));
}
