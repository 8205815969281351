/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Writing a tag into a packet: the flow label, and the option in extension headers. Only through helpers: a program with
 * direct packet writes gets a prologue from the verifier that makes the header of every packet its own, marked or not,
 * and that drops the packet where memory is short. */
#ifndef FLOWTAG_MARK_OPTIONS_BPF_H
#define FLOWTAG_MARK_OPTIONS_BPF_H

#define LABEL_MASK 0xfffff
#define IPV6_HLEN 40
#define IPV6_SADDR 8
#define IPV6_DADDR 24
#define OPTION_TYPE 0x1e /* RFC 4727 §5.1 */
#define OPTION_LEN 3
#define PAD_N 1 /* RFC 8200 §4.2 */
/* Options before ours in a header that somebody else made. */
#define MAX_OPTIONS 8
/* Bytes before the place of a new header that may have to be moved: headers of two VLAN tags and two IPv6 headers with
 * options. */
#define MAX_MOVED 256

/* Offset of our option in an options header; 0: it is not among the first. */
__noinline __u32 find_option(struct __sk_buff *skb, __u32 header)
{
	__u8 option[2];
	__u32 at, end;

	if (header > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, header, option, 2))
		return 0;
	at = header + 2;
	end = header + (option[1] + 1) * 8;
	for (int i = 0; i < MAX_OPTIONS; i++) {
		if (at + 2 + OPTION_LEN > end || at > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, at, option, 2))
			return 0;
		if (option[0] == OPTION_TYPE && option[1] == OPTION_LEN)
			return at;
		at += option[0] ? 2 + option[1] : 1; /* Pad1 has no length */
	}
	return 0;
}

/* The label is in no checksum of its own; recompute keeps skb->csum true where a device summed the packet. */
static __always_inline int store(struct __sk_buff *skb, __u32 at, const void *bytes, __u32 len)
{
	return bpf_skb_store_bytes(skb, at, bytes, len, BPF_F_RECOMPUTE_CSUM) ? MARK_WRITE_FAILED : MARK_MARKED;
}

static __always_inline __be32 labelled(__be32 word0, __u32 word)
{
	if (!(word & MARK_WORD_IN_LABEL))
		return word0;
	return (word0 & ~bpf_htonl(LABEL_MASK)) | bpf_htonl(word & LABEL_MASK);
}

/* Moves the bytes before `to` down by `by`, to begin at `from`. In steps of eight, of which the first may overlap the second,
 * so that none reaches beyond `to`. */
static __always_inline int move_down(struct __sk_buff *skb, __u32 from, __u32 to, __u32 by)
{
	__u32 step = (to - from) % 8 ?: 8;
	__u64 bytes;

	for (int i = 0; i < MAX_MOVED / 8 && from < to; i++, from += step, step = 8) {
		if (bpf_skb_load_bytes(skb, from + by, &bytes, 8) || bpf_skb_store_bytes(skb, from, &bytes, 8, 0))
			return -1;
	}
	return 0;
}

/* Room for a header of 8 bytes at `at`, and, where `need` is 16, for a second one at `second`, further behind. The kernel
 * opens it behind the outermost IPv6 header, or, where it does not see that because VLAN tags are in the frame, at the
 * front; what is between is moved. All at once, before anything is written: nothing may fail later. */
__noinline int open_gaps(struct __sk_buff *skb, __u32 outer, __u32 at, __u32 second, __u32 need)
{
	bool plain = skb->protocol == bpf_htons(ETH_P_IPV6);
	__u32 from = plain ? outer + IPV6_HLEN : 0, end = second + 2;

	if (second > MAX_L4_OFFSET || at < from || second < at || second - from > MAX_MOVED)
		return -1;
	if (end > skb->len)
		end = skb->len;
	if ((void *)(long)skb->data + end > (void *)(long)skb->data_end && bpf_skb_pull_data(skb, end))
		return -1;
	if (plain ? bpf_skb_adjust_room(skb, need, BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO)
		  : bpf_skb_change_head(skb, need, 0))
		return -1;
	return move_down(skb, from, at, need) || move_down(skb, at + 8, second + 8, 8) ? -1 : 0;
}

/* One options header of a packet, or the place where one would be. */
struct place {
	__u32 at;
	__u8 next;   /* type of what follows */
	__u8 len;    /* of the header that is there, in units of 8 bytes, less one */
	__u8 exists; /* a header of that kind is there */
	__u8 tagged; /* with our option in it */
};

/* Looks for a header of this type where it may be. */
static __always_inline int look_for(struct __sk_buff *skb, struct place *place, __u32 at, __u8 found, __u8 type)
{
	__u8 header[2];

	place->at = at;
	place->next = found;
	if (found != type)
		return 0;
	if (at > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, at, header, 2))
		return -1;
	place->next = header[0];
	place->len = header[1];
	place->exists = 1;
	place->tagged = find_option(skb, at) != 0;
	return 0;
}

