/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_FAULT_H
#define KVFS_BASE_FAULT_H

#include <stdbool.h>

/*
 * Failures on demand, for tests. KVFS_FAULT="point:n[,point:n…]" in the
 * environment makes the n-th call (1 is the first) of fault_hit("point") true,
 * "point:n+" the n-th and all later ones. Without the variable fault_hit is a
 * load and a branch.
 */

extern bool fault_armed;

/** fault_init - read KVFS_FAULT. Threads: once, before others start. */
void fault_init(void);

bool fault_count(const char *point);

static inline bool fault_hit(const char *point)
{
	return __builtin_expect(fault_armed, 0) && fault_count(point);
}

#endif
