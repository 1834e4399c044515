// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/kv.h"
#include "fs/remote_fetch.h"
#include "fs/remote_parts.h"
#include "fs/remote_scratch.h"

/*
 * From a holder into this pool. A node has at most one fetch; calls that need
 * the block wait on it and are run again when it is over. The fetch pins its
 * node until they have run, so the block cannot be evicted under them.
 *
 * The first holder is asked by the thread that has the call, and where it
 * delivers, most often, a thread of the engine ends the fetch: a fetcher only
 * has what takes long, the checksum of a large block, and what went wrong. Each
 * hand-off saved is a wake-up, and for a small block those are what a fetch
 * costs.
 */

#define VERIFY_AT_ONCE_BYTES (256u << 10) /* a thread of the engine may */

static bool is_open(const struct call *c)
{
	return c->fn == kv_do_open;
}

/* -- a large one -------------------------------------------------------- */

static void part_failed(void *ctx, uint32_t from, int err)
{
	remote_holder_failed(ctx, from, err);
}

/* Those that only want to open it can; the rest waits for the whole. */
static void first_part(struct remote_fetch *x)
{
	struct kv *kv = x->r->fs->kv;
	struct list opens, *l;

	list_init(&opens);
	pthread_mutex_lock(&kv->lock);
	list_for_each_safe (k, &x->waiters) {
		struct call *c = container_of(k, struct call, job.link);

		if (!is_open(c))
			continue;
		list_remove(k);
		list_push_back(&opens, k);
	}
	pthread_mutex_unlock(&kv->lock);
	while ((l = list_pop_front(&opens))) {
		struct call *c = container_of(l, struct call, job.link);

		atomic_fetch_add(&x->r->counters.hits, 1);
		c->fn(c);
	}
}

/* As long as some come, others may. */
static void part_came(void *ctx, unsigned part)
{
	struct remote_fetch *x = ctx;

	x->deadline = clock_now_ns() + x->r->fs->config.deadline_ms * NS_PER_MS;
	if (!part)
		first_part(x);
}

static bool parts_over(void *ctx)
{
	return remote_fetch_is_over(ctx);
}

static const struct remote_parts_ops parts_ops = {.holder = remote_holder_next,
						  .failed = part_failed,
						  .again = remote_holders_again,
						  .over = parts_over,
						  .came = part_came};

static int make_parts(struct remote_fetch *x)
{
	struct remote_msg m = remote_fetch_wanted(x);

	return remote_parts_new(x->r, &m, x->target, &x->parts);
}

/* To those that open it. Where some have it open past the pool already they go
 * on with that, and this fetch is one for others. */
static void show_parts(struct remote_fetch *x)
{
	struct kv *kv = x->r->fs->kv;
	scoped_lock(&kv->lock);

	if (!x->f->remote->parts)
		x->f->remote->parts = remote_parts_ref(x->parts);
}

static int run_parts(struct remote_fetch *x)
{
	int err = 0;

	if (!x->target)
		err = remote_target_new(x->r, x->found.size_bytes, &x->target);
	if (!err)
		err = make_parts(x);
	if (err)
		return err;
	show_parts(x);
	return remote_parts_run(x->parts, &parts_ops, x);
}

static bool is_large(const struct remote_fetch *x)
{
	return x->found.size_bytes > REMOTE_PARTS_OVER;
}

static int run(struct remote_fetch *x)
{
	if (x->cancelled)
		return -ECANCELED;
	return is_large(x) ? run_parts(x) : remote_holders_ask(x);
}

/* -- the end of it ------------------------------------------------------ */

/* A holder that failed may write there later: the next one gets another. Where
 * a try ends only with its last byte it is the same for all. */
static void renew_target(struct remote_fetch *x)
{
	if (x->into || x->scratch || is_large(x))
		return;
	remote_target_free(x->target);
	x->target = NULL;
}

static void free_target(struct remote_fetch *x)
{
	if (x->parts)
		remote_parts_put(x->parts);
	else
		remote_target_free(x->target);
	x->parts = NULL;
	x->target = NULL;
}

/* No frame: it stays where it is while somebody has it open. */
static int hold(struct remote_fetch *x)
{
	int err = x->parts ? 0 : make_parts(x);

	if (err)
		return err;
	if (!is_large(x)) {
		remote_parts_fill(x->parts);
		show_parts(x);
	}
	x->held = true;
	atomic_fetch_add(&x->r->counters.past_pool, 1);
	return 0;
}

