// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What others are measured against: a program that does nothing, and one that tells as fast as it can. For `make bench`;
 * no command loads it. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>
#include "abi.h"
#include "socket.bpf.h"
#include "observe.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(flowtag_empty, struct sock *sk, int oldstate, int newstate)
{
	return 0;
}

/* Run by hand. */
SEC("raw_tp")
int flowtag_flood(void *ctx)
{
	for (int i = 0; i < YARDSTICK_BURST; i++) {
		struct observe_event *event = reserve_event(sizeof(*event));

		if (!event)
			continue;
		__builtin_memset(event, 0, sizeof(*event));
		event->cookie = i;
		event->key.protocol = IPPROTO_TCP;
		event->owner.pid = 1;
		__builtin_memcpy(event->owner.process, "yardstick", 10);
		submit_event(event);
	}
	return 0;
}
