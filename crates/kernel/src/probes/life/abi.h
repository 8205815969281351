/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_LIFE_H
#define FLOWTAG_ABI_LIFE_H

#include "observe.h"

enum life_kind {
	LIFE_CLOSED = 1,
};

/* What the kernel knows of a connection at its end, beside its state and its error. */
enum life_facts {
	LIFE_FIN_RECEIVED = 1,
	LIFE_ORPHAN = 2, /* no process has it any more */
};

/* A connection that is over. event.state: the state before; socket.error: why, 0: because an end closed it. */
struct life_event {
	struct observe_event event;
	struct observe_socket socket;
	struct mark_tcp tcp;
	__u32 facts; /* enum life_facts */
	__u32 pad;
};

#endif
