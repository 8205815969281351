/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets that open and close. */
#ifndef FLOWTAG_MARK_LIFECYCLE_BPF_H
#define FLOWTAG_MARK_LIFECYCLE_BPF_H

#define AF_INET 2
#define AF_INET6 10

/* By the time the state is CLOSE the socket has given its port back; its copy in inet_sport stays. */
static __always_inline void key_of_socket(const struct sock *sk, struct mark_key *key)
{
	const struct inet_sock *inet = (const struct inet_sock *)sk;

	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&key->local_addr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&key->remote_addr, sk, __sk_common.skc_v6_daddr);
	} else {
		key->local_addr[10] = key->local_addr[11] = 0xff;
		key->remote_addr[10] = key->remote_addr[11] = 0xff;
		bpf_core_read(key->local_addr + 12, 4, &sk->__sk_common.skc_rcv_saddr);
		bpf_core_read(key->remote_addr + 12, 4, &sk->__sk_common.skc_daddr);
	}
	key->local_port = BPF_CORE_READ(inet, inet_sport);
	key->remote_port = BPF_CORE_READ(sk, __sk_common.skc_dport);
	key->protocol = IPPROTO_TCP;
}

/* Tells of TCP sockets of flows that user space knows or is about to. Since kernel 4.16. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_close, const struct sock *sk, int oldstate, int newstate)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct mark_event *event;
	__u32 word, *told;

	if (newstate != TCP_CLOSE || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	key_of_socket(sk, &key);
	told = bpf_map_lookup_elem(&flowtag_told, &key);
	if (told)
		word = *told;
	else if (word_of(&key, hash_of(&key), &word) != MARK_MARKED)
		return 0;
	bpf_map_delete_elem(&flowtag_told, &key);
	bpf_map_update_elem(&flowtag_closed, &key, &word, BPF_ANY);
	event = bpf_ringbuf_reserve(&flowtag_events, sizeof(*event), 0);
	if (!event) {
		count_lost(MARK_LOST_EVENTS);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->key = key;
	event->word = word;
	event->kind = MARK_EVENT_CLOSED;
	event->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Remembers whose socket it is. Attached only where a rule names a process. */
SEC("cgroup/sock_create")
int flowtag_owner(struct bpf_sock *sk)
{
	struct mark_owner *owner = bpf_sk_storage_get(&flowtag_owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (owner)
		bpf_get_current_comm(owner->process, sizeof(owner->process));
	return 1;
}

#endif
