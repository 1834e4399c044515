// SPDX-License-Identifier: MIT
#include "meta/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "meta/kv_impl.h"
#include "meta/node.h"

#define TABLE_MIN 1024u

/* --- the set; the caller holds the lock -------------------------------- */

static uint32_t hash_of(const char *path, size_t len)
{
	return (uint32_t)XXH3_64bits(path, len);
}

static struct kv_name **slot_of(struct kv_pub *k, uint32_t hash,
				const char *path, uint16_t len)
{
	struct kv_name **p = &k->table[hash & (k->n_table - 1)];

	while (*p && ((*p)->hash != hash || (*p)->len != len ||
		      memcmp((*p)->path, path, len) != 0))
		p = &(*p)->next;
	return p;
}

static size_t name_bytes(const struct kv_name *n)
{
	return sizeof(*n) + n->len + 16; /* with the allocator's own */
}

static void queue(struct kv_pub *k, struct kv_name *n)
{
	if (!k->n_queued)
		k->oldest_ns = clock_now_ns();
	list_push_back(&k->queue, &n->link);
	k->n_queued++;
	/* Wake the sender for the first; at a full batch it need not wait. */
	if (k->n_queued == 1 || k->n_queued == KV_BATCH)
		pthread_cond_signal(&k->work);
}

/* Without memory the chains only get longer. */
static void table_grow(struct kv_pub *k)
{
	uint32_t size = k->n_table * 2;
	struct kv_name **table = calloc(size, sizeof(*table));

	if (!table)
		return;
	for (uint32_t i = 0; i < k->n_table; i++) {
		struct kv_name *n = k->table[i], *next;

		for (; n; n = next) {
			next = n->next;
			n->next = table[n->hash & (size - 1)];
			table[n->hash & (size - 1)] = n;
		}
	}
	free(k->table);
	k->table = table;
	k->n_table = size;
}

static void name_drop(struct kv_pub *k, struct kv_name *n)
{
	*slot_of(k, n->hash, n->path, n->len) = n->next;
	k->n_names--;
	k->n_bytes -= name_bytes(n);
	free(n);
}

/* Too many names: forget those that wait, look at everything instead. */
static void overflow(struct kv_pub *k)
{
	struct list *l;

	log_warn("kv: %u names wait for Redis: they are dropped for an audit "
		 "of the whole index",
		 k->n_names);
	while ((l = list_pop_front(&k->queue)))
		name_drop(k, container_of(l, struct kv_name, link));
	k->n_queued = 0;
	k->audits_wanted++;
	k->audit_why = "the dirty set overflowed";
	pthread_cond_broadcast(&k->cleaned);
}

static void name_add(struct kv_pub *k, struct kv_name **slot, uint32_t hash,
		     const char *path, uint16_t len, bool unsure)
{
	const char *slash = memchr(path, '/', len);
	struct kv_name *n = malloc(sizeof(*n) + len);

	if (!n || !slash) {
		free(n);
		k->audits_wanted += !!slash; /* no memory: find it later */
		return;
	}
	*n = (struct kv_name){.hash = hash,
			      .len = len,
			      .ns_len = (uint16_t)(slash - path),
			      .doubt = unsure ? KV_DOUBT_ANY : 0};
	memcpy(n->path, path, len);
	*slot = n;
	k->n_names++;
	k->n_bytes += name_bytes(n);
	queue(k, n);
}

static void dirty(struct kv_pub *k, const char *path, uint16_t path_len,
		  bool unsure)
{
	uint32_t hash = hash_of(path, path_len);
	struct kv_name **slot;

	scoped_lock(&k->lock);
	slot = slot_of(k, hash, path, path_len);
	if (*slot) {
		(*slot)->again = (*slot)->in_flight;
		if (unsure)
			__atomic_store_n(&(*slot)->doubt, KV_DOUBT_ANY,
					 __ATOMIC_RELAXED);
		return;
	}
	if (k->n_names >= KV_DIRTY_MAX || k->n_bytes >= KV_DIRTY_BYTES_MAX) {
		overflow(k);
		return;
	}
	name_add(k, slot, hash, path, path_len, unsure);
	if (k->n_names > k->n_table)
		table_grow(k);
}

