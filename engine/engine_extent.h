/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_ENGINE_EXTENT_H
#define KVFS_ENGINE_ENGINE_EXTENT_H

/*
 * Which bytes of a segment have arrived: sorted, disjoint, not touching
 * extents. Slices of one sender leave a handful of gaps (one a path); whoever
 * makes more than EXTENTS_MAX is refused rather than given memory.
 */

#include <stdbool.h>
#include <stdint.h>

#define EXTENTS_MAX 4096
#define EXTENTS_INLINE 4

struct extent {
	uint64_t from, to;
};

struct extents {
	struct extent few[EXTENTS_INLINE];
	struct extent *many; /* NULL: they are in few */
	uint32_t n, room;
};

void extents_init(struct extents *x);
void extents_fini(struct extents *x);

/** extents_add - 0, -ENOBUFS too many pieces, -ENOMEM. */
int extents_add(struct extents *x, uint64_t from, uint64_t to);

/** extents_full - would one more piece that touches none be too many? */
bool extents_full(const struct extents *x);

/** extents_contiguous - how much stands without a gap from 0. */
uint64_t extents_contiguous(const struct extents *x);

#endif
