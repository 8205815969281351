//! The main job of flowtag on real packets, for a person to watch: two hosts in network namespaces, the daemon on one,
//! a real TCP transfer between them, and what the other end captured. Run it with `make demo`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flowtag_engine::Registry;
use flowtag_kernel::af_packet::{ETH_P_NONE, PacketSocket};
use flowtag_testbed::{Captured, Host, Impairment, Link, Loss, Process, Testbed, checked};
use flowtag_wire::{Firefly, FlowLabel, Found, LinkType, Packet};

/// Client port of the transfer: announced beforehand, so it must be known.
const PORT: u16 = 40000;
const SERVER: u16 = 5201;
/// Servers of which only rules know.
const SITE: u16 = 1094;
const ARCHIVE: u16 = 1095;
/// The server at the end of a bad path.
const SLOW: u16 = 5203;
const COLLECTOR: u16 = 10515;
const TRANSFER: &str = "64M";

fn main() {
    if let Err(error) = demo() {
        let _ = writeln!(std::io::stderr(), "demo: {error:#}");
        std::process::exit(1);
    }
}

fn demo() -> Result<()> {
    ensure!(flowtag_testbed::root(), "network namespaces and eBPF need root: sudo make demo");
    let flowtag =
        std::env::current_exe()?.with_file_name("flowtag").canonicalize().context("flowtag is not built")?;
    title("1. Two hosts, one link, one daemon");
    let bed = Testbed::new("demo")?;
    let (storage, client) = (bed.host("storage")?, bed.host("client")?);
    let link = bed.link(&storage, "eth0", &client, "eth0")?;
    say(&format!("storage [{}]  --- veth ---  client [{}]", link.a.ipv6, link.b.ipv6));
    let dir = tempfile::tempdir()?;
    let daemon = start_daemon(&flowtag, dir.path(), &storage, &link)?;
    let fireflies = Listeners::new(&client, &link)?;
    let cli = Cli { flowtag: &flowtag, dir: dir.path() };

    title("2. A transfer that nobody announced, then the same one announced");
    let plain = transfer(&storage, &client, &link)?;
    say("the flow is announced to the daemon:");
    let (src, dst) = (endpoint(link.a.ipv6.into(), PORT), endpoint(link.b.ipv6.into(), SERVER));
    cli.show(&["flow", "start", "--tag", "cms/Analysis Input", "tcp", &src, &dst])?;
    let marked = transfer(&storage, &client, &link)?;
    cli.show(&["flow", "end", "tcp", &src, &dst])?;

    title("3. Packet by packet, as captured at the client");
    let before = packets(&plain, "not announced", SERVER)?;
    let after = packets(&marked, "announced", SERVER)?;
    verdict(&before, &after)?;

    title("4. One packet byte by byte: as it was sent, and as the client captured it");
    byte_by_byte(&cli, &storage, &client, &link)?;

    title("5. A rule: nobody announces this connection, and its first SYN is marked");
    let [site, archive] = [SITE, ARCHIVE].map(|port| port.to_string());
    cli.show(&["rule", "add", "--name", "site", "--remote-port", &site, "--tag", "lhcb/Data Challenge"])?;
    let found = connection(&storage, &client, &link, SITE)?;
    every_label_is(&packets(&found, "matched by the rule", SITE)?, "lhcb/Data Challenge")?;

    title("6. The tag in an extension header, for networks that read no labels");
    let rule = ["rule", "add", "--name", "archive", "--remote-port", &archive, "--tag", "atlas/Staging"];
    cli.show(&[&rule[..], &["--strategy", "destination"]].concat())?;
    options_header(&connection(&storage, &client, &link, ARCHIVE)?)?;

    title("7. Fireflies of the announced transfer that arrived at the client");
    fireflies.show()?;

    title("8. How much of what was sent says whose it is");
    cli.show(&["coverage"])?;

    title("9. Why a transfer is slow: a path of 10 ms each way that loses 1 % of the packets");
    slow(&cli, &bed, &storage, &client)?;

    title("10. Clean stop");
    stop(daemon, &storage)
}

