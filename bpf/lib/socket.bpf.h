/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which flow a socket is an end of. Since kernel 5.10. */
#ifndef FLOWTAG_SOCKET_BPF_H
#define FLOWTAG_SOCKET_BPF_H

#define AF_INET 2
#define AF_INET6 10

/* States without a peer, or without a socket. */
static __always_inline bool is_connected(__u8 state)
{
	return state != TCP_LISTEN && state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV && state != TCP_CLOSE;
}

/* A request that is being accepted, or what is left of a closed connection, has no more than the beginning of a socket. Read by
 * way of probe reads: some kernels take a socket for one that cannot be NULL, though it can. */
static __always_inline bool is_full_socket(const struct sock *sk)
{
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

static __always_inline void copy_address(__u8 to[16], const struct in6_addr *from)
{
	__u32 *words = (__u32 *)to;

	words[0] = from->in6_u.u6_addr32[0];
	words[1] = from->in6_u.u6_addr32[1];
	words[2] = from->in6_u.u6_addr32[2];
	words[3] = from->in6_u.u6_addr32[3];
}

static __always_inline void map_address(__u8 to[16], __be32 from)
{
	to[10] = to[11] = 0xff;
	*(__be32 *)(to + 12) = from;
}

/* `key` is zero. By the time the state is CLOSE a socket has given its port back; its copy in inet_sport stays. */
static __always_inline void key_of_inet(const struct inet_sock *inet, __u8 protocol, struct mark_key *key)
{
	const struct sock_common *common = &inet->sk.__sk_common;

	if (common->skc_family == AF_INET6) {
		copy_address(key->local_addr, &common->skc_v6_rcv_saddr);
		copy_address(key->remote_addr, &common->skc_v6_daddr);
	} else {
		map_address(key->local_addr, common->skc_rcv_saddr);
		map_address(key->remote_addr, common->skc_daddr);
	}
	key->local_port = inet->inet_sport;
	key->remote_port = common->skc_dport;
	key->protocol = protocol;
}

static __always_inline void key_of_socket(const struct tcp_sock *tp, struct mark_key *key)
{
	key_of_inet(&tp->inet_conn.icsk_inet, IPPROTO_TCP, key);
}

#endif
