// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * Names that other nodes hold: LOOKUP asks Redis once, without waiting; unlink
 * makes a tombstone and tells the holders.
 *
 * The kernel holds a directory's lock over a LOOKUP, so it is answered after
 * 100 ms with what is known here. That is a miss which the kernel does not
 * remember, and the answer that comes late is kept for 100 ms for who asks
 * again.
 */

#define NAMESPACES_NS 100000000LL /* asked for no more often */

bool remote_should_ask(struct call *c, struct kv_dir *dir, struct kv_node *node)
{
	struct kv_remote *known;

	if (!c->fs->remote || (c->flags & REMOTE_ASKED) || dir->node.unlinked ||
	    kv_name_is_temp(c->name) || !remote_active(c->fs) ||
	    !meta_up_lookup(c->fs->meta))
		return false;
	if (!node)
		return true;
	if (kv_is_dir(node))
		return remote_dir_is_stale(c->fs->kv, kv_dir(node));
	if (node->state != KV_REMOTE)
		return false;
	known = kv_file(node)->remote;
	return !known->fetch &&
	       clock_now_ns() - known->seen_ns >= REMOTE_SEEN_NS;
}

bool remote_is_unsure(struct call *c)
{
	if (!c->fs->remote || kv_name_is_temp(c->name) || !remote_active(c->fs))
		return false;
	if (c->flags & REMOTE_ASKED)
		return c->flags & REMOTE_UNSURE;
	return !meta_up_lookup(c->fs->meta);
}

/* -- answers that came too late ----------------------------------------- */

struct remote_lookup {
	struct call *c; /* NULL: answered, and the answer is yet to come */
	call_fn then;	/* run again with what is known then: it answers */
	struct remote *r;
	int64_t asked_ns, came_ns;
	struct meta_kv_ask ask;
	char path[POOL_PATH_MAX + 1];
};

static struct remote_lookup **late_slot(struct remote *r, const char *path,
					size_t n)
{
	return &r->late[XXH3_64bits(path, n) % REMOTE_LATE];
}

static void late_put(struct remote_lookup *l)
{
	struct remote_lookup **slot, *old;

	l->came_ns = clock_now_ns();
	pthread_mutex_lock(&l->r->lock);
	slot = late_slot(l->r, l->path, l->ask.path_len);
	old = *slot;
	*slot = l;
	pthread_mutex_unlock(&l->r->lock);
	free(old);
}

/* The one of this name, for whoever frees it; NULL: none. */
static struct remote_lookup *late_take(struct remote *r, const char *path,
				       size_t n)
{
	struct remote_lookup **slot, *l;
	scoped_lock(&r->lock);

	slot = late_slot(r, path, n);
	l = *slot;
	if (!l || l->ask.path_len != n || memcmp(l->path, path, n))
		return NULL;
	*slot = NULL;
	return l;
}

void remote_late_free(struct remote *r)
{
	for (unsigned i = 0; i < REMOTE_LATE; i++)
		free(r->late[i]);
}

/* -- LOOKUP ------------------------------------------------------------- */

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

/* What was asked for: LOOKUP's name, or what GETATTR is of itself. */
static struct kv_dir *dir_of(const struct remote_lookup *l,
			     const struct call *c)
{
	struct kv_node *node = kv_node(c->inode);

	return kv_dir(l->then == kv_do_lookup ? node : node->parent);
}

static const char *name_of(const struct remote_lookup *l, const struct call *c)
{
	return l->then == kv_do_lookup ? c->name : kv_node(c->inode)->name;
}

static void learn(struct call *c, struct remote_lookup *l)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *dir = dir_of(l, c);
	const char *name = name_of(l, c);
	struct meta_kv_ask *ask = &l->ask;
	struct kv_node *node;

	if (!ask->err && !ask->found.is_dir) {
		drop_unreachable(c->fs, &ask->found);
		if (!ask->found.n_holders)
			ask->err = -ENOENT;
	}
	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, dir, name);
	if (dir->node.unlinked)
		;
	else if (!ask->err)
		remote_node_learn(kv, dir, name, &ask->found, l->asked_ns);
	else if (ask->err == -ENOENT && node && kv_is_dir(node))
		remote_dir_missing(kv, dir, name, l->asked_ns);
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

static void set_unsure(struct call *c)
{
	c->flags |= REMOTE_UNSURE;
	atomic_fetch_add(&c->fs->remote->counters.lookups_unsure, 1);
}

/* On a thread of meta's. */
static void looked_up(void *ctx, int err)
{
	struct remote_lookup *l = ctx;
	struct call *c = l->c;
	call_fn then;

	if (!c) { /* answered long since */
		if (err)
			free(l);
		else
			late_put(l);
		return;
	}
	l->c = NULL;
	if (err)
		set_unsure(c);
	else
		learn(c, l);
	then = l->then;
	if (err != -EINPROGRESS)
		free(l);
	if (sending)
		call_defer(c, then);
	else
		then(c);
}

