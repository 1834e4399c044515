/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_TRY_H
#define KVFS_FS_REMOTE_TRY_H

/*
 * One holder asked for one block: remote_fetch.c's step.
 *
 *      remote_target_new    a frame with room for the block, or other memory
 *      remote_try_start     a grant on it, and FETCH; returns at once
 *      done(ctx, status)    all bytes are there, or why not
 *      remote_verify        are they the ones that were published?
 *      remote_target_take   the frame becomes a block
 *      remote_target_free   the rest goes
 */

#include "fs/remote.h"
#include "fs/remote_target.h"

/* What a holder's answer says beside its status. */
struct remote_told {
	uint64_t sum[2];		 /* of a part */
	struct remote_fetching fetching; /* with -EAGAIN, of a whole */
};

/**
 * remote_try_start - ask this holder for the block
 * @m: which version; its segment is ours to fill in
 * @deadline: monotonic ns; a try without progress ends earlier
 * @done: runs once, unless an error is returned; on a thread of the engine or
 *        the watcher's: it must not block. Status: 0, -ENOENT it has not this
 *        version, -EAGAIN it is busy, -ETIMEDOUT, -ENOTCONN, ... The holder
 *        may go on writing after a failure: the target is then to be freed.
 *
 * @told: set before done runs
 *
 * A part (m->length_bytes not 0) that failed is not written to any more when
 * done runs: it may be asked for again, into the same target.
 *
 * With REMOTE_CHAIN in m->flags what the holder says comes next is given to
 * remote_ahead_learn.
 * Returns: 0, -EBUSY it keeps too much in quarantine, or as engine_call_start.
 */
int remote_try_start(struct remote *r, struct remote_msg *m, uint32_t holder,
		     struct remote_target *t, int64_t deadline,
		     void (*done)(void *ctx, int status), void *ctx,
		     struct remote_told *told);

/**
 * remote_try - the same, to its end: target, try, verify
 * @target: set only on success
 *
 * Threads: fetchers; waits.
 * Returns: as above, or -EBADMSG other bytes.
 */
int remote_try(struct remote *r, const struct remote_msg *m, uint32_t holder,
	       int64_t deadline, struct remote_target **target,
	       struct remote_told *told);

/** remote_try_over - the same into a target that is there; it stays the
 *  caller's. */
int remote_try_over(struct remote *r, const struct remote_msg *m,
		    uint32_t holder, int64_t deadline, struct remote_target *t,
		    struct remote_told *told);

/** remote_patience - how long a try for so many bytes goes on without progress:
 *  by what the link carries (0: not known), and no more than a third of what is
 *  left, so that two others can be asked. All of that third where the holder
 *  has it only in a while (CLUSTER.md 13). */
int64_t remote_patience(uint64_t size_bytes, uint64_t rate_bytes_s, bool wait,
			int64_t left_ns);

/** remote_count_failure - of a try, for the figures. */
void remote_count_failure(struct remote *r, int err);

#endif
