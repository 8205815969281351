// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Writes tags into the packets that leave an interface, reads them in those that arrive, and counts all packets by what
 * became of them. Hooks: tcx (kernel 6.6) or clsact filters (before), egress and ingress; the tracepoint
 * inet_sock_set_state; cgroup/sock_create where a rule names a process. Since kernel 5.10.
 * Changes nothing but the tag (on arrival also the MSS of a SYN and the MTU of a Packet Too Big, where headers are added)
 * and passes every packet on, also those that it could not handle.
 * Misses: packets that do not pass the hooks of this interface (loopback to an own address, hardware offloads that
 * forward without the kernel). */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "mark.h"
#include "ipv6.bpf.h"
#include "siphash.bpf.h"
#include "socket.bpf.h"
#include "tcp.bpf.h"
#include "maps.bpf.h"
#include "rules.bpf.h"
#include "options.bpf.h"

#define IPPROTO_ICMPV6 58
#define ICMPV6_ECHO_REPLY 129
#define TC_ACT_UNSPEC (-1) /* = TCX_NEXT: the next program of the interface decides */

/* `packets` and `len` as before anything was inserted, which makes the kernel forget how many segments there are; its sum of
 * bytes stays as it was. */
static __always_inline void count(struct __sk_buff *skb, __u32 slot, int verdict, __u32 word, __u32 packets, __u32 len)
{
	struct mark_counters *counters = bpf_map_lookup_elem(&flowtag_counts, &slot);
	__u32 class = word >> MARK_WORD_CLASS_SHIFT, bytes = skb->wire_len + packets * (skb->len - len);
	struct mark_count *tag;

	if (!counters)
		return;
	add(&counters->by_verdict[verdict & (MARK_VERDICT_ROWS - 1)], packets, bytes);
	if (verdict != MARK_MARKED)
		return;
	tag = bpf_map_lookup_elem(&flowtag_tags, &class);
	if (tag)
		add(tag, packets, bytes);
}

/* Ports are the first four bytes of TCP and of UDP. */
static __always_inline int load_ports(struct __sk_buff *skb, struct packet *p)
{
	__be16 buf[2];
	const __be16 *ports = bytes_at(skb, p->l4, sizeof(buf), buf);

	if (!ports)
		return MARK_UNREADABLE;
	p->key.local_port = ports[0];
	p->key.remote_port = ports[1];
	return MARK_MARKED;
}

/* The way past extension headers, and into a packet that is in the packet. */
static __noinline int find_transport(struct __sk_buff *skb, struct packet *p, bool inner_header)
{
	struct chain c = {};
	struct ipv6hdr inner;

	if (!p)
		return MARK_UNREADABLE;
	c.off = p->l4;
	c.next = p->key.protocol;
	if (walk_chain(skb, &c))
		return MARK_UNREADABLE;
	if (c.next == NEXTHDR_IPV6 && !(c.met & MET_LATER_FRAGMENT)) {
		if (c.off > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, c.off, &inner, sizeof(inner)))
			return MARK_UNREADABLE;
		__builtin_memcpy(p->key.local_addr, &inner.saddr, 2 * sizeof(inner.saddr));
		p->around = c.off - p->outer;
		if (c.met & MET_FRAGMENT)
			c.met |= MET_AROUND;
		if (c.met & MET_AUTH)
			c.met |= MET_AUTH_AROUND;
		if (inner_header) {
			if (c.met & MET_FRAGMENT) /* which is then no matter of the header that is written */
				c.met = (c.met & ~(MET_FRAGMENT | MET_AROUND)) | MET_IN_FRAGMENT;
			p->l3 = c.off;
			p->word0 = *(__be32 *)&inner;
			p->first = inner.nexthdr;
		}
		c.off += sizeof(inner);
		c.next = inner.nexthdr;
		if (walk_chain(skb, &c))
			return MARK_UNREADABLE;
	}
	p->l4 = c.off;
	p->key.protocol = c.next;
	p->met = c.met;
	p->fragment = c.fragment;
	return MARK_MARKED;
}

/* Fills in what the packet says of itself. */
static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p, bool inner_header)
{
	struct ipv6hdr buf;
	const struct ipv6hdr *ip6 = bytes_at(skb, p->outer, sizeof(buf), &buf);

	if (unlikely(!ip6))
		return MARK_UNREADABLE;
	p->l3 = p->outer;
	p->l4 = p->outer + sizeof(buf);
	p->word0 = *(__be32 *)ip6;
	p->first = p->key.protocol = ip6->nexthdr;
	/* Source and destination are neighbours in the header as in the key. */
	__builtin_memcpy(p->key.local_addr, &ip6->saddr, 2 * sizeof(ip6->saddr));
	if (unlikely(extension_header_len(p->first, 0) || p->first == NEXTHDR_IPV6)) {
		int verdict = find_transport(skb, p, inner_header);

		if (verdict != MARK_MARKED)
			return verdict;
	}
	if (unlikely(!has_ports(p->key.protocol) || p->met & MET_LATER_FRAGMENT))
		return MARK_MARKED;
	return p->l4 > MAX_L4_OFFSET ? MARK_UNREADABLE : load_ports(skb, p);
}

