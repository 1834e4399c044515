// SPDX-License-Identifier: MIT
#include "fs/ioctl_get.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/fs.h"
#include "fs/kv.h"

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

#define AT_ONCE_BYTES (128u << 10) /* copied on the ring's thread */
#define LOCK_STEP 32		   /* names under one hold of kv->lock */

void ioctl_get_fail(struct ioctl_get_move *m, int err)
{
	ioctl_get_moved(m->g, (uint32_t)(m - m->g->moves))->error =
		(uint32_t)-err;
	m->way = IOCTL_GET_OVER;
}

/* -- a request ------------------------------------------------------------ */

static void get_free(struct ioctl_get *g)
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

static void take_buffer(struct ioctl_get *g, struct ioctl_get_move *m,
			const struct kvfs_ioc_move *in)
{
	struct buffer *b =
		buffer_get(g->c->fs->buffers, kv_buffers_of(g->c), in->buffer);

	m->g = g;
	m->buffer = b;
	if (!b)
		ioctl_get_fail(m, -EBADF);
	else if (!ioctl_move_fits(in, b->length_bytes))
		ioctl_get_fail(m, -EINVAL);
	else if (!b->writable)
		ioctl_get_fail(m, -EROFS);
}

static int get_alloc(struct ioctl_get **out, uint32_t n)
{
	struct ioctl_get *g = calloc(1, sizeof(*g) + n * sizeof(*g->moves));
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

static void set_deadline(struct ioctl_get *g, uint32_t deadline_ms)
{
	int64_t asked = g->c->start_ns + deadline_ms * NS_PER_MS;

	g->deadline = g->c->deadline;
	if (deadline_ms && asked < g->deadline)
		g->deadline = asked;
}

/* Returns: 0 (get_free then), or -errno. */
static int get_new(struct call *c, const struct kv_caller *who,
		   struct ioctl_get **out)
{
	const char *at = (const char *)c->value + sizeof(struct kvfs_ioc_get);
	size_t left = c->size - sizeof(struct kvfs_ioc_get);
	const struct kvfs_ioc_move *moves;
	struct kvfs_ioc_get in;
	struct ioctl_names names;
	struct ioctl_get *g;
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
static int look_at(struct ioctl_get *g, struct ioctl_get_move *m,
		   struct kv_node *node)
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
	m->way = far ? IOCTL_GET_AS_BLOCK : IOCTL_GET_HERE;
	if (!far)
		kv_count_hit(kv, f);
	return 0;
}

/* Returns: 0, or -EAGAIN his groups decide. */
static int look_up(struct ioctl_get *g, struct ioctl_get_move *m,
		   struct kv_dir *dir, const struct kv_name *name)
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
		ioctl_get_fail(m, err);
	return 0;
}

/* All that are not known to be in error. Returns: 0, -EAGAIN, or -ENOENT the
 * directory went. */
static int look_all_up(struct ioctl_get *g)
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
			if (!g->moves[i].f && !ioctl_get_moved(g, i)->error)
				err = look_up(g, &g->moves[i], dir, &name);
		}
	} while (!err);
	return err == -EACCES ? -ENOENT : err;
}

/* What was not found here may be known to Redis. */
static int look_elsewhere(struct ioctl_get *g)
{
	int err = ioctl_learn_names(g->c, g->who, g->deadline, &g->names);

	if (err)
		return err;
	for (uint32_t i = 0; i < g->n; i++)
		if (ioctl_get_moved(g, i)->error == ENOENT)
			ioctl_get_moved(g, i)->error = 0;
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

static int copy(struct ioctl_get_move *m, const struct kvfs_ioc_move *in,
		struct kvfs_ioc_moved *out)
{
	struct kv *kv = m->g->c->fs->kv;
	uint64_t size = kv_record(kv, m->f)->size_bytes;
	uint64_t length = in->offset < size ? size - in->offset : 0;
	struct dmabuf *card = m->buffer->dmabuf;
	cleanup_close int fd =
		pool_fd(kv->fs->pool, m->f->frame, card ? O_RDWR : O_RDONLY);
	int err = fd < 0 ? fd : 0;

	if (length > in->length)
		length = in->length;
	if (!err && card)
		err = buffer_copy(m->buffer, in->at, DMABUF_FROM_FILE, fd,
				  in->offset, length);
	else if (!err)
		err = read_into(fd, m->buffer->addr + in->at, length,
				in->offset);
	if (err)
		return err;
	out->length = length;
	out->size = size;
	return 0;
}

void ioctl_get_copy(struct ioctl_get *g)
{
	for (uint32_t i = 0; i < g->n; i++) {
		struct ioctl_get_move *m = &g->moves[i];
		int err = m->way == IOCTL_GET_HERE
				  ? copy(m, &g->in[i], ioctl_get_moved(g, i))
				  : 0;

		if (err)
			ioctl_get_fail(m, err);
		else if (m->way == IOCTL_GET_HERE)
			m->way = IOCTL_GET_OVER;
	}
}

/* -- the answer ----------------------------------------------------------- */

static void count(struct ioctl_get *g)
{
	struct fs_counters *c = &g->c->fs->counters;
	uint64_t bytes = 0, straight = 0;

	for (uint32_t i = 0; i < g->n; i++) {
		g->answer->n_got += !ioctl_get_moved(g, i)->error;
		bytes += ioctl_get_moved(g, i)->length;
		straight +=
			!!(ioctl_get_moved(g, i)->flags & KVFS_IOC_STRAIGHT);
	}
	atomic_fetch_add(&c->got, g->answer->n_got);
	atomic_fetch_add(&c->got_bytes, bytes);
	atomic_fetch_add(&c->got_straight, straight);
}

/* The buffers may be put to another use when the caller hears of it. */
void ioctl_get_answer(struct ioctl_get *g)
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

/* -- handlers ------------------------------------------------------------- */

void ioctl_get_start(struct call *c, struct kv_caller *who, ioctl_done_fn done)
{
	struct ioctl_get *g;
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
		ioctl_get_fetch(g);
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
static bool is_quick(struct ioctl_get *g)
{
	uint64_t left = AT_ONCE_BYTES;

	for (uint32_t i = 0; i < g->n; i++) {
		const struct ioctl_get_move *m = &g->moves[i];

		if (m->way == IOCTL_GET_AS_BLOCK || g->in[i].length > left ||
		    (m->buffer && m->buffer->dmabuf))
			return false;
		left -= g->in[i].length;
	}
	return !g->missing || !(g->flags & KVFS_IOC_FETCH) ||
	       !remote_active(g->c->fs);
}

void ioctl_do_get(struct call *c)
{
	const struct kv_caller who = kv_caller_of(c);
	struct ioctl_get *g;
	int err = get_new(c, &who, &g);

	if (err) {
		call_reply_err(c, err);
		return;
	}
	g->done = ioctl_done;
	err = look_all_up(g);
	if (!err && is_quick(g)) {
		ioctl_get_copy(g);
		ioctl_get_answer(g);
		return;
	}
	get_free(g);
	if (err && err != -EAGAIN)
		call_reply_err(c, err);
	else
		call_defer(c, get_on_worker);
}
