// SPDX-License-Identifier: MIT
#include "meta/ckpt_call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/ckpt_record.h"

#define ANSWER_HEAD_BYTES 16u
#define ERRNO_MAX 133u
#define GAP_WAIT_NS (20 * NS_PER_MS)
#define CHECK_WAIT_NS (1000 * NS_PER_MS)

/* --- answers ----------------------------------------------------------- */

int ckpt_malformed(const char *fn)
{
	log_error("ckpt: redis answered %s with what is no answer of ours", fn);
	return -EIO;
}

void ckpt_answer_fini(struct ckpt_answer *a)
{
	redis_reply_free(a->reply);
	a->reply = NULL;
}

static int answer_parse(const char *fn, struct ckpt_answer *a)
{
	uint32_t record_bytes;
	const char *p;
	size_t n;

	if (redis_reply_type(a->reply) != REPLY_STRING ||
	    redis_reply_str(a->reply, &p, &n) || n < ANSWER_HEAD_BYTES)
		return ckpt_malformed(fn);
	memcpy(&a->status, p, 4);
	memcpy(&a->seq, p + 4, 8);
	memcpy(&record_bytes, p + 12, 4);
	if (record_bytes > n - ANSWER_HEAD_BYTES || (a->seq && !record_bytes) ||
	    (a->status > ERRNO_MAX &&
	     (a->status < CKPT_BEHIND || a->status > CKPT_OLD))) {
		a->seq = 0; /* nothing of it goes into the log */
		return ckpt_malformed(fn);
	}
	a->record = p + ANSWER_HEAD_BYTES;
	a->record_bytes = record_bytes;
	a->result = a->record + record_bytes;
	a->result_bytes = n - ANSWER_HEAD_BYTES - record_bytes;
	return 0;
}

int ckpt_answer_attr(const char *fn, const struct ckpt_answer *a,
		     struct ckpt_attr *attr)
{
	struct ckpt_cursor c = {a->result, a->result + a->result_bytes, false};
	struct ckpt_attr tmp;

	ckpt_cursor_attr(&c, &tmp);
	if (!ckpt_cursor_done(&c))
		return ckpt_malformed(fn);
	*attr = tmp;
	return 0;
}

/* --- commands ---------------------------------------------------------- */

void ckpt_cmd_begin(struct meta *m, struct redis_cmd *cmd, const char *fn)
{
	char name[48];

	snprintf(name, sizeof(name), "ckpt_%s", fn);
	meta_fcall(cmd, name, 1);
	meta_cmd_key(cmd, m, "c", "%s", "");
}

static void cmd_gate(struct meta_ckpt *c, struct redis_cmd *cmd, uint64_t token,
		     bool keeper)
{
	struct ckpt_log_info info;

	ckpt_log_info(c->log, &info);
	redis_cmd_printf(cmd, "%016" PRIx64, token);
	redis_cmd_uint(cmd, keeper ? info.seq : 0);
}

void ckpt_cmd_gate(struct meta_ckpt *c, struct redis_cmd *cmd)
{
	cmd_gate(c, cmd, c->token, c->keeper);
}

static void cmd_append(struct redis_cmd *cmd, const struct redis_cmd *args)
{
	size_t from = 0;

	for (size_t i = 0; i < args->n_args; i++) {
		redis_cmd_bin(cmd, args->bytes + from, args->ends[i] - from);
		from = args->ends[i];
	}
	if (args->err)
		cmd->err = args->err;
}

static bool is_stopping(struct meta_ckpt *c)
{
	scoped_lock(&c->lock);
	return c->stop;
}

int ckpt_page(struct meta *m, const struct redis_cmd *cmd, size_t min_count,
	      struct redis_reply **reply)
{
	struct redis_reply *r;
	uint64_t status;
	int err;

	if (is_stopping(m->ckpt))
		return -ESHUTDOWN;
	err = meta_call(m, META_CKPT, "c", 0, cmd, &r);
	if (err)
		return err;
	if (redis_reply_uint(redis_reply_at(r, 0), &status))
		err = ckpt_malformed("a page");
	else if (status)
		err = -EAGAIN;
	else if (redis_reply_count(r) < min_count)
		err = ckpt_malformed("a page");
	if (err)
		redis_reply_free(r);
	else
		*reply = r;
	return err;
}

