// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "fs/ckpt_fetch.h"

/*
 * Names. Each operation is one script in Redis; what is left to do here is to
 * tell the kernel's inodes.
 */

void ckpt_finish(struct call *c, int err)
{
	hist_add(&c->fs->counters.ckpt_call, clock_now_ns() - c->start_ns);
	call_reply_err(c, err);
}

static uint64_t ino_of(struct inode *head)
{
	return cinode_of(head)->ino;
}

static void reply_found(struct call *c, const struct ckpt_attr *a,
			uint64_t begun)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = cinode_get(ckpt, a, 1);

	if (!inode) {
		ckpt_finish(c, ENOMEM);
		return;
	}
	cseen_note(ckpt, inode, a, begun);
	if (cfetch_on(ckpt) && S_ISREG(a->mode) && c->name)
		cfetch_seen(ckpt, a->ino, c->name);
	cinode_reply_entry(c, inode, a);
}

static void lookup_waiting(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	uint64_t begun = cseen_begin(ckpt);
	uint64_t parent = ino_of(c->inode);
	struct ckpt_attr a;
	int err = ckpt_lookup(c->fs->meta, c->deadline, parent, c->name, &a);

	if (err) {
		ckpt_finish(c, err);
		return;
	}
	if (S_ISDIR(a.mode))
		cseen_add_step(ckpt, parent, c->name, a.ino, begun);
	reply_found(c, &a, begun);
}

void ckpt_do_lookup(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = cseen_step(ckpt, ino_of(c->inode), c->name);
	struct ckpt_attr a;

	if (!inode) {
		call_defer(c, lookup_waiting);
		return;
	}
	a = cinode_attr(ckpt, inode);
	cinode_reply_entry(c, inode, &a);
}

static void entries_changed(struct ckpt *ckpt, struct inode *dir, int err,
			    int64_t now, int links)
{
	if (err)
		cseen_changed(ckpt, cinode_of(dir));
	else
		cseen_entered(ckpt, cinode_of(dir), now, links);
}

/* mknod, mkdir, symlink: a record and no data yet. */
static void create_record(struct call *c, mode_t mode, const char *target)
{
	struct ckpt *ckpt = c->fs->ckpt;
	int64_t now = clock_stamp_ns();
	struct ckpt_attr set = {
		.mode = mode,
		.uid = c->uid,
		.gid = c->gid,
		.rdev = c->rdev,
		.atime_ns = now,
		.mtime_ns = now,
		.ctime_ns = now,
	};
	struct ckpt_attr a;
	int err;

	err = ckpt_create(c->fs->meta, c->deadline, ino_of(c->inode), c->name,
			  &set, target, &a);
	entries_changed(ckpt, c->inode, err, now, S_ISDIR(mode) ? 1 : 0);
	if (err)
		ckpt_finish(c, err);
	else
		reply_found(c, &a, cseen_begin(ckpt));
}

void ckpt_do_mknod(struct call *c)
{
	create_record(c, c->mode, NULL);
}

void ckpt_do_mkdir(struct call *c)
{
	create_record(c, (c->mode & 07777) | S_IFDIR, NULL);
}

void ckpt_do_symlink(struct call *c)
{
	create_record(c, S_IFLNK | 0777, c->new_name);
}

void ckpt_do_link(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	int64_t now = clock_stamp_ns();
	struct ckpt_attr a;
	int err = ckpt_link(c->fs->meta, c->deadline, ino_of(c->inode),
			    ino_of(c->new_inode), c->new_name, now, &a);

	cseen_changed(ckpt, cinode_of(c->inode));
	entries_changed(ckpt, c->new_inode, err, now, 0);
	if (err)
		ckpt_finish(c, err);
	else
		reply_found(c, &a, cseen_begin(ckpt));
}

/* For the scripts: must the record outlive its last name? */
static bool is_open(void *ctx, uint64_t ino)
{
	struct ckpt *ckpt = ctx;
	struct ckpt_inode *inode;
	bool open;

	pthread_mutex_lock(&ckpt->lock);
	inode = cinode_find(ckpt, ino);
	open = inode && inode->data && inode->data->n_open;
	pthread_mutex_unlock(&ckpt->lock);
	return open;
}

void ckpt_do_unlink(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_gone gone = {0};
	int64_t now = clock_stamp_ns();
	int err = ckpt_unlink(c->fs->meta, c->deadline, ino_of(c->inode),
			      c->name, is_open, ckpt, now, &gone);

	entries_changed(ckpt, c->inode, err, now, 0);
	if (!err)
		ckeep_gone(ckpt, &gone, true);
	ckpt_finish(c, err);
}

void ckpt_do_rmdir(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_gone gone = {0};
	int64_t now = clock_stamp_ns();
	int err = ckpt_rmdir(c->fs->meta, c->deadline, ino_of(c->inode),
			     c->name, now, &gone);

	entries_changed(ckpt, c->inode, err, now, -1);
	if (!err)
		ckeep_gone(ckpt, &gone, true);
	ckpt_finish(c, err);
}

void ckpt_do_rename(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_gone gone = {0};
	int err;

	if (c->flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE)) {
		ckpt_finish(c, EINVAL);
		return;
	}
	err = ckpt_rename(c->fs->meta, c->deadline, ino_of(c->inode), c->name,
			  ino_of(c->new_inode), c->new_name, c->flags, is_open,
			  ckpt, clock_stamp_ns(), &gone);
	cseen_changed(ckpt, NULL);
	if (!err)
		ckeep_gone(ckpt, &gone, true);
	ckpt_finish(c, err);
}

void ckpt_do_readlink(struct call *c)
{
	char target[PATH_MAX + 1];
	int err = ckpt_readlink(c->fs->meta, c->deadline, ino_of(c->inode),
				target, sizeof(target));

	if (err)
		ckpt_finish(c, err);
	else
		call_reply_readlink(c, target);
}
