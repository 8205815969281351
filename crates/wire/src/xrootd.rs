//! XRootD's detailed monitoring, as far as it says who is connected and what was moved: map messages (`=`, `u`, `U`, `d`) and
//! the f-stream (`f`), of the "System Monitoring Reference" of XRootD.
//!
//! Everything is in network byte order. A datagram begins with a header of 8 bytes:
//!
//! ```text
//! code 1 | sequence 1 | length of the whole 2 | when the server started, s since 1970 4
//! ```
//!
//! A map message goes on with a number (the *dictid*), and text of a user id and, after a newline, of more. The f-stream is
//! a row of records, each with a header of 8 bytes:
//!
//! ```text
//! type 1 | flags 1 | length of the record 2 | dictid of a file, or of a user 4
//! ```
//!
//! Nothing is copied: what is decoded borrows from the datagram.

/// A datagram is at most that long: XRootD's own limit on its buffers is 64 KiB.
pub const MAX_DATAGRAM: usize = 65_535;

const HEADER_LEN: usize = 8;
const RECORD_LEN: usize = 8;

/// Why a datagram or a record says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XrootdError {
    /// It ends before it says that it does.
    #[error("{what} is cut short: {have} bytes where there should be {need}")]
    Short {
        /// Which part.
        what: &'static str,
        /// Bytes that are there.
        have: usize,
        /// Bytes that are needed.
        need: usize,
    },
    /// The text of a map message is not UTF-8.
    #[error("the text of map message {code:?} is not UTF-8")]
    NotText {
        /// Which kind of message.
        code: char,
    },
    /// A user id is not `PROTOCOL/NAME.PID:SERVER@HOST`.
    #[error("the user id of map message {code:?} is not PROTOCOL/NAME.PID:SERVER@HOST")]
    UserId {
        /// Which kind of message.
        code: char,
    },
    /// A number is missing or none.
    #[error("map message {code:?} has no {key}, or it is no number")]
    Number {
        /// Which kind of message.
        code: char,
        /// Name of the value.
        key: &'static str,
    },
}

/// A datagram with its header taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// One more, modulo 256, than in the datagram before. The f-stream counts by itself, all others together.
    pub sequence: u8,
    /// When the server started, in seconds since 1970: tells its runs apart.
    pub started: u32,
    /// What it says.
    pub message: Message<'a>,
}

/// What a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// `=`: which server this is. Repeated every so often.
    Server(Server<'a>),
    /// `u`: somebody logged in.
    User {
        /// Number of the user in what follows.
        dictid: u32,
        /// Who.
        user: UserId<'a>,
        /// How they were authenticated (`p`, `o`, …), with what program (`x`), over which IP version (`I`).
        info: Info<'a>,
    },
    /// `U`: for whom a user moves data, where the server marks packets (`xrootd.pmark`).
    Codes {
        /// Number of the user.
        dictid: u32,
        /// Who.
        user: UserId<'a>,
        /// Experiment, not checked.
        experiment: u32,
        /// Activity, not checked.
        activity: u32,
    },
    /// `d`: a user opened a file.
    Path {
        /// Number of the file.
        dictid: u32,
        /// Who.
        user: UserId<'a>,
    },
    /// `f`: what happened to files.
    Files(Records<'a>),
    /// Another kind, which says nothing of connections.
    Other(u8),
}

/// A server as its `=` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server<'a> {
    /// 48 bits that name it.
    pub id: u64,
    /// Process id of the server.
    pub pid: u32,
    /// TCP port that it listens on.
    pub port: u16,
    /// `pgm` is the program, `inst` the instance, `ver` the version.
    pub info: Info<'a>,
}

/// `PROTOCOL/NAME.PID:SERVER@HOST`: `xroot/anna.4711:264074271737514@wn12.example.org`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserId<'a> {
    /// All of it.
    pub text: &'a str,
    /// `xroot`, `https`.
    pub protocol: &'a str,
    /// 48 bits that name the server. In place of the descriptor that XRootD's log has here.
    pub server: u64,
    /// Name or address (in brackets) of the client's host.
    pub host: &'a str,
}

