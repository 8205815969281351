// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* TCP segments that are sent again: which, why, and whether it worked.
 *
 * Hooks: tracepoints tcp_retransmit_skb (4.15; with the result since 6.17, before only where it worked) and
 * tcp_retransmit_synack (4.15, only where it worked). Both fire where the kernel adds to RetransSegs. */
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

const volatile struct retrans_settings settings SEC(".rodata.probe") = {};

#define SKB_LOST 4 /* TCPCB_LOST of net/tcp.h */

/* A timer for a loss probe may still be set while a segment is sent again that an ACK showed to be lost, so it is the
 * segment's own mark that tells them apart. */
static __always_inline __u16 kind_of(struct tcp_sock *tp, __u8 state, __u8 sacked)
{
	__u8 ca_state = BPF_CORE_READ_BITFIELD(tp, inet_conn.icsk_ca_state);

	if (state == TCP_SYN_SENT)
		return RETRANS_SYN;
	if (state == TCP_SYN_RECV)
		return RETRANS_SYNACK;
	if (ca_state == TCP_CA_Loss)
		return RETRANS_RTO;
	if (tp->inet_conn.icsk_pending == PENDING_LOSS_PROBE && !(sacked & SKB_LOST))
		return RETRANS_TLP;
	return RETRANS_FAST;
}

/* SYN and FIN are no data and yet are sent again, so there may be more retransmissions than data. */
static __always_inline __u32 segments_sent(const struct tcp_sock *tp)
{
	__u32 data = tp->data_segs_out, total = tp->total_retrans;

	return data > total ? data : total + 1;
}

static __always_inline void read_skb(struct retrans_event *event, struct tcp_sock *tp, const struct sk_buff *skb)
{
	const struct tcp_skb_cb *cb = (const void *)skb->cb;

	event->event.kind = kind_of(tp, event->event.state, BPF_CORE_READ(cb, sacked));
	event->seq = BPF_CORE_READ(cb, seq);
	event->length = skb->len;
	event->segments = BPF_CORE_READ(cb, tcp_gso_segs);
}

static __always_inline void read_socket(struct retrans_event *event, const struct tcp_sock *tp)
{
	event->rtt = tp->srtt_us >> 3;
	event->cwnd = tp->snd_cwnd;
	event->sent = segments_sent(tp);
	event->total = tp->total_retrans;
	event->spurious = tp->dsack_dups;
	event->pad = 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(flowtag_retrans, struct sock *sk, struct sk_buff *skb)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct retrans_event *event;

	if (!tp || !is_wanted_socket(tp, &key))
		return 0;
	event = reserve_event(sizeof(*event));
	if (!event)
		return 0;
	fill_event(&event->event, sk, &key);
	read_skb(event, tp, skb);
	read_socket(event, tp);
	event->error = settings.has_error ? (__s32)ctx[2] : 0;
	submit_event(event);
	return 0;
}

/* Of a connection that has no socket yet; `key` is zero. */
static __always_inline void key_of_request(const struct sock_common *common, struct mark_key *key)
{
	if (common->skc_family == AF_INET6) {
		copy_address(key->local_addr, &common->skc_v6_rcv_saddr);
		copy_address(key->remote_addr, &common->skc_v6_daddr);
	} else {
		map_address(key->local_addr, common->skc_rcv_saddr);
		map_address(key->remote_addr, common->skc_daddr);
	}
	key->local_port = bpf_htons(common->skc_num);
	key->remote_port = common->skc_dport;
	key->protocol = IPPROTO_TCP;
}

/* The owner is the listener's; the cookie, if it has one, will be the connection's. */
static __always_inline void read_request(struct retrans_event *event, const struct request_sock *req)
{
	const struct tcp_request_sock *treq = (const void *)req;

	event->event.kind = RETRANS_SYNACK;
	event->event.state = TCP_NEW_SYN_RECV;
	event->event.cookie = req->__req_common.skc_cookie.counter;
	event->event.interface = req->__req_common.skc_bound_dev_if;
	event->seq = BPF_CORE_READ(treq, snt_isn);
	event->segments = 1;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(flowtag_retrans_synack, struct sock *sk, struct request_sock *req)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct retrans_event *event;

	key_of_request(&req->__req_common, &key);
	if (!is_wanted_netns(netns_of(sk)) || !is_wanted_flow(&key))
		return 0;
	event = reserve_event(sizeof(*event));
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	fill_event(&event->event, sk, &key);
	read_request(event, req);
	submit_event(event);
	return 0;
}
