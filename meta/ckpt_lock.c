// SPDX-License-Identifier: MIT
#include "meta/ckpt_call.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/ckpt_record.h"
#include "meta/members.h"
#include "meta/node.h"

/*
 * Locks across nodes, as ckpt.lua keeps them: per file a hash from owner to
 * its ranges. An owner is a kind, an incarnation and FUSE's owner; those of
 * dead incarnations are in nobody's way. Offsets travel as 8 bytes, the
 * highest first, so that Lua can compare them as strings.
 */

#define WAIT_MIN_NS (5 * NS_PER_MS)
#define WAIT_MAX_NS (100 * NS_PER_MS)

/* Who may have locks: at close nobody else asks Redis. */
struct ckpt_locker {
	struct ckpt_locker *next;
	uint64_t ino, owner;
};

static struct ckpt_locker **locker_find(struct meta_ckpt *c, uint64_t ino,
					uint64_t owner)
{
	struct ckpt_locker **p = &c->lockers;

	while (*p && ((*p)->ino != ino || (*p)->owner != owner))
		p = &(*p)->next;
	return p;
}

static int locker_note(struct meta_ckpt *c, uint64_t ino, uint64_t owner)
{
	struct ckpt_locker **p;
	scoped_lock(&c->lock);

	p = locker_find(c, ino, owner);
	if (*p)
		return 0;
	*p = calloc(1, sizeof(**p));
	if (!*p)
		return -ENOMEM;
	(*p)->ino = ino;
	(*p)->owner = owner;
	return 0;
}

static bool locker_forget(struct meta_ckpt *c, uint64_t ino, uint64_t owner)
{
	struct ckpt_locker **p, *old;
	scoped_lock(&c->lock);

	p = locker_find(c, ino, owner);
	old = *p;
	if (!old)
		return false;
	*p = old->next;
	free(old);
	return true;
}

void ckpt_lockers_free(struct meta_ckpt *c)
{
	while (c->lockers) {
		struct ckpt_locker *l = c->lockers;

		c->lockers = l->next;
		free(l);
	}
}

/* --- calls ------------------------------------------------------------- */

static void add_offset(struct redis_cmd *args, uint64_t at)
{
	uint8_t bytes[8];

	for (int i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(at >> (56 - 8 * i));
	redis_cmd_bin(args, bytes, sizeof(bytes));
}

static uint64_t get_offset(struct ckpt_cursor *c)
{
	const char *p = ckpt_cursor_bytes(c, 8);
	uint64_t v = 0;

	for (int i = 0; p && i < 8; i++)
		v = v << 8 | (uint8_t)p[i];
	return v;
}

static const char *type_name(int type)
{
	return type == F_UNLCK ? "U" : type == F_WRLCK ? "W" : "R";
}

/* ino, kind, type, owner, start, end, what lies before and behind, pid, who
 * is alive. */
static int args_make(struct meta *m, struct redis_cmd *args, uint64_t ino,
		     const struct ckpt_lock *l)
{
	cleanup_free void *live = NULL;
	uint64_t known;
	size_t n;

	live = meta_members_bytes(m, &n, &known);
	if (!live)
		return -ENOMEM;
	redis_cmd_uint(args, ino);
	redis_cmd_str(args, l->kind == CKPT_LOCK_FLOCK ? "f" : "p");
	redis_cmd_str(args, type_name(l->type));
	redis_cmd_uint(args, l->owner);
	add_offset(args, l->start);
	add_offset(args, l->end);
	add_offset(args, l->start ? l->start - 1 : 0);
	add_offset(args, l->end + 1);
	redis_cmd_uint(args, l->pid);
	redis_cmd_bin(args, live, n);
	redis_cmd_uint(args, known);
	return 0;
}

static bool is_good(const struct ckpt_lock *l)
{
	return l->start <= l->end && l->end <= CKPT_LOCK_END &&
	       (l->type == F_RDLCK || l->type == F_WRLCK || l->type == F_UNLCK);
}

int ckpt_lock_set(struct meta *m, int64_t deadline, uint64_t ino,
		  const struct ckpt_lock *lock)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = is_good(lock) ? args_make(m, &args, ino, lock) : -EINVAL;

	if (!err && lock->type != F_UNLCK)
		err = locker_note(m->ckpt, ino, lock->owner);
	if (err)
		return err;
	err = ckpt_write(m, deadline, "lock_set", &args, &answer);
	return err == -EBUSY ? -EAGAIN : err;
}

int ckpt_lock_wait(struct meta *m, uint64_t ino, const struct ckpt_lock *lock,
		   bool (*gone)(void *ctx), void *ctx)
{
	int64_t pause = WAIT_MIN_NS;

	for (;;) {
		struct timespec t = clock_timespec(pause);
		int err = ckpt_lock_set(m, 0, ino, lock);

		if (err != -EAGAIN)
			return err;
		if (gone && gone(ctx))
			return -EINTR;
		nanosleep(&t, NULL);
		pause = pause * 2 < WAIT_MAX_NS ? pause * 2 : WAIT_MAX_NS;
	}
}

/* The one in the way: type, incarnation, pid, start, end; nothing: none. */
static int in_the_way(const struct ckpt_answer *a, struct ckpt_lock *l)
{
	struct ckpt_cursor c = {a->result, a->result + a->result_bytes, false};
	const char *type;

	if (!a->result_bytes) {
		l->type = F_UNLCK;
		return 0;
	}
	type = ckpt_cursor_bytes(&c, 1);
	l->incarnation = ckpt_cursor_u32(&c);
	l->pid = ckpt_cursor_u32(&c);
	l->start = get_offset(&c);
	l->end = get_offset(&c);
	if (!ckpt_cursor_done(&c) || l->start > l->end)
		return ckpt_malformed("lock_get");
	l->type = *type == 'W' ? F_WRLCK : F_RDLCK;
	return 0;
}

int ckpt_lock_get(struct meta *m, int64_t deadline, uint64_t ino,
		  struct ckpt_lock *lock)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	struct ckpt_lock found = *lock;
	int err = is_good(lock) ? args_make(m, &args, ino, lock) : -EINVAL;

	if (err)
		return err;
	redis_cmd_uint(&args, meta_node_self(m));
	err = ckpt_read(m, deadline, "lock_get", &args, &answer);
	err = err ? err : in_the_way(&answer, &found);
	if (!err)
		*lock = found;
	return err;
}

int ckpt_lock_drop(struct meta *m, int64_t deadline, uint64_t ino,
		   uint64_t owner)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};

	if (!locker_forget(m->ckpt, ino, owner))
		return 0;
	redis_cmd_uint(&args, ino);
	redis_cmd_uint(&args, owner);
	return ckpt_write(m, deadline, "lock_drop", &args, &answer);
}
