/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that arrive: which tags they carry and whether those are right; and, where we add headers to what we send,
 * room for them. */
#ifndef FLOWTAG_MARK_ARRIVE_BPF_H
#define FLOWTAG_MARK_ARRIVE_BPF_H

#define ICMPV6_PACKET_TOO_BIG 2
#define IPV6_MIN_MTU 1280
#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_MSS 2
#define MAX_TCP_OPTIONS 10

/* Tags that count as meant; most random labels read as some tag. The only element is written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct mark_registered);
} flowtag_known SEC(".maps");

/* What arrived. Bounded: when it is full, packets of new peers are counted under the prefix ::/64, which is given room with
 * the first peer, and as lost. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MARK_MAX_ARRIVALS);
	__type(key, struct mark_arrival);
	__type(value, struct mark_count);
} flowtag_arrived SEC(".maps");

static __noinline int count_arrival(struct __sk_buff *skb, struct mark_arrival *arrival)
{
	struct mark_count fresh = {}, *c;
	struct mark_arrival rest;
	long err;

	if (!arrival)
		return 0;
	c = bpf_map_lookup_elem(&flowtag_arrived, arrival);
	if (!c) {
		rest = *arrival;
		rest.peer = 0;
		bpf_map_update_elem(&flowtag_arrived, &rest, &fresh, BPF_NOEXIST);
		err = bpf_map_update_elem(&flowtag_arrived, arrival, &fresh, BPF_NOEXIST);
		if (err && err != -17 /* EEXIST: another CPU was first; else full, or no memory for a moment */) {
			count_lost(MARK_LOST_ARRIVALS);
			arrival->peer = 0;
		}
		c = bpf_map_lookup_elem(&flowtag_arrived, arrival);
	}
	if (c)
		add(c, skb->gso_segs ?: 1, skb->wire_len);
	return 0;
}

static __always_inline __u16 tag_of_label(__u32 label)
{
	return reverse9(label >> 9 & 0x1ff) << 6 | (label >> 2 & 0x3f);
}

static __always_inline bool is_registered(__u16 tag)
{
	__u32 zero = 0;
	const struct mark_registered *known = bpf_map_lookup_elem(&flowtag_known, &zero);

	return known && tag < 32768 && known->bits[tag / 64] >> (tag % 64) & 1;
}

/* Tag in an options header, 0 if there is none: another experiment's option, or zeros where one was cleared. */
__noinline int tag_of_option(struct __sk_buff *skb, __u32 header)
{
	__u32 at = find_option(skb, header);
	__u8 bytes[OPTION_LEN];

	if (!at || at > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, at + 2, bytes, sizeof(bytes)) || bytes[0] > 1 ||
	    bytes[2] > 63 || !(bytes[0] | bytes[1]) || !bytes[2])
		return 0;
	return (bytes[0] << 8 | bytes[1]) << 6 | bytes[2];
}

/* `expected`: tag of the flow that the packet belongs to, if any. A label that reads as it is no accident. */
static __always_inline __u16 tag_that_arrived(struct __sk_buff *skb, const struct packet *p, __u16 expected, __u8 *how)
{
	struct place hop = {}, dest = {};
	__u16 tag = 0;

	if (p->first == NEXTHDR_HOP || p->first == NEXTHDR_DEST) {
		*how = MARK_ARRIVED_HOP_BY_HOP;
		if (!look_for(skb, &hop, p->l3 + IPV6_HLEN, p->first, NEXTHDR_HOP) && hop.tagged)
			tag = tag_of_option(skb, hop.at);
		if (tag)
			return tag;
		*how = MARK_ARRIVED_DESTINATION;
		if (!look_for(skb, &dest, hop.exists ? hop.at + (hop.len + 1) * 8 : hop.at, hop.next, NEXTHDR_DEST) &&
		    dest.tagged)
			tag = tag_of_option(skb, dest.at);
		if (tag)
			return tag;
	}
	tag = tag_of_label(bpf_ntohl(p->word0) & LABEL_MASK);
	*how = is_registered(tag) || (expected && tag == expected) ? MARK_ARRIVED_LABEL : MARK_ARRIVED_NOTHING;
	return *how == MARK_ARRIVED_LABEL ? tag : 0;
}

/* Tag of the flow that a packet belongs to, 0 if that is not in the table. The flow's own packets leave the other way
 * round. */
static __always_inline __u16 tag_of_flow(const struct packet *p)
{
	struct mark_key key __attribute__((aligned(8))) = p->key;
	__u32 word;

	if (!has_ports(key.protocol) || p->met & MET_LATER_FRAGMENT)
		return 0;
	__builtin_memcpy(key.local_addr, p->key.remote_addr, 16);
	__builtin_memcpy(key.remote_addr, p->key.local_addr, 16);
	key.local_port = p->key.remote_port;
	key.remote_port = p->key.local_port;
	return word_of(&key, hash_of(&key), &word) == MARK_MARKED ? tag_of_label(word & LABEL_MASK) : 0;
}

__noinline int account(struct __sk_buff *skb)
{
	struct scratch *s = scratch();
	const struct packet *p;
	struct mark_arrival arrival = {.ifindex = skb->ifindex};
	__u16 expected;

	if (!s)
		return 0;
	p = &s->p;
	expected = tag_of_flow(p);
	__builtin_memcpy(&arrival.peer, p->key.local_addr, sizeof(arrival.peer));
	arrival.tag = tag_that_arrived(skb, p, expected, &arrival.how);
	count_arrival(skb, &arrival);
	if (!expected || expected == arrival.tag)
		return 0;
	arrival.how = arrival.tag ? MARK_ARRIVED_MISMATCH : MARK_ARRIVED_MISSING;
	arrival.tag = expected;
	return count_arrival(skb, &arrival);
}

