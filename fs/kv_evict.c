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
 *
 * In a cluster, what was fetched from a node that has it still goes before
 * that, and what only this node has is offered to others before its turn comes
 * (remote_offer.c): kv_next_victims says what that is.
 */

#define LEAF_SEARCH 1024  /* how far to look for a leaf before giving up */
#define COPIES_SHARE 1024 /* of the pool: so much of copies goes by age */
#define SOON_SHARE 16	  /* of the pool: what will go soon */
#define SOON_MAX_BYTES (1ULL << 30)
#define SOON_MAX 128 /* blocks of it that are looked at */

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

/* -- by use ------------------------------------------------------------- */

uint64_t kv_use_now(struct kv *kv)
{
	uint64_t now = (uint64_t)clock_now_ns();

	kv->use_clock = now > kv->use_clock ? now : kv->use_clock + 1;
	return kv->use_clock;
}

static const uint32_t flag_of[KV_KINDS] = {
	[KV_MOVED] = POOL_IS_MOVED, [KV_COPY] = POOL_IS_COPY};

enum kv_kind kv_kind(struct kv *kv, struct kv_file *f)
{
	uint32_t flags = kv_record(kv, f)->flags;

	return flags & POOL_IS_COPY    ? KV_COPY
	       : flags & POOL_IS_MOVED ? KV_MOVED
				       : KV_STORED;
}

struct list *kv_use_list(struct kv *kv, struct kv_file *f)
{
	return &f->ns->uses[kv_kind(kv, f)];
}

static void set_flags(struct kv *kv, struct kv_file *f, enum kv_kind kind)
{
	struct pool_record *r = kv_record(kv, f);

	if (kv_kind(kv, f) == KV_COPY)
		kv->copy_bytes -= r->size_bytes;
	r->flags &= ~(POOL_IS_COPY | POOL_IS_MOVED);
	r->flags |= flag_of[kind];
	if (kind == KV_COPY)
		kv->copy_bytes += r->size_bytes;
}

/* Near the front, that is: it is the oldest of all, or nearly. */
static void put_by_age(struct kv *kv, struct kv_file *f, struct list *list)
{
	uint64_t age = kv_record(kv, f)->last_use;
	struct list *l = list->next;

	for (unsigned i = 0; i < SOON_MAX && l != list; i++, l = l->next)
		if (kv_record(kv, container_of(l, struct kv_file, by_use))
			    ->last_use > age)
			break;
	list_push_back(l, &f->by_use);
}

void kv_set_kind(struct kv *kv, struct kv_file *f, enum kv_kind kind)
{
	set_flags(kv, f, kind);
	list_remove(&f->by_use);
	if (kind == KV_COPY)
		put_by_age(kv, f, &f->ns->uses[kind]);
	else
		list_push_back(&f->ns->uses[kind], &f->by_use);
}

void kv_touch(struct kv *kv, struct kv_file *f)
{
	struct pool_record *r = kv_record(kv, f);

	if (f->node.state != KV_COMMITTED || f->node.unlinked)
		return;
	r->last_use = kv_use_now(kv);
	f->offered = false;
	if (kv_kind(kv, f) == KV_MOVED) /* at home here from now on */
		set_flags(kv, f, KV_STORED);
	list_remove(&f->by_use);
	list_push_back(kv_use_list(kv, f), &f->by_use);
}

/* -- what goes ---------------------------------------------------------- */

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
				 enum kv_kind kind, const struct kv_file *spare)
{
	struct kv_file *oldest = NULL;
	uint64_t budget = ns->n_blocks;
	unsigned seen = 0;

