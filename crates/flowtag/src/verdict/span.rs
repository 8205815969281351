//! What a connection did between two looks at it.

use std::time::Duration;

use flowtag_kernel::probes::why::{Limits, Look};
use flowtag_kernel::tcp_info::TcpInfo;

/// The kernel's word for "none yet" where it keeps the least round-trip time.
const NO_RTT: u32 = u32::MAX;

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Way {
    /// No data moved, and none waits.
    #[default]
    None,
    /// Mostly from here.
    Sends,
    /// Mostly to here.
    Receives,
}

/// By what sending was limited, in parts of the time; the sum is 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Shares {
    /// The congestion window was full.
    pub(crate) network: f64,
    /// Loss or congestion was being repaired.
    pub(crate) recovery: f64,
    /// The retransmission timer had to run out.
    pub(crate) timeout: f64,
    /// The receiver's window was full.
    pub(crate) receiver: f64,
    /// The send buffer was full of data in flight.
    pub(crate) sndbuf: f64,
    /// A queue or the pacing of this host held data back.
    pub(crate) queue: f64,
    /// The application had given nothing to send.
    pub(crate) application: f64,
}

impl Shares {
    /// The kernel's clocks say how long there was data, and how long the receiver or the send buffer was what limited; the
    /// rest is divided as the programs saw it.
    fn of(time: f64, clocks: Clocks, seen: &Limits) -> Self {
        if time <= 0.0 {
            return Self { application: 1.0, ..Self::default() };
        }
        let seconds = |time: Duration| time.as_secs_f64();
        // A clock of the kernel goes only where it tries to send: the programs may have seen more.
        let sndbuf = (seconds(seen.sndbuf) - clocks.sndbuf).max(0.0);
        let receiver = (seconds(seen.receiver) - clocks.receiver).max(0.0);
        let path = [seen.network, seen.recovery, seen.timeout, seen.queue, seen.application].map(seconds);
        let all = path.iter().sum::<f64>() + sndbuf + receiver;
        let rest = (clocks.busy - clocks.receiver - clocks.sndbuf).max(0.0);
        let part = |seen: f64| if all > 0.0 { rest * seen / all } else { 0.0 };
        let [network, recovery, timeout, queue, application] = path.map(part);
        let unseen = if all > 0.0 { 0.0 } else { rest };
        let idle = (time - clocks.busy).max(0.0);
        let total = clocks.busy.max(time);
        Self {
            network: (network + unseen) / total,
            recovery: recovery / total,
            timeout: timeout / total,
            receiver: (clocks.receiver + part(receiver)) / total,
            sndbuf: (clocks.sndbuf + part(sndbuf)) / total,
            queue: queue / total,
            application: (application + idle) / total,
        }
    }

    /// Everything that the way to the other end is to blame for.
    pub(crate) fn path(&self) -> f64 {
        self.network + self.recovery + self.timeout
    }

    /// Names and values, in the order of a bar.
    pub(crate) fn named(&self) -> [(&'static str, f64); 7] {
        [
            ("network", self.network),
            ("recovery", self.recovery),
            ("timeout", self.timeout),
            ("receiver", self.receiver),
            ("sndbuf", self.sndbuf),
            ("queue", self.queue),
            ("application", self.application),
        ]
    }
}

/// Seconds of the kernel's own clocks.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    busy: f64,
    receiver: f64,
    sndbuf: f64,
}

