/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_TARGET_H
#define KVFS_FS_REMOTE_TARGET_H

/*
 * Where the bytes of another node's block go, and whether they are the right
 * ones.
 *
 * Its region is removed when the owner is through with it; the engine says when
 * no grant uses it any more, and only then the descriptor is closed and the
 * frame goes back, unless it became a block. So a holder that was given up on
 * may wake up and write as late as it likes (CLUSTER.md 14).
 */

#include "fs/remote.h"

struct remote_target {
	struct remote *r;
	uint64_t size_bytes, region;
	uint64_t offset; /* in the region */
	uint32_t frame;	 /* WRITING, the target's; or POOL_NO_FRAME */
	int fd;		 /* of ours; or -1 */
	bool lent;	 /* the region is a client's memory */
	bool scratch;	 /* fd is memory beside the pool */
};

/** remote_target_new - a frame with room for the block. 0, or what pool_take
 *  says. */
int remote_target_new(struct remote *r, uint64_t size_bytes,
		      struct remote_target **target);
/** remote_target_over - part of a region of memory that stays the caller's.
 *  Like a part, a try into it has ended only when nothing is written there any
 *  more. Returns: 0 or -ENOMEM. */
int remote_target_over(struct remote *r, uint64_t region, uint64_t offset,
		       uint64_t size_bytes, struct remote_target **target);
/** remote_target_scratch - the same in memory of our own.
 *  Returns: 0, or as remote_scratch_take. */
int remote_target_scratch(struct remote *r, uint64_t size_bytes,
			  struct remote_target **target);
/** remote_target_take - its frame is the caller's from now on. */
uint32_t remote_target_take(struct remote_target *t);
/** remote_target_free - NULL is fine; no try of it may be under way. */
void remote_target_free(struct remote_target *t);

/** remote_verify - the whole, or m's part of it, against m's checksum: 0, or
 *  -EBADMSG (counted, logged with the holder's name), or -EFAULT the client's
 *  memory is not there. */
int remote_verify(struct remote *r, struct remote_target *t,
		  const struct remote_msg *m, uint32_t holder);

#endif
