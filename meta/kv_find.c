// SPDX-License-Identifier: MIT
#include "meta/kv_find.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/list.h"
#include "meta/internal.h"
#include "meta/kv.h"
#include "meta/namespace.h"
#include "meta/record.h"

/*
 * Lookups. A request is n names of one caller; a trip is what goes to Redis in
 * one write and comes back in one read: the names of one or more requests,
 * those of one bucket in one HMGET.
 *
 *      request ──▶ pending ──▶ trip (at most TRIPS_MAX at a time) ──▶ done
 *         │                      ▲
 *         └──▶ unknown namespace ┘ the thread asks for its record first
 *
 * The thread also ends requests whose deadline has passed. Their asks are the
 * caller's again then: a late reply finds the request finished and leaves
 * them alone.
 */

#define TRIPS_MAX 4u
#define TRIP_NAMES 2000u
#define HMGET_NAMES 200u
#define REST_MAX 4096u

struct request {
	struct list link; /* all; the pending ones in `pending` as well */
	struct list wait;
	struct meta_kv_ask *asks; /* the caller's, until finished */
	unsigned n;
	unsigned refs; /* the trip's items, and one until it is finished */
	unsigned left; /* names without an answer */
	int64_t deadline;
	bool finished;
	bool sent;    /* Redis has been asked */
	bool unknown; /* a namespace that is not known here */
	int err;
	void (*done)(void *ctx, int err);
	void *ctx;
};

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

struct kv_find {
	struct meta *m;
	/* Guards all below but the counters; before members.c's. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list all;     /* not finished */
	struct list pending; /* to be sent */
	struct list unknown; /* the thread asks for their namespaces */
	unsigned n_trips;
	int64_t wake_ns; /* when the thread looks next; it alone writes it */
	bool stop;
	pthread_t thread;
	bool has_thread;
	_Atomic uint64_t n_names, n_trips_all;
};

/* --- requests ---------------------------------------------------------- */

/* The caller holds the lock; it calls done after letting it go. */
static void unref(struct request *r)
{
	if (--r->refs == 0)
		free(r);
}

/* Takes it off every list: from here on nobody touches its asks. */
static void finish(struct request *r)
{
	r->finished = true;
	list_remove(&r->link);
	list_remove(&r->wait);
}

/* Those that are finished, to be told without the lock. */
static void tell(struct kv_find *f, struct list *finished)
{
	struct list *l;

	while ((l = list_pop_front(finished))) {
		struct request *r = container_of(l, struct request, link);

		r->done(r->ctx, r->err);
		pthread_mutex_lock(&f->lock);
		unref(r);
		pthread_mutex_unlock(&f->lock);
	}
}

static void end(struct request *r, struct list *finished)
{
	finish(r);
	list_push_back(finished, &r->link);
}

static void end_unanswered(struct request *r, struct list *finished)
{
	for (unsigned i = 0; i < r->n; i++)
		if (r->asks[i].err == -EINPROGRESS)
			r->asks[i].err = -EIO;
	r->err = -EIO;
	end(r, finished);
}

static void answer(struct request *r, unsigned ask, int err,
		   struct list *finished)
{
	r->asks[ask].err = err;
	if (err == -EIO)
		r->err = -EIO;
	if (--r->left == 0)
		end(r, finished);
}

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
		if (meta_node_is_live(m, r.holders[i]))
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
			answer(r, item->ask,
			       err ? -EIO
				   : found(f->m, reply, i,
					   &r->asks[item->ask].found),
			       &finished);
		unref(r);
	}
	trip_unref(f, t);
	pthread_mutex_unlock(&f->lock);
	tell(f, &finished);
}

static void pump(struct kv_find *f);