void meta_kv_dirty(struct meta *m, const char *path, uint16_t path_len)
{
	dirty(m->kv, path, path_len, false);
}

void kv_dirty_unsure(struct kv_pub *k, const char *path, uint16_t len)
{
	dirty(k, path, len, true);
}

unsigned kv_take(struct kv_pub *k, struct kv_name **names, unsigned max)
{
	unsigned n = 0;
	struct list *l;

	while (n < max && (l = list_pop_front(&k->queue))) {
		names[n] = container_of(l, struct kv_name, link);
		names[n]->in_flight = true;
		names[n++]->again = false;
	}
	k->n_queued -= n;
	k->n_in_flight += n;
	return n;
}

/* A name that became dirty again does not hear its answer: it is as if nobody
 * knew it. */
static void doubt_settle(struct kv_name *n, enum kv_outcome outcome)
{
	bool heard = outcome == KV_ANSWERED && !n->again;

	if (outcome == KV_NOT_SENT)
		return;
	if (heard)
		n->doubt = 0;
	else if (n->sent && n->doubt != KV_DOUBT_ANY)
		n->doubt = n->sent;
	else if (outcome == KV_ANSWERED && !n->sent)
		n->doubt = 0;
	n->sent = 0;
}

void kv_settle(struct kv_pub *k, struct kv_name *const *names, unsigned n,
	       enum kv_outcome outcome)
{
	scoped_lock(&k->lock);
	for (unsigned i = 0; i < n; i++) {
		names[i]->in_flight = false;
		doubt_settle(names[i], outcome);
		if (outcome == KV_ANSWERED && !names[i]->again)
			name_drop(k, names[i]);
		else
			queue(k, names[i]);
	}
	k->n_in_flight -= n;
	pthread_cond_broadcast(&k->cleaned);
	pthread_cond_signal(&k->work);
}

/* --- waiting ----------------------------------------------------------- */

/* While the whole index is due nobody knows which names are clean. */
static bool all_is_due(struct kv_pub *k)
{
	return k->audits_done != k->audits_wanted ||
	       k->refills_done != k->refills_wanted;
}

int meta_kv_sync(struct meta *m, const char *path, uint16_t path_len)
{
	struct timespec until = clock_timespec(meta_deadline(m, 0));
	struct kv_pub *k = m->kv;
	uint32_t hash = hash_of(path, path_len);
	bool unknown;

	/* What is in flight goes once more only for a change: the first answer
	 * to a removal, and no later one, names those who held it. */
	pthread_mutex_lock(&k->lock);
	unknown = all_is_due(k) && !*slot_of(k, hash, path, path_len);
	pthread_mutex_unlock(&k->lock);
	if (unknown)
		meta_kv_dirty(m, path, path_len);
	scoped_lock(&k->lock);
	while (*slot_of(k, hash, path, path_len))
		if (pthread_cond_timedwait(&k->cleaned, &k->lock, &until))
			return -ETIMEDOUT;
	return 0;
}

void meta_kv_wake(struct meta *m)
{
	struct kv_pub *k = m->kv;

	if (!k)
		return;
	scoped_lock(&k->lock);
	pthread_cond_signal(&k->work);
	pthread_cond_broadcast(&k->cleaned);
}

bool kv_can_send(struct kv_pub *k)
{
	return redis_up(k->m->links[META_PUBLISH]) && meta_node_confirmed(k->m);
}

void kv_state_get(struct kv_pub *k, const char *path, uint16_t len,
		  struct meta_kv_state *state)
{
	memset(state, 0, sizeof(*state));
	k->ops->state(k->ctx, path, len, state);
}

void meta_kv_store_changed(struct meta *m)
{
	struct kv_pub *k = m->kv;

	k->dirs_epoch++;
	scoped_lock(&k->lock);
	k->refills_wanted++;
	pthread_cond_broadcast(&k->cleaned);
}

