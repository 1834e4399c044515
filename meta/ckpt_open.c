// SPDX-License-Identifier: MIT
/* ckpt comes up and goes down, and its thread between the two. */
#include "base/cond.h"
#include "meta/ckpt_call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"

#define COMPACT_BYTES (64u << 20)
#define COMPACT_AGAIN_NS (60 * NS_PER_S)
#define TICK_NS (250 * NS_PER_MS)
#define SLOW_NS NS_PER_S
#define CHECK_TICK_NS (50 * NS_PER_MS)
#define CHECK_TICKS 20u /* then a failing check is tried each TICK */
#define LETGO_NS NS_PER_S
/* A node that lives notices within a heartbeat that it is asked; and a call
 * that waits for the end of it is answered within the default deadline. */
#define ELECT_MS 4000u

static bool is_doubted(enum ckpt_state state)
{
	return state == CKPT_CHECK || state == CKPT_LOADING;
}

/* --- the thread -------------------------------------------------------- */

/* Returns false once it is time to end. */
static bool tick(struct meta_ckpt *c, unsigned failed, enum ckpt_state *state)
{
	scoped_lock(&c->lock);
	if (!c->stop && (!is_doubted(c->state) || failed)) {
		bool soon = failed && failed <= CHECK_TICKS;
		int64_t pause = soon ? CHECK_TICK_NS : TICK_NS;
		struct timespec t = clock_timespec(clock_now_ns() + pause);

		pthread_cond_timedwait(&c->cond, &c->lock, &t);
	}
	*state = c->state;
	return !c->stop;
}

static void compact_if_long(struct meta_ckpt *c, int64_t *not_before)
{
	struct ckpt_log_info info;
	uint64_t limit = c->compact_bytes;
	int err;

	ckpt_log_info(c->log, &info);
	if (limit < 4 * info.snap_bytes)
		limit = 4 * info.snap_bytes;
	if (info.log_bytes <= limit || clock_now_ns() < *not_before)
		return;
	err = ckpt_compact(c);
	*not_before = clock_now_ns() + (err ? COMPACT_AGAIN_NS : 0);
	ckpt_log_info(c->log, &info);
	log_debug("ckpt: snapshot: %s, as of record %" PRIu64,
		  err ? strerror(-err) : "taken", info.snap_seq);
}

static void *run(void *arg)
{
	struct meta_ckpt *c = arg;
	int64_t compact_not_before = 0, slow_not_before = 0;
	enum ckpt_state state;
	unsigned failed = 0; /* checks in a row */

	ckpt_call_attaches();
	while (tick(c, failed, &state)) {
		bool up = redis_up(c->m->links[META_CKPT]);

		if (!is_doubted(state))
			failed = 0;
		else if (!up)
			failed = 1; /* look again soon */
		else
			failed = ckpt_attach(c) ? failed + 1 : 0;
		if (state != CKPT_READY || !up)
			continue;
		ckpt_letgo_flush(c, clock_now_ns() + LETGO_NS);
		ckpt_keep_tick(c);
		if (clock_now_ns() >= slow_not_before) {
			fault_pass("ckpt.slow");
			ckpt_lock_tidy(c);
			ckpt_shards_flush(c);
			slow_not_before = clock_now_ns() + SLOW_NS;
		}
		compact_if_long(c, &compact_not_before);
	}
	return NULL;
}

/* --- up and down ------------------------------------------------------- */

static struct meta_ckpt *state_new(struct meta *m)
{
	struct meta_ckpt *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->m = m;
	c->state = CKPT_CHECK;
	c->compact_bytes = COMPACT_BYTES;
	c->elect_ms = ELECT_MS;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->lock_ends, NULL);
	cond_init(&c->cond);
	cond_init(&c->tail_cond);
	pthread_mutex_init(&c->replicas.lock, NULL);
	cond_init(&c->replicas.changed);
	return c;
}

static void state_free(struct meta_ckpt *c)
{
	ckpt_log_close(c->log);
	pthread_cond_destroy(&c->cond);
	pthread_cond_destroy(&c->tail_cond);
	pthread_mutex_destroy(&c->replicas.lock);
	pthread_cond_destroy(&c->replicas.changed);
	pthread_mutex_destroy(&c->lock_ends);
	pthread_mutex_destroy(&c->lock);
	ckpt_shards_free(&c->shards);
	ckpt_lockers_free(c);
	free(c->letgo);
	free(c);
}

/* Another node may be filling the store, or be asked what its log has: wait
 * for it, within reason. */
static int attach_first(struct meta_ckpt *c)
{
	struct timespec pause = clock_timespec(CHECK_TICK_NS);
	int64_t deadline = meta_deadline(c->m, 0);
	int err;

	while ((err = ckpt_attach(c)) == -EAGAIN && clock_now_ns() < deadline)
		nanosleep(&pause, NULL);
	if (err == -EAGAIN) {
		log_error("ckpt: other nodes have not yet filled redis with "
			  "the tree");
		err = -ETIMEDOUT;
	}
	return err;
}

