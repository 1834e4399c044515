// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * What goes when room is needed: the least recently used block of all
 * namespaces, but a leaf before what it continues where the chain is known,
 * and never one that is open, pinned or mapped. Each namespace keeps its
 * blocks by use; the oldest of all is the oldest of the namespaces' oldest.
 */

#define LEAF_SEARCH 1024 /* how far to look for a leaf before giving up */

#define SPARE_TRIES 20
#define SPARE_EVERY_US 500

struct kv_file *kv_parent(struct kv *kv, struct kv_file *f)
{
	const struct pool_record *r = kv_record(kv, f);
	struct kv_file *parent;

	if (r->parent_frame >= kv->n_by_frame)
		return NULL;
	parent = kv->by_frame[r->parent_frame];
	if (!parent || kv_record(kv, parent)->epoch != r->parent_epoch)
		return NULL;
	return parent;
}

void kv_set_parent(struct kv *kv, struct kv_file *f, struct kv_file *parent)
{
	struct pool_record *r = kv_record(kv, f);
	struct kv_file *old = kv_parent(kv, f);

	if (old && old->kids)
		old->kids--;
	r->parent_frame = parent ? parent->frame : POOL_NO_FRAME;
	r->parent_epoch = parent ? kv_record(kv, parent)->epoch : 0;
	if (parent)
		parent->kids++;
	remote_chain_parent(kv, f, parent);
}

struct list *kv_use_list(struct kv *kv, struct kv_file *f)
{
	return kv_record(kv, f)->flags & POOL_IS_COPY ? &f->ns->copies
						      : &f->ns->by_use;
}

void kv_touch(struct kv *kv, struct kv_file *f)
{
	struct pool_record *r = kv_record(kv, f);

	if (f->node.state != KV_COMMITTED || f->node.unlinked)
		return;
	r->last_use = ++kv->use_clock;
	list_remove(&f->by_use);
	list_push_back(kv_use_list(kv, f), &f->by_use);
}

static bool is_held(struct kv *kv, struct kv_file *f)
{
	return f->opens || f->node.pins ||
	       (kv_record(kv, f)->flags & POOL_IS_PINNED) ||
	       pool_probe(kv->fs->pool, f->frame) != 0;
}

/*
 * The oldest block of a list that may go, or NULL. One that somebody
 * has open or mapped is in use: it becomes the youngest. `spare` is never
 * chosen.
 */
static struct kv_file *victim_in(struct kv *kv, struct kv_ns *ns,
				 struct list *list, const struct kv_file *spare)
{
	struct kv_file *oldest = NULL;
	uint64_t budget = ns->n_blocks;
	unsigned seen = 0;

	list_for_each_safe (l, list) {
		struct kv_file *f = container_of(l, struct kv_file, by_use);

		if (budget-- == 0 || f == spare || seen == LEAF_SEARCH)
			break;
		if (f->kids && !oldest)
			oldest = f;
		if (f->kids) {
			seen++;
			continue;
		}
		if (!is_held(kv, f))
			return f;
		if (!f->node.pins) /* a checksum under way is no use */
			kv_touch(kv, f);
	}
	return oldest && !is_held(kv, oldest) ? oldest : NULL;
}

static struct list *list_of(struct kv_ns *ns, bool copies)
{
	return copies ? &ns->copies : &ns->by_use;
}

static struct kv_file *oldest_of(struct kv_ns *ns, bool copies)
{
	struct list *list = list_of(ns, copies);

	if (list_empty(list))
		return NULL;
	return container_of(list->next, struct kv_file, by_use);
}

/* The namespace whose oldest block is the oldest, of those not tried yet. */
static struct kv_ns *oldest_namespace(struct kv *kv, bool copies)
{
	struct kv_ns *oldest = NULL;
	uint64_t best = UINT64_MAX;

