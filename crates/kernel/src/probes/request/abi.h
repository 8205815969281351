/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_REQUEST_H
#define FLOWTAG_ABI_REQUEST_H

#include "observe.h"

/* Which time it is. */
enum request_kind {
	REQUEST_ANSWER = 0, /* of who asks: until the reply comes */
	REQUEST_PEER = 1,   /* of that, what is not the round trip */
	REQUEST_SERVE = 2,  /* of who is asked: until the reply leaves */
	REQUEST_KINDS = 3,
};

#endif
