/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CKPT_LOG_IMPL_H
#define KVFS_META_CKPT_LOG_IMPL_H

/* Between ckpt_log.c and ckpt_snap.c; nobody else includes it. */

#include <pthread.h>

#include "meta/ckpt_log.h"

#define LOG_NAME "ckpt.log"
#define SNAP_NAME "ckpt.snap"
#define NAME_BYTES 64
#define RECENT 1024u

/*
 * Files of the log, oldest first: ckpt.log.<base> … ckpt.log. Those with a
 * number are being superseded by a snapshot, or it was never finished.
 */
struct ckpt_segments {
	uint64_t *base; /* UINT64_MAX: ckpt.log */
	size_t n;
};

struct ckpt_log {
	pthread_mutex_t lock; /* guards all below but dirfd and dir */
	char *dir;
	int dirfd;
	int fd;	    /* ckpt.log, appended to; -1: none yet */
	int old_fd; /* the log before it, until its snapshot; -1: none */
	struct ckpt_log_info info;
	uint64_t epoch;
	bool sealed;
	uint64_t base; /* of ckpt.log */
	struct {
		uint64_t seq, sum;
	} recent[RECENT];
};

void ckpt_segment_name(char name[NAME_BYTES], uint64_t base);
int ckpt_segments_find(struct ckpt_segments *s, const char *dir);
void ckpt_segments_fini(struct ckpt_segments *s);

/* Both with the lock held, or before there are threads. */
int ckpt_log_file_start(struct ckpt_log *l, uint64_t base);
void ckpt_log_bad_find(struct ckpt_log *l, bool drop);

#endif
