//! Reading: tolerant of every dialect, exact about what is wrong.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Firefly, State, Usage};
use crate::stamp::Stamp;
use crate::{Endpoint, FiveTuple, FlowError, Protocol, syslog};

/// The longest datagram that is looked at, in bytes: no UDP datagram is longer.
pub const MAX_DATAGRAM: usize = 64 * 1024;

/// How deep `netlink`, `storage-stats` and foreign keys may nest, so that what was read can be written and read again.
pub const MAX_DEPTH: usize = 32;

/// Keys at the top that are not kept in [`Firefly::extra`].
pub(super) const OWN_KEYS: [&str; 7] =
    ["version", "flow-lifecycle", "flow-id", "context", "usage", "netlink", "storage-stats"];

/// Why a datagram is not a firefly. Each names the key by its path.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More than [`MAX_DATAGRAM`] bytes.
    #[error("the firefly has {0} bytes: at most {MAX_DATAGRAM} are read, send it without its optional parts")]
    TooLong(usize),
    /// Nothing that looks like a JSON object.
    #[error(
        "the datagram has no JSON object: a firefly is {{...}}, with or without a syslog header before it"
    )]
    NoObject,
    /// The object is not JSON.
    #[error("the firefly is not valid JSON: check that it was not cut off on its way")]
    Json(#[source] serde_json::Error),
    /// A key that every dialect sends is not there.
    #[error("the firefly has no {0}: the firefly schema requires it")]
    Missing(&'static str),
    /// A key holds something else than it should.
    #[error("the firefly's {path} is {found}: it must be {want}")]
    Wrong {
        /// The key, with a dot between levels.
        path: &'static str,
        /// What the key may hold.
        want: &'static str,
        /// The beginning of what it holds.
        found: String,
    },
    /// A time that is not RFC 3339.
    #[error("the firefly's {path} {found:?} is not a time: write 2026-01-31T12:00:00.000000+00:00")]
    Time {
        /// The key, with a dot between levels.
        path: &'static str,
        /// The beginning of what it holds.
        found: String,
        /// What the parser said.
        #[source]
        source: jiff::Error,
    },
    /// The five-tuple is complete but no flow can have it.
    #[error("the firefly's flow-id is not a flow")]
    Flow(#[source] FlowError),
    /// `netlink`, `storage-stats` or a foreign key nests deeper than [`MAX_DEPTH`].
    #[error("the firefly's {0:?} nests deeper than {MAX_DEPTH} levels: flatten it")]
    TooDeep(String),
}

type Object = Map<String, Value>;

impl Firefly {
    /// Reads a datagram in any dialect: with or without a syslog header, times with `Z` or an offset and any number
    /// of fraction digits, an empty or missing start time, a byte order mark before or a newline after the object.
    ///
    /// Unknown keys inside `flow-lifecycle`, `flow-id`, `usage` and `context` are dropped, as the schema forbids them.
    ///
    /// # Errors
    /// [`ReadError`], with the path of the key.
    pub fn from_datagram(datagram: &[u8]) -> Result<Self, ReadError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(ReadError::TooLong(datagram.len()));
        }
        let json = syslog::json_part(datagram).ok_or(ReadError::NoObject)?;
        let mut top: Object = serde_json::from_slice(json).map_err(ReadError::Json)?;
        version(&top)?;
        let lifecycle = section(&top, "flow-lifecycle")?;
        let context = section(&top, "context")?;
        let mut firefly = Self {
            state: state(lifecycle)?,
            start_time: time(lifecycle, "flow-lifecycle.start-time")?,
            end_time: time(lifecycle, "flow-lifecycle.end-time")?,
            current_time: time(lifecycle, "flow-lifecycle.current-time")?,
            flow: flow(section(&top, "flow-id")?)?,
            experiment: required(context, "context.experiment-id", ID, number)?,
            activity: required(context, "context.activity-id", ID, number)?,
            application: optional(context, "context.application", "a text", text)?.map(str::to_owned),
            usage: usage(&top)?,
            netlink: None,
            storage_stats: None,
            extra: Map::new(),
            sender: None,
        };
        firefly.keep_the_rest(&mut top)?;
        Ok(firefly)
    }

    fn keep_the_rest(&mut self, top: &mut Object) -> Result<(), ReadError> {
        self.netlink = take(top, "netlink").map(as_object);
        self.storage_stats = take(top, "storage-stats");
        for key in OWN_KEYS {
            top.remove(key);
        }
        self.extra = std::mem::take(top);
        let netlink = self.netlink.iter().flat_map(Map::iter);
        let storage = self.storage_stats.iter().map(|v| ("storage-stats", v));
        let kept = netlink.chain(&self.extra).map(|(k, v)| (k.as_str(), v)).chain(storage);
        for (key, value) in kept {
            if is_deeper_than(value, MAX_DEPTH) {
                return Err(ReadError::TooDeep(key.chars().take(40).collect()));
            }
        }
        Ok(())
    }
}

