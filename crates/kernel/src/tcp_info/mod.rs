//! What the kernel measures of a TCP connection: `struct tcp_info` of `linux/tcp.h`, in its own units.

mod diag;
pub(crate) mod sweep;

pub use diag::Inquiry;
pub use sweep::Sweep;
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
    /// Two bit-fields: see [`Self::snd_wscale`] and [`Self::rcv_wscale`].
    pub wscales: u8,
    /// Two bit-fields: see [`Self::delivery_rate_app_limited`] and [`Self::fastopen_client_fail`].
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
    /// `struct tcp_info`. Its `bytes_acked` and `bytes_received` count the sequence numbers of SYN and FIN, too.
    pub info: TcpInfo,
    /// Bytes of payload that were sent from this host and acknowledged.
    pub sent: u64,
    /// Bytes of payload that this host received in order.
    pub received: u64,
    /// The kernel's number of the socket, never used twice while it runs; 0: it has none yet.
    pub cookie: u64,
    /// Name of the congestion control: `cubic`.
    pub congestion: Option<Name>,
    /// Its inner state, of those that tell. Known where sock_diag was asked.
    pub algorithm: Option<Algorithm>,
    /// Memory of the socket.
    pub memory: Option<Memory>,
    /// Type of service of IPv4, with DSCP in the upper six bits.
    pub tos: Option<u8>,
    /// Traffic class of IPv6, likewise. Known where sock_diag was asked.
    pub tclass: Option<u8>,
}

/// `SK_MEMINFO_*` of `linux/sock_diag.h`, in bytes, as `ss -m` shows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Memory {
    /// Received and not read yet (`r`).
    pub rmem_alloc: u32,
    /// Limit of it (`rb`).
    pub rcvbuf: u32,
    /// Handed to the interface (`t`).
    pub wmem_alloc: u32,
    /// Limit of what may wait to be sent (`tb`).
    pub sndbuf: u32,
    /// Reserved in advance (`f`).
    pub fwd_alloc: u32,
    /// Waits to be sent or acknowledged (`w`).
    pub wmem_queued: u32,
    /// For options and filters (`o`).
    pub optmem: u32,
    /// Waits for the socket's lock (`bl`).
    pub backlog: u32,
    /// Packets, not bytes, that were dropped for want of room (`d`).
    pub drops: u32,
}

/// What a congestion control tells of itself, in the kernel's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `struct tcp_bbr_info`.
    Bbr {
        /// Estimated bandwidth in bytes per second.
        bandwidth: u64,
        /// Least round-trip time in µs.
        min_rtt: u32,
        /// Gain of pacing, times 256.
        pacing_gain: u32,
        /// Gain of the window, times 256.
        cwnd_gain: u32,
    },
    /// `struct tcp_dctcp_info`.
    Dctcp {
        /// Whether DCTCP is in use; otherwise the other end did not agree to ECN and it is Reno.
        enabled: bool,
        /// Whether the latest packet was marked.
        ce_state: u16,
        /// Share of marked bytes, times 1024.
        alpha: u32,
        /// Acknowledged bytes that were marked, in this window.
        ab_ecn: u32,
        /// Acknowledged bytes in this window.
        ab_tot: u32,
    },
    /// `struct tcpvegas_info`, also of others that measure as it does.
    Vegas {
        /// Whether it is in use.
        enabled: bool,
        /// Round-trip times measured in this window.
        rttcnt: u32,
        /// The latest round-trip time in µs.
        rtt: u32,
        /// The least in µs.
        minrtt: u32,
    },
}

/// `TCP_*` of the kernel's `net/tcp_states.h`.
pub(crate) mod state {
    pub(crate) const CLOSE: u8 = 7;
    pub(crate) const ESTABLISHED: u8 = 1;
    pub(crate) const SYN_SENT: u8 = 2;
    pub(crate) const FIN_WAIT1: u8 = 4;
    pub(crate) const FIN_WAIT2: u8 = 5;
    pub(crate) const CLOSE_WAIT: u8 = 8;
    pub(crate) const LAST_ACK: u8 = 9;
    pub(crate) const CLOSING: u8 = 11;
    /// Bits of the states in which there is a peer and a socket.
    pub(crate) const CONNECTED: u32 = 1 << ESTABLISHED
        | 1 << SYN_SENT
        | 1 << FIN_WAIT1
        | 1 << FIN_WAIT2
        | 1 << CLOSE_WAIT
        | 1 << LAST_ACK
        | 1 << CLOSING;
}

