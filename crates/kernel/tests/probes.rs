//! Probes on this kernel.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use flowtag_kernel::probes::{Options, PROBES, Scope, Session, own_netns};
use flowtag_testbed::require_root;

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
