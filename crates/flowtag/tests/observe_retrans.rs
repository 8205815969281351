//! `flowtag retrans` on real loss.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::observe::{Observing, golden, keys};
use flowtag_testbed::{Impairment, Loss, Testbed, require_root};

#[test]
fn a_lost_segment_is_told_once_with_its_owner() {
    require_root!();
    let bed = Testbed::new("retrans").expect("a testbed");
    let (a, b) = (bed.host("a").expect("host a"), bed.host("b").expect("host b"));
    // SYN, ACK, then data: the second segment of it.
    let lossy = Impairment { loss: Loss::these(&[4]), ..Impairment::default() };
    let link = bed.impaired_link(&a, &b, lossy).expect("a link");
    let at = (link.b.ipv6, 5000);
    let listener = b.run(|| TcpListener::bind(at)).expect("host b").expect("bind");
    let watching = Observing::start(&a, &["--json", "retrans"]);
    let table = Observing::start(&a, &["retrans"]);
    let mut client = a.run(|| TcpStream::connect(at)).expect("host a").expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    for _ in 0..3 {
        client.write_all(&[1; 1000]).expect("sent");
        server.read_exact(&mut [0; 1000]).expect("received");
    }
    let (records, summary) = watching.stop_json();
    assert_eq!(records.len(), 1, "{records:#?}");
    assert_eq!(records[0]["length_bytes"], 1000);
    assert_eq!(records[0]["pid"], std::process::id());
    assert_eq!((&summary["events"], &summary["lost"]), (&1.into(), &0.into()));
    golden("retrans.keys", &keys(&records[0]), &[]);
    golden(
        "retrans.txt",
        &table.stop(),
        &[(r"\d\d:\d\d:\d\d\.\d{3}", "12:00:00.000"), (r" +[0-9.]+m?s", " 1ms")],
    );
}
