/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_SCRATCH_H
#define KVFS_FS_REMOTE_SCRATCH_H

/*
 * Reading past the pool: when no frame is free, as all that there are hold
 * blocks that are open, a block of another node is fetched into memory beside
 * the pool (CLUSTER.md 15).
 *
 * It never becomes a block of this node: those who open it read it through the
 * daemon, nobody else is told of it, and with the last of them it goes. The
 * memory is bounded; a fetch for which there is neither a frame nor enough of
 * it waits in a queue, first come first served, up to its deadline.
 *
 *      remote_scratch_take   memory for one target (remote_try.h)
 *      remote_scratch_put    and back; who waits is tried again
 *      remote_room_wait      a fetch that has no room, to the end of the queue
 *
 * Only opens wait so: whoever wants a frame is told at once that there is none.
 */

#include "fs/remote.h"

struct remote_fetch;

#define REMOTE_SCRATCH_BYTES (64ull << 20) /* in all */

/** remote_scratch_open - before the engine; remote_scratch_close - last. */
void remote_scratch_open(struct remote *r);
void remote_scratch_close(struct remote *r);

/** remote_scratch_take - a memfd of so many bytes.
 *  @fd: set only on success
 *  Returns: 0, -ENOSPC there is not so much left now, or -errno. */
int remote_scratch_take(struct remote *r, uint64_t bytes, int *fd);
/** remote_scratch_put - nothing reads or writes it any more. Never waits. */
void remote_scratch_put(struct remote *r, uint64_t bytes, int fd);

/** remote_scratch_fits - could it hold so much, were it empty? */
bool remote_scratch_fits(uint64_t bytes);

/**
 * remote_room_wait - queue a fetch until it has a target: frame or scratch
 * @found: told on a fetcher, 0 (x->target is set) or -errno; -ENOSPC has been
 *         logged. It must not wait.
 */
void remote_room_wait(struct remote_fetch *x,
		      void (*found)(struct remote_fetch *x, int err));

#endif
