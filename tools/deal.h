/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_DEAL_H
#define KVFS_TOOLS_DEAL_H

/*
 * Which node a request goes to. The same for a simulation and for real
 * mounts, and the same every time.
 */

#include <stdint.h>

#define DEAL_NODES_MAX 64

struct deal {
	unsigned n_nodes;
	double skew; /* share of the first node; 0: round robin */
	uint64_t n, random;
};

/** deal_next - the node of the next request: 0 to n_nodes - 1. */
unsigned deal_next(struct deal *d);

/** deal_random - evenly from 0 to n - 1, from a state that is never 0. */
unsigned deal_random(uint64_t *state, unsigned n);

#endif
