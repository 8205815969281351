/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_LISTEN_H
#define FLOWTAG_ABI_LISTEN_H

#include "observe.h"

/* Kept with a listener, and copied to each socket that it accepts. */
struct listen_origin {
	__u64 cookie; /* the listener's */
	__u32 drops;  /* what it had dropped before anybody looked */
	__u32 pad;
};

/* A listener as it is now. */
struct listen_row {
	struct observe_event event;
	__u32 backlog; /* connections that wait to be accepted */
	__u32 limit;   /* how many may; one more has room, too */
	__u32 peak;    /* the most that waited since somebody looks */
	__u32 syn;     /* connections whose handshake is not complete */
	__u32 young;   /* of them, those whose SYN-ACK was not sent again */
	__u32 drops;   /* SYN and handshakes that were dropped since somebody looks */
};

#endif
