// SPDX-License-Identifier: MIT
#include "tools/status.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "tools/term.h"

#define BAR_WIDTH 50

/* How a byte of the pool is used, in the order of the bar. */
static const struct {
	const char *key, *name;
	char sign;
	enum term_style style;
} uses[] = {
	{"committed_bytes", "committed", '#', TERM_GOOD},
	{"writing_bytes", "writing", '=', TERM_WARN},
	{"ready_bytes", "ready", '+', TERM_BLUE},
	{"aside_bytes", "aside", '!', TERM_BAD},
	{"free_bytes", "free", '.', TERM_DIM},
};
#define N_USES (sizeof(uses) / sizeof(*uses))

static const char *size_of(json_t *o, const char *key, char *buf)
{
	return size_format(json_u64(o, key, 0), buf, SIZE_FORMAT_BYTES);
}

static void label(FILE *out, const char *name)
{
	fprintf(out, "  %s%-10s%s", term_style(out, TERM_BOLD), name,
		term_style(out, TERM_PLAIN));
}

/* -- the pool ----------------------------------------------------------- */

void status_bar(json_t *pool, unsigned width, char *bar)
{
	uint64_t sum = 0, upto = 0;
	unsigned at = 0, end;

	for (size_t i = 0; i < N_USES; i++)
		sum += json_u64(pool, uses[i].key, 0);
	for (size_t i = 0; sum && i < N_USES; i++) {
		upto += json_u64(pool, uses[i].key, 0);
		end = (unsigned)((double)upto / (double)sum * width + 0.5);
		for (; at < end && at < width; at++)
			bar[at] = uses[i].sign;
	}
	memset(bar + at, '.', width - at);
	bar[width] = 0;
}

static void draw_bar(json_t *pool, FILE *out)
{
	char bar[BAR_WIDTH + 1];
	size_t use;

	status_bar(pool, BAR_WIDTH, bar);
	fputc('[', out);
	for (const char *p = bar; *p; p++) {
		for (use = 0; use < N_USES - 1 && uses[use].sign != *p;)
			use++;
		fprintf(out, "%s%c", term_style(out, uses[use].style), *p);
	}
	fprintf(out, "%s] ", term_style(out, TERM_PLAIN));
}

static void draw_legend(json_t *pool, FILE *out)
{
	char size[SIZE_FORMAT_BYTES];

	fprintf(out, "%12s", "");
	for (size_t i = 0; i < N_USES; i++) {
		fprintf(out, "%s%s%c%s %s %s", i ? "  " : "",
			term_style(out, uses[i].style), uses[i].sign,
			term_style(out, TERM_PLAIN), uses[i].name,
			size_of(pool, uses[i].key, size));
	}
	fputc('\n', out);
}

static void draw_pool(json_t *pool, FILE *out)
{
	uint64_t committed = json_u64(pool, "committed_bytes", 0);
	uint64_t capacity = json_u64(pool, "capacity_bytes", 0);
	char used[SIZE_FORMAT_BYTES], of[SIZE_FORMAT_BYTES];

	if (!pool)
		return;
	label(out, "pool");
	if (isatty(fileno(out)))
		draw_bar(pool, out);
	fprintf(out, "%s of %s (%.0f %%)\n",
		size_of(pool, "committed_bytes", used),
		size_of(pool, "capacity_bytes", of),
		capacity ? 100.0 * (double)committed / (double)capacity : 0);
	draw_legend(pool, out);
	fprintf(out, "%12s%" PRIu64 " blocks; %s, %s pages", "",
		json_u64(pool, "blocks", 0),
		json_bool(pool, "own_mount", true) ? "a tmpfs of its own"
						   : "a folder of /dev/shm",
		json_bool(pool, "huge", false) ? "huge" : "small");
	if (json_u64(pool, "adopted", 0) || json_u64(pool, "adopt_dropped", 0))
		fprintf(out,
			"; at start %" PRIu64 " adopted, %" PRIu64 " dropped",
			json_u64(pool, "adopted", 0),
			json_u64(pool, "adopt_dropped", 0));
	fputc('\n', out);
}

