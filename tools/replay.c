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
#include "tools/deal.h"
#include "tools/progress.h"
#include "tools/replay.h"
#include "tools/simulate.h"
#include "tools/target.h"
#include "tools/verb.h"

#define BLOCK_MIN 64
#define BLOCK_MAX (1ULL << 30)

struct replay_args {
	const char *dir, *name;
	uint64_t block_bytes, capacity, limit, nodes;
	double speed, skew;
	bool simulate, keep, json;
};

/* A folder to replay into; several are mounts of one cluster. */
struct place {
	struct target at;
	struct block_dir dir;
};

struct places {
	struct place *all;
	unsigned n;
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

static int trace_replay(const struct replay_args *a, struct places *ps,
			const struct trace *t, struct replay_result *r)
{
	struct deal deal = {.n_nodes = ps->n, .skew = a->skew};
	int64_t start = clock_now_ns();
	struct progress p;
	int err = 0;

	progress_start(&p, "replaying", t->n_ids, PROGRESS_COUNT);
	for (size_t i = 0; i < t->n_requests && !stopped && !err; i++) {
		const struct trace_request *q = &t->requests[i];

		if (a->speed > 0)
			wait_for(start + (int64_t)((double)q->timestamp_ms *
						   1e6 / a->speed),
				 &p, r->block_refs);
		err = request_replay(&ps->all[deal_next(&deal)].dir,
				     trace_ids(t, q), q->n_ids, r);
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

/* What fits: the quota, or the whole filesystems where that is smaller. */
static uint64_t capacity_find(const struct places *ps, uint64_t quota_blocks,
			      size_t block_bytes)
{
	struct statvfs s;
	uint64_t fits = 0;

	for (unsigned i = 0; i < ps->n; i++) {
		if (statvfs(ps->all[i].at.path, &s) < 0)
			return quota_blocks;
		fits += s.f_blocks * s.f_frsize / block_bytes;
	}
	if (quota_blocks && quota_blocks <= fits)
		return quota_blocks;
	if (quota_blocks)
		log_warn("replay: %s: %llu blocks were asked for and the pool "
			 "holds %llu",
			 ps->all[0].at.path, (unsigned long long)quota_blocks,
			 (unsigned long long)fits);
	return fits;
}

/* What one node of all this capacity would have hit. */
static int one_node(const struct trace *t, struct replay_result *r)
{
	struct simulate_config c = {.n_nodes = 1,
				    .capacity = r->capacity_blocks};
	struct simulate_result s;

	if (r->nodes < 2 || stopped)
		return 0;
	if (simulate(t, &c, &s))
		return EXIT_TROUBLE;
	r->one_node_hits = s.block_hits;
	return 0;
}

/* -- the verb ----------------------------------------------------------- */

static int run_simulated(const struct replay_args *a, const struct trace *t,
			 struct replay_result *r)
{
	struct simulate_config c = {.n_nodes =
					    a->nodes ? (unsigned)a->nodes : 1,
				    .capacity = a->capacity,
				    .skew = a->skew,
				    .speed = a->speed};
	int64_t start = clock_now_ns();
	struct simulate_result s;

	if (simulate(t, &c, &s))
		return EXIT_TROUBLE;
	r->requests = t->n_requests;
	r->block_refs = s.block_refs;
	r->block_hits = s.block_hits;
	r->stores = s.stores;
	r->seconds = (double)(clock_now_ns() - start) / NS_PER_S;
	r->nodes = c.n_nodes;
	r->capacity_blocks = a->capacity * c.n_nodes;
	r->simulated = true;
	return one_node(t, r);
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

static int each_clear(struct places *ps)
{
	int status = 0;

	for (unsigned i = 0; i < ps->n && !status; i++)
		status = dir_clear(&ps->all[i].dir);
	return status;
}

static int leave_clean(const struct replay_args *a, struct places *ps)
{
	for (unsigned i = 0; i < ps->n; i++)
		if (block_dir_sweep(&ps->all[i].dir) < 0)
			return EXIT_TROUBLE;
	if (ps->all[0].dir.made)
		rmdir(ps->all[0].dir.path);
	else if (a->capacity)
		removexattr(ps->all[0].dir.path, "user.kvfs.quota");
	return 0;
}

static int replay_in(const struct replay_args *a, struct places *ps,
		     const struct trace *t, struct replay_result *r)
{
	uint64_t quota = a->capacity * ps->n;
	int status = a->keep ? 0 : each_clear(ps);

	if (!status && quota)
		status = quota_set(&ps->all[0].at, quota, a->block_bytes);
	if (status)
		return status;
	r->nodes = ps->n;
	r->capacity_blocks = capacity_find(ps, quota, a->block_bytes);
	if (trace_replay(a, ps, t, r))
		status = EXIT_TROUBLE;
	else
		status = one_node(t, r);
	if (a->keep)
		return status;
	return leave_clean(a, ps) ? EXIT_TROUBLE : status;
}

static int place_open(struct place *p, const struct replay_args *a,
		      const char *dir)
{
	if (target_find(&p->at, "replay", dir, a->name))
		return EXIT_TROUBLE;
	if (a->capacity && !p->at.is_namespace)
		return verb_fail(
			EXIT_USAGE,
			"%s: --capacity-blocks sets the quota of a namespace "
			"and this is none: name the root of a kvfs mount, or "
			"leave --capacity-blocks out",
			p->at.path);
	return block_dir_open(&p->dir, p->at.path, a->block_bytes)
		       ? EXIT_TROUBLE
		       : 0;
}

/* @dirs: what was named, or nothing: --dir, or the only mount. */
static int run_real(const struct replay_args *a, char **dirs,
		    const struct trace *t, struct replay_result *r)
{
	struct places ps = {.n = 0};
	unsigned n = 0;
	int status = 0;

	while (dirs[n])
		n++;
	ps.all = calloc(n + 1, sizeof(*ps.all));
	if (!ps.all)
		return verb_fail(EXIT_TROUBLE, "no memory");
	do {
		status = place_open(&ps.all[ps.n], a, n ? dirs[ps.n] : a->dir);
		ps.n += !status;
	} while (!status && ps.n < n);
	catch_signals();
	if (!status)
		status = replay_in(a, &ps, t, r);
	while (ps.n)
		block_dir_close(&ps.all[--ps.n].dir);
	free(ps.all);
	return status;
}

/* 0, or that the options do not fit together. */
static int check(const struct replay_args *a, char **dirs)
{
	bool several = dirs[0] && dirs[1];

	if (a->block_bytes < BLOCK_MIN || a->block_bytes > BLOCK_MAX)
		return verb_fail(EXIT_USAGE,
				 "--block-bytes: 64 bytes to 1 GiB are "
				 "possible");
	if (a->nodes > DEAL_NODES_MAX)
		return verb_fail(EXIT_USAGE, "--nodes: at most %d",
				 DEAL_NODES_MAX);
	if (a->nodes && !a->simulate)
		return verb_fail(
			EXIT_USAGE,
			"--nodes goes with --simulate; name the mounts "
			"of real nodes after the trace");
	if (dirs[0] && (a->dir || a->simulate))
		return verb_fail(EXIT_USAGE,
				 "%s: goes neither with --dir nor "
				 "with --simulate",
				 dirs[0]);
	if (a->skew < 0 || a->skew > 1 ||
	    (a->skew > 0 && !several && a->nodes < 2))
		return verb_fail(EXIT_USAGE,
				 "--skew: between 0 and 1, of several nodes");
	return 0;
}

static int replay_run(void *args, char **operands)
{
	const struct replay_args *a = args;
	struct replay_result r = {.block_bytes = a->block_bytes};
	struct trace t;
	int status = check(a, operands + 1);

	if (status)
		return status;
	if (trace_load(&t, operands[0], a->limit))
		return EXIT_TROUBLE;
	status = a->simulate ? run_simulated(a, &t, &r)
			     : run_real(a, operands + 1, &t, &r);
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
	 "set the namespace's quota so that N blocks fit, for\n"
	 "each node (default: the pool decides)"},
	{"limit", 'l', OPTION_NUMBER, AT(limit), "N",
	 "replay the first N requests only"},
	{"speed", 's', OPTION_REAL, AT(speed), "X",
	 "1: as the trace's clock went, 10: ten times as fast,\n"
	 "0: as fast as possible (default)"},
	{"simulate", 'S', OPTION_FLAG, AT(simulate), NULL,
	 "only count, with a list in memory: no byte is moved"},
	{"nodes", 'N', OPTION_NUMBER, AT(nodes), "N",
	 "simulate so many nodes, with what the daemons do to be\n"
	 "one pool (default: 1)"},
	{"skew", 'w', OPTION_REAL, AT(skew), "X",
	 "give the first node this share of the requests: 0.7 is\n"
	 "70 % (default: one node after the other)"},
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
	.operands = "TRACE.jsonl [DIR...]",
	.summary = "replay a KV-cache request trace with real bytes",
	.about = "A trace has one JSON object a line: timestamp (ms), "
		 "input_length, output_length\n"
		 "and hash_ids, the request's prefix chain. Each request "
		 "reads its longest present\n"
		 "prefix block by block, every byte of which is compared, "
		 "then stores the blocks of\n"
		 "the rest that are absent: create, one write, close, "
		 "rename, as engines do.\n\n"
		 "Several DIRs are mounts of one cluster: each request goes "
		 "to one of them, and the\n"
		 "hit rate is also shown as a share of what one node of all "
		 "their capacity would hit.",
	.examples = "kvfs replay --capacity-blocks=10000 trace.jsonl\n"
		    "kvfs replay --simulate --capacity-blocks=10000 "
		    "trace.jsonl\n"
		    "kvfs replay --simulate --nodes=4 --skew=0.7 "
		    "--capacity-blocks=2500 trace.jsonl\n"
		    "kvfs replay --dir /dev/shm/blocks --limit 1000 "
		    "trace.jsonl\n"
		    "kvfs replay trace.jsonl /mnt/node-1 /mnt/node-2",
	.options = options,
	.min_operands = 1,
	.max_operands = 1 + DEAL_NODES_MAX,
	.defaults = &defaults,
	.args_bytes = sizeof(struct replay_args),
	.run = replay_run,
};
