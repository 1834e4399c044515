// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/buffers.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv.h"
#include "fs/remote.h"

/*
 * GET. Blocks that are here are copied out of their frames; those of other
 * nodes come straight into the buffer, or (large ones, parts of one, one that
 * is on its way for somebody else) as blocks of this node, to be copied then.
 *
 *      worker         look all names up, Redis once for those that are not
 *                     known ── begin what is elsewhere ── copy what is here
 *      engine         one came ── begin the next of those that go straight
 *      worker         all came: copy those that came as blocks, answer
 *
 * A little that is here is copied where the call arrives.
 *
 * Whatever is used stays pinned until the answer. What the engine receives into
 * a buffer is told as over only when nothing can write there any more, so after
 * the answer no late byte reaches memory that the client has put to another
 * use.
 */

#define STRAIGHT_MAX 32		   /* of one call under way at a time */
#define AT_ONCE_BYTES (128u << 10) /* copied on the ring's thread */
#define LOCK_STEP 32		   /* names under one hold of kv->lock */

enum way { OVER, HERE, STRAIGHT, AS_BLOCK };

struct get;
struct move {
	struct get *g;
	enum way way;
	struct kv_file *f;	       /* pinned */
	struct buffer *buffer;	       /* in use */
	struct remote_watcher watcher; /* AS_BLOCK */
	struct remote_into into;       /* STRAIGHT */
	struct remote_fetch *fetch;
};

struct get {
	struct call *c;
	const struct kv_caller *who;
	struct kv_caller *own_who; /* to free */
	ioctl_done_fn done;
	uint32_t flags, n;
	int64_t deadline;
	struct ioctl_names names;
	const struct kvfs_ioc_move *in;
	struct kvfs_ioc_got *answer;
	size_t answer_bytes;
	bool missing;	     /* some names may be on other nodes */
	struct job job;	     /* the end of it */
	atomic_uint left;    /* to come, and who begins them */
	atomic_uint started; /* of straight */
	uint32_t n_straight;
	struct move **straight;
	struct move moves[];
};

static struct kvfs_ioc_moved *moved(struct get *g, uint32_t i)
{
	return (struct kvfs_ioc_moved *)(g->answer + 1) + i;
}

static void set_error(struct move *m, int err)
{
	moved(m->g, (uint32_t)(m - m->g->moves))->error = (uint32_t)-err;
	m->way = OVER;
}

/* -- a request ------------------------------------------------------------ */

static void get_free(struct get *g)
{
	struct kv *kv = g->c->fs->kv;

	pthread_mutex_lock(&kv->lock);
	for (uint32_t i = 0; i < g->n; i++)
		if (g->moves[i].f)
			kv_unpin(kv, g->moves[i].f);
	pthread_mutex_unlock(&kv->lock);
	for (uint32_t i = 0; i < g->n; i++)
		if (g->moves[i].buffer)
			buffer_put(g->moves[i].buffer);
	free(g->straight);
	free(g->answer);
	free(g->own_who);
	free(g);
}

static void take_buffer(struct get *g, struct move *m,
			const struct kvfs_ioc_move *in)
{
	struct buffer *b =
		buffer_get(g->c->fs->buffers, kv_buffers_of(g->c), in->buffer);

	m->g = g;
	m->buffer = b;
	if (!b)
		set_error(m, -EBADF);
	else if (!ioctl_move_fits(in, b->length_bytes))
		set_error(m, -EINVAL);
	else if (!b->writable)
		set_error(m, -EROFS);
}

static int get_alloc(struct get **out, uint32_t n)
{
	struct get *g = calloc(1, sizeof(*g) + n * sizeof(*g->moves));
	size_t bytes = sizeof(*g->answer) + n * sizeof(struct kvfs_ioc_moved);

	if (!g)
		return -ENOMEM;
	g->n = n;
	g->answer_bytes = bytes;
	g->answer = calloc(1, bytes);
	g->straight = calloc(n + 1, sizeof(*g->straight));
	if (!g->answer || !g->straight) {
		free(g->straight);
		free(g->answer);
		free(g);
		return -ENOMEM;
	}
	*out = g;
	return 0;
}

static void set_deadline(struct get *g, uint32_t deadline_ms)
{
	int64_t asked = g->c->start_ns + deadline_ms * NS_PER_MS;

	g->deadline = g->c->deadline;
	if (deadline_ms && asked < g->deadline)
		g->deadline = asked;
}

