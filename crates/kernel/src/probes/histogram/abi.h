/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Distributions of times that are kept in the kernel: what probes of this kind share with user space. */
#ifndef FLOWTAG_ABI_HISTOGRAM_H
#define FLOWTAG_ABI_HISTOGRAM_H

#include "observe.h"

enum histogram_limits {
	HISTOGRAM_SLOTS = 1024,	   /* distributions; the first is of whatever has no room of its own */
	HISTOGRAM_LINEAR_BITS = 4, /* below 16 µs each has a bucket of its own */
	HISTOGRAM_GROUPING = 3,	   /* above, 8 for each power of two: a bucket is an eighth of its lower bound wide */
	HISTOGRAM_BITS = 26,	   /* 67 s and above share the last one */
	HISTOGRAM_BUCKETS = 193,
};

/* Where the samples come from; 0: from one place. */
enum histogram_source {
	HISTOGRAM_UNARMED = 1, /* also from sockets that the kernel does not call us for */
	HISTOGRAM_ALL = 2,     /* the kernel never calls us */
};

struct histogram_settings {
	__u32 parts;  /* enum observe_part */
	__u32 source; /* enum histogram_source */
};

/* What tells two distributions apart. */
struct histogram_key {
	struct observe_whose whose;
	__u32 kind; /* of the probe's several distributions which */
	__u32 pad;
};

/* Times in µs. All zero: none yet. */
struct histogram_times {
	__u64 sum;
	__u64 largest;
	__u64 smallest; /* inverted */
	__u64 skipped;	/* not measured, as the probe explains */
	__u64 count[HISTOGRAM_BUCKETS];
};

#endif
