/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_FAULT_H
#define KVFS_BASE_FAULT_H

#include <stdbool.h>

/*
 * Failures on demand, for tests. KVFS_FAULT="point:n[,point:n…]" in the
 * environment makes the n-th call (1 is the first) of fault_hit("point") true,
 * "point:n+" the n-th and all later ones. Without the variable fault_hit is a
 * load and a branch.
 *
 * A test in the same process holds a thread where it passes such a point, with
 * a function of its own.
 */

extern bool fault_armed;

/** fault_init - read KVFS_FAULT. Threads: once, before others start. */
void fault_init(void);

bool fault_count(const char *point);

typedef void fault_hook_fn(const char *point);
extern fault_hook_fn *_Atomic fault_hook;

/** fault_pass - a thread is here; a test may hold it. */
static inline void fault_pass(const char *point)
{
	fault_hook_fn *hook = fault_hook;

	if (__builtin_expect(!!hook, 0))
		hook(point);
}

static inline bool fault_hit(const char *point)
{
	return __builtin_expect(fault_armed, 0) && fault_count(point);
}

#endif
