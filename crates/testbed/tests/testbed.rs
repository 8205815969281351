//! The testbed's own tests: what it promises to the tests that are built on it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::panic::catch_unwind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtag_kernel::af_packet::{ETH_P_ALL, PacketSocket, PacketType};
use flowtag_testbed::{
    Counters, Host, Impairment, Link, LinkOptions, Loss, Process, Testbed, Tunnel, WAIT, checked,
    made_or_skip, require_root, wait_until,
};
use nix::sys::signal::Signal;

/// Set in the copy of this test binary that is killed; says what its bed is called.
const CHILD: &str = "FLOWTAG_TESTBED_CHILD";

fn pair(name: &str) -> Result<(Testbed, Host, Host, Link)> {
    let bed = Testbed::new(name)?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.link(&a, "eth0", &b, "eth0")?;
    Ok((bed, a, b, link))
}

/// `count` echo requests, as fast as the answers come or by the interval; gives what ping printed.
fn ping(host: &Host, address: &str, count: u32) -> Result<String> {
    let mut command = host.command("ping");
    command.args(["-n", "-i", "0.01", "-W", "2", "-c", &count.to_string(), address]);
    let output = command.output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Namespaces whose name has `part` in it.
fn namespaces_with(part: &str) -> Vec<String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.contains(part)).collect()
}

#[test]
fn two_hosts_ping_each_other_at_once() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, link) = pair("ping")?;
    for address in [link.b.ipv6.to_string(), link.b.ipv4.to_string()] {
        let said = ping(&a, &address, 1)?;
        ensure!(said.contains("1 received"), "{said}");
    }
    ensure!(b.reaches(link.a.ipv6.into())?);
    ensure!(!b.reaches("fd00:f1:ff::1".parse()?)?);
    Ok(())
}

#[test]
fn a_capture_has_the_echo_request_and_its_answer() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, link) = pair("capture")?;
    let capture = b.capture("eth0", "icmp6[icmp6type] = icmp6-echo or icmp6[icmp6type] = icmp6-echoreply")?;
    ping(&a, &link.b.ipv6.to_string(), 2)?;
    capture.wait_for(4, WAIT)?;
    let captured = capture.stop()?;
    let frames = captured.frames()?;
    let types: Vec<u8> = frames.iter().map(|f| f.data[54]).collect();
    assert_eq!(types, [128, 129, 128, 129]);
    assert_eq!(captured.dropped, 0);
    assert_eq!(frames[0].data[..6], link.b.mac);
    assert_eq!(frames[0].data[6..12], link.a.mac);
    ensure!(captured.path().exists() && captured.pcap()?.len() > 24);
    let path = captured.path().to_owned();
    drop(captured);
    ensure!(!path.exists(), "the file goes with the capture");
    Ok(())
}

#[test]
fn a_filter_that_tcpdump_does_not_understand_is_an_error_that_says_so() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, _b, _link) = pair("filter")?;
    let error = a.capture("eth0", "no such filter").expect_err("tcpdump cannot parse it");
    ensure!(format!("{error:#}").contains("syntax error"), "{error:#}");
    Ok(())
}

#[test]
fn a_closure_and_a_command_are_inside_the_namespace() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, link) = pair("inside")?;
    let listener = b.run(|| TcpListener::bind((link.b.ipv6, 0)))??;
    let address = listener.local_addr()?;
    a.run(|| TcpStream::connect(address))??;
    ensure!(TcpStream::connect(address).is_err(), "the host of the tests has no such address");

    let devices = checked(a.command("ls").arg("/sys/class/net"))?;
    let mut devices: Vec<&str> = devices.split_whitespace().collect();
    devices.retain(|d| ["eth0", "lo"].contains(d));
    assert_eq!(devices, ["eth0", "lo"]);
    let index = checked(a.command("cat").arg("/sys/class/net/eth0/ifindex"))?;
    assert_eq!(index.trim().parse(), Ok(link.a.ifindex));
    let below_sys = |mounts: String| mounts.lines().filter(|l| l.contains(" /sys/fs/")).count();
    let (inside, outside) =
        (checked(a.command("cat").arg("/proc/self/mounts"))?, fs::read_to_string("/proc/self/mounts")?);
    assert_eq!(below_sys(inside), below_sys(outside), "cgroups and bpf stay mounted");
    assert_eq!(a.command("flowtag-no-such-program").output()?.status.code(), Some(127));
    Ok(())
}

