/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What all probes share: settings, the ring, counts of what was lost, whose a socket is. Since kernel 5.11, which lets
 * tracing programs keep something with a socket. */
#ifndef FLOWTAG_OBSERVE_BPF_H
#define FLOWTAG_OBSERVE_BPF_H

/* In a section of its own, so that user space finds it without looking for a symbol. */
const volatile struct observe_settings observe SEC(".rodata.observe") = {};

/* Events, each beginning with struct observe_event. Read by one thread. Full: the event is lost and counted. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} observe_events SEC(".maps");

/* Key: enum observe_count. Written per CPU by the programs, summed by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OBSERVE_COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} observe_counts SEC(".maps");

/* With each socket: whose it is and what became of it. One map for all probes. A socket that is accepted inherits its
 * listener's. Freed with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct observe_socket);
} observe_sockets SEC(".maps");

/* The daemon's table of flows, by which a tag is known; empty where no daemon runs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct mark_key);
	__type(value, struct mark_value);
} flowtag_flows SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *value = bpf_map_lookup_elem(&observe_counts, &what);

	if (value)
		*value += 1;
}

/* NULL: lost, and counted. What is told is counted as it is submitted: of a count of either here the compiler makes two
 * checks of the event, and kernels before 6.4 forget the first and reject the program for an event that is never submitted. */
static __always_inline void *reserve_event(__u64 size)
{
	void *event = bpf_ringbuf_reserve(&observe_events, size, 0);

	if (!event)
		count(OBSERVE_LOST);
	return event;
}

/* To wake a reader costs far more than the rest of a program: it comes by itself many times a second, and is woken where
 * the ring would be full before that. */
