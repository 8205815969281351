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

/* The sample that was not smoothed: of the segment that was sent last of those that are acknowledged. At the first there is
 * nothing to smooth yet. */
static __always_inline __u32 latest_rtt(const struct tcp_sock *tp)
{
	__u32 rtt = tp->rack.rtt_us;

	return rtt ? rtt : tp->srtt_us >> 3;
}

static __always_inline void add_sample(struct observe_socket *socket, struct tcp_sock *tp, __u32 rtt)
{
	__u32 slot = histogram_slot(&socket->rtt, tp, 0);

	if (slot != HISTOGRAM_UNWANTED && rtt)
		histogram_add(slot, rtt);
}

static __always_inline void measured(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct observe_socket *socket;
	struct tcp_sock *tp;
	__u32 rtt = ops->args[0];

	if (!sk)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || !is_wanted_netns(netns_of((struct sock *)tp)))
		return;
	socket = make_socket((struct sock *)tp);
	if (socket)
		add_sample(socket, tp, rtt ? rtt : latest_rtt(tp));
}

/* Others ask for callbacks of their own on the same socket: theirs stay. The cgroup is that of all network namespaces. */
static __always_inline void ask_for_samples(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct tcp_sock *tp;

	if (!sk)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && is_wanted_netns(netns_of((struct sock *)tp)))
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

	if (!common || !is_connected(common->skc_state))
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (!tp || !is_wanted_netns(netns_of((struct sock *)tp)))
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
	struct observe_socket *socket;
	bool is_first;

	if (!tp || !is_wanted_netns(netns_of(sk)))
		return 0;
	if (settings.source == HISTOGRAM_UNARMED && tp->bpf_sock_ops_cb_flags & BPF_SOCK_OPS_RTT_CB_FLAG)
		return 0;
	socket = make_socket(sk);
	if (!socket || socket->rtt_round == tp->rtt_seq)
		return 0;
	is_first = !socket->rtt_round;
	socket->rtt_round = tp->rtt_seq;
	if (!is_first)
		add_sample(socket, tp, latest_rtt(tp));
	return 0;
}
