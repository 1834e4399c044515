// SPDX-License-Identifier: MIT
#include "tools/bench.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/bench_fast.h"
#include "tools/bench_publish.h"
#include "tools/bench_remote.h"
#include "tools/progress.h"
#include "tools/target.h"
#include "tools/verb.h"

#define SET_BYTES (128UL << 20) /* of one place's files, about */
#define BUSY_LOAD 0.7
#define SLICE_MIN_NS (2 * NS_PER_MS)

/* What is under way. */
struct bench {
	const struct bench_plan *plan;
	struct bench_places places;
	struct progress progress;
	uint64_t n_slices, done;
	int64_t slice_ns;
	const char *here;
	bool failed; /* a case of the place that is measured */
};

/* -- groups ------------------------------------------------------------- */

static unsigned cases_add(const struct bench *b, const struct bench_op *op,
			  size_t bytes, struct bench_case *cases)
{
	unsigned n_blocks = bytes ? (unsigned)(SET_BYTES / bytes) : 0, n = 0;

	n_blocks = n_blocks < 4 ? 4 : n_blocks;
	n_blocks = n_blocks > BENCH_BLOCKS_MAX ? BENCH_BLOCKS_MAX : n_blocks;
	for (int at = 0; at < (op->no_place ? 1 : PLACES); at++) {
		if (!op->no_place && b->places.dir[at] < 0)
			continue;
		if (cases)
			cases[n] = (struct bench_case){
				.op = op,
				.place = at,
				.set = {b->places.dir[at], bytes, n_blocks},
			};
		n++;
	}
	return n;
}

/* All cases of a group; counts only where `cases` is NULL. */
static unsigned cases_make(const struct bench *b, size_t bytes,
			   struct bench_case *cases)
{
	unsigned n = 0;

	for (const struct bench_op *op = bench_ops; op->name; op++)
		if (bench_plan_has(b->plan, op) && op->names == !bytes)
			n += cases_add(b, op, bytes, cases ? cases + n : NULL);
	return n;
}

/* Stores the files at every place; where that fails its cases are out. */
static void sets_make(struct bench_group *g, const void *buf)
{
	bool made[PLACES] = {false};
	int err[PLACES] = {0};

	for (unsigned i = 0; i < g->n_cases; i++) {
		struct bench_case *k = &g->cases[i];

		if (k->op->no_place)
			continue;
		if (!made[k->place]) {
			bench_set_remove(&k->set, g->n_threads);
			err[k->place] = bench_set_make(&k->set, buf);
			if (err[k->place])
				log_warn("bench: %zu bytes%s: cannot store the "
					 "files to read: %s",
					 g->bytes, bench_suffixes[k->place],
					 strerror(-err[k->place]));
		}
		made[k->place] = true;
		k->err = err[k->place];
	}
}

static void group_clear(struct bench *b, struct bench_group *g)
{
	struct bench_set set = {.bytes = g->bytes};

	for (int at = 0; at < PLACES; at++) {
		set.dir = b->places.dir[at];
		if (set.dir >= 0)
			bench_set_remove(&set, g->n_threads);
	}
	for (unsigned i = 0; i < g->n_cases; i++) {
		b->failed |= g->cases[i].err && !g->cases[i].place;
		samples_free(&g->cases[i].samples);
	}
	free(g->cases);
	free((void *)g->source);
}

static int group_run(struct bench *b, size_t bytes, unsigned n_threads)
{
	struct bench_group g = {
		.bytes = bytes,
		.n_threads = n_threads,
		.n_rounds = b->plan->n_rounds,
		.slice_ns = b->slice_ns,
		.here = b->here,
		.progress = &b->progress,
		.done = &b->done,
	};
	int err = -ENOMEM;

	g.n_cases = cases_make(b, bytes, NULL);
	g.cases = calloc(g.n_cases + 1, sizeof(*g.cases));
	g.source = bench_buffer(bytes ? bytes * BENCH_BLOCKS_MAX : 1);
	if (g.cases && g.source) {
		cases_make(b, bytes, g.cases);
		sets_make(&g, g.source);
		err = bench_run(&g);
	}
	progress_clear(&b->progress);
	if (!err)
		bench_report_group(&g, b->plan->json);
	group_clear(b, &g);
	return err;
}

