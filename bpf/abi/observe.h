/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Types that all probes share, with each other and with user space. What one probe alone tells is in its own abi.h. */
#ifndef FLOWTAG_ABI_OBSERVE_H
#define FLOWTAG_ABI_OBSERVE_H

#include "mark.h"

/* What every object of a probe is told before it is loaded. */
struct observe_settings {
	__u64 peer[2];	    /* remote address, network order; compared where peer_mask has bits */
	__u64 peer_mask[2]; /* 0: any */
	__u64 wake;	    /* bytes in the ring at which the reader is woken; below, it comes by itself */
	__u32 netns;	    /* number of the only network namespace that is looked at; 0: all */
	__be16 port;	    /* local or remote, network order; 0: any */
	__u16 events;	    /* 1: events go into the ring; 0: only maps are kept */
};

/* Whose a socket is. */
struct observe_owner {
	__u64 cgroup;	  /* id of its cgroup of version 2; 0: not known */
	__u32 pid;	  /* process (thread group) in the first PID namespace; 0: not known */
	__u32 user;	  /* of the socket */
	__u8 process[16]; /* name of the process (its first thread), closed by a zero byte; empty: not known */
};

/* What every event begins with. */
struct observe_event {
	__u64 time;   /* CLOCK_MONOTONIC, ns */
	__u64 cookie; /* of the socket; 0: none */
	struct mark_key key;
	struct observe_owner owner;
	__u32 netns;	 /* number of the network namespace, as /proc/PID/ns/net has it */
	__u32 word;	 /* enum mark_word of the flow, if the daemon knows it; 0: it does not */
	__u32 interface; /* index in that namespace; 0: none or not known */
	__u16 kind;	 /* which of a probe's events it is */
	__u16 state;	 /* TCP_* of net/tcp_states.h; 0: no TCP socket */
};

/* By what sums that are kept in the kernel are told apart. */
enum observe_part {
	OBSERVE_BY_PEER = 1,	/* remote address */
	OBSERVE_BY_PREFIX = 2,	/* the /64 or /24 that it is in */
	OBSERVE_BY_TAG = 4,	/* of SciTags */
	OBSERVE_BY_PROCESS = 8, /* name */
	OBSERVE_BY_PID = 16,
	OBSERVE_BY_CGROUP = 32,
	OBSERVE_BY_USER = 64,
	OBSERVE_BY_NETNS = 128,
	OBSERVE_BY_FLOW = 256,	    /* both ends */
	OBSERVE_BY_INTERFACE = 512, /* that the socket is bound to */
};

/* Whose a sum is. Parts that are not asked for are zero. */
struct observe_whose {
	struct mark_key flow;
	struct observe_owner owner;
	__u32 word;	 /* the tag and where it is written, no entropy */
	__u32 netns;	 /* number of the network namespace */
	__u32 interface; /* index in that namespace */
	__u32 parts;	 /* enum observe_part: what is known */
};

/* Which of a probe's sums a socket goes into; kept with it. */
struct observe_place {
	__u32 slot;
	__u32 looked_up; /* low half of jiffies64, and odd; 0: never */
};

/* How the owner of a socket is known: the higher the better. */
enum observe_source {
	OBSERVE_UNKNOWN = 0,
	OBSERVE_LISTENER = 1, /* whose listener accepted it, or is about to */
	OBSERVE_HOLDER = 2,   /* who holds a descriptor of it */
	OBSERVE_OPENER = 3,   /* who called connect() or listen() */
	OBSERVE_USER = 4,     /* who last read or wrote */
};

enum observe_socket_flags {
	OBSERVE_ACTIVE = 1,	    /* this end connected */
	OBSERVE_PASSIVE = 2,	    /* this end accepted */
	OBSERVE_RESET_RECEIVED = 4, /* the other end sent RST */
	OBSERVE_RESET_SENT = 8,	    /* this end sent RST */
	OBSERVE_TIMED = 16,	    /* how long the handshake took is known */
};

/* What is remembered of a socket for as long as it lives. */
struct observe_socket {
	struct observe_owner owner;
	__u64 opened;	   /* CLOCK_MONOTONIC, ns: SYN sent, or received; 0: before we looked */
	__u64 established; /* likewise; 0: not yet, or before we looked */
	__u32 syn_retries; /* SYN or SYN-ACK sent again, known when established or closed */
	__u8 source;	   /* enum observe_source */
	__u8 flags;	   /* enum observe_socket_flags */
	__u16 error;	   /* errno of the last error that was reported on it */
	/* Of `rtt`: it has something for nearly every connection, and room of its own costs more than all that it does. */
	struct observe_place rtt;
	__u32 rtt_round; /* rtt_seq as the last sample was taken at tcp_probe */
	__u32 pad;
};

/* What the iterator over all TCP sockets tells. */
struct observe_tcp {
	struct observe_event event;
	struct observe_socket socket;
	struct mark_tcp tcp;
};

/* Index of observe_counts; per CPU, of each object. */
enum observe_count {
	OBSERVE_EVENTS = 0,  /* told through the ring */
	OBSERVE_LOST = 1,    /* not told: the ring was full */
	OBSERVE_FLOWS = 2,   /* sockets or keys that entries were made for */
	OBSERVE_EVICTED = 3, /* had no room in a map */
	OBSERVE_COUNTS = 4
};

#endif
