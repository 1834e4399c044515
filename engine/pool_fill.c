// SPDX-License-Identifier: MIT
/*
 * The filler: at start, and at the lowest priority, it turns the whole free
 * capacity into READY frames whose memory was touched once. The first frames
 * that a writer needs are the keeper's work; this thread ends when no room is
 * left.
 */
#include "engine/pool_internal.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool fill_one(struct pool *p)
{
	uint32_t f;

	if (p->stop || books_room(p) < pool_class_pages(p->fill_cls))
		return false;
	f = slot_get(p, p->fill_cls);
	if (f == POOL_NO_FRAME || frame_prepare(p, f, p->fill_cls, true))
		return false;
	ready_push(p, f);
	return true;
}

void *fill_run(void *pool)
{
	struct pool *p = pool;

	prctl(PR_SET_NAME, "kvfs-fill");
	setpriority(PRIO_PROCESS, syscall(SYS_gettid), 19);
	pthread_mutex_lock(&p->lock);
	while (fill_one(p))
		;
	pthread_mutex_unlock(&p->lock);
	return NULL;
}