/* -- the whole ---------------------------------------------------------- */

static void count_slices(struct bench *b)
{
	const struct bench_plan *p = b->plan;
	unsigned n = cases_make(b, 0, NULL);

	for (unsigned s = 0; s < p->n_sizes; s++)
		n += cases_make(b, p->sizes[s], NULL);
	b->n_slices = (uint64_t)n * p->n_threads * p->n_rounds;
	b->slice_ns = (int64_t)(p->seconds * NS_PER_S / (double)b->n_slices);
	if (b->slice_ns < SLICE_MIN_NS)
		b->slice_ns = SLICE_MIN_NS;
}

static int groups_run(struct bench *b)
{
	const struct bench_plan *p = b->plan;
	int err = 0;

	for (unsigned s = 0; s < p->n_sizes; s++)
		for (unsigned t = 0; t < p->n_threads && !err; t++)
			if (!bench_stopped)
				err = group_run(b, p->sizes[s], p->threads[t]);
	for (unsigned t = 0; t < p->n_threads && !err; t++)
		if (cases_make(b, 0, NULL) && !bench_stopped)
			err = group_run(b, 0, p->threads[t]);
	return err;
}

static void cpu_run(const struct bench *b, const struct target *at)
{
	double us;
	int err;

	if (!at->mountpoint[0] || bench_stopped)
		return;
	err = bench_daemon_cpu(at->mountpoint, b->places.dir[PLACE_KVFS], &us);
	if (err)
		log_warn("bench: cannot tell the daemon's CPU time: %s",
			 strerror(-err));
	else
		bench_report_cpu(us, b->plan->json);
}

/* Others at work spoil the figures of small slices most. */
static void warn_if_busy(void)
{
	double load;

	if (getloadavg(&load, 1) == 1 && load > BUSY_LOAD)
		log_warn("bench: the machine is busy (load %.1f): the figures "
			 "will be worse than what it can do",
			 load);
}

static void stop(int sig)
{
	(void)sig;
	bench_stopped = 1;
}

static void prepare(void)
{
	struct sigaction a = {.sa_handler = stop};

	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
	warn_if_busy();
}

static int bench_at(struct bench *b, const struct target *at)
{
	int err;

	prepare();
	if (bench_places_open(&b->places, at))
		return EXIT_TROUBLE;
	b->here = at->mountpoint[0] ? "kvfs" : "here";
	count_slices(b);
	progress_start(&b->progress, "measuring", b->n_slices, PROGRESS_COUNT);
	err = groups_run(b);
	progress_finish(&b->progress);
	if (!err)
		cpu_run(b, at);
	if (!b->plan->json)
		bench_report_targets();
	bench_places_close(&b->places);
	return err || b->failed || bench_stopped ? EXIT_TROUBLE : EXIT_FINE;
}

static int remote_run(const struct bench_plan *plan, char **operands)
{
	if (operands[0] && !operands[1])
		return verb_fail(EXIT_USAGE,
				 "--remote: two mounts are wanted, or none");
	prepare();
	return bench_remote(plan, operands[0] ? operands : NULL);
}

static int publish_run(const struct bench_plan *plan, char **operands)
{
	if (operands[0])
		return verb_fail(EXIT_USAGE, "--publish: no folder is wanted");
	prepare();
	return bench_publish(plan);
}

/* Of one mount, and between two. */
static int fast_run(const struct bench_plan *plan, const struct target *at,
		    char **operands)
{
	struct bench_plan between = {
		.sizes = {4u << 20},
		.n_sizes = 1,
		.n_rounds = plan->n_rounds,
		.ops = "get_registered",
		.seconds = plan->seconds,
		.json = plan->json,
		.remote = true,
	};
	int status;

	prepare();
	status = bench_fast(plan, at);
	if (!operands[0] || !operands[1] || bench_stopped ||
	    !bench_plan_names(plan, "get_registered"))
		return status;
	if (!plan->json)
		printf("\n");
	return bench_remote(&between, operands) ? EXIT_TROUBLE : status;
}

