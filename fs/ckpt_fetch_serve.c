// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "fs/ckpt_buf.h"
#include "fs/ckpt_disk.h"
#include "fs/ckpt_fetch.h"
#include "fs/ckpt_fetch_wire.h"
#include "fs/remote.h"

/*
 * What peers ask for. The truth is what lies here: the version that they name,
 * of which these shards are whole and nobody writes; asked again after the
 * bytes were read. They go by way of a buffer, so that a cold page never stops
 * a path of the engine.
 *
 * A request's buffer is the engine's until its batch and its region are done,
 * maybe after the checkpoints were taken down: nothing of theirs is touched
 * then.
 */

#define UPLOADS_MAX 16 /* buffers at a time */

struct upload {
	struct job job;
	struct fs *fs;
	struct engine_peer *peer;
	uint64_t request_id;
	uint16_t type;
	struct cwire_ask ask;
	struct engine_batch batch;
	struct engine_xfer xfer;
	void *buf;
	int status;
};

static void answer(struct upload *u, int status, const void *reply,
		   uint32_t reply_bytes)
{
	struct fs_counters *n = &u->fs->counters;

	if (u->buf)
		atomic_fetch_sub(&n->shard_uploads, 1);
	if (status && status != -EINPROGRESS)
		atomic_fetch_add(&n->shard_refused, 1);
	/* Refused where the bytes have answered, or the caller is gone. */
	engine_reply(u->peer, u->request_id, status, reply, reply_bytes);
	engine_peer_put(u->peer);
	cbuf_put(u->buf);
	free(u);
}

/* -- is it here? -------------------------------------------------------- */

/* -ENOENT, or how the open file stands, with a reference; data is NULL where
 * the map on the disk says all. */
static int ask_open(struct ckpt *ckpt, const struct cwire_ask *ask,
		    struct ckpt_data **data, bool *written)
{
	struct ckpt_inode *inode;
	struct ckpt_data *d;
	scoped_lock(&ckpt->lock);

	inode = cinode_find(ckpt, ask->ino);
	d = inode ? inode->data : NULL;
	*data = NULL;
	if (!d || inode->version < ask->version)
		return 0; /* a past version, too, until a later one is opened */
	if (inode->version > ask->version)
		return -ENOENT;
	*written = d->n_writers || d->unpublished ||
		   (d->needs & CKPT_NEED_PUBLISH && !d->mapped);
	if (d->fetch || *written) {
		d->refs++;
		*data = d;
	}
	return 0;
}

static int in_map(struct ckpt *ckpt, const struct cwire_ask *ask)
{
	uint64_t missing, to = ask->offset + ask->length_bytes;
	struct cmap m;
	int err = cfetch_map(ckpt, ask->ino, &m);

	if (err)
		return err;
	if (m.version != ask->version || to > m.size_bytes ||
	    (m.boot && m.boot != cmap_boot()) ||
	    !cmap_range(&m, ask->offset, to, &missing))
		err = -ENOENT;
	cmap_fini(&m);
	return err;
}

static int in_fetch(struct ckpt_data *d, const struct cwire_ask *ask)
{
	struct cfetch *f = d->fetch;
	uint64_t missing, to = ask->offset + ask->length_bytes;
	scoped_lock(&f->lock);

	if (f->whole)
		return in_map(d->ckpt, ask);

	return f->map.version == ask->version && to <= f->map.size_bytes &&
			       cmap_range(&f->map, ask->offset, to, &missing)
		       ? 0
		       : -ENOENT;
}

/* Open for writing, it is served as long as nothing was written; but its
 * checksum only once it is closed, and that is settled: a store to a mapping
 * leaves no trace. */
static int is_here(struct ckpt *ckpt, const struct cwire_ask *ask, bool sum)
{
	struct ckpt_data *d;
	bool written = false;
	int err = ask_open(ckpt, ask, &d, &written);

	if (err)
		return err;
	if (!d)
		return in_map(ckpt, ask);
	if (written && !cdata_is_unchanged(d))
		err = -ENOENT;
	else if (written && sum)
		err = -EAGAIN;
	else
		err = d->fetch ? in_fetch(d, ask) : in_map(ckpt, ask);
	cdata_put(d);
	return err;
}

/* -- the bytes ---------------------------------------------------------- */

