/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_CALL_H
#define KVFS_META_CKPT_CALL_H

/*
 * How the parts of ckpt talk to the functions of ckpt.lua.
 *
 *      ckpt.c, ckpt_attr.c    one function per operation
 *      ckpt_call.c            one call: retry, the log, what waits for what
 *      ckpt_reload.c          the store against the log: load, catch up,
 * snapshot ckpt_log.c             files
 *
 * The store is answered only while it is READY: its tree is the log's and it
 * is not behind it. Every call carries the newest seq of the log, and a store
 * that is older says so instead of answering; then the thread of ckpt compares
 * both and mends what is behind, and the call is tried again, up to its
 * deadline.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "meta/ckpt.h"
#include "meta/ckpt_log.h"
#include "meta/internal.h"

enum ckpt_state {
	CKPT_READY,
	CKPT_CHECK,   /* to be compared with the log */
	CKPT_LOADING, /* being filled from the log */
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

struct meta_ckpt {
	struct meta *m;
	struct ckpt_log *log;
	uint64_t compact_bytes; /* a log longer than this is compacted */
	char session[CKPT_SESSION_BYTES]; /* of this run of the daemon */
	_Atomic uint64_t seen_seq;	  /* newest that the store answered */

	pthread_mutex_t lock; /* a leaf; guards all below */
	pthread_cond_t cond;  /* anything below changed */
	enum ckpt_state state;
	bool stop;
	bool catching_up;
	uint64_t n_calls;  /* the last number that was given */
	uint64_t numbered; /* a bit a slot of the ring: its call is under way */
	unsigned n_writing; /* mutations sent and not yet in the log */
	unsigned n_gap;	    /* of those: wait for records before theirs */
	/* unlinked, open nowhere: freed with the next call */
	struct ckpt_letgo *letgo;
	size_t n_letgo, n_letgo_sent, cap_letgo;
	struct ckpt_locker *lockers[CKPT_LOCKERS]; /* ckpt_lock.c */
	pthread_mutex_t lock_ends; /* outer: one drops what went at a time */
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

/** ckpt_malformed - say that an answer is none of ours; -EIO. */
int ckpt_malformed(const char *fn);

/** ckpt_answer_attr - the inode that is the whole result; 0 or -EIO. */
int ckpt_answer_attr(const char *fn, const struct ckpt_answer *a,
		     struct ckpt_attr *attr);

/** ckpt_cmd_begin - "FCALL … P:{c}:", for what is no operation of the tree. */
void ckpt_cmd_begin(struct meta *m, struct redis_cmd *cmd, const char *fn);
/** ckpt_cmd_gate - the arguments tree and seq that most functions begin with */
void ckpt_cmd_gate(struct meta_ckpt *c, struct redis_cmd *cmd);

/** ckpt_page - call a function that answers an array; its head is checked.
 *  Returns: 0, -EAGAIN the store is not what it was, -ESHUTDOWN we are closing
 *  and what goes page by page ends here, or -errno. */
int ckpt_page(struct meta *m, const struct redis_cmd *cmd, size_t min_count,
	      struct redis_reply **reply);

/* --- ckpt_reload.c ----------------------------------------------------- */

/** ckpt_attach - make store and log agree; sets c->state.
 *  Returns: 0 (READY), -EINVAL (two histories), -EUCLEAN (damage), -errno. */
int ckpt_attach(struct meta_ckpt *c);

/** ckpt_catch_up - append what the store's stream has past the log
 *  @seq: at least up to here
 *  Returns: 0, -ESRCH the stream does not reach back, -EEXIST another
 *  history, or -errno. */
int ckpt_catch_up(struct meta_ckpt *c, uint64_t seq);

/** ckpt_compact - a new snapshot, and the log starts anew. */
int ckpt_compact(struct meta_ckpt *c);

/** ckpt_sweep - free what incarnations that are gone kept open. */
int ckpt_sweep(struct meta_ckpt *c);

#endif