static __always_inline void submit_event(void *event)
{
	bool is_time = bpf_ringbuf_query(&observe_events, BPF_RB_AVAIL_DATA) >= observe.wake;

	count(OBSERVE_EVENTS);
	bpf_ringbuf_submit(event, is_time ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* enum mark_word of a flow; 0: no tag, or nobody who knows. */
static __always_inline __u32 word_of_flow(const struct mark_key *key)
{
	struct mark_value *value = bpf_map_lookup_elem(&flowtag_flows, key);

	return value ? value->word : 0;
}

/* Of enum mark_word: experiment and activity in the label, without the five bits of entropy, and where they are written. */
#define TAG_OF_WORD 0xf3fefc

static __always_inline bool is_wanted_netns(__u32 netns)
{
	return !observe.netns || observe.netns == netns;
}

static __always_inline bool is_wanted_flow(const struct mark_key *key)
{
	const __u64 *remote = (const __u64 *)key->remote_addr;

	if (observe.port && key->local_port != observe.port && key->remote_port != observe.port)
		return false;
	return !((remote[0] ^ observe.peer[0]) & observe.peer_mask[0]) &&
	       !((remote[1] ^ observe.peer[1]) & observe.peer_mask[1]);
}

static __always_inline __u32 netns_of(const struct sock *sk)
{
	return sk->__sk_common.skc_net.net->ns.inum;
}

/* Before 5.15 the member held a tagged pointer, or for cgroup v1 no pointer at all: what is read then is 0 or of no
 * cgroup that exists. */
static __always_inline __u64 cgroup_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
}

static __always_inline struct observe_socket *find_socket(struct sock *sk)
{
	return bpf_sk_storage_get(&observe_sockets, sk, NULL, 0);
}

static __always_inline struct observe_socket *make_socket(struct sock *sk)
{
	struct observe_socket *socket = find_socket(sk);

	if (socket)
		return socket;
	socket = bpf_sk_storage_get(&observe_sockets, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	count(socket ? OBSERVE_FLOWS : OBSERVE_EVICTED);
	return socket;
}

/* Whether what is remembered is this process, and has been since it last became another program. */
static __always_inline bool is_owner(const struct observe_owner *owner, const struct task_struct *task)
{
	const __u64 *name = (const __u64 *)task->group_leader->comm;
	const __u64 *known = (const __u64 *)owner->process;

	return owner->pid == (__u32)task->tgid && known[0] == name[0] && known[1] == name[1];
}

/* The name is the process's, not that of one of its threads. */
static __always_inline void set_owner(struct observe_socket *socket, const struct task_struct *task, __u8 source)
{
	const __u64 *name = (const __u64 *)task->group_leader->comm;
	__u64 *known = (__u64 *)socket->owner.process;

	socket->owner.pid = task->tgid;
	socket->owner.cgroup = task->cgroups->dfl_cgrp->kn->id;
	socket->source = source;
	known[0] = name[0];
	known[1] = name[1];
}

#define PF_KTHREAD 0x00200000 /* of linux/sched.h, unchanged since 3.12 */

/* The running process uses the socket: only where a system call led here. A thread of the kernel that works for a process
 * (kTLS, NFS) is the owner only where there is none. */
static __always_inline void owned_by_current(struct observe_socket *socket, __u8 source)
{
	const struct task_struct *task = bpf_get_current_task_btf();

	if (task->flags & PF_KTHREAD && socket->source)
		return;
	if (socket->source < source || !is_owner(&socket->owner, task))
		set_owner(socket, task, source);
}

/* Whether a system call has the socket locked: then the running process is who made it. Interrupts never do. */
static __always_inline bool is_locked_by_user(const struct sock *sk)
{
	return sk->sk_lock.owned;
}

/* All of an event but its kind; `event` is not initialised, `socket` may be NULL. */
static __always_inline void fill_event_of(struct observe_event *event, struct sock *sk, const struct mark_key *key,
					  const struct observe_socket *socket)
{
	__builtin_memset(event, 0, sizeof(*event));
	event->time = bpf_ktime_get_ns();
	event->cookie = bpf_get_socket_cookie(sk);
	event->key = *key;
	event->netns = netns_of(sk);
	event->word = word_of_flow(key);
	event->state = sk->__sk_common.skc_state;
	event->interface = sk->__sk_common.skc_bound_dev_if;
	if (socket)
		event->owner = socket->owner;
	if (!event->owner.cgroup)
		event->owner.cgroup = cgroup_of(sk);
	event->owner.user = sk->sk_uid.val;
}

static __always_inline void fill_event(struct observe_event *event, struct sock *sk, const struct mark_key *key)
{
	fill_event_of(event, sk, key, find_socket(sk));
}

/* The flow of a TCP socket, if it is one that is wanted: `key` is zero before. */
static __always_inline bool is_wanted_socket(struct tcp_sock *tp, struct mark_key *key)
{
	key_of_socket(tp, key);
	return is_wanted_netns(netns_of(&tp->inet_conn.icsk_inet.sk)) && is_wanted_flow(key);
}

/* To the /24 of IPv4, or the /64 of IPv6. */
static __always_inline void mask_peer(__u8 address[16])
{
	__u32 *words = (__u32 *)address;

	if (!words[0] && !words[1] && words[2] == bpf_htonl(0xffff))
		address[15] = 0;
	else
		words[2] = words[3] = 0;
}

/* Of the socket of a flow, those of enum observe_part that are asked for; `whose` is zero before, `socket` may be NULL. */
static __always_inline void fill_whose(struct sock *sk, const struct observe_socket *socket,
				       const struct mark_key *flow, __u32 parts, struct observe_whose *whose)
{
	whose->parts = parts;
	whose->flow.protocol = flow->protocol;
	if (parts & OBSERVE_BY_FLOW)
		whose->flow = *flow;
	else if (parts & (OBSERVE_BY_PEER | OBSERVE_BY_PREFIX))
		__builtin_memcpy(whose->flow.remote_addr, flow->remote_addr, sizeof(flow->remote_addr));
	if (parts & OBSERVE_BY_PREFIX)
		mask_peer(whose->flow.remote_addr);
	if (parts & OBSERVE_BY_TAG)
		whose->word = word_of_flow(flow) & TAG_OF_WORD;
	if (parts & OBSERVE_BY_NETNS)
		whose->netns = netns_of(sk);
	if (parts & OBSERVE_BY_INTERFACE)
		whose->interface = sk->__sk_common.skc_bound_dev_if;
	if (parts & OBSERVE_BY_USER)
		whose->owner.user = sk->sk_uid.val;
	if (socket && parts & OBSERVE_BY_PID)
		whose->owner.pid = socket->owner.pid;
	if (socket && parts & OBSERVE_BY_PROCESS)
		__builtin_memcpy(whose->owner.process, socket->owner.process, sizeof(socket->owner.process));
	if (parts & OBSERVE_BY_CGROUP)
		whose->owner.cgroup = socket && socket->owner.cgroup ? socket->owner.cgroup : cgroup_of(sk);
}

#endif