static int open_file(struct ckpt *ckpt, const struct cwire_ask *ask, bool sum)
{
	int err = is_here(ckpt, ask, sum);
	int fd = err ? err : cstore_fd(ckpt, ask->ino, O_RDONLY | O_NOATIME);

	return fd == -EACCES || fd == -EPERM ? -ENOENT : fd;
}

/* Both times the same answer: nobody wrote while it was read. */
static int read_part(struct upload *u)
{
	struct ckpt *ckpt = u->fs->ckpt;
	cleanup_close int fd = open_file(ckpt, &u->ask, false);
	int err;

	if (fd < 0)
		return fd;
	if (atomic_fetch_add(&u->fs->counters.shard_uploads, 1) >=
		    UPLOADS_MAX ||
	    !(u->buf = cbuf_get())) {
		atomic_fetch_sub(&u->fs->counters.shard_uploads, 1);
		return -EAGAIN;
	}
	err = cdisk_read(u->fs->remote->engine, fd, u->buf, u->ask.length_bytes,
			 u->ask.offset);
	return err ? err : is_here(ckpt, &u->ask, false);
}

static int sum_range(struct engine *e, int fd, const struct cwire_ask *ask,
		     uint8_t sum[16])
{
	uint8_t *buf = cbuf_get();
	XXH3_state_t *state = XXH3_createState();
	uint64_t at = 0;
	XXH128_hash_t h;
	int err = buf && state ? 0 : -ENOMEM;

	if (!err)
		XXH3_128bits_reset(state);
	while (!err && at < ask->length_bytes) {
		uint64_t left = ask->length_bytes - at;
		size_t n = left < CWIRE_PART_MAX ? left : CWIRE_PART_MAX;

		err = cdisk_read(e, fd, buf, n, ask->offset + at);
		if (!err)
			XXH3_128bits_update(state, buf, n);
		at += n;
	}
	if (!err) {
		h = XXH3_128bits_digest(state);
		for (int i = 0; i < 8; i++) {
			sum[i] = (uint8_t)(h.low64 >> (8 * i));
			sum[8 + i] = (uint8_t)(h.high64 >> (8 * i));
		}
	}
	if (state)
		XXH3_freeState(state);
	cbuf_put(buf);
	return err;
}

/* -- answers ------------------------------------------------------------ */

static void serve_sum(struct job *job)
{
	struct upload *u = container_of(job, struct upload, job);
	cleanup_close int fd = open_file(u->fs->ckpt, &u->ask, true);
	uint8_t sum[16];
	int err = fd < 0 ? fd
			 : sum_range(u->fs->remote->engine, fd, &u->ask, sum);

	if (!err)
		err = is_here(u->fs->ckpt, &u->ask, true);
	answer(u, err, sum, err ? 0 : sizeof(sum));
}

static void serve_take(struct job *job)
{
	struct upload *u = container_of(job, struct upload, job);

	answer(u, ccopy_take(u->fs->ckpt, &u->ask), NULL, 0);
}

static void region_gone(void *ctx)
{
	struct upload *u = ctx;

	if (!u->status)
		atomic_fetch_add(&u->fs->counters.shard_served_bytes,
				 u->ask.length_bytes);
	answer(u, u->status, NULL, 0);
}

static void written(struct engine_batch *b, int status)
{
	struct upload *u = container_of(b, struct upload, batch);

	u->status = status;
	engine_region_remove(u->fs->remote->engine, u->xfer.region, region_gone,
			     u);
}

/* The bytes go; `written` goes on. */
static int send_part(struct upload *u)
{
	struct engine *e = u->fs->remote->engine;
	struct engine_mem mem = {.kind = ENGINE_MEM_HOST,
				 .addr = u->buf,
				 .length_bytes = u->ask.length_bytes};
	int err = engine_region_add(e, &mem, &u->xfer.region);

	if (err)
		return err;
	u->xfer.op = ENGINE_WRITE;
	u->xfer.segment = u->ask.segment;
	u->xfer.length_bytes = u->ask.length_bytes;
	u->batch = (struct engine_batch){
		.xfers = &u->xfer,
		.n_xfers = 1,
		.priority = (enum engine_priority)u->ask.priority,
		.answers = u->request_id,
		.deadline_ns =
			clock_now_ns() + u->fs->config.deadline_ms * NS_PER_MS,
		.done = written,
	};
	err = engine_submit(e, u->peer, &u->batch);
	if (!err)
		return 0;
	u->status = err;
	engine_region_remove(e, u->xfer.region, region_gone, u);
	return 0;
}

