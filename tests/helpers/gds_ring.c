// SPDX-License-Identifier: MIT
/*
 * libkvfs' ring by hand, names from stdin, one a line and one a call:
 *
 *      gds_ring DIR exists|touch|evict|get|fetch ENTRIES [poll|large]
 *      gds_ring DIR rate SECONDS       exists, ring against ioctl
 *      gds_ring DIR hold               get all, keep them until stdin's
 *                                      second end, which a kill is
 *      gds_ring DIR many N [hold]      rings of directories of their own
 *      gds_ring DIR small              entries of the least size
 *      gds_ring DIR refused            HANDLES N: the first N blocks, digests
 *                                      with the suffix ".b", are held by so
 *                                      many others, until the answers for the
 *                                      next 5 are there
 *
 *      large: the entries are as large as they may be
 *
 * The i-th block's bytes are the pattern of seed i. Prints how many were
 * there, and how many bytes of them are not as they should be.
 */
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gds/kvfs.h"
#include "tests/helpers/lines.h"
#include "tests/helpers/pattern.h"

static uint32_t n_lines;
static struct kvfs *k;
static struct kvfs_ring *ring;
static bool polls;

static void must(int rc, const char *what)
{
	if (rc >= 0)
		return;
	printf("%s: %s\n", what, strerrorname_np(-rc));
	exit(1);
}

static int prepare(const char *what, uint32_t i)
{
	struct kvfs_names names = {.n = 1, .paths = &lines[i]};

	if (!strcmp(what, "exists"))
		return kvfs_ring_exists(ring, &names, 0, i);
	if (!strcmp(what, "touch"))
		return kvfs_ring_touch(ring, &names, i);
	if (!strcmp(what, "evict"))
		return kvfs_ring_evict(ring, &names, i);
	return kvfs_ring_get(ring, &names,
			     strcmp(what, "fetch") ? 0 : KVFS_FETCH, 0, i);
}

static int next(struct kvfs_done *done)
{
	int rc;

	if (!polls)
		return kvfs_ring_wait(ring, -1, done);
	while (!(rc = kvfs_ring_peek(ring, done)))
		;
	return rc;
}

static unsigned n_there, n_wrong, n_done;

/* user_data ~0: that of a put. */
static void take(const char *what, const struct kvfs_done *done,
		 struct kvfs_block *b)
{
	struct kvfs_found found;

	b->error = -ECANCELED;
	if (done->user_data == ~0ull)
		must(done->result, "put");
	else if (*what == 'g' || *what == 'f')
		must(kvfs_done_blocks(ring, done, b), what);
	else
		must(kvfs_done_found(done, NULL, &found), what);
	if (done->user_data == ~0ull)
		return;
	n_done++;
	if (*what != 'g' && *what != 'f') {
		n_there += found.n_present;
	} else if (!b->error) {
		n_there++;
		n_wrong += pattern_differs(b->data, done->user_data, 0,
					   b->bytes) >= 0;
	}
}

static void run(const char *what)
{
	struct kvfs_block b;
	struct kvfs_done done;
	uint32_t sent = 0, puts = 0;

	while (n_done < n_lines || puts) {
		int rc = 0;

		while (sent < n_lines && !(rc = prepare(what, sent)))
			sent++;
		if (rc != -EAGAIN)
			must(rc, "prepare");
		kvfs_ring_submit(ring);
		must(next(&done), "wait");
		puts -= done.user_data == ~0ull;
		take(what, &done, &b);
		kvfs_ring_seen(ring, &done);
		if (b.error)
			continue;
		must(kvfs_ring_put(ring, &b, 1, ~0ull), "put");
		puts++;
	}
	printf("%u %u\n", n_there, n_wrong);
}

/* -- more than this user may hold -------------------------------------- */

#define MORE 5 /* than what is held */

static struct kvfs *others[2];
static struct kvfs_block held[2][64], more[MORE];
static uint32_t n_others, n_held;

static unsigned n_mapped(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned n = 0;

	while (maps && fgets(line, sizeof(line), maps))
		n += !!strstr(line, "/frames/");
	if (maps)
		fclose(maps);
	return n;
}

static void hold_much(void)
{
	struct kvfs_names names = {.n = n_held, .paths = lines};

	for (uint32_t i = 0; i < n_others; i++) {
		int n = kvfs_get(others[i], &names, 0, 0, held[i]);

		must(n, "hold");
		if (n != (int)n_held)
			printf("held %d\n", n);
	}
}

