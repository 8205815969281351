/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_RESETS_H
#define FLOWTAG_ABI_RESETS_H

#include "observe.h"

struct resets_settings {
	__u32 has_reason; /* 1: the tracepoint says why, and fires also where there is no socket (Linux 6.10) */
	__u32 no_socket;  /* else SKB_DROP_REASON_NO_SOCKET, by which those are seen; 0: not at all */
	__u32 reason_at;  /* which argument of kfree_skb is the reason */
	__u32 pad;
};

enum resets_kind {
	RESETS_SENT = 1,
	RESETS_RECEIVED = 2,
};

/* Why, where the kernel does not say: as far as the socket shows. */
enum resets_deduced {
	RESETS_UNKNOWN = 0,
	RESETS_NO_SOCKET = 1,	 /* nobody has that port, or no longer that connection */
	RESETS_NOT_EXPECTED = 2, /* what came does not fit the connection's state */
	RESETS_CLOSED = 3,	 /* closed with data that nobody had read, or given up by the kernel after its close */
	RESETS_LINGER = 4,	 /* closed with SO_LINGER of 0 */
	RESETS_KEEPALIVE = 5,	 /* the other end did not answer keep-alive probes */
	RESETS_ABORTED = 6,	 /* ended by hand (`ss -K`), or for want of memory */
	RESETS_REFUSED = 7,	 /* received: the other end does not listen */
	RESETS_BY_PEER = 8,	 /* received: the other end ended the connection */
};

struct resets_event {
	struct observe_event event;
	__u32 reason;  /* enum sk_rst_reason of the running kernel, where it says why */
	__u32 deduced; /* enum resets_deduced, where it does not */
};

#endif
