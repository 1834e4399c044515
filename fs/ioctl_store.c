// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "fs/buffers.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv.h"
#include "fs/kv_lend.h"

/*
 * RESERVE, COMMIT, ABORT; PUT, which is COMMIT out of a registered buffer. A
 * reserved frame becomes a block as it is only when nobody has it open or
 * mapped: a block never changes, and whoever maps it for writing could change
 * it. For a client that keeps its mapping, which is what small blocks want, the
 * block is a copy, and the frame can be written again. So is that of a PUT. The
 * checksum is taken of the copy.
 */

#define COPY_BYTES (64u << 10)
#define AT_ONCE_BYTES (128u << 10) /* copied on the ring's thread */
#define LET_GO_NS (20 * NS_PER_MS)
#define LET_GO_STEP_US 20 /* at first */
#define RESERVE_MAX                                           \
	((KVFS_IOC_ROOM_MAX - sizeof(struct kvfs_ioc_pins)) / \
	 sizeof(struct kvfs_ioc_pin)) /* a ring has room for more */

/* -- RESERVE, ABORT ----------------------------------------------------- */

static int set_length(struct pool *pool, uint32_t frame, uint64_t length)
{
	cleanup_close int fd = pool_fd(pool, frame, O_RDWR);

	if (fd < 0)
		return fd;
	return ftruncate(fd, (off_t)length) ? -errno : 0;
}

static int reserve(struct call *c, uint64_t length, struct kvfs_ioc_pin *pin)
{
	struct kv *kv = c->fs->kv;
	struct pool *pool = c->fs->pool;
	int backing, err = pool_take(pool, length, &pin->frame, &backing);

	if (err)
		return err;
	pin->epoch = pool_record(pool, pin->frame)->epoch;
	err = set_length(pool, pin->frame, length);
	if (!err) {
		pthread_mutex_lock(&kv->lock);
		err = kv_pins_reserve(kv, kv_pins_of(c), c->uid, pin->frame,
				      length);
		pthread_mutex_unlock(&kv->lock);
	}
	if (err)
		pool_put(pool, pin->frame);
	return err;
}

/* Returns: how many there were. */
static uint32_t end_reservations(struct call *c, const struct kvfs_ioc_pin *pin,
				 uint32_t n)
{
	struct kv *kv = c->fs->kv;
	struct kv_pins *pins = *kv_pins_of(c);
	uint32_t ended = 0;
	scoped_lock(&kv->lock);

	for (uint32_t i = 0; i < n; i++) {
		struct kv_lent *lent =
			kv_pins_reserved(pins, pin[i].frame, pin[i].epoch);

		if (!lent)
			continue;
		kv_pins_abort(kv, pins, lent, false);
		ended++;
	}
	return ended;
}

/* All of them or none. */
static void reserve_all(struct call *c)
{
	struct kvfs_ioc_pin pins[RESERVE_MAX];
	struct kvfs_ioc_pins answer = {.flags = 0};
	char bytes[KVFS_IOC_ROOM_MAX];
	struct kvfs_ioc_reserve in;
	uint32_t n = 0;
	int err = 0;

	memcpy(&in, c->value, sizeof(in));
	while (!err && n < in.n) {
		err = reserve(c, in.length, &pins[n]);
		n += !err;
	}
	if (err) {
		end_reservations(c, pins, n);
		call_reply_err(c, err);
		return;
	}
	answer.head = ioctl_head(sizeof(answer) + n * sizeof(*pins));
	answer.n = n;
	memcpy(bytes, &answer, sizeof(answer));
	memcpy(bytes + sizeof(answer), pins, n * sizeof(*pins));
	call_reply_ioctl(c, bytes, answer.head.size);
}

void ioctl_do_reserve(struct call *c)
{
	struct kvfs_ioc_reserve in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || c->size != sizeof(in) || !in.length ||
	    in.length > c->fs->config.pool_bytes)
		call_reply_err(c, EINVAL);
	else if (c->fs->config.read_only)
		call_reply_err(c, EROFS);
	else if (in.n > (c->room - sizeof(struct kvfs_ioc_pins)) /
				 sizeof(struct kvfs_ioc_pin) ||
		 in.n > RESERVE_MAX)
		call_reply_err(c, EMSGSIZE);
	else
		reserve_all(c);
}