/* Offset of the MSS option of a SYN, 0: none. RFC 9293 §3.2. */
__noinline __u32 find_mss(struct __sk_buff *skb, __u32 l4)
{
	__u8 option[2], offset;
	__u32 at = l4 + 20, end;

	if (l4 > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, l4 + 12, &offset, 1))
		return 0;
	end = l4 + (offset >> 4) * 4;
	for (int i = 0; i < MAX_TCP_OPTIONS; i++) {
		if (at + 4 > end || at > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, at, option, 2))
			return 0;
		if (option[0] == TCPOPT_MSS && option[1] == 4)
			return at + 2;
		if (option[0] == TCPOPT_EOL)
			return 0;
		if (option[0] != TCPOPT_NOP && option[1] < 2)
			return 0; /* no length: Linux reads no further either */
		at += option[0] == TCPOPT_NOP ? 1 : option[1];
	}
	return 0;
}

/* The peer's MSS less what we add: our own stack then leaves room in every segment that it sends. */
__noinline int lower_mss(struct __sk_buff *skb, __u32 l4, __u32 mtu, __u32 overhead)
{
	__u32 at = find_mss(skb, l4), most;
	__be16 before, after;
	bool odd = (at - l4) & 1;

	/* Once the bytes are ours, neither of two writes can fail. */
	if (!at || at > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, at, &before, 2) || bpf_skb_pull_data(skb, at + 2))
		return 0;
	most = bpf_ntohs(before);
	if (mtu > IPV6_HLEN + 20 && most > mtu - IPV6_HLEN - 20)
		most = mtu - IPV6_HLEN - 20;
	if (most < IPV6_MIN_MTU - IPV6_HLEN - 20 + overhead)
		return 0; /* RFC 8200 §5: no path is narrower */
	after = bpf_htons(most - overhead);
	/* At an odd offset the first byte is the lower half of a word, and the second the upper half of the next: to the sum,
	 * that is one word with its bytes swapped (RFC 1071 §2). */
	if (bpf_l4_csum_replace(skb, l4 + 16, odd ? __builtin_bswap16(before) : before,
				odd ? __builtin_bswap16(after) : after, sizeof(after)))
		return 0;
	return bpf_skb_store_bytes(skb, at, &after, 2, 0);
}

/* Notes what a router says of the way to the destination of a packet of ours, which is in its message. */
static __always_inline void note_path(struct __sk_buff *skb, __u32 l4, __u32 mtu)
{
	struct mark_path path = {.mtu = mtu, .since = bpf_ktime_get_ns()};
	struct mark_address to;

	if (!bpf_skb_load_bytes(skb, l4 + 8 + IPV6_DADDR, &to, sizeof(to)))
		bpf_map_update_elem(&flowtag_paths, &to, &path, BPF_ANY);
}

/* A router's MTU is that of packets with our header: without it our stack would send packets that get too long. */
__noinline int lower_path_mtu(struct __sk_buff *skb, __u32 l4, __u32 overhead)
{
	struct {
		__u8 type, code;
		__be16 sum;
		__be32 mtu;
	} icmp;
	__be32 after;

	if (l4 > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, l4, &icmp, sizeof(icmp)) ||
	    icmp.type != ICMPV6_PACKET_TOO_BIG || bpf_ntohl(icmp.mtu) < IPV6_MIN_MTU)
		return 0;
	note_path(skb, l4, bpf_ntohl(icmp.mtu));
	if (!overhead || bpf_ntohl(icmp.mtu) < IPV6_MIN_MTU + overhead || bpf_skb_pull_data(skb, l4 + sizeof(icmp)))
		return 0;
	after = bpf_htonl(bpf_ntohl(icmp.mtu) - overhead);
	if (bpf_l4_csum_replace(skb, l4 + 2, icmp.mtu, after, 4))
		return 0;
	return bpf_skb_store_bytes(skb, l4 + 4, &after, sizeof(after), 0);
}

/* Not of later fragments, where other bytes are, and not under authentication. */
static __always_inline void make_room(struct __sk_buff *skb, const struct mark_interface *iface, const struct packet *p)
{
	if (iface->overhead && is_syn(skb, p))
		lower_mss(skb, p->l4, iface->mtu, iface->overhead);
	else if (p->key.protocol == IPPROTO_ICMPV6)
		lower_path_mtu(skb, p->l4, iface->overhead);
}

static __always_inline void arrived_ipv6(struct __sk_buff *skb, const struct mark_interface *iface, struct packet *p)
{
	/* Here the peer is the source, and it is in `local`: the key is as the packet is. */
	if (parse_ipv6(skb, p, iface->flags & MARK_IF_INNER) != MARK_MARKED || !set_aside(p))
		return;
	if (iface->flags & MARK_IF_COUNT_INGRESS)
		account(skb);
	if (!(p->met & (MET_AUTH | MET_LATER_FRAGMENT)))
		make_room(skb, iface, p);
	if (iface->flags & MARK_IF_STRIP_INGRESS && is_stripped(skb, p->outer + IPV6_SADDR, MARK_STRIP_INGRESS))
		strip(skb);
}

SEC("tc")
int flowtag_arrive(struct __sk_buff *skb)
{
	const struct mark_interface *iface = interface_of(skb);
	struct packet p __attribute__((aligned(8))) = {};
	__be16 proto;

	if (iface && !is_expired(iface) && !protocol_of(skb, iface, &p, &proto) && proto == bpf_htons(ETH_P_IPV6))
		arrived_ipv6(skb, iface, &p);
	return TC_ACT_UNSPEC;
}

#endif
