/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types of the marking program that kernel and user space share. The only definition: Rust is generated from it
 * (`cargo xtask gen`). Explicit padding, no bitfields, nothing aligned above 8 bytes. */
#ifndef FLOWTAG_ABI_MARK_H
#define FLOWTAG_ABI_MARK_H

/* Raised with every change of this file that a running program of an earlier flowtag would not understand: pinned maps
 * of another layout are not adopted. */
enum mark_layout {
	MARK_LAYOUT = 2
};

/* What the programs are told before they are loaded. */
struct mark_constants {
	__u32 slot_mask; /* number of slots less one */
	__u32 pad;
	__u64 entropy_key[2]; /* from which the entropy bits are made; the engine has the same */
};

/* A flow as the packets that leave this host carry it. Every byte is significant to the hash: pad is zero. */
struct mark_key {
	__u8 local_addr[16];  /* source address of the packet, network order; IPv4 as ::ffff:a.b.c.d */
	__u8 remote_addr[16]; /* destination address of the packet, likewise */
	__be16 local_port;    /* source port, network order; 0 where the protocol has none */
	__be16 remote_port;   /* destination port, likewise */
	__u8 protocol;	      /* IPPROTO_* */
	__u8 pad[3];
};

/* What to write into packets: one word, so that it is read and changed at once. Bits 0 to 19: flow label, host order.
 * Bits 20 to 22: where (flowtag_wire::Strategy). Bits 24 to 31: index into flowtag_tags, which counts it. */
enum mark_word {
	MARK_WORD_LABEL = 0xfffff,
	MARK_WORD_STRATEGY_SHIFT = 20,
	MARK_WORD_IN_LABEL = 1 << 20,
	MARK_WORD_IN_DESTINATION = 1 << 21,
	MARK_WORD_IN_HOP_BY_HOP = 1 << 22,
	MARK_WORD_CLASS_SHIFT = 24,
};

/* What to write into the packets of one flow. */
struct mark_value {
	__u32 word;	 /* enum mark_word */
	__u32 last_seen; /* low half of jiffies64 at a recent packet, written by the kernel, seldom; 0: none yet */
	__u64 start;	 /* when the flow began, µs since the epoch; for the next daemon */
};

/* All flows whose keys have one hash, and one of them in full: a cache line that answers for most packets. */
struct mark_slot {
	__u32 sequence; /* odd while user space writes, changed after */
	__u16 direct;	/* 1: key and word are those of a flow in the table */
	__u16 flows;	/* how many flows of the table are in this slot, up to 65535; 0: a look-up would find nothing */
	__u32 word;	/* as in struct mark_value */
	__u32 last_seen; /* as in struct mark_value */
	struct mark_key key;
	__u8 pad[8];
};

/* What became of a packet. Each is a row of struct mark_counters. */
enum mark_verdict {
	MARK_MARKED = 0,	 /* tag written, or found to be there already */
	MARK_NO_FLOW = 1,	 /* IPv6, TCP or UDP, in no flow that was announced and matched by no rule */
	MARK_IPV4 = 2,		 /* IPv4 has no flow label */
	MARK_NOT_IP = 3,	 /* ARP, LLDP, … */
	MARK_OTHER_PROTOCOL = 4, /* IPv6 without ports (ICMPv6, ESP, a tunnel, …), matched by no rule */
	MARK_FRAGMENT = 5,	 /* not the first fragment, and the first was not seen */
	MARK_UNREADABLE = 6,	 /* cut short, or more extension headers than MARK_MAX_EXTENSION_HEADERS */
	MARK_WRITE_FAILED = 7,	 /* the kernel could not make the header writable (no memory); passed as it came */
	MARK_NO_ROOM = 8,	 /* with the options header the packet would exceed the MTU; passed as it came */
	MARK_PROTECTED = 9,	 /* an authentication header covers what would change; passed as it came */
	MARK_NEVER = 10,	 /* a rule says that it must not be marked */
	MARK_STRIPPED = 11,	 /* label and option cleared at the edge */
	MARK_EXPIRED = 12,	 /* nobody renewed the lease: the daemon is gone */
	MARK_VERDICTS = 13,
	MARK_VERDICT_ROWS = 16, /* a power of two, so that the verifier knows the bound of an index */
};

