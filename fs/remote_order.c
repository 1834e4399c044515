// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cleanup.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * What people ask for by extended attributes, and the verbs of the command by
 * these:
 *
 *      get fetch       it is here when this returns "ok"
 *      get holders     the nodes that hold it, as Redis has it now
 *      set pin on|off  fetched, and never evicted from here
 *      set copies N    N nodes on different hosts hold it, this one included,
 *                      those that drain not
 *      set drain on    (of kv/) this node takes nothing new
 *
 * A copy elsewhere is made by asking that node to fetch it (TAKE): one way of
 * moving bytes, with the reader in charge of its own memory.
 */

#define COPIES_MAX 16

/* -- asking one node ------------------------------------- */

struct take {
	struct engine_call call;
	pthread_mutex_t lock;
	pthread_cond_t some;
	int status;
	bool over;
};

static void taken(struct engine_call *call, int status, const void *reply,
		  uint32_t reply_bytes)
{
	struct take *t = container_of(call, struct take, call);

	(void)reply;
	(void)reply_bytes;
	pthread_mutex_lock(&t->lock);
	t->status = status;
	t->over = true;
	pthread_cond_signal(&t->some);
	pthread_mutex_unlock(&t->lock);
}

/* The engine ends every call by its deadline. */
static int take_wait(struct take *t)
{
	scoped_lock(&t->lock);

	while (!t->over)
		pthread_cond_wait(&t->some, &t->lock);
	return t->status;
}

int remote_ask(struct remote *r, uint32_t node, uint16_t type,
	       const void *payload, uint32_t payload_bytes, int64_t deadline)
{
	struct take t = {.lock = PTHREAD_MUTEX_INITIALIZER,
			 .some = PTHREAD_COND_INITIALIZER};
	struct engine_peer *peer;
	int err = remote_peer(r, node, &peer);

	if (err)
		return err;
	t.call = (struct engine_call){
		.type = type,
		.payload = payload,
		.payload_bytes = payload_bytes,
		.deadline_ns = deadline,
		.done = taken,
	};
	err = engine_call_start(peer, &t.call);
	if (!err)
		err = take_wait(&t);
	engine_peer_put(peer);
	return err;
}

static int ask_to_take(struct remote *r, uint32_t node,
		       const struct remote_msg *m, int64_t deadline)
{
	uint8_t bytes[REMOTE_MSG_MAX];

	return remote_ask(r, node, REMOTE_TAKE, bytes,
			  (uint32_t)remote_encode(m, bytes), deadline);
}

/* -- who could ---------------------------------------------------------- */

struct choice {
	struct meta *meta;
	const struct meta_kv_found *found;
	uint32_t tried[COPIES_MAX];
	unsigned n_tried;
	uint32_t best;
	uint64_t best_free;
};

static bool holds(const struct choice *c, uint32_t node)
{
	for (uint32_t i = 0; i < c->found->n_holders; i++)
		if (c->found->holders[i] == node)
			return true;
	for (unsigned i = 0; i < c->n_tried; i++)
		if (c->tried[i] == node)
			return true;
	return false;
}

/* A copy beside one that is there would count for nothing. */
static bool adds_a_host(const struct choice *c, uint32_t node)
{
	uint32_t all[META_KV_HOLDERS_MAX + 1], n = c->found->n_holders;

	memcpy(all, c->found->holders, n * sizeof(*all));
	all[n] = node;
	return meta_nodes_hosts(c->meta, all, n + 1) >
	       meta_nodes_hosts(c->meta, all, n);
}

static bool compare(void *arg, const struct meta_node *node)
{
	struct choice *c = arg;
	uint64_t free_bytes = 1;

	if (node->is_self || node->self.draining || !node->self.n_addrs ||
	    holds(c, node->incarnation) || !adds_a_host(c, node->incarnation))
		return true;
	if (node->has_load && node->load.pool_bytes > node->load.used_bytes)
		free_bytes += node->load.pool_bytes - node->load.used_bytes;
	if (free_bytes > c->best_free) {
		c->best = node->incarnation;
		c->best_free = free_bytes;
	}
	return true;
}

