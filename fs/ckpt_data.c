// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"

/*
 * What is open. Writes go past the daemon, so whether there is anything to
 * publish is read off the backing file: its size and times against those it
 * had when the record last agreed with it (struct ckpt_mark).
 *
 *      open for writing ── claim ──▶ the record names this node as writer
 *      flush (close)    ── publish, and give up the claim if no other
 *                          writer has it open
 *      release          ── settle (ckpt_keep.c): publish what was written
 *                          through a duplicate or a mapping after the flush
 */

/* Where stamps are coarse: younger than this at the mark, a further write may
 * leave the same; two ticks of the coarsest clock (CONFIG_HZ=100). */
#define RACY_NS (20 * NS_PER_MS)

struct ckpt_data *cdata_make(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	struct ckpt_data *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->ckpt = ckpt;
	d->inode = inode;
	d->ino = inode->ino;
	d->fd = -1;
	d->path = -1;
	pthread_mutex_init(&d->binding, NULL);
	list_init(&d->retry);
	inode->data = d;
	return d;
}

struct ckpt_data *cdata_get(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	scoped_lock(&ckpt->lock);
	struct ckpt_data *d = inode->data;

	if (!d)
		d = cdata_make(ckpt, inode);
	if (d)
		d->refs++;
	return d;
}

void cdata_ref(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	d->refs++;
}

void cdata_put(struct ckpt_data *d)
{
	struct ckpt *ckpt = d->ckpt;
	struct ckpt_inode *inode = d->inode;
	scoped_lock(&ckpt->lock);

	if (--d->refs)
		return;
	inode->data = NULL;
	cfetch_free(d);
	pthread_mutex_destroy(&d->binding);
	free(d);
	cinode_drop(ckpt, inode);
}

void cdata_enter(struct ckpt_data *d, bool writer)
{
	scoped_lock(&d->ckpt->lock);

	d->n_open++;
	d->n_writers += writer;
}

static void set_mark(struct ckpt_data *d, const struct stat *st)
{
	int64_t ctime = clock_from_timespec(st->st_ctim);

	d->mark.valid = true;
	d->mark.file = st->st_ino;
	d->mark.racy =
		!d->ckpt->fine_stamps && clock_stamp_ns() - ctime < RACY_NS;
	d->mark.size = st->st_size;
	d->mark.mtime_ns = clock_from_timespec(st->st_mtim);
	d->mark.ctime_ns = ctime;
}

/* Was it written to since record and file agreed? A file that lost its name is
 * out of sight once it is closed; its ctime says nothing, that moved with the
 * name. Locked. */
static void note_written(struct ckpt_data *d)
{
	const struct ckpt_mark *m = &d->mark;
	struct stat st;
	int err = d->path < 0 ? cstore_stat(d->ckpt, d->ino, &st)
			      : fstat(d->path, &st);

	if (err || (ino_t)m->file != st.st_ino)
		return;
	d->written |= m->size != st.st_size ||
		      m->mtime_ns != clock_from_timespec(st.st_mtim);
	d->unseen |= !m->valid;
	set_mark(d, &st);
}

/* The last open is gone: take the binding out. Locked. */
static void unbind(struct ckpt_data *d, int *backing_id, int fds[2])
{
	if (d->inode->superseded)
		note_written(d);
	*backing_id = d->backing_id;
	fds[0] = d->fd;
	fds[1] = d->path;
	d->backing_id = 0;
	d->fd = -1;
	d->path = -1;
	d->bound = false;
}

void cdata_leave(struct ckpt_data *d, bool writer)
{
	struct ckpt *ckpt = d->ckpt;
	int backing_id = 0, fds[2] = {-1, -1};

	pthread_mutex_lock(&ckpt->lock);
	d->n_writers -= writer;
	if (writer && !d->n_writers && !d->inode->gone) {
		d->unpublished = true;
		ckeep_settle(d, CKPT_NEED_PUBLISH);
	}
	if (--d->n_open == 0) {
		unbind(d, &backing_id, fds);
		if (d->inode->gone)
			ckeep_settle(d, CKPT_NEED_REMOVE);
	}
	pthread_mutex_unlock(&ckpt->lock);
	if (backing_id && ckpt->fs->session)
		passthrough_unbind(ckpt->fs, backing_id);
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	cdata_put(d);
}

int cdata_lock(struct ckpt_data *d, int64_t deadline)
{
	struct ckpt *ckpt = d->ckpt;
	struct timespec t = clock_timespec(deadline);
	int err = 0;

	pthread_mutex_lock(&ckpt->lock);
	while (d->serial && !err)
		err = pthread_cond_timedwait(&ckpt->serial_free, &ckpt->lock,
					     &t);
	if (!d->serial) {
		d->serial = true;
		err = 0;
	}
	pthread_mutex_unlock(&ckpt->lock);
	if (!err)
		return 0;
	log_warn("ckpt: inode %" PRIu64 ": still being published at the "
		 "deadline",
		 d->ino);
	return -EIO;
}

