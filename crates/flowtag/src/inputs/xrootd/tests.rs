//! Datagrams and connections in, announcements out, without a socket and at made-up times.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use flowtag_engine::{FlowId, Registry, Usage};
use flowtag_kernel::sockets::Socket;
use flowtag_wire::{Endpoint, Protocol, Tag};

use super::matching::{Found, Matched, SETTLED};
use super::servers::{News, ServerKey, Servers};

const SERVER: u64 = 264_074_271_737_514;
const PORT: u16 = 1094;
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn datagram(code: u8, sequence: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + body.len()).expect("a datagram");
    [&[code, sequence], &length.to_be_bytes()[..], &[0x6b, 1, 0xec, 0xf3], body].concat()
}

fn map(code: u8, dictid: u32, text: &str) -> Vec<u8> {
    datagram(code, 0, &[&dictid.to_be_bytes(), text.as_bytes()].concat())
}

fn record(kind: u8, flags: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + rest.len()).expect("a record");
    [&[kind, flags], &length.to_be_bytes()[..], &id.to_be_bytes(), rest].concat()
}

/// What a test says and sees.
struct Site {
    servers: Servers,
    now: Instant,
    open: Vec<Socket>,
    sequence: u8,
}

impl Site {
    fn new() -> Self {
        let mut site =
            Self { servers: Servers::default(), now: Instant::now(), open: Vec::new(), sequence: 0 };
        site.hear(&map(
            b'=',
            0,
            &format!("=/xrootd.1:{SERVER}@here\n&site=X&port={PORT}&inst=i&pgm=xrootd&ver=v5"),
        ));
        site
    }

    fn hear(&mut self, bytes: &[u8]) -> News {
        self.servers.hear(bytes, HERE, Registry::embedded(), self.now)
    }

    fn login(&mut self, dictid: u32, host: &str, info: &str) {
        let news = self.hear(&map(b'u', dictid, &format!("xroot/u.{dictid}:{SERVER}@{host}\n{info}")));
        assert_eq!((news.logins, news.malformed), (1, None));
    }

    fn codes(&mut self, dictid: u32, host: &str, experiment: u32, activity: u32) {
        let text = format!("xroot/u.{dictid}:{SERVER}@{host}\n&Uc={dictid}&Ec={experiment}&Ac={activity}");
        assert_eq!(self.hear(&map(b'U', 1000 + dictid, &text)), News::default());
    }

    fn files(&mut self, records: &[Vec<u8>]) -> News {
        let time = record(2, 1, 0, &[&[0; 8], &SERVER.to_be_bytes()[..]].concat());
        self.sequence = self.sequence.wrapping_add(1);
        self.hear(&datagram(b'f', self.sequence, &[vec![time], records.to_vec()].concat().concat()))
    }

    fn connect(&mut self, host: &str, port: u16) {
        let remote = Endpoint::new(host.parse().expect("an address"), port);
        let local = Endpoint::new("2001:db8::1".parse().expect("an address"), PORT);
        let inode = 7000 + u32::from(port);
        let socket =
            Socket { protocol: Protocol::Tcp, local, remote, state: 1, user: Some(0), inode, cgroup: None };
        self.open.push(socket);
    }

    fn close(&mut self, port: u16) {
        self.open.retain(|socket| socket.remote.port() != port);
    }

    fn look(&mut self, host: &str) -> Matched {
        let addresses = [host.trim_matches(['[', ']']).parse().expect("an address")];
        let server = self.servers.servers.get_mut(&ServerKey { from: HERE, id: SERVER }).expect("the server");
        server.match_client(host, &addresses, &self.open, self.now)
    }

    fn wait(&mut self) {
        self.now += SETTLED;
    }
}

/// Ports and tags of what was found, and whether it is somebody's own.
fn seen(found: &[Found]) -> Vec<(u16, Tag, bool)> {
    found.iter().map(|f| (f.connection.remote.port(), f.tag, f.user.is_some())).collect()
}

fn tag(experiment: u64, activity: u64) -> Tag {
    Tag::new(experiment, activity).expect("a tag")
}

