// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/xxh3.h"
#include "fs/ckpt_fetch.h"

/*
 * XXH3-128 of each shard: an immutable value of (inode, version),
 * taken off the hot path once the last writer has gone. A file that changes
 * meanwhile gets none: its next version will.
 */

#define SUM_BYTES 16
#define READ_BYTES (1u << 20)
#define TEXT_SHARDS_MAX 1900 /* as many lines as an xattr takes */

/* Is (inode, version) still what lies on the disk? */
static bool current(struct ckpt *ckpt, struct ckpt_inode *inode,
		    uint64_t version)
{
	scoped_lock(&ckpt->lock);
	const struct ckpt_data *d = inode->data;

	return inode->attr.version == version && !inode->gone &&
	       !(d && (d->n_writers || d->unpublished ||
		       d->needs & CKPT_NEED_PUBLISH)) &&
	       !atomic_load(&ckpt->stopping);
}

struct summing {
	struct ckpt *ckpt;
	struct ckpt_inode *inode;
	uint64_t version, size, shard_bytes;
	int fd;
	void *buf;
	XXH3_state_t *state;
};

/* 0, -ECANCELED it changed, -EIO it cannot be read, or ends early. */
static int sum_shard(struct summing *s, uint32_t shard, uint8_t out[SUM_BYTES])
{
	uint64_t at = shard * s->shard_bytes;
	uint64_t end =
		at + s->shard_bytes < s->size ? at + s->shard_bytes : s->size;
	XXH128_hash_t h;

	XXH3_128bits_reset(s->state);
	while (at < end) {
		size_t want = end - at < READ_BYTES ? end - at : READ_BYTES;
		ssize_t got = pread(s->fd, s->buf, want, (off_t)at);

		if (!current(s->ckpt, s->inode, s->version))
			return -ECANCELED;
		if (got <= 0)
			return -EIO;
		XXH3_128bits_update(s->state, s->buf, (size_t)got);
		at += (uint64_t)got;
	}
	h = XXH3_128bits_digest(s->state);
	for (int i = 0; i < 8; i++) {
		out[i] = (uint8_t)(h.low64 >> (8 * i));
		out[8 + i] = (uint8_t)(h.high64 >> (8 * i));
	}
	return 0;
}

static int sum_all(struct ckpt *ckpt, struct ckpt_inode *inode,
		   const struct ckpt_attr *a, uint8_t *sums)
{
	cleanup_free void *buf = malloc(READ_BYTES);
	cleanup_close int fd = cstore_fd(ckpt, a->ino, O_RDONLY | O_NOATIME);
	struct summing s = {.ckpt = ckpt,
			    .inode = inode,
			    .version = a->version,
			    .size = a->size_bytes,
			    .shard_bytes = ckpt_shard_bytes(a),
			    .fd = fd,
			    .buf = buf,
			    .state = XXH3_createState()};
	int err = buf && s.state ? 0 : -ENOMEM;

	if (fd < 0)
		err = -EIO;
	for (uint32_t i = 0; !err && i < ckpt_shards(a); i++)
		err = sum_shard(&s, i, sums + (size_t)i * SUM_BYTES);
	if (s.state)
		XXH3_freeState(s.state);
	return err;
}

/* Of a node of a cluster: is all of this version here? */
static bool is_whole(struct ckpt *ckpt, const struct ckpt_attr *a)
{
	struct cmap m;
	bool whole;

	if (cfetch_map(ckpt, a->ino, &m))
		return false;
	whole = m.flags & CMAP_WHOLE && m.version == a->version;
	cmap_fini(&m);
	return whole;
}

/* 0 done or not to be done, -ECANCELED it is being changed, else later. */
static int take(struct ckpt *ckpt, struct ckpt_inode *inode, bool look)
{
	struct ckpt_attr a = cinode_attr(ckpt, inode);
	uint32_t n = ckpt_shards(&a);
	cleanup_free uint8_t *sums = calloc(n ? n : 1, SUM_BYTES);
	int err;

	if (!n || (cfetch_on(ckpt) && !is_whole(ckpt, &a)))
		return 0;
	if (!current(ckpt, inode, a.version))
		return -ECANCELED;
	if (!sums)
		return -ENOMEM;
	err = look ? ckpt_get_checksums(ckpt->fs->meta, 0, a.ino, a.version,
					sums, n)
		   : 0;
	if (err > 0)
		return 0;
	if (err < 0)
		return err == -ESTALE ? 0 : err;
	err = sum_all(ckpt, inode, &a, sums);
	if (err == -EIO)
		log_error("ckpt: inode %" PRIu64 ": its file cannot be read",
			  a.ino);
	if (err == -EIO)
		return 0;
	if (!err)
		err = ckpt_set_checksums(ckpt->fs->meta, 0, a.ino, a.version,
					 sums, n);
	if (!err)
		atomic_fetch_add(&ckpt->fs->counters.checksums, 1);
	if (!err && cfetch_on(ckpt))
		cfetch_published(ckpt, a.ino, a.version);
	return err == -ESTALE ? 0 : err;
}

