// SPDX-License-Identifier: MIT
/* Store to log and log to store. */
#include "meta/ckpt_call.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "meta/ckpt_record.h"
#include "meta/node.h"

#define LOAD_BYTES (256u << 10)
#define SINCE_RECORDS 500u
#define SWEEP_PAIRS 500u

uint64_t ckpt_random(void)
{
	uint64_t v = 0;

	while (!v && getrandom(&v, sizeof(v), 0) < 0 && errno == EINTR)
		;
	return v ? v : (uint64_t)clock_read_ns(CLOCK_REALTIME);
}

/* --- log to store ------------------------------------------------------ */

struct load {
	struct meta_ckpt *c;
	char token[20];
	char *buf;
	size_t n_bytes, cap_bytes;
	uint64_t n_records;
};

static int load_flush(struct load *l)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	redis_reply_auto struct redis_reply *r = NULL;

	if (!l->n_bytes)
		return 0;
	fault_pass("ckpt.load");
	ckpt_cmd_begin(l->c->m, &cmd, "load");
	redis_cmd_str(&cmd, l->token);
	redis_cmd_bin(&cmd, l->buf, l->n_bytes);
	l->n_bytes = 0;
	return ckpt_page(l->c->m, &cmd, 2, &r);
}

static int load_record(void *arg, uint64_t seq, const void *payload, size_t n)
{
	struct load *l = arg;
	int err = 0;

	(void)seq;
	l->n_records++;
	if (l->n_bytes + n > l->cap_bytes)
		err = load_flush(l);
	if (!err && n > l->cap_bytes) {
		char *more = realloc(l->buf, n);

		if (!more)
			return -ENOMEM;
		l->buf = more;
		l->cap_bytes = n;
	}
	if (err)
		return err;
	memcpy(l->buf + l->n_bytes, payload, n);
	l->n_bytes += n;
	return 0;
}

/* From here on until load_end the store answers nobody. */
static int load_begin(struct load *l, uint64_t expect, uint64_t tree)
{
	redis_cmd_auto struct redis_cmd cmd = {0};
	redis_reply_auto struct redis_reply *r = NULL;
	uint64_t status;
	int err;

	snprintf(l->token, sizeof(l->token), "%016" PRIx64, ckpt_random());
	ckpt_cmd_begin(l->c->m, &cmd, "load_begin");
	if (expect)
		redis_cmd_printf(&cmd, "%016" PRIx64, expect);
	else
		redis_cmd_str(&cmd, "");
	redis_cmd_printf(&cmd, "%016" PRIx64, tree);
	redis_cmd_str(&cmd, l->token);
	redis_cmd_uint(&cmd, meta_node_self(l->c->m));
	err = meta_call(l->c->m, META_CKPT, "c", 0, &cmd, &r);
	if (err)
		return err;
	if (redis_reply_uint(r, &status))
		return ckpt_malformed("load_begin");
	return status ? -EAGAIN : 0;
}

static int load_wipe(struct load *l)
{
	char cursor[24] = "0";
	int err;

	do {
		redis_cmd_auto struct redis_cmd cmd = {0};
		redis_reply_auto struct redis_reply *r = NULL;

		ckpt_cmd_begin(l->c->m, &cmd, "load_wipe");
		redis_cmd_str(&cmd, l->token);
		redis_cmd_str(&cmd, cursor);
		err = ckpt_page(l->c->m, &cmd, 2, &r);
		snprintf(cursor, sizeof(cursor), "%s",
			 redis_reply_text(redis_reply_at(r, 1)));
	} while (!err && strcmp(cursor, "0"));
	return err;
}

/* A new life begins, after the one that the log was written in. */
static int load_end(struct load *l, uint64_t seq)
{
	const struct ckpt_keepers *k = &l->c->keepers;
	redis_cmd_auto struct redis_cmd cmd = {0};
	redis_reply_auto struct redis_reply *r = NULL;

	fault_pass("ckpt.load");
	ckpt_cmd_begin(l->c->m, &cmd, "load_end");
	redis_cmd_str(&cmd, l->token);
	redis_cmd_uint(&cmd, seq);
	redis_cmd_str(&cmd, meta_node_uuid(l->c->m));
	redis_cmd_uint(&cmd, k->life);
	if (k->token)
		redis_cmd_printf(&cmd, "%016" PRIx64, k->token);
	else
		redis_cmd_str(&cmd, "");
	return ckpt_page(l->c->m, &cmd, 2, &r);
}

static int load_all(struct load *l, uint64_t expect,
		    const struct ckpt_log_info *info)
{
	int err = load_begin(l, expect, info->tree);

	if (!err)
		err = load_wipe(l);
	if (!err)
		err = ckpt_log_replay(l->c->log, load_record, l);
	if (!err)
		err = load_flush(l);
	return err ? err : load_end(l, info->seq);
}