static int bench_verb_run(void *args, char **operands)
{
	struct bench_plan plan;
	struct bench b = {.plan = &plan};
	struct target at;
	int status = bench_plan_make(args, &plan);

	if (status)
		return status;
	if (plan.remote)
		return remote_run(&plan, operands);
	if (plan.publish)
		return publish_run(&plan, operands);
	if (operands[0] && operands[1] && !plan.fast)
		return verb_fail(EXIT_USAGE,
				 "%s: two folders are for --remote and --fast",
				 operands[1]);
	if (target_find(&at, "bench", operands[0], "bench"))
		return EXIT_TROUBLE;
	if (plan.fast)
		return fast_run(&plan, &at, operands);
	return bench_at(&b, &at);
}

#define AT(member) offsetof(struct bench_args, member)

static const struct option_spec options[] = {
	{"sizes", 's', OPTION_TEXT, AT(sizes), "LIST",
	 "of blocks (default: 64K,1M,4M,16M)"},
	{"threads", 't', OPTION_TEXT, AT(threads), "LIST",
	 "how many at once (default: 1,2)"},
	{"ops", 'o', OPTION_TEXT, AT(ops), "LIST",
	 "of open_read_close, kept_fd, mmap, exists_1000,\n"
	 "create_write_close_rename (default: all)"},
	{"seconds", 'n', OPTION_REAL, AT(seconds), "N",
	 "measure for about so long (default: 70)"},
	{"quick", 'q', OPTION_FLAG, AT(quick), NULL,
	 "two sizes, one thread, ten seconds"},
	{"remote", 'r', OPTION_FLAG, AT(remote), NULL,
	 "between two nodes, against iperf3; --ops of engine_fetch,\n"
	 "engine_batch, mount_fetch, chain, get_registered; --threads:\n"
	 "how many in flight"},
	{"transport", 0, OPTION_CHOICE, AT(transport), "tcp|rdma",
	 "of --remote: what the engine goes by (default: tcp);\n"
	 "by RDMA it is held to ib_write_bw"},
	{"publish", 'p', OPTION_FLAG, AT(publish), NULL,
	 "new blocks a second into a redis-server of its own,\n"
	 "without and with an append-only file"},
	{"fast", 'f', OPTION_FLAG, AT(fast), NULL,
	 "libkvfs against what a program does without it; --ops of\n"
	 "those in kvfs(1)"},
	{"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object a line"},
	{}};

const struct verb verb_bench = {
	.name = "bench",
	.operands = "[DIR] | --fast [DIR [DIR-B]] | --remote [DIR-A DIR-B] | "
		    "--publish",
	.summary = "compare kvfs with memcpy, tmpfs and direct_io",
	.about = "Measures in a namespace \"bench\" of the kvfs at DIR "
		 "(default: "
		 "the only one\n"
		 "mounted), or in any other folder. All comparisons are "
		 "interleaved in one run;\n"
		 "ratios are of throughput, above 1 is better than what it "
		 "is held to. As root the\n"
		 "comparisons get file systems of their own, seen by nobody "
		 "else and gone afterwards.\n\n"
		 "With --remote: fetches between two engines on this machine "
		 "(engine_fetch) and,\n"
		 "where two nodes' mounts are given, blocks stored through A "
		 "and read through B\n"
		 "(mount_fetch), interleaved with iperf3 between the same "
		 "addresses.",
	.examples = "kvfs bench --quick\n"
		    "kvfs bench --fast /mnt/kvfs\n"
		    "kvfs bench /mnt/kvfs --sizes 4M --threads 1 --json\n"
		    "kvfs bench --remote --quick\n"
		    "kvfs bench --remote /tmp/kvfs-cluster/node-1/mnt "
		    "/tmp/kvfs-cluster/node-2/mnt",
	.options = options,
	.min_operands = 0,
	.max_operands = 2,
	.args_bytes = sizeof(struct bench_args),
	.run = bench_verb_run,
};
