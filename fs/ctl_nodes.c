// SPDX-License-Identifier: MIT
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

static void add_load(json_t *o, const struct meta_node *node)
{
	const struct meta_load *l = &node->load;

	if (!node->has_load)
		return;
	json_object_set_new(o, "pool_bytes", whole(l->pool_bytes));
	json_object_set_new(o, "used_bytes", whole(l->used_bytes));
	json_object_set_new(o, "blocks", whole(l->n_blocks));
	json_object_set_new(o, "serving", whole(l->n_serving));
	json_object_set_new(o, "fetching", whole(l->n_fetching));
	json_object_set_new(o, "load_age_ms",
			    whole((uint64_t)node->load_age_ms));
}

/* What the engine measured on the way there. */
static void add_path(json_t *o, struct remote *r, uint32_t incarnation)
{
	struct engine_peer_info info;
	struct engine_peer *peer;

	if (remote_peer(r, incarnation, &peer))
		return;
	engine_peer_info(peer, &info);
	engine_peer_put(peer);
	json_object_set_new(o, "connected", json_boolean(info.up));
	json_object_set_new(o, "links", whole(info.n_links));
	json_object_set_new(o, "rtt_us", whole(info.rtt_us));
	json_object_set_new(o, "rate_bytes_s", whole(info.rate_bytes_s));
	json_object_set_new(o, "sent_bytes", whole(info.sent_bytes));
	json_object_set_new(o, "received_bytes", whole(info.received_bytes));
	json_object_set_new(o, "retried_slices", whole(info.retried_slices));
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
	add_load(o, node);
	if (l->fs->remote && !node->is_self)
		add_path(o, l->fs->remote, node->incarnation);
	json_array_append_new(l->nodes, o);
	return true;
}

char *ctl_nodes(struct fs *fs)
{
	struct listing l = {.fs = fs, .nodes = json_array()};
	json_t *o = json_object();
	unsigned n = meta_nodes(fs->meta, add_node, &l);

	json_object_set_new(o, "live", whole(n));
	json_object_set_new(o, "nodes", l.nodes);
	return ctl_text(o);
}
