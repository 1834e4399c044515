/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_LOCKS_H
#define KVFS_FS_LOCKS_H

/*
 * Locks of files: fcntl(2) and flock(2). Once the kernel is told that we have
 * locks it keeps none itself, for no file of the mount (those of directories
 * aside, which never leave it), so every view must answer.
 *
 *      ckpt_lock.c   ckpt/: one lock for all nodes, in Redis (meta/ckpt.h)
 *      lock_table.c  kv/ and .kvfs: on this node, here
 *      locks.c       who waits for any of them
 *      caller.c      whether he still does
 *
 * A lock ends when it is released; fcntl's also when its process closes the
 * file, of which FLUSH tells, where one is sent; and every lock when the open
 * file that it came through is closed by all, of which RELEASE tells, a moment
 * later.
 */

#include <stdbool.h>
#include <stdint.h>

#include "fs/call.h"

struct locks;

int locks_open(struct locks **l, struct fs *fs);
/** locks_quiesce - answer who waits; nobody waits from now on. */
void locks_quiesce(struct locks *l);
void locks_close(struct locks *l); /* NULL is fine */

/** locks_waiting - how many wait now. */
unsigned locks_waiting(struct locks *l);

/**
 * locks_tried - how a try ended: answer, or wait and try again
 * @key: of the file, within its view
 * @err: 0, -errno; -EAGAIN: another lock is in the way
 * @leaving: it may be one whose file was closed already: also who does not
 *           want to wait waits a moment, or what follows a close fails
 * @again: the try, run on a worker; ends here again
 *
 * Who waits is tried when a lock of the file ends here, and now and then, for
 * ends elsewhere; first come, first tried. He occupies a request of the
 * kernel's (over io_uring there are few), no thread. -ENOLCK: too many wait.
 */
void locks_tried(struct call *c, uint64_t key, int err, bool leaving,
		 call_fn again);

/** locks_ended - a lock of this file ended here. Threads: any; no wait. */
void locks_ended(struct fs *fs, const struct view *view, uint64_t key);

/* --- lock_table.c ------------------------------------------------------ */

void locks_do_getlk(struct call *c);
void locks_do_setlk(struct call *c);
/** locks_release - end what came through c->fi.fh. */
void locks_release(struct call *c);

struct lock_table;
struct lock_table *locks_table(struct fs *fs);
struct lock_table *lock_table_new(void);
void lock_table_free(struct lock_table *t); /* NULL is fine */

#endif