enum mark_limits {
	MARK_MAX_VLAN_TAGS = 2,		/* 802.1ad over 802.1Q */
	MARK_MAX_EXTENSION_HEADERS = 8, /* walked before the transport header is given up */
	MARK_MAX_INTERFACES = 255,	/* with counters of their own; slot 0 is shared by the rest */
	MARK_LAST_SEEN_STEP = 64,	/* jiffies (64 ms to 640 ms) by which last_seen may lag */
	MARK_MAX_TAGS = 256,		/* with counters of their own; index 0 is shared by the rest */
	MARK_RECENT = 1024,		/* packets' verdicts remembered per CPU */
	MARK_MAX_ARRIVALS = 16384,	/* combinations of tag, peer prefix and interface that are counted */
	MARK_MAX_TOLD = 8192,		/* connections that rules found of which user space may not know yet */
	MARK_MAX_PATHS = 4096,		/* destinations whose path is known to be narrower */
	MARK_PATH_SECONDS = 600,	/* for which that is believed, as by net.ipv6.route.mtu_expires */
	MARK_TELL_STEP = 16,		/* jiffies between two MARK_EVENT_NO_ROOM of a CPU */
};

struct mark_count {
	__u64 packets; /* on the wire: a GSO packet counts as its segments */
	__u64 bytes;   /* on the wire, with link header: a GSO packet counts the headers of each segment */
};

/* Counters of one interface on one CPU. */
struct mark_counters {
	struct mark_count by_verdict[MARK_VERDICT_ROWS];
};

enum mark_interface_flags {
	MARK_IF_RULES = 1,	    /* there are rules */
	MARK_IF_STRIP_EGRESS = 2,   /* there are prefixes to which tags must not leave */
	MARK_IF_STRIP_INGRESS = 4,  /* there are prefixes from which tags must not come in */
	MARK_IF_INNER = 8,	    /* IPv6 in IPv6: write into the inner header */
	MARK_IF_COUNT_INGRESS = 16, /* count the tags that arrive */
};

/* What the program must know of an interface. */
struct mark_interface {
	__u16 slot;	      /* index into the counters; 0: shared by all that got none of their own */
	__u8 link_header_len; /* bytes before the network header: 14 (Ethernet) or 0 (tun, WireGuard, ip6tnl) */
	__u8 known;	      /* 0: never configured, pass the packet */
	__u8 flags;	      /* enum mark_interface_flags */
	__u8 overhead;	      /* bytes to take off the MSS and off path MTUs that arrive: 0, 8, 16 */
	__u16 pad;
	__u32 mtu; /* of the interface, bytes of network packet */
	__u32 pad2;
	__u64 lease; /* jiffies64 after which nothing is marked any more */
};

/* The verdict on a packet's key, remembered on the CPU that found it. */
struct mark_recent {
	struct mark_key key;
	__u32 generation; /* of the rules that gave it */
	__u32 word;	  /* enum mark_word; 0: not to be marked */
	__u64 socket;	  /* cookie of the socket that sent it, 0: none; of TCP only whether there is one */
	__s32 verdict;	  /* enum mark_verdict */
	__u32 pad;
};

/* ---- Rules. Each condition of a packet (its remote address, its user, …) has a class; a class is the set of rules
 * that it satisfies; the first rule in all sets applies. Everything is there twice (a bank each): one bank is read
 * while the other is written. */

enum mark_rule_limits {
	MARK_MAX_RULES = 1024,
	MARK_RULE_WORDS = 16,	     /* MARK_MAX_RULES / 64 */
	MARK_MAX_CLASSES = 4096,     /* per bank */
	MARK_RULE_TAGS = 16,	     /* tags that one rule chooses from */
	MARK_MAX_CGROUP_LEVELS = 16, /* depth below the root at which a rule may name a cgroup */
	MARK_BANKS = 2,
};

