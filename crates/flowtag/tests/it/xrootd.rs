//! XRootD's monitoring stream, made by the test and by a real server, against real connections.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::cli;
use crate::common::daemon::Daemon;
use crate::common::hosts::{Hosts, listen};
use flowtag_testbed::{Host, Process, require_root, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 1094;
const MONITORING: u16 = 9931;
/// The number of a server, as XRootD makes it.
const SERVER: u64 = 264_074_271_737_514;
const INPUT: &str = "[mark]\ninterfaces = [\"eth*\"]\n[inputs.xrootd]\nenabled = true\n";

fn flows(daemon: &Daemon) -> Vec<Value> {
    let list = cli::ok(daemon, &["--json", "flow", "list"]);
    list.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn count(daemon: &Daemon, what: &str) -> u64 {
    let status = cli::json(daemon, &["status"]);
    status["services"]["inputs.xrootd"]["counts"][what]
        .as_u64()
        .unwrap_or_else(|| panic!("{what} in {status}"))
}

#[track_caller]
fn until(daemon: &Daemon, what: &str, holds: impl Fn() -> bool) {
    let held = wait_until(what, LIMIT, || Ok(holds().then_some(())));
    held.unwrap_or_else(|e| panic!("{e:#}\n{:#}\n{}", cli::json(daemon, &["status"]), daemon.log()));
}

/// A server that only accepts, on host a, and the socket that it would send monitoring from.
struct Server {
    listener: TcpListener,
    socket: UdpSocket,
    host: Host,
}

impl Server {
    fn new(hosts: &Hosts) -> Self {
        let at: SocketAddr = format!("[::]:{PORT}").parse().expect("an address");
        let listener = hosts.a.run(|| listen(at)).expect("host a");
        let socket = hosts.a.run(|| UdpSocket::bind("127.0.0.1:0")).expect("host a").expect("a socket");
        Self { listener, socket, host: hosts.b.clone() }
    }

    fn connect(&self, to: SocketAddr) -> (TcpStream, TcpStream) {
        let client = self.host.run(|| TcpStream::connect(to)).expect("host b").expect("connected");
        (client, self.listener.accept().expect("accepted").0)
    }

    fn send(&self, code: u8, sequence: u8, body: &[u8]) {
        let length = u16::try_from(8 + body.len()).expect("a datagram");
        let bytes = [&[code, sequence], &length.to_be_bytes()[..], &[0x6b, 1, 0xec, 0xf3], body].concat();
        self.socket.send_to(&bytes, ("127.0.0.1", MONITORING)).expect("sent");
    }

    fn map(&self, code: u8, dictid: u32, text: &str) {
        self.send(code, 0, &[&dictid.to_be_bytes(), text.as_bytes()].concat());
    }

    fn ident(&self) {
        let text = format!("=/xrootd.1:{SERVER}@here\n&site=T&port={PORT}&inst=i&pgm=xrootd&ver=v5.5.3");
        self.map(b'=', 0, &text);
    }

    fn login(&self, dictid: u32, host: &str, tag: Option<(u8, u8)>) {
        let user = format!("xroot/anna.{dictid}:{SERVER}@[{host}]");
        self.map(b'u', dictid, &format!("{user}\n&R=v5.5.3&x=xrdcp&y=&I=6"));
        if let Some((experiment, activity)) = tag {
            self.map(b'U', 100 + dictid, &format!("{user}\n&Uc={dictid}&Ec={experiment}&Ac={activity}"));
        }
    }

    /// A file of this user is opened and closed, having been read and written so far, and the user leaves.
    fn leave(&self, dictid: u32, read: u64, written: u64) {
        let time = [&[2, 1, 0, 24, 0, 0, 0, 3], &[0; 8][..], &SERVER.to_be_bytes()].concat();
        let file = (1000 + dictid).to_be_bytes();
        let open = [&[1, 1, 0, 28], &file[..], &[0; 8], &dictid.to_be_bytes(), b"/data/f\0"].concat();
        let close =
            [&[0, 0, 0, 32], &file[..], &read.to_be_bytes(), &[0; 8], &written.to_be_bytes()].concat();
        let gone = [&[4, 0, 0, 8], &dictid.to_be_bytes()[..]].concat();
        self.send(b'f', 0, &[time, open, close, gone].concat());
    }
}

#[test]
fn a_login_tags_the_connection_of_its_host_and_a_disconnect_ends_it() {
    require_root!();
    let hosts = Hosts::new("xrootd");
    let daemon = hosts.daemon(INPUT);
    let server = Server::new(&hosts);
    let collector = hosts.b.run(|| UdpSocket::bind("[::]:10514")).expect("host b").expect("a socket");
    collector.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let (a, b) = (hosts.link.a.ipv6, hosts.link.b.ipv6);
    let connection = server.connect((a, PORT).into());
    server.ident();
    server.login(1, &b.to_string(), Some((3, 14)));
    until(&daemon, "the flow", || flows(&daemon).len() == 1);
    let flow = &flows(&daemon)[0];
    let client = connection.0.local_addr().expect("its address").to_string();
    assert_eq!(
        (flow["src"].as_str(), flow["dst"].as_str()),
        (Some(&*format!("[{a}]:{PORT}")), Some(&*client))
    );
    assert_eq!((&flow["experiment"], &flow["activity"]), (&3.into(), &14.into()), "{flow}");
    assert_eq!((&flow["application"], &flow["source"]), (&"xrdcp".into(), &"xrootd".into()));
    server.leave(1, 5_000_000, 70);
    until(&daemon, "its end", || flows(&daemon).is_empty());
    assert_eq!((count(&daemon, "flows"), count(&daemon, "ended"), count(&daemon, "malformed")), (1, 1, 0));
    let firefly = |state: &str| {
        let mut buffer = [0; 2048];
        let length = collector.recv(&mut buffer).expect("a firefly");
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let json: Value = serde_json::from_str(&text[text.find('{').expect("JSON")..]).expect("JSON");
        assert_eq!(json["flow-lifecycle"]["state"], state);
        json
    };
    firefly("start");
    let end = firefly("end");
    assert_eq!((&end["usage"]["sent"], &end["usage"]["received"]), (&5_000_000.into(), &70.into()), "{end}");
    drop(connection);
}

#[test]
fn users_of_one_host_are_told_apart_or_nothing_is_said() {
    require_root!();
    let hosts = Hosts::new("xrootd-users");
    let daemon = hosts.daemon(INPUT);
    let server = Server::new(&hosts);
    let at = (hosts.link.a.ipv4, PORT).into();
    let client = format!("::ffff:{}", hosts.link.b.ipv4);
    server.ident();
    let mut open = Vec::new();
    for (dictid, experiment) in [(1, 2), (2, 3)] {
        open.push(server.connect(at));
        server.login(dictid, &client, Some((experiment, 1)));
        until(&daemon, "one more flow", || flows(&daemon).len() == open.len());
    }
    let port = |flow: &Value| flow["dst"].as_str().and_then(|d| d.rsplit(':').next()).map(str::to_owned);
    let expected: Vec<_> =
        open.iter().map(|(client, _)| Some(client.local_addr().expect("it").port().to_string())).collect();
    assert_eq!(flows(&daemon).iter().map(port).collect::<Vec<_>>(), expected, "each its own");
    open.extend([server.connect(at), server.connect(at)]);
    server.login(3, &client, Some((2, 1)));
    server.login(4, &client, Some((3, 1)));
    until(&daemon, "both are counted", || count(&daemon, "ambiguous") == 2);
    assert_eq!(flows(&daemon).len(), 2);
    assert!(daemon.log().contains("xrootd.pmark"), "{}", daemon.log());
    drop(open);
    until(&daemon, "the kernel's word", || flows(&daemon).is_empty());
}

#[test]
fn garbage_and_foreign_datagrams_are_counted_and_the_daemon_goes_on() {
    require_root!();
    let hosts = Hosts::new("xrootd-bad");
    let daemon = hosts.daemon(&INPUT.replace("enabled", "listen = \"[::]:9931\"\nenabled"));
    let server = Server::new(&hosts);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..2000 {
        let code = [b'f', b'u', b'U', b'=', b'd', b'x'][random() as usize % 6];
        let body: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
        server.send(code, 0, &body);
    }
    let foreign = hosts.b.run(|| UdpSocket::bind("[::]:0")).expect("host b").expect("a socket");
    foreign.send_to(b"u", (hosts.link.a.ipv6, MONITORING)).expect("sent");
    until(&daemon, "both kinds", || count(&daemon, "malformed") > 0 && count(&daemon, "foreign") == 1);
    let connection = server.connect((hosts.link.a.ipv6, PORT).into());
    server.login(1, &hosts.link.b.ipv6.to_string(), Some((3, 14)));
    server.ident();
    until(&daemon, "the flow", || flows(&daemon).len() == 1);
    drop(connection);
    assert!(daemon.stop().took < Duration::from_secs(30));
}

/// The real server on host a, as user nobody, with a file of 30 MB; none where it is not installed.
struct Xrootd {
    process: Process,
    _dir: TempDir,
}

impl Xrootd {
    fn start(hosts: &Hosts, directives: &str) -> Option<Self> {
        let has = |program: &str| Command::new(program).arg("-h").output().is_ok();
        if !has("xrootd") || !has("xrdcp") {
            flowtag_testbed::skip!("xrootd-server and xrootd-client are not installed", None);
        }
        let dir = TempDir::new().expect("a directory");
        let here = dir.path().to_str().expect("a readable path");
        let config = format!(
            "all.role server\nall.export /data\noss.localroot {here}\nall.adminpath {here}/admin\n\
             all.pidpath {here}/admin\nxrd.port {PORT}\nxrd.network nodnr\n{directives}\n"
        );
        fs::create_dir_all(dir.path().join("data")).expect("a directory");
        fs::write(dir.path().join("data/file"), vec![7; 30_000_000]).expect("a file");
        fs::write(dir.path().join("registry.json"), include_str!("../../../../data/scitags-registry.json"))
            .expect("a file");
        fs::write(dir.path().join("xrootd.cfg"), config.replace("{dir}", here)).expect("a file");
        let nobody = nix::unistd::User::from_name("nobody").expect("users").expect("nobody");
        for path in [dir.path().to_owned(), dir.path().join("data")] {
            chown(&path, Some(nobody.uid.as_raw()), Some(nobody.gid.as_raw())).expect("given away");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("readable");
        }
        let mut command = hosts.a.command("xrootd");
        command.args(["-c", "xrootd.cfg", "-R", "nobody", "-n", "test"]).current_dir(dir.path());
        let mut process = Process::spawn(command).expect("it starts");
        process.wait_for_output("initialization completed", LIMIT).expect("it comes up");
        let listens = || hosts.b.run(|| TcpStream::connect((hosts.link.a.ipv6, PORT)));
        wait_until("it listens", LIMIT, || Ok(listens()?.ok())).expect("it listens");
        Some(Self { process, _dir: dir })
    }

    /// A client on host b that reads the file, and stops in the middle until it is told to go on.
    fn read(hosts: &Hosts) -> std::process::Child {
        let url = format!("root://[{}]:{PORT}//data/file?scitag.flow=206", hosts.link.a.ipv6);
        let mut command = hosts.b.command("xrdcp");
        command.args(["-s", "-f", &url, "-"]).stdout(Stdio::piped()).stdin(Stdio::null());
        command.spawn().expect("xrdcp")
    }
}

fn finish(mut client: std::process::Child) {
    let mut data = Vec::new();
    client.stdout.take().expect("its output").read_to_end(&mut data).expect("read");
    assert!(client.wait().expect("it ends").success() && data.len() == 30_000_000, "{} bytes", data.len());
}

#[test]
fn a_real_xrootd_server_says_whose_its_connections_are() {
    require_root!();
    let hosts = Hosts::new("xrootd-real");
    let daemon = hosts.daemon(INPUT);
    let directives = "xrootd.monitor all auth fstat 1s lfn ops xfr 1 ident 1s dest fstat info user 127.0.0.1:9931\n\
                      xrootd.pmark defsfile {dir}/registry.json\nxrootd.pmark use nofirefly scitag\n\
                      xrootd.pmark domain any\nxrootd.pmark ffdest 127.0.0.1:9\nxrootd.pmark map2exp default default";
    let Some(server) = Xrootd::start(&hosts, directives) else { return };
    let client = Xrootd::read(&hosts);
    until(&daemon, "the flow", || flows(&daemon).len() == 1);
    let flow = &flows(&daemon)[0];
    let (a, b) = (hosts.link.a.ipv6, hosts.link.b.ipv6);
    assert_eq!(flow["src"], format!("[{a}]:{PORT}"));
    assert!(flow["dst"].as_str().is_some_and(|dst| dst.starts_with(&format!("[{b}]:"))), "{flow}");
    assert_eq!((&flow["experiment"], &flow["activity"]), (&3.into(), &14.into()), "{flow}");
    assert_eq!((&flow["application"], &flow["source"]), (&"xrdcp".into(), &"xrootd".into()));
    finish(client);
    until(&daemon, "its end", || flows(&daemon).is_empty());
    until(&daemon, "the user is gone", || count(&daemon, "ended") == 1);
    assert_eq!(
        (count(&daemon, "malformed"), count(&daemon, "ambiguous"), count(&daemon, "unmatched")),
        (0, 0, 0)
    );
    server.process.stop(Signal::SIGTERM).expect("it stops");
}

#[test]
fn a_real_xrootd_server_that_sends_fireflies_is_heard_by_the_firefly_input() {
    require_root!();
    let hosts = Hosts::new("xrootd-pmark");
    let daemon = hosts.daemon("[mark]\ninterfaces = [\"eth*\"]\n[inputs.firefly]\nenabled = true\n");
    let directives = "xrootd.pmark defsfile {dir}/registry.json\nxrootd.pmark use firefly scitag\n\
                      xrootd.pmark domain any\nxrootd.pmark ffdest 127.0.0.1:10514\nxrootd.pmark map2exp default default";
    let Some(server) = Xrootd::start(&hosts, directives) else { return };
    let client = Xrootd::read(&hosts);
    until(&daemon, "the flow", || flows(&daemon).len() == 1);
    let flow = &flows(&daemon)[0];
    assert_eq!(flow["src"], format!("[{}]:{PORT}", hosts.link.a.ipv6));
    assert_eq!((&flow["experiment"], &flow["activity"]), (&3.into(), &14.into()), "{flow}");
    assert_eq!((&flow["application"], &flow["source"]), (&"xrdcp".into(), &"firefly".into()));
    finish(client);
    until(&daemon, "its end", || flows(&daemon).is_empty());
    server.process.stop(Signal::SIGTERM).expect("it stops");
}
