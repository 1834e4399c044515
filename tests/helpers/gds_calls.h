/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TESTS_GDS_CALLS_H
#define KVFS_TESTS_GDS_CALLS_H

/*
 * libkvfs' calls in two ways, which must give the same results: by ioctl, and
 * by a ring, each call alone. The ring has an entry; what does not fit into it
 * is -E2BIG.
 */

#include <stdbool.h>

#include "gds/kvfs.h"

struct gds_calls {
	int (*exists)(struct kvfs *k, const struct kvfs_names *names,
		      uint32_t flags, uint8_t *bitmap,
		      struct kvfs_found *found);
	int (*match)(struct kvfs *k, const struct kvfs_names *names,
		     uint32_t flags, struct kvfs_holder *holders, uint32_t room,
		     struct kvfs_found *found);
	int (*touch)(struct kvfs *k, const struct kvfs_names *names,
		     uint8_t *bitmap);
	int (*evict)(struct kvfs *k, const struct kvfs_names *names,
		     uint8_t *bitmap);
	int (*prefetch)(struct kvfs *k, const struct kvfs_names *names,
			uint8_t *bitmap);
	int (*read_into)(struct kvfs *k, const struct kvfs_names *names,
			 uint32_t flags, uint32_t deadline_ms,
			 struct kvfs_move *moves);
	int (*store_from)(struct kvfs *k, const struct kvfs_names *names,
			  uint32_t flags, uint32_t mode,
			  struct kvfs_move *moves);
	int (*reserve)(struct kvfs *k, uint32_t n, uint64_t bytes,
		       struct kvfs_frame *frames);
	int (*commit)(struct kvfs *k, const struct kvfs_names *names,
		      uint32_t flags, uint32_t mode, struct kvfs_frame *frames);
	int (*abort)(struct kvfs *k, struct kvfs_frame *frames, uint32_t n);
};

extern const struct gds_calls gds_by_ioctl, gds_by_ring;

/* Nothing of a mount can be mapped. */
extern bool gds_no_maps;

#endif
