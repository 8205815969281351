//! Writing: one dialect, valid against the schema, straight into the datagram.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::read::OWN_KEYS;
use super::{Firefly, State, Usage};
use crate::stamp::Stamp;
use crate::syslog::{Header, HeaderError};

/// Why a firefly was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The schema requires a time that is not known.
    #[error("the firefly has no {0}: the schema requires it, set it or call with_required_times")]
    NoTime(&'static str),
    /// The year has no four digits.
    #[error("the firefly's {0} {1} is outside the years 0 to 9999: check the clock")]
    Year(&'static str, Timestamp),
    /// The header could not be written.
    #[error("the firefly's syslog header cannot be written")]
    Header(#[source] HeaderError),
    /// Too long even without everything that may be left out.
    #[error(
        "the firefly needs {need} bytes without its optional parts and {max} are allowed: raise the limit"
    )]
    TooLong {
        /// Bytes of the shortest form, syslog header included.
        need: usize,
        /// Bytes that the caller allows.
        max: usize,
    },
    /// The serialiser failed; no value of a firefly is known to do that.
    #[error("the firefly cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// How much of a firefly is left, in the order in which its parts are given up.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Keep {
    All,
    NoExtra,
    NoNetlink,
    NoStorageStats,
    NoApplication,
}

impl Firefly {
    /// Appends the JSON object alone, all parts of it, in the order of the schema.
    ///
    /// # Errors
    /// [`WriteError`] if a required time is missing or out of range; `out` then ends where it ended before.
    pub fn write_json(&self, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.write_kept(Keep::All, self.application.as_deref(), out)
    }

    /// The datagram for a collector: syslog header with the time `now`, and the object. See [`Self::write_datagram`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn to_datagram(
        &self,
        now: Timestamp,
        header: &Header,
        max_len: usize,
    ) -> Result<Vec<u8>, WriteError> {
        let mut out = Vec::with_capacity(max_len.min(1024));
        self.write_datagram(now, header, max_len, &mut out)?;
        Ok(out)
    }

    /// Replaces `out` by the datagram, which then has at most `max_len` bytes.
    ///
    /// If the whole does not fit, parts are given up in this order until it does: the foreign keys, `netlink`,
    /// `storage-stats`, the end of the application's name. Who, whose, when and how much always stay.
    ///
    /// # Errors
    /// [`WriteError::TooLong`] if even that is too long, and those of [`Self::write_json`]; `out` is then empty.
    pub fn write_datagram(
        &self,
        now: Timestamp,
        header: &Header,
        max_len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        out.clear();
        header.write(now, out).map_err(WriteError::Header)?;
        let result = self.write_shortened(max_len, out);
        if result.is_err() {
            out.clear();
        }
        result
    }

    fn write_shortened(&self, max_len: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        let start = out.len();
        for keep in [Keep::All, Keep::NoExtra, Keep::NoNetlink, Keep::NoStorageStats] {
            out.truncate(start);
            self.write_kept(keep, self.application.as_deref(), out)?;
            if out.len() <= max_len {
                return Ok(());
            }
        }
        out.truncate(start);
        self.write_kept(Keep::NoApplication, None, out)?;
        let need = out.len();
        let Some(room) = max_len.checked_sub(need) else {
            return Err(WriteError::TooLong { need, max: max_len });
        };
        let application = self.application.as_deref().and_then(|name| trim_application(name, room));
        out.truncate(start);
        self.write_kept(Keep::NoApplication, application, out)
    }

    fn write_kept(&self, keep: Keep, application: Option<&str>, out: &mut Vec<u8>) -> Result<(), WriteError> {
        let body = Body { firefly: self, keep, lifecycle: Lifecycle::new(self)?, application };
        let start = out.len();
        serde_json::to_writer(&mut *out, &body).map_err(|error| {
            out.truncate(start);
            WriteError::Json(error)
        })
    }
}

