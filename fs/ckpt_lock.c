// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>

#include "fs/ckpt.h"
#include "fs/locks.h"
#include "meta/nodes.h"

/*
 * Locks of ckpt/ are those of all nodes: meta/ckpt.h has them. Whose owner the
 * kernel tells of is a process (fcntl) or an open file (flock, and fcntl's
 * F_OFD_...). FLUSH tells of a process' close, where it is sent: for files open
 * for writing.
 */

static uint64_t ino_of(const struct call *c)
{
	return cinode_of(c->inode)->ino;
}

static struct ckpt_lock lock_of(const struct call *c)
{
	return (struct ckpt_lock){
		.kind = c->lock.flock ? CKPT_LOCK_FLOCK : CKPT_LOCK_POSIX,
		.type = c->lock.type,
		.owner = c->fi.lock_owner,
		.start = c->lock.start,
		.end = c->lock.end,
		.pid = (uint32_t)c->lock.pid,
		.handle = c->fi.fh,
		.leaves_late = c->lock.flock || !cdata_writes(c),
	};
}

void ckpt_do_setlk(struct call *c)
{
	struct ckpt_lock l = lock_of(c);
	struct meta *m = c->fs->meta;
	uint64_t ino = ino_of(c);
	int err = ckpt_lock_set(m, c->deadline, ino, &l);
	bool leaving = err == -EAGAIN && ckpt_lock_leaving(m, ino, l.owner);

	locks_tried(c, ino, err, leaving, ckpt_do_setlk);
}

void ckpt_do_getlk(struct call *c)
{
	struct ckpt_lock l = lock_of(c);
	struct flock found = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
	int err = ckpt_lock_get(c->fs->meta, c->deadline, ino_of(c), &l);

	if (err) {
		call_reply_err(c, err);
		return;
	}
	if (l.type != F_UNLCK) {
		found.l_type = (short)l.type;
		found.l_start = (off_t)l.start;
		found.l_len = l.end == CKPT_LOCK_END
				      ? 0
				      : (off_t)(l.end - l.start + 1);
		/* Another node's processes have no number here. */
		if (l.incarnation == meta_node_self(c->fs->meta))
			found.l_pid = (pid_t)l.pid;
	}
	call_reply_lock(c, &found);
}

void clocks_flushed(struct call *c)
{
	uint64_t ino = ino_of(c);

	if (ckpt_lock_drop(c->fs->meta, c->deadline, ino, c->fi.lock_owner))
		locks_ended(c->fs, c->inode->view, ino);
}

static void release_locks(struct call *c)
{
	uint64_t ino = ino_of(c);

	ckpt_lock_close(c->fs->meta, c->deadline, ino, c->fi.fh);
	locks_ended(c->fs, c->inode->view, ino);
	ckpt_do_release(c);
}

bool clocks_release(struct call *c)
{
	/* A daemon that ends has no locks soon, and its workers neither. */
	if (atomic_load(&c->fs->stopping) ||
	    !ckpt_lock_has(c->fs->meta, ino_of(c), c->fi.fh))
		return false;
	call_defer(c, release_locks);
	return true;
}
