/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the marking programs know, and how they look it up. */
#ifndef FLOWTAG_MARK_MAPS_BPF_H
#define FLOWTAG_MARK_MAPS_BPF_H

/* Set before loading. */
const volatile struct mark_constants constants = {};

/* Key: flow as its packets leave. Written by user space (one entry per flow), read per packet; the program only
 * refreshes last_seen. A hash and no LRU: an entry leaves when its flow ends, never by being forgotten; a full map is an
 * error that user space gets and counts. Not preallocated: memory follows the number of flows. max_entries is set before
 * loading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct mark_key);
	__type(value, struct mark_value);
} flowtag_flows SEC(".maps");

/* A bit per slot: whether any flow is in it. So small that it stays in the cache where the slots do not. Written by user
 * space through a shared mapping. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} flowtag_filter SEC(".maps");

/* Key: hash of a flow's key. Written by user space through a shared mapping, read per packet; the program only refreshes
 * last_seen. Answers for most packets of flows from one cache line. Never full; max_entries is set before loading, a
 * power of two. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mark_slot);
} flowtag_slots SEC(".maps");

/* Key: ifindex. Written by user space when it attaches and renews the lease. An array because a look-up in it costs 1 ns
 * and happens for every packet; max_entries is set before loading, above the largest ifindex of the host. */
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

/* Key: class of a mark's word. What was sent with it; which tag it is, user space has in flowtag_classes. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MARK_MAX_TAGS);
	__type(key, __u32);
	__type(value, struct mark_count);
} flowtag_tags SEC(".maps");

/* Key: class. Value: experiment << 6 | activity; 0: free. Only user space uses it; here, so that it outlives a daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARK_MAX_TAGS);
	__type(key, __u32);
	__type(value, __u32);
} flowtag_classes SEC(".maps");

/* Key: hash of a packet's key. What was found for it last on this CPU: rules, and the first of several fragments. Two
 * packets that share an entry take turns. Per CPU: the hooks run with bottom halves off, nobody else is in it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MARK_RECENT);
	__type(key, __u32);
	__type(value, struct mark_recent);
} flowtag_recent SEC(".maps");

/* What user space is told: matches of rules, closed sockets. Read by one thread. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} flowtag_events SEC(".maps");

/* Key: a connection that user space was told of, as a rule matched it: so that it is also told of the end of one that closes
 * before it is in the table. Written and read by the programs; the oldest are forgotten first, of which user space has long
 * heard. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MARK_MAX_TOLD);
	__type(key, struct mark_key);
	__type(value, __u32);
} flowtag_told SEC(".maps");

/* Key: a connection whose socket closed. What its packets carry: some are yet to be sent, in TIME_WAIT, where nothing tells
 * the owner. Written and read by the programs; the oldest are forgotten first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MARK_MAX_TOLD);
	__type(key, struct mark_key);
	__type(value, __u32);
} flowtag_closed SEC(".maps");

/* Key: enum mark_lost. What could not be told or counted. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MARK_LOST_KINDS);
	__type(key, __u32);
	__type(value, __u64);
} flowtag_lost SEC(".maps");

/* Key: exact prefix. Written by user space when rules or prefixes to strip change. Holds both banks of rules. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct mark_prefix);
	__type(value, __u32);
} flowtag_prefixes SEC(".maps");

/* Key: destination of packets that were too big for their way. Written by flowtag_arrive; an option is put into no packet
 * that it would make too big again. When it is full the oldest is forgotten, and heard of again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MARK_MAX_PATHS);
	__type(key, struct mark_address);
	__type(value, struct mark_path);
} flowtag_paths SEC(".maps");

/* Where in a packet things are. */
struct packet {
	struct mark_key key;
	__u32 outer;  /* outermost IPv6 header */
	__u32 l3;     /* IPv6 header that is written */
	__u32 l4;     /* transport header of the key */
	__be32 word0; /* version, traffic class, label of the header that is written */
	__u8 first;   /* type of what follows that header */
	__u8 met;     /* enum met */
	__u16 around; /* bytes of outer headers around the packet that the key is of */
	__be32 fragment;
};