#[test]
fn a_panic_in_a_closure_is_the_callers() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("closure-panic")?;
    let a = bed.host("a")?;
    let caught = catch_unwind(std::panic::AssertUnwindSafe(|| a.run(|| panic!("as asked"))));
    ensure!(caught.is_err());
    Ok(())
}

#[test]
fn options_addresses_routes_and_sysctls_are_as_asked() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("options")?;
    let (a, router, b) = (bed.host("a")?, bed.host("router")?, bed.host("b")?);
    let jumbo = LinkOptions { mtu: Some(9000), offloads: false, ..LinkOptions::default() };
    let near = bed.link_with(&a, "eth0", &router, "eth0", &jumbo)?;
    let far = bed.link(&router, "eth1", &b, "eth0")?;
    assert_eq!(a.interface("eth0")?["mtu"], 9000);
    assert_eq!(b.interface("eth0")?["mtu"], 1500);

    router.forward()?;
    a.add_route("default", &["via", &near.b.ipv6.to_string()])?;
    b.add_route("default", &["via", &far.a.ipv6.to_string()])?;
    b.add_address("lo", "2001:db8::b/128")?;
    router.add_route("2001:db8::/64", &["via", &far.b.ipv6.to_string()])?;
    ensure!(a.reaches("2001:db8::b".parse()?)?);

    a.set_sysctl("net.ipv4.tcp_congestion_control", "reno")?;
    assert_eq!(a.sysctl("net/ipv4/tcp_congestion_control")?, "reno");
    ensure!(a.set_sysctl("net.ipv4.no_such", "1").is_err());
    let error = a.ip(&["link", "set", "eth7", "up"]).expect_err("no eth7");
    ensure!(format!("{error:#}").contains("eth7"), "{error:#}");
    Ok(())
}

#[test]
fn frames_keep_their_vlan_tag_on_the_way_through_packet_sockets() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, link) = pair("vlan-tag")?;
    let sender = a.run(|| PacketSocket::open("eth0", ETH_P_ALL))??;
    let receiver = b.run(|| PacketSocket::open_index(link.b.ifindex, ETH_P_ALL))??;
    let mut frame = [&link.b.mac[..], &link.a.mac, &[0x81, 0, 0x20, 0x64, 0x88, 0xb5]].concat();
    frame.extend(0..46);
    sender.send(&frame)?;
    let mut buffer = [0; 200];
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        let Some(got) = receiver.recv(&mut buffer, Some(Duration::from_millis(100)))? else { continue };
        if buffer[..got.len] == frame {
            assert_eq!((got.wire_len, got.packet_type), (frame.len(), PacketType::Host));
            return Ok(());
        }
    }
    anyhow::bail!("the frame did not come as it was sent")
}

