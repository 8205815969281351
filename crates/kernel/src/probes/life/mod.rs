//! Life of TCP connections. Also what all other probes know of a socket.

pub mod abi;

use self::abi::life_event;
use super::record::{self, Context, Record, Value};
use super::{Column, Description, Source, Unit};

/// `flowtag life`.
pub static PROBE: Description = Description {
    name: "life",
    about: "Show a line for each TCP connection that ends: how long, how much, how fast, and how it ended",
    details: "",
    examples: &[],
    object: include_bytes!(concat!(env!("OUT_DIR"), "/life.bpf.o")),
    optional: &[
        ("flowtag_writer", "who writes to a socket that another process accepted"),
        ("flowtag_error", "why a connection failed, where no RST told"),
        ("flowtag_was_reset", "that the other end reset a connection"),
        ("flowtag_resets", "that this end reset a connection"),
        ("flowtag_synack", "how often a SYN-ACK was sent again"),
        ("flowtag_holders", "whose the sockets are that were open before"),
        ("flowtag_tcp", "connections that were open before"),
    ],
    flags: &[],
    columns: &[Column::sum("sent_bytes", "SENT", Unit::Bytes, "Payload that was sent and acknowledged")],
    metrics: &[],
    settings: |_| Vec::new(),
    source: Source::Events(decode),
};

fn decode(bytes: &[u8]) -> Option<Record> {
    let raw: life_event = record::read(bytes)?;
    Some(Record { context: Context::from(&raw.event), values: vec![Value::from(raw.tcp.sent)] })
}
