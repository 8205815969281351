// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What limits TCP connections: how long each was kept from sending by what.
 *
 * Hooks: tracepoints tcp_probe (4.16: a segment came, and is not processed yet: what is seen held since the last event),
 * tcp_retransmit_skb (4.15: ends a wait for a timer) and inet_sock_set_state (4.16: the last values of what closes);
 * iterator over TCP sockets (5.9).
 * Can miss: what changes and changes back between two segments; after the FIN no segment is seen, and what holds when
 * the iterator looks is taken for all of the time since. The kernel's own clocks, which come along, are exact. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "tcp.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct why_settings settings SEC(".rodata.probe") = {};

#define SOCK_NOSPACE 2	   /* bit of struct socket's flags: linux/net.h */
#define SOCK_SNDBUF_LOCK 1 /* net/sock.h */
#define SOCK_RCVBUF_LOCK 2 /* likewise */
#define CLOSED 4096	   /* connections that may end between two looks of the reader */

/* With each socket. Written with the socket locked, by whoever handles a segment and by the iterator. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct why_flow);
} why_flows SEC(".maps");

/* Key: cookie. Last values of connections that closed, until the reader takes them out. Full: counted as evicted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CLOSED);
	__type(key, __u64);
	__type(value, struct why_row);
} why_closed SEC(".maps");

/* Rows are too large for the stack. 0: where the iterator makes its record; 1: stays empty, to make entries of. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct why_row);
} why_scratch SEC(".maps");

static __always_inline bool is_blocked(const struct sock *sk)
{
	struct socket *socket = sk->sk_socket;

	return socket && BPF_CORE_READ(socket, flags) >> SOCK_NOSPACE & 1;
}

/* Where a rate limit of the application is below what congestion control would pace at. */
static __always_inline bool is_paced(const struct sock *sk)
{
	return sk->sk_pacing_status && sk->sk_max_pacing_rate != ~0UL && sk->sk_pacing_rate >= sk->sk_max_pacing_rate;
}

static __always_inline bool has_room(const struct tcp_sock *tp)
{
	return tp->packets_out - tp->sacked_out - tp->lost_out + tp->retrans_out < tp->snd_cwnd;
}

/* Most of what is in flight has not left the queues of this host: memory is given back as the interface has sent. */
static __always_inline bool is_in_host(const struct tcp_sock *tp)
{
	__u32 held = tp->inet_conn.icsk_inet.sk.sk_wmem_alloc.refs.counter, in_flight = tp->snd_nxt - tp->snd_una;

	return held > in_flight / 4 * 3;
}

/* Less than a segment would fit; what is queued beyond cannot be sent. */
static __always_inline bool is_window_full(const struct tcp_sock *tp)
{
	return (__s32)(tp->snd_una + tp->snd_wnd - tp->snd_nxt) < (__s32)tp->mss_cache;
}

/* The kernel's clocks do not see a full window or buffer while pacing or a queue keeps it from trying to send. Less than a
 * segment waits only until more is written or all is acknowledged (Nagle). */
static __always_inline __u32 state_with_room(const struct tcp_sock *tp, const struct sock *sk)
{
	__u32 waiting = tp->write_seq - tp->snd_nxt;

	if (waiting && is_window_full(tp))
		return WHY_RECEIVER;
	if (waiting < tp->mss_cache)
		return is_blocked(sk) ? WHY_SNDBUF : WHY_APPLICATION;
	return sk->sk_tsq_flags & 1 || is_paced(sk) || is_in_host(tp) ? WHY_QUEUE : WHY_NETWORK;
}

static __always_inline __u32 state_of(const struct tcp_sock *tp, __u8 clock, bool is_timer)
{
	__u8 ca_state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);

	if (ca_state == TCP_CA_Loss || is_timer)
		return WHY_TIMEOUT;
	if (ca_state == TCP_CA_Recovery || ca_state == TCP_CA_CWR)
		return WHY_RECOVERY;
	if (clock == CHRONO_RWND_LIMITED)
		return WHY_RECEIVER;
	if (clock == CHRONO_SNDBUF_LIMITED)
		return WHY_SNDBUF;
	if (has_room(tp))
		return state_with_room(tp, &tp->inet_conn.icsk_inet.sk);
	return is_in_host(tp) ? WHY_QUEUE : WHY_NETWORK;
}

/* A sender that was idle is so no longer since the kernel's clock runs. */
static __always_inline __u64 busy_since(const struct tcp_sock *tp, __u8 clock, __u64 gap)
{
	__u64 running;

	if (!clock)
		return 0;
	running = ((__u32)bpf_jiffies64() - tp->chrono_start + 1) * settings.tick;
	return clock == CHRONO_BUSY && running < gap ? running : gap;
}

static __always_inline void add_peer(const struct tcp_sock *tp, struct why_flow *flow, __u64 busy)
{
	__u32 window = tp->snd_wnd;

	if (window < tp->mss_cache)
		flow->shut += busy;
	if (!window && !flow->is_shut)
		flow->zero_windows++;
	flow->is_shut = !window;
	if (window < flow->peer_window_min)
		flow->peer_window_min = window;
	if (window > flow->peer_window_max)
		flow->peer_window_max = window;
}

static __always_inline __u32 unread_bytes(const struct tcp_sock *tp)
{
	__u32 unread = tp->rcv_nxt - tp->copied_seq;

	/* A FIN counts as read with the end of all, and before any data both are 0. */
	return unread >> 31 ? 0 : unread;
}

static __always_inline void add_reader(const struct tcp_sock *tp, struct why_flow *flow, __u64 gap)
{
	__u32 unread = unread_bytes(tp);

	if (unread > tp->rcv_wnd)
		flow->unread += gap;
	if (unread > flow->unread_max)
		flow->unread_max = unread;
	if (tp->rcv_wnd > flow->window_max)
		flow->window_max = tp->rcv_wnd;
}

