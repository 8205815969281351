//! Binding requests and their answers (STUN, RFC 8489), as far as a host asks which address it has elsewhere.
//!
//! Place in the flow: `supervisor/stun.rs` sends and receives them. No authentication, no fingerprint of our own: an answer is
//! only as good as its transaction id, which whoever asks draws at random.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Chosen at random for each question (§5).
pub type TransactionId = [u8; 12];

const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
const HEADER: usize = 20;
/// Method and class in one (§5): binding (1) as request, success and error.
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
/// SOURCE-ADDRESS and CHANGED-ADDRESS of RFC 3489, which servers of both still send.
const OF_RFC_3489: [u16; 2] = [0x0004, 0x0005];
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// From here on an attribute may be passed over by those who do not know it (§14).
const OPTIONAL: u16 = 0x8000;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// XOR-MAPPED-ADDRESS: where the question came from, as the server saw it.
    Mapped(IpAddr),
    /// The server does not do it.
    Refused {
        /// 300 to 699 (§14.8); 0 if the server gave none.
        code: u16,
        /// As the server put it, which may be anything.
        reason: String,
    },
}

/// A datagram that is an answer to the question, and no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StunError {
    /// No XOR-MAPPED-ADDRESS that could be read. MAPPED-ADDRESS is not believed: there are routers that rewrite it.
    #[error("no XOR-MAPPED-ADDRESS")]
    NoAddress,
    /// The answer has an attribute that must be understood and is not (§6.3.3).
    #[error("attribute {0:#06x} has to be understood and is not known")]
    Unknown(u16),
}

/// A binding request without attributes.
#[must_use]
pub fn question(id: TransactionId) -> [u8; HEADER] {
    let mut message = [0; HEADER];
    message[..2].copy_from_slice(&REQUEST.to_be_bytes());
    message[4..8].copy_from_slice(&COOKIE);
    message[8..].copy_from_slice(&id);
    message
}

/// Reads a datagram; none if it is no answer to the question with this id.
///
/// # Errors
/// It is the answer, and says nothing that could be used.
pub fn answer(datagram: &[u8], id: TransactionId) -> Option<Result<Answer, StunError>> {
    let (header, attributes) = datagram.split_at_checked(HEADER)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != COOKIE || header[8..] != id || length != attributes.len() {
        return None;
    }
    let attributes = read_attributes(attributes)?;
    match u16::from_be_bytes([header[0], header[1]]) {
        SUCCESS => Some(mapped(&attributes, id)),
        ERROR => Some(Ok(refused(&attributes))),
        _ => None,
    }
}

/// Type and value of each; values are padded to four bytes (§14). None if they do not fill the message.
fn read_attributes(mut rest: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut attributes = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<4>() {
        let (kind, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
        let length = usize::from(length);
        attributes.push((kind, after.get(..length)?));
        rest = after.get(length.next_multiple_of(4)..)?;
    }
    rest.is_empty().then_some(attributes)
}

fn mapped(attributes: &[(u16, &[u8])], id: TransactionId) -> Result<Answer, StunError> {
    let known = |kind: u16| {
        kind >= OPTIONAL
            || [XOR_MAPPED_ADDRESS, MAPPED_ADDRESS].contains(&kind)
            || OF_RFC_3489.contains(&kind)
    };
    if let Some((kind, _)) = attributes.iter().find(|(kind, _)| !known(*kind)) {
        return Err(StunError::Unknown(*kind));
    }
    let value = attributes.iter().find(|(kind, _)| *kind == XOR_MAPPED_ADDRESS).map(|(_, value)| *value);
    value.and_then(|value| xor_address(value, id)).map(Answer::Mapped).ok_or(StunError::NoAddress)
}

/// Family, port and the address, all of it but the family under the cookie and the id (§14.2).
fn xor_address(value: &[u8], id: TransactionId) -> Option<IpAddr> {
    const IPV4: u8 = 1;
    const IPV6: u8 = 2;
    let (head, address) = value.split_first_chunk::<4>()?;
    let key = [&COOKIE[..], &id].concat();
    let plain: Vec<u8> = address.iter().zip(&key).map(|(a, b)| a ^ b).collect();
    match (head[1], address.len()) {
        (IPV4, 4) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok()?).into()),
        (IPV6, 16) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok()?).into()),
        _ => None,
    }
}

