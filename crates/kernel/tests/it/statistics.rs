//! Statistics of TCP connections: the iterator, sock_diag and the last values at close say the same of real sockets.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use flowtag_kernel::mark::{Event, Key, Mark, Marker, Settings};
use flowtag_kernel::tcp_info::{Algorithm, Inquiry, Sample, TcpInfo};
use flowtag_testbed::{Testbed, WAIT, require_root, skip, wait_until};
use flowtag_wire::{Entropy, FlowLabel, Protocol, Strategy, Tag};
use nix::sys::socket::{setsockopt, sockopt::TcpCongestion};

const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;

fn connect(at: IpAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((at, 0)).expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    (client, server)
}

fn key(stream: &TcpStream) -> Key {
    let (local, remote) = (stream.local_addr().expect("an end"), stream.peer_addr().expect("an end"));
    Key { protocol: Protocol::Tcp, local: local.into(), remote: remote.into() }
}

fn mark() -> Mark {
    let tag = Tag::new(3, 14).expect("in range");
    Mark { label: FlowLabel::from_tag(tag, Entropy::NONE), strategy: Strategy::LABEL }
}

fn send(mut from: &TcpStream, mut to: &TcpStream, length: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || to.read_exact(&mut vec![0; length]).expect("all of it"));
        from.write_all(&vec![1; length]).expect("sent");
    });
    let acknowledged = || Ok((one(from).info.unacked == 0).then_some(()));
    wait_until("the last acknowledgement", WAIT, acknowledged).expect("acknowledged");
}

fn one(stream: &TcpStream) -> Sample {
    let mut inquiry = Inquiry::open().expect("sock_diag");
    inquiry.one(&key(stream)).expect("an answer").expect("the socket")
}

/// Without what passes while one is asked after the other, and what the iterator does not tell.
fn at_rest(sample: Sample) -> Sample {
    let info = TcpInfo { last_data_sent: 0, last_data_recv: 0, last_ack_recv: 0, ..sample.info };
    Sample { info, algorithm: None, tclass: None, ..sample }
}

fn near(a: u32, b: u32) -> bool {
    a.abs_diff(b) <= 1000
}

#[test]
fn the_iterator_says_what_sock_diag_says() {
    require_root!();
    let bed = Testbed::new("iterator").expect("a testbed");
    let host = bed.host("a").expect("a host");
    host.run(|| {
        let mut marker = Marker::load(&Settings::default()).expect("loads");
        let Some(sweep) = marker.statistics().expect("attaches") else {
            skip!("no iterator over sockets in this kernel");
        };
        for at in ["::1", "127.0.0.1", "::ffff:127.0.0.1"] {
            let (client, server) = connect(at.parse().expect("an address"));
            let _ = setsockopt(&client, TcpCongestion, &"reno".into());
            send(&client, &server, 3_000_000);
            send(&server, &client, 7);
            let mut swept = Vec::new();
            let seen = sweep.all(&mut |key, sample| swept.push((key, sample))).expect("a pass");
            assert!(swept.is_empty() && seen >= 2, "no flow, no values: {seen} {swept:?}");
            marker.set(&key(&client), mark(), 0).expect("room");
            sweep.all(&mut |key, sample| swept.push((key, sample))).expect("a pass");
            let [(found, sample)] = <[_; 1]>::try_from(swept).expect("only the marked one");
            assert_eq!(found, key(&client));
            let diag = one(&client);
            for (a, b) in [
                (sample.info.last_data_sent, diag.info.last_data_sent),
                (sample.info.last_data_recv, diag.info.last_data_recv),
                (sample.info.last_ack_recv, diag.info.last_ack_recv),
            ] {
                assert!(near(a, b), "{at}: {sample:?} {diag:?}");
            }
            let mut told = at_rest(sample.clone());
            if diag.info.rcv_wnd == 0 {
                told.info.rcv_wnd = 0; // sock_diag tells it since Linux 6.2
            }
            assert_eq!(told, at_rest(diag), "{at}");
            assert_eq!((sample.sent, sample.received), (3_000_000, 7));
            assert_eq!((sample.info.state, sample.congestion.as_deref()), (ESTABLISHED, Some("reno")));
            assert!(sample.info.snd_wscale().is_some() && sample.info.busy_time < 60_000_000);
            assert!(sample.info.rto >= 1000 && sample.info.rto < 60_000_000, "in µs: {}", sample.info.rto);
            marker.remove(&key(&client)).expect("removed");
        }
    })
    .expect("the host");
}

/// Nothing that a flow of the table does may keep it alive but its packets.
#[test]
fn a_pass_is_no_sign_of_life() {
    require_root!();
    let bed = Testbed::new("alive").expect("a testbed");
    let host = bed.host("a").expect("a host");
    host.run(|| {
        let mut marker = Marker::load(&Settings::default()).expect("loads");
        let Some(sweep) = marker.statistics().expect("attaches") else {
            skip!("no iterator over sockets in this kernel");
        };
        let (client, _server) = connect("::1".parse().expect("an address"));
        marker.set(&key(&client), mark(), 0).expect("room");
        let mut found = 0;
        sweep.all(&mut |_, _| found += 1).expect("a pass");
        assert_eq!((found, marker.last_seen(&key(&client)).expect("told")), (1, None));
    })
    .expect("the host");
}

