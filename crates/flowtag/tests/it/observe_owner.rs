//! Whose a connection is: of servers and clients that are processes of their own, and that wait, poll, fork, hand sockets
//! over or use them in threads. Most ends of connections are seen in interrupts, in which any process may be running.

use std::env;
use std::fs;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::common::hosts::Hosts;
use crate::common::observe::Observing;
use flowtag_kernel::cgroup;
use flowtag_testbed::{Host, Process, WAIT, require_root, wait_until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::Value;

const PORT: u16 = 5000;

/// This test binary once more, as another process.
fn part(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this program"));
    dress(&mut command, name);
    command
}

fn part_on(host: &Host, name: &str, at: SocketAddr) -> Process {
    let mut command = host.command(env::current_exe().expect("this program"));
    dress(&mut command, name);
    command.env("FLOWTAG_AT", at.to_string());
    Process::spawn(command).expect("another process")
}

fn dress(command: &mut Command, name: &str) {
    command
        .args(["--exact", "observe_owner::plays_a_part", "--ignored", "--nocapture", "--test-threads=1"])
        .env("FLOWTAG_PART", name);
}

/// What the other processes do.
#[test]
#[ignore = "run by the tests below, as other processes"]
fn plays_a_part() {
    let part = env::var("FLOWTAG_PART").expect("a part to play");
    if let Ok(procs) = env::var("FLOWTAG_CGROUP") {
        fs::write(procs, "0").expect("into the cgroup");
    }
    // The name of the process; this is a thread of it.
    fs::write("/proc/self/comm", &part).expect("a name");
    match part.as_str() {
        "client" => connected(false),
        "client-poll" => connected(true),
        "child" => answer(&mut inherited()),
        "child-write" => inherited().write_all(b"!").expect("sent"),
        "heir-waits" => take_over(),
        server => serve(server),
    }
}

fn at() -> SocketAddr {
    env::var("FLOWTAG_AT").expect("an address").parse().expect("an address")
}

fn serve(server: &str) {
    let listener = TcpListener::bind(at()).expect("bind");
    listener.set_nonblocking(server == "server-poll").expect("a socket");
    println!("ready");
    if server == "server-poll" {
        wait_readable(&listener);
    }
    let (mut stream, _) = listener.accept().expect("accept");
    println!("accepted");
    match server {
        "server-poll" => {
            stream.set_nonblocking(true).expect("a socket");
            wait_readable(&stream);
            answer(&mut stream);
        }
        "server-forks" => pass_on(stream, "child"),
        "server-writes" => pass_on(stream, "child-write"),
        "server-hands" => hand_over(stream),
        "server-thread" => in_a_thread(stream),
        "server-holds" => drop(stream.read(&mut [0])),
        _ => answer(&mut stream),
    }
}

fn wait_readable(socket: &impl AsFd) {
    let ready = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
    assert_eq!(ready, Ok(1));
}

fn answer(stream: &mut TcpStream) {
    stream.read_exact(&mut [0]).expect("a question");
    stream.write_all(b"!").expect("an answer");
}

/// What the parent gave as standard input.
fn standard_input() -> OwnedFd {
    std::io::stdin().as_fd().try_clone_to_owned().expect("a socket")
}

fn inherited() -> TcpStream {
    TcpStream::from(standard_input())
}

fn ended(mut child: Child) {
    assert!(child.wait().expect("a child").success());
}

/// As inetd does.
fn pass_on(stream: TcpStream, to: &str) {
    let child = part(to).stdin(OwnedFd::from(stream)).spawn().expect("a child");
    println!("child {}.", child.id());
    ended(child);
}

/// To a process that has been there before the connection was.
fn hand_over(stream: TcpStream) {
    let (here, there) = UnixStream::pair().expect("a pair");
    let heir = part("heir-waits").stdin(OwnedFd::from(there)).spawn().expect("a child");
    println!("child {}.", heir.id());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    let given = [stream.as_fd()];
    assert!(rights.push(SendAncillaryMessage::ScmRights(&given)));
    sendmsg(here, &[IoSlice::new(b"x")], &mut rights, SendFlags::empty()).expect("handed over");
    drop(stream);
    ended(heir);
}

fn take_over() {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::empty();
    recvmsg(standard_input(), &mut [IoSliceMut::new(&mut byte)], &mut rights, flags).expect("a message");
    let socket = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    answer(&mut TcpStream::from(socket.expect("a socket")));
}

fn in_a_thread(mut stream: TcpStream) {
    let thread = std::thread::Builder::new().name("some-thread".to_owned());
    thread.spawn(move || answer(&mut stream)).expect("a thread").join().expect("it served");
}

fn connected(is_polling: bool) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
    let flags = if is_polling { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    let socket = socket(AddressFamily::Inet6, SockType::Stream, flags, None).expect("a socket");
    let result = connect(socket.as_raw_fd(), &SockaddrStorage::from(at()));
    assert!(is_polling || result == Ok(()), "{result:?}");
    if is_polling {
        let ready = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
        assert_eq!(ready, Ok(1));
    }
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"?").expect("sent");
    if is_polling {
        wait_readable(&stream);
    }
    stream.read_exact(&mut [0]).expect("an answer");
    println!("answered");
    // Until the other end closes.
    stream.set_nonblocking(false).expect("a socket");
    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
}

/// Process ids of the children that it told of.
fn child(server: &Process) -> Option<u32> {
    let output = server.stdout();
    let (_, rest) = output.split_once("child ")?;
    rest.split_once('.')?.0.parse().ok()
}

