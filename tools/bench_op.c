// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/bench.h"

#define NAME_BYTES 32
#define SMALL_BYTES 64 /* of a file that is only looked for */

static const char *block_name(unsigned i, char *buf)
{
	snprintf(buf, NAME_BYTES, "b%02u", i);
	return buf;
}

static const char *small_name(unsigned i, char *buf)
{
	snprintf(buf, NAME_BYTES, "e%04u", i);
	return buf;
}

static const char *stored_name(unsigned thread, unsigned i, char *buf)
{
	snprintf(buf, NAME_BYTES, "w%u_%02u", thread, i);
	return buf;
}

static unsigned block_of(const struct bench_task *t, unsigned i)
{
	return (i + t->thread * t->set->n_blocks / 2) % t->set->n_blocks;
}

static int whole(ssize_t n, size_t want)
{
	if (n < 0)
		return -errno;
	return (size_t)n == want ? 0 : -EIO;
}

/* What an engine does to store a block. */
static int store(int dir, const char *name, const void *buf, size_t bytes)
{
	char temp[NAME_BYTES + 4];
	int fd, err;

	snprintf(temp, sizeof(temp), "%s.tmp", name);
	fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	err = whole(write(fd, buf, bytes), bytes);
	close(fd);
	if (!err && renameat(dir, temp, dir, name) < 0)
		err = -errno;
	if (err)
		unlinkat(dir, temp, 0);
	return err;
}

/* -- memcpy ------------------------------------------------------------- */

static int run_memcpy(struct bench_task *t, unsigned i)
{
	size_t bytes = t->set->bytes;

	memcpy(t->buf, t->source + block_of(t, i) * bytes, bytes);
	__asm__ volatile("" : : "r"(t->buf) : "memory");
	return 0;
}

/* -- open, read, close -------------------------------------------------- */

static int block_open(struct bench_task *t, unsigned i)
{
	char name[NAME_BYTES];
	int fd = openat(t->set->dir, block_name(block_of(t, i), name),
			O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int run_open_read_close(struct bench_task *t, unsigned i)
{
	int fd = block_open(t, i), err;

	if (fd < 0)
		return fd;
	err = whole(read(fd, t->buf, t->set->bytes), t->set->bytes);
	close(fd);
	return err;
}

/* -- pread on descriptors that stay open -------------------------------- */

static void end_kept_fd(struct bench_task *t)
{
	for (unsigned i = 0; i < t->set->n_blocks; i++)
		if (t->fds[i] >= 0)
			close(t->fds[i]);
}

static int begin_kept_fd(struct bench_task *t)
{
	int err = 0;

	for (unsigned i = 0; i < t->set->n_blocks; i++) {
		int fd = block_open(t, i);

		t->fds[block_of(t, i)] = fd;
		err = fd < 0 ? fd : err;
	}
	if (err)
		end_kept_fd(t);
	return err;
}

static int run_kept_fd(struct bench_task *t, unsigned i)
{
	size_t bytes = t->set->bytes;

	return whole(pread(t->fds[block_of(t, i)], t->buf, bytes, 0), bytes);
}

/* -- open, map, copy out, unmap, close ---------------------------------- */

static int run_mmap(struct bench_task *t, unsigned i)
{
	int fd = block_open(t, i), err = 0;
	void *p;

	if (fd < 0)
		return fd;
	p = mmap(NULL, t->set->bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		err = -errno;
	} else {
		memcpy(t->buf, p, t->set->bytes);
		munmap(p, t->set->bytes);
	}
	close(fd);
	return err;
}

/* -- create, write, close, rename --------------------------------------- */

static int run_store(struct bench_task *t, unsigned i)
{
	char name[NAME_BYTES];

	stored_name(t->thread, i % t->set->n_blocks, name);
	return store(t->set->dir, name, t->buf, t->set->bytes);
}

/* The oldest goes: its name is the next operation's. */
static void after_store(struct bench_task *t, unsigned i)
{
	char name[NAME_BYTES];

	stored_name(t->thread, (i + 1) % t->set->n_blocks, name);
	unlinkat(t->set->dir, name, 0);
}

/* -- a thousand names --------------------------------------------------- */

static int run_exists(struct bench_task *t, unsigned i)
{
	char name[NAME_BYTES] = "e0000";
	struct stat st;

	(void)i;
	for (unsigned k = 0; k < BENCH_NAMES; k++) {
		name[4] = (char)('0' + k % 10);
		name[3] = (char)('0' + k / 10 % 10);
		name[2] = (char)('0' + k / 100);
		if (fstatat(t->set->dir, name, &st, 0) < 0)
			return -errno;
	}
	return 0;
}

/* -- the table ---------------------------------------------------------- */

const struct bench_op bench_ops[] = {
	{.name = "memcpy", .no_place = true, .run = run_memcpy},
	{.name = "open_read_close", .run = run_open_read_close},
	{.name = "kept_fd",
	 .begin = begin_kept_fd,
	 .run = run_kept_fd,
	 .end = end_kept_fd},
	{.name = "mmap", .run = run_mmap},
	{.name = "create_write_close_rename",
	 .run = run_store,
	 .after = after_store},
	{.name = "exists_1000", .names = true, .run = run_exists},
	{}};

/* -- the files ---------------------------------------------------------- */

int bench_set_make(const struct bench_set *s, const void *buf)
{
	unsigned n = s->bytes ? s->n_blocks : BENCH_NAMES;
	char name[NAME_BYTES];
	int err = 0;

	for (unsigned i = 0; i < n && !err; i++) {
		if (s->bytes)
			err = store(s->dir, block_name(i, name), buf, s->bytes);
		else
			err = store(s->dir, small_name(i, name), buf,
				    SMALL_BYTES);
	}
	return err;
}

static void remove_each(const struct bench_set *s, unsigned n,
			const char *(*namer)(unsigned i, char *buf))
{
	char name[NAME_BYTES + 4];

	for (unsigned i = 0; i < n; i++) {
		unlinkat(s->dir, namer(i, name), 0);
		strcat(name, ".tmp");
		unlinkat(s->dir, name, 0);
	}
}

void bench_set_remove(const struct bench_set *s, unsigned n_threads)
{
	char name[NAME_BYTES];

	remove_each(s, BENCH_BLOCKS_MAX, block_name);
	if (!s->bytes)
		remove_each(s, BENCH_NAMES, small_name);
	for (unsigned t = 0; t < n_threads; t++)
		for (unsigned i = 0; i < BENCH_BLOCKS_MAX; i++)
			unlinkat(s->dir, stored_name(t, i, name), 0);
}