static int start(struct meta_ckpt *c)
{
	int err = ckpt_log_open(&c->log, c->m->state_dir);

	if (!err && getrandom(c->session, sizeof(c->session), 0) !=
			    (ssize_t)sizeof(c->session))
		err = -EIO;
	if (!err)
		err = ckpt_keepers_load(&c->keepers, c->m->state_dir);
	if (!err)
		err = attach_first(c);
	if (!err) /* from here on calls wait for it where all is not well */
		err = -pthread_create(&c->thread, NULL, run, c);
	c->has_thread = !err;
	if (!err)
		err = ckpt_sweep(c);
	if (!err)
		err = ckpt_lock_reset(c->m);
	if (!err)
		err = ckpt_replicas_open(c, c->m->replicas);
	if (!err)
		err = ckpt_tail_start(c);
	return err;
}

int meta_ckpt_open(struct meta *m)
{
	int err;

	m->ckpt = state_new(m);
	if (!m->ckpt)
		return -ENOMEM;
	err = start(m->ckpt);
	if (err) {
		meta_ckpt_stop(m);
		meta_ckpt_close(m);
	}
	return err;
}

void meta_ckpt_store_changed(struct meta *m)
{
	struct meta_ckpt *c = m->ckpt;

	scoped_lock(&c->lock);
	if (c->state == CKPT_READY || c->state == CKPT_REFUSED)
		c->state = CKPT_CHECK;
	c->shards.all = true;
	pthread_cond_broadcast(&c->cond);
}

void meta_ckpt_stop(struct meta *m)
{
	struct meta_ckpt *c = m->ckpt;

	if (!c)
		return;
	if (c->has_thread && redis_up(m->links[META_CKPT]))
		ckpt_letgo_flush(c, clock_now_ns() + LETGO_NS);
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_broadcast(&c->cond);
	pthread_cond_signal(&c->tail_cond);
	pthread_mutex_unlock(&c->lock);
	if (c->has_thread)
		pthread_join(c->thread, NULL);
	c->has_thread = false;
	ckpt_tail_stop(c);
	ckpt_replicas_close(c);
	ckpt_keep_leave(c);
	if (c->log)
		ckpt_log_fdatasync(c->log);
}

void meta_ckpt_close(struct meta *m)
{
	if (!m->ckpt)
		return;
	state_free(m->ckpt);
	m->ckpt = NULL;
}

void meta_ckpt_stats(struct meta *m, struct meta_stats *stats)
{
	struct meta_ckpt *c = m->ckpt;
	struct ckpt_log_info info;

	if (!c)
		return;
	ckpt_log_info(c->log, &info);
	stats->ckpt_logged_seq = info.seq;
	stats->ckpt_seq = c->seen_seq > info.seq ? c->seen_seq : info.seq;
	pthread_mutex_lock(&c->lock);
	stats->ckpt_read_only = c->state != CKPT_READY;
	stats->ckpt_keeper = c->keeper;
	stats->ckpt_keepers = c->keepers.n;
	pthread_mutex_unlock(&c->lock);
}

int ckpt_log_sync(struct meta *m)
{
	return ckpt_log_fdatasync(m->ckpt->log);
}

/* --- every inode ------------------------------------------------------- */

static int ino_page(const struct redis_reply *r,
		    void (*fn)(void *arg, uint64_t ino), void *arg)
{
	for (size_t i = 2; i < redis_reply_count(r); i++) {
		const char *key = redis_reply_text(redis_reply_at(r, i));
		uint64_t ino;
		char *end;

		ino = strtoull(*key ? key + 1 : key, &end, 10);
		if (*key != 'i' || *end || !ino)
			return ckpt_malformed("inos");
		fn(arg, ino);
	}
	return 0;
}

int ckpt_each_ino(struct meta *m, void (*fn)(void *arg, uint64_t ino),
		  void *arg)
{
	char cursor[24] = "0";
	int err;

	/* What a killed daemon had unlinked and open is none of them. */
	ckpt_letgo_flush(m->ckpt, meta_deadline(m, 0));
	do {
		redis_cmd_auto struct redis_cmd cmd = {0};
		redis_reply_auto struct redis_reply *r = NULL;

		ckpt_cmd_begin(m, &cmd, "inos");
		ckpt_cmd_gate(m->ckpt, &cmd);
		redis_cmd_str(&cmd, cursor);
		err = ckpt_page(m, &cmd, 2, &r);
		snprintf(cursor, sizeof(cursor), "%s",
			 redis_reply_text(redis_reply_at(r, 1)));
		if (!err)
			err = ino_page(r, fn, arg);
	} while (!err && strcmp(cursor, "0"));
	return err == -EAGAIN ? -EIO : err;
}
