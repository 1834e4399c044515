// SPDX-License-Identifier: MIT
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "tools/progress.h"
#include "tools/replay.h"
#include "tools/simulate.h"
#include "tools/target.h"
#include "tools/verb.h"

#define BLOCK_MIN 64
#define BLOCK_MAX (1ULL << 30)

struct replay_args {
	const char *dir, *name;
	uint64_t block_bytes, capacity, limit;
	double speed;
	bool simulate, keep, json;
};

static volatile sig_atomic_t stopped;

static void stop(int sig)
{
	(void)sig;
	stopped = 1;
}

static void catch_signals(void)
{
	struct sigaction a = {.sa_handler = stop};

	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
}

/* -- one request -------------------------------------------------------- */

/* Reads the longest present prefix. Returns its length or -errno. */
static ssize_t prefix_read(struct block_dir *d, const uint64_t *ids, size_t n,
			   struct replay_result *r)
{
	int64_t ns;

	for (size_t i = 0; i < n; i++) {
		int rc = block_load(d, ids[i], &ns);

		if (rc == -EILSEQ)
			r->verify_errors++;
		else if (rc < 0)
			return rc;
		if (rc != 1)
			return (ssize_t)i;
		samples_add(&r->reads, ns);
	}
	return (ssize_t)n;
}

static int rest_store(struct block_dir *d, const uint64_t *ids, size_t n,
		      struct replay_result *r)
{
	int64_t ns;
	int err;

	for (size_t i = 0; i < n; i++) {
		if (block_exists(d, ids[i]))
			continue;
		err = block_store(d, ids[i], &ns);
		if (err)
			return err;
		samples_add(&r->writes, ns);
		r->stores++;
	}
	return 0;
}

static int request_replay(struct block_dir *d, const uint64_t *ids, size_t n,
			  struct replay_result *r)
{
	ssize_t prefix = prefix_read(d, ids, n, r);

	if (prefix < 0)
		return (int)prefix;
	r->requests++;
	r->block_refs += n;
	r->block_hits += (uint64_t)prefix;
	return rest_store(d, ids + prefix, n - (size_t)prefix, r);
}

/* -- the whole trace ---------------------------------------------------- */

/* Waits for a request's time, a second at most at once for the bar's sake. */
static void wait_for(int64_t when_ns, struct progress *p, uint64_t done)
{
	int64_t now;

	while (!stopped && (now = clock_now_ns()) < when_ns) {
		int64_t left = when_ns - now;
		struct timespec t =
			clock_timespec(left < NS_PER_S ? left : NS_PER_S);

		nanosleep(&t, NULL);
		progress_update(p, done);
	}
}

static int trace_replay(struct block_dir *d, const struct trace *t,
			double speed, struct replay_result *r)
{
	int64_t start = clock_now_ns();
	struct progress p;
	int err = 0;

	progress_start(&p, "replaying", t->n_ids, PROGRESS_COUNT);
	for (size_t i = 0; i < t->n_requests && !stopped && !err; i++) {
		const struct trace_request *q = &t->requests[i];

		if (speed > 0)
			wait_for(start + (int64_t)((double)q->timestamp_ms *
						   1e6 / speed),
				 &p, r->block_refs);
		err = request_replay(d, trace_ids(t, q), q->n_ids, r);
		progress_update(&p, r->block_refs);
	}
	progress_finish(&p);
	r->seconds = (double)(clock_now_ns() - start) / NS_PER_S;
	return err;
}

/* -- capacity ----------------------------------------------------------- */

static int quota_set(const struct target *t, uint64_t blocks, size_t bytes)
{
	char text[24];
	int n;

	n = snprintf(text, sizeof(text), "%llu",
		     (unsigned long long)(blocks * bytes));
	if (!setxattr(t->path, "user.kvfs.quota", text, (size_t)n, 0))
		return 0;
	return verb_fail(EXIT_TROUBLE, "%s: cannot set user.kvfs.quota: %s",
			 t->path, strerror(errno));
}

/* What fits: the quota, or the whole filesystem where that is smaller. */
static uint64_t capacity_find(const char *path, uint64_t quota_blocks,
			      size_t block_bytes)
{
	struct statvfs s;
	uint64_t fits;

	if (statvfs(path, &s) < 0)
		return quota_blocks;
	fits = s.f_blocks * s.f_frsize / block_bytes;
	if (quota_blocks && quota_blocks <= fits)
		return quota_blocks;
	if (quota_blocks)
		log_warn("replay: %s: %llu blocks were asked for and the pool "
			 "holds %llu",
			 path, (unsigned long long)quota_blocks,
			 (unsigned long long)fits);
	return fits;
}

/* -- the verb ----------------------------------------------------------- */

static int run_simulated(const struct replay_args *a, const struct trace *t,
			 struct replay_result *r)
{
	int64_t start = clock_now_ns();
	struct simulate_result s;

	if (simulate_lru(t, a->capacity, &s))
		return EXIT_TROUBLE;
	r->requests = t->n_requests;
	r->block_refs = s.block_refs;
	r->block_hits = s.block_hits;
	r->stores = s.stores;
	r->seconds = (double)(clock_now_ns() - start) / NS_PER_S;
	r->capacity_blocks = a->capacity;
	r->simulated = true;
	return EXIT_FINE;
}

