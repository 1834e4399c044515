// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/kv_impl.h"
#include "meta/kv_refill.h"
#include "meta/kv_scan.h"
#include "meta/members.h"
#include "meta/namespace.h"
#include "meta/node.h"
#include "meta/record.h"

/*
 * Refill: everything this node holds becomes dirty, most recently used first,
 * no faster than Redis takes it (kv_refill.h). Audit: before that, what Redis
 * says this node holds and it does not becomes dirty, too. Sweep: dead holders
 * leave the records (kv_sweep.c).
 */

#define AUDIT_EVERY_NS (3600 * NS_PER_S)
#define SLOW_SHARE 9   /* the hourly one: 10 % of the time */
#define URGENT_SHARE 1 /* half of it */

struct audit {
	struct kv_pub *k;
	bool compare, sweep; /* what it is for */
	unsigned share;	     /* pauses this many times as long as it works */
	int err;
	/* the namespace that is being scanned */
	const char *ns;
	size_t ns_len;
};

/* --- waiting ----------------------------------------------------------- */

/* Sleep, but not past the end of the daemon. Returns: false then. */
static bool nap(struct kv_pub *k, int64_t ns)
{
	struct timespec until = clock_timespec(clock_now_ns() + ns);

	scoped_lock(&k->lock);
	while (!k->stop)
		if (pthread_cond_timedwait(&k->cleaned, &k->lock, &until))
			break;
	return !k->stop;
}

/* --- what Redis says we hold ------------------------------------------- */

static bool lists_us(const struct record *r, uint32_t me)
{
	for (uint32_t i = 0; i < r->n_holders; i++)
		if (r->holders[i] == me)
			return true;
	return false;
}

static void field_check(struct audit *a, const char *rest, size_t rest_len)
{
	struct meta_kv_state state;
	char path[UINT16_MAX];
	size_t len = a->ns_len + 1 + rest_len;

	if (len > sizeof(path))
		return;
	memcpy(path, a->ns, a->ns_len);
	path[a->ns_len] = '/';
	memcpy(path + a->ns_len + 1, rest, rest_len);
	kv_state_get(a->k, path, (uint16_t)len, &state);
	if (!state.held)
		meta_kv_dirty(a->k->m, path, (uint16_t)len);
}

static void page_check(struct audit *a, struct kv_sweep *sweep,
		       const struct redis_reply *list)
{
	uint32_t me = meta_node_self(a->k->m);

	for (size_t i = 0; i + 1 < redis_reply_count(list); i += 2) {
		const char *rest, *value;
		size_t n, n_value;
		struct record r;

		if (redis_reply_str(redis_reply_at(list, i), &rest, &n) ||
		    redis_reply_str(redis_reply_at(list, i + 1), &value,
				    &n_value) ||
		    record_decode(value, n_value, &r))
			continue;
		if (a->compare && lists_us(&r, me))
			field_check(a, rest, n);
		if (a->sweep)
			kv_sweep_see(sweep, rest, n, &r);
	}
}

static int page(void *ctx, const char *tag, uint32_t sub,
		const struct redis_reply *list)
{
	struct audit *a = ctx;
	struct kv_sweep sweep;
	int err = kv_sweep_begin(a->k, &sweep, tag, sub);

	if (err)
		return err;
	page_check(a, &sweep, list);
	return kv_sweep_end(&sweep, tag);
}

static bool pause_between(void *ctx, int64_t ns)
{
	struct audit *a = ctx;

	return nap(a->k, ns);
}

static void namespace_scan(void *arg, const char *name, uint32_t n_sub)
{
	struct audit *a = arg;
	struct kv_scan scan = {.m = a->k->m,
			       .ns = name,
			       .n_sub = n_sub,
			       .pause = a->share,
			       .nap = pause_between,
			       .page = page,
			       .ctx = a};

	a->ns = name;
	a->ns_len = strlen(name);
	if (!a->err)
		a->err = kv_scan(&scan);
}

/* --- what we hold ------------------------------------------------------ */

struct walk {
	struct kv_pub *k;
	uint64_t cursor;
};

static void name_dirty(void *arg, const char *path, uint16_t path_len)
{
	kv_dirty_unsure(arg, path, path_len);
}

static bool chunk(void *ctx, unsigned n)
{
	struct walk *w = ctx;

	return w->k->ops->each(w->k->ctx, &w->cursor, n, name_dirty, w->k);
}

static bool drain(void *ctx, unsigned n, int64_t *took_ns)
{
	struct walk *w = ctx;
	struct kv_pub *k = w->k;
	scoped_lock(&k->lock);

	while (!k->stop && k->n_names > n)
		pthread_cond_wait(&k->cleaned, &k->lock);
	*took_ns = k->last_batch_ns;
	return !k->stop;
}

static bool rest(void *ctx, int64_t ns)
{
	struct walk *w = ctx;

	fault_pass("kv.refill");
	return nap(w->k, ns);
}

