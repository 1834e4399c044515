// SPDX-License-Identifier: MIT
#include "meta/ckpt_log_impl.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "meta/ckpt_file.h"

/* --- names ------------------------------------------------------------- */

void ckpt_segment_name(char name[NAME_BYTES], uint64_t base)
{
	if (base == UINT64_MAX)
		snprintf(name, NAME_BYTES, "%s", LOG_NAME);
	else
		snprintf(name, NAME_BYTES, "%s.%" PRIu64, LOG_NAME, base);
}

/* Only as ckpt_segment_name writes it, by which it is opened again. */
static bool segment_parse(const char *name, uint64_t *base)
{
	const char *whole = name;
	char again[NAME_BYTES];

	if (strncmp(name, LOG_NAME, strlen(LOG_NAME)))
		return false;
	name += strlen(LOG_NAME);
	*base = UINT64_MAX;
	if (!*name)
		return true;
	if (name[0] != '.' || name[1] < '0' || name[1] > '9')
		return false;
	*base = strtoull(name + 1, NULL, 10);
	ckpt_segment_name(again, *base);
	return !strcmp(again, whole);
}

static int by_base(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int segments_add(struct ckpt_segments *s, uint64_t base)
{
	uint64_t *more = realloc(s->base, (s->n + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	s->base = more;
	s->base[s->n++] = base;
	return 0;
}

static bool is_bad(const char *name)
{
	return !strncmp(name, "ckpt.", 5) && strlen(name) < NAME_BYTES &&
	       strstr(name, ".bad-");
}

int ckpt_segments_find(struct ckpt_segments *s, const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	uint64_t base;
	int err = 0;

	*s = (struct ckpt_segments){0};
	if (!d)
		return -errno;
	while (!err && (e = readdir(d)))
		if (segment_parse(e->d_name, &base))
			err = segments_add(s, base);
	closedir(d);
	if (s->n)
		qsort(s->base, s->n, sizeof(*s->base), by_base);
	return err;
}

void ckpt_segments_fini(struct ckpt_segments *s)
{
	free(s->base);
}

/* Out of the way, and never overwritten: it may be all that is left. */
static void set_aside(struct ckpt_log *l, const char *name, const char *why)
{
	char bad[NAME_BYTES + 32];

	snprintf(bad, sizeof(bad), "%s.bad-%" PRId64, name,
		 (int64_t)time(NULL));
	if (renameat(l->dirfd, name, l->dirfd, bad))
		log_error("ckpt: %s/%s: %s; cannot set it aside: %s", l->dir,
			  name, why, strerror(errno));
	else
		log_error("ckpt: %s/%s: %s; it is kept as %s", l->dir, name,
			  why, bad);
	l->info.damaged = true;
}

/* --- reading ----------------------------------------------------------- */

static void recent_add(struct ckpt_log *l, uint64_t seq, uint64_t sum)
{
	l->recent[seq % RECENT].seq = seq;
	l->recent[seq % RECENT].sum = sum;
}

/* Verify the snapshot: all of it or nothing. */
static int snap_read(struct ckpt_log *l)
{
	struct ckpt_view v = {0};
	struct ckpt_record r;
	enum ckpt_next next;
	int err = ckpt_view_open(&v, l->dirfd, SNAP_NAME, CKPT_FILE_SNAP);

	if (err == -ENOENT)
		return 0;
	if (err && err != -EBADMSG)
		return err;
	do
		next = err ? CKPT_NEXT_TORN : ckpt_view_next(&v, &r);
	while (next == CKPT_NEXT_RECORD && r.seq == v.head.base);
	if (next == CKPT_NEXT_END && v.at == v.n_bytes) {
		l->info.tree = v.head.tree;
		l->info.seq = l->info.snap_seq = v.head.base;
		l->info.snap_bytes = v.n_bytes;
	} else {
		set_aside(l, SNAP_NAME, "the snapshot is damaged");
	}
	ckpt_view_close(&v);
	return 0;
}

/* Does this file go on where the ones before it ended? */
static const char *segment_fits(const struct ckpt_log *l,
				const struct ckpt_view *v)
{
	if (l->info.tree && v->head.tree != l->info.tree)
		return "it belongs to another tree";
	if (v->head.base > l->info.seq)
		return "records before it are missing";
	return NULL;
}

/* Records of one file; where they stop being good is left in v->at. */
static enum ckpt_next segment_records(struct ckpt_log *l, struct ckpt_view *v)
{
	uint64_t expect = v->head.base + 1;
	struct ckpt_record r;
	enum ckpt_next next;
	size_t good = v->at;

	while ((next = ckpt_view_next(v, &r)) == CKPT_NEXT_RECORD) {
		if (r.seq != expect++) {
			next = CKPT_NEXT_DAMAGE;
			break;
		}
		good = v->at;
		if (r.seq > l->info.seq)
			l->info.seq = r.seq;
		recent_add(l, r.seq, r.sum);
	}
	v->at = good;
	return next == CKPT_NEXT_END ? CKPT_NEXT_DAMAGE : next;
}

/* Keep the good part of a damaged file under its name, the whole one aside. */
static int segment_salvage(struct ckpt_log *l, const struct ckpt_view *v,
			   const char *name)
{
	char why[80];
	cleanup_close int fd = -1;

	snprintf(why, sizeof(why), "damaged at byte %zu, after record %" PRIu64,
		 v->at, l->info.seq);
	set_aside(l, name, why);
	fd = openat(l->dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC,
		    0600);
	if (fd < 0)
		return -errno;
	for (size_t at = 0; at < v->at;) {
		ssize_t n = write(fd, v->p + at, v->at - at);

		if (n < 0)
			return -errno;
		at += (size_t)n;
	}
	return fdatasync(fd) ? -errno : 0;
}

static int segment_cut(struct ckpt_log *l, const struct ckpt_view *v,
		       const char *name)
{
	cleanup_close int fd = openat(l->dirfd, name, O_WRONLY | O_CLOEXEC);

	log_warn("ckpt: %s/%s: the last record was torn by a crash: cut off "
		 "after record %" PRIu64,
		 l->dir, name, l->info.seq);
	if (fd < 0 || ftruncate(fd, (off_t)v->at))
		return -errno;
	return 0;
}

static int segment_read(struct ckpt_log *l, uint64_t base)
{
	struct ckpt_view v = {0};
	char name[NAME_BYTES];
	const char *misfit;
	int err;

	ckpt_segment_name(name, base);
	err = ckpt_view_open(&v, l->dirfd, name, CKPT_FILE_LOG);
	if (err == -EBADMSG) {
		set_aside(l, name, "it has no valid head");
		return 0;
	}
	if (err)
		return err;
	misfit = segment_fits(l, &v);
	if (misfit) {
		set_aside(l, name, misfit);
		ckpt_view_close(&v);
		return 0;
	}
	l->info.tree = v.head.tree;
	switch (segment_records(l, &v)) {
	case CKPT_NEXT_DAMAGE:
		err = segment_salvage(l, &v, name);
		break;
	case CKPT_NEXT_TORN:
		err = segment_cut(l, &v, name);
		break;
	default:
		break;
	}
	l->info.log_bytes += v.at;
	if (base == UINT64_MAX)
		l->base = v.head.base;
	ckpt_view_close(&v);
	return err;
}

/* A whole snapshot of the store stands in for it now. */
static void bad_replaced(struct ckpt_log *l, const char *name)
{
	char old[NAME_MAX + 1];

	snprintf(old, sizeof(old), "%s", name);
	memcpy(strstr(old, ".bad-"), ".old-", 5);
	renameat(l->dirfd, name, l->dirfd, old);
}

/* What was set aside stays a reason to refuse until it is mended or removed:
 * going on without it loses what it held. */
void ckpt_log_bad_find(struct ckpt_log *l, bool drop)
{
	DIR *d = opendir(l->dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (!is_bad(e->d_name))
			continue;
		l->info.damaged = true;
		if (drop)
			bad_replaced(l, e->d_name);
	}
	if (d)
		closedir(d);
}

static int segments_read(struct ckpt_log *l)
{
	struct ckpt_segments s;
	int err = ckpt_segments_find(&s, l->dir);

	for (size_t i = 0; i < s.n && !err; i++)
		err = segment_read(l, s.base[i]);
	ckpt_segments_fini(&s);
	return err;
}

/* --- writing ----------------------------------------------------------- */

static int dir_sync(const struct ckpt_log *l)
{
	return fsync(l->dirfd) ? -errno : 0;
}

/* A new, empty ckpt.log in the place of what has that name. */
int ckpt_log_file_start(struct ckpt_log *l, uint64_t base)
{
	const char *tmp = LOG_NAME "-new";
	int err, fd;

	fd = openat(l->dirfd, tmp,
		    O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	err = ckpt_file_write_head(fd, CKPT_FILE_LOG, l->info.tree, base);
	if (!err && fdatasync(fd))
		err = -errno;
	if (!err && renameat(l->dirfd, tmp, l->dirfd, LOG_NAME))
		err = -errno;
	if (!err)
		err = dir_sync(l);
	if (err) {
		close(fd);
		return err;
	}
	if (l->fd >= 0)
		close(l->fd);
	l->fd = fd;
	l->base = base;
	return 0;
}

/* The log that ended before the snapshot did has nothing to add. */
static int file_reopen(struct ckpt_log *l)
{
	uint64_t last = l->info.seq;

	l->fd = openat(l->dirfd, LOG_NAME, O_RDWR | O_APPEND | O_CLOEXEC);
	if (l->fd < 0 && errno != ENOENT)
		return -errno;
	if (l->fd >= 0 && (last != l->info.snap_seq || l->base == last))
		return 0;
	return l->info.tree ? ckpt_log_file_start(l, last) : 0;
}

static int log_load(struct ckpt_log *l)
{
	int err = snap_read(l);

	if (!err)
		err = segments_read(l);
	if (!err)
		err = file_reopen(l);
	ckpt_log_bad_find(l, false);
	if (err)
		log_error("ckpt: cannot read the log in %s: %s", l->dir,
			  strerror(-err));
	return err;
}

int ckpt_log_open(struct ckpt_log **log, const char *dir)
{
	struct ckpt_log *l = calloc(1, sizeof(*l));
	int err = -ENOMEM;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	l->fd = l->old_fd = l->dirfd = -1;
	l->dir = strdup(dir);
	if (l->dir) {
		l->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		err = l->dirfd < 0 ? -errno : log_load(l);
	}
	if (err) {
		ckpt_log_close(l);
		return err;
	}
	*log = l;
	return 0;
}

void ckpt_log_close(struct ckpt_log *l)
{
	if (!l)
		return;
	if (l->fd >= 0)
		close(l->fd);
	if (l->old_fd >= 0)
		close(l->old_fd);
	if (l->dirfd >= 0)
		close(l->dirfd);
	pthread_mutex_destroy(&l->lock);
	free(l->dir);
	free(l);
}

void ckpt_log_info(struct ckpt_log *l, struct ckpt_log_info *info)
{
	scoped_lock(&l->lock);
	*info = l->info;
}

int ckpt_log_start(struct ckpt_log *l, uint64_t tree, uint64_t base)
{
	scoped_lock(&l->lock);
	l->info = (struct ckpt_log_info){.tree = tree, .seq = base};
	l->sealed = false;
	return ckpt_log_file_start(l, base);
}

void ckpt_log_keep_old(struct ckpt_log *l)
{
	static const char *const names[] = {SNAP_NAME, LOG_NAME};
	char old[NAME_BYTES];

	for (int i = 0; i < 2; i++) {
		snprintf(old, sizeof(old), "%s.old-%" PRId64, names[i],
			 (int64_t)time(NULL));
		if (!linkat(l->dirfd, names[i], l->dirfd, old, 0))
			log_warn("ckpt: %s/%s: kept as %s", l->dir, names[i],
				 old);
	}
}

static uint64_t sum_locked(struct ckpt_log *l, uint64_t seq)
{
	if (!seq || seq > l->info.seq || l->recent[seq % RECENT].seq != seq)
		return 0;
	return l->recent[seq % RECENT].sum;
}

uint64_t ckpt_log_sum(struct ckpt_log *l, uint64_t seq)
{
	scoped_lock(&l->lock);
	return sum_locked(l, seq);
}

static int append_again(struct ckpt_log *l, uint64_t seq, const void *payload,
			size_t n)
{
	uint64_t sum = sum_locked(l, seq);

	return sum && sum != ckpt_file_sum(seq, payload, n) ? -EEXIST : 0;
}

void ckpt_log_seal(struct ckpt_log *l)
{
	scoped_lock(&l->lock);
	l->sealed = true;
	l->epoch++;
}

void ckpt_log_unseal(struct ckpt_log *l)
{
	scoped_lock(&l->lock);
	l->sealed = false;
}

uint64_t ckpt_log_epoch(struct ckpt_log *l)
{
	scoped_lock(&l->lock);
	return l->epoch;
}

int ckpt_log_append(struct ckpt_log *l, uint64_t epoch, uint64_t seq,
		    const void *payload, size_t n)
{
	int err;

	scoped_lock(&l->lock);
	if (l->fd < 0)
		return -EBADF;
	if (l->sealed || epoch != l->epoch)
		return -ESTALE;
	if (seq <= l->info.seq)
		return append_again(l, seq, payload, n);
	if (seq != l->info.seq + 1)
		return -ESRCH;
	err = ckpt_file_write(l->fd, seq, payload, n);
	if (err) {
		log_error("ckpt: %s/%s: %s", l->dir, LOG_NAME, strerror(-err));
		return err;
	}
	l->info.seq = seq;
	l->info.log_bytes += CKPT_RECORD_HEAD_BYTES + n;
	recent_add(l, seq, ckpt_file_sum(seq, payload, n));
	return 0;
}

/* The descriptor may be replaced meanwhile: the duplicate is not. */
static int dup_of(struct ckpt_log *l, int which)
{
	int fd;

	scoped_lock(&l->lock);
	fd = which ? l->old_fd : l->fd;
	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int ckpt_log_fdatasync(struct ckpt_log *l)
{
	for (int which = 1; which >= 0; which--) {
		cleanup_close int fd = dup_of(l, which);

		if (fd >= 0 && fdatasync(fd)) {
			log_error("ckpt: %s/%s: fdatasync: %s", l->dir,
				  LOG_NAME, strerror(errno));
			return -EIO;
		}
	}
	return 0;
}

/* --- replay ------------------------------------------------------------ */

struct replay {
	struct ckpt_log *log;
	int (*fn)(void *arg, uint64_t seq, const void *payload, size_t n);
	void *arg;
	uint64_t seq; /* done up to here */
};

static int replay_view(struct replay *p, struct ckpt_view *v, bool snap)
{
	struct ckpt_record r;
	int err = 0;

	while (!err && ckpt_view_next(v, &r) == CKPT_NEXT_RECORD) {
		if (!snap && r.seq <= p->seq)
			continue;
		err = p->fn(p->arg, r.seq, r.payload, r.length);
		p->seq = r.seq;
	}
	return err;
}

static int replay_file(struct replay *p, const char *name,
		       enum ckpt_file_kind kind)
{
	struct ckpt_view v = {0};
	int err = ckpt_view_open(&v, p->log->dirfd, name, kind);

	if (!err)
		err = replay_view(p, &v, kind == CKPT_FILE_SNAP);
	ckpt_view_close(&v);
	return err == -ENOENT ? 0 : err;
}

int ckpt_log_replay(struct ckpt_log *l,
		    int (*fn)(void *arg, uint64_t seq, const void *payload,
			      size_t payload_bytes),
		    void *arg)
{
	struct replay p = {.log = l, .fn = fn, .arg = arg};
	struct ckpt_segments s;
	int err = ckpt_segments_find(&s, l->dir);

	if (!err)
		err = replay_file(&p, SNAP_NAME, CKPT_FILE_SNAP);
	for (size_t i = 0; i < s.n && !err; i++) {
		char name[NAME_BYTES];

		ckpt_segment_name(name, s.base[i]);
		err = replay_file(&p, name, CKPT_FILE_LOG);
	}
	ckpt_segments_fini(&s);
	return err;
}