/* Puts the option into a header that is there (RFC 8200 §4.1: no second one of a kind), or makes one. In a header that
 * is there it becomes the first option, and the others move by 8 bytes, which keeps their alignment. The padding that this
 * takes goes before it: Linux drops packets with more than seven bytes of padding in a row, and there may be some behind.
 * The room is there already. */
static __noinline int insert(struct __sk_buff *skb, const struct place *place, __u32 word)
{
	__u32 experiment, size = 8;
	__u8 bytes[10] = {}, *option = bytes + 2;

	if (!place)
		return MARK_WRITE_FAILED;
	experiment = reverse9(word >> 9 & 0x1ff);
	bytes[0] = place->next;
	if (place->exists) {
		bytes[1] = place->len + 1;
		bytes[2] = PAD_N;
		bytes[3] = 1;
		option = bytes + 5;
		size = sizeof(bytes); /* over the first two bytes of the header, which are now the first of these */
	}
	option[0] = OPTION_TYPE;
	option[1] = OPTION_LEN;
	option[2] = experiment >> 8;
	option[3] = experiment;
	option[4] = word >> 2 & 0x3f;
	return store(skb, place->at, bytes, size);
}

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

#define CHECKSUM_PARTIAL 3 /* linux/skbuff.h; since 2.6 */

/* Datagrams that the kernel is to cut from one buffer (UDP_SEGMENT) carry an offset that it forgets to move when it needs a
 * larger buffer for a device that computes no checksums; it then drops them. Since kernel 6.11, which has the function for
 * seeing that. */
static __always_inline bool would_be_lost(struct __sk_buff *skb, const struct packet *p, __u32 need)
{
	struct sk_buff *kernel;

	if (!skb->gso_size || p->key.protocol != IPPROTO_UDP || !bpf_ksym_exists(bpf_cast_to_kern_ctx))
		return false;
	kernel = bpf_cast_to_kern_ctx(skb);
	return BPF_CORE_READ_BITFIELD(kernel, ip_summed) != CHECKSUM_PARTIAL &&
	       (__u64)(long)kernel->data - (__u64)(long)kernel->head < need;
}

/* Longest packet on the wire when the headers have grown. */
static __always_inline __u32 longest(struct __sk_buff *skb, const struct packet *p, __u32 need)
{
	__u32 headers = p->l4 - p->outer;
	__u8 offset = 0x50;

	if (!skb->gso_size)
		return skb->len - p->outer + need;
	if (p->key.protocol == IPPROTO_UDP)
		return headers + 8 + skb->gso_size + need;
	if (p->l4 > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, p->l4 + 12, &offset, 1))
		return ~0U;
	return headers + (offset >> 4) * 4 + skb->gso_size + need;
}

/* The MTU of the interface, or of the path where a router said so not long ago. */
static __always_inline __u32 narrowest(struct __sk_buff *skb, const struct packet *p, __u32 mtu)
{
	const struct mark_path *path;
	struct mark_address to;

	if (bpf_skb_load_bytes(skb, p->outer + IPV6_DADDR, &to, sizeof(to)))
		return mtu;
	path = bpf_map_lookup_elem(&flowtag_paths, &to);
	if (!path || path->mtu >= mtu || bpf_ktime_get_ns() - path->since > MARK_PATH_SECONDS * 1000000000ULL)
		return mtu;
	return path->mtu;
}

/* Asks user space to make the path's MTU known as smaller; seldom, each packet would do. */
static __always_inline int no_room(struct __sk_buff *skb, struct scratch *s, __u32 word, __u32 mtu)
{
	if (!s->told || now_jiffies() - s->told > MARK_TELL_STEP) {
		s->told = now_jiffies();
		tell(skb, MARK_EVENT_NO_ROOM, word, 0, mtu - s->p.around);
	}
	return MARK_NO_ROOM;
}

/* The first eight bytes of an IPv6 header. */
struct ip6_head {
	__be32 word0; /* version, traffic class, label */
	__be16 len;
	__u8 next, hops;
};

/* Next header, payload length and label of the headers around what was inserted. */
static __always_inline int adjust_headers(struct __sk_buff *skb, const struct packet *p, __u32 word, __u8 first,
					  __u32 need)
{
	struct ip6_head head;

	if (p->outer != p->l3) {
		if (bpf_skb_load_bytes(skb, p->outer + 4, &head.len, 2))
			return MARK_WRITE_FAILED;
		head.len = bpf_htons(bpf_ntohs(head.len) + need);
		store(skb, p->outer + 4, &head.len, 2);
	}
	if (p->l3 > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, p->l3, &head, sizeof(head)))
		return MARK_WRITE_FAILED;
	head.word0 = labelled(head.word0, word);
	head.len = bpf_htons(bpf_ntohs(head.len) + need);
	head.next = first;
	return store(skb, p->l3, &head, sizeof(head));
}