/* --- what waits for what ----------------------------------------------- */

static int wait_until(struct meta_ckpt *c, int64_t when)
{
	struct timespec t = clock_timespec(when);

	return pthread_cond_timedwait(&c->cond, &c->lock, &t);
}

static int64_t min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* What a call is sent with: as it was while the store was READY. */
struct terms {
	uint64_t token; /* of the life that was followed */
	uint64_t epoch; /* of the log */
	uint64_t set;	/* version of the keepers that this node was one of */
	bool keeper;
};

static _Thread_local bool attaches;

void ckpt_call_attaches(void)
{
	attaches = true;
}

/* A store that is being mended is waited for; its tree is no lie meanwhile. */
static int wait_ready(struct meta_ckpt *c, int64_t deadline, bool write,
		      struct terms *t)
{
	int64_t start = clock_now_ns();
	scoped_lock(&c->lock);

	if (meta_ckpt_hopeless(c->m) && deadline > start + META_HOPELESS_NS)
		deadline = start + META_HOPELESS_NS;
	while (c->state != CKPT_READY) {
		if (c->stop || c->state == CKPT_REFUSED || attaches)
			return -EIO;
		if (wait_until(c, deadline) == ETIMEDOUT) {
			meta_ckpt_unanswered(c->m, start);
			if (redis_up(c->m->links[META_CKPT]))
				log_warn("ckpt: at the deadline redis is still "
					 "%s: 'kvfs nodes' shows who is away",
					 c->state == CKPT_LOADING
						 ? "being filled, or a keeper "
						   "waited for"
						 : "compared with the log");
			return write && c->state == CKPT_LOADING ? -EROFS
								 : -EIO;
		}
	}
	*t = (struct terms){.token = c->token,
			    .epoch = ckpt_log_epoch(c->log),
			    .keeper = c->keeper,
			    .set = c->keeper ? c->keepers.version : 0};
	return 0;
}

void ckpt_doubt(struct meta_ckpt *c)
{
	scoped_lock(&c->lock);
	if (c->state == CKPT_READY)
		c->state = CKPT_CHECK;
	pthread_cond_broadcast(&c->cond);
}

/* Is it to be sent again? */
static bool judge(struct meta_ckpt *c, int *err, const struct ckpt_answer *a,
		  int64_t deadline)
{
	if (*err == -ECONNRESET && clock_now_ns() < deadline)
		return true;
	if (*err) {
		if (*err != -ENOMEM && *err != -ENOSPC)
			*err = -EIO;
		return false;
	}
	switch (a->status) {
	case CKPT_BEHIND:
	case CKPT_UNREADY:
	case CKPT_FOREIGN:
		ckpt_doubt(c);
		return true;
	case CKPT_OLD:
		*err = -EIO;
		return false;
	default:
		*err = -(int)a->status;
		return false;
	}
}

static int call_once(struct meta *m, int64_t deadline, const char *fn,
		     const struct redis_cmd *cmd, struct ckpt_answer *a)
{
	int err;

	ckpt_answer_fini(a);
	err = meta_call(m, META_CKPT, "c", deadline, cmd, &a->reply);
	return err ? err : answer_parse(fn, a);
}

int ckpt_read(struct meta *m, int64_t deadline, const char *fn,
	      const struct redis_cmd *args, struct ckpt_answer *a)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	struct meta_ckpt *c = m->ckpt;
	struct terms t;
	int err;

	deadline = meta_deadline(m, deadline);
	do {
		err = wait_ready(c, deadline, false, &t);
		if (err)
			return err;
		redis_cmd_reset(&cmd);
		ckpt_cmd_begin(m, &cmd, fn);
		cmd_gate(c, &cmd, t.token, t.keeper);
		cmd_append(&cmd, args);
		err = call_once(m, deadline, fn, &cmd, a);
	} while (judge(c, &err, a, deadline));
	return err;
}

/* --- inodes that go ---------------------------------------------------- */

