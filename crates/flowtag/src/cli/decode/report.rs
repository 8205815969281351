//! What was counted: a table of flows, a table of tags, and the sum of the file.
//!
//! 80 columns hold all but long addresses and names, which push their line out and are never cut.

use std::cmp::Reverse;
use std::io::{self, Write};

use anyhow::Result;
use flowtag_wire::{CaptureError, Tag};
use jiff::Timestamp;
use serde::Serialize;

use super::View;
use super::evidence::{Evidence, EvidenceObject, Source};
use super::flows::{Claim, Flow, Flows, Key, MAX_CLAIMS, Stability};
use super::tags::TagCount;
use super::totals::Totals;
use crate::cli::tag::{Named, is_registered, registered};

/// Milliseconds are enough to tell flows apart.
const DECIMALS: usize = 3;

/// All that the tables are made of.
pub(super) struct Report<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) totals: &'a Totals,
    pub(super) flows: &'a Flows,
    /// Rows of each table.
    pub(super) limit: usize,
}

/// A flow in JSON.
#[derive(Debug, Serialize)]
struct FlowObject<'a> {
    kind: &'static str,
    protocol: String,
    protocol_number: u8,
    src: String,
    src_port: Option<u16>,
    dst: String,
    dst_port: Option<u16>,
    packets: u64,
    bytes: u64,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    /// How often a packet had another label than the one before.
    label_changes: u64,
    /// Whether all labels that are not 0 have the same five entropy bits; null without labels.
    entropy_stable: Option<bool>,
    /// The same of the other 15 bits.
    label_tag_stable: Option<bool>,
    evidence: Vec<ClaimObject<'a>>,
    evidence_not_kept: u64,
}

#[derive(Debug, Serialize)]
struct ClaimObject<'a> {
    #[serde(flatten)]
    evidence: EvidenceObject<'a>,
    packets: u64,
    bytes: u64,
}

/// A tag in JSON.
#[derive(Debug, Serialize)]
struct TagObject<'a> {
    kind: &'static str,
    #[serde(flatten)]
    named: Named<'a>,
    packets: u64,
    bytes: u64,
    /// Of all bytes in the file, 0 to 1.
    bytes_share: f64,
    flows: u64,
    from: Vec<Source>,
}

/// The sum in JSON, always the last object.
#[derive(Debug, Serialize)]
struct SummaryObject {
    kind: &'static str,
    packets: u64,
    bytes: u64,
    not_ip: u64,
    unreadable: u64,
    partly_read: u64,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    /// Null where flows were not counted.
    flows: Option<usize>,
    packets_beyond_max_flows: Option<u64>,
    bytes_beyond_max_flows: Option<u64>,
    evidence_not_kept: Option<u64>,
    first_unreadable: Option<String>,
    /// Why the file was not read to its end.
    error: Option<String>,
}

