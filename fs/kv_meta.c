// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * What the publisher asks of this node's index, and what it hears. A name
 * that its user removed is remembered until its tombstone is written, so that
 * the publisher can tell "removed" from "evicted".
 */

#define GONE_START 256
#define GONE_MAX 1000000 /* past it a removal is published as an eviction */

struct kv_gone {
	struct kv_gone *next;
	uint64_t generation;
	uint16_t path_len;
	char path[];
};

static struct kv_gone **gone_slot(struct kv *kv, const char *path, size_t len)
{
	struct kv_gone **slot =
		&kv->gone[XXH3_64bits(path, len) & kv->gone_mask];

	while (*slot &&
	       ((*slot)->path_len != len || memcmp((*slot)->path, path, len)))
		slot = &(*slot)->next;
	return slot;
}

static int gone_grow(struct kv *kv)
{
	size_t size = kv->gone ? (kv->gone_mask + 1) * 2 : GONE_START;
	struct kv_gone **old = kv->gone, **table;
	size_t old_size = old ? kv->gone_mask + 1 : 0;

	if (kv->n_gone < old_size)
		return 0;
	table = calloc(size, sizeof(*table));
	if (!table)
		return -ENOMEM;
	kv->gone = table;
	kv->gone_mask = size - 1;
	for (size_t i = 0; i < old_size; i++) {
		while (old[i]) {
			struct kv_gone *g = old[i];
			struct kv_gone **slot;

			old[i] = g->next;
			slot = gone_slot(kv, g->path, g->path_len);
			g->next = NULL;
			*slot = g;
		}
	}
	free(old);
	return 0;
}

static void gone_add(struct kv *kv, const char *path, size_t len,
		     uint64_t generation)
{
	struct kv_gone **slot, *g;

	if (kv->n_gone >= GONE_MAX || gone_grow(kv))
		return;
	slot = gone_slot(kv, path, len);
	if (*slot) {
		(*slot)->generation = generation;
		return;
	}
	g = malloc(sizeof(*g) + len);
	if (!g)
		return;
	g->next = NULL;
	g->generation = generation;
	g->path_len = (uint16_t)len;
	memcpy(g->path, path, len);
	*slot = g;
	kv->n_gone++;
}

static void gone_remove(struct kv *kv, const char *path, size_t len)
{
	struct kv_gone **slot, *g;

	if (!kv->gone)
		return;
	slot = gone_slot(kv, path, len);
	g = *slot;
	if (!g)
		return;
	meta_kv_removed(kv->fs->meta, path, (uint16_t)len);
	*slot = g->next;
	free(g);
	kv->n_gone--;
}

void kv_meta_free(struct kv *kv)
{
	for (size_t i = 0; kv->gone && i <= kv->gone_mask; i++) {
		while (kv->gone[i]) {
			struct kv_gone *g = kv->gone[i];

			kv->gone[i] = g->next;
			free(g);
		}
	}
	free(kv->gone);
	free(kv->heat);
	free(kv->walk);
}

/* Not before its checksum is taken: every fetch will carry it. */
static bool is_publishable(const struct kv_file *f, const struct pool_record *r)
{
	return !f->ns->checksum || (r->flags & POOL_HAS_CHECKSUM);
}

void kv_publish(struct kv *kv, struct kv_file *f)
{
	char path[POOL_PATH_MAX + 1];
	int n;

	if (f->node.unlinked || f->node.state != KV_COMMITTED ||
	    !is_publishable(f, kv_record(kv, f)))
		return;
	n = kv_path(kv_dir(f->node.parent), f->node.name, path);
	if (n < 0)
		return;
	meta_kv_dirty(kv->fs->meta, path, (uint16_t)n);
}

void kv_retract_remote(struct kv *kv, struct kv_file *f)
{
	char path[POOL_PATH_MAX + 1];
	int n = kv_path(kv_dir(f->node.parent), f->node.name, path);

	if (n < 0)
		return;
	gone_add(kv, path, (size_t)n, f->remote->found.generation);
	meta_kv_dirty(kv->fs->meta, path, (uint16_t)n);
}

void kv_retract(struct kv *kv, struct kv_file *f, bool unlinked)
{
	char path[POOL_PATH_MAX + 1];
	int n = kv_path(kv_dir(f->node.parent), f->node.name, path);

	if (n < 0)
		return;
	if (unlinked)
		gone_add(kv, path, (size_t)n, kv_record(kv, f)->generation);
	meta_kv_dirty(kv->fs->meta, path, (uint16_t)n);
}

static struct kv_file *find_block(struct kv *kv, const char *path, size_t len)
{
	struct kv_node *node = kv_find_path(kv, path, len);

	if (!node || kv_is_dir(node) || node->state != KV_COMMITTED)
		return NULL;
	return kv_file(node);
}

static void state(void *ctx, const char *path, uint16_t len,
		  struct meta_kv_state *s)
{
	struct kv *kv = ((struct fs *)ctx)->kv;
	struct kv_gone *g;
	struct kv_file *f;
	scoped_lock(&kv->lock);

	memset(s, 0, sizeof(*s));
	f = find_block(kv, path, len);
	if (f && is_publishable(f, kv_record(kv, f))) {
		struct pool_record *r = kv_record(kv, f);

		s->held = true;
		s->generation = r->generation;
		s->size_bytes = r->size_bytes;
		s->mode = r->mode;
		s->uid = r->uid;
		s->gid = r->gid;
		if (f->ns->checksum)
			memcpy(s->checksum, r->checksum, sizeof(s->checksum));
	}
	/* Also of a name that was written anew: the removal goes first. */
	g = kv->gone ? *gone_slot(kv, path, len) : NULL;
	if (g) {
		s->unlinked = true;
		s->generation = g->generation;
	}
}

