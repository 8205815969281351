// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Requests and their replies on one TCP connection: how long the other end takes to begin its reply, and how long this
 * one takes.
 *
 * Hooks: cgroup_skb/egress (4.10), where what was written leaves, and the tracepoint tcp_probe (4.16), where data comes in.
 * A request is what is sent until the other end sends; it counts if the other end had all of it when it began, so that
 * pipelines and streams in both directions do not.
 * Can miss: what comes with the last packet of the handshake or after this end has sent its FIN. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "../histogram/abi.h"
#include "abi.h"
#include "socket.bpf.h"
#include "tcp.bpf.h"
#include "observe.bpf.h"
#include "../histogram/histogram.bpf.h"
#include "../histogram/segment.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Whose data came last. */
enum turn {
	TURN_NONE = 0,
	TURN_OURS = 1,
	TURN_THEIRS = 2,
	TURN_OVERLAPS = 3, /* theirs, but they had not received all of ours when they began */
};

struct request_socket {
	struct observe_place places[REQUEST_KINDS];
	__u64 sent;	/* last new data left; CLOCK_MONOTONIC, ns */
	__u64 received; /* last new data came; likewise */
	__u32 written;	/* write_seq as data left last */
	__u8 turn;	/* enum turn */
	__u8 asks;	/* 1: this end sends requests; 0: it answers them */
	__u16 pad;
};

/* With each socket that has a peer. Freed with it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct request_socket);
} request_sockets SEC(".maps");

/* Who connects asks. Of connections that were open before: whose port is the higher, as services have low ones. */
static __always_inline bool is_client(struct tcp_sock *tp)
{
	struct inet_sock *inet = &tp->inet_conn.icsk_inet;
	struct observe_socket *socket = find_socket(&inet->sk);

	if (socket && socket->flags & (OBSERVE_ACTIVE | OBSERVE_PASSIVE))
		return socket->flags & OBSERVE_ACTIVE;
	return bpf_ntohs(inet->inet_sport) > bpf_ntohs(inet->sk.__sk_common.skc_dport);
}

/* What has been written before it is first seen is no request: when that was is not known. */
static __always_inline struct request_socket *request_socket(struct tcp_sock *tp)
{
	struct request_socket *socket = bpf_sk_storage_get(&request_sockets, tp, NULL, 0);

	if (socket)
		return socket;
	socket = bpf_sk_storage_get(&request_sockets, tp, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket) {
		count(OBSERVE_EVICTED);
		return NULL;
	}
	socket->written = tp->write_seq;
	socket->asks = is_client(tp);
	return socket;
}

static __always_inline void add_time(struct request_socket *socket, struct tcp_sock *tp, __u32 kind, __u64 us)
{
	__u32 slot = histogram_slot(&socket->places[kind], tp, kind);

	if (slot != HISTOGRAM_UNWANTED)
		histogram_add(slot, us);
}

static __always_inline void skip(struct request_socket *socket, struct tcp_sock *tp, __u32 kind)
{
	__u32 slot = histogram_slot(&socket->places[kind], tp, kind);

	if (slot != HISTOGRAM_UNWANTED)
		histogram_skip(slot);
}

/* Of the round trip the shortest of late: the smoothed one has the time in it that the other end held an ACK back for,
 * hoping for the very reply. */
static __always_inline void reply_came(struct request_socket *socket, struct tcp_sock *tp, __u64 now)
{
	__u64 us = (now - socket->sent) / NSEC_PER_USEC;
	__u32 rtt = tp->rtt_min.s[0].v;

	add_time(socket, tp, REQUEST_ANSWER, us);
	if (rtt != NO_RTT)
		add_time(socket, tp, REQUEST_PEER, us > rtt ? us - rtt : 0);
}

/* Theirs after ours: a reply for who asks, a request for who is asked. */
static __always_inline void turned(struct request_socket *socket, struct tcp_sock *tp, struct sk_buff *skb, __u64 now)
{
	bool is_whole = socket->written == tp->write_seq && acknowledges_all(tp, skb);

	socket->turn = is_whole ? TURN_THEIRS : TURN_OVERLAPS;
	if (!socket->asks)
		return;
	if (is_whole)
		reply_came(socket, tp, now);
	else
		skip(socket, tp, REQUEST_ANSWER);
}

SEC("tp_btf/tcp_probe")
int BPF_PROG(flowtag_request_in, struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct request_socket *socket;
	__u64 now;

	if (!tp || !brings_next_data(tp, skb))
		return 0;
	socket = request_socket(tp);
	if (!socket)
		return 0;
	now = bpf_ktime_get_ns();
	if (socket->turn == TURN_OURS)
		turned(socket, tp, skb, now);
	else if (socket->turn == TURN_NONE)
		socket->turn = TURN_THEIRS;
	socket->received = now;
	return 0;
}

static __always_inline void reply_leaves(struct request_socket *socket, struct tcp_sock *tp, __u64 now)
{
	if (socket->turn == TURN_THEIRS)
		add_time(socket, tp, REQUEST_SERVE, (now - socket->received) / NSEC_PER_USEC);
	else if (socket->turn == TURN_OVERLAPS)
		skip(socket, tp, REQUEST_SERVE);
}

static __always_inline void left(struct tcp_sock *tp)
{
	__u8 state = tp->inet_conn.icsk_inet.sk.__sk_common.skc_state;
	struct request_socket *socket;
	__u64 now;

	if (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT && state != TCP_SYN_SENT)
		return;
	socket = request_socket(tp);
	if (!socket || socket->written == tp->write_seq)
		return;
	socket->written = tp->write_seq;
	if (state == TCP_SYN_SENT)
		return;
	now = bpf_ktime_get_ns();
	if (!socket->asks)
		reply_leaves(socket, tp, now);
	socket->sent = now;
	socket->turn = TURN_OURS;
}

/* Each packet of the host, before it is queued. What is sent again, and what only acknowledges, writes nothing new. */
SEC("cgroup_skb/egress")
int flowtag_request_out(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	struct tcp_sock *tp;

	if (!sk)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		left(tp);
	return 1;
}
