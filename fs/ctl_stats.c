// SPDX-License-Identifier: MIT
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/pool.h"
#include "fs/ctl.h"
#include "fs/fs.h"
#include "fs/locks.h"
#include "fs/remote.h"
#include "fs/ring.h"
#include "meta/meta.h"

/*
 * .kvfs/stats: Prometheus text format. Each metric stands in one list with
 * its help text, and the manual is checked against that list.
 */

struct sample {
	const struct fs *fs;
	struct pool_stats pool;
	struct meta_stats meta;
};

#define FS(field) (double)atomic_load(&s->fs->counters.field)
#define REMOTE(field)                                                        \
	(s->fs->remote ? (double)atomic_load(&s->fs->remote->counters.field) \
		       : 0)
#define METRICS(M)                                                             \
	M(hits_total, counter, "opens of a block that was there", FS(hits))    \
	M(misses_total, counter, "lookups of a block that was not",            \
	  FS(misses))                                                          \
	M(stores_total, counter, "blocks committed", FS(stores))               \
	M(stored_bytes_total, counter, "bytes committed", FS(bytes_stored))    \
	M(evictions_total, counter, "blocks evicted", FS(evictions))           \
	M(evicted_bytes_total, counter, "bytes evicted", FS(bytes_evicted))    \
	M(deduplicated_total, counter, "stores of an equal block",             \
	  FS(deduplicated))                                                    \
	M(conflicts_total, counter, "stores that lost to another version",     \
	  FS(conflicts))                                                       \
	M(copied_commits_total, counter,                                       \
	  "commits by copy: the writer was still there", FS(copied_commits))   \
	M(checksums_total, counter, "checksums taken", FS(checksums))          \
	M(damaged_total, counter, "blocks dropped for a wrong checksum",       \
	  FS(damaged))                                                         \
	M(daemon_read_bytes_total, counter,                                    \
	  "bytes read through the daemon (no passthrough)", FS(bytes_read))    \
	M(daemon_written_bytes_total, counter,                                 \
	  "bytes written through the daemon", FS(bytes_written))               \
	M(matches_total, counter, "questions to .kvfs/match answered",         \
	  FS(matches))                                                         \
	M(match_question_bytes, gauge, "held by questions being written",      \
	  FS(match_bytes))                                                     \
	M(located_total, counter, "blocks located for clients", FS(located))   \
	M(in_place_total, counter, "blocks committed without a copy",          \
	  FS(in_place))                                                        \
	M(lent_frames, gauge, "holds of clients on frames: pins, opens",       \
	  FS(lent))                                                            \
	M(lent_bytes, gauge, "memory that they hold, once a user",             \
	  FS(lent_bytes))                                                      \
	M(buffers, gauge, "buffers that clients have registered", FS(buffers)) \
	M(buffer_bytes, gauge, "bytes mapped of them", FS(buffer_bytes))       \
	M(dmabufs, gauge, "those that are dma-bufs, reached by a card",        \
	  FS(dmabufs))                                                         \
	M(dmabuf_bytes_total, counter, "bytes that cards copied for them",     \
	  FS(dmabuf_bytes))                                                    \
	M(rings, gauge, "rings that clients have", FS(rings))                  \
	M(ring_bytes, gauge, "bytes of memory shared with them",               \
	  FS(ring_bytes))                                                      \
	M(ring_held_bytes, gauge,                                              \
	  "requests and answers of calls under way through them",              \
	  (double)rings_held_bytes(s->fs->rings))                              \
	M(ring_calls_total, counter, "calls that came through rings",          \
	  FS(ring_calls))                                                      \
	M(got_total, counter, "blocks read into buffers", FS(got))             \
	M(got_bytes_total, counter, "bytes of them", FS(got_bytes))            \
	M(got_straight_total, counter,                                         \
	  "blocks of other nodes received straight into buffers",              \
	  FS(got_straight))                                                    \
	M(put_total, counter, "blocks stored from buffers", FS(put))           \
	M(put_bytes_total, counter, "bytes of them", FS(put_bytes))            \
	M(ckpt_published_total, counter, "checkpoint files published",         \
	  FS(ckpt_published))                                                  \
	M(ckpt_failed_total, counter, "publishes that failed",                 \
	  FS(ckpt_failed))                                                     \
	M(ckpt_shards_fetched_total, counter, "shards fetched and verified",   \
	  FS(shards_fetched))                                                  \
	M(ckpt_fetched_bytes_total, counter, "bytes of shards fetched",        \
	  FS(shard_fetched_bytes))                                             \
	M(ckpt_fetch_failed_total, counter, "shards that no node gave",        \
	  FS(shard_failed))                                                    \
	M(ckpt_mismatches_total, counter,                                      \
	  "shards that came with a wrong checksum", FS(shard_mismatches))      \
	M(ckpt_fetching, gauge, "shards being fetched", FS(shard_fetching))    \
	M(ckpt_served_bytes_total, counter, "bytes of shards sent to peers",   \
	  FS(shard_served_bytes))                                              \
	M(ckpt_refused_total, counter, "requests for shards refused",          \
	  FS(shard_refused))                                                   \
	M(ckpt_handed_total, counter, "files handed to clients, for cuFile",   \
	  FS(ckpt_handed))                                                     \
	M(ckpt_quarantined_bytes, gauge,                                       \
	  "buffers that a holder given up might still write to",               \
	  FS(shard_quarantined_bytes))                                         \
	M(lock_waits, gauge, "calls that wait for a lock",                     \
	  (double)locks_waiting(s->fs->locks))                                 \
	M(pool_capacity_bytes, gauge, "what blocks may take",                  \
	  (double)s->pool.capacity_bytes)                                      \
	M(pool_committed_bytes, gauge, "held by blocks",                       \
	  (double)s->pool.committed_bytes)                                     \
	M(pool_writing_bytes, gauge, "held by files being written",            \
	  (double)s->pool.writing_bytes)                                       \
	M(pool_ready_bytes, gauge, "preallocated",                             \
	  (double)s->pool.ready_bytes)                                         \
	M(pool_aside_bytes, gauge, "not reusable yet: still mapped",           \
	  (double)s->pool.aside_bytes)                                         \
	M(pool_blocks, gauge, "committed blocks", (double)s->pool.n_committed) \
	M(pool_recycled_total, counter, "frames recycled",                     \
	  (double)s->pool.recycled)                                            \
	M(pool_retired_total, counter, "frames given up",                      \
	  (double)s->pool.retired)                                             \
	M(pool_taken_cold_total, counter, "frames prepared in a caller",       \
	  (double)s->pool.taken_cold)                                          \
	M(redis_up, gauge, "1: Redis answers", (double)s->meta.up)             \
	M(redis_dirty_names, gauge, "names whose publish is not answered",     \
	  (double)s->meta.n_dirty)                                             \
	M(redis_published_total, counter, "publishes answered",                \
	  (double)s->meta.n_published)                                         \
	M(redis_conflicts_total, counter,                                      \
	  "publishes that another node's came before",                         \
	  (double)s->meta.n_conflicts)                                         \
	M(redis_dropped_total, counter,                                        \
	  "publishes that met the tombstone of a removed name",                \
	  (double)s->meta.n_dropped)                                           \
	M(redis_tombstones_total, counter,                                     \
	  "names removed here, each a tombstone for two hours",                \
	  (double)s->meta.n_tombstoned)                                        \
	M(redis_retracted_total, counter, "names told to be here no more",     \
	  (double)s->meta.n_retracted)                                         \
	M(redis_swept_total, counter, "records cleaned of dead nodes",         \
	  (double)s->meta.n_swept)                                             \
	M(redis_audits_total, counter, "times that all names were compared",   \
	  (double)s->meta.n_audits)                                            \
	M(ckpt_changes_seen, gauge, "newest change of the tree seen",          \
	  (double)s->meta.ckpt_seq)                                            \
	M(ckpt_changes_logged, gauge, "newest change in ckpt.log here",        \
	  (double)s->meta.ckpt_logged_seq)                                     \
	M(ckpt_read_only, gauge, "1: the tree is being reloaded into Redis",   \
	  (double)s->meta.ckpt_read_only)                                      \
	M(redis_commands_total, counter, "commands sent",                      \
	  (double)s->meta.n_commands)                                          \
	M(redis_lookups_total, counter, "names looked up in Redis",            \
	  (double)s->meta.n_lookups)                                           \
	M(redis_lookup_trips_total, counter, "round trips that took",          \
	  (double)s->meta.n_lookup_trips)                                      \
	M(redis_timeouts_total, counter, "commands not answered in time",      \
	  (double)s->meta.n_timeouts)                                          \
	M(redis_outages_total, counter,                                        \
	  "times that it was taken for away, until it answered: "              \
	  "meanwhile it is not asked, and what is not here is a miss",         \
	  (double)s->meta.n_outages)                                           \
	M(redis_reconnects_total, counter, "connections made anew",            \
	  (double)s->meta.n_reconnects)                                        \
	M(redis_restarts_total, counter, "private redis-server restarts",      \
	  (double)s->meta.n_redis_restarts)                                    \
	M(nodes, gauge, "live members", (double)s->meta.n_nodes)               \
	M(remote_lookups_total, counter, "names that Redis was asked for",     \
	  REMOTE(lookups))                                                     \
	M(remote_lookup_hits_total, counter, "of them held by other nodes",    \
	  REMOTE(lookup_hits))                                                 \
	M(remote_lookups_unsure_total, counter,                                \
	  "lookups that Redis did not answer in time", REMOTE(lookups_unsure)) \
	M(remote_lookups_late_total, counter,                                  \
	  "lookups that such an answer answered when it had come",             \
	  REMOTE(lookups_late))                                                \
	M(remote_hits_total, counter, "opens that a fetch answered",           \
	  REMOTE(hits))                                                        \
	M(remote_fetches_total, counter, "blocks fetched", REMOTE(fetches))    \
	M(remote_ahead_total, counter, "of them before they were asked for",   \
	  REMOTE(ahead))                                                       \
	M(remote_ahead_dropped_total, counter,                                 \
	  "blocks that were to be, when their reader left the chain",          \
	  REMOTE(ahead_dropped))                                               \
	M(remote_ahead_cancelled_total, counter,                               \
	  "and those on their way then, cancelled", REMOTE(ahead_cancelled))   \
	M(remote_fetched_bytes_total, counter, "bytes fetched",                \
	  REMOTE(fetch_bytes))                                                 \
	M(remote_fetch_failed_total, counter, "fetches that nobody answered",  \
	  REMOTE(fetch_failed))                                                \
	M(remote_not_here_total, counter, "holders that had it no more",       \
	  REMOTE(not_here))                                                    \
	M(remote_timeouts_total, counter, "holders that were too slow",        \
	  REMOTE(timeouts))                                                    \
	M(remote_mismatches_total, counter,                                    \
	  "fetched bytes that failed their checksum", REMOTE(mismatches))      \
	M(remote_served_total, counter, "blocks sent to peers",                \
	  REMOTE(served))                                                      \
	M(remote_served_bytes_total, counter, "bytes sent to peers",           \
	  REMOTE(served_bytes))                                                \
	M(remote_refused_total, counter, "requests of peers refused",          \
	  REMOTE(serve_refused))                                               \
	M(remote_offers_total, counter, "last copies offered to peers",        \
	  REMOTE(offers))                                                      \
	M(remote_offers_taken_total, counter, "of them taken by the peer",     \
	  REMOTE(offers_taken))                                                \
	M(remote_offers_refused_total, counter,                                \
	  "of them refused or unanswered", REMOTE(offers_refused))             \
	M(remote_offered_bytes_total, counter, "bytes of those taken",         \
	  REMOTE(offered_bytes))                                               \
	M(remote_moved_here_total, counter, "last copies of peers taken in",   \
	  REMOTE(moved_here))                                                  \
	M(remote_drops_sent_total, counter,                                    \
	  "holders told that a name was removed", REMOTE(drops_sent))          \
	M(remote_drops_received_total, counter,                                \
	  "removed names that peers told of", REMOTE(drops_received))          \
	M(remote_fetching, gauge, "blocks being fetched", REMOTE(n_fetching))  \
	M(remote_serving, gauge, "blocks being sent", REMOTE(n_serving))       \
	M(remote_pinned_bytes, gauge, "pinned while peers fetch",              \
	  REMOTE(pinned_bytes))                                                \
	M(remote_quarantined_bytes, gauge,                                     \
	  "frames that a holder given up might still write to",                \
	  REMOTE(quarantined_bytes))                                           \
	M(remote_past_pool_total, counter,                                     \
	  "blocks that were read though no frame was free", REMOTE(past_pool)) \
	M(remote_scratch_bytes, gauge,                                         \
	  "memory beside the pool that those are in while they are open",      \
	  REMOTE(scratch_bytes))

