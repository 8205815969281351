/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which rule applies to a packet that is in no flow of the table. */
#ifndef FLOWTAG_MARK_RULES_BPF_H
#define FLOWTAG_MARK_RULES_BPF_H

/* The only element says which bank is read. Written by user space after the other bank is complete. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mark_rules);
} flowtag_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARK_BANKS);
	__type(key, __u32);
	__type(value, struct mark_rule_bank);
} flowtag_banks SEC(".maps");

/* Key: bank * MARK_MAX_CLASSES + class. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARK_BANKS *MARK_MAX_CLASSES);
	__type(key, __u32);
	__type(value, struct mark_rule_set);
} flowtag_sets SEC(".maps");

/* Key: bank * MARK_MAX_RULES + rule. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARK_BANKS *MARK_MAX_RULES);
	__type(key, __u32);
	__type(value, struct mark_rule);
} flowtag_actions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MARK_BANKS *MARK_MAX_CLASSES * 2);
	__type(key, struct mark_rule_value);
	__type(value, __u32);
} flowtag_values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARK_BANKS * 2);
	__type(key, __u32);
	__type(value, struct mark_ports);
} flowtag_ports SEC(".maps");

/* Name of the process that made a socket. Filled when a socket is made, if some rule looks at it; the sockets that a
 * listener accepts inherit it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct mark_owner);
} flowtag_owners SEC(".maps");

/* What is being judged, and by which rules. */
struct judged {
	const struct mark_rule_bank *bank;
	struct scratch *s;
	__u32 number; /* of the bank */
	__u32 pad;
};

static __always_inline const struct mark_rule_set *set_of(__u32 bank, __u32 class)
{
	__u32 index = bank * MARK_MAX_CLASSES + class;

	return bpf_map_lookup_elem(&flowtag_sets, &index);
}

/* Keeps of scratch.left the rules of a class. */
__noinline int narrow(__u32 bank, __u32 class)
{
	const struct mark_rule_set *set = set_of(bank, class);
	struct scratch *s = scratch();

	if (!s || !set)
		return 0;
	for (int i = 0; i < MARK_RULE_WORDS; i++)
		s->left.bits[i] &= set->bits[i];
	return 0;
}

__noinline int widen(__u32 bank, __u32 class)
{
	const struct mark_rule_set *set = set_of(bank, class);
	struct scratch *s = scratch();

	if (!s || !set)
		return 0;
	for (int i = 0; i < MARK_RULE_WORDS; i++)
		s->either.bits[i] |= set->bits[i];
	return 0;
}

/* Class of an exact value; -1: no rule names it. */
static __always_inline __s64 class_of(__u32 bank, __u8 dimension, __u64 low, __u64 high)
{
	struct mark_rule_value value = {.bank = bank, .dimension = dimension, .value = {low, high}};
	__u32 *class = bpf_map_lookup_elem(&flowtag_values, &value);

	if (!class)
		return -1;
	return *class;
}

static __always_inline void by_value(const struct judged *j, __u8 dimension, __u64 low, __u64 high)
{
	__s64 class;

	if (!(j->bank->used & 1 << dimension))
		return;
	class = class_of(j->number, dimension, low, high);
	narrow(j->number, class < 0 ? j->bank->any[dimension] : class);
}

static __always_inline void by_port(const struct judged *j, __u8 dimension, __be16 port)
{
	__u32 index = j->number * 2 + (dimension == MARK_BY_REMOTE_PORT);
	const struct mark_ports *ports;

	if (!(j->bank->used & 1 << dimension))
		return;
	ports = bpf_map_lookup_elem(&flowtag_ports, &index);
	if (ports)
		narrow(j->number, ports->class[bpf_ntohs(port)]);
}

