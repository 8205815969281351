/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which flow a packet is of, read where only tracing programs run: by probe reads, of what is linear, at any layer. */
#ifndef FLOWTAG_PACKET_BPF_H
#define FLOWTAG_PACKET_BPF_H

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_DEST 60
#define FRAGMENT_OFFSET_IPV4 0x1fff
#define FRAGMENT_OFFSET_IPV6 0xfff8
/* flowtag's own options are at most two; others do not send more. */
#define MAX_EXTENSION_HEADERS 4

/* What is after the IP header. */
struct transport {
	__u32 offset; /* from the head of the buffer */
	__u8 protocol;
	__u8 is_later; /* 1: a fragment other than the first, without ports */
	__u16 pad;
};

/* False: it ends before that, or is not linear so far. */
static __always_inline bool read_header(const struct sk_buff *skb, __u32 offset, void *to, __u32 size)
{
	if (offset + size > skb->tail)
		return false;
	return !bpf_probe_read_kernel(to, size, skb->head + offset);
}

/* False: a header that is none of these, so the transport header. */
static __always_inline bool skip_extension(const struct sk_buff *skb, struct transport *at)
{
	__be16 header[2]; /* next header and length; of a fragment its offset */
	__u8 protocol = at->protocol;
	const __u8 *bytes = (const __u8 *)header;
	bool is_fragment = protocol == NEXTHDR_FRAGMENT;

	if (!is_fragment && protocol != NEXTHDR_HOP && protocol != NEXTHDR_ROUTING && protocol != NEXTHDR_DEST)
		return false;
	if (!read_header(skb, at->offset, header, sizeof(header)))
		return false;
	at->protocol = bytes[0];
	at->offset += is_fragment ? 8 : (bytes[1] + 1) * 8;
	if (is_fragment && header[1] & bpf_htons(FRAGMENT_OFFSET_IPV6))
		at->is_later = 1;
	return true;
}

static __always_inline bool read_ipv6(const struct sk_buff *skb, __u32 offset, struct mark_key *flow,
				      struct transport *at)
{
	struct ipv6hdr header;

	if (!read_header(skb, offset, &header, sizeof(header)) || *(__u8 *)&header >> 4 != 6)
		return false;
	copy_address(flow->local_addr, &header.saddr);
	copy_address(flow->remote_addr, &header.daddr);
	at->protocol = header.nexthdr;
	at->offset = offset + sizeof(header);
#pragma unroll
	for (int i = 0; i < MAX_EXTENSION_HEADERS; i++) {
		if (at->is_later || !skip_extension(skb, at))
			break;
	}
	return true;
}

static __always_inline bool read_ipv4(const struct sk_buff *skb, __u32 offset, struct mark_key *flow,
				      struct transport *at)
{
	struct iphdr header;
	__u8 first;

	if (!read_header(skb, offset, &header, sizeof(header)))
		return false;
	first = *(__u8 *)&header;
	if (first >> 4 != 4)
		return false;
	map_address(flow->local_addr, header.saddr);
	map_address(flow->remote_addr, header.daddr);
	at->protocol = header.protocol;
	at->offset = offset + (first & 15) * 4;
	at->is_later = (header.frag_off & bpf_htons(FRAGMENT_OFFSET_IPV4)) != 0;
	return true;
}

static __always_inline void reverse_flow(const struct mark_key *flow, struct mark_key *reverse)
{
	*reverse = *flow;
	__builtin_memcpy(reverse->local_addr, flow->remote_addr, sizeof(reverse->local_addr));
	__builtin_memcpy(reverse->remote_addr, flow->local_addr, sizeof(reverse->remote_addr));
	reverse->local_port = flow->remote_port;
	reverse->remote_port = flow->local_port;
}

static __always_inline void read_ports(const struct sk_buff *skb, struct mark_key *flow, const struct transport *at)
{
	__be16 ports[2];
	bool has_ports = at->protocol == IPPROTO_TCP || at->protocol == IPPROTO_UDP;

	flow->protocol = at->protocol;
	if (!has_ports || at->is_later || !read_header(skb, at->offset, ports, sizeof(ports)))
		return;
	flow->local_port = ports[0];
	flow->remote_port = ports[1];
}

/* Seen from this host: what came in through an interface is of the flow that goes the other way. `flow` is zero, and stays
 * so where this is false: no IP packet, or no IP header yet. */
static __always_inline bool flow_of_packet(const struct sk_buff *skb, struct mark_key *flow)
{
	struct mark_key sent __attribute__((aligned(8))) = {};
	__u32 offset = skb->network_header;
	struct transport at = {};
	bool is_read = false;

	if (!offset)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		is_read = read_ipv6(skb, offset, &sent, &at);
	else if (skb->protocol == bpf_htons(ETH_P_IP))
		is_read = read_ipv4(skb, offset, &sent, &at);
	if (!is_read)
		return false;
	read_ports(skb, &sent, &at);
	if (skb->skb_iif)
		reverse_flow(&sent, flow);
	else
		*flow = sent;
	return true;
}

#endif
