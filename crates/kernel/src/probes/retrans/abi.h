/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_RETRANS_H
#define FLOWTAG_ABI_RETRANS_H

#include "observe.h"

struct retrans_settings {
	__u32 has_error; /* 1: the tracepoint says whether it worked (Linux 6.17) */
	__u32 pad;
};

enum retrans_kind {
	RETRANS_SYN = 1,
	RETRANS_SYNACK = 2,
	RETRANS_RTO = 3,
	RETRANS_FAST = 4,
	RETRANS_TLP = 5,
};

struct retrans_event {
	struct observe_event event;
	__u32 seq;	/* of the first byte, relative to nothing: as on the wire, host order */
	__u32 length;	/* bytes of payload */
	__u32 segments; /* a GSO packet is several */
	__u32 rtt;	/* smoothed, µs; 0: none yet */
	__u32 cwnd;	/* segments; 0: there is no congestion window yet */
	__s32 error;	/* 0, minus errno, or NET_XMIT_*: it could not be sent */
	__u32 sent;	/* segments that the socket has sent so far, as far as they can be sent again; 0: not known */
	__u32 total;	/* of them, retransmissions */
	__u32 spurious; /* of these, how many the receiver said (DSACK) that it had already */
	__u32 pad;
};

#endif
