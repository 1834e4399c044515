// SPDX-License-Identifier: MIT
/*
 * The disk tier. What the page cache has whole is read from there: it is newer
 * than the disk, or was read by somebody lately, and O_DIRECT would first write
 * it back. Else a slice becomes one operation:
 *
 *   disk -> memory   straight into it, if place and offset are aligned and the
 *                    file has a description without page cache; else into a
 *                    registered buffer and from there
 *   memory -> disk   straight out of it, if aligned; else through the page
 *                    cache: a write of part of a block must keep the rest
 *   disk -> disk     into a buffer, then as memory -> disk
 *
 * What O_DIRECT refuses (EINVAL: a file system with larger blocks than ours) is
 * done again through the page cache.
 */
#include "engine/file.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"

#define ALIGN 4096u
#define SYS_CACHESTAT 451 /* newer than some systems' headers */
#define SLICE_BYTES (1u << 20)
#define N_OPS 32
#define N_BUFFERS 8
/* An unaligned slice covers up to one block more at each end. */
#define BUFFER_BYTES (SLICE_BYTES + 2 * ALIGN)

/* One slice at work. The thread's alone. */
struct file_op {
	struct engine_slice *slice;
	bool writing; /* the second half, where there are two */
	int buffer;   /* index, or -1 */
	bool direct;
	char *at;	 /* where the next piece goes or comes from */
	uint64_t offset; /* in the file */
	uint32_t left, skip;
};

struct transport {
	struct engine *engine;
	pthread_mutex_t lock; /* guards slices and stop */
	struct list slices;
	bool stop;
	int wake_fd;
	pthread_t thread;

	/* the thread's */
	struct io_uring ring;
	bool has_ring, registered;
	uint64_t wake_value;
	struct list waiting; /* for an op or a buffer */
	struct file_op ops[N_OPS];
	char *buffers;
	bool buffer_used[N_BUFFERS];
	uint32_t n_busy;
};

static bool aligned(uint64_t value)
{
	return value % ALIGN == 0;
}

static bool is_disk(const struct engine_place *p)
{
	return p->kind == ENGINE_MEM_DISK;
}

/* cachestat(2), Linux 6.5; where there is none, nothing counts as cached. */
static bool is_cached(const struct engine_place *p)
{
	uint64_t range[2] = {p->offset, p->length_bytes};
	uint64_t stat[5]; /* the first: pages in the cache */
	uint64_t last = (p->offset + p->length_bytes - 1) / ALIGN;

	return !syscall(SYS_CACHESTAT, p->fd, range, stat, 0) &&
	       stat[0] == last - p->offset / ALIGN + 1;
}

static bool can_direct(const struct engine_place *disk, const void *addr,
		       uint32_t bytes)
{
	return disk->direct_fd >= 0 && aligned(disk->offset) &&
	       aligned((uintptr_t)addr) && aligned(bytes);
}

static char *buffer_of(struct transport *t, int i)
{
	return t->buffers + (size_t)i * BUFFER_BYTES;
}

static int buffer_take(struct transport *t)
{
	for (int i = 0; i < N_BUFFERS; i++) {
		if (t->buffer_used[i])
			continue;
		t->buffer_used[i] = true;
		return i;
	}
	return -1;
}

/* ---- what an operation does -----------------------------------------------
 */

static void plan_write(struct file_op *op, char *from)
{
	const struct engine_slice *s = op->slice;

	op->writing = true;
	op->at = from;
	op->offset = s->to.offset;
	op->left = s->length_bytes;
	op->direct = can_direct(&s->to, from, s->length_bytes);
}

/* Reads whole blocks around what is wanted. */
static void plan_read_buffer(struct transport *t, struct file_op *op,
			     bool cached)
{
	const struct engine_place *from = &op->slice->from;
	uint32_t bytes;

	op->direct = from->direct_fd >= 0 && !cached;
	op->skip = op->direct ? (uint32_t)(from->offset % ALIGN) : 0;
	bytes = op->slice->length_bytes + op->skip;
	if (op->direct)
		bytes = (bytes + ALIGN - 1) & ~(ALIGN - 1);
	op->at = buffer_of(t, op->buffer);
	op->offset = from->offset - op->skip;
	op->left = bytes;
}

static bool needs_buffer(const struct engine_slice *s, bool cached)
{
	if (!is_disk(&s->from))
		return false;
	return is_disk(&s->to) ||
	       (s->from.direct_fd >= 0 && !cached &&
		!can_direct(&s->from, s->to.addr, s->length_bytes));
}

/* False: no buffer is free. */
static bool plan(struct transport *t, struct file_op *op,
		 struct engine_slice *s)
{
	bool cached = is_disk(&s->from) && is_cached(&s->from);
	bool buffered = needs_buffer(s, cached);

