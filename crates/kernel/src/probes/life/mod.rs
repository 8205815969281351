//! Life of TCP connections. Also what all other probes know of a socket.

pub mod abi;
mod end;
mod listed;

pub use self::listed::{Direction, History, Listed};

use zerocopy::{FromZeros, IntoBytes};

use self::abi::{life_event, life_settings, life_sum};
use self::end::End;
use super::abi::observe_socket;
use super::record::{self, Context, Record, Value};
use super::{
    Alike, Column, Description, Flag, Loaded, Measure, Merge, Metric, Options, SUMS, Source, Unit, whose,
};
use crate::tcp_info::{Sample, sweep};
use crate::{Result, mark};

/// `flowtag life`.
pub static PROBE: Description = Description {
    name: "life",
    about: "Show a line for each TCP connection that ends: how long, how much, how fast, and how it ended",
    details: "A connection ends where the kernel forgets its state: with the last FIN, a RST or a time-out. Attempts that \
              never became one have a line, too. What was before the command began is not known: of a connection that \
              was open then, start and duration.",
    examples: &[
        ("life", "each connection of this host as it ends"),
        ("life --tag atlas -i 10", "every 10 s how many connections of ATLAS ended, and how"),
        ("life --by process,end -d 1m", "of one minute, by process and end"),
        ("life --open -d 10", "also those that are still open after 10 s"),
        ("life not port 22 --json", "all but SSH, for a program"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/life.bpf.o")),
    optional: &[
        ("flowtag_writer", "who writes to a socket that another process accepted, until it is closed"),
        ("flowtag_error", "why a connection failed, where the application was quick to ask"),
        ("flowtag_was_reset", "which end reset a connection"),
        ("flowtag_resets", "that this end reset a connection"),
        ("flowtag_holders", "whose the sockets are that were open before"),
        ("flowtag_tcp", "connections that are open"),
    ],
    flags: &[Flag {
        name: OPEN,
        help: "Also show connections that are still open, at the end and with each interval",
    }],
    columns: COLUMNS,
    metrics: &[Metric {
        name: "flowtag_tcp_closed",
        unit: Some("connections"),
        help: "TCP connections and attempts that ended",
        labels: &["direction", "end", "by"],
        measure: Measure::Records,
    }],
    settings,
    leave_out: || &[],
    at_start: &[HOLDERS],
    source: Source::EventsOrSums(decode, sums),
};

/// The switch that asks for [`Listed::record`]s.
pub(super) const OPEN: &str = "open";
/// The iterator over open files, which learns whose the sockets are.
pub(super) const HOLDERS: &str = "flowtag_holders";

const COLUMNS: &[Column] = &[
    Column::text(
        "end",
        "END",
        8,
        "How: FIN, RST, timeout, refused, unreachable, aborted, unsent, error, open",
    ),
    Column::text("by", "BY", 6, "Which end was first to close, to reset or to refuse: local or remote"),
    Column::last("duration_us", "LASTED", Unit::Micros, "From the SYN to the end").width(7).merge(Merge::Max),
    Column::sum("sent_bytes", "SENT", Unit::Bytes, "Payload that was sent and acknowledged").width(5),
    Column::sum("received_bytes", "RECV", Unit::Bytes, "Payload that was received in order").width(5),
    Column::last("rtt_us", "RTT", Unit::Micros, "Smoothed round-trip time at the end").width(7).rank(3),
    Column::last("min_rtt_us", "MINRTT", Unit::Micros, "Least round-trip time of late")
        .width(7)
        .rank(4)
        .merge(Merge::Min),
    Column::sum("retransmitted_segments", "RETR", Unit::Count, "Segments that were sent again")
        .width(5)
        .rank(3),
    Column::sum("sent_segments", "SEGS", Unit::Count, "Segments that were sent, those again among them")
        .width(5)
        .rank(7),
    Column::last("connect_us", "CONNECT", Unit::Micros, "From the SYN to the end of the handshake")
        .width(7)
        .rank(4)
        .merge(Merge::Max),
    Column::text("direction", "DIR", 7, "active: this end connected; passive: it accepted").rank(5),
    Column::sum("busy_us", "BUSY", Unit::Micros, "Time with data to send or to be acknowledged")
        .width(7)
        .rank(5),
    Column::sum("rwnd_limited_us", "RWNDLIM", Unit::Micros, "Of it, waiting for the receiver's window")
        .width(7)
        .rank(5),
    Column::sum("sndbuf_limited_us", "BUFLIM", Unit::Micros, "Of it, waiting for room in the send buffer")
        .width(7)
        .rank(5),
    Column::text("congestion_control", "CC", 6, "Algorithm of congestion control").rank(7),
    Column::sum("syn_retries", "SYNRETR", Unit::Count, "SYN or SYN-ACK sent again").width(7).rank(8),
    Column::text("error", "ERROR", 20, "What the application was told, if that was an error").rank(8),
    Column::last("start", "START", Unit::Moment, "When the SYN was sent or received")
        .rank(Column::HIDDEN)
        .merge(Merge::Drop),
];

fn settings(options: &Options) -> Vec<u8> {
    let settings = life_settings { sums: options.has(SUMS).into(), parts: whose::parts(options, &[]) };
    settings.as_bytes().to_vec()
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let raw: life_event = record::read(bytes)?;
    let history = History::from(&raw.socket);
    let sample = sweep::sample(&raw.tcp, mark::tick());
    let context = Context::from(&raw.event);
    let end = End::of(&history, raw.event.state, raw.facts);
    let error = history.error.map(|number| end::reason(number.into()));
    let values = values(&context, &history, &sample, &end, error);
    Some(Record { context, values })
}

/// How many connections ended, by whose they were and how it came.
fn sums(loaded: &Loaded) -> Result<Vec<Alike>> {
    let ends = loaded.entries::<life_sum, u64>("life_sums")?;
    let others = loaded.entries::<u32, u64>("life_others")?;
    let ends = ends.into_iter().map(|(end, counts)| (Some(of_sum(&end)), counts));
    let all = ends.chain(others.into_iter().map(|(_, counts)| (None, counts)));
    Ok(all
        .map(|(record, counts)| Alike { record, count: counts.into_iter().sum() })
        .filter(|a| a.count > 0)
        .collect())
}

/// Only what metrics are told apart by.
fn of_sum(raw: &life_sum) -> Record {
    let socket = observe_socket { flags: raw.flags, error: raw.error, ..FromZeros::new_zeroed() };
    let history = History::from(&socket);
    let end = End::of(&history, raw.state, raw.facts.into());
    let value = |column: &Column| match column.name {
        "end" => end.how.into(),
        "by" => end.by.into(),
        "direction" => history.direction.map(Direction::name).into(),
        _ => Value::None,
    };
    Record { context: whose::context(&raw.whose), values: COLUMNS.iter().map(value).collect() }
}

impl Listed {
    /// As a line of `flowtag life --open`.
    pub(super) fn record(&self) -> Record {
        let values = values(&self.context, &self.history, &self.sample, &End::OPEN, None);
        Record { context: self.context.clone(), values }
    }
}

/// In the order of [`COLUMNS`].
fn values(
    context: &Context,
    history: &History,
    sample: &Sample,
    end: &End,
    error: Option<String>,
) -> Vec<Value> {
    let info = &sample.info;
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    vec![
        Value::from(end.how),
        end.by.into(),
        history.opened.map(|opened| micros(context.time.saturating_sub(opened))).into(),
        sample.sent.into(),
        sample.received.into(),
        (info.rtt != 0).then_some(info.rtt).into(),
        info.least_rtt().filter(|rtt| *rtt != 0).into(),
        info.total_retrans.into(),
        info.segs_out.into(),
        history.connect_time().map(micros).into(),
        history.direction.map(Direction::name).into(),
        info.busy_time.into(),
        info.rwnd_limited.into(),
        info.sndbuf_limited.into(),
        sample.congestion.map(|name| name.to_string()).into(),
        history.syn_retries.into(),
        error.into(),
        history.opened.map(|opened| u64::try_from(opened.as_nanos()).unwrap_or(u64::MAX)).into(),
    ]
}