/* Returns: 0 (get_free then), or -errno. */
static int get_new(struct call *c, const struct kv_caller *who,
		   struct get **out)
{
	const char *at = (const char *)c->value + sizeof(struct kvfs_ioc_get);
	size_t left = c->size - sizeof(struct kvfs_ioc_get);
	const struct kvfs_ioc_move *moves;
	struct kvfs_ioc_get in;
	struct ioctl_names names;
	struct get *g;
	int err;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags & ~KVFS_IOC_FETCH ||
	    (in.deadline_ms && !(in.flags & KVFS_IOC_FETCH)))
		return -EINVAL;
	err = ioctl_moves_init(&names, &in.names, in.names.n, at, left, &moves);
	if (!err && sizeof(struct kvfs_ioc_got) +
				    in.names.n * sizeof(struct kvfs_ioc_moved) >
			    c->room)
		err = -EMSGSIZE;
	if (!err)
		err = get_alloc(&g, in.names.n);
	if (err)
		return err;
	g->c = c;
	g->who = who;
	g->flags = in.flags;
	g->names = names;
	g->in = moves;
	set_deadline(g, in.deadline_ms);
	for (uint32_t i = 0; i < g->n; i++)
		take_buffer(g, &g->moves[i], &g->in[i]);
	*out = g;
	return 0;
}

/* -- names: kv->lock held ------------------------------------------------- */

/* Returns: 0 or -errno: why it cannot be read. */
static int look_at(struct get *g, struct move *m, struct kv_node *node)
{
	struct kv *kv = g->c->fs->kv;
	struct kv_file *f = kv_file(node);
	bool far = node->state == KV_REMOTE;
	int err;

	if (!far && kv_try_commit(kv, f))
		return -ENOENT;
	if (node->damaged)
		return -EIO;
	err = far ? kv_may(g->who, f->remote->found.mode, f->remote->found.uid,
			   f->remote->found.gid, KV_MAY_READ)
		  : kv_may(g->who, kv_record(kv, f)->mode,
			   kv_record(kv, f)->uid, kv_record(kv, f)->gid,
			   KV_MAY_READ);
	if (!err && far && !(g->flags & KVFS_IOC_FETCH))
		err = -EREMOTE;
	if (err)
		return err;
	node->pins++;
	m->f = f;
	m->way = far ? AS_BLOCK : HERE;
	if (!far)
		kv_count_hit(kv, f);
	return 0;
}

/* Returns: 0, or -EAGAIN his groups decide. */
static int look_up(struct get *g, struct move *m, struct kv_dir *dir,
		   const struct kv_name *name)
{
	struct kv *kv = g->c->fs->kv;
	struct kv_node *node;
	int err = kv_walk(kv, g->who, dir, name->text, name->len, &node);

	if (err == -EACCES || (!err && (!node || kv_is_dir(node))))
		err = -ENOENT;
	else if (!err)
		err = look_at(g, m, node);
	if (err == -EAGAIN)
		return err;
	g->missing |= err == -ENOENT;
	if (err)
		set_error(m, err);
	return 0;
}

/* All that are not known to be in error. Returns: 0, -EAGAIN, or -ENOENT the
 * directory went. */
static int look_all_up(struct get *g)
{
	struct kv *kv = g->c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(g->c->inode));
	struct ioctl_names names = g->names;
	struct kv_name name;
	uint32_t i = 0;
	int err;

	do {
		scoped_lock(&kv->lock);
		err = kv_may_reach(g->who, dir);
		for (uint32_t end = i + LOCK_STEP; !err && i < end; i++) {
			if (!ioctl_names_next(&names, &name))
				return 0;
			if (!g->moves[i].f && !moved(g, i)->error)
				err = look_up(g, &g->moves[i], dir, &name);
		}
	} while (!err);
	return err == -EACCES ? -ENOENT : err;
}

/* What was not found here may be known to Redis. */
static int look_elsewhere(struct get *g)
{
	int err = ioctl_learn_names(g->c, g->who, g->deadline, &g->names);

	if (err)
		return err;
	for (uint32_t i = 0; i < g->n; i++)
		if (moved(g, i)->error == ENOENT)
			moved(g, i)->error = 0;
	return look_all_up(g);
}

