/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_BENCH_H
#define KVFS_TOOLS_BENCH_H

/*
 * kvfs bench: every operation at every place, interleaved.
 *
 *      bench.c         the verb: what to measure, in which order
 *      bench_plan.c    what the options come to
 *      bench_place.c   where: kvfs, two tmpfs, a kvfs by direct_io
 *      bench_op.c      what: one table of operations
 *      bench_run.c     how: rounds of short slices, threads, samples
 *      bench_cpu.c     what a read costs the daemon; whose processor
 *      bench_report.c  the table and the JSON
 *      bench_remote.h  --remote: between two nodes
 *      bench_publish.h --publish: into Redis
 *      bench_fast.h    --fast: libkvfs
 *
 * A case is one operation at one place. All cases of a group (one size, one
 * number of threads) take turns, a slice of some ten milliseconds each, round
 * by round: what the machine does meanwhile hits all of them alike. Ratios are
 * taken within a round, at the median of its latencies; what is printed is the
 * median of the rounds. MiB/s is what was moved in the time that it took.
 */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/samples.h"

#define BENCH_BLOCKS_MAX 16
#define BENCH_NAMES 1000
#define BENCH_ROUNDS_MAX 64
#define BENCH_THREADS_MAX 16

/* -- places ------------------------------------------------------------- */

enum { PLACE_KVFS, PLACE_HUGE, PLACE_4K, PLACE_DIRECT, PLACES };

extern const char *const bench_suffixes[PLACES];

struct target;

struct bench_places {
	int dir[PLACES];     /* -1: not to be had */
	bool made_namespace; /* remove it at the end */
	const char *namespace_path;
	char base[32]; /* a tmpfs with the others in it, or "" */
	pid_t daemon;  /* of PLACE_DIRECT, or 0 */
};

/**
 * bench_places_open - make the places
 * @target: the folder to be measured; stays the caller's
 *
 * Goes into a mount namespace of its own, so that nothing of it is seen or
 * left. What cannot be had (not root) is left out with a line on stderr.
 *
 * Returns: 0, or -errno where the target itself cannot be used; one line is
 *          logged.
 */
int bench_places_open(struct bench_places *p, const struct target *target);
void bench_places_close(struct bench_places *p);

/* -- operations --------------------------------------------------------- */

/* The files of one group at one place: b00… to read, e0000… to look for. */
struct bench_set {
	int dir;
	size_t bytes;
	unsigned n_blocks;
};

/* One thread's part in one case. */
struct bench_task {
	const struct bench_set *set;
	unsigned thread;
	unsigned next;	    /* counts its operations, over all slices */
	void *buf;	    /* of set->bytes, written to once */
	const char *source; /* memcpy: n_blocks blocks */
	int fds[BENCH_BLOCKS_MAX];
};

struct bench_op {
	const char *name;
	bool no_place; /* memcpy */
	bool names;    /* exists_1000 */
	/* All 0 or -errno; NULL: nothing to do. begin and end frame a slice,
	 * run is timed, after is not. */
	int (*begin)(struct bench_task *t);
	int (*run)(struct bench_task *t, unsigned i);
	void (*after)(struct bench_task *t, unsigned i);
	void (*end)(struct bench_task *t);
};

extern const struct bench_op bench_ops[]; /* [0] is memcpy; ends with {} */

/** bench_set_make - store the files: blocks, or names where bytes is 0. */
int bench_set_make(const struct bench_set *s, const void *buf);
void bench_set_remove(const struct bench_set *s, unsigned n_threads);

/* -- the plan ----------------------------------------------------------- */

#define BENCH_LIST_MAX 8

struct bench_args {
	const char *sizes, *threads, *ops;
	double seconds;
	int transport;
	bool quick, json, remote, publish, fast;
};

enum bench_transport { BENCH_TCP, BENCH_RDMA }; /* of --remote */

struct bench_plan {
	size_t sizes[BENCH_LIST_MAX];
	unsigned threads[BENCH_LIST_MAX];
	unsigned n_sizes, n_threads, n_rounds;
	const char *ops; /* comma list, or NULL: all */
	double seconds;
	enum bench_transport transport;
	bool json, remote, publish, fast;
};

/** bench_plan_make - 0, or an exit status after one line. */
int bench_plan_make(const struct bench_args *a, struct bench_plan *p);

/** bench_plan_has - is it wanted? memcpy always is: the others are held to
 *  it. */
bool bench_plan_has(const struct bench_plan *p, const struct bench_op *op);

/** bench_plan_names - is this operation among --ops, or are all wanted? */
bool bench_plan_names(const struct bench_plan *p, const char *op);

/* -- running ------------------------------------------------------------ */

struct bench_case {
	const struct bench_op *op;
	int place;
	int err; /* it failed and is left out from then on */
	struct bench_set set;
	struct samples samples;
	double rate[BENCH_ROUNDS_MAX]; /* operations a second at the median, by
					  round */
	unsigned n_rounds;
};

struct bench_group {
	size_t bytes; /* 0: exists_1000 */
	unsigned n_threads, n_cases, n_rounds;
	int64_t slice_ns;
	struct bench_case *cases;
	const char *source;
	const char *here;	   /* what the report calls PLACE_KVFS */
	struct progress *progress; /* counts slices, in *done */
	uint64_t *done;
};

/** bench_run - take turns until all rounds are done or bench_stopped is set. */
int bench_run(struct bench_group *g);

extern volatile int bench_stopped;

/** bench_buffer - memory in huge pages, written to once; NULL: none. */
void *bench_buffer(size_t bytes);

/* -- what it costs the daemon ------------------------------------------- */

/** bench_pin - this thread has the i-th processor, as an engine's threads do:
 *  one that the scheduler moves to an idle processor after each answer pays for
 *  waking that, and the comparison would be of schedulers. */
void bench_pin(unsigned i);

/**
 * bench_daemon_cpu - CPU time of the daemon for one open, read, close of a
 *                    4 MiB block
 * @us: set on success
 *
 * Returns: 0, or -errno where its process cannot be found or watched.
 */
int bench_daemon_cpu(const char *mountpoint, int dir, double *us);

/** bench_daemon_pid - of this mount; 0: it does not say. */
pid_t bench_daemon_pid(const char *mountpoint);

#define BENCH_CPU_BYTES (4u << 20)

/* -- reports ------------------------------------------------------------ */

/** bench_ratio - median over the rounds of a's rate to b's; < 0: none. */
double bench_ratio(const struct bench_case *a, const struct bench_case *b);

/** bench_median - of at most BENCH_ROUNDS_MAX; < 0: of none. */
double bench_median(const double *values, unsigned n);

/** bench_find - the case of an operation at a place that has figures, or
 *  NULL. */
const struct bench_case *bench_find(const struct bench_group *g, const char *op,
				    int place);

void bench_report_group(struct bench_group *g, bool json);
void bench_report_cpu(double us, bool json);

/** bench_report_targets - the figures that kvfs promises, and what came out;
 *  filled while the groups are reported. */
void bench_report_targets(void);

#endif