/* For the functions off the fast path. They are global, so that the verifier looks at each once, and since that leaves them
 * only numbers for arguments (kernel 5.10), they find the rest here. Per CPU; the hooks run with bottom halves off, nobody
 * else is in it. */
struct scratch {
	struct packet p;
	struct mark_rule_set left;   /* rules that all conditions so far allow */
	struct mark_rule_set either; /* rules that some cgroup allows */
	struct mark_owner owner;
	struct mark_prefix prefix;
	__u64 hashed[5];
	__u32 told; /* jiffies at the last MARK_EVENT_NO_ROOM */
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} flowtag_scratch SEC(".maps");

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flowtag_scratch, &zero);
}

/* A time stamp that costs nothing: reading a clock costs as much as the look-up of the flow. */
static __always_inline __u32 now_jiffies(void)
{
	return (__u32)bpf_jiffies64() ?: 1;
}

/* How many there are is in a cache line of its own. At egress the kernel has added the headers of further packets to
 * wire_len, so that most need not be asked. */
static __always_inline __u32 packets_on_wire(const struct __sk_buff *skb)
{
	return likely(skb->wire_len == skb->len && !skb->ingress_ifindex) ? 1 : skb->gso_segs ?: 1;
}

static __always_inline void add(struct mark_count *c, __u64 packets, __u64 bytes)
{
	c->packets += packets;
	c->bytes += bytes;
}

static __always_inline void count_lost(__u32 what)
{
	__u64 *lost = bpf_map_lookup_elem(&flowtag_lost, &what);

	if (lost)
		*lost += 1;
}

/* Spreads what neighbours differ in, ports and the last words of addresses, whichever bytes of them. User space computes
 * the same (mark/slots.rs). */
static __always_inline __u32 hash_of(const struct mark_key *key)
{
	const __u32 *words = (const void *)key;
	__u64 hash =
		words[8] * 0x9e3779b97f4a7c15ULL ^ words[7] * 0xc2b2ae3d27d4eb4fULL ^ words[3] * 0x165667b19e3779f9ULL;

	return (hash ^ hash >> 32) * 0xc2b2ae3d27d4eb4fULL >> 32;
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

static __always_inline int look_up(const struct mark_key *key, __u32 *word)
{
	struct mark_value *flow = bpf_map_lookup_elem(&flowtag_flows, key);

	if (!flow)
		return MARK_NO_FLOW;
	refresh(&flow->last_seen);
	*word = flow->word;
	return MARK_MARKED;
}

/* What is to be written into the packets of a flow, if it is in the table. */
static __always_inline int word_of(const struct mark_key *key, __u32 hash, __u32 *word)
{
	__u32 index = hash & constants.slot_mask, group = index >> 6, sequence;
	__u64 *filter = bpf_map_lookup_elem(&flowtag_filter, &group);
	struct mark_slot *slot;

	if (likely(!filter || !(*filter >> (index & 63) & 1)))
		return MARK_NO_FLOW;
	slot = bpf_map_lookup_elem(&flowtag_slots, &index);
	if (!slot)
		return MARK_NO_FLOW;
	sequence = *(volatile __u32 *)&slot->sequence;
	if (likely(slot->direct && is_same_key(&slot->key, key))) {
		*word = *(volatile __u32 *)&slot->word;
		/* User space was at it meanwhile: the table knows. */
		if (unlikely(sequence & 1 || *(volatile __u32 *)&slot->sequence != sequence))
			return look_up(key, word);
		refresh(&slot->last_seen);
		return MARK_MARKED;
	}
	return look_up(key, word);
}

/* Whether a flow is in the table, without a sign of life from it. */
static __always_inline bool is_known(const struct mark_key *key)
{
	__u32 index = hash_of(key) & constants.slot_mask, group = index >> 6;
	__u64 *filter = bpf_map_lookup_elem(&flowtag_filter, &group);

	return filter && *filter >> (index & 63) & 1 && bpf_map_lookup_elem(&flowtag_flows, key);
}

static __always_inline struct mark_recent *recent_of(__u32 hash)
{
	__u32 index = hash % MARK_RECENT;

	return bpf_map_lookup_elem(&flowtag_recent, &index);
}

#endif