#[test]
fn a_packet_socket_waits_no_longer_than_asked() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("recv-timeout")?;
    let socket = bed.host("a")?.run(|| PacketSocket::open("lo", ETH_P_ALL))??;
    let start = Instant::now();
    ensure!(socket.recv(&mut [0; 64], Some(Duration::from_millis(30)))?.is_none());
    ensure!((30..2000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    ensure!(socket.recv(&mut [0; 64], Some(Duration::ZERO))?.is_none());
    let error = socket.send(&[0; 3]).expect_err("shorter than a header");
    ensure!(error.to_string().contains("3 bytes on lo"), "{error}");
    assert_eq!(socket.statistics()?.dropped, 0);
    Ok(())
}

/// The device on each host, with addresses that only it has: they must reach each other through it.
#[track_caller]
fn assert_reach(from: &Host, address: &str) {
    let reached = from.reaches(address.parse().expect("an address")).expect("ping starts");
    assert!(reached, "{address} cannot be reached from {}", from.name());
}

#[test]
fn vlan_interfaces_reach_each_other() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, _link) = pair("vlan")?;
    let name = made_or_skip!(a.add_vlan("eth0", 100, &["2001:db8:100::1/64"]), Ok(()));
    assert_eq!(name, "eth0.100");
    b.add_vlan("eth0", 100, &["2001:db8:100::2/64"])?;
    assert_reach(&a, "2001:db8:100::2");
    Ok(())
}

#[test]
fn a_bond_takes_its_ports() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, _link) = pair("bond")?;
    made_or_skip!(a.add_bond("bond0", &["eth0"], &["2001:db8:1::1/64"]), Ok(()));
    b.add_address("eth0", "2001:db8:1::2/64")?;
    assert_reach(&a, "2001:db8:1::2");
    assert_eq!(a.interface("eth0")?["master"], "bond0");
    Ok(())
}

#[test]
fn a_bridge_passes_on_through_its_port() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, _link) = pair("bridge")?;
    made_or_skip!(a.add_bridge("br0", &["eth0"], &["2001:db8:1::1/64"]), Ok(()));
    b.add_address("eth0", "2001:db8:1::2/64")?;
    assert_reach(&a, "2001:db8:1::2");
    assert_eq!(a.interface("eth0")?["master"], "br0");
    Ok(())
}

#[test]
fn macvlan_and_ipvlan_share_their_device() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, _link) = pair("sharing")?;
    b.add_address("eth0", "2001:db8:1::2/64")?;
    made_or_skip!(a.add_macvlan("eth0", "mac0", &["2001:db8:1::1/64"]), Ok(()));
    assert_reach(&a, "2001:db8:1::2");
    a.ip(&["link", "del", "mac0"])?;
    made_or_skip!(a.add_ipvlan("eth0", "ipv0", &["2001:db8:1::3/64"]), Ok(()));
    assert_reach(&a, "2001:db8:1::2");
    Ok(())
}

#[test]
fn an_ipv6_tunnel_has_both_headers() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, link) = pair("ip6tnl")?;
    let (near, far) = (link.a.ipv6, link.b.ipv6);
    let there = Tunnel { local: near, remote: far };
    made_or_skip!(a.add_ip6tnl("tnl0", there, &["2001:db8:1::1/64"]), Ok(()));
    b.add_ip6tnl("tnl0", Tunnel { local: far, remote: near }, &["2001:db8:1::2/64"])?;
    let capture = b.capture("eth0", "ip6")?;
    assert_reach(&a, "2001:db8:1::2");
    let frames = capture.stop()?.frames()?;
    // IPv6, the kernel's own destination options, IPv6.
    ensure!(frames.iter().any(|f| f.data[20] == 60 && f.data[54] == 41), "no encapsulated packet");
    Ok(())
}

#[test]
fn a_segment_routing_header_is_put_in_and_taken_out() -> Result<()> {
    require_root!(Ok(()));
    let (_bed, a, b, link) = pair("srv6")?;
    a.add_address("lo", "2001:db8:a::1/128")?;
    b.add_address("lo", "2001:db8:b::1/128")?;
    b.add_route("2001:db8:a::/64", &["via", &link.a.ipv6.to_string()])?;
    made_or_skip!(b.accept_srv6("eth0"), Ok(()));
    made_or_skip!(a.add_srv6_route("2001:db8:b::/64", &[link.b.ipv6], "eth0"), Ok(()));
    let capture = b.capture("eth0", "ip6")?;
    assert_reach(&a, "2001:db8:b::1");
    let frames = capture.stop()?.frames()?;
    // IPv6, routing header of type 4 (RFC 8754), IPv6.
    ensure!(frames.iter().any(|f| f.data[20] == 43 && f.data[54] == 41 && f.data[56] == 4), "no such packet");
    Ok(())
}

