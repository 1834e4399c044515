/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_SIMULATE_H
#define KVFS_TOOLS_SIMULATE_H

#include <stddef.h>
#include <stdint.h>

struct trace;

struct simulate_result {
	uint64_t block_refs;
	uint64_t block_hits; /* of the longest present prefixes */
	uint64_t stores, evictions;
};

/**
 * simulate_lru - replay a trace against a list in memory, no bytes moved
 * @capacity: blocks; 0: no limit
 *
 * A request hits its longest present prefix, which becomes the most recently
 * used, and stores those of the rest that are absent. Blocks present beyond
 * the prefix are left as they are: a client finds that they exist and does
 * not open them.
 *
 * Returns: 0 or -ENOMEM.
 */
int simulate_lru(const struct trace *t, size_t capacity,
		 struct simulate_result *r);

#endif
