/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_POOL_CLASS_H
#define KVFS_ENGINE_POOL_CLASS_H

#include <stdint.h>

/*
 * Preallocation classes: every page count up to 16 pages of 4 KiB, then 16
 * steps per doubling. A class is at most 1/16 larger than what asked for it:
 * 5 MiB is exact, 4.29 MiB takes 4.5 MiB.
 */
#define POOL_PAGE 4096u
#define POOL_CLASSES 463u

/** pool_pages - how many pages hold this many bytes. */
static inline uint64_t pool_pages(uint64_t bytes)
{
	return bytes / POOL_PAGE + (bytes % POOL_PAGE != 0);
}

/** pool_class_pages - what a frame of a class has preallocated. */
static inline uint32_t pool_class_pages(unsigned cls)
{
	if (cls < 16)
		return cls + 1;
	return (16 + (cls - 15) % 16) << ((cls - 15) / 16);
}

/** pool_class_of - the smallest class that holds this many pages. */
static inline unsigned pool_class_of(uint64_t pages)
{
	unsigned log, step_log;

	if (pages <= 16)
		return pages ? pages - 1 : 0;
	if (pages >= 31ull << 27)
		return POOL_CLASSES - 1;
	log = 63 - __builtin_clzll(pages);
	step_log = log - 4;
	return step_log * 16 + 15 +
	       (((pages - (1ull << log)) + (1ull << step_log) - 1) >> step_log);
}

#endif