/* Conditions. Those up to MARK_BY_CGROUP are looked up in flowtag_values. */
enum mark_dimension {
	MARK_BY_PROTOCOL = 0,
	MARK_BY_INTERFACE = 1,
	MARK_BY_USER = 2,
	MARK_BY_PROCESS = 3,
	MARK_BY_CGROUP = 4,
	MARK_BY_LOCAL_PORT = 5,
	MARK_BY_REMOTE_PORT = 6,
	MARK_BY_LOCAL_ADDRESS = 7,
	MARK_BY_REMOTE_ADDRESS = 8,
	MARK_DIMENSIONS = 9,
};

/* The rules that a value satisfies. */
struct mark_rule_set {
	__u64 bits[MARK_RULE_WORDS];
};

enum mark_action {
	MARK_ACTION_MARK = 0,
	MARK_ACTION_NEVER = 1,
	MARK_ACTION_RANDOM = 2
};

/* What a rule does. */
struct mark_rule {
	__u32 action;	/* enum mark_action */
	__u32 strategy; /* bits of enum mark_word */
	__u32 tags;	/* how many of `tag` */
	__u32 pad;
	__u32 tag[MARK_RULE_TAGS]; /* label bits without entropy, and class, as in enum mark_word */
};

/* One bank. Index of flowtag_rule_banks. */
struct mark_rule_bank {
	__u32 words;		    /* of the sets that are in use: rules / 64, rounded up */
	__u32 used;		    /* bit per enum mark_dimension: some rule looks at it */
	__u32 cgroup_levels;	    /* bit per level at which a rule names a cgroup; the root is 0 */
	__u32 any[MARK_DIMENSIONS]; /* class of values that no rule names */
};

/* Which bank is read. The only element of flowtag_rules. */
struct mark_rules {
	__u32 generation; /* raised with every change; bank = generation & 1 */
	__u32 pad;
};

/* Exact values: protocol, interface, user, process name, cgroup. */
struct mark_rule_value {
	__u8 bank;
	__u8 dimension; /* enum mark_dimension */
	__u8 pad[6];
	__u64 value[2]; /* number, or 16 bytes of name */
};

/* Classes of all ports of one side. Index of flowtag_ports: bank * 2 + (remote ? 1 : 0). */
struct mark_ports {
	__u16 class[65536];
};

enum mark_prefix_kind {
	MARK_PREFIX_RULE_LOCAL = 0,
	MARK_PREFIX_RULE_REMOTE = 1,
	MARK_PREFIX_STRIP = 2
};

/* Prefixes: of rules, value is the class; to be stripped, value is enum mark_strip. */
struct mark_prefix {
	__u32 len; /* 16 + length of the prefix */
	__u8 bank; /* 0 for MARK_PREFIX_STRIP */
	__u8 kind; /* enum mark_prefix_kind */
	__u8 addr[16];
	__u8 pad[2];
};

enum mark_strip {
	MARK_STRIP_EGRESS = 1,
	MARK_STRIP_INGRESS = 2
};

/* What a router said of the way to a destination. */
struct mark_path {
	__u64 since; /* ns of CLOCK_MONOTONIC */
	__u32 mtu;   /* bytes of network packet */
	__u32 pad;
};

struct mark_address {
	__u8 addr[16];
};

/* Name of the process that made a socket; kept in the socket, inherited by what it accepts. */
struct mark_owner {
	__u8 process[16];
};

enum mark_event_kind {
	MARK_EVENT_MATCHED = 1, /* a rule matched the first packet of a flow that is not in the table */
	MARK_EVENT_CLOSED = 2,	/* the TCP socket of a flow in the table closed */
	MARK_EVENT_NO_ROOM = 3, /* a packet had no room for its option: the path MTU must be lowered */
};

/* What the program tells user space. */
struct mark_event {
	struct mark_key key;
	__u32 word; /* enum mark_word */
	__u32 user; /* uid of the socket, if any */
	__u16 rule; /* which matched */
	__u8 kind;  /* enum mark_event_kind */
	__u8 pad;
	__u32 generation; /* of the rules */
	__u8 process[16]; /* that made the socket, if known */
	__u32 mtu;	  /* of the interface, less outer headers */
	__u32 netns;	  /* number of the network namespace of a socket that closed */
};