const HOST: &str = "[2001:db8::2]";
const CLIENT: &str = "2001:db8::2";

#[test]
fn a_login_and_the_one_connection_of_its_host_belong_together() {
    let mut site = Site::new();
    site.connect(CLIENT, 40000);
    site.connect("2001:db8::3", 40000);
    site.login(1, HOST, "&R=v5&x=xrdcp&y=&I=6");
    assert_eq!(site.look(HOST), Matched::default(), "nobody knows for whom yet");
    site.codes(1, HOST, 3, 14);
    let matched = site.look(HOST);
    assert_eq!(seen(&matched.found), [(40000, tag(3, 14), true)]);
    assert_eq!(matched.found[0].application.as_deref(), Some("xrdcp"));
    assert_eq!(site.look(HOST), Matched::default(), "told once");
}

#[test]
fn logins_one_after_the_other_are_told_apart() {
    let mut site = Site::new();
    for (dictid, experiment) in [(1, 2), (2, 3), (3, 4)] {
        let port = 40000 + u16::try_from(dictid).expect("a port");
        site.connect(CLIENT, port);
        site.login(dictid, HOST, "");
        site.look(HOST);
        site.codes(dictid, HOST, experiment, 1);
        assert_eq!(seen(&site.look(HOST).found), [(port, tag(experiment.into(), 1), true)]);
    }
}

#[test]
fn logins_at_once_need_not_be_told_apart_where_they_are_for_the_same() {
    let mut site = Site::new();
    for port in [40001, 40002, 40003] {
        site.connect(CLIENT, port);
    }
    [1, 2, 3].into_iter().for_each(|dictid| site.login(dictid, HOST, ""));
    site.codes(1, HOST, 3, 14);
    site.codes(2, HOST, 3, 14);
    assert_eq!(site.look(HOST), Matched::default(), "the third may be another");
    site.codes(3, HOST, 3, 14);
    let shared: Vec<_> = [40001, 40002, 40003].into_iter().map(|port| (port, tag(3, 14), false)).collect();
    assert_eq!(seen(&site.look(HOST).found), shared);
    site.connect(CLIENT, 40004);
    site.login(4, HOST, "");
    site.codes(4, HOST, 2, 1);
    assert_eq!(
        seen(&site.look(HOST).found),
        [(40004, tag(2, 1), true)],
        "a later one is told apart from them"
    );
}

#[test]
fn what_cannot_be_told_apart_is_counted_and_not_announced() {
    let mut site = Site::new();
    site.connect(CLIENT, 40001);
    site.connect(CLIENT, 40002);
    site.login(1, HOST, "");
    site.login(2, HOST, "");
    site.codes(1, HOST, 3, 14);
    site.codes(2, HOST, 2, 1);
    assert_eq!(site.look(HOST), Matched::default(), "a login may be under way");
    site.wait();
    assert_eq!(site.look(HOST), Matched { ambiguous: 2, ..Matched::default() });
    assert_eq!(site.look(HOST), Matched::default(), "each once");
    site.close(40001);
    site.files(&[record(4, 0, 1, &[])]);
    assert_eq!(seen(&site.look(HOST).found), [(40002, tag(2, 1), true)], "now it is certain");
}

#[test]
fn parallel_streams_get_the_tag_of_their_host_once_logins_are_over() {
    let mut site = Site::new();
    site.connect(CLIENT, 40000);
    site.login(1, HOST, "");
    site.codes(1, HOST, 3, 14);
    site.look(HOST);
    site.connect(CLIENT, 40001);
    assert_eq!(site.look(HOST), Matched::default(), "somebody may be about to log in");
    site.wait();
    assert_eq!(seen(&site.look(HOST).found), [(40001, tag(3, 14), false)]);
}

#[test]
fn a_connection_that_came_after_a_login_is_not_its_own() {
    let mut site = Site::new();
    site.login(1, HOST, "");
    assert_eq!(site.look(HOST), Matched::default(), "it is over already");
    site.connect(CLIENT, 40000);
    site.codes(1, HOST, 3, 14);
    assert_eq!(site.look(HOST), Matched { unmatched: 1, ..Matched::default() });
    site.login(2, HOST, "");
    site.codes(2, HOST, 2, 1);
    assert_eq!(seen(&site.look(HOST).found), [(40000, tag(2, 1), true)]);
}

