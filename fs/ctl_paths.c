// SPDX-License-Identifier: MIT
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "fs/ctl.h"
#include "fs/fs.h"
#include "fs/remote.h"
#include "meta/meta.h"
#include "meta/nodes.h"

/*
 * What goes to and from each peer and by each device, for Prometheus. Peers are
 * the live nodes of the cluster, devices ENGINE_DEVICES_MAX at most: so many
 * labels are there, and no more.
 */

struct way {
	char *labels;
	size_t labels_bytes;	      /* fclose writes both */
	struct engine_peer_info info; /* of a device: n_links, traffic */
};

struct ways {
	const char *kind; /* "peer", "device" */
	struct remote *r;
	struct way *all;
	unsigned n, max;
};

static struct way *way_next(struct ways *w, FILE **f)
{
	struct way *way = w->n < w->max ? &w->all[w->n] : NULL;

	*f = way ? open_memstream(&way->labels, &way->labels_bytes) : NULL;
	w->n += *f != NULL;
	return *f ? way : NULL;
}

static bool add_peer(void *arg, const struct meta_node *node)
{
	struct ways *w = arg;
	struct engine_peer *peer;
	struct way *way;
	FILE *f;

	if (node->is_self || remote_peer(w->r, node->incarnation, &peer))
		return true;
	way = way_next(w, &f);
	if (way) {
		engine_peer_info(peer, &way->info);
		fputs("node=\"", f);
		ctl_print_label(f, node->name); /* names may be alike */
		fprintf(f, "\",uuid=\"%s\"", node->uuid);
		fclose(f);
	}
	engine_peer_put(peer);
	return true;
}

static void add_devices(struct ways *w)
{
	struct engine_device d;
	struct way *way;
	FILE *f;

	while (engine_device(w->r->engine, w->n, &d)) {
		way = way_next(w, &f);
		if (!way)
			return;
		way->info.n_links = d.n_links;
		way->info.traffic = d.traffic;
		fprintf(f, "transport=\"%s\",device=\"", d.transport);
		ctl_print_label(f, d.name);
		fputc('"', f);
		fclose(f);
	}
}

#define PEER_METRICS(M)                                               \
	M(up, gauge, "1: there is a connection", info->up)            \
	M(rtt_seconds, gauge, "of the last ping", info->rtt_us / 1e6) \
	M(rate_bytes_per_second, gauge, "measured towards it",        \
	  info->rate_bytes_s)                                         \
	M(calls_in_flight, gauge, "asked of it and not answered",     \
	  info->n_calls)                                              \
	M(queued_bytes, gauge, "of blocks that it is yet to be sent", \
	  info->queued_bytes)

#define TRAFFIC_METRICS(M)                                                   \
	M(links, gauge, "connections that are up", info->n_links)            \
	M(sent_bytes_total, counter, "bytes sent", info->traffic.sent_bytes) \
	M(received_bytes_total, counter, "bytes that came",                  \
	  info->traffic.received_bytes)                                      \
	M(sent_slices_total, counter, "parts of blocks sent",                \
	  info->traffic.sent_slices)                                         \
	M(received_slices_total, counter, "parts of blocks that came",       \
	  info->traffic.received_slices)                                     \
	M(retried_slices_total, counter,                                     \
	  "parts that were sent once more, another way",                     \
	  info->traffic.retried_slices)                                      \
	M(failovers_total, counter,                                          \
	  "connections that failed with parts under way",                    \
	  info->traffic.failovers)

#define PRINT(metric, type, help, value)                                       \
	fprintf(f,                                                             \
		"# HELP kvfs_%s_" #metric " " help "\n# TYPE kvfs_%s_" #metric \
		" " #type "\n",                                                \
		w->kind, w->kind);                                             \
	for (unsigned i = 0; i < w->n; i++) {                                  \
		const struct engine_peer_info *info = &w->all[i].info;         \
		fprintf(f, "kvfs_%s_" #metric "{%s} %.17g\n", w->kind,         \
			w->all[i].labels, (double)(value));                    \
	}

static void print_latency(FILE *f, const char *kind, const struct way *way)
{
	const struct engine_traffic *t = &way->info.traffic;
	uint64_t seen = 0;

	for (int i = 0; i < ENGINE_LATENCIES; i++) {
		char le[32] = "+Inf";

		if (i < ENGINE_LATENCIES - 1)
			snprintf(le, sizeof(le), "%g",
				 (double)ENGINE_LATENCY_NS(i) / 1e9);
		seen += t->latencies[i];
		fprintf(f,
			"kvfs_%s_latency_seconds_bucket{%s,le=\"%s\"} %" PRIu64
			"\n",
			kind, way->labels, le, seen);
	}
	fprintf(f,
		"kvfs_%s_latency_seconds_sum{%s} %g\n"
		"kvfs_%s_latency_seconds_count{%s} %" PRIu64 "\n",
		kind, way->labels, (double)t->latency_ns / 1e9, kind,
		way->labels, seen);
}

static void print_traffic(FILE *f, const struct ways *w)
{
	TRAFFIC_METRICS(PRINT)
	fprintf(f,
		"# HELP kvfs_%s_latency_seconds from when a part was given to "
		"a connection until the other side had it\n"
		"# TYPE kvfs_%s_latency_seconds histogram\n",
		w->kind, w->kind);
	for (unsigned i = 0; i < w->n; i++)
		print_latency(f, w->kind, &w->all[i]);
}

static void ways_free(struct ways *w)
{
	while (w->n)
		free(w->all[--w->n].labels);
	free(w->all);
}

static void peers(FILE *f, struct fs *fs)
{
	struct ways ways = {.kind = "peer", .r = fs->remote}, *w = &ways;
	struct meta_stats s;

	meta_stats(fs->meta, &s);
	w->max = s.n_nodes + 1;
	w->all = calloc(w->max, sizeof(*w->all));
	if (!w->all)
		return;
	meta_nodes(fs->meta, add_peer, w);
	PEER_METRICS(PRINT)
	print_traffic(f, w);
	ways_free(w);
}

static void devices(FILE *f, struct fs *fs)
{
	struct ways w = {
		.kind = "device", .r = fs->remote, .max = ENGINE_DEVICES_MAX};

	w.all = calloc(w.max, sizeof(*w.all));
	if (!w.all)
		return;
	add_devices(&w);
	print_traffic(f, &w);
	ways_free(&w);
}

void ctl_path_stats(struct fs *fs, FILE *f)
{
	if (!fs->remote)
		return;
	peers(f, fs);
	devices(f, fs);
}
