// SPDX-License-Identifier: MIT
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "fs/ctl.h"
#include "fs/fs.h"
#include "fs/remote.h"
#include "meta/meta.h"
#include "meta/nodes.h"

/* .kvfs/nodes: the members of the cluster, and what this node knows of the
 * way to each. */

static json_t *whole(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static json_t *text(const char *name)
{
	char shown[CTL_NAME_BYTES];

	return json_string(ctl_name(name, shown));
}

static json_t *addresses(const struct meta_self *self)
{
	json_t *a = json_array();

	for (uint32_t i = 0; i < self->n_addrs; i++)
		json_array_append_new(a, json_string(self->addrs[i]));
	return a;
}

/* Of this node what is so now, of the others what they told last. */
static void add_load(json_t *o, struct fs *fs, const struct meta_node *node)
{
	struct meta_load now;
	const struct meta_load *l = &node->load;

	if (node->is_self) {
		remote_node_ops.load(fs, &now);
		l = &now;
	} else if (!node->has_load) {
		return;
	}
	json_object_set_new(o, "pool_bytes", whole(l->pool_bytes));
	json_object_set_new(o, "used_bytes", whole(l->used_bytes));
	json_object_set_new(o, "blocks", whole(l->n_blocks));
	json_object_set_new(o, "serving", whole(l->n_serving));
	json_object_set_new(o, "fetching", whole(l->n_fetching));
	json_object_set_new(
		o, "load_age_ms",
		whole(node->is_self ? 0 : (uint64_t)node->load_age_ms));
}

/* What a node that is not connected was found to be, and what mends it. */
static const struct problem {
	int err;
	const char *word, *advice;
} problems[] = {
	{EACCES, "another key",
	 "its cluster key is another one than here: mount both with the same "
	 "cluster-key-file"},
	{EPROTO, "cannot talk",
	 "its wire version is another one, or tls is on at one side only: "
	 "kvfs.log in the state directory says which"},
	{ESTALE, "another node",
	 "another node answers at its address: give each node a listen= of "
	 "its own"},
	{ECONNREFUSED, "refused",
	 "nothing listens at its address, or a firewall refuses"},
	{ECONNRESET, "lost",
	 "the connection ended: kvfs.log in its state directory says why"},
	{ETIMEDOUT, "unreachable",
	 "its address does not answer: look at the network and the firewalls "
	 "between the two"},
	{0, "unreachable",
	 "its address cannot be reached from here: look at the routes and the "
	 "firewalls between the two"},
};

static const struct problem *problem_of(int err)
{
	const struct problem *p = problems;

	while (p->err && p->err != -err)
		p++;
	return p;
}

static bool peer_info(struct remote *r, uint32_t incarnation,
		      struct engine_peer_info *info)
{
	struct engine_peer *peer;

	if (remote_peer(r, incarnation, &peer))
		return false;
	engine_peer_info(peer, info);
	engine_peer_put(peer);
	return true;
}

static void add_problem(json_t *o, struct remote *r, uint32_t incarnation)
{
	const struct problem *p;
	struct engine_peer *peer;
	int64_t when_ns = 0;
	int err;

	if (remote_peer(r, incarnation, &peer))
		return;
	err = engine_peer_failure(peer, &when_ns);
	engine_peer_put(peer);
	if (!err)
		return;
	p = problem_of(err);
	json_object_set_new(o, "problem", json_string(p->word));
	json_object_set_new(o, "advice", json_string(p->advice));
	json_object_set_new(
		o, "problem_age_ms",
		whole((uint64_t)(clock_now_ns() - when_ns) / NS_PER_MS));
}

static uint64_t silent_ms(const struct engine_peer_info *info)
{
	return info->heard_ns
		       ? (uint64_t)(clock_now_ns() - info->heard_ns) / NS_PER_MS
		       : 0;
}

/* By what it is reached, or was first to be tried. */
static const char *transport(const struct fs *fs, const struct meta_self *self)
{
	const char *first = self->n_addrs ? self->addrs[0] : "";

	if (fs->config.tls)
		return "tls";
	return !strncmp(first, "unix", 4)   ? "unix"
	       : !strncmp(first, "rdma", 4) ? "rdma"
					    : "tcp";
}

/* The upper end of the bucket in which that part of the slices is; of those
 * above all of them, the last one's. */
static uint64_t latency_us(const struct engine_traffic *t, unsigned percent)
{
	uint64_t n = 0;
	int i = 0;

	while (i < ENGINE_LATENCIES - 2 &&
	       (n += t->latencies[i]) * 100 < t->sent_slices * percent)
		i++;
	return t->sent_slices ? (uint64_t)ENGINE_LATENCY_NS(i) / 1000 : 0;
}

static void add_traffic(json_t *o, const struct engine_traffic *t)
{
	json_object_set_new(o, "sent_bytes", whole(t->sent_bytes));
	json_object_set_new(o, "received_bytes", whole(t->received_bytes));
	json_object_set_new(o, "sent_slices", whole(t->sent_slices));
	json_object_set_new(o, "received_slices", whole(t->received_slices));
	json_object_set_new(o, "retried_slices", whole(t->retried_slices));
	json_object_set_new(o, "failovers", whole(t->failovers));
	json_object_set_new(o, "latency_p50_us", whole(latency_us(t, 50)));
	json_object_set_new(o, "latency_p99_us", whole(latency_us(t, 99)));
}

static json_t *devices(const struct fs *fs)
{
	json_t *all = json_array();
	struct engine_device d;

	for (unsigned i = 0;
	     fs->remote && engine_device(fs->remote->engine, i, &d); i++) {
		json_t *o = json_object();

		json_object_set_new(o, "transport", json_string(d.transport));
		json_object_set_new(o, "device", json_string(d.name));
		json_object_set_new(o, "links", whole(d.n_links));
		add_traffic(o, &d.traffic);
		json_array_append_new(all, o);
	}
	return all;
}

/* What the engine measured on the way there. */
static void add_path(json_t *o, struct remote *r, uint32_t incarnation)
{
	struct engine_peer_info info;

	if (!peer_info(r, incarnation, &info))
		return;
	json_object_set_new(o, "connected", json_boolean(info.up));
	if (info.via && !strcmp(info.via, "rdma"))
		json_object_set_new(o, "transport", json_string(info.via));
	json_object_set_new(o, "links", whole(info.n_links));
	json_object_set_new(o, "calls_in_flight", whole(info.n_calls));
	json_object_set_new(o, "queued_bytes", whole(info.queued_bytes));
	json_object_set_new(o, "silent_ms", whole(silent_ms(&info)));
	json_object_set_new(o, "rtt_us", whole(info.rtt_us));
	json_object_set_new(o, "rate_bytes_s", whole(info.rate_bytes_s));
	add_traffic(o, &info.traffic);
	if (!info.up)
		add_problem(o, r, incarnation);
}

struct listing {
	struct fs *fs;
	json_t *nodes;
};

static bool add_node(void *arg, const struct meta_node *node)
{
	struct listing *l = arg;
	json_t *o = json_object();

	json_object_set_new(o, "name", text(node->name));
	json_object_set_new(o, "host", text(node->host));
	json_object_set_new(o, "incarnation", whole(node->incarnation));
	json_object_set_new(o, "uuid", json_string(node->uuid));
	json_object_set_new(o, "self", json_boolean(node->is_self));
	json_object_set_new(o, "draining", json_boolean(node->self.draining));
	json_object_set_new(o, "addresses", addresses(&node->self));
	json_object_set_new(o, "wire_version", whole(node->self.wire_version));
	json_object_set_new(o, "transport",
			    json_string(transport(l->fs, &node->self)));
	add_load(o, l->fs, node);
	if (l->fs->remote && !node->is_self)
		add_path(o, l->fs->remote, node->incarnation);
	json_array_append_new(l->nodes, o);
	return true;
}

char *ctl_nodes(struct fs *fs, bool all)
{
	struct listing l = {.fs = fs, .nodes = json_array()};
	json_t *o = json_object();
	unsigned n;

	(void)all;
	n = meta_nodes(fs->meta, add_node, &l);

	json_object_set_new(o, "live", whole(n));
	json_object_set_new(o, "nodes", l.nodes);
	json_object_set_new(o, "devices", devices(fs));
	return ctl_text(o);
}
