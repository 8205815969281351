//! Listeners of TCP and their queues.

pub mod abi;

use self::abi::listen_row;
use super::iterate::records;
use super::load::Loaded;
use super::record::{Context, Record, Value};
use super::{Column, Description, Merge, Source, Unit};
use crate::Result;

/// `flowtag listen`.
pub static PROBE: Description = Description {
    name: "listen",
    about: "Show who listens for TCP connections, how many wait to be accepted, and what was dropped",
    details: "A row for each address, port and process, every 5 s or as often as -i says. Several sockets of one process at one \
              port (SO_REUSEPORT) are one row: their queues are added up. PEAK and DROPS count from the start of the \
              command.",
    examples: &[
        ("listen", "all listeners of this host, every 5 s"),
        ("listen --port 1094 -i 1", "those of XRootD, every second"),
        ("listen --by process -d 60 --json", "after a minute the queues of each process, for a program"),
    ],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/listen.bpf.o")),
    optional: &[],
    flags: &[],
    columns: COLUMNS,
    metrics: &[],
    settings: |_| Vec::new(),
    leave_out: || &[],
    at_start: &[],
    source: Source::Rows(rows),
};

const COLUMNS: &[Column] = &[
    Column::text("listener", "LISTENER", 24, "Address and port"),
    Column::text("process", "PROCESS", 16, "Name of the process that listens"),
    each("backlog", "BACKLOG", "Connections that wait to be accepted"),
    Column::last("backlog_peak", "PEAK", Unit::Count, "The most that waited at one of the sockets")
        .merge(Merge::Max),
    each("backlog_limit", "LIMIT", "How many may wait; one more has room, too"),
    each("syn_queue", "SYN", "Connections whose handshake is not complete"),
    each("syn_queue_young", "YOUNG", "Of them, those whose SYN-ACK was not sent again"),
    each("drops", "DROPS", "SYN and handshakes that were dropped, most often because the backlog was full"),
    each("sockets", "SOCKETS", "Sockets in this row"),
    hidden("local_address", "Address"),
    hidden("local_port", "Port"),
    hidden("pid", "Process that listens"),
    hidden("netns", "Number of the network namespace"),
];

/// Of each socket the latest, added up.
const fn each(name: &'static str, heading: &'static str, help: &'static str) -> Column {
    Column::last(name, heading, Unit::Count, help).merge(Merge::Each)
}

const fn hidden(name: &'static str, help: &'static str) -> Column {
    Column::last(name, "", Unit::None, help).rank(Column::HIDDEN)
}

fn rows(loaded: &Loaded) -> Result<Vec<Record>> {
    Ok(records::<listen_row>(loaded, "flowtag_listeners")?.iter().map(record).collect())
}

fn record(raw: &listen_row) -> Record {
    let context = Context::from(&raw.event);
    let local = context.flow.map(|flow| flow.local);
    let values = vec![
        Value::from(local.map(|local| local.to_string())),
        context.owner.process.clone().into(),
        raw.backlog.into(),
        raw.peak.into(),
        raw.limit.into(),
        raw.syn.into(),
        raw.young.into(),
        raw.drops.into(),
        Value::from(1_u64),
        local.map(|local| local.addr().to_string()).into(),
        local.map(|local| u64::from(local.port())).into(),
        context.owner.pid.into(),
        context.netns.into(),
    ];
    Record { context, values }
}