	list_for_each_safe (l, &ns->uses[kind]) {
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

static struct kv_file *oldest_of(struct kv_ns *ns, enum kv_kind kind)
{
	struct list *list = &ns->uses[kind];

	if (list_empty(list))
		return NULL;
	return container_of(list->next, struct kv_file, by_use);
}

/* A list of a namespace. */
struct place {
	struct kv_ns *ns;
	enum kv_kind kind;
};

/* The list whose oldest block is the oldest, of those not tried yet. */
static bool oldest_place(struct kv *kv, enum kv_kind from, enum kv_kind to,
			 struct place *oldest)
{
	uint64_t best = UINT64_MAX;

	list_for_each (l, &kv->namespaces) {
		struct kv_ns *ns = container_of(l, struct kv_ns, all);

		for (enum kv_kind k = from; k <= to; k++) {
			struct kv_file *f = oldest_of(ns, k);

			if (!f || ns->tried[k] == kv->evict_round ||
			    kv_record(kv, f)->last_use >= best)
				continue;
			best = kv_record(kv, f)->last_use;
			*oldest = (struct place){ns, k};
		}
	}
	return best != UINT64_MAX;
}

static struct kv_file *choose_among(struct kv *kv, enum kv_kind from,
				    enum kv_kind to)
{
	struct place at;

	kv->evict_round++;
	while (oldest_place(kv, from, to, &at)) {
		struct kv_file *victim = victim_in(kv, at.ns, at.kind, NULL);

		if (victim)
			return victim;
		at.ns->tried[at.kind] = kv->evict_round;
	}
	return NULL;
}

/*
 * What was fetched from another node is still there: it goes first, but for
 * the last few, which those who read along a chain are about to open.
 */
static bool copies_first(const struct kv *kv)
{
	return kv->copy_bytes > kv->fs->config.pool_bytes / COPIES_SHARE;
}

static struct kv_file *choose_victim(struct kv *kv)
{
	struct kv_file *victim = NULL;

	if (copies_first(kv))
		victim = choose_among(kv, KV_COPY, KV_COPY);
	return victim ? victim : choose_among(kv, KV_STORED, KV_COPY);
}

/* -- what will go ------------------------------------------------------- */

static uint64_t soon_bytes(const struct kv *kv)
{
	uint64_t share = kv->fs->config.pool_bytes / SOON_SHARE;

	return share < SOON_MAX_BYTES ? share : SOON_MAX_BYTES;
}

static bool has_room(const struct kv *kv)
{
	return kv->n_bytes + soon_bytes(kv) <= kv->fs->config.pool_bytes;
}

int64_t kv_victim_age_ms(struct kv *kv)
{
	struct place at;
	uint64_t used;

	kv->evict_round++;
	if (has_room(kv) || !oldest_place(kv, KV_STORED, KV_MOVED, &at))
		return KV_ROOM;
	used = kv_record(kv, oldest_of(at.ns, at.kind))->last_use;
	return (clock_now_ns() - (int64_t)used) / NS_PER_MS;
}

static bool may_be_offered(struct kv *kv, struct kv_file *f)
{
	return !f->offered && f->node.published && !f->opens && !f->node.pins &&
	       !(kv_record(kv, f)->flags & POOL_IS_PINNED);
}

/* A walk over what goes next. */
struct soon {
	struct kv *kv;
	struct kv_file **out;
	unsigned n, max, seen;
	uint64_t bytes;
};

static bool see(struct soon *s, struct list *l)
{
	struct kv_file *f = container_of(l, struct kv_file, by_use);

	s->bytes += kv_record(s->kv, f)->size_bytes;
	if (may_be_offered(s->kv, f)) {
		f->offered = true;
		s->out[s->n++] = f;
	}
	return s->n < s->max && ++s->seen < SOON_MAX &&
	       s->bytes < soon_bytes(s->kv);
}

/* The oldest stored block of all that was not seen yet. */
static struct list *next_stored(struct kv *kv)
{
	uint64_t best = UINT64_MAX;
	struct kv_ns *oldest = NULL;
	struct list *l;

	list_for_each (at, &kv->namespaces) {
		struct kv_ns *ns = container_of(at, struct kv_ns, all);
		uint64_t use;

		if (ns->next == &ns->uses[KV_STORED])
			continue;
		use = kv_record(kv,
				container_of(ns->next, struct kv_file, by_use))
			      ->last_use;
		if (use < best) {
			best = use;
			oldest = ns;
		}
	}
	if (!oldest)
		return NULL;
	l = oldest->next;
	oldest->next = l->next;
	return l;
}

unsigned kv_next_victims(struct kv *kv, struct kv_file **out, unsigned n)
{
	struct soon s = {.kv = kv, .out = out, .max = n};
	struct list *l;
	bool more = !has_room(kv);

	list_for_each (at, &kv->namespaces) {
		struct kv_ns *ns = container_of(at, struct kv_ns, all);

		ns->next = ns->uses[KV_STORED].next;
		for (l = ns->uses[KV_COPY].next;
		     more && copies_first(kv) && l != &ns->uses[KV_COPY];
		     l = l->next)
			more = see(&s, l);
	}
	while (more && (l = next_stored(kv)))
		more = see(&s, l);
	return s.n;
}

/* -- making room -------------------------------------------------------- */

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

bool kv_evict_now(struct kv *kv, struct kv_file *f)
{
	if (is_held(kv, f))
		return false;
	evict(kv, f);
	return true;
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

static uint64_t reclaim_need(struct kv *kv, uint64_t down_to_bytes)
{
	uint64_t used = pool_used(kv->fs->pool);

	return used > down_to_bytes ? used - down_to_bytes : 0;
}

uint64_t kv_reclaim(void *ctx, uint64_t down_to_bytes)
{
	struct kv *kv = ((struct fs *)ctx)->kv;
	uint64_t done, need;
	scoped_lock(&kv->lock);

	/* Counted under this lock, for which it may have waited: files that
	 * were committed meanwhile gave back what they did not use. */
	need = reclaim_need(kv, down_to_bytes);
	done = need ? reclaim_spare(kv, need) : 0;
	if (done)
		return done; /* whoever asks counts anew */
	need = reclaim_need(kv, down_to_bytes);
	while (done < need) {
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
	struct kv_file *best = NULL;

	for (int k = 0; k < KV_KINDS; k++) {
		struct kv_file *f =
			container_of(ns->uses[k].prev, struct kv_file, by_use);

		if (list_empty(&ns->uses[k]))
			continue;
		if (!best ||
		    kv_record(kv, f)->last_use > kv_record(kv, best)->last_use)
			best = f;
	}
	return best;
}

/* Copies first, then by age. */
static struct kv_file *victim_of(struct kv *kv, struct kv_ns *ns)
{
	struct kv_file *spare = youngest(kv, ns), *f;
	struct kv_file *stored = oldest_of(ns, KV_STORED);
	struct kv_file *moved = oldest_of(ns, KV_MOVED);
	bool moved_older = stored && moved &&
			   kv_record(kv, moved)->last_use <
				   kv_record(kv, stored)->last_use;

	f = victim_in(kv, ns, KV_COPY, spare);
	if (!f)
		f = victim_in(kv, ns, moved_older ? KV_MOVED : KV_STORED,
			      spare);
	if (!f)
		f = victim_in(kv, ns, moved_older ? KV_STORED : KV_MOVED,
			      spare);
	return f;
}

void kv_shrink(struct kv *kv, struct kv_ns *ns, uint64_t bytes)
{
	struct kv_file *f;

	while (ns->n_bytes > bytes && (f = victim_of(kv, ns)))
		evict(kv, f);
}
