/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_DROPS_H
#define FLOWTAG_ABI_DROPS_H

#include "observe.h"

struct drops_settings {
	__u32 has_reason; /* 1: the third argument of the tracepoint is the reason (Linux 5.17) */
	__u32 has_socket; /* 1: the fourth is the receiving socket, or NULL (Linux 6.11) */
	__u32 flows;	  /* 1: rows are told apart by flow, too */
	__u32 stacks;	  /* 1: and by who called whom */
	__u32 owners;	  /* 1: and by process and cgroup */
	__u32 pad;
};

enum drops_limits {
	DROPS_MAX_ROWS = 4096,
	DROPS_MAX_FLOWS = 16384, /* rows where they are told apart by flow */
	DROPS_MAX_STACKS = 1024,
	DROPS_STACK_SKIP = 2,	/* calls between the drop and the program, at least */
	DROPS_STACK_DEPTH = 32, /* callers that are kept of each */
	DROPS_MAX_NAMES = 1024,
};

/* What a row is of. Every byte is significant to the hash. */
struct drops_key {
	struct mark_key flow; /* zero: not asked for, or no IP packet */
	__u64 location;	      /* address in the kernel's code */
	__u64 cgroup;	      /* of the socket, version 2; 0: no socket, or not known */
	__u32 reason;	      /* enum skb_drop_reason of the running kernel */
	__u32 netns;	      /* 0: not known */
	__u32 interface;      /* 0: none, or not known */
	__u32 word;	      /* enum mark_word of the flow, if the daemon knows it; of a label only the tag */
	__u32 pid;	      /* who has the socket; 0: no socket, or not known */
	__s32 stack;	      /* key of drops_stacks; below 0: not asked for, or no room */
	__be16 ethertype;     /* 0: no packet of a network but a message of a UNIX or netlink socket */
	__u8 protocol;	      /* IPPROTO_*; 0: no IP packet, or unreadable */
	__u8 pad[5];
};

struct drops_sum {
	__u64 packets; /* a GSO packet is one */
	__u64 bytes;   /* as long as it was when it was dropped: headers that were taken off are not in it */
};

/* An interface is known by both. */
struct drops_interface {
	__u32 netns;
	__u32 interface;
};

/* Of an interface or a process, closed by a zero byte. */
struct drops_name {
	__u8 text[16];
};

#endif