#[test]
fn many_sockets_are_all_found_in_both_ways() {
    const CONNECTIONS: usize = 1500;
    require_root!();
    let bed = Testbed::new("many").expect("a testbed");
    let host = bed.host("a").expect("a host");
    host.run(|| {
        let mut marker = Marker::load(&Settings::default()).expect("loads");
        let connections: Vec<_> =
            (0..CONNECTIONS).map(|_| connect("::1".parse().expect("an address"))).collect();
        let mut wanted: Vec<Key> = connections.iter().map(|(client, _)| key(client)).collect();
        wanted.iter().for_each(|key| marker.set(key, mark(), 0).expect("room"));
        wanted.sort_by_key(|key| (key.local, key.remote));
        let all: std::collections::HashSet<_> = wanted.iter().copied().collect();
        let mut inquired = Vec::new();
        let mut inquiry = Inquiry::open().expect("sock_diag");
        let mut known = |keys: &[Key]| keys.iter().map(|key| all.contains(key)).collect();
        let seen = inquiry.all(&mut known, &mut |key, _| inquired.push(key)).expect("a pass");
        inquired.sort_by_key(|key| (key.local, key.remote));
        assert_eq!((seen, inquired == wanted), (2 * CONNECTIONS as u64, true));
        let Some(sweep) = marker.statistics().expect("attaches") else {
            skip!("no iterator over sockets in this kernel");
        };
        let mut swept = Vec::new();
        let seen = sweep.all(&mut |key, _| swept.push(key)).expect("a pass");
        swept.sort_by_key(|key| (key.local, key.remote));
        assert_eq!((seen, swept == wanted), (2 * CONNECTIONS as u64, true));
    })
    .expect("the host");
}

#[test]
fn what_is_not_there_is_no_error() {
    let mut inquiry = Inquiry::open().expect("sock_diag");
    let (client, server) = connect("::1".parse().expect("an address"));
    let listener = TcpListener::bind("[::1]:0").expect("bind");
    let local = listener.local_addr().expect("an address").into();
    let nobody = Key { protocol: Protocol::Tcp, local, remote: "[::1]:9".parse().expect("an end") };
    assert_eq!(inquiry.one(&nobody).expect("an answer"), None, "a listener is no connection");
    let at = key(&client);
    client.shutdown(std::net::Shutdown::Write).expect("shut down");
    drop((server, client));
    let gone = || Ok(inquiry.one(&at)?.is_none().then_some(()));
    wait_until("TIME_WAIT to be nothing", WAIT, gone).expect("gone");
}

#[test]
fn bbr_tells_of_itself() {
    let (client, server) = connect("::1".parse().expect("an address"));
    if setsockopt(&client, TcpCongestion, &"bbr".into()).is_err() {
        skip!("no BBR in this kernel");
    }
    send(&client, &server, 1_000_000);
    let sample = one(&client);
    let Some(Algorithm::Bbr { bandwidth, pacing_gain, .. }) = sample.algorithm else {
        panic!("{sample:?}");
    };
    assert!(bandwidth > 0 && pacing_gain > 0);
    assert!(sample.memory.is_some_and(|memory| memory.sndbuf > 0) && sample.cookie > 0);
}

#[test]
fn the_last_values_are_told_at_close() {
    require_root!();
    let bed = Testbed::new("last").expect("a testbed");
    let host = bed.host("a").expect("a host");
    host.run(|| {
        let mut marker = Marker::load(&Settings::default()).expect("loads");
        let events = marker.events().expect("events");
        for (at, client_first) in [("::1", true), ("127.0.0.1", false), ("::ffff:127.0.0.1", true)] {
            let (client, server) = connect(at.parse().expect("an address"));
            for end in [&client, &server] {
                marker.set(&key(end), mark(), 0).expect("room");
            }
            send(&client, &server, 10_000);
            send(&server, &client, 300);
            let (keys, before) = ([key(&client), key(&server)], one(&client));
            let (mut first, mut last) = if client_first { (client, server) } else { (server, client) };
            first.shutdown(std::net::Shutdown::Write).expect("shut down");
            assert_eq!(last.read(&mut [0]).expect("the end"), 0);
            drop(last);
            assert_eq!(first.read(&mut [0]).expect("the end"), 0);
            let mut told = Vec::new();
            wait_until("both to be told", WAIT, || {
                told.extend(events.next(Duration::from_millis(50))?);
                Ok((told.len() >= 2).then_some(()))
            })
            .expect("told");
            for (of, bytes) in keys.into_iter().zip([(10_000, 300), (300, 10_000)]) {
                let closed = told.iter().find_map(|event| match event {
                    Event::Closed { key, last } if *key == of => last.as_deref(),
                    _ => None,
                });
                let closed = closed.expect("last values");
                assert_eq!((closed.sent, closed.received), bytes, "{at} {of:?}");
                assert_eq!((closed.info.state, closed.congestion), (CLOSE, before.congestion));
                if of == keys[0] {
                    assert_eq!((closed.cookie, closed.info.snd_mss), (before.cookie, before.info.snd_mss));
                    assert_eq!(closed.info.pmtu, before.info.pmtu);
                }
            }
        }
    })
    .expect("the host");
}
