// SPDX-License-Identifier: MIT
/* This node among those who keep the log of the tree. */
#include "meta/ckpt_call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/members.h"
#include "meta/node.h"
#include "meta/record.h"

#define KEEP_NS (250 * NS_PER_MS)
#define LOOK_NS (30 * NS_PER_S) /* of a node that is no keeper */
#define LEAVE_NS NS_PER_S
#define TAIL_BLOCK_MS 300u /* less than redis.c takes for silence */
#define TAIL_PAUSE_NS (5 * NS_PER_MS)
#define TAIL_AGAIN_NS (50 * NS_PER_MS)

void ckpt_cmd_self(struct meta_ckpt *c, struct redis_cmd *cmd)
{
	char name[META_NODE_NAME_MAX + 1], text[3 * META_NODE_NAME_MAX + 1];

	snprintf(name, sizeof(name), "%s",
		 *c->m->node_name ? c->m->node_name : "node");
	record_text_encode(text, name);
	redis_cmd_str(cmd, meta_node_uuid(c->m));
	redis_cmd_uint(cmd, meta_node_self(c->m));
	redis_cmd_str(cmd, text);
}

/* --- the set ----------------------------------------------------------- */

/* Known to Redis, and to no membership any more. */
static bool is_dead(struct meta_ckpt *c, const struct ckpt_keeper *k)
{
	return k->incarnation && !meta_node_is_live(c->m, k->incarnation);
}

static unsigned count_dead(struct meta_ckpt *c, const struct ckpt_keepers *k)
{
	unsigned n = 0;

	for (unsigned i = 0; i < k->n; i++)
		n += is_dead(c, &k->list[i]);
	return n;
}

static void add_dead(struct meta_ckpt *c, struct redis_cmd *cmd,
		     const struct ckpt_keepers *k)
{
	for (unsigned i = 0; i < k->n; i++) {
		if (!is_dead(c, &k->list[i]))
			continue;
		redis_cmd_str(cmd, k->list[i].uuid);
		redis_cmd_uint(cmd, k->list[i].incarnation);
	}
}

/*
 * k: the keepers as they are known, and on return as they are.
 * Returns: 0, -EAGAIN the store is not the one that is followed, -errno.
 */
static int keep(struct meta_ckpt *c, const char *what, bool whole,
		int64_t deadline, struct ckpt_keepers *k)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	redis_reply_auto struct redis_reply *r = NULL;
	struct ckpt_log_info info;
	uint64_t status;
	int err;

	fault_pass("ckpt.keep");
	ckpt_log_info(c->log, &info);
	ckpt_cmd_begin(c->m, &cmd, "keep");
	redis_cmd_printf(&cmd, "%016" PRIx64, c->token);
	ckpt_cmd_self(c, &cmd);
	redis_cmd_uint(&cmd, info.seq);
	redis_cmd_str(&cmd, what);
	redis_cmd_uint(&cmd, whole);
	redis_cmd_uint(&cmd, c->keepers.version);
	add_dead(c, &cmd, k);
	err = meta_call(c->m, META_CKPT, "c", deadline, &cmd, &r);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(r, 0), &status))
		return ckpt_malformed("keep");
	if (status)
		return -EAGAIN;
	return ckpt_keepers_read(r, k) ? ckpt_malformed("keep") : 0;
}

/* Remember what the next start must know. */
static int remember(struct meta_ckpt *c, const struct ckpt_keepers *k)
{
	const struct ckpt_keepers *old = &c->keepers;
	bool same = old->tree == k->tree && old->token == k->token &&
		    old->life == k->life && old->version == k->version;
	int err = same ? 0 : ckpt_keepers_save(k, c->m->state_dir);
	scoped_lock(&c->lock);

	if (!err)
		c->keepers = *k;
	return err;
}

static const struct ckpt_keeper *me(struct meta_ckpt *c,
				    const struct ckpt_keepers *k)
{
	return ckpt_keepers_find(k, meta_node_uuid(c->m));
}

/* Do the others wait for what this one has? */
static bool counts(struct meta_ckpt *c, const struct ckpt_keepers *k)
{
	const struct ckpt_keeper *self = me(c, k);

	return self && self->whole;
}

/* The tail waits for it. */
static void keeper_set(struct meta_ckpt *c, bool keeper)
{
	scoped_lock(&c->lock);
	if (c->keeper == keeper)
		return;
	c->keeper = keeper;
	pthread_cond_signal(&c->tail_cond);
}

/* --- a place ----------------------------------------------------------- */

