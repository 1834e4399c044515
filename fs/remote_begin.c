// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "fs/kv.h"
#include "fs/remote_fetch.h"
#include "fs/remote_parts.h"

/*
 * How a fetch begins: for a call or another part that waits for it, into a
 * client's memory, or of a name that nobody asked for here.
 */

/* Lock held. */
static struct remote_fetch *fetch_new(struct kv *kv, struct kv_file *f,
				      int64_t deadline)
{
	struct remote_fetch *x = calloc(1, sizeof(*x));
	int n;

	if (!x)
		return NULL;
	n = kv_path(kv_dir(f->node.parent), f->node.name, x->path);
	x->r = kv->fs->remote;
	x->path_len = n > 0 ? (uint16_t)n : 0;
	x->found = f->remote->found;
	x->deadline = deadline;
	x->started_ns = clock_now_ns();
	list_init(&x->waiters);
	list_init(&x->watchers);
	list_init(&x->peers);
	atomic_fetch_add(&x->r->counters.n_fetching, 1);
	return x;
}

/* Lock held. */
static struct remote_fetch *begin(struct kv *kv, struct kv_file *f,
				  int64_t deadline)
{
	struct remote_fetch *x = fetch_new(kv, f, deadline);

	if (!x)
		return NULL;
	x->f = f;
	x->kind = KV_COPY;
	f->remote->fetch = x;
	f->node.pins++;
	return x;
}

/* Begun for whatever reason, it is now a reader's. Lock held. */
static void set_awaited(struct remote_fetch *x, int64_t deadline)
{
	x->chain = true;
	x->priority = ENGINE_FOREGROUND;
	if (x->deadline < deadline)
		x->deadline = deadline;
}

/* 0: c waits for a fetch; 1: the block is here; or -errno. Lock held. */
static int join(struct call *c, struct kv_file *f, struct remote_fetch **first)
{
	struct remote_fetch *x;

	*first = NULL;
	if (f->node.state != KV_REMOTE)
		return 1;
	if (f->node.unlinked)
		return -ESTALE; /* the kernel looks the name up anew */
	x = f->remote->fetch;
	if (!x)
		x = *first = begin(c->fs->kv, f, c->deadline);
	if (!x)
		return -ENOMEM;
	set_awaited(x, c->deadline);
	remote_ahead_asked(c->fs->kv, f->ns, x->path, x->path_len, c->pid);
	list_push_back(&x->waiters, &c->job.link);
	return 0;
}

bool remote_fetch_await(struct kv_file *f, struct remote_watcher *w)
{
	struct remote_fetch *x = f->remote->fetch;

	if (!x || x->waits || x->scratch || x->n_peers == REMOTE_AWAIT_MAX)
		return false;
	x->n_peers++;
	list_push_back(&x->peers, &w->link);
	return true;
}

static void fail(struct call *c)
{
	call_reply_err(c, (int)c->off);
}

void remote_fetch_then(struct call *c, struct kv_file *f, call_fn then)
{
	struct call *kept = call_keep(c);
	struct remote_fetch *first;
	int err;

	if (!kept) {
		call_reply_err(c, ENOMEM);
		return;
	}
	kept->fn = then;
	pthread_mutex_lock(&c->fs->kv->lock);
	err = join(kept, f, &first);
	pthread_mutex_unlock(&c->fs->kv->lock);
	if (first)
		remote_fetch_go(first);
	if (err == 1) {
		call_defer(kept, then);
	} else if (err) {
		kept->off = err;
		call_defer(kept, fail);
	}
}

int remote_fetch_watch(struct kv *kv, struct kv_file *f, int64_t deadline,
		       struct remote_watcher *w)
{
	struct remote_fetch *x, *first = NULL;

	pthread_mutex_lock(&kv->lock);
	if (f->node.state != KV_REMOTE || f->node.unlinked) {
		int err = f->node.state != KV_REMOTE ? 1 : -ESTALE;

		pthread_mutex_unlock(&kv->lock);
		return err;
	}
	x = f->remote->fetch;
	if (!x)
		x = first = begin(kv, f, deadline);
	if (x) {
		set_awaited(x, deadline);
		list_push_back(&x->watchers, &w->link);
	}
	pthread_mutex_unlock(&kv->lock);
	if (first)
		remote_fetch_go(first);
	return x ? 0 : -ENOMEM;
}

