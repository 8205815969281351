// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes the flow label of announced flows into the packets that leave an interface, and counts all packets by what
 * became of them. Hook: tcx egress (kernel 6.6) or a clsact filter (before). Since kernel 5.10.
 * Changes nothing but the 20 bits of the label and passes every packet on, also those that it could not handle.
 * Misses: packets that do not pass this interface's egress hook (loopback to an own address, hardware offloads that
 * forward without the kernel), fragments after the first. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include "mark.h"
#include "ipv6.bpf.h"

#define TC_ACT_UNSPEC (-1) /* = TCX_NEXT: the next program of the interface decides */
#define LABEL_MASK 0xfffff

/* Number of slots less one. Set before loading. */
const volatile __u32 slot_mask = 0;

/* Key: flow as its packets leave. Written by user space (one entry per announced IPv6 flow), read per packet; the
 * program only refreshes last_seen. A hash and no LRU: an entry leaves when its flow ends, never by being forgotten;
 * a full map is an error that user space gets and counts. Not preallocated: memory follows the number of flows.
 * max_entries is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct mark_key);
	__type(value, struct mark_value);
} flowtag_flows SEC(".maps");

/* Key: hash of a flow's key. Written by user space through a shared mapping, read per packet; the program only refreshes
 * last_seen. Answers for most packets from one cache line: whether any flow has this hash, and which label if it is the
 * flow that is kept here. Never full; max_entries is set before loading, a power of two. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mark_slot);
} flowtag_slots SEC(".maps");

/* Key: ifindex. Written by user space when it attaches. An array because a look-up in it costs 1 ns and happens for
 * every packet; max_entries is set before loading, above the largest ifindex of the host. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mark_interface);
} flowtag_ifaces SEC(".maps");

/* Key: slot of an interface. Written per CPU by the program, summed by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MARK_MAX_INTERFACES + 1);
	__type(key, __u32);
	__type(value, struct mark_counters);
} flowtag_counts SEC(".maps");

/* A time stamp that costs nothing: reading a clock costs as much as the look-up of the flow. */
static __always_inline __u32 now_jiffies(void)
{
	return (__u32)bpf_jiffies64() ?: 1;
}

static __always_inline void count(struct __sk_buff *skb, __u32 slot, int verdict)
{
	struct mark_counters *counters = bpf_map_lookup_elem(&flowtag_counts, &slot);
	struct mark_count *c;

	if (!counters || verdict < 0 || verdict >= MARK_VERDICTS)
		return;
	c = &counters->by_verdict[verdict];
	c->packets += skb->gso_segs ?: 1;
	c->bytes += skb->wire_len;
}

/* Ports are the first four bytes of TCP and of UDP. */
static __always_inline int load_ports(struct __sk_buff *skb, __u32 l4, struct mark_key *key)
{
	__be16 buf[2];
	const __be16 *ports = bytes_at(skb, l4, sizeof(buf), buf);

	if (!ports)
		return -1;
	key->local_port = ports[0];
	key->remote_port = ports[1];
	return 0;
}

/* The slot of a key. User space computes the same (mark/slots.rs). */
static __always_inline struct mark_slot *slot_of(const struct mark_key *key)
{
	const __u32 *words = (const void *)key;
	__u32 hash = words[8] * 0x9e3779b1 ^ words[7] * 0x85ebca6b ^ words[3] * 0xc2b2ae35;
	__u32 index;

	/* The bytes of a word that tell neighbours apart are its upper ones: bring them down. */
	hash = (hash ^ hash >> 16) * 0x7feb352d;
	index = (hash ^ hash >> 15) & slot_mask;
	return bpf_map_lookup_elem(&flowtag_slots, &index);
}