/// The longest beginning of the name that fits in `room` bytes together with its key; none if not one character does.
fn trim_application(name: &str, room: usize) -> Option<&str> {
    let mut room = room.checked_sub(r#","application":"""#.len())?;
    let mut end = 0;
    for c in name.chars() {
        let Some(left) = room.checked_sub(json_len(c)) else { break };
        room = left;
        end += c.len_utf8();
    }
    name.get(..end).filter(|n| !n.is_empty())
}

/// Bytes of a character within a JSON string (RFC 8259 §7), as `serde_json` writes it.
const fn json_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        '\0'..='\u{1f}' => 6,
        _ => c.len_utf8(),
    }
}

struct Time(Stamp);

impl Time {
    fn new(path: &'static str, time: Timestamp) -> Result<Self, WriteError> {
        Stamp::new(time).map(Self).map_err(|_| WriteError::Year(path, time))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Lifecycle {
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_time: Option<Time>,
    start_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<Time>,
}

impl Lifecycle {
    fn new(firefly: &Firefly) -> Result<Self, WriteError> {
        const START: &str = "flow-lifecycle.start-time";
        const END: &str = "flow-lifecycle.end-time";
        const CURRENT: &str = "flow-lifecycle.current-time";
        if firefly.state == State::End && firefly.end_time.is_none() {
            return Err(WriteError::NoTime(END));
        }
        Ok(Self {
            state: firefly.state,
            current_time: firefly.current_time.map(|t| Time::new(CURRENT, t)).transpose()?,
            start_time: Time::new(START, firefly.start_time.ok_or(WriteError::NoTime(START))?)?,
            end_time: firefly.end_time.map(|t| Time::new(END, t)).transpose()?,
        })
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct FlowId {
    afi: &'static str,
    src_ip: IpAddr,
    dst_ip: IpAddr,
    protocol: &'static str,
    src_port: u16,
    dst_port: u16,
}

impl FlowId {
    fn new(firefly: &Firefly) -> Self {
        let flow = firefly.flow;
        Self {
            afi: if flow.is_ipv6() { "ipv6" } else { "ipv4" },
            src_ip: flow.src().addr(),
            dst_ip: flow.dst().addr(),
            protocol: flow.protocol().name(),
            src_port: flow.src().port(),
            dst_port: flow.dst().port(),
        }
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "kebab-case")]
struct Context<'a> {
    experiment_id: u32,
    activity_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<&'a str>,
}

/// The object as it will be written; borrows everything, so that nothing is copied twice.
struct Body<'a> {
    firefly: &'a Firefly,
    keep: Keep,
    lifecycle: Lifecycle,
    application: Option<&'a str>,
}

impl Body<'_> {
    fn required<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("version", &1)?;
        map.serialize_entry("flow-lifecycle", &self.lifecycle)?;
        map.serialize_entry("flow-id", &FlowId::new(self.firefly))?;
        let Firefly { experiment, activity, .. } = *self.firefly;
        let context =
            Context { experiment_id: experiment, activity_id: activity, application: self.application };
        map.serialize_entry("context", &context)
    }

    fn optional<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Firefly { usage, netlink, storage_stats, extra, .. } = self.firefly;
        entry::<M, Usage>(map, "usage", usage.as_ref())?;
        entry(map, "netlink", netlink.as_ref().filter(|_| self.keep < Keep::NoNetlink))?;
        entry(map, "storage-stats", storage_stats.as_ref().filter(|_| self.keep < Keep::NoStorageStats))?;
        if self.keep < Keep::NoExtra {
            for (key, value) in extra.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str())) {
                map.serialize_entry(key, value)?;
            }
        }
        Ok(())
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.required(&mut map)?;
        self.optional(&mut map)?;
        map.end()
    }
}

fn entry<M: SerializeMap, T: Serialize>(map: &mut M, key: &str, value: Option<&T>) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, value))
}
