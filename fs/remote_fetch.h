/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_REMOTE_FETCH_H
#define KVFS_FS_REMOTE_FETCH_H

/*
 * One fetch, for the files that run it: remote_begin.c (who waits for it),
 * remote_fetch.c (its way and its end) and remote_holders.c (whom it asks).
 *
 * Until it is posted or started it belongs to who began it, then to the thread
 * that runs it; what kv->lock guards is said below.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/remote.h"
#include "fs/remote_try.h"

struct remote_parts;

struct remote_fetch {
	struct job job;
	struct remote *r;
	struct kv_file *f;	  /* whose block it will be; or: */
	struct remote_into *into; /* it only goes into this memory */
	struct list waiters;	  /* call.job.link; kv->lock */
	struct list watchers;	  /* remote_watcher.link; likewise */
	struct list peers;	  /* likewise: wait to be served from here */
	unsigned n_peers;	  /* of those */
	bool waits; /* so does it, elsewhere: nobody waits here; kv->lock */
	_Atomic int64_t deadline; /* of who waits longest */
	int64_t started_ns;
	struct meta_kv_found found;
	_Atomic enum engine_priority priority; /* a reader's once one waits */
	enum kv_kind kind;
	uint32_t age_ms;   /* since its last use, as the giver has it */
	bool marked;	   /* it lies ahead of a reader; kv->lock */
	atomic_bool chain; /* somebody asked for it, not only we did */
	atomic_bool cancelled;
	struct remote_ahead *ahead; /* told when it is over; kv->lock */
	struct remote_target *target;
	bool scratch; /* which is none of the pool's; kv->lock */
	bool held;    /* and those who have it open read it there */
	void (*found_room)(struct remote_fetch *x, int err);
	struct remote_parts *parts; /* large, or held: the target is theirs */
	uint32_t from;		    /* the holder that had it, or is asked */
	uint32_t tried; /* it was asked and failed: last next time */
	int status;	/* of that try */
	bool again;	/* Redis was asked once more */
	bool unreached; /* a holder that lives */
	bool patient;	/* one of those that may wait for a link */
	struct remote_told told;
	uint16_t path_len;
	char path[POOL_PATH_MAX + 1];
};

/** remote_fetch_run - all of it, on this thread: a fetcher's. 0 or -errno; x is
 *  gone. */
int remote_fetch_run(struct remote_fetch *x);

/** remote_fetch_wanted - the FETCH of it. */
struct remote_msg remote_fetch_wanted(const struct remote_fetch *x);
/** remote_fetch_is_over - its deadline has passed, or the mount ends. */
bool remote_fetch_is_over(const struct remote_fetch *x);

/** remote_fetch_set_waits - it waits for another node's fetch, or will serve
 *  nobody: peers that wait for it go. No lock held. */
void remote_fetch_set_waits(struct remote_fetch *x, bool waits);

/* remote_holders.c; fetchers only, remote_holder_next aside */
/** remote_holder_next - the best that is not among those; then x->from.
 *  @ctx: the fetch, here and below. Returns: 0 there is none. Never waits. */
uint32_t remote_holder_next(void *ctx, const uint32_t *bad, unsigned n_bad);
/** remote_holder_failed - it could not give it: err. */
void remote_holder_failed(struct remote_fetch *x, uint32_t holder, int err);
/** remote_holders_again - all have failed; waits a little, or for Redis.
 *  Returns: 0 they are to be asked again, or -errno it is over. */
int remote_holders_again(void *ctx);
/** remote_holders_ask - all, again and again, for the whole block.
 *  Returns: 0 it is in x->target, verified, from x->from; or -errno. */
int remote_holders_ask(struct remote_fetch *x);

#endif
