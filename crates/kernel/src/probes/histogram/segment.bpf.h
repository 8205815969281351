/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a segment brings, as it passes the tracepoint tcp_probe: its TCP header is still in front, and its control block is
 * filled. */
#ifndef FLOWTAG_SEGMENT_BPF_H
#define FLOWTAG_SEGMENT_BPF_H

#define TCP_OFFSET_BYTE 12 /* its upper four bits: length of the header in words (RFC 9293 §3.1) */

/* A SYN or FIN is in end_seq, but no data. */
static __always_inline bool has_data(const struct sk_buff *skb)
{
	__u8 offset = 0;

	bpf_probe_read_kernel(&offset, sizeof(offset), skb->data + TCP_OFFSET_BYTE);
	return skb->len > (__u32)(offset >> 4) * 4;
}

/* Whether the application can read more once the segment is taken in: neither old data, nor data after a gap. */
static __always_inline bool brings_next_data(const struct tcp_sock *tp, const struct sk_buff *skb)
{
	const struct tcp_skb_cb *cb = (const void *)skb->cb;
	__u32 seq = BPF_CORE_READ(cb, seq), end = BPF_CORE_READ(cb, end_seq);

	return (__s32)(seq - tp->rcv_nxt) <= 0 && (__s32)(end - tp->rcv_nxt) > 0 && has_data(skb);
}

/* Whether the other end had received all that was written here when it sent the segment. */
static __always_inline bool acknowledges_all(const struct tcp_sock *tp, const struct sk_buff *skb)
{
	const struct tcp_skb_cb *cb = (const void *)skb->cb;

	return BPF_CORE_READ(cb, ack_seq) == tp->write_seq;
}

#endif
