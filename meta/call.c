// SPDX-License-Identifier: MIT
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "meta/internal.h"

/*
 * Every command with a key passes meta_call or meta_send. Today there is one
 * server; a cluster would choose the connection by the tag, here.
 */

#define RETRY_MS 20
#define QUIET_NS (10 * NS_PER_S) /* between two lines on refused commands */

struct named_errno {
	const char *name;
	int err;
};

/* The first word of an error reply; anything else is EIO. */
static const struct named_errno named[] = {
	{"OOM", ENOSPC},
	{"NOPERM", EACCES},
	{"NOAUTH", EACCES},
	{"LOADING", EAGAIN},
	{"BUSY", EAGAIN},
	{"MASTERDOWN", EAGAIN},
	{"TRYAGAIN", EAGAIN},
	{"READONLY", EROFS},
	{"EPERM", EPERM},
	{"ENOENT", ENOENT},
	{"EIO", EIO},
	{"EBUSY", EBUSY},
	{"EEXIST", EEXIST},
	{"ENOTDIR", ENOTDIR},
	{"EISDIR", EISDIR},
	{"EINVAL", EINVAL},
	{"ENOSPC", ENOSPC},
	{"EROFS", EROFS},
	{"EMLINK", EMLINK},
	{"ENAMETOOLONG", ENAMETOOLONG},
	{"ENOTEMPTY", ENOTEMPTY},
	{"ENODATA", ENODATA},
	{"E2BIG", E2BIG},
	{"ESTALE", ESTALE},
};

int meta_reply_errno(const struct redis_reply *reply)
{
	const char *text = redis_reply_text(reply);
	size_t len = strcspn(text, " ");

	if (redis_reply_type(reply) != REPLY_ERROR)
		return 0;
	for (size_t i = 0; i < sizeof(named) / sizeof(*named); i++)
		if (strlen(named[i].name) == len &&
		    !memcmp(named[i].name, text, len))
			return -named[i].err;
	return -EIO;
}

/* A refusal that only people can mend, said once in a while. */
static void refusal_log(int err, const struct redis_reply *reply)
{
	static _Atomic int64_t next_ns;
	int64_t now = clock_now_ns(), next = next_ns;

	if (err != -EIO && err != -EACCES && err != -ENOSPC)
		return;
	if (now < next ||
	    !atomic_compare_exchange_strong(&next_ns, &next, now + QUIET_NS))
		return;
	log_error("redis: it refused a command: %.200s",
		  redis_reply_text(reply));
}

static bool library_lost(const struct redis_reply *reply)
{
	return !strncmp(redis_reply_text(reply), "ERR Function not found", 22);
}

static int call_once(struct meta *m, enum meta_link link, enum redis_wait wait,
		     int64_t deadline, const struct redis_cmd *cmd,
		     struct redis_reply **reply)
{
	int err = redis_call(m->links[link], wait, deadline, cmd, reply);

	return err == -EAGAIN || err == -ESHUTDOWN ? -ENOTCONN : err;
}

static int call_loop(struct meta *m, enum meta_link link, enum redis_wait wait,
		     int64_t deadline, const struct redis_cmd *cmd,
		     struct redis_reply **reply)
{
	struct redis_reply *got = NULL;
	unsigned n_lost = 0;
	int err;

	for (;;) {
		bool again;

		err = call_once(m, link, wait, deadline, cmd, &got);
		if (err)
			return err;
		err = meta_reply_errno(got);
		if (!err) {
			*reply = got;
			return 0;
		}
		/* redis.c has put the library's load ahead of the next. */
		again = library_lost(got) && n_lost++ < 2;
		if (err == -EAGAIN && wait == REDIS_WAIT &&
		    clock_now_ns() < deadline) {
			poll(NULL, 0, RETRY_MS);
			again = true;
		}
		if (!again)
			refusal_log(err, got);
		redis_reply_free(got);
		if (!again)
			return err == -EAGAIN ? -ENOTCONN : err;
	}
}

int meta_call(struct meta *m, enum meta_link link, const char *tag,
	      int64_t deadline, const struct redis_cmd *cmd,
	      struct redis_reply **reply)
{
	int64_t start = clock_now_ns();
	int err;

	(void)tag;
	deadline = meta_deadline(m, deadline);
	if (meta_ckpt_hopeless(m) && deadline > start + META_HOPELESS_NS)
		deadline = start + META_HOPELESS_NS;
	err = call_loop(m, link, link == META_CKPT ? REDIS_WAIT : REDIS_TRY,
			deadline, cmd, reply);
	if (link != META_CKPT)
		return err;
	if (err == -ETIMEDOUT || err == -ENOTCONN)
		meta_ckpt_unanswered(m, start);
	else
		m->ckpt_silent_since = 0;
	return err;
}

void meta_ckpt_unanswered(struct meta *m, int64_t since)
{
	int64_t none = 0;

	atomic_compare_exchange_strong(&m->ckpt_silent_since, &none, since);
}

bool meta_ckpt_hopeless(struct meta *m)
{
	int64_t since = m->ckpt_silent_since;

	return since && !redis_up(m->links[META_CKPT]) &&
	       clock_now_ns() - since >= m->deadline_ns;
}

int meta_call_wait(struct meta *m, enum meta_link link, const char *tag,
		   int64_t deadline, const struct redis_cmd *cmd,
		   struct redis_reply **reply)
{
	(void)tag;
	return call_loop(m, link, REDIS_WAIT, meta_deadline(m, deadline), cmd,
			 reply);
}

int meta_send(struct meta *m, enum meta_link link, const char *tag,
	      const struct redis_cmd *cmd,
	      void (*done)(void *ctx, int err, struct redis_reply *reply),
	      void *ctx)
{
	(void)tag;
	return redis_send(m->links[link], cmd, done, ctx);
}

void meta_fcall(struct redis_cmd *c, const char *fn, unsigned n_keys)
{
	redis_cmd_str(c, "FCALL");
	redis_cmd_printf(c, META_LIBRARY "_%s", fn);
	redis_cmd_uint(c, n_keys);
}

void meta_cmd_key(struct redis_cmd *c, struct meta *m, const char *tag,
		  const char *fmt, ...)
{
	struct key k;
	char rest[64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(rest, sizeof(rest), fmt, ap);
	va_end(ap);
	key_make(&k, m->prefix, tag, "%s", rest);
	redis_cmd_bin(c, k.text, k.len);
}

int64_t meta_deadline(struct meta *m, int64_t deadline)
{
	return deadline ? deadline : clock_now_ns() + m->deadline_ns;
}
