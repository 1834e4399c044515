// SPDX-License-Identifier: MIT
#include "fs/ckpt_disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "engine/engine.h"

#define DEADLINE_NS (60 * NS_PER_S) /* for a disk */

struct wait {
	pthread_mutex_t lock; /* guards over, status */
	pthread_cond_t changed;
	bool over;
	int status;
};

static void done(struct engine_batch *b, int status)
{
	struct wait *w = b->ctx;

	scoped_lock(&w->lock);
	w->status = status;
	w->over = true;
	pthread_cond_signal(&w->changed);
}

static int copy(struct engine *e, struct engine_xfer *x)
{
	struct wait w = {.lock = PTHREAD_MUTEX_INITIALIZER,
			 .changed = PTHREAD_COND_INITIALIZER};
	struct engine_batch b = {.xfers = x,
				 .n_xfers = 1,
				 .deadline_ns = clock_now_ns() + DEADLINE_NS,
				 .done = done,
				 .ctx = &w};
	int err = engine_submit(e, NULL, &b);

	if (err)
		return err;
	scoped_lock(&w.lock);
	while (!w.over)
		pthread_cond_wait(&w.changed, &w.lock);
	return w.status;
}

/* The transport knows only that too little came. */
static int why(int err, int fd, uint64_t end)
{
	struct stat st;

	return err == -EIO && !fstat(fd, &st) && (uint64_t)st.st_size < end
		       ? -ENOENT
		       : err;
}

int cdisk_read(struct engine *e, int fd, void *to, uint64_t length_bytes,
	       uint64_t offset)
{
	struct engine_mem disk = {.kind = ENGINE_MEM_DISK,
				  .fd = fd,
				  .offset = offset,
				  .length_bytes = length_bytes};
	struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				 .addr = to,
				 .length_bytes = length_bytes};
	struct engine_xfer x = {.op = ENGINE_COPY,
				.length_bytes = length_bytes};
	int err = engine_region_add(e, &disk, &x.region);

	if (err)
		return err;
	err = engine_region_add(e, &mem, &x.to_region);
	if (!err) {
		err = copy(e, &x);
		engine_region_remove(e, x.to_region, NULL, NULL);
	}
	engine_region_remove(e, x.region, NULL, NULL);
	return why(err, fd, offset + length_bytes);
}
