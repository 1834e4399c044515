// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/bench_remote.h"

/*
 * A slice: store new blocks through A, wait until A has published them, read
 * each once through B, remove them. B reads them last to first: in the order in
 * which they were stored it would fetch ahead, and most reads would be of what
 * is there already. That is what a chain is for: more blocks, one reader, in
 * that order; chain_reversed is the same without anything fetched ahead.
 * get_registered takes as many.
 */
#define SLICE_BYTES (64ul << 20)
#define MANY_BYTES (256ul << 20)
#define MANY_BLOCKS 64
#define BLOCKS_MIN 8
#define BLOCKS_MAX 256
#define PUBLISHED_WITHIN_S 20

struct reader {
	const struct remote_ends *ends;
	size_t bytes;
	unsigned first, step,
		n_blocks; /* first, first + step, … from the end */
	unsigned serial;  /* of the slice */
	bool in_order;
	pthread_t thread;
	void *buf;
	struct samples samples;
	uint64_t read_bytes;
	unsigned missed;
	int err;
} __attribute__((aligned(64)));

void remote_block_name(unsigned serial, unsigned i,
		       char name[REMOTE_NAME_BYTES])
{
	snprintf(name, REMOTE_NAME_BYTES, "r%d-%u-%04u", (int)getpid(), serial,
		 i);
}

uint64_t remote_block_mark(unsigned serial, unsigned i)
{
	return (uint64_t)serial << 32 | (i + 1);
}

static unsigned blocks_of(const struct remote_case *k)
{
	bool many = strcmp(k->op, "mount_fetch") != 0;
	size_t n = (many ? MANY_BYTES : SLICE_BYTES) / k->bytes;

	if (many && n > MANY_BLOCKS)
		n = MANY_BLOCKS;
	return n < BLOCKS_MIN ? BLOCKS_MIN : n > BLOCKS_MAX ? BLOCKS_MAX : n;
}

/* -- A stores ----------------------------------------------------------- */

static int store(int dir, const char *name, const char *buf, size_t bytes)
{
	char temporary[REMOTE_NAME_BYTES + 8];
	size_t at = 0;
	ssize_t n = 0;
	int fd, err = 0;

	snprintf(temporary, sizeof(temporary), "%s.tmp", name);
	fd = openat(dir, temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC,
		    0644);
	if (fd < 0)
		return -errno;
	for (; at < bytes && (n = write(fd, buf + at, bytes - at)) > 0;
	     at += (size_t)n)
		;
	if (at < bytes)
		err = n < 0 ? -errno : -EIO;
	if (close(fd) && !err)
		err = -errno;
	if (!err && renameat(dir, temporary, dir, name))
		err = -errno;
	if (err)
		unlinkat(dir, temporary, 0);
	return err;
}

static bool is_published(int fd)
{
	char state[16];
	ssize_t n = fgetxattr(fd, "user.kvfs.state", state, sizeof(state));

	return n == 9 && !memcmp(state, "published", 9);
}

static int wait_published(int dir, const char *name)
{
	int64_t until = clock_now_ns() + PUBLISHED_WITHIN_S * NS_PER_S;
	struct timespec pause = clock_timespec(NS_PER_MS);
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC), err = 0;

	if (fd < 0)
		return -errno;
	while (!is_published(fd) && !err) {
		err = clock_now_ns() > until ? -ETIMEDOUT : 0;
		nanosleep(&pause, NULL);
	}
	close(fd);
	return err;
}

static int store_all(int dir, unsigned serial, unsigned n, char *buf,
		     size_t bytes)
{
	char name[REMOTE_NAME_BYTES];
	int err = 0;

	for (unsigned i = 0; i < n && !err; i++) {
		uint64_t mark = remote_block_mark(serial, i);

		memcpy(buf, &mark, sizeof(mark));
		remote_block_name(serial, i, name);
		err = store(dir, name, buf, bytes);
	}
	for (unsigned i = 0; i < n && !err; i++) {
		remote_block_name(serial, i, name);
		err = wait_published(dir, name);
	}
	return err;
}

