//! What the kernel measures of real connections, as it comes out of the daemon: bytes in fireflies are those that were
//! moved, to the byte.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::common;
use crate::common::cli;
use crate::common::daemon::Daemon;
use crate::common::hosts::Hosts;
use flowtag_kernel::mark::Key;
use flowtag_kernel::tcp_info::Inquiry;
use flowtag_testbed::{Host, WAIT, require_root, wait_until};
use flowtag_wire::firefly::{State, Usage};
use flowtag_wire::{Firefly, Protocol};

/// No pass comes in between, unless a test wants one.
const SELDOM: &str = "[mark]\ninterfaces = [\"eth*\"]\n[statistics]\nperiod = \"1h\"\n";
const OFTEN: &str = "[mark]\ninterfaces = [\"eth*\"]\n[statistics]\nperiod = \"1s\"\n";
/// The pass as it is where marking is off.
const UNMARKED: &str = "[mark]\nenabled = false\n[statistics]\nperiod = \"1s\"\n";
/// Where a test wants to see fireflies.
const COLLECTOR: u16 = 10515;

/// One daemon on host a with a collector on host b.
struct Site {
    daemon: Daemon,
    collector: UdpSocket,
    hosts: Hosts,
}

impl Site {
    fn new(name: &str, toml: &str) -> Self {
        let hosts = Hosts::new(name);
        let at = hosts.dst(COLLECTOR);
        let collector = hosts.b.run(|| UdpSocket::bind(at)).expect("host b").expect("bind");
        collector.set_read_timeout(Some(WAIT)).expect("a timeout");
        let toml = format!(
            "{toml}[outputs.firefly]\ndestination = false\n[[outputs.firefly.collectors]]\naddress = \"{at}\"\n"
        );
        Self { daemon: hosts.daemon(&toml), collector, hosts }
    }

    /// The next firefly in this state.
    #[track_caller]
    fn next(&self, state: State) -> Firefly {
        let mut buffer = [0; 4096];
        loop {
            let length = self.collector.recv(&mut buffer).expect("a firefly");
            let firefly = Firefly::from_datagram(&buffer[..length]).expect("it can be read");
            if firefly.state == state {
                return firefly;
            }
        }
    }

    #[track_caller]
    fn start(&self, src: SocketAddr, dst: SocketAddr) {
        self.start_as("cms/14", src, dst);
    }

    #[track_caller]
    fn start_as(&self, tag: &str, src: SocketAddr, dst: SocketAddr) {
        cli::ok(&self.daemon, &["flow", "start", "-t", tag, "tcp", &src.to_string(), &dst.to_string()]);
    }

    #[track_caller]
    fn end(&self, src: SocketAddr, dst: SocketAddr) -> Option<Usage> {
        cli::ok(&self.daemon, &["flow", "end", "tcp", &src.to_string(), &dst.to_string()]);
        self.next(State::End).usage
    }

    fn count(&self, name: &str) -> u64 {
        let status = cli::json(&self.daemon, &["status"]);
        status["services"]["statistics"]["counts"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {status}"))
    }

    #[track_caller]
    fn wait_for(&self, name: &str, at_least: u64) {
        wait_until(name, WAIT, || Ok((self.count(name) >= at_least).then_some(()))).expect("counted");
    }
}

fn usage(sent: u64, received: u64) -> Option<Usage> {
    Some(Usage { sent: Some(sent), received: Some(received) })
}

/// A connection with its end on host a first.
struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    /// To an address of host `to`, from host `from`.
    fn open(from: &Host, to: &Host, at: IpAddr) -> (TcpStream, TcpStream) {
        let listener = to.run(|| TcpListener::bind((at, 0))).expect("a host").expect("bind");
        let at = listener.local_addr().expect("an address");
        Self::to(from, &listener, at)
    }

    fn to(from: &Host, listener: &TcpListener, at: SocketAddr) -> (TcpStream, TcpStream) {
        let client = from.run(|| TcpStream::connect(at)).expect("a host").expect("connect");
        let (server, _) = listener.accept().expect("accept");
        for end in [&client, &server] {
            end.set_read_timeout(Some(WAIT)).expect("a timeout");
            end.set_nodelay(true).expect("nodelay");
        }
        (client, server)
    }

    /// Host a connects.
    fn active(hosts: &Hosts, at: IpAddr) -> Self {
        let (near, far) = Self::open(&hosts.a, &hosts.b, at);
        Self { near, far }
    }

    /// Host b connects.
    fn passive(hosts: &Hosts, at: IpAddr) -> Self {
        let (far, near) = Self::open(&hosts.b, &hosts.a, at);
        Self { near, far }
    }

    fn ends(&self) -> (SocketAddr, SocketAddr) {
        let plain = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        (plain(self.near.local_addr().expect("an end")), plain(self.near.peer_addr().expect("an end")))
    }