/// Lines stay within 80 columns.
fn say(text: &str) {
    println!("{text}");
}

fn title(text: &str) {
    println!("\n\x1b[1m{text}\x1b[0m");
}

fn endpoint(addr: std::net::IpAddr, port: u16) -> String {
    SocketAddr::new(addr, port).to_string()
}

fn start_daemon(flowtag: &Path, dir: &Path, storage: &Host, link: &Link) -> Result<Process> {
    let config = dir.join("flowtag.toml");
    // Nothing is to outlive the demo, and the addresses of its hosts are private.
    let text = format!(
        "runtime_dir = \"{dir}/run\"\n[inputs.control]\npath = \"{dir}/run/control.sock\"\n\
         [mark]\npin = \"\"\nexclude_private = false\n\
         [[outputs.firefly.collectors]]\naddress = \"[{}]:{COLLECTOR}\"\n",
        link.b.ipv6,
        dir = dir.display()
    );
    std::fs::write(&config, text)?;
    let mut command = storage.command(flowtag);
    command.arg("run").arg("--config").arg(&config);
    let mut daemon = storage.spawn(command)?;
    daemon.wait_for_output("flowtag is ready", Duration::from_secs(30))?;
    let marking = daemon.stderr();
    let hook = marking.lines().find_map(|l| l.split_once("hook=")).map_or("?", |(_, hook)| hook);
    say(&format!("flowtag runs on storage and marks on eth0 (hook: {hook})"));
    Ok(daemon)
}

struct Cli<'a> {
    flowtag: &'a Path,
    dir: &'a Path,
}

impl Cli<'_> {
    /// Runs a command as a user would and shows both.
    fn show(&self, args: &[&str]) -> Result<()> {
        let quoted = |a: &&str| if a.contains(' ') { format!("'{a}'") } else { (*a).to_owned() };
        say(&wrapped(args.iter().map(quoted)));
        let mut command = Command::new(self.flowtag);
        command.env("FLOWTAG_SOCKET", self.dir.join("run/control.sock")).args(args);
        say(checked(&mut command)?.trim_end());
        Ok(())
    }
}

impl Cli<'_> {
    /// Starts a command that watches, and waits until it does.
    fn watch(&self, host: &Host, args: &[&str]) -> Result<(String, Process)> {
        let mut command = host.command(self.flowtag);
        command.env("FLOWTAG_SOCKET", self.dir.join("run/control.sock")).env("COLUMNS", "80").args(args);
        let mut process = host.spawn(command)?;
        process.wait_for_output("watching", Duration::from_secs(20))?;
        Ok((wrapped(args.iter().map(ToString::to_string)), process))
    }
}

/// A command as it can be typed, in lines of at most 80 columns.
fn wrapped(words: impl Iterator<Item = String>) -> String {
    let mut lines = vec!["$ flowtag".to_owned()];
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= 78 => *line = format!("{line} {word}"),
            _ => lines.push(format!("    {word}")),
        }
    }
    lines.join(" \\\n")
}

fn transfer(storage: &Host, client: &Host, link: &Link) -> Result<Captured> {
    let mut server = client.command("iperf3");
    server.args(["--server", "--one-off", "--forceflush"]);
    let mut server = client.spawn(server)?;
    server.wait_for_output("Server listening", Duration::from_secs(20))?;
    let capture = client.capture("eth0", &format!("tcp port {PORT}"))?;
    let mut command = storage.command("iperf3");
    command.args([
        "--json",
        "--client",
        &link.b.ipv6.to_string(),
        "--cport",
        &PORT.to_string(),
        "--bytes",
        TRANSFER,
    ]);
    let report: serde_json::Value = serde_json::from_str(&checked(&mut command)?)?;
    let sent = &report["end"]["sum_sent"];
    say(&format!(
        "iperf3 storage > client: {} bytes, {:.1} Gbit/s",
        sent["bytes"],
        sent["bits_per_second"].as_f64().unwrap_or_default() / 1e9
    ));
    server.wait(Duration::from_secs(20))?;
    capture.stop()
}

