//! Addresses as the world sees them: behind a real NAT with a real STUN server, and with servers that do what servers do.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::{Daemon, binary};
use crate::common::hosts::{Hosts, on, when_free};
use crate::common::web::{self, Authority, Web};
use flowtag_testbed::{Chain, Host, LinkOptions, Process, Testbed, require_root, wait_until};
use flowtag_wire::Firefly;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// Host a behind a router that translates, and host b with public addresses on the other side.
struct Nat {
    a: Host,
    router: Host,
    b: Host,
    chain: Chain,
    _bed: Testbed,
}

const PUBLIC: &str = "192.0.2.1";
/// What 10.241.x.7 becomes.
const OTHER: &str = "192.0.2.7";
const PUBLIC6: &str = "2001:db8::1";

impl Nat {
    fn new(name: &str) -> Self {
        let bed = Testbed::new(name).expect("a testbed");
        let [a, router, b] = ["a", "nat", "b"].map(|n| bed.host(n).expect("a host"));
        let chain = bed.chain((&a, "eth0"), &router, (&b, "eth0"), &LinkOptions::default()).expect("a chain");
        for address in [PUBLIC, OTHER] {
            router.add_address("eth1", &format!("{address}/24")).expect("an address");
        }
        router.add_address("eth1", &format!("{PUBLIC6}/64")).expect("an address");
        b.add_address("eth0", "192.0.2.9/24").expect("an address");
        b.add_address("eth0", "2001:db8::9/64").expect("an address");
        a.add_address("eth0", "10.241.1.7/24").expect("an address");
        a.add_route("192.0.2.0/24", &["via", &chain.near.b.ipv4.to_string()]).expect("a route");
        a.add_route("2001:db8::/64", &["via", &chain.near.b.ipv6.to_string()]).expect("a route");
        let rules = format!(
            "add table inet t; \
             add chain inet t post {{ type nat hook postrouting priority 100; }}; \
             add rule inet t post ip saddr 10.241.1.7 snat ip to {OTHER}; \
             add rule inet t post ip saddr 10.0.0.0/8 snat ip to {PUBLIC}; \
             add rule inet t post ip6 saddr fd00::/8 snat ip6 to {PUBLIC6}"
        );
        let nft = router.command("nft").arg(rules).output().expect("nft runs");
        assert!(nft.status.success(), "{}", String::from_utf8_lossy(&nft.stderr));
        Self { a, router, b, chain, _bed: bed }
    }