static void remove_all(int dir, unsigned serial, unsigned n)
{
	char name[REMOTE_NAME_BYTES];

	for (unsigned i = 0; i < n; i++) {
		remote_block_name(serial, i, name);
		unlinkat(dir, name, 0);
	}
}

/* -- B reads ------------------------------------------------------------ */

static int read_block(const struct reader *r, const char *name)
{
	int fd = openat(r->ends->b.dir, name, O_RDONLY | O_CLOEXEC), err = 0;
	size_t at = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -errno;
	for (; at < r->bytes; at += (size_t)n) {
		n = read(fd, (char *)r->buf + at, r->bytes - at);
		if (n <= 0)
			break;
	}
	if (at < r->bytes)
		err = n < 0 ? -errno : -EIO;
	close(fd);
	return err;
}

static int read_timed(struct reader *r, unsigned i)
{
	int64_t start = clock_now_ns(), spent;
	uint64_t mark = remote_block_mark(r->serial, i);
	char name[REMOTE_NAME_BYTES];
	int err;

	remote_block_name(r->serial, i, name);
	err = read_block(r, name);
	spent = clock_now_ns() - start;
	if (err == -ENOENT) {
		/* Redis was late: what comes next need not be lost as well. */
		usleep(50000);
		r->missed++;
		return 0;
	}
	if (err)
		return err;
	samples_add(&r->samples, spent);
	r->read_bytes += r->bytes;
	return memcmp(r->buf, &mark, sizeof(mark)) ? -EBADMSG : 0;
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	for (unsigned i = r->first; i < r->n_blocks && !r->err; i += r->step)
		r->err = read_timed(r, r->in_order ? i : r->n_blocks - 1 - i);
	return NULL;
}

/* All readers, from the first's start to the last's end. */
static int readers_run(const struct remote_ends *e, struct reader *readers,
		       unsigned n, struct remote_slice *s)
{
	uint64_t cpu = remote_cpu_of(e);
	int64_t start = clock_now_ns();
	unsigned started = 0;
	int err = 0;

	for (; started < n && !err; started += !err)
		err = -pthread_create(&readers[started].thread, NULL,
				      reader_main, &readers[started]);
	for (unsigned i = 0; i < started; i++)
		pthread_join(readers[i].thread, NULL);
	s->ns = clock_now_ns() - start;
	s->cpu_s = (double)(remote_cpu_of(e) - cpu) / 1e9;
	return err;
}

static int read_all(const struct remote_ends *e, struct remote_case *k,
		    unsigned serial, struct remote_slice *s, unsigned *missed)
{
	struct reader readers[REMOTE_IN_FLIGHT_MAX];
	int err = 0;

	for (unsigned i = 0; i < k->n; i++) {
		readers[i] =
			(struct reader){.ends = e,
					.bytes = k->bytes,
					.first = i,
					.step = k->n,
					.n_blocks = blocks_of(k),
					.serial = serial,
					.in_order = !strcmp(k->op, "chain"),
					.buf = bench_buffer(k->bytes)};
		err = readers[i].buf ? err : -ENOMEM;
	}
	if (!err)
		err = readers_run(e, readers, k->n, s);
	for (unsigned i = 0; i < k->n; i++) {
		s->bytes += readers[i].read_bytes;
		*missed += readers[i].missed;
		err = err ? err : readers[i].err;
		samples_append(&k->samples, &readers[i].samples);
		free(readers[i].buf);
	}
	return err;
}

int remote_mounts_slice(const struct remote_ends *e, struct remote_case *k,
			struct remote_slice *s, unsigned *missed)
{
	static unsigned serial;
	unsigned n = blocks_of(k);
	char *buf = bench_buffer(k->bytes);
	int err =
		buf ? store_all(e->a.dir, ++serial, n, buf, k->bytes) : -ENOMEM;

	free(buf);
	if (!err)
		err = strcmp(k->op, "get_registered")
			      ? read_all(e, k, serial, s, missed)
			      : remote_get_all(e, k, serial, n, s, missed);
	remove_all(e->a.dir, serial, n);
	return err ? err : s->bytes ? 0 : -ENOENT;
}
