// SPDX-License-Identifier: MIT
#include "fs/remote_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "fs/kv.h"
#include "fs/remote_try.h"

#define BUSY_NS (5 * NS_PER_MS) /* all holders are: not yet */
#define TICK_NS                                                      \
	(50 * NS_PER_MS) /* reads past their deadline are looked for \
			  */

enum part_state { PART_MISSING, PART_ASKED, PART_ENDED, PART_HERE };

struct part {
	struct remote_parts *of;
	enum part_state state;
	int status; /* ENDED */
	uint32_t holder;
	struct remote_told told; /* the sum; HERE: and it is */
};

struct remote_parts {
	struct remote *r;
	struct list link;	      /* of r->parts; r->try_lock */
	struct remote_target *target; /* NULL: the engine is going */
	struct remote_msg m;
	atomic_uint refs;     /* the fetch, the node, parts asked for, reads */
	pthread_mutex_t lock; /* guards the rest; a leaf below kv->lock */
	pthread_cond_t some;  /* a part has ended, a read waits */
	struct list reads;    /* call.job.link */
	unsigned n_parts, n_here, n_asked, n_bad;
	bool over;
	int err; /* over: why it is not whole */
	int64_t pause_until;
	uint32_t bad[META_KV_HOLDERS_MAX]; /* asked in vain */
	struct part part[];
};

unsigned remote_parts_n(uint64_t size_bytes)
{
	return (unsigned)((size_bytes + REMOTE_PART_BYTES - 1) /
			  REMOTE_PART_BYTES);
}

static void part_range(const struct remote_parts *p, unsigned i,
		       uint64_t *offset, uint64_t *bytes)
{
	uint64_t left;

	*offset = i * REMOTE_PART_BYTES;
	left = p->m.size_bytes - *offset;
	*bytes = left < REMOTE_PART_BYTES ? left : REMOTE_PART_BYTES;
}

int remote_parts_new(struct remote *r, const struct remote_msg *m,
		     struct remote_target *target, struct remote_parts **parts)
{
	unsigned n = remote_parts_n(m->size_bytes);
	struct remote_parts *p = calloc(1, sizeof(*p) + n * sizeof(p->part[0]));

	if (!p)
		return -ENOMEM;
	p->r = r;
	p->target = target;
	p->m = *m;
	p->refs = 1;
	p->n_parts = n;
	for (unsigned i = 0; i < n; i++)
		p->part[i].of = p;
	pthread_mutex_init(&p->lock, NULL);
	cond_init(&p->some);
	list_init(&p->reads);
	pthread_mutex_lock(&r->try_lock);
	list_push_back(&r->parts, &p->link);
	pthread_mutex_unlock(&r->try_lock);
	*parts = p;
	return 0;
}

void remote_parts_fill(struct remote_parts *p)
{
	scoped_lock(&p->lock);

	for (unsigned i = 0; i < p->n_parts; i++)
		p->part[i].state = PART_HERE;
	p->n_here = p->n_parts;
	p->over = true;
}

void remote_parts_put(struct remote_parts *p)
{
	if (!p || atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	if (p->target) {
		pthread_mutex_lock(&p->r->try_lock);
		list_remove(&p->link);
		pthread_mutex_unlock(&p->r->try_lock);
		remote_target_free(p->target);
	}
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->some);
	free(p);
}

void remote_parts_stop(struct remote *r)
{
	struct remote_parts *p;
	struct list *l;

	for (;;) {
		pthread_mutex_lock(&r->try_lock);
		l = list_pop_front(&r->parts);
		pthread_mutex_unlock(&r->try_lock);
		if (!l)
			return;
		p = container_of(l, struct remote_parts, link);
		remote_target_free(p->target);
		p->target = NULL;
	}
}

struct remote_parts *remote_parts_ref(struct remote_parts *p)
{
	atomic_fetch_add(&p->refs, 1);
	return p;
}

struct remote_target *remote_parts_target(struct remote_parts *p)
{
	return p->target;
}

uint64_t (*remote_parts_sums(struct remote_parts *p))[2]
{
	uint64_t(*sums)[2] = malloc(p->n_parts * sizeof(*sums));

	for (unsigned i = 0; sums && i < p->n_parts; i++)
		memcpy(sums[i], p->part[i].told.sum, sizeof(*sums));
	return sums;
}

/* -- reading ------------------------------------------------------------- */

/* The first part that this read waits for; n_parts: none. Lock held. */
static unsigned lacks(const struct remote_parts *p, const struct call *c)
{
	uint64_t from = (uint64_t)c->off, to = from + c->size;

	if (to > p->m.size_bytes)
		to = p->m.size_bytes;
	for (uint64_t i = from / REMOTE_PART_BYTES;
	     i < p->n_parts && i * REMOTE_PART_BYTES < to; i++)
		if (p->part[i].state != PART_HERE)
			return (unsigned)i;
	return p->n_parts;
}

