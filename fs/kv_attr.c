// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * Attributes. A block's stand in its record and change only through us, so
 * the kernel may keep them. A file being written changes behind our back: the
 * kernel knows what write() did, but not what a mapping did to its times. It
 * keeps those just long enough to open what it has created. Its name it may
 * not keep: a rename takes the entry along, and the block of the new name may
 * be another file.
 */

double kv_attr_timeout(struct kv *kv, struct kv_node *node)
{
	if (kv_is_dir(node))
		return remote_dir_timeout(kv, kv_dir(node));
	return node->state == KV_COMMITTED ? KV_ENTRY_TIMEOUT
					   : KV_WRITTEN_TIMEOUT;
}

double kv_entry_timeout(struct kv *kv, struct kv_node *node)
{
	if (kv_is_dir(node))
		return remote_dir_timeout(kv, kv_dir(node));
	if (node->state == KV_COMMITTED)
		return KV_ENTRY_TIMEOUT;
	return node->state == KV_REMOTE ? KV_MISS_TIMEOUT : 0;
}

static void fill_dir(struct kv_dir *dir, struct stat *st)
{
	st->st_ino = dir->ino;
	st->st_mode = S_IFDIR | dir->mode;
	st->st_uid = dir->uid;
	st->st_gid = dir->gid;
	st->st_nlink = dir->node.unlinked ? 0 : 2 + dir->n_dirs;
	st->st_atim = clock_timespec(dir->atime_ns);
	st->st_mtim = clock_timespec(dir->mtime_ns);
	st->st_ctim = clock_timespec(dir->ctime_ns);
}

/* What the writer has done so far, the frame's file knows. */
static void fill_writing(struct kv *kv, struct kv_file *f, struct stat *st)
{
	cleanup_close int fd = pool_fd(kv->fs->pool, f->frame, O_PATH);
	struct pool_record *r = kv_record(kv, f);
	struct stat own;

	if (fd < 0 || fstat(fd, &own))
		return;
	st->st_size = own.st_size;
	st->st_mtim = own.st_mtim;
	if (clock_from_timespec(own.st_ctim) > r->ctime_ns)
		st->st_ctim = own.st_ctim;
}

static void fill_file(struct kv *kv, struct kv_file *f, struct stat *st)
{
	struct pool_record *r;

	st->st_ino = f->ino;
	st->st_mode = S_IFREG;
	st->st_nlink = f->node.unlinked ? 0 : 1;
	if (f->node.state == KV_REMOTE) {
		remote_node_stat(f, st);
		return;
	}
	if (f->frame == POOL_NO_FRAME)
		return; /* evicted: only the kernel's memory of it is left */
	r = kv_record(kv, f);
	st->st_mode = S_IFREG | (r->mode & 07777);
	st->st_uid = r->uid;
	st->st_gid = r->gid;
	st->st_size = (off_t)r->size_bytes;
	st->st_atim = clock_timespec(r->atime_ns);
	st->st_mtim = clock_timespec(r->mtime_ns);
	st->st_ctim = clock_timespec(r->ctime_ns);
	/* What the kernel is yet to hear of, nobody has written into. */
	if (f->node.state == KV_WRITING && f->node.nlookup)
		fill_writing(kv, f, st);
}

void kv_fill_attr(struct kv *kv, struct kv_node *node, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	if (kv_is_dir(node))
		fill_dir(kv_dir(node), st);
	else
		fill_file(kv, kv_file(node), st);
	st->st_blksize = 4096;
	st->st_blocks = (st->st_size + 511) / 512;
}

/* It is gone, but for the kernel's memory of it. */
static bool is_stale(struct kv_node *node)
{
	return !kv_is_dir(node) && kv_file(node)->frame == POOL_NO_FRAME &&
	       (node->state != KV_REMOTE || node->unlinked);
}

void kv_do_getattr(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	struct stat st;
	double timeout;
	bool stale;

	pthread_mutex_lock(&kv->lock);
	if (!(c->flags & REMOTE_ASKED) && kv_is_dir(node) &&
	    remote_dir_is_stale(kv, kv_dir(node))) {
		pthread_mutex_unlock(&kv->lock);
		remote_getattr(c);
		return;
	}
	stale = is_stale(node);
	kv_fill_attr(kv, node, &st);
	timeout = kv_attr_timeout(kv, node);
	pthread_mutex_unlock(&kv->lock);
	if (stale)
		call_reply_err(c, ESTALE);
	else
		call_reply_attr(c, &st, timeout);
}

