/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_COND_H
#define KVFS_BASE_COND_H

#include <pthread.h>

/** cond_init - a condition whose timed waits take clock_now_ns's clock. */
static inline void cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

#endif