/* IPv4 packets are not marked, but their flows are known and kept alive. */
static __noinline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	if (!p || p->outer > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, p->outer, &ip, sizeof(ip)) || ip.ihl < 5)
		return MARK_UNREADABLE;
	p->key.local_addr[10] = p->key.local_addr[11] = 0xff;
	p->key.remote_addr[10] = p->key.remote_addr[11] = 0xff;
	__builtin_memcpy(p->key.local_addr + 12, &ip.saddr, 4);
	__builtin_memcpy(p->key.remote_addr + 12, &ip.daddr, 4);
	p->key.protocol = ip.protocol;
	p->l4 = p->outer + ip.ihl * 4;
	/* RFC 791: 13 bits of offset; only the first fragment has the ports. */
	if (!has_ports(ip.protocol) || ip.frag_off & bpf_htons(0x1fff))
		return MARK_MARKED;
	return load_ports(skb, p);
}

static __always_inline void fragment_key(struct __sk_buff *skb, const struct packet *p, struct mark_key *key)
{
	*key = p->key;
	if (p->met & MET_AROUND) /* later fragments do not have the inner addresses */
		bpf_skb_load_bytes(skb, p->outer + __builtin_offsetof(struct ipv6hdr, saddr), key->local_addr, 32);
	key->protocol = NEXTHDR_FRAGMENT;
	__builtin_memcpy(&key->local_port, &p->fragment, sizeof(p->fragment));
}

/* Later fragments have no ports: what the first was given is theirs, too. */
static __noinline int of_first_fragment(struct __sk_buff *skb, const struct packet *p, __u32 *word)
{
	struct mark_recent *recent;
	struct mark_key key;

	if (!p || !word)
		return MARK_FRAGMENT;
	fragment_key(skb, p, &key);
	recent = recent_of(hash_of(&key));
	if (!recent || !is_same_key(&recent->key, &key))
		return MARK_FRAGMENT;
	*word = recent->word;
	return recent->verdict;
}

static __noinline int remember_fragment(struct __sk_buff *skb, const struct packet *p, __u32 word, int verdict)
{
	struct mark_recent *recent;
	struct mark_key key;

	if (!p)
		return 0;
	fragment_key(skb, p, &key);
	recent = recent_of(hash_of(&key));
	if (!recent)
		return 0;
	__builtin_memset(recent, 0, sizeof(*recent));
	recent->key = key;
	recent->word = word;
	recent->verdict = verdict;
	return 0;
}

/* Neighbour Discovery, Multicast Listener Discovery and the like (RFC 4861, RFC 3810) belong to the link, not to anybody's
 * traffic; errors and echoes (RFC 4443) are types up to 129. */
static __always_inline bool is_of_link(struct __sk_buff *skb, const struct packet *p)
{
	__u8 type;

	return p->key.protocol == IPPROTO_ICMPV6 && p->l4 <= MAX_L4_OFFSET &&
	       !bpf_skb_load_bytes(skb, p->l4, &type, 1) && type > ICMPV6_ECHO_REPLY;
}

/* For the functions that find their packet in scratch. */
static __always_inline bool set_aside(const struct packet *p)
{
	struct scratch *s = scratch();

	if (s)
		s->p = *p;
	return s;
}

/* What is to be written into the packet, if anything. */
static __always_inline int decide(struct __sk_buff *skb, const struct mark_interface *iface, const struct packet *p,
				  __u32 *word)
{
	int verdict;

	if (p->met & MET_LATER_FRAGMENT)
		return of_first_fragment(skb, p, word);
	verdict = word_of(&p->key, hash_of(&p->key), word);
	if (verdict == MARK_NO_FLOW && iface->flags & MARK_IF_RULES && !is_of_link(skb, p) && set_aside(p)) {
		__u64 judged = by_rules(skb);

		*word = judged >> 32;
		verdict = (__u32)judged;
	}
	if (unlikely(verdict == MARK_NO_FLOW && !has_ports(p->key.protocol)))
		verdict = MARK_OTHER_PROTOCOL;
	if (unlikely(p->met & MET_FRAGMENT))
		remember_fragment(skb, p, *word, verdict);
	return verdict;
}

/* Whether tags must not pass between this host and the one at `at`, an address in the packet. */
static __noinline bool is_stripped(struct __sk_buff *skb, __u32 at, __u32 direction)
{
	struct scratch *s = scratch();
	__u32 *directions;
	__u8 addr[16];

	if (!s || at > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, at, addr, sizeof(addr)))
		return false;
	directions = prefix_of(s, 0, MARK_PREFIX_STRIP, addr);
	return directions && *directions & direction;
}