static void run(struct job *job)
{
	struct ckpt_data *d = container_of(job, struct ckpt_data, job);
	struct ckpt *ckpt = d->ckpt;
	const unsigned mine = CKPT_NEED_SUM | CKPT_NEED_LOOK;
	unsigned needs;
	int err;

	pthread_mutex_lock(&ckpt->lock);
	needs = d->needs & mine;
	d->needs &= ~mine;
	pthread_mutex_unlock(&ckpt->lock);
	err = take(ckpt, d->inode, needs & CKPT_NEED_LOOK);
	if (err) {
		pthread_mutex_lock(&ckpt->lock);
		d->needs |= needs;
		pthread_mutex_unlock(&ckpt->lock);
	}
	/* Whoever changes it has it settled afterwards, and finds the need. */
	ckeep_done(d, err == -ECANCELED ? 0 : err);
}

void csum_post(struct ckpt_data *d)
{
	d->job.run = run;
	workers_post(d->ckpt->sums, &d->job);
}

static int fetch(struct ckpt *ckpt, int64_t deadline, const struct ckpt_attr *a,
		 uint8_t **sums, uint32_t *n)
{
	int err;

	*n = ckpt_shards(a);
	*sums = calloc(*n ? *n : 1, SUM_BYTES);
	if (!*sums)
		return -ENOMEM;
	if (!*n)
		return 0;
	err = ckpt_get_checksums(ckpt->fs->meta, deadline, a->ino, a->version,
				 *sums, *n);
	if (err < 0)
		return err;
	return (uint32_t)err == *n ? 0 : -ENODATA;
}

/* High half first, as xxhsum prints it. */
static size_t print_sum(char *text, const uint8_t sum[SUM_BYTES])
{
	for (int i = 0; i < SUM_BYTES; i++)
		sprintf(text + (size_t)2 * i, "%02x", sum[SUM_BYTES - 1 - i]);
	return (size_t)2 * SUM_BYTES;
}

/* A line a shard; of a file with too many, the sum of all sums. */
int csum_text(struct ckpt *ckpt, int64_t deadline, const struct ckpt_attr *a,
	      char *text, size_t text_bytes)
{
	cleanup_free uint8_t *sums = NULL;
	size_t len = 0;
	uint32_t n;
	int err = fetch(ckpt, deadline, a, &sums, &n);

	if (err)
		return err;
	if (n > TEXT_SHARDS_MAX) {
		XXH128_hash_t h = XXH3_128bits(sums, (size_t)n * SUM_BYTES);

		return snprintf(text, text_bytes,
				"%u shards %016" PRIx64 "%016" PRIx64, n,
				(uint64_t)h.high64, (uint64_t)h.low64);
	}
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			text[len++] = '\n';
		len += print_sum(text + len, sums + (size_t)i * SUM_BYTES);
	}
	return (int)len;
}

static int damaged(struct ckpt *ckpt, uint64_t ino, uint32_t shard)
{
	log_error("ckpt: inode %" PRIu64 ": shard %u does not match its "
		  "checksum: the file is not served any more",
		  ino, shard);
	cstore_set_damaged(ckpt, ino, true);
	atomic_fetch_add(&ckpt->fs->counters.damaged, 1);
	return -EIO;
}

int csum_verify(struct ckpt *ckpt, struct ckpt_inode *inode)
{
	struct ckpt_attr a = cinode_attr(ckpt, inode);
	cleanup_free uint8_t *want = NULL;
	cleanup_free uint8_t *have = NULL;
	uint32_t n;
	int err;

	if (!current(ckpt, inode, a.version) ||
	    (cfetch_on(ckpt) && !is_whole(ckpt, &a)))
		return -EBUSY;
	err = fetch(ckpt, 0, &a, &want, &n);
	if (err)
		return err;
	have = calloc(n ? n : 1, SUM_BYTES);
	if (!have)
		return -ENOMEM;
	err = sum_all(ckpt, inode, &a, have);
	if (err)
		return err == -EIO	   ? damaged(ckpt, a.ino, 0)
		       : err == -ECANCELED ? -EBUSY
					   : err;
	for (uint32_t i = 0; i < n; i++) {
		size_t at = (size_t)i * SUM_BYTES;

		if (memcmp(want + at, have + at, SUM_BYTES))
			return damaged(ckpt, a.ino, i);
	}
	return 0;
}