static void verdict(void *ctx, const char *path, uint16_t len,
		    const struct meta_kv_answer *answer)
{
	enum meta_kv_verdict v = answer->verdict;
	uint64_t generation = answer->generation;
	struct fs *fs = ctx;
	struct kv *kv = fs->kv;
	struct kv_file *f;
	scoped_lock(&kv->lock);

	if (v == META_KV_GONE) {
		gone_remove(kv, path, len);
		remote_tell_removed(fs, path, len, answer);
		return;
	}
	f = find_block(kv, path, len);
	if (!f) {
		/* gone meanwhile: the publish that just landed has this
		 * generation, and its tombstone must not be older */
		struct kv_gone **slot =
			kv->gone ? gone_slot(kv, path, len) : NULL;

		if (slot && *slot)
			(*slot)->generation = generation;
		return;
	}
	if (v == META_KV_PUBLISHED) {
		kv_record(kv, f)->generation = generation;
		f->node.published = true;
		remote_unlisted(kv, f, answer->unlisted);
		if (fs->remote && f->ns->replicas > answer->n_holders + 1 &&
		    !(kv_record(kv, f)->flags & POOL_IS_COPY))
			remote_replicate_later(fs->remote, path, len,
					       f->ns->replicas);
		return;
	}
	if (v == META_KV_CONFLICT)
		atomic_fetch_add(&fs->counters.conflicts, 1);
	kv_invalidate(kv, f);
	kv_drop(kv, f, false);
}

static bool visit(struct kv *kv, uint32_t frame,
		  void (*fn)(void *arg, const char *path, uint16_t len),
		  void *arg)
{
	struct kv_file *f = kv->by_frame[frame];
	char path[POOL_PATH_MAX + 1];
	int len;

	if (!f)
		return false;
	len = kv_path(kv_dir(f->node.parent), f->node.name, path);
	if (len > 0)
		fn(arg, path, (uint16_t)len);
	return len > 0;
}

static int later_use_first(const void *a, const void *b, void *arg)
{
	struct kv *kv = arg;
	uint64_t ua =
		kv_record(kv, kv->by_frame[*(const uint32_t *)a])->last_use;
	uint64_t ub =
		kv_record(kv, kv->by_frame[*(const uint32_t *)b])->last_use;

	return ua > ub ? -1 : ua < ub;
}

/* The frames of all blocks as of now, the last used first. */
static void walk_start(struct kv *kv)
{
	kv->walk = malloc((kv->n_by_frame + 1) * sizeof(*kv->walk));
	kv->n_walk = 0;
	if (!kv->walk)
		return;
	for (size_t i = 0; i < kv->n_by_frame; i++)
		if (kv->by_frame[i])
			kv->walk[kv->n_walk++] = (uint32_t)i;
	qsort_r(kv->walk, kv->n_walk, sizeof(*kv->walk), later_use_first, kv);
}

/*
 * One walker goes by recency, over the order as it was when it started (what
 * is stored later publishes itself). Another one meanwhile, told apart by
 * BY_FRAME in its cursor, goes by frame.
 */
#define BY_FRAME (1ULL << 63)

static bool each(void *ctx, uint64_t *cursor, unsigned n,
		 void (*fn)(void *arg, const char *path, uint16_t len),
		 void *arg)
{
	struct kv *kv = ((struct fs *)ctx)->kv;
	uint64_t at;
	scoped_lock(&kv->lock);

	if (*cursor == 0 && kv->walk)
		*cursor = BY_FRAME;
	else if (*cursor == 0)
		walk_start(kv);
	if (!kv->walk)
		*cursor |= BY_FRAME;
	at = *cursor & ~BY_FRAME;
	if (*cursor & BY_FRAME) {
		for (; at < kv->n_by_frame && n; at++)
			n -= visit(kv, (uint32_t)at, fn, arg);
		*cursor = at | BY_FRAME;
		return at < kv->n_by_frame;
	}
	for (; at < kv->n_walk && n; at++)
		n -= visit(kv, kv->walk[at], fn, arg);
	*cursor = at;
	if (at < kv->n_walk)
		return true;
	free(kv->walk);
	kv->walk = NULL;
	return false;
}

static bool directory(void *ctx, const char *path, uint16_t len, uint32_t *mode,
		      uint32_t *uid, uint32_t *gid)
{
	struct kv *kv = ((struct fs *)ctx)->kv;
	struct kv_node *node;
	scoped_lock(&kv->lock);

	node = kv_find_path(kv, path, len);
	if (!node || !kv_is_dir(node))
		return false;
	*mode = kv_dir(node)->mode;
	*uid = kv_dir(node)->uid;
	*gid = kv_dir(node)->gid;
	return true;
}

static void namespace(void *ctx, const char *name,
		      const struct meta_namespace *m)
{
	struct fs *fs = ctx;

	kv_learn_namespace(fs->kv, name, m);
}

const struct meta_kv_ops kv_meta_ops = {
	.state = state,
	.verdict = verdict,
	.each = each,
	.directory = directory,
	.namespace = namespace,
};

static int bind_frame(void *ctx, int fd)
{
	return passthrough_bind(ctx, fd);
}

static void unbind_frame(void *ctx, int backing_id)
{
	passthrough_unbind(ctx, backing_id);
}

const struct pool_ops kv_pool_ops = {
	.bind = bind_frame,
	.unbind = unbind_frame,
	.reclaim = kv_reclaim,
};
