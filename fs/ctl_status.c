// SPDX-License-Identifier: MIT
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "config.h"
#include "engine/pool.h"
#include "fs/ctl.h"
#include "fs/fs.h"
#include "fs/remote.h"
#include "meta/meta.h"

/* The JSON control files: what `kvfs status` draws. */

static json_t *whole(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static uint64_t counter(const _Atomic uint64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

static void add_class(void *arg, uint64_t bytes, uint32_t n_ready,
		      uint32_t n_committed)
{
	json_t *class = json_object();

	json_object_set_new(class, "bytes", whole(bytes));
	json_object_set_new(class, "ready", whole(n_ready));
	json_object_set_new(class, "committed", whole(n_committed));
	json_array_append_new(arg, class);
}

static json_t *pool_object(struct fs *fs)
{
	json_t *o = json_object(), *classes = json_array();
	struct pool_stats s;

	pool_stats(fs->pool, &s);
	json_object_set_new(o, "capacity_bytes", whole(s.capacity_bytes));
	json_object_set_new(o, "committed_bytes", whole(s.committed_bytes));
	json_object_set_new(o, "writing_bytes", whole(s.writing_bytes));
	json_object_set_new(o, "ready_bytes", whole(s.ready_bytes));
	json_object_set_new(o, "aside_bytes", whole(s.aside_bytes));
	json_object_set_new(o, "free_bytes", whole(s.free_bytes));
	json_object_set_new(o, "blocks", whole(s.n_committed));
	json_object_set_new(o, "frames_ready", whole(s.n_ready));
	json_object_set_new(o, "frames_aside", whole(s.n_aside));
	json_object_set_new(o, "taken_cold", whole(s.taken_cold));
	json_object_set_new(o, "recycled", whole(s.recycled));
	json_object_set_new(o, "retired", whole(s.retired));
	json_object_set_new(o, "huge", json_boolean(s.huge));
	json_object_set_new(o, "own_mount", json_boolean(s.own_mount));
	json_object_set_new(o, "adopted", whole(s.adopted));
	json_object_set_new(o, "adopt_dropped", whole(s.adopt_dropped));
	pool_classes(fs->pool, add_class, classes);
	json_object_set_new(o, "classes", classes);
	return o;
}

const char *ctl_name(const char *name, char text[CTL_NAME_BYTES])
{
	json_t *utf8 = json_string(name);
	char *at = text;

	if (utf8) {
		json_decref(utf8);
		return name;
	}
	for (; *name; name++)
		at += sprintf(at, *name & 0x80 ? "\\x%02x" : "%c",
			      (unsigned char)*name);
	return text;
}

static void add_namespace(void *arg, const struct kv_usage *u)
{
	json_t *o = json_object();
	char name[CTL_NAME_BYTES];

	json_object_set_new(o, "name", json_string(ctl_name(u->name, name)));
	json_object_set_new(o, "blocks", whole(u->blocks));
	json_object_set_new(o, "bytes", whole(u->bytes));
	json_object_set_new(o, "usage_bytes", whole(u->usage_bytes));
	json_object_set_new(o, "quota_bytes", whole(u->quota_bytes));
	json_object_set_new(o, "hits", whole(u->hits));
	json_object_set_new(o, "misses", whole(u->misses));
	json_object_set_new(o, "stores", whole(u->stores));
	json_object_set_new(o, "evictions", whole(u->evictions));
	json_array_append_new(arg, o);
}

static json_t *kv_object(struct fs *fs, bool all)
{
	const struct fs_counters *c = &fs->counters;
	uint64_t hits = counter(&c->hits), misses = counter(&c->misses);
	json_t *o = json_object(), *spaces = json_array();

	json_object_set_new(o, "hits", whole(hits));
	json_object_set_new(o, "misses", whole(misses));
	json_object_set_new(o, "hit_rate",
			    hits + misses ? json_real((double)hits /
						      (double)(hits + misses))
					  : json_null());
	json_object_set_new(o, "stores", whole(counter(&c->stores)));
	json_object_set_new(o, "evictions", whole(counter(&c->evictions)));
	json_object_set_new(o, "conflicts", whole(counter(&c->conflicts)));
	json_object_set_new(o, "deduplicated",
			    whole(counter(&c->deduplicated)));
	json_object_set_new(o, "copied_commits",
			    whole(counter(&c->copied_commits)));
	json_object_set_new(o, "damaged", whole(counter(&c->damaged)));
	json_object_set_new(o, "bytes_stored",
			    whole(counter(&c->bytes_stored)));
	json_object_set_new(o, "bytes_evicted",
			    whole(counter(&c->bytes_evicted)));
	if (all)
		kv_each_namespace(fs->kv, add_namespace, spaces);
	json_object_set_new(o, "namespaces", spaces);
	return o;
}

static json_t *redis_object(struct fs *fs)
{
	json_t *o = json_object();
	struct meta_stats s;

	meta_stats(fs->meta, &s);
	json_object_set_new(o, "up", json_boolean(s.up));
	json_object_set_new(o, "embedded", json_boolean(s.embedded));
	json_object_set_new(o, "address", json_string(s.address));
	json_object_set_new(o, "incarnation", whole(s.incarnation));
	json_object_set_new(o, "nodes", whole(s.n_nodes));
	json_object_set_new(o, "dirty", whole(s.n_dirty));
	json_object_set_new(o, "published", whole(s.n_published));
	json_object_set_new(o, "conflicts", whole(s.n_conflicts));
	json_object_set_new(o, "tombstoned", whole(s.n_tombstoned));
	json_object_set_new(o, "dropped", whole(s.n_dropped));
	json_object_set_new(o, "swept", whole(s.n_swept));
	json_object_set_new(o, "retracted", whole(s.n_retracted));
	json_object_set_new(o, "audits", whole(s.n_audits));
	json_object_set_new(o, "refills", whole(s.n_refills));
	json_object_set_new(o, "commands", whole(s.n_commands));
	json_object_set_new(o, "timeouts", whole(s.n_timeouts));
	json_object_set_new(o, "reconnects", whole(s.n_reconnects));
	json_object_set_new(o, "restarts", whole(s.n_redis_restarts));
	json_object_set_new(o, "ckpt_seq", whole(s.ckpt_seq));
	json_object_set_new(o, "ckpt_logged_seq", whole(s.ckpt_logged_seq));
	json_object_set_new(o, "ckpt_keeper", json_boolean(s.ckpt_keeper));
	json_object_set_new(o, "ckpt_keepers", whole(s.ckpt_keepers));
	json_object_set_new(o, "ckpt_read_only",
			    json_boolean(s.ckpt_read_only));
	json_object_set_new(o, "rtt_us", whole((uint64_t)s.last_rtt_ns / 1000));
	return o;
}

/* The upper edge of the bucket that holds the q-th part of all values. */
static uint64_t quantile_us(const struct hist *h, double q)
{
	uint64_t total = 0, seen = 0;

	for (int i = 0; i < HIST_BUCKETS; i++)
		total += counter(&h->count[i]);
	for (int i = 0; i < HIST_BUCKETS; i++) {
		seen += counter(&h->count[i]);
		if (total && (double)seen >= q * (double)total)
			return 1ULL << i;
	}
	return 0;
}

static void add_latency(json_t *o, const char *name, const struct hist *h)
{
	json_t *l = json_object();

	json_object_set_new(l, "p50", whole(quantile_us(h, 0.5)));
	json_object_set_new(l, "p99", whole(quantile_us(h, 0.99)));
	json_object_set_new(o, name, l);
}

static json_t *latency_object(struct fs *fs)
{
	const struct fs_counters *c = &fs->counters;
	json_t *o = json_object();

	add_latency(o, "lookup", &c->lookup);
	add_latency(o, "open", &c->open);
	add_latency(o, "create", &c->create);
	add_latency(o, "rename", &c->rename);
	add_latency(o, "ckpt", &c->ckpt_call);
	return o;
}

static json_t *buffers_object(struct fs *fs)
{
	const struct fs_counters *c = &fs->counters;
	json_t *o = json_object();

	json_object_set_new(o, "buffers", whole(counter(&c->buffers)));
	json_object_set_new(o, "bytes", whole(counter(&c->buffer_bytes)));
	json_object_set_new(o, "got", whole(counter(&c->got)));
	json_object_set_new(o, "got_bytes", whole(counter(&c->got_bytes)));
	json_object_set_new(o, "got_straight",
			    whole(counter(&c->got_straight)));
	json_object_set_new(o, "put", whole(counter(&c->put)));
	json_object_set_new(o, "put_bytes", whole(counter(&c->put_bytes)));
	return o;
}

/* Memory of a GPU is reached by a card, as a dma-buf, else by libkvfs, by way
 * of buffers. The drivers tell what it may find. */
static json_t *gpu_object(struct fs *fs)
{
	const struct fs_counters *c = &fs->counters;
	json_t *o = json_object();

	json_object_set_new(o, "driver",
			    json_boolean(!access("/dev/nvidiactl", F_OK)));
	json_object_set_new(
		o, "storage_driver",
		json_boolean(!access("/proc/driver/nvidia-fs", F_OK)));
	json_object_set_new(o, "dmabufs", whole(counter(&c->dmabufs)));
	json_object_set_new(o, "dmabuf_bytes",
			    whole(counter(&c->dmabuf_bytes)));
	return o;
}

static json_t *rings_object(struct fs *fs)
{
	const struct fs_counters *c = &fs->counters;
	json_t *o = json_object();

	json_object_set_new(o, "rings", whole(counter(&c->rings)));
	json_object_set_new(o, "bytes", whole(counter(&c->ring_bytes)));
	json_object_set_new(o, "calls", whole(counter(&c->ring_calls)));
	return o;
}

static json_t *rung_object(struct fs *fs)
{
	json_t *o = json_object();

	json_object_set_new(o, "name", json_string(fs_rung_name(fs->rung)));
	json_object_set_new(o, "reason",
			    fs->rung_reason ? json_string(fs->rung_reason)
					    : json_null());
	return o;
}

static json_t *remote_object(struct fs *fs)
{
	struct remote_counters *c = &fs->remote->counters;
	json_t *o = json_object();

#define COUNT(name) json_object_set_new(o, #name, whole(counter(&c->name)))
	COUNT(lookups);
	COUNT(lookup_hits);
	COUNT(hits);
	COUNT(fetches);
	COUNT(ahead);
	COUNT(ahead_dropped);
	COUNT(ahead_cancelled);
	COUNT(fetch_failed);
	COUNT(fetch_bytes);
	COUNT(not_here);
	COUNT(mismatches);
	COUNT(timeouts);
	COUNT(busy);
	COUNT(served);
	COUNT(serve_refused);
	COUNT(served_bytes);
	COUNT(drops_sent);
	COUNT(drops_received);
	COUNT(offers);
	COUNT(offers_taken);
	COUNT(offers_refused);
	COUNT(offered_bytes);
	COUNT(moved_here);
	COUNT(n_fetching);
	COUNT(n_serving);
	COUNT(pinned_bytes);
	COUNT(quarantined_bytes);
	COUNT(past_pool);
	COUNT(scratch_bytes);
#undef COUNT
	return o;
}

static json_t *ckpt_object(struct fs *fs)
{
	struct fs_counters *c = &fs->counters;
	json_t *o = json_object();

#define COUNT(name, field) \
	json_object_set_new(o, name, whole(counter(&c->field)))
	COUNT("published", ckpt_published);
	COUNT("failed", ckpt_failed);
	COUNT("shards_fetched", shards_fetched);
	COUNT("fetched_bytes", shard_fetched_bytes);
	COUNT("fetch_failed", shard_failed);
	COUNT("fetching", shard_fetching);
	COUNT("mismatches", shard_mismatches);
	COUNT("served_bytes", shard_served_bytes);
	COUNT("refused", shard_refused);
	COUNT("handed", ckpt_handed);
	COUNT("quarantined_bytes", shard_quarantined_bytes);
#undef COUNT
	return o;
}

char *ctl_text(json_t *o)
{
	char *text = json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(4));
	size_t n;
	char *line;

	json_decref(o);
	if (!text)
		return NULL;
	n = strlen(text);
	line = realloc(text, n + 2);
	if (!line) {
		free(text);
		return NULL;
	}
	memcpy(line + n, "\n", 2);
	return line;
}

static json_t *identity(struct fs *fs)
{
	json_t *o = json_object();

	json_object_set_new(o, "version", json_string(PACKAGE_VERSION));
	json_object_set_new(o, "mountpoint",
			    json_string(fs->config.mountpoint));
	json_object_set_new(o, "state_dir", json_string(fs->config.state_dir));
	json_object_set_new(o, "pid", whole((uint64_t)getpid()));
	return o;
}

char *ctl_status(struct fs *fs, bool all)
{
	json_t *o = identity(fs);
	int64_t up = clock_stamp_ns() - fs->started_ns;

	json_object_set_new(o, "uptime_s", whole((uint64_t)(up / NS_PER_S)));
	json_object_set_new(o, "rung", rung_object(fs));
	json_object_set_new(o, "pool", pool_object(fs));
	json_object_set_new(o, "kv", kv_object(fs, all));
	json_object_set_new(o, "buffers", buffers_object(fs));
	json_object_set_new(o, "gpu", gpu_object(fs));
	json_object_set_new(o, "rings", rings_object(fs));
	json_object_set_new(o, "ckpt", ckpt_object(fs));
	json_object_set_new(o, "redis", redis_object(fs));
	if (fs->remote)
		json_object_set_new(o, "remote", remote_object(fs));
	json_object_set_new(o, "latency_us", latency_object(fs));
	return ctl_text(o);
}

char *ctl_config(struct fs *fs, bool all)
{
	json_t *o = identity(fs);

	(void)all;
	json_object_set_new(o, "pool_bytes", whole(fs->config.pool_bytes));
	json_object_set_new(o, "frame_bytes", whole(fs->config.frame_bytes));
	json_object_set_new(o, "deadline_ms", whole(fs->config.deadline_ms));
	json_object_set_new(o, "meta",
			    fs->config.meta_url
				    ? json_string(fs->config.meta_url)
				    : json_null());
	json_object_set_new(o, "meta_replicas",
			    whole(fs->config.meta_replicas));
	json_object_set_new(
		o, "prefix",
		json_string(fs->config.prefix ? fs->config.prefix : "kvfs"));
	json_object_set_new(o, "listen",
			    fs->config.listen ? json_string(fs->config.listen)
					      : json_null());
	json_object_set_new(o, "tls", json_boolean(fs->config.tls));
	json_object_set_new(o, "read_only", json_boolean(fs->config.read_only));
	return ctl_text(o);
}