void ckpt_letgo(struct meta_ckpt *c, uint64_t ino)
{
	scoped_lock(&c->lock);
	if (c->n_letgo == c->cap_letgo) {
		size_t cap = c->cap_letgo ? 2 * c->cap_letgo : 64;
		struct ckpt_letgo *more =
			realloc(c->letgo, cap * sizeof(*more));

		if (!more)
			return; /* it is freed at the next mount */
		c->letgo = more;
		c->cap_letgo = cap;
	}
	c->letgo[c->n_letgo++] = (struct ckpt_letgo){.ino = ino};
}

bool ckpt_letgo_has(struct meta_ckpt *c, uint64_t ino)
{
	scoped_lock(&c->lock);
	for (size_t i = 0; i < c->n_letgo; i++)
		if (c->letgo[i].ino == ino)
			return true;
	return false;
}

/* They stay on the list until Redis answered: they are gone for us, and may
 * still be there for it. */
static size_t letgo_take(struct meta_ckpt *c, uint64_t inos[CKPT_LETGO_MAX])
{
	size_t n = 0;

	scoped_lock(&c->lock);
	if (c->n_letgo == c->n_letgo_sent)
		return 0;
	for (size_t i = 0; i < c->n_letgo && n < CKPT_LETGO_MAX; i++) {
		if (c->letgo[i].sent)
			continue;
		c->letgo[i].sent = true;
		inos[n++] = c->letgo[i].ino;
	}
	c->n_letgo_sent += n;
	return n;
}

/* told: Redis knows. Else they wait for the next call; letting go twice does
 * no harm. */
static void letgo_end(struct meta_ckpt *c, const uint64_t *inos, size_t n,
		      bool told)
{
	scoped_lock(&c->lock);

	for (size_t k = 0; k < n; k++) {
		size_t i = 0;

		while (c->letgo[i].ino != inos[k] || !c->letgo[i].sent)
			i++;
		c->letgo[i].sent = false;
		if (told)
			c->letgo[i] = c->letgo[--c->n_letgo];
	}
	c->n_letgo_sent -= n;
}

void ckpt_letgo_flush(struct meta_ckpt *c, int64_t deadline)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	bool any;

	do {
		pthread_mutex_lock(&c->lock);
		any = c->n_letgo > c->n_letgo_sent;
		pthread_mutex_unlock(&c->lock);
		redis_cmd_reset(&args);
		redis_cmd_bin(&args, "", 0);
	} while (any && !ckpt_write(c->m, deadline, "sweep", &args, &a));
}

/* --- mutations --------------------------------------------------------- */

static void writing(struct meta_ckpt *c, int n)
{
	scoped_lock(&c->lock);
	c->n_writing += (unsigned)n;
	pthread_cond_broadcast(&c->cond);
}

/*
 * Records before ours are missing in the log. Most often their threads are on
 * the way with them; if nobody is, or too slow, the store's stream has them.
 */
static int gap_wait(struct meta_ckpt *c, uint64_t seq, int64_t deadline)
{
	int64_t until = min64(deadline, clock_now_ns() + GAP_WAIT_NS);
	bool mine = false;
	int err = 0;

	pthread_mutex_lock(&c->lock);
	c->n_gap++;
	if (c->catching_up || c->n_gap < c->n_writing)
		mine = wait_until(c, until) == ETIMEDOUT && !c->catching_up;
	else
		mine = true;
	c->catching_up |= mine;
	pthread_mutex_unlock(&c->lock);
	if (mine)
		err = ckpt_catch_up(c, seq - 1);
	pthread_mutex_lock(&c->lock);
	c->n_gap--;
	if (mine) {
		c->catching_up = false;
		pthread_cond_broadcast(&c->cond);
	}
	pthread_mutex_unlock(&c->lock);
	return err;
}

/*
 * Returns: 0; -ESTALE the answer came too late: others were told meanwhile what
 *          the log has, and Redis may go on without this one; -EIO.
 */
