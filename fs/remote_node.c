// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "fs/remote_parts.h"

/*
 * A name of another node in this node's tree. It has an inode, so that the
 * kernel can walk to it, and what the record says; no frame, no recency, no
 * place in the index. The kernel is given it for 100 ms. It goes when the
 * kernel forgets it, or becomes a block when it is fetched.
 */

/* A name learnt from afar changes nothing in the directory. */
static void keep_times(struct kv_dir *dir, int64_t mtime, int64_t ctime)
{
	dir->mtime_ns = mtime;
	dir->ctime_ns = ctime;
}

static void learn_dir(struct kv *kv, struct kv_dir *dir, const char *name,
		      const struct meta_kv_found *found, int64_t asked_ns)
{
	int64_t mtime = dir->mtime_ns, ctime = dir->ctime_ns;
	struct kv_dir *made = kv_dir_new(kv, dir, name, found->mode & 07777,
					 found->uid, found->gid);

	keep_times(dir, mtime, ctime);
	if (!made)
		return;
	made->learnt = true;
	made->heard_ns = asked_ns;
}

static void learn_file(struct kv *kv, struct kv_dir *dir, const char *name,
		       const struct meta_kv_found *found)
{
	int64_t mtime = dir->mtime_ns, ctime = dir->ctime_ns;
	struct kv_remote *remote = calloc(1, sizeof(*remote));
	struct kv_file *f =
		remote ? kv_file_new(kv, dir, name, POOL_NO_FRAME) : NULL;

	keep_times(dir, mtime, ctime);
	if (!f) {
		free(remote);
		return;
	}
	remote->found = *found;
	remote->seen_ns = clock_now_ns();
	remote->learned_ns = clock_stamp_ns();
	f->remote = remote;
	f->node.state = KV_REMOTE;
}

void remote_node_free(struct kv_file *f)
{
	if (f->remote)
		remote_parts_put(f->remote->parts);
	free(f->remote);
	f->remote = NULL;
}

struct remote_parts *remote_node_closed(struct kv_file *f)
{
	struct remote_parts *parts;

	if (f->direct || f->node.state != KV_REMOTE || f->remote->fetch)
		return NULL;
	parts = f->remote->parts;
	f->remote->parts = NULL;
	return parts;
}

void remote_node_forget(struct kv *kv, struct kv_node *node)
{
	struct kv_dir *dir = kv_dir(node->parent);
	int64_t mtime = dir->mtime_ns, ctime = dir->ctime_ns;

	kv_invalidate(kv, kv_file(node));
	kv_unlink_node(kv, node);
	keep_times(dir, mtime, ctime);
	kv_node_settle(node);
}

void remote_node_learn(struct kv *kv, struct kv_dir *dir, const char *name,
		       const struct meta_kv_found *found, int64_t asked_ns)
{
	struct kv_node *node = kv_find(kv, dir, name);
	struct kv_remote *known;

	if (node && kv_is_dir(node) && found->is_dir)
		remote_dir_hear(kv, kv_dir(node), found, asked_ns);
	if (node && (kv_is_dir(node) || node->state != KV_REMOTE))
		return; /* what is here comes first */
	known = node ? kv_file(node)->remote : NULL;
	if (known &&
	    (known->fetch || (!found->is_dir &&
			      known->found.generation == found->generation))) {
		known->seen_ns = clock_now_ns();
		if (!known->fetch)
			known->found = *found;
		return;
	}
	if (node)
		remote_node_forget(kv, node);
	if (found->is_dir)
		learn_dir(kv, dir, name, found, asked_ns);
	else
		learn_file(kv, dir, name, found);
}

void remote_node_stat(const struct kv_file *f, struct stat *st)
{
	const struct meta_kv_found *found = &f->remote->found;

	st->st_mode = S_IFREG | (found->mode & 07777);
	st->st_uid = found->uid;
	st->st_gid = found->gid;
	st->st_size = (off_t)found->size_bytes;
	/* Records have none; of 1970, it would be the first that a cleaner
	 * removes, on all nodes. */
	st->st_atim = st->st_mtim = st->st_ctim =
		clock_timespec(f->remote->learned_ns);
}

static void fill_record(struct pool_record *r, const struct kv_remote *remote)
{
	const struct meta_kv_found *found = &remote->found;

	r->mode = found->mode & 07777;
	r->uid = found->uid;
	r->gid = found->gid;
	r->atime_ns = clock_stamp_ns();
	r->mtime_ns = r->ctime_ns = remote->learned_ns;
	r->parent_frame = POOL_NO_FRAME;
}

int remote_node_commit(struct kv *kv, struct kv_file *f, uint32_t frame,
		       enum kv_kind kind, uint32_t age_ms)
{
	const struct meta_kv_found *found = &f->remote->found;
	char path[POOL_PATH_MAX + 1];
	int n = kv_path(kv_dir(f->node.parent), f->node.name, path);
	struct pool_record *r = pool_record(kv->fs->pool, frame);
	int err;

	if (n < 0 || f->node.unlinked || f->node.state != KV_REMOTE)
		return n < 0 ? n : -ENOENT;
	fill_record(r, f->remote);
	r->last_use = kv_use_now(kv) - (uint64_t)age_ms * NS_PER_MS;
	err = pool_commit(kv->fs->pool, frame, path, (uint16_t)n);
	if (err)
		return err;
	f->frame = frame;
	if (found->checksum[0] || found->checksum[1]) {
		memcpy(r->checksum, found->checksum, sizeof(r->checksum));
		r->flags |= POOL_HAS_CHECKSUM;
	}
	r->generation = found->generation;
	r->flags |= kind == KV_COPY    ? POOL_IS_COPY
		    : kind == KV_MOVED ? POOL_IS_MOVED
				       : 0;
	err = kv_count_in(kv, f);
	if (err) {
		f->frame = POOL_NO_FRAME;
		return err;
	}
	kv_enforce_quota(kv, f->ns);
	return 0;
}

void remote_node_publish(struct kv *kv, struct kv_file *f)
{
	if (f->node.unlinked || f->node.state != KV_COMMITTED)
		return;
	if (f->ns->checksum && !(kv_record(kv, f)->flags & POOL_HAS_CHECKSUM))
		kv_sum_later(kv, f);
	else
		kv_publish(kv, f);
}

int remote_node_attr(const struct kv_file *f, const char *name, char *value,
		     size_t bytes)
{
	const struct meta_kv_found *found = &f->remote->found;

	if (!strcmp(name, "state"))
		return snprintf(value, bytes, "remote");
	if (!strcmp(name, "generation"))
		return snprintf(value, bytes, "%" PRIu64, found->generation);
	if (!strcmp(name, "checksum") &&
	    (found->checksum[0] || found->checksum[1]))
		return snprintf(value, bytes, "%016" PRIx64 "%016" PRIx64,
				found->checksum[1], found->checksum[0]);
	return -ENODATA;
}
