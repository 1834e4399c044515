// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "engine/checksum.h"
#include "fs/kv.h"
#include "fs/remote.h"
#include "fs/remote_offer.h"
#include "fs/remote_parts.h"

/*
 * What peers ask of this node. Its own index is the truth: a block of that
 * name, generation, size and checksum is here, published and whole, or the
 * answer is "not here". The block is pinned while it is written into the
 * peer's segment; how much may be pinned so is bounded.
 *
 * Requests come on a thread of the engine, which must not wait for kv->lock.
 * Where it is free, as most often, the request is served at once: that saves
 * the peer a thread's wake-up or two. Else it becomes a job.
 */

#define PIN_SHARE 4	  /* a quarter of the pool, or one block */
#define SERVING_MAX 1024u /* blocks being written to peers */

struct request {
	struct job job;
	struct list link;	       /* of r->serving, while it is pinned */
	struct remote_watcher watcher; /* of a fetch that it waits for */
	struct remote *r;
	struct engine_peer *peer;
	uint64_t request_id;
	uint16_t type;
	struct remote_msg msg;
	/* FETCH: */
	struct engine_batch batch;
	struct engine_xfer xfer;
	struct kv_file *f; /* pinned */
	int fd;
	int status;
	void *next; /* what follows it in its chain */
	uint32_t next_bytes;
	char path[];
};

static void answer_with(struct request *q, int status, const void *bytes,
			uint32_t n)
{
	/* Refused where the bytes have answered, or the caller is gone. */
	engine_reply(q->peer, q->request_id, status, bytes, n);
	engine_peer_put(q->peer);
	free(q->next);
	free(q);
}

static void answer(struct request *q, int status)
{
	answer_with(q, status, NULL, 0);
}

static void serve(struct job *job);

static struct kv_file *find(struct kv *kv, const struct remote_msg *m)
{
	struct kv_node *node = kv_find_path(kv, m->path, m->path_len);

	if (!node || kv_is_dir(node) || node->state != KV_COMMITTED ||
	    node->damaged)
		return NULL;
	return kv_file(node);
}

static bool is_version(struct kv *kv, struct kv_file *f,
		       const struct remote_msg *m)
{
	const struct pool_record *r = kv_record(kv, f);

	/* Provisional, unless it is a copy of what is published. */
	if (!f->node.published &&
	    (!r->generation || r->generation != m->generation))
		return false;
	if (r->size_bytes != m->size_bytes)
		return false;
	if (!m->checksum[0] && !m->checksum[1])
		return r->generation == m->generation;
	return (r->flags & POOL_HAS_CHECKSUM) &&
	       !memcmp(r->checksum, m->checksum, sizeof(m->checksum));
}

/* -- FETCH -------------------------------------------------------------- */

static uint64_t bytes_of(const struct request *q)
{
	return q->msg.length_bytes ? q->msg.length_bytes : q->msg.size_bytes;
}

/* Of the same block, so many; each of its readers has several parts out. */
static uint32_t uploads_max(const struct request *q)
{
	return REMOTE_UPLOADS_MAX *
	       (q->msg.length_bytes ? REMOTE_PARTS_AHEAD : 1);
}

/* 0: it is here, and pinned. Lock held. */
static int pin(struct request *q)
{
	struct remote *r = q->r;
	struct kv *kv = r->fs->kv;
	struct kv_file *f = find(kv, &q->msg);
	uint64_t pinned = atomic_load(&r->counters.pinned_bytes);

	if (!f || !is_version(kv, f, &q->msg))
		return -ENOENT;
	if (f->uploads >= uploads_max(q) ||
	    atomic_load(&r->counters.n_serving) >= SERVING_MAX ||
	    (pinned && pinned + bytes_of(q) > r->pool_bytes / PIN_SHARE))
		return -EAGAIN;
	/* Somebody reads it there, or soon. Were it still old here, it might go
	 * because it is there, and there because it is here. */
	if (q->msg.priority <= ENGINE_PREFETCH)
		kv_touch(kv, f);
	f->node.pins++;
	f->uploads++;
	q->f = f;
	list_push_back(&r->serving, &q->link);
	atomic_fetch_add(&r->counters.pinned_bytes, bytes_of(q));
	atomic_fetch_add(&r->counters.n_serving, 1);
	return 0;
}

/* Lock held. */
static void unpin(struct request *q)
{
	atomic_fetch_sub(&q->r->counters.pinned_bytes, bytes_of(q));
	atomic_fetch_sub(&q->r->counters.n_serving, 1);
	q->f->uploads--;
	list_remove(&q->link);
	kv_unpin(q->r->fs->kv, q->f);
}

static void finish_now(struct job *job)
{
	struct request *q = container_of(job, struct request, job);
	struct kv *kv = q->r->fs->kv;

	pthread_mutex_lock(&kv->lock);
	unpin(q);
	pthread_mutex_unlock(&kv->lock);
	answer(q, q->status);
}

