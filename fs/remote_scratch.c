// SPDX-License-Identifier: MIT
#include "fs/remote_scratch.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "fs/remote_fetch.h"

/*
 * While somebody waits, one fetcher serves the queue. Scratch that is given
 * back wakes it; a frame becomes free in many ways (a close, an unmap, a lease
 * that is granted at last), so for one of those it looks again and again.
 */

#define PAGE_BYTES 4096u
#define LOOK_NS (25 * NS_PER_MS)

void remote_scratch_open(struct remote *r)
{
	pthread_mutex_init(&r->room_lock, NULL);
	cond_init(&r->room_some);
	list_init(&r->roomless);
}

void remote_scratch_close(struct remote *r)
{
	pthread_cond_destroy(&r->room_some);
	pthread_mutex_destroy(&r->room_lock);
}

bool remote_scratch_fits(uint64_t bytes)
{
	return bytes <= REMOTE_SCRATCH_BYTES;
}

/* What it takes of memory. */
static uint64_t pages(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

static bool reserve(struct remote *r, uint64_t bytes)
{
	scoped_lock(&r->room_lock);

	if (bytes > REMOTE_SCRATCH_BYTES - r->counters.scratch_bytes)
		return false;
	r->counters.scratch_bytes += bytes;
	return true;
}

static void give_back(struct remote *r, uint64_t bytes)
{
	scoped_lock(&r->room_lock);

	r->counters.scratch_bytes -= bytes;
	pthread_cond_signal(&r->room_some);
}

int remote_scratch_take(struct remote *r, uint64_t bytes, int *fd)
{
	int err, memory;

	if (!reserve(r, pages(bytes)))
		return -ENOSPC;
	memory = memfd_create("kvfs-scratch", MFD_CLOEXEC);
	if (memory >= 0 && !ftruncate(memory, (off_t)bytes)) {
		*fd = memory;
		return 0;
	}
	err = -errno;
	if (memory >= 0)
		close(memory);
	give_back(r, pages(bytes));
	return err;
}

void remote_scratch_put(struct remote *r, uint64_t bytes, int fd)
{
	close(fd);
	give_back(r, pages(bytes));
}

/* -- the queue ---------------------------------------------------------- */

static int find_room(struct remote_fetch *x)
{
	int err = remote_target_new(x->r, x->found.size_bytes, &x->target);

	if (err == -ENOSPC)
		err = remote_target_scratch(x->r, x->found.size_bytes,
					    &x->target);
	return err;
}

static int give_up(const struct remote_fetch *x)
{
	if (atomic_load(&x->r->fs->stopping))
		return -ESHUTDOWN;
	log_warn("kv: %.*s: not read: all of the pool is in use, and all of "
		 "the %" PRIu64 " MiB of memory for reading past it; close "
		 "files, or mount with a larger pool",
		 x->path_len, x->path, (uint64_t)REMOTE_SCRATCH_BYTES >> 20);
	return -ENOSPC;
}

/* Lock held; let go of meanwhile. Returns: false, it goes on waiting. */
static bool serve_first(struct remote *r)
{
	struct remote_fetch *x =
		container_of(r->roomless.next, struct remote_fetch, job.link);
	int err;

	pthread_mutex_unlock(&r->room_lock);
	err = find_room(x);
	if (err == -ENOSPC && remote_fetch_is_over(x))
		err = give_up(x);
	else if (err == -ENOSPC)
		x = NULL;
	pthread_mutex_lock(&r->room_lock);
	if (!x)
		return false;
	list_remove(&x->job.link);
	pthread_mutex_unlock(&r->room_lock);
	x->found_room(x, err);
	pthread_mutex_lock(&r->room_lock);
	return true;
}

static void serve(struct job *job)
{
	struct remote *r = container_of(job, struct remote, room_job);
	struct timespec until;
	scoped_lock(&r->room_lock);

	while (!list_empty(&r->roomless)) {
		if (serve_first(r))
			continue;
		until = clock_timespec(clock_now_ns() + LOOK_NS);
		pthread_cond_timedwait(&r->room_some, &r->room_lock, &until);
	}
	r->room_serving = false;
}

void remote_room_wait(struct remote_fetch *x,
		      void (*found)(struct remote_fetch *x, int err))
{
	struct remote *r = x->r;
	bool serving;

	x->found_room = found;
	pthread_mutex_lock(&r->room_lock);
	list_push_back(&r->roomless, &x->job.link);
	serving = r->room_serving;
	r->room_serving = true;
	pthread_mutex_unlock(&r->room_lock);
	if (serving)
		return;
	r->room_job.run = serve;
	workers_post(r->fetchers, &r->room_job);
}