/* The node with the most room of those that do not hold it; 0: none. */
static uint32_t choose(struct remote *r, struct choice *c)
{
	c->best = 0;
	c->best_free = 0;
	meta_nodes(r->fs->meta, compare, c);
	if (c->best && c->n_tried < COPIES_MAX)
		c->tried[c->n_tried++] = c->best;
	return c->best;
}

/* -- so many copies ----------------------------------------------------- */

/* What is published of a block of this node; 0 or -errno. */
static int describe(struct remote *r, const char *path, uint16_t path_len,
		    int64_t deadline, struct meta_kv_found *found)
{
	int err = meta_kv_lookup(r->fs->meta, deadline, path, path_len, found);

	return err ? err : found->is_dir ? -EISDIR : 0;
}

/* What a node holds that is about to go does not count. */
static void without_draining(struct remote *r, struct meta_kv_found *found)
{
	struct meta_node node;
	uint32_t n = 0;

	for (uint32_t i = 0; i < found->n_holders; i++)
		if (meta_node_get(r->fs->meta, found->holders[i], &node) &&
		    !node.self.draining)
			found->holders[n++] = found->holders[i];
	found->n_holders = n;
}

static struct remote_msg message(struct remote *r, const char *path,
				 uint16_t path_len,
				 const struct meta_kv_found *found)
{
	return (struct remote_msg){
		.generation = found->generation,
		.size_bytes = found->size_bytes,
		.checksum = {found->checksum[0], found->checksum[1]},
		.mode = found->mode,
		.uid = found->uid,
		.gid = found->gid,
		.holder = meta_node_self(r->fs->meta),
		.priority = ENGINE_REPLICATE,
		.path = path,
		.path_len = path_len,
	};
}

int remote_replicate(struct remote *r, const char *path, uint16_t path_len,
		     uint32_t copies, int64_t deadline)
{
	struct meta_kv_found found;
	struct choice c = {.meta = r->fs->meta, .found = &found};
	int err = describe(r, path, path_len, deadline, &found);
	struct remote_msg m;

	if (err)
		return err;
	m = message(r, path, path_len, &found);
	without_draining(r, &found);
	while (meta_nodes_hosts(r->fs->meta, found.holders, found.n_holders) <
	       copies) {
		uint32_t node = choose(r, &c);

		if (!node || clock_now_ns() >= deadline)
			return -EBUSY;
		if (!ask_to_take(r, node, &m, deadline) &&
		    found.n_holders < META_KV_HOLDERS_MAX)
			found.holders[found.n_holders++] = node;
	}
	return 0;
}

struct later {
	struct job job;
	struct remote *r;
	uint32_t copies;
	uint16_t path_len;
	char path[];
};

static void replicate(struct job *job)
{
	struct later *l = container_of(job, struct later, job);

	remote_replicate(l->r, l->path, l->path_len, l->copies,
			 clock_now_ns() +
				 l->r->fs->config.deadline_ms * NS_PER_MS);
	free(l);
}

void remote_replicate_later(struct remote *r, const char *path,
			    uint16_t path_len, uint32_t copies)
{
	struct later *l = malloc(sizeof(*l) + path_len);

	if (!l)
		return;
	l->job.run = replicate;
	l->r = r;
	l->copies = copies;
	l->path_len = path_len;
	memcpy(l->path, path, path_len);
	if (!remote_post(r, r->fetchers, &l->job))
		free(l);
}

/* -- getxattr ----------------------------------------------------------- */

static bool is_remote(struct kv *kv, struct kv_node *node)
{
	scoped_lock(&kv->lock);

	return node->type == KV_FILE && node->state == KV_REMOTE;
}

/* Its path below kv/; 0 or -errno. */
static int path_of(struct call *c, char path[POOL_PATH_MAX + 1])
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node = kv_node(c->inode);
	scoped_lock(&kv->lock);

	if (node->unlinked)
		return -ESTALE;
	if (node->state == KV_WRITING)
		return -ENODATA;
	return kv_path(kv_dir(node->parent), node->name, path);
}

static void reply_ok(struct call *c)
{
	call_reply_xattr(c, "ok", 2);
}

