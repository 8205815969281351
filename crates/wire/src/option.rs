//! The extension-header option that carries a tag beside the flow label: eight bytes in a hop-by-hop or destination
//! options header.
//!
//! ```text
//!   0        1        2        3        4        5        6        7
//! +--------+--------+--------+--------+--------+--------+--------+--------+
//! | next   | len 0  | 0x1e   | len 3  | exp hi | exp lo | act    | Pad1   |
//! +--------+--------+--------+--------+--------+--------+--------+--------+
//! ```
//!
//! Place in the data flow: user space and tests build headers with [`header`] and [`both`]; the packet parser reads
//! them with [`find`]. The option's type 0x1e belongs to all experiments (RFC 4727 §5.1), so a tag found here is a
//! claim, not a proof. Nothing here reads past the length that the header states.
//!
//! ```
//! use flowtag_wire::{option, Tag};
//!
//! let bytes = option::header(Tag::new(3, 14)?, 6);
//! assert_eq!(bytes, [6, 0, 0x1e, 3, 0, 3, 14, 0]);
//! assert_eq!(option::find(&bytes)?, Some(option::Found::Tag(Tag::new(3, 14)?)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::Tag;

/// RFC 4727 §5.1 experiment: routers that do not know it skip it, and none may change it on its way.
pub const OPTION_TYPE: u8 = 0x1e;
/// Bytes of the option's data: two of experiment, one of activity.
pub const OPTION_LEN: u8 = 3;
/// Bytes of a header with the tag alone.
pub const HEADER_LEN: usize = 8;

/// The two kinds of options header (RFC 8200 §4.3 and §4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Every router may look at it; many networks drop it.
    HopByHop,
    /// Only the destination looks at it.
    Destination,
}

impl Place {
    /// The next-header number that announces it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::HopByHop => 0,
            Self::Destination => 60,
        }
    }
}

/// What an option of our type and length says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// A tag.
    Tag(Tag),
    /// Numbers that are no tag: another experiment's option, or a sender without range checks.
    OutOfRange {
        /// The first two bytes: not 1 to 511, or the activity is not 1 to 63.
        experiment: u16,
        /// The third byte.
        activity: u8,
    },
}

/// Why the bytes are not an options header. Offsets count from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Fewer bytes than the header says it has.
    #[error("the options header has {have} of {need} bytes: capture more bytes of each packet")]
    Truncated {
        /// Bytes that are needed.
        need: usize,
        /// Bytes that are there.
        have: usize,
    },
    /// An option reaches beyond its header (RFC 8200 §4.2).
    #[error("the option {kind:#04x} at offset {offset} reaches beyond its header: the packet is malformed")]
    Overrun {
        /// Type of the option.
        kind: u8,
        /// Where it begins.
        offset: usize,
    },
}

/// The header with the tag, announced by [`Place::number`] and followed by `next_header`.
#[must_use]
pub const fn header(tag: Tag, next_header: u8) -> [u8; HEADER_LEN] {
    let [hi, lo] = tag.experiment.get().to_be_bytes();
    [next_header, 0, OPTION_TYPE, OPTION_LEN, hi, lo, tag.activity.get(), 0]
}

/// A hop-by-hop and a destination options header, both with the tag, in the order of RFC 8200 §4.1.
#[must_use]
pub fn both(tag: Tag, next_header: u8) -> [u8; 2 * HEADER_LEN] {
    let mut bytes = [0; 2 * HEADER_LEN];
    bytes[..HEADER_LEN].copy_from_slice(&header(tag, Place::Destination.number()));
    bytes[HEADER_LEN..].copy_from_slice(&header(tag, next_header));
    bytes
}

/// Bytes of an options header, from its second byte (RFC 8200 §4.3): 8 to 2048.
#[must_use]
pub const fn total_len(hdr_ext_len: u8) -> usize {
    (hdr_ext_len as usize + 1) * 8
}

