//! Probes on this kernel.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use flowtag_kernel::probes::{Direction, Listed, Options, PROBES, Scope, Session, netns_of, own_netns};
use flowtag_testbed::{Testbed, require_root};

#[test]
fn all_probes_start_and_tell_of_a_connection() {
    require_root!();
    let all: Vec<_> = PROBES.iter().map(|probe| (*probe, Options::default())).collect();
    let scope = Scope { netns: Some(own_netns().unwrap()), ..Scope::default() };
    let started = std::time::Instant::now();
    let session = Session::start(&scope, None, &all).unwrap();
    println!("started in {:?}, missing {:?}", started.elapsed(), session.missing());
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    let near = client.local_addr().unwrap();
    drop((client, server));
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.extend(session.next(Duration::from_millis(50)).unwrap());
    }
    let of_ours = |r: &flowtag_kernel::probes::Record| {
        r.context.flow.is_some_and(|f| f.local == near.into() || f.remote == near.into())
    };
    let lives: Vec<_> = seen.iter().filter(|(name, r)| *name == "life" && of_ours(r)).collect();
    assert_eq!(lives.len(), 2, "{seen:#?}");
    for (_, record) in lives {
        assert_eq!(record.context.owner.pid, Some(std::process::id()), "{record:?}");
    }
    println!("{:?}", session.losses());
}

#[test]
fn open_sockets_are_listed_of_all_namespaces_or_of_one() {
    require_root!();
    let bed = Testbed::new("listed").unwrap();
    let (a, b) = (bed.host("a").unwrap(), bed.host("b").unwrap());
    let link = bed.link(&a, "eth0", &b, "eth0").unwrap();
    let listener = b.run(|| TcpListener::bind((link.b.ipv6, 5000))).unwrap().unwrap();
    let at = listener.local_addr().unwrap();
    let connect = || {
        let mut client = a.run(|| TcpStream::connect(at)).unwrap().unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        (client, server)
    };
    let (before, _held) = connect();
    let all = Session::start(&Scope::default(), None, &[]).unwrap();
    let one = Scope { netns: Some(netns_of(a.namespace_path()).unwrap()), ..Scope::default() };
    let one = Session::start(&one, None, &[]).unwrap();
    let (since, _held) = connect();
    for (client, directions) in
        [(before, [None, None]), (since, [Some(Direction::Active), Some(Direction::Passive)])]
    {
        let near = client.local_addr().unwrap();
        let ours = |listed: &Listed| {
            listed.context.flow.is_some_and(|f| f.local == near.into() || f.remote == near.into())
        };
        let mut found: Vec<_> = all.sockets().unwrap().into_iter().filter(ours).collect();
        found.sort_by_key(|listed| listed.sample.received);
        assert_eq!(found.len(), 2, "{found:#?}");
        for (listed, direction) in found.iter().zip(directions) {
            assert_eq!(listed.history.direction, direction, "{listed:#?}");
            assert_eq!(listed.history.connect_time().is_some(), direction.is_some(), "{listed:#?}");
            assert_eq!(listed.context.owner.pid, Some(std::process::id()), "{listed:#?}");
        }
        assert_eq!((found[0].sample.sent, found[1].sample.received), (5, 5), "{found:#?}");
        let found: Vec<_> = one.sockets().unwrap().into_iter().filter(ours).collect();
        assert_eq!(found.len(), 1, "only the client's end: {found:#?}");
    }
}
