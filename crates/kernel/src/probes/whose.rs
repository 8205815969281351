//! By what sums are told apart that probes keep in the kernel.

use super::Options;
use super::abi::{observe_part as part, observe_whose};
use super::record::{Context, Flow, Owner, monotonic};
use crate::mark::Mark;

/// As [`Options`] name them.
const PARTS: [(&str, u32); 10] = [
    ("peer", part::OBSERVE_BY_PEER),
    ("prefix", part::OBSERVE_BY_PREFIX),
    ("tag", part::OBSERVE_BY_TAG),
    ("process", part::OBSERVE_BY_PROCESS),
    ("pid", part::OBSERVE_BY_PID),
    ("cgroup", part::OBSERVE_BY_CGROUP),
    ("user", part::OBSERVE_BY_USER),
    ("netns", part::OBSERVE_BY_NETNS),
    ("flow", part::OBSERVE_BY_FLOW),
    ("interface", part::OBSERVE_BY_INTERFACE),
];

/// Those that the options have; where they have none, the probe's own.
pub(super) fn parts(options: &Options, default: &[&str]) -> u32 {
    let bits = |has: &dyn Fn(&str) -> bool| {
        PARTS.iter().filter(|(name, _)| has(name)).fold(0, |bits, (_, bit)| bits | bit)
    };
    match bits(&|name| options.has(name)) {
        0 if options.has("all") => 0,
        0 => bits(&|name| default.contains(&name)),
        asked => asked,
    }
}

/// As far as it is told apart: the rest is none, or 0 in the flow.
pub(super) fn context(raw: &observe_whose) -> Context {
    let owner = Owner {
        user: (raw.parts & part::OBSERVE_BY_USER != 0).then_some(raw.owner.user),
        ..Owner::from(&raw.owner)
    };
    Context {
        time: monotonic(),
        flow: Flow::from_key(&raw.flow),
        cookie: None,
        tag: Mark::from_word(raw.word).and_then(|mark| mark.label.tag()),
        owner,
        netns: (raw.netns != 0).then_some(raw.netns),
        interface: (raw.interface != 0).then_some(raw.interface),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_told_apart_by_what_is_asked() {
        let options = |names: &[&str]| Options::new(names.iter().map(|n| (*n).to_owned()));
        assert_eq!(parts(&options(&[]), &["tag"]), part::OBSERVE_BY_TAG);
        assert_eq!(parts(&options(&["peer", "pid"]), &["tag"]), part::OBSERVE_BY_PEER | part::OBSERVE_BY_PID);
        assert_eq!(parts(&options(&["all"]), &["tag"]), 0);
    }
}
