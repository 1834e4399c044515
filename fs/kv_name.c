// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

void kv_refuse(struct call *c)
{
	call_reply_err(c, EPERM);
}

/* The thread group of a thread, or -1 where it is gone. */
static pid_t group_of(pid_t tid)
{
	char path[64], line[128];
	cleanup_file FILE *f = NULL;
	pid_t group = -1;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Tgid: %d", &group) == 1)
			break;
	return group;
}

bool kv_is_writer(const struct call *c, const struct kv_file *f)
{
	pid_t group;

	if (c->pid == f->writer)
		return true;
	group = group_of(c->pid);
	return group > 0 && group == group_of(f->writer);
}

/*
 * What a path walk of this caller finds. A written file that could not be
 * committed yet (its writer is still there) is there for its writer only.
 */
struct kv_node *kv_visible(struct call *c, struct kv_dir *dir, const char *name)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_find(kv, dir, name);

	if (!node || kv_is_dir(node) || node->state == KV_COMMITTED ||
	    node->state == KV_REMOTE || node->temp)
		return node;
	if (kv_try_commit(kv, kv_file(node)) == 0)
		return node;
	return kv_is_writer(c, kv_file(node)) ? node : NULL;
}

static void count_lookup(struct kv_dir *dir, struct kv_node *node,
			 const char *name, struct fs_counters *counters)
{
	if (node || !dir->ns || kv_name_is_temp(name))
		return;
	atomic_fetch_add_explicit(&counters->misses, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&dir->ns->misses, 1, memory_order_relaxed);
}

static void lookup_after_writer(struct call *c)
{
	kv_wait_name(c);
	kv_do_lookup(c);
}

void kv_do_lookup(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct fuse_entry_param e = {.entry_timeout = KV_MISS_TIMEOUT};
	struct kv_node *node, *hidden;

	pthread_mutex_lock(&kv->lock);
	node = kv_visible(c, dir, c->name);
	hidden = node ? NULL : kv_find(kv, dir, c->name);
	if (hidden && kv_may_leave(kv, kv_file(hidden))) {
		pthread_mutex_unlock(&kv->lock);
		call_defer(c, lookup_after_writer);
		return;
	}
	if (!hidden && remote_should_ask(c, dir, node)) {
		pthread_mutex_unlock(&kv->lock);
		remote_lookup(c);
		return;
	}
	if (hidden || remote_is_unsure(c))
		e.entry_timeout = 0; /* it is there, perhaps, for others */
	count_lookup(dir, node, c->name, &c->fs->counters);
	if (node)
		kv_entry(kv, node, &e);
	else if (e.entry_timeout > 0)
		kv_missed(kv, c->name);
	pthread_mutex_unlock(&kv->lock);
	hist_add(&c->fs->counters.lookup, clock_now_ns() - c->start_ns);
	call_reply_entry(c, &e);
}

/* Set-gid directories hand their group down, as everywhere. */
static void inherit_group(struct kv_dir *dir, struct call *c)
{
	if (!(dir->mode & S_ISGID))
		return;
	c->gid = dir->gid;
	c->mode |= S_ISGID;
}

/* heard: of our own namespace, before it is made here; then it is that. */
static void make_dir(struct call *c, bool heard)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode)), *made = NULL;
	struct kv_node *there;
	struct fuse_entry_param e;
	char path[POOL_PATH_MAX + 1];
	int err = 0;

	pthread_mutex_lock(&kv->lock);
	inherit_group(dir, c);
	there = kv_find(kv, dir, c->name);
	if (dir->node.unlinked)
		err = ENOENT;
	else if (there && heard)
		made = kv_dir(there);
	else if (there)
		err = EEXIST;
	else if (kv_path(dir, c->name, path) < 0)
		err = ENAMETOOLONG;
	else
		made = kv_dir_new(kv, dir, c->name, c->mode, c->uid, c->gid);
	if (made) {
		remote_dir_changed(made, made->mode, made->uid, made->gid,
				   clock_now_ns());
		kv_dirs_note(kv, made, false);
		kv_entry(kv, &made->node, &e);
	}
	pthread_mutex_unlock(&kv->lock);
	if (made)
		call_reply_entry(c, &e);
	else
		call_reply_err(c, err ? err : ENOMEM);
}

static bool is_there(struct call *c)
{
	struct kv *kv = c->fs->kv;
	scoped_lock(&kv->lock);

	return kv_find(kv, kv_dir(kv_node(c->inode)), c->name);
}

/* A namespace is in Redis before it is here; waits, so on a worker. */
static void make_namespace(struct call *c)
{
	struct meta_namespace m = {
		.mode = c->mode & 07777,
		.uid = c->uid,
		.gid = c->gid,
		.checksum = true,
	};
	int err = is_there(c) ? EEXIST
			      : meta_namespace_put(c->fs->meta, c->deadline,
						   c->name, &m, true);

	if (err)
		call_reply_err(c, err);
	else
		make_dir(c, true);
}

