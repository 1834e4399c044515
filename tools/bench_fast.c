// SPDX-License-Identifier: MIT
#include "tools/bench_fast.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/json.h"
#include "tools/target.h"
#include "tools/term.h"
#include "tools/verb.h"

/*
 * The two sides of a case take turns, a slice each, round by round; the ratio
 * of a round is that of their medians, and what is printed is the median of
 * the rounds.
 */

/* -- measuring ------------------------------------------------------------ */

static unsigned n_cases(const struct bench_plan *plan)
{
	unsigned n = 0;

	for (const struct fast_case *c = fast_cases; c->op; c++)
		n += bench_plan_names(plan, c->op);
	return n;
}

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
				     (2 * n_cases(plan) * plan->n_rounds));
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

static void report_memory(const char *op, unsigned n, const char *of, int bytes,
			  double kib, bool json)
{
	if (kib < 0)
		return;
	if (json)
		json_put_line(json_pack("{s:s, s:i, s:i, s:n, s:n, s:n, s:f}",
					"op", op, "bytes", bytes, "threads", 1,
					"p50_us", "p99_us", "mib_s",
					"daemon_kib", kib));
	else
		printf("%u %s cost the daemon %.0f KiB\n", n, of, kib);
}

static void report_memories(struct fast *f, pid_t daemon, bool json)
{
	if (!bench_stopped)
		report_memory("buffers_1000", FAST_BUFFERS,
			      "registered buffers", FAST_BUFFER_BYTES,
			      fast_buffers_kib(f, daemon), json);
	if (!bench_stopped)
		report_memory("rings_64", FAST_RINGS, "rings", FAST_RING_BYTES,
			      fast_rings_kib(f, daemon), json);
}

/* Returns: did any fail? */
static bool run_all(struct fast *f, const struct bench_plan *plan,
		    struct table *t)
{
	bool failed = false;

	progress_start(&f->progress, "measuring",
		       n_cases(plan) * plan->n_rounds, PROGRESS_COUNT);
	for (const struct fast_case *c = fast_cases; c->op && !bench_stopped;
	     c++) {
		struct outcome o = {.ratio = -1};
		int err;

		if (!bench_plan_names(plan, c->op))
			continue;
		err = measure(f, c, plan, &o);
		if (err) {
			progress_clear(&f->progress);
			log_warn("bench: %s: %s", c->what, kvfs_strerror(err));
			failed = true;
		} else if (o.ratio >= 0 && plan->json) {
			put_json(c, &o);
		} else if (o.ratio >= 0) {
			add_row(t, c, &o);
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

	if (!plan->json)
		table_print(t, stdout);
	table_free(t);
	if (!plan->ops)
		report_memories(f, bench_daemon_pid(mountpoint), plan->json);
	return failed;
}

/* What comes afterwards may use all processors again. */
static bool run_pinned(struct fast *f, const struct bench_plan *plan,
		       const char *mountpoint)
{
	cpu_set_t all;
	bool was_told = !sched_getaffinity(0, sizeof(all), &all), failed;

	bench_pin(0);
	failed = run_and_report(f, plan, mountpoint);
	if (was_told)
		sched_setaffinity(0, sizeof(all), &all);
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
	if (f) {
		f->path = at->path;
		for (unsigned i = 0; i < FAST_MANY; i++)
			f->blocks[i].error = -ECANCELED;
		err = bench_places_open(&f->places, at);
	}
	if (!err)
		err = kvfs_open(f->path, &f->k);
	if (!err) {
		f->source = bench_buffer((size_t)FAST_BLOCKS * FAST_LARGE);
		f->to = bench_buffer(FAST_LARGE);
		err = f->source && f->to ? 0 : -ENOMEM;
	}
	if (!err)
		failed = run_pinned(f, plan, at->mountpoint);
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