impl Report<'_> {
    pub(super) fn print(&self, ended: Option<&CaptureError>, out: &mut impl Write) -> Result<()> {
        let flows = self.shown_flows();
        let tags = self.shown_tags();
        if self.view.json {
            self.flow_objects(&flows, out)?;
            self.tag_objects(&tags, out)?;
        } else {
            self.flow_table(&flows, out)?;
            self.tag_table(&tags, out)?;
        }
        summary(self.view, self.totals, Some(self.flows), ended, out)
    }

    fn shown_flows(&self) -> Vec<(&Key, &Flow)> {
        let wanted = |claim: &Claim| claim.evidence.tag().is_some_and(|tag| self.view.wants(tag));
        let mut flows = self.flows.sorted();
        flows.retain(|(_, flow)| self.view.is_unfiltered() || flow.claims.iter().any(wanted));
        flows
    }

    /// Registered tags first, as the others are mostly chance; then most bytes first.
    fn shown_tags(&self) -> Vec<(Tag, TagCount)> {
        let mut tags: Vec<_> = self.flows.tags.seen().filter(|(tag, _)| self.view.wants(*tag)).collect();
        tags.sort_by_key(|(tag, count)| {
            (!is_registered(self.view.registry, *tag), Reverse(count.count.bytes))
        });
        tags
    }

    fn flow_objects(&self, flows: &[(&Key, &Flow)], out: &mut impl Write) -> Result<()> {
        flows.iter().take(self.limit).try_for_each(|(key, flow)| json(out, &self.flow_object(key, flow)))
    }

    fn flow_object(&self, key: &Key, flow: &Flow) -> FlowObject<'_> {
        let (tag_stable, entropy_stable) = match flow.stability() {
            Stability::Ipv4 | Stability::Unset => (None, None),
            Stability::Stable | Stability::Partial => (Some(true), Some(true)),
            Stability::Changed { tag, entropy } => (Some(!tag), Some(!entropy)),
        };
        FlowObject {
            kind: "flow",
            protocol: key.protocol_name(),
            protocol_number: key.protocol,
            src: key.src.to_string(),
            src_port: key.ports.map(|(src, _)| src),
            dst: key.dst.to_string(),
            dst_port: key.ports.map(|(_, dst)| dst),
            packets: flow.count.packets,
            bytes: flow.count.bytes,
            first_seen: flow.first,
            last_seen: flow.last,
            label_changes: flow.label_changes,
            entropy_stable,
            label_tag_stable: tag_stable,
            evidence: flow.claims.iter().map(|claim| self.claim_object(claim)).collect(),
            evidence_not_kept: flow.claims_not_kept,
        }
    }

    fn claim_object(&self, claim: &Claim) -> ClaimObject<'_> {
        let evidence = EvidenceObject::new(self.view.registry, claim.evidence);
        ClaimObject { evidence, packets: claim.count.packets, bytes: claim.count.bytes }
    }

    fn tag_objects(&self, tags: &[(Tag, TagCount)], out: &mut impl Write) -> Result<()> {
        tags.iter().take(self.limit).try_for_each(|(tag, count)| {
            let object = TagObject {
                kind: "tag",
                named: Named::new(self.view.registry, *tag),
                packets: count.count.packets,
                bytes: count.count.bytes,
                bytes_share: self.share(count),
                flows: count.flows,
                from: count.sources().collect(),
            };
            json(out, &object)
        })
    }

    fn share(&self, count: &TagCount) -> f64 {
        // Both are far below 2^53.
        count.count.bytes as f64 / self.totals.all.bytes.max(1) as f64
    }

    fn flow_table(&self, flows: &[(&Key, &Flow)], out: &mut impl Write) -> Result<()> {
        if let Some(start) = self.totals.start {
            writeln!(out, "Seconds count from the first packet, {start}.\n")?;
        }
        row(out, "FLOW, THEN WHAT ITS PACKETS SAY", "PACKETS", "BYTES", "REGISTERED")?;
        for (key, flow) in flows.iter().take(self.limit) {
            self.flow_rows(key, flow, out)?;
        }
        self.more(flows.len(), "flows", out)
    }

    fn flow_rows(&self, key: &Key, flow: &Flow, out: &mut impl Write) -> Result<()> {
        writeln!(out, "{key}")?;
        let seconds = |time| self.totals.seconds(time, DECIMALS);
        let times = format!("{}..{} s", seconds(flow.first), seconds(flow.last));
        let text = format!("    {times}, {}", stability(flow.stability()));
        row(out, &text, flow.count.packets, flow.count.bytes, "")?;
        for claim in &flow.claims {
            let text =
                format!("    {:13}  {}", place(claim.evidence), claim.evidence.describe(self.view.registry));
            let known = claim.evidence.tag().map_or("", |tag| yes_no(is_registered(self.view.registry, tag)));
            row(out, &text, claim.count.packets, claim.count.bytes, known)?;
        }
        if flow.claims_not_kept != 0 {
            row(
                out,
                &format!("    more than {MAX_CLAIMS} labels and options"),
                flow.claims_not_kept,
                "",
                "",
            )?;
        }
        Ok(())
    }

    fn tag_table(&self, tags: &[(Tag, TagCount)], out: &mut impl Write) -> Result<()> {
        let header = ["TAG", "PACKETS", "BYTES", "SHARE", "FLOWS", "REGISTERED", "FROM"];
        let [tag, packets, bytes, share, flows, known, from] = header;
        writeln!(out, "\n{tag:26} {packets:>9} {bytes:>12} {share:>6} {flows:>6} {known:10} {from}")?;
        for (tag, count) in tags.iter().take(self.limit) {
            let name = self.view.registry.describe(*tag);
            let (packets, bytes, flows) = (count.count.packets, count.count.bytes, count.flows);
            let share = format!("{:.1}%", self.share(count) * 100.0);
            let known = yes_no(is_registered(self.view.registry, *tag));
            let from = count.sources().map(Source::name).collect::<Vec<_>>().join(",");
            writeln!(out, "{name:26} {packets:>9} {bytes:>12} {share:>6} {flows:>6} {known:10} {from}")?;
        }
        self.more(tags.len(), "tags", out)?;
        self.caution(tags, out)
    }

    fn more(&self, len: usize, what: &str, out: &mut impl Write) -> Result<()> {
        match len.checked_sub(self.limit) {
            Some(more) if more != 0 => {
                writeln!(out, "{more} more {what} are not shown (--limit {len} shows all)")?
            }
            _ if len == 0 => writeln!(out, "no {what}")?,
            _ => {}
        }
        Ok(())
    }

    /// What a random label looks like, for the registry in use.
    fn caution(&self, tags: &[(Tag, TagCount)], out: &mut impl Write) -> Result<()> {
        let from_label = |(_, count): &(Tag, TagCount)| count.sources().any(|source| source == Source::Label);
        let names =
            registered(self.view.registry).filter(|tag| is_registered(self.view.registry, *tag)).count();
        if names == 0 || !tags.iter().any(from_label) {
            return Ok(());
        }
        // 15 bits of a label are the tag; 511 × 63 of their values are in range.
        let chance = (1_usize << 15) / names;
        writeln!(out, "A label is only evidence: of random labels, which Linux sends by default,")?;
        writeln!(out, "98% read as some tag and 1 in {chance} as a registered one.")?;
        Ok(())
    }
}

