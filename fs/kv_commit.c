// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "meta/kv.h"

/*
 * From a written file to a block.
 *
 * close() returns before the kernel sends RELEASE, and RENAME may overtake
 * it, so neither says that the writer is gone. What says so is the write
 * lease on the frame: it is granted only when nobody has the frame open or
 * mapped (pool_probe). A file commits at the first of RENAME to a final name,
 * LOOKUP or OPEN of its final name, and RELEASE at which that holds. Where
 * RENAME finds the writer still there, the block is a copy of what is written
 * so far, and the writer keeps an orphan.
 *
 * A rename onto a block drops the newcomer: the first commit wins. The
 * entry of an uncommitted file has no timeout in the kernel, so the next walk
 * asks and is given the block that stayed.
 */

#define COPY_BYTES (1u << 20)
#define TRIM_SLACK_BYTES (256u << 10) /* the background trims less */

bool kv_writers_gone(struct kv *kv, struct kv_file *f)
{
	if (!kv->fs->passthrough)
		return f->writers == 0;
	/* A rewriter's OPEN is answered, but the kernel may not have opened
	 * the frame yet: the lease would be granted over its head. */
	return f->rewriters == 0 && pool_probe(kv->fs->pool, f->frame) == 0;
}

static void learn_size(struct kv_ns *ns, uint64_t bytes)
{
	unsigned n = sizeof(ns->recent) / sizeof(ns->recent[0]);

	ns->recent[ns->n_recent++ % n] = bytes;
	ns->expect_bytes = 0;
	for (unsigned i = 0; i < n; i++)
		if (ns->recent[i] > ns->expect_bytes)
			ns->expect_bytes = ns->recent[i];
}

