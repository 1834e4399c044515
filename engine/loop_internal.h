/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_LOOP_INTERNAL_H
#define KVFS_ENGINE_LOOP_INTERNAL_H

/*
 * loop.c has the world and the ops, loop_move.c what its thread does.
 *
 * A link and its twin are the two ends of one path. Each has the queue of what
 * its own engine sends; the world's thread takes from it and calls up at both.
 */
#include <pthread.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/loop.h"

struct transport {
	struct engine *engine;
	struct engine_node self;
	struct list of_world; /* listens, or on itself */
	char address[ENGINE_ADDRESS_BYTES];
};

struct loop_link {
	struct engine_link base; /* first */
	struct list ready;	 /* of the world: has something to do */
	struct list of_held;
	struct loop_link *twin; /* NULL before and after */
	struct link_target target;
	char address[ENGINE_ADDRESS_BYTES];
	bool dialed, up, over;
	int closing; /* why; 0: not asked to */
	struct list msgs, slices;

	/* what is stopped in the middle; the thread's, but for the flags */
	bool held, hard, resume, silent;
	struct engine_msg *held_msg;
	struct engine_slice *held_slice;
	struct engine_landing landing; /* at the twin */
	uint32_t landed;
	bool landing_open, divert;
};

struct loop_world {
	pthread_mutex_t lock; /* guards all of the world, and every link */
	pthread_cond_t some;  /* ready, or stop */
	pthread_cond_t held;
	struct list listeners, ready, held_links;
	struct transport *dialing; /* somebody is being connected to it */
	uint32_t users;
	bool stop;
	pthread_t thread;
	uint64_t count[LOOP_POINTS];
	struct {
		uint64_t from, to; /* counts */
		enum loop_action action;
	} plans[LOOP_POINTS];
	uint32_t n_held, n_releases;
	uint32_t action_at; /* n_releases when the thread asked */
};

extern struct loop_world loop_world;

void *loop_thread(void *arg);

static inline struct loop_link *loop_of(struct engine_link *l)
{
	return container_of(l, struct loop_link, base);
}

static inline void loop_link_init(struct loop_link *l)
{
	list_init(&l->ready);
	list_init(&l->of_held);
	list_init(&l->msgs);
	list_init(&l->slices);
}

/** loop_ready - something to do for this link; lock held. */
static inline void loop_ready(struct loop_link *l)
{
	list_remove(&l->ready);
	list_push_back(&loop_world.ready, &l->ready);
	pthread_cond_signal(&loop_world.some);
}

#endif
