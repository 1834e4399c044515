// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "engine/checksum.h"
#include "fs/kv.h"
#include "meta/kv.h"

/*
 * Checksums, off the hot path: a background job a block reads the frame once,
 * stores XXH3-128 in its record, gives back what was preallocated past its
 * end, and publishes it; what is left at unmount is done at the next mount.
 * A block whose bytes no longer match is dropped and
 * never served again.
 */

struct sum_job {
	struct job job;
	struct kv *kv;
	struct kv_file *f; /* holds a pin only while it runs: a queue of
			      pinned blocks could not be evicted */
	uint32_t frame, epoch;
};

static bool still_there(struct sum_job *s)
{
	struct kv *kv = s->kv;

	return s->frame < kv->n_by_frame && kv->by_frame[s->frame] == s->f &&
	       kv_record(kv, s->f)->epoch == s->epoch;
}

int kv_read_sum(struct kv *kv, uint32_t frame, uint64_t sum[2])
{
	cleanup_close int fd = pool_fd(kv->fs->pool, frame, O_RDONLY);
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st))
		return -errno;
	return checksum_fd(fd, (uint64_t)st.st_size, sum);
}

void kv_unpin(struct kv *kv, struct kv_file *f)
{
	f->node.pins--;
	kv_let_go(kv, f);
}

static void store_sum(struct kv *kv, struct kv_file *f, const uint64_t sum[2])
{
	struct pool_record *r = kv_record(kv, f);

	r->checksum[0] = sum[0];
	r->checksum[1] = sum[1];
	__atomic_fetch_or(&r->flags, POOL_HAS_CHECKSUM, __ATOMIC_RELEASE);
	atomic_fetch_add_explicit(&kv->fs->counters.checksums, 1,
				  memory_order_relaxed);
}

static void take_sum(struct job *job)
{
	struct sum_job *s = container_of(job, struct sum_job, job);
	struct kv *kv = s->kv;
	uint64_t sum[2];
	bool there;

	pthread_mutex_lock(&kv->lock);
	there = still_there(s) && !atomic_load(&kv->fs->stopping);
	if (there) {
		s->f->node.pins++;
		list_remove(&s->f->excess);
	}
	pthread_mutex_unlock(&kv->lock);
	if (there) {
		int err = kv_read_sum(kv, s->frame, sum);

		pool_trim(kv->fs->pool, s->frame);
		pthread_mutex_lock(&kv->lock);
		if (!err && !s->f->node.unlinked) {
			store_sum(kv, s->f, sum);
			kv_publish(kv, s->f);
		}
		kv_unpin(kv, s->f);
		pthread_mutex_unlock(&kv->lock);
	}
	free(s);
}

void kv_sum_later(struct kv *kv, struct kv_file *f)
{
	const struct pool_record *r = kv_record(kv, f);
	struct sum_job *s;

	if (!f->ns->checksum || (r->flags & POOL_HAS_CHECKSUM)) {
		kv_publish(kv, f);
		return;
	}
	s = malloc(sizeof(*s));
	if (!s)
		return; /* verify takes it; it stays unpublished till then */
	*s = (struct sum_job){
		.kv = kv, .f = f, .frame = f->frame, .epoch = r->epoch};
	s->job.run = take_sum;
	workers_post(kv->fs->background, &s->job);
}

static void drop_damaged(struct kv *kv, struct kv_file *f)
{
	log_error("kv: %s/…/%s: damaged: its bytes do not match the checksum "
		  "taken at commit; dropped",
		  f->ns->dir.node.name, f->node.name);
	atomic_fetch_add(&kv->fs->counters.damaged, 1);
	f->node.damaged = true;
	if (f->node.unlinked)
		return;
	kv_invalidate(kv, f);
	kv_drop(kv, f, false);
}

int kv_sum_now(struct kv *kv, struct kv_file *f)
{
	struct pool_record *r;
	uint64_t sum[2];
	int err;

	pthread_mutex_lock(&kv->lock);
	err = f->node.damaged		      ? -EIO
	      : f->frame == POOL_NO_FRAME     ? -ESTALE
	      : f->node.state != KV_COMMITTED ? -ENODATA
					      : 0;
	if (!err)
		f->node.pins++;
	pthread_mutex_unlock(&kv->lock);
	if (err)
		return err;
	err = kv_read_sum(kv, f->frame, sum);
	pthread_mutex_lock(&kv->lock);
	r = kv_record(kv, f);
	if (!err && !(r->flags & POOL_HAS_CHECKSUM)) {
		store_sum(kv, f, sum);
		kv_publish(kv, f);
	} else if (!err && memcmp(sum, r->checksum, sizeof(sum))) {
		drop_damaged(kv, f);
		err = -EIO;
	}
	kv_unpin(kv, f);
	pthread_mutex_unlock(&kv->lock);
	return err;
}

int kv_sync(struct kv *kv, struct kv_file *f)
{
	char path[POOL_PATH_MAX + 1];
	bool lacks_sum = false;
	int n = -ESTALE;

	pthread_mutex_lock(&kv->lock);
	if (!f->node.unlinked && f->node.state == KV_COMMITTED) {
		n = kv_path(kv_dir(f->node.parent), f->node.name, path);
		lacks_sum = f->ns->checksum &&
			    !(kv_record(kv, f)->flags & POOL_HAS_CHECKSUM);
	}
	pthread_mutex_unlock(&kv->lock);
	if (n < 0)
		return n;
	if (lacks_sum) /* it is not even dirty before that */
		n = kv_sum_now(kv, f) ? -EIO : n;
	return n < 0 ? n : meta_kv_sync(kv->fs->meta, path, (uint16_t)n);
}
