/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_XXH3_H
#define KVFS_BASE_XXH3_H

/*
 * XXH3 over whole blocks, with the widest vectors that the processor has. On
 * x86 libxxhash's plain functions use SSE2; those that choose at run time take
 * a third of the time of them with AVX2, and have the same results.
 */
#ifdef XXH3_CHOOSES /* configure */
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