/// A short connection from storage to the client, closed by both ends, as the client captured it.
fn connection(storage: &Host, client: &Host, link: &Link, port: u16) -> Result<Captured> {
    let listener = client.run(|| TcpListener::bind((link.b.ipv6, port)))??;
    let capture = client.capture("eth0", &format!("ip6 and host {}", link.b.ipv6))?;
    let mut near = storage.run(|| TcpStream::connect((link.b.ipv6, port)))??;
    let (mut far, _) = listener.accept()?;
    far.set_read_timeout(Some(Duration::from_secs(20)))?;
    near.write_all(b"whose data is this?")?;
    near.shutdown(Shutdown::Write)?;
    let mut received = Vec::new();
    far.read_to_end(&mut received)?;
    ensure!(received == b"whose data is this?", "the payload arrived as {received:?}");
    capture.stop()
}

/// Shows where the tag is in the SYN, and that the other packets have it, too.
fn options_header(capture: &Captured) -> Result<()> {
    let frames = capture.frames()?;
    let frames: Vec<_> = frames
        .iter()
        .filter_map(|f| Some((&f.data, Packet::parse(LinkType::Ethernet, &f.data).ok()?)))
        .filter(|(_, packet)| packet.ports.is_some_and(|ports| ports.dst == ARCHIVE))
        .collect();
    let wanted = Registry::embedded().resolve("atlas/Staging")?;
    let (syn, _) = frames.first().context("no packet was captured")?;
    let header = syn.get(54..62).context("the SYN is too short")?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    say("\nthe SYN, behind the link header (14 bytes):");
    say(&format!("  IPv6         {} ..", hex(&syn[14..24])));
    say("               next header 3c: destination options");
    say(&format!("  destination  {}", hex(header)));
    say("               next header 06: TCP; option 1e of 3 bytes: experiment, activity");
    let marked = frames.iter().filter(|(_, p)| p.option_tags.iter().any(|o| o.found == Found::Tag(wanted)));
    let (marked, all) = (marked.count(), frames.len());
    ensure!(marked == all, "{marked} of {all} packets carry the option");
    say(&format!("all {all} packets carry it: {}", Registry::embedded().describe(wanted)));
    Ok(())
}

/// All that is told of the packets of one transfer.
struct Summary {
    labels: BTreeMap<FlowLabel, usize>,
    /// DSCP, ECN and hop limit.
    headers: BTreeMap<(u8, u8, u8), usize>,
}

/// Shows the packets that went to the client's `port`.
fn packets(capture: &Captured, what: &str, port: u16) -> Result<Summary> {
    let frames = capture.frames()?;
    let parsed: Vec<_> =
        frames.iter().filter_map(|f| Packet::parse(LinkType::Ethernet, &f.data).ok()).collect();
    let outward: Vec<_> = parsed.iter().filter(|p| p.ports.is_some_and(|ports| ports.dst == port)).collect();
    let mut summary = Summary { labels: BTreeMap::new(), headers: BTreeMap::new() };
    say(&format!("\n{what}: the first packets of {}", outward.len()));
    say("  FLAGS    BYTES  DSCP  ECN  HOP  FLOW LABEL  TAG");
    for (index, packet) in outward.iter().enumerate() {
        let label = packet.flow_label.context("an IPv6 packet has a label")?;
        *summary.labels.entry(label).or_default() += 1;
        *summary.headers.entry((packet.dscp, packet.ecn, packet.hop_limit)).or_default() += 1;
        if index < 5 {
            say(&line(packet, label));
        }
    }
    say(&format!("  labels seen on all of them: {}", list(&summary.labels)));
    Ok(summary)
}