static int install(struct remote_fetch *x)
{
	struct kv *kv = x->r->fs->kv;
	uint32_t frame = x->target->frame;
	int err;

	pthread_mutex_lock(&kv->lock);
	err = remote_node_commit(kv, x->f, frame, x->kind, x->age_ms);
	if (!err) {
		remote_target_take(x->target);
		kv_came(kv, &x->f->node);
	}
	if (!err && x->parts && !x->f->part_sums)
		x->f->part_sums = remote_parts_sums(x->parts);
	pthread_mutex_unlock(&kv->lock);
	if (!err)
		pool_trim(kv->fs->pool, frame);
	free_target(x);
	return err;
}

/* All of it is in the target, verified. */
static int settle(struct remote_fetch *x)
{
	return x->into ? 0 : x->scratch ? hold(x) : install(x);
}

static void note(struct remote_fetch *x, int err)
{
	struct remote_counters *c = &x->r->counters;

	if (x->patient)
		atomic_fetch_sub(&x->r->n_patient, 1);
	hist_add(&c->fetch, clock_now_ns() - x->started_ns);
	if (err == -ECANCELED) {
		atomic_fetch_add(&c->ahead_cancelled, 1);
		return;
	}
	if (err) {
		atomic_fetch_add(&c->fetch_failed, 1);
		return;
	}
	atomic_fetch_add(&c->fetches, 1);
	atomic_fetch_add(&c->fetch_bytes, x->found.size_bytes);
}

/* The node is a block now, or it goes: the next LOOKUP asks Redis anew. */
static void detach(struct remote_fetch *x, struct list *waiters,
		   struct list *watchers)
{
	struct kv *kv = x->r->fs->kv;
	struct kv_file *f = x->f;
	struct list *l;
	scoped_lock(&kv->lock);

	f->remote->fetch = NULL;
	while ((l = list_pop_front(&x->waiters)))
		list_push_back(waiters, l);
	while ((l = list_pop_front(&x->watchers)) ||
	       (l = list_pop_front(&x->peers)))
		list_push_back(watchers, l);
	if (f->node.state == KV_REMOTE && !f->node.unlinked && !x->held)
		remote_node_forget(kv, &f->node);
	if (f->node.state == KV_COMMITTED) {
		f->ahead = x->marked;
		remote_node_free(f);
	}
	if (x->ahead)
		remote_ahead_ended(kv, x->ahead, f->node.state == KV_COMMITTED);
}

static void finish_into(struct remote_fetch *x, int err)
{
	struct remote_counters *c = &x->r->counters;
	struct remote_into *into = x->into;

	if (!err)
		atomic_fetch_add(&c->hits, 1);
	remote_target_free(x->target);
	free(x);
	into->done(into, err);
	atomic_fetch_sub(&c->n_fetching, 1);
}

/* Did it wait for room as far as it may? */
static bool has_waited(const struct remote_fetch *x)
{
	return x->found_room || !remote_scratch_fits(x->found.size_bytes);
}

/* 0, or what this call hears. Of a fetch that was cancelled, or was not a
 * reader's when it found no room, the kernel asks once more. */
static int answer_of(const struct remote_fetch *x, const struct call *c,
		     int err)
{
	if (!err)
		return x->held && !is_open(c) ? -ENOSPC : 0;
	if (err == -ECANCELED ||
	    (err == -ENOSPC && is_open(c) && !has_waited(x)))
		return -ESTALE;
	return err == -ESTALE || err == -ENOMEM || err == -ENOSPC ? err
								  : -ENOENT;
}

static void finish(struct remote_fetch *x, int err)
{
	struct kv *kv = x->r->fs->kv;
	struct list waiters, watchers, *l;
	struct remote_parts *parts;
	int answer;

	note(x, err);
	if (x->into) {
		finish_into(x, err);
		return;
	}
	list_init(&waiters);
	list_init(&watchers);
	detach(x, &waiters, &watchers);
	if (!err)
		kv_tell_came(kv);
	while ((l = list_pop_front(&waiters))) {
		struct call *c = container_of(l, struct call, job.link);

		answer = answer_of(x, c, err);
		if (answer) {
			call_reply_err(c, answer);
		} else {
			atomic_fetch_add(&x->r->counters.hits, 1);
			c->fn(c);
		}
	}
	while ((l = list_pop_front(&watchers))) {
		struct remote_watcher *w =
			container_of(l, struct remote_watcher, link);

		w->done(w, x->held ? -ENOSPC : err);
	}
	free_target(x);
	pthread_mutex_lock(&kv->lock);
	if (!err)
		remote_node_publish(kv, x->f);
	parts = remote_node_closed(x->f);
	kv_unpin(kv, x->f);
	pthread_mutex_unlock(&kv->lock);
	remote_parts_put(parts);
	atomic_fetch_sub(&x->r->counters.n_fetching, 1); /* all were told */
	free(x);
}

