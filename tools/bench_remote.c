// SPDX-License-Identifier: MIT
#include "tools/bench_remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/progress.h"
#include "tools/verb.h"

#define SLICE_MIN_NS (50 * NS_PER_MS)

/* What is under way. */
struct remote {
	const struct bench_plan *plan;
	struct remote_ends ends;
	struct remote_engines *engines; /* NULL: not wanted */
	struct remote_iperf iperf;
	struct progress progress;
	uint64_t done;
	int64_t slice_ns;
	unsigned missed;
	bool failed;
};

static const unsigned engine_in_flight[] = {1, 4, 8}, mount_readers[] = {1, 4},
		      gets[] = {16}, batches[] = {1};

/* -- groups ------------------------------------------------------------- */

static unsigned cases_add(const struct remote *r, const char *op, size_t bytes,
			  const unsigned *n, unsigned n_n,
			  struct remote_case *cases)
{
	if (r->plan->n_threads) {
		n = r->plan->threads;
		n_n = r->plan->n_threads;
	}
	for (unsigned i = 0; i < n_n && cases; i++)
		cases[i] = (struct remote_case){
			.op = op, .bytes = bytes, .n = n[i]};
	return n_n;
}

/* By one reader, whatever --threads says. */
static unsigned chain_add(size_t bytes, struct remote_case *cases)
{
	static const char *const ops[] = {"chain", "chain_reversed"};

	for (unsigned i = 0; i < 2 && cases; i++)
		cases[i] = (struct remote_case){
			.op = ops[i], .bytes = bytes, .n = 1};
	return 2;
}

/* Counts only where `cases` is NULL. */
static unsigned cases_make(const struct remote *r, size_t bytes,
			   struct remote_case *cases)
{
	unsigned n = 0;

	if (bench_plan_names(r->plan, "engine_fetch"))
		n += cases_add(r, "engine_fetch", bytes, engine_in_flight, 3,
			       cases);
	if (r->plan->ops && bench_plan_names(r->plan, "engine_batch"))
		n += cases_add(r, "engine_batch", bytes, batches, 1,
			       cases ? cases + n : NULL);
	if (r->ends.mounts && bench_plan_names(r->plan, "mount_fetch"))
		n += cases_add(r, "mount_fetch", bytes, mount_readers, 2,
			       cases ? cases + n : NULL);
	if (r->ends.mounts && r->plan->ops &&
	    bench_plan_names(r->plan, "chain"))
		n += chain_add(bytes, cases ? cases + n : NULL);
	if (r->ends.mounts && r->plan->ops &&
	    bench_plan_names(r->plan, "get_registered"))
		n += cases_add(r, "get_registered", bytes, gets, 1,
			       cases ? cases + n : NULL);
	return n;
}

static int slice_run(struct remote *r, struct remote_case *k,
		     struct remote_slice *s)
{
	if (!strcmp(k->op, "iperf3"))
		return remote_iperf_slice(&r->iperf, k, s);
	if (!strcmp(k->op, "ib_write_bw"))
		return remote_verbs_slice(&r->ends, k, s);
	if (!strncmp(k->op, "engine", 6))
		return remote_engines_slice(r->engines, k, r->slice_ns, s);
	return remote_mounts_slice(&r->ends, k, s, &r->missed);
}

static void case_turn(struct remote *r, struct remote_case *k, unsigned round)
{
	struct remote_slice s = {.cpu_s = -1};

	progress_update(&r->progress, ++r->done);
	if (k->err || bench_stopped)
		return;
	k->err = slice_run(r, k, &s);
	if (bench_stopped)
		return;
	if (k->err) {
		progress_clear(&r->progress);
		log_warn("bench: %s: %zu bytes, %u at once: %s; left out",
			 k->op, k->bytes, k->n, strerror(-k->err));
		r->failed = true;
		return;
	}
	k->rate[round] = (double)s.bytes * 1e9 / (double)s.ns;
	k->cpu[round] = s.cpu_s > 0 ? s.cpu_s * 1e9 / (double)s.bytes : 0;
}