/* The option into the headers of scratch.p that the word names, and the label if it does. */
__noinline int write_options(struct __sk_buff *skb, __u32 word, __u32 mtu)
{
	struct scratch *s = scratch();
	const struct packet *p;
	struct place hop = {}, dest = {};
	bool in_hop, in_dest;
	__be16 payload_len;
	__u32 need, at, len;
	__u8 first;
	int verdict = MARK_MARKED;

	if (!s)
		return MARK_UNREADABLE;
	p = &s->p;
	at = p->l3 + IPV6_HLEN;
	if (p->met & MET_AUTH)
		return MARK_PROTECTED;
	if (p->l3 > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, p->l3 + 4, &payload_len, 2))
		return MARK_UNREADABLE;
	if (look_for(skb, &hop, at, p->first, NEXTHDR_HOP))
		return MARK_UNREADABLE;
	if (hop.exists)
		at += (hop.len + 1) * 8;
	if (look_for(skb, &dest, at, hop.next, NEXTHDR_DEST))
		return MARK_UNREADABLE;
	in_hop = word & MARK_WORD_IN_HOP_BY_HOP && !hop.tagged;
	in_dest = word & MARK_WORD_IN_DESTINATION && !dest.tagged;
	need = in_hop * 8 + in_dest * 8;
	len = bpf_ntohs(payload_len);
	if (!need) { /* an interface that this one stands on, or that stands on this one, did it */
		__be32 word0 = labelled(p->word0, word);

		return word0 == p->word0 ? MARK_MARKED : store(skb, p->l3, &word0, sizeof(word0));
	}
	/* A payload length of 0 is a jumbogram (RFC 2675), whose length is elsewhere. The next fragment of a tunnel's packet
	 * begins where this one ends. */
	if (!len || p->met & MET_IN_FRAGMENT || len + need > 65535 || hop.len + 1 > 255 || dest.len + 1 > 255)
		return MARK_NO_ROOM;
	if (would_be_lost(skb, p, need))
		return MARK_NO_ROOM;
	mtu = narrowest(skb, p, mtu);
	if (longest(skb, p, need) > mtu)
		return no_room(skb, s, word, mtu);
	if (open_gaps(skb, p->outer, in_hop ? hop.at : dest.at, in_dest ? dest.at : hop.at, need))
		return MARK_WRITE_FAILED;
	first = p->first;
	if (in_hop)
		dest.at += 8;
	if (in_dest) {
		verdict = insert(skb, &dest, word);
		if (verdict != MARK_MARKED)
			return verdict;
		if (!dest.exists && hop.exists) {
			__u8 type = NEXTHDR_DEST;

			store(skb, hop.at + in_hop * 8, &type, 1);
			hop.next = type;
		} else if (!dest.exists) {
			first = hop.next = NEXTHDR_DEST;
		}
	}
	if (in_hop) {
		verdict = insert(skb, &hop, word);
		if (verdict != MARK_MARKED)
			return verdict;
		first = NEXTHDR_HOP;
	}
	return adjust_headers(skb, p, word, first, need);
}

/* Overwrites our option in one header: nothing moves, no length changes. By padding where it is alone; else by zeros, which
 * are no tag, since with the padding around it there could be more than the seven bytes in a row that Linux takes. */
static __always_inline int strip_option(struct __sk_buff *skb, const struct place *place)
{
	__u32 at = find_option(skb, place->at);
	__u8 nothing[2 + OPTION_LEN] = {place->len ? OPTION_TYPE : PAD_N, OPTION_LEN};

	return at ? store(skb, at, nothing, sizeof(nothing)) : MARK_MARKED;
}

/* Clears label and options of scratch.p, in the outermost header, which is what routers on the way can see. */
__noinline int strip(struct __sk_buff *skb)
{
	struct scratch *s = scratch();
	const struct packet *p;
	struct place hop = {}, dest = {};
	struct ip6_head head;
	int verdict = MARK_STRIPPED;
	__be32 word0;

	if (!s)
		return MARK_UNREADABLE;
	p = &s->p;
	if (p->outer > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, p->outer, &head, sizeof(head)))
		return MARK_UNREADABLE;
	word0 = head.word0 & ~bpf_htonl(LABEL_MASK);
	if (word0 != head.word0 && store(skb, p->outer, &word0, sizeof(word0)))
		verdict = MARK_WRITE_FAILED;
	if (p->met & (p->around ? MET_AUTH_AROUND : MET_AUTH))
		return verdict; /* covers the options, not the label (RFC 4302 §3.3.3.1.2.1) */
	if (look_for(skb, &hop, p->outer + IPV6_HLEN, head.next, NEXTHDR_HOP))
		return verdict;
	if (hop.tagged && strip_option(skb, &hop))
		verdict = MARK_WRITE_FAILED;
	if (look_for(skb, &dest, hop.exists ? hop.at + (hop.len + 1) * 8 : hop.at, hop.next, NEXTHDR_DEST))
		return verdict;
	if (dest.tagged && strip_option(skb, &dest))
		verdict = MARK_WRITE_FAILED;
	return verdict;
}

#endif
