//! One line for each packet, as it is read.

use std::io::Write;

use anyhow::Result;
use flowtag_engine::Registry;
use flowtag_wire::packet::PacketError;
use flowtag_wire::{Packet, Record};
use jiff::Timestamp;
use serde::Serialize;

use super::View;
use super::evidence::{Evidence, EvidenceObject};
use super::flows::Key;
use super::report::json;
use super::totals::Totals;
use crate::cli::output;
use crate::cli::tag::is_registered;

/// Seconds since the first packet have so many digits: what most captures resolve.
const DECIMALS: usize = 6;

/// A packet in JSON.
#[derive(Debug, Serialize)]
struct PacketObject<'a> {
    kind: &'static str,
    /// From 1, as in tcpdump and Wireshark.
    number: u64,
    timestamp: Option<Timestamp>,
    protocol: String,
    protocol_number: u8,
    src: String,
    src_port: Option<u16>,
    dst: String,
    dst_port: Option<u16>,
    vlans: Vec<u16>,
    tcp_flags: Option<String>,
    bytes: u32,
    payload_bytes: Option<usize>,
    dscp: u8,
    ecn: u8,
    flow_label: Option<String>,
    checksum_ok: Option<bool>,
    evidence: Vec<EvidenceObject<'a>>,
    /// Why not all of it could be read.
    partly_read: Option<String>,
}

/// A packet that is not IP or cannot be read, in JSON.
#[derive(Debug, Serialize)]
struct OtherObject {
    kind: &'static str,
    number: u64,
    timestamp: Option<Timestamp>,
    bytes: u32,
    reason: String,
}

/// Where the lines go.
pub(super) struct Lines<'a, W> {
    view: &'a View<'a>,
    out: W,
    is_live: bool,
}

impl<'a, W: Write> Lines<'a, W> {
    pub(super) const fn new(view: &'a View<'a>, out: W, is_live: bool) -> Self {
        Self { view, out, is_live }
    }

    /// Names the columns.
    pub(super) fn begin(&mut self) -> Result<()> {
        if self.view.json {
            return Ok(());
        }
        let columns = "SECONDS PROTO SOURCE > DESTINATION FLAGS LEN DSCP/ECN LABEL CHECKSUM TAG (FROM)";
        Ok(writeln!(self.out, "{columns}")?)
    }

    pub(super) fn packet(
        &mut self,
        totals: &Totals,
        record: &Record<'_>,
        packet: Result<&Packet<'_>, &PacketError>,
    ) -> Result<()> {
        match packet {
            Ok(packet) => {
                if self.wants(packet) {
                    self.readable(totals, record, packet)?;
                }
            }
            Err(error) if self.view.is_unfiltered() => self.other(totals, record, error)?,
            Err(_) => {}
        }
        if self.is_live {
            self.out.flush()?;
        }
        Ok(())
    }

    fn wants(&self, packet: &Packet<'_>) -> bool {
        let tags = || Evidence::of(packet).filter_map(Evidence::tag);
        self.view.is_unfiltered() || tags().any(|tag| self.view.wants(tag))
    }

    fn readable(&mut self, totals: &Totals, record: &Record<'_>, packet: &Packet<'_>) -> Result<()> {
        if self.view.json {
            return json(&mut self.out, &packet_object(self.view.registry, record, packet));
        }
        let dash = || "-".to_owned();
        write!(
            self.out,
            "{:>8} {} {} {} {}/{} {} {} {}",
            totals.seconds(record.timestamp, DECIMALS),
            Key::of(packet),
            packet.tcp.map_or_else(dash, |tcp| tcp.flags.to_string()),
            record.original_len,
            packet.dscp,
            packet.ecn,
            packet.flow_label.map_or_else(dash, |label| label.to_string()),
            checksum(packet),
            tags(self.view.registry, packet),
        )?;
        if packet.vlans.iter().flatten().next().is_some() {
            write!(self.out, " vlan {}", vlans(packet).map(|v| v.to_string()).collect::<Vec<_>>().join("."))?;
        }
        if let Some(error) = &packet.stopped {
            write!(self.out, " (partly read: {})", reason(error))?;
        }
        Ok(writeln!(self.out)?)
    }

    fn other(&mut self, totals: &Totals, record: &Record<'_>, error: &PacketError) -> Result<()> {
        let is_other = matches!(error, PacketError::NotIp { .. });
        if self.view.json {
            let kind = if is_other { "not_ip" } else { "unreadable" };
            let (number, timestamp, bytes) = (record.number, record.timestamp, record.original_len);
            return json(
                &mut self.out,
                &OtherObject { kind, number, timestamp, bytes, reason: reason(error) },
            );
        }
        let seconds = totals.seconds(record.timestamp, DECIMALS);
        let what = if is_other { "not IP" } else { "unreadable" };
        Ok(writeln!(self.out, "{seconds:>8} packet {} {what}: {}", record.number, reason(error))?)
    }
}

fn packet_object<'a>(registry: &'a Registry, record: &Record<'_>, packet: &Packet<'_>) -> PacketObject<'a> {
    let key = Key::of(packet);
    PacketObject {
        kind: "packet",
        number: record.number,
        timestamp: record.timestamp,
        protocol: key.protocol_name(),
        protocol_number: packet.protocol,
        src: packet.src.to_string(),
        src_port: packet.ports.map(|p| p.src),
        dst: packet.dst.to_string(),
        dst_port: packet.ports.map(|p| p.dst),
        vlans: vlans(packet).collect(),
        tcp_flags: packet.tcp.map(|tcp| tcp.flags.to_string()),
        bytes: record.original_len,
        payload_bytes: packet.payload_len,
        dscp: packet.dscp,
        ecn: packet.ecn,
        flow_label: packet.flow_label.map(|label| label.to_string()),
        checksum_ok: packet.checksum_ok(),
        evidence: Evidence::of(packet).map(|evidence| EvidenceObject::new(registry, evidence)).collect(),
        partly_read: packet.stopped.as_ref().map(reason),
    }
}

fn vlans(packet: &Packet<'_>) -> impl Iterator<Item = u16> {
    packet.vlans.into_iter().flatten()
}

fn checksum(packet: &Packet<'_>) -> &'static str {
    match packet.checksum_ok() {
        Some(true) => "ok",
        Some(false) => "BAD",
        None => "-",
    }
}

/// Every claim that is a tag or would be one: `cms/Analysis Input (label), 512/64, out of range (destination)`.
fn tags(registry: &Registry, packet: &Packet<'_>) -> String {
    let said = Evidence::of(packet).filter(|e| e.tag().is_some() || matches!(e, Evidence::Option(..)));
    let text = said.map(|evidence| {
        let is_known = evidence.tag().is_none_or(|tag| is_registered(registry, tag));
        let doubt = if is_known { "" } else { ", not registered" };
        format!("{} ({}{doubt})", evidence.describe(registry), evidence.source().name())
    });
    let text = text.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The error with its cause, on one line.
fn reason(error: &PacketError) -> String {
    output::chain(&anyhow::Error::new(error.clone())).replace("\n  because", "")
}
