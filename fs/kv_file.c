// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/locks.h"
#include "fs/remote.h"
#include "fs/remote_parts.h"
#include "meta/kv.h"

/*
 * Open files of kv/. With passthrough the kernel reads and writes the frame
 * itself: the daemon sees CREATE or OPEN and RELEASE. Without it the daemon
 * opens the frame for each request, so that the lease probe means the same.
 */

static void fill_open(struct kv *kv, struct fuse_file_info *fi, int backing,
		      uint64_t fh)
{
	fi->fh = fh + KV_FH_SERIAL * atomic_fetch_add(&kv->opens, 1);
	if (kv->fs->passthrough && !(fh & KV_FH_DIRECT)) {
		fi->backing_id = backing;
		fi->noflush = 1;
	} else {
		fi->direct_io = 1;
		fi->parallel_direct_writes = 1;
		fi->noflush = !(fh & KV_FH_WRITE);
	}
}

static void count_open(struct kv *kv, struct kv_file *f, uint64_t fh)
{
	f->opens++;
	f->direct += !!(fh & KV_FH_DIRECT);
	if (!(fh & KV_FH_WRITE))
		return;
	if (!f->writers++)
		pool_writers(kv->fs->pool, 1);
	f->rewriters += !!(fh & KV_FH_REWRITE);
	f->trimmed = false;
	list_remove(&f->by_use); /* no orphan while it is written */
	list_push_back(&kv->writing, &f->by_use);
}

/* May a file of this name be made here? 0 or an errno; lock held. */
static int check_create(struct call *c, struct kv_dir *dir)
{
	struct kv_node *node = kv_find(c->fs->kv, dir, c->name);
	char path[POOL_PATH_MAX + 1];

	if (dir->node.type == KV_ROOT)
		return EPERM;
	if (dir->node.unlinked)
		return ENOENT;
	if (kv_path(dir, c->name, path) < 0)
		return ENAMETOOLONG;
	if (!node)
		return 0;
	if ((c->fi.flags & O_EXCL) || kv_is_dir(node))
		return EEXIST;
	return node->state == KV_WRITING ? EBUSY : EPERM;
}

static struct kv_file *make_file(struct call *c, struct kv_dir *dir,
				 uint32_t frame)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file_new(kv, dir, c->name, frame);
	struct pool_record *r;

	if (!f)
		return NULL;
	r = kv_record(kv, f);
	r->mode = c->mode & 07777;
	r->uid = c->uid;
	r->gid = dir->mode & S_ISGID ? dir->gid : c->gid;
	r->atime_ns = r->mtime_ns = r->ctime_ns = clock_stamp_ns();
	r->parent_frame = POOL_NO_FRAME;
	f->node.temp = kv_name_is_temp(c->name);
	f->writer = c->pid;
	return f;
}