/// `&KEY=VALUE&KEY=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info<'a>(&'a str);

/// The records of an f-stream datagram, in order. Ends with the first that cannot be right: what follows cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records<'a> {
    rest: &'a [u8],
}

/// Bytes of a file that were moved so far, from the server's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// By read and readv: what left the server.
    pub read: u64,
    /// By write: what arrived.
    pub written: u64,
}

/// A record of the f-stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRecord {
    /// The time that the records after it are of.
    Time {
        /// 48 bits that name the server; none from old ones.
        server: Option<u64>,
    },
    /// A file was opened.
    Open {
        /// Its number.
        file: u32,
        /// Who did; none unless the server tells names of files, 0 if it does not tell users.
        user: Option<u32>,
    },
    /// A file was closed.
    Close {
        /// Its number.
        file: u32,
        /// All that was moved.
        moved: Moved,
    },
    /// A file is being read or written.
    Transfer {
        /// Its number.
        file: u32,
        /// All that was moved so far.
        moved: Moved,
    },
    /// A user is gone.
    Disconnect {
        /// Their number.
        user: u32,
    },
    /// Another kind, of a later version.
    Other,
}

impl<'a> Datagram<'a> {
    /// Decodes header and message. Records of the f-stream are decoded when they are asked for.
    ///
    /// # Errors
    /// What is cut short, and map messages without the values that they are for.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, XrootdError> {
        let header: &[u8; HEADER_LEN] =
            bytes.first_chunk().ok_or_else(|| short("the header", bytes, HEADER_LEN))?;
        let [code, sequence, high, low, started @ ..] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = bytes.get(HEADER_LEN..length).ok_or_else(|| short("the datagram", bytes, length))?;
        let message = match code {
            b'f' => Message::Files(Records { rest: body }),
            b'=' | b'u' | b'U' | b'd' => map(char::from(code), body)?,
            other => Message::Other(other),
        };
        Ok(Self { sequence, started: u32::from_be_bytes(started), message })
    }
}

fn short(what: &'static str, bytes: &[u8], need: usize) -> XrootdError {
    XrootdError::Short { what, have: bytes.len(), need: need.max(HEADER_LEN) }
}

fn map(code: char, body: &[u8]) -> Result<Message<'_>, XrootdError> {
    let (dictid, text) = body.split_first_chunk().ok_or_else(|| short("a map message", body, 4))?;
    let dictid = u32::from_be_bytes(*dictid);
    // Some versions send the zero that ends the text.
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    let text = str::from_utf8(text).map_err(|_| XrootdError::NotText { code })?;
    let (user, rest) = text.split_once('\n').unwrap_or((text, ""));
    let info = Info(rest);
    let number = |key| info.number(key).ok_or(XrootdError::Number { code, key });
    let user = || UserId::parse(user).ok_or(XrootdError::UserId { code });
    Ok(match code {
        '=' => Message::Server(server(text, info, code)?),
        'u' => Message::User { dictid, user: user()?, info },
        'U' => {
            let (dictid, experiment, activity) = (number("Uc")?, number("Ec")?, number("Ac")?);
            Message::Codes { dictid, user: user()?, experiment, activity }
        }
        _ => Message::Path { dictid, user: user()? },
    })
}

/// The user id has no protocol but `=` here.
fn server<'a>(text: &'a str, info: Info<'a>, code: char) -> Result<Server<'a>, XrootdError> {
    let user = text.split('\n').next().and_then(UserId::parse).ok_or(XrootdError::UserId { code })?;
    let pid = user.pid().ok_or(XrootdError::Number { code, key: "pid" })?;
    let port = info.number("port").ok_or(XrootdError::Number { code, key: "port" })?;
    Ok(Server { id: user.server, pid, port, info })
}

