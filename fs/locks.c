// SPDX-License-Identifier: MIT
#include "fs/locks.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "fs/caller.h"
#include "fs/fs.h"

/*
 * Those who wait for a lock, in the order in which they came. One thread looks
 * after all of them: whose thread has a signal is answered EINTR, whose turn
 * it may be is tried again on a worker.
 *
 * Whose turn: nobody before him in the list waits for what he would keep from
 * him. So a crowd that waits for one lock is one try, not a crowd of them; and
 * readers do not pass a writer who came first.
 */

#define LANES 256
#define WAITS_URING (URING_DEPTH / 2)
#define WAITS_MAX 1024
#define LEAVING_NS (50 * NS_PER_MS)
#define TRY_SOON_NS (25 * NS_PER_MS)
#define TRY_LATER_NS (100 * NS_PER_MS)
#define SOON_NS NS_PER_S
#define LOOK_NS (50 * NS_PER_MS)
#define LOOK_EACH_NS (200 * 1000) /* ten times what a look costs */
#define COMPLAIN_NS (60 * NS_PER_S)

struct lock_wait {
	struct list link;
	struct call *c;
	call_fn again;
	uint64_t key;
	int64_t since_ns, try_ns; /* next try */
	unsigned lane;
	bool busy; /* on a worker, which may end it */
	int err;   /* what he is about to be answered */
};

struct locks {
	struct fs *fs;
	struct lock_table *table;
	atomic_uint lanes[LANES]; /* who waits, by CPU of his request */

	pthread_mutex_t lock; /* a leaf; guards all below */
	pthread_cond_t wake;
	struct list waits;
	unsigned n_waits;
	int64_t look_ns, complained_ns;
	bool stop;
	pthread_t thread;
	bool has_thread;
};

struct lock_table *locks_table(struct fs *fs)
{
	return fs->locks->table;
}

unsigned locks_waiting(struct locks *l)
{
	scoped_lock(&l->lock);

	return l->n_waits;
}

static struct lock_wait *wait_of(struct list *link)
{
	return container_of(link, struct lock_wait, link);
}

/* --- whose turn it is --------------------------------------------------- */

static bool is_same_file(const struct lock_wait *w, const struct view *view,
			 uint64_t key)
{
	return w->key == key && w->c->inode->view == view;
}

static bool would_keep_out(const struct lock_wait *a, const struct lock_wait *b)
{
	const struct call_lock *x = &a->c->lock, *y = &b->c->lock;

	return is_same_file(a, b->c->inode->view, b->key) &&
	       x->flock == y->flock &&
	       a->c->fi.lock_owner != b->c->fi.lock_owner &&
	       x->start <= y->end && y->start <= x->end &&
	       (x->type == F_WRLCK || y->type == F_WRLCK);
}

static bool is_his_turn(struct locks *l, struct lock_wait *w)
{
	for (struct list *i = l->waits.next; i != &w->link; i = i->next)
		if (would_keep_out(wait_of(i), w))
			return false;
	return true;
}

static void try_again(struct lock_wait *w, int64_t now)
{
	bool young = now - w->since_ns < SOON_NS;

	w->busy = true;
	w->try_ns = now + (young ? TRY_SOON_NS : TRY_LATER_NS);
	w->c->deadline =
		now + w->c->fs->config.deadline_ms * (int64_t)NS_PER_MS;
	call_defer(w->c, w->again); /* on the heap: it cannot fail */
}

/* --- waiting ------------------------------------------------------------ */

/* Over io_uring a request under way is one of the few that its CPU has. */
static bool lane_take(struct locks *l, struct call *c, unsigned *lane)
{
	bool few = fuse_req_is_uring(c->req);
	unsigned most = few ? WAITS_URING : WAITS_MAX;

	*lane = few && c->lock.cpu > 0 ? (unsigned)c->lock.cpu % LANES : 0;
	if (atomic_fetch_add(&l->lanes[*lane], 1) < most)
		return true;
	atomic_fetch_sub(&l->lanes[*lane], 1);
	return false;
}