/// The one record of a command that watched until it had been told.
#[track_caller]
fn only(mut watching: Observing) -> Value {
    watching.wait_for("\"end\"");
    at_end(watching)
}

/// The one record of a command.
#[track_caller]
fn at_end(watching: Observing) -> Value {
    let (mut records, summary) = watching.stop_json();
    assert_eq!((records.len(), &summary["lost"]), (1, &0.into()), "{records:#?}");
    records.remove(0)
}

#[track_caller]
fn assert_owner(record: &Value, pid: u32, name: &str) {
    let owner = (&record["pid"], &record["process"]);
    assert_eq!(owner, (&pid.into(), &name.into()), "{record:#?}");
}

/// Asks once, and closes.
fn ask(hosts: &Hosts, writes: bool) {
    let at = hosts.dst(PORT);
    let mut stream = hosts.a.run(|| TcpStream::connect(at)).expect("host a").expect("a connection");
    stream.set_read_timeout(Some(WAIT)).expect("a time-out");
    if writes {
        stream.write_all(b"?").expect("sent");
    }
    stream.read_exact(&mut [0]).expect("an answer");
}

#[test]
fn a_connection_is_of_the_process_that_serves_it() {
    require_root!();
    for (server, by) in [
        ("server", "server"),
        ("server-poll", "server-poll"),
        ("server-forks", "child"),
        ("server-hands", "heir-waits"),
        ("server-writes", "child-write"),
        // Not the name of the thread.
        ("server-thread", "server-thread"),
    ] {
        let hosts = Hosts::new("owner");
        let watching = Observing::start(&hosts.b, &["--json", "life"]);
        let mut process = part_on(&hosts.b, server, hosts.dst(PORT));
        process.wait_for_output("ready", WAIT).expect("it listens");
        ask(&hosts, server != "server-writes");
        let pid = if by == server {
            process.pid()
        } else {
            wait_until("its child", WAIT, || Ok(child(&process))).expect("a child")
        };
        let ended = process.wait(WAIT).expect("it ends");
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        assert_owner(&only(watching), pid, by);
    }
}

#[test]
fn a_connection_is_of_the_process_that_opened_it() {
    require_root!();
    for client in ["client", "client-poll"] {
        let hosts = Hosts::new("owner-client");
        let listener = hosts.b.run(|| TcpListener::bind(hosts.dst(PORT))).expect("host b").expect("bind");
        let watching = Observing::start(&hosts.a, &["--json", "life"]);
        let process = part_on(&hosts.a, client, hosts.dst(PORT));
        let pid = process.pid();
        let (mut stream, _) = listener.accept().expect("accept");
        answer(&mut stream);
        drop(stream);
        let ended = process.wait(WAIT).expect("it ends");
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        assert_owner(&only(watching), pid, client);
    }
}

#[test]
fn who_holds_a_socket_that_was_open_before_is_found() {
    require_root!();
    let hosts = Hosts::new("owner-before");
    let mut server = part_on(&hosts.b, "server-holds", hosts.dst(PORT));
    server.wait_for_output("ready", WAIT).expect("it listens");
    let at = hosts.dst(PORT);
    let client = hosts.a.run(|| TcpStream::connect(at)).expect("host a").expect("a connection");
    server.wait_for_output("accepted", WAIT).expect("accepted");
    // Told at once, and at the end, though neither end has used it since.
    let open = Observing::start(&hosts.b, &["--json", "life", "--open"]);
    let watching = Observing::start(&hosts.b, &["--json", "life"]);
    let told = at_end(open);
    assert_owner(&told, server.pid(), "server-holds");
    assert_eq!((&told["end"], &told["start"]), (&"open".into(), &Value::Null), "{told:#?}");
    let pid = server.pid();
    drop(client);
    let ended = server.wait(WAIT).expect("it ends");
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    assert_owner(&only(watching), pid, "server-holds");
}

/// A cgroup of version 2, which is removed with it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let root = cgroup::root().expect("the root of all cgroups");
        let path = root.join(format!("flowtag-owner-{}.scope", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    fn name(&self) -> String {
        self.0.file_name().expect("a name").to_string_lossy().into_owned()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Busy until the last process in it is gone.
        let removed = wait_until("the cgroup to be empty", WAIT, || Ok(fs::remove_dir(&self.0).ok()));
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn the_cgroup_and_the_unit_are_those_of_the_owner() {
    require_root!();
    let hosts = Hosts::new("owner-cgroup");
    let cgroup = Cgroup::new();
    let mut command = hosts.b.command(env::current_exe().expect("this program"));
    dress(&mut command, "server");
    command
        .env("FLOWTAG_AT", hosts.dst(PORT).to_string())
        .env("FLOWTAG_CGROUP", cgroup.0.join("cgroup.procs"));
    let mut process = Process::spawn(command).expect("another process");
    process.wait_for_output("ready", WAIT).expect("it listens");
    let all = Observing::start(&hosts.b, &["--json", "life"]);
    let chosen = Observing::start(&hosts.b, &["--json", "life", "--cgroup", &cgroup.name()]);
    let others = Observing::start(&hosts.b, &["--json", "life", "--cgroup", "flowtag-no-such.scope"]);
    ask(&hosts, true);
    assert!(process.wait(WAIT).expect("it ends").status.success());
    let told = only(all);
    assert_eq!(told["cgroup"], format!("/{}", cgroup.name()), "{told:#?}");
    assert_eq!((&told["unit"], &told["process"]), (&cgroup.name().into(), &"server".into()), "{told:#?}");
    assert_eq!(only(chosen)["cgroup"], told["cgroup"]);
    assert_eq!(others.stop_json().0, Vec::<Value>::new());
}
