// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"

static void reply_attr(struct call *c, const struct ckpt_attr *a)
{
	struct stat st;

	cinode_stat(c->fs->ckpt, cinode_of(c->inode), a, &st);
	hist_add(&c->fs->counters.ckpt_call, clock_now_ns() - c->start_ns);
	call_reply_attr(c, &st, 0);
}

static bool is_open(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	scoped_lock(&ckpt->lock);

	return inode->data && inode->data->n_open;
}

/* Of a version that is past, what it was. */
static struct ckpt_attr as_opened(struct ckpt *ckpt, struct ckpt_inode *inode,
				  const struct ckpt_attr *a)
{
	scoped_lock(&ckpt->lock);

	return inode->superseded ? inode->attr : *a;
}

/* Removed on another node, and open here. */
static bool is_removed(struct ckpt *ckpt, struct ckpt_inode *inode, bool open,
		       int err)
{
	scoped_lock(&ckpt->lock);

	if (err != -ESTALE || !open || !cfetch_on(ckpt))
		return false;
	inode->gone = true;
	inode->attr.nlink = 0;
	return true;
}

static void getattr_waiting(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = cinode_of(c->inode);
	uint64_t changes = cseen_begin(ckpt);
	bool open = is_open(ckpt, inode);
	struct ckpt_attr a;
	int err = open && !meta_up(c->fs->meta)
			  ? -EIO
			  : ckpt_getattr(c->fs->meta, c->deadline, inode->ino,
					 &a);

	if (!err) {
		cseen_note(ckpt, inode, &a, changes);
		if (cfetch_on(ckpt))
			a = as_opened(ckpt, inode, &a);
		reply_attr(c, &a);
	} else if ((err == -EIO && open) ||
		   is_removed(ckpt, inode, open, err)) {
		/* Redis is away: who has it open goes on. */
		a = cinode_attr(ckpt, inode);
		reply_attr(c, &a);
	} else {
		ckpt_finish(c, err);
	}
}

void ckpt_do_getattr(struct call *c)
{
	struct ckpt_attr a;

	if (cseen_fresh(c->fs->ckpt, cinode_of(c->inode), &a))
		reply_attr(c, &a);
	else
		call_defer(c, getattr_waiting);
}

static mode_t without_suidgid(mode_t mode)
{
	mode &= ~(mode_t)S_ISUID;
	if (mode & S_IXGRP)
		mode &= ~(mode_t)S_ISGID;
	return mode;
}

/* A time as utimensat(2) was given it. */
static int64_t time_of(struct timespec t, bool now, int64_t stamp)
{
	return now ? stamp : clock_from_timespec(t);
}

/*
 * Which fields of the record the kernel wants set. Nothing at all is how it
 * asks, with KILLPRIV_V2, to clear setuid and setgid (LOCAL 17).
 */
static unsigned fields_of(const struct call *c, const struct ckpt_attr *now,
			  struct ckpt_attr *set)
{
	int64_t stamp = clock_stamp_ns();
	int to = c->to_set;
	unsigned mask = CKPT_SET_CTIME;

	*set = *now;
	set->ctime_ns = stamp;
	if (to & FUSE_SET_ATTR_MODE) {
		mask |= CKPT_SET_MODE;
		set->mode = (now->mode & S_IFMT) | (c->attr.st_mode & 07777);
	}
	if (to & FUSE_SET_ATTR_UID) {
		mask |= CKPT_SET_UID;
		set->uid = c->attr.st_uid;
	}
	if (to & FUSE_SET_ATTR_GID) {
		mask |= CKPT_SET_GID;
		set->gid = c->attr.st_gid;
	}
	if (to & FUSE_SET_ATTR_ATIME) {
		mask |= CKPT_SET_ATIME;
		set->atime_ns = time_of(c->attr.st_atim,
					to & FUSE_SET_ATTR_ATIME_NOW, stamp);
	}
	if (to & FUSE_SET_ATTR_MTIME) {
		mask |= CKPT_SET_MTIME;
		set->mtime_ns = time_of(c->attr.st_mtim,
					to & FUSE_SET_ATTR_MTIME_NOW, stamp);
	}
	if ((to == 0 || to & FUSE_SET_ATTR_KILL_SUID) && !S_ISDIR(set->mode) &&
	    without_suidgid(set->mode) != set->mode) {
		mask |= CKPT_SET_MODE;
		set->mode = without_suidgid(set->mode);
	}
	return mask;
}