static int reserve_by_frame(struct kv *kv, uint32_t frame)
{
	size_t n = kv->n_by_frame ? kv->n_by_frame : 256;
	struct kv_file **grown;

	if (frame < kv->n_by_frame)
		return 0;
	while (n <= frame)
		n *= 2;
	grown = realloc(kv->by_frame, n * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	memset(grown + kv->n_by_frame, 0,
	       (n - kv->n_by_frame) * sizeof(*grown));
	kv->by_frame = grown;
	kv->n_by_frame = n;
	return 0;
}

int kv_count_in(struct kv *kv, struct kv_file *f)
{
	struct pool_record *r = kv_record(kv, f);

	if (reserve_by_frame(kv, f->frame))
		return -ENOMEM;
	kv->by_frame[f->frame] = f;
	f->node.state = KV_COMMITTED;
	f->node.temp = false;
	list_remove(&f->by_use);
	list_push_back(kv_use_list(kv, f), &f->by_use);
	f->ns->n_blocks++;
	f->ns->n_bytes += r->size_bytes;
	kv->n_bytes += r->size_bytes;
	if (kv_kind(kv, f) == KV_COPY)
		kv->copy_bytes += r->size_bytes;
	learn_size(f->ns, r->size_bytes);
	remote_offer_soon(kv);
	return 0;
}

void kv_count_out(struct kv *kv, struct kv_file *f)
{
	struct pool_record *r = kv_record(kv, f);

	kv_set_parent(kv, f, NULL);
	kv->by_frame[f->frame] = NULL;
	list_remove(&f->by_use);
	list_remove(&f->excess);
	list_remove(&f->unlisted);
	f->ns->n_blocks--;
	f->ns->n_bytes -= r->size_bytes;
	kv->n_bytes -= r->size_bytes;
	if (kv_kind(kv, f) == KV_COPY)
		kv->copy_bytes -= r->size_bytes;
}

static int commit(struct kv *kv, struct kv_file *f)
{
	struct fs_counters *counters = &kv->fs->counters;
	char path[POOL_PATH_MAX + 1];
	int n = kv_path(kv_dir(f->node.parent), f->node.name, path);
	struct pool_record *r = kv_record(kv, f);
	int err;

	if (n < 0)
		return n;
	r->last_use = kv_use_now(kv);
	err = reserve_by_frame(kv, f->frame);
	if (!err)
		err = pool_commit(kv->fs->pool, f->frame, path, (uint16_t)n);
	if (err)
		return err;
	kv_count_in(kv, f);
	/* A small block after large ones must not push others out meanwhile. */
	if (r->alloc_bytes > 2 * r->size_bytes + TRIM_SLACK_BYTES)
		pool_trim(kv->fs->pool, f->frame);
	else if (r->alloc_bytes >= r->size_bytes + 4096)
		list_push_back(&kv->excess, &f->excess);
	atomic_fetch_add_explicit(&counters->stores, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&counters->bytes_stored, r->size_bytes,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&f->ns->stores, 1, memory_order_relaxed);
	remote_chain_stored(kv, f);
	kv_sum_later(kv, f);
	kv_enforce_quota(kv, f->ns);
	return 0;
}

int kv_try_commit(struct kv *kv, struct kv_file *f)
{
	if (f->node.state == KV_COMMITTED || f->node.temp || f->node.unlinked)
		return f->node.state == KV_COMMITTED ? 0 : -EBUSY;
	if (f->node.state == KV_REMOTE)
		return -EBUSY;
	return kv_writers_gone(kv, f) ? commit(kv, f) : -EBUSY;
}

/*
 * RELEASE may be handled before the kernel has closed the frame: the lease is
 * refused for some microseconds more. Whoever asks for the name meanwhile
 * tries again; this does for the names that nobody asks for.
 */
void kv_commit_late(struct kv *kv)
{
	list_for_each_safe (l, &kv->late) {
		struct kv_file *f = container_of(l, struct kv_file, by_use);

		if (f->writers == 0)
			kv_try_commit(kv, f);
	}
}

#define LATE_TRIES 16 /* 1, 2, 3 … ms apart; then on demand only */

static void commit_late(struct job *job)
{
	struct kv *kv = container_of(job, struct kv, late_job);
	bool more = true;

	for (int i = 1; more && i <= LATE_TRIES; i++) {
		usleep((useconds_t)i * 1000);
		pthread_mutex_lock(&kv->lock);
		kv_commit_late(kv);
		more = !list_empty(&kv->late);
		kv->late_queued = more && i < LATE_TRIES;
		pthread_mutex_unlock(&kv->lock);
	}
}

void kv_commit_soon(struct kv *kv, struct kv_file *f)
{
	list_push_back(&kv->late, &f->by_use);
	if (kv->late_queued)
		return;
	kv->late_queued = true;
	kv->late_job.run = commit_late;
	workers_post(kv->fs->background, &kv->late_job);
}

bool kv_may_leave(const struct kv *kv, const struct kv_file *f)
{
	return !kv->fs->passthrough && f->closed && f->writers;
}

#define LEAVE_MS 20

void kv_wait_writers(struct kv *kv, struct kv_file *f)
{
	struct timespec until =
		clock_timespec(clock_now_ns() + LEAVE_MS * NS_PER_MS);

	f->node.pins++;
	while (f->writers &&
	       !pthread_cond_timedwait(&kv->writer_left, &kv->lock, &until))
		;
	f->closed = false; /* a duplicate of the descriptor lives on */
	kv_unpin(kv, f);
}

void kv_let_go(struct kv *kv, struct kv_file *f)
{
	if (f->node.unlinked && !f->opens && !f->node.pins &&
	    f->frame != POOL_NO_FRAME) {
		pool_put(kv->fs->pool, f->frame);
		f->frame = POOL_NO_FRAME;
	}
	kv_node_settle(&f->node);
}

void kv_drop(struct kv *kv, struct kv_file *f, bool by_user)
{
	if (f->node.state == KV_COMMITTED) {
		kv_retract(kv, f, by_user);
		kv_count_out(kv, f);
	}
	list_remove(&f->by_use);
	if (f->writers && f->node.state == KV_WRITING)
		list_push_back(&kv->writing, &f->by_use);
	kv_unlink_node(kv, &f->node);
	kv_let_go(kv, f);
}

/* Two blocks that met under one name: were they the same? Only counted. */
struct meeting {
	struct job job;
	struct kv *kv;
	struct kv_file *first, *second;
};

static void compare_met(struct job *job)
{
	struct meeting *m = container_of(job, struct meeting, job);
	struct kv *kv = m->kv;
	uint64_t a[2], b[2];
	bool equal = !atomic_load(&kv->fs->stopping) &&
		     !kv_read_sum(kv, m->first->frame, a) &&
		     !kv_read_sum(kv, m->second->frame, b) &&
		     !memcmp(a, b, sizeof(a));

	atomic_fetch_add(equal ? &kv->fs->counters.deduplicated
			       : &kv->fs->counters.conflicts,
			 1);
	pthread_mutex_lock(&kv->lock);
	kv_unpin(kv, m->first);
	kv_unpin(kv, m->second);
	pthread_mutex_unlock(&kv->lock);
	free(m);
}

static void count_meeting(struct kv *kv, struct kv_file *first,
			  struct kv_file *second)
{
	struct meeting *m = malloc(sizeof(*m));

	if (!m)
		return;
	*m = (struct meeting){.kv = kv, .first = first, .second = second};
	m->job.run = compare_met;
	first->node.pins++;
	second->node.pins++;
	workers_post(kv->fs->background, &m->job);
}

/* f would take the name of a block: the block stays, f goes. */
static void lose_to(struct kv *kv, struct kv_file *f, struct kv_file *block)
{
	count_meeting(kv, block, f);
	kv_drop(kv, f, true);
}

static int rename_block(struct call *c, struct kv_file *f)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *to = kv_dir(kv_node(c->new_inode));
	char path[POOL_PATH_MAX + 1];
	int n = kv_path(to, c->new_name, path);
	int err;

	kv_retract(kv, f, true);
	err = pool_rename(kv->fs->pool, f->frame, path, (uint16_t)n);
	if (!err)
		err = kv_move(kv, &f->node, to, c->new_name);
	kv_set_kind(kv, f, KV_STORED); /* nobody else has it by this name */
	kv_record(kv, f)->generation = 0;
	f->node.published = false;
	list_remove(&f->unlisted);
	kv_publish(kv, f);
	return err;
}