fn line(packet: &Packet<'_>, label: FlowLabel) -> String {
    let flags = packet.tcp.map(|t| t.flags.to_string()).unwrap_or_default();
    let (dscp, ecn, hop) = (packet.dscp, packet.ecn, packet.hop_limit);
    let length = packet.payload_len.unwrap_or_default();
    format!("  {flags:<8} {length:>5}  {dscp:>4}  {ecn:>3}  {hop:>3}  {label}     {}", name(label))
}

/// Only a tag that the registry knows: most random labels read as some tag.
fn name(label: FlowLabel) -> String {
    let registry = Registry::embedded();
    let known = label.tag().filter(|t| registry.activity_name(t.experiment, t.activity).is_some());
    known.map_or_else(|| "-".to_owned(), |tag| registry.describe(tag))
}

fn list(labels: &BTreeMap<FlowLabel, usize>) -> String {
    labels.iter().map(|(label, count)| format!("{label} × {count}")).collect::<Vec<_>>().join(", ")
}

fn every_label_is(summary: &Summary, tag: &str) -> Result<()> {
    let wanted = Registry::embedded().resolve(tag)?;
    if summary.labels.len() == 1 && summary.labels.keys().all(|l| l.tag() == Some(wanted)) {
        return Ok(());
    }
    bail!("not every packet carries {wanted}: {}", list(&summary.labels))
}

fn verdict(before: &Summary, after: &Summary) -> Result<()> {
    every_label_is(after, "cms/Analysis Input")?;
    let same = |s: &Summary| s.headers.keys().copied().collect::<Vec<_>>();
    ensure!(
        same(before) == same(after),
        "DSCP, ECN or hop limit changed: {:?} {:?}",
        same(before),
        same(after)
    );
    say("\nFrom the SYN to the last, every packet carries cms/Analysis Input, in one label.");
    say("DSCP, ECN and hop limit are what they were without the mark.");
    Ok(())
}

/// A frame put together by hand, so that every byte of it is known.
fn byte_by_byte(cli: &Cli<'_>, storage: &Host, client: &Host, link: &Link) -> Result<()> {
    let sent = frame(link);
    let (src, dst) = (endpoint(link.a.ipv6.into(), PORT + 1), endpoint(link.b.ipv6.into(), SERVER));
    cli.show(&["flow", "start", "--tag", "atlas/Staging", "udp", &src, &dst])?;
    let capture = client.capture("eth0", &format!("udp src port {}", PORT + 1))?;
    storage.run(|| PacketSocket::open("eth0", ETH_P_NONE).and_then(|socket| socket.send(&sent)))??;
    capture.wait_for(1, Duration::from_secs(20))?;
    let received = capture.stop()?.frames()?.swap_remove(0).data;
    ensure!(sent.len() == received.len(), "{} bytes sent, {} received", sent.len(), received.len());
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    for (at, (before, after)) in sent.chunks(16).zip(received.chunks(16)).enumerate() {
        say(&format!("  sent     {:>3}  {}", 16 * at, hex(before)));
        if before != after {
            say(&format!("  received {:>3}  {}", 16 * at, hex(after)));
            say(&format!("                {}", changed_digits(before, after)));
        }
    }
    let differing = sent.iter().zip(&received).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at);
    let outside: Vec<_> = differing.filter(|at| !(15..18).contains(at)).collect();
    ensure!(outside.is_empty() && sent[15] >> 4 == received[15] >> 4, "bytes {outside:?} changed too");
    let label = Packet::parse(LinkType::Ethernet, &received)?.flow_label.context("a label")?;
    say(&format!("Only the five digits of the flow label differ; {label} says {}.", name(label)));
    cli.show(&["flow", "end", "udp", &src, &dst])
}

