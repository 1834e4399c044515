/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_REPLAY_H
#define KVFS_TOOLS_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/block.h"
#include "tools/samples.h"
#include "tools/trace.h"

/* What a replay found out. */
struct replay_result {
	uint64_t requests, block_refs, block_hits, stores;
	uint64_t verify_errors;
	uint64_t capacity_blocks; /* of all nodes together; 0: no limit */
	unsigned nodes;
	uint64_t one_node_hits; /* simulated; with several nodes */
	uint64_t block_bytes;
	double seconds;
	struct samples reads, writes; /* of open to close, create to rename */
	bool simulated;
};

/** replay_report - print it, as a table or as one JSON object. */
void replay_report(struct replay_result *r, bool json);

#endif
