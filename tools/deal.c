// SPDX-License-Identifier: MIT
#include "tools/deal.h"

#define SEED 0x9e3779b97f4a7c15ULL

/* xorshift64* */
static uint64_t next(uint64_t *state)
{
	uint64_t x = *state ? *state : SEED;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*state = x;
	return x * 0x2545f4914f6cdd1dULL;
}

unsigned deal_random(uint64_t *state, unsigned n)
{
	return (unsigned)((next(state) >> 32) * n >> 32);
}

unsigned deal_next(struct deal *d)
{
	double at;

	if (d->n_nodes < 2)
		return 0;
	if (d->skew <= 0)
		return (unsigned)(d->n++ % d->n_nodes);
	at = (double)(next(&d->random) >> 11) / (double)(1ULL << 53);
	if (at < d->skew)
		return 0;
	return 1 + deal_random(&d->random, d->n_nodes - 1);
}
