// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* How long data waits in a socket: from its arrival until the application has it.
 *
 * Hooks: tracepoints tcp_probe (4.16) and tcp_rcv_space_adjust (4.15).
 * One segment of a socket is followed at a time: the first that comes after the one before it was read.
 * Can miss: data that comes with the last packet of the handshake or after this end has sent its FIN, which do not pass
 * tcp_probe. */
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
#include "../histogram/segment.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct delay_socket {
	struct observe_place place;
	__u64 arrived; /* CLOCK_MONOTONIC, ns; 0: nothing waits */
	__u32 seq;     /* first byte of what arrived then */
	__u32 pad;
};

/* With each socket that data came in on. Freed with it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct delay_socket);
} delay_sockets SEC(".maps");

SEC("tp_btf/tcp_probe")
int BPF_PROG(flowtag_delay_arrived, struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct delay_socket *socket;

	if (!tp || !brings_next_data(tp, skb))
		return 0;
	socket = bpf_sk_storage_get(&delay_sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!socket)
		count(OBSERVE_EVICTED);
	if (!socket || socket->arrived)
		return 0;
	socket->seq = tp->rcv_nxt;
	socket->arrived = bpf_ktime_get_ns();
	return 0;
}

/* Who reads, but takes nothing out (MSG_PEEK), does not move copied_seq. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(flowtag_delay_read, struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct delay_socket *socket;
	__u64 waited;
	__u32 slot;

	if (!tp)
		return 0;
	socket = bpf_sk_storage_get(&delay_sockets, sk, NULL, 0);
	if (!socket || !socket->arrived || (__s32)(tp->copied_seq - socket->seq) <= 0)
		return 0;
	waited = bpf_ktime_get_ns() - socket->arrived;
	socket->arrived = 0;
	slot = histogram_slot(&socket->place, tp, 0);
	if (slot != HISTOGRAM_UNWANTED)
		histogram_add(slot, waited / NSEC_PER_USEC);
	return 0;
}
