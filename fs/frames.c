// SPDX-License-Identifier: MIT
#include "fs/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/kv.h"
#include "fs/kv_access.h"
#include "fs/kv_lend.h"
#include "fs/locks.h"
#include "fs/remote.h"

/*
 * The view .kvfs/frames: frames that are lent (kv_lend.h), by their numbers,
 * for clients to open and map; with passthrough the kernel maps the frame
 * itself. To open one takes what it takes to open the block by its name.
 *
 * A number is used again for another block. So each lookup makes an inode of
 * its own, which remembers the epoch; the kernel keeps no name.
 */

#define FRAME_INO(n) ((1ULL << 62) + (1ULL << 32) + (n))
#define ATTR_TIMEOUT 1.0

struct frame_inode {
	struct inode head;
	uint32_t frame, epoch;
	uint64_t nlookup; /* kv->lock */
};

static const struct view frames_view;

static struct frame_inode *frame_of(const struct call *c)
{
	return container_of(c->inode, struct frame_inode, head);
}

static struct kv_hold *hold_of(const struct call *c)
{
	return (struct kv_hold *)(uintptr_t)c->fi.fh;
}

/* Lock held. */
static struct kv_lent *lent_of(struct kv *kv, const struct frame_inode *inode)
{
	struct kv_lent *lent = kv_lent_find(kv, inode->frame);

	return lent && lent->epoch == inode->epoch ? lent : NULL;
}

static void fill_attr(struct kv *kv, struct kv_lent *lent, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	if (lent->f)
		kv_fill_attr(kv, &lent->f->node, st);
	else
		st->st_uid = lent->uid;
	st->st_mode = S_IFREG | (lent->f ? st->st_mode & 0444 : 0600);
	st->st_ino = FRAME_INO(lent->frame);
	st->st_size = (off_t)lent->bytes;
	st->st_nlink = 1;
	st->st_blksize = 4096;
}

/* As printf("%u") writes them. Returns: false, it is none. */
static bool parse_number(const char *name, uint32_t *n)
{
	size_t digits = strspn(name, "0123456789");

	if (!digits || digits > 9 || name[digits] ||
	    (digits > 1 && name[0] == '0'))
		return false;
	*n = (uint32_t)strtoul(name, NULL, 10);
	return true;
}

/* Lock held. */
static struct frame_inode *make_inode(struct kv_lent *lent)
{
	struct frame_inode *inode = calloc(1, sizeof(*inode));

	if (!inode)
		return NULL;
	inode->head = (struct inode){INODE_MAGIC, &frames_view};
	inode->frame = lent->frame;
	inode->epoch = lent->epoch;
	inode->nlookup = 1;
	return inode;
}

void frames_lookup(struct call *c)
{
	struct fuse_entry_param e = {.generation = 1,
				     .attr_timeout = ATTR_TIMEOUT};
	struct kv *kv = c->fs->kv;
	struct frame_inode *inode = NULL;
	struct kv_lent *lent = NULL;
	uint32_t n;

	pthread_mutex_lock(&kv->lock);
	if (parse_number(c->name, &n))
		lent = kv_lent_find(kv, n);
	if (lent)
		inode = make_inode(lent);
	if (inode)
		fill_attr(kv, lent, &e.attr);
	pthread_mutex_unlock(&kv->lock);
	if (inode)
		e.ino = inode_fuse(c->fs, &inode->head);
	if (lent && !inode)
		call_reply_err(c, ENOMEM);
	else
		call_reply_entry(c, &e);
}

static void do_forget(struct fs *fs, struct inode *inode, uint64_t nlookup)
{
	struct frame_inode *frame =
		container_of(inode, struct frame_inode, head);
	uint64_t left;

	pthread_mutex_lock(&fs->kv->lock);
	left = frame->nlookup -= nlookup;
	pthread_mutex_unlock(&fs->kv->lock);
	if (!left)
		free(frame);
}

static void do_getattr(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_lent *lent;
	struct stat st;

	pthread_mutex_lock(&kv->lock);
	lent = lent_of(kv, frame_of(c));
	if (lent)
		fill_attr(kv, lent, &st);
	pthread_mutex_unlock(&kv->lock);
	if (lent)
		call_reply_attr(c, &st, ATTR_TIMEOUT);
	else
		call_reply_err(c, ESTALE);
}

/* -- open --------------------------------------------------------------- */

static int may_open(struct call *c, const struct kv_caller *who,
		    struct kv_lent *lent)
{
	const struct pool_record *r = pool_record(c->fs->pool, lent->frame);
	int err;