#define PRINT(name, type, help, value)                                         \
	fprintf(f,                                                             \
		"# HELP kvfs_" #name " " help "\n# TYPE kvfs_" #name " " #type \
		"\nkvfs_" #name " %.17g\n",                                    \
		value);

static void print_metrics(FILE *f, const struct sample *s)
{
	METRICS(PRINT)
}

static void print_class(void *arg, uint64_t bytes, uint32_t n_ready,
			uint32_t n_committed)
{
	fprintf(arg,
		"kvfs_pool_frames{class=\"%" PRIu64 "\",state=\"ready\"} %u\n"
		"kvfs_pool_frames{class=\"%" PRIu64
		"\",state=\"committed\"} %u\n",
		bytes, n_ready, bytes, n_committed);
}

/* A label value: quotes, backslashes and newlines are escaped. */
void ctl_print_label(FILE *f, const char *name)
{
	char text[CTL_NAME_BYTES];

	for (const char *s = ctl_name(name, text); *s; s++) {
		if (*s == '\n')
			fputs("\\n", f);
		else if (*s == '"' || *s == '\\')
			fprintf(f, "\\%c", *s);
		else
			fputc(*s, f);
	}
}

static void print_ns(FILE *f, const char *metric, const char *name,
		     uint64_t value)
{
	fprintf(f, "kvfs_namespace_%s{namespace=\"", metric);
	ctl_print_label(f, name);
	fprintf(f, "\"} %" PRIu64 "\n", value);
}

