// SPDX-License-Identifier: MIT
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/fs.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * Blocks that a client will want (ioctl PREFETCH). They wait in a list, first
 * in, first out, and a few are fetched at a time, each as if somebody had
 * opened it.
 *
 *      ioctl       remote_prefetch ──▶ wishes ── remote_prefetch_go
 *      engine      one has ended: ended, which only posts
 *      fetcher     settle it, remote_prefetch_go
 *
 * A node in the list is pinned and marked, so that it is there once.
 */

#define AT_ONCE 32
#define WISHES_MAX 4096

struct wish {
	struct list link; /* of remote.wishes */
	struct remote_watcher watcher;
	struct job job;
	struct remote *r;
	struct kv_file *f;
};

bool remote_prefetch(struct remote *r, struct kv_file *f)
{
	struct wish *w;

	if (f->remote->wished || f->remote->fetch)
		return true;
	if (r->n_wishes == WISHES_MAX || !(w = calloc(1, sizeof(*w))))
		return false;
	w->r = r;
	w->f = f;
	f->node.pins++;
	f->remote->wished = true;
	list_push_back(&r->wishes, &w->link);
	r->n_wishes++;
	return true;
}

static void settle(struct wish *w)
{
	struct remote *r = w->r;
	struct kv *kv = r->fs->kv;
	scoped_lock(&kv->lock);

	if (w->f->node.state == KV_REMOTE)
		w->f->remote->wished = false;
	kv_unpin(kv, w->f);
	r->n_prefetching--;
	free(w);
}

static void settle_and_go_on(struct job *job)
{
	struct wish *w = container_of(job, struct wish, job);
	struct remote *r = w->r;

	settle(w);
	remote_prefetch_go(r);
}

/* On a thread of the engine, perhaps. How it ended is in the counters. */
static void ended(struct remote_watcher *watcher, int err)
{
	struct wish *w = container_of(watcher, struct wish, watcher);

	(void)err;
	w->job.run = settle_and_go_on;
	if (!remote_post(w->r, w->r->fetchers, &w->job))
		settle(w);
}

/* NULL: enough are under way, or there is none. */
static struct wish *next(struct remote *r)
{
	scoped_lock(&r->fs->kv->lock);
	struct list *l;

	if (r->n_prefetching == AT_ONCE || !(l = list_pop_front(&r->wishes)))
		return NULL;
	r->n_wishes--;
	r->n_prefetching++;
	return container_of(l, struct wish, link);
}

static bool is_stopped(struct remote *r)
{
	scoped_lock(&r->lock);

	return r->stopped;
}

void remote_prefetch_go(struct remote *r)
{
	struct fs *fs = r->fs;
	struct wish *w;

	while (!is_stopped(r) && (w = next(r))) {
		int64_t deadline =
			clock_now_ns() + fs->config.deadline_ms * NS_PER_MS;

		w->watcher.done = ended;
		if (remote_fetch_watch(fs->kv, w->f, deadline, &w->watcher))
			settle(w); /* it came, or went, meanwhile */
	}
}

void remote_prefetch_close(struct remote *r)
{
	struct list *l;

	while ((l = list_pop_front(&r->wishes))) {
		r->n_prefetching++;
		settle(container_of(l, struct wish, link));
	}
	r->n_wishes = 0;
}
