//! Counts by tag. A packet counts once for each tag that it says, in however many headers it says it.

use flowtag_wire::{Packet, ScitagInteger, Tag};

use super::evidence::{Evidence, Source};
use super::flows::Count;

/// What is known of one tag.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TagCount {
    pub(super) count: Count,
    /// Flows that said it, of those that are kept.
    pub(super) flows: u64,
    /// One bit for each [`Source`].
    sources: u8,
}

impl TagCount {
    /// Where the tag was found.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        let sources = self.sources;
        Source::ALL.into_iter().filter(move |source| sources & bit(*source) != 0)
    }
}

const fn bit(source: Source) -> u8 {
    1 << source as u8
}

/// One counter for every tag that there can be: 1 MiB, and no look-up that a hostile file could make slow.
pub(super) struct Tags {
    counts: Vec<TagCount>,
}

impl Tags {
    pub(super) fn new() -> Self {
        Self { counts: vec![TagCount::default(); 1 << 15] }
    }

    /// Tags have 15 bits, so this is never none.
    fn get(&mut self, tag: Tag) -> Option<&mut TagCount> {
        self.counts.get_mut(usize::from(ScitagInteger::from(tag).get()))
    }

    pub(super) fn add(&mut self, packet: &Packet<'_>, bytes: u32) {
        for (i, evidence) in Evidence::of(packet).enumerate() {
            let Some(tag) = evidence.tag() else { continue };
            let said_before = Evidence::of(packet).take(i).any(|before| before.tag() == Some(tag));
            let Some(count) = self.get(tag) else { continue };
            count.sources |= bit(evidence.source());
            if !said_before {
                count.count.add(bytes);
            }
        }
    }

    /// Counts a flow that says this, if it is a tag.
    pub(super) fn add_flow(&mut self, tag: Option<Tag>) {
        if let Some(count) = tag.and_then(|tag| self.get(tag)) {
            count.flows += 1;
        }
    }

    /// All tags that were seen, by number.
    pub(super) fn seen(&self) -> impl Iterator<Item = (Tag, TagCount)> {
        let numbered = self.counts.iter().zip(0_u64..).filter(|(count, _)| count.count.packets != 0);
        numbered.filter_map(|(count, number)| {
            let tag = ScitagInteger::new(number).and_then(Tag::try_from).ok()?;
            Some((tag, *count))
        })
    }
}
