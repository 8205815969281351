// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Life of TCP connections: whose they are, when they began and how they ended. Keeps what all other probes know of a
 * socket, so it is always loaded first.
 *
 * Hooks: tracepoints inet_sock_set_state (4.16), tcp_rcv_space_adjust (4.15), tcp_receive_reset, tcp_send_reset (4.15),
 * inet_sk_error_report (5.13), sock_send_length (6.3, on request); iterators over open files (5.8) and TCP sockets (5.9).
 * Can miss: whose a connection is that was accepted and is only written to, where sock_send_length is missing: it is the
 * listener's until somebody closes it. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "tcp.bpf.h"
#include "observe.bpf.h"

#define ETIMEDOUT 110

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct life_settings settings SEC(".rodata.probe") = {};

/* How many connections ended alike, where sums are asked for. Full: counted in life_others. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, struct life_sum);
	__type(value, __u64);
} life_sums SEC(".maps");

/* Key: 0. Connections that ended and have no room above. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} life_others SEC(".maps");

static __always_inline void opened(struct sock *sk, __u8 flag)
{
	struct observe_socket *socket = make_socket(sk);

	if (!socket)
		return;
	socket->opened = bpf_ktime_get_ns();
	socket->established = 0;
	socket->syn_retries = 0;
	socket->error = 0;
	socket->flags = flag;
	if (flag == OBSERVE_ACTIVE)
		owned_by_current(socket, OBSERVE_OPENER);
	else
		socket->source = OBSERVE_LISTENER;
}

/* One that is accepted gets its socket with the last part of the handshake. How long that took is its first round-trip
 * time, if nothing had to be sent again. */
static __always_inline void established(const struct tcp_sock *tp, struct sock *sk)
{
	struct observe_socket *socket = find_socket(sk);
	__u64 handshake = (__u64)(tp->srtt_us >> 3) * NSEC_PER_USEC;

	if (!socket || !socket->opened)
		return;
	socket->established = bpf_ktime_get_ns();
	socket->syn_retries = tp->total_retrans;
	if (socket->flags & OBSERVE_PASSIVE) {
		if (!handshake || tp->total_retrans)
			return;
		if (socket->opened > socket->established - handshake)
			socket->opened = socket->established - handshake;
	}
	socket->flags |= OBSERVE_TIMED;
}

static __always_inline void listening(struct sock *sk)
{
	struct observe_socket *socket = make_socket(sk);

	if (socket)
		owned_by_current(socket, OBSERVE_OPENER);
}

/* Who closes has held it: better than nothing of a socket that nobody was seen to use. */
static __always_inline void closing(struct sock *sk)
{
	struct observe_socket *socket;

	/* What others end (`ss -K`, a RST that waited for the lock) has an error; what was closed before is dead. */
	if (!is_locked_by_user(sk) || sk->sk_err || sk->__sk_common.skc_flags >> SOCK_DEAD & 1)
		return;
	socket = find_socket(sk);
	if (socket && socket->source <= OBSERVE_HOLDER)
		owned_by_current(socket, OBSERVE_HOLDER);
}

/* An error may have been taken by the application the moment before: of those that always end a connection, the one that
 * was reported will do. */
static __always_inline __u16 last_error(const struct sock *sk, const struct observe_socket *socket, int oldstate)
{
	if (!sk->sk_err && (oldstate == TCP_SYN_SENT || socket->error == ETIMEDOUT))
		return socket->error;
	return sk->sk_err;
}

static __always_inline __u8 facts_of(const struct tcp_sock *tp, const struct sock *sk)
{
	__u64 flags = sk->__sk_common.skc_flags;

	return (flags >> SOCK_DONE & 1 ? LIFE_FIN_RECEIVED : 0) | (flags >> SOCK_DEAD & 1 ? LIFE_ORPHAN : 0) |
	       (tp->segs_out ? 0 : LIFE_UNSENT);
}