static struct kv_refill refill_of(struct walk *w)
{
	return (struct kv_refill){
		.chunk = chunk, .drain = drain, .nap = rest, .ctx = w};
}

static void index_dirty(struct kv_pub *k)
{
	struct walk w = {.k = k};
	struct kv_refill r = refill_of(&w);

	kv_refill_run(&r);
}

/* Nodes that have not joined a new store yet will, in the same moment. */
static int refill_run(struct kv_pub *k)
{
	struct walk w = {.k = k};
	struct kv_refill r = refill_of(&w);
	uint32_t random = 0;

	if (getrandom(&random, sizeof(random), 0) < 0)
		random = 0;
	if (!kv_refill_wait(&r, meta_members_count(k->m, true), random))
		return -ESHUTDOWN;
	kv_refill_run(&r);
	k->n_refills++;
	return 0;
}

/* --- the thread -------------------------------------------------------- */

enum task { TASK_NONE, TASK_REFILL, TASK_AUDIT, TASK_SWEEP, TASK_END };

struct order {
	enum task task;
	bool hourly;
	const char *why;
	uint64_t refill, audit, deaths; /* what is done by it */
};

/* Somebody died, and cleaning up is this node's. */
static bool sweep_is_due(struct kv_pub *k, struct order *o)
{
	o->deaths = meta_members_deaths(k->m);
	if (o->deaths == k->deaths_swept)
		return false;
	if (meta_members_first(k->m))
		return true;
	k->deaths_swept = o->deaths;
	return false;
}

static bool audit_is_due(struct kv_pub *k)
{
	return k->audits_wanted != k->audits_done ||
	       clock_now_ns() >= k->audit_ns;
}

static enum task next_task(struct kv_pub *k, struct order *o)
{
	if (k->stop)
		return TASK_END;
	if (!kv_can_send(k))
		return TASK_NONE;
	if (audit_is_due(k))
		return TASK_AUDIT;
	if (k->refills_wanted != k->refills_done)
		return TASK_REFILL;
	return sweep_is_due(k, o) ? TASK_SWEEP : TASK_NONE;
}

/* With Redis away what is due is looked at again each second. */
static void order_wait(struct kv_pub *k, struct order *o)
{
	struct timespec until;

	*o = (struct order){.task = TASK_NONE};
	scoped_lock(&k->lock);
	while ((o->task = next_task(k, o)) == TASK_NONE) {
		int64_t soon = clock_now_ns() + NS_PER_S;

		until = clock_timespec(soon > k->audit_ns ? soon : k->audit_ns);
		pthread_cond_timedwait(&k->cleaned, &k->lock, &until);
	}
	o->hourly = k->audits_wanted == k->audits_done;
	o->why = o->hourly ? "an hour is over" : k->audit_why;
	o->refill = k->refills_wanted;
	o->audit = k->audits_wanted;
}

static void order_done(struct kv_pub *k, const struct order *o)
{
	scoped_lock(&k->lock);
	if (o->task == TASK_SWEEP) {
		k->deaths_swept = o->deaths;
		return;
	}
	k->refills_done = o->refill;
	k->audits_done = o->audit;
	pthread_cond_broadcast(&k->cleaned);
}

static void audit_next(struct kv_pub *k)
{
	scoped_lock(&k->lock);

	k->audit_ns = clock_now_ns() + AUDIT_EVERY_NS;
}

static int audit_run(struct kv_pub *k, const struct order *o)
{
	struct audit a = {.k = k,
			  .compare = true,
			  .sweep = o->hourly && meta_members_first(k->m),
			  .share = o->hourly ? SLOW_SHARE : URGENT_SHARE};

	if (!o->hourly)
		log_info("kv: audit of the whole index: %s",
			 o->why ? o->why : "memory was short");
	meta_namespace_names(k->m, namespace_scan, &a);
	if (a.err)
		return a.err;
	index_dirty(k);
	k->n_audits++;
	return 0;
}

static int sweep_run(struct kv_pub *k)
{
	struct audit a = {.k = k, .sweep = true, .share = SLOW_SHARE};
	uint64_t before = k->n_swept;

	meta_namespace_names(k->m, namespace_scan, &a);
	if (!a.err)
		log_info("kv: dead nodes are out of %llu records",
			 (unsigned long long)(k->n_swept - before));
	return a.err;
}

void *kv_auditor_thread(void *arg)
{
	struct kv_pub *k = arg;
	struct order o;

	audit_next(k);
	for (;;) {
		int err = 0;

		order_wait(k, &o);
		if (o.task == TASK_END)
			return NULL;
		if (o.task == TASK_AUDIT) {
			err = audit_run(k, &o);
			if (!err)
				audit_next(k);
		} else if (o.task == TASK_SWEEP) {
			err = sweep_run(k);
		} else {
			err = refill_run(k);
		}
		if (!err)
			order_done(k, &o);
		else if (!nap(k, NS_PER_S))
			return NULL;
	}
}