static void read_here(struct call *c, struct remote_parts *p)
{
	cleanup_free char *buf = malloc(c->size + 1);
	ssize_t n = buf ? pread(p->target->fd, buf, c->size, c->off) : -1;

	if (n < 0) {
		call_reply_err(c, buf ? errno : ENOMEM);
		return;
	}
	atomic_fetch_add_explicit(&c->fs->counters.bytes_read, (uint64_t)n,
				  memory_order_relaxed);
	call_reply_buf(c, buf, (size_t)n);
}

static void fail_read(struct call *c)
{
	call_reply_err(c, EIO);
}

/* Waits, or has to go on elsewhere: its time has come already. */
static void wait_for_part(struct call *c, struct remote_parts *p)
{
	struct call *kept = call_keep(c);
	bool wait;

	if (!kept) {
		call_reply_err(c, ENOMEM);
		return;
	}
	pthread_mutex_lock(&p->lock);
	wait = !p->over && lacks(p, kept) < p->n_parts;
	if (wait) {
		list_push_back(&p->reads, &kept->job.link);
		pthread_cond_signal(&p->some);
	}
	pthread_mutex_unlock(&p->lock);
	if (!wait)
		call_defer(kept, kv_do_read);
}

bool remote_parts_open(const struct kv_file *f)
{
	struct remote_parts *p = f->remote->parts;

	if (!p)
		return false;
	scoped_lock(&p->lock);
	return p->over ? !p->err : p->part[0].state == PART_HERE;
}

bool remote_parts_read(struct call *c, struct kv_file *f)
{
	struct kv *kv = c->fs->kv;
	struct remote_parts *p = NULL;
	bool here = false, failed = true;

	pthread_mutex_lock(&kv->lock);
	if (f->node.state == KV_COMMITTED) {
		pthread_mutex_unlock(&kv->lock);
		return false;
	}
	if (f->node.state == KV_REMOTE && f->remote->parts)
		p = remote_parts_ref(f->remote->parts);
	pthread_mutex_unlock(&kv->lock);
	if (p) {
		pthread_mutex_lock(&p->lock);
		here = lacks(p, c) == p->n_parts;
		failed = p->over;
		pthread_mutex_unlock(&p->lock);
	}
	if (here)
		read_here(c, p);
	else if (failed)
		fail_read(c);
	else
		wait_for_part(c, p);
	remote_parts_put(p);
	return true;
}

/* -- asking -------------------------------------------------------------- */

static void part_ended(void *ctx, int status)
{
	struct part *part = ctx;
	struct remote_parts *p = part->of;

	pthread_mutex_lock(&p->lock);
	part->state = PART_ENDED;
	part->status = status;
	p->n_asked--;
	pthread_cond_signal(&p->some);
	pthread_mutex_unlock(&p->lock);
	remote_parts_put(p);
}

/* What somebody waits for, or the first. Lock held. */
static int next_part(struct remote_parts *p)
{
	list_for_each (l, &p->reads) {
		unsigned i = lacks(p, container_of(l, struct call, job.link));

		if (i < p->n_parts && p->part[i].state == PART_MISSING)
			return (int)i;
	}
	for (unsigned i = 0; i < p->n_parts; i++)
		if (p->part[i].state == PART_MISSING)
			return (int)i;
	return -1;
}

static void mark_bad(struct remote_parts *p, uint32_t holder)
{
	for (unsigned i = 0; i < p->n_bad; i++)
		if (p->bad[i] == holder)
			return;
	if (p->n_bad < META_KV_HOLDERS_MAX)
		p->bad[p->n_bad++] = holder;
}

static void ask_failed(struct remote_parts *p, uint32_t holder, int err,
		       const struct remote_parts_ops *ops, void *ctx)
{
	ops->failed(ctx, holder, err);
	if (err == -EAGAIN)
		p->pause_until = clock_now_ns() + BUSY_NS;
	else
		mark_bad(p, holder);
}

/* Lock held; let go of meanwhile. */
static void ask(struct remote_parts *p, unsigned i, uint32_t holder,
		const struct remote_parts_ops *ops, void *ctx)
{
	struct part *part = &p->part[i];
	struct remote_msg m = p->m;
	int64_t deadline =
		clock_now_ns() + p->r->fs->config.deadline_ms * NS_PER_MS;
	int err;

	part_range(p, i, &m.offset, &m.length_bytes);
	part->state = PART_ASKED;
	part->holder = holder;
	p->n_asked++;
	remote_parts_ref(p);
	pthread_mutex_unlock(&p->lock);
	err = remote_try_start(p->r, &m, holder, p->target, deadline,
			       part_ended, part, &part->told);
	pthread_mutex_lock(&p->lock);
	if (!err)
		return;
	p->n_asked--;
	atomic_fetch_sub(&p->refs, 1); /* never the last */
	part->state = PART_MISSING;
	ask_failed(p, holder, err, ops, ctx);
}