    /// coturn, which answers binding requests and nothing else.
    fn stun(&self, dir: &Path) -> Process {
        let mut command = self.b.command("turnserver");
        command.args(["-n", "-S", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log", "-m", "1"]);
        command.args(["-L", "192.0.2.9", "-L", "2001:db8::9", "-p", "3478", "--db"]);
        command.arg(dir.join("turn.db")).arg("--pidfile").arg(dir.join("turn.pid"));
        command.arg("--log-file").arg(dir.join("turn.log"));
        let mut server = self.b.spawn(command).expect("turnserver runs");
        wait_until("the STUN server to listen", LIMIT, || {
            anyhow::ensure!(server.is_running(), "turnserver ended: {}", server.stderr());
            let sockets = self.b.command("ss").args(["-Huln", "sport = :3478"]).output()?;
            Ok((String::from_utf8_lossy(&sockets.stdout).lines().count() >= 2).then_some(()))
        })
        .expect("a STUN server");
        server
    }
}

/// `flowtag --json address` on a host, with these servers.
#[track_caller]
fn address(host: &Host, addresses: &str, args: &[&str], environment: &[(&str, &Path)]) -> Vec<Value> {
    let output = address_command(host, addresses, &[&["--json", "address"], args].concat(), environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn address_command(host: &Host, addresses: &str, args: &[&str], environment: &[(&str, &Path)]) -> Output {
    let dir = TempDir::new().expect("a directory");
    let config = dir.path().join("flowtag.toml");
    std::fs::write(&config, format!("[addresses]\n{addresses}\n")).expect("written");
    let mut command = host.command(binary());
    command.args(args).arg("--config").arg(&config).envs(environment.iter().copied());
    command.output().expect("the command runs")
}

#[track_caller]
fn reported(rows: &[Value], ip: &str) -> String {
    let row = rows.iter().find(|r| r["address"] == ip).unwrap_or_else(|| panic!("{ip}: {rows:?}"));
    row["reported_as"].as_str().expect("an address").to_owned()
}

fn collector(host: &Host, at: SocketAddr) -> UdpSocket {
    let socket = host.run(|| when_free(|| UdpSocket::bind(at))).expect("the host");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

#[track_caller]
fn receive(socket: &UdpSocket) -> Firefly {
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).expect("a firefly");
    Firefly::from_datagram(&buffer[..length]).expect("it can be read")
}

fn ends(firefly: &Firefly) -> (String, String) {
    (firefly.flow.src().addr().to_string(), firefly.flow.dst().addr().to_string())
}

#[track_caller]
fn wait_for_count(daemon: &Daemon, name: &str, least: u64) {
    wait_until(&format!("{name} to be {least}"), LIMIT, || {
        let status = cli::json(daemon, &["status"]);
        let count = status["services"]["addresses"]["counts"][name].as_u64();
        Ok((count >= Some(least)).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
}

fn flow<'a>(verb: &'a str, src: &'a str, dst: &'a str) -> Vec<&'a str> {
    let tag: &[&str] = if verb == "start" { &["-t", "cms/14"] } else { &[] };
    [&["flow", verb], tag, &["tcp", src, dst]].concat()
}

#[test]
fn behind_nat_each_source_address_gets_the_one_that_the_world_sees() {
    require_root!();
    let nat = Nat::new("addr-nat");
    let dir = TempDir::new().expect("a directory");
    let _server = nat.stun(dir.path());
    let servers = "stun = [\"192.0.2.9:3478\", \"[2001:db8::9]:3478\"]";
    let rows = address(&nat.a, servers, &[], &[]);
    let (v4, v6) = (nat.chain.near.a.ipv4.to_string(), nat.chain.near.a.ipv6.to_string());
    assert_eq!(rows.len(), 3, "all addresses of the host but loopback and link-local: {rows:?}");
    assert_eq!(reported(&rows, &v4), PUBLIC);
    assert_eq!(reported(&rows, "10.241.1.7"), OTHER, "asked from exactly that address");
    assert_eq!(reported(&rows, &v6), PUBLIC6);
    let text = address_command(&nat.a, servers, &["address", "10.241.1.7"], &[]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("stun 192.0.2.9:3478 answered in"), "{text}");

    let firefly = collector(&nat.b, "192.0.2.9:10515".parse().expect("an address"));
    let toml = format!(
        "[mark]\nenabled = false\n[addresses]\n{servers}\n[outputs.firefly]\ndestination = false\n\
         [[outputs.firefly.collectors]]\naddress = \"192.0.2.9:10515\"\n"
    );
    let daemon = Daemon::start_with(&toml, on(&nat.a));
    let (src, dst) = ("10.241.1.7:40000", "192.0.2.9:5201");
    cli::ok(&daemon, &flow("start", src, dst));
    receive(&firefly); // written at once, with what was known
    wait_for_count(&daemon, "answers", 1);
    cli::ok(&daemon, &flow("end", src, dst));
    assert_eq!(ends(&receive(&firefly)), (OTHER.to_owned(), "192.0.2.9".to_owned()));
    let src6 = format!("[{v6}]:40001");
    cli::ok(&daemon, &flow("start", &src6, "[2001:db8::9]:5201"));
    receive(&firefly);
    wait_for_count(&daemon, "answers", 2);
    let listed = cli::json(&daemon, &["flow", "list"]);
    assert!(listed.to_string().contains(&v6), "the flow is what it was: {listed}");
    cli::ok(&daemon, &flow("end", &src6, "[2001:db8::9]:5201"));
    assert_eq!(ends(&receive(&firefly)).0, PUBLIC6);
    daemon.stop();
    drop(nat.router);
}

/// What a server of the test does with a question.
#[derive(Clone, Copy)]
enum Manner {
    Right,
    /// Only from the second time on.
    Late,
    OtherId,
    Garbage,
    Refuse,
    Silent,
    OtherFamily,
}

/// Answers 192.0.2.1, or what the manner says.
fn stun_answer(question: &[u8], manner: Manner) -> Option<Vec<u8>> {
    let mut id: [u8; 12] = question.get(8..20)?.try_into().ok()?;
    let mapped: &[u8] = &[0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
    let refusal: &[u8] = &[0, 9, 0, 8, 0, 0, 4, 20, b'g', b'o', b'n', b'e'];
    let mut v6 = vec![0, 0x20, 0, 20, 0, 2, 0xa1, 0x47];
    v6.extend(
        [0x21, 0x12, 0xa4, 0x42]
            .iter()
            .chain(&id)
            .enumerate()
            .map(|(n, b)| b ^ if n == 0 { 0x20 } else { 0 }),
    );
    let (kind, attributes): (u16, &[u8]) = match manner {
        Manner::Silent => return None,
        Manner::Garbage => return Some(vec![0xff; 40]),
        Manner::OtherFamily => (0x0101, &v6),
        Manner::Refuse => (0x0111, refusal),
        Manner::OtherId | Manner::Right | Manner::Late => (0x0101, mapped),
    };
    if matches!(manner, Manner::OtherId) {
        id[11] ^= 1;
    }
    let length = u16::try_from(attributes.len()).ok()?.to_be_bytes();
    Some([&kind.to_be_bytes()[..], &length, &[0x21, 0x12, 0xa4, 0x42], &id, attributes].concat())
}

fn stun_server(host: &Host, at: SocketAddr, manner: Manner) {
    let socket = host.run(|| when_free(|| UdpSocket::bind(at))).expect("the host");
    std::thread::spawn(move || {
        let (mut buffer, mut heard) = ([0; 1500], 0);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            heard += 1;
            let is_early = matches!(manner, Manner::Late) && heard < 2;
            if let Some(answer) = stun_answer(&buffer[..length], manner).filter(|_| !is_early) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

#[test]
fn servers_are_asked_one_after_the_other_until_one_answers() {
    require_root!();
    let hosts = Hosts::new("addr-stun");
    let ip = hosts.link.b.ipv4;
    let manners = [
        Manner::Silent,
        Manner::OtherId,
        Manner::Garbage,
        Manner::Refuse,
        Manner::OtherFamily,
        Manner::Late,
        Manner::Right,
    ];
    for (port, manner) in (4001..).zip(manners) {
        stun_server(&hosts.b, (ip, port).into(), manner);
    }
    let servers: Vec<_> =
        ["nobody.invalid:3478".to_owned(), format!("{ip}:4000"), "[2001:db8::9]:3478".to_owned()]
            .into_iter()
            .chain((4001..4008).map(|port| format!("{ip}:{port}")))
            .collect();
    let from = hosts.link.a.ipv4.to_string();
    let config = format!("stun = {servers:?}\ntimeout = \"2s\"");
    let rows = address(&hosts.a, &config, &[&from], &[]);
    assert_eq!(reported(&rows, &from), "192.0.2.1");
    assert_eq!(rows[0]["server"], format!("stun {ip}:4006"), "the question was repeated: {rows:?}");
    let errors: Vec<_> = rows[0]["tried"].as_array().expect("a list").iter().collect();
    let said: Vec<_> = errors.iter().map(|e| e["error"].as_str().expect("text")).collect();
    for (n, part) in [
        (0, "nobody.invalid"),
        (1, "refused"), // by ICMP
        (2, "no IPv4 address"),
        (3, "no answer"),
        (4, "no answer"), // another's answer is none
        (5, "no answer"),
        (6, "420 gone"),
        (7, "another family"),
    ] {
        assert!(said[n].contains(part), "{n}: {said:?}");
    }
    assert_eq!(said.len(), 8);
}

#[test]
fn http_servers_answer_with_the_address_as_text() {
    require_root!();
    let hosts = Hosts::new("addr-http");
    let (ours, other) = (Authority::new(), Authority::new());
    let dir = TempDir::new().expect("a directory");
    let trusted = ours.write(dir.path(), "ca.pem");
    let (ip, from) = (hosts.link.b.ipv4, hosts.link.a.ipv4.to_string());
    let tls = |authority: &Authority| Some(authority.server(&ip.to_string()));
    let at = |port: u16| SocketAddr::from((ip, port));
    let seen = Web::start(&hosts.b, at(8001), tls(&ours), |_| web::ok(" 192.0.2.1\r\n"));
    let https = seen.url("https", "/ip");
    let found = |servers: &[String], ip: &str| {
        let config = format!("http = {servers:?}\ntimeout = \"2s\"");
        address(&hosts.a, &config, &[ip], &[("SSL_CERT_FILE", &trusted)]).remove(0)
    };
    let row = found(std::slice::from_ref(&https), &from);
    assert_eq!((&row["reported_as"], &row["server"]), (&"192.0.2.1".into(), &https.clone().into()), "{row}");

    let wrong = Web::start(&hosts.b, at(8002), tls(&other), |_| web::ok("192.0.2.66"));
    let named =
        Web::start(&hosts.b, at(8003), Some(ours.server("elsewhere.example")), |_| web::ok("192.0.2.66"));
    let page = Web::start(&hosts.b, at(8004), None, |_| web::ok("<html>192.0.2.66</html>"));
    let huge = Web::start(&hosts.b, at(8005), None, |_| web::ok(&" ".repeat(1 << 20)));
    let missing = Web::start(&hosts.b, at(8006), None, |_| web::with("404 Not Found", "", "192.0.2.66"));
    let down = "Location: http://192.0.2.66/\r\n";
    let downgrade = Web::start(&hosts.b, at(8007), tls(&ours), move |_| web::with("302 Found", down, ""));
    let endless = "Location: /again\r\n";
    let round = Web::start(&hosts.b, at(8008), None, move |_| web::with("302 Found", endless, ""));
    web::silent(&hosts.b, at(8009));
    let loopback = Web::start(&hosts.b, at(8011), None, |_| web::ok("127.0.0.1"));
    let no_http = Web::start(&hosts.b, at(8012), None, |_| b"220 smtp\r\n".to_vec());
    let moved = Web::start(&hosts.b, at(8010), None, |head| match head.starts_with("GET /there ") {
        true => web::ok("192.0.2.2"),
        false => web::with("301 Moved Permanently", "Location: /there\r\n", ""),
    });
    let servers = [
        (wrong.url("https", "/"), "certificate"),
        (named.url("https", "/"), "certificate"),
        (page.url("http", "/"), "not an address"),
        (huge.url("http", "/"), "more than 1024 bytes"),
        (missing.url("http", "/"), "404"),
        (downgrade.url("https", "/"), "another scheme"),
        (round.url("http", "/"), "only 5 such answers"),
        (format!("http://{}/", at(8009)), "no answer"),
        (format!("http://{}/", at(8999)), "cannot reach"),
        (loopback.url("http", "/"), "not an address"),
        (no_http.url("http", "/"), "did not answer in http"),
        (page.url("https", "/"), "no answer"), // it waits for HTTP, we for TLS
    ];
    let urls: Vec<_> = servers.iter().map(|(url, _)| url.clone()).chain([moved.url("http", "/")]).collect();
    let row = found(&urls, &from);
    assert_eq!(row["reported_as"], "192.0.2.2", "one that moved is followed: {row}");
    for ((url, part), tried) in servers.iter().zip(row["tried"].as_array().expect("a list")) {
        let error = tried["error"].as_str().expect("text");
        assert!(tried["server"] == **url && error.to_lowercase().contains(part), "{part}: {tried}");
    }
    assert!(seen.requests()[0].to_lowercase().contains("user-agent: flowtag/"), "{:?}", seen.requests());
    // An IPv6 source cannot ask a server that has IPv4 only, and never asks from another address.
    let row = found(&[https], &hosts.link.a.ipv6.to_string());
    assert_eq!(row["how"], "no-answer", "{row}");
}

#[test]
fn without_a_question_the_reason_is_told() {
    require_root!();
    let hosts = Hosts::new("addr-why");
    let table = "[addresses.map]\n\"10.9.0.0/16\" = \"198.51.0.0/16\"";
    let config = format!("stun = [\"{}:3478\"]\n{table}", hosts.link.b.ipv4);
    let ips = ["192.0.2.1", "10.9.8.7", "10.1.2.3", "::ffff:10.9.0.1", "2001:db8::1"];
    let rows = address(&hosts.a, &config, &ips, &[]);
    let how: Vec<_> = rows.iter().map(|r| r["how"].as_str().expect("text")).collect();
    assert_eq!(how, ["not-private", "map", "not-of-this-host", "map", "not-private"]);
    assert_eq!(
        (reported(&rows, "10.9.8.7"), reported(&rows, "10.9.0.1")),
        ("198.51.8.7".into(), "198.51.0.1".into())
    );
    assert_eq!(rows[1]["rule"], serde_json::json!({ "from": "10.9.0.0/16", "to": "198.51.0.0/16" }));
    assert_eq!(address(&hosts.a, "", &["fd00::1"], &[])[0]["how"], "no-servers");
    let text = address_command(&hosts.a, table, &["address"], &[]);
    let text = String::from_utf8(text.stdout).expect("text");
    assert!(text.contains("private, and no server is configured (addresses.stun, addresses.http)"), "{text}");
    assert!(!text.contains("127.0.0.1") && !text.contains("fe80"), "{text}");
}

#[test]
fn a_report_never_waits_and_both_ends_are_mapped_and_a_reload_changes_all_of_it() {
    require_root!();
    let hosts = Hosts::new("addr-async");
    let (release, held) = mpsc::channel::<()>();
    let server = hosts.b.run(|| UdpSocket::bind((hosts.link.b.ipv4, 3478))).expect("host b").expect("bind");
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        let _ = held.recv();
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&stun_answer(&buffer[..length], Manner::Right).expect("an answer"), from);
        }
    });
    let firefly = collector(&hosts.b, (hosts.link.b.ipv4, 10515).into());
    let config = |addresses: &str| {
        format!(
            "[mark]\nenabled = false\n[addresses]\ntimeout = \"1m\"\n{addresses}\n\
             [outputs.firefly]\ndestination = false\n\
             [[outputs.firefly.collectors]]\naddress = \"{}:10515\"\n",
            hosts.link.b.ipv4
        )
    };
    let servers = format!("stun = [\"{}:3478\"]", hosts.link.b.ipv4);
    let remote: IpAddr = hosts.link.b.ipv4.into();
    let mut daemon =
        hosts.daemon(&config(&format!("{servers}\n[addresses.map]\n\"{remote}\" = \"198.51.100.2\"")));
    let (src, dst) = (format!("{}:40000", hosts.link.a.ipv4), format!("{remote}:5201"));
    let local = hosts.link.a.ipv4.to_string();
    cli::ok(&daemon, &flow("start", &src, &dst));
    assert_eq!(
        ends(&receive(&firefly)),
        (local.clone(), "198.51.100.2".to_owned()),
        "the server has not answered"
    );
    release.send(()).expect("the server waits");
    wait_for_count(&daemon, "answers", 1);
    cli::ok(&daemon, &flow("end", &src, &dst));
    assert_eq!(ends(&receive(&firefly)), ("192.0.2.1".to_owned(), "198.51.100.2".to_owned()));
    // What was announced from the far side keeps its direction, and is translated by end, not by place.
    cli::ok(&daemon, &flow("start", &dst, &src));
    assert_eq!(ends(&receive(&firefly)), ("198.51.100.2".to_owned(), "192.0.2.1".to_owned()));
    let status = cli::json(&daemon, &["status"]);
    let shown = &status["services"]["addresses"];
    assert_eq!(shown["targets"][0]["error"], Value::Null, "{shown}");
    assert_eq!((&shown["counts"]["mapped"], &shown["counts"]["unknown"]), (&3.into(), &1.into()), "{shown}");

    daemon.reload(&config(""));
    daemon.wait_for_log("the new configuration is in force");
    cli::ok(&daemon, &flow("end", &src, &dst));
    assert_eq!(
        ends(&receive(&firefly)),
        (remote.to_string(), local.clone()),
        "nothing is translated any more"
    );
    assert!(cli::json(&daemon, &["status"])["services"]["addresses"].is_null());
    daemon.reload(&config(&format!("[addresses.map]\n\"{local}/32\" = \"198.51.100.3/32\"")));
    wait_until("the table to be in force", LIMIT, || {
        Ok(cli::json(&daemon, &["status"])["services"]["addresses"].is_object().then_some(()))
    })
    .expect("it is");
    cli::ok(&daemon, &flow("start", &src, &dst));
    assert_eq!(ends(&receive(&firefly)), ("198.51.100.3".to_owned(), remote.to_string()));
    daemon.stop();
}

#[test]
fn servers_that_are_dead_are_told_once_and_stop_nothing() {
    require_root!();
    let hosts = Hosts::new("addr-dead");
    let firefly = collector(&hosts.b, (hosts.link.b.ipv4, 10515).into());
    let toml = format!(
        "[mark]\nenabled = false\n[addresses]\ntimeout = \"200ms\"\n\
         stun = [\"{0}:3478\", \"nobody.invalid:3478\"]\nhttp = [\"http://{0}:8001/\"]\n\
         [outputs.firefly]\ndestination = false\n\
         [[outputs.firefly.collectors]]\naddress = \"{0}:10515\"\n",
        hosts.link.b.ipv4
    );
    let mut daemon = hosts.daemon(&toml);
    for port in 40000..40050 {
        let (src, dst) = (format!("{}:{port}", hosts.link.a.ipv4), format!("{}:5201", hosts.link.b.ipv4));
        cli::ok(&daemon, &flow("start", &src, &dst));
        assert_eq!(ends(&receive(&firefly)).0, hosts.link.a.ipv4.to_string());
    }
    daemon.wait_for_log("a public address is not known");
    let status = cli::json(&daemon, &["status"]);
    let shown = &status["services"]["addresses"];
    assert_eq!(shown["counts"]["failures"], 1, "a failure is remembered: {shown}");
    assert_eq!(shown["counts"]["unknown"], 50);
    let errors: Vec<_> = shown["targets"].as_array().expect("servers").iter().map(|t| &t["error"]).collect();
    assert!(errors.len() == 3 && errors.iter().all(|e| e.is_string()), "{shown}");
    let stopped = daemon.stop();
    assert_eq!(stopped.log.matches("a public address is not known").count(), 1, "{}", stopped.log);
}

#[test]
fn an_answer_is_asked_for_again_and_stays_in_use_when_nobody_answers_any_more() {
    require_root!();
    let hosts = Hosts::new("addr-again");
    let answer = Arc::new(Mutex::new(Some("192.0.2.1")));
    let told = Arc::clone(&answer);
    let server = Web::start(&hosts.b, (hosts.link.b.ipv4, 8001).into(), None, move |_| {
        told.lock().expect("the answer").map_or_else(|| web::with("503 Down", "", ""), web::ok)
    });
    let firefly = collector(&hosts.b, (hosts.link.b.ipv4, 10515).into());
    let daemon = hosts.daemon(&format!(
        "[mark]\nenabled = false\n[addresses]\nrefresh = \"10s\"\nhttp = [\"{}\"]\n\
         [outputs.firefly]\ndestination = false\n\
         [[outputs.firefly.collectors]]\naddress = \"{}:10515\"\n",
        server.url("http", "/"),
        hosts.link.b.ipv4
    ));
    let (src, dst) = (format!("{}:40000", hosts.link.a.ipv4), format!("{}:5201", hosts.link.b.ipv4));
    let mut verbs = ["start", "end"].into_iter().cycle();
    let mut said_of_the_next = || {
        cli::ok(&daemon, &flow(verbs.next().expect("endless"), &src, &dst));
        ends(&receive(&firefly)).0
    };
    let mut becomes = |public: &str| {
        let next = || Ok((said_of_the_next() == public).then_some(()));
        wait_until(&format!("reports to say {public}"), LIMIT, next)
    };
    becomes("192.0.2.1").expect("an answer");
    *answer.lock().expect("the answer") = Some("192.0.2.2");
    becomes("192.0.2.2").expect("a newer answer");
    *answer.lock().expect("the answer") = None;
    let failed = || {
        assert_eq!(said_of_the_next(), "192.0.2.2");
        let status = cli::json(&daemon, &["status"]);
        Ok(status["services"]["addresses"]["targets"][0]["error"].is_string().then_some(()))
    };
    wait_until("the server to be missed", LIMIT, failed).expect("a failure");
    assert_eq!(said_of_the_next(), "192.0.2.2", "the last answer is the best that is known");
    daemon.stop();
}
