// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* TCP segments that are sent again: which, why, and whether it worked.
 *
 * Hooks: tracepoints tcp_retransmit_skb (4.15; with the result since 6.17, before only where it worked) and
 * tcp_retransmit_synack (4.15). */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct retrans_settings settings SEC(".rodata.probe") = {};

/* enum tcp_ca_state; ICSK_TIME_LOSS_PROBE of net/inet_connection_sock.h */
#define PENDING_LOSS_PROBE 5

static __always_inline __u16 kind_of(struct tcp_sock *tp, __u8 state)
{
	__u8 ca_state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);

	if (state == TCP_SYN_SENT)
		return RETRANS_SYN;
	if (state == TCP_SYN_RECV)
		return RETRANS_SYNACK;
	if (ca_state == TCP_CA_Loss)
		return RETRANS_RTO;
	if (tp->inet_conn.icsk_pending == PENDING_LOSS_PROBE)
		return RETRANS_TLP;
	return RETRANS_FAST;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(flowtag_retrans, struct sock *sk, struct sk_buff *skb)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct retrans_event *event;
	struct tcp_skb_cb *cb;

	if (!tp || !is_wanted_socket(tp, &key))
		return 0;
	event = reserve_event(sizeof(*event));
	if (!event)
		return 0;
	fill_event(&event->event, sk, &key);
	event->event.kind = kind_of(tp, event->event.state);
	cb = (void *)skb->cb;
	event->seq = BPF_CORE_READ(cb, seq);
	event->length = BPF_CORE_READ(cb, end_seq) - event->seq;
	event->segments = BPF_CORE_READ(cb, tcp_gso_segs);
	event->rtt = tp->srtt_us >> 3;
	event->cwnd = tp->snd_cwnd;
	event->error = settings.has_error ? (__s32)ctx[2] : 0;
	event->sent = tp->data_segs_out;
	event->total = tp->total_retrans;
	submit_event(event);
	return 0;
}
