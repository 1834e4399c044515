// SPDX-License-Identifier: MIT
#include "fs/ioctl_get.h"

#include <errno.h>

#include "base/cleanup.h"
#include "fs/fs.h"
#include "fs/kv.h"

#define STRAIGHT_MAX 32 /* of one call under way at a time */

/* No holder gave it: whoever asks next asks Redis. Lock held. */
static void forget(struct kv *kv, struct kv_file *f)
{
	if (f->node.state == KV_REMOTE && !f->node.unlinked &&
	    !f->remote->fetch)
		remote_node_forget(kv, &f->node);
}

/* Those that came as blocks. Lock held. */
static void settle(struct kv *kv, struct ioctl_get_move *m, uint32_t error)
{
	if (m->way == IOCTL_GET_STRAIGHT) {
		m->way = IOCTL_GET_OVER;
		if (error == ENOENT)
			forget(kv, m->f);
	} else if (m->way == IOCTL_GET_AS_BLOCK && error) {
		m->way = IOCTL_GET_OVER;
	} else if (m->way == IOCTL_GET_AS_BLOCK) {
		m->way = IOCTL_GET_HERE;
		if (m->f->node.state != KV_COMMITTED || m->f->node.damaged)
			ioctl_get_fail(m, -ENOENT);
		else
			kv_count_hit(kv, m->f);
	}
}

static void get_end(struct job *job)
{
	struct ioctl_get *g = container_of(job, struct ioctl_get, job);
	struct kv *kv = g->c->fs->kv;

	pthread_mutex_lock(&kv->lock);
	for (uint32_t i = 0; i < g->n; i++)
		settle(kv, &g->moves[i], ioctl_get_moved(g, i)->error);
	pthread_mutex_unlock(&kv->lock);
	ioctl_get_copy(g);
	ioctl_get_answer(g);
}

/* One less to come. */
static void came(struct ioctl_get *g)
{
	if (atomic_fetch_sub(&g->left, 1) == 1)
		workers_post(g->c->fs->workers, &g->job);
}

/* What a client is told of a holder's failure. */
static int what_happened(int err)
{
	return err == -ETIMEDOUT || err == -ENOMEM || err == -ENOSPC ||
			       err == -EFAULT
		       ? err
		       : -ENOENT;
}

/* On a thread of the engine, perhaps. */
static void block_came(struct remote_watcher *w, int err)
{
	struct ioctl_get_move *m =
		container_of(w, struct ioctl_get_move, watcher);
	struct ioctl_get *g = m->g;

	if (err)
		ioctl_get_moved(g, (uint32_t)(m - g->moves))->error =
			(uint32_t)-what_happened(err);
	came(g);
}

static void start_next(struct ioctl_get *g)
{
	uint32_t i = atomic_fetch_add(&g->started, 1);

	if (i < g->n_straight)
		remote_fetch_go(g->straight[i]->fetch);
}

/* On a thread of the engine, perhaps. */
static void came_straight(struct remote_into *into, int err)
{
	struct ioctl_get_move *m =
		container_of(into, struct ioctl_get_move, into);
	struct ioctl_get *g = m->g;
	struct kvfs_ioc_moved *out =
		ioctl_get_moved(g, (uint32_t)(m - g->moves));

	if (err) {
		out->error = (uint32_t)-what_happened(err);
	} else {
		out->flags = KVFS_IOC_STRAIGHT;
		out->length = out->size = into->size_bytes;
	}
	start_next(g);
	came(g);
}

/* Lock held. The whole into a buffer that has room for it goes straight. */
static void prepare(struct ioctl_get *g, struct ioctl_get_move *m,
		    const struct kvfs_ioc_move *in)
{
	int err;

	if (m->way != IOCTL_GET_AS_BLOCK || in->offset || !m->buffer->region ||
	    m->f->node.state != KV_REMOTE || m->f->node.unlinked)
		return;
	m->into = (struct remote_into){
		.region = m->buffer->region,
		.offset = in->at,
		.room_bytes = in->length,
		.done = came_straight,
	};
	err = remote_fetch_into(g->c->fs->kv, m->f, g->deadline, &m->into,
				&m->fetch);
	if (err)
		return;
	m->way = IOCTL_GET_STRAIGHT;
	g->straight[g->n_straight++] = m;
}

static uint32_t prepare_all(struct ioctl_get *g)
{
	uint32_t n = 0;
	scoped_lock(&g->c->fs->kv->lock);

	for (uint32_t i = 0; i < g->n; i++) {
		prepare(g, &g->moves[i], &g->in[i]);
		n += g->moves[i].way == IOCTL_GET_STRAIGHT ||
		     g->moves[i].way == IOCTL_GET_AS_BLOCK;
	}
	return n;
}

static void fetch_block(struct ioctl_get *g, struct ioctl_get_move *m)
{
	int err;

	m->watcher.done = block_came;
	err = remote_fetch_watch(g->c->fs->kv, m->f, g->deadline, &m->watcher);
	if (err)
		block_came(&m->watcher, err < 0 ? err : 0);
}

void ioctl_get_fetch(struct ioctl_get *g)
{
	uint32_t n = prepare_all(g);

	g->job.run = get_end;
	atomic_init(&g->left, n + 1);
	for (uint32_t i = 0; i < STRAIGHT_MAX && i < g->n_straight; i++)
		start_next(g);
	for (uint32_t i = 0; i < g->n; i++)
		if (g->moves[i].way == IOCTL_GET_AS_BLOCK)
			fetch_block(g, &g->moves[i]);
	ioctl_get_copy(g);
	if (n)
		came(g);
	else
		ioctl_get_answer(g);
}
