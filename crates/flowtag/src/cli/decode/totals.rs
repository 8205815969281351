//! Counts over the whole file: nothing that was in it goes unmentioned.

use anyhow::{Result, anyhow};
use flowtag_wire::packet::PacketError;
use flowtag_wire::{Packet, Record};
use jiff::Timestamp;

use super::flows::Count;

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) all: Count,
    /// ARP, LLDP and whatever else shares the wire.
    pub(super) not_ip: u64,
    /// No complete IP header, or a link type that is not known.
    pub(super) unreadable: u64,
    /// The IP header is whole, something behind it is not; counted as far as it could be read.
    pub(super) partly_read: u64,
    /// Time of the first packet in the file, from which all relative times count.
    pub(super) start: Option<Timestamp>,
    pub(super) first_seen: Option<Timestamp>,
    pub(super) last_seen: Option<Timestamp>,
    /// Number and error of the first packet that was unreadable.
    pub(super) first_unreadable: Option<(u64, PacketError)>,
}

impl Totals {
    pub(super) fn add(&mut self, record: &Record<'_>, packet: Result<&Packet<'_>, &PacketError>) {
        self.all.add(record.original_len);
        if let Some(time) = record.timestamp {
            self.start = self.start.or(Some(time));
            self.first_seen = Some(self.first_seen.map_or(time, |first| first.min(time)));
            self.last_seen = Some(self.last_seen.map_or(time, |last| last.max(time)));
        }
        match packet {
            Ok(packet) => self.partly_read += u64::from(packet.stopped.is_some()),
            Err(PacketError::NotIp { .. }) => self.not_ip += 1,
            Err(error) => {
                self.unreadable += 1;
                self.first_unreadable.get_or_insert_with(|| (record.number, error.clone()));
            }
        }
    }

    /// Seconds since the first packet of the file.
    pub(super) fn seconds(&self, time: Option<Timestamp>, decimals: usize) -> String {
        let Some((time, start)) = time.zip(self.start) else { return "-".to_owned() };
        format!("{:.decimals$}", time.duration_since(start).as_secs_f64())
    }

    /// Some packets that cannot be read are normal; a file of which no packet can be read is not.
    pub(super) fn check(&self) -> Result<()> {
        match &self.first_unreadable {
            Some((number, error)) if self.unreadable == self.all.packets => Err(anyhow!(error.clone())
                .context(format!("no packet can be read, the first is packet {number}"))),
            _ => Ok(()),
        }
    }
}
