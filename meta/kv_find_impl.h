/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_KV_FIND_IMPL_H
#define KVFS_META_KV_FIND_IMPL_H

/* Lookups, between kv_find.c (requests) and kv_trip.c (what is sent). */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "meta/key.h"

struct meta;
struct meta_kv_ask;

#define KV_TRIP_NAMES 2000u
#define KV_REST_MAX 4096u

struct request {
	struct list link;	  /* of `all`, `late`, or the finished ones */
	struct list wait;	  /* of `pending` or `unknown` */
	struct meta_kv_ask *asks; /* the caller's, until finished */
	unsigned n;
	unsigned refs; /* the trip's items, and one until it is finished */
	unsigned left; /* names without an answer */
	int64_t deadline;
	int64_t sent_ns; /* 0: Redis has not been asked */
	bool finished;
	bool unknown;  /* a namespace that is not known here */
	bool patient;  /* a late answer is wanted, too */
	bool deferred; /* its answer was there, unread, at the deadline */
	bool telling;  /* that it is late: done is being called */
	int err;
	void (*done)(void *ctx, int err);
	void *ctx;
};

struct kv_find {
	struct meta *m;
	/* Guards all below but the counters; before members.c's. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list all;     /* before their deadline */
	struct list pending; /* of those: to be sent */
	struct list unknown; /* the thread asks for their namespaces */
	struct list late;    /* past it, and patient */
	unsigned n_trips;
	int64_t wake_ns; /* when the thread looks next; it alone writes it */
	bool stop;
	pthread_t thread;
	bool has_thread;
	_Atomic uint64_t n_names, n_trips_all, n_late;
};

/* kv_find.c; the caller holds the lock */
void kv_find_unref(struct request *r);
/** kv_find_answer - one name's; what is finished by it goes onto the list. */
void kv_find_answer(struct request *r, unsigned ask, int err,
		    struct list *finished);
/** kv_find_tell - call done of those; no lock held. */
void kv_find_tell(struct kv_find *f, struct list *finished);

/* kv_trip.c */
/** kv_find_pump - send what waits, as far as it may; no lock held. */
void kv_find_pump(struct kv_find *f);

#endif