void kv_do_mkdir(struct call *c)
{
	if (kv_node(c->inode)->type == KV_ROOT)
		call_defer(c, make_namespace);
	else
		make_dir(c, false);
}

void kv_do_unlink(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node;
	int err = 0;

	if (!kv_name_is_temp(c->name) && remote_active(c->fs)) {
		call_defer(c, remote_unlink);
		return;
	}
	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, kv_dir(kv_node(c->inode)), c->name);
	if (!node)
		err = ENOENT;
	else if (kv_is_dir(node))
		err = EISDIR;
	else
		kv_drop(kv, kv_file(node), true);
	pthread_mutex_unlock(&kv->lock);
	call_reply_err(c, err);
}

static int remove_dir(struct kv *kv, struct kv_dir *parent, const char *name)
{
	struct kv_node *node = kv_find(kv, parent, name);

	if (!node)
		return ENOENT;
	if (!kv_is_dir(node))
		return ENOTDIR;
	if (!kv_dir_is_empty(kv_dir(node)))
		return ENOTEMPTY;
	kv_dirs_note(kv, kv_dir(node), true);
	kv_unlink_node(kv, node);
	kv_node_settle(node);
	return 0;
}

static void rmdir_here(struct call *c)
{
	struct kv *kv = c->fs->kv;
	int err;

	pthread_mutex_lock(&kv->lock);
	err = remove_dir(kv, kv_dir(kv_node(c->inode)), c->name);
	pthread_mutex_unlock(&kv->lock);
	call_reply_err(c, err);
}

/* For all nodes; where Redis is away it comes back with it, as a block. */
static void remove_subdir(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	char path[POOL_PATH_MAX + 1];
	int len, err;

	pthread_mutex_lock(&kv->lock);
	len = kv_path(dir, c->name, path);
	err = remove_dir(kv, dir, c->name);
	pthread_mutex_unlock(&kv->lock);
	if (!err && len > 0 && meta_up(c->fs->meta))
		meta_kv_dir_drop(c->fs->meta, path, (uint16_t)len);
	call_reply_err(c, err);
}

static void remove_namespace(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node;
	bool empty;
	int err;

	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, &kv->root, c->name);
	empty = node && kv_dir_is_empty(kv_dir(node));
	pthread_mutex_unlock(&kv->lock);
	err = empty ? meta_namespace_remove(c->fs->meta, c->deadline, c->name)
		    : 0;
	if (err && err != -ENOENT)
		call_reply_err(c, err);
	else
		rmdir_here(c);
}

void kv_do_rmdir(struct call *c)
{
	if (kv_node(c->inode)->type == KV_ROOT)
		call_defer(c, remove_namespace);
	else if (c->fs->remote)
		call_defer(c, remove_subdir);
	else
		rmdir_here(c);
}

/* What every rename is checked for; 0: it is one file within a namespace. */
static int check_rename(struct call *c, struct kv_node *node,
			struct kv_node *target)
{
	struct kv_dir *from = kv_dir(kv_node(c->inode));
	struct kv_dir *to = kv_dir(kv_node(c->new_inode));

	if (c->flags & ~RENAME_NOREPLACE)
		return EINVAL;
	if (!node)
		return ENOENT;
	if (target && (c->flags & RENAME_NOREPLACE))
		return EEXIST;
	if (kv_is_dir(node) || from->ns != to->ns || !to->ns)
		return EXDEV;
	if (target && kv_is_dir(target))
		return EISDIR;
	if (to->node.unlinked)
		return ENOENT;
	if (node->state != KV_WRITING && kv_name_is_temp(c->new_name))
		return EPERM;
	return 0;
}

void kv_do_rename(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *to = kv_dir(kv_node(c->new_inode));
	char path[POOL_PATH_MAX + 1];
	struct kv_node *node, *target;
	int err;

	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, kv_dir(kv_node(c->inode)), c->name);
	target = kv_find(kv, to, c->new_name);
	err = check_rename(c, node, target);
	if (!err && node != target && kv_path(to, c->new_name, path) < 0)
		err = ENAMETOOLONG;
	if (!err && node != target && node->state == KV_REMOTE) {
		pthread_mutex_unlock(&kv->lock);
		remote_fetch_then(c, kv_file(node), kv_do_rename);
		return;
	}
	if (!err && node != target)
		err = kv_rename_file(c, kv_file(node),
				     target ? kv_file(target) : NULL);
	pthread_mutex_unlock(&kv->lock);
	if (err == -EINPROGRESS)
		return; /* a worker goes on with it and answers */
	hist_add(&c->fs->counters.rename, clock_now_ns() - c->start_ns);
	call_reply_err(c, err);
}
