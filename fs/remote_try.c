// SPDX-License-Identifier: MIT
#include "fs/remote_try.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/kv.h"

/*
 * A try lives until three have let go of it: who waits, the call, and the
 * grant. Nobody's thread waits for bytes: what ends a try calls `done`, the
 * watcher where bytes stopped coming.
 */

#define PENDING 1
#define QUARANTINE_SHARE 20	   /* a twentieth of the pool */
#define SLOWEST_BYTES_S (64 << 20) /* where no rate was measured yet */
#define PATIENCE_NS (250 * NS_PER_MS)
#define TICK_NS (25 * NS_PER_MS)

/* -- a try --------------------------------------------------------------- */

/* r->try_lock guards all but what is written before the call is out. */
struct attempt {
	struct list link; /* of r->tries, until it is over */
	struct remote *r;
	unsigned refs;
	int call_status, grant_status; /* PENDING, 0 or -errno */
	bool over, quarantined, cancelled, part;
	bool to_the_end;  /* told only when nothing is written any more */
	const char *path; /* the fetch's own: which one it is of */
	uint64_t hash;	  /* of the path, where what follows is asked for */
	int failed;	  /* why, while the last bytes may still land */
	struct remote_told *told;
	struct engine_call call;
	struct engine_peer *peer;
	struct engine_grant *grant;  /* NULL once it is over */
	uint64_t offset, size_bytes; /* of what is asked for */
	uint64_t seen_bytes, peer_bytes;
	int64_t patience, until, deadline;
	void (*done)(void *ctx, int status);
	void *ctx;
};

/* Lock held, and let go of. */
static void put_unlock(struct attempt *t)
{
	bool last = --t->refs == 0;
	struct remote *r = t->r;

	pthread_mutex_unlock(&r->try_lock);
	if (!last)
		return;
	engine_peer_put(t->peer);
	free(t);
}

/* What the try came to, or PENDING; lock held. The grant counts its bytes, so
 * once it is complete the answer need not be waited for. */
static int outcome(const struct attempt *t)
{
	if (t->failed)
		return t->grant ? PENDING : t->failed;
	if (t->part && t->call_status == PENDING && !t->grant_status)
		return PENDING; /* its sum is in the answer */
	if (t->size_bytes && t->grant_status != PENDING)
		return t->grant_status;
	if (t->call_status < 0)
		return t->call_status;
	return t->size_bytes ? PENDING : t->call_status;
}

/* Gives up what is still under way; lock held. An answer that is on its way
 * after the bytes is let come: it says what is next. */
static void abandon(struct attempt *t, int status)
{
	if (t->grant && t->grant_status == PENDING) {
		t->quarantined = true;
		atomic_fetch_add(&t->r->counters.quarantined_bytes,
				 t->size_bytes);
		engine_grant_close(t->grant);
	}
	if (status && t->call_status == PENDING)
		engine_call_cancel(t->r->engine, &t->call);
}

/* Tells once who waits; lock held, and let go of with a reference. */
static void end_unlock(struct attempt *t, int status)
{
	struct remote *r = t->r;

	if (t->to_the_end && status && t->grant && !t->failed) {
		t->failed = status; /* and said when the grant is over */
		list_remove(&t->link);
		abandon(t, status);
	} else if (!t->over) {
		t->over = true;
		list_remove(&t->link);
		abandon(t, status);
		pthread_mutex_unlock(&r->try_lock);
		t->done(t->ctx, status);
		pthread_mutex_lock(&r->try_lock);
		t->refs--;
	}
	put_unlock(t);
}

static void step_unlock(struct attempt *t)
{
	int status = outcome(t);

	if (status == PENDING)
		put_unlock(t);
	else
		end_unlock(t, status);
}

/* Lock held. */
static int learn(struct attempt *t, int status, const void *reply, uint32_t n)
{
	if (!status && t->part)
		return remote_sum_decode(reply, n, t->told->sum);
	if (status == -EAGAIN && n &&
	    remote_fetching_decode(reply, n, &t->told->fetching))
		return -EPROTO;
	return status;
}

static void answered(struct engine_call *call, int status, const void *reply,
		     uint32_t reply_bytes)
{
	struct attempt *t = container_of(call, struct attempt, call);

	if (!status && reply_bytes && t->hash)
		remote_ahead_learn(t->r, t->hash, reply, reply_bytes);
	pthread_mutex_lock(&t->r->try_lock);
	if (!t->over)
		status = learn(t, status, reply, reply_bytes);
	t->call_status = status > 0 ? -EPROTO : status;
	step_unlock(t);
}

static void arrived(void *ctx, int status)
{
	struct attempt *t = ctx;

	pthread_mutex_lock(&t->r->try_lock);
	t->grant = NULL;
	t->grant_status = status;
	if (t->quarantined && !fault_hit("remote.quarantine"))
		atomic_fetch_sub(&t->r->counters.quarantined_bytes,
				 t->size_bytes);
	step_unlock(t);
}