static void let_go(void)
{
	for (uint32_t i = 0; i < n_others; i++)
		must(kvfs_put(others[i], held[i], n_held), "put");
}

/* What is asked for once the answer is there. */
static void ask_more(const struct kvfs_names *names, struct kvfs_done *done)
{
	must(names ? kvfs_ring_get(ring, names, 0, 0, 0)
		   : kvfs_ring_reserve(ring, MORE, 2 << 20, 0),
	     "ask");
	kvfs_ring_submit(ring);
	must(kvfs_ring_wait(ring, -1, done), "wait");
}

static void print_more(const struct kvfs_done *done)
{
	int n = kvfs_done_blocks(ring, done, more);
	unsigned n_refused = 0, wrong = 0;

	kvfs_ring_seen(ring, done);
	for (uint32_t i = 0; i < MORE; i++) {
		n_refused += more[i].error == -EDQUOT;
		wrong += !more[i].error &&
			 pattern_differs(more[i].data, n_held + i, 0,
					 more[i].bytes) >= 0;
	}
	printf("%d there, %u refused, %u wrong\n", n, n_refused, wrong);
}

static void refused(const char *dir, char **args)
{
	unsigned char digests[MORE][16] = {{0}};
	struct kvfs_names paths = {.n = MORE};
	struct kvfs_names by_digest = {.n = MORE,
				       .digests = digests,
				       .digest_bytes = 16,
				       .suffix = ".b"};
	struct kvfs_frame frames[MORE];
	struct kvfs_done done;

	n_others = (uint32_t)atoi(args[0]);
	n_held = (uint32_t)atoi(args[1]);
	paths.paths = lines + n_held;
	for (uint32_t i = 0; i < MORE; i++)
		digests[i][15] = (unsigned char)(n_held + i);
	for (uint32_t i = 0; i < n_others; i++)
		must(kvfs_open(dir, &others[i]), "open");
	run("get"); /* what was given back stays mapped */
	printf("mapped: %s\n", n_mapped() ? "some" : "none");
	hold_much();
	ask_more(&paths, &done);
	print_more(&done);
	must(kvfs_put(k, more, MORE), "put");
	ask_more(&by_digest, &done);
	let_go();
	print_more(&done);
	must(kvfs_put(k, more, MORE), "put");
	hold_much();
	ask_more(NULL, &done);
	printf("mapped: %u\n", n_mapped() - n_others * n_held);
	let_go();
	must(kvfs_done_reserved(ring, &done, frames), "reserve");
	kvfs_ring_seen(ring, &done);
	for (uint32_t i = 0; i < MORE; i++)
		memset(frames[i].data, 1, 2 << 20);
	printf("reserved %d\n", MORE);
	must(kvfs_abort(k, frames, MORE), "abort");
	for (uint32_t i = 0; i < n_others; i++)
		kvfs_close(others[i]);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double rate_of_ioctl(double seconds)
{
	struct kvfs_names names = {.n = 1, .paths = lines};
	struct kvfs_found found;
	double end = now() + seconds;
	unsigned n = 0;

	for (; now() < end; n++)
		must(kvfs_exists(k, &names, 0, NULL, &found), "exists");
	return n / seconds;
}

static double rate_of_ring(double seconds)
{
	struct kvfs_names names = {.n = 1, .paths = lines};
	struct kvfs_done done;
	double end = now() + seconds;
	unsigned n = 0, before = 0;

	for (; now() < end; before = n) {
		while (!kvfs_ring_exists(ring, &names, 0, 0))
			;
		kvfs_ring_submit(ring);
		while (kvfs_ring_peek(ring, &done) == 1) {
			kvfs_ring_seen(ring, &done);
			n++;
		}
		if (n == before)
			sched_yield(); /* the daemon may need this processor */
	}
	return n / seconds;
}

static void hold(void)
{
	struct kvfs_block b;
	struct kvfs_done done;

	for (uint32_t i = 0; i < n_lines; i++) {
		must(prepare("get", i), "get");
		kvfs_ring_submit(ring);
		must(kvfs_ring_wait(ring, -1, &done), "wait");
		take("get", &done, &b);
		kvfs_ring_seen(ring, &done);
	}
	printf("%u %u\n", n_there, n_wrong);
	fflush(stdout);
	pause();
}

static struct kvfs *all[128];
static struct kvfs_ring *rings[128];

static void many(const char *dir, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		must(kvfs_open(dir, &all[i]), "open");
		must(kvfs_ring_open(all[i], 64, 4096, &rings[i]), "ring");
		ring = rings[i];
		run("exists");
		n_there = n_done = 0;
	}
}