#[test]
fn a_chain_of_three_forwards_both_ways() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("chain")?;
    let (a, router, b) = (bed.host("a")?, bed.host("router")?, bed.host("b")?);
    let chain = bed.chain((&a, "eth0"), &router, (&b, "eth0"), &LinkOptions::default())?;
    for (from, to) in [(&a, &chain.far.b), (&b, &chain.near.a)] {
        assert_reach(from, &to.ipv6.to_string());
        assert_reach(from, &to.ipv4.to_string());
    }
    Ok(())
}

#[test]
fn a_tun_link_carries_packets_both_ways() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("tun")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.tun_link(&a, &b, "tun0")?;
    let capture = b.capture("tun0", "icmp6")?;
    ensure!(a.reaches(link.ipv6[1].into())?);
    ensure!(b.reaches(link.ipv4[0].into())?);
    let frames = capture.stop()?.frames()?;
    assert_eq!(
        frames.first().context("no packet")?.data[0] >> 4,
        6,
        "the packet begins with its IPv6 header"
    );
    a.add_tun("tun7", &["2001:db8:7::1/64"])?;
    Ok(())
}

#[test]
fn the_delay_of_an_impaired_link_shows_in_the_round_trip_time() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("delay")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link =
        bed.impaired_link(&a, &b, Impairment { delay: Duration::from_millis(40), ..Impairment::default() })?;
    ensure!(a.reaches(link.b.ipv6.into())?, "the neighbours know each other from now on");
    let said = ping(&a, &link.b.ipv6.to_string(), 3)?;
    let times: Vec<f64> =
        said.split("time=").skip(1).filter_map(|t| t.split_whitespace().next()?.parse().ok()).collect();
    assert_eq!(times.len(), 3, "{said}");
    ensure!(times.iter().all(|t| (80.0..140.0).contains(t)), "{times:?}");
    Ok(())
}

#[test]
fn every_nth_packet_is_lost_and_no_other() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("loss")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let link = bed.impaired_link(&a, &b, Impairment { loss: Loss::EveryNth(5), ..Impairment::default() })?;
    let mut command = a.command("ping");
    command.args(["-n", "-q", "-i", "0.01", "-W", "1", "-c", "50", &link.b.ipv6.to_string()]);
    let said = String::from_utf8(command.output()?.stdout)?;
    ensure!(said.contains("50 packets transmitted, 40 received"), "{said}");
    let (there, back) = (link.a_to_b(), link.b_to_a());
    assert_eq!((there.dropped, there.forwarded), (10, 40));
    assert_eq!((back.dropped, back.forwarded), (0, 40));
    assert_eq!((there.overflow, there.failed, back.overflow, back.failed), (0, 0, 0, 0));

    link.set(&Impairment { loss_back: Loss::these(&[1]), ..Impairment::default() });
    let said = ping(&a, &link.b.ipv6.to_string(), 2)?;
    ensure!(said.contains("2 packets transmitted, 1 received"), "{said}");
    assert_eq!(link.b_to_a().dropped, 1);
    Ok(())
}

