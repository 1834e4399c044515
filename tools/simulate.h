/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_SIMULATE_H
#define KVFS_TOOLS_SIMULATE_H

#include <stddef.h>
#include <stdint.h>

struct trace;

struct simulate_config {
	unsigned n_nodes; /* 0 as 1 */
	size_t capacity;  /* blocks of each node; 0: no limit */
	double skew;	  /* see tools/deal.h */
	double speed;	  /* of the trace's clock, for the heartbeats' sake; 0
			     as 1 */
};

struct simulate_result {
	uint64_t block_refs;
	uint64_t block_hits;  /* of the longest present prefixes */
	uint64_t remote_hits; /* of these */
	uint64_t stores, evictions, offers, refused;
};

/**
 * simulate - replay a trace against lists in memory, no bytes moved
 *
 * A request hits its longest present prefix, which becomes the most recently
 * used, and stores those of the rest that are absent. Blocks present beyond
 * the prefix are left as they are: a client finds that they exist and does
 * not open them.
 *
 * One node is LRU. Several do what the daemons do (fs/kv_evict.c,
 * fs/remote_offer.c): a block of another node is fetched, which touches it
 * there, and the copy goes first here; a last copy that has to go is offered
 * to a node that has room or older blocks, as far as the last heartbeats say.
 *
 * Returns: 0 or -ENOMEM.
 */
int simulate(const struct trace *t, const struct simulate_config *config,
	     struct simulate_result *r);

#endif