static __always_inline __u32 *prefix_of(struct scratch *s, __u8 bank, __u8 kind, const __u8 *addr)
{
	s->prefix.len = 16 + 128;
	s->prefix.bank = bank;
	s->prefix.kind = kind;
	__builtin_memcpy(s->prefix.addr, addr, 16);
	return bpf_map_lookup_elem(&flowtag_prefixes, &s->prefix);
}

static __always_inline void by_address(const struct judged *j, __u8 dimension, const __u8 *addr)
{
	__u8 kind = dimension == MARK_BY_REMOTE_ADDRESS ? MARK_PREFIX_RULE_REMOTE : MARK_PREFIX_RULE_LOCAL;
	__u32 *class;

	if (!(j->bank->used & 1 << dimension))
		return;
	class = prefix_of(j->s, j->number, kind, addr);
	narrow(j->number, class ? *class : j->bank->any[dimension]);
}

/* A rule names a cgroup and means all below it. */
static __always_inline void by_cgroup(struct __sk_buff *skb, const struct judged *j)
{
	__u32 levels = j->bank->cgroup_levels;

	if (!(j->bank->used & 1 << MARK_BY_CGROUP))
		return;
	__builtin_memset(&j->s->either, 0, sizeof(j->s->either));
	widen(j->number, j->bank->any[MARK_BY_CGROUP]);
	for (int level = 0; level < MARK_MAX_CGROUP_LEVELS; level++) {
		__s64 class;

		if (!(levels & 1 << level))
			continue;
		class = class_of(j->number, MARK_BY_CGROUP, bpf_skb_ancestor_cgroup_id(skb, level), 0);
		if (class >= 0)
			widen(j->number, class);
	}
	for (int i = 0; i < MARK_RULE_WORDS; i++)
		j->s->left.bits[i] &= j->s->either.bits[i];
}

/* Also of a socket that is still being accepted: its listener's. */
static __always_inline void find_owner(struct __sk_buff *skb, struct mark_owner *owner)
{
	struct bpf_sock *sk = skb->sk, *full;
	struct mark_owner *known;

	__builtin_memset(owner, 0, sizeof(*owner));
	if (!sk)
		return;
	full = bpf_sk_fullsock(sk);
	if (!full)
		full = bpf_get_listener_sock(sk);
	if (!full)
		return;
	known = bpf_sk_storage_get(&flowtag_owners, full, NULL, 0);
	if (known)
		*owner = *known;
}

static __always_inline int first_rule(const struct judged *j)
{
	for (int i = 0; i < MARK_RULE_WORDS; i++) {
		__u64 word = j->s->left.bits[i];
		int bit = 0;

		if (!word)
			continue;
		/* Number of the lowest bit that is set; the instruction set has none for it. */
		for (int step = 32; step; step >>= 1) {
			if (!(word & ((1ULL << step) - 1))) {
				word >>= step;
				bit += step;
			}
		}
		return i * 64 + bit;
	}
	return -1;
}

/* Number of the first rule that matches scratch.p, or -1. */
__noinline int match(struct __sk_buff *skb, __u32 number)
{
	struct judged j = {.number = number};
	const struct mark_key *key;
	const __u64 *name;

	j.bank = bpf_map_lookup_elem(&flowtag_banks, &number);
	j.s = scratch();
	if (!j.bank || !j.s)
		return -1;
	key = &j.s->p.key;
	find_owner(skb, &j.s->owner);
	name = (const void *)j.s->owner.process;
	for (int i = 0; i < MARK_RULE_WORDS; i++)
		j.s->left.bits[i] = (__u32)i < j.bank->words ? ~0ULL : 0;
	by_value(&j, MARK_BY_PROTOCOL, key->protocol, 0);
	by_value(&j, MARK_BY_INTERFACE, skb->ifindex, 0);
	by_port(&j, MARK_BY_LOCAL_PORT, key->local_port);
	by_port(&j, MARK_BY_REMOTE_PORT, key->remote_port);
	by_address(&j, MARK_BY_LOCAL_ADDRESS, key->local_addr);
	by_address(&j, MARK_BY_REMOTE_ADDRESS, key->remote_addr);
	/* Without a socket the kernel names the overflow user, which a rule might mean. */
	by_value(&j, MARK_BY_USER, skb->sk ? bpf_get_socket_uid(skb) : ~0ULL, 0);
	by_value(&j, MARK_BY_PROCESS, name[0], name[1]);
	by_cgroup(skb, &j);
	return first_rule(&j);
}

