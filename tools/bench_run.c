// SPDX-License-Identifier: MIT
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/bench.h"
#include "tools/progress.h"

#define HUGE_PAGE (2UL << 20)
#define SLICE_OPS_MIN 2

volatile int bench_stopped;

/*
 * The threads of a group live as long as it runs. Two barriers frame a slice:
 * before the first the main thread says what is next, after the second it
 * collects.
 */
struct crew;

struct hand {
	struct crew *crew;
	pthread_t thread;
	struct bench_task *tasks; /* one for each case */
	struct samples samples;	  /* of this slice */
	int err;
} __attribute__((aligned(64)));

struct crew {
	struct bench_group *group;
	pthread_barrier_t start, finish;
	unsigned current; /* case; n_cases: go home */
	struct hand hands[BENCH_THREADS_MAX];
};

void *bench_buffer(size_t bytes)
{
	void *p;

	bytes = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	if (posix_memalign(&p, HUGE_PAGE, bytes))
		return NULL;
	madvise(p, bytes, MADV_HUGEPAGE);
	memset(p, 0x5a, bytes);
	return p;
}

static int op_timed(struct hand *h, const struct bench_op *op,
		    struct bench_task *t)
{
	int64_t start = clock_now_ns(), spent;
	int err = op->run(t, t->next);

	spent = clock_now_ns() - start;
	if (err)
		return err;
	samples_add(&h->samples, spent);
	if (op->after)
		op->after(t, t->next);
	t->next++;
	return 0;
}

static int slice_ops(struct hand *h, const struct bench_op *op,
		     struct bench_task *t)
{
	int64_t end = clock_now_ns() + h->crew->group->slice_ns;
	int err = op->run(t, t->next); /* the first is not counted */

	if (!err && op->after)
		op->after(t, t->next);
	t->next++;
	for (unsigned n = 0; !err && !bench_stopped; n++) {
		if (n >= SLICE_OPS_MIN && clock_now_ns() >= end)
			break;
		err = op_timed(h, op, t);
	}
	return err;
}

static void slice_run(struct hand *h, unsigned i)
{
	const struct bench_op *op = h->crew->group->cases[i].op;
	struct bench_task *t = &h->tasks[i];

	h->err = op->begin ? op->begin(t) : 0;
	if (h->err)
		return;
	h->err = slice_ops(h, op, t);
	if (op->end)
		op->end(t);
}

static void *hand_main(void *arg)
{
	struct hand *h = arg;
	struct crew *c = h->crew;

	bench_pin((unsigned)(h - c->hands));
	for (;;) {
		pthread_barrier_wait(&c->start);
		if (c->current == c->group->n_cases)
			return NULL;
		slice_run(h, c->current);
		pthread_barrier_wait(&c->finish);
	}
}

/* -- the crew ----------------------------------------------------------- */

static int tasks_make(struct bench_group *g, struct hand *h, unsigned thread)
{
	void *buf = bench_buffer(g->bytes ? g->bytes : 1);

	h->tasks = calloc(g->n_cases, sizeof(*h->tasks));
	if (!buf || !h->tasks) {
		free(buf);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < g->n_cases; i++) {
		h->tasks[i].set = &g->cases[i].set;
		h->tasks[i].thread = thread;
		h->tasks[i].buf = buf;
		h->tasks[i].source = g->source;
	}
	return 0;
}

static void crew_free(struct crew *c)
{
	for (unsigned i = 0; i < c->group->n_threads; i++) {
		if (c->hands[i].tasks)
			free(c->hands[i].tasks[0].buf);
		free(c->hands[i].tasks);
		samples_free(&c->hands[i].samples);
	}
	pthread_barrier_destroy(&c->start);
	pthread_barrier_destroy(&c->finish);
	free(c);
}

static void crew_dismiss(struct crew *c)
{
	c->current = c->group->n_cases;
	pthread_barrier_wait(&c->start);
	for (unsigned i = 0; i < c->group->n_threads; i++)
		pthread_join(c->hands[i].thread, NULL);
	crew_free(c);
}

static struct crew *crew_new(struct bench_group *g)
{
	struct crew *c = aligned_alloc(64, sizeof(*c));
	int err = 0;

	if (!c)
		return NULL;
	memset(c, 0, sizeof(*c));
	c->group = g;
	pthread_barrier_init(&c->start, NULL, g->n_threads + 1);
	pthread_barrier_init(&c->finish, NULL, g->n_threads + 1);
	for (unsigned i = 0; i < g->n_threads && !err; i++) {
		c->hands[i].crew = c;
		err = tasks_make(g, &c->hands[i], i);
	}
	if (!err)
		return c;
	crew_free(c);
	return NULL;
}

/* Where a thread cannot be had those before it wait for ever: the caller
 * leaves the crew as it is, and the command ends. */
static int crew_start(struct crew *c)
{
	int err = 0;

	for (unsigned i = 0; i < c->group->n_threads && !err; i++)
		err = pthread_create(&c->hands[i].thread, NULL, hand_main,
				     &c->hands[i]);
	return -err;
}

/* -- rounds ------------------------------------------------------------- */

static void case_fail(struct bench_case *k, int err)
{
	k->err = err;
	log_warn("bench: %s%s: %zu bytes: %s; left out", k->op->name,
		 k->op->no_place ? "" : bench_suffixes[k->place], k->set.bytes,
		 strerror(-err));
}

/* One slice of one case by all hands, and what it comes to. */
static void case_turn(struct crew *c, unsigned i)
{
	struct bench_case *k = &c->group->cases[i];
	double rate = 0, us;

	c->current = i;
	pthread_barrier_wait(&c->start);
	pthread_barrier_wait(&c->finish);
	for (unsigned t = 0; t < c->group->n_threads; t++) {
		struct hand *h = &c->hands[t];

		if (h->err && !k->err)
			case_fail(k, h->err);
		us = samples_us(&h->samples, 50);
		if (us > 0)
			rate += 1e6 / us;
		samples_append(&k->samples, &h->samples);
	}
	if (!k->err && !bench_stopped)
		k->rate[k->n_rounds++] = rate;
}

int bench_run(struct bench_group *g)
{
	struct crew *c = crew_new(g);
	int err = c ? crew_start(c) : -ENOMEM;

	if (err) {
		log_error("bench: cannot start %u threads: %s", g->n_threads,
			  strerror(-err));
		return err;
	}
	for (unsigned r = 0; r < g->n_rounds; r++) {
		for (unsigned i = 0; i < g->n_cases && !bench_stopped; i++) {
			if (!g->cases[i].err)
				case_turn(c, i);
			progress_update(g->progress, ++*g->done);
		}
	}
	crew_dismiss(c);
	return 0;
}
