//! Tags and their three encodings, each a type of its own because the field keeps confusing them.
//!
//! | type | what | where it is used |
//! |---|---|---|
//! | [`Tag`] | experiment and activity | fireflies, configuration, the control API |
//! | [`ScitagInteger`] | `experiment << 6 \| activity` | HTTP `SciTag:` header, `scitag.flow=` of XRootD, FTS, gfal |
//! | [`FlowLabel`] | 20 bits with reversed experiment bits and five bits of entropy | the IPv6 header |

use std::fmt;
use std::num::{NonZeroU8, NonZeroU16};

use serde::{Deserialize, Serialize};

/// Why a number is not an experiment, an activity or an encoding of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// The experiment does not fit the nine bits of the flow label, or is zero.
    #[error("experiment {0} is out of range: use 1 to {max}", max = Experiment::MAX)]
    Experiment(u64),
    /// The activity does not fit the six bits of the flow label, or is zero.
    #[error("activity {0} is out of range: use 1 to {max}", max = Activity::MAX)]
    Activity(u64),
    /// The number has more than the 20 bits of a flow label.
    #[error("flow label {0:#x} is out of range: a flow label has 20 bits, at most 0xfffff")]
    FlowLabel(u64),
    /// The number has more than the 16 bits of a SciTags integer.
    #[error("scitag integer {0} is out of range: use {min} to 65535", min = ScitagInteger::MIN)]
    ScitagInteger(u64),
}

/// The experiment (owner) of a flow: 1 to 511, the nine owner bits of the flow label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u16")]
pub struct Experiment(NonZeroU16);

impl Experiment {
    /// The largest experiment that fits the flow label.
    pub const MAX: u16 = 511;

    /// # Errors
    /// [`TagError::Experiment`] outside 1 to 511.
    pub fn new(value: u64) -> Result<Self, TagError> {
        u16::try_from(value)
            .ok()
            .filter(|v| *v <= Self::MAX)
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or(TagError::Experiment(value))
    }

    /// The number in the SciTags registry.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// The activity (application) of a flow: 1 to 63, the six application bits of the flow label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u8")]
pub struct Activity(NonZeroU8);

impl Activity {
    /// The largest activity that fits the flow label.
    pub const MAX: u8 = 63;

    /// # Errors
    /// [`TagError::Activity`] outside 1 to 63.
    pub fn new(value: u64) -> Result<Self, TagError> {
        u8::try_from(value)
            .ok()
            .filter(|v| *v <= Self::MAX)
            .and_then(NonZeroU8::new)
            .map(Self)
            .ok_or(TagError::Activity(value))
    }

    /// The number in the SciTags registry.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

macro_rules! numeric {
    ($type:ty, $int:ty) => {
        impl TryFrom<u64> for $type {
            type Error = TagError;
            fn try_from(value: u64) -> Result<Self, TagError> {
                Self::new(value)
            }
        }
        impl From<$type> for $int {
            fn from(value: $type) -> $int {
                value.get()
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }
    };
}
numeric!(Experiment, u16);
numeric!(Activity, u8);

/// Whose traffic a flow is: the pair that everything else encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag {
    /// Who owns the traffic.
    pub experiment: Experiment,
    /// What the traffic is for, numbered within the experiment.
    pub activity: Activity,
}

impl Tag {
    /// # Errors
    /// Names the first of the two numbers that is out of range.
    pub fn new(experiment: u64, activity: u64) -> Result<Self, TagError> {
        Ok(Self { experiment: Experiment::new(experiment)?, activity: Activity::new(activity)? })
    }
}

/// `3/14`: experiment and activity.
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.experiment, self.activity)
    }
}

/// `experiment << 6 | activity`, the integer that transfer tools carry in headers and URLs. 16 bits wide, so it can
/// hold experiments up to 1023 that no flow label can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScitagInteger(u16);

impl ScitagInteger {
    /// Experiment 1, activity 1: the technical note reserves everything below.
    pub const MIN: u16 = 65;

    /// # Errors
    /// [`TagError::ScitagInteger`] outside 65 to 65535.
    pub fn new(value: u64) -> Result<Self, TagError> {
        u16::try_from(value).ok().filter(|v| *v >= Self::MIN).map(Self).ok_or(TagError::ScitagInteger(value))
    }

    /// The integer itself.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<Tag> for ScitagInteger {
    fn from(tag: Tag) -> Self {
        Self(tag.experiment.get() << 6 | u16::from(tag.activity.get()))
    }
}

impl TryFrom<ScitagInteger> for Tag {
    type Error = TagError;
    fn try_from(value: ScitagInteger) -> Result<Self, TagError> {
        Self::new(u64::from(value.0 >> 6), u64::from(value.0 & 0x3f))
    }
}

/// The five bits of a flow label that carry no tag and keep load balancers spreading flows.
///
/// draft-cc-v6ops-wlcg-flow-label-marking: drawn once per flow, stable for its lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Entropy(u32);

impl Entropy {
    /// Where the entropy bits are in the label: positions 1, 2, 12, 19 and 20, counted from the most significant.
    pub const MASK: u32 = 0xc_0103;
    /// All five bits zero.
    pub const NONE: Self = Self(0);

    /// Keeps the entropy bits of `bits`, which are best all random.
    #[must_use]
    pub const fn from_random(bits: u32) -> Self {
        Self(bits & Self::MASK)
    }

    /// The bits in their places in the label.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// An IPv6 flow label (RFC 8200 §6, RFC 6437): 20 bits.
///
/// With a tag in it: entropy 2, experiment 9 (reversed bit order), entropy 1, activity 6, entropy 2
/// (draft-cc-v6ops-wlcg-flow-label-marking).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowLabel(u32);

impl FlowLabel {
    /// The largest flow label.
    pub const MAX: u32 = 0xf_ffff;

    /// # Errors
    /// [`TagError::FlowLabel`] above 20 bits.
    pub fn new(value: u64) -> Result<Self, TagError> {
        u32::try_from(value).ok().filter(|v| *v <= Self::MAX).map(Self).ok_or(TagError::FlowLabel(value))
    }

    /// The label that says `tag`, with these entropy bits.
    #[must_use]
    pub fn from_tag(tag: Tag, entropy: Entropy) -> Self {
        let experiment = u32::from(reverse9(tag.experiment.get()));
        Self(experiment << 9 | u32::from(tag.activity.get()) << 2 | entropy.bits())
    }

    /// The tag in the label; none where the experiment or the activity would be zero. Of the labels that a kernel
    /// draws at random 98 % read as some tag, so a label alone never proves that somebody meant it as one.
    #[must_use]
    pub fn tag(self) -> Option<Tag> {
        let experiment = reverse9((self.0 >> 9 & 0x1ff) as u16);
        Tag::new(u64::from(experiment), u64::from(self.0 >> 2 & 0x3f)).ok()
    }

    /// The five bits that carry no tag.
    #[must_use]
    pub const fn entropy(self) -> Entropy {
        Entropy::from_random(self.0)
    }

    /// The 20 bits.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// `0x30038`: five hexadecimal digits, as tcpdump and Wireshark print it.
impl fmt::Display for FlowLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#07x}", self.0)
    }
}

/// Reverses the nine low bits: the draft numbers the owner's bits from the least significant.
const fn reverse9(value: u16) -> u16 {
    (value & 0x1ff).reverse_bits() >> 7
}
