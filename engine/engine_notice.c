// SPDX-License-Identifier: MIT
/*
 * Callbacks. They run on a thread of the engine: a transport's, inside the
 * call up that caused them (no wake-up on the way), or the engine's own where
 * a caller's function caused them. One thread at a time runs the queue, so two
 * callbacks of one object are never at work at once and keep their order.
 */
#include "engine/engine_internal.h"

#include <assert.h>

/* How deep this thread is in calls up. */
static __thread unsigned inside;

bool up_inside(void)
{
	return inside > 0;
}

void notice_init(struct notice *n,
		 void (*run)(struct engine *e, struct notice *n))
{
	list_init(&n->link);
	n->run = run;
}

void notice_post(struct engine *e, struct notice *n)
{
	if (!list_empty(&n->link))
		return;
	list_push_back(&e->notices, &n->link);
	if (!inside && !e->running)
		pthread_cond_signal(&e->wake);
}

static struct notice *notice_next(struct engine *e)
{
	struct list *l = list_pop_front(&e->notices);

	return l ? container_of(l, struct notice, link) : NULL;
}

void notices_run(struct engine *e)
{
	struct notice *n;

	pthread_mutex_lock(&e->lock);
	if (!e->running) {
		e->running = true;
		inside++;
		while ((n = notice_next(e))) {
			pthread_mutex_unlock(&e->lock);
			n->run(e, n);
			pthread_mutex_lock(&e->lock);
		}
		inside--;
		e->running = false;
	}
	pthread_mutex_unlock(&e->lock);
}

void up_begin(struct engine *e)
{
	inside++;
	atomic_fetch_add(&e->n_inside, 1);
}

void up_end(struct engine *e)
{
	assert(inside);
	if (--inside == 0)
		notices_run(e);
	atomic_fetch_sub(&e->n_inside, 1); /* e may be gone from here on */
}
