// SPDX-License-Identifier: MIT
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * Fetching ahead of a reader, along what was stored after what.
 *
 * The holder of a block says in its answer to a FETCH what was stored after it
 * (remote_chain.c). It is believed only when it came true once: the block it
 * named is opened, too. From then on there is a run: the blocks ahead of that
 * reader, in the chain's order. The first of them are fetched before they are
 * asked for; the rest is only known, and the holder is asked for more (AHEAD)
 * before it runs out. Reads in another order fetch nothing ahead.
 *
 *      open a ─ FETCH(a): b, c, d …       expected: b
 *      open b ─ expected: a run;          b │ [c d] e f g …
 *               FETCH(b): c … j             │ window  known
 *      open c ─ the window moves          c │ [d e] f g …
 *
 * The window is what lies ahead of the reader, on its way or come and not yet
 * opened. Two blocks at least: one comes while the other is read. Else twice
 * the bandwidth times the delay, both measured on the run's own fetches: with
 * less the link would stand idle until the next request has crossed it; with
 * twice that, what is measured doubles until the link is the limit (the gain
 * of BBR's window). So what is fetched in vain is bounded, too.
 *
 * A reader is a thread. It has left its chain when it opens a block of another
 * node that no run and no expectation has. A thread that is gone (cat) is
 * followed by whoever comes next in its namespace. What was known is then
 * dropped, and what is on its way cancelled, unless somebody asked for it.
 *
 * Everything here is guarded by kv->lock; the names that may come next, and
 * where runs are, are also looked at without.
 */

#define RUNS_MAX 16
#define RECENT 16	/* opened or passed: readers may be several threads */
#define EXPECTED 1024	/* names that may be opened next */
#define KNOWN_LOW 24	/* fewer are known: the holder is asked for more */
#define KNOWN_MAX 128	/* of a run */
#define BURST 32	/* fetches begun under one hold of the lock */
#define WINDOW_SHARE 32 /* of the pool, at most: 1/32 */
#define WINDOW_GAIN 2	/* times bandwidth x delay */

enum ahead_state { KNOWN, COMING, HERE };

struct remote_ahead {
	struct list link; /* of its run, until it is opened or passed */
	struct run *run;
	uint64_t run_id; /* the run is another one by now: nobody waits */
	enum ahead_state state;
	bool listed;
	struct remote_fetch *fetch; /* COMING */
	uint64_t hash, delivered;   /* by the run when this one was begun */
	int64_t since_ns;
	struct remote_msg msg;
	char path[];
};

struct run {
	struct job job;
	struct remote *r;
	bool queued; /* the job is */
	uint64_t id;
	_Atomic uint64_t at; /* the block opened last; 0: there is no run */
	const struct kv_ns *ns;
	pid_t reader;
	int64_t used_ns;
	struct list ahead; /* COMING and HERE, then KNOWN */
	unsigned n_known;
	uint64_t bytes; /* COMING and HERE */
	uint64_t recent[RECENT];
	unsigned n_recent;
	uint64_t delivered, rate_bytes_s; /* the fastest of late */
	int64_t least_ns;		  /* the shortest fetch of late */
	_Atomic uint64_t asked; /* AHEAD of it is out, or was answered */
};

struct remote_runs {
	struct run run[RUNS_MAX];
	uint64_t last_id;
	_Atomic uint64_t expected[EXPECTED]; /* hashes */
};

int remote_ahead_open(struct remote *r)
{
	struct remote_runs *runs = calloc(1, sizeof(*runs));

	if (!runs)
		return -ENOMEM;
	for (unsigned i = 0; i < RUNS_MAX; i++) {
		runs->run[i].r = r;
		list_init(&runs->run[i].ahead);
	}
	r->runs = runs;
	return 0;
}

void remote_ahead_close(struct remote *r)
{
	struct list *l;

	for (unsigned i = 0; r->runs && i < RUNS_MAX; i++)
		while ((l = list_pop_front(&r->runs->run[i].ahead)))
			free(container_of(l, struct remote_ahead, link));
	free(r->runs);
	r->runs = NULL;
}

uint64_t remote_ahead_hash(const char *path, size_t len)
{
	return XXH3_64bits(path, len) | 1;
}

static _Atomic uint64_t *expected_slot(struct remote_runs *runs, uint64_t hash)
{
	return &runs->expected[hash / 2 % EXPECTED];
}

/* -- a run --------------------------------------------------------------- */

/* Off the list: opened, passed or given up. What is coming goes when it has
 * come. */
static void forget(struct run *run, struct remote_ahead *a)
{
	if (a->state == KNOWN)
		run->n_known--;
	else
		run->bytes -= a->msg.size_bytes;
	list_remove(&a->link);
	a->listed = false;
	if (a->state != COMING)
		free(a);
}

static void leave(struct remote *r, struct run *run)
{
	run->id = ++r->runs->last_id;
	run->at = run->asked = 0;
	list_for_each_safe (l, &run->ahead) {
		struct remote_ahead *a =
			container_of(l, struct remote_ahead, link);

		if (a->state == KNOWN)
			atomic_fetch_add(&r->counters.ahead_dropped, 1);
		else if (a->state == COMING)
			remote_fetch_cancel(a->fetch);
		forget(run, a);
	}
}

static struct run *oldest(struct remote_runs *runs)
{
	struct run *run = &runs->run[0];

	for (unsigned i = 0; i < RUNS_MAX; i++) {
		struct run *o = &runs->run[i];

		if (!o->at)
			return o;
		if (o->used_ns < run->used_ns)
			run = o;
	}
	return run;
}

static void begin(struct remote *r, const struct kv_ns *ns, uint64_t hash,
		  pid_t reader)
{
	struct run *run = oldest(r->runs);

	leave(r, run);
	run->ns = ns;
	run->reader = reader;
	run->used_ns = clock_now_ns();
	run->delivered = run->rate_bytes_s = 0;
	run->least_ns = 0;
	run->n_recent = 0;
	memset(run->recent, 0, sizeof(run->recent));
	run->at = hash;
}

static bool was_here(const struct run *run, uint64_t hash)
{
	for (unsigned i = 0; i < RECENT; i++)
		if (run->recent[i] == hash)
			return true;
	return run->at == hash;
}

/* The run that this block is of, and where, if it is ahead. */
static struct run *find(struct remote_runs *runs, uint64_t hash,
			struct remote_ahead **at)
{
	*at = NULL;
	for (unsigned i = 0; i < RUNS_MAX; i++) {
		struct run *run = &runs->run[i];

		if (!run->at)
			continue;
		list_for_each (l, &run->ahead) {
			*at = container_of(l, struct remote_ahead, link);
			if ((*at)->hash == hash)
				return run;
		}
		*at = NULL;
		if (was_here(run, hash))
			return run;
	}
	return NULL;
}

/* -- how far ------------------------------------------------------------- */

static uint64_t window(const struct run *run, uint64_t block_bytes)
{
	double bytes = WINDOW_GAIN * (double)run->rate_bytes_s *
		       (double)run->least_ns / NS_PER_S;
	uint64_t most = run->r->pool_bytes / WINDOW_SHARE;

	if (bytes < (double)most)
		most = (uint64_t)bytes;
	return most > 2 * block_bytes ? most : 2 * block_bytes;
}

/* What a fetch took, and what came meanwhile: slow ones count less and less.
 */
static void measure(struct run *run, const struct remote_ahead *a)
{
	int64_t took = clock_now_ns() - a->since_ns;
	uint64_t rate;

	run->delivered += a->msg.size_bytes;
	rate = (uint64_t)((double)(run->delivered - a->delivered) * NS_PER_S /
			  (double)(took > 1000 ? took : 1000));
	run->rate_bytes_s -= run->rate_bytes_s / 16;
	if (rate > run->rate_bytes_s)
		run->rate_bytes_s = rate;
	run->least_ns += run->least_ns / 64;
	if (!run->least_ns || took < run->least_ns)
		run->least_ns = took;
}

void remote_ahead_ended(struct kv *kv, struct remote_ahead *a, bool here)
{
	struct run *run = a->run;

	if (here)
		atomic_fetch_add(&kv->fs->remote->counters.ahead, 1);
	if (here && a->run_id == run->id)
		measure(run, a);
	a->fetch = NULL;
	if (!a->listed) {
		free(a);
		return;
	}
	a->state = HERE;
	if (!here)
		forget(run, a);
}

/* -- asking for more ----------------------------------------------------- */

/* AHEAD, of the last block that is known. */
struct question {
	struct engine_call call;
	struct remote *r;
	uint64_t hash;
	struct remote_msg msg;
	char path[POOL_PATH_MAX];
};

static void told(struct engine_call *call, int status, const void *reply,
		 uint32_t reply_bytes)
{
	struct question *q = container_of(call, struct question, call);

	if (!status)
		remote_ahead_learn(q->r, q->hash, reply, reply_bytes);
	free(q);
}

/* Lock held; the run is asked for no more of this one. */
static struct question *question(struct run *run)
{
	struct remote_ahead *last;
	struct question *q;

	if (list_empty(&run->ahead) || run->n_known >= KNOWN_LOW)
		return NULL;
	last = container_of(run->ahead.prev, struct remote_ahead, link);
	if (run->asked == last->hash)
		return NULL;
	q = calloc(1, sizeof(*q));
	if (!q)
		return NULL;
	q->r = run->r;
	q->hash = last->hash;
	run->asked = last->hash;
	q->msg = last->msg;
	q->msg.path = memcpy(q->path, last->path, last->msg.path_len);
	return q;
}

static void ask(struct question *q)
{
	uint8_t bytes[REMOTE_MSG_MAX];
	struct engine_peer *peer;

	if (remote_peer(q->r, q->msg.holder, &peer)) {
		free(q);
		return;
	}
	q->call = (struct engine_call){
		.type = REMOTE_AHEAD,
		.payload = bytes,
		.payload_bytes = (uint32_t)remote_encode(&q->msg, bytes),
		.deadline_ns = clock_now_ns() + NS_PER_S,
		.done = told,
	};
	if (engine_call_start(peer, &q->call))
		free(q);
	engine_peer_put(peer);
}

/* -- fetching ------------------------------------------------------------ */

static struct remote_ahead *next_known(struct run *run)
{
	list_for_each (l, &run->ahead) {
		struct remote_ahead *a =
			container_of(l, struct remote_ahead, link);

		if (a->state == KNOWN)
			return a;
	}
	return NULL;
}

/* Lock held. Returns: is there something to go on with? */
static bool begin_fetch(struct kv *kv, struct run *run, struct remote_ahead *a)
{
	int err = remote_fetch_ahead(kv, &a->msg, a, &a->fetch);

	if (err && err != -EEXIST && err != -EALREADY) {
		forget(run, a);
		return false;
	}
	run->n_known--;
	run->bytes += a->msg.size_bytes;
	a->state = err ? HERE : COMING;
	a->since_ns = clock_now_ns();
	a->delivered = run->delivered;
	return !err;
}

/* Fills the window, as far as it is known. */
static void pump(struct run *run)
{
	struct kv *kv = run->r->fs->kv;
	struct remote_fetch *begun[BURST];
	struct remote_ahead *a;
	struct question *q;
	unsigned n;

	do {
		n = 0;
		pthread_mutex_lock(&kv->lock);
		while (n < BURST && run->at && (a = next_known(run)) &&
		       run->bytes + a->msg.size_bytes <=
			       window(run, a->msg.size_bytes))
			if (begin_fetch(kv, run, a))
				begun[n++] = a->fetch;
		q = question(run);
		pthread_mutex_unlock(&kv->lock);
		for (unsigned i = 0; i < n; i++)
			remote_fetch_go(begun[i]);
		if (q)
			ask(q);
	} while (n == BURST);
}

static void pump_job(struct job *job)
{
	struct run *run = container_of(job, struct run, job);
	struct kv *kv = run->r->fs->kv;

	pthread_mutex_lock(&kv->lock);
	run->queued = false;
	pthread_mutex_unlock(&kv->lock);
	pump(run);
}

/* Once half the window is free, for each time costs a wake-up. Lock held. */
static void pump_soon(struct run *run)
{
	struct remote_ahead *a = next_known(run);

	if (run->queued || !a ||
	    run->bytes > window(run, a->msg.size_bytes) / 2)
		return;
	run->job.run = pump_job;
	run->queued = remote_post(run->r, run->r->fetchers, &run->job);
}

/* -- what a holder says -------------------------------------------------- */

/* An answer to be taken under the lock. */
struct lesson {
	struct job job;
	struct remote *r;
	uint64_t after;
	size_t n;
	uint8_t bytes[];
};

/* The run whose last known block this is. */
static struct run *run_ending(struct remote_runs *runs, uint64_t hash)
{
	for (unsigned i = 0; i < RUNS_MAX; i++) {
		struct run *run = &runs->run[i];
		uint64_t last = run->at;

		if (last && !list_empty(&run->ahead))
			last = container_of(run->ahead.prev,
					    struct remote_ahead, link)
				       ->hash;
		if (last == hash)
			return run;
	}
	return NULL;
}

static bool append(struct run *run, const struct remote_msg *m)
{
	struct remote_ahead *a;

	if (run->n_known >= KNOWN_MAX)
		return false;
	a = calloc(1, sizeof(*a) + m->path_len);
	if (!a)
		return false;
	a->run = run;
	a->run_id = run->id;
	a->hash = remote_ahead_hash(m->path, m->path_len);
	a->msg = *m;
	a->msg.path = memcpy(a->path, m->path, m->path_len);
	a->listed = true;
	list_push_back(&run->ahead, &a->link);
	run->n_known++;
	return true;
}

static void take_lesson(struct job *job)
{
	struct lesson *l = container_of(job, struct lesson, job);
	struct kv *kv = l->r->fs->kv;
	const uint8_t *p = l->bytes;
	struct remote_msg m;
	struct run *run;
	size_t n;

	pthread_mutex_lock(&kv->lock);
	run = run_ending(l->r->runs, l->after);
	while (run && (n = remote_chain_next(p, l->n, &m)) && append(run, &m)) {
		p += n;
		l->n -= n;
	}
	pthread_mutex_unlock(&kv->lock);
	free(l);
	if (run)
		pump(run);
}

static bool is_wanted(struct remote_runs *runs, uint64_t hash)
{
	for (unsigned i = 0; i < RUNS_MAX; i++)
		if (runs->run[i].at == hash ||
		    atomic_load(&runs->run[i].asked) == hash)
			return true;
	return false;
}

void remote_ahead_learn(struct remote *r, uint64_t hash, const void *bytes,
			size_t n)
{
	struct remote_msg first;
	struct lesson *l;

	if (!remote_chain_next(bytes, n, &first))
		return;
	if (!is_wanted(r->runs, hash)) {
		hash = remote_ahead_hash(first.path, first.path_len);
		atomic_store(expected_slot(r->runs, hash), hash);
		return;
	}
	l = malloc(sizeof(*l) + n);
	if (!l)
		return;
	l->job.run = take_lesson;
	l->r = r;
	l->after = hash;
	l->n = n;
	memcpy(l->bytes, bytes, n);
	if (!remote_post(r, r->fetchers, &l->job))
		free(l);
}

/* -- what readers do ----------------------------------------------------- */

static void advance(struct run *run, struct remote_ahead *to, pid_t reader)
{
	struct remote_ahead *a;
	uint64_t hash = to->hash;

	do {
		a = container_of(run->ahead.next, struct remote_ahead, link);
		run->recent[run->n_recent++ % RECENT] = a->hash;
		forget(run, a);
	} while (a != to);
	run->at = hash;
	run->reader = reader;
	run->used_ns = clock_now_ns();
	pump_soon(run);
}

static bool is_gone(pid_t reader)
{
	return reader && kill(reader, 0) && errno == ESRCH;
}

/* This reader is elsewhere now, and so are those who came before it. */
static void leave_others(struct remote *r, const struct kv_ns *ns, pid_t reader)
{
	for (unsigned i = 0; i < RUNS_MAX; i++) {
		struct run *run = &r->runs->run[i];

		if (run->at && (run->reader == reader ||
				(run->ns == ns && is_gone(run->reader))))
			leave(r, run);
	}
}

void remote_ahead_asked(struct kv *kv, const struct kv_ns *ns, const char *path,
			size_t len, pid_t reader)
{
	struct remote *r = kv->fs->remote;
	uint64_t hash = remote_ahead_hash(path, len);
	struct remote_ahead *a;
	struct run *run = find(r->runs, hash, &a);

	if (a)
		advance(run, a, reader);
	else if (!run && atomic_load(expected_slot(r->runs, hash)) == hash)
		begin(r, ns, hash, reader);
	else if (!run)
		leave_others(r, ns, reader);
}

void remote_ahead_opened(struct kv *kv, struct kv_file *f, pid_t reader)
{
	const struct pool_record *rec = kv_record(kv, f);

	f->ahead = false;
	remote_ahead_asked(kv, f->ns, rec->path, rec->path_len, reader);
}
