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
	LIFE_UNSENT = 4, /* it sent nothing */
};

struct life_settings {
	__u32 sums;  /* 1: ends are summed up by how they came, not told one by one */
	__u32 parts; /* enum observe_part: and by whose they are */
};

/* What tells two sums of ends apart. */
struct life_sum {
	struct observe_whose whose;
	__u16 state; /* before the end */
	__u16 error; /* as that of struct observe_socket */
	__u8 flags;  /* enum observe_socket_flags */
	__u8 facts;  /* enum life_facts */
	__u8 pad[2];
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