#[test]
fn without_codes_the_organisation_of_an_authenticated_user_says_whose_it_is() {
    for (info, expected) in [
        ("&p=gsi&n=x&h=h&o=cms&r=&g=&m=&R=v5&x=xrdcp&y=&I=6", Some(tag(3, 1))),
        ("&p=gsi&o=cms cms", Some(tag(3, 1))),
        ("&p=gsi&o=cms atlas", None),
        ("&p=gsi&o=3", None),
        ("&p=unix&o=cms", None),
        ("&p=gsi&o=nobody-knows", None),
        ("", None),
    ] {
        let mut site = Site::new();
        site.connect(CLIENT, 40000);
        site.login(1, HOST, info);
        let expected: Vec<_> = expected.into_iter().map(|tag| (40000, tag, true)).collect();
        assert_eq!(seen(&site.look(HOST).found), expected, "{info}");
        site.codes(1, HOST, 2, 5);
        assert_eq!(
            seen(&site.look(HOST).found),
            [(40000, tag(2, 5), true)],
            "the server's own word goes before"
        );
    }
}

#[test]
fn a_disconnect_ends_the_flow_with_what_files_moved() {
    let mut site = Site::new();
    site.connect(CLIENT, 40000);
    site.login(1, HOST, "");
    site.codes(1, HOST, 3, 14);
    let found = site.look(HOST).found;
    let key = ServerKey { from: HERE, id: SERVER };
    site.servers.announced(key, &found[0], Some(FlowId::new(9)), true);
    let moved = |read: u64, readv: u64, written: u64| [read, readv, written].map(u64::to_be_bytes).concat();
    let open = |file: u32| record(1, 1, file, &[&[0; 8], &1_u32.to_be_bytes()[..], b"/a\0\0"].concat());
    let news = site.files(&[
        open(2),
        open(3),
        record(3, 0, 2, &moved(50, 0, 0)),
        record(0, 0, 2, &moved(100, 20, 0)),
    ]);
    assert_eq!(news, News::default());
    let news = site.files(&[record(3, 0, 3, &moved(1, 0, 7)), record(4, 0, 1, &[])]);
    let usage = Usage { sent: 121, received: 7 };
    assert_eq!(news.ended, [(FlowId::new(9), Some(usage))]);
    assert_eq!(site.files(&[record(4, 0, 1, &[])]), News::default(), "once");
}

#[test]
fn lost_datagrams_are_counted_and_a_restart_forgets_the_users() {
    let mut site = Site::new();
    site.connect(CLIENT, 40000);
    site.files(&[]);
    site.sequence = site.sequence.wrapping_add(3);
    assert_eq!(site.files(&[]).lost, 3);
    site.login(1, HOST, "");
    let mut restarted = map(b'u', 1, &format!("xroot/v.1:{SERVER}@{HOST}\n"));
    restarted[7] += 1;
    site.hear(&restarted);
    site.codes(1, HOST, 3, 14);
    let server = site.servers.servers.values().next().expect("the server");
    assert_eq!((server.users.len(), server.port), (1, None), "what the earlier run says does not count");
    assert!(server.users.values().all(|user| user.tag.is_none()));
}

#[test]
fn users_whose_disconnect_was_lost_are_forgotten() {
    let mut site = Site::new();
    site.connect(CLIENT, 40000);
    site.login(1, HOST, "");
    site.login(2, "[2001:db8::3]", "");
    site.look(HOST);
    let later = site.now + super::servers::GONE + Duration::from_secs(1);
    site.servers.purge(later);
    let users = |site: &Site| site.servers.servers.values().map(|s| s.users.len()).sum::<usize>();
    assert_eq!(users(&site), 1, "one has an open connection");
    site.close(40000);
    site.look(HOST);
    site.servers.purge(later);
    assert_eq!(users(&site), 0);
}
