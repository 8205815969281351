//! TCP sockets of flows in the marking program's table, by an iterator of eBPF (since Linux 5.9): the kernel itself leaves
//! out all others, and nothing is made into netlink messages.

use std::io::{self, Read};
use std::time::Duration;

use libbpf_rs::{Iter, Link};
use zerocopy::{FromBytes, IntoBytes};

use super::{Memory, Name, Sample, TcpInfo};
use crate::mark::abi::{mark_measured, mark_tcp};
use crate::mark::{self, Key, Marker};
use crate::{Error, Result};

const PROGRAM: &str = "flowtag_statistics";
/// Bytes that are read at a time; the kernel fills 32 KiB.
const BUFFER: usize = 64 * 1024;
const RECORD: usize = size_of::<mark_measured>();

/// A way to look at all TCP sockets of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct Sweep {
    link: Link,
    tick: Duration,
}

impl Marker {
    /// None: this kernel did not take the program. Only flows of this marker's table are found by it.
    ///
    /// # Errors
    /// [`Error::Query`] where the kernel refuses.
    pub fn statistics(&self) -> Result<Option<Sweep>> {
        let Some(program) = self.loaded(PROGRAM) else { return Ok(None) };
        let link = program.attach().map_err(|e| failed(crate::to_io(&e)))?;
        Ok(Some(Sweep { link, tick: mark::tick() }))
    }
}

impl Sweep {
    /// One pass over all TCP sockets. What belongs to a flow of the table is given to `take`. Says how many sockets there
    /// were, listeners and closed ones included.
    ///
    /// # Errors
    /// [`Error::Query`] where the kernel refuses.
    pub fn all(&self, take: &mut dyn FnMut(Key, Sample)) -> Result<u64> {
        let mut iter = Iter::new(&self.link).map_err(|e| failed(crate::to_io(&e)))?;
        let (mut buffer, mut filled, mut seen) = (vec![0; BUFFER], 0, 0);
        loop {
            let free = buffer.get_mut(filled..).unwrap_or_default();
            match iter.read(free) {
                Ok(0) => return Ok(seen),
                Ok(read) => filled += read,
                // So many sockets in a row that are no flow's that the kernel wants to be asked again.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => continue,
                Err(error) => return Err(failed(error)),
            }
            let whole = filled - filled % RECORD;
            for record in buffer.get(..whole).unwrap_or_default().chunks_exact(RECORD) {
                let Ok(record) = mark_measured::read_from_bytes(record) else { continue };
                match mark::flow_of(&record.key) {
                    Some(key) => take(key, sample(&record.tcp, self.tick)),
                    None => seen = record.tcp.cookie,
                }
            }
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Query { what: "the statistics of its TCP sockets", source }
}

/// With the kernel's jiffies of this length as `struct tcp_info` has them.
pub(crate) fn sample(raw: &mark_tcp, tick: Duration) -> Sample {
    Sample {
        info: info(raw, tick),
        sent: raw.sent,
        received: raw.received,
        cookie: raw.cookie,
        congestion: Name::from_kernel(&raw.congestion),
        algorithm: None,
        memory: Memory::read_from_bytes(raw.memory.as_bytes()).ok(),
        tos: Some(raw.tos),
        tclass: None,
    }
}

fn info(raw: &mark_tcp, tick: Duration) -> TcpInfo {
    // A jiffy is at most 10 ms, so that 64 bits hold the nanoseconds of 32 bits of them.
    let nanos = u64::from(tick.subsec_nanos());
    let micros = |jiffies: u32| u64::from(jiffies) * nanos / 1_000;
    let millis = |jiffies: u32| u32::try_from(u64::from(jiffies) * nanos / 1_000_000).unwrap_or(u32::MAX);
    let short = |jiffies: u32| u32::try_from(micros(jiffies)).unwrap_or(u32::MAX);
    let (rwnd_limited, sndbuf_limited) = (micros(raw.rwnd_limited), micros(raw.sndbuf_limited));
    TcpInfo {
        state: raw.state,
        ca_state: raw.ca_state,
        retransmits: raw.retransmits,
        probes: raw.probes,
        backoff: raw.backoff,
        options: raw.options,
        wscales: super::joined([(raw.snd_wscale, 4), (raw.rcv_wscale, 4)]),
        flags: super::joined([(raw.app_limited, 1), (0, 7)]),
        rto: short(raw.rto),
        ato: short(raw.ato),
        last_data_sent: millis(raw.last_data_sent),
        last_data_recv: millis(raw.last_data_recv),
        last_ack_recv: millis(raw.last_ack_recv),
        // Time in each of the three states; the sum is the time with something to send.
        busy_time: micros(raw.busy_time) + rwnd_limited + sndbuf_limited,
        rwnd_limited,
        sndbuf_limited,
        ..counts(raw)
    }
}

/// What is taken over as it is.
fn counts(raw: &mark_tcp) -> TcpInfo {
    macro_rules! same {
        ($($field:ident)+) => { TcpInfo { $($field: raw.$field,)+ ..TcpInfo::default() } };
    }
    same!(
        snd_mss rcv_mss unacked sacked lost retrans pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss
        reordering rcv_rtt rcv_space total_retrans pacing_rate max_pacing_rate bytes_acked bytes_received segs_out
        segs_in notsent_bytes min_rtt data_segs_in data_segs_out delivery_rate delivered delivered_ce bytes_sent
        bytes_retrans dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash total_rto total_rto_recoveries
        total_rto_time
    )
}
