// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* TCP connections that end with RST: sent or received, and why.
 *
 * Hooks: tracepoints tcp_send_reset and tcp_receive_reset (4.15). Before 6.10 the former has no reason and does not fire
 * where there is no socket; there kfree_skb (with a reason since 5.17) shows the segments that nobody wanted.
 * Can miss: RST that comes for a connection in TIME-WAIT or that was not accepted yet. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct resets_settings settings SEC(".rodata.probe") = {};

#define REFERENCE_ONLY 1UL /* SKB_DST_NOREF: the low bit of _skb_refdst */

/* What a RST answers, or is. */
struct segment {
	struct mark_key key;
	__u32 netns;
	__u32 interface;
};

/* Some kernels believe that arguments are never NULL and drop a program's check of it; what is read as a number they must
 * let pass. */
static __always_inline __u64 raw_argument(unsigned long long *ctx, int n)
{
	__u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), ctx + n);
	return value;
}

static __always_inline void read_device(const struct sk_buff *skb, struct segment *out)
{
	const struct net_device *dev = BPF_CORE_READ(skb, dev);

	if (!dev) {
		const struct dst_entry *dst = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~REFERENCE_ONLY);

		dev = BPF_CORE_READ(dst, dev);
	}
	out->interface = BPF_CORE_READ(dev, ifindex);
	out->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
}

/* Seen from this host: who sent it is the remote end. False: no IP. */
static __always_inline bool read_addresses(const unsigned char *ip, struct mark_key *key)
{
	struct ipv6hdr ip6;
	struct iphdr ip4;

	if (bpf_probe_read_kernel(&ip4, sizeof(ip4), ip))
		return false;
	if (ip4.version == 4) {
		map_address(key->local_addr, ip4.daddr);
		map_address(key->remote_addr, ip4.saddr);
		return true;
	}
	if (ip4.version != 6 || bpf_probe_read_kernel(&ip6, sizeof(ip6), ip))
		return false;
	copy_address(key->local_addr, &ip6.daddr);
	copy_address(key->remote_addr, &ip6.saddr);
	return true;
}

/* `out` is zero. */
static __always_inline bool read_segment(const struct sk_buff *skb, struct segment *out)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	struct tcphdr tcp;

	if (!read_addresses(head + BPF_CORE_READ(skb, network_header), &out->key))
		return false;
	if (bpf_probe_read_kernel(&tcp, sizeof(tcp), head + BPF_CORE_READ(skb, transport_header)))
		return false;
	out->key.local_port = tcp.dest;
	out->key.remote_port = tcp.source;
	out->key.protocol = IPPROTO_TCP;
	read_device(skb, out);
	return true;
}

/* A RST that answers nothing is sent because this end gives the connection up. */
static __always_inline __u32 deduce_active(struct tcp_sock *tp, __u8 state)
{
	unsigned long flags = tp->inet_conn.icsk_inet.sk.__sk_common.skc_flags;

	if (state == TCP_CLOSE && flags >> SOCK_LINGER & 1 && !tp->inet_conn.icsk_inet.sk.sk_lingertime)
		return RESETS_LINGER;
	if (state == TCP_CLOSE || flags >> SOCK_DEAD & 1)
		return RESETS_CLOSED;
	if (flags >> SOCK_KEEPOPEN & 1 && tp->inet_conn.icsk_probes_out)
		return RESETS_KEEPALIVE;
	return RESETS_ABORTED;
}

static __always_inline void set_reason(struct resets_event *event, __u32 reason, __u32 deduced)
{
	event->reason = settings.has_reason ? reason : 0;
	event->deduced = settings.has_reason ? 0 : deduced;
}

/* Of a RST without a socket, or with something smaller than one: `state` is what that is in, or 0. */
static __always_inline void tell_segment(const struct sk_buff *skb, __u8 state, __u64 cookie, __u32 reason)
{
	struct segment segment __attribute__((aligned(8))) = {};
	struct resets_event *event;

	if (!read_segment(skb, &segment) || !is_wanted_netns(segment.netns) || !is_wanted_flow(&segment.key))
		return;
	event = reserve_event(sizeof(*event));
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->event.time = bpf_ktime_get_ns();
	event->event.cookie = cookie;
	event->event.key = segment.key;
	event->event.netns = segment.netns;
	event->event.interface = segment.interface;
	event->event.word = word_of_flow(&segment.key);
	event->event.kind = RESETS_SENT;
	event->event.state = state;
	set_reason(event, reason, state ? RESETS_NOT_EXPECTED : RESETS_NO_SOCKET);
	submit_event(event);
}

