//! What one packet says about its owner, and where it says so.

use flowtag_engine::Registry;
use flowtag_wire::option::{Found, Place};
use flowtag_wire::{FlowLabel, Packet, Tag};
use serde::Serialize;

use crate::cli::tag::Named;

/// One claim of a packet, with the place it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    Label(FlowLabel),
    Option(Place, Found),
}

impl Evidence {
    /// All that the packet says, each thing once.
    pub(super) fn of<'p>(packet: &'p Packet<'_>) -> impl Iterator<Item = Self> + 'p {
        let label = packet.flow_label.map(Self::Label);
        let said_before =
            |i: usize| packet.option_tags.iter().take(i).any(|o| Some(o) == packet.option_tags.get(i));
        let options = packet.option_tags.iter().enumerate().filter(move |(i, _)| !said_before(*i));
        label.into_iter().chain(options.map(|(_, option)| Self::Option(option.place, option.found)))
    }

    /// The tag that it says; none for labels that are not set and numbers that are out of range.
    pub(super) fn tag(self) -> Option<Tag> {
        match self {
            Self::Label(label) => label.tag(),
            Self::Option(_, Found::Tag(tag)) => Some(tag),
            Self::Option(_, Found::OutOfRange { .. }) => None,
        }
    }

    pub(super) const fn source(self) -> Source {
        match self {
            Self::Label(_) => Source::Label,
            Self::Option(Place::HopByHop, _) => Source::HopByHop,
            Self::Option(Place::Destination, _) => Source::Destination,
        }
    }

    /// The tag's name, or why there is none.
    pub(super) fn describe(self, registry: &Registry) -> String {
        match (self, self.tag()) {
            (_, Some(tag)) => registry.describe(tag),
            (Self::Option(_, Found::OutOfRange { experiment, activity }), None) => {
                format!("{experiment}/{activity}, out of range")
            }
            (Self::Label(label), None) if label.value() == 0 => "not set".to_owned(),
            _ => "no tag".to_owned(),
        }
    }
}

/// The header that a tag was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    Label,
    HopByHop,
    Destination,
}

impl Source {
    pub(super) const ALL: [Self; 3] = [Self::Label, Self::HopByHop, Self::Destination];

    /// As in the tables and the `markingStrategy` of the peers.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::HopByHop => "hop-by-hop",
            Self::Destination => "destination",
        }
    }
}

/// A claim in JSON.
#[derive(Debug, Serialize)]
pub(super) struct EvidenceObject<'a> {
    from: Source,
    flow_label: Option<String>,
    tag: Option<Named<'a>>,
    /// The numbers of an option that are no tag.
    out_of_range: Option<[u16; 2]>,
}

impl<'a> EvidenceObject<'a> {
    pub(super) fn new(registry: &'a Registry, evidence: Evidence) -> Self {
        let (flow_label, out_of_range) = match evidence {
            Evidence::Label(label) => (Some(label.to_string()), None),
            Evidence::Option(_, Found::OutOfRange { experiment, activity }) => {
                (None, Some([experiment, activity.into()]))
            }
            Evidence::Option(_, Found::Tag(_)) => (None, None),
        };
        let tag = evidence.tag().map(|tag| Named::new(registry, tag));
        Self { from: evidence.source(), flow_label, tag, out_of_range }
    }
}