void ioctl_do_abort(struct call *c)
{
	const struct kvfs_ioc_pin *pins;
	struct kvfs_ioc_pins in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || c->size - sizeof(in) != in.n * sizeof(*pins)) {
		call_reply_err(c, EINVAL);
		return;
	}
	pins = (const void *)((const char *)c->value + sizeof(in));
	in.n = end_reservations(c, pins, in.n);
	in.head = ioctl_head(sizeof(in));
	call_reply_ioctl(c, &in, sizeof(in));
}

/* -- COMMIT: a frame ---------------------------------------------------- */

/* A request that was checked. */
struct store {
	struct call *c;
	const struct kv_caller *who;
	struct kvfs_ioc_commit in;
	const struct kvfs_ioc_store *stores; /* COMMIT; or: */
	const struct kvfs_ioc_move *moves;   /* PUT */
	struct ioctl_names names;
	struct kv_file *prev; /* pinned: the next one continues it */
	int64_t let_go_by;    /* by when frames of LET_GO are free */
};

/* What a block is copied from. */
struct source {
	uint64_t length;
	uint32_t frame; /* a reserved one; or: */
	struct buffer *buffer;
	uint64_t at; /* in it */
};

/* By system calls: its pages may be taken away. */
static int copy_memory(const char *from, int to, uint64_t length)
{
	uint64_t at = 0;

	while (at < length) {
		ssize_t n = pwrite(to, from + at, length - at, (off_t)at);

		if (n <= 0)
			return n ? -errno : -ENOSPC;
		at += (uint64_t)n;
	}
	return 0;
}

/* Where there is no more memory a card finds that out as a page fault. */
static int copy_buffer(const struct source *s, int to)
{
	struct buffer *b = s->buffer;
	int err;

	if (!b->dmabuf)
		return copy_memory(b->addr + s->at, to, s->length);
	if (ftruncate(to, (off_t)s->length))
		return -errno;
	err = buffer_copy(b, s->at, DMABUF_TO_FILE, to, 0, s->length);
	return err == -EFAULT ? -ENOSPC : err;
}

static int copy(struct pool *pool, const struct source *source,
		uint32_t to_frame)
{
	cleanup_close int from =
		source->buffer ? -1 : pool_fd(pool, source->frame, O_RDONLY);
	cleanup_close int to = pool_fd(pool, to_frame, O_RDWR);
	uint64_t at = 0, length = source->length;
	char buf[COPY_BYTES];

	if (to < 0 || source->buffer)
		return to < 0 ? to : copy_buffer(source, to);
	if (from < 0)
		return from;
	while (at < length) {
		size_t step =
			length - at < COPY_BYTES ? length - at : COPY_BYTES;
		ssize_t n = pread(from, buf, step, (off_t)at);

		if (n <= 0)
			return n ? -errno : -EINVAL;
		if (pwrite(to, buf, (size_t)n, (off_t)at) != n)
			return -ENOSPC;
		at += (uint64_t)n;
	}
	return 0;
}

/* Does only the directory hold it? Lock held. An open that was answered may
 * not have opened the frame yet, so the lease alone does not say. */
static bool is_let_go(struct kv *kv, const struct kv_lent *lent)
{
	return lent->holds == 1 && !pool_probe(kv->fs->pool, lent->frame);
}

/* The directory that a new name belongs in. Lock held. */
static int find_place(struct store *s, const struct kv_name *name,
		      struct kv_dir **dir, char last[256])
{
	struct kv *kv = s->c->fs->kv;
	struct kv_node *node = kv_node(s->c->inode);
	const char *slash = memrchr(name->text, '/', name->len);
	size_t n = slash ? (size_t)(slash + 1 - name->text) : 0;
	int err = kv_may_reach(s->who, kv_dir(node));