static int send_lookup(struct remote_lookup *l)
{
	int err;

	sending = true;
	err = meta_kv_lookup_send(l->r->fs->meta,
				  clock_now_ns() + META_KV_LOOKUP_NS, &l->ask,
				  1, true, looked_up, l);
	sending = false;
	return err;
}

/* By what came too late for the call before this one. */
static bool is_answered(struct call *c, struct remote_lookup *l)
{
	struct remote *r = l->r;
	struct remote_lookup *late = late_take(r, l->path, l->ask.path_len);
	bool fresh = late && clock_now_ns() - late->came_ns < REMOTE_SEEN_NS;

	if (fresh) {
		late->then = l->then;
		learn(c, late);
		atomic_fetch_add(&r->counters.lookups_late, 1);
	}
	free(late);
	return fresh;
}

static void ask_then(struct call *c, call_fn then)
{
	struct kv *kv = c->fs->kv;
	struct remote_lookup *l = calloc(1, sizeof(*l));
	int n = -ENOMEM;

	if (l) {
		l->c = c;
		l->r = c->fs->remote;
		l->then = then;
		l->asked_ns = clock_now_ns();
		l->ask.path = l->path;
		pthread_mutex_lock(&kv->lock);
		n = kv_path(dir_of(l, c), name_of(l, c), l->path);
		pthread_mutex_unlock(&kv->lock);
	}
	if (n > 0) {
		l->ask.path_len = (uint16_t)n;
		if (!is_answered(c, l)) {
			if (!send_lookup(l))
				return;
			set_unsure(c);
		}
	}
	free(l);
	/* With what is known here; not from the ring's thread, see call_keep.
	 */
	call_defer(c, then);
}

/* -- a namespace that was made elsewhere -------------------------------- */

/* With the mount's deadline, whoever waits for it less long. */
static void list_namespaces(struct job *job)
{
	struct remote *r = container_of(job, struct remote, ns_job);
	int err = meta_namespace_each(r->fs->meta, 0, kv_learn_namespace,
				      r->fs->kv);
	scoped_lock(&r->lock);

	r->ns_asking = false;
	r->ns_asked_ns = err ? 0 : clock_now_ns();
	pthread_cond_broadcast(&r->changed);
}

/* One asks for all. Lock held. Returns: false, nobody can be asked. */
static bool start_listing(struct remote *r)
{
	if (r->stopped || !meta_up_lookup(r->fs->meta))
		return false;
	if (r->ns_asking)
		return true;
	r->ns_asking = true;
	r->ns_job.run = list_namespaces;
	workers_post(r->fetchers, &r->ns_job);
	return true;
}

bool remote_learn_namespaces(struct fs *fs, int64_t deadline)
{
	struct timespec until = clock_timespec(deadline);
	struct remote *r = fs->remote;
	scoped_lock(&r->lock);

	if (r->ns_asked_ns && clock_now_ns() - r->ns_asked_ns < NAMESPACES_NS)
		return true;
	if (!start_listing(r))
		return false;
	while (r->ns_asking && !r->stopped)
		if (pthread_cond_timedwait(&r->changed, &r->lock, &until))
			return false;
	return r->ns_asked_ns != 0;
}

static void ask_for_namespace(struct call *c)
{
	if (!remote_learn_namespaces(c->fs, clock_now_ns() + META_KV_LOOKUP_NS))
		set_unsure(c);
	kv_do_lookup(c);
}

static struct call *keep_asked(struct call *c)
{
	struct call *kept = call_keep(c);

	if (!kept) {
		call_reply_err(c, ENOMEM);
		return NULL;
	}
	kept->flags |= REMOTE_ASKED;
	atomic_fetch_add(&c->fs->remote->counters.lookups, 1);
	return kept;
}

void remote_lookup(struct call *c)
{
	bool in_root = kv_node(c->inode)->type == KV_ROOT;
	struct call *kept = keep_asked(c);

	if (kept && in_root)
		call_defer(kept, ask_for_namespace);
	else if (kept)
		ask_then(kept, kv_do_lookup);
}

void remote_getattr(struct call *c)
{
	struct call *kept = keep_asked(c);

	if (kept)
		ask_then(kept, kv_do_getattr);
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
	uint32_t holder;
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

	(void)reply;
	(void)reply_bytes;
	if (status)
		meta_nodes_missed(dc->drop->r->fs->meta, dc->holder);
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
		meta_nodes_missed(r->fs->meta, holder);
		free(dc);
		return;
	}
	dc->drop = d;
	dc->holder = holder;
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
		meta_nodes_missed(r->fs->meta, holder);
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
	if (*len > 0)
		free(late_take(c->fs->remote, path, (size_t)*len));
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
