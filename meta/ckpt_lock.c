// SPDX-License-Identifier: MIT
#include "meta/ckpt_call.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
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

/*
 * What this node told Redis of, by file and owner. It says whether a close has
 * anything to end, and finds the loss of a lock: the incarnation and the store
 * under which it was taken are those of now, or it is gone. Nothing is granted
 * from here, so a node that is cut off gives nobody a lock that others take
 * for free.
 *
 * For a moment after it was cut off, or slept, a node that was taken for dead
 * does not know it, and Redis, which keeps locks and members in different
 * places, would note a lock for it that is in nobody's way. So a node whose
 * last heartbeat is nearly as old as that takes may have been: it asks before
 * it takes a lock, and again where the answer came so late. What it had is not
 * given up by that: if Redis was away for all, nobody lost anything.
 */
struct ckpt_locker {
	struct ckpt_locker *next;
	uint64_t ino, owner, handle;
	uint64_t store;
	uint32_t incarnation;
	unsigned n_noted;
	bool leaves_late;
	bool ended; /* Redis is still to be told */
};

static struct ckpt_locker **chain_of(struct meta_ckpt *c, uint64_t ino)
{
	return &c->lockers[ino % CKPT_LOCKERS];
}

static struct ckpt_locker **locker_find(struct meta_ckpt *c, uint64_t ino,
					uint64_t owner)
{
	struct ckpt_locker **p = chain_of(c, ino);

	while (*p && ((*p)->ino != ino || (*p)->owner != owner))
		p = &(*p)->next;
	return p;
}

static void locker_free(struct ckpt_locker **p)
{
	struct ckpt_locker *old = *p;

	*p = old->next;
	free(old);
}

static void locker_forget(struct meta_ckpt *c, uint64_t ino, uint64_t owner)
{
	struct ckpt_locker **p;
	scoped_lock(&c->lock);

	p = locker_find(c, ino, owner);
	if (*p)
		locker_free(p);
}

/* He asked once, got nothing, and has nothing to end. */
static void locker_unnote(struct meta_ckpt *c, uint64_t ino, uint64_t owner)
{
	struct ckpt_locker **p;
	scoped_lock(&c->lock);

	p = locker_find(c, ino, owner);
	if (*p && (*p)->n_noted == 1)
		locker_free(p);
}

static bool is_lost(struct meta *m, const struct ckpt_locker *l)
{
	return l->incarnation != meta_node_self(m) ||
	       l->store != meta_node_store_id(m);
}

enum noted {
	NOTED_NEW,
	NOTED_BEFORE,
	NOTED_LOST,  /* it had locks, and has none any more */
	NOTED_ENDED, /* Redis is to hear first that it had gone */
};

/* Returns: enum noted, or -ENOMEM. */
static int locker_note(struct meta *m, uint64_t ino,
		       const struct ckpt_lock *lock)
{
	struct meta_ckpt *c = m->ckpt;
	struct ckpt_locker **p, *l;
	scoped_lock(&c->lock);

	p = locker_find(c, ino, lock->owner);
	l = *p;
	if (l && l->ended)
		return NOTED_ENDED;
	if (l && is_lost(m, l))
		return NOTED_LOST;
	if (!l) {
		l = calloc(1, sizeof(*l));
		if (!l)
			return -ENOMEM;
		*l = (struct ckpt_locker){.ino = ino,
					  .owner = lock->owner,
					  .handle = lock->handle,
					  .store = meta_node_store_id(m),
					  .incarnation = meta_node_self(m),
					  .n_noted = 1,
					  .leaves_late = lock->leaves_late};
		*p = l;
		return NOTED_NEW;
	}
	l->n_noted++;
	l->handle = lock->handle;
	l->leaves_late |= lock->leaves_late;
	return NOTED_BEFORE;
}

void ckpt_lockers_free(struct meta_ckpt *c)
{
	for (size_t i = 0; i < CKPT_LOCKERS; i++)
		while (c->lockers[i])
			locker_free(&c->lockers[i]);
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

	live = meta_members_bytes(m, false, &n, &known);
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

/* --- the end of locks -------------------------------------------------- */

static int tell_end(struct meta *m, int64_t deadline, uint64_t ino,
		    uint64_t owner)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};

	redis_cmd_uint(&args, ino);
	redis_cmd_uint(&args, owner);
	return ckpt_write(m, deadline, "lock_drop", &args, &answer);
}

static bool next_ended(struct meta_ckpt *c, size_t *chain, size_t last,
		       uint64_t *ino, uint64_t *owner)
{
	scoped_lock(&c->lock);

	for (; *chain <= last; (*chain)++)
		for (struct ckpt_locker *l = c->lockers[*chain]; l; l = l->next)
			if (l->ended) {
				*ino = l->ino;
				*owner = l->owner;
				return true;
			}
	return false;
}

/* lock_ends is held. */
static int tell_ended(struct meta_ckpt *c, int64_t deadline, size_t chain,
		      size_t last)
{
	uint64_t ino, owner;
	int err = 0;

	while (!err && next_ended(c, &chain, last, &ino, &owner)) {
		err = tell_end(c->m, deadline, ino, owner);
		if (!err)
			locker_forget(c, ino, owner);
	}
	return err;
}

/* One at a time: a second message about an end would end what came later. */
static int end_ended(struct meta_ckpt *c, int64_t deadline, uint64_t ino)
{
	size_t chain = ino % CKPT_LOCKERS;
	scoped_lock(&c->lock_ends);

	return tell_ended(c, deadline, chain, chain);
}

/* Whoever is at it may wait for the store, and that for this thread. */
void ckpt_lock_tidy(struct meta_ckpt *c)
{
	if (pthread_mutex_trylock(&c->lock_ends))
		return;
	tell_ended(c, clock_now_ns() + NS_PER_S, 0, CKPT_LOCKERS - 1);
	pthread_mutex_unlock(&c->lock_ends);
}

