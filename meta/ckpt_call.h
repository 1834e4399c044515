/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_CALL_H
#define KVFS_META_CKPT_CALL_H

/*
 * How the parts of ckpt talk to the functions of ckpt.lua.
 *
 *      ckpt.c, ckpt_attr.c    one function per operation
 *      ckpt_call.c            one call: retry, the log, what waits for what
 *      ckpt_replicas.c        what replicas of Redis have of it
 *      ckpt_attach.c          the store against the logs: which is the newest
 *      ckpt_keep.c            this node among those who keep the log
 *      ckpt_keepers.c         … as text, in Redis and in the state directory
 *      ckpt_reload.c          load, catch up, snapshot
 *      ckpt_log.c             files
 *
 * The store is answered only while it is READY. Every call carries the token
 * of the life that this node follows and, of a keeper, the newest seq of its
 * log; a store that is not in that life, that is older, or that was started
 * again and not yet agreed on says so instead of answering. Then the thread of
 * ckpt attaches to it anew, and the call is tried again, up to its deadline.
 *
 * Attaching to a store that is not agreed on is an election (ckpt_keep.lua).
 * Every node says what its log has; once all keepers did, or after elect_ms
 * without some, the one with the highest number fills the store, if it lacks
 * anything, and a new life begins. A node that comes back from an older life
 * takes the tree that is there, unless its log is a part of it.
 *
 * What a node says of its log must stay true: it is sealed first. An answer of
 * Redis that comes to it later is none, and the call is sent again: under its
 * number, so that a store which still has it answers the same.
 *
 * A keeper's mutation names the version of the set in which it is one. Under
 * another it is not done: nobody would wait for that log.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "meta/ckpt.h"
#include "meta/ckpt_keepers.h"
#include "meta/ckpt_log.h"
#include "meta/internal.h"

enum ckpt_state {
	CKPT_READY,
	CKPT_CHECK,   /* to be compared with the log */
	CKPT_LOADING, /* … and it is being filled, or that is waited for */
	CKPT_REFUSED, /* it holds somebody else's tree */
};

#define CKPT_LETGO_MAX 64u /* inodes told to Redis with one mutation */
#define CKPT_SESSION_BYTES 8
#define CKPT_LOCKERS 256u /* chains */
#define CKPT_RING 64u	  /* RING in ckpt.lua: answers that it remembers */

/* Inodes whose shards are to be told of (ckpt_shards.c). */
struct ckpt_shard_set {
	uint64_t *table;
	size_t size, n;
	bool all; /* every file's */
};

struct ckpt_letgo {
	uint64_t ino;
	bool sent; /* with a call that is not answered yet */
};

/* Who waits for replicas of Redis (ckpt_replicas.c). */
struct ckpt_replicas {
	uint64_t want;	      /* 0: nobody does */
	struct redis *link;   /* its WAIT blocks nothing else */
	pthread_mutex_t lock; /* a leaf; guards all below */
	pthread_cond_t changed;
	uint64_t asked, answered; /* calls so far; … that were answered */
	bool running;		  /* one of them asks for all */
	bool lacking;		  /* the last was refused */
};

struct meta_ckpt {
	struct meta *m;
	struct ckpt_log *log;
	_Atomic uint64_t compact_bytes;	  /* a log longer is compacted */
	char session[CKPT_SESSION_BYTES]; /* of this run of the daemon */
	_Atomic uint64_t seen_seq;	  /* newest that the store answered */
	_Atomic uint64_t token;		  /* of the life that is followed */
	_Atomic bool keeper;	   /* what is answered is in the log before */
	_Atomic unsigned elect_ms; /* keepers that are away are waited for */

	/* Only the thread's, or before there is one. */
	bool was_live; /* since the start: it knows the newest keepers */
	bool said_wait, said_none; /* in this election */
	int64_t next_keep_ns;
	uint64_t kept_version; /* of the membership, when last looked */

	struct redis *tail; /* a connection that waits for records */
	pthread_t tail_thread;
	bool has_tail_thread;

	struct ckpt_replicas replicas;