/// Ends the output of either mode.
pub(super) fn summary(
    view: &View<'_>,
    totals: &Totals,
    flows: Option<&Flows>,
    ended: Option<&CaptureError>,
    out: &mut impl Write,
) -> Result<()> {
    if view.json {
        return json(out, &summary_object(totals, flows, ended));
    }
    writeln!(out)?;
    if let Some(flows) = flows.filter(|flows| flows.beyond.packets != 0) {
        let (beyond, max) = (flows.beyond, flows.len());
        writeln!(
            out,
            "{} packets, {} bytes: flows beyond the first {max} (--max-flows)",
            beyond.packets, beyond.bytes
        )?;
        writeln!(out, "Flows by tag are too few for it; packets and bytes by tag are complete.")?;
    }
    if let Some(lost) = flows.map(|flows| flows.claims_not_kept).filter(|lost| *lost != 0) {
        writeln!(
            out,
            "{lost} labels and options of flows with more than {MAX_CLAIMS} different ones are not listed"
        )?;
    }
    if totals.partly_read != 0 {
        writeln!(out, "read in part only: {} (--packets says why)", totals.partly_read)?;
    }
    if let Some(error) = first_unreadable(totals) {
        writeln!(out, "first unreadable: {error}")?;
    }
    let Totals { all, not_ip, unreadable, .. } = totals;
    Ok(writeln!(out, "packets {}, not IP {not_ip}, unreadable {unreadable}", all.packets)?)
}

fn summary_object(totals: &Totals, flows: Option<&Flows>, ended: Option<&CaptureError>) -> SummaryObject {
    SummaryObject {
        kind: "summary",
        packets: totals.all.packets,
        bytes: totals.all.bytes,
        not_ip: totals.not_ip,
        unreadable: totals.unreadable,
        partly_read: totals.partly_read,
        first_seen: totals.first_seen,
        last_seen: totals.last_seen,
        flows: flows.map(Flows::len),
        packets_beyond_max_flows: flows.map(|flows| flows.beyond.packets),
        bytes_beyond_max_flows: flows.map(|flows| flows.beyond.bytes),
        evidence_not_kept: flows.map(|flows| flows.claims_not_kept),
        first_unreadable: first_unreadable(totals),
        error: ended.map(ToString::to_string),
    }
}

fn first_unreadable(totals: &Totals) -> Option<String> {
    let (number, error) = totals.first_unreadable.as_ref()?;
    Some(format!("packet {number}: {error}"))
}

/// One object on one line.
pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    // As an I/O error, so that a closed pipe is known for what it is.
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

fn row(
    out: &mut impl Write,
    text: &str,
    packets: impl ToString,
    bytes: impl ToString,
    known: &str,
) -> Result<()> {
    let line = format!("{text:49} {:>7} {:>11} {known}", packets.to_string(), bytes.to_string());
    Ok(writeln!(out, "{}", line.trim_end())?)
}

fn place(evidence: Evidence) -> String {
    match evidence {
        Evidence::Label(label) => format!("label {label}"),
        Evidence::Option(..) => evidence.source().name().to_owned(),
    }
}

const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

const fn stability(stability: Stability) -> &'static str {
    match stability {
        Stability::Ipv4 => "no label (IPv4)",
        Stability::Unset => "label not set",
        Stability::Stable => "label stable",
        Stability::Partial => "label in some packets",
        Stability::Changed { tag: true, entropy: false } => "label changed (tag)",
        Stability::Changed { tag: false, .. } => "label changed (entropy)",
        Stability::Changed { tag: true, entropy: true } => "label changed (tag, entropy)",
    }
}