/* What the kernel knows of a TCP connection. Names and units are those of struct tcp_info, unless said otherwise. */
struct mark_tcp {
	__u64 cookie;	/* number of the socket; 0: it has none yet */
	__u64 sent;	/* bytes of payload that were acknowledged */
	__u64 received; /* bytes of payload that came in order */
	__u64 bytes_acked;
	__u64 bytes_received;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 pacing_rate;
	__u64 max_pacing_rate;
	__u64 delivery_rate;
	__u32 rto; /* jiffies */
	__u32 ato; /* jiffies */
	__u32 snd_mss;
	__u32 rcv_mss;
	__u32 unacked;
	__u32 sacked;
	__u32 lost;
	__u32 retrans;
	__u32 last_data_sent; /* jiffies ago */
	__u32 last_data_recv; /* jiffies ago */
	__u32 last_ack_recv;  /* jiffies ago */
	__u32 pmtu;
	__u32 rcv_ssthresh;
	__u32 rtt;
	__u32 rttvar;
	__u32 snd_ssthresh;
	__u32 snd_cwnd;
	__u32 advmss;
	__u32 reordering;
	__u32 rcv_rtt;
	__u32 rcv_space;
	__u32 total_retrans;
	__u32 segs_out;
	__u32 segs_in;
	__u32 notsent_bytes;
	__u32 min_rtt;
	__u32 data_segs_in;
	__u32 data_segs_out;
	__u32 busy_time;      /* jiffies, apart from the next two */
	__u32 rwnd_limited;   /* jiffies */
	__u32 sndbuf_limited; /* jiffies */
	__u32 delivered;
	__u32 delivered_ce;
	__u32 dsack_dups;
	__u32 reord_seen;
	__u32 rcv_ooopack;
	__u32 snd_wnd;
	__u32 rcv_wnd;
	__u32 rehash;
	__u32 total_rto_time; /* ms */
	__u32 memory[9];      /* by SK_MEMINFO_* of linux/sock_diag.h, bytes; the last are packets that were dropped */
	__u16 total_rto;
	__u16 total_rto_recoveries;
	__u8 state; /* of a socket that closed: the one before */
	__u8 ca_state;
	__u8 retransmits;
	__u8 probes;
	__u8 backoff;
	__u8 options;
	__u8 snd_wscale;
	__u8 rcv_wscale;
	__u8 app_limited; /* 1: delivery_rate is only what the application gave */
	__u8 tos;
	__u8 pad[6];
	__u8 congestion[16]; /* name of the congestion control */
};

/* What flowtag_statistics tells of a socket. The last has key.protocol 0, and in tcp.cookie how many sockets were looked
 * at. */
struct mark_measured {
	struct mark_key key;
	struct mark_tcp tcp;
};

/* MARK_EVENT_CLOSED, and the socket's last values. */
struct mark_closed {
	struct mark_event event;
	struct mark_tcp tcp;
};

/* ---- What arrives. */

enum mark_arrival_how {
	MARK_ARRIVED_LABEL = 0,	      /* the label reads as this tag, which is registered */
	MARK_ARRIVED_DESTINATION = 1, /* destination option */
	MARK_ARRIVED_HOP_BY_HOP = 2,  /* hop-by-hop option */
	MARK_ARRIVED_NOTHING = 3,     /* IPv6 without a registered tag; tag 0 */
	MARK_ARRIVED_MISMATCH = 4, /* packet of a flow in the table with another tag than the flow's; tag: expected */
	MARK_ARRIVED_MISSING = 5,  /* packet of a flow in the table without any registered tag; tag: expected */
};

struct mark_arrival {
	__u64 peer; /* upper half of the source address, network order */
	__u32 ifindex;
	__u16 tag; /* experiment << 6 | activity */
	__u8 how;  /* enum mark_arrival_how */
	__u8 pad;
};

/* Tags that count as meant: a bit for each of experiment << 6 | activity. */
struct mark_registered {
	__u64 bits[512];
};

/* What the programs could not tell. Index of flowtag_lost; per CPU. */
enum mark_lost {
	MARK_LOST_EVENTS = 0,
	MARK_LOST_ARRIVALS = 1,
	MARK_LOST_KINDS = 2
};

#endif
