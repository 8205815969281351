//! Options that are found are in the bytes, tags that are written are found, and labels keep tag and entropy.

use flowtag_wire::option::{self, Found, OPTION_LEN, OPTION_TYPE, OptionError};
use flowtag_wire::{Entropy, FlowLabel, ScitagInteger, Tag};

pub(crate) fn run(data: &[u8]) {
    check_find(data);
    if let Some(number) = data.first_chunk().copied().map(u32::from_be_bytes) {
        check_label(number);
    }
}

fn check_find(data: &[u8]) {
    match option::find(data) {
        Ok(None) => {}
        Ok(Some(found)) => {
            let (experiment, activity) = match found {
                Found::Tag(tag) => (tag.experiment.get(), tag.activity.get()),
                Found::OutOfRange { experiment, activity } => {
                    assert!(Tag::new(experiment.into(), activity.into()).is_err());
                    (experiment, activity)
                }
            };
            let [hi, lo] = experiment.to_be_bytes();
            let bytes = [OPTION_TYPE, OPTION_LEN, hi, lo, activity];
            let header = &data[..option::total_len(data[1])];
            assert!(header[2..].windows(bytes.len()).any(|w| w == bytes));
        }
        Err(OptionError::Truncated { need, have }) => assert!(have == data.len() && need > have),
        Err(OptionError::Overrun { kind, offset }) => assert_eq!(data[offset], kind),
    }
}

fn check_label(number: u32) {
    let Ok(label) = FlowLabel::new(number.into()) else {
        assert!(number > FlowLabel::MAX);
        return;
    };
    let Some(tag) = label.tag() else { return };
    assert_eq!(FlowLabel::from_tag(tag, label.entropy()), label);
    assert_eq!(FlowLabel::from_tag(tag, Entropy::NONE).value(), number & !Entropy::MASK);
    assert_eq!(Tag::try_from(ScitagInteger::from(tag)), Ok(tag));
    let next = number as u8;
    assert_eq!(option::find(&option::header(tag, next)), Ok(Some(Found::Tag(tag))));
    assert_eq!(option::find(&option::both(tag, next)[option::HEADER_LEN..]), Ok(Some(Found::Tag(tag))));
}
