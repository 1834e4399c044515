// SPDX-License-Identifier: MIT
/*
 * SipHash-2-4 with a 128-bit result (Aumasson, Bernstein: "SipHash: a fast
 * short-input PRF"). OpenSSL has it too, behind an EVP_MAC whose overhead is
 * ten times the work; test_auth.c compares the two.
 */
#include "engine/auth.h"

#include <string.h>

struct sip {
	uint64_t v0, v1, v2, v3;
	uint8_t rest[8];
	uint64_t n; /* bytes so far */
};

static inline uint64_t rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static inline void mix(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

static inline void word(struct sip *s, uint64_t m)
{
	s->v3 ^= m;
	mix(s);
	mix(s);
	s->v0 ^= m;
}

static void update(struct sip *s, const uint8_t *p, size_t n)
{
	size_t have = s->n % 8;

	s->n += n;
	if (have) {
		size_t take = n < 8 - have ? n : 8 - have;

		memcpy(s->rest + have, p, take);
		p += take;
		n -= take;
		if (have + take < 8)
			return;
		word(s, wire_get64(s->rest));
	}
	for (; n >= 8; p += 8, n -= 8)
		word(s, wire_get64(p));
	if (n)
		memcpy(s->rest, p, n);
}

static uint64_t squeeze(struct sip *s)
{
	for (int i = 0; i < 4; i++)
		mix(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

void auth_mac(const uint64_t key[2], const struct auth_part *parts,
	      unsigned n_parts, uint8_t mac[WIRE_MAC_BYTES])
{
	struct sip s = {.v0 = key[0] ^ 0x736f6d6570736575ull,
			.v1 = key[1] ^ 0x646f72616e646f6dull ^ 0xee,
			.v2 = key[0] ^ 0x6c7967656e657261ull,
			.v3 = key[1] ^ 0x7465646279746573ull};
	uint64_t last;

	for (unsigned i = 0; i < n_parts; i++)
		if (parts[i].n)
			update(&s, parts[i].bytes, parts[i].n);
	last = s.n << 56;
	for (unsigned i = 0; i < s.n % 8; i++)
		last |= (uint64_t)s.rest[i] << (8 * i);
	word(&s, last);
	s.v2 ^= 0xee;
	wire_put64(mac, squeeze(&s));
	s.v1 ^= 0xdd;
	wire_put64(mac + 8, squeeze(&s));
}