/* Nothing reads the frame for this peer any more. */
static void finish(void *ctx)
{
	struct request *q = ctx;
	struct kv *kv = q->r->fs->kv;

	if (q->fd >= 0)
		close(q->fd);
	if (!q->status) {
		atomic_fetch_add(&q->r->counters.served, 1);
		atomic_fetch_add(&q->r->counters.served_bytes, bytes_of(q));
	}
	q->job.run = finish_now;
	if (pthread_mutex_trylock(&kv->lock)) {
		if (!remote_post(q->r, q->r->servers, &q->job))
			finish_now(&q->job); /* the engine is closing: no
						callback waits */
		return;
	}
	unpin(q);
	pthread_mutex_unlock(&kv->lock);
	answer(q, q->status);
}

static void written(struct engine_batch *b, int status)
{
	struct request *q = container_of(b, struct request, batch);

	q->status = status;
	engine_region_remove(q->r->engine, q->xfer.region, finish, q);
}

/* The bytes are queued, and answer the call; `written` goes on. */
static int send_block(struct request *q)
{
	struct remote *r = q->r;
	struct engine_mem mem = {.kind = ENGINE_MEM_FILE,
				 .offset = q->msg.offset,
				 .length_bytes = bytes_of(q)};
	int err;

	q->fd = pool_fd(r->fs->pool, q->f->frame, O_RDONLY);
	if (q->fd < 0)
		return q->fd;
	mem.fd = q->fd;
	err = engine_region_add(r->engine, &mem, &q->xfer.region);
	if (err)
		return err;
	q->xfer.op = ENGINE_WRITE;
	q->xfer.segment = q->msg.segment;
	q->xfer.length_bytes = bytes_of(q);
	q->batch = (struct engine_batch){
		.xfers = &q->xfer,
		.n_xfers = 1,
		.priority = (enum engine_priority)q->msg.priority,
		.answers = q->request_id,
		.answer = q->next,
		.answer_bytes = q->next_bytes,
		.deadline_ns =
			clock_now_ns() + r->fs->config.deadline_ms * NS_PER_MS,
		.done = written,
	};
	err = engine_submit(r->engine, q->peer, &q->batch);
	if (err)
		engine_region_remove(r->engine, q->xfer.region, NULL, NULL);
	return err;
}

/* Lock held. */
static void note_next(struct request *q)
{
	uint8_t next[REMOTE_NEXT * REMOTE_ENTRY_MAX];
	size_t n = remote_chain_answer(q->r, q->f, REMOTE_NEXT, next);

	q->next = n ? malloc(n) : NULL;
	if (!q->next)
		return;
	memcpy(q->next, next, n);
	q->next_bytes = (uint32_t)n;
}

/* Pinned; takes q. */
static void send_it(struct request *q, int err)
{
	bool empty = !q->msg.size_bytes;

	if (!err && !empty)
		err = send_block(q);
	if (!err && !empty)
		return; /* it may be answered and gone by now */
	q->status = err;
	finish(q);
}

/* The part's sum, from those that were taken of the block. Lock held. */
static int note_sum(struct request *q)
{
	uint64_t at = q->msg.offset / REMOTE_PART_BYTES;

	if (q->msg.offset % REMOTE_PART_BYTES ||
	    q->msg.length_bytes > REMOTE_PART_BYTES)
		return -EINVAL;
	q->next = malloc(REMOTE_SUM_BYTES);
	if (!q->next)
		return -ENOMEM;
	remote_sum_encode(q->f->part_sums[at], q->next);
	q->next_bytes = REMOTE_SUM_BYTES;
	return 0;
}

static int sum_parts(struct request *q, uint64_t (*sums)[2])
{
	cleanup_close int fd = pool_fd(q->r->fs->pool, q->f->frame, O_RDONLY);
	uint64_t size = q->msg.size_bytes;
	uint8_t *p = fd < 0 ? MAP_FAILED
			    : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		return fd < 0 ? fd : -errno;
	for (uint64_t at = 0; at < size; at += REMOTE_PART_BYTES)
		checksum_mem(p + at,
			     size - at < REMOTE_PART_BYTES ? size - at
							   : REMOTE_PART_BYTES,
			     sums[at / REMOTE_PART_BYTES]);
	munmap(p, size);
	return 0;
}