static void hmget_done(void *ctx, int err, struct redis_reply *reply)
{
	struct hmget *h = ctx;
	struct kv_find *f = h->trip->f;

	hmget_settle(h, err, reply);
	pump(f);
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
	char tag[KEY_TAG_MAX], dir[REST_MAX + 1];

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
	struct trip *t = malloc(sizeof(*t) + TRIP_NAMES * sizeof(*t->items));

	if (!t)
		return NULL;
	*t = (struct trip){.f = f, .left = 1};
	while (!list_empty(&f->pending)) {
		struct request *r =
			container_of(f->pending.next, struct request, wait);

		if (t->n_items + r->left > TRIP_NAMES)
			break;
		list_remove(&r->wait);
		r->sent = true;
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
			answer(r, t->items[i].ask, -EIO, finished);
		unref(r);
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
	tell(f, &finished);
	return true;
}

static void pump(struct kv_find *f)
{
	while (pump_once(f))
		;
}

/* --- where names live -------------------------------------------------- */

/*
 * A name's bucket, kept in its `found` until the answer replaces it.
 * Returns: -EINPROGRESS, -ENOENT no name of ours, -EAGAIN not known here.
 */
static int place(struct meta *m, struct meta_kv_ask *a)
{
	const char *slash = memchr(a->path, '/', a->path_len);
	size_t ns_len = slash ? (size_t)(slash - a->path) : 0;
	size_t rest_len = slash ? a->path_len - ns_len - 1 : 0;
	struct key_place p;
	uint32_t n_sub;

	if (!ns_len || !rest_len || rest_len >= REST_MAX)
		return -ENOENT;
	n_sub = meta_namespace_subs_known(m, a->path, ns_len);
	if (!n_sub)
		return -EAGAIN;
	p = key_place(slash + 1, rest_len, n_sub);
	a->found.mode = p.group;
	a->found.uid = p.sub;
	return -EINPROGRESS;
}

/* Places of all names; the request is the caller's or the thread's alone. */
static void places(struct meta *m, struct request *r, bool last)
{
	r->left = 0;
	r->unknown = false;
	for (unsigned i = 0; i < r->n; i++) {
		struct meta_kv_ask *a = &r->asks[i];

		if (a->err == -EAGAIN)
			a->err = place(m, a);
		if (a->err == -EAGAIN && last)
			a->err = -ENOENT;
		r->unknown |= a->err == -EAGAIN;
		r->left += a->err == -EINPROGRESS;
	}
}

/* --- the thread -------------------------------------------------------- */

/* Late ones end; returns when the next one would. */
static int64_t expire(struct kv_find *f, struct list *finished, bool *overdue)
{
	int64_t now = clock_now_ns(), next = INT64_MAX;

	list_for_each_safe (l, &f->all) {
		struct request *r = container_of(l, struct request, link);

		if (r->deadline > now) {
			next = r->deadline < next ? r->deadline : next;
			continue;
		}
		*overdue |= r->sent;
		end_unanswered(r, finished);
	}
	return next;
}

/* Requests whose namespaces are to be asked for; the thread's meanwhile. */
static void unknown_take(struct kv_find *f, struct list *unknown)
{
	struct list *l;

	while ((l = list_pop_front(&f->unknown))) {
		struct request *r = container_of(l, struct request, wait);

		list_remove(&r->link);
		list_push_back(unknown, &r->wait);
	}
}

static void unknown_go_on(struct kv_find *f, struct request *r, int err,
			  struct list *finished)
{
	scoped_lock(&f->lock);
	if (err || f->stop) {
		for (unsigned i = 0; i < r->n; i++)
			if (r->asks[i].err == -EAGAIN)
				r->asks[i].err = -EINPROGRESS;
		end_unanswered(r, finished);
	} else if (!r->left) {
		end(r, finished);
	} else {
		list_push_back(&f->all, &r->link);
		list_push_back(&f->pending, &r->wait);
	}
}

/* One trip for all of them. It must not keep the thread from ending others in
 * time: until is when the next one would have to. */
static void unknown_ask(struct kv_find *f, struct list *unknown, int64_t until)
{
	struct list finished;
	struct list *l;
	int err;

	list_init(&finished);
	list_for_each (u, unknown) {
		struct request *r = container_of(u, struct request, wait);

		until = r->deadline < until ? r->deadline : until;
	}
	err = meta_namespace_learn(f->m, until);
	while ((l = list_pop_front(unknown))) {
		struct request *r = container_of(l, struct request, wait);

		places(f->m, r, !err);
		unknown_go_on(f, r, err, &finished);
	}
	tell(f, &finished);
	pump(f);
}

/* Returns: false at the end. */
static bool thread_wait(struct kv_find *f, struct list *unknown,
			struct list *finished, bool *overdue)
{
	scoped_lock(&f->lock);
	*overdue = false;
	for (;;) {
		struct timespec t;

		if (f->stop)
			return false;
		unknown_take(f, unknown);
		f->wake_ns = expire(f, finished, overdue);
		if (!list_empty(unknown) || !list_empty(finished))
			return true;
		t = clock_timespec(f->wake_ns);
		if (f->wake_ns == INT64_MAX)
			pthread_cond_wait(&f->changed, &f->lock);
		else
			pthread_cond_timedwait(&f->changed, &f->lock, &t);
	}
}

static void *find_thread(void *arg)
{
	struct kv_find *f = arg;
	struct list finished, unknown;
	bool overdue;

	list_init(&finished);
	list_init(&unknown);
	while (thread_wait(f, &unknown, &finished, &overdue)) {
		if (overdue)
			redis_suspect(f->m->links[META_LOOKUP]);
		tell(f, &finished);
		if (!list_empty(&unknown))
			unknown_ask(f, &unknown, f->wake_ns);
	}
	return NULL;
}

/* --- asking ------------------------------------------------------------ */

static void request_add(struct kv_find *f, struct request *r)
{
	list_push_back(&f->all, &r->link);
	if (r->unknown)
		list_push_back(&f->unknown, &r->wait);
	else
		list_push_back(&f->pending, &r->wait);
	if (r->unknown || r->deadline < f->wake_ns)
		pthread_cond_signal(&f->changed);
}

int meta_kv_lookup_send(struct meta *m, int64_t deadline,
			struct meta_kv_ask *asks, unsigned n,
			void (*done)(void *ctx, int err), void *ctx)
{
	struct kv_find *f = m->find;
	struct request *r;
	bool stop;

	if (n > TRIP_NAMES)
		return -E2BIG;
	if (!redis_up(m->links[META_LOOKUP]))
		return -EIO;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	*r = (struct request){.asks = asks,
			      .n = n,
			      .refs = 1,
			      .deadline = meta_deadline(m, deadline),
			      .done = done,
			      .ctx = ctx};
	list_init(&r->link);
	list_init(&r->wait);
	for (unsigned i = 0; i < n; i++)
		asks[i].err = -EAGAIN;
	places(m, r, false);
	f->n_names += n;
	if (!r->left && !r->unknown) { /* no names of ours */
		free(r);
		done(ctx, 0);
		return 0;
	}
	pthread_mutex_lock(&f->lock);
	stop = f->stop;
	if (!stop)
		request_add(f, r);
	pthread_mutex_unlock(&f->lock);
	if (stop) {
		free(r);
		return -EIO;
	}
	pump(f);
	return 0;
}

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int err;
};

