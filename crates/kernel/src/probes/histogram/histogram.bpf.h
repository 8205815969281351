/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Distributions of times, by whatever tells sockets apart. A socket keeps the number of its distribution, so that a sample
 * costs no search. H2 histograms: two numbers of a bucket differ by an eighth at most. Since kernel 5.11. */
#ifndef FLOWTAG_HISTOGRAM_BPF_H
#define FLOWTAG_HISTOGRAM_BPF_H

/* What user space asks for. */
const volatile struct histogram_settings settings SEC(".rodata.probe") = {};

/* Number of the distribution by what it is of. Written as a socket is looked up for the first time; never full, as numbers
 * run out first. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HISTOGRAM_SLOTS);
	__type(key, struct histogram_key);
	__type(value, __u32);
} histogram_keys SEC(".maps");

/* The other way round; read by user space. Who makes an entry here has the number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HISTOGRAM_SLOTS);
	__type(key, __u32);
	__type(value, struct histogram_key);
} histogram_slots SEC(".maps");

/* Index 0: the number that was given last. Several CPUs may write it: it is where to look, no more. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} histogram_last SEC(".maps");

/* By number. Shared by all CPUs: per CPU it would be large where there are many, and samples are not that frequent. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HISTOGRAM_SLOTS);
	__type(key, __u32);
	__type(value, struct histogram_times);
} histogram_times SEC(".maps");

#define HISTOGRAM_UNWANTED 0xffffffff
/* Jiffies after which a socket is looked up again, as it may have got a tag or another owner: some tenths of a second. */
#define HISTOGRAM_REFRESH 64
/* CPUs that may race for a number. */
#define HISTOGRAM_TRIES 16

/* Highest bit that is set, of at least 1. */
static __always_inline __u32 histogram_log2(__u32 value)
{
	__u32 bits = 0;

	for (int step = 16; step; step >>= 1) {
		if (value >> step) {
			value >>= step;
			bits += step;
		}
	}
	return bits;
}

static __always_inline __u32 histogram_bucket(__u64 us)
{
	__u32 value = us, power;

	if (us < 1 << HISTOGRAM_LINEAR_BITS)
		return us;
	if (us >> HISTOGRAM_BITS)
		return HISTOGRAM_BUCKETS - 1;
	power = histogram_log2(value);
	return (1 << HISTOGRAM_LINEAR_BITS) + ((power - HISTOGRAM_LINEAR_BITS) << HISTOGRAM_GROUPING) +
	       (value >> (power - HISTOGRAM_GROUPING) & ((1 << HISTOGRAM_GROUPING) - 1));
}

static __always_inline struct histogram_times *histogram_of(__u32 slot)
{
	return bpf_map_lookup_elem(&histogram_times, &slot);
}

/* Of two CPUs that find a new extreme at once one may be lost: its bucket still tells within an eighth. */
static __always_inline void histogram_add(__u32 slot, __u64 us)
{
	struct histogram_times *times = histogram_of(slot);
	__u32 bucket = histogram_bucket(us);

	if (!times || bucket >= HISTOGRAM_BUCKETS)
		return;
	__sync_fetch_and_add(&times->count[bucket], 1);
	__sync_fetch_and_add(&times->sum, us);
	if (us > times->largest)
		times->largest = us;
	if (~us > times->smallest)
		times->smallest = ~us;
}

static __always_inline void histogram_skip(__u32 slot)
{
	struct histogram_times *times = histogram_of(slot);

	if (times)
		__sync_fetch_and_add(&times->skipped, 1);
}

/* 0: there is none left. */
static __always_inline __u32 histogram_new_slot(const struct histogram_key *key)
{
	__u32 zero = 0, slot, *last = bpf_map_lookup_elem(&histogram_last, &zero);

	for (int i = 0; last && i < HISTOGRAM_TRIES; i++) {
		slot = *last + 1;
		if (slot >= HISTOGRAM_SLOTS)
			return 0;
		*last = slot;
		if (!bpf_map_update_elem(&histogram_slots, &slot, key, BPF_NOEXIST)) {
			bpf_map_update_elem(&histogram_keys, key, &slot, BPF_ANY);
			count(OBSERVE_FLOWS);
			return slot;
		}
	}
	return 0;
}

static __noinline __u32 histogram_find(struct histogram_key *key)
{
	__u32 *slot;

	if (!key) /* a function of its own is verified without its callers */
		return 0;
	slot = bpf_map_lookup_elem(&histogram_keys, key);
	return slot ? *slot : histogram_new_slot(key);
}

static __always_inline __u32 histogram_look_up(struct tcp_sock *tp, __u32 kind)
{
	struct mark_key flow __attribute__((aligned(8))) = {};
	struct histogram_key key = {};

	if (!is_wanted_socket(tp, &flow))
		return HISTOGRAM_UNWANTED;
	key.kind = kind;
	fill_whose((struct sock *)tp, find_socket((struct sock *)tp), &flow, settings.parts, &key.whose);
	return histogram_find(&key);
}

/* HISTOGRAM_UNWANTED: the filter leaves this socket out. */
static __always_inline __u32 histogram_slot(struct observe_place *place, struct tcp_sock *tp, __u32 kind)
{
	__u32 now = (__u32)bpf_jiffies64() | 1, slot;

	if (place->looked_up && now - place->looked_up < HISTOGRAM_REFRESH)
		return place->slot;
	slot = histogram_look_up(tp, kind);
	if (!slot && (place->slot || !place->looked_up))
		count(OBSERVE_EVICTED);
	place->slot = slot;
	place->looked_up = now;
	return slot;
}

#endif
