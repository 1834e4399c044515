/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_NODE_IMPL_H
#define KVFS_META_NODE_IMPL_H

/* What node.c keeps; a test makes the last heartbeat an old one. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "meta/nodes.h"

struct node {
	char uuid[META_UUID_LEN + 1];
	_Atomic uint32_t incarnation;
	_Atomic uint64_t store_id;
	_Atomic bool confirmed;
	bool kept;

	/* The heartbeat's own: what kv and ckpt were told of. */
	_Atomic uint64_t told_store;
	uint32_t told_incarnation;
	char told_run_id[41];
	uint64_t told_missed; /* of the incarnation */
	/* Until when the node counts as up that has our uuid; 0: none has. */
	uint64_t twin_till_ms;

	_Atomic int64_t beat_ns; /* when the last beat that was answered left */

	pthread_mutex_t lock;	/* a leaf; guards the rest */
	pthread_cond_t changed; /* for the heartbeat */
	pthread_cond_t beaten;
	struct meta_self self; /* what we tell of us */
	bool check, stop;
	uint64_t beats, beats_done; /* begun; over, answered or not */
	bool started;		    /* the ops may be called */
	uint64_t checks;	    /* how often a connection was new */
	uint32_t *missed;	    /* incarnations that were not told */
	unsigned n_missed, missed_room;
	pthread_t thread;
	bool has_thread;
};

#endif
