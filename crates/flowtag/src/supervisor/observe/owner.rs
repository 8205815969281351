//! Of whom a record tells, in the words that are labels.

use std::borrow::Cow;

use flowtag_kernel::probes::Context;
use flowtag_wire::{Experiment, Tag};
use ipnet::IpNet;

use crate::config::{Label, Observe};
use crate::names::{Names, unit};

/// Whose a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    /// Series are not told apart by it.
    Unasked,
    /// Of a flow that has no tag.
    Nobody,
    Experiment(Experiment),
    Tag(Tag),
    Other,
}

/// Of whom a record tells, as far as series are told apart by it.
pub(super) struct Owner<'a> {
    pub(super) whose: Whose,
    context: &'a Context,
    peer: (u8, u8),
    names: &'a Names,
}

impl<'a> Owner<'a> {
    pub(super) fn new(context: &'a Context, config: &Observe, names: &'a Names) -> Self {
        let whose = match (config.has(Label::Experiment), config.has(Label::Activity), context.tag) {
            (false, ..) => Whose::Unasked,
            (true, _, None) => Whose::Nobody,
            (true, true, Some(tag)) => Whose::Tag(tag),
            (true, false, Some(tag)) => Whose::Experiment(tag.experiment),
        };
        Self { whose, context, peer: config.peer, names }
    }

    pub(super) fn text(&self, label: Label) -> Cow<'static, str> {
        let known = match label {
            Label::Interface => self.interface(),
            Label::Process => self.context.owner.process.clone(),
            Label::Unit => self.context.owner.cgroup.and_then(|id| unit(&self.names.cgroup(id)?)),
            Label::Peer => self.prefix().map(|prefix| prefix.to_string()),
            Label::Experiment | Label::Activity => None,
        };
        known.map_or("unknown".into(), Into::into)
    }

    fn interface(&self) -> Option<String> {
        self.names.interface(self.context.netns, self.context.interface?)
    }

    fn prefix(&self) -> Option<IpNet> {
        let addr = self.context.flow?.remote.addr();
        let bits = if addr.is_ipv4() { self.peer.0 } else { self.peer.1 };
        IpNet::new(addr, bits).ok().map(|net| net.trunc())
    }
}
