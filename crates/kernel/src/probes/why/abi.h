/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_WHY_H
#define FLOWTAG_ABI_WHY_H

#include "observe.h"

/* What this probe's programs are told. */
struct why_settings {
	__u64 tick; /* length of a jiffy, ns */
};

/* What keeps a sender from sending more while it has data that is not acknowledged. */
enum why_state {
	WHY_NETWORK = 0,     /* the congestion window is full */
	WHY_RECEIVER = 1,    /* the receiver's window is full */
	WHY_SNDBUF = 2,	     /* the send buffer is full, of data that is in flight */
	WHY_APPLICATION = 3, /* nothing waits to be sent */
	WHY_RECOVERY = 4,    /* loss or congestion was seen and is being repaired */
	WHY_TIMEOUT = 5,     /* the retransmission timer had, or has, to run out */
	WHY_QUEUE = 6,	     /* an interface's queue or the pacing rate of this host */
	WHY_STATES = 7,
};

/* What is kept with each socket. */
struct why_flow {
	__u64 since;	      /* it is accounted for; CLOCK_MONOTONIC, ns */
	__u64 time;	      /* until when it is accounted for; CLOCK_MONOTONIC, ns */
	__u64 ns[WHY_STATES]; /* by enum why_state */
	__u64 shut;	      /* ns: the peer's window had no room for a segment */
	__u64 unread;	      /* ns: more than half of what may be received waited to be read */
	__u64 queueing;	      /* µs that round trips took above the least, times µs */
	__u64 weight;	      /* ns that queueing was measured over */
	__u32 zero_windows;   /* times the peer closed its window */
	__u32 is_shut;	      /* 1: it is closed */
	/* Since the iterator looked last: */
	__u32 peer_window_min;
	__u32 peer_window_max;
	__u32 window_max; /* that this end announced */
	__u32 unread_max; /* bytes */
};

/* What the iterator, and the end of a connection, tell of a socket. */
struct why_row {
	struct observe_event event;
	struct mark_tcp tcp;
	struct why_flow flow;
	__u32 unread;	 /* bytes received in order that wait to be read */
	__u8 fixed;	 /* enum why_fixed */
	__u8 is_paced;	 /* 1: SO_MAX_PACING_RATE is what limits the pacing */
	__u8 is_blocked; /* 1: the application wants to write and there is no room */
	__u8 pad;
};

/* Buffers whose size the application chose, so that the kernel does not adjust them. */
enum why_fixed {
	WHY_SNDBUF_FIXED = 1,
	WHY_RCVBUF_FIXED = 2,
};

#endif
