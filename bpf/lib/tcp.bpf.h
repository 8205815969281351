/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What struct tcp_info says of a socket, read where tcp_get_info() cannot be called. Since kernel 5.9. The socket must be
 * locked, or nobody may use it any more; times in jiffies stay jiffies, as a program cannot know how long they are. */
#ifndef FLOWTAG_TCP_BPF_H
#define FLOWTAG_TCP_BPF_H

#define USEC_PER_SEC 1000000
#define NSEC_PER_USEC 1000
#define NO_RTT (~0U)	     /* of a connection that measured none yet */
#define PENDING_LOSS_PROBE 5 /* ICSK_TIME_LOSS_PROBE of net/inet_connection_sock.h */
#define SOCK_DONE 1	     /* bit of sk_flags: a FIN came (enum sock_flags, unchanged since 2.6) */

/* TCP_ECN_OK and TCP_ECN_SEEN of net/tcp.h */
#define ECN_AGREED 1
#define ECN_SEEN 8

/* enum tcp_chrono */
#define CHRONO_BUSY 1
#define CHRONO_RWND_LIMITED 2
#define CHRONO_SNDBUF_LIMITED 3

static __always_inline bool has_sent_fin(__u8 state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_LAST_ACK || state == TCP_CLOSING;
}

/* Who opened the connection has the SYN in bytes_acked, who accepted it has not, and nothing tells which it was. So
 * bytes are counted as they were sent, once each, and what is not acknowledged yet is taken off. */
static __always_inline __u64 acked_payload(const struct tcp_sock *tp, __u8 state)
{
	bool fin = has_sent_fin(state), fin_sent = fin && tp->snd_nxt == tp->write_seq;
	bool fin_acked = fin && tp->snd_una == tp->write_seq;
	__u64 once = tp->bytes_sent - tp->bytes_retrans + fin_sent;
	__u32 in_flight = tp->snd_nxt - tp->snd_una + fin_acked;

	return once > in_flight ? once - in_flight : 0;
}

static __always_inline void read_bytes(const struct tcp_sock *tp, __u8 state, struct mark_tcp *out)
{
	bool fin = tp->inet_conn.icsk_inet.sk.__sk_common.skc_flags >> SOCK_DONE & 1;

	out->sent = acked_payload(tp, state);
	out->received = tp->bytes_received ? tp->bytes_received - fin : 0;
	out->bytes_acked = tp->bytes_acked;
	out->bytes_received = tp->bytes_received;
	out->bytes_sent = tp->bytes_sent;
	out->bytes_retrans = tp->bytes_retrans;
	out->notsent_bytes = tp->write_seq - tp->snd_nxt;
	out->segs_out = tp->segs_out;
	out->segs_in = tp->segs_in;
	out->data_segs_out = tp->data_segs_out;
	out->data_segs_in = tp->data_segs_in;
	out->total_retrans = tp->total_retrans;
	out->delivered = tp->delivered;
	out->delivered_ce = tp->delivered_ce;
	out->dsack_dups = tp->dsack_dups;
	out->reord_seen = tp->reord_seen;
	out->rcv_ooopack = tp->rcv_ooopack;
}

static __always_inline void read_rates(const struct tcp_sock *tp, struct mark_tcp *out)
{
	__u32 interval = tp->rate_interval_us;

	out->pacing_rate = tp->inet_conn.icsk_inet.sk.sk_pacing_rate;
	out->max_pacing_rate = tp->inet_conn.icsk_inet.sk.sk_max_pacing_rate;
	if (interval)
		out->delivery_rate = (__u64)tp->rate_delivered * tp->mss_cache * USEC_PER_SEC / interval;
	out->app_limited = BPF_CORE_READ_BITFIELD(tp, rate_app_limited);
}

static __always_inline void read_path(const struct tcp_sock *tp, struct mark_tcp *out)
{
	out->rtt = tp->srtt_us >> 3;
	out->rttvar = tp->mdev_us >> 2;
	out->min_rtt = tp->rtt_min.s[0].v;
	out->rcv_rtt = tp->rcv_rtt_est.rtt_us >> 3;
	out->snd_mss = tp->mss_cache;
	out->rcv_mss = tp->inet_conn.icsk_ack.rcv_mss;
	out->advmss = tp->advmss;
	out->pmtu = tp->inet_conn.icsk_pmtu_cookie;
	out->tos = tp->inet_conn.icsk_inet.tos;
}

