// SPDX-License-Identifier: MIT
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "tools/bench.h"
#include "tools/json.h"
#include "tools/term.h"

enum { REF_MEMCPY, REF_HUGE, REF_4K, REFS };

struct figures {
	double p50_us, p99_us;
	double mib_s; /* < 0: does not apply; so below */
	double ratio[REFS];
};

/* -- figures ------------------------------------------------------------ */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(const double *values, unsigned n)
{
	double v[BENCH_ROUNDS_MAX];

	if (!n)
		return -1;
	memcpy(v, values, n * sizeof(*v));
	qsort(v, n, sizeof(*v), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

double bench_ratio(const struct bench_case *a, const struct bench_case *b)
{
	double v[BENCH_ROUNDS_MAX];
	unsigned n = 0;

	if (!a || !b || a == b)
		return -1;
	for (; n < a->n_rounds && n < b->n_rounds; n++)
		v[n] = b->rate[n] > 0 ? a->rate[n] / b->rate[n] : 0;
	return bench_median(v, n);
}

const struct bench_case *bench_find(const struct bench_group *g, const char *op,
				    int place)
{
	for (unsigned i = 0; i < g->n_cases; i++) {
		const struct bench_case *k = &g->cases[i];

		if (!strcmp(k->op->name, op) && k->n_rounds &&
		    (k->op->no_place || k->place == place))
			return k;
	}
	return NULL;
}

/* All bytes in the time spent, the slow operations too. */
static double mib_s(const struct bench_group *g, const struct samples *s)
{
	double seconds = (double)s->sum_ns / 1e9 / g->n_threads;

	return seconds > 0
		       ? (double)s->n * (double)g->bytes / (1 << 20) / seconds
		       : 0;
}

static struct figures figures_of(const struct bench_group *g,
				 struct bench_case *k)
{
	const char *op = k->op->name;
	struct figures f = {
		.p50_us = samples_us(&k->samples, 50),
		.p99_us = samples_us(&k->samples, 99),
		.mib_s = -1,
		.ratio = {-1, -1, -1},
	};

	if (g->bytes) {
		f.mib_s = mib_s(g, &k->samples);
		f.ratio[REF_MEMCPY] =
			bench_ratio(k, bench_find(g, "memcpy", 0));
	}
	if (!k->op->no_place) {
		f.ratio[REF_HUGE] =
			bench_ratio(k, bench_find(g, op, PLACE_HUGE));
		f.ratio[REF_4K] = bench_ratio(k, bench_find(g, op, PLACE_4K));
	}
	return f;
}

/* -- one object a line -------------------------------------------------- */

static json_t *figure_json(double v)
{
	return v < 0 ? json_null() : json_real(v);
}

static void put_json(const struct bench_group *g, const struct bench_case *k,
		     const struct figures *f)
{
	char op[64];

	snprintf(op, sizeof(op), "%s%s", k->op->name,
		 k->op->no_place ? "" : bench_suffixes[k->place]);
	json_put_line(json_pack("{s:s, s:I, s:i, s:f, s:f, s:o, s:o, s:o, s:o}",
				"op", op, "bytes", (json_int_t)g->bytes,
				"threads", (int)g->n_threads, "p50_us",
				f->p50_us, "p99_us", f->p99_us, "mib_s",
				figure_json(f->mib_s), "x_memcpy",
				figure_json(f->ratio[REF_MEMCPY]),
				"x_tmpfs_huge", figure_json(f->ratio[REF_HUGE]),
				"x_tmpfs_4k", figure_json(f->ratio[REF_4K])));
}

/* -- the table ---------------------------------------------------------- */

static const struct table_column columns[] = {
	{"operation", false},	{"at", false},	      {"p50 us", true},
	{"p99 us", true},	{"MiB/s", true},      {"x memcpy", true},
	{"x tmpfs huge", true}, {"x tmpfs 4k", true},
};

static void add_figure(struct table *t, double v, const char *fmt)
{
	char text[32] = "";

	if (v >= 0)
		snprintf(text, sizeof(text), fmt, v);
	table_add(t, "%s", text);
}

static void add_row(struct table *t, const struct bench_group *g,
		    const struct bench_case *k, const struct figures *f)
{
	const char *const at[PLACES] = {g->here, "tmpfs huge", "tmpfs 4k",
					"direct_io"};

	table_add(t, "%s", k->op->name);
	table_add(t, "%s", k->op->no_place ? "" : at[k->place]);
	table_add(t, "%.1f", f->p50_us);
	table_add(t, "%.1f", f->p99_us);
	add_figure(t, f->mib_s, "%.0f");
	for (int i = 0; i < REFS; i++)
		add_figure(t, f->ratio[i], "%.2f");
}

static void print_heading(const struct bench_group *g)
{
	char size[SIZE_FORMAT_BYTES];

	printf("%s%s%s, %u thread%s%s\n", term_style(stdout, TERM_BOLD),
	       g->bytes ? "blocks of " : "stat of 1000 existing names",
	       g->bytes ? size_format(g->bytes, size, sizeof(size)) : "",
	       g->n_threads, g->n_threads > 1 ? "s" : "",
	       term_style(stdout, TERM_PLAIN));
}

/* -- targets ------------------------------------------------------------ */

static struct promise {
	const char *what, *op;
	size_t bytes;
	int ref;
	double at_least, got; /* got < 0: not measured */
} promises[] = {
	{"open + read 4 MiB + close, of memcpy", "open_read_close", 4 << 20,
	 REF_MEMCPY, 0.80, -1},
	{"open + read 1 MiB + close, of memcpy", "open_read_close", 1 << 20,
	 REF_MEMCPY, 0.60, -1},
	{"pread 4 MiB on a kept fd, of memcpy", "kept_fd", 4 << 20, REF_MEMCPY,
	 0.90, -1},
	{"pread 4 MiB on a kept fd, of tmpfs huge", "kept_fd", 4 << 20,
	 REF_HUGE, 0.97, -1},
	{"create + write 4 MiB + close + rename, of memcpy",
	 "create_write_close_rename", 4 << 20, REF_MEMCPY, 0.90, -1},
	{"create + write 4 MiB + close + rename, of tmpfs 4k",
	 "create_write_close_rename", 4 << 20, REF_4K, 5, -1},
	{"stat of existing names, of tmpfs", "exists_1000", 0, REF_4K, 0.90,
	 -1},
};

#define PROMISES (sizeof(promises) / sizeof(promises[0]))
#define CPU_AT_MOST_US 30.0

static double cpu_us = -1;

static void note_promises(const struct bench_group *g,
			  const struct bench_case *k, const struct figures *f)
{
	if (g->n_threads > 1 || k->op->no_place || k->place != PLACE_KVFS)
		return;
	for (size_t i = 0; i < PROMISES; i++)
		if (promises[i].bytes == g->bytes &&
		    !strcmp(promises[i].op, k->op->name))
			promises[i].got = f->ratio[promises[i].ref];
}

static void print_promise(struct table *t, const char *what, const char *want,
			  double got, bool kept)
{
	table_add(t, "%s", what);
	table_add(t, "%s", want);
	table_add(t, "%.2f", got);
	table_add(t, "%s", kept ? "reached" : "missed");
}

void bench_report_targets(void)
{
	static const struct table_column heads[] = {
		{"target", false},
		{"wanted", true},
		{"measured", true},
		{"", false},
	};
	struct table *t = table_new(heads, 4);
	bool any = cpu_us >= 0;
	char want[32];

	for (size_t i = 0; i < PROMISES; i++) {
		if (promises[i].got < 0)
			continue;
		any = true;
		snprintf(want, sizeof(want), ">= %.2f", promises[i].at_least);
		print_promise(t, promises[i].what, want, promises[i].got,
			      promises[i].got >= promises[i].at_least);
	}
	if (cpu_us >= 0)
		print_promise(t, "daemon CPU per read of 4 MiB, us", "< 30",
			      cpu_us, cpu_us < CPU_AT_MOST_US);
	if (any)
		table_print(t, stdout);
	table_free(t);
}

/* -- reports ------------------------------------------------------------ */

void bench_report_group(struct bench_group *g, bool json)
{
	struct table *t = json ? NULL : table_new(columns, 8);

	for (unsigned i = 0; i < g->n_cases; i++) {
		struct bench_case *k = &g->cases[i];
		struct figures f;

		if (!k->n_rounds)
			continue;
		f = figures_of(g, k);
		note_promises(g, k, &f);
		if (json)
			put_json(g, k, &f);
		else
			add_row(t, g, k, &f);
	}
	if (json) {
		fflush(stdout);
		return;
	}
	print_heading(g);
	table_print(t, stdout);
	table_free(t);
	printf("\n");
	fflush(stdout);
}

void bench_report_cpu(double us, bool json)
{
	cpu_us = us;
	if (json)
		json_put_line(json_pack(
			"{s:s, s:i, s:i, s:n, s:n, s:n, s:n, s:n, s:n, s:f}",
			"op", "daemon_cpu", "bytes", (int)BENCH_CPU_BYTES,
			"threads", 1, "p50_us", "p99_us", "mib_s", "x_memcpy",
			"x_tmpfs_huge", "x_tmpfs_4k", "us_per_op", us));
}
