/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_BENCH_FAST_H
#define KVFS_TOOLS_BENCH_FAST_H

#include "tools/bench.h"

struct target;

/** bench_fast - libkvfs against what a program does without it, in a namespace
 *  of the target. Returns: an exit status. */
int bench_fast(const struct bench_plan *plan, const struct target *at);

#endif
