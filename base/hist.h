/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_HIST_H
#define KVFS_BASE_HIST_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * A latency histogram: bucket i counts values of [2^(i-1), 2^i) microseconds,
 * bucket 0 those below 1 µs, the last everything above. Lock-free, relaxed.
 */
#define HIST_BUCKETS 24

struct hist {
	_Atomic uint64_t count[HIST_BUCKETS];
	_Atomic uint64_t sum_ns;
};

static inline void hist_add(struct hist *h, int64_t ns)
{
	uint64_t us = ns > 0 ? (uint64_t)ns / 1000 : 0;
	int bucket = us ? 64 - __builtin_clzll(us) : 0;

	if (bucket >= HIST_BUCKETS)
		bucket = HIST_BUCKETS - 1;
	atomic_fetch_add_explicit(&h->count[bucket], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_ns, ns > 0 ? (uint64_t)ns : 0,
				  memory_order_relaxed);
}

#endif
