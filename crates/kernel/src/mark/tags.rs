//! Which tag is counted where: a class is an index into the program's counters.

use std::collections::HashMap;

use flowtag_wire::{ScitagInteger, Tag};
use zerocopy::IntoBytes;

use super::abi::mark_limits::MARK_MAX_TAGS;
use super::{Maps, map};
use crate::Result;

/// Classes that are taken; kept in the kernel, too, for the next daemon.
#[derive(Debug, Default)]
pub(super) struct Tags {
    classes: HashMap<Tag, u8>,
}

impl Tags {
    /// Those that an earlier daemon gave out.
    pub(super) fn read(maps: &Maps) -> Result<Self> {
        let mut classes = HashMap::new();
        for class in 1..MARK_MAX_TAGS {
            let number = maps.read::<u32>(map::CLASSES, class.as_bytes())?.unwrap_or(0);
            let tag = ScitagInteger::new(number.into()).ok().and_then(|n| Tag::try_from(n).ok());
            classes.extend(tag.map(|tag| (tag, class as u8)));
        }
        Ok(Self { classes })
    }

    /// The class of a tag; 0, which all further tags share, when none is left.
    pub(super) fn class(&mut self, tag: Tag, maps: &Maps) -> Result<u8> {
        if let Some(class) = self.classes.get(&tag) {
            return Ok(*class);
        }
        let Some(class) = u8::try_from(self.classes.len() + 1).ok() else { return Ok(0) };
        let number = u32::from(ScitagInteger::from(tag).get());
        maps.write(map::CLASSES, u32::from(class).as_bytes(), number.as_bytes())?;
        self.classes.insert(tag, class);
        Ok(class)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Tag, u8)> {
        self.classes.iter().map(|(tag, class)| (*tag, *class))
    }
}