/// Hundreds in the third byte, the rest in the fourth, then a text (§14.8).
fn refused(attributes: &[(u16, &[u8])]) -> Answer {
    let value = attributes.iter().find(|(kind, _)| *kind == ERROR_CODE).map(|(_, value)| *value);
    let parts = value.and_then(|value| value.split_first_chunk::<4>());
    let parts = parts.filter(|(head, _)| (3..=6).contains(&(head[2] & 7)) && head[3] <= 99);
    let (code, reason) = parts.map_or((0, String::new()), |(head, reason)| {
        let code = u16::from(head[2] & 7) * 100 + u16::from(head[3]);
        (code, String::from_utf8_lossy(reason).into_owned())
    });
    Answer::Refused { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

    fn message(kind: u16, attributes: &[&[u8]]) -> Vec<u8> {
        let attributes = attributes.concat();
        let length = u16::try_from(attributes.len()).expect("short");
        [&kind.to_be_bytes()[..], &length.to_be_bytes(), &COOKIE, &ID, &attributes].concat()
    }

    /// RFC 5769 §2.2 and §2.3, whose transaction id this is.
    #[test]
    fn the_addresses_of_the_test_vectors_are_read() {
        let id = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let ipv4 = [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(xor_address(&ipv4, id), Some("192.0.2.1".parse().expect("an address")));
        let ipv6 = b"\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9";
        let expected = "2001:db8:1234:5678:11:2233:4455:6677".parse().expect("an address");
        assert_eq!(xor_address(ipv6, id), Some(expected));
        assert_eq!(xor_address(&ipv4[..7], id), None);
        assert_eq!(xor_address(&ipv6[..12], id), None, "an IPv6 address of eight bytes");
    }

    #[test]
    fn padding_is_passed_over_and_what_does_not_fit_is_no_answer() {
        let software: &[u8] = &[0x80, 0x22, 0, 1, b'x', 0, 0, 0];
        let address: &[u8] = &[0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let whole = message(SUCCESS, &[software, address]);
        assert_eq!(answer(&whole, ID), Some(Ok(Answer::Mapped("192.0.2.1".parse().expect("an address")))));
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length], ID), None, "{length} bytes");
        }
        let long = message(SUCCESS, &[&[0, 0x20, 0, 9], &address[4..]]);
        assert_eq!(answer(&long, ID), None, "an attribute that is longer than the message");
        let mut other = ID;
        other[0] ^= 1;
        assert_eq!(answer(&whole, other), None, "another question");
    }

    #[test]
    fn an_error_says_code_and_reason_and_may_lack_both() {
        let gone = message(ERROR, &[&[0, 9, 0, 8, 0, 0, 4, 1, b'g', b'o', b'n', b'e']]);
        let refused = |code, reason: &str| Some(Ok(Answer::Refused { code, reason: reason.to_owned() }));
        assert_eq!(answer(&gone, ID), refused(401, "gone"));
        assert_eq!(answer(&message(ERROR, &[]), ID), refused(0, ""));
        for code in [[2, 0], [7, 0], [4, 100]] {
            let wrong = message(ERROR, &[&[0, 9, 0, 4, 0, 0], &code]);
            assert_eq!(answer(&wrong, ID), refused(0, ""), "{code:?}");
        }
    }

    #[test]
    fn what_has_to_be_understood_is() {
        let unknown: &[u8] = &[0x7f, 0xff, 0, 0];
        assert_eq!(answer(&message(SUCCESS, &[unknown]), ID), Some(Err(StunError::Unknown(0x7fff))));
        let old: &[u8] = &[0, 4, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0];
        assert_eq!(answer(&message(SUCCESS, &[old]), ID), Some(Err(StunError::NoAddress)));
    }
}