#[test]
fn tcp_gets_through_loss_and_frames_are_of_the_wire() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("tcp")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let impairment =
        Impairment { delay: Duration::from_millis(1), loss: Loss::percent(1.0, 7), ..Impairment::default() };
    let link = bed.impaired_link(&a, &b, impairment)?;
    let capture = b.capture("eth0", "tcp")?;
    let mut server = b.command("iperf3");
    server.args(["-s", "-1", "--forceflush"]);
    let mut server = b.spawn(server)?;
    server.wait_for_output("Server listening", WAIT)?;
    let mut client = a.command("iperf3");
    checked(client.args(["-n", "2M", "-c", &link.b.ipv6.to_string()]))?;
    ensure!(server.wait(WAIT)?.status.success());
    let frames = capture.stop()?.frames()?;
    ensure!(frames.iter().all(|f| f.data.len() <= 1514), "a frame is larger than the MTU");
    ensure!(frames.len() > 1000 && link.a_to_b().dropped > 0, "{} frames, {:?}", frames.len(), link.a_to_b());
    let lost = |c: Counters| c.failed + c.missed + c.overflow;
    assert_eq!(lost(link.a_to_b()) + lost(link.b_to_a()), 0);
    Ok(())
}

#[test]
fn a_rate_and_a_short_queue_lose_what_does_not_fit() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("rate")?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let narrow = Impairment { rate: Some(100_000), queue: 3, ..Impairment::default() };
    let link = bed.impaired_link(&a, &b, narrow)?;
    let mut flood = a.command("ping");
    // 1,062 bytes take 85 ms at this rate; they are sent every 10 ms.
    flood.args(["-n", "-q", "-i", "0.01", "-W", "1", "-c", "20", "-s", "1000", &link.b.ipv6.to_string()]);
    flood.output()?;
    let count = link.a_to_b();
    ensure!(count.overflow > 5 && count.forwarded >= 3, "{count:?}");
    assert_eq!(count.overflow + count.forwarded, 20);
    Ok(())
}

#[test]
fn a_process_is_killed_with_its_children_as_its_guard_goes() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("guard")?;
    let a = bed.host("a")?;
    let mut shell = a.command("sh");
    shell.args(["-c", "echo ready; echo oops >&2; sleep 1000 & wait"]);
    let mut process = a.spawn(shell)?;
    process.wait_for_output("ready", WAIT)?;
    process.wait_for_output("oops", WAIT)?;
    let pid = process.pid();
    let inside = || checked(Command::new("ip").args(["netns", "pids", a.namespace()]));
    ensure!(inside()?.lines().any(|l| l == pid.to_string()), "the process id is that of the program");
    drop(process);
    wait_until("the processes to end", WAIT, || Ok(inside()?.is_empty().then_some(())))
}

#[test]
fn output_and_exit_status_are_kept() -> Result<()> {
    require_root!(Ok(()));
    let bed = Testbed::new("ended")?;
    let a = bed.host("a")?;
    let mut shell = a.command("sh");
    shell.args(["-c", "echo out; echo err >&2; exit 3"]);
    let ended = a.spawn(shell)?.wait(WAIT)?;
    assert_eq!((ended.status.code(), &*ended.stdout, &*ended.stderr), (Some(3), "out\n", "err\n"));
    let mut sleep = a.command("sleep");
    sleep.arg("1000");
    let ended = a.spawn(sleep)?.stop(Signal::SIGTERM)?;
    ensure!(!ended.status.success());
    let mut never = a.spawn(a.command("true"))?;
    let error = never.wait_for_output("something", WAIT).expect_err("it ends without writing anything");
    ensure!(format!("{error:#}").contains("`true` ended before it wrote"), "{error:#}");
    Ok(())
}

#[test]
fn a_panic_leaves_nothing_behind() {
    require_root!();
    let caught = catch_unwind(|| {
        let bed = Testbed::new("panics").expect("a bed");
        let (a, b) = (bed.host("a").expect("a host"), bed.host("b").expect("a host"));
        let _link = bed.impaired_link(&a, &b, Impairment::default()).expect("a link");
        let mut sleep = a.command("sleep");
        sleep.arg("1000");
        // Not even a process that nobody guards holds the namespace.
        std::mem::forget(a.spawn(sleep).expect("a process"));
        assert_eq!(namespaces_with("-panics-").len(), 3);
        panic!("as a failing test does");
    });
    assert!(caught.is_err());
    assert_eq!(namespaces_with("-panics-"), Vec::<String>::new());
}