static int log_answer(struct meta_ckpt *c, const struct ckpt_answer *a,
		      const struct terms *t, int64_t deadline)
{
	uint64_t seen = c->seen_seq;
	int err;

	while (seen < a->seq &&
	       !atomic_compare_exchange_weak(&c->seen_seq, &seen, a->seq))
		;
	if (!t->keeper)
		return 0;
	while ((err = ckpt_log_append(c->log, t->epoch, a->seq, a->record,
				      a->record_bytes)) == -ESRCH) {
		if (clock_now_ns() > deadline)
			break;
		err = gap_wait(c, a->seq, deadline);
		if (err == -ESRCH || err == -EAGAIN) {
			ckpt_doubt(c);
			return -ESTALE;
		}
		if (err)
			break;
	}
	if (err == -EEXIST) { /* not the same history */
		ckpt_doubt(c);
		return -ESTALE;
	}
	return err && err != -ESTALE ? -EIO : err;
}

uint64_t ckpt_number_take(struct meta_ckpt *c, int64_t deadline)
{
	scoped_lock(&c->lock);

	while (c->numbered == UINT64_MAX)
		if (wait_until(c, deadline) == ETIMEDOUT)
			return 0;
	do
		c->n_calls++;
	while (c->numbered >> c->n_calls % CKPT_RING & 1);
	c->numbered |= UINT64_C(1) << c->n_calls % CKPT_RING;
	return c->n_calls;
}

void ckpt_number_give(struct meta_ckpt *c, uint64_t number)
{
	scoped_lock(&c->lock);

	if (c->numbered == UINT64_MAX)
		pthread_cond_broadcast(&c->cond);
	c->numbered &= ~(UINT64_C(1) << number % CKPT_RING);
}

struct write {
	const char *fn;
	const struct redis_cmd *args;
	uint64_t number;
	uint32_t incarnation; /* with number: one call, however often sent */
	uint64_t inos[CKPT_LETGO_MAX];
	size_t n_inos;
};

static void write_cmd(struct meta_ckpt *c, struct redis_cmd *cmd,
		      const struct write *w, const struct terms *t)
{
	redis_cmd_reset(cmd);
	ckpt_cmd_begin(c->m, cmd, w->fn);
	cmd_gate(c, cmd, t->token, t->keeper);
	redis_cmd_uint(cmd, t->set);
	redis_cmd_bin(cmd, c->session, sizeof(c->session));
	redis_cmd_uint(cmd, w->number);
	redis_cmd_uint(cmd, w->incarnation);
	redis_cmd_bin(cmd, w->inos, w->n_inos * sizeof(w->inos[0]));
	cmd_append(cmd, w->args);
}

/* Is it to be sent again? */
static bool write_once(struct meta_ckpt *c, int64_t deadline,
		       const struct write *w, struct ckpt_answer *a, int *err)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	struct terms t;
	bool again;

	*err = wait_ready(c, deadline, true, &t);
	if (*err)
		return false;
	write_cmd(c, &cmd, w, &t);
	writing(c, 1);
	*err = call_once(c->m, deadline, w->fn, &cmd, a);
	fault_pass("ckpt.answered");
	again = judge(c, err, a, deadline);
	if (!again && a->reply && a->seq && a->status <= ERRNO_MAX) {
		int logged = log_answer(c, a, &t, deadline);

		if (logged == -ESTALE)
			again = true;
		else if (logged)
			*err = logged;
	}
	writing(c, -1);
	return again;
}

int ckpt_write(struct meta *m, int64_t deadline, const char *fn,
	       const struct redis_cmd *args, struct ckpt_answer *a)
{
	struct meta_ckpt *c = m->ckpt;
	struct write w = {.fn = fn, .args = args};
	int err = -EIO;

	deadline = meta_deadline(m, deadline);
	w.incarnation = meta_node_self(m);
	w.n_inos = letgo_take(c, w.inos);
	w.number = ckpt_number_take(c, deadline);
	if (w.number) {
		while (write_once(c, deadline, &w, a, &err))
			;
		ckpt_number_give(c, w.number);
	}
	if (w.n_inos)
		letgo_end(c, w.inos, w.n_inos,
			  a->reply && a->status <= ERRNO_MAX);
	return err;
}
