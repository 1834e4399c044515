// SPDX-License-Identifier: MIT
/*
 * meta-replicas=n: who closes a file is answered once n replicas of Redis have
 * what it changed.
 *
 * WAIT tells of the writes of its own connection, and blocks it: so there is
 * one for this alone. A replica takes what it is sent in order; what is
 * written here after a mutation was answered (ckpt.lua: mark) stands behind
 * it, and a replica that has the one has the other. One WAIT answers everybody
 * who came before it was sent:
 *
 *      asked      1   2   3 │ 4   5
 *      WAIT       └─ of 1 ──┘ └─ of whoever of 4, 5 comes first
 *
 * The mark is made only in a store that has all that this node was answered;
 * another one, which took its place, would vouch for what it never had.
 */
#include "meta/ckpt_call.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#define STEP_MS 50 /* a WAIT; it blocks whoever came behind it */
#define AGAIN_MS 20

int ckpt_replicas_open(struct meta_ckpt *c, uint64_t want)
{
	struct ckpt_replicas *r = &c->replicas;
	struct meta *m = c->m;
	struct redis_config config = {.url = &m->url,
				      .password = m->password,
				      .ca_file = m->ca_file,
				      .cert_file = m->cert_file,
				      .name = "kvfs-replicas"};

	r->want = want;
	if (!want)
		return 0;
	return redis_open(&r->link, &config, meta_deadline(m, 0));
}

void ckpt_replicas_close(struct meta_ckpt *c)
{
	redis_close(c->replicas.link);
	c->replicas.link = NULL;
}

/* One command; what it answered, or -errno. */
static int64_t ask(struct ckpt_replicas *r, const struct redis_cmd *cmd,
		   int64_t deadline)
{
	redis_reply_auto struct redis_reply *reply = NULL;
	int64_t n;
	int err = redis_call(r->link, REDIS_WAIT, deadline, cmd, &reply);

	if (!err)
		err = meta_reply_errno(reply);
	if (!err)
		err = redis_reply_int(reply, &n);
	return err ? err : n;
}

static int64_t mark(struct meta_ckpt *c, int64_t deadline)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	int64_t status;

	ckpt_cmd_begin(c->m, &cmd, "mark");
	redis_cmd_printf(&cmd, "%016" PRIx64, c->token);
	redis_cmd_uint(&cmd, c->seen_seq);
	status = ask(&c->replicas, &cmd, deadline);
	if (status > 0)
		ckpt_doubt(c);
	return status;
}

static int64_t wait_step(struct ckpt_replicas *r, int64_t deadline)
{
	redis_cmd_auto struct redis_cmd cmd = {0};

	redis_cmd_str(&cmd, "WAIT");
	redis_cmd_uint(&cmd, r->want);
	redis_cmd_uint(&cmd, STEP_MS);
	return ask(r, &cmd, deadline);
}

/* Do as many replicas as are wanted have what was answered before this call?
 * A new connection wrote nothing, and WAIT would answer it at once. */
static bool round_run(struct meta_ckpt *c, int64_t deadline)
{
	struct ckpt_replicas *r = &c->replicas;
	int64_t id = redis_client_id(r->link);
	int64_t n = mark(c, deadline);

	if (n)
		return false;
	while (clock_now_ns() < deadline) {
		n = wait_step(r, deadline);
		if (n < 0 || redis_client_id(r->link) != id)
			return false;
		if ((uint64_t)n >= r->want)
			return true;
	}
	return false;
}

/* Locked, and unlocked meanwhile. */
static void lead(struct meta_ckpt *c, int64_t deadline)
{
	struct ckpt_replicas *r = &c->replicas;
	uint64_t upto = r->asked;
	bool have;

	r->running = true;
	pthread_mutex_unlock(&r->lock);
	have = round_run(c, deadline);
	if (!have)
		poll(NULL, 0, AGAIN_MS);
	pthread_mutex_lock(&r->lock);
	r->running = false;
	if (have) {
		r->answered = upto;
		if (r->lacking)
			log_info("ckpt: redis: %" PRIu64
				 " of its replicas follow again",
				 r->want);
		r->lacking = false;
	}
	pthread_cond_broadcast(&r->changed);
}

/* Locked. One line an outage. */
static int lacking(struct ckpt_replicas *r)
{
	if (!r->lacking)
		log_warn("ckpt: redis: fewer than %" PRIu64
			 " of its replicas have what was changed: close() and "
			 "fsync() fail until they follow (meta-replicas=); "
			 "see redis-cli INFO replication",
			 r->want);
	r->lacking = true;
	return -EIO;
}

int ckpt_replicated(struct meta *m, int64_t deadline)
{
	struct ckpt_replicas *r = &m->ckpt->replicas;
	int64_t start = clock_now_ns();
	struct timespec until;
	uint64_t mine;

	if (!r->want)
		return 0;
	deadline = meta_deadline(m, deadline);
	scoped_lock(&r->lock);
	/* Only the first of an outage wait for long. */
	if (r->lacking && deadline > start + META_HOPELESS_NS)
		deadline = start + META_HOPELESS_NS;
	until = clock_timespec(deadline);
	mine = ++r->asked;
	while (r->answered < mine) {
		if (clock_now_ns() >= deadline)
			return lacking(r);
		if (r->running)
			pthread_cond_timedwait(&r->changed, &r->lock, &until);
		else
			lead(m->ckpt, deadline);
	}
	return 0;
}