/* The sums of a block's parts, of bytes that match its own checksum: once. */
static int take_sums(struct request *q)
{
	struct kv *kv = q->r->fs->kv;
	uint64_t(*sums)[2] =
		calloc(remote_parts_n(q->msg.size_bytes), sizeof(*sums));
	int err = sums ? sum_parts(q, sums) : -ENOMEM;

	if (!err && (q->msg.checksum[0] || q->msg.checksum[1]))
		err = kv_sum_now(kv, q->f) ? -ENOENT : 0;
	pthread_mutex_lock(&kv->lock);
	if (!err && !q->f->part_sums) {
		q->f->part_sums = sums;
		sums = NULL;
	}
	if (!err)
		err = note_sum(q);
	pthread_mutex_unlock(&kv->lock);
	free(sums);
	return err;
}

static void serve_first_part(struct job *job)
{
	struct request *q = container_of(job, struct request, job);

	send_it(q, take_sums(q));
}

/* Those that get it now have it in a moment. Lock held. */
static size_t note_fetching(const struct request *q,
			    uint8_t out[REMOTE_FETCHING_BYTES])
{
	struct kv_file *f = find(q->r->fs->kv, &q->msg);
	struct remote_fetching who = {.n = 0};

	list_for_each (l, &q->r->serving) {
		struct request *o = container_of(l, struct request, link);

		if (o->f == f && !o->msg.length_bytes && o->msg.holder &&
		    o->msg.holder != q->msg.holder)
			who.nodes[who.n++] = o->msg.holder;
		if (who.n == REMOTE_FETCHING_MAX)
			break;
	}
	return remote_fetching_encode(&who, out);
}

static void refuse(struct request *q, int err, const void *who, size_t n)
{
	atomic_fetch_add(&q->r->counters.serve_refused, 1);
	/* Whoever asks has it from Redis that it is here: the reader edits
	 * nothing there, its owner does. */
	if (err == -ENOENT && !(q->msg.flags & REMOTE_WAIT))
		meta_kv_dirty(q->r->fs->meta, q->msg.path, q->msg.path_len);
	answer_with(q, err, who, (uint32_t)n);
}

static void fetched(struct remote_watcher *w, int err)
{
	struct request *q = container_of(w, struct request, watcher);

	(void)err; /* it is here or not */
	q->job.run = serve;
	if (!remote_post(q->r, q->r->servers, &q->job))
		answer(q, -ESHUTDOWN);
}

/* It is fetched here, too: this request goes on when that has ended. Lock
 * held. */
static bool waits(struct request *q)
{
	struct kv_node *node =
		q->msg.flags & REMOTE_WAIT && !q->msg.length_bytes
			? kv_find_path(q->r->fs->kv, q->msg.path,
				       q->msg.path_len)
			: NULL;

	if (!node || kv_is_dir(node) || node->state != KV_REMOTE)
		return false;
	q->watcher.done = fetched;
	return remote_fetch_await(kv_file(node), &q->watcher);
}

/* Lock held, and let go of. */
static void serve_fetch(struct request *q)
{
	int err = fault_hit("remote.serve")  ? -ENOENT
		  : fault_hit("remote.busy") ? -EAGAIN
					     : pin(q);
	struct kv *kv = q->r->fs->kv;
	bool part = q->msg.length_bytes, known = !err && q->f->part_sums;
	uint8_t who[REMOTE_FETCHING_BYTES];
	size_t n_who = err == -EAGAIN ? note_fetching(q, who) : 0;
	bool kept = err == -ENOENT && waits(q);
	int noted = 0;

	if (!err && q->msg.flags & REMOTE_CHAIN && !part)
		note_next(q);
	if (part && known)
		noted = note_sum(q);
	pthread_mutex_unlock(&kv->lock);
	if (kept)
		return; /* it may be answered and gone by now */
	if (err) {
		refuse(q, err, who, n_who);
		return;
	}
	q->job.run = serve_first_part;
	if (!part || known)
		send_it(q, noted);
	else if (!remote_post(q->r, q->r->servers, &q->job))
		send_it(q, -ESHUTDOWN);
}

/* -- AHEAD -------------------------------------------------------------- */

/* Lock held, and let go of. */
static void serve_ahead(struct request *q)
{
	struct kv *kv = q->r->fs->kv;
	uint8_t out[REMOTE_AHEAD_MAX * REMOTE_ENTRY_MAX];
	struct kv_file *f = find(kv, &q->msg);
	size_t n = f ? remote_chain_answer(q->r, f, REMOTE_AHEAD_MAX, out) : 0;

	pthread_mutex_unlock(&kv->lock);
	answer_with(q, 0, out, (uint32_t)n);
}

/* -- DROP --------------------------------------------------------------- */

