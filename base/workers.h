/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_WORKERS_H
#define KVFS_BASE_WORKERS_H

#include "base/list.h"

/*
 * A few threads that run jobs first in, first out. A job is embedded in what
 * it works on, so posting never allocates; who posts bounds how many there
 * are (the kernel's requests in flight, the frames of the pool).
 */
struct workers;

struct job {
	struct list link;
	void (*run)(struct job *job); /* owns the job from here on */
};

/**
 * workers_open - start threads
 * @w: set only on success
 * @name: thread name, at most 12 characters
 * @n: how many threads
 * @nice: 0, or up to 19 for work that gives way to the callers' own; such
 *        a pool begins 2 ms after it was given work
 *
 * Returns: 0 or -errno.
 */
int workers_open(struct workers **w, const char *name, unsigned n, int nice);

/** workers_post - queue a job. Threads: any; never blocks. */
void workers_post(struct workers *w, struct job *job);

/** workers_drain - wait until everything posted so far has run. */
void workers_drain(struct workers *w);

/** workers_close - run what is queued, end the threads, free. NULL is fine. */
void workers_close(struct workers *w);

#endif