static int copy_bytes(int from, int to)
{
	cleanup_free char *buf = malloc(COPY_BYTES);
	struct stat st;
	ssize_t n;
	off_t at = 0;

	if (!buf)
		return -ENOMEM;
	while ((n = pread(from, buf, COPY_BYTES, at)) > 0) {
		if (pwrite(to, buf, (size_t)n, at) != n)
			return -ENOSPC;
		at += n;
	}
	if (n < 0 || fstat(from, &st))
		return -errno;
	futimens(to, (struct timespec[]){st.st_atim, st.st_mtim});
	return 0;
}

/* A fresh frame with the bytes that f has now. No lock held. */
static int copy_frame(struct kv *kv, struct kv_file *f, uint32_t *copy)
{
	struct pool *pool = kv->fs->pool;
	cleanup_close int from = pool_fd(pool, f->frame, O_RDONLY);
	cleanup_close int to = -1;
	struct stat st;
	int backing, err;

	if (from < 0 || fstat(from, &st))
		return from < 0 ? from : -errno;
	err = pool_take(pool, (uint64_t)st.st_size, copy, &backing);
	if (err)
		return err;
	to = pool_fd(pool, *copy, O_RDWR);
	err = to < 0 ? to : copy_bytes(from, to);
	if (err)
		pool_put(pool, *copy);
	return err;
}

/* The copy becomes the block of the new name; f stays with its writer. */
static int install_copy(struct call *c, struct kv_file *f, uint32_t frame)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *to = kv_dir(kv_node(c->new_inode));
	struct kv_node *target = kv_find(kv, to, c->new_name);
	struct pool_record *r = pool_record(kv->fs->pool, frame);
	const struct pool_record *old = kv_record(kv, f);
	struct kv_file *block;

	if (target && target->state == KV_COMMITTED) {
		lose_to(kv, f, kv_file(target));
		pool_put(kv->fs->pool, frame);
		return 0;
	}
	if (target)
		kv_drop(kv, kv_file(target), true);
	r->mode = old->mode;
	r->uid = old->uid;
	r->gid = old->gid;
	r->atime_ns = old->atime_ns;
	r->ctime_ns = old->ctime_ns;
	block = kv_file_new(kv, to, c->new_name, frame);
	if (!block) {
		pool_put(kv->fs->pool, frame);
		return -ENOMEM;
	}
	kv_drop(kv, f, true);
	atomic_fetch_add(&kv->fs->counters.copied_commits, 1);
	return commit(kv, block);
}

void kv_wait_name(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node;

	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, kv_dir(kv_node(c->inode)), c->name);
	if (node && !kv_is_dir(node))
		kv_wait_writers(kv, kv_file(node));
	pthread_mutex_unlock(&kv->lock);
}

static void rename_after_writer(struct call *c)
{
	kv_wait_name(c);
	kv_do_rename(c);
}

/* The block of the new name, pinned, or NULL. */
static struct kv_file *pin_renamed(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *node;
	scoped_lock(&kv->lock);

	node = kv_find(kv, kv_dir(kv_node(c->new_inode)), c->new_name);
	if (!node || kv_is_dir(node) || node->state != KV_COMMITTED)
		return NULL;
	node->pins++;
	return kv_file(node);
}

int kv_sync_all(struct call *c, struct kv_file *f)
{
	char path[POOL_PATH_MAX + 1];
	struct kv *kv = c->fs->kv;
	uint32_t copies;
	int n, err = kv_sync(kv, f);

	if (err || !c->fs->remote)
		return err;
	pthread_mutex_lock(&kv->lock);
	copies = f->ns->replicas;
	n = kv_path(kv_dir(f->node.parent), f->node.name, path);
	pthread_mutex_unlock(&kv->lock);
	if (n < 0 || copies <= 1)
		return 0;
	return remote_replicate(c->fs->remote, path, (uint16_t)n, copies,
				c->deadline);
}

/* The block was fsynced while it was written: its publish is waited for,
 * within the deadline. It is committed here whatever Redis says. */