/// Not a test of its own: the process that the next two kill.
#[test]
#[ignore = "run by the tests that kill it"]
fn holds_a_bed_until_it_is_killed() -> Result<()> {
    let name = std::env::var_os(CHILD).expect("the name of a bed");
    let bed = Testbed::new(&name.to_string_lossy())?;
    let (a, b) = (bed.host("a")?, bed.host("b")?);
    let _link = bed.impaired_link(&a, &b, Impairment::default())?;
    let mut sleep = a.command("sleep");
    sleep.arg("1000");
    let _process = a.spawn(sleep)?;
    println!("the bed is made");
    std::thread::sleep(Duration::from_secs(1000));
    Ok(())
}

fn start_child(bed: &str) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "holds_a_bed_until_it_is_killed", "--ignored", "--nocapture"]).env(CHILD, bed);
    let mut child = Process::spawn(command)?;
    child.wait_for_output("the bed is made", WAIT)?;
    assert_eq!(namespaces_with(&format!("-{bed}-")).len(), 3);
    Ok(child)
}

#[test]
fn sigint_and_sigterm_leave_nothing_behind_and_still_kill() -> Result<()> {
    use std::os::unix::process::ExitStatusExt;
    require_root!(Ok(()));
    for (signal, bed) in [(Signal::SIGINT, "by-sigint"), (Signal::SIGTERM, "by-sigterm")] {
        let ended = start_child(bed)?.stop(signal)?;
        assert_eq!(ended.status.signal(), Some(signal as i32), "{}", ended.stderr);
        assert_eq!(namespaces_with(&format!("-{bed}-")), Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn the_next_bed_removes_what_a_killed_process_left() -> Result<()> {
    require_root!(Ok(()));
    let child = start_child("by-sigkill")?;
    let pid = child.pid();
    let namespace = format!("flowtag-{pid}-by-sigkill-a");
    let inside = checked(Command::new("ip").args(["netns", "pids", &namespace]))?;
    let sleeper = inside.lines().next().context("nothing runs inside")?.to_owned();
    child.stop(Signal::SIGKILL)?;
    assert_eq!(namespaces_with("-by-sigkill-").len(), 3, "nobody could clear up");
    let _bed = Testbed::new("sweeper")?;
    wait_until("the sweep", WAIT, || Ok(namespaces_with("-by-sigkill-").is_empty().then_some(())))?;
    // A zombie has no program any more.
    let program = fs::read_link(Path::new("/proc").join(&sleeper).join("exe")).unwrap_or_default();
    ensure!(!program.ends_with("sleep"), "the process inside was killed");
    Ok(())
}

#[test]
fn names_of_others_are_never_touched() -> Result<()> {
    require_root!(Ok(()));
    // Neither a process id, nor one that could be alive, in a name that begins like ours.
    let foreign = format!("flowtag-keep{}", std::process::id());
    checked(Command::new("ip").args(["netns", "add", &foreign]))?;
    let bed = Testbed::new("polite")?;
    let kept = Path::new("/run/netns").join(&foreign).exists();
    drop(bed);
    checked(Command::new("ip").args(["netns", "del", &foreign]))?;
    ensure!(kept);
    Ok(())
}

#[test]
fn bad_and_double_names_are_refused_with_the_fix() -> Result<()> {
    require_root!(Ok(()));
    for bad in ["", "a b", "../x", &"x".repeat(65)] {
        ensure!(Testbed::new(bad).is_err(), "{bad}");
    }
    let bed = Testbed::new("names")?;
    let _a = bed.host("a")?;
    for bad in ["a", "", "a-b", "a/b"] {
        ensure!(bed.host(bad).is_err(), "{bad}");
    }
    let error = format!("{:#}", bed.host("a").expect_err("exists"));
    ensure!(error.contains("only once") && error.contains("exists"), "{error}");
    Ok(())
}