static __always_inline void add_rtt(const struct tcp_sock *tp, struct why_flow *flow, __u64 busy)
{
	__u32 rtt = tp->srtt_us >> 3, least = tp->rtt_min.s[0].v;

	if (!rtt || least == NO_RTT)
		return;
	flow->queueing += busy / 1000 * (rtt > least ? rtt - least : 0);
	flow->weight += busy;
}

/* What is seen held since the last time. */
static __always_inline void account(const struct tcp_sock *tp, struct why_flow *flow, bool is_timer)
{
	__u8 clock = BPF_CORE_READ_BITFIELD(tp, chrono_type);
	__u64 now = bpf_ktime_get_ns(), gap = now - flow->time, busy;
	__u32 state;

	flow->time = now;
	busy = busy_since(tp, clock, gap);
	state = state_of(tp, clock, is_timer);
	if (state < WHY_STATES)
		flow->ns[state] += busy;
	add_peer(tp, flow, busy);
	add_reader(tp, flow, gap);
	add_rtt(tp, flow, busy);
	count(OBSERVE_EVENTS);
}

/* The peer's window is that of the moment, not yet a minimum of anything. */
static __always_inline void begin_span(const struct tcp_sock *tp, struct why_flow *flow)
{
	flow->peer_window_min = flow->peer_window_max = tp->snd_wnd;
	flow->window_max = tp->rcv_wnd;
	flow->unread_max = unread_bytes(tp);
}

static __always_inline struct why_flow *make_flow(struct tcp_sock *tp, void *sk)
{
	struct why_flow *flow = bpf_sk_storage_get(&why_flows, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	count(flow ? OBSERVE_FLOWS : OBSERVE_EVICTED);
	if (!flow)
		return NULL;
	flow->since = flow->time = bpf_ktime_get_ns();
	begin_span(tp, flow);
	return flow;
}

static __always_inline void seen(struct sock *sk, bool is_timer)
{
	struct why_flow *flow = bpf_sk_storage_get(&why_flows, sk, NULL, 0);
	struct mark_key key __attribute__((aligned(8))) = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return;
	if (flow)
		account(tp, flow, is_timer);
	else if (is_wanted_socket(tp, &key))
		make_flow(tp, sk);
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(flowtag_why_ack, struct sock *sk)
{
	seen(sk, false);
	return 0;
}

/* A time-out has entered the state Loss by now; a loss probe has not, and also ends a wait. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(flowtag_why_again, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (tp)
		seen(sk, tp->inet_conn.icsk_pending == PENDING_LOSS_PROBE);
	return 0;
}

static __always_inline void fill_row(struct why_row *row, struct tcp_sock *tp, const struct why_flow *flow, __u8 state)
{
	struct sock *sk = (struct sock *)tp;
	__u8 locks = BPF_CORE_READ_BITFIELD(sk, sk_userlocks);

	read_tcp(tp, state, &row->tcp);
	row->unread = unread_bytes(tp);
	row->fixed = locks & SOCK_SNDBUF_LOCK ? WHY_SNDBUF_FIXED : 0;
	if (locks & SOCK_RCVBUF_LOCK)
		row->fixed |= WHY_RCVBUF_FIXED;
	row->is_paced = is_paced(sk);
	row->is_blocked = is_blocked(sk);
	row->flow = *flow;
}

/* Fires before the state is stored. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_why_end, struct sock *sk, int oldstate, int newstate)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct why_row *row, *empty;
	struct why_flow *flow;
	struct tcp_sock *tp;
	__u32 second = 1;
	__u64 cookie;

	if (newstate != TCP_CLOSE)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	flow = bpf_sk_storage_get(&why_flows, sk, NULL, 0);
	empty = bpf_map_lookup_elem(&why_scratch, &second);
	if (!tp || !flow || !empty)
		return 0;
	account(tp, flow, false);
	cookie = bpf_get_socket_cookie(sk);
	bpf_map_update_elem(&why_closed, &cookie, empty, BPF_ANY);
	row = bpf_map_lookup_elem(&why_closed, &cookie);
	if (!row) {
		count(OBSERVE_EVICTED);
		return 0;
	}
	key_of_socket(tp, &key);
	fill_event(&row->event, sk, &key);
	row->event.state = oldstate;
	fill_row(row, tp, flow, oldstate);
	bpf_sk_storage_delete(&why_flows, sk);
	return 0;
}

/* All TCP sockets that have a peer. */
SEC("iter/tcp")
int flowtag_why_now(struct bpf_iter__tcp *ctx)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct sock_common *common = ctx->sk_common;
	struct why_flow *flow;
	struct why_row *row;
	struct tcp_sock *tp;
	__u32 zero = 0;
	__u8 state;

	if (!common)
		return 0;
	state = common->skc_state;
	if (!is_connected(state))
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	row = bpf_map_lookup_elem(&why_scratch, &zero);
	if (!tp || !row || !is_wanted_socket(tp, &key))
		return 0;
	flow = bpf_sk_storage_get(&why_flows, tp, NULL, 0);
	if (flow)
		account(tp, flow, false);
	else
		flow = make_flow(tp, tp);
	if (!flow)
		return 0;
	__builtin_memset(row, 0, sizeof(*row));
	fill_event(&row->event, (struct sock *)tp, &key);
	fill_row(row, tp, flow, state);
	/* Where the buffer has no room the kernel comes again. */
	if (!bpf_seq_write(ctx->meta->seq, row, sizeof(*row)))
		begin_span(tp, flow);
	return 0;
}