	if (!err && slash)
		err = kv_walk(kv, s->who, kv_dir(node), name->text, n - 1,
			      &node);
	if (err)
		return err;
	if (!node || !kv_is_dir(node) || !kv_dir(node)->ns)
		return -ENOENT;
	*dir = kv_dir(node);
	memcpy(last, name->text + n, name->len - n);
	last[name->len - n] = 0;
	if (kv_name_is_temp(last))
		return -EINVAL;
	return kv_may(s->who, (*dir)->mode, (*dir)->uid, (*dir)->gid,
		      KV_MAY_WRITE | KV_MAY_SEARCH);
}

/* Lock held. The block of a name is pinned as the one before the next. */
static void go_on_from(struct store *s, struct kv_file *f)
{
	struct kv *kv = s->c->fs->kv;

	if (f)
		f->node.pins++;
	if (s->prev)
		kv_unpin(kv, s->prev);
	s->prev = f;
}

/* Lock held. */
static int install(struct store *s, const struct kv_name *name, uint32_t frame,
		   uint32_t *flags)
{
	struct kv *kv = s->c->fs->kv;
	char last[256];
	struct kv_dir *dir;
	struct kv_file *f;
	int err = find_place(s, name, &dir, last);

	if (err)
		return err;
	err = kv_commit_frame(s->c, dir, last, frame, s->in.mode, &f);
	if (err == -EEXIST) {
		*flags |= KVFS_IOC_WAS_THERE | KVFS_IOC_KEPT;
		go_on_from(s, kv_file(kv_find(kv, dir, last)));
		return err;
	}
	if (err)
		return err;
	kv_came(kv, &f->node);
	if (s->prev && s->prev->node.state == KV_COMMITTED &&
	    !s->prev->node.unlinked && s->prev->ns == f->ns)
		kv_set_parent(kv, f, s->prev);
	go_on_from(s, f);
	return 0;
}

static int store_copy(struct store *s, const struct source *source,
		      const struct kv_name *name, uint32_t *flags)
{
	struct kv *kv = s->c->fs->kv;
	struct pool *pool = kv->fs->pool;
	uint32_t frame;
	int backing, err = pool_take(pool, source->length, &frame, &backing);

	if (err)
		return err;
	err = copy(pool, source, frame);
	if (!err) {
		*flags |= KVFS_IOC_KEPT;
		pthread_mutex_lock(&kv->lock);
		err = install(s, name, frame, flags);
		pthread_mutex_unlock(&kv->lock);
	}
	if (err)
		pool_put(pool, frame);
	return err;
}

/* Lock held. */
static int store_frame(struct store *s, const struct kvfs_ioc_store *store,
		       struct kv_lent *lent, const struct kv_name *name,
		       uint32_t *flags)
{
	struct kv *kv = s->c->fs->kv;
	int err =
		store->length > lent->bytes
			? -EINVAL
			: set_length(kv->fs->pool, lent->frame, store->length);

	if (!err)
		err = install(s, name, lent->frame, flags);
	if (err) {
		set_length(kv->fs->pool, lent->frame, lent->bytes);
		return err;
	}
	kv_pins_abort(kv, *kv_pins_of(s->c), lent, true);
	atomic_fetch_add(&kv->fs->counters.in_place, 1);
	return 0;
}

static struct kv_lent *reserved(struct store *s, struct kvfs_ioc_pin pin)
{
	return kv_pins_reserved(*kv_pins_of(s->c), pin.frame, pin.epoch);
}

/* He closed it, but the kernel sends the RELEASE later. Whom nobody tells in
 * time gets a copy, which only costs more. */
static void wait_until_let_go(struct store *s, struct kvfs_ioc_pin pin)
{
	struct kv *kv = s->c->fs->kv;
	useconds_t step_us = LET_GO_STEP_US;

	for (;;) {
		pthread_mutex_lock(&kv->lock);
		const struct kv_lent *lent = reserved(s, pin);
		bool over = !lent || is_let_go(kv, lent);

		pthread_mutex_unlock(&kv->lock);
		if (over || clock_now_ns() > s->let_go_by)
			return;
		usleep(step_us);
		step_us *= 2;
	}
}