/* The backing file follows, or the next publish would undo it. */
static int set_backing_times(struct ckpt *ckpt, unsigned mask,
			     const struct ckpt_attr *set)
{
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT},
				{.tv_nsec = UTIME_OMIT}};
	int err;

	if (mask & CKPT_SET_ATIME)
		t[0] = clock_timespec(set->atime_ns);
	if (mask & CKPT_SET_MTIME)
		t[1] = clock_timespec(set->mtime_ns);
	err = cstore_utimens(ckpt, set->ino, t);
	return err == -ENOENT ? 0 : err;
}

static int set_record(struct ckpt *ckpt, int64_t deadline,
		      struct ckpt_inode *inode, unsigned mask,
		      const struct ckpt_attr *set, struct ckpt_attr *a)
{
	int err;

	err = ckpt_setattr(ckpt->fs->meta, deadline, set->ino, mask, set, a);
	cseen_changed(ckpt, inode);
	if (err)
		return err;
	cseen_note(ckpt, inode, a, cseen_begin(ckpt));
	if (S_ISREG(a->mode) && mask & (CKPT_SET_ATIME | CKPT_SET_MTIME))
		err = set_backing_times(ckpt, mask, set);
	return err;
}

int cattr_kill_suidgid(struct ckpt *ckpt, int64_t deadline,
		       struct ckpt_inode *inode)
{
	struct ckpt_attr set = cinode_attr(ckpt, inode), a;

	if (without_suidgid(set.mode) == set.mode)
		return 0;
	set.mode = without_suidgid(set.mode);
	set.ctime_ns = clock_stamp_ns();
	return set_record(ckpt, deadline, inode, CKPT_SET_MODE | CKPT_SET_CTIME,
			  &set, &a);
}

static int truncate_backing(struct ckpt_data *d, off_t size)
{
	struct stat st;
	int err = cfile_backing(d, size == 0, &st);
	cleanup_close int fd = -1;

	if (err)
		return err;
	if (size && !cfetch_is_whole(d))
		return -ESTALE; /* a version that came between */
	fd = cstore_fd(d->ckpt, d->ino, O_WRONLY);
	if (fd < 0)
		return fd;
	if (ftruncate(fd, size))
		return -errno;
	return 0;
}

/* Serial held. With no writer about, a new version at once. */
static int set_size(struct ckpt_data *d, int64_t deadline, off_t size)
{
	struct ckpt *ckpt = d->ckpt;
	bool writers;
	int err = cdata_claim(d, deadline);

	if (err)
		return err;
	pthread_mutex_lock(&ckpt->lock);
	writers = d->n_writers;
	d->unpublished |= !writers;
	pthread_mutex_unlock(&ckpt->lock);
	err = truncate_backing(d, size);
	if (!writers) {
		int publish_err = cdata_publish(d, deadline, true);

		if (!err)
			err = publish_err;
		pthread_mutex_lock(&ckpt->lock);
		ckeep_settle(d, CKPT_NEED_PUBLISH);
		pthread_mutex_unlock(&ckpt->lock);
	}
	return err;
}

static int set_fields(struct call *c, struct ckpt_inode *inode)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_attr now = cinode_attr(ckpt, inode), set, a;
	unsigned mask = fields_of(c, &now, &set);

	/* The ctime of a new size comes with its publish. */
	if (c->to_set & FUSE_SET_ATTR_SIZE && mask == CKPT_SET_CTIME)
		return 0;
	return set_record(ckpt, c->deadline, inode, mask, &set, &a);
}

static int set_regular(struct call *c, struct ckpt_inode *inode)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_data *d = cdata_get(ckpt, inode);
	int err;

	if (!d)
		return -ENOMEM;
	err = cdata_lock(d, c->deadline);
	if (!err) {
		if (c->to_set & FUSE_SET_ATTR_SIZE)
			err = set_size(d, c->deadline, c->attr.st_size);
		if (!err)
			err = set_fields(c, inode);
		cdata_unlock(d);
	}
	cdata_put(d);
	return err;
}

void ckpt_do_setattr(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = cinode_of(c->inode);
	struct ckpt_attr a = cinode_attr(ckpt, inode);
	int err;

	if (c->to_set & FUSE_SET_ATTR_SIZE && c->attr.st_size &&
	    !cfetch_ready(c, true, ckpt_do_setattr))
		return;
	err = S_ISREG(a.mode) ? set_regular(c, inode) : set_fields(c, inode);

	if (err) {
		ckpt_finish(c, err);
		return;
	}
	a = cinode_attr(ckpt, inode);
	reply_attr(c, &a);
}