int ckpt_load(struct meta_ckpt *c, uint64_t expect)
{
	int64_t start = clock_now_ns();
	struct load l = {.c = c};
	struct ckpt_log_info info;
	int err;

	ckpt_log_info(c->log, &info);
	l.buf = malloc(LOAD_BYTES);
	if (!l.buf)
		return -ENOMEM;
	l.cap_bytes = LOAD_BYTES;
	ckpt_state_set(c, CKPT_LOADING);
	err = load_all(&l, expect, &info);
	free(l.buf);
	if (!err && info.seq > 1)
		log_info("ckpt: redis had not the newest tree: filled from "
			 "%" PRIu64 " records, up to %" PRIu64 ", in %" PRId64
			 " ms",
			 l.n_records, info.seq,
			 (int64_t)((clock_now_ns() - start) / NS_PER_MS));
	return err;
}

/* A tree begins with its root. */
int ckpt_tree_new(struct meta_ckpt *c)
{
	int64_t now = clock_stamp_ns();
	struct ckpt_attr root = {
		.ino = CKPT_ROOT_INO,
		.mode = S_IFDIR | 0755,
		.uid = geteuid(),
		.gid = getegid(),
		.nlink = 2,
		.atime_ns = now,
		.mtime_ns = now,
		.ctime_ns = now,
		.parent_ino = CKPT_ROOT_INO,
	};
	char payload[CKPT_ROOT_RECORD_BYTES];
	size_t n = ckpt_record_root(payload, &root);
	int err = ckpt_log_start(c->log, ckpt_random(), 0);

	return err ? err
		   : ckpt_log_append(c->log, ckpt_log_epoch(c->log), 1, payload,
				     n);
}

/* --- store to log ------------------------------------------------------ */

static int append_page(struct meta_ckpt *c, uint64_t epoch,
		       const struct redis_reply *r, uint64_t *next)
{
	for (size_t i = 1; i + 1 < redis_reply_count(r); i += 2) {
		const char *p;
		uint64_t seq;
		size_t n;
		int err;

		if (redis_reply_uint(redis_reply_at(r, i), &seq) ||
		    redis_reply_str(redis_reply_at(r, i + 1), &p, &n))
			return ckpt_malformed("since");
		err = ckpt_log_append(c->log, epoch, seq, p, n);
		if (err)
			return err == -ESTALE ? -EAGAIN : err;
		*next = seq + 1;
	}
	return 0;
}

/* The page begins with the log's last record, to see that it is the same. */
int ckpt_catch_up(struct meta_ckpt *c, uint64_t want)
{
	uint64_t epoch = ckpt_log_epoch(c->log), life = c->token, next;
	struct ckpt_log_info info;
	int err;

	ckpt_log_info(c->log, &info);
	next = info.seq ? info.seq : 1;
	do {
		redis_cmd_auto struct redis_cmd cmd = {0};
		redis_reply_auto struct redis_reply *r = NULL;

		ckpt_cmd_begin(c->m, &cmd, "since");
		redis_cmd_printf(&cmd, "%016" PRIx64, life);
		redis_cmd_uint(&cmd, next);
		redis_cmd_uint(&cmd, SINCE_RECORDS);
		err = ckpt_page(c->m, &cmd, 1, &r);
		if (err)
			return err;
		if (redis_reply_count(r) < 3)
			break;
		err = append_page(c, epoch, r, &next);
	} while (!err && next <= want);
	ckpt_log_info(c->log, &info);
	return !err && info.seq < want ? -ESRCH : err;
}

/* --- snapshots --------------------------------------------------------- */

struct scan {
	struct meta_ckpt *c;
	struct ckpt_snap *snap;
	uint64_t token, seq;
	bool yields; /* it can be done later: calls may wait for this thread */
};

static void scan_cmd(struct scan *s, struct redis_cmd *cmd, const char *fn)
{
	ckpt_cmd_begin(s->c->m, cmd, fn);
	redis_cmd_printf(cmd, "%016" PRIx64, s->token);
	redis_cmd_uint(cmd, s->seq);
}

static int scan_page(struct scan *s, const struct redis_cmd *cmd,
		     struct redis_reply **r)
{
	bool ready;

	fault_pass("ckpt.scan");
	pthread_mutex_lock(&s->c->lock);
	ready = s->c->state == CKPT_READY;
	pthread_mutex_unlock(&s->c->lock);
	return s->yields && !ready ? -EAGAIN : ckpt_page(s->c->m, cmd, 3, r);
}

static int scan_add(struct scan *s, const struct redis_reply *r, char *cursor,
		    size_t cursor_bytes)
{
	const char *p;
	size_t n;

	snprintf(cursor, cursor_bytes, "%s",
		 redis_reply_text(redis_reply_at(r, 1)));
	if (redis_reply_str(redis_reply_at(r, 2), &p, &n))
		return ckpt_malformed("dump");
	return ckpt_snap_add(s->snap, p, n);
}

