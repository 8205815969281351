//! Flow labels and options against an independent reading of the draft and against its worked examples.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not tests to the lint")]

use flowtag_wire::option::{self, Found, Place};
use flowtag_wire::{Entropy, FlowLabel, ScitagInteger, Tag};
use proptest::prelude::*;

/// Position of each bit as the draft counts them: 1 is the most significant of 20. The owner's bits come first to
/// last from the least significant, the application's from the most significant.
const OWNER: [u32; 9] = [3, 4, 5, 6, 7, 8, 9, 10, 11];
const APPLICATION: [u32; 6] = [13, 14, 15, 16, 17, 18];
const ENTROPY: [u32; 5] = [1, 2, 12, 19, 20];

fn bit(position: u32) -> u32 {
    1 << (20 - position)
}

fn reference(experiment: u32, activity: u32) -> u32 {
    let owner = OWNER.iter().enumerate().filter(|(i, _)| experiment >> i & 1 == 1);
    let application = APPLICATION.iter().rev().enumerate().filter(|(i, _)| activity >> i & 1 == 1);
    owner.chain(application).map(|(_, position)| bit(*position)).sum()
}

#[test]
fn every_pair_of_numbers_has_the_label_of_the_draft_or_none() {
    for experiment in 0..512_u32 {
        for activity in 0..64_u32 {
            let label = FlowLabel::new(reference(experiment, activity).into()).unwrap();
            match Tag::new(experiment.into(), activity.into()) {
                Ok(tag) => {
                    assert_eq!(FlowLabel::from_tag(tag, Entropy::NONE), label, "{tag}");
                    assert_eq!(label.tag(), Some(tag));
                }
                Err(_) => assert_eq!(label.tag(), None, "{experiment}/{activity}"),
            }
        }
    }
}

#[test]
fn entropy_fills_exactly_the_positions_that_carry_no_tag() {
    assert_eq!(Entropy::MASK, ENTROPY.iter().map(|p| bit(*p)).sum::<u32>());
    let all = reference(511, 63);
    assert_eq!(all & Entropy::MASK, 0);
    assert_eq!(all | Entropy::MASK, FlowLabel::MAX);
}

/// experiment, activity, scitag integer, label, option header before TCP.
const EXAMPLES: [(u64, u64, u16, u32, [u8; 8]); 15] = [
    (1, 1, 65, 131_076, [6, 0, 0x1e, 3, 0, 1, 1, 0]),
    (1, 2, 66, 131_080, [6, 0, 0x1e, 3, 0, 1, 2, 0]),
    (2, 1, 129, 65_540, [6, 0, 0x1e, 3, 0, 2, 1, 0]),
    (2, 9, 137, 65_572, [6, 0, 0x1e, 3, 0, 2, 9, 0]),
    (2, 19, 147, 65_612, [6, 0, 0x1e, 3, 0, 2, 0x13, 0]),
    (3, 3, 195, 196_620, [6, 0, 0x1e, 3, 0, 3, 3, 0]),
    (3, 4, 196, 196_624, [6, 0, 0x1e, 3, 0, 3, 4, 0]),
    (3, 14, 206, 196_664, [6, 0, 0x1e, 3, 0, 3, 0x0e, 0]),
    (3, 23, 215, 196_700, [6, 0, 0x1e, 3, 0, 3, 0x17, 0]),
    (3, 24, 216, 196_704, [6, 0, 0x1e, 3, 0, 3, 0x18, 0]),
    (4, 3, 259, 32_780, [6, 0, 0x1e, 3, 0, 4, 3, 0]),
    (4, 4, 260, 32_784, [6, 0, 0x1e, 3, 0, 4, 4, 0]),
    (5, 10, 330, 163_880, [6, 0, 0x1e, 3, 0, 5, 0x0a, 0]),
    (5, 14, 334, 163_896, [6, 0, 0x1e, 3, 0, 5, 0x0e, 0]),
    (511, 63, 32_767, 261_884, [6, 0, 0x1e, 3, 1, 0xff, 0x3f, 0]),
];

#[test]
fn the_worked_examples_that_the_deployed_daemons_agree_on() {
    for (experiment, activity, scitag, label, header) in EXAMPLES {
        let tag = Tag::new(experiment, activity).unwrap();
        assert_eq!(ScitagInteger::from(tag).get(), scitag, "{tag}");
        assert_eq!(Tag::try_from(ScitagInteger::new(scitag.into()).unwrap()), Ok(tag));
        assert_eq!(FlowLabel::from_tag(tag, Entropy::NONE).value(), label, "{tag}");
        assert_eq!(option::header(tag, 6), header, "{tag}");
    }
}

#[test]
fn the_combination_is_a_hop_by_hop_and_a_destination_header() {
    let tag = Tag::new(3, 14).unwrap();
    let expected = [0x3c, 0, 0x1e, 3, 0, 3, 14, 0, 6, 0, 0x1e, 3, 0, 3, 14, 0];
    assert_eq!(option::both(tag, 6), expected);
    assert_eq!((Place::HopByHop.number(), Place::Destination.number()), (0, 0x3c));
}

#[test]
fn what_does_not_fit_is_refused_and_names_the_range() {
    for (experiment, activity, message) in [
        (512, 1, "experiment 512 is out of range: use 1 to 511"),
        (0, 1, "experiment 0 is out of range: use 1 to 511"),
        (1, 64, "activity 64 is out of range: use 1 to 63"),
        (1, 0, "activity 0 is out of range: use 1 to 63"),
    ] {
        assert_eq!(Tag::new(experiment, activity).unwrap_err().to_string(), message);
    }
    // A SciTags integer has room for experiments that a label has not.
    assert!(Tag::try_from(ScitagInteger::new(512 << 6 | 1).unwrap()).is_err());
}

fn any_tag() -> impl Strategy<Value = Tag> {
    (1..512_u64, 1..64_u64).prop_map(|(e, a)| Tag::new(e, a).unwrap())
}

proptest! {
    #[test]
    fn entropy_never_changes_the_tag(tag in any_tag(), random: u32) {
        let entropy = Entropy::from_random(random);
        let label = FlowLabel::from_tag(tag, entropy);
        prop_assert_eq!((label.tag(), label.entropy()), (Some(tag), entropy));
    }

    #[test]
    fn a_written_option_is_read_back(tag in any_tag(), next: u8) {
        prop_assert_eq!(option::find(&option::header(tag, next)), Ok(Some(Found::Tag(tag))));
        prop_assert_eq!(option::find(&option::both(tag, next)[8..]), Ok(Some(Found::Tag(tag))));
    }

    #[test]
    fn any_bytes_are_an_option_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = option::find(&bytes);
    }
}