/* One family per metric: the format wants a family's lines together. */
struct ns_family {
	FILE *f;
	const char *metric, *type, *help;
	size_t offset;
};

static void print_namespace(void *arg, const struct kv_usage *u)
{
	const struct ns_family *n = arg;

	print_ns(
		n->f, n->metric, u->name,
		*(const uint64_t *)(const void *)((const char *)u + n->offset));
}

static void print_namespaces(FILE *f, struct fs *fs)
{
	struct ns_family families[] = {
		{f, "blocks", "gauge", "blocks held",
		 offsetof(struct kv_usage, blocks)},
		{f, "bytes", "gauge", "bytes held",
		 offsetof(struct kv_usage, bytes)},
		{f, "hits_total", "counter", "opens of a block",
		 offsetof(struct kv_usage, hits)},
		{f, "misses_total", "counter", "lookups of what was not there",
		 offsetof(struct kv_usage, misses)},
		{f, "stores_total", "counter", "blocks committed",
		 offsetof(struct kv_usage, stores)},
		{f, "evictions_total", "counter", "blocks evicted",
		 offsetof(struct kv_usage, evictions)},
	};

	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
		fprintf(f,
			"# HELP kvfs_namespace_%s %s\n"
			"# TYPE kvfs_namespace_%s %s\n",
			families[i].metric, families[i].help,
			families[i].metric, families[i].type);
		kv_each_namespace(fs->kv, print_namespace, &families[i]);
	}
}

