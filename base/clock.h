/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_CLOCK_H
#define KVFS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL

static inline int64_t clock_read_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

/** clock_now_ns - the monotonic clock: for deadlines and latencies. */
static inline int64_t clock_now_ns(void)
{
	return clock_read_ns(CLOCK_MONOTONIC);
}

/**
 * clock_stamp_ns - the wall clock as the kernel stamps files with it.
 *
 * Coarse on purpose: a finer stamp of ours would run ahead of the stamp that
 * the kernel gives to a later write.
 */
static inline int64_t clock_stamp_ns(void)
{
	return clock_read_ns(CLOCK_REALTIME_COARSE);
}

static inline struct timespec clock_timespec(int64_t ns)
{
	struct timespec t = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};

	if (t.tv_nsec < 0) {
		t.tv_sec--;
		t.tv_nsec += NS_PER_S;
	}
	return t;
}

static inline int64_t clock_from_timespec(struct timespec t)
{
	return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

#endif
