/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef FLOWTAG_ABI_YARDSTICK_H
#define FLOWTAG_ABI_YARDSTICK_H

#include "observe.h"

enum yardstick_limits {
	YARDSTICK_BURST = 512, /* events of one run */
};

#endif
