// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Listeners of TCP: how many connections wait in their queues, how many waited at most, and what they dropped.
 *
 * Hooks: tracepoint inet_sock_set_state (4.16); iterator over TCP sockets (5.9).
 * Can miss: the peak is what the listener's count was when the kernel made the socket of a connection, and one more; of
 * connections that are completed on several CPUs at once it may be short by as many. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* With each listener, and each socket that it made: which listener. Freed with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct listen_origin);
} listen_origins SEC(".maps");

/* Key: cookie of a listener. Most connections that waited for it. Only grows; full: counted as evicted, and the peak is
 * what the iterator sees. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} listen_peaks SEC(".maps");

static __always_inline struct listen_origin *make_origin(struct sock *sk)
{
	struct listen_origin fresh = {};
	struct listen_origin *origin = bpf_sk_storage_get(&listen_origins, sk, NULL, 0);

	if (origin)
		return origin;
	fresh.cookie = bpf_get_socket_cookie(sk);
	fresh.drops = sk->sk_drops.counter;
	origin = bpf_sk_storage_get(&listen_origins, sk, &fresh, BPF_SK_STORAGE_GET_F_CREATE);
	count(origin ? OBSERVE_FLOWS : OBSERVE_EVICTED);
	return origin;
}

static __always_inline void raise_peak(__u64 cookie, __u32 backlog)
{
	__u32 *peak = bpf_map_lookup_elem(&listen_peaks, &cookie);

	if (!peak) {
		if (bpf_map_update_elem(&listen_peaks, &cookie, &backlog, BPF_NOEXIST))
			count(OBSERVE_EVICTED);
	} else if (*peak < backlog) {
		*peak = backlog;
	}
}

/* A socket is made of its listener's, byte for byte, so it knows how many were waiting; it is one more. */
static __always_inline void completed(struct sock *sk)
{
	struct listen_origin *origin = bpf_sk_storage_get(&listen_origins, sk, NULL, 0);

	if (origin)
		raise_peak(origin->cookie, sk->sk_ack_backlog + 1);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_completed, struct sock *sk, int oldstate, int newstate)
{
	if (sk->sk_protocol != IPPROTO_TCP || !is_wanted_netns(netns_of(sk)))
		return 0;
	if (newstate == TCP_LISTEN)
		make_origin(sk);
	else if (newstate == TCP_SYN_RECV && oldstate != TCP_SYN_SENT)
		completed(sk);
	return 0;
}

/* Key: 0. Where the iterator makes its record, which is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct listen_row);
} listen_scratch SEC(".maps");

static __always_inline void read_queues(struct tcp_sock *tp, const struct listen_origin *origin, struct listen_row *out)
{
	const struct inet_connection_sock *icsk = &tp->inet_conn;
	const struct sock *sk = &icsk->icsk_inet.sk;
	__u32 *peak;

	out->backlog = sk->sk_ack_backlog;
	out->limit = sk->sk_max_ack_backlog;
	out->syn = icsk->icsk_accept_queue.qlen.counter;
	out->young = icsk->icsk_accept_queue.young.counter;
	out->drops = sk->sk_drops.counter;
	out->peak = out->backlog;
	if (!origin)
		return;
	out->drops -= origin->drops;
	peak = bpf_map_lookup_elem(&listen_peaks, &out->event.cookie);
	if (peak && *peak > out->peak)
		out->peak = *peak;
}

SEC("iter/tcp")
int flowtag_listeners(struct bpf_iter__tcp *ctx)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct sock_common *common = ctx->sk_common;
	struct listen_row *out;
	struct tcp_sock *tp;
	struct sock *sk;
	__u32 zero = 0;

	if (!common || common->skc_state != TCP_LISTEN)
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	out = bpf_map_lookup_elem(&listen_scratch, &zero);
	if (!tp || !out)
		return 0;
	sk = (struct sock *)tp;
	key_of_socket(tp, &key);
	if (!is_wanted_netns(netns_of(sk)) || (observe.port && key.local_port != observe.port))
		return 0;
	fill_event(&out->event, sk, &key);
	read_queues(tp, make_origin(sk), out);
	bpf_seq_write(ctx->meta->seq, out, sizeof(*out));
	return 0;
}
