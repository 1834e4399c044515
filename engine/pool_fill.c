// SPDX-License-Identifier: MIT
/*
 * The filler: at start it turns the whole free capacity into READY frames
 * whose memory was touched once. The first frames that a writer needs are the
 * keeper's work, so this thread rests for a fifth of its time; it ends when no
 * room is left. (Not by a nice value: a thread that nobody lets run would
 * hold the pool's lock for all.)
 */
#include "engine/pool_internal.h"

#include <sys/prctl.h>

#include "base/clock.h"

static bool fill_one(struct pool *p)
{
	unsigned cls = demand_fill(p);
	uint32_t f;

	if (books_room(p) < pool_class_pages(cls))
		return false;
	f = slot_get(p, cls);
	if (f == POOL_NO_FRAME || frame_prepare(p, f, cls, true))
		return false;
	ready_push(p, f);
	return true;
}

void *fill_run(void *pool)
{
	struct pool *p = pool;

	prctl(PR_SET_NAME, "kvfs-fill");
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		int64_t began = clock_now_ns();
		struct timespec until;

		if (!fill_one(p))
			break;
		began = clock_now_ns() - began;
		until = clock_timespec(clock_now_ns() + began / 4);
		pthread_cond_timedwait(&p->stopped, &p->lock, &until);
	}
	p->filled = true;
	keeper_wake(p);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}