	pthread_mutex_t lock;	  /* a leaf; guards all below */
	pthread_cond_t cond;	  /* anything below changed */
	pthread_cond_t tail_cond; /* what the tail waits for did */
	enum ckpt_state state;
	bool stop;
	enum ckpt_tail { TAIL_IDLE, TAIL_ASKED, TAIL_HIT } tail_state;
	uint64_t tail_seq;	     /* there is a record of this seq */
	struct ckpt_keepers keepers; /* changed by the thread only */
	bool catching_up;
	uint64_t n_calls;  /* the last number that was given */
	uint64_t numbered; /* a bit a slot of the ring: its call is under way */
	unsigned n_writing; /* mutations sent and not yet in the log */
	unsigned n_gap;	    /* of those: wait for records before theirs */
	/* unlinked, open nowhere: freed with the next call */
	struct ckpt_letgo *letgo;
	size_t n_letgo, n_letgo_sent, cap_letgo;
	struct ckpt_locker *lockers[CKPT_LOCKERS]; /* ckpt_lock.c */
	/* outer: one drops what went at a time; held over a call, so the thread
	 * only tries it */
	pthread_mutex_t lock_ends;
	struct ckpt_shard_set shards;
	bool shards_ready; /* the ckpt ops may be called */
	pthread_t thread;
	bool has_thread;
};

/* What a function answered. Points into reply. */
struct ckpt_answer {
	struct redis_reply *reply;
	uint32_t status; /* 0, an errno, or an enum ckpt_status */
	uint64_t seq;	 /* 0: nothing changed */
	const char *record, *result;
	size_t record_bytes, result_bytes;
};

enum ckpt_status {
	CKPT_BEHIND = 1001,
	CKPT_UNREADY,
	CKPT_FOREIGN,
	CKPT_OLD,
};

void ckpt_answer_fini(struct ckpt_answer *a);
#define ckpt_answer_auto __attribute__((cleanup(ckpt_answer_fini)))

/**
 * ckpt_read, ckpt_write - call a function and have its answer
 * @fn: as registered, without "kvfs1_ckpt_"
 * @args: its own arguments
 *
 * A write is in the log before it returns, and happens once even if the
 * connection broke and it had to be sent again.
 *
 * Returns: 0, -errno as the function answered it (a->result may be of use),
 *          -EIO, -EROFS, -ENOSPC, -ENOMEM.
 */
int ckpt_read(struct meta *m, int64_t deadline, const char *fn,
	      const struct redis_cmd *args, struct ckpt_answer *a);
int ckpt_write(struct meta *m, int64_t deadline, const char *fn,
	       const struct redis_cmd *args, struct ckpt_answer *a);

/** ckpt_call_attaches - this thread is the one that attaches: calls of its own
 *  are not kept waiting for that, they fail. */
void ckpt_call_attaches(void);

/**
 * ckpt_number_take - number one mutation
 *
 * Redis knows a call that comes again by its number, and remembers answers by
 * the number modulo CKPT_RING. So the slot of a call under way is not given to
 * another: however long its thread sleeps, no younger call takes its place.
 *
 * Returns: the number, or 0: CKPT_RING are under way until the deadline.
 */
uint64_t ckpt_number_take(struct meta_ckpt *c, int64_t deadline);
void ckpt_number_give(struct meta_ckpt *c, uint64_t number);

/** ckpt_letgo - free these with the next mutation, or within a second. */
void ckpt_letgo(struct meta_ckpt *c, uint64_t ino);
bool ckpt_letgo_has(struct meta_ckpt *c, uint64_t ino);
void ckpt_letgo_flush(struct meta_ckpt *c, int64_t deadline);

/** ckpt_shards_flush - tell Redis of the shards of what is dirty. */
void ckpt_shards_flush(struct meta_ckpt *c);
void ckpt_shards_free(struct ckpt_shard_set *s);

/** ckpt_lock_reset - Redis forgets what an earlier run of this node locked. */
int ckpt_lock_reset(struct meta *m);
/** ckpt_lock_tidy - tell Redis of the ends that it could not be told of. */
void ckpt_lock_tidy(struct meta_ckpt *c);
void ckpt_lockers_free(struct meta_ckpt *c);

/** ckpt_replicas_open - connect for ckpt_replicated; want 0: no need. */
int ckpt_replicas_open(struct meta_ckpt *c, uint64_t want);
void ckpt_replicas_close(struct meta_ckpt *c);

/** ckpt_malformed - say that an answer is none of ours; -EIO. */
int ckpt_malformed(const char *fn);

/** ckpt_answer_attr - the inode that is the whole result; 0 or -EIO. */
int ckpt_answer_attr(const char *fn, const struct ckpt_answer *a,
		     struct ckpt_attr *attr);

