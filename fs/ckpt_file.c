// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/ckpt_fetch.h"

static uint64_t ino_of(const struct call *c)
{
	return cinode_of(c->inode)->ino;
}

int cfile_backing(struct ckpt_data *d, bool repair, struct stat *st)
{
	struct ckpt *ckpt = d->ckpt;
	struct ckpt_attr a = cinode_attr(ckpt, d->inode);
	int err;

	if (cfetch_on(ckpt))
		return cfetch_backing(d, repair, st);
	err = cstore_stat(ckpt, a.ino, st);
	if (err == -ENOENT && a.size_bytes == 0)
		return cstore_create(ckpt, &a, st);
	if (err) {
		log_error("ckpt: inode %" PRIu64 ": its file: %s", a.ino,
			  strerror(-err));
		return -EIO;
	}
	if (cstore_damaged(st) && !repair) {
		atomic_fetch_add(&ckpt->fs->counters.damaged, 1);
		log_error("ckpt: inode %" PRIu64 ": known to be damaged",
			  a.ino);
		return -EIO;
	}
	if (cstore_damaged(st))
		cstore_set_damaged(ckpt, a.ino, false);
	return 0;
}

static unsigned n_writers(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->n_writers;
}

static int truncate_open(struct ckpt_data *d)
{
	cleanup_close int fd = cstore_fd(d->ckpt, d->ino, O_WRONLY);

	if (fd < 0)
		return fd;
	return ftruncate(fd, 0) ? -errno : 0;
}

/* Open for writing, or with O_TRUNC, which O_RDONLY allows too. */
static int open_changing(struct call *c, struct ckpt_data *d)
{
	bool trunc = c->fi.flags & O_TRUNC;
	bool writer = (c->fi.flags & O_ACCMODE) != O_RDONLY;
	struct stat st;
	int err = cdata_claim(d, c->deadline);

	if (!err)
		err = cfile_backing(d, trunc, &st);
	if (!err && !cfetch_is_whole(d))
		err = -ESTALE; /* a version that came between */
	if (err)
		return err;
	cdata_mark(d, &st);
	if (trunc && c->fi.kill_suidgid)
		err = cattr_kill_suidgid(d->ckpt, c->deadline, d->inode);
	if (!err && trunc)
		err = truncate_open(d);
	if (!err && !writer) {
		cdata_unpublished(d);
		err = cdata_publish(d, c->deadline, n_writers(d) == 0);
	}
	return err;
}

static bool is_gone(struct ckpt_data *d)
{
	scoped_lock(&d->ckpt->lock);

	return d->inode->gone && !d->inode->kept;
}

static bool is_changing(const struct call *c)
{
	return (c->fi.flags & O_ACCMODE) != O_RDONLY || c->fi.flags & O_TRUNC;
}

static int open_data(struct call *c, struct ckpt_data *d)
{
	struct stat st;
	int err;

	if (is_gone(d))
		return -ESTALE;
	if (!is_changing(c)) {
		err = cfile_backing(d, false, &st);
	} else {
		err = cdata_lock(d, c->deadline);
		if (!err) {
			err = open_changing(c, d);
			cdata_unlock(d);
		}
	}
	return err ? err : cdata_bind(d, &c->fi);
}

/* Counts the open first: an unlink meanwhile keeps the record. */
static int open_inode(struct call *c, struct ckpt_inode *inode)
{
	bool writer = (c->fi.flags & O_ACCMODE) != O_RDONLY;
	struct ckpt_data *d = cdata_get(c->fs->ckpt, inode);
	int err;

	if (!d)
		return -ENOMEM;
	cdata_enter(d, writer);
	err = open_data(c, d);
	if (err)
		cdata_leave(d, writer);
	return err;
}

static void open_now(struct call *c)
{
	int err;

	if (!(c->fi.flags & O_TRUNC) &&
	    !cfetch_ready(c, is_changing(c), open_now))
		return;
	err = open_inode(c, cinode_of(c->inode));
	if (err) {
		ckpt_finish(c, err);
		return;
	}
	hist_add(&c->fs->counters.ckpt_call, clock_now_ns() - c->start_ns);
	call_reply_open(c, &c->fi);
}

/* The lookup before an open for reading has just asked Redis. */
void ckpt_do_open(struct call *c)
{
	if (is_changing(c) || cfetch_on(c->fs->ckpt))
		call_defer(c, open_now);
	else
		open_now(c);
}

static int create_record(struct call *c, struct ckpt_attr *a)
{
	int64_t now = clock_stamp_ns();
	struct ckpt_attr set = {
		.mode = S_IFREG | (c->mode & 07777),
		.uid = c->uid,
		.gid = c->gid,
		.atime_ns = now,
		.mtime_ns = now,
		.ctime_ns = now,
	};
	int err;

	err = ckpt_create(c->fs->meta, c->deadline, ino_of(c), c->name, &set,
			  NULL, a);
	if (err)
		cseen_changed(c->fs->ckpt, cinode_of(c->inode));
	else
		cseen_entered(c->fs->ckpt, cinode_of(c->inode), now, 0);
	/* Made by another node meanwhile: the kernel looks again, and checks
	 * the permissions of what is there. */
	if (err == -EEXIST && !(c->fi.flags & O_EXCL))
		err = -ESTALE;
	return err;
}

