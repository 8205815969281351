/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_CONNECT_H
#define FLOWTAG_ABI_CONNECT_H

#include "observe.h"

/* What became of an attempt. */
enum connect_kind {
	CONNECT_OK = 1,
	CONNECT_FAILED = 2,  /* the kernel gave up: error says why */
	CONNECT_ABORTED = 3, /* the application gave up */
	CONNECT_UNSENT = 4,  /* no SYN left */
};

/* event.state: the state before. */
struct connect_event {
	struct observe_event event;
	__u64 waited;  /* ns since the SYN was sent; 0: not known */
	__u32 retries; /* SYNs sent again */
	__u32 error;   /* errno; 0: none */
};

#endif
