/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_FETCH_PART_H
#define KVFS_FS_CKPT_FETCH_PART_H

/*
 * A few MiB of a shard, asked of one holder: a buffer granted to it, the
 * question, the wait. Several may be under way at once.
 */

#include <stdint.h>

#include "fs/ckpt_fetch_wire.h"

struct remote;
struct cpart;

/**
 * cpart_start - ask a peer for bytes
 * @ask: what; the segment is filled in here
 * @deadline: clock_now_ns to give up at, whatever comes
 *
 * Returns: 0, -EBUSY it keeps too much, or as the engine's calls.
 */
int cpart_start(struct remote *r, struct engine_peer *peer,
		const struct cwire_ask *ask, int64_t deadline,
		struct cpart **part);

/** cpart_sum_start - ask a peer for the checksum of bytes. */
int cpart_sum_start(struct remote *r, struct engine_peer *peer,
		    const struct cwire_ask *ask, int64_t deadline,
		    struct cpart **part);

/**
 * cpart_wait - until the bytes, or the checksum, are here
 * @patience_ns: give up after so long in which no byte came
 *
 * Returns: 0, -ENOENT it has not this version, -EAGAIN it is busy,
 *          -ETIMEDOUT, -ENOTCONN, … Waits.
 */
int cpart_wait(struct cpart *part, int64_t patience_ns);

/** cpart_bytes - what came: of a sum 16 bytes. After cpart_wait said 0. */
const void *cpart_bytes(const struct cpart *part);
uint64_t cpart_length(const struct cpart *part);

/**
 * cpart_put - let go of it; NULL is fine
 *
 * A holder that was given up on may still write into the buffer: it is freed
 * when the engine says that nothing can (CLUSTER.md 14).
 */
void cpart_put(struct cpart *part);

#endif