	*op = (struct file_op){.slice = s, .buffer = -1};
	if (buffered) {
		op->buffer = buffer_take(t);
		if (op->buffer < 0) {
			op->slice = NULL;
			return false;
		}
		plan_read_buffer(t, op, cached);
	} else if (is_disk(&s->from)) {
		op->at = s->to.addr;
		op->offset = s->from.offset;
		op->left = s->length_bytes;
		op->direct = !cached && can_direct(&s->from, op->at, op->left);
	} else {
		plan_write(op, s->from.addr);
	}
	return true;
}

static int op_fd(const struct file_op *op)
{
	const struct engine_place *p =
		op->writing ? &op->slice->to : &op->slice->from;

	return op->direct ? p->direct_fd : p->fd;
}

static void complete(struct transport *t, struct file_op *op, int err)
{
	struct engine_slice *s = op->slice;

	if (op->buffer >= 0)
		t->buffer_used[op->buffer] = false;
	op->slice = NULL;
	t->n_busy--;
	engine_slice_done(t->engine, NULL, s, err, true);
}

/* Blocks around what is wanted may lie past the end of the file. */
static bool has_enough(const struct file_op *op)
{
	const struct engine_slice *s = op->slice;

	if (op->writing || op->buffer < 0)
		return op->left == 0;
	return op->offset >= s->from.offset + s->length_bytes;
}

static int from_buffer(struct transport *t, struct file_op *op)
{
	const struct engine_slice *s = op->slice;
	char *data = buffer_of(t, op->buffer) + op->skip;

	if (s->to.fd < 0) {
		memcpy(s->to.addr, data, s->length_bytes);
		return 0;
	}
	return pwrite(s->to.fd, data, s->length_bytes, (off_t)s->to.offset) ==
			       (ssize_t)s->length_bytes
		       ? 0
		       : -EIO;
}

/* One result. True: there is more to do of this operation. */
static bool op_step(struct transport *t, struct file_op *op, int result)
{
	if (fault_hit("file.io"))
		result = -EIO;
	if (result == -EINVAL && op->direct) {
		op->direct = false;
		return true;
	}
	if (result == -EINTR || result == -EAGAIN)
		return true;
	if (result > 0) {
		op->at += result;
		op->offset += (uint32_t)result;
		op->left -= (uint32_t)result;
	}
	if (result < 0 || (result == 0 && !has_enough(op))) {
		complete(t, op, result < 0 ? result : -EIO);
		return false;
	}
	if (!has_enough(op)) {
		/* The rest of a short one no longer starts at a block. */
		op->direct = op->direct && aligned(op->offset);
		return true;
	}
	if (op->buffer >= 0 && !op->writing && is_disk(&op->slice->to)) {
		plan_write(op, buffer_of(t, op->buffer) + op->skip);
		return true;
	}
	complete(t, op,
		 op->buffer >= 0 && !op->writing ? from_buffer(t, op) : 0);
	return false;
}

/* ---- with and without a ring ----------------------------------------------
 */

static void issue_sync(struct transport *t, struct file_op *op)
{
	ssize_t n;

	do {
		n = op->writing ? pwrite(op_fd(op), op->at, op->left,
					 (off_t)op->offset)
				: pread(op_fd(op), op->at, op->left,
					(off_t)op->offset);
	} while (op_step(t, op, n < 0 ? -errno : (int)n));
}

static void issue(struct transport *t, struct file_op *op)
{
	bool fixed = t->registered && op->buffer >= 0;
	struct io_uring_sqe *sqe;

	if (!t->has_ring) {
		issue_sync(t, op);
		return;
	}
	sqe = io_uring_get_sqe(
		&t->ring); /* as many as ops, and one: never NULL */
	if (op->writing && fixed)
		io_uring_prep_write_fixed(sqe, op_fd(op), op->at, op->left,
					  op->offset, op->buffer);
	else if (op->writing)
		io_uring_prep_write(sqe, op_fd(op), op->at, op->left,
				    op->offset);
	else if (fixed)
		io_uring_prep_read_fixed(sqe, op_fd(op), op->at, op->left,
					 op->offset, op->buffer);
	else
		io_uring_prep_read(sqe, op_fd(op), op->at, op->left,
				   op->offset);
	io_uring_sqe_set_data(sqe, op);
}

static void issue_wake(struct transport *t)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);

	io_uring_prep_read(sqe, t->wake_fd, &t->wake_value,
			   sizeof(t->wake_value), 0);
	io_uring_sqe_set_data(sqe, NULL);
}

static struct file_op *op_free(struct transport *t)
{
	for (int i = 0; i < N_OPS; i++)
		if (!t->ops[i].slice)
			return &t->ops[i];
	return NULL;
}

static void begin_waiting(struct transport *t)
{
	struct file_op *op;
	struct list *l;

	while (!list_empty(&t->waiting) && (op = op_free(t))) {
		struct engine_slice *s;

		l = t->waiting.next;
		s = container_of(l, struct engine_slice, link);
		if (!plan(t, op, s))
			return;
		list_remove(l);
		t->n_busy++;
		issue(t, op);
	}
}