static int refuse(const struct ckpt_log_info *info)
{
	log_error("ckpt: redis and ckpt.log disagree about the tree since "
		  "record %" PRIu64 ": one of them was written by another "
		  "daemon; remove ckpt.log, ckpt.snap and ckpt.keepers to use "
		  "what redis has, or FLUSHDB redis to use the log",
		  info->seq);
	return -EINVAL;
}

static const char *why_adopt(const struct ckpt_log_info *info, bool prefix)
{
	if (info->damaged)
		return "ckpt.log is damaged";
	if (info->seq <= 1)
		return "there is no log yet";
	return prefix ? "ckpt.log is too far behind"
		      : "ckpt.log is of an older life";
}

static int log_complete(struct meta_ckpt *c, const struct ckpt_store *s,
			bool prefix)
{
	struct ckpt_log_info info;
	int err = -ESRCH;

	if (prefix) {
		ckpt_log_unseal(c->log);
		err = ckpt_catch_up(c, s->seq);
	}
	ckpt_log_info(c->log, &info);
	if (err == -EEXIST)
		return refuse(&info);
	if (err == -ESRCH && info.seq > s->base && !prefix && !info.damaged)
		ckpt_log_keep_old(c->log);
	if (err != -ESRCH)
		return err;
	err = ckpt_adopt(c, s, why_adopt(&info, prefix));
	if (err)
		return err;
	ckpt_log_unseal(c->log);
	return ckpt_catch_up(c, s->seq);
}

static int place_take(struct meta_ckpt *c, const struct ckpt_store *s,
		      bool prefix, struct ckpt_keepers *k)
{
	int err = log_complete(c, s, prefix);

	return err ? err : keep(c, "stay", true, 0, k);
}

int ckpt_keep_place(struct meta_ckpt *c, const struct ckpt_store *s,
		    bool prefix)
{
	struct ckpt_keepers k = c->keepers;
	int err = keep(c, "stay", false, 0, &k);

	if (!err && count_dead(c, &k))
		err = keep(c, "stay", false, 0, &k);
	if (!err && me(c, &k))
		err = place_take(c, s, prefix, &k);
	if (err)
		return err;
	k.tree = s->tree;
	if (me(c, &k) || prefix) { /* else the log is of a life before */
		k.token = s->token;
		k.life = s->life;
	}
	err = remember(c, &k);
	if (!err)
		keeper_set(c, counts(c, &k));
	c->next_keep_ns = clock_now_ns() + KEEP_NS;
	return err;
}

/* While the store is READY: a place got free, or is ours and not yet told. */
static int place_later(struct meta_ckpt *c)
{
	struct ckpt_log_info info;
	struct ckpt_store s;
	int err = ckpt_store_state(c, &s);

	if (!err && (!s.live || s.token != c->token))
		err = -EAGAIN;
	ckpt_log_info(c->log, &info);
	return err ? err : ckpt_keep_place(c, &s, ckpt_is_prefix(c, &s, &info));
}

/* A keeper says four times a second what it has; another node looks where there
 * may be room, and now and then. */
static bool is_due(struct meta_ckpt *c)
{
	uint64_t version = meta_members_version(c->m);
	int64_t now = clock_now_ns();
	bool room =
		version != c->kept_version || c->keepers.n < CKPT_KEEPERS_MAX;

	if (now < c->next_keep_ns && (c->keeper || !room))
		return false;
	c->kept_version = version;
	c->next_keep_ns = now + (me(c, &c->keepers) ? KEEP_NS : LOOK_NS);
	return true;
}

void ckpt_keep_tick(struct meta_ckpt *c)
{
	struct ckpt_keepers k = c->keepers;
	int err;

	if (!is_due(c))
		return;
	err = keep(c, "stay", c->keeper, 0, &k);
	if (!err && count_dead(c, &k))
		c->kept_version = UINT64_MAX; /* due with the next tick, too */
	if (!err && me(c, &k) && !c->keeper)
		err = place_later(c);
	else if (!err)
		err = remember(c, &k);
	if (!err && !me(c, &k))
		keeper_set(c, false);
	if (err == -EAGAIN || err == -EINVAL)
		ckpt_doubt(c);
}

void ckpt_keep_leave(struct meta_ckpt *c)
{
	struct ckpt_keepers k = c->keepers;

	if (!c->keeper || c->m->embedded || !redis_up(c->m->links[META_CKPT]) ||
	    keep(c, "leave", true, clock_now_ns() + LEAVE_NS, &k))
		return;
	remember(c, &k);
}