/// What a connection did in a time, and how it was at its end. Bytes are of payload, times in µs unless said otherwise.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Span {
    /// How long, in seconds.
    pub(crate) time: f64,
    pub(crate) way: Way,
    pub(crate) shares: Shares,
    /// Sent and acknowledged.
    pub(crate) sent: u64,
    /// Received in order.
    pub(crate) received: u64,
    /// Segments with data, retransmissions included.
    pub(crate) segments: u64,
    pub(crate) retransmitted: u64,
    /// Smoothed, at the end.
    pub(crate) rtt: Option<u32>,
    pub(crate) min_rtt: Option<u32>,
    /// By how much round trips took longer than the least, on average.
    pub(crate) queueing: f64,
    /// As the receiver estimates it.
    pub(crate) rcv_rtt: Option<u32>,
    /// Segments.
    pub(crate) cwnd: u32,
    pub(crate) mss: u32,
    pub(crate) peer_window_min: u32,
    pub(crate) peer_window_max: u32,
    pub(crate) zero_windows: u32,
    /// Part of the time in which the peer's window had no room for a segment.
    pub(crate) shut: f64,
    /// Largest that this end announced.
    pub(crate) window: u32,
    /// Waits to be read, at the end.
    pub(crate) unread: u32,
    pub(crate) unread_max: u32,
    /// Part of the time in which more than half of what may be received waited to be read.
    pub(crate) unread_share: f64,
    /// Waits to be sent.
    pub(crate) not_sent: u32,
    pub(crate) sndbuf: u32,
    pub(crate) sndbuf_fixed: bool,
    pub(crate) rcvbuf: u32,
    pub(crate) rcvbuf_fixed: bool,
    /// By SO_MAX_PACING_RATE; bytes per second.
    pub(crate) paced: Option<u64>,
}

impl Span {
    /// From one look to the next; without an earlier one since it was first seen.
    pub(crate) fn between(before: Option<&Look>, now: &Look) -> Self {
        let start = before.map_or(now.since, |b| b.context.time);
        let time = now.context.time.saturating_sub(start).as_secs_f64();
        let (none, no_limits) = (TcpInfo::default(), Limits::default());
        let (was, limits) = before.map_or((&none, &no_limits), |b| (&b.sample.info, &b.limits));
        let (is, seen) = (&now.sample.info, since(limits, &now.limits));
        let micros = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e6;
        let clocks = Clocks {
            busy: micros(is.busy_time, was.busy_time),
            receiver: micros(is.rwnd_limited, was.rwnd_limited),
            sndbuf: micros(is.sndbuf_limited, was.sndbuf_limited),
        };
        let mut span = Self {
            time,
            shares: Shares::of(time, clocks, &seen),
            sent: now.sample.sent.saturating_sub(before.map_or(0, |b| b.sample.sent)),
            received: now.sample.received.saturating_sub(before.map_or(0, |b| b.sample.received)),
            segments: is.data_segs_out.wrapping_sub(was.data_segs_out).into(),
            retransmitted: is.total_retrans.wrapping_sub(was.total_retrans).into(),
            queueing: if seen.weight > 0.0 { seen.queueing / seen.weight } else { 0.0 },
            zero_windows: seen.zero_windows,
            shut: part(seen.shut, time),
            unread_share: part(seen.unread, time),
            ..Self::at(now)
        };
        span.way = span.way(is);
        span
    }

    /// What is of the moment.
    fn at(now: &Look) -> Self {
        let info = &now.sample.info;
        let known = |rtt: u32| (rtt != 0 && rtt != NO_RTT).then_some(rtt);
        let memory = now.sample.memory.unwrap_or_default();
        Self {
            rtt: known(info.rtt),
            min_rtt: known(info.min_rtt),
            rcv_rtt: known(info.rcv_rtt),
            cwnd: info.snd_cwnd,
            mss: info.snd_mss,
            peer_window_min: now.extremes.peer_window_min,
            peer_window_max: now.extremes.peer_window_max,
            window: now.extremes.window_max,
            unread: now.unread,
            unread_max: now.extremes.unread_max,
            not_sent: info.notsent_bytes,
            sndbuf: memory.sndbuf,
            sndbuf_fixed: now.sndbuf_fixed,
            rcvbuf: memory.rcvbuf,
            rcvbuf_fixed: now.rcvbuf_fixed,
            paced: now.is_paced.then_some(info.max_pacing_rate),
            ..Self::default()
        }
    }