/* Keeps so many under way. Returns: 0, or -errno nobody is left to ask. */
static int ask_more(struct remote_parts *p, const struct remote_parts_ops *ops,
		    void *ctx)
{
	uint32_t holder;
	int i, err = 0;

	while (!err && p->n_asked < REMOTE_PARTS_AHEAD &&
	       clock_now_ns() >= p->pause_until && (i = next_part(p)) >= 0) {
		holder = ops->holder(ctx, p->bad, p->n_bad);
		if (holder) {
			ask(p, (unsigned)i, holder, ops, ctx);
			continue;
		}
		if (p->n_asked)
			break; /* they may still come */
		p->n_bad = 0;
		pthread_mutex_unlock(&p->lock);
		err = ops->again(ctx);
		pthread_mutex_lock(&p->lock);
	}
	return err;
}

/* -- what has come ------------------------------------------------------- */

/* Lock held; let go of while it is hashed. */
static void take(struct remote_parts *p, unsigned i,
		 const struct remote_parts_ops *ops, void *ctx)
{
	struct part *part = &p->part[i];
	struct remote_msg m = p->m;
	int err = part->status;

	if (!err) {
		part_range(p, i, &m.offset, &m.length_bytes);
		memcpy(m.checksum, part->told.sum, sizeof(m.checksum));
		pthread_mutex_unlock(&p->lock);
		err = remote_verify(p->r, p->target, &m, part->holder);
		pthread_mutex_lock(&p->lock);
	}
	if (!err) {
		part->state = PART_HERE;
		p->n_here++;
		return;
	}
	part->state = PART_MISSING;
	ask_failed(p, part->holder, err, ops, ctx);
}

static void take_ended(struct remote_parts *p,
		       const struct remote_parts_ops *ops, void *ctx)
{
	for (unsigned i = 0; i < p->n_parts; i++) {
		if (p->part[i].state != PART_ENDED)
			continue;
		take(p, i, ops, ctx);
		if (p->part[i].state != PART_HERE)
			continue;
		pthread_mutex_unlock(&p->lock);
		ops->came(ctx, i);
		pthread_mutex_lock(&p->lock);
	}
}

/* Reads that are ready, late, or (over) shall see for themselves. Lock held;
 * let go of meanwhile. */
static void run_reads(struct remote_parts *p)
{
	int64_t now = clock_now_ns();
	struct list ready, *l;

	list_init(&ready);
	list_for_each_safe (k, &p->reads) {
		struct call *c = container_of(k, struct call, job.link);
		bool late = now >= c->deadline;

		if (!p->over && !late && lacks(p, c) < p->n_parts)
			continue;
		c->fn = late ? fail_read : kv_do_read;
		list_remove(k);
		list_push_back(&ready, k);
	}
	if (list_empty(&ready))
		return;
	pthread_mutex_unlock(&p->lock);
	while ((l = list_pop_front(&ready))) {
		struct call *c = container_of(l, struct call, job.link);

		c->fn(c);
	}
	pthread_mutex_lock(&p->lock);
}

static bool has_ended(const struct remote_parts *p)
{
	for (unsigned i = 0; i < p->n_parts; i++)
		if (p->part[i].state == PART_ENDED)
			return true;
	return false;
}

static void doze(struct remote_parts *p)
{
	int64_t until = clock_now_ns() + TICK_NS;
	struct timespec t;

	if (has_ended(p))
		return;
	if (!p->n_asked && p->pause_until < until)
		until = p->pause_until;
	t = clock_timespec(until);
	pthread_cond_timedwait(&p->some, &p->lock, &t);
}

static int fetch_all(struct remote_parts *p, const struct remote_parts_ops *ops,
		     void *ctx)
{
	int err = 0;

	while (p->n_here < p->n_parts && !err) {
		if (atomic_load(&p->r->fs->stopping))
			err = -ESHUTDOWN;
		else if (!p->n_asked && ops->over(ctx))
			err = -ETIMEDOUT;
		else
			err = ask_more(p, ops, ctx);
		if (err)
			break;
		doze(p);
		take_ended(p, ops, ctx);
		run_reads(p);
	}
	return err;
}

int remote_parts_run(struct remote_parts *p, const struct remote_parts_ops *ops,
		     void *ctx)
{
	int err;

	pthread_mutex_lock(&p->lock);
	err = fetch_all(p, ops, ctx);
	pthread_mutex_unlock(&p->lock);
	if (!err)
		err = remote_verify(p->r, p->target, &p->m,
				    p->part[p->n_parts - 1].holder);
	pthread_mutex_lock(&p->lock);
	p->over = true;
	p->err = err;
	run_reads(p);
	pthread_mutex_unlock(&p->lock);
	return err;
}