impl<'a> UserId<'a> {
    /// Names of users and hosts are the client's: they may have any of the separators, so each is looked for from the side
    /// where it cannot be part of one.
    fn parse(text: &'a str) -> Option<Self> {
        let (protocol, rest) = text.split_once('/')?;
        let (user, host) = rest.rsplit_once('@')?;
        let (_, server) = user.rsplit_once(':')?;
        (!host.is_empty()).then_some(())?;
        Some(Self { text, protocol, server: server.parse().ok()?, host })
    }

    /// Of the process at the client, as it says itself.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let (user, _) = self.text.rsplit_once('@')?;
        user.rsplit_once(':')?.0.rsplit_once('.')?.1.parse().ok()
    }
}

impl<'a> Info<'a> {
    /// The first value of that name that is not empty.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        let mut pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, value)| *name == key && !value.is_empty()).map(|(_, value)| value)
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }
}

impl Iterator for Records<'_> {
    type Item = Result<FileRecord, XrootdError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (record, rest) = match cut(self.rest) {
            Ok(parts) => parts,
            Err(error) => {
                self.rest = &[];
                return Some(Err(error));
            }
        };
        self.rest = rest;
        Some(record_of(record))
    }
}

/// The first record and what follows it.
fn cut(bytes: &[u8]) -> Result<(&[u8], &[u8]), XrootdError> {
    let length = bytes.get(2..4).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes);
    let length = usize::from(length.unwrap_or_default()).max(RECORD_LEN);
    bytes.split_at_checked(length).ok_or_else(|| short("a record", bytes, length))
}

