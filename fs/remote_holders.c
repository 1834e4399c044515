// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote_fetch.h"

/*
 * Whom a fetch asks, and how often.
 *
 * Holders are asked one after the other, best first. One that gives it to
 * enough others already names those: they have it in a moment, and are asked to
 * hand it on. When none of those that Redis named could give it, Redis is asked
 * once more: copies move. Where a node that lives could not be reached, a
 * foreground fetch goes on asking up to its deadline, and waits for no backoff:
 * the link may have healed.
 */

#define BUSY_US 5000	    /* all holders are: not yet */
#define UNREACHED_US 100000 /* a link that failed: not yet */

/* -- whom to ask -------------------------------------------------------- */

#define CANDIDATES_MAX (META_KV_HOLDERS_MAX + REMOTE_FETCHING_MAX)

struct candidate {
	uint32_t holder;
	int64_t score; /* the lower the better */
};

static int by_score(const void *a, const void *b)
{
	int64_t sa = ((const struct candidate *)a)->score;
	int64_t sb = ((const struct candidate *)b)->score;

	return sa < sb ? -1 : sa > sb;
}

static unsigned candidates(const struct remote_fetch *x,
			   struct candidate c[CANDIDATES_MAX])
{
	uint32_t self = meta_node_self(x->r->fs->meta);
	unsigned n = 0;

	for (uint32_t i = 0; i < x->found.n_holders; i++)
		if (x->found.holders[i] != self)
			c[n++].holder = x->found.holders[i];
	for (uint32_t i = 0; i < x->told.fetching.n; i++)
		if (x->told.fetching.nodes[i] != self)
			c[n++].holder = x->told.fetching.nodes[i];
	for (unsigned i = 0; n > 1 && i < n; i++)
		c[i].score = c[i].holder == x->tried
				     ? INT64_MAX
				     : remote_score(x->r, c[i].holder);
	qsort(c, n, sizeof(*c), by_score);
	return n;
}

static bool is_fetching(const struct remote_fetch *x, uint32_t node)
{
	for (uint32_t i = 0; i < x->told.fetching.n; i++)
		if (x->told.fetching.nodes[i] == node)
			return true;
	return false;
}

/* It has it no more, or not yet: it is not waited for again. */
static void forget_told(struct remote_fetch *x, uint32_t node)
{
	struct remote_fetching *who = &x->told.fetching;

	for (uint32_t i = 0; i < who->n; i++)
		if (who->nodes[i] == node)
			who->nodes[i--] = who->nodes[--who->n];
}

/* -- asking ------------------------------------------------------------- */

bool remote_fetch_is_over(const struct remote_fetch *x)
{
	return clock_now_ns() >= x->deadline ||
	       atomic_load(&x->r->fs->stopping);
}

static void pause_us(const struct remote_fetch *x, int64_t us)
{
	int64_t left = (x->deadline - clock_now_ns()) / 1000;

	if (left > 0)
		usleep((useconds_t)(left < us ? left : us));
}

/* Nobody else could give it: the next holder is asked in any case. */
static void end_backoff(const struct remote_fetch *x, uint32_t holder)
{
	if (x->again && x->priority == ENGINE_FOREGROUND)
		remote_dial(x->r, holder);
}

/* The best that is not among those, or 0. */
uint32_t remote_holder_next(void *ctx, const uint32_t *bad, unsigned n_bad)
{
	struct remote_fetch *x = ctx;
	struct candidate c[CANDIDATES_MAX];
	unsigned n = x->cancelled ? 0 : candidates(x, c), at;

	for (unsigned i = 0; i < n; i++) {
		for (at = 0; at < n_bad && bad[at] != c[i].holder; at++)
			;
		if (at < n_bad)
			continue;
		end_backoff(x, c[i].holder);
		return x->from = c[i].holder;
	}
	return 0;
}

/* A holder could not give it. Was that its link's fault? */
void remote_holder_failed(struct remote_fetch *x, uint32_t holder, int err)
{
	remote_count_failure(x->r, err);
	if (err == -EHOSTDOWN || err == -ENOTCONN || err == -ETIMEDOUT ||
	    err == -EBUSY)
		x->unreached |= meta_node_is_live(x->r->fs->meta, holder);
}

/* A fetcher that waits for a link is not there for others: some may. */
static bool may_wait(struct remote_fetch *x)
{
	if (!x->unreached || x->priority != ENGINE_FOREGROUND)
		return false;
	if (x->patient)
		return true;
	x->patient = atomic_fetch_add(&x->r->n_patient, 1) < REMOTE_PATIENT;
	if (!x->patient)
		atomic_fetch_sub(&x->r->n_patient, 1);
	return x->patient;
}

