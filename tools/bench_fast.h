/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_BENCH_FAST_H
#define KVFS_TOOLS_BENCH_FAST_H

/*
 * kvfs bench --fast: what libkvfs does, against what a program would do
 * without it.
 *
 *      bench_fast.c         measuring, reports
 *      bench_fast_case.c    the table of cases
 *      bench_fast_memory.c  what buffers and rings cost the daemon
 *
 * Given two nodes' mounts, get_registered of bench_remote.h follows.
 */

#include "gds/kvfs.h"
#include "tools/bench.h"
#include "tools/progress.h"

struct target;

#define FAST_BLOCKS 16
#define FAST_MANY 64 /* of one in-place get */
#define FAST_LARGE (4u << 20)
#define FAST_DIGEST 16

struct fast {
	struct bench_places places;
	const char *path; /* of the namespace */
	struct kvfs *k;
	char *source, *to; /* FAST_BLOCKS * FAST_LARGE bytes; FAST_LARGE */
	uint8_t digests[BENCH_NAMES * FAST_DIGEST];
	char names[BENCH_NAMES][2 * FAST_DIGEST + 1]; /* of them */
	const char *paths[FAST_MANY];		      /* names too */
	char text[FAST_MANY][16];
	struct kvfs_block blocks[FAST_MANY];
	struct kvfs_frame frame;
	struct kvfs *ring_k; /* a handle has one ring in its life */
	struct kvfs_ring *ring;
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
	void (*clear)(struct fast *f); /* also after prepare failed */
};

extern const struct fast_case fast_cases[]; /* ends with {} */

/* Of the daemon, in KiB; < 0: it cannot be told. */
double fast_buffers_kib(struct fast *f, pid_t daemon);
double fast_rings_kib(struct fast *f, pid_t daemon);
#define FAST_BUFFERS 1000
#define FAST_BUFFER_BYTES 4096
#define FAST_RINGS 64
#define FAST_RING_BYTES 4096 /* of an entry, of which a ring has 64 */

/** bench_fast - libkvfs against what a program does without it, in a namespace
 *  of the target. Returns: an exit status. */
int bench_fast(const struct bench_plan *plan, const struct target *at);

#endif