/* -- copying -------------------------------------------------------------- */

/* By system calls: the buffer's pages may be taken away. */
static int read_into(int fd, char *to, uint64_t length, uint64_t offset)
{
	while (length) {
		ssize_t n = pread(fd, to, length, (off_t)offset);

		if (n <= 0)
			return n ? -errno : -EIO;
		to += n;
		offset += (uint64_t)n;
		length -= (uint64_t)n;
	}
	return 0;
}

static int copy(struct move *m, const struct kvfs_ioc_move *in,
		struct kvfs_ioc_moved *out)
{
	struct kv *kv = m->g->c->fs->kv;
	uint64_t size = kv_record(kv, m->f)->size_bytes;
	uint64_t length = in->offset < size ? size - in->offset : 0;
	cleanup_close int fd = pool_fd(kv->fs->pool, m->f->frame, O_RDONLY);
	int err = fd < 0 ? fd : 0;

	if (length > in->length)
		length = in->length;
	if (!err)
		err = read_into(fd, m->buffer->addr + in->at, length,
				in->offset);
	if (err)
		return err;
	out->length = length;
	out->size = size;
	return 0;
}

static void copy_here(struct get *g)
{
	for (uint32_t i = 0; i < g->n; i++) {
		struct move *m = &g->moves[i];
		int err = m->way == HERE ? copy(m, &g->in[i], moved(g, i)) : 0;

		if (err)
			set_error(m, err);
		else if (m->way == HERE)
			m->way = OVER;
	}
}

/* -- the answer ----------------------------------------------------------- */

static void count(struct get *g)
{
	struct fs_counters *c = &g->c->fs->counters;
	uint64_t bytes = 0, straight = 0;

	for (uint32_t i = 0; i < g->n; i++) {
		g->answer->n_got += !moved(g, i)->error;
		bytes += moved(g, i)->length;
		straight += !!(moved(g, i)->flags & KVFS_IOC_STRAIGHT);
	}
	atomic_fetch_add(&c->got, g->answer->n_got);
	atomic_fetch_add(&c->got_bytes, bytes);
	atomic_fetch_add(&c->got_straight, straight);
}

/* The buffers may be put to another use when the caller hears of it. */
static void answer(struct get *g)
{
	struct call *c = g->c;
	ioctl_done_fn done = g->done;
	struct kvfs_ioc_got *got = g->answer;
	size_t bytes = g->answer_bytes;

	count(g);
	got->head = ioctl_head(bytes);
	got->n = g->n;
	g->answer = NULL;
	get_free(g);
	done(c, 0, got, bytes);
	free(got);
}

/* -- what is elsewhere ---------------------------------------------- */

/* No holder gave it: whoever asks next asks Redis. Lock held. */
static void forget(struct kv *kv, struct kv_file *f)
{
	if (f->node.state == KV_REMOTE && !f->node.unlinked &&
	    !f->remote->fetch)
		remote_node_forget(kv, &f->node);
}

/* Those that came as blocks. Lock held. */
static void settle(struct kv *kv, struct move *m, uint32_t error)
{
	if (m->way == STRAIGHT) {
		m->way = OVER;
		if (error == ENOENT)
			forget(kv, m->f);
	} else if (m->way == AS_BLOCK && error) {
		m->way = OVER;
	} else if (m->way == AS_BLOCK) {
		m->way = HERE;
		if (m->f->node.state != KV_COMMITTED || m->f->node.damaged)
			set_error(m, -ENOENT);
		else
			kv_count_hit(kv, m->f);
	}
}

static void get_end(struct job *job)
{
	struct get *g = container_of(job, struct get, job);
	struct kv *kv = g->c->fs->kv;

	pthread_mutex_lock(&kv->lock);
	for (uint32_t i = 0; i < g->n; i++)
		settle(kv, &g->moves[i], moved(g, i)->error);
	pthread_mutex_unlock(&kv->lock);
	copy_here(g);
	answer(g);
}

/* One less to come. */
static void came(struct get *g)
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
	struct move *m = container_of(w, struct move, watcher);
	struct get *g = m->g;

	if (err)
		moved(g, (uint32_t)(m - g->moves))->error =
			(uint32_t)-what_happened(err);
	came(g);
}