/* --- the tail ---------------------------------------------------------- */

/* [[key, [[id, …], …]]], or nothing came. */
static uint64_t tail_read(const struct redis_reply *r)
{
	const struct redis_reply *stream = redis_reply_at(r, 0);
	const struct redis_reply *first =
		redis_reply_at(redis_reply_at(stream, 1), 0);

	return strtoull(redis_reply_text(redis_reply_at(first, 0)), NULL, 10);
}

static void tail_done(void *ctx, int err, struct redis_reply *reply)
{
	struct meta_ckpt *c = ctx;

	scoped_lock(&c->lock);
	c->tail_seq = err ? 0 : tail_read(reply);
	c->tail_state = c->tail_seq ? TAIL_HIT : TAIL_IDLE;
	pthread_cond_signal(&c->tail_cond);
}

/* Is there more? The records are then read as everywhere, with their life. */
static int tail_ask(struct meta_ckpt *c)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	struct ckpt_log_info info;
	int err;

	ckpt_log_info(c->log, &info);
	redis_cmd_words(&cmd, "XREAD COUNT 1 BLOCK");
	redis_cmd_uint(&cmd, TAIL_BLOCK_MS);
	redis_cmd_str(&cmd, "STREAMS");
	meta_cmd_key(&cmd, c->m, "c", "log");
	redis_cmd_printf(&cmd, "%" PRIu64 "-0", info.seq);
	pthread_mutex_lock(&c->lock);
	c->tail_state = TAIL_ASKED;
	pthread_mutex_unlock(&c->lock);
	err = redis_send(c->tail, &cmd, tail_done, c);
	if (err)
		tail_done(c, err, NULL);
	return err;
}

/* Returns false once it is time to end. */
static bool tail_wait(struct meta_ckpt *c, int64_t pause_ns, uint64_t *seq)
{
	struct timespec t = clock_timespec(clock_now_ns() + pause_ns);

	scoped_lock(&c->lock);
	if (pause_ns)
		while (!c->stop &&
		       !pthread_cond_timedwait(&c->tail_cond, &c->lock, &t))
			;
	while (!c->stop && (c->tail_state == TAIL_ASKED ||
			    c->state != CKPT_READY || !c->keeper))
		pthread_cond_wait(&c->tail_cond, &c->lock);
	*seq = c->tail_state == TAIL_HIT ? c->tail_seq : 0;
	c->tail_state = TAIL_IDLE;
	return !c->stop;
}

/* What this node made itself is most often there already. */
static int tail_fetch(struct meta_ckpt *c, uint64_t seq)
{
	struct ckpt_log_info info;
	int err;

	ckpt_log_info(c->log, &info);
	if (info.seq >= seq)
		return 0;
	fault_pass("ckpt.tail");
	err = ckpt_catch_up(c, 0);
	if (err == -ESRCH || err == -EEXIST)
		ckpt_doubt(c);
	return err;
}

/* Between an answer and the fetch a pause gathers what comes together, and
 * lets this node's own calls bring their records. */
static void *tail_run(void *arg)
{
	struct meta_ckpt *c = arg;
	uint64_t seq, next = 0;
	int64_t pause = 0;

	while (tail_wait(c, pause, &seq)) {
		int err;

		if (seq) {
			next = seq;
			pause = TAIL_PAUSE_NS;
			continue;
		}
		err = next ? tail_fetch(c, next) : tail_ask(c);
		next = 0;
		pause = err ? TAIL_AGAIN_NS : 0;
	}
	return NULL;
}

int ckpt_tail_start(struct meta_ckpt *c)
{
	struct redis_config config = {.url = &c->m->url,
				      .password = c->m->password,
				      .ca_file = c->m->ca_file,
				      .cert_file = c->m->cert_file,
				      .name = "kvfs-tail"};
	int err;

	if (c->m->embedded) /* nobody else makes records */
		return 0;
	err = redis_open(&c->tail, &config, meta_deadline(c->m, 0));
	if (!err)
		err = -pthread_create(&c->tail_thread, NULL, tail_run, c);
	c->has_tail_thread = !err;
	if (!err)
		pthread_setname_np(c->tail_thread, "kvfs-tail");
	return err;
}

void ckpt_tail_stop(struct meta_ckpt *c)
{
	if (c->has_tail_thread)
		pthread_join(c->tail_thread, NULL);
	c->has_tail_thread = false;
	redis_close(c->tail);
	c->tail = NULL;
}
