/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Sockets: whose, what they measured, when they close. */
#ifndef FLOWTAG_MARK_LIFECYCLE_BPF_H
#define FLOWTAG_MARK_LIFECYCLE_BPF_H

/* Tells of TCP sockets of flows that user space knows or is about to. Since kernel 4.16. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_close, const struct sock *sk, int oldstate, int newstate)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct mark_closed *closed;
	struct tcp_sock *tp;
	__u32 word, *told;

	if (newstate != TCP_CLOSE)
		return 0;
	tp = bpf_skc_to_tcp_sock((void *)sk);
	if (!tp)
		return 0;
	key_of_socket(tp, &key);
	told = bpf_map_lookup_elem(&flowtag_told, &key);
	if (told)
		word = *told;
	else if (word_of(&key, hash_of(&key), &word) != MARK_MARKED)
		return 0;
	bpf_map_delete_elem(&flowtag_told, &key);
	bpf_map_update_elem(&flowtag_closed, &key, &word, BPF_ANY);
	closed = bpf_ringbuf_reserve(&flowtag_events, sizeof(*closed), 0);
	if (!closed) {
		count_lost(MARK_LOST_EVENTS);
		return 0;
	}
	__builtin_memset(closed, 0, sizeof(*closed));
	closed->event.key = key;
	closed->event.word = word;
	closed->event.kind = MARK_EVENT_CLOSED;
	closed->event.netns = sk->__sk_common.skc_net.net->ns.inum;
	read_tcp(tp, oldstate, &closed->tcp);
	bpf_ringbuf_submit(closed, 0);
	return 0;
}

/* Tells what is known of the TCP sockets of flows in the table. Each is locked meanwhile (before kernel 5.15 only its bucket
 * is: values may then be of different moments). Since kernel 5.9. */
SEC("iter/tcp")
int flowtag_statistics(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct mark_measured out __attribute__((aligned(8))) = {};
	struct tcp_sock *tp;
	__u8 state;

	if (!common) {
		out.tcp.cookie = ctx->meta->seq_num + 1; /* of the last */
		bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
		return 0;
	}
	state = common->skc_state;
	if (!is_connected(state))
		return 0;
	tp = bpf_skc_to_tcp_sock(common);
	if (!tp)
		return 0;
	key_of_socket(tp, &out.key);
	if (!is_known(&out.key))
		return 0;
	read_tcp(tp, state, &out.tcp);
	/* Where the buffer has no room the kernel comes again. */
	bpf_seq_write(ctx->meta->seq, &out, sizeof(out));
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