static const struct engine_grant_ops grant_ops = {.done = arrived};

int64_t remote_patience(uint64_t size_bytes, uint64_t rate_bytes_s, bool wait,
			int64_t left_ns)
{
	uint64_t rate = rate_bytes_s ? rate_bytes_s : SLOWEST_BYTES_S;
	int64_t ns = PATIENCE_NS + (int64_t)((double)size_bytes * 4 /
					     (double)rate * (double)NS_PER_S);

	return ns < left_ns / 3 && !wait ? ns : left_ns / 3;
}

static struct attempt *try_new(struct remote *r, struct engine_peer *peer,
			       const struct remote_msg *m, int64_t deadline)
{
	struct attempt *t = calloc(1, sizeof(*t));
	struct engine_peer_info info;
	int64_t now = clock_now_ns();

	if (!t)
		return NULL;
	engine_peer_ref(peer);
	engine_peer_info(peer, &info);
	list_init(&t->link);
	t->r = r;
	t->peer = peer;
	t->peer_bytes = info.came_bytes;
	t->refs = 2; /* until it is over, and remote_try_start's */
	t->offset = m->offset;
	t->size_bytes = m->length_bytes ? m->length_bytes : m->size_bytes;
	t->deadline = deadline;
	t->part = m->length_bytes;
	t->patience = remote_patience(t->size_bytes, info.came_bytes_s,
				      m->flags & REMOTE_WAIT, deadline - now);
	t->until = now + t->patience;
	t->path = m->path;
	if (m->flags & REMOTE_CHAIN && !m->length_bytes)
		t->hash = remote_ahead_hash(m->path, m->path_len);
	return t;
}

static int open_grant(struct attempt *t, struct engine_peer *peer,
		      const struct remote_target *target,
		      struct engine_segment *segment)
{
	int err;
	/* It may be over before this returns: its end must find the handle
	 * written, or it would be written after it is void. */
	scoped_lock(&t->r->try_lock);

	err = engine_grant_open(peer, target->region,
				target->offset + t->offset, t->size_bytes,
				t->deadline, &grant_ops, t, &t->grant, segment);
	if (err)
		return err;
	t->refs++;
	t->grant_status = PENDING;
	return 0;
}

static int start_call(struct attempt *t, struct engine_peer *peer,
		      const struct remote_msg *m)
{
	uint8_t bytes[REMOTE_MSG_MAX];
	int err;

	t->call = (struct engine_call){
		.type = REMOTE_FETCH,
		.payload = bytes,
		.payload_bytes = (uint32_t)remote_encode(m, bytes),
		.deadline_ns = t->deadline,
		.done = answered,
	};
	pthread_mutex_lock(&t->r->try_lock);
	t->refs++;
	t->call_status = PENDING;
	pthread_mutex_unlock(&t->r->try_lock);
	err = engine_call_start(peer, &t->call);
	if (!err)
		return 0;
	pthread_mutex_lock(&t->r->try_lock);
	t->refs--;
	t->call_status = err;
	pthread_mutex_unlock(&t->r->try_lock);
	return err;
}

/* Over before it was under way: nobody is told, unless somebody was. */
static int withdraw(struct attempt *t, int err)
{
	scoped_lock(&t->r->try_lock);

	if (t->over)
		return 0;
	t->over = true;
	t->refs--;
	list_remove(&t->link);
	abandon(t, err);
	return err;
}

static void watch(struct attempt *t)
{
	struct remote *r = t->r;
	scoped_lock(&r->try_lock);

	if (t->over)
		return;
	list_push_back(&r->tries, &t->link);
	if (r->watch_idle)
		pthread_cond_signal(&r->try_begun);
}

static int start(struct attempt *t, struct engine_peer *peer,
		 struct remote_msg *m, const struct remote_target *target)
{
	int err = t->size_bytes ? open_grant(t, peer, target, &m->segment) : 0;

	if (!err) {
		watch(t);
		err = start_call(t, peer, m);
	}
	if (err)
		err = withdraw(t, err);
	pthread_mutex_lock(&t->r->try_lock);
	put_unlock(t);
	return err;
}

int remote_try_start(struct remote *r, struct remote_msg *m, uint32_t holder,
		     struct remote_target *target, int64_t deadline,
		     void (*done)(void *ctx, int status), void *ctx,
		     struct remote_told *told)
{
	struct engine_peer *peer;
	struct attempt *t;
	int err;

	err = remote_peer(r, holder, &peer);
	if (err)
		return err;
	if (remote_holds_too_much(peer,
				  atomic_load(&r->counters.quarantined_bytes),
				  r->pool_bytes / QUARANTINE_SHARE)) {
		err = -EBUSY;
	} else if (!(t = try_new(r, peer, m, deadline))) {
		err = -ENOMEM;
	} else {
		t->done = done;
		t->ctx = ctx;
		t->told = told;
		t->to_the_end = t->part || target->lent || target->scratch;
		err = start(t, peer, m, target);
	}
	engine_peer_put(peer);
	return err;
}

