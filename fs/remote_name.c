// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * Names that other nodes hold: LOOKUP asks Redis once, without waiting; unlink
 * makes a tombstone and tells the holders.
 */

#define NAMESPACES_NS 100000000LL /* asked for no more often */

bool remote_should_ask(struct call *c, struct kv_dir *dir, struct kv_node *node)
{
	struct kv_remote *known;

	if (!c->fs->remote || (c->flags & REMOTE_ASKED) || dir->node.unlinked ||
	    kv_name_is_temp(c->name) || !remote_active(c->fs) ||
	    !meta_up(c->fs->meta))
		return false;
	if (!node)
		return true;
	if (kv_is_dir(node) || node->state != KV_REMOTE)
		return false;
	known = kv_file(node)->remote;
	return !known->fetch &&
	       clock_now_ns() - known->seen_ns >= REMOTE_SEEN_NS;
}

/* -- LOOKUP ------------------------------------------------------------- */

struct lookup {
	struct call *c;
	struct meta_kv_ask ask;
	char path[POOL_PATH_MAX + 1];
};

/* Addresses are what makes a holder one that can be asked. */
static void drop_unreachable(struct fs *fs, struct meta_kv_found *found)
{
	uint32_t n = 0, self = meta_node_self(fs->meta);
	struct meta_node node;

	for (uint32_t i = 0; i < found->n_holders; i++)
		if (found->holders[i] != self &&
		    meta_node_get(fs->meta, found->holders[i], &node) &&
		    node.self.n_addrs)
			found->holders[n++] = found->holders[i];
	found->n_holders = n;
}

static void learn(struct call *c, struct meta_kv_ask *ask)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct kv_node *node;

	if (!ask->err && !ask->found.is_dir) {
		drop_unreachable(c->fs, &ask->found);
		if (!ask->found.n_holders)
			ask->err = -ENOENT;
	}
	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, dir, c->name);
	if (dir->node.unlinked)
		;
	else if (!ask->err)
		remote_node_learn(kv, dir, c->name, &ask->found);
	else if (ask->err == -ENOENT && node && !kv_is_dir(node) &&
		 node->state == KV_REMOTE && !kv_file(node)->remote->fetch)
		remote_node_forget(kv, node);
	pthread_mutex_unlock(&kv->lock);
	if (!ask->err)
		atomic_fetch_add(&c->fs->remote->counters.lookup_hits, 1);
}

/* This thread is inside meta_kv_lookup_send: what cannot be sent may be
 * answered from there, also that of others. It is the ring's, perhaps. */
static __thread bool sending;

/* On a thread of meta's. */
static void looked_up(void *ctx, int err)
{
	struct lookup *l = ctx;
	struct call *c = l->c;

	if (err)
		l->ask.err = err;
	learn(c, &l->ask);
	free(l);
	if (sending)
		call_defer(c, kv_do_lookup);
	else
		kv_do_lookup(c);
}

static void ask_for_block(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct lookup *l = calloc(1, sizeof(*l));
	int n = -ENOMEM;

	if (l) {
		l->c = c;
		pthread_mutex_lock(&kv->lock);
		n = kv_path(kv_dir(kv_node(c->inode)), c->name, l->path);
		pthread_mutex_unlock(&kv->lock);
	}
	if (n > 0) {
		l->ask.path = l->path;
		l->ask.path_len = (uint16_t)n;
		sending = true;
		n = meta_kv_lookup_send(c->fs->meta,
					clock_now_ns() + META_KV_LOOKUP_NS,
					&l->ask, 1, looked_up, l);
		sending = false;
		if (!n)
			return;
	}
	free(l);
	/* With what is known here; not from the ring's thread, see call_keep.
	 */
	call_defer(c, kv_do_lookup);
}

/* -- a namespace that was made elsewhere -------------------------------- */

static void add_namespace(void *arg, const char *name,
			  const struct meta_namespace *m)
{
	struct kv *kv = arg;
	struct kv_dir *dir;
	scoped_lock(&kv->lock);

	if (kv_find(kv, &kv->root, name))
		return;
	dir = kv_dir_new(kv, &kv->root, name, m->mode, m->uid, m->gid);
	if (!dir)
		return;
	dir->ns->quota_bytes = m->quota_bytes;
	dir->ns->replicas = m->replicas;
	dir->ns->checksum = m->checksum;
}

static bool may_ask_again(struct remote *r)
{
	int64_t now = clock_now_ns();
	scoped_lock(&r->lock);

	if (r->ns_asked_ns && now - r->ns_asked_ns < NAMESPACES_NS)
		return false;
	r->ns_asked_ns = now;
	return true;
}

void remote_learn_namespaces(struct fs *fs)
{
	if (may_ask_again(fs->remote) && meta_up(fs->meta))
		meta_namespace_each(fs->meta, add_namespace, fs->kv);
}

static void ask_for_namespace(struct call *c)
{
	remote_learn_namespaces(c->fs);
	kv_do_lookup(c);
}

