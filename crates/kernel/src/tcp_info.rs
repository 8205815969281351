//! What the kernel measures of a TCP connection: `struct tcp_info` of `linux/tcp.h`, in its own units.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct tcp_info` up to Linux 6.11's members. What an older kernel does not tell is 0.
///
/// Times are in microseconds unless said otherwise; rates in bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TcpInfo {
    /// `TCP_*` of the kernel's `net/tcp_states.h`: 1 is established.
    pub state: u8,
    /// State of congestion avoidance: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
    pub ca_state: u8,
    /// Unacknowledged retransmission time-outs in a row.
    pub retransmits: u8,
    /// Unanswered probes of a zero window.
    pub probes: u8,
    /// Exponential back-off of the retransmission timer.
    pub backoff: u8,
    /// Bits: 1 time stamps, 2 SACK, 4 window scale, 8 ECN, 16 ECN seen, 32 SYN data.
    pub options: u8,
    /// Window scales: the low four bits of what is sent, the high four of what is received, on little-endian hosts.
    pub wscales: u8,
    /// Lowest bit: the delivery rate was limited by the application; the next two: why a Fast Open failed.
    pub flags: u8,
    /// Retransmission time-out.
    pub rto: u32,
    /// Delay of acknowledgements.
    pub ato: u32,
    /// Bytes of payload in a segment that is sent.
    pub snd_mss: u32,
    /// Bytes of payload in segments that are received, as estimated.
    pub rcv_mss: u32,
    /// Segments that are not acknowledged yet; of a listener, connections to accept.
    pub unacked: u32,
    /// Segments acknowledged selectively; of a listener, how many may wait.
    pub sacked: u32,
    /// Segments that are taken for lost.
    pub lost: u32,
    /// Retransmitted segments that are not acknowledged yet.
    pub retrans: u32,
    /// Always 0 since Linux 4.15.
    pub fackets: u32,
    /// Since data was last sent, in milliseconds.
    pub last_data_sent: u32,
    /// Always 0: the kernel does not remember it.
    pub last_ack_sent: u32,
    /// Since data was last received, in milliseconds.
    pub last_data_recv: u32,
    /// Since an acknowledgement was last received, in milliseconds.
    pub last_ack_recv: u32,
    /// MTU of the path, in bytes.
    pub pmtu: u32,
    /// Receive window's slow-start threshold, in bytes.
    pub rcv_ssthresh: u32,
    /// Smoothed round-trip time.
    pub rtt: u32,
    /// Its mean deviation.
    pub rttvar: u32,
    /// Slow-start threshold, in segments; 2³¹ − 1: none yet.
    pub snd_ssthresh: u32,
    /// Congestion window, in segments.
    pub snd_cwnd: u32,
    /// MSS that was announced, in bytes.
    pub advmss: u32,
    /// Segments by which order may be changed without counting as loss.
    pub reordering: u32,
    /// Round-trip time as the receiver estimates it.
    pub rcv_rtt: u32,
    /// Receive buffer space as tuned, in bytes.
    pub rcv_space: u32,
    /// Segments retransmitted in all.
    pub total_retrans: u32,
    /// Rate at which packets are paced.
    pub pacing_rate: u64,
    /// Its limit; all ones: none.
    pub max_pacing_rate: u64,
    /// Bytes sent and acknowledged (RFC 4898 `tcpEStatsAppHCThruOctetsAcked`).
    pub bytes_acked: u64,
    /// Bytes received (RFC 4898 `tcpEStatsAppHCThruOctetsReceived`).
    pub bytes_received: u64,
    /// Segments sent (RFC 4898 `tcpEStatsPerfSegsOut`).
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Bytes that wait to be sent.
    pub notsent_bytes: u32,
    /// Least round-trip time of late; all ones: not measured.
    pub min_rtt: u32,
    /// Segments with data that were received.
    pub data_segs_in: u32,
    /// Segments with data that were sent.
    pub data_segs_out: u32,
    /// Rate of the latest delivery.
    pub delivery_rate: u64,
    /// Time with data to send or unacknowledged.
    pub busy_time: u64,
    /// Time limited by the receiver's window.
    pub rwnd_limited: u64,
    /// Time limited by the send buffer.
    pub sndbuf_limited: u64,
    /// Segments delivered, retransmissions included.
    pub delivered: u32,
    /// Of these, marked by congestion (ECN).
    pub delivered_ce: u32,
    /// Bytes sent, retransmissions included (RFC 4898 `tcpEStatsPerfHCDataOctetsOut`).
    pub bytes_sent: u64,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
    /// Duplicates that the other end told of.
    pub dsack_dups: u32,
    /// Changes of order that were seen.
    pub reord_seen: u32,
    /// Segments received out of order.
    pub rcv_ooopack: u32,
    /// Window that the other end announced, in bytes.
    pub snd_wnd: u32,
    /// Window that this end announced, in bytes.
    pub rcv_wnd: u32,
    /// Times a new path was tried after time-outs (changes of the hash that routers balance by).
    pub rehash: u32,
    /// Retransmission time-outs.
    pub total_rto: u16,
    /// Recoveries from them that are complete.
    pub total_rto_recoveries: u16,
    /// Time spent in them, in milliseconds.
    pub total_rto_time: u32,
}

const _: () = assert!(size_of::<TcpInfo>() == 248);

/// What is known of a connection at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// `struct tcp_info`.
    pub info: TcpInfo,
    /// Name of the congestion control.
    pub congestion: Option<Box<str>>,
}

impl TcpInfo {
    /// From the kernel's bytes, of which an older kernel gives fewer and a newer one more.
    #[must_use]
    pub fn from_kernel(bytes: &[u8]) -> Self {
        let mut info = Self::default();
        let known = bytes.len().min(size_of::<Self>());
        info.as_mut_bytes()[..known].copy_from_slice(&bytes[..known]);
        info
    }

    /// The least round-trip time in microseconds, if one was measured.
    #[must_use]
    pub fn least_rtt(&self) -> Option<u32> {
        (self.min_rtt != u32::MAX).then_some(self.min_rtt)
    }
}