void cdata_unlock(struct ckpt_data *d)
{
	struct ckpt *ckpt = d->ckpt;
	scoped_lock(&ckpt->lock);

	d->serial = false;
	pthread_cond_broadcast(&ckpt->serial_free);
}

/* Another node has published since: what is here is of the past. */
static bool is_past(struct ckpt_data *d, const struct ckpt_attr *a)
{
	scoped_lock(&d->ckpt->lock);

	if (!d->inode->superseded && a->version <= d->inode->version)
		return false;
	d->inode->superseded = true;
	return true;
}

int cdata_claim(struct ckpt_data *d, int64_t deadline)
{
	struct ckpt *ckpt = d->ckpt;
	uint64_t changes = cseen_begin(ckpt);
	struct ckpt_attr a;
	int err;

	if (d->claimed)
		return 0;
	err = ckpt_open_write(ckpt->fs->meta, deadline, d->ino, &a);
	if (err)
		return err;
	if (cfetch_on(ckpt) && is_past(d, &a)) {
		ckpt_publish(ckpt->fs->meta, deadline, d->ino, 0, &a, true, &a);
		return -ESTALE;
	}
	d->claimed = true;
	cseen_note(ckpt, d->inode, &a, changes);
	return 0;
}

void cdata_mark(struct ckpt_data *d, const struct stat *st)
{
	scoped_lock(&d->ckpt->lock);
	const struct ckpt_attr *a = &d->inode->attr;

	if (d->mark.valid)
		return;
	if ((uint64_t)st->st_size == a->size_bytes &&
	    clock_from_timespec(st->st_mtim) == a->mtime_ns)
		set_mark(d, st);
}

static bool stamps_differ(const struct ckpt_mark *m, const struct stat *st)
{
	return !m->valid || m->size != st->st_size ||
	       m->mtime_ns != clock_from_timespec(st->st_mtim) ||
	       m->ctime_ns != clock_from_timespec(st->st_ctim);
}

bool cdata_is_unchanged(struct ckpt_data *d)
{
	struct stat st;

	if (cstore_stat(d->ckpt, d->ino, &st))
		return false;
	scoped_lock(&d->ckpt->lock);

	return !stamps_differ(&d->mark, &st) && !d->mark.racy;
}

/* What to tell: false if there is nothing. */
static bool collect(struct ckpt_data *d, const struct stat *st, bool last,
		    struct ckpt_attr *set, unsigned *mask)
{
	scoped_lock(&d->ckpt->lock);
	int64_t ctime = clock_from_timespec(st->st_ctim);
	bool moved = stamps_differ(&d->mark, st);

	*mask = 0;
	if (d->inode->gone)
		return false;
	if (!moved && !d->mark.racy)
		return last && d->claimed;
	*set = d->inode->attr;
	*mask = CKPT_SET_SIZE | CKPT_SET_MTIME | CKPT_SET_ATIME |
		CKPT_SET_CTIME;
	set->size_bytes = (uint64_t)st->st_size;
	set->mtime_ns = clock_from_timespec(st->st_mtim);
	set->atime_ns = clock_from_timespec(st->st_atim);
	if (moved && ctime > set->ctime_ns)
		set->ctime_ns = ctime;
	return true;
}

static void published(struct ckpt_data *d, const struct stat *st,
		      const struct ckpt_attr *a)
{
	struct ckpt *ckpt = d->ckpt;
	scoped_lock(&ckpt->lock);

	ckpt->changes++;
	/* Not attr: a lookup may have brought this version before us. */
	if (a->version != d->inode->version)
		d->needs |= CKPT_NEED_SUM;
	d->inode->attr = *a;
	d->inode->version = a->version;
	d->inode->seen_ns = 0;
	set_mark(d, st);
	if (!d->n_writers)
		d->unpublished = false;
}

static uint64_t version_of(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->inode->version;
}

static int send(struct ckpt_data *d, int64_t deadline, bool last,
		const struct stat *st, unsigned mask,
		const struct ckpt_attr *set)
{
	struct ckpt *ckpt = d->ckpt;
	uint64_t version = version_of(d);
	struct ckpt_attr a;
	int err = fault_hit("ckpt.publish") ? -EIO : cdata_claim(d, deadline);

	if (!err && mask && cfetch_on(ckpt))
		err = cfetch_publishing(d, version + 1, st);
	if (!err)
		err = ckpt_publish(ckpt->fs->meta, deadline, d->ino, mask, set,
				   last, &a);
	if (err) {
		atomic_fetch_add(&ckpt->fs->counters.ckpt_failed, 1);
		return err;
	}
	if (last)
		d->claimed = false;
	atomic_fetch_add(&ckpt->fs->counters.ckpt_published, 1);
	if (mask && cfetch_on(ckpt) && a.version != version + 1)
		cfetch_publishing(d, a.version, st);
	published(d, st, &a);
	return 0;
}