/* Takes over what was queued; false: time to end. */
static bool take_queue(struct transport *t)
{
	struct list gone, *l;
	bool stop;

	list_init(&gone);
	pthread_mutex_lock(&t->lock);
	while ((l = list_pop_front(&t->slices)))
		list_push_back(container_of(l, struct engine_slice, link)
					       ->transport_data
				       ? &gone
				       : &t->waiting,
			       l);
	stop = t->stop;
	pthread_mutex_unlock(&t->lock);
	while ((l = list_pop_front(&gone)))
		engine_slice_done(t->engine, NULL,
				  container_of(l, struct engine_slice, link),
				  -ECANCELED, true);
	return !stop;
}

static void reap(struct transport *t)
{
	struct io_uring_cqe *cqe;

	while (!io_uring_peek_cqe(&t->ring, &cqe)) {
		struct file_op *op = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&t->ring, cqe);
		if (!op)
			issue_wake(t);
		else if (op_step(t, op, result))
			issue(t, op);
	}
}

static void wait_ring(struct transport *t)
{
	io_uring_submit_and_wait(&t->ring, 1);
	reap(t);
}

static void wait_plain(struct transport *t)
{
	if (read(t->wake_fd, &t->wake_value, sizeof(t->wake_value)) < 0 &&
	    errno != EINTR)
		log_error("file: wake: %s", strerror(errno));
}

static void *file_thread(void *arg)
{
	struct transport *t = arg;

	pthread_setname_np(pthread_self(), "kvfs-file");
	if (t->has_ring)
		issue_wake(t);
	while (take_queue(t)) {
		begin_waiting(t);
		if (t->has_ring)
			wait_ring(t);
		else if (list_empty(&t->waiting))
			wait_plain(t);
	}
	return NULL;
}

/* ---- ops ------------------------------------------------------------------
 */

static void ring_open(struct transport *t)
{
	struct iovec iov[N_BUFFERS];
	int err = io_uring_queue_init(N_OPS + 2, &t->ring, 0);

	if (err) {
		log_info("file: no io_uring (%s): reading and writing "
			 "one by one",
			 strerror(-err));
		return;
	}
	t->has_ring = true;
	for (int i = 0; i < N_BUFFERS; i++)
		iov[i] = (struct iovec){buffer_of(t, i), BUFFER_BYTES};
	t->registered = !io_uring_register_buffers(&t->ring, iov, N_BUFFERS);
}

static void file_free(struct transport *t)
{
	if (t->has_ring)
		io_uring_queue_exit(&t->ring);
	if (t->buffers)
		munmap(t->buffers, (size_t)N_BUFFERS * BUFFER_BYTES);
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static int file_open(struct transport **out, const struct transport_config *c)
{
	struct transport *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->engine = c->engine;
	pthread_mutex_init(&t->lock, NULL);
	list_init(&t->slices);
	list_init(&t->waiting);
	t->buffers = mmap(NULL, (size_t)N_BUFFERS * BUFFER_BYTES,
			  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	if (t->buffers == MAP_FAILED)
		t->buffers = NULL;
	t->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (!t->buffers || t->wake_fd < 0) {
		err = -errno;
		file_free(t);
		return err;
	}
	ring_open(t);
	err = pthread_create(&t->thread, NULL, file_thread, t);
	if (err) {
		file_free(t);
		return -err;
	}
	*out = t;
	return 0;
}

static void wake(struct transport *t)
{
	uint64_t one = 1;

	if (write(t->wake_fd, &one, sizeof(one)) < 0)
		log_error("file: wake: %s", strerror(errno));
}

static void file_close(struct transport *t)
{
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_mutex_unlock(&t->lock);
	wake(t);
	pthread_join(t->thread, NULL);
	file_free(t);
}

static int file_submit(struct transport *t, struct engine_link *link,
		       struct engine_slice *s)
{
	bool first;

	(void)link;
	pthread_mutex_lock(&t->lock);
	first = list_empty(&t->slices);
	list_push_back(&t->slices, &s->link);
	pthread_mutex_unlock(&t->lock);
	if (first)
		wake(t);
	return 0;
}

static void file_cancel(struct transport *t, struct engine_link *link,
			struct engine_slice *s)
{
	scoped_lock(&t->lock);

	(void)link;
	list_for_each (l, &t->slices)
		if (container_of(l, struct engine_slice, link) == s)
			s->transport_data = t;
}

const struct transport_ops transport_file = {
	.name = "file",
	.slice_bytes = SLICE_BYTES,
	.window_bytes = 32u << 20,
	.window_slices = N_OPS,
	.links = 1,
	.open = file_open,
	.close = file_close,
	.submit = file_submit,
	.cancel = file_cancel,
};