static __always_inline __u32 reverse9(__u32 value)
{
	__u32 out = 0;

	for (int i = 0; i < 9; i++)
		out |= (value >> i & 1) << (8 - i);
	return out;
}

/* As flowtag_wire::keyed_hash. */
static __noinline __u64 hash_of_flow(struct scratch *s)
{
	const struct mark_key *key;
	bool turned = false;
	__u8 *bytes;

	if (!s)
		return 0;
	key = &s->p.key;
	bytes = (void *)s->hashed;
	for (int i = 0; i < 16; i++) {
		if (key->local_addr[i] != key->remote_addr[i]) {
			turned = key->local_addr[i] > key->remote_addr[i];
			goto ordered;
		}
	}
	turned = bpf_ntohs(key->local_port) > bpf_ntohs(key->remote_port);
ordered:
	bytes[0] = key->protocol;
	__builtin_memcpy(bytes + 1, turned ? key->remote_addr : key->local_addr, 16);
	__builtin_memcpy(bytes + 17, turned ? &key->remote_port : &key->local_port, 2);
	__builtin_memcpy(bytes + 19, turned ? key->local_addr : key->remote_addr, 16);
	__builtin_memcpy(bytes + 35, turned ? &key->local_port : &key->remote_port, 2);
	bytes[37] = bytes[38] = 0;
	bytes[39] = 37;
	return siphash24(constants.entropy_key[0], constants.entropy_key[1], s->hashed, 5);
}

#define ENTROPY_MASK 0xc0103

/* What a rule writes into the packets of this flow. */
__noinline int word_by_rule(__u32 bank, __u32 number)
{
	__u32 index = bank * MARK_MAX_RULES + number, choice;
	const struct mark_rule *rule = bpf_map_lookup_elem(&flowtag_actions, &index);
	__u64 hash;

	if (!rule || rule->action == MARK_ACTION_NEVER)
		return 0;
	hash = hash_of_flow(scratch());
	choice = hash >> 32;
	if (rule->action == MARK_ACTION_RANDOM) {
		__u32 experiment = 1 + (choice & 0xffff) % 511, activity = 1 + (choice >> 16) % 63;

		return rule->strategy | reverse9(experiment) << 9 | activity << 2 | (hash & ENTROPY_MASK);
	}
	if (!rule->tags)
		return 0;
	choice %= rule->tags;
	if (choice >= MARK_RULE_TAGS)
		return 0;
	return rule->strategy | rule->tag[choice] | (hash & ENTROPY_MASK);
}