/* -- the watcher --------------------------------------------------------- */

/* Did bytes come since it was last looked at? Before its first ones those of
 * what is ahead of it on the same link count, and of a part those of the
 * others. Lock held. */
static bool goes_on(struct attempt *t, int64_t now)
{
	uint64_t bytes = t->grant ? engine_grant_progress(t->grant) : 0;
	struct engine_peer_info info;
	bool more;

	engine_peer_info(t->peer, &info);
	more = bytes > t->seen_bytes ||
	       ((t->part || !bytes) && info.came_bytes > t->peer_bytes);
	if (!more || now >= t->deadline)
		return false;
	t->seen_bytes = bytes;
	t->peer_bytes = info.came_bytes;
	t->until = now + t->patience;
	return true;
}

static struct attempt *to_end(struct remote *r, int64_t now)
{
	list_for_each (l, &r->tries) {
		struct attempt *t = container_of(l, struct attempt, link);

		if (t->cancelled)
			return t;
		if (now >= (t->until < t->deadline ? t->until : t->deadline) &&
		    !goes_on(t, now))
			return t;
	}
	return NULL;
}

/* Lock held: until there may be something to do. */
static void doze(struct remote *r)
{
	struct timespec until = clock_timespec(clock_now_ns() + TICK_NS);

	if (!list_empty(&r->tries)) {
		pthread_cond_timedwait(&r->try_begun, &r->try_lock, &until);
		return;
	}
	r->watch_idle = true;
	pthread_cond_wait(&r->try_begun, &r->try_lock);
	r->watch_idle = false;
}

static void *watcher(void *arg)
{
	struct remote *r = arg;
	struct attempt *t;

	pthread_mutex_lock(&r->try_lock);
	while (!r->watch_stop) {
		t = to_end(r, clock_now_ns());
		if (!t) {
			doze(r);
			continue;
		}
		t->refs++;
		end_unlock(t, t->cancelled ? -ECANCELED : -ETIMEDOUT);
		pthread_mutex_lock(&r->try_lock);
	}
	pthread_mutex_unlock(&r->try_lock);
	return NULL;
}

void remote_try_cancel(struct remote *r, const char *path)
{
	scoped_lock(&r->try_lock);

	list_for_each (l, &r->tries) {
		struct attempt *t = container_of(l, struct attempt, link);

		if (!path || t->path == path)
			t->cancelled = true;
	}
	pthread_cond_signal(&r->try_begun);
}

int remote_watch_open(struct remote *r)
{
	int err;

	pthread_mutex_init(&r->try_lock, NULL);
	cond_init(&r->try_begun);
	list_init(&r->tries);
	list_init(&r->serving);
	list_init(&r->parts);
	err = pthread_create(&r->watcher, NULL, watcher, r);
	if (!err)
		pthread_setname_np(r->watcher, "kvfs-watch");
	return -err;
}

void remote_watch_close(struct remote *r)
{
	pthread_mutex_lock(&r->try_lock);
	r->watch_stop = true;
	pthread_cond_signal(&r->try_begun);
	pthread_mutex_unlock(&r->try_lock);
	pthread_join(r->watcher, NULL);
	pthread_cond_destroy(&r->try_begun);
	pthread_mutex_destroy(&r->try_lock);
}

/* -- for who waits ------------------------------------------------------- */

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t some;
	int status;
};

static void wake(void *ctx, int status)
{
	struct waiter *w = ctx;
	scoped_lock(&w->lock);

	w->status = status;
	pthread_cond_signal(&w->some);
}

static int start_and_wait(struct remote *r, struct remote_msg *m,
			  uint32_t holder, struct remote_target *t,
			  int64_t deadline, struct remote_told *told)
{
	struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER,
			   .some = PTHREAD_COND_INITIALIZER,
			   .status = PENDING};
	int err = remote_try_start(r, m, holder, t, deadline, wake, &w, told);

	if (err)
		return err;
	pthread_mutex_lock(&w.lock);
	while (w.status == PENDING)
		pthread_cond_wait(&w.some, &w.lock);
	pthread_mutex_unlock(&w.lock);
	return w.status;
}

int remote_try_over(struct remote *r, const struct remote_msg *wanted,
		    uint32_t holder, int64_t deadline, struct remote_target *t,
		    struct remote_told *told)
{
	struct remote_msg m = *wanted;
	int err = start_and_wait(r, &m, holder, t, deadline, told);

	return err ? err : remote_verify(r, t, &m, holder);
}

int remote_try(struct remote *r, const struct remote_msg *wanted,
	       uint32_t holder, int64_t deadline, struct remote_target **target,
	       struct remote_told *told)
{
	struct remote_target *t;
	int err = remote_target_new(r, wanted->size_bytes, &t);

	if (err)
		return err;
	err = remote_try_over(r, wanted, holder, deadline, t, told);
	if (err)
		remote_target_free(t);
	else
		*target = t;
	return err;
}