static int scan_big(struct scan *s, const struct redis_reply *key)
{
	char cursor[24] = "0";
	const char *p;
	size_t n;
	int err;

	if (redis_reply_str(key, &p, &n))
		return ckpt_malformed("dump");
	do {
		redis_cmd_auto struct redis_cmd cmd = {0};
		redis_reply_auto struct redis_reply *r = NULL;

		scan_cmd(s, &cmd, "dump_hash");
		redis_cmd_bin(&cmd, p, n);
		redis_cmd_str(&cmd, cursor);
		err = scan_page(s, &cmd, &r);
		if (!err)
			err = scan_add(s, r, cursor, sizeof(cursor));
	} while (!err && strcmp(cursor, "0"));
	return err;
}

static int scan_all(struct scan *s)
{
	char cursor[24] = "0";
	int err;

	do {
		redis_cmd_auto struct redis_cmd cmd = {0};
		redis_reply_auto struct redis_reply *r = NULL;

		scan_cmd(s, &cmd, "dump");
		redis_cmd_str(&cmd, cursor);
		err = scan_page(s, &cmd, &r);
		if (!err)
			err = scan_add(s, r, cursor, sizeof(cursor));
		for (size_t i = 3; !err && i < redis_reply_count(r); i++)
			err = scan_big(s, redis_reply_at(r, i));
	} while (!err && strcmp(cursor, "0"));
	return err;
}

/*
 * Read the whole tree out of the store. It changes meanwhile, which does no
 * harm: what changes is in the log behind the snapshot. But a store that was
 * refilled or restarted in between has keys in another order: the scan is
 * void then.
 */
static int scan_store(struct meta_ckpt *c, const struct ckpt_store *before,
		      uint64_t tree, uint64_t base)
{
	struct scan s = {.c = c,
			 .token = before->token,
			 .seq = before->seq,
			 .yields = !tree};
	struct ckpt_store after;
	int err = ckpt_snap_begin(&s.snap, c->log, tree, base);

	if (err)
		return err;
	err = scan_all(&s);
	if (!err)
		err = ckpt_store_state(c, &after);
	if (!err && (!after.live || before->token != after.token ||
		     strcmp(before->run_id, after.run_id)))
		err = -EAGAIN;
	if (!err)
		return ckpt_snap_commit(s.snap);
	ckpt_snap_abort(s.snap);
	return err;
}

int ckpt_compact(struct meta_ckpt *c)
{
	struct ckpt_log_info info;
	struct ckpt_store s;
	int err;

	ckpt_log_info(c->log, &info);
	err = ckpt_store_state(c, &s);
	if (!err && (!s.live || s.token != c->token || s.seq < info.seq))
		err = -EAGAIN;
	return err ? err : scan_store(c, &s, 0, 0);
}

int ckpt_adopt(struct meta_ckpt *c, const struct ckpt_store *s, const char *why)
{
	int err = scan_store(c, s, s->tree, s->seq);

	if (!err)
		log_info("ckpt: %s: took the tree in redis as of record "
			 "%" PRIu64,
			 why, s->seq);
	return err;
}

/* --- who kept what ----------------------------------------------------- */

struct sweep {
	struct meta_ckpt *c;
	char pairs[SWEEP_PAIRS * 12];
	size_t n_bytes;
};

static int sweep_flush(struct sweep *s)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};

	if (!s->n_bytes)
		return 0;
	redis_cmd_bin(&args, s->pairs, s->n_bytes);
	s->n_bytes = 0;
	return ckpt_write(s->c->m, 0, "sweep", &args, &a);
}

static int sweep_one(struct sweep *s, const char *text)
{
	uint64_t ino;
	uint32_t inc;

	if (sscanf(text, "%" SCNu64 ":%" SCNu32, &ino, &inc) != 2)
		return ckpt_malformed("kept");
	if (inc != meta_node_self(s->c->m) && meta_node_is_live(s->c->m, inc))
		return 0;
	memcpy(s->pairs + s->n_bytes, &ino, 8);
	memcpy(s->pairs + s->n_bytes + 8, &inc, 4);
	s->n_bytes += 12;
	return s->n_bytes == sizeof(s->pairs) ? sweep_flush(s) : 0;
}

int ckpt_sweep(struct meta_ckpt *c)
{
	struct sweep s = {.c = c};
	char cursor[24] = "0";
	int err;

	do {
		redis_cmd_auto struct redis_cmd cmd = {0};
		redis_reply_auto struct redis_reply *r = NULL;

		ckpt_cmd_begin(c->m, &cmd, "kept");
		ckpt_cmd_gate(c, &cmd);
		redis_cmd_str(&cmd, cursor);
		err = ckpt_page(c->m, &cmd, 2, &r);
		snprintf(cursor, sizeof(cursor), "%s",
			 redis_reply_text(redis_reply_at(r, 1)));
		for (size_t i = 2; !err && i < redis_reply_count(r); i++)
			err = sweep_one(&s,
					redis_reply_text(redis_reply_at(r, i)));
	} while (!err && strcmp(cursor, "0"));
	return err ? err : sweep_flush(&s);
}