const ID: &str = "a whole number from 0 to 4294967295";
const BYTES: &str = "a whole number of bytes, 0 or more";
const PORT: &str = "a whole number from 1 to 65535";

/// The last part of a path is the key within its section.
fn leaf(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, key)| key)
}

fn wrong(path: &'static str, want: &'static str, value: &Value) -> ReadError {
    ReadError::Wrong { path, want, found: value.to_string().chars().take(60).collect() }
}

/// What a key holds, as far as it says something: null is like not there.
fn get<'a>(object: &'a Object, path: &str) -> Option<&'a Value> {
    object.get(leaf(path)).filter(|v| !v.is_null())
}

fn take(object: &mut Object, key: &str) -> Option<Value> {
    object.remove(key).filter(|v| !v.is_null())
}

fn optional<'a, T>(
    object: &'a Object,
    path: &'static str,
    want: &'static str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Option<T>, ReadError> {
    get(object, path).map(|v| read(v).ok_or_else(|| wrong(path, want, v))).transpose()
}

fn required<'a, T>(
    object: &'a Object,
    path: &'static str,
    want: &'static str,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<T, ReadError> {
    optional(object, path, want, read)?.ok_or(ReadError::Missing(path))
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn number<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    value.as_u64().and_then(|n| T::try_from(n).ok())
}

fn section<'a>(top: &'a Object, path: &'static str) -> Result<&'a Object, ReadError> {
    required(top, path, "an object", Value::as_object)
}

fn version(top: &Object) -> Result<(), ReadError> {
    required(top, "version", "1, the only version there is", |v| (v.as_u64() == Some(1)).then_some(()))
}

fn state(lifecycle: &Object) -> Result<State, ReadError> {
    let read = |v: &Value| v.as_str().and_then(State::from_name);
    required(lifecycle, "flow-lifecycle.state", "start, end or ongoing", read)
}

/// An empty text is a time that the sender does not know: flowd-go writes it.
fn time(lifecycle: &Object, path: &'static str) -> Result<Option<Timestamp>, ReadError> {
    let Some(found) = optional(lifecycle, path, "a text", text)?.filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let cut = || found.chars().take(60).collect();
    let time: Timestamp = found.parse().map_err(|source| ReadError::Time { path, found: cut(), source })?;
    if Stamp::fits(time) {
        Ok(Some(time))
    } else {
        Err(ReadError::Wrong { path, want: "a time in the years 0 to 9999", found: cut() })
    }
}

fn flow(id: &Object) -> Result<FiveTuple, ReadError> {
    let is_ipv6 = required(id, "flow-id.afi", "ipv4 or ipv6", family)?;
    let protocol = required(id, "flow-id.protocol", "tcp or udp", |v| v.as_str()?.parse::<Protocol>().ok())?;
    let src = address(id, "flow-id.src-ip", is_ipv6)?;
    let dst = address(id, "flow-id.dst-ip", is_ipv6)?;
    let src = Endpoint::new(src, required(id, "flow-id.src-port", PORT, number)?);
    let dst = Endpoint::new(dst, required(id, "flow-id.dst-port", PORT, number)?);
    FiveTuple::new(protocol, src, dst).map_err(ReadError::Flow)
}

fn family(value: &Value) -> Option<bool> {
    let name = value.as_str()?;
    [("ipv4", false), ("ipv6", true)]
        .into_iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v6)| v6)
}

/// An IPv4-mapped address may come under either family, and a link-local one with its zone (RFC 4007 §11).
fn address(id: &Object, path: &'static str, is_ipv6: bool) -> Result<IpAddr, ReadError> {
    let want = if is_ipv6 { "an IPv6 address, as afi says" } else { "an IPv4 address, as afi says" };
    required(id, path, want, |v| {
        let text = v.as_str()?;
        let addr: IpAddr = text.split_once('%').map_or(text, |(addr, _)| addr).parse().ok()?;
        (addr.is_ipv6() == is_ipv6 || addr.to_canonical().is_ipv6() == is_ipv6).then_some(addr)
    })
}

fn usage(top: &Object) -> Result<Option<Usage>, ReadError> {
    let Some(usage) = optional(top, "usage", "an object", Value::as_object)? else { return Ok(None) };
    Ok(Some(Usage {
        received: optional(usage, "usage.received", BYTES, number)?,
        sent: optional(usage, "usage.sent", BYTES, number)?,
    }))
}

fn as_object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

/// Recursion ends because the parser itself refuses more than 128 levels.
fn is_deeper_than(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return true };
    match value {
        Value::Array(items) => items.iter().any(|v| is_deeper_than(v, below)),
        Value::Object(object) => object.values().any(|v| is_deeper_than(v, below)),
        _ => false,
    }
}
