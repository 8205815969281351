/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types of the marking program that kernel and user space share. The only definition: Rust is generated from it
 * (`cargo xtask gen`). Explicit padding, no bitfields, nothing aligned above 8 bytes. */
#ifndef FLOWTAG_ABI_MARK_H
#define FLOWTAG_ABI_MARK_H

/* A flow as the packets that leave this host carry it. Every byte is significant to the hash: pad is zero. */
struct mark_key {
	__u8 local_addr[16];  /* source address of the packet, network order */
	__u8 remote_addr[16]; /* destination address of the packet, network order */
	__be16 local_port;    /* source port, network order */
	__be16 remote_port;   /* destination port, network order */
	__u8 protocol;	      /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 pad[3];
};

/* What to write into the packets of one flow. */
struct mark_value {
	__u32 label;	 /* flow label to write, 20 bits, host order */
	__u32 last_seen; /* low half of jiffies64 at a recent packet, written by the kernel, seldom; 0: none yet */
};

/* All flows whose keys have one hash, and one of them in full: a cache line that answers for most packets. */
struct mark_slot {
	__u32 sequence; /* odd while user space writes, changed after */
	__u16 direct;	/* 1: key and label are those of a flow in the table */
	__u16 flows;	/* how many flows of the table are in this slot, up to 65535; 0: a look-up would find nothing */
	__u32 label;	/* as in struct mark_value */
	__u32 last_seen; /* as in struct mark_value */
	struct mark_key key;
	__u8 pad[8];
};

/* What became of a packet. Each is a row of struct mark_counters. */
enum mark_verdict {
	MARK_MARKED = 0,	 /* label written, or found to be right already */
	MARK_NO_FLOW = 1,	 /* IPv6, TCP or UDP, and in no flow that was announced */
	MARK_IPV4 = 2,		 /* IPv4 has no flow label */
	MARK_NOT_IP = 3,	 /* ARP, LLDP, … */
	MARK_OTHER_PROTOCOL = 4, /* IPv6 without ports: ICMPv6, ESP, a tunnel, … */
	MARK_FRAGMENT = 5,	 /* not the first fragment: no ports in it */
	MARK_UNREADABLE = 6,	 /* cut short, or more extension headers than MARK_MAX_EXTENSION_HEADERS */
	MARK_WRITE_FAILED = 7,	 /* the kernel could not make the header writable (no memory); passed as it came */
	MARK_VERDICTS = 8,
};

enum mark_limits {
	MARK_MAX_VLAN_TAGS = 2,		/* 802.1ad over 802.1Q */
	MARK_MAX_EXTENSION_HEADERS = 8, /* walked before the transport header is given up */
	MARK_MAX_INTERFACES = 255,	/* with counters of their own; slot 0 is shared by the rest */
	MARK_LAST_SEEN_STEP = 64,	/* jiffies (64 ms to 640 ms) by which last_seen may lag */
};

struct mark_count {
	__u64 packets; /* on the wire: a GSO packet counts as its segments */
	__u64 bytes;   /* on the wire, with link header: a GSO packet counts the headers of each segment */
};

/* Counters of one interface on one CPU. */
struct mark_counters {
	struct mark_count by_verdict[MARK_VERDICTS];
};

/* What the program must know of an interface. */
struct mark_interface {
	__u16 slot;	      /* index into the counters; 0: shared by all that got none of their own */
	__u8 link_header_len; /* bytes before the network header: 14 (Ethernet) or 0 (tun, WireGuard, ip6tnl) */
	__u8 known;	      /* 0: never configured, pass the packet */
};

#endif