void kv_do_create(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct fuse_entry_param e;
	struct kv_file *f = NULL;
	uint32_t frame = POOL_NO_FRAME;
	uint64_t expect;
	int backing, err;

	pthread_mutex_lock(&kv->lock);
	err = check_create(c, dir);
	expect = dir->ns ? dir->ns->expect_bytes : 0;
	pthread_mutex_unlock(&kv->lock);
	if (!err)
		err = -pool_take(kv->fs->pool, expect, &frame, &backing);
	if (err) {
		call_reply_err(c, err);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	err = check_create(c, dir);
	f = err ? NULL : make_file(c, dir, frame);
	if (f) {
		count_open(kv, f, KV_FH_WRITE);
		kv_entry(kv, &f->node, &e);
		fill_open(kv, &c->fi, backing, KV_FH_WRITE);
	}
	pthread_mutex_unlock(&kv->lock);
	if (!f) {
		pool_put(kv->fs->pool, frame);
		call_reply_err(c, err ? err : ENOMEM);
		return;
	}
	hist_add(&c->fs->counters.create, clock_now_ns() - c->start_ns);
	call_reply_create(c, &e, &c->fi);
}

/* 0 or an errno: may this caller open this file so? Lock held. */
static int check_open(struct call *c, struct kv_file *f, bool write)
{
	struct kv *kv = c->fs->kv;

	if (f->frame == POOL_NO_FRAME)
		return ESTALE; /* the kernel looks the name up anew */
	if (f->node.damaged)
		return EIO;
	if (f->node.state == KV_WRITING && !f->node.temp)
		kv_try_commit(kv, f);
	if (f->node.state == KV_COMMITTED && kv_is_invalid(f))
		return ESTALE; /* somebody else has it open */
	if (f->node.state == KV_COMMITTED)
		return write ? EPERM : 0;
	if (f->node.temp || f->node.unlinked || kv_is_writer(c, f))
		return 0;
	return write ? EBUSY : ENOENT;
}

static int truncate_frame(struct kv *kv, struct kv_file *f, off_t size)
{
	cleanup_close int fd = pool_fd(kv->fs->pool, f->frame, O_RDWR);

	if (fd < 0)
		return -fd;
	return ftruncate(fd, size) ? errno : 0;
}

void kv_count_hit(struct kv *kv, struct kv_file *f)
{
	struct pool_record *r = kv_record(kv, f);

	if (f->node.state != KV_COMMITTED)
		return;
	kv_touch(kv, f);
	if (kv_kind(kv, f) == KV_COPY)
		kv_hot_read(kv, f);
	r->hits++;
	r->atime_ns = clock_stamp_ns();
	atomic_fetch_add_explicit(&kv->fs->counters.hits, 1,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&f->ns->hits, 1, memory_order_relaxed);
}

static void open_after_writer(struct call *c)
{
	struct kv *kv = c->fs->kv;

	pthread_mutex_lock(&kv->lock);
	kv_wait_writers(kv, kv_file(kv_node(c->inode)));
	pthread_mutex_unlock(&kv->lock);
	kv_do_open(c);
}

/* Not all of it is here. */
static void open_direct(struct kv *kv, struct call *c, struct kv_file *f)
{
	count_open(kv, f, KV_FH_DIRECT);
	fill_open(kv, &c->fi, 0, KV_FH_DIRECT);
	atomic_fetch_add_explicit(&kv->fs->counters.hits, 1,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&f->ns->hits, 1, memory_order_relaxed);
}

void kv_do_open(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));
	bool write = (c->fi.flags & O_ACCMODE) != O_RDONLY ||
		     (c->fi.flags & O_TRUNC);
	uint64_t fh = write ? KV_FH_WRITE | KV_FH_REWRITE : 0;
	int backing = 0, err;

	pthread_mutex_lock(&kv->lock);
	if (f->node.state == KV_REMOTE) {
		bool now = !write && remote_parts_open(f);

		if (now)
			open_direct(kv, c, f);
		pthread_mutex_unlock(&kv->lock);
		if (now)
			call_reply_open(c, &c->fi);
		else if (write)
			call_reply_err(c, EPERM);
		else
			remote_fetch_then(c, f, kv_do_open);
		return;
	}
	err = check_open(c, f, write);
	if (err == ENOENT && kv_may_leave(kv, f)) {
		pthread_mutex_unlock(&kv->lock);
		call_defer(c, open_after_writer);
		return;
	}
	if (f->direct)
		fh |= KV_FH_DIRECT;
	if (!err && kv->fs->passthrough && !f->direct) {
		backing = pool_backing(kv->fs->pool, f->frame);
		err = backing < 0 ? -backing : 0;
	}
	if (!err && (c->fi.flags & O_TRUNC))
		err = truncate_frame(kv, f, 0);
	if (!err) {
		count_open(kv, f, fh);
		kv_count_hit(kv, f);
		if (f->ahead)
			remote_ahead_opened(kv, f, c->pid);
		fill_open(kv, &c->fi, backing, fh);
	}
	pthread_mutex_unlock(&kv->lock);
	if (err) {
		call_reply_err(c, err);
		return;
	}
	hist_add(&c->fs->counters.open, clock_now_ns() - c->start_ns);
	call_reply_open(c, &c->fi);
}

void kv_do_read(struct call *c)
{
	struct kv_file *f = kv_file(kv_node(c->inode));

	if (c->fi.fh & KV_FH_DIRECT && remote_parts_read(c, f))
		return;
	kv_read_frame(c, f->frame);
}

void kv_read_frame(struct call *c, uint32_t frame)
{
	cleanup_close int fd = pool_fd(c->fs->pool, frame, O_RDONLY);
	cleanup_free char *buf = malloc(c->size);
	ssize_t n;

	if (fd < 0 || !buf) {
		call_reply_err(c, fd < 0 ? -fd : ENOMEM);
		return;
	}
	n = pread(fd, buf, c->size, c->off);
	if (n < 0) {
		call_reply_err(c, errno);
		return;
	}
	atomic_fetch_add_explicit(&c->fs->counters.bytes_read, (uint64_t)n,
				  memory_order_relaxed);
	call_reply_buf(c, buf, (size_t)n);
}

/* The frame of a file that is not a block yet; -EPERM: it is one. */
static int writable_fd(struct kv *kv, struct kv_file *f, int oflags)
{
	scoped_lock(&kv->lock);

	return f->node.state == KV_COMMITTED
		       ? -EPERM
		       : pool_fd(kv->fs->pool, f->frame, oflags);
}