static void wake(void *ctx, int err)
{
	struct waiter *w = ctx;

	scoped_lock(&w->lock);
	w->err = err;
	w->done = true;
	pthread_cond_signal(&w->cond);
}

/* The thread sees to it that an answer comes by the deadline. */
static int send_and_wait(struct meta *m, int64_t deadline,
			 struct meta_kv_ask *asks, unsigned n)
{
	struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER,
			   .cond = PTHREAD_COND_INITIALIZER};
	int err = meta_kv_lookup_send(m, deadline, asks, n, wake, &w);

	if (err) {
		for (unsigned i = 0; i < n; i++)
			asks[i].err = -EIO;
		return -EIO;
	}
	scoped_lock(&w.lock);
	while (!w.done)
		pthread_cond_wait(&w.cond, &w.lock);
	return w.err;
}

int meta_kv_lookup_many(struct meta *m, int64_t deadline,
			struct meta_kv_ask *asks, unsigned n)
{
	int err = 0;

	deadline = meta_deadline(m, deadline);
	for (unsigned at = 0; at < n; at += TRIP_NAMES) {
		unsigned some = n - at < TRIP_NAMES ? n - at : TRIP_NAMES;
		int e = send_and_wait(m, deadline, asks + at, some);

		err = err ? err : e;
	}
	return err;
}

int meta_kv_lookup(struct meta *m, int64_t deadline, const char *path,
		   uint16_t path_len, struct meta_kv_found *found)
{
	struct meta_kv_ask a = {.path = path, .path_len = path_len};
	int err = send_and_wait(m, deadline, &a, 1);

	if (!err && !a.err)
		*found = a.found;
	return err ? err : a.err;
}

/* --- open and close ---------------------------------------------------- */

int meta_kv_find_open(struct meta *m)
{
	struct kv_find *f = calloc(1, sizeof(*f));
	pthread_condattr_t attr;
	int err;

	if (!f)
		return -ENOMEM;
	f->m = m;
	f->wake_ns = INT64_MAX;
	list_init(&f->all);
	list_init(&f->pending);
	list_init(&f->unknown);
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &attr);
	pthread_condattr_destroy(&attr);
	m->find = f;
	err = pthread_create(&f->thread, NULL, find_thread, f);
	if (err)
		return -err;
	f->has_thread = true;
	pthread_setname_np(f->thread, "kv-find");
	return 0;
}

void meta_kv_find_stop(struct meta *m)
{
	struct kv_find *f = m->find;
	struct list finished;

	if (!f)
		return;
	list_init(&finished);
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
	if (f->has_thread)
		pthread_join(f->thread, NULL);
	f->has_thread = false;
	pthread_mutex_lock(&f->lock);
	list_for_each_safe (l, &f->all)
		end_unanswered(container_of(l, struct request, link),
			       &finished);
	pthread_mutex_unlock(&f->lock);
	tell(f, &finished);
}

void meta_kv_find_close(struct meta *m)
{
	struct kv_find *f = m->find;

	if (!f)
		return;
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
	m->find = NULL;
}

void meta_kv_find_stats(struct meta *m, struct meta_stats *s)
{
	s->n_lookups = m->find->n_names;
	s->n_lookup_trips = m->find->n_trips_all;
}