static int64_t wanted_time(const struct call *c, int now, struct timespec t)
{
	return c->to_set & now ? clock_stamp_ns() : clock_from_timespec(t);
}

static void set_owner(const struct call *c, uint32_t *mode, uint32_t *uid,
		      uint32_t *gid)
{
	if (c->to_set & FUSE_SET_ATTR_MODE)
		*mode = c->attr.st_mode & 07777;
	if (c->to_set & FUSE_SET_ATTR_UID)
		*uid = c->attr.st_uid;
	if (c->to_set & FUSE_SET_ATTR_GID)
		*gid = c->attr.st_gid;
}

static void set_dir(struct kv *kv, const struct call *c, struct kv_dir *dir)
{
	set_owner(c, &dir->mode, &dir->uid, &dir->gid);
	if (c->to_set & FUSE_SET_ATTR_ATIME)
		dir->atime_ns = wanted_time(c, FUSE_SET_ATTR_ATIME_NOW,
					    c->attr.st_atim);
	if (c->to_set & FUSE_SET_ATTR_MTIME)
		dir->mtime_ns = wanted_time(c, FUSE_SET_ATTR_MTIME_NOW,
					    c->attr.st_mtim);
	dir->ctime_ns = clock_stamp_ns();
	kv_dirs_note(kv, dir, false);
}

static int set_size(struct kv *kv, const struct call *c, struct kv_file *f)
{
	cleanup_close int fd = -1;

	if (f->node.state == KV_COMMITTED)
		return EPERM;
	fd = pool_fd(kv->fs->pool, f->frame, O_RDWR);
	if (fd < 0)
		return -fd;
	return ftruncate(fd, c->attr.st_size) ? errno : 0;
}

/* mtime of a file that is written lives in the frame's file: a later write
 * must move it. */
static void set_written_mtime(struct kv *kv, struct kv_file *f, int64_t ns)
{
	cleanup_close int fd = pool_fd(kv->fs->pool, f->frame, O_RDWR);
	struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, clock_timespec(ns)};

	if (fd >= 0)
		futimens(fd, t);
}

