// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Round-trip times of TCP, as the kernel measures them: one sample a round trip.
 *
 * Hooks: sockops with BPF_SOCK_OPS_RTT_CB (5.3; the measured time as an argument since 6.10); iterator over TCP sockets (5.9),
 * which asks for that callback also on sockets that were open before (6.12); where either is missing, the tracepoint
 * tcp_probe (4.16) for sockets that have no callback.
 * Can miss: the round trip of the handshake of connections that this host accepts. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "../histogram/abi.h"
#include "socket.bpf.h"
#include "tcp.bpf.h"
#include "observe.bpf.h"
#include "../histogram/histogram.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define SOL_TCP 6
/* Of enum in linux/bpf.h since 6.12; others refuse it. */
#define SOCK_OPS_CB_FLAGS 1008

struct rtt_socket {
	struct histogram_place place;
	__u32 round; /* rtt_seq as the last sample was taken at tcp_probe */
	__u32 pad;
};

/* With each socket that was sampled. Freed with it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct rtt_socket);
} rtt_sockets SEC(".maps");

/* The sample that was not smoothed: of the segment that was sent last of those that are acknowledged. At the first there is
 * nothing to smooth yet. */
static __always_inline __u32 latest_rtt(const struct tcp_sock *tp)
{
	__u32 rtt = tp->rack.rtt_us;

	return rtt ? rtt : tp->srtt_us >> 3;
}

static __always_inline void add_sample(struct rtt_socket *socket, struct tcp_sock *tp, __u32 rtt)
{
	__u32 slot = histogram_slot(&socket->place, tp, 0);

	if (slot != HISTOGRAM_UNWANTED && rtt)
		histogram_add(slot, rtt);
}

static __always_inline void measured(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct rtt_socket *socket;
	struct tcp_sock *tp;
	__u32 rtt = ops->args[0];

	if (!sk)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	socket = bpf_sk_storage_get(&rtt_sockets, tp, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (socket)
		add_sample(socket, tp, rtt ? rtt : latest_rtt(tp));
	else
		count(OBSERVE_EVICTED);
}

/* Others ask for callbacks of their own on the same socket: theirs stay. */
static __always_inline void ask_for_samples(struct bpf_sock_ops *ops)
{
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
}

SEC("sockops")
int flowtag_rtt(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB: /* in time for the handshake's */
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		ask_for_samples(ops);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		measured(ops);
		break;
	}
	return 1;
}

/* Once, for the sockets that are open by then. */
SEC("iter/tcp")
int flowtag_rtt_arm(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct tcp_sock *tp;
	int flags;

	if (!common || common->skc_state == TCP_TIME_WAIT || common->skc_state == TCP_NEW_SYN_RECV ||
	    common->skc_state == TCP_LISTEN)
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (!tp)
		return 0;
	flags = tp->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG;
	bpf_setsockopt(tp, SOL_TCP, SOCK_OPS_CB_FLAGS, &flags, sizeof(flags));
	return 0;
}

/* A segment comes in and is not looked at yet: what the one before it brought is known. The kernel begins a new round
 * where it would call back. */
SEC("tp_btf/tcp_probe")
int BPF_PROG(flowtag_rtt_segment, struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct rtt_socket *socket;
	bool is_first;

	if (!tp || (settings.source == HISTOGRAM_UNARMED && tp->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_RTT_CB_FLAG))
		return 0;
	socket = bpf_sk_storage_get(&rtt_sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket || socket->round == tp->rtt_seq)
		return 0;
	is_first = !socket->round;
	socket->round = tp->rtt_seq;
	if (!is_first)
		add_sample(socket, tp, latest_rtt(tp));
	return 0;
}
