// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "meta/internal.h"
#include "meta/kv.h"
#include "meta/kv_find_impl.h"
#include "meta/record.h"

/*
 * Trips: what goes to Redis in one write and comes back in one read, see
 * kv_find.c.
 */

#define TRIPS_MAX 4u
#define HMGET_NAMES 200u

/* One name of a trip, with all that is needed after its request is finished. */
struct item {
	struct request *r;
	unsigned ask;
	const char *path; /* good while the trip is made */
	uint16_t ns_len, path_len;
	struct key_place place;
};

struct hmget {
	struct trip *trip;
	unsigned first, n; /* items */
};

struct trip {
	struct kv_find *f;
	unsigned n_items, n_hmgets;
	unsigned left; /* replies owed, and one while it is being sent */
	struct hmget *hmgets;
	struct item items[];
};

/* --- replies: on the connection's thread ------------------------------- */

static int found_file(struct meta *m, const struct redis_reply *reply,
		      struct meta_kv_found *f)
{
	struct record r;
	const char *p;
	size_t n;

	if (redis_reply_str(reply, &p, &n) || record_decode(p, n, &r))
		return -ENOENT;
	*f = (struct meta_kv_found){.generation = r.generation,
				    .size_bytes = r.size_bytes,
				    .checksum = {r.checksum[0], r.checksum[1]},
				    .mode = r.mode,
				    .uid = r.uid,
				    .gid = r.gid};
	for (uint32_t i = 0; i < r.n_holders; i++)
		if (meta_node_is_reached(m, r.holders[i]))
			f->holders[f->n_holders++] = r.holders[i];
	return f->n_holders ? 0 : -ENOENT;
}

static int found_dir(const struct redis_reply *reply, struct meta_kv_found *f)
{
	const char *p;
	size_t n;

	memset(f, 0, sizeof(*f));
	f->is_dir = true;
	if (redis_reply_str(reply, &p, &n))
		return -ENOENT;
	return record_dir_decode(p, n, &f->mode, &f->uid, &f->gid) ? -ENOENT
								   : 0;
}

static int found(struct meta *m, const struct redis_reply *reply, unsigned i,
		 struct meta_kv_found *f)
{
	int err = found_file(m, redis_reply_at(reply, 2 * (size_t)i), f);

	return err ? found_dir(redis_reply_at(reply, 2 * (size_t)i + 1), f) : 0;
}

static void trip_unref(struct kv_find *f, struct trip *t)
{
	if (--t->left)
		return;
	f->n_trips--;
	free(t->hmgets);
	free(t);
}

static void hmget_settle(struct hmget *h, int err,
			 const struct redis_reply *reply)
{
	struct trip *t = h->trip;
	struct kv_find *f = t->f;
	struct list finished;

	list_init(&finished);
	if (!err)
		err = meta_reply_errno(reply);
	if (!err && redis_reply_count(reply) != 2 * (size_t)h->n)
		err = -EPROTO;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < h->n; i++) {
		struct item *item = &t->items[h->first + i];
		struct request *r = item->r;

		if (!r->finished)
			kv_find_answer(r, item->ask,
				       err ? -EIO
					   : found(f->m, reply, i,
						   &r->asks[item->ask].found),
				       &finished);
		kv_find_unref(r);
	}
	trip_unref(f, t);
	pthread_mutex_unlock(&f->lock);
	kv_find_tell(f, &finished);
}

static void hmget_done(void *ctx, int err, struct redis_reply *reply)
{
	struct hmget *h = ctx;
	struct kv_find *f = h->trip->f;

	hmget_settle(h, err, reply);
	kv_find_pump(f);
}

/* --- trips ------------------------------------------------------------- */

static int by_bucket(const void *a, const void *b)
{
	const struct item *x = a, *y = b;
	int order;

	if (x->ns_len != y->ns_len)
		return x->ns_len < y->ns_len ? -1 : 1;
	order = memcmp(x->path, y->path, x->ns_len);
	if (order)
		return order;
	if (x->place.group != y->place.group)
		return x->place.group < y->place.group ? -1 : 1;
	return x->place.sub < y->place.sub ? -1 : x->place.sub > y->place.sub;
}

/* The items' runs of one bucket. */
static int hmgets_make(struct trip *t)
{
	struct hmget *h = NULL;

	t->hmgets = calloc(t->n_items, sizeof(*t->hmgets));
	if (!t->hmgets)
		return -ENOMEM;
	qsort(t->items, t->n_items, sizeof(*t->items), by_bucket);
	for (unsigned i = 0; i < t->n_items; i++) {
		if (!h || h->n == HMGET_NAMES ||
		    by_bucket(&t->items[h->first], &t->items[i]) != 0) {
			h = &t->hmgets[t->n_hmgets++];
			*h = (struct hmget){.trip = t, .first = i};
		}
		h->n++;
	}
	return 0;
}

