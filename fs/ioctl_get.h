/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_IOCTL_GET_H
#define KVFS_FS_IOCTL_GET_H

/*
 * GET under way, between its two files:
 *
 *      ioctl_get.c        the request, what is here, the answer
 *      ioctl_get_fetch.c  what is elsewhere
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/buffers.h"
#include "fs/ioctl.h"
#include "fs/remote.h"

enum ioctl_get_way {
	IOCTL_GET_OVER,
	IOCTL_GET_HERE,
	IOCTL_GET_STRAIGHT,
	IOCTL_GET_AS_BLOCK
};

struct ioctl_get;
struct ioctl_get_move {
	struct ioctl_get *g;
	enum ioctl_get_way way;
	struct kv_file *f;	       /* pinned */
	struct buffer *buffer;	       /* in use */
	struct remote_watcher watcher; /* IOCTL_GET_AS_BLOCK */
	struct remote_into into;       /* IOCTL_GET_STRAIGHT */
	struct remote_fetch *fetch;
};

struct ioctl_get {
	struct call *c;
	const struct kv_caller *who;
	struct kv_caller *own_who; /* to free */
	ioctl_done_fn done;
	uint32_t flags, n;
	int64_t deadline;
	struct ioctl_names names;
	const struct kvfs_ioc_move *in;
	struct kvfs_ioc_got *answer;
	size_t answer_bytes;
	bool missing;	     /* some names may be on other nodes */
	struct job job;	     /* the end of it */
	atomic_uint left;    /* to come, and who begins them */
	atomic_uint started; /* of straight */
	uint32_t n_straight;
	struct ioctl_get_move **straight;
	struct ioctl_get_move moves[];
};

static inline struct kvfs_ioc_moved *ioctl_get_moved(struct ioctl_get *g,
						     uint32_t i)
{
	return (struct kvfs_ioc_moved *)(g->answer + 1) + i;
}

/** ioctl_get_fail - this one has ended. */
void ioctl_get_fail(struct ioctl_get_move *m, int err);
/** ioctl_get_copy - what is here, into the buffers. */
void ioctl_get_copy(struct ioctl_get *g);
/** ioctl_get_answer - it is over; g is freed. */
void ioctl_get_answer(struct ioctl_get *g);

/** ioctl_get_fetch - begin what is elsewhere, copy what is here. Takes g:
 *  whoever is last answers. */
void ioctl_get_fetch(struct ioctl_get *g);

#endif