/* The thread answers it from here on, unless it is over. */
static int push(struct locks *l, struct lock_wait *w)
{
	scoped_lock(&l->lock);

	if (l->stop)
		return -ENOTCONN;
	w->c->lock.waits = w;
	list_push_back(&l->waits, &w->link);
	l->n_waits++;
	pthread_cond_signal(&l->wake);
	return 0;
}

static int park_in(struct locks *l, struct lock_wait *w, struct call *c)
{
	int err;

	w->c = call_keep(c);
	err = w->c ? push(l, w) : -ENOMEM;
	if (err && w->c != c)
		free(w->c);
	return err;
}

static int park(struct locks *l, struct call *c, uint64_t key, call_fn again)
{
	struct lock_wait *w = malloc(sizeof(*w));
	unsigned lane;
	int err;

	if (!w)
		return -ENOMEM;
	if (!lane_take(l, c, &lane)) {
		free(w);
		return -ENOLCK;
	}
	*w = (struct lock_wait){.again = again,
				.key = key,
				.since_ns = c->start_ns,
				.try_ns = clock_now_ns() + TRY_SOON_NS,
				.lane = lane};
	err = park_in(l, w, c);
	if (err) {
		atomic_fetch_sub(&l->lanes[lane], 1);
		free(w);
	}
	return err;
}

/* Locked. */
static void unpark(struct locks *l, struct lock_wait *w)
{
	list_remove(&w->link);
	l->n_waits--;
	w->c->lock.waits = NULL;
	atomic_fetch_sub(&l->lanes[w->lane], 1);
}

/* A try of one who waits failed. Returns: whether he goes on waiting. */
static bool wait_on(struct locks *l, struct lock_wait *w, bool leaving)
{
	scoped_lock(&l->lock);

	if (l->stop ||
	    (!w->c->lock.wait &&
	     (!leaving || clock_now_ns() > w->since_ns + LEAVING_NS)))
		return false;
	w->busy = false;
	pthread_cond_signal(&l->wake); /* a lock may have ended meanwhile */
	return true;
}

static void answer(struct locks *l, struct call *c, int err)
{
	struct lock_wait *w = c->lock.waits;

	if (w) {
		pthread_mutex_lock(&l->lock);
		unpark(l, w);
		pthread_mutex_unlock(&l->lock);
		free(w);
	}
	call_reply_err(c, err);
}

static void complain(struct locks *l)
{
	int64_t now = clock_now_ns();
	scoped_lock(&l->lock);

	if (l->complained_ns && now - l->complained_ns < COMPLAIN_NS)
		return;
	l->complained_ns = now;
	log_warn("locks: %u calls wait for locks, no more can: ENOLCK",
		 l->n_waits);
}

/* Does he wait? If not, err is what he is answered. */
static bool waits(struct locks *l, struct call *c, uint64_t key, bool leaving,
		  call_fn again, int *err)
{
	if (c->lock.waits) {
		if (wait_on(l, c->lock.waits, leaving))
			return true;
		if (c->lock.wait)
			*err = -ENOTCONN;
		return false;
	}
	if (!c->lock.wait && !leaving)
		return false;
	*err = park(l, c, key, again);
	if (*err == -ENOLCK)
		complain(l);
	return !*err;
}

void locks_tried(struct call *c, uint64_t key, int err, bool leaving,
		 call_fn again)
{
	const struct view *view = c->inode->view;
	bool gave_up = c->lock.flock && !c->lock.waits;
	struct fs *fs = c->fs;

	/* flock(2): to want another kind is to give up the one he had. */
	if (err == -EAGAIN && waits(fs->locks, c, key, leaving, again, &err)) {
		if (gave_up)
			locks_ended(fs, view, key);
		return;
	}
	answer(fs->locks, c, err);
	locks_ended(fs, view, key);
}

void locks_ended(struct fs *fs, const struct view *view, uint64_t key)
{
	struct locks *l = fs->locks;
	bool any = false;
	scoped_lock(&l->lock);

	for (struct list *i = l->waits.next; i != &l->waits; i = i->next)
		if (is_same_file(wait_of(i), view, key)) {
			wait_of(i)->try_ns = 0;
			any = true;
		}
	if (any)
		pthread_cond_signal(&l->wake);
}