/* -- into memory of a client -------------------------------------------- */

int remote_fetch_into(struct kv *kv, struct kv_file *f, int64_t deadline,
		      struct remote_into *into, struct remote_fetch **out)
{
	const struct meta_kv_found *found = &f->remote->found;
	struct remote_fetch *x;
	int err;

	if ((f->remote->fetch && !f->remote->fetch->scratch) ||
	    !found->size_bytes || found->size_bytes > into->room_bytes ||
	    found->size_bytes > REMOTE_PARTS_OVER)
		return -EAGAIN;
	x = fetch_new(kv, f, deadline);
	if (!x)
		return -ENOMEM;
	err = remote_target_over(x->r, into->region, into->offset,
				 found->size_bytes, &x->target);
	if (err) {
		atomic_fetch_sub(&x->r->counters.n_fetching, 1);
		free(x);
		return err;
	}
	x->into = into;
	into->size_bytes = found->size_bytes;
	*out = x;
	return 0;
}

/* -- without a caller --------------------------------------------------- */

static struct meta_kv_found found_of(const struct remote_msg *m, uint32_t from)
{
	return (struct meta_kv_found){
		.generation = m->generation,
		.size_bytes = m->size_bytes,
		.checksum = {m->checksum[0], m->checksum[1]},
		.mode = m->mode,
		.uid = m->uid,
		.gid = m->gid,
		.n_holders = 1,
		.holders = {from},
	};
}

/* It is here, or on its way: whose open is heard of. */
static void mark(struct kv_node *node)
{
	struct kv_file *f = kv_file(node);

	if (node->state == KV_COMMITTED)
		f->ahead = true;
	else if (node->state == KV_REMOTE && f->remote->fetch)
		f->remote->fetch->marked = true;
}

/* The fetch of a name that nobody asked for here; lock held. */
static int begin_named(struct kv *kv, const struct remote_msg *m, uint32_t from,
		       bool ahead, struct remote_fetch **out)
{
	struct meta_kv_found found = found_of(m, from);
	const char *rest;
	struct kv_dir *dir = kv_make_dirs(kv, m->path, m->path_len, &rest);
	struct kv_node *node;
	char name[256];
	size_t n = dir ? (size_t)(m->path + m->path_len - rest) : 0;

	if (!dir || n > 255)
		return -EINVAL;
	memcpy(name, rest, n);
	name[n] = 0;
	node = kv_find(kv, dir, name);
	if (!node) {
		remote_node_learn(kv, dir, name, &found, 0);
		node = kv_find(kv, dir, name);
	}
	if (!node)
		return -ENOMEM;
	if (!kv_is_dir(node) && ahead)
		mark(node);
	if (kv_is_dir(node) || node->state != KV_REMOTE)
		return kv_is_dir(node)		     ? -EISDIR
		       : node->state == KV_COMMITTED ? -EEXIST
						     : -EBUSY;
	if (kv_file(node)->remote->fetch)
		return -EALREADY;
	*out = begin(kv, kv_file(node),
		     clock_now_ns() + kv->fs->config.deadline_ms * NS_PER_MS);
	if (!*out)
		return -ENOMEM;
	(*out)->priority =
		ahead ? ENGINE_PREFETCH : (enum engine_priority)m->priority;
	return 0;
}

int remote_fetch_msg(struct remote *r, const struct remote_msg *m,
		     uint32_t from)
{
	struct kv *kv = r->fs->kv;
	struct remote_fetch *x = NULL;
	int err;

	pthread_mutex_lock(&kv->lock);
	err = begin_named(kv, m, from, false, &x);
	pthread_mutex_unlock(&kv->lock);
	if (err)
		return err == -EEXIST ? 0 : err;
	x->kind = m->flags & REMOTE_COPY    ? KV_COPY
		  : m->flags & REMOTE_OFFER ? KV_MOVED
					    : KV_STORED;
	x->age_ms = m->age_ms;
	return remote_fetch_run(x);
}

int remote_fetch_ahead(struct kv *kv, const struct remote_msg *m,
		       struct remote_ahead *a, struct remote_fetch **x)
{
	int err = begin_named(kv, m, m->holder, true, x);

	if (err)
		return err;
	(*x)->marked = true;
	(*x)->ahead = a;
	return 0;
}