static unsigned n_rivals(const struct remote *r)
{
	return r->plan->transport == BENCH_RDMA ? 1 : r->iperf.server ? 2 : 0;
}

static int group_run(struct remote *r, size_t bytes)
{
	bool rdma = r->plan->transport == BENCH_RDMA;
	const char *rival = rdma ? "ib_write_bw" : "iperf3";
	struct remote_group g = {
		.bytes = bytes,
		.n_rounds = r->plan->n_rounds,
		.rival = {{.op = rival, .bytes = bytes, .n = 1},
			  {.op = rival, .bytes = bytes, .n = 2}},
		.n_cases = cases_make(r, bytes, NULL),
	};

	g.cases = calloc(g.n_cases + 1, sizeof(*g.cases));
	if (!g.cases)
		return -ENOMEM;
	cases_make(r, bytes, g.cases);
	for (unsigned round = 0; round < g.n_rounds; round++) {
		for (unsigned i = 0; i < n_rivals(r); i++)
			case_turn(r, &g.rival[i], round);
		for (unsigned i = 0; i < g.n_cases; i++)
			case_turn(r, &g.cases[i], round);
	}
	progress_clear(&r->progress);
	remote_report_group(&g, r->plan->json);
	for (unsigned i = 0; i < g.n_cases; i++)
		samples_free(&g.cases[i].samples);
	free(g.cases);
	return 0;
}

/* -- the whole ---------------------------------------------------------- */

static void groups_run(struct remote *r)
{
	const struct bench_plan *p = r->plan;
	unsigned ours = cases_make(r, 1, NULL) * p->n_rounds;
	unsigned per_group = ours + n_rivals(r) * p->n_rounds;
	int err = 0;

	r->slice_ns = (int64_t)(p->seconds * NS_PER_S / p->n_sizes / ours);
	if (r->slice_ns < SLICE_MIN_NS)
		r->slice_ns = SLICE_MIN_NS;
	progress_start(&r->progress, "measuring",
		       (uint64_t)per_group * p->n_sizes, PROGRESS_COUNT);
	for (unsigned i = 0; i < p->n_sizes && !bench_stopped && !err; i++)
		err = group_run(r, p->sizes[i]);
	progress_finish(&r->progress);
	if (r->missed)
		log_warn("bench: %u blocks were not found in time "
			 "and are not in the figures",
			 r->missed);
	r->failed |= err != 0;
}

static bool wants_engines(const struct bench_plan *plan)
{
	return bench_plan_names(plan, "engine_fetch") ||
	       bench_plan_names(plan, "engine_batch");
}

static size_t largest(const struct bench_plan *plan)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < plan->n_sizes; i++)
		if (plan->sizes[i] > bytes)
			bytes = plan->sizes[i];
	return bytes;
}

int bench_remote(const struct bench_plan *plan, char **dirs)
{
	bool rdma = plan->transport == BENCH_RDMA;
	struct remote r = {.plan = plan};
	int status = remote_ends_open(&r.ends, dirs);

	if (status)
		return status;
	if (rdma && remote_verbs_find(&r.ends)) {
		remote_ends_close(&r.ends);
		return verb_fail(EXIT_TROUBLE,
				 "--transport=rdma: no RDMA port of this "
				 "machine can be used; 'kvfs topology' says "
				 "why");
	}
	if (!cases_make(&r, 1, NULL)) {
		remote_ends_close(&r.ends);
		return verb_fail(EXIT_USAGE,
				 "%s: two mounts are wanted: kvfs "
				 "bench --remote DIR-A DIR-B",
				 plan->ops);
	}
	if (wants_engines(plan) &&
	    remote_engines_open(&r.engines, &r.ends, rdma, largest(plan))) {
		remote_ends_close(&r.ends);
		return EXIT_TROUBLE;
	}
	if (!rdma)
		remote_iperf_open(&r.iperf, &r.ends);
	groups_run(&r);
	remote_iperf_close(&r.iperf);
	remote_engines_close(r.engines);
	remote_ends_close(&r.ends);
	if (!plan->json)
		remote_report_targets(rdma);
	return r.failed || bench_stopped ? EXIT_TROUBLE : EXIT_FINE;
}
