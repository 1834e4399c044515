/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_BENCH_REMOTE_H
#define KVFS_TOOLS_BENCH_REMOTE_H

/*
 * kvfs bench --remote: fetches between two nodes, held to iperf3, or by RDMA to
 * ib_write_bw.
 *
 *      bench_remote.c         what to measure, in which order
 *      bench_remote_ends.c    the two nodes, and where bytes go between them
 *      bench_remote_engine.c  engine_fetch, engine_batch: two engines in two
 *                             processes
 *      bench_remote_mount.c   mount_fetch, chain: store through A, read
 *                             through B
 *      bench_remote_get.c     get_registered: into a buffer of libkvfs
 *      bench_remote_iperf.c   iperf3, one and two streams
 *      bench_remote_verbs.c   ib_write_bw, one queue pair
 *      bench_remote_report.c  the table and the JSON
 *
 * Bytes go from A to B. This process works in B's network namespace; what
 * belongs to A is a child in A's. All cases of one size take turns with iperf3,
 * round by round. x_iperf3 and the CPU's ratio are taken within a round, to the
 * better of iperf3's two; what is printed is the median of the rounds.
 */

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/bench.h"
#include "tools/samples.h"

#define REMOTE_IN_FLIGHT_MAX BENCH_THREADS_MAX
#define REMOTE_ADDRESS_BYTES 64

/* -- the ends ----------------------------------------------------------- */

struct remote_end {
	char mountpoint[PATH_MAX]; /* "": no mounts were given */
	char path[PATH_MAX];	   /* of the namespace that is worked in */
	pid_t daemon;
	int dir;
	int netns;			    /* -1: it is the one we are in */
	char address[REMOTE_ADDRESS_BYTES]; /* numeric */
};

struct remote_ends {
	struct remote_end a, b;
	bool mounts; /* two mounts were given */
	bool made_namespace;
};

/**
 * remote_ends_open - find out about both; go into B's network namespace
 * @dirs: two folders of kvfs mounts, or NULL: this machine's loopback
 *
 * Returns: 0, or an exit status after one line.
 */
int remote_ends_open(struct remote_ends *e, char **dirs);
void remote_ends_close(struct remote_ends *e);

/** remote_end_enter - in a child: be where this end is; 0 or -errno. */
int remote_end_enter(const struct remote_end *end);

/** remote_cpu_ns - CPU time of a process, all its threads, kernel work
 *  included; 0: it cannot be told. */
uint64_t remote_cpu_ns(pid_t pid);

/** remote_cpu_of - of both daemons and this process. */
uint64_t remote_cpu_of(const struct remote_ends *e);

/* -- cases -------------------------------------------------------------- */

/* What one slice came to. */
struct remote_slice {
	uint64_t bytes;
	int64_t ns;
	double cpu_s; /* of both ends; < 0: unknown */
};

struct remote_case {
	const char *op;
	size_t bytes;
	unsigned n; /* fetches in flight, readers, streams */
	int err;    /* it failed and is left out from then on */
	struct samples samples;
	double rate[BENCH_ROUNDS_MAX]; /* bytes a second by round; 0: none */
	double cpu[BENCH_ROUNDS_MAX];  /* seconds a GB; 0: none */
};

struct remote_group {
	size_t bytes;
	unsigned n_rounds;
	struct remote_case rival[2]; /* iperf3 or ib_write_bw: of one, of more
				      * streams */
	struct remote_case *cases;
	unsigned n_cases;
};

/* -- engine_fetch, engine_batch ----------------------------------------- */

struct remote_engines;

/** remote_engines_open - two connected engines, for blocks of up to so many
 *  bytes; 0, or -errno, one line logged */
int remote_engines_open(struct remote_engines **p, const struct remote_ends *e,
			bool rdma, size_t bytes_max);
void remote_engines_close(struct remote_engines *p);

/** remote_engines_slice - keep k->n fetches in flight for about slice_ns: of a
 *  block, or of a batch of ENGINE_BATCH_MAX, as far as there is memory. */
int remote_engines_slice(struct remote_engines *p, struct remote_case *k,
			 int64_t slice_ns, struct remote_slice *s);

/* -- mount_fetch, chain, get_registered --------------------------------- */

#define REMOTE_NAME_BYTES 48

/** remote_block_name - of the i-th block of a slice. */
void remote_block_name(unsigned serial, unsigned i,
		       char name[REMOTE_NAME_BYTES]);
/** remote_block_mark - what it begins with: which one it is. */
uint64_t remote_block_mark(unsigned serial, unsigned i);

/** remote_mounts_slice - store blocks through A, read each once through B by
 *  k->n readers: last to first, or a chain (k->op) in order; or get_registered.
 *  Those that B did not find are counted in *missed. */
int remote_mounts_slice(const struct remote_ends *e, struct remote_case *k,
			struct remote_slice *s, unsigned *missed);

/** remote_get_all - get n_blocks that were stored, k->n at a time. */
int remote_get_all(const struct remote_ends *e, struct remote_case *k,
		   unsigned serial, unsigned n_blocks, struct remote_slice *s,
		   unsigned *missed);

/* -- iperf3 ------------------------------------------------------------- */

struct remote_iperf {
	const struct remote_ends *ends;
	pid_t server; /* 0: iperf3 is not to be had */
	int port;
	bool served; /* once: then it can be had again */
};

/** remote_iperf_open - start its server; where that cannot be, one line says
 *  so and nothing is held to it. */
void remote_iperf_open(struct remote_iperf *i, const struct remote_ends *e);
void remote_iperf_close(struct remote_iperf *i);

/** remote_port_find - one that was free a moment ago; < 0: none. */
int remote_port_find(void);
/** remote_exec - in a child; out: its stdout, or -1 to throw it away. Never
 *  comes back. */
void remote_exec(const struct remote_end *where, int out, char *const argv[]);

/** remote_iperf_slice - a second of k->n streams; 0 or -errno. */
int remote_iperf_slice(struct remote_iperf *i, struct remote_case *k,
		       struct remote_slice *s);

/* -- ib_write_bw -------------------------------------------------------- */

/** remote_verbs_find - without mounts: the address of a card of this machine.
 *  0 or -errno. */
int remote_verbs_find(struct remote_ends *e);
/** remote_verbs_slice - as remote_iperf_slice, of k->n queue pairs. */
int remote_verbs_slice(const struct remote_ends *e, struct remote_case *k,
		       struct remote_slice *s);

/* -- reports ------------------------------------------------------------ */

void remote_report_group(struct remote_group *g, bool json);
void remote_report_targets(bool rdma);

/* -- the whole ---------------------------------------------------------- */

/** bench_remote - dirs: as remote_ends_open. Returns: the exit status. */
int bench_remote(const struct bench_plan *plan, char **dirs);

#endif