static __always_inline void tell_socket(struct sock *sk, struct mark_key *key, __u16 kind, __u32 reason, __u32 deduced)
{
	struct resets_event *event = reserve_event(sizeof(*event));

	if (!event)
		return;
	fill_event(&event->event, sk, key);
	event->event.kind = kind;
	set_reason(event, reason, deduced);
	submit_event(event);
}

/* A listener has no peer: that is in the segment, if there is one. */
static __always_inline void sent_by_socket(struct sock *sk, struct tcp_sock *tp, const struct sk_buff *skb,
					   __u32 reason)
{
	struct segment segment __attribute__((aligned(8))) = {};
	__u8 state = sk->__sk_common.skc_state;

	if (!skb)
		key_of_socket(tp, &segment.key);
	else if (!read_segment(skb, &segment))
		return;
	if (is_wanted_netns(netns_of(sk)) && is_wanted_flow(&segment.key))
		tell_socket(sk, &segment.key, RESETS_SENT, reason,
			    skb ? RESETS_NOT_EXPECTED : deduce_active(tp, state));
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(flowtag_resets, struct sock *sk)
{
	const struct sk_buff *skb = (void *)raw_argument(ctx, 1);
	__u32 reason = settings.has_reason ? (__u32)ctx[2] : 0;
	struct tcp_sock *tp;

	if (!raw_argument(ctx, 0) || !sk) {
		tell_segment(skb, 0, 0, reason);
		return 0;
	}
	if (!is_full_socket(sk)) {
		tell_segment(skb, sk->__sk_common.skc_state, sk->__sk_common.skc_cookie.counter, reason);
		return 0;
	}
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		sent_by_socket(sk, tp, skb, reason);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(flowtag_resets_received, struct sock *sk)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct resets_event *event;

	if (!tp || !is_wanted_socket(tp, &key))
		return 0;
	event = reserve_event(sizeof(*event));
	if (!event)
		return 0;
	fill_event(&event->event, sk, &key);
	event->event.kind = RESETS_RECEIVED;
	event->reason = 0;
	event->deduced = event->event.state == TCP_SYN_SENT ? RESETS_REFUSED : RESETS_BY_PEER;
	submit_event(event);
	return 0;
}

#define MAX_EXTENSIONS 4

/* Of what begins `length` bytes after the IP header; 0: something else begins there. */
static __always_inline __u8 transport_protocol(const unsigned char *ip, __u16 length)
{
	__u8 head[40], next, extension[2];
	__u16 at = sizeof(head);

	if (bpf_probe_read_kernel(head, sizeof(head), ip))
		return 0;
	if (head[0] >> 4 == 4)
		return head[9];
	next = head[6];
	for (int i = 0; i < MAX_EXTENSIONS && at < length; i++) {
		if (bpf_probe_read_kernel(extension, sizeof(extension), ip + at))
			return 0;
		next = extension[0];
		at += (extension[1] + 1) * 8;
	}
	return at == length ? next : 0;
}

/* Whether the kernel answers it with RST: only what is no RST itself. */
static __always_inline bool is_answered_tcp(const struct sk_buff *skb)
{
	const unsigned char *head = BPF_CORE_READ(skb, head);
	__u16 network = BPF_CORE_READ(skb, network_header), transport = BPF_CORE_READ(skb, transport_header);
	struct tcphdr tcp;

	if (transport_protocol(head + network, transport - network) != IPPROTO_TCP)
		return false;
	return !bpf_probe_read_kernel(&tcp, sizeof(tcp), head + transport) && !tcp.rst;
}

/* Not loaded where tcp_send_reset tells of these. */
SEC("tp_btf/kfree_skb")
int BPF_PROG(flowtag_resets_unwanted, struct sk_buff *skb)
{
	if (!settings.no_socket)
		return 0;
	if (raw_argument(ctx, settings.reason_at) == settings.no_socket && is_answered_tcp(skb))
		tell_segment(skb, 0, 0, 0);
	return 0;
}
