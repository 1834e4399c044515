/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_SAMPLES_H
#define KVFS_TOOLS_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

/*
 * Latencies, all of them kept, for exact percentiles. Four bytes each: longer
 * than 4.2 s counts as 4.2 s. Zeroed is empty; one thread at a time.
 */
struct samples {
	uint32_t *ns;
	size_t n, room;
	uint64_t sum_ns;
};

/** samples_add - keep one; silently counts only in sum_ns without memory. */
void samples_add(struct samples *s, int64_t ns);

/** samples_append - take over all of `from`, which is empty afterwards. */
void samples_append(struct samples *s, struct samples *from);

/** samples_us - the p-th percentile (0..100) in µs; sorts. None: 0. */
double samples_us(struct samples *s, double p);

void samples_free(struct samples *s);

#endif