static int store_one(struct store *s, const struct kvfs_ioc_store *store,
		     const struct kv_name *name, uint32_t *flags)
{
	struct kv *kv = s->c->fs->kv;
	struct kv_lent *lent;
	bool as_it_is;
	int err = -ENOENT;

	if (s->in.flags & KVFS_IOC_LET_GO)
		wait_until_let_go(s, store->pin);
	pthread_mutex_lock(&kv->lock);
	lent = reserved(s, store->pin);
	as_it_is = lent && is_let_go(kv, lent);
	if (as_it_is)
		err = store_frame(s, store, lent, name, flags);
	else if (lent)
		lent->holds++; /* while it is copied */
	pthread_mutex_unlock(&kv->lock);
	if (!lent || as_it_is)
		return err;
	err = store->length > lent->bytes
		      ? -EINVAL
		      : store_copy(s,
				   &(struct source){.length = store->length,
						    .frame = store->pin.frame},
				   name, flags);
	pthread_mutex_lock(&kv->lock);
	kv_lent_put(kv, lent);
	pthread_mutex_unlock(&kv->lock);
	return err;
}

/* -- PUT ------------------------------------------------------------------ */

static int put_from(struct store *s, struct buffer *b,
		    const struct kvfs_ioc_move *move,
		    const struct kv_name *name, uint32_t *flags)
{
	struct fs *fs = s->c->fs;
	struct source source = {
		.length = move->length, .buffer = b, .at = move->at};
	int err;

	if (move->offset || !ioctl_move_fits(move, b->length_bytes))
		return -EINVAL;
	if (move->length > fs->config.pool_bytes)
		return -ENOSPC;
	err = store_copy(s, &source, name, flags);
	*flags &= ~KVFS_IOC_KEPT;
	if (err)
		return err;
	atomic_fetch_add(&fs->counters.put, 1);
	atomic_fetch_add(&fs->counters.put_bytes, move->length);
	return 0;
}

static int put_one(struct store *s, const struct kvfs_ioc_move *move,
		   const struct kv_name *name, uint32_t *flags)
{
	struct buffer *b = buffer_get(s->c->fs->buffers, kv_buffers_of(s->c),
				      move->buffer);
	int err = b ? put_from(s, b, move, name, flags) : -EBADF;

	if (b)
		buffer_put(b);
	return err;
}

/* -- a batch -------------------------------------------------------------- */

static int store_init(struct store *s, struct call *c)
{
	const char *at = (const char *)c->value + sizeof(s->in);
	size_t left = c->size - sizeof(s->in), bytes;
	uint32_t flags;
	bool parent, put = _IOC_NR(c->flags) == _IOC_NR(KVFS_IOC_PUT(0));

	memset(s, 0, sizeof(*s));
	memcpy(&s->in, c->value, sizeof(s->in));
	bytes = put ? 0 : s->in.n * sizeof(*s->stores);
	flags = KVFS_IOC_SYNC | KVFS_IOC_PARENT | (put ? 0 : KVFS_IOC_LET_GO);
	parent = s->in.flags & KVFS_IOC_PARENT;
	if (s->in.flags & ~flags || s->in.reserved || s->in.mode & ~0777u ||
	    bytes > left || s->in.names.n != s->in.n + parent)
		return -EINVAL;
	if (sizeof(struct kvfs_ioc_committed) +
		    s->in.n * sizeof(struct kvfs_ioc_stored) >
	    c->room)
		return -EMSGSIZE;
	s->c = c;
	s->let_go_by = clock_now_ns() + LET_GO_NS;
	if (put)
		return ioctl_moves_init(&s->names, &s->in.names, s->in.n, at,
					left, &s->moves);
	s->stores = (const void *)at;
	return ioctl_names_init(&s->names, &s->in.names, at + bytes,
				left - bytes);
}

