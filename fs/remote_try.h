/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_TRY_H
#define KVFS_FS_REMOTE_TRY_H

/*
 * One holder asked for one block: remote_fetch.c's step.
 *
 *      remote_target_new    a frame with room for the block, or
 *      remote_target_over   memory of a client's, or
 *      remote_target_scratch  memory beside the pool (remote_scratch.h)
 *      remote_try_start     a grant on it, and FETCH; returns at once
 *      done(ctx, status)    all bytes are there, or why not
 *      remote_verify        are they the ones that were published?
 *      remote_target_take   the frame becomes a block
 *      remote_target_free   the rest goes; a frame that the holder might still
 *                           write to not before the engine says that nothing
 *                           can (CLUSTER.md 14)
 */

#include "fs/remote.h"

struct remote_target;

/* What a holder's answer says beside its status. */
struct remote_told {
	uint64_t sum[2];		 /* of a part */
	struct remote_fetching fetching; /* with -EAGAIN, of a whole */
};

/** remote_target_new - 0, or what pool_take says. */
int remote_target_new(struct remote *r, uint64_t size_bytes,
		      struct remote_target **target);
/** remote_target_over - part of a region of memory that stays the caller's.
 *  Like a part, a try into it has ended only when nothing is written there any
 *  more. @addr: the first byte. Returns: 0 or -ENOMEM. */
int remote_target_over(struct remote *r, uint64_t region, uint64_t offset,
		       const void *addr, uint64_t size_bytes,
		       struct remote_target **target);
/** remote_target_scratch - the same in memory of our own.
 *  Returns: 0, or as remote_scratch_take. */
int remote_target_scratch(struct remote *r, uint64_t size_bytes,
			  struct remote_target **target);
/** remote_target_frame - the frame, WRITING; the target's. Of a target that is
 *  none POOL_NO_FRAME. */
uint32_t remote_target_frame(const struct remote_target *t);
int remote_target_fd(const struct remote_target *t);
/** remote_target_take - it is the caller's from now on. */
uint32_t remote_target_take(struct remote_target *t);
/** remote_target_free - NULL is fine; no try of it may be under way. */
void remote_target_free(struct remote_target *t);

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

/** remote_count_failure - of a try, for the figures. */
void remote_count_failure(struct remote *r, int err);

/** remote_verify - the whole, or m's part of it: 0, or -EBADMSG (counted,
 * logged with the holder's name), or -EFAULT the client's memory is not there.
 */
int remote_verify(struct remote *r, struct remote_target *t,
		  const struct remote_msg *m, uint32_t holder);

#endif