/* Lock held, and let go of. */
static void serve_drop(struct request *q)
{
	struct kv *kv = q->r->fs->kv;
	struct kv_node *node;

	atomic_fetch_add(&q->r->counters.drops_received, 1);
	meta_kv_removed(kv->fs->meta, q->msg.path, q->msg.path_len);
	node = kv_find_path(kv, q->msg.path, q->msg.path_len);
	if (node && !kv_is_dir(node) && node->state == KV_REMOTE &&
	    !kv_file(node)->remote->fetch) {
		remote_node_forget(kv, node);
	} else if (node && !kv_is_dir(node) && node->state == KV_COMMITTED) {
		struct kv_file *f = kv_file(node);
		uint64_t generation = kv_record(kv, f)->generation;

		if (generation && generation <= q->msg.generation) {
			kv_invalidate(kv, f);
			kv_drop(kv, f, false);
		}
	}
	pthread_mutex_unlock(&kv->lock);
	answer(q, 0);
}

/* -- TAKE --------------------------------------------------------------- */

static int64_t victim_age(struct kv *kv)
{
	scoped_lock(&kv->lock);

	return kv_victim_age_ms(kv);
}

/* It may have been fetched for a reader before: it is no mere copy now. */
static void keep(struct request *q)
{
	struct kv *kv = q->r->fs->kv;
	struct kv_file *f;
	scoped_lock(&kv->lock);

	f = find(kv, &q->msg);
	if (f && kv_kind(kv, f) == KV_COPY)
		kv_set_kind(kv, f,
			    q->msg.flags & REMOTE_OFFER ? KV_MOVED : KV_STORED);
}

#define LATE_DROP_US 300000 /* for a test */
#define UNDER_WAY_US 2000

/* Here, and published from here, before who asked hears of it. */
static int take(struct request *q)
{
	struct fs *fs = q->r->fs;
	int64_t deadline = clock_now_ns() + fs->config.deadline_ms * NS_PER_MS;
	int err;

	while ((err = remote_fetch_msg(q->r, &q->msg, q->msg.holder)) ==
		       -EALREADY &&
	       clock_now_ns() < deadline && !atomic_load(&fs->stopping))
		usleep(UNDER_WAY_US); /* somebody reads it just now */
	if (err)
		return err;
	keep(q);
	return meta_kv_sync(fs->meta, q->msg.path, q->msg.path_len);
}

/* A peer's last copy. */
static int take_offer(struct request *q)
{
	int64_t own = victim_age(q->r->fs->kv);
	int err;

	if (!remote_offer_is_older(own, q->msg.age_ms))
		return -EBUSY;
	if (atomic_load(&q->r->counters.n_fetching) > REMOTE_FETCHERS / 2)
		return -EBUSY;
	err = take(q);
	if (!err)
		atomic_fetch_add(&q->r->counters.moved_here, 1);
	return err;
}

/* "Keep a copy of this": who asks is a holder. Runs on a fetcher. */
static void serve_take(struct job *job)
{
	struct request *q = container_of(job, struct request, job);
	uint8_t age[REMOTE_AGE_BYTES];
	int err;

	if (q->msg.flags & REMOTE_OFFER) {
		err = take_offer(q);
		remote_age_encode(victim_age(q->r->fs->kv), age);
		answer_with(q, err, age, sizeof(age));
		return;
	}
	err = take(q);
	if (!err)
		atomic_fetch_add(&q->r->counters.taken, 1);
	answer(q, err);
}

/* ----------------------------------------------------------------------- */

static void serve_locked(struct request *q)
{
	if (q->type == REMOTE_FETCH)
		serve_fetch(q);
	else if (q->type == REMOTE_AHEAD)
		serve_ahead(q);
	else
		serve_drop(q);
}

static void serve(struct job *job)
{
	struct request *q = container_of(job, struct request, job);

	pthread_mutex_lock(&q->r->fs->kv->lock);
	serve_locked(q);
}

void remote_serve(struct remote *r, struct engine_peer *peer,
		  const struct engine_message *m)
{
	bool take = m->type == REMOTE_TAKE;
	struct remote_msg msg;
	struct request *q = NULL;
	int err = remote_decode(m->payload, m->payload_bytes, &msg);

	if (!err && (m->type < REMOTE_FETCH || m->type > REMOTE_AHEAD))
		err = -EOPNOTSUPP;
	if (!err)
		q = calloc(1, sizeof(*q) + msg.path_len);
	if (!q) {
		engine_reply(peer, m->request_id, err ? err : -ENOMEM, NULL, 0);
		return;
	}
	engine_peer_ref(peer);
	q->r = r;
	q->peer = peer;
	q->request_id = m->request_id;
	q->type = m->type;
	q->fd = -1;
	q->msg = msg;
	q->msg.path = memcpy(q->path, msg.path, msg.path_len);
	q->job.run = take ? serve_take : serve;
	if (m->type == REMOTE_DROP && fault_hit("remote.drop"))
		usleep(LATE_DROP_US);
	if (!take && !pthread_mutex_trylock(&r->fs->kv->lock))
		serve_locked(q);
	else if (!remote_post(r, take ? r->fetchers : r->servers, &q->job))
		answer(q, -ESHUTDOWN);
}