impl Sample {
    /// Sets [`Self::sent`] and [`Self::received`]. `queued` is how many sequence numbers there are from the oldest that is
    /// not acknowledged to the last that waits to be sent.
    ///
    /// Who opened the connection has the SYN among the acknowledged bytes, who accepted it has not, and nothing in
    /// `struct tcp_info` tells which it was. So bytes are counted as they were sent, and what is not acknowledged yet is
    /// taken off.
    fn count_payload(&mut self, queued: u32) {
        let info = &self.info;
        let fin_queued =
            matches!(info.state, state::FIN_WAIT1 | state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING);
        let fin_acked = u64::from(fin_queued && queued == 0);
        let fin_sent = u64::from(fin_queued && info.notsent_bytes == 0);
        let in_flight = u64::from(queued.saturating_sub(info.notsent_bytes));
        let once = info.bytes_sent.saturating_sub(info.bytes_retrans);
        let acked = (once + fin_sent).checked_sub(in_flight + fin_acked);
        // The two are read one after the other, so that they may not fit: then the SYN is not known.
        let syn =
            acked.and_then(|acked| info.bytes_acked.checked_sub(acked + fin_acked)).filter(|syn| *syn <= 1);
        self.sent = info.bytes_acked.saturating_sub(fin_acked + syn.unwrap_or(0));
        let fin_received = matches!(info.state, state::CLOSE_WAIT | state::LAST_ACK | state::CLOSING);
        self.received = info.bytes_received.saturating_sub(u64::from(fin_received));
    }
}

/// A short name that the kernel gives, as `cubic`: at most 15 bytes of printable ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; 16]);

impl Name {
    /// Up to the first zero; none if there is nothing before it, or something that nobody would print.
    #[must_use]
    pub fn from_kernel(bytes: &[u8]) -> Option<Self> {
        let length = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()).min(15);
        let text = bytes.get(..length)?;
        let mut name = [0; 16];
        name.get_mut(..length)?.copy_from_slice(text);
        (length > 0 && text.iter().all(u8::is_ascii_graphic)).then_some(Self(name))
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        let length = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        self.0.get(..length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&**self, f)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self)
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::from_kernel(text.as_bytes()).filter(|name| **name == *text).ok_or(NameError)
    }
}

/// Not a [`Name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name of the kernel is 1 to 15 printable characters of ASCII")]
pub struct NameError;

/// Bits of [`TcpInfo::flags`] and [`TcpInfo::wscales`], as the C compiler of this host's kernel puts them.
const fn bits(byte: u8, from: u32, count: u32) -> u8 {
    let shift = if cfg!(target_endian = "little") { from } else { 8 - from - count };
    byte >> shift & ((1 << count) - 1)
}

