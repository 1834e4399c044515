/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_RING_QUEUE_H
#define KVFS_FS_RING_QUEUE_H

/*
 * The shared memory of a ring, as the daemon sees it: the client may write
 * anything there at any time, and take its pages away. So each word is read
 * once, into memory of ours, and checked there; what is ours (how far we are)
 * is kept here and only shown there.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fs/kvfs_ioctl.h"

struct ring_queue {
	struct kvfs_ring_shared *shared; /* NULL: it is not open */
	struct kvfs_ring_submission *sq;
	struct kvfs_ring_completion *cq;
	char *data;
	size_t map_bytes;
	uint64_t data_bytes;
	uint32_t entries; /* a power of 2 */
	uint32_t sq_head, cq_tail, flags;
};

/** ring_queue_bytes - of the whole; 0: no ring has so many entries, or data. */
uint64_t ring_queue_bytes(uint32_t entries, uint64_t data_bytes);

/** ring_queue_init - over memory of ring_queue_bytes. */
void ring_queue_init(struct ring_queue *q, void *map, uint32_t entries,
		     uint64_t data_bytes);

/* All below: -EFAULT a page was taken away. */

/**
 * ring_queue_peek - the next submission, which stays the next
 *
 * Returns: 1, 0 there is none, or -EPROTO an index says what cannot be.
 */
int ring_queue_peek(const struct ring_queue *q, struct kvfs_ring_submission *s);
/**
 * ring_queue_take - its request, and it is taken
 * @s: of ring_queue_peek
 * @to: KVFS_RING_BYTES_MAX bytes
 *
 * Returns: 0, -EINVAL it is no submission: taken all the same.
 */
int ring_queue_take(struct ring_queue *q, const struct kvfs_ring_submission *s,
		    void *to);
/** ring_queue_answer - the answer's bytes; they fit in the room of a
 *  submission that was taken. Threads: any. */
int ring_queue_answer(const struct ring_queue *q, uint64_t at,
		      const void *answer, size_t size);
/** ring_queue_complete - Returns: 1 the client wants to be woken; 0.
 *  Threads: one at a time. */
int ring_queue_complete(struct ring_queue *q, uint64_t user_data, int result);
/** ring_queue_flag - show KVFS_RING_NEED_WAKEUP or KVFS_RING_STOPPED, or no
 *  more; what follows comes after it for the client, too. */
int ring_queue_flag(struct ring_queue *q, uint32_t flag, bool on);

#endif
