// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Attempts to connect: how long until the other end answered, how often the SYN was sent, and what came of it.
 *
 * Hooks: tracepoint inet_sock_set_state (4.16); cgroup/connect4 and connect6 (4.17) and cgroup/sock_release (5.9) for
 * attempts of which no SYN is sent.
 * Can miss: attempts that began before; why no SYN was sent. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct connect_call {
	struct connect_event event; /* to be told if no SYN follows */
	__u64 is_open;		    /* 1: no SYN was sent yet */
};

/* With each socket that connect() was called on. Freed with it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connect_call);
} connect_calls SEC(".maps");

/* The application may have taken it the moment before: then it is the one that was reported. */
static __always_inline __u32 error_of(struct sock *sk)
{
	struct observe_socket *socket = find_socket(sk);

	if (sk->sk_err || !socket)
		return sk->sk_err;
	return socket->error;
}

static __always_inline void emit_attempt(struct tcp_sock *tp, __u16 kind, __u64 since)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct sock *sk = (struct sock *)tp;
	struct connect_event *event;

	if (!is_wanted_socket(tp, &key))
		return;
	event = reserve_event(sizeof(*event));
	if (!event)
		return;
	fill_event(&event->event, sk, &key);
	event->event.kind = kind;
	event->waited = since ? event->event.time - since : 0;
	event->retries = tp->total_retrans;
	event->error = kind == CONNECT_FAILED ? error_of(sk) : 0;
	submit_event(event);
}

/* A connection that the application gives up has no error by then, nor has one that no port or no memory was left for. */
static __always_inline __u16 failure_of(struct tcp_sock *tp)
{
	if (error_of(&tp->inet_conn.icsk_inet.sk))
		return CONNECT_FAILED;
	return tp->segs_out ? CONNECT_ABORTED : CONNECT_UNSENT;
}

/* SYN_RECV: both ends sent a SYN, or this end has accepted, which the flags tell. */
static __always_inline bool is_attempt(const struct observe_socket *socket, int state)
{
	return state == TCP_SYN_SENT || (state == TCP_SYN_RECV && socket && socket->flags & OBSERVE_ACTIVE);
}

static __always_inline void syn_is_sent(struct sock *sk)
{
	struct connect_call *call = bpf_sk_storage_get(&connect_calls, sk, NULL, 0);

	if (call)
		call->is_open = 0;
}

/* Fires before the state is stored, and after the probe `life` has seen it. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_connect, struct sock *sk, int oldstate, int newstate)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct observe_socket *socket;
	__u64 since;

	if (!tp)
		return 0;
	if (newstate == TCP_SYN_SENT)
		syn_is_sent(sk);
	if (newstate != TCP_ESTABLISHED && newstate != TCP_CLOSE)
		return 0;
	socket = find_socket(sk);
	if (!is_attempt(socket, oldstate))
		return 0;
	since = socket ? socket->opened : 0;
	emit_attempt(tp, newstate == TCP_ESTABLISHED ? CONNECT_OK : failure_of(tp), since);
	return 0;
}

/* The kernel has found no way to send a SYN, or nothing to send it from. */
static __always_inline void emit_unsent(struct connect_call *call)
{
	struct connect_event *event;

	if (!call || !call->is_open)
		return;
	call->is_open = 0;
	event = reserve_event(sizeof(*event));
	if (!event)
		return;
	*event = call->event;
	submit_event(event);
}

static __always_inline void fill_call(struct connect_call *call, struct sock *sk, const struct mark_key *key)
{
	struct observe_socket *socket = make_socket(sk);
	struct observe_event *event = &call->event.event;

	__builtin_memset(&call->event, 0, sizeof(call->event));
	event->time = bpf_ktime_get_ns();
	event->cookie = sk->__sk_common.skc_cookie.counter;
	event->key = *key;
	event->netns = netns_of(sk);
	event->kind = CONNECT_UNSENT;
	event->state = TCP_CLOSE;
	if (socket) {
		owned_by_current(socket, OBSERVE_OPENER);
		event->owner = socket->owner;
	}
	event->owner.user = sk->sk_uid.val;
	call->is_open = 1;
}

/* `key` has the address that connect() was called with. */
static __always_inline int called(struct bpf_sock *sock, struct mark_key *key, __be16 port)
{
	struct tcp_sock *tp = sock ? bpf_skc_to_tcp_sock(sock) : NULL;
	struct connect_call *call;
	struct sock *sk;

	if (!tp)
		return 1;
	sk = (struct sock *)tp;
	key->protocol = IPPROTO_TCP;
	key->local_port = tp->inet_conn.icsk_inet.inet_sport;
	key->remote_port = port;
	if (!is_wanted_netns(netns_of(sk)) || !is_wanted_flow(key))
		return 1;
	call = bpf_sk_storage_get(&connect_calls, tp, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!call) {
		count(OBSERVE_EVICTED);
		return 1;
	}
	emit_unsent(call);
	fill_call(call, sk, key);
	return 1;
}

SEC("cgroup/connect4")
int flowtag_connect4(struct bpf_sock_addr *ctx)
{
	struct mark_key key __attribute__((aligned(8))) = {};

	map_address(key.remote_addr, ctx->user_ip4);
	map_address(key.local_addr, 0);
	return called(ctx->sk, &key, ctx->user_port);
}

SEC("cgroup/connect6")
int flowtag_connect6(struct bpf_sock_addr *ctx)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	__u32 *words = (__u32 *)key.remote_addr;

	words[0] = ctx->user_ip6[0];
	words[1] = ctx->user_ip6[1];
	words[2] = ctx->user_ip6[2];
	words[3] = ctx->user_ip6[3];
	return called(ctx->sk, &key, ctx->user_port);
}

/* Nobody will try again on this socket. */
SEC("cgroup/sock_release")
int flowtag_connect_over(struct bpf_sock *sk)
{
	emit_unsent(bpf_sk_storage_get(&connect_calls, sk, NULL, 0));
	return 1;
}
