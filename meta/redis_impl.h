/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_REDIS_IMPL_H
#define KVFS_META_REDIS_IMPL_H

/*
 * One connection (redis.h), shared by its three parts: redis_queue.c what is to
 * be written and what is owed, redis_thread.c who reads and connects, redis.c
 * who calls.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "meta/redis.h"
#include "meta/redis_dial.h"
#include "meta/resp.h"
#include "meta/stream.h"

/* One reply that is owed. In the queue's order, which is the wire's. */
struct call {
	struct list link;
	int64_t sent_ns;
	struct waiter *waiter; /* NULL: asynchronous, or it gave up */
	void (*done)(void *ctx, int err, struct redis_reply *reply);
	void *ctx;
};

struct waiter {
	pthread_cond_t cond;
	bool done;
	int err;
	struct redis_reply *reply;
};

struct redis {
	pthread_mutex_t lock;	/* a leaf; guards all below but the atomics */
	pthread_cond_t changed; /* up, exited */
	_Atomic unsigned refs;	/* the opener's and the thread's */
	int wake_fd;

	struct redis_dial dial; /* the thread's; client_id, run_id: lock */
	void (*change)(void *ctx, bool up, bool fresh, const char *why);
	void *ctx;

	struct stream *stream;	    /* NULL: not connected */
	struct resp_reader *reader; /* the thread's */
	char *out;
	size_t out_at, out_len, out_cap;
	struct list calls;
	unsigned n_calls;
	unsigned held; /* nothing is written meanwhile */
	bool exited;
	bool reloading; /* the library's load is in the queue */
	bool told_up;	/* what change() heard last */
	int dial_err;	/* of the last try; 0 once connected */
	char why[REDIS_WHY_MAX];
	int64_t down_ns;  /* since when the breaker is open */
	int64_t reply_ns; /* when anything came last */

	_Atomic bool up; /* the breaker is closed; written under the lock */
	_Atomic bool stop;
	_Atomic uint64_t n_commands, n_timeouts, n_outages, n_reconnects;
	_Atomic int64_t last_rtt_ns;
};

/* redis_queue.c; the caller holds the lock */

void redis_wake(struct redis *r);
/** redis_breaker_open - from now on it is not tried, until it answers. */
void redis_breaker_open(struct redis *r);
/** redis_flush - write what the socket takes now. */
void redis_flush(struct redis *r);
/** redis_push - queue a command; 0, and the call is the queue's, or -errno:
 *  -EAGAIN too much waits already. */
int redis_push(struct redis *r, struct call *call, const char *bytes, size_t n);
/** redis_push_new - the same of an asynchronous call; done may be NULL. */
int redis_push_new(struct redis *r, const struct redis_cmd *cmd,
		   void (*done)(void *, int, struct redis_reply *), void *ctx);

/* redis_thread.c */

/** redis_thread - connects, reads, notices silence; has a reference. */
void *redis_thread(void *arg);

/* redis.c; no lock held */

void redis_unref(struct redis *r);

#endif