void remote_lookup(struct call *c)
{
	struct call *kept = call_keep(c);

	if (!kept) {
		call_reply_err(c, ENOMEM);
		return;
	}
	kept->flags |= REMOTE_ASKED;
	atomic_fetch_add(&c->fs->remote->counters.lookups, 1);
	if (kv_node(c->inode)->type == KV_ROOT)
		call_defer(kept, ask_for_namespace);
	else
		ask_for_block(kept);
}

/* -- unlink ------------------------------------------------------------- */

/* One name, and the holders that have not acknowledged yet. */
struct drop {
	struct list list; /* of remote->drops */
	struct job job;
	struct remote *r;
	unsigned n_pending;
	bool sent;
	struct meta_kv_answer answer;
	uint16_t path_len;
	char path[POOL_PATH_MAX];
};

struct drop_call {
	struct engine_call call;
	struct drop *drop;
};

static void settle(struct drop *d)
{
	struct remote *r = d->r;
	bool over;

	pthread_mutex_lock(&r->lock);
	over = --d->n_pending == 0;
	if (over)
		list_remove(&d->list);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	if (over)
		free(d);
}

static void dropped(struct engine_call *call, int status, const void *reply,
		    uint32_t reply_bytes)
{
	struct drop_call *dc = container_of(call, struct drop_call, call);

	(void)status; /* whoever was not reached learns at its audit */
	(void)reply;
	(void)reply_bytes;
	settle(dc->drop);
	free(dc);
}

static void send_one(struct drop *d, uint32_t holder, const void *bytes,
		     uint32_t n)
{
	struct remote *r = d->r;
	struct drop_call *dc = calloc(1, sizeof(*dc));
	struct engine_peer *peer;

	if (!dc || remote_peer(r, holder, &peer)) {
		free(dc);
		return;
	}
	dc->drop = d;
	dc->call = (struct engine_call){
		.type = REMOTE_DROP,
		.payload = bytes,
		.payload_bytes = n,
		.deadline_ns =
			clock_now_ns() + r->fs->config.deadline_ms * NS_PER_MS,
		.done = dropped,
	};
	pthread_mutex_lock(&r->lock);
	d->n_pending++;
	pthread_mutex_unlock(&r->lock);
	atomic_fetch_add(&r->counters.drops_sent, 1);
	if (engine_call_start(peer, &dc->call)) {
		settle(d);
		free(dc);
	}
	engine_peer_put(peer);
}

static void send_drops(struct job *job)
{
	struct drop *d = container_of(job, struct drop, job);
	uint8_t bytes[REMOTE_MSG_MAX];
	struct remote_msg m = {.generation = d->answer.generation,
			       .path = d->path,
			       .path_len = d->path_len};
	size_t n = remote_encode(&m, bytes);

	for (uint32_t i = 0; i < d->answer.n_holders; i++)
		send_one(d, d->answer.holders[i], bytes, (uint32_t)n);
	settle(d); /* our own part of it */
}

void remote_tell_removed(struct fs *fs, const char *path, uint16_t path_len,
			 const struct meta_kv_answer *answer)
{
	struct remote *r = fs->remote;
	struct drop *d;

	if (!r || !answer->n_holders)
		return;
	d = calloc(1, sizeof(*d));
	if (!d)
		return;
	d->r = r;
	d->n_pending = 1;
	d->answer = *answer;
	d->path_len = path_len;
	memcpy(d->path, path, path_len);
	d->job.run = send_drops;
	pthread_mutex_lock(&r->lock);
	list_push_back(&r->drops, &d->list);
	pthread_mutex_unlock(&r->lock);
	if (!remote_post(r, r->servers, &d->job))
		settle(d);
}

static bool is_pending(struct remote *r, const char *path, size_t len)
{
	list_for_each (l, &r->drops) {
		struct drop *d = container_of(l, struct drop, list);

		if (d->path_len == len && !memcmp(d->path, path, len))
			return true;
	}
	return false;
}

/* Until every live holder has acknowledged, or the deadline. */
static void wait_dropped(struct remote *r, const char *path, size_t len,
			 int64_t deadline)
{
	struct timespec until = clock_timespec(deadline);
	scoped_lock(&r->lock);

	while (!r->stopped && is_pending(r, path, len))
		if (pthread_cond_timedwait(&r->changed, &r->lock, &until))
			return;
}

/* Takes it out of this node's tree; 0 or an errno. */
static int remove_here(struct call *c, char path[POOL_PATH_MAX + 1], int *len)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(c->inode));
	struct kv_node *node;
	scoped_lock(&kv->lock);

	node = kv_find(kv, dir, c->name);
	if (!node)
		return ENOENT;
	if (kv_is_dir(node))
		return EISDIR;
	*len = kv_path(dir, c->name, path);
	if (node->state == KV_REMOTE)
		kv_retract_remote(kv, kv_file(node));
	kv_drop(kv, kv_file(node), true);
	return 0;
}

void remote_unlink(struct call *c)
{
	char path[POOL_PATH_MAX + 1];
	int len = 0, err = remove_here(c, path, &len);

	if (!err && len > 0 && meta_up(c->fs->meta) &&
	    !meta_kv_sync(c->fs->meta, path, (uint16_t)len))
		wait_dropped(c->fs->remote, path, (size_t)len, c->deadline);
	call_reply_err(c, err);
}