static void said(const char *what, int err)
{
	printf("%s %s\n", what, err < 0 ? strerrorname_np(-err) : "ok");
}

static void small_exists(const char *what, const struct kvfs_names *names)
{
	struct kvfs_done done;
	int err = kvfs_ring_exists(ring, names, 0, 0);

	if (!err) {
		kvfs_ring_submit(ring);
		must(kvfs_ring_wait(ring, -1, &done), "wait");
		err = done.result;
		kvfs_ring_seen(ring, &done);
	}
	said(what, err);
}

/* 64 bytes, of which the head and what every command has leave 40 at most. */
static void small(void)
{
	static char text[] = "0123456789012345678901234567890123456789x";
	const char *paths[] = {text, "b", "c", "d", "e", "f", "g"};
	struct kvfs_names one = {.n = 1, .paths = paths + 1};
	struct kvfs_names digest = {
		.n = 1, .digests = text, .digest_bytes = 16};
	struct kvfs_names many = {.n = 6, .paths = paths + 1};
	struct kvfs_frame frames[7] = {0};
	struct kvfs_block blocks[7] = {0};
	struct kvfs_move moves[6] = {0};
	struct kvfs_buffer *b;

	must(kvfs_ring_open(k, 1, KVFS_RING_ENTRY_MIN, &ring), "ring");
	must(kvfs_buffer_new(k, 1, 0, &b), "buffer");
	for (uint32_t i = 0; i < many.n; i++) {
		moves[i].buffer = b;
		frames[i].data = text; /* never written */
	}
	small_exists("exists", &one);
	small_exists("long-path", &(struct kvfs_names){.n = 1, .paths = paths});
	small_exists("digest", &digest);
	digest.suffix = text;
	small_exists("long-suffix", &digest);
	small_exists("many", &(struct kvfs_names){.n = 2001, .paths = paths});
	said("match", kvfs_ring_match(ring, &one, 0, 0));
	said("get", kvfs_ring_get(ring, &many, 0, 0, 0));
	said("put", kvfs_ring_put(ring, blocks, 7, 0));
	said("reserve", kvfs_ring_reserve(ring, 7, 1, 0));
	said("abort", kvfs_ring_abort(ring, frames, 7, 0));
	said("read", kvfs_ring_read_into(ring, &many, 0, 0, moves, 0));
	said("store", kvfs_ring_store_from(ring, &one, 0, 0, moves, 0));
	said("commit", kvfs_ring_commit(ring, &many, 0, 0, frames, 0));
	small_exists("exists", &one);
	kvfs_unregister(b);
}

int main(int argc, char **argv)
{
	uint32_t entries = 64, entry_bytes = 8192;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[2], "many")) {
		n_lines = lines_read();
		many(argv[1], (unsigned)atoi(argv[3]));
		if (argc > 4) {
			fflush(stdout);
			pause();
		}
		return 0;
	}
	must(kvfs_open(argv[1], &k), "open");
	if (argc > 3 && strcmp(argv[2], "rate"))
		entries = (uint32_t)atoi(argv[3]);
	if (!strcmp(argv[2], "rate"))
		entries = 1024;
	if (!strcmp(argv[2], "small")) {
		small();
		kvfs_ring_close(ring);
		kvfs_close(k);
		return 0;
	}
	if (argc > 4 && !strcmp(argv[4], "large"))
		entry_bytes = 512u << 10;
	must(kvfs_ring_open(k, entries, entry_bytes, &ring), "ring");
	polls = argc > 4 && !strcmp(argv[4], "poll");
	n_lines = lines_read();
	if (!strcmp(argv[2], "rate"))
		printf("%.0f %.0f\n", rate_of_ioctl(atof(argv[3])),
		       rate_of_ring(atof(argv[3])));
	else if (!strcmp(argv[2], "hold"))
		hold();
	else if (!strcmp(argv[2], "refused") && argc > 4)
		refused(argv[1], argv + 3);
	else
		run(argv[2]);
	kvfs_ring_close(ring);
	kvfs_close(k);
	return 0;
}
