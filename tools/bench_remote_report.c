// SPDX-License-Identifier: MIT
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "tools/bench_remote.h"
#include "tools/json.h"
#include "tools/term.h"

struct figures {
	double p50_us, p99_us, mib_s, cpu_s_per_gb, x_rival; /* < 0: none */
	double x_cpu;	/* of iperf3's seconds a GB */
	double x_chain; /* a chain: of the same last to first */
};

/* -- figures ------------------------------------------------------------ */

/* the rival in one round: the faster of its two, or NULL. */
static const struct remote_case *best_rival(const struct remote_group *g,
					    unsigned round)
{
	const struct remote_case *one = &g->rival[0], *two = &g->rival[1];
	const struct remote_case *best =
		one->rate[round] > two->rate[round] ? one : two;

	return best->rate[round] > 0 ? best : NULL;
}

/* The median of those rounds that have a figure. */
static double median_of(const double *values, unsigned n)
{
	double v[BENCH_ROUNDS_MAX];
	unsigned k = 0;

	for (unsigned i = 0; i < n; i++)
		if (values[i] > 0)
			v[k++] = values[i];
	return bench_median(v, k);
}

/* A chain's rate to that of the same round without anything fetched ahead. */
static double chain_gain(const struct remote_group *g,
			 const struct remote_case *k)
{
	const struct remote_case *other = k + 1; /* as they were added */
	double x[BENCH_ROUNDS_MAX] = {0};

	if (strcmp(k->op, "chain"))
		return -1;
	for (unsigned i = 0; i < g->n_rounds; i++)
		if (other->rate[i] > 0)
			x[i] = k->rate[i] / other->rate[i];
	return median_of(x, g->n_rounds);
}

static struct figures figures_of(const struct remote_group *g,
				 struct remote_case *k)
{
	double x[BENCH_ROUNDS_MAX] = {0}, x_cpu[BENCH_ROUNDS_MAX] = {0};
	struct figures f = {-1, -1, -1, -1, -1, -1, -1};

	for (unsigned i = 0; i < g->n_rounds; i++) {
		const struct remote_case *rival = best_rival(g, i);

		if (!rival)
			continue;
		x[i] = k->rate[i] / rival->rate[i];
		if (rival->cpu[i] > 0)
			x_cpu[i] = k->cpu[i] / rival->cpu[i];
	}
	if (k->samples.n) {
		f.p50_us = samples_us(&k->samples, 50);
		f.p99_us = samples_us(&k->samples, 99);
	}
	f.mib_s = median_of(k->rate, g->n_rounds);
	if (f.mib_s > 0)
		f.mib_s /= 1 << 20;
	f.cpu_s_per_gb = median_of(k->cpu, g->n_rounds);
	f.x_rival = median_of(x, g->n_rounds);
	f.x_cpu = median_of(x_cpu, g->n_rounds);
	f.x_chain = chain_gain(g, k);
	return f;
}

/* -- targets ------------------------------------------------------------ */

enum figure { X_RIVAL, X_CPU, X_CHAIN };

/* x_cpu: at most; the others: at least. */
static struct promise {
	const char *what, *op;
	size_t bytes;
	unsigned n_min, n_max; /* the best of these */
	enum figure figure;
	double wanted, got; /* got < 0: not measured */
} promises[] = {
	{"fetch of 4 MiB, several in flight, of iperf3", "engine_fetch",
	 4 << 20, 2, 16, X_RIVAL, 0.90, -1},
	{"fetch of 4 MiB, one at a time, of iperf3", "engine_fetch", 4 << 20, 1,
	 1, X_RIVAL, 0.60, -1},
	{"fetch of 64 KiB, 8 in flight, of iperf3", "engine_fetch", 64 << 10, 8,
	 8, X_RIVAL, 0.75, -1},
	{"CPU a GB, 4 MiB, several in flight, of iperf3's", "engine_fetch",
	 4 << 20, 2, 16, X_CPU, 1.1, -1},
	{"open + read 4 MiB + close, several readers, of iperf3", "mount_fetch",
	 4 << 20, 2, 16, X_RIVAL, 0.75, -1},
	{"open + read 4 MiB + close, one reader, of iperf3", "mount_fetch",
	 4 << 20, 1, 1, X_RIVAL, 0.55, -1},
	{"chain of 4 MiB over a link with a delay or a limit, of itself last "
	 "to first",
	 "chain", 4 << 20, 1, 1, X_CHAIN, 2, -1},
	{"get of 4 MiB into a registered buffer, 16 in flight, of iperf3",
	 "get_registered", 4 << 20, 16, 16, X_RIVAL, 0.90, -1},
	{"fetch of 1 MiB by RDMA, of ib_write_bw", "engine_fetch", 1 << 20, 1,
	 16, X_RIVAL, 0.85, -1},
	{"fetch of 4 MiB by RDMA, of ib_write_bw", "engine_fetch", 4 << 20, 1,
	 16, X_RIVAL, 0.85, -1},
	{"batch of 4,096 times 4 KiB by RDMA, of ib_write_bw", "engine_batch",
	 4 << 10, 1, 16, X_RIVAL, 0.85, -1},
	{"fetch of 1 GiB by RDMA, of ib_write_bw", "engine_fetch", 1 << 30, 1,
	 16, X_RIVAL, 0.85, -1},
};