	if (!lent->f)
		return !who->uid || who->uid == lent->uid ? 0 : -EACCES;
	if ((c->fi.flags & O_ACCMODE) != O_RDONLY)
		return -EACCES;
	err = kv_may_pass(who, kv_dir(lent->f->node.parent));
	return err ? err : kv_may(who, r->mode, r->uid, r->gid, KV_MAY_READ);
}

/* Lock held. Returns: 0, or -errno; -EAGAIN: ask with his groups. */
static int open_frame(struct call *c, const struct kv_caller *who,
		      struct kv_hold **hold)
{
	struct kv *kv = c->fs->kv;
	struct kv_lent *lent = lent_of(kv, frame_of(c));
	int backing = 0, err = lent ? may_open(c, who, lent) : -ESTALE;

	if (!err && kv->fs->passthrough) {
		backing = pool_backing(kv->fs->pool, lent->frame);
		err = backing < 0 ? backing : 0;
	}
	if (!err)
		err = kv_hold_lent(kv, c->uid, lent, hold);
	if (err)
		return err;
	c->fi.backing_id = backing;
	c->fi.direct_io = !kv->fs->passthrough;
	c->fi.noflush = 1;
	return 0;
}

static int open_as(struct call *c, const struct kv_caller *who)
{
	struct kv *kv = c->fs->kv;
	struct kv_hold *hold = NULL;
	int err;

	pthread_mutex_lock(&kv->lock);
	err = open_frame(c, who, &hold);
	pthread_mutex_unlock(&kv->lock);
	c->fi.fh = (uint64_t)(uintptr_t)hold;
	return err;
}

static void reply_open(struct call *c, int err)
{
	if (err)
		call_reply_err(c, err);
	else
		call_reply_open(c, &c->fi);
}

static void open_with_groups(struct call *c)
{
	cleanup_free struct kv_caller *who = kv_caller_new(c);

	remote_dirs_ask(c->fs);
	reply_open(c, who ? open_as(c, who) : -ENOMEM);
}

static void do_open(struct call *c)
{
	const struct kv_caller who = kv_caller_of(c);
	int err = c->fi.flags & O_TRUNC ? -EACCES : open_as(c, &who);

	if (err == -EAGAIN)
		call_defer(c, open_with_groups);
	else
		reply_open(c, err);
}

/* Only without passthrough. */
static void do_read(struct call *c)
{
	kv_read_frame(c, hold_of(c)->lent->frame);
}

/* Only into what is reserved. */
static void do_write(struct call *c)
{
	const struct kv_lent *lent = hold_of(c)->lent;
	uint64_t left = (uint64_t)c->off < lent->bytes
				? lent->bytes - (uint64_t)c->off
				: 0;
	cleanup_close int fd =
		left ? pool_fd(c->fs->pool, lent->frame, O_RDWR) : -EFBIG;
	ssize_t n = fd < 0 ? -1
			   : pwrite(fd, c->value,
				    c->size < left ? c->size : left, c->off);

	if (n < 0)
		call_reply_err(c, fd < 0 ? -fd : errno);
	else
		call_reply_written(c, (size_t)n);
}

static void do_release(struct call *c)
{
	struct kv *kv = c->fs->kv;

	pthread_mutex_lock(&kv->lock);
	kv_hold_drop(kv, hold_of(c));
	pthread_mutex_unlock(&kv->lock);
	locks_release(c);
	call_reply_err(c, 0);
}

static void do_statfs(struct call *c)
{
	c->inode = kv_root(c->fs->kv);
	c->inode->view->statfs(c);
}

static void do_fsync(struct call *c)
{
	call_reply_err(c, 0);
}

/* A block has no holes. */
static void do_lseek(struct call *c)
{
	off_t size = (off_t)hold_of(c)->lent->bytes;

	if (c->off >= size)
		call_reply_err(c, ENXIO);
	else
		call_reply_lseek(c, c->flags == SEEK_DATA ? c->off : size);
}

static void do_getxattr(struct call *c)
{
	call_reply_err(c, ENODATA);
}

static void do_listxattr(struct call *c)
{
	call_reply_xattr(c, "", 0);
}

static const struct view frames_view = {
	.name = "frames",
	.forget = do_forget,
	.getattr = do_getattr,
	.setattr = kv_refuse,
	.open = do_open,
	.read = do_read,
	.write = do_write,
	.release = do_release,
	.fsync = do_fsync,
	.fallocate = kv_refuse,
	.lseek = do_lseek,
	.statfs = do_statfs,
	.setxattr = kv_refuse,
	.removexattr = kv_refuse,
	.getxattr = do_getxattr,
	.listxattr = do_listxattr,
	.link = kv_refuse,
	.getlk = locks_do_getlk,
	.setlk = locks_do_setlk,
};