    fn transfer(&self, hosts: &Hosts, sent: usize, received: usize) {
        for (mut from, mut to, length) in [(&self.near, &self.far, sent), (&self.far, &self.near, received)] {
            std::thread::scope(|scope| {
                let reader = scope.spawn(move || to.read_exact(&mut vec![0; length]).expect("all of it"));
                from.write_all(&vec![7; length]).expect("sent");
                reader.join().expect("read");
            });
        }
        // What was read may not be acknowledged yet.
        wait_until("an acknowledgement", WAIT, || Ok(self.is_acknowledged(hosts).then_some(())))
            .expect("acked");
    }

    fn is_acknowledged(&self, hosts: &Hosts) -> bool {
        let (local, remote) = self.ends();
        let key = Key { protocol: Protocol::Tcp, local: local.into(), remote: remote.into() };
        let ask = || Inquiry::open().expect("sock_diag").one(&key).expect("an answer");
        let sample = hosts.a.run(ask).expect("host a").expect("the socket");
        sample.info.unacked == 0 && sample.info.notsent_bytes == 0
    }

    /// The near end closes first or last; returns when both are closed.
    fn close(self, near_first: bool) {
        let (mut first, mut last) = if near_first { (self.near, self.far) } else { (self.far, self.near) };
        first.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(last.read(&mut [0; 1]).expect("the end"), 0);
        drop(last);
        assert_eq!(first.read(&mut [0; 1]).expect("the end"), 0);
    }
}

/// How a connection is reached: by IPv6, by IPv4, by IPv4 through an IPv6 socket.
fn ways(hosts: &Hosts, to_b: bool) -> [IpAddr; 3] {
    let end = if to_b { &hosts.link.b } else { &hosts.link.a };
    let v4: Ipv4Addr = end.ipv4;
    [end.ipv6.into(), v4.into(), v4.to_ipv6_mapped().into()]
}

#[test]
fn usage_of_an_end_before_the_close_is_the_payload_to_the_byte() {
    require_root!();
    let site = Site::new("usage", SELDOM);
    for at in ways(&site.hosts, true) {
        let connection = Connection::active(&site.hosts, at);
        let (near, far) = connection.ends();
        site.start(near, far);
        connection.transfer(&site.hosts, 1_000_003, 70_001);
        assert_eq!(site.end(near, far), usage(1_000_003, 70_001), "active, {at}");
    }
    for at in ways(&site.hosts, false) {
        let connection = Connection::passive(&site.hosts, at);
        let (near, far) = connection.ends();
        site.start(near, far);
        connection.transfer(&site.hosts, 3, 500_009);
        assert_eq!(site.end(near, far), usage(3, 500_009), "passive, {at}");
    }
}

#[test]
fn usage_is_seen_from_the_announced_source() {
    require_root!();
    let site = Site::new("source", SELDOM);
    let connection = Connection::active(&site.hosts, site.hosts.link.b.ipv6.into());
    let (near, far) = connection.ends();
    site.start(far, near);
    connection.transfer(&site.hosts, 1_000, 20_000);
    assert_eq!(site.end(near, far), usage(20_000, 1_000));
}

#[test]
fn usage_of_an_end_after_the_close_is_the_payload_to_the_byte() {
    require_root!();
    let site = Site::new("closed", SELDOM);
    for (closed, (active, near_first)) in
        [(true, true), (true, false), (false, true), (false, false)].into_iter().enumerate()
    {
        let open = if active { Connection::active } else { Connection::passive };
        for (n, at) in ways(&site.hosts, active).into_iter().enumerate() {
            let connection = open(&site.hosts, at);
            let (near, far) = connection.ends();
            site.start(near, far);
            connection.transfer(&site.hosts, 100_000 + n, 1 + n);
            connection.close(near_first);
            site.wait_for("closed", (closed * 3 + n) as u64 + 1);
            let expected = usage(100_000 + n as u64, 1 + n as u64);
            assert_eq!(site.end(near, far), expected, "active {active}, near end first {near_first}, {at}");
        }
    }
}

#[test]
fn a_reset_or_refused_connection_has_its_usage_too() {
    require_root!();
    let site = Site::new("reset", SELDOM);
    let connection = Connection::active(&site.hosts, site.hosts.link.b.ipv6.into());
    let (near, far) = connection.ends();
    site.start(near, far);
    connection.transfer(&site.hosts, 5_000, 0);
    // What is not read at the end makes it a reset.
    (&connection.near).write_all(b"not read").expect("sent");
    wait_until("an acknowledgement", WAIT, || Ok(connection.is_acknowledged(&site.hosts).then_some(())))
        .expect("acked");
    drop(connection.far);
    site.wait_for("closed", 1);
    assert_eq!(site.end(near, far), usage(5_008, 0));

    let (near, nobody) = (site.hosts.src(40_001), site.hosts.dst(9));
    site.start(near, nobody);
    assert_eq!(site.end(near, nobody), None, "there never was a connection");
}