void ckpt_do_create(struct call *c)
{
	struct ckpt *ckpt = c->fs->ckpt;
	struct ckpt_inode *inode = NULL;
	struct fuse_entry_param e;
	struct ckpt_attr a;
	int err = create_record(c, &a);

	if (!err) {
		inode = cinode_get(ckpt, &a, 1);
		err = inode ? 0 : -ENOMEM;
	}
	if (!err) {
		c->fi.flags &= ~O_TRUNC;
		err = open_inode(c, inode);
		if (err)
			cinode_forget(c->fs, &inode->head, 1);
	}
	if (err) {
		ckpt_finish(c, err);
		return;
	}
	a = cinode_attr(ckpt, inode);
	cinode_entry(ckpt, inode, &a, &e);
	hist_add(&c->fs->counters.ckpt_call, clock_now_ns() - c->start_ns);
	call_reply_create(c, &e, &c->fi);
}

void ckpt_do_read(struct call *c)
{
	struct ckpt_data *d = cdata_of(c);
	cleanup_free char *buf = malloc(c->size ? c->size : 1);
	int fd = cdata_fd(d);
	size_t done = 0;
	ssize_t got = 0;

	if (!buf) {
		call_reply_err(c, ENOMEM);
		return;
	}
	if (!cfetch_has(d, (uint64_t)c->off, (uint64_t)c->off + c->size)) {
		cfetch_then(c, d, (uint64_t)c->off, (uint64_t)c->off + c->size,
			    ckpt_do_read);
		return;
	}
	while (done < c->size) {
		got = pread(fd, buf + done, c->size - done,
			    c->off + (off_t)done);
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	if (got < 0 && !done) {
		call_reply_err(c, errno);
		return;
	}
	atomic_fetch_add(&c->fs->counters.bytes_read, done);
	call_reply_buf(c, buf, done);
}

static void write_now(struct call *c)
{
	struct ckpt_data *d = cdata_of(c);
	const char *from = c->value;
	int fd = cdata_fd(d);
	size_t done = 0;
	ssize_t put = 0;

	while (done < c->size) {
		put = pwrite(fd, from + done, c->size - done,
			     c->off + (off_t)done);
		if (put <= 0)
			break;
		done += (size_t)put;
	}
	if (put < 0 && !done) {
		call_reply_err(c, errno);
		return;
	}
	atomic_fetch_add(&c->fs->counters.bytes_written, done);
	call_reply_written(c, done);
}

static void kill_and_write(struct call *c)
{
	int err = cattr_kill_suidgid(c->fs->ckpt, c->deadline,
				     cinode_of(c->inode));

	if (err)
		call_reply_err(c, err);
	else
		write_now(c);
}

void ckpt_do_write(struct call *c)
{
	struct ckpt_attr a;

	if (c->fi.kill_suidgid) {
		a = cinode_attr(c->fs->ckpt, cinode_of(c->inode));
		if (a.mode & (S_ISUID | S_ISGID)) {
			call_defer(c, kill_and_write);
			return;
		}
	}
	write_now(c);
}

static int publish(struct call *c, struct ckpt_data *d, bool last)
{
	int err = cdata_lock(d, c->deadline);

	if (err)
		return err;
	err = cdata_publish(d, c->deadline, last && n_writers(d) == 1);
	cdata_unlock(d);
	return err;
}

/* close(2): what was written is the file's next version when it returns. */
void ckpt_do_flush(struct call *c)
{
	struct ckpt_data *d = cdata_of(c);
	int err = 0;

	if (cdata_writes(c)) {
		err = publish(c, d, true);
		if (!err)
			err = ckpt_replicated(c->fs->meta, c->deadline);
	}
	clocks_flushed(c);
	ckpt_finish(c, err);
}

void ckpt_do_release(struct call *c)
{
	struct ckpt_handle *h = chandle_of(c);

	if (clocks_release(c))
		return;
	cdata_leave(h->data, h->writer);
	free(h);
	call_reply_err(c, 0);
}

static int sync_file(struct call *c)
{
	cleanup_close int fd = cdata_open(cdata_of(c), O_RDONLY);

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (c->flags ? fdatasync(fd) : fsync(fd))
		return -errno;
	return cdata_writes(c) ? publish(c, cdata_of(c), false) : 0;
}

/* fsync of a file, and of a directory, whose names are in the log alone. */
void ckpt_do_fsync(struct call *c)
{
	struct ckpt_attr a = cinode_attr(c->fs->ckpt, cinode_of(c->inode));
	int err = S_ISREG(a.mode) ? sync_file(c) : 0;

	if (!err)
		err = ckpt_log_sync(c->fs->meta);
	if (!err)
		err = ckpt_replicated(c->fs->meta, c->deadline);
	ckpt_finish(c, err);
}

void ckpt_do_fallocate(struct call *c)
{
	cleanup_close int fd = cstore_fd(c->fs->ckpt, ino_of(c), O_RDWR);
	int err = 0;

	if (fd < 0)
		err = fd;
	else if (fallocate(fd, (int)c->mode, c->off, c->length))
		err = -errno;
	ckpt_finish(c, err);
}

/* What is not here yet is no hole. */
static off_t seek(struct call *c, int fd)
{
	struct stat st;

	if (cfetch_is_whole(cdata_of(c)))
		return lseek(fd, c->off, (int)c->flags);
	if (fstat(fd, &st))
		return -1;
	if (c->off >= st.st_size) {
		errno = ENXIO;
		return -1;
	}
	return c->flags == SEEK_HOLE ? st.st_size : c->off;
}

void ckpt_do_lseek(struct call *c)
{
	cleanup_close int fd = cdata_open(cdata_of(c), O_RDONLY);
	off_t at = fd < 0 ? fd : seek(c, fd);

	if (at < 0)
		ckpt_finish(c, fd < 0 ? fd : errno);
	else
		call_reply_lseek(c, at);
}

void ckpt_do_statfs(struct call *c)
{
	struct statvfs st;

	if (fstatvfs(c->fs->ckpt->store, &st)) {
		call_reply_err(c, errno);
		return;
	}
	st.f_namemax = CKPT_NAME_MAX;
	call_reply_statfs(c, &st);
}
