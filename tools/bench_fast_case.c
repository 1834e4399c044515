// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/bench_fast.h"

#define SMALL (64u << 10)

/* -- files ---------------------------------------------------------------- */

static int store(int dir, const char *name, const void *bytes, size_t n)
{
	int err = 0,
	    fd = openat(dir, "fast.tmp",
			O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return -errno;
	if (write(fd, bytes, n) != (ssize_t)n)
		err = errno ? -errno : -EIO;
	close(fd);
	if (!err && renameat(dir, "fast.tmp", dir, name))
		err = -errno;
	if (err)
		unlinkat(dir, "fast.tmp", 0);
	return err;
}

static int store_blocks(struct fast *f, unsigned n, size_t bytes)
{
	int err = 0;

	for (unsigned i = 0; i < n && !err; i++) {
		snprintf(f->text[i], sizeof(f->text[i]), "f%02u", i);
		f->paths[i] = f->text[i];
		err = store(f->places.dir[PLACE_KVFS], f->text[i],
			    f->source + i % FAST_BLOCKS * bytes, bytes);
	}
	return err;
}

static void clear_blocks(struct fast *f)
{
	for (unsigned i = 0; i < FAST_MANY; i++)
		if (f->paths[i])
			unlinkat(f->places.dir[PLACE_KVFS], f->paths[i], 0);
}

/* -- one block, copied out of its frame ----------------------------------- */

static int prepare_large(struct fast *f)
{
	return store_blocks(f, FAST_BLOCKS, FAST_LARGE);
}

static int prepare_1m(struct fast *f)
{
	return store_blocks(f, FAST_BLOCKS, 1 << 20);
}

static int run_locate(struct fast *f, size_t bytes)
{
	struct kvfs_names names = {.n = 1,
				   .paths = &f->paths[f->next++ % FAST_BLOCKS]};
	int n = kvfs_exchange(f->k, f->blocks, 1, &names, 0, 0, f->blocks);

	if (n == 1)
		memcpy(f->to, f->blocks[0].data, bytes);
	return n < 0 ? n : f->blocks[0].error;
}

static void clear_located(struct fast *f)
{
	kvfs_put(f->k, f->blocks, 1);
	clear_blocks(f);
}

static int plain_memcpy(struct fast *f, size_t bytes)
{
	memcpy(f->to, f->source + f->next++ % FAST_BLOCKS * bytes, bytes);
	__asm__ volatile("" : : "r"(f->to) : "memory");
	return 0;
}

/* -- the same through a ring, the next one asked for meanwhile ---------------
 */

#define IN_FLIGHT 256
#define ENTRY_BYTES 256

enum { OF_GET, OF_PUT };

static int open_ring(struct fast *f)
{
	int err = kvfs_open(f->path, &f->ring_k);

	return err ? err
		   : kvfs_ring_open(f->ring_k, IN_FLIGHT, ENTRY_BYTES,
				    &f->ring);
}

static void close_ring(struct fast *f)
{
	kvfs_ring_close(f->ring);
	kvfs_close(f->ring_k);
	f->ring = NULL;
	f->ring_k = NULL;
}

static int ask_next(struct fast *f)
{
	struct kvfs_names names = {.n = 1,
				   .paths = &f->paths[f->next++ % FAST_BLOCKS]};

	return kvfs_ring_get(f->ring, &names, 0, 0, OF_GET);
}

static int ask_first(struct fast *f, int err)
{
	if (!err)
		err = open_ring(f);
	for (int i = 0; i < 2 && !err; i++)
		err = ask_next(f);
	if (!err)
		kvfs_ring_submit(f->ring);
	return err;
}

static int prepare_ring_large(struct fast *f)
{
	return ask_first(f, prepare_large(f));
}

static int prepare_ring_1m(struct fast *f)
{
	return ask_first(f, prepare_1m(f));
}

static void clear_ring_blocks(struct fast *f)
{
	close_ring(f);
	clear_blocks(f);
}

/* Returns: 0 f->blocks[0] is the next one, or -errno. */
static int take_next(struct fast *f)
{
	struct kvfs_done done;
	uint64_t of = OF_PUT;
	int rc = 0;

	while (of == OF_PUT && rc >= 0) {
		rc = kvfs_ring_wait(f->ring, -1, &done);
		if (rc < 0)
			return rc;
		of = done.user_data;
		rc = of == OF_GET ? kvfs_done_blocks(f->ring, &done, f->blocks)
				  : done.result;
		kvfs_ring_seen(f->ring, &done);
	}
	return rc < 0 ? rc : f->blocks[0].error;
}

static int run_locate_ring(struct fast *f, size_t bytes)
{
	int err = take_next(f);

	if (err)
		return err;
	memcpy(f->to, f->blocks[0].data, bytes);
	err = kvfs_ring_put(f->ring, f->blocks, 1, OF_PUT);
	if (!err)
		err = ask_next(f);
	kvfs_ring_submit(f->ring);
	return err;
}

/* -- many blocks, used where they are ------------------------------------- */

static int prepare_many(struct fast *f)
{
	return store_blocks(f, FAST_MANY, FAST_LARGE);
}

static int run_in_place(struct fast *f, size_t bytes)
{
	struct kvfs_names names = {.n = FAST_MANY, .paths = f->paths};
	int n = kvfs_get(f->k, &names, 0, 0, f->blocks);

	(void)bytes;
	for (int i = 0; i < FAST_MANY && n == FAST_MANY; i++)
		f->to[i] = *(const volatile char *)f->blocks[i].data;
	kvfs_put(f->k, f->blocks, FAST_MANY);
	return n < 0 ? n : n == FAST_MANY ? 0 : -EDQUOT;
}

static int plain_reads(struct fast *f, size_t bytes)
{
	(void)bytes;
	for (int i = 0; i < FAST_MANY; i++) {
		int fd = openat(f->places.dir[PLACE_KVFS], f->paths[i],
				O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, f->to, FAST_LARGE);

		if (fd >= 0)
			close(fd);
		if (n != FAST_LARGE)
			return n < 0 ? -errno : -EIO;
	}
	return 0;
}

/* -- a thousand names ----------------------------------------------------- */

static int store_names(struct fast *f, int place)
{
	int err = f->places.dir[place] < 0 ? -EPERM : 0; /* that was told */

	for (unsigned i = 0; i < BENCH_NAMES && !err; i++)
		err = store(f->places.dir[place], f->names[i], f->source, 64);
	return err;
}

static void make_names(struct fast *f)
{
	for (unsigned i = 0; i < BENCH_NAMES; i++) {
		uint8_t *digest = f->digests + i * FAST_DIGEST;

		memset(digest, 0xfa, FAST_DIGEST);
		memcpy(digest, &i, sizeof(i));
		for (unsigned b = 0; b < FAST_DIGEST; b++)
			sprintf(f->names[i] + 2 * b, "%02x", digest[b]);
	}
}

static int prepare_names(struct fast *f)
{
	int err;

	make_names(f);
	err = store_names(f, PLACE_4K);
	return err ? err : store_names(f, PLACE_KVFS);
}

static void clear_names(struct fast *f)
{
	for (unsigned i = 0; i < BENCH_NAMES; i++) {
		unlinkat(f->places.dir[PLACE_KVFS], f->names[i], 0);
		if (f->places.dir[PLACE_4K] >= 0)
			unlinkat(f->places.dir[PLACE_4K], f->names[i], 0);
	}
}

static int run_exists(struct fast *f, size_t bytes)
{
	struct kvfs_names names = {.n = BENCH_NAMES,
				   .digests = f->digests,
				   .digest_bytes = FAST_DIGEST};
	struct kvfs_found found;
	int err = kvfs_exists(f->k, &names, 0, NULL, &found);

	(void)bytes;
	return err ? err : found.n_present == BENCH_NAMES ? 0 : -ENOENT;
}

static int plain_stats(struct fast *f, size_t bytes)
{
	struct stat st;

	(void)bytes;
	for (unsigned i = 0; i < BENCH_NAMES; i++)
		if (fstatat(f->places.dir[PLACE_4K], f->names[i], &st, 0))
			return -errno;
	return 0;
}

/* -- the same, one at a time ------------------------------------------------
 */

static int prepare_ring(struct fast *f)
{
	int err;

	make_names(f);
	err = store_names(f, PLACE_KVFS);
	return err ? err : open_ring(f);
}

static void clear_ring(struct fast *f)
{
	close_ring(f);
	clear_names(f);
}

static struct kvfs_names one_name(const char **name)
{
	return (struct kvfs_names){.n = 1, .paths = name};
}

/* Returns: how many answers were taken, or -errno. */
static int take_answers(struct fast *f)
{
	struct kvfs_found found;
	struct kvfs_done done;
	int n = 0, rc;

	while ((rc = kvfs_ring_peek(f->ring, &done)) > 0) {
		rc = kvfs_done_found(&done, NULL, &found);
		kvfs_ring_seen(f->ring, &done);
		if (rc != 1)
			return rc < 0 ? rc : -ENOENT;
		n++;
	}
	return rc ? rc : n;
}

static int run_ring(struct fast *f, size_t bytes)
{
	unsigned sent = 0, taken = 0;
	int n = 0;

	(void)bytes;
	while (taken < BENCH_NAMES && n >= 0) {
		for (; sent < BENCH_NAMES; sent++) {
			const char *name = f->names[sent];
			struct kvfs_names names = one_name(&name);

			if (kvfs_ring_exists(f->ring, &names, 0, sent))
				break; /* all entries are in use */
		}
		kvfs_ring_submit(f->ring);
		n = take_answers(f);
		taken += n > 0 ? (unsigned)n : 0;
		if (!n)
			sched_yield(); /* the daemon may need this processor */
	}
	return n < 0 ? n : 0;
}

static int plain_ioctls(struct fast *f, size_t bytes)
{
	struct kvfs_found found;
	int err = 0;

	(void)bytes;
	for (unsigned i = 0; i < BENCH_NAMES && !err; i++) {
		const char *name = f->names[i];
		struct kvfs_names names = one_name(&name);

		err = kvfs_exists(f->ring_k, &names, 0, NULL, &found);
		if (!err && !found.n_present)
			err = -ENOENT;
	}
	return err;
}

/* -- a block written in place --------------------------------------------- */

static int prepare_frame(struct fast *f)
{
	return kvfs_reserve(f->k, 1, SMALL, &f->frame);
}

static int run_commit(struct fast *f, size_t bytes)
{
	const char *name = "stored";
	struct kvfs_names names = {.n = 1, .paths = &name};
	int n;

	memcpy(f->frame.data, f->source + f->next++ % FAST_BLOCKS * bytes,
	       bytes);
	n = kvfs_commit(f->k, &names, KVFS_KEEP, 0644, &f->frame);
	return n < 0 ? n : f->frame.error;
}

static int plain_store(struct fast *f, size_t bytes)
{
	return store(f->places.dir[PLACE_KVFS], "stored",
		     f->source + f->next++ % FAST_BLOCKS * bytes, bytes);
}

static void after_store(struct fast *f)
{
	unlinkat(f->places.dir[PLACE_KVFS], "stored", 0);
}

static void clear_frame(struct fast *f)
{
	kvfs_abort(f->k, &f->frame, 1);
}

/* -- the table ------------------------------------------------------------ */

const struct fast_case fast_cases[] = {
	{"locate_memcpy", "get + memcpy 4 MiB, of memcpy", FAST_LARGE,
	 "x_memcpy", 0.93, prepare_large, run_locate, plain_memcpy, NULL,
	 clear_located},
	{"locate_memcpy", "get + memcpy 1 MiB, of memcpy", 1 << 20, "x_memcpy",
	 0.80, prepare_1m, run_locate, plain_memcpy, NULL, clear_located},
	{"locate_memcpy_ring", "the same by ring 4 MiB, of memcpy", FAST_LARGE,
	 "x_memcpy", 0.93, prepare_ring_large, run_locate_ring, plain_memcpy,
	 NULL, clear_ring_blocks},
	{"locate_memcpy_ring", "the same by ring 1 MiB, of memcpy", 1 << 20,
	 "x_memcpy", 0.80, prepare_ring_1m, run_locate_ring, plain_memcpy, NULL,
	 clear_ring_blocks},
	{"in_place_64", "get 64 x 4 MiB in place, of read()", 0, "x_read", 50,
	 prepare_many, run_in_place, plain_reads, NULL, clear_blocks},
	{"exists_1000", "exists of 1,000 digests, of stat() on tmpfs", 0,
	 "x_tmpfs_stat", 40, prepare_names, run_exists, plain_stats, NULL,
	 clear_names},
	{"ring_exists", "exists one by one, ring, of ioctl: 1,000", 0,
	 "x_ioctl", 5, prepare_ring, run_ring, plain_ioctls, NULL, clear_ring},
	{"reserve_commit", "fill + commit 64 KiB, of create .. rename", SMALL,
	 "x_create", 2, prepare_frame, run_commit, plain_store, after_store,
	 clear_frame},
	{}};