    fn way(&self, info: &TcpInfo) -> Way {
        let waits = info.unacked > 0 || info.notsent_bytes > 0;
        match (self.sent, self.received) {
            (0, 0) if waits => Way::Sends,
            (0, 0) if self.unread > 0 => Way::Receives,
            (0, 0) => Way::None,
            (sent, received) if sent >= received => Way::Sends,
            _ => Way::Receives,
        }
    }

    /// Bytes per second that were sent.
    pub(crate) fn tx_rate(&self) -> f64 {
        rate(self.sent, self.time)
    }

    /// Bytes per second that were received.
    pub(crate) fn rx_rate(&self) -> f64 {
        rate(self.received, self.time)
    }

    /// Retransmitted segments, in parts of all that were sent with data.
    pub(crate) fn retransmission(&self) -> f64 {
        if self.segments == 0 { 0.0 } else { self.retransmitted as f64 / self.segments as f64 }
    }

    /// Bytes on the way in a round trip at this rate, as the receiver sees it.
    pub(crate) fn received_per_round_trip(&self) -> f64 {
        let rtt = self.rcv_rtt.or(self.rtt).unwrap_or(0);
        self.rx_rate() * f64::from(rtt) / 1e6
    }
}

fn rate(bytes: u64, time: f64) -> f64 {
    if time > 0.0 { bytes as f64 / time } else { 0.0 }
}

fn part(of: Duration, time: f64) -> f64 {
    if time > 0.0 { (of.as_secs_f64() / time).min(1.0) } else { 0.0 }
}

fn since(before: &Limits, now: &Limits) -> Limits {
    let times = |of: fn(&Limits) -> Duration| of(now).saturating_sub(of(before));
    Limits {
        network: times(|l| l.network),
        receiver: times(|l| l.receiver),
        sndbuf: times(|l| l.sndbuf),
        application: times(|l| l.application),
        recovery: times(|l| l.recovery),
        timeout: times(|l| l.timeout),
        queue: times(|l| l.queue),
        shut: times(|l| l.shut),
        unread: times(|l| l.unread),
        queueing: now.queueing - before.queueing,
        weight: now.weight - before.weight,
        zero_windows: now.zero_windows.wrapping_sub(before.zero_windows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(network: f64, application: f64) -> Limits {
        Limits {
            network: Duration::from_secs_f64(network),
            application: Duration::from_secs_f64(application),
            ..Limits::default()
        }
    }

    #[test]
    fn the_kernels_clocks_bound_what_the_programs_saw() {
        for (what, time, clocks, seen, network, receiver, application) in [
            ("nothing was sent", 5.0, (0.0, 0.0), limits(0.0, 0.0), 0.0, 0.0, 1.0),
            ("busy all the time", 5.0, (5.0, 0.0), limits(4.9, 0.0), 1.0, 0.0, 0.0),
            ("no event, but the clock ran", 5.0, (5.0, 0.0), limits(0.0, 0.0), 1.0, 0.0, 0.0),
            ("half of it the receiver's", 4.0, (4.0, 2.0), limits(1.9, 0.0), 0.5, 0.5, 0.0),
            ("writes little, one round trip each", 4.0, (2.0, 0.0), limits(0.0, 2.0), 0.0, 0.0, 1.0),
            ("a clock that is ahead by a tick", 1.0, (2.0, 0.0), limits(1.0, 0.0), 1.0, 0.0, 0.0),
        ] {
            let (busy, limited) = clocks;
            let found = Shares::of(time, Clocks { busy, receiver: limited, sndbuf: 0.0 }, &seen);
            assert_eq!(
                (found.network, found.receiver, found.application),
                (network, receiver, application),
                "{what}"
            );
            let sum: f64 = found.named().iter().map(|(_, share)| share).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{what}: {sum}");
        }
    }
}
