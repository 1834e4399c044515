// SPDX-License-Identifier: MIT
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "tools/bench.h"
#include "tools/bench_fast.h"
#include "tools/verb.h"

#define SIZE_MIN 4096
#define SIZE_MAX_BYTES (256UL << 20)
#define REMOTE_SIZE_MAX_BYTES (1UL << 30)

static bool add_size(struct bench_plan *p, const char *word)
{
	uint64_t bytes,
		most = p->remote ? REMOTE_SIZE_MAX_BYTES : SIZE_MAX_BYTES;

	if (p->n_sizes == BENCH_LIST_MAX || size_parse(word, &bytes) ||
	    bytes < SIZE_MIN || bytes > most)
		return false;
	p->sizes[p->n_sizes++] = bytes;
	return true;
}

static bool add_threads(struct bench_plan *p, const char *word)
{
	char *end;
	unsigned long n = strtoul(word, &end, 10);

	if (p->n_threads == BENCH_LIST_MAX || *end || n < 1 ||
	    n > BENCH_THREADS_MAX)
		return false;
	p->threads[p->n_threads++] = (unsigned)n;
	return true;
}

static bool check_op(struct bench_plan *p, const char *word)
{
	if (p->remote)
		return !strcmp(word, "engine_fetch") ||
		       !strcmp(word, "engine_batch") ||
		       !strcmp(word, "mount_fetch") || !strcmp(word, "chain") ||
		       !strcmp(word, "get_registered");
	if (p->fast && !strcmp(word, "get_registered"))
		return true;
	for (const struct fast_case *c = fast_cases; p->fast && c->op; c++)
		if (!strcmp(c->op, word))
			return true;
	for (const struct bench_op *op = bench_ops; !p->fast && op->name; op++)
		if (!strcmp(op->name, word))
			return true;
	return false;
}

static int each_word(struct bench_plan *p, const char *option, const char *list,
		     bool (*add)(struct bench_plan *p, const char *word))
{
	char word[64];

	while (*list) {
		size_t n = strcspn(list, ",");

		snprintf(word, sizeof(word), "%.*s", (int)n, list);
		if (!add(p, word))
			return verb_fail(EXIT_USAGE, "%s: '%s' is not possible",
					 option, word);
		list += n + (list[n] == ',');
	}
	return 0;
}

static void set_defaults(struct bench_plan *p, const struct bench_args *a)
{
	p->seconds = a->quick ? 8 : 70;
	p->n_rounds = a->quick ? 7 : 15;
	if (p->remote) {
		p->seconds = a->quick ? 4 : 60;
		p->n_rounds = a->quick ? 3 : 7;
	}
	if (p->fast) {
		p->seconds = a->quick ? 5 : 40;
		p->n_rounds = a->quick ? 3 : 9;
	}
	if (p->publish) {
		p->seconds = a->quick ? 4 : 30;
		p->n_rounds = a->quick ? 3 : 5;
	}
	if (a->seconds > 0)
		p->seconds = a->seconds;
}

int bench_plan_make(const struct bench_args *a, struct bench_plan *p)
{
	const char *sizes = a->sizes   ? a->sizes
			    : a->quick ? "64K,4M"
				       : "64K,1M,4M,16M";
	const char *threads = a->threads ? a->threads : a->quick ? "1" : "1,2";
	int status;

	*p = (struct bench_plan){.json = a->json,
				 .remote = a->remote,
				 .publish = a->publish,
				 .fast = a->fast,
				 .transport =
					 (enum bench_transport)a->transport,
				 .ops = a->ops};
	if (a->transport == BENCH_RDMA && !a->remote)
		return verb_fail(EXIT_USAGE, "--transport: only with --remote");
	set_defaults(p, a);
	if (p->remote) /* none: each operation has its own */
		threads = a->threads ? a->threads : a->quick ? "1,4" : "";
	status = each_word(p, "--sizes", sizes, add_size);
	if (!status)
		status = each_word(p, "--threads", threads, add_threads);
	if (!status && a->ops)
		status = each_word(p, "--ops", a->ops, check_op);
	return status;
}

bool bench_plan_names(const struct bench_plan *p, const char *op)
{
	size_t n = strlen(op);

	if (!p->ops)
		return true;
	for (const char *s = strstr(p->ops, op); s; s = strstr(s + 1, op))
		if ((s == p->ops || s[-1] == ',') && (!s[n] || s[n] == ','))
			return true;
	return false;
}

bool bench_plan_has(const struct bench_plan *p, const struct bench_op *op)
{
	return op->no_place || bench_plan_names(p, op->name);
}