static __always_inline void tell_end(struct tcp_sock *tp, struct sock *sk, const struct mark_key *key, int oldstate)
{
	struct life_event *event = reserve_event(sizeof(*event));
	struct observe_socket *socket;

	if (!event)
		return;
	socket = find_socket(sk);
	fill_event_of(&event->event, sk, key, socket);
	event->event.kind = LIFE_CLOSED;
	event->event.state = oldstate;
	__builtin_memset(&event->socket, 0, sizeof(event->socket));
	__builtin_memset(&event->tcp, 0, sizeof(event->tcp));
	if (socket)
		event->socket = *socket;
	event->socket.error = last_error(sk, &event->socket, oldstate);
	if (!event->socket.established)
		event->socket.syn_retries = tp->total_retrans;
	event->facts = facts_of(tp, sk);
	event->pad = 0;
	read_tcp(tp, oldstate, &event->tcp);
	submit_event(event);
}

/* The sum of those that ended like this one, or of those that have none. */
static __always_inline __u64 *find_sum(const struct life_sum *end)
{
	__u64 *sum = bpf_map_lookup_elem(&life_sums, end), none = 0;
	__u32 zero = 0;

	if (sum)
		return sum;
	if (!bpf_map_update_elem(&life_sums, end, &none, BPF_NOEXIST))
		count(OBSERVE_FLOWS);
	sum = bpf_map_lookup_elem(&life_sums, end);
	if (sum)
		return sum;
	count(OBSERVE_EVICTED);
	return bpf_map_lookup_elem(&life_others, &zero);
}

#define SUMMED_FLAGS (OBSERVE_ACTIVE | OBSERVE_PASSIVE | OBSERVE_RESET_RECEIVED | OBSERVE_RESET_SENT)

static __always_inline void sum_up_end(struct tcp_sock *tp, struct sock *sk, const struct mark_key *key, int oldstate)
{
	struct observe_socket *socket = find_socket(sk);
	struct life_sum end = {};
	__u64 *sum;

	fill_whose(sk, socket, key, settings.parts, &end.whose);
	end.state = oldstate;
	end.error = sk->sk_err;
	end.facts = facts_of(tp, sk);
	if (socket) {
		end.error = last_error(sk, socket, oldstate);
		end.flags = socket->flags & SUMMED_FLAGS;
	}
	sum = find_sum(&end);
	if (sum)
		__sync_fetch_and_add(sum, 1);
}

static __always_inline void closed(struct tcp_sock *tp, struct sock *sk, int oldstate)
{
	struct mark_key key __attribute__((aligned(8))) = {};

	if ((!observe.events && !settings.sums) || !is_wanted_socket(tp, &key))
		return;
	if (settings.sums)
		sum_up_end(tp, sk, &key, oldstate);
	else
		tell_end(tp, sk, &key, oldstate);
}

static __always_inline void changed(struct tcp_sock *tp, struct sock *sk, int oldstate, int newstate)
{
	if (newstate == TCP_SYN_SENT)
		opened(sk, OBSERVE_ACTIVE);
	else if (newstate == TCP_SYN_RECV && oldstate != TCP_SYN_SENT)
		opened(sk, OBSERVE_PASSIVE);
	else if (newstate == TCP_ESTABLISHED)
		established(tp, sk);
	else if (newstate == TCP_LISTEN)
		listening(sk);
	else if (newstate == TCP_FIN_WAIT1 || newstate == TCP_LAST_ACK || newstate == TCP_CLOSE)
		closing(sk);
}

/* Of which something is to be remembered or told; others cost a connection nothing. */
#define TOLD_STATES                                                                                                    \
	(1 << TCP_SYN_SENT | 1 << TCP_SYN_RECV | 1 << TCP_ESTABLISHED | 1 << TCP_LISTEN | 1 << TCP_FIN_WAIT1 |         \
	 1 << TCP_LAST_ACK | 1 << TCP_CLOSE)

