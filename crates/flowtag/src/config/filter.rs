//! Which flows something is about: by whose they are and by where they go.

use std::net::IpAddr;

use flowtag_wire::{Activity, Experiment, Tag};
use ipnet::IpNet;

/// Conditions that all have to hold; an empty one always does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// An experiment with all its activities, or one of them. One of the list has to be the flow's.
    pub(crate) tags: Vec<(Experiment, Option<Activity>)>,
    /// One of them has to contain one end of the flow.
    pub(crate) prefixes: Vec<IpNet>,
}

impl Filter {
    pub(crate) fn wants_tag(&self, tag: Tag) -> bool {
        let of = |(experiment, activity): &(Experiment, Option<Activity>)| {
            *experiment == tag.experiment && activity.is_none_or(|a| a == tag.activity)
        };
        self.tags.is_empty() || self.tags.iter().any(of)
    }

    pub(crate) fn wants(&self, tag: Tag, ends: [IpAddr; 2]) -> bool {
        let within = |prefix: &IpNet| ends.iter().any(|end| prefix.contains(end));
        self.wants_tag(tag) && (self.prefixes.is_empty() || self.prefixes.iter().any(within))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_have_to_hold_and_none_is_no_condition() {
        let tag = |e, a| Tag::new(e, a).expect("a tag");
        let ends = |a: &str, b: &str| [a, b].map(|end| end.parse().expect("an address"));
        let (cms, atlas) = (tag(3, 14), tag(2, 9));
        let near = ends("2001:db8::1", "2001:db8:5::2");
        assert!(Filter::default().wants(cms, near));
        let tags = Filter { tags: vec![(cms.experiment, Some(cms.activity))], ..Filter::default() };
        assert!(tags.wants(cms, near) && !tags.wants(tag(3, 15), near) && !tags.wants(atlas, near));
        let whole = Filter { tags: vec![(cms.experiment, None)], ..Filter::default() };
        assert!(whole.wants(tag(3, 15), near) && !whole.wants(atlas, near));
        let both = Filter { prefixes: vec!["2001:db8:5::/48".parse().expect("a prefix")], ..whole };
        assert!(both.wants(cms, near) && !both.wants(atlas, near));
        assert!(!both.wants(cms, ends("2001:db8::1", "192.0.2.1")));
    }
}