static void hmget_format(struct redis_cmd *c, struct meta *m,
			 const struct hmget *h)
{
	const struct item *item = &h->trip->items[h->first];
	char tag[KEY_TAG_MAX], dir[KV_REST_MAX + 1];

	key_tag_kv(tag, item->path, item->ns_len, item->place.group);
	redis_cmd_str(c, "HMGET");
	meta_cmd_key(c, m, tag, "b%u", item->place.sub);
	for (unsigned i = 0; i < h->n; i++, item++) {
		const char *rest = item->path + item->ns_len + 1;
		size_t n = item->path_len - item->ns_len - 1u;

		memcpy(dir, rest, n);
		dir[n] = '/';
		redis_cmd_bin(c, rest, n);
		redis_cmd_bin(c, dir, n + 1);
	}
}

/* The names of the first pending requests; NULL: none, or no memory. */
static struct trip *trip_make(struct kv_find *f)
{
	struct trip *t = malloc(sizeof(*t) + KV_TRIP_NAMES * sizeof(*t->items));

	if (!t)
		return NULL;
	*t = (struct trip){.f = f, .left = 1};
	while (!list_empty(&f->pending)) {
		struct request *r =
			container_of(f->pending.next, struct request, wait);

		if (t->n_items + r->left > KV_TRIP_NAMES)
			break;
		list_remove(&r->wait);
		r->sent_ns = clock_now_ns();
		for (unsigned i = 0; i < r->n; i++) {
			struct meta_kv_ask *a = &r->asks[i];
			const char *slash = memchr(a->path, '/', a->path_len);

			if (a->err != -EINPROGRESS)
				continue;
			r->refs++;
			t->items[t->n_items++] = (struct item){
				.r = r,
				.ask = i,
				.path = a->path,
				.ns_len = (uint16_t)(slash - a->path),
				.path_len = a->path_len,
				.place = {.group = a->found.mode,
					  .sub = a->found.uid}};
		}
	}
	return t;
}

/*
 * The commands are made under the lock, while the paths are good for sure: a
 * request that ends meanwhile takes them away.
 */
static unsigned commands_make(struct kv_find *f, struct trip *t,
			      struct redis_cmd **cmds)
{
	if (hmgets_make(t))
		return 0;
	*cmds = calloc(t->n_hmgets, sizeof(**cmds));
	if (!*cmds)
		return 0;
	for (unsigned i = 0; i < t->n_hmgets; i++)
		hmget_format(&(*cmds)[i], f->m, &t->hmgets[i]);
	t->left += t->n_hmgets;
	return t->n_hmgets;
}

/* What could not be asked. */
static void items_fail(struct trip *t, struct list *finished)
{
	for (unsigned i = 0; i < t->n_items; i++) {
		struct request *r = t->items[i].r;

		if (!r->finished)
			kv_find_answer(r, t->items[i].ask, -EIO, finished);
		kv_find_unref(r);
	}
}

static void trip_send(struct kv_find *f, struct trip *t, struct redis_cmd *cmds,
		      unsigned n)
{
	struct redis *link = f->m->links[META_LOOKUP];
	int err = 0;

	redis_hold(link);
	for (unsigned i = 0; i < n; i++) {
		struct hmget *h = &t->hmgets[i];

		/* the tag chooses the server: one for all today */
		if (!err)
			err = meta_send(f->m, META_LOOKUP, "", &cmds[i],
					hmget_done, h);
		if (err)
			hmget_settle(h, err, NULL);
		redis_cmd_fini(&cmds[i]);
	}
	redis_release(link);
	free(cmds);
	pthread_mutex_lock(&f->lock);
	trip_unref(f, t);
	pthread_mutex_unlock(&f->lock);
}

/* Returns: false if nothing waits, or too much is under way. */
static bool pump_once(struct kv_find *f)
{
	struct redis_cmd *cmds = NULL;
	struct list finished;
	struct trip *t;
	unsigned n;

	list_init(&finished);
	pthread_mutex_lock(&f->lock);
	if (f->stop || f->n_trips >= TRIPS_MAX || list_empty(&f->pending) ||
	    !(t = trip_make(f))) {
		pthread_mutex_unlock(&f->lock);
		return false;
	}
	f->n_trips++;
	f->n_trips_all++;
	n = commands_make(f, t, &cmds);
	if (!n) {
		items_fail(t, &finished);
		trip_unref(f, t);
	}
	pthread_mutex_unlock(&f->lock);
	if (n)
		trip_send(f, t, cmds, n);
	kv_find_tell(f, &finished);
	return true;
}

void kv_find_pump(struct kv_find *f)
{
	while (pump_once(f))
		;
}