/* Written through a mapping, or a descriptor that a child of the writer had
 * closed, after another node took the file over. Who still has it open is
 * told by close(). */
static bool give_up_past(struct ckpt_data *d, int *err)
{
	scoped_lock(&d->ckpt->lock);

	if (!d->inode->superseded)
		return false;
	note_written(d);
	if (d->written || d->unseen)
		log_warn("ckpt: inode %" PRIu64 ": another node published a "
			 "newer version: what was %s is dropped",
			 d->ino,
			 d->written ? "written here since"
				    : "stored to its mapping, if anything,");
	d->unpublished = d->written = d->unseen = false;
	*err = d->n_writers ? -ESTALE : 0;
	return true;
}

void cdata_unpublished(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	d->unpublished = true;
}

int cdata_publish(struct ckpt_data *d, int64_t deadline, bool last)
{
	struct ckpt *ckpt = d->ckpt;
	struct ckpt_attr set = {0};
	struct stat st;
	unsigned mask;
	int err;

	if (give_up_past(d, &err))
		return err;
	err = cstore_stat(ckpt, d->ino, &st);
	if (err) {
		log_error("ckpt: inode %" PRIu64 ": its file: %s", d->ino,
			  strerror(-err));
		return -EIO;
	}
	if (collect(d, &st, last, &set, &mask)) {
		err = send(d, deadline, last, &st, mask, &set);
		if (err == -ESTALE)
			give_up_past(d, &err);
		return err;
	}
	pthread_mutex_lock(&ckpt->lock);
	if (!d->n_writers)
		d->unpublished = false;
	pthread_mutex_unlock(&ckpt->lock);
	return 0;
}

/* Passthrough where the kernel takes the file, else through this daemon. */
static int bind_file(struct ckpt_data *d, int *backing_id, int *fd)
{
	struct ckpt *ckpt = d->ckpt;

	if (ckpt->fs->passthrough && cfetch_is_whole(d)) {
		cleanup_close int path = cstore_fd(ckpt, d->ino, O_PATH);

		*backing_id =
			path < 0 ? path : passthrough_bind(ckpt->fs, path);
		if (*backing_id > 0)
			return 0;
	}
	*backing_id = 0;
	*fd = cstore_fd(ckpt, d->ino, O_RDWR);
	return *fd < 0 ? *fd : 0;
}

static int bind_once(struct ckpt_data *d)
{
	scoped_lock(&d->binding);
	int backing_id = 0, fd = -1, path = -1;
	bool bound, superseded;
	int err;

	pthread_mutex_lock(&d->ckpt->lock);
	bound = d->bound;
	pthread_mutex_unlock(&d->ckpt->lock);
	if (bound)
		return 0;
	if (cfetch_on(d->ckpt))
		path = cstore_fd(d->ckpt, d->ino, O_PATH);
	err = bind_file(d, &backing_id, &fd);
	if (err) {
		log_error("ckpt: inode %" PRIu64 ": cannot open its file: %s",
			  d->ino, strerror(-err));
		return err;
	}
	pthread_mutex_lock(&d->ckpt->lock);
	superseded = d->inode->superseded;
	d->backing_id = backing_id;
	d->fd = fd;
	d->path = path;
	d->bound = true;
	pthread_mutex_unlock(&d->ckpt->lock);
	/* Its name may have been another version's: cdata_leave unbinds. */
	return superseded ? -ESTALE : 0;
}

int cdata_open(struct ckpt_data *d, int oflags)
{
	char name[40];
	bool superseded;
	int path, fd;

	pthread_mutex_lock(&d->ckpt->lock);
	superseded = d->inode->superseded;
	path = d->path;
	pthread_mutex_unlock(&d->ckpt->lock);
	if (!superseded)
		return cstore_fd(d->ckpt, d->ino, oflags);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", path);
	fd = path < 0 ? -1 : open(name, oflags | O_CLOEXEC);
	return fd < 0 ? -ESTALE : fd;
}

int cdata_fd(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->fd;
}

int cdata_bind(struct ckpt_data *d, struct fuse_file_info *fi)
{
	struct ckpt_handle *h = malloc(sizeof(*h));
	int err = h ? bind_once(d) : -ENOMEM;

	if (err) {
		free(h);
		return err;
	}
	h->data = d;
	h->writer = (fi->flags & O_ACCMODE) != O_RDONLY;
	h->reader = (fi->flags & O_ACCMODE) != O_WRONLY;
	if (d->backing_id > 0) {
		fi->backing_id = d->backing_id;
	} else {
		fi->direct_io = 1;
		fi->parallel_direct_writes = 1;
	}
	fi->noflush = !h->writer;
	fi->fh = (uint64_t)(uintptr_t)h;
	return 0;
}