	list_for_each (l, &kv->namespaces) {
		struct kv_ns *ns = container_of(l, struct kv_ns, all);
		struct kv_file *f = oldest_of(ns, copies);

		if (!f || ns->tried == kv->evict_round ||
		    kv_record(kv, f)->last_use >= best)
			continue;
		best = kv_record(kv, f)->last_use;
		oldest = ns;
	}
	return oldest;
}

static struct kv_file *choose_among(struct kv *kv, bool copies)
{
	struct kv_ns *ns;

	kv->evict_round++;
	while ((ns = oldest_namespace(kv, copies))) {
		struct kv_file *victim =
			victim_in(kv, ns, list_of(ns, copies), NULL);

		if (victim)
			return victim;
		ns->tried = kv->evict_round;
	}
	return NULL;
}

/* What was fetched from another node is still there: it goes first. */
static struct kv_file *choose_victim(struct kv *kv)
{
	struct kv_file *victim = choose_among(kv, true);

	return victim ? victim : choose_among(kv, false);
}

static uint64_t evict(struct kv *kv, struct kv_file *f)
{
	struct fs_counters *counters = &kv->fs->counters;
	uint64_t bytes = kv_record(kv, f)->alloc_bytes;

	atomic_fetch_add_explicit(&counters->evictions, 1,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&counters->bytes_evicted, bytes,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&f->ns->evictions, 1, memory_order_relaxed);
	kv_invalidate(kv, f);
	kv_drop(kv, f, false);
	return bytes ? bytes : 1;
}

/* A temp that nobody finished for ten minutes. */
static struct kv_file *stale_orphan(struct kv *kv)
{
	struct kv_file *f;

	if (list_empty(&kv->orphans))
		return NULL;
	f = container_of(kv->orphans.next, struct kv_file, by_use);
	if (clock_now_ns() - (int64_t)kv_record(kv, f)->last_use < KV_ORPHAN_NS)
		return NULL;
	return f;
}

/* What closed files have to spare comes first, also where the kernel has not
 * let go of them yet: a block should not go for the sake of a moment. */
static uint64_t reclaim_spare(struct kv *kv, uint64_t need_bytes)
{
	uint64_t done = kv_spare_take(kv);

	for (int i = 0; !done && i < SPARE_TRIES; i++) {
		if (kv_spare_soon(kv) < need_bytes)
			break;
		pthread_mutex_unlock(&kv->lock);
		usleep(SPARE_EVERY_US);
		pthread_mutex_lock(&kv->lock);
		done = kv_spare_take(kv);
	}
	return done;
}

uint64_t kv_reclaim(void *ctx, uint64_t need_bytes)
{
	struct kv *kv = ((struct fs *)ctx)->kv;
	uint64_t done;
	scoped_lock(&kv->lock);

	done = reclaim_spare(kv, need_bytes);
	if (done)
		return done; /* whoever asks counts anew */
	while (done < need_bytes) {
		struct kv_file *f = stale_orphan(kv);

		if (!f)
			f = choose_victim(kv);
		if (!f)
			break;
		done += evict(kv, f);
	}
	return done;
}

/* The one that was used last: just stored or fetched, most likely. */
static struct kv_file *youngest(struct kv *kv, struct kv_ns *ns)
{
	struct kv_file *a =
		container_of(ns->by_use.prev, struct kv_file, by_use);
	struct kv_file *b =
		container_of(ns->copies.prev, struct kv_file, by_use);

	if (list_empty(&ns->copies))
		return a;
	if (list_empty(&ns->by_use))
		return b;
	return kv_record(kv, a)->last_use > kv_record(kv, b)->last_use ? a : b;
}

void kv_enforce_quota(struct kv *kv, struct kv_ns *ns)
{
	struct kv_file *spare, *f;

	while (ns->quota_bytes && ns->n_bytes > ns->quota_bytes) {
		spare = youngest(kv, ns);
		f = victim_in(kv, ns, &ns->copies, spare);
		if (!f)
			f = victim_in(kv, ns, &ns->by_use, spare);
		if (!f)
			break;
		evict(kv, f);
	}
}
