// SPDX-License-Identifier: MIT
#include <stdlib.h>
#include <xxhash.h>

#include "base/clock.h"
#include "fs/kv.h"

/*
 * The namespace's policy `hot`: a block of another node that is read here more
 * than N times in so many seconds is kept like one that was stored here. Its
 * copy may have gone and come again in between, so the reads are counted by
 * name, in a table of fixed size: what has the slot of another name takes it
 * over once that one's window is past, or has counted less.
 */

#define SLOTS 4096u /* a power of two */

struct kv_heat {
	uint64_t hash;
	int64_t since_ns; /* the window's begin */
	uint32_t reads;
};

static struct kv_heat *slot_of(struct kv *kv, const struct kv_file *f,
			       int64_t window_ns)
{
	const struct pool_record *r = pool_record(kv->fs->pool, f->frame);
	uint64_t hash = XXH3_64bits(r->path, r->path_len);
	struct kv_heat *h = &kv->heat[hash & (SLOTS - 1)];
	int64_t now = clock_now_ns();

	if (h->hash != hash && h->reads > 1 && now - h->since_ns < window_ns) {
		h->reads--;
		return NULL;
	}
	if (h->hash != hash || now - h->since_ns >= window_ns)
		*h = (struct kv_heat){.hash = hash, .since_ns = now};
	return h;
}

void kv_hot_read(struct kv *kv, struct kv_file *f)
{
	struct kv_heat *h;

	if (!f->ns->hot_seconds)
		return;
	if (!kv->heat)
		kv->heat = calloc(SLOTS, sizeof(*kv->heat));
	if (!kv->heat)
		return;
	h = slot_of(kv, f, f->ns->hot_seconds * NS_PER_S);
	if (h && ++h->reads > f->ns->hot_reads)
		kv_set_kind(kv, f, KV_STORED);
}
