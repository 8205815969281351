// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets that the kernel drops: why, where in its code, at which interface and of whose flow.
 *
 * Hook: tracepoint kfree_skb (2.6.30; with the reason since 5.17, with the receiving socket since 6.11). Summed up here,
 * because a flood drops millions a second. What a driver or its hardware drops before there is an skb is not seen. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"
#include "packet.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct drops_settings settings SEC(".rodata.probe") = {};

/* Written by the program, read by user space. Per CPU, as one row may grow by millions a second. Full: the drop is summed
 * up in drops_other. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, DROPS_MAX_ROWS);
	__type(key, struct drops_key);
	__type(value, struct drops_sum);
} drops_rows SEC(".maps");

/* In its place where rows are told apart by flow: many rows, each of few packets. Not made before it is needed. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, DROPS_MAX_FLOWS);
	__type(key, struct drops_key);
	__type(value, struct drops_sum);
} drops_flows SEC(".maps");

/* What had no room in either, so that the totals are right. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct drops_sum);
} drops_other SEC(".maps");

/* Key: what bpf_get_stackid() gave. Others in its places: the row is without. */
struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, DROPS_MAX_STACKS);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, DROPS_STACK_DEPTH * sizeof(__u64));
} drops_stacks SEC(".maps");

/* Names of the interfaces of all namespaces, as they were at their first drop. Full: told by their numbers. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DROPS_MAX_NAMES);
	__type(key, struct drops_interface);
	__type(value, struct drops_name);
} drops_interfaces SEC(".maps");

/* Names of the processes, likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, DROPS_MAX_NAMES);
	__type(key, __u32);
	__type(value, struct drops_name);
} drops_processes SEC(".maps");

/* Numbers of namespaces begin above this (include/linux/proc_ns.h): where an skb holds something else in the place of its
 * device or route, what is read by way of it is no such number. */
#define FIRST_NAMESPACE 0xefffff00
#define NAMESPACES 0x08000000 /* and the upper half of an address is beyond */

/* The low bits of _skb_refdst are flags. */
#define DST_POINTER (~7UL)

static __always_inline __u32 netns_of_device(struct net_device *dev)
{
	__u32 netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);

	return netns - FIRST_NAMESPACE < NAMESPACES ? netns : 0;
}

/* The device that the packet came from or goes to; NULL: none, or it is in a queue that keeps something else there. */
static __always_inline struct net_device *device_of(const struct sk_buff *skb, struct drops_key *key)
{
	struct net_device *dev = skb->dev;

	key->netns = netns_of_device(dev);
	if (key->netns) {
		key->interface = BPF_CORE_READ(dev, ifindex);
		return dev;
	}
	key->interface = skb->skb_iif;
	return NULL;
}

/* Read by way of probe reads: some kernels take a socket for one that cannot be NULL, though it can. */
static __always_inline void read_socket(struct sock *sk, struct drops_key *key, struct drops_name *process)
{
	struct observe_socket *socket = find_socket(sk);

	if (!key->netns)
		key->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (socket && settings.owners) {
		key->pid = socket->owner.pid;
		key->cgroup = socket->owner.cgroup;
		__builtin_memcpy(process->text, socket->owner.process, sizeof(process->text));
	}
	if (settings.owners && !key->cgroup && is_full_socket(sk))
		key->cgroup = cgroup_of(sk);
}

static __always_inline void netns_of_route(const struct sk_buff *skb, struct drops_key *key)
{
	struct dst_entry *dst = (void *)(skb->_skb_refdst & DST_POINTER);

	key->netns = netns_of_device(BPF_CORE_READ(dst, dev));
}

static __always_inline void remember_names(const struct drops_key *key, struct net_device *dev,
					   const struct drops_name *process)
{
	struct drops_interface interface = {.netns = key->netns, .interface = key->interface};
	struct drops_name name = {};

	if (dev) {
		bpf_core_read_str(name.text, sizeof(name.text), &dev->name);
		bpf_map_update_elem(&drops_interfaces, &interface, &name, BPF_NOEXIST);
	}
	if (key->pid)
		bpf_map_update_elem(&drops_processes, &key->pid, process, BPF_ANY);
}

static __always_inline struct drops_sum *other_sum(void)
{
	__u32 zero = 0;

	count(OBSERVE_EVICTED);
	return bpf_map_lookup_elem(&drops_other, &zero);
}

static __always_inline struct drops_sum *make_row(void *rows, const struct drops_key *key, struct net_device *dev,
						  const struct drops_name *process)
{
	struct drops_sum none = {};

	/* Another CPU may have been first. */
	if (!bpf_map_update_elem(rows, key, &none, BPF_NOEXIST)) {
		count(OBSERVE_FLOWS);
		remember_names(key, dev, process);
	}
	return bpf_map_lookup_elem(rows, key);
}

static __always_inline void add_drop(const struct sk_buff *skb, const struct drops_key *key, struct net_device *dev,
				     const struct drops_name *process)
{
	void *rows = settings.flows ? (void *)&drops_flows : (void *)&drops_rows;
	struct drops_sum *sum = bpf_map_lookup_elem(rows, key);

	if (!sum)
		sum = make_row(rows, key, dev, process);
	if (!sum)
		sum = other_sum();
	if (!sum)
		return;
	count(OBSERVE_EVENTS);
	/* An interrupt may drop something of the same row. */
	__sync_fetch_and_add(&sum->packets, 1);
	__sync_fetch_and_add(&sum->bytes, skb->len);
}

/* Its tag, by the flow as this host sends it: which end of a forwarded packet that would be is known to nobody. False: not
 * wanted. */
static __always_inline bool read_flow(const struct sk_buff *skb, struct drops_key *key)
{
	struct mark_key flow __attribute__((aligned(8))) = {};
	struct mark_key reverse __attribute__((aligned(8))) = {};

	if (!flow_of_packet(skb, &flow))
		return is_wanted_flow(&flow);
	reverse_flow(&flow, &reverse);
	if (!is_wanted_flow(&flow) && !is_wanted_flow(&reverse))
		return false;
	key->protocol = flow.protocol;
	key->word = word_of_flow(&flow);
	if (!key->word)
		key->word = word_of_flow(&reverse);
	key->word &= TAG_OF_WORD;
	if (settings.flows)
		key->flow = flow;
	return true;
}

/* A stack's place in the map is by its hash: where another is in it, without one more of the calls that led from the drop to
 * here, which nobody is shown. */
static __always_inline __s32 stack_of(void *ctx)
{
	__s32 id = -1;

	for (int skip = 0; skip <= DROPS_STACK_SKIP && id < 0; skip++)
		id = bpf_get_stackid(ctx, &drops_stacks, BPF_F_FAST_STACK_CMP | skip);
	return id;
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(flowtag_drops, struct sk_buff *skb, void *location)
{
	struct sock *sk = settings.has_socket ? (void *)ctx[3] : NULL;
	struct drops_key key __attribute__((aligned(8))) = {};
	struct drops_name process = {};
	struct net_device *dev;

	dev = device_of(skb, &key);
	if (!sk)
		sk = skb->sk;
	if (sk)
		read_socket(sk, &key, &process);
	if (!key.netns)
		netns_of_route(skb, &key);
	if (!is_wanted_netns(key.netns) || !read_flow(skb, &key))
		return 0;
	key.location = (__u64)location;
	key.reason = settings.has_reason ? (__u32)ctx[2] : 0;
	key.ethertype = skb->protocol;
	key.stack = settings.stacks ? stack_of(ctx) : -1;
	add_drop(skb, &key, dev, &process);
	return 0;
}
