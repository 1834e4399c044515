// SPDX-License-Identifier: MIT
#include "tools/bench_publish.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "meta/kv.h"
#include "meta/meta.h"
#include "tools/bench_remote.h"
#include "tools/json.h"
#include "tools/progress.h"
#include "tools/term.h"
#include "tools/verb.h"

/*
 * The dirty set is kept full of names that were never published, so the sender
 * is never short of work; counted is what Redis has answered. A name has its
 * number in front and is as long as an engine's hash.
 */

#define FULL 50000u /* names that wait or are in flight */
#define STORES 2

static const struct store {
	const char *name, *appendonly;
	double at_least; /* blocks a second */
} stores[STORES] = {{"memory", "no", 100000}, {"aof-everysec", "yes", 40000}};

struct publish {
	const struct store *store;
	char dir[64], url[96], state_dir[80];
	pid_t server;
	struct meta *meta;
	uint64_t n_marked;
	_Atomic uint64_t n_answered, n_published;
	double rate[BENCH_ROUNDS_MAX];
	double server_us[BENCH_ROUNDS_MAX], own_us[BENCH_ROUNDS_MAX];
};

/* -- the index that is published ---------------------------------------- */

static void state(void *ctx, const char *path, uint16_t path_len,
		  struct meta_kv_state *s)
{
	uint64_t number = strtoull(path + strlen("bench/"), NULL, 16);

	(void)ctx;
	(void)path_len;
	*s = (struct meta_kv_state){.held = true,
				    .size_bytes = 4 << 20,
				    .checksum = {number + 1, ~number},
				    .mode = 0100644};
}

static void verdict(void *ctx, const char *path, uint16_t path_len,
		    const struct meta_kv_answer *answer)
{
	struct publish *p = ctx;

	(void)path;
	(void)path_len;
	p->n_answered++;
	p->n_published += answer->verdict == META_KV_PUBLISHED;
}

/* What is marked is all there is to tell. */
static bool each(void *ctx, uint64_t *cursor, unsigned n,
		 void (*fn)(void *arg, const char *path, uint16_t path_len),
		 void *arg)
{
	(void)ctx;
	(void)cursor;
	(void)n;
	(void)fn;
	(void)arg;
	return false;
}

static const struct meta_kv_ops ops = {
	.state = state, .verdict = verdict, .each = each};

static void mark(struct publish *p)
{
	char path[64];
	uint64_t number = p->n_marked++;
	int n = snprintf(path, sizeof(path),
			 "bench/%016" PRIx64 "%016" PRIx64 ".bin", number,
			 number * 0x9e3779b97f4a7c15u);

	meta_kv_dirty(p->meta, path, (uint16_t)n);
}

static void keep_full(struct publish *p, int64_t until)
{
	struct timespec pause = clock_timespec(NS_PER_MS);

	while (clock_now_ns() < until && !bench_stopped) {
		while (p->n_marked - p->n_answered < FULL)
			mark(p);
		nanosleep(&pause, NULL);
	}
}

/* -- up and down -------------------------------------------------------- */