void cfetch_will_serve(struct ckpt *ckpt, uint64_t ino)
{
	struct cfetch_served *s = &ckpt->served[ino % CFETCH_SERVED];

	s->ino = ino;
	s->at_ns = clock_now_ns();
}

static void note_served(struct ckpt *ckpt, uint64_t ino)
{
	scoped_lock(&ckpt->lock);

	cfetch_will_serve(ckpt, ino);
}

bool cfetch_was_served(struct ckpt *ckpt, uint64_t ino)
{
	const struct cfetch_served *s = &ckpt->served[ino % CFETCH_SERVED];

	return s->ino == ino && !atomic_load(&ckpt->stopping) &&
	       clock_now_ns() - s->at_ns < CFETCH_LINGER_NS;
}

static void serve_part(struct job *job)
{
	struct upload *u = container_of(job, struct upload, job);
	int err = u->ask.length_bytes > CWIRE_PART_MAX ? -EPROTO
		  : fault_hit("ckpt.fetch.serve")      ? -ENOENT
						       : read_part(u);

	if (!err)
		note_served(u->fs->ckpt, u->ask.ino);
	if (!err)
		err = send_part(u);
	if (err)
		answer(u, err, NULL, 0);
}

/* Whoever says so may be wrong, or early: who had it open lets go of the record
 * a moment later. The keeper asks Redis; one that is forgotten here is found by
 * the next scan. */
static void doubt(struct ckpt *ckpt, uint64_t ino)
{
	scoped_lock(&ckpt->lock);

	if (ckpt->n_doubts < CFETCH_DOUBTS)
		ckpt->doubts[ckpt->n_doubts++] = ino;
	pthread_cond_signal(&ckpt->wake);
}

static void serve_gone(struct job *job)
{
	struct upload *u = container_of(job, struct upload, job);
	struct stat st;

	if (!cstore_stat(u->fs->ckpt, u->ask.ino, &st))
		doubt(u->fs->ckpt, u->ask.ino);
	engine_peer_put(u->peer);
	free(u);
}

/* Is it there after all, or nobody knows? Then it need not be asked again. */
static bool is_settled(struct ckpt *ckpt, uint64_t ino)
{
	struct ckpt_gone gone = {.ino = ino, .mode = S_IFREG, .freed = true};
	struct ckpt_attr a;
	int err = ckpt_getattr(ckpt->fs->meta, 0, ino, &a);

	if (err == -ESTALE)
		ckeep_gone(ckpt, &gone, false);
	return err ? err == -ESTALE : a.nlink > 0;
}

void cfetch_check_doubts(struct ckpt *ckpt)
{
	uint64_t inos[CFETCH_DOUBTS];
	unsigned n;

	pthread_mutex_lock(&ckpt->lock);
	n = ckpt->n_doubts;
	memcpy(inos, ckpt->doubts, n * sizeof(*inos));
	ckpt->n_doubts = 0;
	pthread_mutex_unlock(&ckpt->lock);
	for (unsigned i = 0; i < n && !atomic_load(&ckpt->stopping); i++)
		if (!is_settled(ckpt, inos[i]))
			doubt(ckpt, inos[i]);
}

/* On a thread of the engine. */
static void take(struct ckpt *ckpt, struct engine_peer *peer,
		 const struct engine_message *m)
{
	struct cwire_ask ask;
	struct upload *u = NULL;
	int err = ckpt ? cwire_decode(m->payload, m->payload_bytes, &ask)
		       : -EAGAIN;

	if (!err) {
		u = calloc(1, sizeof(*u));
		err = u ? 0 : -ENOMEM;
	}
	if (err) {
		if (m->request_id)
			engine_reply(peer, m->request_id, err, NULL, 0);
		return;
	}
	engine_peer_ref(peer);
	u->fs = ckpt->fs;
	u->peer = peer;
	u->request_id = m->request_id;
	u->ask = ask;
	u->job.run = m->type == REMOTE_SHARD	    ? serve_part
		     : m->type == REMOTE_SHARD_SUM  ? serve_sum
		     : m->type == REMOTE_SHARD_TAKE ? serve_take
						    : serve_gone;
	workers_post(ckpt->uploaders, &u->job);
}

void cfetch_message(struct remote *r, struct engine_peer *peer,
		    const struct engine_message *m)
{
	pthread_rwlock_rdlock(&r->ckpt_lock);
	take(r->ckpt, peer, m);
	pthread_rwlock_unlock(&r->ckpt_lock);
}

