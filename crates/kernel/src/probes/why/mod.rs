//! What limits TCP connections: how long each was kept from sending by what, and what shows it.

pub mod abi;

use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags};
use zerocopy::{FromBytes, IntoBytes};

use self::abi::{why_fixed as fixed, why_row, why_settings, why_state as state};
use super::iterate::records;
use super::load::Loaded;
use super::record::{Context, Record, Value};
use super::{Column, Description, Options, Source, Unit};
use crate::tcp_info::{Sample, sweep};
use crate::{Error, Result, mark};

/// What `flowtag why` and `flowtag flows` stand on.
pub static PROBE: Description = Description {
    name: "why",
    about: "Say what limits each TCP connection, how one knows, and what would help",
    details: "",
    examples: &[],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/why.bpf.o")),
    optional: &[
        ("flowtag_why_again", "time lost to time-outs while nothing arrived"),
        ("flowtag_why_end", "the last moments of connections that end meanwhile"),
    ],
    flags: &[],
    columns: &[
        Column::sum("network_us", "NETWORK", Unit::Micros, "The congestion window was full"),
        Column::sum("receiver_us", "RECEIVER", Unit::Micros, "The receiver's window was full"),
        Column::sum("sndbuf_us", "SNDBUF", Unit::Micros, "The send buffer was full of data in flight"),
        Column::sum("recovery_us", "RECOVERY", Unit::Micros, "Loss or congestion was being repaired"),
        Column::sum("timeout_us", "TIMEOUT", Unit::Micros, "The retransmission timer had to run out"),
        Column::sum("queue_us", "QUEUE", Unit::Micros, "A queue or the pacing of this host held data back"),
    ],
    metrics: &[],
    settings,
    leave_out: || &[],
    at_start: &[],
    source: Source::Rows(|loaded| Ok(Look::take(loaded)?.into_iter().map(Look::into_record).collect())),
};

fn settings(_: &Options) -> Vec<u8> {
    let tick = u64::try_from(mark::tick().as_nanos()).unwrap_or(u64::MAX);
    why_settings { tick }.as_bytes().to_vec()
}

/// What is known of a connection at one moment: sums since it was first seen, but for [`Look::extremes`].
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Whose it is, and when.
    pub context: Context,
    /// `TCP_*` of the kernel's `net/tcp_states.h`; of one that closed the state before.
    pub state: u16,
    /// It has ended.
    pub is_closed: bool,
    /// Since when it was looked at, CLOCK_MONOTONIC.
    pub since: Duration,
    /// What the kernel measures of it.
    pub sample: Sample,
    /// How long it was kept from sending by what.
    pub limits: Limits,
    /// Since it was looked at last.
    pub extremes: Extremes,
    /// Bytes that came in order and wait to be read.
    pub unread: u32,
    /// The application chose the size of its send buffer.
    pub sndbuf_fixed: bool,
    /// The application chose the size of its receive buffer.
    pub rcvbuf_fixed: bool,
    /// SO_MAX_PACING_RATE is what limits the pacing.
    pub is_paced: bool,
    /// The application wants to write and there is no room.
    pub is_blocked: bool,
}

/// Time by what limited sending, while there was data to send or to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// The congestion window was full.
    pub network: Duration,
    /// The receiver's window was full.
    pub receiver: Duration,
    /// The send buffer was full of data in flight.
    pub sndbuf: Duration,
    /// Nothing waited to be sent.
    pub application: Duration,
    /// Loss or congestion was being repaired.
    pub recovery: Duration,
    /// The retransmission timer had to run out.
    pub timeout: Duration,
    /// A queue or the pacing of this host held data back.
    pub queue: Duration,
    /// The peer's window had no room for a segment.
    pub shut: Duration,
    /// More than half of what may be received waited to be read.
    pub unread: Duration,
    /// By how much round trips took longer than the least, summed up over time: µs times s.
    pub queueing: f64,
    /// Seconds that this was measured over.
    pub weight: f64,
    /// Times the peer closed its window.
    pub zero_windows: u32,
}