/* Tells user space of scratch.p. */
__noinline int tell(struct __sk_buff *skb, __u32 kind, __u32 word, __u32 rule, __u32 generation_or_mtu)
{
	struct mark_event *event;
	struct scratch *s = scratch();

	if (!s)
		return -1;
	event = bpf_ringbuf_reserve(&flowtag_events, sizeof(*event), 0);
	if (!event) {
		count_lost(MARK_LOST_EVENTS);
		return -1;
	}
	event->key = s->p.key;
	event->word = word;
	event->kind = kind;
	event->rule = rule;
	event->generation = generation_or_mtu;
	event->pad = 0;
	event->mtu = generation_or_mtu;
	event->netns = 0;
	event->user = skb->sk ? bpf_get_socket_uid(skb) : ~0U;
	__builtin_memcpy(event->process, s->owner.process, sizeof(event->process));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* RFC 9293 §3.1: the flags are in byte 13; a SYN begins a connection that may be another owner's. */
static __always_inline bool is_syn(struct __sk_buff *skb, const struct packet *p)
{
	__u32 at = p->l4 + 13;
	__u8 flags;

	return p->key.protocol == IPPROTO_TCP && at <= MAX_L4_OFFSET && !bpf_skb_load_bytes(skb, at, &flags, 1) &&
	       flags & 2;
}

/* Of a TCP connection some packets come without their socket (a SYN-ACK with a cookie, what is sent in TIME_WAIT): what was
 * found with the socket holds for them, not the other way round. A UDP port may be another socket's any time. */
static __always_inline bool is_of_socket(__u64 remembered, __u64 socket, __u8 protocol)
{
	return protocol == IPPROTO_TCP ? remembered >= socket : remembered == socket;
}

/* A TCP packet of our own without a whole socket is a SYN-ACK, whose connection may never come about, or an answer for one
 * that is over (TIME_WAIT, RST): marked, but nothing to tell. What is forwarded has no socket either. */
static __always_inline bool is_of_connection(struct __sk_buff *skb, __u8 protocol)
{
	struct bpf_sock *sk = skb->sk;

	return protocol != IPPROTO_TCP || skb->ingress_ifindex || (sk && bpf_sk_fullsock(sk));
}

/* Tells user space of the match of scratch.p. */
static __noinline int tell_of_match(struct __sk_buff *skb, __u32 word, __u32 rule, __u32 generation)
{
	struct scratch *s = scratch();

	if (!s || !is_of_connection(skb, s->p.key.protocol))
		return -1;
	if (tell(skb, MARK_EVENT_MATCHED, word, rule, generation))
		return -1;
	if (s->p.key.protocol == IPPROTO_TCP)
		bpf_map_update_elem(&flowtag_told, &s->p.key, &word, BPF_ANY);
	return 0;
}

/* Judges scratch.p, which is in no flow of the table, or remembers how the last packet like it was judged: the word to be
 * written in the upper half, the verdict in the lower. */
__noinline __u64 by_rules(struct __sk_buff *skb)
{
	__u32 zero = 0, generation, word;
	const struct mark_rules *rules = bpf_map_lookup_elem(&flowtag_rules, &zero);
	struct scratch *s = scratch();
	struct mark_recent *recent;
	__u32 *closed = NULL;
	__u64 socket;
	int rule;

	if (!s || !rules || !rules->generation)
		return MARK_NO_FLOW;
	generation = *(volatile __u32 *)&rules->generation;
	recent = recent_of(hash_of(&s->p.key));
	if (!recent)
		return MARK_NO_FLOW;
	socket = s->p.key.protocol == IPPROTO_TCP ? !!skb->sk : bpf_get_socket_cookie(skb);
	if (recent->generation == generation && is_same_key(&recent->key, &s->p.key) &&
	    is_of_socket(recent->socket, socket, s->p.key.protocol) && !is_syn(skb, &s->p))
		return (__u64)recent->word << 32 | recent->verdict;
	if (!is_of_connection(skb, s->p.key.protocol) && !is_syn(skb, &s->p))
		closed = bpf_map_lookup_elem(&flowtag_closed, &s->p.key);
	if (closed)
		return (__u64)*closed << 32 | MARK_MARKED;
	rule = match(skb, generation & 1);
	word = rule < 0 ? 0 : word_by_rule(generation & 1, rule);
	recent->key = s->p.key;
	recent->generation = generation;
	recent->socket = socket;
	recent->word = word;
	recent->verdict = word ? MARK_MARKED : rule < 0 ? MARK_NO_FLOW : MARK_NEVER;
	if (word && has_ports(s->p.key.protocol) && tell_of_match(skb, word, rule, generation))
		recent->generation = 0; /* told again with the next packet */
	return (__u64)word << 32 | recent->verdict;
}

#endif