/* The bytes are there; what remains is ours. */
static int accept(struct remote_fetch *x)
{
	struct remote_msg m = remote_fetch_wanted(x);
	int err = remote_verify(x->r, x->target, &m, x->from);

	return err ? err : settle(x);
}

static void end(struct remote_fetch *x, int err);

/* A fetcher: what the first holder left to do. */
static void go_on(struct job *job)
{
	struct remote_fetch *x = container_of(job, struct remote_fetch, job);
	int err = x->status;

	if (!err)
		err = accept(x);
	if (err && x->from) {
		remote_count_failure(x->r, err);
		x->tried = x->from;
	}
	if (err) {
		renew_target(x);
		err = run(x);
		if (!err)
			err = settle(x);
	}
	end(x, err);
}

static void post(struct remote_fetch *x)
{
	x->job.run = go_on;
	if (remote_post(x->r, x->r->fetchers, &x->job))
		return;
	free_target(x);
	finish(x, -ESHUTDOWN);
}

/* On a thread of the engine, or the watcher's. */
static void first_ended(void *ctx, int status)
{
	struct remote_fetch *x = ctx;

	x->status = status;
	if (!status && x->found.size_bytes <= VERIFY_AT_ONCE_BYTES) {
		x->status = accept(x);
		if (!x->status) {
			finish(x, 0);
			return;
		}
	}
	post(x);
}

/* Asks the best holder for the target's bytes. */
static int ask_first(struct remote_fetch *x)
{
	struct remote_msg m = remote_fetch_wanted(x);

	if (is_large(x) || !remote_holder_next(x, NULL, 0))
		return -ENOENT;
	return remote_try_start(x->r, &m, x->from, x->target, x->deadline,
				first_ended, x, &x->told);
}

void remote_fetch_go(struct remote_fetch *x)
{
	int err = 0;

	if (!x->into && !is_large(x))
		err = remote_target_new(x->r, x->found.size_bytes, &x->target);
	if (!err)
		err = ask_first(x);
	if (!err)
		return;
	x->status = err;
	post(x);
}

/* -- without a frame ----------------------------------------------------- */

/* Peers are to look elsewhere: it will not be a block of this node. */
static void set_scratch(struct remote_fetch *x)
{
	struct kv *kv = x->r->fs->kv;

	pthread_mutex_lock(&kv->lock);
	x->scratch = true;
	pthread_mutex_unlock(&kv->lock);
	remote_fetch_set_waits(x, true);
}

static void got_room(struct remote_fetch *x, int err)
{
	if (err) {
		finish(x, err);
		return;
	}
	if (x->target->frame == POOL_NO_FRAME)
		set_scratch(x);
	x->from = 0;
	err = ask_first(x);
	if (!err)
		return;
	x->status = err;
	post(x);
}

static bool is_read(struct remote_fetch *x)
{
	struct kv *kv = x->r->fs->kv;
	scoped_lock(&kv->lock);

	list_for_each (l, &x->waiters)
		if (is_open(container_of(l, struct call, job.link)))
			return true;
	return false;
}

/* Over, but for readers who found no frame. */
static void end(struct remote_fetch *x, int err)
{
	if (err != -ENOSPC || !is_read(x)) {
		finish(x, err);
	} else if (remote_scratch_fits(x->found.size_bytes)) {
		remote_room_wait(x, got_room);
	} else {
		log_warn("kv: %.*s: not read: all of the pool is in use, and "
			 "%" PRIu64 " bytes are too many to be read past it; "
			 "close files, or mount with a larger pool",
			 x->path_len, x->path, x->found.size_bytes);
		finish(x, err);
	}
}

/* ----------------------------------------------------------------------- */

int remote_fetch_run(struct remote_fetch *x)
{
	int err = run(x);

	if (!err)
		err = install(x);
	finish(x, err);
	return err;
}

void remote_fetch_cancel(struct remote_fetch *x)
{
	if (x->chain)
		return;
	x->cancelled = true;
	remote_try_cancel(x->r, x->path);
}