/* Redis' list; while it is away, ourselves. */
static void reply_holders(struct call *c)
{
	char path[POOL_PATH_MAX + 1], name[META_NODE_NAME_MAX + 1];
	char value[META_KV_HOLDERS_MAX * (META_NODE_NAME_MAX + 2)];
	struct meta_kv_found found = {.n_holders = 1};
	int n = path_of(c, path);
	size_t used = 0;

	if (n < 0) {
		call_reply_err(c, n);
		return;
	}
	if (meta_kv_lookup(c->fs->meta, c->deadline, path, (uint16_t)n,
			   &found) ||
	    found.is_dir) {
		found.n_holders = 1;
		found.holders[0] = meta_node_self(c->fs->meta);
	}
	for (uint32_t i = 0; i < found.n_holders; i++)
		used += (size_t)snprintf(value + used, sizeof(value) - used,
					 "%s%s", i ? " " : "",
					 remote_node_ask(c->fs,
							 found.holders[i],
							 c->deadline, name));
	call_reply_xattr(c, value, used);
}

bool remote_order_get(struct call *c, const char *name)
{
	struct kv_node *node = kv_node(c->inode);

	if (node->type != KV_FILE)
		return false;
	if (!strcmp(name, "holders")) {
		call_defer(c, reply_holders);
		return true;
	}
	if (strcmp(name, "fetch"))
		return false;
	if (is_remote(c->fs->kv, node))
		remote_fetch_then(c, kv_file(node), reply_ok);
	else
		reply_ok(c);
	return true;
}

/* -- setxattr ----------------------------------------------------------- */

static bool value_is(const struct call *c, const char *text)
{
	return c->value && c->size == strlen(text) &&
	       !memcmp(c->value, text, c->size);
}

static void pin(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = kv_file(kv_node(c->inode));
	bool on = value_is(c, "on");
	int err = 0;

	if (!on && !value_is(c, "off"))
		err = EINVAL;
	pthread_mutex_lock(&kv->lock);
	if (!err && f->frame == POOL_NO_FRAME)
		err = ESTALE;
	else if (!err && f->node.state != KV_COMMITTED)
		err = EINVAL;
	if (!err && on)
		kv_record(kv, f)->flags |= POOL_IS_PINNED;
	else if (!err)
		kv_record(kv, f)->flags &= ~POOL_IS_PINNED;
	pthread_mutex_unlock(&kv->lock);
	call_reply_err(c, err);
}

static void copies(struct call *c)
{
	char path[POOL_PATH_MAX + 1], value[16] = "";
	int n = path_of(c, path), err;
	unsigned long wanted;

	if (c->value && c->size < sizeof(value))
		memcpy(value, c->value, c->size);
	wanted = strtoul(value, NULL, 10);
	if (n < 0 || wanted < 1 || wanted > COPIES_MAX) {
		call_reply_err(c, n < 0 ? n : EINVAL);
		return;
	}
	err = kv_sync(c->fs->kv, kv_file(kv_node(c->inode)));
	if (err == -ESTALE) /* others have it */
		err = 0;
	if (!err && c->fs->remote)
		err = remote_replicate(c->fs->remote, path, (uint16_t)n,
				       (uint32_t)wanted, c->deadline);
	else if (!err && wanted > 1)
		err = -EBUSY;
	call_reply_err(c, err);
}

static void drain(struct call *c)
{
	bool on = value_is(c, "on");

	if (c->uid) {
		call_reply_err(c, EPERM);
	} else if (!c->fs->remote || (!on && !value_is(c, "off"))) {
		call_reply_err(c, EINVAL);
	} else {
		remote_announce(c->fs->remote, on);
		call_reply_err(c, 0);
	}
}

bool remote_order_set(struct call *c, const char *name)
{
	struct kv_node *node = kv_node(c->inode);

	if (node->type == KV_ROOT && !strcmp(name, "drain")) {
		drain(c);
		return true;
	}
	if (node->type != KV_FILE)
		return false;
	if (!strcmp(name, "copies")) {
		call_defer(c, copies);
		return true;
	}
	if (strcmp(name, "pin"))
		return false;
	if (is_remote(c->fs->kv, node))
		remote_fetch_then(c, kv_file(node), pin);
	else
		pin(c);
	return true;
}