/* Returns: 0, found or not; or -EAGAIN his groups decide. */
static int find_parent(struct store *s)
{
	struct kv *kv = s->c->fs->kv;
	struct kv_dir *dir = kv_dir(kv_node(s->c->inode));
	struct kv_name name;
	struct kv_node *node = NULL;
	int err;
	scoped_lock(&kv->lock);

	if (!ioctl_names_next(&s->names, &name))
		return 0;
	err = kv_may_reach(s->who, dir);
	if (!err)
		err = kv_walk(kv, s->who, dir, name.text, name.len, &node);
	if (!err && node && !kv_is_dir(node) && node->state == KV_COMMITTED)
		go_on_from(s, kv_file(node));
	return err == -EAGAIN ? err : 0;
}

/* One after the other: s->prev is the block that was stored last. */
static void store_each(struct store *s, struct kvfs_ioc_committed *answer)
{
	struct kvfs_ioc_stored *out = (struct kvfs_ioc_stored *)(answer + 1);
	struct kv_name name;
	int err;

	for (uint32_t i = 0; ioctl_names_next(&s->names, &name); i++) {
		err = s->moves ? put_one(s, &s->moves[i], &name, &out[i].flags)
			       : store_one(s, &s->stores[i], &name,
					   &out[i].flags);
		if (err == -EEXIST)
			err = 0;
		else if (!err)
			answer->n_stored++;
		out[i].error = (uint32_t)-err;
		if (!err && s->in.flags & KVFS_IOC_SYNC &&
		    kv_sync_all(s->c, s->prev))
			out[i].flags |= KVFS_IOC_UNSYNCED;
	}
}

/* Returns: 0 or -errno of the whole; -EAGAIN with one block also: nothing was
 * done, his groups decide. */
static int store_all(struct store *s, struct kvfs_ioc_committed *answer)
{
	struct kv *kv = s->c->fs->kv;
	const struct kvfs_ioc_stored *out = (const void *)(answer + 1);
	int err = s->in.flags & KVFS_IOC_PARENT ? find_parent(s) : 0;

	if (!err)
		store_each(s, answer);
	pthread_mutex_lock(&kv->lock);
	go_on_from(s, NULL);
	pthread_mutex_unlock(&kv->lock);
	return !err && s->in.n == 1 && out->error == EAGAIN ? -EAGAIN : err;
}

/* Returns: 0 it is answered, or -EAGAIN as store_all. */
static int commit(struct store *s, const struct kv_caller *who)
{
	size_t size = sizeof(struct kvfs_ioc_committed) +
		      s->in.n * sizeof(struct kvfs_ioc_stored);
	cleanup_free struct kvfs_ioc_committed *answer = calloc(1, size);
	int err = -ENOMEM;

	s->who = who;
	if (answer && who)
		err = store_all(s, answer);
	if (err == -EAGAIN)
		return err;
	if (err) {
		call_reply_err(s->c, err);
		return 0;
	}
	answer->head = ioctl_head(size);
	answer->n = s->in.n;
	kv_tell_came(s->c->fs->kv);
	call_reply_ioctl(s->c, answer, size);
	return 0;
}

static void commit_on_worker(struct call *c)
{
	cleanup_free struct kv_caller *who = kv_caller_new(c);
	struct store s;
	int err = store_init(&s, c);

	if (!err)
		ioctl_dirs_ask(c, &s.names);
	if (!err)
		err = commit(&s, who);
	if (err)
		call_reply_err(c, err);
}

/* One small block of which the frame stays mapped: to copy it costs less than
 * to wake another thread. */
static bool is_quick(const struct store *s)
{
	struct kvfs_ioc_store store;

	if (!s->stores || s->in.n != 1 ||
	    s->in.flags & (KVFS_IOC_SYNC | KVFS_IOC_LET_GO))
		return false;
	memcpy(&store, s->stores, sizeof(store));
	return store.length <= AT_ONCE_BYTES;
}

void ioctl_do_commit(struct call *c)
{
	const struct kv_caller who = kv_caller_of(c);
	struct store s;
	int err = c->fs->config.read_only ? -EROFS : store_init(&s, c);

	if (err)
		call_reply_err(c, err);
	else if (!is_quick(&s) || commit(&s, &who))
		call_defer(c, commit_on_worker);
}