/// Ethernet, IPv6 with DSCP 46, ECN 1 and a label of its own, UDP, and a text.
fn frame(link: &Link) -> Vec<u8> {
    let text = b"the payload stays what it was";
    let length = u16::try_from(8 + text.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = [link.b.mac, link.a.mac].concat();
    out.extend([0x86, 0xdd, 0x6b, 0x9a, 0xbc, 0xde]);
    out.extend(length);
    out.extend([17, 61]);
    out.extend(link.a.ipv6.octets());
    out.extend(link.b.ipv6.octets());
    out.extend((PORT + 1).to_be_bytes());
    out.extend(SERVER.to_be_bytes());
    out.extend(length);
    out.extend([0x12, 0x34]);
    out.extend(text);
    out
}

/// `^` under each hexadecimal digit that differs.
fn changed_digits(before: &[u8], after: &[u8]) -> String {
    let mark = |differs: bool| if differs { '^' } else { ' ' };
    let digits = |(a, b): (&u8, &u8)| [mark(a >> 4 != b >> 4), mark(a & 15 != b & 15), ' '];
    before.iter().zip(after).flat_map(digits).collect::<String>().trim_end().to_owned()
}

/// The flow's destination and one collector, both on the client.
struct Listeners {
    sockets: [(&'static str, UdpSocket); 2],
}

impl Listeners {
    fn new(client: &Host, link: &Link) -> Result<Self> {
        let bind = |port: u16| -> Result<UdpSocket> {
            let socket = client.run(|| UdpSocket::bind((link.b.ipv6, port)))??;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(socket)
        };
        Ok(Self { sockets: [("destination", bind(10514)?), ("collector", bind(COLLECTOR)?)] })
    }

    fn show(&self) -> Result<()> {
        for (who, socket) in &self.sockets {
            for _ in 0..2 {
                // Those of the other flows come after and are not looked at.
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer).with_context(|| format!("no firefly at the {who}"))?;
                let firefly = Firefly::from_datagram(&buffer[..length])?;
                let time = |t: Option<jiff::Timestamp>| t.map_or("-".into(), |t| format!("{t:.3}"));
                say(&format!(
                    "{who:<11} {:<5} {}/{}  {} to {}",
                    firefly.state.name(),
                    firefly.experiment,
                    firefly.activity,
                    time(firefly.start_time),
                    time(firefly.end_time)
                ));
            }
        }
        Ok(())
    }
}

/// A transfer over a bad path, watched by three commands at once.
fn slow(cli: &Cli<'_>, bed: &Testbed, storage: &Host, client: &Host) -> Result<()> {
    let bad =
        Impairment { delay: Duration::from_millis(10), loss: Loss::percent(1.0, 7), ..Impairment::default() };
    let link = bed.impaired_link_between((storage, "eth1"), (client, "eth1"), bad)?;
    let port = SLOW.to_string();
    cli.show(&["rule", "add", "--name", "slow", "--remote-port", &port, "--tag", "atlas/Production Output"])?;
    let mut server = client.command("iperf3");
    server.args(["--server", "--port", &port, "--one-off", "--forceflush"]);
    let mut server = client.spawn(server)?;
    server.wait_for_output("Server listening", Duration::from_secs(20))?;
    let watching = [&["why", "--duration", "4"][..], &["retrans", "--by", "type"], &["life"]]
        .map(|args| [args, &["--port", &port]].concat());
    let watching = watching.iter().map(|args| cli.watch(storage, args)).collect::<Result<Vec<_>>>()?;
    let mut transfer = storage.command("iperf3");
    transfer.args(["--client", &link.b.ipv6.to_string(), "--port", &port, "--time", "6"]);
    checked(&mut transfer)?;
    server.wait(Duration::from_secs(20))?;
    for (line, process) in watching {
        let ended = process.stop(nix::sys::signal::Signal::SIGINT)?;
        ensure!(ended.status.success(), "{line} failed: {}", ended.stderr);
        say(&format!("\n{line}\n{}", ended.stdout.trim_end()));
    }
    Ok(())
}

fn stop(daemon: Process, storage: &Host) -> Result<()> {
    let ended = daemon.stop(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(ended.status.success(), "the daemon failed: {}", ended.stderr);
    let left = checked(storage.command("bpftool").args(["net", "show"]))?;
    ensure!(!left.contains("flowtag"), "something is left on an interface: {left}");
    say("the daemon detached and removed its files; the hosts are removed now");
    Ok(())
}
