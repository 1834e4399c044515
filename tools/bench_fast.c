// SPDX-License-Identifier: MIT
#include "tools/bench_fast.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "gds/kvfs.h"
#include "tools/json.h"
#include "tools/progress.h"
#include "tools/target.h"
#include "tools/term.h"
#include "tools/verb.h"

/*
 * What libkvfs does, against what a program would do without it. The two sides
 * of a case take turns, a slice each, round by round; the ratio of a round is
 * that of their medians, and what is printed is the median of the rounds.
 */

#define BLOCKS 16
#define MANY 64 /* of one in-place get */
#define LARGE (4u << 20)
#define SMALL (64u << 10)
#define DIGEST 16
#define BUFFERS 1000
#define BUFFER_BYTES 4096

struct fast {
	struct bench_places places;
	const char *path; /* of the namespace */
	struct kvfs *k;
	char *source, *to; /* BLOCKS * LARGE bytes; LARGE */
	uint8_t digests[BENCH_NAMES * DIGEST];
	char names[BENCH_NAMES][2 * DIGEST + 1]; /* of them */
	const char *paths[MANY];		 /* names too */
	char text[MANY][16];
	struct kvfs_block blocks[MANY];
	struct kvfs_frame frame;
	unsigned next; /* counts operations */
	struct progress progress;
	uint64_t done;
};

struct fast_case {
	const char *op, *what;
	size_t bytes;	 /* that an operation moves; 0: none */
	const char *ref; /* the ratio in JSON */
	double at_least;
	int (*prepare)(struct fast *f);
	int (*run)(struct fast *f, size_t bytes);
	int (*plain)(struct fast *f, size_t bytes); /* without libkvfs */
	void (*after)(struct fast *f); /* each operation; not timed */
	void (*clear)(struct fast *f);
};

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
			    f->source + i % BLOCKS * bytes, bytes);
	}
	return err;
}

static void clear_blocks(struct fast *f)
{
	for (unsigned i = 0; i < MANY; i++)
		if (f->paths[i])
			unlinkat(f->places.dir[PLACE_KVFS], f->paths[i], 0);
}

/* -- one block, copied out of its frame ----------------------------------- */

static int prepare_large(struct fast *f)
{
	return store_blocks(f, BLOCKS, LARGE);
}

static int prepare_1m(struct fast *f)
{
	return store_blocks(f, BLOCKS, 1 << 20);
}

static int run_locate(struct fast *f, size_t bytes)
{
	struct kvfs_names names = {.n = 1,
				   .paths = &f->paths[f->next++ % BLOCKS]};
	int n = kvfs_get(f->k, &names, 0, 0, f->blocks), err;

	if (n == 1)
		memcpy(f->to, f->blocks[0].data, bytes);
	err = n < 0 ? n : f->blocks[0].error;
	kvfs_put(f->k, f->blocks, 1);
	return err;
}

static int plain_memcpy(struct fast *f, size_t bytes)
{
	memcpy(f->to, f->source + f->next++ % BLOCKS * bytes, bytes);
	__asm__ volatile("" : : "r"(f->to) : "memory");
	return 0;
}

/* -- many blocks, used where they are ------------------------------------- */

static int prepare_many(struct fast *f)
{
	return store_blocks(f, MANY, LARGE);
}

static int run_in_place(struct fast *f, size_t bytes)
{
	struct kvfs_names names = {.n = MANY, .paths = f->paths};
	int n = kvfs_get(f->k, &names, 0, 0, f->blocks);

	(void)bytes;
	for (int i = 0; i < MANY && n == MANY; i++)
		f->to[i] = *(const volatile char *)f->blocks[i].data;
	kvfs_put(f->k, f->blocks, MANY);
	return n < 0 ? n : n == MANY ? 0 : -EDQUOT;
}

static int plain_reads(struct fast *f, size_t bytes)
{
	(void)bytes;
	for (int i = 0; i < MANY; i++) {
		int fd = openat(f->places.dir[PLACE_KVFS], f->paths[i],
				O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, f->to, LARGE);

		if (fd >= 0)
			close(fd);
		if (n != LARGE)
			return n < 0 ? -errno : -EIO;
	}
	return 0;
}

/* -- a thousand names ----------------------------------------------------- */

