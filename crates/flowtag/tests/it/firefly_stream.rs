//! Fireflies over TCP and TLS: complete, in order, and kept while their collector is away.

use std::fmt::Write as _;
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::cli;
use crate::common::collector::{count, read, read_frame, wait_for_count};
use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, listen};
use flowtag_testbed::require_root;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const LIMIT: Duration = Duration::from_secs(60);
const OUTPUT: &str = "outputs.firefly";

/// A daemon whose collector is at b by `transport`, and which has a pipe.
fn config(hosts: &Hosts, transport: &str, more: &str) -> String {
    format!(
        "[mark]\nenabled = false\n[inputs.pipe]\nenabled = true\n[outputs.firefly]\ndestination = false\n\
         [[outputs.firefly.collectors]]\naddress = \"{}\"\ntransport = \"{transport}\"\n{more}\n",
        hosts.dst(6514)
    )
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("the daemon connects");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// STARTs of flows from these ports.
fn start(daemon: &Daemon, hosts: &Hosts, ports: std::ops::Range<u16>) {
    let mut lines = String::new();
    for port in ports {
        let (src, dst) = (hosts.link.a.ipv6, hosts.link.b.ipv6);
        let _ = writeln!(lines, "start tcp {src} {port} {dst} 5201 3 14");
    }
    std::fs::write(daemon.pipe(), lines).expect("the pipe is read");
}

/// The collector comes back: the ports of all that was kept for it, and last 5000.
#[track_caller]
fn told_when_it_is_back(hosts: &Hosts, daemon: &Daemon) -> Vec<u16> {
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let mut stream = BufReader::new(accept(&listener));
    wait_for_count(daemon, OUTPUT, "connected", 1);
    start(daemon, hosts, 5000..5001);
    let mut told = Vec::new();
    while told.last() != Some(&5000) {
        told.extend(ports(&mut stream, 1));
    }
    told
}

fn ports(stream: &mut BufReader<impl std::io::Read>, number: usize) -> Vec<u16> {
    (0..number).map(|_| read(&read_frame(stream)).flow.src().port()).collect()
}

#[test]
fn messages_come_over_tcp_one_after_the_other_in_order() {
    require_root!();
    let hosts = Hosts::new("tcp");
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let daemon = hosts.daemon(&config(&hosts, "tcp", ""));
    let mut stream = BufReader::new(accept(&listener));
    start(&daemon, &hosts, 1..2001);
    assert_eq!(ports(&mut stream, 2000), (1..2001).collect::<Vec<_>>());
    wait_for_count(&daemon, OUTPUT, "confirmed", 2000);
    assert_eq!((count(&daemon, OUTPUT, "lost"), count(&daemon, OUTPUT, "connected")), (0, 1));
    let status = cli::json(&daemon, &["status"]);
    assert_eq!(status["services"][OUTPUT]["targets"][0]["error"], serde_json::Value::Null);
    // What is told last is told before the end.
    start(&daemon, &hosts, 3000..3010);
    wait_for_count(&daemon, "inputs.pipe", "events", 2010);
    let stopped = daemon.stop();
    assert!(stopped.took < Duration::from_secs(5), "{:?}", stopped.took);
    assert_eq!(ports(&mut stream, 10), (3000..3010).collect::<Vec<_>>());
}

#[test]
fn without_a_spool_what_does_not_fit_memory_is_lost_and_counted() {
    require_root!();
    let hosts = Hosts::new("nospool");
    let mut toml = config(&hosts, "tcp", "");
    toml = toml.replace("destination = false", "destination = false\nqueue = 100");
    let mut daemon = hosts.daemon(&toml);
    for first in (1..1001).step_by(50) {
        start(&daemon, &hosts, first..first + 50);
        wait_for_count(&daemon, "inputs.pipe", "events", u64::from(first) + 49);
    }
    wait_for_count(&daemon, OUTPUT, "lost", 850);
    daemon.wait_for_log("a collector cannot be reached");
    assert_eq!(daemon.log().matches("a collector cannot be reached").count(), 1, "said once");
    let told = told_when_it_is_back(&hosts, &daemon);
    assert!(told.is_sorted() && told.len() <= 151, "{told:?}");
    wait_for_count(&daemon, OUTPUT, "confirmed", told.len() as u64);
    let (lost, dropped) = (count(&daemon, OUTPUT, "lost"), count(&daemon, OUTPUT, "dropped"));
    assert_eq!(lost + dropped + told.len() as u64, 1001, "each is accounted for");
}

#[test]
fn with_a_spool_an_outage_and_a_restart_lose_nothing() {
    require_root!();
    let hosts = Hosts::new("spool");
    let toml = config(&hosts, "tcp", "spool = \"{dir}/spool\"");
    let daemon = hosts.daemon(&toml);
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let mut stream = BufReader::new(accept(&listener));
    start(&daemon, &hosts, 1..101);
    assert_eq!(ports(&mut stream, 100), (1..101).collect::<Vec<_>>());
    wait_for_count(&daemon, OUTPUT, "confirmed", 100);
    drop((stream, listener)); // the collector goes
    let target = || cli::json(&daemon, &["status"])["services"][OUTPUT]["targets"][0].clone();
    flowtag_testbed::wait_until("the daemon to notice", LIMIT, || {
        Ok(target()["error"].is_string().then_some(()))
    })
    .expect("it notices");
    start(&daemon, &hosts, 101..301);
    wait_for_count(&daemon, OUTPUT, "spooled", 200);
    let dir = daemon.leave();
    let daemon = Daemon::restart_with(dir, &toml, hosts.on_a());
    start(&daemon, &hosts, 301..401);
    wait_for_count(&daemon, OUTPUT, "spooled", 100);
    let dir = daemon.kill(); // and nothing on disk is lost by that
    let daemon = Daemon::restart_with(dir, &toml, hosts.on_a());
    start(&daemon, &hosts, 401..501);
    wait_for_count(&daemon, OUTPUT, "spooled", 100);
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let mut stream = BufReader::new(accept(&listener));
    start(&daemon, &hosts, 501..601);
    assert_eq!(ports(&mut stream, 500), (101..601).collect::<Vec<_>>(), "all, once, in order");
    wait_for_count(&daemon, OUTPUT, "confirmed", 500);
    assert_eq!(count(&daemon, OUTPUT, "lost"), 0);
}

#[test]
fn a_connection_that_breaks_without_a_word_loses_nothing() {
    require_root!();
    let hosts = Hosts::new("broken");
    let daemon = hosts.daemon(&config(&hosts, "tcp", "spool = \"{dir}/spool\""));
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let mut stream = BufReader::new(accept(&listener));
    start(&daemon, &hosts, 1..11);
    assert_eq!(ports(&mut stream, 10), (1..11).collect::<Vec<_>>());
    wait_for_count(&daemon, OUTPUT, "confirmed", 10);
    // What b says from here on never arrives, and its collector dies with what it was told.
    let to_a = format!("{}/128", hosts.link.a.ipv6);
    hosts.b.ip(&["-6", "route", "add", "blackhole", &to_a]).expect("a route");
    start(&daemon, &hosts, 11..21);
    assert_eq!(ports(&mut stream, 10), (11..21).collect::<Vec<_>>());
    start(&daemon, &hosts, 21..31);
    wait_for_count(&daemon, "inputs.pipe", "events", 30);
    drop((stream, listener));
    hosts.b.ip(&["-6", "route", "del", "blackhole", &to_a]).expect("a route");
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let mut stream = BufReader::new(accept(&listener));
    assert_eq!(ports(&mut stream, 20), (11..31).collect::<Vec<_>>(), "what nobody confirmed comes again");
    wait_for_count(&daemon, OUTPUT, "confirmed", 30);
    assert_eq!(count(&daemon, OUTPUT, "lost"), 0);
}

/// A CA of the test's own, and a server's certificate for `name`.
struct Certificates {
    ca: String,
    server: Arc<ServerConfig>,
}

fn certificates(name: &str) -> Certificates {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);
    let own_key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let own = own.signed_by(&own_key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(own_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth();
    let server = server.with_single_cert(vec![own.der().clone()], key).expect("a server");
    Certificates { ca: ca.pem(), server: Arc::new(server) }
}

fn accept_tls(
    listener: &TcpListener,
    certificates: &Certificates,
) -> StreamOwned<ServerConnection, TcpStream> {
    let connection = ServerConnection::new(Arc::clone(&certificates.server)).expect("a connection");
    StreamOwned::new(connection, accept(listener))
}

fn write_ca(dir: &Path, certificates: &Certificates) -> String {
    let path = dir.join("ca.pem");
    std::fs::write(&path, &certificates.ca).expect("written");
    format!("ca_file = \"{}\"", path.display())
}

#[test]
fn tls_is_verified_against_the_given_authority_and_carries_the_same() {
    require_root!();
    let hosts = Hosts::new("tls");
    let dir = tempfile::tempdir().expect("a directory");
    let good = certificates(&hosts.link.b.ipv6.to_string());
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let more = write_ca(dir.path(), &good) + "\nspool = \"{dir}/spool\"";
    let mut daemon = hosts.daemon(&config(&hosts, "tls", &more));

    // One of another authority, and one for another name: never a word.
    for wrong in [certificates(&hosts.link.b.ipv6.to_string()), certificates("collector.example.org")] {
        let mut stream = accept_tls(&listener, &wrong);
        std::io::Read::read(&mut stream, &mut [0; 1]).expect_err("the daemon hangs up");
    }
    start(&daemon, &hosts, 1..201);
    daemon.wait_for_log("a collector cannot be reached");
    assert!(daemon.log().contains("certificate"), "{}", daemon.log());
    let mut stream = BufReader::new(accept_tls(&listener, &good));
    assert_eq!(ports(&mut stream, 200), (1..201).collect::<Vec<_>>());
    wait_for_count(&daemon, OUTPUT, "confirmed", 200);
    daemon.wait_for_log("a collector is reached again");
}

#[test]
fn a_missing_authority_and_a_spool_that_cannot_be_are_errors_that_say_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let cases = [
        ("tls", format!("ca_file = \"{}/none.pem\"", dir.path().display()), "PEM"),
        ("tcp", format!("spool = \"{}/below\"", file.display()), "has to be writable"),
    ];
    for (transport, more, wanted) in cases {
        let here = dir.path().display();
        let toml = format!(
            "runtime_dir = \"{here}\"\n[mark]\nenabled = false\n[inputs.control]\nenabled = false\n\
             [[outputs.firefly.collectors]]\naddress = \"[::1]:6514\"\ntransport = \"{transport}\"\n{more}\n"
        );
        let config = dir.path().join("flowtag.toml");
        std::fs::write(&config, toml).expect("written");
        let mut command = std::process::Command::new(common::daemon::binary());
        let output = command.args(["run", "-c"]).arg(&config).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{said}");
    }
}

#[test]
fn one_collector_that_does_not_read_holds_up_nobody() {
    require_root!();
    let hosts = Hosts::new("stuck");
    let listener = hosts.b.run(|| listen(hosts.dst(6514))).expect("host b");
    let other: SocketAddr = hosts.dst(6515);
    let good = hosts.b.run(|| listen(other)).expect("host b");
    let block = format!("[[outputs.firefly.collectors]]\naddress = \"{other}\"\ntransport = \"tcp\"\n");
    let daemon = hosts.daemon(&(config(&hosts, "tcp", "") + &block));
    let _stuck = accept(&listener); // never read
    let mut stream = BufReader::new(accept(&good));
    for round in 0..10_u16 {
        let first = 1 + round * 2000;
        start(&daemon, &hosts, first..first + 2000);
        assert_eq!(ports(&mut stream, 2000), (first..first + 2000).collect::<Vec<_>>());
    }
    assert!(daemon.stop().took < Duration::from_secs(5));
}

#[test]
fn a_full_disk_costs_what_does_not_fit_and_is_said_once() {
    require_root!();
    let hosts = Hosts::new("full");
    let disk = tempfile::tempdir().expect("a directory");
    let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
    nix::mount::mount(none, disk.path(), Some("tmpfs"), flags, Some("size=64k")).expect("a small disk");
    let daemon = hosts.daemon(&config(&hosts, "tcp", &format!("spool = \"{}\"", disk.path().display())));
    start(&daemon, &hosts, 1..1001);
    wait_for_count(&daemon, OUTPUT, "lost", 500);
    let told = told_when_it_is_back(&hosts, &daemon);
    let kept = u16::try_from(told.len()).expect("few") - 1;
    assert!(
        kept > 10 && told[..told.len() - 1] == (1..=kept).collect::<Vec<_>>(),
        "the first, in order: {told:?}"
    );
    wait_for_count(&daemon, OUTPUT, "confirmed", told.len() as u64);
    assert_eq!(count(&daemon, OUTPUT, "lost"), 1001 - told.len() as u64);
    assert_eq!(daemon.log().matches("it cannot wait on disk").count(), 1, "{}", daemon.log());
    assert!(daemon.stop().took < Duration::from_secs(5));
    nix::mount::umount(disk.path()).expect("unmounted");
}