static void draw_classes(json_t *classes, FILE *out)
{
	static const struct table_column columns[] = {
		{"    frames of", true},
		{"ready", true},
		{"committed", true},
	};
	struct table *t = table_new(columns, 3);
	char size[SIZE_FORMAT_BYTES];
	json_t *c;
	size_t i;

	json_array_foreach (classes, i, c) {
		table_add(t, "%s", size_of(c, "bytes", size));
		table_add(t, "%" PRIu64, json_u64(c, "ready", 0));
		table_add(t, "%" PRIu64, json_u64(c, "committed", 0));
	}
	if (json_array_size(classes)) {
		fputc('\n', out);
		table_print(t, out);
	}
	table_free(t);
}

/* -- hits and names ----------------------------------------------------- */

static void draw_hits(json_t *kv, FILE *out)
{
	uint64_t hits = json_u64(kv, "hits", 0);
	uint64_t all = hits + json_u64(kv, "misses", 0);
	char in[SIZE_FORMAT_BYTES], gone[SIZE_FORMAT_BYTES];

	if (!kv)
		return;
	label(out, "hits");
	fprintf(out, "%" PRIu64 " of %" PRIu64 " (%.1f %%)\n", hits, all,
		all ? 100.0 * (double)hits / (double)all : 0);
	label(out, "stores");
	fprintf(out,
		"%" PRIu64 " (%s), %" PRIu64 " evicted (%s), %" PRIu64
		" conflicts, %" PRIu64 " deduplicated\n",
		json_u64(kv, "stores", 0), size_of(kv, "bytes_stored", in),
		json_u64(kv, "evictions", 0),
		size_of(kv, "bytes_evicted", gone),
		json_u64(kv, "conflicts", 0), json_u64(kv, "deduplicated", 0));
}

static void add_namespace(struct table *t, json_t *ns)
{
	static const char *const counts[] = {"hits", "misses", "stores",
					     "evictions"};
	uint64_t quota = json_u64(ns, "quota_bytes", 0);
	char text[256], size[SIZE_FORMAT_BYTES];

	term_printable(json_text(ns, "name", "?"), text, sizeof(text));
	table_add(t, "    %s", text);
	table_add(t, "%" PRIu64, json_u64(ns, "blocks", 0));
	table_add(t, "%s", size_of(ns, "bytes", size));
	table_add(t, "%s", quota ? size_of(ns, "quota_bytes", size) : "-");
	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		table_add(t, "%" PRIu64, json_u64(ns, counts[i], 0));
}

static void draw_namespaces(json_t *list, FILE *out)
{
	static const struct table_column columns[] = {
		{"    namespace", false}, {"blocks", true},    {"bytes", true},
		{"quota", true},	  {"hits", true},      {"misses", true},
		{"stores", true},	  {"evictions", true},
	};
	struct table *t = table_new(columns, 8);
	json_t *ns;
	size_t i;

	json_array_foreach (list, i, ns)
		add_namespace(t, ns);
	if (json_array_size(list)) {
		fputc('\n', out);
		table_print(t, out);
	}
	table_free(t);
}

static void draw_redis(json_t *redis, FILE *out)
{
	bool up = json_bool(redis, "up", false);
	uint64_t nodes = json_u64(redis, "nodes", 1);

	if (!redis)
		return;
	label(out, "redis");
	fprintf(out, "%s%s%s, %s%s", term_style(out, up ? TERM_GOOD : TERM_BAD),
		up ? "up" : "away", term_style(out, TERM_PLAIN),
		json_bool(redis, "embedded", false) ? "its own, " : "",
		json_text(redis, "address", "?"));
	fprintf(out, ", %" PRIu64 " us, %" PRIu64 " node%s\n",
		json_u64(redis, "rtt_us", 0), nodes, nodes == 1 ? "" : "s");
	fprintf(out,
		"%12s%" PRIu64 " names published, %" PRIu64 " waiting; %" PRIu64
		" timeouts, %" PRIu64 " reconnects, %" PRIu64 " restarts\n",
		"", json_u64(redis, "published", 0),
		json_u64(redis, "dirty", 0), json_u64(redis, "timeouts", 0),
		json_u64(redis, "reconnects", 0),
		json_u64(redis, "restarts", 0));
}