fn record_of(record: &[u8]) -> Result<FileRecord, XrootdError> {
    const HAS_LFN: u8 = 1;
    const HAS_SID: u8 = 1;
    let cut = |need| short("a record", record, need);
    let word = |at: usize| record.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let long = |at: usize| record.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let (kind, flags) = (record.first().copied(), record.get(1).copied().unwrap_or_default());
    let id = word(4).ok_or_else(|| cut(RECORD_LEN))?;
    let moved = || {
        let (read, readv, written) = (long(8)?, long(16)?, long(24)?);
        Some(Moved { read: read.saturating_add(readv), written })
    };
    Ok(match kind {
        Some(0) => FileRecord::Close { file: id, moved: moved().ok_or_else(|| cut(32))? },
        Some(1) => FileRecord::Open { file: id, user: word(16).filter(|_| flags & HAS_LFN != 0) },
        Some(2) => FileRecord::Time {
            server: long(16).filter(|_| flags & HAS_SID != 0).map(|id| id & 0xffff_ffff_ffff),
        },
        Some(3) => FileRecord::Transfer { file: id, moved: moved().ok_or_else(|| cut(32))? },
        Some(4) => FileRecord::Disconnect { user: id },
        _ => FileRecord::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As XRootD 5.5.3 sent it, at `xrootd.monitor all auth fstat 2s lfn ops xfr 2 ident 5s dest fstat info user …` with
    /// `xrootd.pmark use firefly scitag`, for `xrdcp root://localhost:21094//data/file?scitag.flow=206 …`.
    const LOGIN: &[u8] = b"u\x01\0Xk\x01\xec\xf3\0\0\0\x01xroot/root.29775:264074271737514@[::ffff:127.0.0.1]\n&R=v5.5.3&x=xrdcp&y=&I=4";
    const CODES: &[u8] = b"U\x02\0Pk\x01\xec\xf3\0\0\0\x03xroot/root.29775:264074271737514@[::ffff:127.0.0.1]\n&Uc=1&Ec=3&Ac=14";
    const IDENT: &[u8] = b"=\x05\0\\k\x01\xec\xf3\0\0\0\0=/nobody.29686:264074271737514@vm\n&site=&port=21094&inst=t&pgm=xrootd&ver=v5.5.3";
    const FILES: &str = "660100f46b01ea6302010018000000056b01ea676b01ea690000f02c952946aa00020050000000020000000001c9c3800000\
        00000000000000000000000000000000000400000000000000000000000000000000000000007fffffff00000000000000000000000000000000\
        00000000040000080000000101010024000000040000000001c9c380000000032f646174612f66696c650000000000000002005000000004000\
        0000001c9c380000000000000000000000000000000000000000400000000000000000000000000000000000000007fffffff0000000000000000\
        000000000000000000000000040000080000000 3";

    fn files() -> Vec<u8> {
        let digits: Vec<u8> = FILES.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("a byte");
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn a_login_a_server_and_the_codes_of_a_user_are_as_xrootd_sends_them() {
        let login = Datagram::decode(LOGIN).expect("a login");
        assert_eq!((login.sequence, login.started), (1, 0x6b01_ecf3));
        let Message::User { dictid: 1, user, info } = login.message else { panic!("{login:?}") };
        assert_eq!(
            (user.protocol, user.server, user.host, user.pid()),
            ("xroot", 264_074_271_737_514, "[::ffff:127.0.0.1]", Some(29775))
        );
        assert_eq!(
            (info.get("x"), info.get("y"), info.get("I"), info.get("o")),
            (Some("xrdcp"), None, Some("4"), None)
        );
        let codes = Datagram::decode(CODES).expect("codes").message;
        assert_eq!(codes, Message::Codes { dictid: 1, user, experiment: 3, activity: 14 });
        let Message::Server(server) = Datagram::decode(IDENT).expect("an ident").message else {
            panic!("a server")
        };
        assert_eq!((server.id, server.pid, server.port), (264_074_271_737_514, 29686, 21094));
        assert_eq!(server.info.get("pgm"), Some("xrootd"));
    }

    #[test]
    fn the_f_stream_is_as_xrootd_sends_it() {
        let bytes = files();
        let Message::Files(records) = Datagram::decode(&bytes).expect("a datagram").message else {
            panic!("files")
        };
        let records: Vec<_> = records.map(|r| r.expect("a record")).collect();
        let moved = Moved { read: 30_000_000, written: 0 };
        let expected = [
            FileRecord::Time { server: Some(264_074_271_737_514) },
            FileRecord::Close { file: 2, moved },
            FileRecord::Disconnect { user: 1 },
            FileRecord::Open { file: 4, user: Some(3) },
            FileRecord::Close { file: 4, moved },
            FileRecord::Disconnect { user: 3 },
        ];
        assert_eq!(records, expected);
    }

    #[test]
    fn what_is_cut_short_or_changed_is_an_error_and_never_more() {
        for whole in [LOGIN, CODES, IDENT, &files()] {
            for length in 0..whole.len() {
                let cut = &whole[..length];
                assert!(matches!(Datagram::decode(cut), Err(XrootdError::Short { .. })), "{length}: {cut:?}");
            }
        }
        // Cut records in a datagram that is not: the length says so.
        let mut bytes = files();
        bytes.truncate(100);
        bytes[3] = 100;
        let Message::Files(records) = Datagram::decode(&bytes).expect("a datagram").message else {
            panic!("files")
        };
        let records: Vec<_> = records.collect();
        assert_eq!(records.len(), 2);
        assert!(matches!(records[1], Err(XrootdError::Short { .. })), "and nothing after it: {records:?}");
        // A record of length 0 is no endless loop.
        let zeros = [b"f\0\0\x20\0\0\0\0".as_slice(), &[9; 1], &[0; 23]].concat();
        let Message::Files(records) = Datagram::decode(&zeros).expect("a datagram").message else {
            panic!("files")
        };
        assert_eq!(records.count(), 3);
    }

    #[test]
    fn names_may_have_separators_in_them() {
        let id = UserId::parse("https/a@b:c.d/e.77:5@[2001:db8::1]").expect("an id");
        assert_eq!((id.protocol, id.pid(), id.server, id.host), ("https", Some(77), 5, "[2001:db8::1]"));
        for bad in ["", "xroot", "xroot/a.1:2", "xroot/a.1@host", "xroot/a.1:x@host", "xroot/a.1:2@"] {
            assert_eq!(UserId::parse(bad), None, "{bad}");
        }
    }
}
