/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_LIFE_H
#define FLOWTAG_ABI_LIFE_H

#include "observe.h"

enum life_kind {
	LIFE_CLOSED = 1,
};

/* A connection that is over. event.state: the state before. */
struct life_event {
	struct observe_event event;
	struct observe_socket socket;
	struct mark_tcp tcp;
};

#endif