static void draw_ckpt(json_t *status, FILE *out)
{
	bool read_only = json_bool(status, "redis.ckpt_read_only", false);

	if (!json_at(status, "ckpt"))
		return;
	label(out, "ckpt");
	fprintf(out, "%" PRIu64 " published, %" PRIu64 " failed%s\n",
		json_u64(status, "ckpt.published", 0),
		json_u64(status, "ckpt.failed", 0),
		read_only ? "; read-only: being reloaded into Redis" : "");
}

static void draw_exchange(json_t *o, const char *in, const char *out_bytes,
			  FILE *out)
{
	char got[SIZE_FORMAT_BYTES], gave[SIZE_FORMAT_BYTES];

	fprintf(out, "%s fetched, %s sent", size_of(o, in, got),
		size_of(o, out_bytes, gave));
}

/* What went wrong, in colour where anything did. */
static void draw_trouble(json_t *o, FILE *out)
{
	static const struct {
		const char *key, *text;
	} troubles[] = {{"mismatches", "wrong checksums"},
			{"timeouts", "timeouts"},
			{"fetch_failed", "failed"}};
	char size[SIZE_FORMAT_BYTES];

	for (size_t i = 0; i < sizeof(troubles) / sizeof(*troubles); i++) {
		uint64_t n = json_u64(o, troubles[i].key, 0);

		if (json_at(o, troubles[i].key))
			fprintf(out, ", %s%" PRIu64 " %s%s",
				n ? term_style(out, TERM_WARN) : "", n,
				troubles[i].text,
				n ? term_style(out, TERM_PLAIN) : "");
	}
	if (json_u64(o, "quarantined_bytes", 0))
		fprintf(out, ", %s%s quarantined%s", term_style(out, TERM_WARN),
			size_of(o, "quarantined_bytes", size),
			term_style(out, TERM_PLAIN));
	fputc('\n', out);
}

static void draw_cluster(json_t *status, FILE *out)
{
	json_t *remote = json_at(status, "remote"), *ckpt;

	if (!remote)
		return;
	ckpt = json_at(status, "ckpt");
	label(out, "cluster");
	fprintf(out,
		"%" PRIu64 " nodes; %" PRIu64 " of %" PRIu64
		" names asked for were elsewhere, %" PRIu64
		" opens waited for a fetch\n",
		json_u64(status, "redis.nodes", 1),
		json_u64(remote, "lookup_hits", 0),
		json_u64(remote, "lookups", 0), json_u64(remote, "hits", 0));
	fprintf(out, "%12sblocks: ", "");
	draw_exchange(remote, "fetch_bytes", "served_bytes", out);
	draw_trouble(remote, out);
	fprintf(out, "%12sshards: ", "");
	draw_exchange(ckpt, "fetched_bytes", "served_bytes", out);
	draw_trouble(ckpt, out);
	fprintf(out,
		"%12s%" PRIu64 " publishes lost to another node's, %" PRIu64
		" names removed; %" PRIu64 " audits\n",
		"", json_u64(status, "redis.conflicts", 0),
		json_u64(status, "redis.tombstoned", 0),
		json_u64(status, "redis.audits", 0));
}

/* Only where somebody uses them. */
static void draw_buffers(json_t *o, FILE *out)
{
	char size[SIZE_FORMAT_BYTES], got[SIZE_FORMAT_BYTES],
		put[SIZE_FORMAT_BYTES];

	if (!json_u64(o, "buffers", 0) && !json_u64(o, "got", 0) &&
	    !json_u64(o, "put", 0))
		return;
	label(out, "buffers");
	fprintf(out,
		"%" PRIu64 " registered, %s; %s read into them (%" PRIu64
		" blocks straight from other nodes), %s stored\n",
		json_u64(o, "buffers", 0), size_of(o, "bytes", size),
		size_of(o, "got_bytes", got), json_u64(o, "got_straight", 0),
		size_of(o, "put_bytes", put));
}