/* Those of this file whose handle, or else whose owner, is this one. */
static bool mark_ended(struct meta_ckpt *c, uint64_t ino, uint64_t handle,
		       uint64_t owner)
{
	bool any = false;
	scoped_lock(&c->lock);

	for (struct ckpt_locker *l = *chain_of(c, ino); l; l = l->next) {
		if (l->ino != ino || l->ended ||
		    (handle ? l->handle != handle : l->owner != owner))
			continue;
		l->ended = true;
		any = true;
	}
	return any;
}

static bool end(struct meta *m, int64_t deadline, uint64_t ino, uint64_t handle,
		uint64_t owner)
{
	if (!mark_ended(m->ckpt, ino, handle, owner))
		return false;
	end_ended(m->ckpt, deadline, ino);
	return true;
}

bool ckpt_lock_drop(struct meta *m, int64_t deadline, uint64_t ino,
		    uint64_t owner)
{
	return end(m, deadline, ino, 0, owner);
}

bool ckpt_lock_close(struct meta *m, int64_t deadline, uint64_t ino,
		     uint64_t handle)
{
	return end(m, deadline, ino, handle, 0);
}

bool ckpt_lock_has(struct meta *m, uint64_t ino, uint64_t handle)
{
	struct meta_ckpt *c = m->ckpt;
	scoped_lock(&c->lock);

	for (struct ckpt_locker *l = *chain_of(c, ino); l; l = l->next)
		if (l->ino == ino && l->handle == handle && !l->ended)
			return true;
	return false;
}

bool ckpt_lock_leaving(struct meta *m, uint64_t ino, uint64_t owner)
{
	struct meta_ckpt *c = m->ckpt;
	scoped_lock(&c->lock);

	for (struct ckpt_locker *l = *chain_of(c, ino); l; l = l->next)
		if (l->ino == ino && l->owner != owner &&
		    (l->leaves_late || l->ended))
			return true;
	return false;
}

int ckpt_lock_reset(struct meta *m)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	cleanup_free void *live = NULL;
	uint64_t known;
	size_t n;

	live = meta_members_bytes(m, false, &n, &known);
	if (!live)
		return -ENOMEM;
	redis_cmd_bin(&args, live, n);
	redis_cmd_uint(&args, known);
	return ckpt_write(m, 0, "lock_reset", &args, &answer);
}

/* --- taking and asking ------------------------------------------------- */

static int send_set(struct meta *m, int64_t deadline, uint64_t ino,
		    const struct ckpt_lock *lock)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer answer = {0};
	int err = args_make(m, &args, ino, lock);

	err = err ? err : ckpt_write(m, deadline, "lock_set", &args, &answer);
	return err == -EBUSY ? -EAGAIN : err;
}

static int lost(uint64_t ino, const struct ckpt_lock *lock)
{
	log_warn("ckpt: inode %" PRIu64 ": process %u lost its lock: this "
		 "node was taken for dead, or redis lost its data",
		 ino, lock->pid);
	return -EIO;
}

static int release(struct meta *m, int64_t deadline, uint64_t ino,
		   const struct ckpt_lock *lock)
{
	struct meta_ckpt *c = m->ckpt;
	bool mine, gone;

	pthread_mutex_lock(&c->lock);
	mine = *locker_find(c, ino, lock->owner);
	gone = mine && is_lost(m, *locker_find(c, ino, lock->owner));
	pthread_mutex_unlock(&c->lock);
	if (!gone)
		return mine ? send_set(m, deadline, ino, lock) : 0;
	locker_forget(c, ino, lock->owner);
	return 0;
}

/* Does the cluster have us as we think? Else it is found out. */
static int be_sure(struct meta *m, int64_t deadline)
{
	if (!meta_node_is_sure(m))
		meta_nodes_refresh(m, meta_deadline(m, deadline));
	return meta_node_is_sure(m) ? 0 : -EIO;
}

/* Was it this life's when Redis gave it to us? */
static int still_ours(struct meta *m, int64_t deadline, uint64_t ino,
		      const struct ckpt_lock *lock)
{
	struct meta_ckpt *c = m->ckpt;
	const struct ckpt_locker *l;
	int err = be_sure(m, deadline);
	bool gone;

	if (err)
		return err;
	pthread_mutex_lock(&c->lock);
	l = *locker_find(c, ino, lock->owner);
	gone = l && is_lost(m, l);
	pthread_mutex_unlock(&c->lock);
	return gone ? lost(ino, lock) : 0;
}

static int take(struct meta *m, int64_t deadline, uint64_t ino,
		const struct ckpt_lock *lock)
{
	int noted, err = be_sure(m, deadline);

	if (err)
		return err;
	noted = locker_note(m, ino, lock);
	if (noted == NOTED_ENDED) {
		err = end_ended(m->ckpt, deadline, ino);
		if (err)
			return err;
		noted = locker_note(m, ino, lock);
	}
	if (noted == NOTED_ENDED || noted == NOTED_LOST)
		return lost(ino, lock);
	if (noted < 0)
		return noted;
	err = send_set(m, deadline, ino, lock);
	if (noted == NOTED_NEW && (err == -EAGAIN || err == -ENOLCK))
		locker_unnote(m->ckpt, ino, lock->owner);
	return err ? err : still_ours(m, deadline, ino, lock);
}

int ckpt_lock_set(struct meta *m, int64_t deadline, uint64_t ino,
		  const struct ckpt_lock *lock)
{
	if (!is_good(lock))
		return -EINVAL;
	return lock->type == F_UNLCK ? release(m, deadline, ino, lock)
				     : take(m, deadline, ino, lock);
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
