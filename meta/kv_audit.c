// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/kv_impl.h"
#include "meta/members.h"
#include "meta/namespace.h"
#include "meta/node.h"
#include "meta/record.h"

/*
 * Refill: everything this node holds becomes dirty, most recently used first,
 * no faster than Redis takes it. Audit: before that, what Redis says this node
 * holds and it does not becomes dirty, too.
 */

#define AUDIT_EVERY_NS (3600 * NS_PER_S)
#define SCAN_COUNT 500
#define SLOW_SHARE 9   /* the hourly one: 10 % of the time */
#define URGENT_SHARE 1 /* half of it */
#define REFILL_CHUNK 2048u
#define REFILL_JITTER_NS (30 * NS_PER_S)
#define LATENCY_MAX_NS (50 * NS_PER_MS)

struct audit {
	struct kv_pub *k;
	unsigned share; /* pauses this many times as long as it works */
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

static bool stopped(struct kv_pub *k)
{
	scoped_lock(&k->lock);
	return k->stop;
}

/* --- what Redis says we hold ------------------------------------------- */

static bool lists_us(const struct redis_reply *value, uint32_t me)
{
	struct record r;
	const char *p;
	size_t n;

	if (redis_reply_str(value, &p, &n) || record_decode(p, n, &r))
		return false;
	for (uint32_t i = 0; i < r.n_holders; i++)
		if (r.holders[i] == me)
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

static int scan_once(struct audit *a, const char *tag, uint32_t sub,
		     uint64_t *cursor)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	redis_cmd_auto struct redis_cmd c = {0};
	struct meta *m = a->k->m;
	uint32_t me = meta_node_self(m);
	const struct redis_reply *list;
	int err;

	redis_cmd_str(&c, "HSCAN");
	meta_cmd_key(&c, m, tag, "b%u", sub);
	redis_cmd_uint(&c, *cursor);
	redis_cmd_str(&c, "COUNT");
	redis_cmd_int(&c, SCAN_COUNT);
	err = meta_call(m, META_PUBLISH, tag, 0, &c, &reply);
	err = err ? err : redis_reply_uint(redis_reply_at(reply, 0), cursor);
	if (err)
		return err;
	list = redis_reply_at(reply, 1);
	for (size_t i = 0; i + 1 < redis_reply_count(list); i += 2) {
		const char *rest;
		size_t n;

		if (lists_us(redis_reply_at(list, i + 1), me) &&
		    !redis_reply_str(redis_reply_at(list, i), &rest, &n))
			field_check(a, rest, n);
	}
	return 0;
}

static void bucket_scan(struct audit *a, uint32_t group, uint32_t sub)
{
	char tag[KEY_TAG_MAX];
	uint64_t cursor = 0;

	key_tag_kv(tag, a->ns, a->ns_len, group);
	do {
		int64_t start = clock_now_ns();

		a->err = scan_once(a, tag, sub, &cursor);
		if (!a->err && !nap(a->k, (clock_now_ns() - start) * a->share))
			a->err = -ESHUTDOWN;
	} while (!a->err && cursor);
}

static void namespace_scan(void *arg, const char *name, uint32_t n_sub)
{
	struct audit *a = arg;

	a->ns = name;
	a->ns_len = strlen(name);
	for (uint32_t group = 0; group < KEY_GROUPS; group++)
		for (uint32_t sub = 0; sub < n_sub && !a->err; sub++)
			bucket_scan(a, group, sub);
}

/* --- what we hold ------------------------------------------------------ */

static void name_dirty(void *arg, const char *path, uint16_t path_len)
{
	struct kv_pub *k = arg;

	meta_kv_dirty(k->m, path, path_len);
}

/* Until the sender is nearly through, and Redis not slowed down by us. */
static bool chunk_wait(struct kv_pub *k)
{
	int64_t slow = k->last_batch_ns;

	pthread_mutex_lock(&k->lock);
	while (!k->stop && k->n_names > 2 * REFILL_CHUNK)
		pthread_cond_wait(&k->cleaned, &k->lock);
	pthread_mutex_unlock(&k->lock);
	return slow > LATENCY_MAX_NS ? nap(k, slow) : !stopped(k);
}

static void index_dirty(struct kv_pub *k)
{
	uint64_t cursor = 0;

	while (k->ops->each(k->ctx, &cursor, REFILL_CHUNK, name_dirty, k))
		if (!chunk_wait(k))
			return;
}

/* Others saw the new store in the same second: spread over up to 30 s. */
static bool jitter(struct kv_pub *k)
{
	uint32_t n_nodes = meta_members_count(k->m), random = 0;
	int64_t span = n_nodes < 30 ? n_nodes * NS_PER_S : REFILL_JITTER_NS;

	if (n_nodes < 2 || getrandom(&random, sizeof(random), 0) < 0)
		return !stopped(k);
	return nap(k, span / 1000 * (random % 1000));
}

/* --- the thread -------------------------------------------------------- */

enum task { TASK_NONE, TASK_REFILL, TASK_AUDIT, TASK_END };

struct order {
	enum task task;
	bool hourly;
	const char *why;
	uint64_t refill, audit; /* what is done by it */
};

static void order_wait(struct kv_pub *k, int64_t next_ns, struct order *o)
{
	struct timespec until = clock_timespec(next_ns);
	bool late = false;

	*o = (struct order){.task = TASK_NONE};
	scoped_lock(&k->lock);
	for (;;) {
		if (k->stop) {
			o->task = TASK_END;
		} else if (kv_can_send(k)) {
			if (k->audits_wanted != k->audits_done || late)
				o->task = TASK_AUDIT;
			else if (k->refills_wanted != k->refills_done)
				o->task = TASK_REFILL;
		}
		if (o->task != TASK_NONE)
			break;
		if (pthread_cond_timedwait(&k->cleaned, &k->lock, &until)) {
			late = true;
			until = clock_timespec(clock_now_ns() + NS_PER_S);
		}
	}
	o->hourly = k->audits_wanted == k->audits_done;
	o->why = o->hourly ? "an hour is over" : k->audit_why;
	o->refill = k->refills_wanted;
	o->audit = k->audits_wanted;
}

static void order_done(struct kv_pub *k, const struct order *o)
{
	scoped_lock(&k->lock);
	k->refills_done = o->refill;
	k->audits_done = o->audit;
	pthread_cond_broadcast(&k->cleaned);
}

static int audit_run(struct kv_pub *k, const struct order *o)
{
	struct audit a = {.k = k,
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

void *kv_auditor_thread(void *arg)
{
	struct kv_pub *k = arg;
	int64_t next_ns = clock_now_ns() + AUDIT_EVERY_NS;
	struct order o;

	for (;;) {
		int err = 0;

		order_wait(k, next_ns, &o);
		if (o.task == TASK_END)
			return NULL;
		if (o.task == TASK_AUDIT) {
			err = audit_run(k, &o);
			next_ns = clock_now_ns() + AUDIT_EVERY_NS;
		} else if (jitter(k)) {
			index_dirty(k);
			k->n_refills++;
		}
		if (!err)
			order_done(k, &o);
		else if (!nap(k, NS_PER_S))
			return NULL;
	}
}