/* Fires before the state is stored. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_life, struct sock *sk, int oldstate, int newstate)
{
	struct tcp_sock *tp;

	if (!(TOLD_STATES >> newstate & 1))
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || !is_wanted_netns(netns_of(sk)))
		return 0;
	changed(tp, sk, oldstate, newstate);
	if (newstate == TCP_CLOSE && oldstate != TCP_CLOSE && oldstate != TCP_LISTEN)
		closed(tp, sk, oldstate);
	return 0;
}

static __always_inline void used(struct sock *sk)
{
	struct observe_socket *socket;

	if (!is_wanted_netns(netns_of(sk)))
		return;
	socket = make_socket(sk);
	if (socket)
		owned_by_current(socket, OBSERVE_USER);
}

/* Somebody has read: that is who the socket belongs to, whoever accepted it. Parts of the kernel read in interrupts. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(flowtag_reader, struct sock *sk)
{
	if (is_locked_by_user(sk))
		used(sk);
	return 0;
}

/* Somebody writes. Attached on request only: it sees every socket's every call. */
SEC("tp_btf/sock_send_length")
int BPF_PROG(flowtag_writer, struct sock *sk, int ret, int flags)
{
	if (ret > 0 && (sk->__sk_common.skc_family == AF_INET || sk->__sk_common.skc_family == AF_INET6))
		used(sk);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(flowtag_was_reset, struct sock *sk)
{
	struct observe_socket *socket = find_socket(sk);

	if (socket)
		socket->flags |= OBSERVE_RESET_RECEIVED;
	return 0;
}

/* Many a RST has no socket, and the verifier of some kernels does not say so. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(flowtag_resets, struct sock *sk)
{
	struct observe_socket *socket;

	if (!sk)
		return 0;
	socket = find_socket(sk);
	if (socket)
		socket->flags |= OBSERVE_RESET_SENT;
	return 0;
}

SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(flowtag_error, struct sock *sk)
{
	struct observe_socket *socket = find_socket(sk);

	/* 0: the application was faster. */
	if (socket && sk->sk_err)
		socket->error = sk->sk_err;
	return 0;
}

/* A socket of the Internet that is behind an open file; NULL: none. */
static __always_inline struct sock *internet_socket(struct file *file)
{
	struct socket *socket = bpf_sock_from_file(file);
	struct sock *sk;

	if (!socket)
		return NULL;
	sk = socket->sk;
	if (!sk || (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6))
		return NULL;
	return sk;
}

/* Of several that hold a socket the first, which is the oldest; but the first process of all (as systemd) keeps sockets for
 * others. */
static __always_inline bool is_better_holder(const struct observe_socket *socket)
{
	return socket->source < OBSERVE_HOLDER || (socket->source == OBSERVE_HOLDER && socket->owner.pid == 1);
}

/* Whoever holds a socket, of those whose owner nobody knows better: sockets that were open before. */
SEC("iter/task_file")
int flowtag_holders(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct observe_socket *socket;
	struct file *file = ctx->file;
	struct sock *sk;

	if (!task || !file)
		return 0;
	sk = internet_socket(file);
	if (!sk || !is_wanted_netns(netns_of(sk)))
		return 0;
	socket = make_socket(sk);
	if (socket && is_better_holder(socket))
		set_owner(socket, task, OBSERVE_HOLDER);
	return 0;
}

/* Key: 0. Where the iterator makes its record, which is too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct observe_tcp);
} life_scratch SEC(".maps");

/* All TCP sockets that have a peer. */
SEC("iter/tcp")
int flowtag_tcp(struct bpf_iter__tcp *ctx)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct sock_common *common = ctx->sk_common;
	struct observe_socket *socket;
	struct observe_tcp *out;
	struct tcp_sock *tp;
	struct sock *sk;
	__u32 zero = 0;
	__u8 state;

	if (!common)
		return 0;
	state = common->skc_state;
	if (!is_connected(state))
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	out = bpf_map_lookup_elem(&life_scratch, &zero);
	if (!tp || !out)
		return 0;
	if (!is_wanted_socket(tp, &key))
		return 0;
	sk = (struct sock *)tp;
	socket = find_socket(sk);
	__builtin_memset(out, 0, sizeof(*out));
	fill_event_of(&out->event, sk, &key, socket);
	if (socket)
		out->socket = *socket;
	read_tcp(tp, state, &out->tcp);
	bpf_seq_write(ctx->meta->seq, out, sizeof(*out));
	return 0;
}