static __always_inline void read_windows(const struct tcp_sock *tp, struct mark_tcp *out)
{
	out->snd_cwnd = tp->snd_cwnd;
	out->snd_ssthresh = tp->snd_ssthresh;
	out->rcv_ssthresh = tp->rcv_ssthresh;
	out->rcv_space = tp->rcvq_space.space;
	out->snd_wnd = tp->snd_wnd;
	out->rcv_wnd = tp->rcv_wnd;
	out->reordering = tp->reordering;
	out->unacked = tp->packets_out;
	out->sacked = tp->sacked_out;
	out->lost = tp->lost_out;
	out->retrans = tp->retrans_out;
}

/* The kernel counts in 32 bits, which may have begun anew since. */
static __always_inline __u32 chrono(const struct tcp_sock *tp, int what, __u8 running, __u32 now)
{
	return tp->chrono_stat[what - 1] + (running == what ? now - tp->chrono_start : 0);
}

static __always_inline void read_times(const struct tcp_sock *tp, struct mark_tcp *out)
{
	__u32 now = (__u32)bpf_jiffies64();
	__u8 running = BPF_CORE_READ_BITFIELD(tp, chrono_type);

	out->busy_time = chrono(tp, CHRONO_BUSY, running, now);
	out->rwnd_limited = chrono(tp, CHRONO_RWND_LIMITED, running, now);
	out->sndbuf_limited = chrono(tp, CHRONO_SNDBUF_LIMITED, running, now);
	out->last_data_sent = now - tp->lsndtime;
	out->last_data_recv = now - tp->inet_conn.icsk_ack.lrcvtime;
	out->last_ack_recv = now - tp->rcv_tstamp;
	out->rto = tp->inet_conn.icsk_rto;
	out->ato = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ack.ato);
}

static __always_inline void read_options(const struct tcp_sock *tp, struct mark_tcp *out)
{
	out->options = BPF_CORE_READ_BITFIELD(tp, rx_opt.tstamp_ok) |
		       !!BPF_CORE_READ_BITFIELD(tp, rx_opt.sack_ok) << 1 |
		       BPF_CORE_READ_BITFIELD(tp, rx_opt.wscale_ok) << 2 | (tp->ecn_flags & ECN_AGREED) << 3 |
		       (tp->ecn_flags & ECN_SEEN) << 1 | BPF_CORE_READ_BITFIELD(tp, syn_data_acked) << 5;
	out->snd_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.snd_wscale);
	out->rcv_wscale = BPF_CORE_READ_BITFIELD(tp, rx_opt.rcv_wscale);
}

/* Members that came after 5.10. */
static __always_inline void read_recent(const struct tcp_sock *tp, struct mark_tcp *out)
{
	if (bpf_core_field_exists(tp->total_rto)) {
		out->total_rto = tp->total_rto;
		out->total_rto_recoveries = tp->total_rto_recoveries;
		out->total_rto_time = tp->total_rto_time;
	}
	if (bpf_core_field_exists(tp->timeout_rehash))
		out->rehash = tp->timeout_rehash;
	if (bpf_core_field_exists(tp->plb_rehash))
		out->rehash += tp->plb_rehash;
}

static __always_inline void read_memory(const struct sock *sk, __u32 memory[9])
{
	memory[0] = sk->sk_backlog.rmem_alloc.counter;
	memory[1] = sk->sk_rcvbuf;
	memory[2] = sk->sk_wmem_alloc.refs.counter - 1; /* the socket itself is one */
	memory[3] = sk->sk_sndbuf;
	memory[4] = sk->sk_forward_alloc;
	memory[5] = sk->sk_wmem_queued;
	memory[6] = sk->sk_omem_alloc.counter;
	memory[7] = sk->sk_backlog.len;
	memory[8] = sk->sk_drops.counter;
}

static __always_inline void read_control(const struct tcp_sock *tp, struct mark_tcp *out)
{
	const struct inet_connection_sock *icsk = &tp->inet_conn;
	const struct tcp_congestion_ops *ops = icsk->icsk_ca_ops;

	out->ca_state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);
	out->retransmits = icsk->icsk_retransmits;
	out->probes = icsk->icsk_probes_out;
	out->backoff = icsk->icsk_backoff;
	if (ops)
		bpf_core_read(out->congestion, sizeof(out->congestion), &ops->name);
}

/* `out` is zero. */
static __always_inline void read_tcp(const struct tcp_sock *tp, __u8 state, struct mark_tcp *out)
{
	out->cookie = tp->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
	out->state = state;
	read_bytes(tp, state, out);
	read_rates(tp, out);
	read_path(tp, out);
	read_windows(tp, out);
	read_times(tp, out);
	read_options(tp, out);
	read_recent(tp, out);
	read_control(tp, out);
	read_memory(&tp->inet_conn.icsk_inet.sk, out->memory);
}

#endif
