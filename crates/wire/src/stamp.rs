//! Date and time as text, written by hand because a daemon writes several into every firefly.

use jiff::Timestamp;
use jiff::tz::Offset;

/// `2026-11-21T12:00:00.000000+00:00`: RFC 3339 and RFC 5424 §6.2.3 alike, always UTC and always microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Stamp([u8; Self::LEN]);

/// The year has no four digits, so neither format can hold the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct YearOutOfRange;

impl Stamp {
    const LEN: usize = 32;
    const TEMPLATE: [u8; Self::LEN] = *b"0000-00-00T00:00:00.000000+00:00";

    /// Truncates to the microsecond.
    pub(crate) fn new(time: Timestamp) -> Result<Self, YearOutOfRange> {
        let t = Offset::UTC.to_datetime(time);
        let year = u32::try_from(t.year()).map_err(|_| YearOutOfRange)?;
        let mut text = Self::TEMPLATE;
        put(&mut text[0..4], year);
        put(&mut text[5..7], t.month().unsigned_abs().into());
        put(&mut text[8..10], t.day().unsigned_abs().into());
        put(&mut text[11..13], t.hour().unsigned_abs().into());
        put(&mut text[14..16], t.minute().unsigned_abs().into());
        put(&mut text[17..19], t.second().unsigned_abs().into());
        put(&mut text[20..26], t.subsec_nanosecond().unsigned_abs() / 1000);
        Ok(Self(text))
    }

    /// Whether a time can be written at all.
    pub(crate) fn fits(time: Timestamp) -> bool {
        Offset::UTC.to_datetime(time).year() >= 0
    }

    pub(crate) fn as_str(&self) -> &str {
        // Only ASCII digits were written into an ASCII template.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Writes `value` in decimal, right-aligned over all of `digits`.
fn put(digits: &mut [u8], mut value: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(time: &str, text: &str) {
        assert_eq!(Stamp::new(time.parse().unwrap()).unwrap().as_str(), text);
    }

    #[test]
    fn every_field_lands_in_its_place() {
        check("2026-11-21T12:34:56.789012999Z", "2026-11-21T12:34:56.789012+00:00");
        check("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000+00:00");
        check("9999-12-30T21:59:59.9Z", "9999-12-30T21:59:59.900000+00:00");
    }

    #[test]
    fn times_before_1970_keep_a_positive_fraction() {
        check("1969-12-31T23:59:59.25Z", "1969-12-31T23:59:59.250000+00:00");
    }

    #[test]
    fn years_before_zero_are_refused() {
        let time: Timestamp = "-000001-12-31T23:59:59Z".parse().unwrap();
        assert!(!Stamp::fits(time));
        assert!(Stamp::new(time).is_err());
    }
}