/* -- removed files ------------------------------------------------------ */

struct tell {
	struct remote *r;
	uint8_t bytes[CWIRE_BYTES];
};

static bool tell_node(void *arg, const struct meta_node *node)
{
	struct tell *t = arg;
	struct engine_peer *peer;

	if (node->is_self || remote_peer(t->r, node->incarnation, &peer))
		return true;
	/* One that does not hear of it finds out by its next scan. */
	engine_send(peer, REMOTE_SHARD_GONE, t->bytes, sizeof(t->bytes));
	engine_peer_put(peer);
	return true;
}

void cfetch_tell_gone(struct ckpt *ckpt, uint64_t ino)
{
	struct tell t = {.r = ckpt->fs->remote};
	struct cwire_ask ask = {.ino = ino, .length_bytes = 1};

	cwire_encode(&ask, t.bytes);
	meta_nodes(ckpt->fs->meta, tell_node, &t);
}

/* -- what Redis is told ------------------------------------------------- */

static size_t copy_bits(const struct cmap *m, uint8_t *bits)
{
	uint64_t n = cmap_shards(m->size_bytes, m->shard_bytes);
	size_t n_bytes = (size_t)(n + 7) / 8;

	if (n > CKPT_SHARDS_MAX)
		return 0;
	memset(bits, 0, n_bytes);
	for (uint64_t i = 0; i < n; i++)
		if (cmap_has(m, i))
			bits[i / 8] |= (uint8_t)(1u << i % 8);
	return n_bytes;
}

static bool is_written(struct ckpt *ckpt, uint64_t ino)
{
	struct ckpt_inode *inode;
	scoped_lock(&ckpt->lock);

	inode = cinode_find(ckpt, ino);
	return inode && inode->data &&
	       (inode->data->n_writers || inode->data->unpublished);
}

static size_t shards(void *ctx, uint64_t ino, uint64_t *version, uint8_t *bits)
{
	struct fs *fs = ctx;
	struct remote *r = fs->remote;
	struct cmap m;
	size_t n = 0;

	if (!r)
		return 0;
	pthread_rwlock_rdlock(&r->ckpt_lock);
	if (r->ckpt && !is_written(r->ckpt, ino) &&
	    !cfetch_map(r->ckpt, ino, &m)) {
		*version = m.version;
		if (!m.boot || m.boot == cmap_boot())
			n = copy_bits(&m, bits);
		cmap_fini(&m);
	}
	pthread_rwlock_unlock(&r->ckpt_lock);
	return n;
}

struct files {
	uint64_t *inos;
	size_t n, max;
};

static void each_file(void *arg, uint64_t ino, const struct stat *st)
{
	struct files *f = arg;

	(void)st;
	if (f->n == f->max) {
		size_t max = f->max ? f->max * 2 : 1024;
		uint64_t *inos = realloc(f->inos, max * sizeof(*inos));

		if (!inos)
			return; /* told of when it is opened next */
		f->inos = inos;
		f->max = max;
	}
	f->inos[f->n++] = ino;
}

static void shards_each(void *ctx, void (*fn)(void *arg, uint64_t ino),
			void *arg)
{
	struct fs *fs = ctx;
	struct remote *r = fs->remote;
	struct files f = {0};

	if (!r)
		return;
	pthread_rwlock_rdlock(&r->ckpt_lock);
	if (r->ckpt)
		cstore_each(r->ckpt, each_file, &f);
	pthread_rwlock_unlock(&r->ckpt_lock);
	for (size_t i = 0; i < f.n; i++)
		fn(arg, f.inos[i]);
	free(f.inos);
}

const struct meta_ckpt_ops cfetch_meta_ops = {
	.shards = shards,
	.shards_each = shards_each,
};

/* -- up and down -------------------------------------------------------- */

static void set_ckpt(struct remote *r, struct ckpt *ckpt)
{
	pthread_rwlock_wrlock(&r->ckpt_lock);
	r->ckpt = ckpt;
	pthread_rwlock_unlock(&r->ckpt_lock);
}

void cfetch_serve_start(struct ckpt *ckpt)
{
	set_ckpt(ckpt->fs->remote, ckpt);
}

void cfetch_serve_stop(struct ckpt *ckpt)
{
	if (cfetch_on(ckpt))
		set_ckpt(ckpt->fs->remote, NULL);
}