void remote_count_failure(struct remote *r, int err)
{
	struct remote_counters *c = &r->counters;

	if (err == -ENOENT)
		atomic_fetch_add(&c->not_here, 1);
	else if (err == -ETIMEDOUT)
		atomic_fetch_add(&c->timeouts, 1);
	else if (err == -EAGAIN)
		atomic_fetch_add(&c->busy, 1);
}

struct remote_msg remote_fetch_wanted(const struct remote_fetch *x)
{
	return (struct remote_msg){
		.generation = x->found.generation,
		.size_bytes = x->found.size_bytes,
		.checksum = {x->found.checksum[0], x->found.checksum[1]},
		.priority = x->priority,
		.flags = x->chain ? REMOTE_CHAIN : 0,
		.holder = x->into || x->scratch
				  ? 0 /* others find nothing here */
				  : meta_node_self(x->r->fs->meta),
		.path = x->path,
		.path_len = x->path_len,
	};
}

/* No other holder could do better. */
static bool is_final(int err)
{
	return err == -ENOSPC || err == -ENOMEM || err == -ECANCELED ||
	       err == -EFAULT;
}

/* Who waits for another's fetch is not waited for, and lets go of those that
 * do: or nodes whose holder gave out on all of them would wait in a ring. */
void remote_fetch_set_waits(struct remote_fetch *x, bool waits)
{
	struct kv *kv = x->r->fs->kv;
	struct list peers, *l;

	list_init(&peers);
	pthread_mutex_lock(&kv->lock);
	x->waits = waits;
	while (waits && (l = list_pop_front(&x->peers)))
		list_push_back(&peers, l);
	x->n_peers = 0;
	pthread_mutex_unlock(&kv->lock);
	while ((l = list_pop_front(&peers))) {
		struct remote_watcher *w =
			container_of(l, struct remote_watcher, link);

		w->done(w, -EAGAIN);
	}
}

static int ask(struct remote_fetch *x, uint32_t from)
{
	bool waits = is_fetching(x, from);
	struct remote_msg m = remote_fetch_wanted(x);
	struct remote_told told = {.fetching = {.n = 0}};
	int err;

	if (waits) {
		m.flags |= REMOTE_WAIT;
		remote_fetch_set_waits(x, true);
	}
	err = x->into || x->scratch
		      ? remote_try_over(x->r, &m, from, x->deadline, x->target,
					&told)
		      : remote_try(x->r, &m, from, x->deadline, &x->target,
				   &told);
	if (waits)
		remote_fetch_set_waits(x, false);
	if (err && err != -EAGAIN)
		forget_told(x, from);
	if (told.fetching.n)
		x->told = told;
	return err;
}

/* Each holder once. -EAGAIN: one of them was only busy. */
static int ask_all(struct remote_fetch *x)
{
	uint32_t asked[CANDIDATES_MAX], from;
	unsigned n = 0;
	bool busy = false;
	int err = -ENOENT;

	while (n < CANDIDATES_MAX && (from = remote_holder_next(x, asked, n))) {
		if (x->cancelled)
			return -ECANCELED;
		if (remote_fetch_is_over(x))
			return -ETIMEDOUT;
		err = ask(x, from);
		if (!err || is_final(err))
			return err;
		remote_holder_failed(x, from, err);
		asked[n++] = from;
		busy |= err == -EAGAIN;
	}
	return busy ? -EAGAIN : err;
}

/* Redis once more; -ESTALE: another version has the name now. */
static int ask_redis(struct remote_fetch *x)
{
	struct meta_kv_found found;
	int err = meta_kv_lookup(x->r->fs->meta,
				 clock_now_ns() + META_KV_LOOKUP_NS, x->path,
				 x->path_len, &found);

	if (err)
		return err;
	if (found.is_dir || found.generation != x->found.generation)
		return -ESTALE;
	x->found = found;
	return 0;
}

/* All have failed. Whatever Redis says, they may be better by now. Returns: 0
 * they are to be asked again, or -errno. */
int remote_holders_again(void *ctx)
{
	struct remote_fetch *x = ctx;
	int err = 0;

	if (x->cancelled)
		return -ECANCELED;
	if (remote_fetch_is_over(x))
		return -ETIMEDOUT;
	if (!x->again) {
		x->again = true;
		err = ask_redis(x) == -ESTALE ? -ESTALE : 0;
	} else if (may_wait(x)) {
		pause_us(x, UNREACHED_US);
	} else {
		err = -ENOENT;
	}
	x->unreached = false;
	return err;
}

int remote_holders_ask(struct remote_fetch *x)
{
	int err, end = 0;

	while (!end && (err = ask_all(x))) {
		if (is_final(err))
			break;
		if (err == -EAGAIN && !remote_fetch_is_over(x))
			pause_us(x, BUSY_US);
		else
			end = remote_holders_again(x);
	}
	return end ? end : err;
}
