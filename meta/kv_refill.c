// SPDX-License-Identifier: MIT
#include "meta/kv_refill.h"

#include "base/clock.h"

#define CHUNK 2048u
#define SPREAD_NS (30 * NS_PER_S)
#define SPREAD_NODES 30 /* fewer need a second each: they are no crowd */
#define SLOW_NS (50 * NS_PER_MS)

bool kv_refill_wait(const struct kv_refill *r, uint32_t n_nodes,
		    uint32_t random)
{
	int64_t span = n_nodes < SPREAD_NODES ? n_nodes * NS_PER_S : SPREAD_NS;

	return n_nodes < 2 || r->nap(r->ctx, span / 1000 * (random % 1000));
}

void kv_refill_run(const struct kv_refill *r)
{
	int64_t took_ns = 0;

	while (r->chunk(r->ctx, CHUNK))
		if (!r->drain(r->ctx, 2 * CHUNK, &took_ns) ||
		    (took_ns > SLOW_NS && !r->nap(r->ctx, took_ns)))
			return;
}