/* --- the thread --------------------------------------------------------- */

/* Locked. Why he is to wait no longer, or 0. */
static int verdict(struct locks *l, struct lock_wait *w, int64_t now, bool look)
{
	int64_t deadline_ns = w->c->fs->config.deadline_ms * (int64_t)NS_PER_MS;

	if (w->busy)
		return 0;
	if (l->stop)
		return ENOTCONN;
	if (look && caller_signalled(w->c->pid))
		return EINTR;
	/* Out of our sight; nobody could end his wait. */
	if (!w->c->pid && now > w->since_ns + deadline_ns)
		return ENOLCK;
	return 0;
}

/* Locked. Takes those off the list who are to be answered. */
static void judge_all(struct locks *l, int64_t now, struct list *done)
{
	bool look = now >= l->look_ns;

	list_for_each_safe (i, &l->waits) {
		struct lock_wait *w = wait_of(i);

		w->err = verdict(l, w, now, look);
		if (!w->err)
			continue;
		unpark(l, w);
		list_push_back(done, &w->link);
	}
	if (look)
		l->look_ns = now + (l->n_waits * LOOK_EACH_NS > LOOK_NS
					    ? l->n_waits * LOOK_EACH_NS
					    : LOOK_NS);
}

/* Locked. Returns: when somebody is to be tried next. */
static int64_t try_all(struct locks *l, int64_t now)
{
	int64_t next = l->look_ns;

	list_for_each (i, &l->waits) {
		struct lock_wait *w = wait_of(i);

		if (!w->busy && w->try_ns <= now && is_his_turn(l, w))
			try_again(w, now);
		if (!w->busy && w->try_ns > now && w->try_ns < next)
			next = w->try_ns;
	}
	return next;
}

static void answer_all(struct fs *fs, struct list *done)
{
	struct list *i;

	while ((i = list_pop_front(done))) {
		struct lock_wait *w = wait_of(i);
		const struct view *view = w->c->inode->view;

		call_reply_err(w->c, w->err);
		locks_ended(fs, view, w->key);
		free(w);
	}
}

/* Returns: false: it is over, and nobody waits. */
static bool round_of(struct locks *l, struct list *done)
{
	scoped_lock(&l->lock);
	int64_t now = clock_now_ns(), next;
	struct timespec t;

	judge_all(l, now, done);
	if (!list_empty(done))
		return true;
	if (l->stop && !l->n_waits)
		return false;
	next = try_all(l, now);
	t = clock_timespec(next);
	if (l->n_waits)
		pthread_cond_timedwait(&l->wake, &l->lock, &t);
	else
		pthread_cond_wait(&l->wake, &l->lock);
	return true;
}

static void *run(void *arg)
{
	struct locks *l = arg;
	struct list done;

	list_init(&done);
	while (round_of(l, &done))
		answer_all(l->fs, &done);
	return NULL;
}

/* --- up and down -------------------------------------------------------- */

int locks_open(struct locks **out, struct fs *fs)
{
	struct locks *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	l->fs = fs;
	list_init(&l->waits);
	pthread_mutex_init(&l->lock, NULL);
	cond_init(&l->wake);
	l->table = lock_table_new();
	err = l->table ? -pthread_create(&l->thread, NULL, run, l) : -ENOMEM;
	if (err) {
		locks_close(l);
		return err;
	}
	pthread_setname_np(l->thread, "kvfs-lock");
	l->has_thread = true;
	*out = l;
	return 0;
}

void locks_quiesce(struct locks *l)
{
	if (!l || !l->has_thread)
		return;
	pthread_mutex_lock(&l->lock);
	l->stop = true;
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	l->has_thread = false;
}

void locks_close(struct locks *l)
{
	if (!l)
		return;
	locks_quiesce(l);
	lock_table_free(l->table);
	pthread_cond_destroy(&l->wake);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