static void start_next(struct get *g)
{
	uint32_t i = atomic_fetch_add(&g->started, 1);

	if (i < g->n_straight)
		remote_fetch_go(g->straight[i]->fetch);
}

/* On a thread of the engine, perhaps. */
static void came_straight(struct remote_into *into, int err)
{
	struct move *m = container_of(into, struct move, into);
	struct get *g = m->g;
	struct kvfs_ioc_moved *out = moved(g, (uint32_t)(m - g->moves));

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
static void prepare(struct get *g, struct move *m,
		    const struct kvfs_ioc_move *in)
{
	int err;

	if (m->way != AS_BLOCK || in->offset || !m->buffer->region ||
	    m->f->node.state != KV_REMOTE || m->f->node.unlinked)
		return;
	m->into = (struct remote_into){
		.region = m->buffer->region,
		.offset = in->at,
		.addr = m->buffer->addr + in->at,
		.room_bytes = in->length,
		.done = came_straight,
	};
	err = remote_fetch_into(g->c->fs->kv, m->f, g->deadline, &m->into,
				&m->fetch);
	if (err)
		return;
	m->way = STRAIGHT;
	g->straight[g->n_straight++] = m;
}

static uint32_t prepare_all(struct get *g)
{
	uint32_t n = 0;
	scoped_lock(&g->c->fs->kv->lock);

	for (uint32_t i = 0; i < g->n; i++) {
		prepare(g, &g->moves[i], &g->in[i]);
		n += g->moves[i].way == STRAIGHT || g->moves[i].way == AS_BLOCK;
	}
	return n;
}

static void fetch_block(struct get *g, struct move *m)
{
	int err;

	m->watcher.done = block_came;
	err = remote_fetch_watch(g->c->fs->kv, m->f, g->deadline, &m->watcher);
	if (err)
		block_came(&m->watcher, err < 0 ? err : 0);
}

/* Takes g: whoever is last goes on with it. */
static void fetch_all(struct get *g)
{
	uint32_t n = prepare_all(g);

	g->job.run = get_end;
	atomic_init(&g->left, n + 1);
	for (uint32_t i = 0; i < STRAIGHT_MAX && i < g->n_straight; i++)
		start_next(g);
	for (uint32_t i = 0; i < g->n; i++)
		if (g->moves[i].way == AS_BLOCK)
			fetch_block(g, &g->moves[i]);
	copy_here(g);
	if (n)
		came(g);
	else
		answer(g);
}

/* -- handlers ------------------------------------------------------------- */

void ioctl_get_start(struct call *c, struct kv_caller *who, ioctl_done_fn done)
{
	struct get *g;
	int err = get_new(c, who, &g);

	if (err) {
		free(who);
		done(c, err, NULL, 0);
		return;
	}
	g->own_who = who;
	g->done = done;
	ioctl_dirs_ask(c, &g->names);
	err = look_all_up(g);
	if (!err && g->missing && g->flags & KVFS_IOC_FETCH &&
	    remote_active(c->fs))
		err = look_elsewhere(g);
	if (!err) {
		fetch_all(g);
		return;
	}
	get_free(g);
	done(c, err, NULL, 0);
}

static void get_on_worker(struct call *c)
{
	struct kv_caller *who = kv_caller_new(c);

	if (who)
		ioctl_get_start(c, who, ioctl_done);
	else
		call_reply_err(c, ENOMEM);
}

/* All of it is here, and little. */
static bool is_quick(struct get *g)
{
	uint64_t left = AT_ONCE_BYTES;

	for (uint32_t i = 0; i < g->n; i++) {
		if (g->moves[i].way == AS_BLOCK || g->in[i].length > left)
			return false;
		left -= g->in[i].length;
	}
	return !g->missing || !(g->flags & KVFS_IOC_FETCH) ||
	       !remote_active(g->c->fs);
}

void ioctl_do_get(struct call *c)
{
	const struct kv_caller who = kv_caller_of(c);
	struct get *g;
	int err = get_new(c, &who, &g);

	if (err) {
		call_reply_err(c, err);
		return;
	}
	g->done = ioctl_done;
	err = look_all_up(g);
	if (!err && is_quick(g)) {
		copy_here(g);
		answer(g);
		return;
	}
	get_free(g);
	if (err && err != -EAGAIN)
		call_reply_err(c, err);
	else
		call_defer(c, get_on_worker);
}
