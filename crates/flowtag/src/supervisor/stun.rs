//! Asks a STUN server which address a datagram of ours has when it arrives there (RFC 8489 binding request).
//!
//! The question leaves from exactly the address that is asked about. It is sent again as §6.2.1 says; an answer counts only
//! if it comes from the server, has the question's transaction id and an XOR-MAPPED-ADDRESS. MAPPED-ADDRESS is not
//! believed: there are routers that rewrite it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use flowtag_wire::stun::{self, Answer, TransactionId};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// Until the first repetition; doubles with each (RFC 8489 §6.2.1).
const RTO: Duration = Duration::from_millis(500);
/// Longer than any answer without authentication.
const MAX_ANSWER: usize = 1500;
/// Datagrams that are no answer, after which the server is given up.
const MAX_STRAY: usize = 100;

/// Why a server gave no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum StunError {
    #[error("{0} is not an address of this host")]
    NotOurs(IpAddr),
    #[error("cannot ask {server} from {from}")]
    Io {
        server: SocketAddr,
        from: IpAddr,
        #[source]
        source: io::Error,
    },
    #[error("{server} refused: {code} {reason}")]
    Refused { server: SocketAddr, code: u16, reason: String },
    #[error("the answer of {server} has no usable XOR-MAPPED-ADDRESS: is it an RFC 8489 server?")]
    NoAddress { server: SocketAddr },
    #[error("{server} sent {MAX_STRAY} datagrams that answer nothing: is it a STUN server?")]
    Stray { server: SocketAddr },
}

/// A socket that sends from that address, and a check that it is ours.
pub(super) async fn bind(from: IpAddr) -> Result<UdpSocket, StunError> {
    UdpSocket::bind((from, 0)).await.map_err(|_| StunError::NotOurs(from))
}

/// Asks until there is an answer; whoever calls bounds the time.
pub(super) async fn ask(socket: &UdpSocket, server: SocketAddr) -> Result<IpAddr, StunError> {
    let from = socket.local_addr().map_or(server.ip(), |a| a.ip());
    let fail = |source| StunError::Io { server, from, source };
    socket.connect(server).await.map_err(fail)?; // from now on nobody else is heard
    let id = random_id().map_err(fail)?;
    let question = stun::question(id);
    let (mut wait, mut again, mut stray) = (RTO, Instant::now(), 0);
    let mut buffer = [0; MAX_ANSWER];
    loop {
        tokio::select! {
            () = sleep_until(again) => {
                // A refusal of the moment (no route, no buffer, ICMP of the last one) may be over the next time.
                let _ = socket.send(&question).await;
                again += wait;
                wait *= 2;
            }
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => match read(&buffer[..length], id, server) {
                    Some(answer) => return answer,
                    None if stray >= MAX_STRAY => return Err(StunError::Stray { server }),
                    None => stray += 1,
                },
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(fail(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}

fn random_id() -> io::Result<TransactionId> {
    let mut id = TransactionId::default();
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(id)
}

/// None: not an answer to our question.
fn read(datagram: &[u8], id: TransactionId, server: SocketAddr) -> Option<Result<IpAddr, StunError>> {
    let no_address = || StunError::NoAddress { server };
    Some(match stun::answer(datagram, id)? {
        Ok(Answer::Mapped(ip)) => Some(ip.to_canonical()).filter(|ip| is_usable(*ip)).ok_or_else(no_address),
        Ok(Answer::Refused { code, reason }) => {
            let reason = reason.chars().filter(|c| !c.is_control()).take(80).collect();
            Err(StunError::Refused { server, code, reason })
        }
        Err(_) => Err(no_address()),
    })
}

/// Whether a host may have that address; nobody sends from others.
pub(super) fn is_usable(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn server() -> SocketAddr {
        "192.0.2.1:3478".parse().expect("an address")
    }

    /// A success response with these attributes, written by hand.
    fn answer(kind: u16, attributes: &[u8]) -> Vec<u8> {
        let mut message = kind.to_be_bytes().to_vec();
        message.extend(u16::try_from(attributes.len()).expect("short").to_be_bytes());
        message.extend(0x2112_a442_u32.to_be_bytes());
        message.extend(ID);
        message.extend(attributes);
        message
    }

    /// XOR-MAPPED-ADDRESS of 192.0.2.1:32853, as in RFC 5769 §2.2.
    const MAPPED: [u8; 12] = [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];

    #[test]
    fn the_question_is_a_binding_request_without_attributes() {
        let question = stun::question(ID);
        assert_eq!(question[..8], [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(question[8..], ID);
    }

    #[test]
    fn only_an_answer_to_the_question_counts() {
        let unknown: &[u8] = &[0x7f, 0xff, 0, 4, 0, 0, 0, 0];
        let optional: &[u8] = &[0xff, 0xff, 0, 4, 0, 0, 0, 0];
        let refusal: &[u8] = &[0, 9, 0, 8, 0, 0, 4, 1, b'g', b'o', b'n', b'e'];
        let loopback: &[u8] = &[0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0x5e, 0x12, 0xa4, 0x43];
        for (what, datagram, expected) in [
            ("success", answer(0x0101, &MAPPED), Some(Ok("192.0.2.1"))),
            ("with more", answer(0x0101, &[optional, &MAPPED[..]].concat()), Some(Ok("192.0.2.1"))),
            ("not understood", answer(0x0101, &[unknown, &MAPPED[..]].concat()), Some(Err("XOR-MAPPED"))),
            ("no address", answer(0x0101, &[]), Some(Err("XOR-MAPPED"))),
            ("127.0.0.1", answer(0x0101, loopback), Some(Err("XOR-MAPPED"))),
            ("refusal", answer(0x0111, refusal), Some(Err("refused: 401 gone"))),
            ("a request", answer(0x0001, &MAPPED), None),
            ("cut", answer(0x0101, &MAPPED)[..28].to_vec(), None),
            ("nothing", Vec::new(), None),
        ] {
            let read = read(&datagram, ID, server()).map(|r| r.map_err(|e| e.to_string()));
            match (&read, expected) {
                (Some(Ok(ip)), Some(Ok(wanted))) => assert_eq!(ip.to_string(), wanted, "{what}"),
                (Some(Err(error)), Some(Err(part))) => assert!(error.contains(part), "{what}: {error}"),
                (None, None) => {}
                _ => panic!("{what}: {read:?}"),
            }
        }
        assert!(read(&answer(0x0101, &MAPPED), [0; 12], server()).is_none(), "another id");
    }
}