/** ckpt_cmd_begin - "FCALL … P:{c}:", for what is no operation of the tree. */
void ckpt_cmd_begin(struct meta *m, struct redis_cmd *cmd, const char *fn);
/** ckpt_cmd_gate - the arguments token and seq that most functions begin with
 */
void ckpt_cmd_gate(struct meta_ckpt *c, struct redis_cmd *cmd);

/** ckpt_page - call a function that answers an array; its head is checked.
 *  Returns: 0, -EAGAIN the store is not what it was, -ESHUTDOWN we are closing
 *  and what goes page by page ends here, or -errno. */
int ckpt_page(struct meta *m, const struct redis_cmd *cmd, size_t min_count,
	      struct redis_reply **reply);

/** ckpt_doubt - the store is not what it was: attach anew. */
void ckpt_doubt(struct meta_ckpt *c);
void ckpt_state_set(struct meta_ckpt *c, enum ckpt_state state);

/* --- ckpt_attach.c ----------------------------------------------------- */

/* What the store says of itself. */
struct ckpt_store {
	uint64_t tree; /* 0: it has none */
	uint64_t seq;
	bool whole;	      /* no load was broken off */
	bool live;	      /* it was agreed on */
	uint64_t token, life; /* of the life that it is in */
	uint64_t base;	      /* seq when that began */
	uint64_t prev;	      /* token of the one before; 0: none */
	char run_id[41];
};
int ckpt_store_state(struct meta_ckpt *c, struct ckpt_store *s);

/** ckpt_attach - agree on the store, fill it if need be; sets c->state.
 *  Returns: 0 (READY), -EINVAL (two histories), -EUCLEAN (damage), -EAGAIN
 *  others are waited for, -errno. */
int ckpt_attach(struct meta_ckpt *c);

/** ckpt_is_prefix - is what the log has a part of what the store has, from
 *  the first record on? */
bool ckpt_is_prefix(struct meta_ckpt *c, const struct ckpt_store *s,
		    const struct ckpt_log_info *info);

/* --- ckpt_keep.c ------------------------------------------------------- */

/** ckpt_cmd_self - the arguments uuid, incarnation, name */
void ckpt_cmd_self(struct meta_ckpt *c, struct redis_cmd *cmd);

/**
 * ckpt_keep_place - be a keeper if there is room
 * @s: the store, live
 * @prefix: as of ckpt_is_prefix
 *
 * Then the log is made whole: by the records that it lacks, or a snapshot.
 * Returns: 0 (a keeper or not: c->keeper), -EINVAL another history, -errno.
 */
int ckpt_keep_place(struct meta_ckpt *c, const struct ckpt_store *s,
		    bool prefix);

/** ckpt_keep_tick - say what the log has, take a place that got free. */
void ckpt_keep_tick(struct meta_ckpt *c);

/** ckpt_tail_start - from now on a keeper has every record in its log within
 *  milliseconds, whoever made it. 0 or -errno. */
int ckpt_tail_start(struct meta_ckpt *c);
void ckpt_tail_stop(struct meta_ckpt *c); /* c->stop is set */

/** ckpt_keep_leave - make room for another node. */
void ckpt_keep_leave(struct meta_ckpt *c);

/* --- ckpt_reload.c ----------------------------------------------------- */

/** ckpt_random - not 0 */
uint64_t ckpt_random(void);

/** ckpt_tree_new - a log with nothing but a root directory. */
int ckpt_tree_new(struct meta_ckpt *c);

/** ckpt_load - fill a store that is new, behind or half filled
 *  @expect: its tree now */
int ckpt_load(struct meta_ckpt *c, uint64_t expect);

/** ckpt_adopt - the store's tree becomes the log's, with all that it holds. */
int ckpt_adopt(struct meta_ckpt *c, const struct ckpt_store *s,
	       const char *why);

/** ckpt_catch_up - append what the store's stream has past the log
 *  @seq: at least up to here
 *  Returns: 0, -ESRCH the stream does not reach back, -EEXIST another
 *  history, -EAGAIN another life, or -errno. */
int ckpt_catch_up(struct meta_ckpt *c, uint64_t seq);

/** ckpt_compact - a new snapshot, and the log starts anew. -EAGAIN: not now,
 *  the node has to attach anew. */
int ckpt_compact(struct meta_ckpt *c);

/** ckpt_sweep - free what incarnations that are gone kept open. */
int ckpt_sweep(struct meta_ckpt *c);

#endif
