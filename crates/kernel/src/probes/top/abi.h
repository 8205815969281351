/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_TOP_H
#define FLOWTAG_ABI_TOP_H

#include "observe.h"

/* A flow at an interface. */
struct top_key {
	struct mark_key key; /* all zero: no IP, or nothing that could be read */
	__u32 netns;
	__u32 interface; /* index in that namespace */
};

/* Interfaces count differently, so each part is counted for itself. */
struct top_sum {
	__u64 bytes;	     /* from the network header on, of packets as the kernel hands them over */
	__u64 link_bytes;    /* of link headers before that */
	__u64 segment_bytes; /* headers that further segments have on the wire, and VLAN tags that the hardware adds */
	__u64 packets;	     /* as the kernel hands them over: of GSO and GRO one for many segments */
	__u64 segments;	     /* as they are on the wire */
};

struct top_flow {
	struct top_sum sent;
	struct top_sum received;
	struct observe_owner owner;
	__u64 cookie;	    /* of the socket; 0: not known */
	__u32 word;	    /* enum mark_word; 0: not known */
	__u32 is_of_socket; /* 1: a socket sent it, and the owner is that one's */
};

enum top_interface_flags {
	TOP_LOOPBACK = 1,
	TOP_PHYSICAL = 2, /* hardware, or what a hypervisor makes look so */
};

struct top_interface_key {
	__u32 netns;
	__u32 interface;
};

struct top_interface {
	struct top_sum sent; /* of flows that had no room of their own */
	struct top_sum received;
	__u8 name[16];	 /* closed by a zero byte */
	__u8 kind[16];	 /* as `ip link add type` has it; empty: no virtual one */
	__u8 driver[16]; /* of hardware */
	__u32 flags;	 /* enum top_interface_flags */
	__u32 pad;
};

/* A UDP socket that may only receive. */
struct top_receiver_key {
	struct mark_key key; /* remote end zero: it is not connected */
	__u32 netns;
};

struct top_receiver {
	struct observe_owner owner;
	__u64 cookie; /* 0: it has none yet */
};

#endif