static int prepare_names(struct fast *f)
{
	int err = 0;

	if (f->places.dir[PLACE_4K] < 0)
		return -EPERM; /* no tmpfs; that was told */
	for (unsigned i = 0; i < BENCH_NAMES && !err; i++) {
		uint8_t *digest = f->digests + i * DIGEST;

		memset(digest, 0xfa, DIGEST);
		memcpy(digest, &i, sizeof(i));
		for (unsigned b = 0; b < DIGEST; b++)
			sprintf(f->names[i] + 2 * b, "%02x", digest[b]);
		err = store(f->places.dir[PLACE_KVFS], f->names[i], f->source,
			    64);
		if (!err)
			err = store(f->places.dir[PLACE_4K], f->names[i],
				    f->source, 64);
	}
	return err;
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
				   .digest_bytes = DIGEST};
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

	memcpy(f->frame.data, f->source + f->next++ % BLOCKS * bytes, bytes);
	n = kvfs_commit(f->k, &names, KVFS_KEEP, 0644, &f->frame);
	return n < 0 ? n : f->frame.error;
}

static int plain_store(struct fast *f, size_t bytes)
{
	return store(f->places.dir[PLACE_KVFS], "stored",
		     f->source + f->next++ % BLOCKS * bytes, bytes);
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

static const struct fast_case cases[] = {
	{"locate_memcpy", "get + memcpy 4 MiB, of memcpy", LARGE, "x_memcpy",
	 0.93, prepare_large, run_locate, plain_memcpy, NULL, clear_blocks},
	{"locate_memcpy", "get + memcpy 1 MiB, of memcpy", 1 << 20, "x_memcpy",
	 0.80, prepare_1m, run_locate, plain_memcpy, NULL, clear_blocks},
	{"in_place_64", "get 64 x 4 MiB in place, of read()", 0, "x_read", 50,
	 prepare_many, run_in_place, plain_reads, NULL, clear_blocks},
	{"exists_1000", "exists of 1,000 digests, of stat() on tmpfs", 0,
	 "x_tmpfs_stat", 40, prepare_names, run_exists, plain_stats, NULL,
	 clear_names},
	{"reserve_commit", "fill + commit 64 KiB, of create .. rename", SMALL,
	 "x_create", 2, prepare_frame, run_commit, plain_store, after_store,
	 clear_frame},
};

#define CASES (sizeof(cases) / sizeof(*cases))

/* -- measuring ------------------------------------------------------------ */

static int slice(struct fast *f, const struct fast_case *c,
		 int (*run)(struct fast *f, size_t bytes), int64_t slice_ns,
		 struct samples *all, double *median_us)
{
	struct samples s = {0};
	int64_t end = clock_now_ns() + slice_ns, start;
	int err;

	do {
		start = clock_now_ns();
		err = run(f, c->bytes);
		if (!err)
			samples_add(&s, clock_now_ns() - start);
		if (c->after)
			c->after(f);
	} while (!err && clock_now_ns() < end && !bench_stopped);
	*median_us = samples_us(&s, 50);
	samples_append(all, &s);
	samples_free(&s);
	return err;
}

struct outcome {
	struct samples fast, plain;
	double ratio;
};

static int measure(struct fast *f, const struct fast_case *c,
		   const struct bench_plan *plan, struct outcome *o)
{
	int64_t slice_ns = (int64_t)(plan->seconds * NS_PER_S /
				     (2 * CASES * plan->n_rounds));
	double ratios[BENCH_ROUNDS_MAX], fast, plain;
	unsigned n = 0;
	int err = c->prepare(f);

	while (!err && n < plan->n_rounds && !bench_stopped) {
		err = slice(f, c, c->run, slice_ns, &o->fast, &fast);
		if (!err)
			err = slice(f, c, c->plain, slice_ns, &o->plain,
				    &plain);
		if (!err && fast > 0)
			ratios[n++] = plain / fast;
		progress_update(&f->progress, ++f->done);
	}
	o->ratio = bench_median(ratios, n);
	c->clear(f);
	return err;
}

/* Of the daemon, in KiB. */
static long rss_kib(pid_t pid)
{
	char path[64], line[128];
	long kib = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "RssAnon: %ld", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

/* What many registered buffers cost the daemon; < 0: it cannot be told. */
static double buffers_kib(struct fast *f, const char *mountpoint)
{
	struct kvfs_buffer **b = calloc(BUFFERS, sizeof(*b));
	pid_t pid = bench_daemon_pid(mountpoint);
	long before = rss_kib(pid), after;
	unsigned n = 0;

	while (b && n < BUFFERS &&
	       !kvfs_buffer_new(f->k, BUFFER_BYTES, 0, &b[n]))
		n++;
	after = rss_kib(pid);
	for (unsigned i = 0; i < n; i++)
		kvfs_unregister(b[i]);
	free(b);
	return n < BUFFERS || before < 0 || after < 0
		       ? -1
		       : (double)(after > before ? after - before : 0);
}

/* -- reports -------------------------------------------------------------- */

static void put_json(const struct fast_case *c, struct outcome *o)
{
	double p50 = samples_us(&o->fast, 50);

	json_put_line(json_pack(
		"{s:s, s:I, s:i, s:f, s:f, s:o, s:f}", "op", c->op, "bytes",
		(json_int_t)c->bytes, "threads", 1, "p50_us", p50, "p99_us",
		samples_us(&o->fast, 99), "mib_s",
		c->bytes ? json_real((double)c->bytes / (1 << 20) / p50 * 1e6)
			 : json_null(),
		c->ref, o->ratio));
}

static void add_row(struct table *t, const struct fast_case *c,
		    struct outcome *o)
{
	table_add(t, "%s", c->what);
	table_add(t, "%.1f", samples_us(&o->fast, 50));
	table_add(t, "%.1f", samples_us(&o->plain, 50));
	table_add(t, "%.2f", o->ratio);
	table_add(t, ">= %.2f", c->at_least);
	table_add(t, "%s", o->ratio >= c->at_least ? "reached" : "missed");
}

static void report_buffers(double kib, bool json)
{
	if (json)
		json_put_line(json_pack("{s:s, s:i, s:i, s:n, s:n, s:n, s:f}",
					"op", "buffers_1000", "bytes",
					BUFFER_BYTES, "threads", 1, "p50_us",
					"p99_us", "mib_s", "daemon_kib", kib));
	else
		printf("1,000 registered buffers cost the daemon %.0f KiB\n",
		       kib);
}

/* Returns: did any fail? */
static bool run_all(struct fast *f, const struct bench_plan *plan,
		    struct table *t)
{
	bool failed = false;

	progress_start(&f->progress, "measuring", CASES * plan->n_rounds,
		       PROGRESS_COUNT);
	for (unsigned i = 0; i < CASES && !bench_stopped; i++) {
		struct outcome o = {.ratio = -1};
		int err = measure(f, &cases[i], plan, &o);

		if (err) {
			progress_clear(&f->progress);
			log_warn("bench: %s: %s", cases[i].what,
				 kvfs_strerror(err));
			failed = true;
		} else if (o.ratio >= 0 && plan->json) {
			put_json(&cases[i], &o);
		} else if (o.ratio >= 0) {
			add_row(t, &cases[i], &o);
		}
		samples_free(&o.fast);
		samples_free(&o.plain);
	}
	progress_finish(&f->progress);
	return failed;
}

static bool run_and_report(struct fast *f, const struct bench_plan *plan,
			   const char *mountpoint)
{
	static const struct table_column columns[] = {
		{"operation", false}, {"p50 us", true}, {"without, us", true},
		{"ratio", true},      {"wanted", true}, {"", false},
	};
	struct table *t = table_new(columns, 6);
	bool failed = run_all(f, plan, t);
	double kib = bench_stopped ? -1 : buffers_kib(f, mountpoint);

	if (!plan->json)
		table_print(t, stdout);
	table_free(t);
	if (kib >= 0)
		report_buffers(kib, plan->json);
	return failed;
}

int bench_fast(const struct bench_plan *plan, const struct target *at)
{
	struct fast *f = calloc(1, sizeof(*f));
	int err = -ENOMEM;
	bool failed = true;

	if (!at->mountpoint[0]) {
		free(f);
		return verb_fail(EXIT_TROUBLE,
				 "%s: no kvfs, which --fast wants", at->path);
	}
	if (f && !(err = bench_places_open(&f->places, at)))
		err = kvfs_open(at->path, &f->k);
	if (!err) {
		f->source = bench_buffer((size_t)BLOCKS * LARGE);
		f->to = bench_buffer(LARGE);
		err = f->source && f->to ? 0 : -ENOMEM;
	}
	bench_pin(0);
	if (!err)
		failed = run_and_report(f, plan, at->mountpoint);
	else
		log_error("bench: %s: %s", at->path, kvfs_strerror(err));
	if (f) {
		kvfs_close(f->k);
		bench_places_close(&f->places);
		free(f->source);
		free(f->to);
	}
	free(f);
	return failed || bench_stopped ? EXIT_TROUBLE : EXIT_FINE;
}
