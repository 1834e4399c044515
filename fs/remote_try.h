/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_TRY_H
#define KVFS_FS_REMOTE_TRY_H

/* One holder asked for one block: remote_fetch.c's step. */

#include "fs/remote.h"

/**
 * remote_try - fetch a block from this holder into a frame of ours
 * @m: which version; its segment is ours to fill in
 * @deadline: monotonic ns; a try without progress ends earlier
 * @frame: set only on success: WRITING, the caller's
 *
 * The bytes are verified. A frame that the holder might still write to is not
 * handed out again before the engine says that nothing can (CLUSTER.md 14).
 * Returns: 0, -ENOENT it has not this version, -EAGAIN it is busy, -EBADMSG
 *          other bytes, -ETIMEDOUT, -ENOTCONN, ..., or what pool_take says.
 * Threads: fetchers; waits.
 */
int remote_try(struct remote *r, const struct remote_msg *m, uint32_t holder,
	       int64_t deadline, uint32_t *frame);

#endif