static int dir_clear(struct block_dir *d)
{
	int others = block_dir_sweep(d);

	if (others < 0)
		return EXIT_TROUBLE;
	if (!others)
		return 0;
	return verb_fail(EXIT_USAGE,
			 "%s: holds %d files that are no replay's: name an "
			 "empty directory",
			 d->path, others);
}

static int replay_in(const struct replay_args *a, const struct target *at,
		     struct block_dir *d, const struct trace *t,
		     struct replay_result *r)
{
	int status = a->keep ? 0 : dir_clear(d);

	if (!status && a->capacity)
		status = quota_set(at, a->capacity, d->block_bytes);
	if (status)
		return status;
	r->capacity_blocks =
		capacity_find(at->path, a->capacity, d->block_bytes);
	if (trace_replay(d, t, a->speed, r))
		status = EXIT_TROUBLE;
	if (a->keep)
		return status;
	if (block_dir_sweep(d) < 0)
		return EXIT_TROUBLE;
	if (d->made)
		rmdir(d->path);
	else if (a->capacity)
		removexattr(d->path, "user.kvfs.quota");
	return status;
}

static int run_real(const struct replay_args *a, const struct trace *t,
		    struct replay_result *r)
{
	struct target at;
	struct block_dir d;
	int status;

	if (target_find(&at, "replay", a->dir, a->name))
		return EXIT_TROUBLE;
	if (a->capacity && !at.is_namespace)
		return verb_fail(
			EXIT_USAGE,
			"%s: --capacity-blocks sets the quota of a namespace "
			"and this is none: name the root of a kvfs mount, or "
			"leave --capacity-blocks out",
			at.path);
	if (block_dir_open(&d, at.path, a->block_bytes))
		return EXIT_TROUBLE;
	catch_signals();
	status = replay_in(a, &at, &d, t, r);
	block_dir_close(&d);
	return status;
}

static int replay_run(void *args, char **operands)
{
	const struct replay_args *a = args;
	struct replay_result r = {.block_bytes = a->block_bytes};
	struct trace t;
	int status;

	if (a->block_bytes < BLOCK_MIN || a->block_bytes > BLOCK_MAX)
		return verb_fail(EXIT_USAGE,
				 "--block-bytes: 64 bytes to 1 GiB are "
				 "possible");
	if (trace_load(&t, operands[0], a->limit))
		return EXIT_TROUBLE;
	status = a->simulate ? run_simulated(a, &t, &r) : run_real(a, &t, &r);
	if (status == EXIT_FINE && stopped)
		status = verb_fail(
			EXIT_TROUBLE, "stopped after %llu of %zu requests",
			(unsigned long long)r.requests, t.n_requests);
	if (r.requests)
		replay_report(&r, a->json);
	if (status == EXIT_FINE && r.verify_errors)
		status = EXIT_NEGATIVE;
	samples_free(&r.reads);
	samples_free(&r.writes);
	trace_free(&t);
	return status;
}

#define AT(member) offsetof(struct replay_args, member)

static const struct option_spec options[] = {
	{"dir", 'd', OPTION_TEXT, AT(dir), "DIR",
	 "store the blocks here: the root of a kvfs mount, or a\n"
	 "folder of any filesystem (default: the only kvfs mount)"},
	{"namespace", 'n', OPTION_TEXT, AT(name), "NAME",
	 "namespace to use in a kvfs mount (default: replay)"},
	{"block-bytes", 'b', OPTION_SIZE, AT(block_bytes), "SIZE",
	 "size of every block (default: 64K)"},
	{"capacity-blocks", 'c', OPTION_NUMBER, AT(capacity), "N",
	 "set the namespace's quota so that N blocks fit\n"
	 "(default: the pool decides)"},
	{"limit", 'l', OPTION_NUMBER, AT(limit), "N",
	 "replay the first N requests only"},
	{"speed", 's', OPTION_REAL, AT(speed), "X",
	 "1: as the trace's clock went, 10: ten times as fast,\n"
	 "0: as fast as possible (default)"},
	{"simulate", 'S', OPTION_FLAG, AT(simulate), NULL,
	 "only count, with a list in memory: no byte is moved"},
	{"keep", 'k', OPTION_FLAG, AT(keep), NULL,
	 "start with the blocks that an earlier replay left, and\n"
	 "leave them there at the end"},
	{"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object"},
	{}};

static const struct replay_args defaults = {
	.name = "replay",
	.block_bytes = 64 << 10,
};

const struct verb verb_replay = {
	.name = "replay",
	.operands = "TRACE.jsonl",
	.summary = "replay a KV-cache request trace with real bytes",
	.about = "A trace has one JSON object a line: timestamp (ms), "
		 "input_length, output_length\n"
		 "and hash_ids, the request's prefix chain. Each request "
		 "reads its longest present\n"
		 "prefix block by block, every byte of which is compared, "
		 "then stores the blocks of\n"
		 "the rest that are absent: create, one write, close, "
		 "rename, as engines do.",
	.examples = "kvfs replay --capacity-blocks=10000 trace.jsonl\n"
		    "kvfs replay --simulate --capacity-blocks=10000 "
		    "trace.jsonl\n"
		    "kvfs replay --dir /dev/shm/blocks --limit 1000 "
		    "trace.jsonl",
	.options = options,
	.min_operands = 1,
	.max_operands = 1,
	.defaults = &defaults,
	.args_bytes = sizeof(struct replay_args),
	.run = replay_run,
};