static void wait_published(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_file *f = meta_up(c->fs->meta) ? pin_renamed(c) : NULL;

	if (f) {
		kv_sync_all(c, f);
		pthread_mutex_lock(&kv->lock);
		kv_unpin(kv, f);
		pthread_mutex_unlock(&kv->lock);
	}
	call_reply_err(c, 0);
}

static void rename_by_copy(struct call *c)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *from = kv_dir(kv_node(c->inode));
	struct kv_node *node;
	uint32_t frame;
	bool sync;
	int err;

	pthread_mutex_lock(&kv->lock);
	node = kv_find(kv, from, c->name);
	if (!node || kv_is_dir(node) || node->state == KV_COMMITTED) {
		pthread_mutex_unlock(&kv->lock);
		call_reply_err(c, ENOENT);
		return;
	}
	node->pins++;
	pthread_mutex_unlock(&kv->lock);
	err = copy_frame(kv, kv_file(node), &frame);
	pthread_mutex_lock(&kv->lock);
	if (!err && node->unlinked) {
		pool_put(kv->fs->pool, frame);
		err = -ENOENT;
	}
	sync = node->sync;
	if (!err)
		err = install_copy(c, kv_file(node), frame);
	kv_unpin(kv, kv_file(node));
	pthread_mutex_unlock(&kv->lock);
	if (!err && sync)
		wait_published(c);
	else
		call_reply_err(c, err);
}

static void fill_record(struct call *c, struct kv_dir *dir,
			struct pool_record *r, uint32_t mode)
{
	r->mode = mode;
	r->uid = c->uid;
	r->gid = dir->mode & S_ISGID ? dir->gid : c->gid;
	r->atime_ns = r->ctime_ns = clock_stamp_ns();
}

int kv_commit_frame(struct call *c, struct kv_dir *dir, const char *name,
		    uint32_t frame, uint32_t mode, struct kv_file **out)
{
	struct kv *kv = c->fs->kv;
	struct kv_node *target = kv_find(kv, dir, name);
	char path[POOL_PATH_MAX + 1];
	struct kv_file *f;
	int err;

	if (target && kv_is_dir(target))
		return -EISDIR;
	if (target && !kv_try_commit(kv, kv_file(target)))
		return -EEXIST;
	if (kv_path(dir, name, path) < 0)
		return -ENAMETOOLONG;
	if (target)
		kv_drop(kv, kv_file(target), true);
	f = kv_file_new(kv, dir, name, frame);
	if (!f)
		return -ENOMEM;
	fill_record(c, dir, kv_record(kv, f), mode);
	err = commit(kv, f);
	if (err) {
		f->frame = POOL_NO_FRAME;
		kv_unlink_node(kv, &f->node);
		kv_node_settle(&f->node);
		return err;
	}
	*out = f;
	return 0;
}

/* The kernel looks the target of every rename up. It asked because a block
 * is coming, not because somebody missed one. */
static void forget_target_lookup(struct kv *kv, struct kv_ns *ns)
{
	if (atomic_load_explicit(&ns->misses, memory_order_relaxed) == 0)
		return;
	atomic_fetch_sub_explicit(&ns->misses, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&kv->fs->counters.misses, 1,
				  memory_order_relaxed);
}

static int rename_written(struct call *c, struct kv_file *f,
			  struct kv_file *target)
{
	struct kv *kv = c->fs->kv;
	struct kv_dir *to = kv_dir(kv_node(c->new_inode));
	bool temp = kv_name_is_temp(c->new_name);
	int err;

	if (!temp && !kv_writers_gone(kv, f)) {
		call_defer(c, kv_may_leave(kv, f) ? rename_after_writer
						  : rename_by_copy);
		return -EINPROGRESS;
	}
	if (target)
		kv_drop(kv, target, true);
	err = kv_move(kv, &f->node, to, c->new_name);
	if (err)
		return err;
	f->node.temp = temp;
	if (temp)
		return 0;
	err = commit(kv, f);
	if (err) {
		/* the caller is told so, and finds it where it was */
		f->node.temp = true;
		kv_move(kv, &f->node, kv_dir(kv_node(c->inode)), c->name);
		return err;
	}
	forget_target_lookup(kv, f->ns);
	if (!f->node.sync)
		return 0;
	call_defer(c, wait_published);
	return -EINPROGRESS;
}

int kv_rename_file(struct call *c, struct kv_file *f, struct kv_file *target)
{
	struct kv *kv = c->fs->kv;

	if (target && target->node.state == KV_WRITING)
		kv_try_commit(kv, target);
	if (target && target->node.state == KV_COMMITTED) {
		lose_to(kv, f, target);
		return 0;
	}
	if (f->node.state == KV_WRITING)
		return rename_written(c, f, target);
	if (target)
		kv_drop(kv, target, true);
	return rename_block(c, f);
}