static __always_inline int write(struct __sk_buff *skb, const struct mark_interface *iface, const struct packet *p,
				 __u32 word)
{
	__be32 word0;

	if (unlikely(p->met & MET_AUTH_AROUND && p->l3 != p->outer))
		return MARK_PROTECTED;
	if (unlikely(word & (MARK_WORD_IN_DESTINATION | MARK_WORD_IN_HOP_BY_HOP)))
		return set_aside(p) ? write_options(skb, word, iface->mtu) : MARK_WRITE_FAILED;
	word0 = labelled(p->word0, word);
	return word0 == p->word0 ? MARK_MARKED : store(skb, p->l3, &word0, sizeof(word0));
}

static __always_inline int mark_ipv6(struct __sk_buff *skb, const struct mark_interface *iface, struct packet *p,
				     __u32 *word)
{
	int verdict = parse_ipv6(skb, p, iface->flags & MARK_IF_INNER);

	if (verdict != MARK_MARKED)
		return verdict;
	if (unlikely(iface->flags & MARK_IF_STRIP_EGRESS) && is_stripped(skb, p->outer + IPV6_DADDR, MARK_STRIP_EGRESS))
		return set_aside(p) ? strip(skb) : MARK_WRITE_FAILED;
	verdict = decide(skb, iface, p, word);
	return verdict == MARK_MARKED ? write(skb, iface, p, *word) : verdict;
}

static __noinline int follow_ipv4(struct __sk_buff *skb, const struct mark_interface *iface, struct packet *p)
{
	__u32 word = 0;
	int verdict = parse_ipv4(skb, p);

	if (verdict == MARK_MARKED && iface && p)
		decide(skb, iface, p, &word);
	return verdict == MARK_MARKED ? MARK_IPV4 : verdict;
}

static __noinline int find_network(struct __sk_buff *skb, bool ethernet, __u32 *off, __be16 *proto)
{
	if (!off || !proto)
		return -1;
	return ethernet ? ethernet_protocol(skb, off, proto) : bare_protocol(skb, off, proto);
}

/* Most frames are Ethernet without tags in them. */
static __always_inline int protocol_of(struct __sk_buff *skb, const struct mark_interface *iface, struct packet *p,
				       __be16 *proto)
{
	void *data = (void *)(long)skb->data;

	if (likely(iface->link_header_len && data + ETH_HLEN <= (void *)(long)skb->data_end)) {
		*proto = *(__be16 *)(data + ETH_HLEN - sizeof(*proto));
		p->outer = ETH_HLEN;
		if (!is_vlan(*proto))
			return 0;
	}
	return find_network(skb, iface->link_header_len, &p->outer, proto);
}

static __always_inline const struct mark_interface *interface_of(const struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct mark_interface *iface = bpf_map_lookup_elem(&flowtag_ifaces, &ifindex);

	return iface && iface->known ? iface : NULL;
}

static __always_inline bool is_expired(const struct mark_interface *iface)
{
	return iface->lease < bpf_jiffies64();
}

SEC("tc")
int flowtag_mark(struct __sk_buff *skb)
{
	const struct mark_interface *iface = interface_of(skb);
	struct packet p __attribute__((aligned(8))) = {};
	__u32 word = 0, packets = packets_on_wire(skb), len = skb->len;
	__be16 proto;
	int verdict;

	if (unlikely(!iface))
		return TC_ACT_UNSPEC;
	if (unlikely(is_expired(iface)))
		verdict = MARK_EXPIRED;
	else if (unlikely(protocol_of(skb, iface, &p, &proto)))
		verdict = MARK_UNREADABLE;
	else if (likely(proto == bpf_htons(ETH_P_IPV6)))
		verdict = mark_ipv6(skb, iface, &p, &word);
	else
		verdict = proto == bpf_htons(ETH_P_IP) ? follow_ipv4(skb, iface, &p) : MARK_NOT_IP;
	count(skb, iface->slot, verdict, word, packets, len);
	return TC_ACT_UNSPEC;
}

#include "arrive.bpf.h"
#include "lifecycle.bpf.h"

/* Does nothing: what a program costs before it does anything, for the benches. */
SEC("tc")
int flowtag_empty(struct __sk_buff *skb)
{
	return TC_ACT_UNSPEC;
}

/* Tells user space, by BPF_PROG_TEST_RUN, the kernel's time: it is the first eight bytes of the packet that comes back. */
SEC("tc")
int flowtag_now(struct __sk_buff *skb)
{
	__u64 now = bpf_jiffies64();

	return bpf_skb_store_bytes(skb, 0, &now, sizeof(now), 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
