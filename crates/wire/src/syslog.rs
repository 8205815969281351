//! The RFC 5424 header in front of every firefly.
//!
//! Place in the data flow: the daemon builds one [`Header`] at start from its host name and version, and each firefly
//! is written after it. Received datagrams lose whatever stands before their JSON here. Nothing here ever writes an
//! incomplete header: collectors drop messages whose timestamp or host is missing or has a space in it.
//!
//! ```
//! use flowtag_wire::syslog::{AppName, Header, Hostname};
//!
//! let header = Header::new(Hostname::new("se01.example.org")?, AppName::new("flowtag-0.1.0")?);
//! let mut line = Vec::new();
//! header.write("2026-11-21T12:00:00Z".parse()?, &mut line)?;
//! assert_eq!(line, b"<134>1 2026-11-21T12:00:00.000000+00:00 se01.example.org flowtag-0.1.0 - firefly-json - ");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;

use jiff::Timestamp;

use crate::stamp::Stamp;

/// Facility local0 (16), severity informational (6), version 1 (RFC 5424 §6.2.1 and §6.2.2).
const PRI_VERSION: &[u8] = b"<134>1 ";
/// No PROCID, the MSGID that collectors look for, no structured data (RFC 5424 §6.2.6, §6.2.7 and §6.3).
const AFTER_APP: &[u8] = b" - firefly-json - ";

/// Why a text cannot stand in a syslog header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// RFC 5424 §6: a field has at least one character; `-` says that there is no value.
    #[error("the syslog {0} is empty: write - if there is none")]
    Empty(&'static str),
    /// RFC 5424 §6 limits each field.
    #[error("the syslog {field} has {len} characters: at most {max} fit")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// What was given, in characters.
        len: usize,
        /// What fits, in characters.
        max: usize,
    },
    /// Only PRINTUSASCII, codes 33 to 126, may be in a field.
    #[error(
        "the syslog {field} has the character {character:?}: only ASCII 33 to 126, and no space, may be in it"
    )]
    Character {
        /// Which field.
        field: &'static str,
        /// The first character that may not be there.
        character: char,
    },
    /// RFC 5424 §6.2.3: a year has four digits.
    #[error("{0} does not fit a syslog timestamp: its year must be 0 to 9999, check the clock")]
    Year(Timestamp),
}

/// PRINTUSASCII of RFC 5424 §6, except the brace at which flowd-go and others begin to read.
const fn is_allowed(c: char) -> bool {
    matches!(c, '!'..='~') && c != '{'
}

fn check(field: &'static str, text: &str, max: usize) -> Result<(), HeaderError> {
    if text.is_empty() {
        return Err(HeaderError::Empty(field));
    }
    if let Some(character) = text.chars().find(|c| !is_allowed(*c)) {
        return Err(HeaderError::Character { field, character });
    }
    if text.len() > max { Err(HeaderError::TooLong { field, len: text.len(), max }) } else { Ok(()) }
}

fn sanitise(text: &str, max: usize) -> String {
    let clean: String = text.chars().take(max).map(|c| if is_allowed(c) { c } else { '-' }).collect();
    if clean.is_empty() { "-".to_owned() } else { clean }
}

macro_rules! field {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            /// The longest that RFC 5424 §6 allows, in characters.
            pub const MAX: usize = $max;

            /// # Errors
            /// [`HeaderError`] if the text is empty, too long or has a character that may not be there.
            pub fn new(text: &str) -> Result<Self, HeaderError> {
                check($what, text, Self::MAX)?;
                Ok(Self(text.to_owned()))
            }

            /// Takes any text: a character that may not be there becomes `-`, what is too long is cut off, and an
            /// empty text becomes `-`, which RFC 5424 calls the nil value.
            #[must_use]
            pub fn sanitised(text: &str) -> Self {
                Self(sanitise(text, Self::MAX))
            }

            /// The text, never empty.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}
field!(
    /// HOSTNAME of RFC 5424 §6.2.4: 1 to 255 printable ASCII characters, best the full host name.
    Hostname,
    "host name",
    255
);
field!(
    /// APP-NAME of RFC 5424 §6.2.5: 1 to 48 printable ASCII characters.
    AppName,
    "application name",
    48
);

/// Everything in the header but the time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    host: Hostname,
    app: AppName,
}

impl Header {
    /// The header of all messages of this host and program.
    #[must_use]
    pub const fn new(host: Hostname, app: AppName) -> Self {
        Self { host, app }
    }

    /// Appends the header and the space after it.
    ///
    /// # Errors
    /// [`HeaderError::Year`] if `now` is outside the years 0 to 9999; then nothing is appended.
    pub fn write(&self, now: Timestamp, out: &mut Vec<u8>) -> Result<(), HeaderError> {
        let stamp = Stamp::new(now).map_err(|_| HeaderError::Year(now))?;
        for part in [
            PRI_VERSION,
            stamp.as_str().as_bytes(),
            b" ",
            self.host.0.as_bytes(),
            b" ",
            self.app.0.as_bytes(),
            AFTER_APP,
        ] {
            out.extend_from_slice(part);
        }
        Ok(())
    }
}

/// The JSON object of a datagram: from the first `{`, without the newlines, spaces and NULs that senders append.
///
/// Any prefix passes: a full header, one with `-` or nothing for a time, a byte order mark, or none at all. None if
/// there is no `{`.
#[must_use]
pub fn json_part(datagram: &[u8]) -> Option<&[u8]> {
    let start = datagram.iter().position(|b| *b == b'{')?;
    let end = datagram.iter().rposition(|b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0))?;
    datagram.get(start..=end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_with_a_space_is_refused_or_made_whole() {
        let error = Hostname::new("no idea!").unwrap_err();
        assert_eq!(error, HeaderError::Character { field: "host name", character: ' ' });
        assert_eq!(Hostname::sanitised("no idea!").as_str(), "no-idea!");
    }

    /// Found by fuzzing: no receiver that looks for the first brace could read the firefly behind such a name.
    #[test]
    fn a_brace_in_a_host_name_never_reaches_the_header() {
        assert!(matches!(Hostname::new("a{b"), Err(HeaderError::Character { character: '{', .. })));
        assert_eq!(AppName::sanitised("a{b}").as_str(), "a-b}");
    }

    #[test]
    fn fields_are_one_character_to_their_limit() {
        assert_eq!(AppName::new(""), Err(HeaderError::Empty("application name")));
        assert!(AppName::new(&"a".repeat(48)).is_ok());
        assert!(matches!(AppName::new(&"a".repeat(49)), Err(HeaderError::TooLong { len: 49, max: 48, .. })));
        assert_eq!(AppName::sanitised("").as_str(), "-");
        assert_eq!(Hostname::sanitised(&"é".repeat(300)).as_str(), "-".repeat(255));
    }

    #[test]
    fn the_object_is_found_behind_any_prefix() {
        for (what, datagram) in [
            ("bare", &b"{}"[..]),
            ("header", b"<134>1 - h a - firefly-json - {}"),
            ("byte order mark", b"\xef\xbb\xbf{}"),
            ("newline and NUL", b"{}\r\n\0"),
        ] {
            assert_eq!(json_part(datagram), Some(&b"{}"[..]), "{what}");
        }
        assert_eq!(json_part(b"<134>1 - h a - firefly-json - "), None);
    }
}