void meta_kv_audit(struct meta *m, const char *why)
{
	struct kv_pub *k = m->kv;

	k->dirs_epoch++;
	scoped_lock(&k->lock);
	k->audits_wanted++;
	k->audit_why = why;
	pthread_cond_broadcast(&k->cleaned);
}

/* --- open and close ---------------------------------------------------- */

int meta_kv_open(struct meta *m)
{
	struct kv_pub *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	k->m = m;
	k->ops = m->kv_ops;
	k->ctx = m->kv_ctx;
	k->n_table = TABLE_MIN;
	k->table = calloc(k->n_table, sizeof(*k->table));
	k->dirs = calloc(KV_WRITTEN_DIRS, sizeof(*k->dirs));
	list_init(&k->queue);
	pthread_mutex_init(&k->lock, NULL);
	cond_init(&k->work);
	cond_init(&k->cleaned);
	m->kv = k;
	return k->table && k->dirs ? 0 : -ENOMEM;
}

/* What was dirty when a daemon was killed is not known: look at it all. */
static void first_publish(struct kv_pub *k)
{
	scoped_lock(&k->lock);
	if (meta_node_kept(k->m)) {
		k->audits_wanted++;
		k->audit_why = "a warm restart";
	} else {
		k->refills_wanted++;
	}
}

int meta_kv_start(struct meta *m)
{
	struct kv_pub *k = m->kv;
	int err;

	if (!k->ops)
		return 0;
	first_publish(k);
	err = pthread_create(&k->sender, NULL, kv_sender_thread, k);
	if (err)
		return -err;
	k->has_sender = true;
	pthread_setname_np(k->sender, "kv-send");
	err = pthread_create(&k->auditor, NULL, kv_auditor_thread, k);
	if (err)
		return -err;
	k->has_auditor = true;
	pthread_setname_np(k->auditor, "kv-audit");
	return 0;
}

/* A private server ends with the daemon: nobody would read the rest. */
static void flush(struct kv_pub *k)
{
	struct timespec until = clock_timespec(meta_deadline(k->m, 0));

	if (k->m->embedded || !k->has_sender)
		return;
	scoped_lock(&k->lock);
	while (k->n_names && kv_can_send(k))
		if (pthread_cond_timedwait(&k->cleaned, &k->lock, &until))
			break;
}

void meta_kv_stop(struct meta *m)
{
	struct kv_pub *k = m->kv;

	flush(k);
	pthread_mutex_lock(&k->lock);
	k->stop = true;
	pthread_cond_broadcast(&k->work);
	pthread_cond_broadcast(&k->cleaned);
	pthread_mutex_unlock(&k->lock);
	if (k->has_sender)
		pthread_join(k->sender, NULL);
	if (k->has_auditor)
		pthread_join(k->auditor, NULL);
	k->has_sender = k->has_auditor = false;
}

/* The connections are closed: nothing is in flight any more. */
void meta_kv_close(struct meta *m)
{
	struct kv_pub *k = m->kv;

	for (uint32_t i = 0; k->table && i < k->n_table; i++) {
		struct kv_name *n = k->table[i], *next;

		for (; n; n = next) {
			next = n->next;
			free(n);
		}
	}
	free(k->table);
	free(k->dirs);
	pthread_cond_destroy(&k->work);
	pthread_cond_destroy(&k->cleaned);
	pthread_mutex_destroy(&k->lock);
	free(k);
	m->kv = NULL;
}

void meta_kv_stats(struct meta *m, struct meta_stats *s)
{
	struct kv_pub *k = m->kv;

	s->n_published = k->n_published;
	s->n_conflicts = k->n_conflicts;
	s->n_dropped = k->n_dropped;
	s->n_retracted = k->n_retracted;
	s->n_tombstoned = k->n_tombstoned;
	s->n_audits = k->n_audits;
	s->n_refills = k->n_refills;
	s->n_swept = k->n_swept;
	scoped_lock(&k->lock);
	s->n_dirty = k->n_names;
}
