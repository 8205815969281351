//! Where on a packet the tag is written (flowd-go's `markingStrategy`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::option::HEADER_LEN;

/// Where the tag is written: the flow label, a destination options header, a hop-by-hop options header, or several
/// of these. Never nowhere.
///
/// ```
/// use flowtag_wire::Strategy;
///
/// let both: Strategy = "hop-by-hop+destination".parse()?;
/// assert_eq!(both, Strategy::HOP_BY_HOP | Strategy::DESTINATION);
/// assert_eq!(both.header_len(), 16);
/// # Ok::<(), flowtag_wire::StrategyError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Strategy(u8);

/// A word that is no strategy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no strategy: use label, destination, hop-by-hop, or several joined by +, as hop-by-hop+destination"
)]
pub struct StrategyError(pub String);

impl Strategy {
    /// The flow label (RFC 8200 §6).
    pub const LABEL: Self = Self(1);
    /// An option in a destination options header (RFC 8200 §4.6).
    pub const DESTINATION: Self = Self(2);
    /// An option in a hop-by-hop options header (RFC 8200 §4.3).
    pub const HOP_BY_HOP: Self = Self(4);

    const ALL: [(Self, &'static str); 3] =
        [(Self::LABEL, "label"), (Self::HOP_BY_HOP, "hop-by-hop"), (Self::DESTINATION, "destination")];

    /// The bits, as the marking program has them: 1 label, 2 destination, 4 hop-by-hop.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The strategy with these bits; none for no bit and for unknown bits.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits == 0 || bits > 7 { None } else { Some(Self(bits)) }
    }

    /// Whether `other` is part of it.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bytes by which the headers make a packet longer: 0, 8 or 16.
    #[must_use]
    pub const fn header_len(self) -> usize {
        HEADER_LEN * (self.contains(Self::DESTINATION) as usize + self.contains(Self::HOP_BY_HOP) as usize)
    }
}

/// The label.
impl Default for Strategy {
    fn default() -> Self {
        Self::LABEL
    }
}

impl std::ops::BitOr for Strategy {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `label`, `hop-by-hop+destination`.
impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::ALL.iter().filter(|(part, _)| self.contains(*part)).map(|(_, name)| *name);
        f.pad(&names.collect::<Vec<_>>().join("+"))
    }
}

/// Upper and lower case, and `_` or nothing for `-`, are one; flowd-go's `hopByHopDestination` is known.
impl FromStr for Strategy {
    type Err = StrategyError;
    fn from_str(text: &str) -> Result<Self, StrategyError> {
        let part = |word: &str| match word.trim().to_ascii_lowercase().replace(['-', '_'], "").as_str() {
            "label" => Some(Self::LABEL),
            "destination" => Some(Self::DESTINATION),
            "hopbyhop" => Some(Self::HOP_BY_HOP),
            "hopbyhopdestination" => Some(Self::HOP_BY_HOP | Self::DESTINATION),
            _ => None,
        };
        let parts: Option<Vec<Self>> = text.split('+').map(part).collect();
        parts
            .and_then(|p| p.into_iter().reduce(|a, b| a | b))
            .ok_or_else(|| StrategyError(text.chars().take(60).collect()))
    }
}

impl TryFrom<String> for Strategy {
    type Error = StrategyError;
    fn try_from(text: String) -> Result<Self, StrategyError> {
        text.parse()
    }
}

impl From<Strategy> for String {
    fn from(strategy: Strategy) -> Self {
        strategy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_is_read_as_it_is_written() {
        for strategy in (1..8).filter_map(Strategy::from_bits) {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        for (text, expected) in [
            ("hopByHopDestination", Strategy::HOP_BY_HOP | Strategy::DESTINATION),
            ("HOP_BY_HOP", Strategy::HOP_BY_HOP),
            ("destination + label", Strategy::LABEL | Strategy::DESTINATION),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "+", "label+", "labels", "label,destination"] {
            assert_eq!(text.parse::<Strategy>(), Err(StrategyError(text.to_owned())));
        }
        assert_eq!(Strategy::from_bits(0), None);
        assert_eq!(Strategy::from_bits(8), None);
    }
}