static void print_hist(FILE *f, const char *op, const struct hist *h)
{
	uint64_t seen = 0;

	for (int i = 0; i < HIST_BUCKETS; i++) {
		seen += atomic_load(&h->count[i]);
		if (i < HIST_BUCKETS - 1)
			fprintf(f,
				"kvfs_latency_seconds_bucket{op=\"%s\","
				"le=\"%g\"} %" PRIu64 "\n",
				op, (double)(1ULL << i) / 1e6, seen);
	}
	fprintf(f,
		"kvfs_latency_seconds_bucket{op=\"%s\",le=\"+Inf\"} %" PRIu64
		"\nkvfs_latency_seconds_sum{op=\"%s\"} %g\n"
		"kvfs_latency_seconds_count{op=\"%s\"} %" PRIu64 "\n",
		op, seen, op, (double)atomic_load(&h->sum_ns) / 1e9, op, seen);
}

static void print_latencies(FILE *f, const struct fs_counters *c)
{
	fputs("# HELP kvfs_latency_seconds time in the daemon\n"
	      "# TYPE kvfs_latency_seconds histogram\n",
	      f);
	print_hist(f, "lookup", &c->lookup);
	print_hist(f, "open", &c->open);
	print_hist(f, "create", &c->create);
	print_hist(f, "rename", &c->rename);
	print_hist(f, "ckpt", &c->ckpt_call);
}

char *ctl_stats(struct fs *fs, bool all)
{
	struct sample s = {.fs = fs};
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	pool_stats(fs->pool, &s.pool);
	meta_stats(fs->meta, &s.meta);
	print_metrics(f, &s);
	fputs("# HELP kvfs_pool_frames frames by preallocation class\n"
	      "# TYPE kvfs_pool_frames gauge\n",
	      f);
	pool_classes(fs->pool, print_class, f);
	if (all)
		print_namespaces(f, fs);
	fprintf(f,
		"# HELP kvfs_rung the rung of the ladder in use\n# TYPE "
		"kvfs_rung gauge\nkvfs_rung{name=\"%s\"} 1\n",
		fs_rung_name(fs->rung));
	print_latencies(f, &fs->counters);
	if (fs->remote)
		print_hist(f, "fetch", &fs->remote->counters.fetch);
	ctl_path_stats(fs, f);
	fclose(f);
	return text;
}