#define PROMISES (sizeof(promises) / sizeof(promises[0]))
#define PROMISES_RDMA 4

static double figure_of(const struct promise *p, const struct figures *f)
{
	return p->figure == X_CPU     ? f->x_cpu
	       : p->figure == X_CHAIN ? f->x_chain
				      : f->x_rival;
}

static bool better(const struct promise *p, double a, double b)
{
	return p->figure == X_CPU ? a <= b : a >= b;
}

/* Those by RDMA stand last. */
static struct promise *promises_of(bool rdma, struct promise **end)
{
	*end = promises + PROMISES - (rdma ? 0 : PROMISES_RDMA);
	return rdma ? *end - PROMISES_RDMA : promises;
}

static void note_promises(const struct remote_case *k, const struct figures *f,
			  bool rdma)
{
	struct promise *end, *p = promises_of(rdma, &end);

	for (; p < end; p++) {
		double got = figure_of(p, f);

		if (strcmp(p->op, k->op) || p->bytes != k->bytes ||
		    k->n < p->n_min || k->n > p->n_max || got < 0)
			continue;
		if (p->got < 0 || better(p, got, p->got))
			p->got = got;
	}
}

void remote_report_targets(bool rdma)
{
	static const struct table_column heads[] = {
		{"target", false},
		{"wanted", true},
		{"measured", true},
		{"", false},
	};
	struct table *t = table_new(heads, 4);
	struct promise *end, *p = promises_of(rdma, &end);
	bool any = false;

	for (; p < end; p++) {
		if (p->got < 0)
			continue;
		any = true;
		table_add(t, "%s", p->what);
		table_add(t, "%s %.2f",
			  p->figure == X_CPU ? "<=" : ">=", p->wanted);
		table_add(t, "%.2f", p->got);
		table_add(t, "%s",
			  better(p, p->got, p->wanted) ? "reached" : "missed");
	}
	if (any)
		table_print(t, stdout);
	table_free(t);
}

/* -- reports ------------------------------------------------------------ */

static json_t *figure_json(double v)
{
	return v < 0 ? json_null() : json_real(v);
}

static const char *x_name(const struct remote_group *g)
{
	return strcmp(g->rival[0].op, "iperf3") ? "x_ib_write_bw" : "x_iperf3";
}

static void put_json(const struct remote_group *g, const struct remote_case *k,
		     const struct figures *f)
{
	json_put_line(json_pack(
		"{s:s, s:I, s:i, s:o, s:o, s:o, s:o, s:o}", "op", k->op,
		"bytes", (json_int_t)k->bytes, "threads", (int)k->n, "p50_us",
		figure_json(f->p50_us), "p99_us", figure_json(f->p99_us),
		"mib_s", figure_json(f->mib_s), "cpu_s_per_gb",
		figure_json(f->cpu_s_per_gb), x_name(g),
		figure_json(f->x_rival)));
}

static struct table *table_of(const struct remote_group *g)
{
	static struct table_column columns[] = {
		{"operation", false}, {"at once", true}, {"p50 us", true},
		{"p99 us", true},     {"MiB/s", true},	 {"CPU s/GB", true},
		{"x iperf3", true},
	};

	if (strcmp(g->rival[0].op, "iperf3"))
		columns[6].title = "x ib_write_bw";
	return table_new(columns, 7);
}

static void add_figure(struct table *t, double v, const char *fmt)
{
	char text[32] = "";

	if (v >= 0)
		snprintf(text, sizeof(text), fmt, v);
	table_add(t, "%s", text);
}

static void add_row(struct table *t, const struct remote_case *k,
		    const struct figures *f)
{
	table_add(t, "%s", k->op);
	table_add(t, "%u", k->n);
	add_figure(t, f->p50_us, "%.1f");
	add_figure(t, f->p99_us, "%.1f");
	add_figure(t, f->mib_s, "%.0f");
	add_figure(t, f->cpu_s_per_gb, "%.3f");
	add_figure(t, f->x_rival, "%.2f");
}

static void report_case(const struct remote_group *g, struct remote_case *k,
			struct table *t)
{
	struct figures f = figures_of(g, k);

	if (f.mib_s < 0)
		return;
	note_promises(k, &f, strcmp(g->rival[0].op, "iperf3") != 0);
	if (t)
		add_row(t, k, &f);
	else
		put_json(g, k, &f);
}

void remote_report_group(struct remote_group *g, bool json)
{
	struct table *t = json ? NULL : table_of(g);
	char size[SIZE_FORMAT_BYTES];

	for (int i = 0; i < 2; i++)
		report_case(g, &g->rival[i], t);
	for (unsigned i = 0; i < g->n_cases; i++)
		report_case(g, &g->cases[i], t);
	if (!json) {
		printf("%sblocks of %s%s\n", term_style(stdout, TERM_BOLD),
		       size_format(g->bytes, size, sizeof(size)),
		       term_style(stdout, TERM_PLAIN));
		table_print(t, stdout);
		table_free(t);
		printf("\n");
	}
	fflush(stdout);
}