/// The largest and smallest of what goes up and down, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extremes {
    /// Least window of the peer.
    pub peer_window_min: u32,
    /// Largest window of the peer.
    pub peer_window_max: u32,
    /// Largest window that this end announced.
    pub window_max: u32,
    /// Most that waited to be read.
    pub unread_max: u32,
}

impl Look {
    /// Every connection that is wanted: those that ended since the last call, and those that are open now.
    ///
    /// # Errors
    /// [`Error::Query`] and [`Error::Map`] where the kernel refuses.
    pub fn take(loaded: &Loaded) -> Result<Vec<Self>> {
        let tick = mark::tick();
        let closed = closed(loaded)?;
        let open = records::<why_row>(loaded, "flowtag_why_now")?;
        let closed = closed.iter().map(|row| Self::new(row, true, tick));
        Ok(closed.chain(open.iter().map(|row| Self::new(row, false, tick))).collect())
    }

    fn new(row: &why_row, is_closed: bool, tick: Duration) -> Self {
        let flow = &row.flow;
        let has = |what: fixed::Type| u32::from(row.fixed) & what != 0;
        let mut context = Context::from(&row.event);
        context.time = Duration::from_nanos(flow.time);
        Self {
            context,
            state: row.event.state,
            is_closed,
            since: Duration::from_nanos(flow.since),
            sample: sweep::sample(&row.tcp, tick),
            limits: Limits::new(row),
            extremes: Extremes {
                peer_window_min: flow.peer_window_min,
                peer_window_max: flow.peer_window_max,
                window_max: flow.window_max,
                unread_max: flow.unread_max,
            },
            unread: row.unread,
            sndbuf_fixed: has(fixed::WHY_SNDBUF_FIXED),
            rcvbuf_fixed: has(fixed::WHY_RCVBUF_FIXED),
            is_paced: row.is_paced != 0,
            is_blocked: row.is_blocked != 0,
        }
    }

    fn into_record(self) -> Record {
        let limits = &self.limits;
        let times =
            [limits.network, limits.receiver, limits.sndbuf, limits.recovery, limits.timeout, limits.queue];
        let micros = |time: Duration| Value::from(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        Record { context: self.context, values: times.into_iter().map(micros).collect() }
    }
}

impl Limits {
    fn new(row: &why_row) -> Self {
        let flow = &row.flow;
        let of =
            |what: state::Type| Duration::from_nanos(flow.ns.get(what as usize).copied().unwrap_or_default());
        Self {
            network: of(state::WHY_NETWORK),
            receiver: of(state::WHY_RECEIVER),
            sndbuf: of(state::WHY_SNDBUF),
            application: of(state::WHY_APPLICATION),
            recovery: of(state::WHY_RECOVERY),
            timeout: of(state::WHY_TIMEOUT),
            queue: of(state::WHY_QUEUE),
            shut: Duration::from_nanos(flow.shut),
            unread: Duration::from_nanos(flow.unread),
            queueing: flow.queueing as f64 / 1e6,
            weight: flow.weight as f64 / 1e9,
            zero_windows: flow.zero_windows,
        }
    }
}

/// Takes out of the map what ended.
fn closed(loaded: &Loaded) -> Result<Vec<why_row>> {
    let failed = |source| Error::Map { action: "read", map: "why_closed", source };
    let Some(map) = loaded.map("why_closed") else { return Ok(Vec::new()) };
    let keys: Vec<_> = map.keys().collect();
    let mut rows = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(value) = map.lookup(&key, MapFlags::ANY).map_err(failed)? else { continue };
        // Still being written: it waits for the next time.
        let Some(row) = why_row::read_from_bytes(&value).ok().filter(|row| row.flow.time != 0) else {
            continue;
        };
        rows.push(row);
        // Nobody else takes entries out.
        map.delete(&key).map_err(failed)?;
    }
    Ok(rows)
}
