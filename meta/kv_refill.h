/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_REFILL_H
#define KVFS_META_KV_REFILL_H

/*
 * The whole index goes to Redis: when a node begins, and how fast it goes on.
 * Others saw the new store in the same second, so each waits a random time
 * first. Then a chunk becomes dirty, the sender gets nearly through with it,
 * and where Redis was slow it has as long to itself as it took.
 */

#include <stdbool.h>
#include <stdint.h>

struct kv_refill {
	/** chunk - about n more names are dirty, those used last first; false:
	 *  these were all */
	bool (*chunk)(void *ctx, unsigned n);
	/** drain - until no more than n names are dirty; how long Redis took
	 *  then for one batch; false: the end of the daemon */
	bool (*drain)(void *ctx, unsigned n, int64_t *took_ns);
	/** nap - sleep for so long; false: the end of the daemon */
	bool (*nap)(void *ctx, int64_t ns);
	void *ctx;
};

/** kv_refill_wait - before it begins, on one of so many nodes.
 *  Returns: false, the daemon ends. */
bool kv_refill_wait(const struct kv_refill *r, uint32_t n_nodes,
		    uint32_t random);
/** kv_refill_run - all of it, or as far as it comes before the end. */
void kv_refill_run(const struct kv_refill *r);

#endif
