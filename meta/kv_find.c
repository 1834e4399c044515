// SPDX-License-Identifier: MIT
#include "meta/kv_find.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/list.h"
#include "meta/internal.h"
#include "meta/kv.h"
#include "meta/kv_find_impl.h"
#include "meta/namespace.h"

/*
 * Lookups. A request is n names of one caller; a trip (kv_trip.c) is what goes
 * to Redis in one write and comes back in one read: the names of one or more
 * requests, those of one bucket in one HMGET.
 *
 *      request ──▶ pending ──▶ trip (at most TRIPS_MAX at a time) ──▶ done
 *         │                      ▲
 *         └──▶ unknown namespace ┘ the thread asks for its record first
 *
 * The thread also ends requests whose deadline has passed. Their asks are the
 * caller's again then: a late reply finds the request finished and leaves
 * them alone. A patient caller is told that it is late, and told again when
 * the reply has come: his asks wait for it on the list `late`.
 *
 * A machine may be so busy that a reply is there in time and nobody reads it.
 * Then Redis is not late, we are: once, the deadline is put off.
 */

/* --- requests ---------------------------------------------------------- */

/* The caller holds the lock; it calls done after letting it go. */
void kv_find_unref(struct request *r)
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

static void end(struct request *r, struct list *finished)
{
	finish(r);
	list_push_back(finished, &r->link);
}

/* He knows; the reply may have come meanwhile. */
static void told_late(struct kv_find *f, struct request *r,
		      struct list *finished)
{
	r->telling = false;
	if (!r->left)
		end(r, finished);
	else
		list_push_back(&f->late, &r->link);
}

/* Those that are finished, to be told without the lock. */
void kv_find_tell(struct kv_find *f, struct list *finished)
{
	struct list *l;

	while ((l = list_pop_front(finished))) {
		struct request *r = container_of(l, struct request, link);

		r->done(r->ctx, r->telling ? -EINPROGRESS : r->err);
		pthread_mutex_lock(&f->lock);
		if (r->telling)
			told_late(f, r, finished);
		else
			kv_find_unref(r);
		pthread_mutex_unlock(&f->lock);
	}
}

static void end_unanswered(struct request *r, struct list *finished)
{
	for (unsigned i = 0; i < r->n; i++)
		if (r->asks[i].err == -EINPROGRESS)
			r->asks[i].err = -EIO;
	r->err = -EIO;
	end(r, finished);
}

void kv_find_answer(struct request *r, unsigned ask, int err,
		    struct list *finished)
{
	r->asks[ask].err = err;
	if (err == -EIO)
		r->err = -EIO;
	if (--r->left == 0 && !r->telling)
		end(r, finished);
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

	if (!ns_len || !rest_len || rest_len >= KV_REST_MAX)
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

/* Its reply has come, and only has to be read: it gets as long again. */
static bool is_answered(struct kv_find *f, struct request *r, int64_t now)
{
	if (!r->sent_ns || r->deferred ||
	    !redis_readable(f->m->links[META_LOOKUP]))
		return false;
	r->deferred = true;
	r->deadline = now + META_KV_LOOKUP_NS;
	return true;
}

static void expire_one(struct kv_find *f, struct request *r,
		       struct list *finished)
{
	f->n_late++;
	if (!r->patient || !r->sent_ns) {
		end_unanswered(r, finished);
		return;
	}
	r->telling = true;
	list_remove(&r->link);
	list_push_back(finished, &r->link);
}

/* Late ones end; returns when the next one would. */
static int64_t expire(struct kv_find *f, struct list *finished, bool *overdue)
{
	int64_t now = clock_now_ns(), next = INT64_MAX;

	list_for_each_safe (l, &f->all) {
		struct request *r = container_of(l, struct request, link);

		if (r->deadline > now || is_answered(f, r, now)) {
			next = r->deadline < next ? r->deadline : next;
			continue;
		}
		*overdue |= r->sent_ns != 0;
		expire_one(f, r, finished);
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
	kv_find_tell(f, &finished);
	kv_find_pump(f);
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
			redis_suspect(f->m->links[META_LOOKUP],
				      clock_now_ns() - META_KV_LOOKUP_NS / 2);
		kv_find_tell(f, &finished);
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
			struct meta_kv_ask *asks, unsigned n, bool patient,
			void (*done)(void *ctx, int err), void *ctx)
{
	struct kv_find *f = m->find;
	struct request *r;
	bool stop;

	if (n > KV_TRIP_NAMES)
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
			      .patient = patient,
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
	kv_find_pump(f);
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
	int err = meta_kv_lookup_send(m, deadline, asks, n, false, wake, &w);

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
	for (unsigned at = 0; at < n; at += KV_TRIP_NAMES) {
		unsigned some = n - at < KV_TRIP_NAMES ? n - at : KV_TRIP_NAMES;
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
	int err;

	if (!f)
		return -ENOMEM;
	f->m = m;
	f->wake_ns = INT64_MAX;
	list_init(&f->all);
	list_init(&f->pending);
	list_init(&f->unknown);
	list_init(&f->late);
	pthread_mutex_init(&f->lock, NULL);
	cond_init(&f->changed);
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
	list_for_each_safe (l, &f->late)
		end_unanswered(container_of(l, struct request, link),
			       &finished);
	pthread_mutex_unlock(&f->lock);
	kv_find_tell(f, &finished);
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
	s->n_lookups_late = m->find->n_late;
}