void kv_do_write(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));
	cleanup_close int fd =
		writable_fd(kv, f, O_RDWR | (c->fi.flags & O_APPEND));
	ssize_t n;

	if (fd < 0) {
		call_reply_err(c, fd);
		return;
	}
	n = pwrite(fd, c->value, c->size, c->off);
	if (n < 0) {
		call_reply_err(c, errno);
		return;
	}
	atomic_fetch_add_explicit(&c->fs->counters.bytes_written, (uint64_t)n,
				  memory_order_relaxed);
	call_reply_written(c, (size_t)n);
}

/* Only without passthrough: somebody closed, but maybe a duplicate; RELEASE
 * will tell, and may come after a rename. */
void kv_do_flush(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));

	pthread_mutex_lock(&kv->lock);
	f->closed = true;
	pthread_mutex_unlock(&kv->lock);
	call_reply_err(c, 0);
}

static void writer_left(struct kv *kv, struct kv_file *f, uint64_t fh)
{
	f->rewriters -= !!(fh & KV_FH_REWRITE);
	pthread_cond_broadcast(&kv->writer_left);
	if (--f->writers)
		return;
	pool_writers(kv->fs->pool, -1);
	f->closed = false;
	if (f->node.state == KV_COMMITTED)
		return;
	list_remove(&f->by_use);
	if (f->node.unlinked)
		return;
	if (!f->node.temp) {
		if (kv_try_commit(kv, f) == -EBUSY)
			kv_commit_soon(kv, f);
		return;
	}
	kv_record(kv, f)->last_use = (uint64_t)clock_now_ns();
	list_push_back(&kv->orphans, &f->by_use);
}

void kv_do_release(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));
	struct remote_parts *parts = NULL;

	pthread_mutex_lock(&kv->lock);
	f->opens--;
	f->direct -= !!(c->fi.fh & KV_FH_DIRECT);
	if (c->fi.fh & KV_FH_DIRECT)
		parts = remote_node_closed(f);
	if (c->fi.fh & KV_FH_WRITE)
		writer_left(kv, f, c->fi.fh);
	kv_let_go(kv, f);
	pthread_mutex_unlock(&kv->lock);
	remote_parts_put(parts);
	locks_release(c);
	call_reply_err(c, 0);
}

/* A block is synced when its publish is answered. */
static void sync_block(struct call *c)
{
	int err = kv_sync(c->fs->kv, kv_file(kv_node(c->inode)));

	call_reply_err(c, err && err != -ESTALE ? EIO : 0);
}

/* fsync comes before the rename: the commit will wait for its publish. */
void kv_do_fsync(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	bool block;

	pthread_mutex_lock(&kv->lock);
	block = !kv_is_dir(node) && node->state == KV_COMMITTED;
	if (!kv_is_dir(node) && !block)
		node->sync = true;
	pthread_mutex_unlock(&kv->lock);
	if (block)
		call_defer(c, sync_block);
	else
		call_reply_err(c, 0);
}

void kv_do_fallocate(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));
	cleanup_close int fd = writable_fd(kv, f, O_RDWR);
	int err = fd < 0 ? fd : 0;

	if (!err)
		err = pool_make_room(kv->fs->pool, (uint64_t)c->length);
	if (!err && fallocate(fd, (int)c->mode, c->off, c->length))
		err = errno;
	call_reply_err(c, err);
}

/* What is not here yet has no holes. */
static bool seek_remote(struct call *c, struct kv_file *f)
{
	struct kv *kv = c->fs->kv;
	struct stat st;
	bool remote;

	pthread_mutex_lock(&kv->lock);
	remote = f->node.state == KV_REMOTE;
	if (remote)
		remote_node_stat(f, &st);
	pthread_mutex_unlock(&kv->lock);
	if (remote && c->off >= st.st_size)
		call_reply_err(c, ENXIO);
	else if (remote)
		call_reply_lseek(c,
				 c->flags == SEEK_DATA ? c->off : st.st_size);
	return remote;
}

void kv_do_lseek(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));
	cleanup_close int fd = -1;
	off_t at;

	if (c->fi.fh & KV_FH_DIRECT && seek_remote(c, f))
		return;
	fd = pool_fd(kv->fs->pool, f->frame, O_RDONLY);
	at = fd < 0 ? -1 : lseek(fd, c->off, (int)c->flags);
	if (at < 0)
		call_reply_err(c, fd < 0 ? -fd : errno);
	else
		call_reply_lseek(c, at);
}
