/* SPDX-License-Identifier: MIT */
#ifndef KVFS_GDS_RING_H
#define KVFS_GDS_RING_H

#include "gds/internal.h"

/*
 * The client's side of a ring (fs/kvfs_ioctl.h). Each entry has a part of the
 * data of its own, so that what is under way never needs memory, and its
 * number is what the daemon gets as user_data. An entry is free again when its
 * completion was seen, so there are never too many.
 *
 *      ring.c        beginning and end; submitting and waiting
 *      ring_names.c  EXISTS, MATCH, LOCATE and the like, and their answers
 *      ring_move.c   RESERVE, COMMIT, ABORT, GET, PUT, and theirs
 */

/* What was asked with an entry. */
struct gds_asked {
	uint64_t user_data;
	uint64_t bytes; /* RESERVE: of each frame */
	uint32_t n;	/* names, frames, moves */
	uint32_t flags;
	uint32_t deadline_ms;
	uint32_t command; /* its number */
	uint32_t next_free;
};

struct kvfs_ring {
	struct kvfs *k;
	int memory_fd, submit_fd, complete_fd;
	struct kvfs_ring_shared *shared;
	struct kvfs_ring_submission *sq;
	const struct kvfs_ring_completion *cq;
	char *data;
	char *names; /* of LOCATEs under way, likewise; NULL: not one yet */
	size_t map_bytes;
	uint32_t entries, entry_bytes;
	uint32_t sq_tail; /* of what was prepared; shared: of what was
			     submitted */
	uint32_t cq_head;
	uint32_t free; /* entries: none */
	struct gds_asked *asked;
};

/** gds_ring_request - entry_bytes of the entry that would be next; NULL: all
 *  are in use. */
void *gds_ring_request(const struct kvfs_ring *r);

/**
 * gds_ring_pack - all names into that entry
 * @size:   of what stands before them
 * @answer: the bytes it takes
 * @bytes:  of the request
 *
 * Returns: 0, -E2BIG or -EINVAL.
 */
int gds_ring_pack(const struct kvfs_ring *r, const struct kvfs_names *names,
		  size_t size, size_t answer, struct kvfs_ioc_names *head,
		  size_t *bytes);

/** gds_ring_prepare - its request is whole, but for the head. */
void gds_ring_prepare(struct kvfs_ring *r, unsigned cmd, size_t bytes,
		      struct gds_asked asked);

/** gds_ring_asked - of an answer. */
static inline const struct gds_asked *
gds_ring_asked(const struct kvfs_ring *r, const struct kvfs_done *done)
{
	return &r->asked[done->entry];
}

#endif