static int set_file(struct kv *kv, const struct call *c, struct kv_file *f)
{
	struct pool_record *r;
	int err;

	if (f->frame == POOL_NO_FRAME)
		return ESTALE;
	r = kv_record(kv, f);
	if (c->to_set & FUSE_SET_ATTR_SIZE) {
		err = set_size(kv, c, f);
		if (err)
			return err;
	}
	set_owner(c, &r->mode, &r->uid, &r->gid);
	if (c->to_set & FUSE_SET_ATTR_ATIME) {
		r->atime_ns = wanted_time(c, FUSE_SET_ATTR_ATIME_NOW,
					  c->attr.st_atim);
		kv_touch(kv, f);
	}
	if (c->to_set & FUSE_SET_ATTR_MTIME) {
		r->mtime_ns = wanted_time(c, FUSE_SET_ATTR_MTIME_NOW,
					  c->attr.st_mtim);
		if (f->node.state == KV_WRITING)
			set_written_mtime(kv, f, r->mtime_ns);
	}
	/* KILLPRIV_V2: nothing named means "clear set-id bits" */
	if (!c->to_set || (c->to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
		r->mode &= ~(uint32_t)(S_ISUID | S_ISGID);
	r->ctime_ns = clock_stamp_ns();
	if (c->to_set &
	    (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
		kv_publish(kv, f);
	return 0;
}

/* A size that the pool could never hold is refused now, not when the holes
 * are written. Without the lock: finding room may evict. */
static int check_growth(const struct call *c)
{
	struct pool_stats s;

	if (!(c->to_set & FUSE_SET_ATTR_SIZE))
		return 0;
	pool_stats(c->fs->pool, &s);
	return (uint64_t)c->attr.st_size > s.capacity_bytes ? EFBIG : 0;
}

static void setattr_here(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	struct stat st;
	double timeout;
	int err = check_growth(c);

	if (err) {
		call_reply_err(c, err);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	if (kv_is_dir(node))
		set_dir(kv, c, kv_dir(node));
	else
		err = set_file(kv, c, kv_file(node));
	kv_fill_attr(kv, node, &st);
	timeout = kv_attr_timeout(kv, node);
	pthread_mutex_unlock(&kv->lock);
	if (err)
		call_reply_err(c, err);
	else
		call_reply_attr(c, &st, timeout);
}

/* A namespace's mode and owner stand in Redis as well. */
static void setattr_namespace(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_ns *ns = kv_ns(kv_dir(kv_node(c->inode)));
	struct meta_namespace m;
	int err;

	pthread_mutex_lock(&kv->lock);
	kv_ns_record(ns, &m);
	pthread_mutex_unlock(&kv->lock);
	set_owner(c, &m.mode, &m.uid, &m.gid);
	err = meta_namespace_put(c->fs->meta, c->deadline, ns->dir.node.name,
				 &m, false);
	if (err)
		call_reply_err(c, err);
	else
		setattr_here(c);
}

static unsigned dir_set(const struct call *c)
{
	return (c->to_set & FUSE_SET_ATTR_MODE ? META_DIR_MODE : 0) |
	       (c->to_set & FUSE_SET_ATTR_UID ? META_DIR_UID : 0) |
	       (c->to_set & FUSE_SET_ATTR_GID ? META_DIR_GID : 0);
}

/* So do those of a directory that other nodes may know: first there. */
static void setattr_dir(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	int64_t sent = clock_now_ns();
	char path[POOL_PATH_MAX + 1];
	uint32_t mode, uid, gid;
	int len, err;

	pthread_mutex_lock(&kv->lock);
	mode = dir->mode;
	uid = dir->uid;
	gid = dir->gid;
	len = dir->node.unlinked
		      ? -ENOENT
		      : kv_path(kv_dir(dir->node.parent), dir->node.name, path);
	pthread_mutex_unlock(&kv->lock);
	set_owner(c, &mode, &uid, &gid);
	err = len < 0 ? len
		      : meta_kv_dir_set(c->fs->meta, path, (uint16_t)len,
					dir_set(c), &mode, &uid, &gid);
	if (err && err != -ENOENT) {
		call_reply_err(c, err);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	remote_dir_changed(dir, mode, uid, gid, sent);
	pthread_mutex_unlock(&kv->lock);
	setattr_here(c);
}

static bool is_remote(struct kv *kv, struct kv_node *node)
{
	scoped_lock(&kv->lock);

	return node->type == KV_FILE && node->state == KV_REMOTE;
}

void kv_do_setattr(struct call *c)
{
	int own = FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;

	if (kv_node(c->inode)->type == KV_NAMESPACE && (c->to_set & own))
		call_defer(c, setattr_namespace);
	else if (kv_node(c->inode)->type == KV_DIR && c->fs->remote &&
		 (c->to_set & own))
		call_defer(c, setattr_dir);
	else if (is_remote(c->fs->kv, kv_node(c->inode)))
		remote_fetch_then(c, kv_file(kv_node(c->inode)), setattr_here);
	else
		setattr_here(c);
}

/* In a namespace with a quota: of that, over all nodes, where it is less. */
static void within_quota(struct call *c, uint64_t *all, uint64_t *left)
{
	struct kv_node *node = kv_node(c->inode);
	struct kv_ns *ns;
	uint64_t used;
	scoped_lock(&c->fs->kv->lock);

	ns = kv_is_dir(node) ? kv_dir(node)->ns : kv_file(node)->ns;
	if (!ns || !ns->quota_bytes)
		return;
	used = kv_ns_usage(ns);
	if (ns->quota_bytes < *all)
		*all = ns->quota_bytes;
	if (used >= ns->quota_bytes)
		*left = 0;
	else if (ns->quota_bytes - used < *left)
		*left = ns->quota_bytes - used;
}

void kv_do_statfs(struct call *c)
{
	struct statvfs st = {
		.f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255};
	struct pool_stats s;
	uint64_t used, all, left;

	pool_stats(c->fs->pool, &s);
	used = s.committed_bytes + s.writing_bytes + s.aside_bytes;
	all = s.capacity_bytes;
	left = used < all ? all - used : 0;
	within_quota(c, &all, &left);
	st.f_blocks = all / 4096;
	st.f_bfree = left / 4096;
	st.f_bavail = st.f_bfree;
	st.f_files = s.n_committed + s.n_writing + st.f_bfree;
	st.f_ffree = st.f_favail = st.f_bfree;
	call_reply_statfs(c, &st);
}
