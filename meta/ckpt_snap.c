// SPDX-License-Identifier: MIT
/* Snapshots of the ckpt tree: ckpt_log.h has the calling sequence. */
#include "meta/ckpt_log_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "meta/ckpt_file.h"

#define SNAP_TMP "ckpt.snap.tmp"

struct ckpt_snap {
	struct ckpt_log *log;
	int fd;
	uint64_t tree, base;
	uint64_t n_bytes;
	bool anew; /* the log is replaced by it */
};

/* Records from here on go to a new ckpt.log; the snapshot has those before. */
static int log_rotate(struct ckpt_log *l)
{
	char name[NAME_BYTES];
	int err, old_fd;

	if (l->base == l->info.seq)
		return 0;
	ckpt_segment_name(name, l->base);
	if (linkat(l->dirfd, LOG_NAME, l->dirfd, name, 0) && errno != EEXIST)
		return -errno;
	old_fd = fcntl(l->fd, F_DUPFD_CLOEXEC, 0);
	err = ckpt_log_file_start(l, l->info.seq);
	if (err) {
		if (old_fd >= 0)
			close(old_fd);
		return err;
	}
	if (l->old_fd >= 0)
		close(l->old_fd);
	l->old_fd = old_fd;
	return 0;
}

static int snap_start(struct ckpt_snap *s)
{
	s->fd = openat(s->log->dirfd, SNAP_TMP,
		       O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
		       0600);
	if (s->fd < 0)
		return -errno;
	return ckpt_file_write_head(s->fd, CKPT_FILE_SNAP, s->tree, s->base);
}

int ckpt_snap_begin(struct ckpt_snap **snap, struct ckpt_log *l, uint64_t tree,
		    uint64_t base)
{
	struct ckpt_snap *s = calloc(1, sizeof(*s));
	int err = 0;

	if (!s)
		return -ENOMEM;
	*s = (struct ckpt_snap){l, -1, tree, base, 0, tree != 0};
	if (!s->anew) {
		scoped_lock(&l->lock);
		err = log_rotate(l);
		s->tree = l->info.tree;
		s->base = l->info.seq;
	}
	if (!err)
		err = snap_start(s);
	if (err) {
		log_error("ckpt: %s/%s: %s", l->dir, SNAP_TMP, strerror(-err));
		ckpt_snap_abort(s);
		return err;
	}
	*snap = s;
	return 0;
}

int ckpt_snap_add(struct ckpt_snap *s, const void *payload, size_t n)
{
	int err = n ? ckpt_file_write(s->fd, s->base, payload, n) : 0;

	s->n_bytes += n ? n + CKPT_RECORD_HEAD_BYTES : 0;
	if (err)
		log_error("ckpt: %s/%s: %s", s->log->dir, SNAP_TMP,
			  strerror(-err));
	return err;
}

/* Logs that end before the snapshot; all of them if it stands alone. */
static void segments_drop(struct ckpt_log *l)
{
	struct ckpt_segments s;

	ckpt_segments_find(&s, l->dir);
	for (size_t i = 0; i < s.n; i++) {
		char name[NAME_BYTES];

		if (s.base[i] == UINT64_MAX)
			continue;
		ckpt_segment_name(name, s.base[i]);
		unlinkat(l->dirfd, name, 0);
	}
	ckpt_segments_fini(&s);
	if (l->old_fd >= 0)
		close(l->old_fd);
	l->old_fd = -1;
}

static int snap_install(struct ckpt_snap *s)
{
	struct ckpt_log *l = s->log;
	int err = 0;

	scoped_lock(&l->lock);
	if (renameat(l->dirfd, SNAP_TMP, l->dirfd, SNAP_NAME))
		return -errno;
	err = fsync(l->dirfd) ? -errno : 0;
	if (err)
		return err;
	if (s->anew) {
		l->info.tree = s->tree;
		l->info.seq = s->base;
		memset(l->recent, 0, sizeof(l->recent));
		err = ckpt_log_file_start(l, s->base);
	}
	if (err)
		return err;
	segments_drop(l);
	l->info.snap_seq = s->base;
	l->info.snap_bytes = s->n_bytes;
	l->info.log_bytes = 0;
	if (s->anew) {
		ckpt_log_bad_find(l, true);
		l->info.damaged = false;
	}
	return 0;
}

int ckpt_snap_commit(struct ckpt_snap *s)
{
	int err = ckpt_file_write_end(s->fd, s->base);

	if (!err && fsync(s->fd))
		err = -errno;
	if (!err)
		err = snap_install(s);
	if (err)
		log_error("ckpt: %s/%s: %s", s->log->dir, SNAP_NAME,
			  strerror(-err));
	ckpt_snap_abort(s);
	return err;
}

void ckpt_snap_abort(struct ckpt_snap *s)
{
	if (!s)
		return;
	if (s->fd >= 0)
		close(s->fd);
	unlinkat(s->log->dirfd, SNAP_TMP, 0);
	free(s);
}
