/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where the IPv6 header and the transport ports of a packet are. Reads only: a program that writes packet bytes
 * directly makes the verifier unclone every packet that passes it, marked or not. `likely` puts the code for most packets
 * together: in place, much of a program's cost is fetching it. */
#ifndef FLOWTAG_IPV6_BPF_H
#define FLOWTAG_IPV6_BPF_H

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88A8
#define NEXTHDR_HOP 0
#define NEXTHDR_IPV6 41
#define NEXTHDR_ROUTING 43
#define NEXTHDR_FRAGMENT 44
#define NEXTHDR_AUTH 51
#define NEXTHDR_DEST 60

/* Longest chain that can be walked; the verifier wants a bound on every offset. */
#define MAX_L4_OFFSET 16384

/* What was met on the way from an IPv6 header to the transport header. */
enum met {
	MET_FRAGMENT = 1,	/* a fragment header of a packet in several fragments */
	MET_LATER_FRAGMENT = 2, /* … that is not the first: no ports in it */
	MET_AUTH = 4,		/* an authentication header */
	MET_AUTH_AROUND = 8,	/* … around another IPv6 header */
	MET_IN_FRAGMENT = 16,	/* a fragment header around the IPv6 header that is written */
	MET_AROUND = 32,	/* a fragment header around another IPv6 header, whose addresses are the key's */
};

struct chain {
	__u32 off; /* in: first extension header; out: transport header */
	__u8 next; /* type of what is at off */
	__u8 met;  /* enum met */
	__u16 pad;
	__be32 fragment; /* identification of the fragmented packet */
};

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

/* `len` bytes at `off`: in place where the packet is linear that far, else copied to `buf`; NULL past the end. */
static __always_inline const void *bytes_at(struct __sk_buff *skb, __u32 off, __u32 len, void *buf)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (likely(data + off + len <= end))
		return data + off;
	return bpf_skb_load_bytes(skb, off, buf, len) ? NULL : buf;
}

static __always_inline bool is_vlan(__be16 proto)
{
	return unlikely(proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD));
}

/* Network protocol of an Ethernet frame, past the tags that are still in it; *off is moved to the network header. */
static __always_inline int ethernet_protocol(struct __sk_buff *skb, __u32 *off, __be16 *proto)
{
	struct vlan_tag tag_buf;
	__be16 buf;
	const __be16 *type = bytes_at(skb, ETH_HLEN - sizeof(buf), sizeof(buf), &buf);

	if (!type)
		return -1;
	*proto = *type;
	*off = ETH_HLEN;
	for (int i = 0; i < MARK_MAX_VLAN_TAGS && is_vlan(*proto); i++) {
		const struct vlan_tag *tag = bytes_at(skb, *off, sizeof(*tag), &tag_buf);

		if (!tag)
			return -1;
		*proto = tag->proto;
		*off += sizeof(*tag);
	}
	return 0;
}

/* Network protocol of a packet without a link header, told by its version field. */
static __always_inline int bare_protocol(struct __sk_buff *skb, __u32 *off, __be16 *proto)
{
	__u8 buf;
	const __u8 *version = bytes_at(skb, 0, 1, &buf);

	if (!version)
		return -1;
	*off = 0;
	*proto = 0;
	if (*version >> 4 == 6)
		*proto = bpf_htons(ETH_P_IPV6);
	else if (*version >> 4 == 4)
		*proto = bpf_htons(ETH_P_IP);
	return 0;
}

/* Bytes in an extension header (RFC 8200 §4, RFC 4302 §2.2); 0: not an extension header. */
static __always_inline __u32 extension_header_len(__u8 type, __u8 len)
{
	switch (type) {
	case NEXTHDR_HOP:
	case NEXTHDR_ROUTING:
	case NEXTHDR_DEST:
		return (len + 1) * 8;
	case NEXTHDR_FRAGMENT:
		return 8;
	case NEXTHDR_AUTH:
		return (len + 2) * 4;
	default:
		return 0;
	}
}

/* Walks the extension headers to the first header that is none of them, or that is in a later fragment. -1: cut short,
 * or too many. */
static __noinline int walk_chain(struct __sk_buff *skb, struct chain *c)
{
	__u8 hdr[8]; /* next header, length, and for a fragment offset, flags, identification */

	if (!c) /* a function of its own is verified without its callers */
		return -1;
	for (int i = 0; i < MARK_MAX_EXTENSION_HEADERS; i++) {
		__u8 type = c->next;

		if (!extension_header_len(type, 0))
			return 0;
		if (c->off > MAX_L4_OFFSET || bpf_skb_load_bytes(skb, c->off, hdr, sizeof(hdr)))
			return -1;
		c->off += extension_header_len(type, hdr[1]);
		c->next = hdr[0];
		if (type == NEXTHDR_AUTH)
			c->met |= MET_AUTH;
		/* RFC 8200 §4.5: 13 bits of offset, 2 reserved, 1 that more fragments follow. */
		if (type == NEXTHDR_FRAGMENT && (hdr[2] || hdr[3] & 0xf9)) {
			c->met |= MET_FRAGMENT;
			__builtin_memcpy(&c->fragment, hdr + 4, 4);
			if (hdr[2] || hdr[3] & 0xf8) {
				c->met |= MET_LATER_FRAGMENT;
				return 0;
			}
		}
	}
	return extension_header_len(c->next, 0) ? -1 : 0;
}

#endif
