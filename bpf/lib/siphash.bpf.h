/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* SipHash-2-4 (Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012) of whole 64-bit words. */
#ifndef FLOWTAG_SIPHASH_BPF_H
#define FLOWTAG_SIPHASH_BPF_H

#define ROTL64(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define SIPROUND(v0, v1, v2, v3)                                                                                       \
	do {                                                                                                           \
		v0 += v1;                                                                                              \
		v1 = ROTL64(v1, 13) ^ v0;                                                                              \
		v0 = ROTL64(v0, 32);                                                                                   \
		v2 += v3;                                                                                              \
		v3 = ROTL64(v3, 16) ^ v2;                                                                              \
		v0 += v3;                                                                                              \
		v3 = ROTL64(v3, 21) ^ v0;                                                                              \
		v2 += v1;                                                                                              \
		v1 = ROTL64(v1, 17) ^ v2;                                                                              \
		v2 = ROTL64(v2, 32);                                                                                   \
	} while (0)

/* The last word holds the last 0 to 7 bytes and, in its uppermost byte, the length in bytes. */
static __always_inline __u64 siphash24(__u64 k0, __u64 k1, const __u64 *words, int count)
{
	__u64 v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
	__u64 v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;

	for (int i = 0; i < count; i++) {
		v3 ^= words[i];
		SIPROUND(v0, v1, v2, v3);
		SIPROUND(v0, v1, v2, v3);
		v0 ^= words[i];
	}
	v2 ^= 0xff;
	for (int i = 0; i < 4; i++)
		SIPROUND(v0, v1, v2, v3);
	return v0 ^ v1 ^ v2 ^ v3;
}

#endif