#[test]
fn a_flow_that_a_rule_found_ends_with_its_usage() {
    require_root!();
    let rule = "[[rules]]\nname = \"all\"\nprotocol = [\"tcp\"]\nremote_port = [5201]\ntag = \"cms/14\"\n";
    let toml = SELDOM.replace("[statistics]", "exclude_private = false\n[statistics]");
    let site = Site::new("rule", &format!("{toml}{rule}"));
    let at = site.hosts.dst(5201);
    let listener = site.hosts.b.run(|| common::hosts::listen(at)).expect("host b");
    let (near, far) = Connection::to(&site.hosts.a, &listener, at);
    let connection = Connection { near, far };
    connection.transfer(&site.hosts, 12_345, 678);
    connection.close(true);
    let firefly = site.next(State::End);
    assert_eq!(firefly.usage, usage(12_345, 678));
}

#[test]
fn parallel_streams_and_periodic_reports_have_their_own_numbers() {
    require_root!();
    for (name, toml, how) in [("sweep", OFTEN, "iter/tcp"), ("dump", UNMARKED, "sock_diag")] {
        let site = Site::new(name, &format!("{toml}[flows]\nreport_every = \"1s\"\n"));
        let status = cli::json(&site.daemon, &["status"]);
        assert_eq!(status["services"]["statistics"]["at"], how);
        let at = site.hosts.link.b.ipv6.into();
        let bystander = Connection::active(&site.hosts, at);
        let connections = [(); 3].map(|()| Connection::active(&site.hosts, at));
        for (n, connection) in connections.iter().enumerate() {
            let (near, far) = connection.ends();
            site.start(near, far);
            connection.transfer(&site.hosts, 1000 * (n + 1), n);
        }
        let passes = site.count("passes");
        site.wait_for("passes", passes + 2);
        assert!(site.count("sampled") >= 3 && site.count("failed") == 0);
        for (n, connection) in connections.iter().enumerate() {
            let (near, far) = connection.ends();
            let ours = |firefly: &Firefly| firefly.flow.src().port() == near.port();
            // The first may have been made before anything was sent, or before the kernel was asked.
            let all = usage(1000 * (n as u64 + 1), n as u64);
            let mut known = std::iter::repeat_with(|| site.next(State::Ongoing)).filter(ours).take(60);
            assert!(known.any(|firefly| firefly.usage == all), "{near} {far}");
        }
        drop(bystander);
    }
}

#[test]
fn what_one_connection_carries_for_several_flows_is_counted_once() {
    require_root!();
    let site = Site::new("keepalive", SELDOM);
    let connection = Connection::active(&site.hosts, site.hosts.link.b.ipv6.into());
    let (near, far) = connection.ends();
    site.start(near, far);
    connection.transfer(&site.hosts, 100, 10);
    site.start_as("atlas/default", near, far);
    assert_eq!(site.next(State::End).usage, usage(100, 10), "under the first tag");
    connection.transfer(&site.hosts, 20, 2);
    assert_eq!(site.end(near, far), usage(20, 2), "under the second");
    connection.transfer(&site.hosts, 1000, 0);
    site.start(near, far);
    connection.transfer(&site.hosts, 3, 0);
    connection.close(false);
    site.wait_for("closed", 1);
    assert_eq!(site.end(near, far), usage(1003, 0), "of the next flow, from where the last ended");
}

#[test]
fn statistics_are_switched_off_and_on_by_a_reload() {
    require_root!();
    let mut site = Site::new("reload", OFTEN);
    let connection = Connection::active(&site.hosts, site.hosts.link.b.ipv6.into());
    let (near, far) = connection.ends();
    site.start(near, far);
    connection.transfer(&site.hosts, 7, 7);
    site.wait_for("sampled", 1);
    let collector = format!(
        "[outputs.firefly]\ndestination = false\n[[outputs.firefly.collectors]]\naddress = \"{}\"\n",
        site.hosts.dst(COLLECTOR)
    );
    site.daemon
        .reload(&format!("[mark]\ninterfaces = [\"eth*\"]\n[statistics]\nenabled = false\n{collector}"));
    site.daemon.wait_for_log("the new configuration is in force");
    assert!(cli::json(&site.daemon, &["status"])["services"]["statistics"].is_null());
    assert_eq!(site.end(near, far), None);
    site.daemon.reload(&format!("{SELDOM}{collector}"));
    wait_until("statistics", WAIT, || {
        Ok(cli::json(&site.daemon, &["status"])["services"]["statistics"].is_object().then_some(()))
    })
    .expect("on again");
    site.start(near, far);
    assert_eq!(site.end(near, far), usage(7, 7));
}
