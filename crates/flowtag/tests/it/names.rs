//! Collectors that are named: a name that nobody knows at start, one that is known later, and one that moves.

use std::net::{Ipv6Addr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::Daemon;
use crate::common::hosts::Hosts;
use flowtag_testbed::require_root;
use flowtag_wire::Firefly;

/// A name server for one name, whose address the test sets; without one the name does not exist.
struct NameServer(Arc<Mutex<Option<Ipv6Addr>>>);

impl NameServer {
    fn start(hosts: &Hosts) -> Self {
        let address = Arc::new(Mutex::new(None));
        let (socket, current) =
            (hosts.b.run(|| UdpSocket::bind((hosts.link.b.ipv6, 53))), Arc::clone(&address));
        let socket = socket.expect("host b").expect("bind");
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                let address = *current.lock().expect("address");
                let _ = socket.send_to(&answer(&query[..length], address), from);
            }
        });
        Self(address)
    }

    fn set(&self, address: Ipv6Addr) {
        *self.0.lock().expect("address") = Some(address);
    }
}

/// RFC 1035 §4.1: header, the question again, and an AAAA record (RFC 3596) that may be kept for a second.
fn answer(query: &[u8], address: Option<Ipv6Addr>) -> Vec<u8> {
    const AAAA: u16 = 28;
    let name_end = 12 + query[12..].iter().position(|b| *b == 0).expect("a name");
    let question = &query[12..name_end + 5];
    let wanted = u16::from_be_bytes([query[name_end + 1], query[name_end + 2]]);
    let record = address.filter(|_| wanted == AAAA);
    // Response, recursion available; code 3: no such name.
    let code = if address.is_some() { 0 } else { 3 };
    let mut out =
        [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0], question]
            .concat();
    if let Some(address) = record {
        out.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 1, 0, 16]);
        out.extend(address.octets());
    }
    out
}

fn receive(socket: &UdpSocket) -> Firefly {
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("a firefly");
    Firefly::from_datagram(&buffer[..length]).expect("it can be read")
}

#[test]
fn a_name_is_resolved_when_it_can_be_and_again_when_it_may_have_moved() {
    require_root!();
    let hosts = Hosts::new("dns");
    let server = NameServer::start(&hosts);
    let moved = Ipv6Addr::new(0xfd00, 0xf1, 0xffff, 0, 0, 0, 0, 2);
    hosts.b.add_address("eth0", "fd00:f1:ffff::2/64").expect("an address");
    hosts.a.add_route("fd00:f1:ffff::/64", &["dev", "eth0"]).expect("a route");
    let collector =
        |address| hosts.b.run(|| UdpSocket::bind((address, 10515))).expect("host b").expect("bind");
    let (first, second) = (collector(hosts.link.b.ipv6), collector(moved));

    let dir = tempfile::tempdir().expect("a directory");
    let resolv = dir.path().join("resolv.conf");
    std::fs::write(&resolv, format!("nameserver {}\noptions timeout:1\n", hosts.link.b.ipv6))
        .expect("written");
    let toml = "[mark]\nenabled = false\n[outputs.firefly]\ndestination = false\n\
                [[outputs.firefly.collectors]]\naddress = \"collector.example.org:10515\"\n";
    let mut daemon = Daemon::start_with(toml, |args| -> Command {
        // The host's processes have a mount namespace of their own.
        let script = format!(
            "[ -e /etc/resolv.conf ] || : > /etc/resolv.conf; mount --bind {} /etc/resolv.conf && exec \"$@\"",
            resolv.display()
        );
        let mut command = hosts.a.command("sh");
        command.args(["-c", &script, "sh"]).args(args);
        command
    });
    daemon.wait_for_log("name cannot be resolved");
    server.set(hosts.link.b.ipv6);
    daemon.wait_for_log(&format!("address={}", hosts.link.b.ipv6));
    start(&hosts, &daemon, 1);
    assert_eq!(receive(&first).flow.src().port(), 1);
    server.set(moved);
    daemon.wait_for_log(&format!("address={moved}"));
    start(&hosts, &daemon, 2);
    assert_eq!(receive(&second).flow.src().port(), 2);
}

fn start(hosts: &Hosts, daemon: &Daemon, port: u16) {
    let (src, dst) = (hosts.src(port).to_string(), hosts.dst(9).to_string());
    cli::ok(daemon, &["flow", "start", "-t", "3/14", "tcp", &src, &dst]);
}