/// Looks for the tag in an options header, which begins with its next-header byte; bytes after it are ignored.
///
/// The first option of our type and length counts; other options are skipped, as RFC 8200 §4.2 asks.
///
/// # Errors
/// [`OptionError`] if the header or an option before the tag is cut off.
pub fn find(bytes: &[u8]) -> Result<Option<Found>, OptionError> {
    let need = bytes.get(1).map_or(HEADER_LEN, |len| total_len(*len));
    let header = bytes.get(..need).ok_or(OptionError::Truncated { need, have: bytes.len() })?;
    let mut offset = 2;
    while let Some(rest) = header.get(offset..).filter(|r| !r.is_empty()) {
        match step(rest, offset)? {
            Step::Ours(found) => return Ok(Some(found)),
            Step::Skip(len) => offset += len,
        }
    }
    Ok(None)
}

/// What the walk through a header meets.
enum Step {
    Ours(Found),
    /// Bytes to the next option, never 0.
    Skip(usize),
}

fn step(rest: &[u8], offset: usize) -> Result<Step, OptionError> {
    match *rest {
        // Pad1 has no length byte (RFC 8200 §4.2).
        [0, ..] => Ok(Step::Skip(1)),
        [OPTION_TYPE, OPTION_LEN, hi, lo, activity, ..] => Ok(Step::Ours(found([hi, lo], activity))),
        [_, len, ref data @ ..] if data.len() >= usize::from(len) => Ok(Step::Skip(2 + usize::from(len))),
        [kind, ..] => Err(OptionError::Overrun { kind, offset }),
        [] => Err(OptionError::Overrun { kind: 0, offset }),
    }
}

fn found(experiment: [u8; 2], activity: u8) -> Found {
    let experiment = u16::from_be_bytes(experiment);
    Tag::new(experiment.into(), activity.into())
        .map_or(Found::OutOfRange { experiment, activity }, Found::Tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag() -> Tag {
        Tag::new(511, 63).unwrap()
    }

    #[test]
    fn the_tag_is_found_behind_padding_and_foreign_options() {
        let pad1 = [6, 0, 0, OPTION_TYPE, 3, 1, 0xff, 63];
        let pad_n = [6, 1, 1, 4, 0, 0, 0, 0, OPTION_TYPE, 3, 1, 0xff, 63, 1, 1, 0];
        let router_alert = [6, 1, 5, 2, 0, 0, 0, 0, 0, OPTION_TYPE, 3, 1, 0xff, 63, 1, 0];
        for bytes in [&pad1[..], &pad_n, &router_alert] {
            assert_eq!(find(bytes), Ok(Some(Found::Tag(tag()))), "{bytes:02x?}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_not_a_tag() {
        for (experiment, activity) in [(0, 1), (1, 0), (512, 1), (1, 64), (u16::MAX, u8::MAX)] {
            let [hi, lo] = experiment.to_be_bytes();
            let bytes = [6, 0, OPTION_TYPE, 3, hi, lo, activity, 0];
            assert_eq!(find(&bytes), Ok(Some(Found::OutOfRange { experiment, activity })));
        }
    }

    #[test]
    fn our_type_with_another_length_is_somebody_elses() {
        assert_eq!(find(&[6, 0, OPTION_TYPE, 4, 1, 2, 3, 4]), Ok(None));
        assert_eq!(find(&[6, 0, 1, 4, 0, 0, 0, 0]), Ok(None));
    }

    #[test]
    fn what_is_cut_off_is_an_error_with_its_place() {
        assert_eq!(find(&[]), Err(OptionError::Truncated { need: 8, have: 0 }));
        assert_eq!(find(&[6, 1, 0, 0, 0, 0, 0, 0]), Err(OptionError::Truncated { need: 16, have: 8 }));
        let overrun = [6, 0, 0, 0, 0, OPTION_TYPE, 3, 1];
        assert_eq!(find(&overrun), Err(OptionError::Overrun { kind: OPTION_TYPE, offset: 5 }));
        assert_eq!(find(&[6, 0, 1, 3, 0, 0, 0, 9]), Err(OptionError::Overrun { kind: 9, offset: 7 }));
    }

    #[test]
    fn both_headers_carry_the_tag_and_point_onwards() {
        let bytes = both(tag(), 17);
        assert_eq!(find(&bytes), Ok(Some(Found::Tag(tag()))));
        assert_eq!(find(&bytes[8..]), Ok(Some(Found::Tag(tag()))));
        assert_eq!((bytes[0], bytes[8]), (Place::Destination.number(), 17));
    }
}