static void draw_gpu(json_t *o, uint64_t n_handed, FILE *out)
{
	bool driver = json_bool(o, "driver", false);
	uint64_t dmabufs = json_u64(o, "dmabufs", 0);
	char size[SIZE_FORMAT_BYTES];

	if (!driver && !n_handed && !json_u64(o, "dmabuf_bytes", 0))
		return;
	label(out, "gpu");
	fprintf(out, "%s driver; ", driver ? "a" : "no");
	if (dmabufs)
		fprintf(out, "%" PRIu64 " buffers reached by a card; ",
			dmabufs);
	else
		fputs("no buffer reached by a card: staged by libkvfs; ", out);
	fprintf(out,
		"%s copied by cards; %s for GPUDirect Storage; %" PRIu64
		" files of ckpt/ given to cuFile\n",
		size_of(o, "dmabuf_bytes", size),
		json_bool(o, "storage_driver", false) ? "nvidia-fs"
						      : "no nvidia-fs",
		n_handed);
}

static void draw_latency(json_t *latency, FILE *out)
{
	static const struct table_column columns[] = {
		{"    latency us", false}, {"p50", true}, {"p99", true}};
	struct table *t = table_new(columns, 3);
	bool any = false;
	const char *name;
	json_t *l;

	json_object_foreach (latency, name, l) {
		if (!json_u64(l, "p99", 0)) /* none yet */
			continue;
		any = true;
		table_add(t, "    %s", name);
		table_add(t, "%.0f", json_f64(l, "p50", 0));
		table_add(t, "%.0f", json_f64(l, "p99", 0));
	}
	if (any) {
		fputc('\n', out);
		table_print(t, out);
	}
	table_free(t);
}

/* -- all of it ---------------------------------------------------------- */

static void draw_span(uint64_t s, FILE *out)
{
	if (s < 60)
		fprintf(out, "%" PRIu64 " s", s);
	else if (s < 3600)
		fprintf(out, "%" PRIu64 " min", s / 60);
	else if (s < 86400)
		fprintf(out, "%" PRIu64 " h %" PRIu64 " min", s / 3600,
			s / 60 % 60);
	else
		fprintf(out, "%" PRIu64 " d %" PRIu64 " h", s / 86400,
			s / 3600 % 24);
}

static void draw_head(json_t *status, FILE *out)
{
	const char *why = json_text(status, "rung.reason", "");

	fprintf(out, "%skvfs %s on %s%s, up ", term_style(out, TERM_BOLD),
		json_text(status, "version", ""),
		json_text(status, "mountpoint", "?"),
		term_style(out, TERM_PLAIN));
	draw_span(json_u64(status, "uptime_s", 0), out);
	fprintf(out, ", pid %" PRIu64 "\n", json_u64(status, "pid", 0));
	label(out, "state");
	fprintf(out, "%s\n", json_text(status, "state_dir", "?"));
	label(out, "rung");
	fputs(json_text(status, "rung.name", "?"), out);
	if (*why)
		fprintf(out, " (%s)", why);
	fputc('\n', out);
}

void status_draw(json_t *status, FILE *out)
{
	draw_head(status, out);
	draw_pool(json_at(status, "pool"), out);
	draw_hits(json_at(status, "kv"), out);
	draw_redis(json_at(status, "redis"), out);
	draw_ckpt(status, out);
	draw_cluster(status, out);
	draw_buffers(json_at(status, "buffers"), out);
	draw_gpu(json_at(status, "gpu"),
		 json_u64(json_at(status, "ckpt"), "handed", 0), out);
	draw_namespaces(json_at(status, "kv.namespaces"), out);
	draw_classes(json_at(status, "pool.classes"), out);
	draw_latency(json_at(status, "latency_us"), out);
}
