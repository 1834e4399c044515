// SPDX-License-Identifier: MIT
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"

/*
 * Backing files: STATE/ckpt/XX/INO, XX the low byte of the inode's number in
 * hexadecimal. Mode 0600; 0 says that the bytes are known to be damaged, 0700
 * that shards are missing (the map beside it says which): both outlive the
 * daemon.
 */

#define PATH_BYTES 24
#define SCANNED                                                 \
	".scanned" /* its mtime: when the mount began that last \
		      finished a scan */

static void path_of(uint64_t ino, char path[PATH_BYTES])
{
	snprintf(path, PATH_BYTES, "%02x/%" PRIx64, (unsigned)(ino & 0xff),
		 ino);
}

static int make_dirs(int store)
{
	char name[4];

	for (unsigned i = 0; i < 256; i++) {
		snprintf(name, sizeof(name), "%02x", i);
		if (mkdirat(store, name, 0700) && errno != EEXIST)
			return -errno;
	}
	return 0;
}

/* Since Linux 6.13 most filesystems give a change after a stat a stamp of its
 * own, however soon it comes. */
static bool has_fine_stamps(int store)
{
	cleanup_close int fd = openat(
		store, ".stamps", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat now, last = {0};
	int n_equal = 0;

	for (int i = 0; i < 16 && fd >= 0; i++) {
		if (pwrite(fd, "", 1, 0) != 1 || fstat(fd, &now))
			return false;
		n_equal += clock_from_timespec(now.st_ctim) ==
			   clock_from_timespec(last.st_ctim);
		last = now;
	}
	unlinkat(store, ".stamps", 0);
	return fd >= 0 && !n_equal;
}

int cstore_open(struct ckpt *ckpt)
{
	char path[PATH_MAX];
	int err;

	snprintf(path, sizeof(path), "%s/ckpt", ckpt->fs->config.state_dir);
	if (mkdir(path, 0700) && errno != EEXIST) {
		err = -errno;
	} else {
		ckpt->store = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		err = ckpt->store < 0 ? -errno : make_dirs(ckpt->store);
	}
	if (err)
		log_error("ckpt: %s: %s", path, strerror(-err));
	else
		ckpt->fine_stamps = has_fine_stamps(ckpt->store);
	return err;
}

int cstore_fd(struct ckpt *ckpt, uint64_t ino, int oflags)
{
	char path[PATH_BYTES];
	int fd;

	path_of(ino, path);
	fd = openat(ckpt->store, path,
		    oflags | O_CLOEXEC | O_NOFOLLOW | O_LARGEFILE, 0600);
	return fd < 0 ? -errno : fd;
}

int cstore_stat(struct ckpt *ckpt, uint64_t ino, struct stat *st)
{
	char path[PATH_BYTES];

	path_of(ino, path);
	return fstatat(ckpt->store, path, st, AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

int cstore_create(struct ckpt *ckpt, const struct ckpt_attr *a, struct stat *st)
{
	cleanup_close int fd =
		cstore_fd(ckpt, a->ino, O_WRONLY | O_CREAT | O_EXCL);
	struct timespec times[2] = {clock_timespec(a->atime_ns),
				    clock_timespec(a->mtime_ns)};

	if (fd == -EEXIST)
		return cstore_stat(ckpt, a->ino, st);
	if (fd < 0) {
		log_error("ckpt: inode %" PRIu64 ": cannot make its file: %s",
			  a->ino, strerror(-fd));
		return fd;
	}
	if (futimens(fd, times) || fstat(fd, st))
		return -errno;
	return 0;
}

int cstore_utimens(struct ckpt *ckpt, uint64_t ino, const struct timespec t[2])
{
	char path[PATH_BYTES];

	path_of(ino, path);
	return utimensat(ckpt->store, path, t, AT_SYMLINK_NOFOLLOW) ? -errno
								    : 0;
}

int cstore_remove(struct ckpt *ckpt, uint64_t ino)
{
	char path[PATH_BYTES];

	path_of(ino, path);
	if (unlinkat(ckpt->store, path, 0))
		return -errno;
	if (cfetch_on(ckpt))
		cfetch_remove(ckpt, ino);
	return 0;
}

void cstore_set_damaged(struct ckpt *ckpt, uint64_t ino, bool damaged)
{
	char path[PATH_BYTES];

	path_of(ino, path);
	if (fchmodat(ckpt->store, path, damaged ? 0 : 0600, 0))
		log_error("ckpt: inode %" PRIu64 ": cannot mark as %s: %s", ino,
			  damaged ? "damaged" : "sound", strerror(errno));
}

bool cstore_damaged(const struct stat *st)
{
	return (st->st_mode & 0777) == 0;
}

bool cstore_partial(const struct stat *st)
{
	return (st->st_mode & 0777) == CSTORE_PARTIAL;
}

/* A name that path_of would give, or 0. */
static uint64_t ino_of(const char *dir, const char *name)
{
	char path[PATH_BYTES];
	char *end;
	uint64_t ino = strtoull(name, &end, 16);

	path_of(ino, path);
	return *end == 0 && !strncmp(path, dir, 2) && !strcmp(path + 3, name)
		       ? ino
		       : 0;
}

static int each_in(struct ckpt *ckpt, const char *dir,
		   void (*fn)(void *arg, uint64_t ino, const struct stat *st),
		   void *arg)
{
	int fd = openat(ckpt->store, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct stat st;

	if (!d) {
		int err = -errno;

		if (fd >= 0)
			close(fd);
		return err;
	}
	while (!atomic_load(&ckpt->stopping) && (e = readdir(d))) {
		uint64_t ino = ino_of(dir, e->d_name);

		if (ino && !fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW))
			fn(arg, ino, &st);
	}
	closedir(d);
	return 0;
}

int cstore_each(struct ckpt *ckpt,
		void (*fn)(void *arg, uint64_t ino, const struct stat *st),
		void *arg)
{
	char dir[4];
	int err = 0;

	for (unsigned i = 0; i < 256 && !err; i++) {
		snprintf(dir, sizeof(dir), "%02x", i);
		err = each_in(ckpt, dir, fn, arg);
	}
	return err;
}

/*
 * The scan after a start, in the background. Two things may lie here that
 * Redis does not know of: files whose inode was removed by a daemon that was
 * killed before it removed the file; and what was written to a file whose
 * writer never came to close it.
 */
#define ORPHANS_MAX 16 /* believed of an empty tree */

struct scan {
	struct ckpt *ckpt;
	uint64_t *inos; /* of all records, sorted */
	size_t n, max;
	int64_t since_ns; /* files untouched since then are as published */
	unsigned long n_orphans, n_published;
	bool failed;
};

static void collect(void *arg, uint64_t ino)
{
	struct scan *s = arg;

	if (s->n == s->max) {
		size_t max = s->max ? s->max * 2 : 4096;
		uint64_t *inos = realloc(s->inos, max * sizeof(*inos));

		if (!inos) {
			s->failed = true;
			return;
		}
		s->inos = inos;
		s->max = max;
	}
	s->inos[s->n++] = ino;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* A file made after the list was taken is no orphan: ask once more. */
static void check_orphan(struct scan *s, uint64_t ino)
{
	struct ckpt_gone gone = {.ino = ino, .mode = S_IFREG, .freed = true};
	struct ckpt_attr a;
	int err = ckpt_getattr(s->ckpt->fs->meta, 0, ino, &a);

	if (err == -ESTALE || err == -ENOENT) {
		ckeep_gone(s->ckpt, &gone, false);
		s->n_orphans++;
	} else if (err) {
		s->failed = true;
	}
}

static bool differs(struct ckpt *ckpt, const struct ckpt_attr *a,
		    const struct stat *st)
{
	if (cfetch_on(ckpt))
		return S_ISREG(a->mode) && cfetch_unpublished(ckpt, a, st);
	return S_ISREG(a->mode) &&
	       ((uint64_t)st->st_size != a->size_bytes ||
		clock_from_timespec(st->st_mtim) != a->mtime_ns);
}

static int publish_if_behind(struct scan *s, struct ckpt_data *d)
{
	struct ckpt *ckpt = s->ckpt;
	uint64_t changes = cseen_begin(ckpt);
	bool writers;
	struct ckpt_attr a;
	struct stat st;
	int err = ckpt_getattr(ckpt->fs->meta, 0, d->ino, &a);

	if (err)
		return err == -ESTALE ? 0 : err;
	cseen_note(ckpt, d->inode, &a, changes);
	pthread_mutex_lock(&ckpt->lock);
	writers = d->n_writers;
	pthread_mutex_unlock(&ckpt->lock);
	if (writers || cstore_stat(ckpt, d->ino, &st))
		return 0;
	if (!differs(ckpt, &a, &st)) {
		if (cfetch_on(ckpt))
			cfetch_adopt(ckpt, &a, &st);
		return 0;
	}
	err = cdata_publish(d, 0, true);
	if (!err)
		s->n_published++;
	return err;
}

static void check_published(struct scan *s, uint64_t ino)
{
	struct ckpt_inode *inode;
	struct ckpt_data *d;
	struct ckpt_attr a;
	int err = ckpt_getattr(s->ckpt->fs->meta, 0, ino, &a);

	if (err || !S_ISREG(a.mode)) {
		s->failed |= err && err != -ESTALE;
		return;
	}
	inode = cinode_get(s->ckpt, &a, 1);
	d = inode ? cdata_get(s->ckpt, inode) : NULL;
	if (!d || cdata_lock(d, INT64_MAX)) {
		s->failed = true;
	} else {
		if (publish_if_behind(s, d))
			s->failed = true;
		cdata_unlock(d);
	}
	if (d) {
		pthread_mutex_lock(&s->ckpt->lock);
		ckeep_settle(d, CKPT_NEED_SUM | CKPT_NEED_LOOK);
		pthread_mutex_unlock(&s->ckpt->lock);
		cdata_put(d);
	}
	if (inode)
		cinode_forget(s->ckpt->fs, &inode->head, 1);
}

static void check_file(void *arg, uint64_t ino, const struct stat *st)
{
	struct scan *s = arg;

	if (s->failed)
		return;
	if (!bsearch(&ino, s->inos, s->n, sizeof(ino), by_value))
		check_orphan(s, ino);
	else if (clock_from_timespec(st->st_ctim) >= s->since_ns &&
		 clock_from_timespec(st->st_ctim) < s->ckpt->started_ns)
		check_published(s, ino);
}

static int64_t last_scan_ns(struct ckpt *ckpt)
{
	struct stat st;

	return fstatat(ckpt->store, SCANNED, &st, 0)
		       ? 0
		       : clock_from_timespec(st.st_mtim);
}

static void note_scan(struct ckpt *ckpt)
{
	struct timespec t[2] = {clock_timespec(ckpt->started_ns),
				clock_timespec(ckpt->started_ns)};
	cleanup_close int fd = openat(ckpt->store, SCANNED,
				      O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0 || futimens(fd, t))
		log_warn("ckpt: %s: %s", SCANNED, strerror(errno));
}

static void count_file(void *arg, uint64_t ino, const struct stat *st)
{
	(void)ino;
	(void)st;
	++*(unsigned long *)arg;
}

/* A tree of the root alone beside many files looks like a wrong Redis. */
static bool is_plausible(struct scan *s)
{
	unsigned long n_files = 0;

	if (s->n > 1 || cstore_each(s->ckpt, count_file, &n_files) ||
	    n_files <= ORPHANS_MAX)
		return true;
	log_warn("ckpt: the tree is empty but %lu data files lie in the state "
		 "directory: they are left alone",
		 n_files);
	return false;
}

void cstore_scan(struct ckpt *ckpt)
{
	struct scan s = {.ckpt = ckpt, .since_ns = last_scan_ns(ckpt)};
	int err = ckpt_each_ino(ckpt->fs->meta, collect, &s);

	if (!err && !s.failed && is_plausible(&s)) {
		qsort(s.inos, s.n, sizeof(*s.inos), by_value);
		err = cstore_each(ckpt, check_file, &s);
		if (!err && !s.failed && !atomic_load(&ckpt->stopping))
			note_scan(ckpt);
	}
	free(s.inos);
	if (s.n_orphans || s.n_published)
		log_info("ckpt: %lu orphaned files removed, %lu files "
			 "published that a killed daemon had not",
			 s.n_orphans, s.n_published);
}