/// The other way round: a byte of two fields, each with its length in bits.
const fn joined([(first, first_bits), (second, second_bits)]: [(u8, u32); 2]) -> u8 {
    let (first, second) =
        (first & ((1_u16 << first_bits) - 1) as u8, second & ((1_u16 << second_bits) - 1) as u8);
    if cfg!(target_endian = "little") { first | second << first_bits } else { first << second_bits | second }
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

    /// By how many bits the windows that the other end announces are shifted, if both ends scale.
    #[must_use]
    pub const fn snd_wscale(&self) -> Option<u8> {
        if self.options & 4 == 0 { None } else { Some(bits(self.wscales, 0, 4)) }
    }

    /// By how many bits the windows that this end announces are shifted, if both ends scale.
    #[must_use]
    pub const fn rcv_wscale(&self) -> Option<u8> {
        if self.options & 4 == 0 { None } else { Some(bits(self.wscales, 4, 4)) }
    }

    /// Whether [`Self::delivery_rate`] is only what the application gave to be sent, not what the path can carry.
    #[must_use]
    pub const fn delivery_rate_app_limited(&self) -> bool {
        bits(self.flags, 0, 1) != 0
    }

    /// Why a Fast Open failed (`TFO_*` of `linux/tcp.h`); 0: it did not, or nobody wanted it.
    #[must_use]
    pub const fn fastopen_client_fail(&self) -> u8 {
        bits(self.flags, 1, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a connection that this end opened: 1,000 bytes written, of which 400 are acknowledged.
    fn busy() -> Sample {
        let info = TcpInfo {
            state: state::ESTABLISHED,
            bytes_acked: 401,
            bytes_sent: 900,
            bytes_retrans: 100,
            notsent_bytes: 200,
            bytes_received: 50,
            ..TcpInfo::default()
        };
        Sample { info, ..Sample::default() }
    }

    fn counted(mut sample: Sample, queued: u32) -> (u64, u64) {
        sample.count_payload(queued);
        (sample.sent, sample.received)
    }

    #[test]
    fn syn_and_fin_are_no_payload() {
        assert_eq!(counted(busy(), 600), (400, 50), "opened here");
        let mut accepted = busy();
        accepted.info.bytes_acked = 400;
        assert_eq!(counted(accepted, 600), (400, 50), "accepted here");
        let mut closing = busy();
        closing.info.state = state::FIN_WAIT1;
        closing.info.notsent_bytes = 201;
        assert_eq!(counted(closing, 601), (400, 50), "FIN not sent yet");
        let all = |state, bytes_acked, notsent_bytes| {
            let info = TcpInfo { state, bytes_acked, notsent_bytes, bytes_sent: 1100, ..busy().info };
            Sample { info, ..busy() }
        };
        assert_eq!(counted(all(state::FIN_WAIT1, 1001, 0), 1), (1000, 50), "FIN sent");
        assert_eq!(counted(all(state::FIN_WAIT2, 1002, 0), 0), (1000, 50), "FIN acknowledged");
        assert_eq!(counted(all(state::FIN_WAIT2, 1001, 0), 0), (1000, 50), "and accepted here");
        assert_eq!(counted(all(state::CLOSE_WAIT, 1001, 0), 0), (1000, 49), "FIN received");
        assert_eq!(counted(all(state::LAST_ACK, 1001, 0), 1), (1000, 49), "both FINs sent");
    }

    #[test]
    fn a_count_that_does_not_fit_is_off_by_no_more_than_the_syn() {
        assert_eq!(counted(busy(), 590), (401, 50), "more was acknowledged in between");
        assert_eq!(counted(busy(), 0), (401, 50));
        assert_eq!(counted(busy(), u32::MAX), (401, 50));
        let connecting = Sample { info: TcpInfo { state: state::SYN_SENT, ..TcpInfo::default() }, ..busy() };
        assert_eq!(counted(connecting, 1), (0, 0));
    }

    /// `struct tcp_info` of a C compiler on a little-endian host.
    #[cfg(target_endian = "little")]
    #[test]
    fn bit_fields_begin_with_the_lowest_bit() {
        let mut bytes = [0; 8];
        bytes[5] = 4;
        bytes[6] = 0x7a;
        bytes[7] = 0b101;
        let info = TcpInfo::from_kernel(&bytes);
        assert_eq!((info.snd_wscale(), info.rcv_wscale()), (Some(10), Some(7)));
        assert_eq!((info.delivery_rate_app_limited(), info.fastopen_client_fail()), (true, 2));
        assert_eq!(TcpInfo { options: 0, ..info }.snd_wscale(), None, "not agreed on");
        assert_eq!((joined([(10, 4), (7, 4)]), joined([(1, 1), (2, 7)])), (0x7a, 0b101));
    }

    #[test]
    fn an_older_kernel_tells_less_and_a_newer_more() {
        let mut bytes = [0; 300];
        bytes[..5].copy_from_slice(&[1, 0, 3, 0, 0]);
        bytes[68..72].copy_from_slice(&250_u32.to_ne_bytes());
        for length in [72, 248, 300] {
            let info = TcpInfo::from_kernel(&bytes[..length]);
            assert_eq!((info.state, info.retransmits, info.rtt, info.rcv_wnd), (1, 3, 250, 0));
        }
        assert_eq!(TcpInfo::from_kernel(&bytes[..70]).rtt & 0xff, 250);
        assert_eq!(TcpInfo::from_kernel(&[]), TcpInfo::default());
    }

    #[test]
    fn names_are_short_and_printable() {
        let name = Name::from_kernel(b"cubic\0\0rest").expect("a name");
        assert_eq!(
            (&*name, name.to_string(), format!("{name:?}")),
            ("cubic", "cubic".into(), "\"cubic\"".into())
        );
        assert_eq!("cubic".parse(), Ok(name));
        let longest = Name::from_kernel(b"0123456789abcdefgh").expect("a name");
        assert_eq!(&*longest, "0123456789abcde");
        for wrong in [&b""[..], b"\0", b"a b", b"a\nb", b"\xff"] {
            assert_eq!(Name::from_kernel(wrong), None, "{wrong:?}");
        }
        assert_eq!("0123456789abcdef".parse::<Name>(), Err(NameError));
    }

    /// What a flow with values costs beside its entry in the tables (docs/statistics.md).
    #[test]
    fn a_sample_is_no_larger_than_documented() {
        assert!(size_of::<Sample>() <= 376, "{}", size_of::<Sample>());
    }
}
