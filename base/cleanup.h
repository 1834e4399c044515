/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_CLEANUP_H
#define KVFS_BASE_CLEANUP_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Scope-bound release: `cleanup_free char *s = …; cleanup_close int fd = …;` */

static inline void cleanup_free_fn(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close_fn(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_file_fn(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_unlock_fn(pthread_mutex_t **m)
{
	pthread_mutex_unlock(*m);
}

#define cleanup_free __attribute__((cleanup(cleanup_free_fn)))
#define cleanup_close __attribute__((cleanup(cleanup_close_fn)))
#define cleanup_file __attribute__((cleanup(cleanup_file_fn)))

/** scoped_lock - hold a mutex to the end of the enclosing block. */
#define scoped_lock(m)                                      \
	__attribute__((cleanup(cleanup_unlock_fn), unused)) \
	pthread_mutex_t *scoped_lock_held = scoped_lock_take(m)

static inline pthread_mutex_t *scoped_lock_take(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#endif