/* In a child; never comes back. */
static void server_run(const struct publish *p)
{
	int log = open("redis.log", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	setpgid(0, 0); /* Ctrl-C is for the bench */
	dup2(log, 1);
	dup2(log, 2);
	execlp("redis-server", "redis-server", "--port", "0", "--unixsocket",
	       "redis.sock", "--save", "", "--appendonly", p->store->appendonly,
	       "--appendfsync", "everysec", NULL);
	_exit(127);
}

static int server_start(struct publish *p)
{
	struct timespec pause = clock_timespec(10 * NS_PER_MS);
	char socket[96];

	snprintf(socket, sizeof(socket), "%s/redis.sock", p->dir);
	p->server = fork();
	if (p->server < 0)
		return -errno;
	if (!p->server) {
		if (!chdir(p->dir))
			server_run(p);
		_exit(126);
	}
	for (int i = 0; i < 1000 && access(socket, F_OK); i++) {
		if (waitpid(p->server, NULL, WNOHANG) == p->server) {
			p->server = 0;
			return -ENOENT;
		}
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int up(struct publish *p, const struct store *store)
{
	struct meta_config c = {.url = p->url,
				.state_dir = p->state_dir,
				.node_name = "bench",
				.kv_ops = &ops,
				.kv_ctx = p};
	int err;

	p->store = store;
	/* on a disk: what is appended is to reach one */
	strcpy(p->dir, "/var/tmp/kvfs-bench.XXXXXX");
	if (!mkdtemp(p->dir)) {
		p->dir[0] = 0;
		return -errno;
	}
	snprintf(p->url, sizeof(p->url), "unix://%s/redis.sock", p->dir);
	snprintf(p->state_dir, sizeof(p->state_dir), "%s/state", p->dir);
	if (mkdir(p->state_dir, 0700))
		return -errno;
	err = server_start(p);
	err = err ? err : meta_open(&p->meta, &c);
	return err ? err : meta_start(p->meta);
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void down(struct publish *p)
{
	if (p->server > 0)
		kill(p->server, SIGKILL); /* what still waits is nobody's */
	meta_close(p->meta);
	if (p->server > 0)
		waitpid(p->server, NULL, 0);
	if (p->dir[0])
		nftw(p->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* -- measuring ---------------------------------------------------------- */

/* The other one is asleep meanwhile; this one's set is full before it counts.
 */
static void round_run(struct publish *p, unsigned round, int64_t slice_ns)
{
	uint64_t before, cpu, own;
	int64_t start;
	double n;

	keep_full(p, clock_now_ns() + slice_ns / 4);
	before = p->n_published;
	cpu = remote_cpu_ns(p->server);
	own = remote_cpu_ns(getpid());
	start = clock_now_ns();
	keep_full(p, start + slice_ns);
	n = (double)(p->n_published - before) + 1e-9;
	p->rate[round] = n * 1e9 / (double)(clock_now_ns() - start);
	p->server_us[round] =
		(double)(remote_cpu_ns(p->server) - cpu) / 1e3 / n;
	p->own_us[round] = (double)(remote_cpu_ns(getpid()) - own) / 1e3 / n;
	while (p->n_answered < p->n_marked && !bench_stopped)
		usleep(1000);
}

static void put_json(const struct publish *p, double rate, double server_us,
		     double own_us)
{
	json_put_line(json_pack(
		"{s:s, s:i, s:i, s:n, s:n, s:n, s:s, s:f, s:f, s:f}", "op",
		"publish", "bytes", 0, "threads", 1, "p50_us", "p99_us",
		"mib_s", "store", p->store->name, "blocks_s", rate,
		"redis_us_per_block", server_us, "node_us_per_block", own_us));
}

static void report(struct publish *p, unsigned n_rounds, bool json)
{
	static const struct table_column columns[] = {
		{"publish to Redis", false},
		{"blocks/s", true},
		{"wanted", true},
		{"Redis us/block", true},
		{"node us/block", true},
		{"", false},
	};
	struct table *t = json ? NULL : table_new(columns, 6);

	for (unsigned i = 0; i < STORES; i++) {
		double rate = bench_median(p[i].rate, n_rounds);
		double server_us = bench_median(p[i].server_us, n_rounds);
		double own_us = bench_median(p[i].own_us, n_rounds);

		if (json)
			put_json(&p[i], rate, server_us, own_us);
		table_add(t, "%s", p[i].store->name);
		table_add(t, "%.0f", rate);
		table_add(t, ">= %.0f", p[i].store->at_least);
		table_add(t, "%.2f", server_us);
		table_add(t, "%.2f", own_us);
		table_add(t, "%s",
			  rate >= p[i].store->at_least ? "reached" : "missed");
	}
	if (!json)
		table_print(t, stdout);
	table_free(t);
}

static void rounds_run(struct publish *p, const struct bench_plan *plan)
{
	int64_t slice =
		(int64_t)(plan->seconds * NS_PER_S / (plan->n_rounds * STORES));
	struct progress progress;
	uint64_t done = 0;

	progress_start(&progress, "measuring", plan->n_rounds * STORES,
		       PROGRESS_COUNT);
	for (unsigned r = 0; r < plan->n_rounds; r++)
		for (unsigned i = 0; i < STORES && !bench_stopped; i++) {
			round_run(&p[i], r, slice);
			progress_update(&progress, ++done);
		}
	progress_finish(&progress);
}

int bench_publish(const struct bench_plan *plan)
{
	struct publish *p = calloc(STORES, sizeof(*p));
	int err = p ? 0 : -ENOMEM;

	for (unsigned i = 0; i < STORES && !err; i++)
		err = up(&p[i], &stores[i]);
	if (!err) {
		rounds_run(p, plan);
		if (!bench_stopped)
			report(p, plan->n_rounds, plan->json);
	} else {
		verb_fail(EXIT_TROUBLE,
			  "publish: no redis-server to be had: %s",
			  strerror(-err));
	}
	for (unsigned i = 0; p && i < STORES; i++)
		down(&p[i]);
	free(p);
	return err || bench_stopped ? EXIT_TROUBLE : EXIT_FINE;
}