static __always_inline bool is_same_key(const struct mark_key *a, const struct mark_key *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

/* Notes that a flow is alive; seldom, as CPUs share the cache line. */
static __always_inline void refresh(__u32 *last_seen)
{
	__u32 now = now_jiffies(), before = *last_seen;

	if (!before || now - before > MARK_LAST_SEEN_STEP)
		*last_seen = now;
}

static __always_inline int look_up(const struct mark_key *key, __u32 *label)
{
	struct mark_value *flow = bpf_map_lookup_elem(&flowtag_flows, key);

	if (!flow)
		return MARK_NO_FLOW;
	refresh(&flow->last_seen);
	*label = flow->label;
	return MARK_MARKED;
}

static __always_inline int label_of(const struct mark_key *key, __u32 *label)
{
	struct mark_slot *slot = slot_of(key);
	__u32 sequence;

	if (!slot || !slot->flows)
		return MARK_NO_FLOW;
	sequence = *(volatile __u32 *)&slot->sequence;
	if (slot->direct && is_same_key(&slot->key, key)) {
		*label = *(volatile __u32 *)&slot->label;
		/* User space was at it meanwhile: the table knows. */
		if (sequence & 1 || *(volatile __u32 *)&slot->sequence != sequence)
			return look_up(key, label);
		refresh(&slot->last_seen);
		return MARK_MARKED;
	}
	return look_up(key, label);
}

/* Finds out what is to be written into the packet, if anything. Reads only. */
static __always_inline int decide_ipv6(struct __sk_buff *skb, __u32 l3, __be32 *word)
{
	struct mark_key key __attribute__((aligned(8))) = {};
	struct ipv6hdr buf;
	const struct ipv6hdr *ip6 = bytes_at(skb, l3, sizeof(buf), &buf);
	__u32 l4 = l3 + sizeof(buf);
	__u32 label;
	int verdict;

	if (!ip6)
		return MARK_UNREADABLE;
	*word = *(__be32 *)ip6;
	/* Source and destination are neighbours in the header as in the key. */
	__builtin_memcpy(key.local_addr, &ip6->saddr, 2 * sizeof(ip6->saddr));
	key.protocol = ip6->nexthdr;
	if (extension_header_len(key.protocol, 0)) {
		verdict = skip_extension_headers(skb, &l4, &key.protocol);
		if (verdict != MARK_MARKED)
			return verdict;
	}
	if (key.protocol != IPPROTO_TCP && key.protocol != IPPROTO_UDP)
		return MARK_OTHER_PROTOCOL;
	if (l4 > MAX_L4_OFFSET || load_ports(skb, l4, &key))
		return MARK_UNREADABLE;
	verdict = label_of(&key, &label);
	if (verdict == MARK_MARKED)
		*word = (*word & ~bpf_htonl(LABEL_MASK)) | bpf_htonl(label & LABEL_MASK);
	return verdict;
}

static __always_inline int decide(struct __sk_buff *skb, const struct mark_interface *iface, __u32 *l3, __be32 *word)
{
	__be16 proto;
	int err = iface->link_header_len ? ethernet_protocol(skb, l3, &proto) : bare_protocol(skb, l3, &proto);

	if (err)
		return MARK_UNREADABLE;
	if (proto == bpf_htons(ETH_P_IPV6))
		return decide_ipv6(skb, *l3, word);
	return proto == bpf_htons(ETH_P_IP) ? MARK_IPV4 : MARK_NOT_IP;
}

/* Writes through the helper: a program with direct packet writes gets a prologue from the verifier that makes the header
 * of every packet its own, marked or not, and that drops the packet where memory is short. The label is in no checksum
 * of its own; recompute keeps skb->csum true where a device summed the packet. */
static __always_inline int store(struct __sk_buff *skb, __u32 l3, __be32 word)
{
	return bpf_skb_store_bytes(skb, l3, &word, sizeof(word), BPF_F_RECOMPUTE_CSUM) ? MARK_WRITE_FAILED
										       : MARK_MARKED;
}

SEC("tc")
int flowtag_mark(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, l3 = 0;
	struct mark_interface *iface = bpf_map_lookup_elem(&flowtag_ifaces, &ifindex);
	__be32 word = 0;
	int verdict;

	if (!iface || !iface->known)
		return TC_ACT_UNSPEC;
	verdict = decide(skb, iface, &l3, &word);
	if (verdict == MARK_MARKED)
		verdict = store(skb, l3, word);
	count(skb, iface->slot, verdict);
	return TC_ACT_UNSPEC;
}

/* Does nothing: what a program costs before it does anything, for the benches. */
SEC("tc")
int flowtag_empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

/* Tells user space, by BPF_PROG_TEST_RUN, what time last_seen is compared with. */
SEC("tc")
int flowtag_now(struct __sk_buff *skb)
{
	return now_jiffies();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
