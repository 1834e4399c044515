// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gds/internal.h"

/*
 * Memory of a GPU. Where the daemon takes it as a dma-buf it is a buffer like
 * any other, as long as the card lives that copies it. Else blocks go by way of
 * a ring in host memory, two halves of it, so that the GPU copies one while the
 * daemon reads into the other:
 *
 *      daemon ──GET──▶ half 0 ──copy, stream 0──▶ GPU
 *                      half 1 ◀──GET── daemon
 *
 * One ring a handle, made with its first such buffer, gone with its last; files
 * (file.c) go through it, too. A half is used again only after its stream was
 * waited for. A block that has not room in a half is read in pieces, and stored
 * by way of a buffer made for it.
 */

#define HALF GDS_RING_HALF
#define GROUP_MAX 64
#define ALIGN 64u

/* -- the ring: gpu.lock held ---------------------------------------- */

int gds_ring_get(struct kvfs *k)
{
	struct gds_gpu *g = &k->gpu;
	int err;

	if (g->n_staged++)
		return 0;
	err = kvfs_buffer_new(k, 2 * HALF, 0, &g->ring);
	if (err) {
		g->n_staged--;
		return err;
	}
	/* Not pinned it is only slower: CUDA copies once more. */
	g->pinned =
		!gds_cuda_pin(&g->cuda, g->ring->map, g->ring->map_bytes, 0);
	return 0;
}

void gds_ring_put(struct kvfs *k)
{
	struct gds_gpu *g = &k->gpu;

	if (--g->n_staged)
		return;
	if (g->pinned)
		gds_cuda_unpin(&g->cuda, g->ring->map);
	kvfs_unregister(g->ring);
	g->ring = NULL;
}

/* -- registering ---------------------------------------------------- */

/* 0, or why the daemon does not reach it, or only to read it. */
static int go_direct(struct kvfs_buffer *b, uint64_t bytes)
{
	struct kvfs *k = b->k;
	int fd = gds_cuda_export(&k->gpu.cuda, &b->gpu, bytes), err;

	if (fd < 0)
		return fd;
	err = gds_register(b, fd, 0, bytes);
	close(fd);
	if (err || b->writable)
		return err;
	gds_unregister(b);
	return -EROFS;
}

static int open_gpu(struct kvfs_buffer *b, const void *pointer, uint64_t bytes)
{
	struct kvfs *k = b->k;
	int err = gds_cuda_open(&k->gpu.cuda);

	if (!err)
		err = gds_cuda_memory_open(&k->gpu.cuda, pointer, bytes,
					   &b->gpu);
	if (err)
		return err;
	b->is_gpu = true;
	b->bytes = bytes;
	if (!go_direct(b, bytes))
		return 0;
	err = gds_ring_get(k);
	b->staged = !err;
	if (err)
		gds_cuda_memory_close(&k->gpu.cuda, &b->gpu);
	return err;
}

int kvfs_register_gpu(struct kvfs *k, const void *pointer, size_t bytes,
		      struct kvfs_buffer **out)
{
	struct kvfs_buffer *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->k = k;
	pthread_mutex_lock(&k->gpu.lock);
	err = open_gpu(b, pointer, bytes);
	pthread_mutex_unlock(&k->gpu.lock);
	if (err)
		free(b);
	else
		*out = b;
	return err;
}

int kvfs_buffer_is_staged(const struct kvfs_buffer *b)
{
	return b->staged;
}

void gds_gpu_close(struct kvfs_buffer *b)
{
	struct kvfs *k = b->k;

	pthread_mutex_lock(&k->gpu.lock);
	if (b->of_cufile)
		gds_cufile_unpin(&k->gpu.cufile, &k->gpu.cuda, &b->gpu);
	gds_cuda_memory_close(&k->gpu.cuda, &b->gpu);
	if (b->staged)
		gds_ring_put(k);
	pthread_mutex_unlock(&k->gpu.lock);
}

void gds_gpu_init(struct gds_gpu *g)
{
	*g = (struct gds_gpu){.n_staged = 0};
	pthread_mutex_init(&g->lock, NULL);
}

void gds_gpu_fini(struct gds_gpu *g)
{
	gds_cufile_close(&g->cufile);
	gds_cuda_close(&g->cuda);
	pthread_mutex_destroy(&g->lock);
}

/* -- where a card is lost -------------------------------------------- */

/* The daemon knows it as before, for calls of other threads. */
static int go_staged(struct kvfs_buffer *b)
{
	struct kvfs *k = b->k;
	int err = 0;

	pthread_mutex_lock(&k->gpu.lock);
	if (!b->staged) {
		err = gds_ring_get(k);
		b->staged = !err;
	}
	pthread_mutex_unlock(&k->gpu.lock);
	return err;
}

/* Returns: whether it failed as its card is lost, and can be staged. */
static bool stage_if_lost(const struct kvfs_move *m)
{
	return m->error == -ENODEV && m->buffer->is_gpu &&
	       !go_staged(m->buffer);
}

uint32_t gds_stage_lost(struct kvfs *k, struct kvfs_move *moves, uint32_t n,
			uint32_t *first)
{
	uint32_t end;

	while (*first < n && !stage_if_lost(&moves[*first]))
		++*first;
	for (end = *first; end < n && stage_if_lost(&moves[end]);)
		end++;
	gds_moves_begin(k, moves + *first, end - *first);
	return end - *first;
}

/* -- moves of staged buffers, one after the other: gpu.lock held ---- */

/* What a half of the ring holds. */
struct half {
	struct kvfs_move *moves; /* of the caller; NULL: nothing is copied */
	uint32_t n;
};

static bool fits(const struct kvfs_move *m)
{
	return m->at <= m->buffer->bytes &&
	       m->length <= m->buffer->bytes - m->at;
}

static char *ring_at(const struct kvfs *k, uint64_t at)
{
	return (char *)k->gpu.ring->map + at;
}

char *gds_ring_half(const struct kvfs *k, unsigned half)
{
	return ring_at(k, half * HALF);
}

/* The moves from the first on that go through a half together; 0: the first
 * does not fit into one. parts: of the ring. */
static uint32_t group(struct kvfs *k, unsigned half, struct kvfs_move *moves,
		      uint32_t most, struct kvfs_move parts[GROUP_MAX])
{
	uint64_t used = 0;
	uint32_t n = 0;

	for (; n < most && n < GROUP_MAX; n++) {
		struct kvfs_move *m = &moves[n];

		if (m->buffer != moves->buffer || !fits(m) ||
		    m->length > HALF - used)
			break;
		parts[n] = (struct kvfs_move){.buffer = k->gpu.ring,
					      .at = half * HALF + used,
					      .offset = m->offset,
					      .length = m->length};
		used += (m->length + ALIGN - 1) / ALIGN * ALIGN;
		if (used > HALF)
			used = HALF;
	}
	return n;
}

static void fail(struct kvfs_move *moves, uint32_t n, int err)
{
	for (uint32_t i = 0; i < n; i++) {
		if (moves[i].error)
			continue;
		moves[i].error = err;
		moves[i].bytes = moves[i].size = 0;
	}
}

/* The half can be used again. */
static void wait_for(struct kvfs *k, struct half *h, unsigned half)
{
	int err;

	if (!h->moves)
		return;
	err = gds_cuda_wait(&k->gpu.cuda, &h->moves->buffer->gpu, half);
	if (err)
		fail(h->moves, h->n, err);
	h->moves = NULL;
}

/* -- reading
 * -------------------------------------------------------------------- */

struct reading {
	struct kvfs *k;
	const struct kvfs_names *names;
	uint32_t flags, deadline_ms;
	unsigned half; /* the next */
	struct half halves[2];
};

/* What came into the ring goes on; more of what the caller's move has. */
static void go_on(struct reading *r, struct kvfs_move *m,
		  const struct kvfs_move *part)
{
	uint64_t before = m->bytes;

	m->error = part->error;
	m->flags = part->flags | KVFS_STAGED;
	m->size = part->size;
	if (m->error || !part->bytes)
		return;
	m->bytes += part->bytes;
	m->error = gds_cuda_to_device(&r->k->gpu.cuda, &m->buffer->gpu, r->half,
				      m->at + before, ring_at(r->k, part->at),
				      part->bytes);
}

/* Some of these, into the next half. Returns: how many, or -errno. */
static int read_parts(struct reading *r, uint32_t first, uint32_t n,
		      struct kvfs_move *moves, struct kvfs_move *parts)
{
	struct half *h = &r->halves[r->half];
	int done;

	wait_for(r->k, h, r->half);
	done = gds_read_some(r->k, r->names, first, n, r->flags, r->deadline_ms,
			     parts);
	if (done < 0)
		return done;
	for (int i = 0; i < done; i++)
		go_on(r, &moves[i], &parts[i]);
	*h = (struct half){moves, (uint32_t)done};
	r->half ^= 1;
	return done;
}

/* One, piece by piece, up to its end. Returns: 1 or -errno. */
static int read_large(struct reading *r, uint32_t first, struct kvfs_move *m)
{
	uint64_t left = m->length;
	int n = 1;

	m->error = 0;
	while (left && n > 0 && !m->error) {
		struct kvfs_move part = {.buffer = r->k->gpu.ring,
					 .at = r->half * HALF,
					 .offset = m->offset + m->bytes,
					 .length = left < HALF ? left : HALF};

		wait_for(r->k, &r->halves[r->half], r->half);
		if (m->error)
			break; /* an earlier piece did not arrive */
		n = read_parts(r, first, 1, m, &part);
		left = part.bytes < part.length ? 0 : left - part.bytes;
	}
	if (m->error)
		m->bytes = m->size = 0;
	return n;
}

static int read_next(struct reading *r, uint32_t first, uint32_t most,
		     struct kvfs_move *moves)
{
	struct kvfs_move parts[GROUP_MAX];
	uint32_t n = group(r->k, r->half, moves, most, parts);

	if (n)
		return read_parts(r, first, n, moves, parts);
	if (fits(moves))
		return read_large(r, first, moves);
	moves->error = -EINVAL;
	return 1;
}

int gds_stage_read(struct kvfs *k, const struct kvfs_names *names,
		   uint32_t first, uint32_t n, uint32_t flags,
		   uint32_t deadline_ms, struct kvfs_move *moves)
{
	struct reading r = {k, names, flags, deadline_ms, 0, {{NULL, 0}}};
	int done = 0;

	pthread_mutex_lock(&k->gpu.lock);
	for (uint32_t i = 0; i < n && done >= 0; i += (uint32_t)done)
		done = read_next(&r, first + i, n - i, moves + i);
	wait_for(k, &r.halves[0], 0);
	wait_for(k, &r.halves[1], 1);
	pthread_mutex_unlock(&k->gpu.lock);
	return done < 0 ? done : (int)n;
}

/* -- storing
 * -------------------------------------------------------------------- */

struct storing {
	struct kvfs *k;
	const struct kvfs_names *names;
	uint32_t flags, mode;
};

/* Those that begin to come into this half. */
static struct half fetch(struct storing *s, unsigned half,
			 struct kvfs_move *moves, uint32_t most,
			 struct kvfs_move parts[GROUP_MAX])
{
	struct half h = {moves, group(s->k, half, moves, most, parts)};

	for (uint32_t i = 0; i < h.n; i++) {
		moves[i].error = gds_cuda_to_host(
			&s->k->gpu.cuda, &moves[i].buffer->gpu, half,
			moves[i].at, ring_at(s->k, parts[i].at),
			parts[i].length);
		/* Those before it are on their way all the same. */
		if (moves[i].error)
			break;
	}
	return h;
}

/* Where one could not be copied, none of them is stored. */
static int came(struct storing *s, struct half *h, unsigned half)
{
	int err = h->n ? gds_cuda_wait(&s->k->gpu.cuda, &h->moves->buffer->gpu,
				       half)
		       : 0;

	for (uint32_t i = 0; i < h->n && !err; i++)
		err = h->moves[i].error;
	for (uint32_t i = 0; i < h->n; i++)
		h->moves[i].error = err;
	return err;
}

static int store_parts(struct storing *s, uint32_t first, struct half *h,
		       struct kvfs_move *parts)
{
	int n;

	for (uint32_t i = 0; i < h->n; i += (uint32_t)n) {
		n = gds_store_some(s->k, s->names, first + i, h->n - i,
				   s->flags, s->mode, parts + i);
		if (n < 0)
			return n;
	}
	for (uint32_t i = 0; i < h->n; i++) {
		h->moves[i].error = parts[i].error;
		h->moves[i].flags = parts[i].flags | KVFS_STAGED;
		h->moves[i].bytes = parts[i].bytes;
		h->moves[i].size = parts[i].size;
	}
	return 0;
}

/* By way of a buffer of its own. Returns: 0 or -errno of the call. */
static int store_large(struct storing *s, uint32_t first, struct kvfs_move *m)
{
	struct half h = {m, 1};
	struct kvfs_buffer *b;
	struct kvfs_move part;
	int err = fits(m) ? kvfs_buffer_new(s->k, m->length, 0, &b) : -EINVAL;

	m->error = err;
	if (err)
		return 0;
	part = (struct kvfs_move){.buffer = b, .length = m->length};
	m->error = gds_cuda_to_host(&s->k->gpu.cuda, &m->buffer->gpu, 0, m->at,
				    b->map, m->length);
	err = came(s, &h, 0) ? 0 : store_parts(s, first, &h, &part);
	kvfs_unregister(b);
	return err;
}

/* While one half is stored, the other is filled. */
static int store_all(struct storing *s, uint32_t first, uint32_t n,
		     struct kvfs_move *moves)
{
	struct kvfs_move parts[2][GROUP_MAX];
	struct half h[2] = {fetch(s, 0, moves, n, parts[0])};
	unsigned at = 0;
	int err = 0;

	for (uint32_t i = 0; i < n && !err; at ^= 1) {
		uint32_t step = h[at].n ? h[at].n : 1, next = i + step;
		int failed = came(s, &h[at], at);

		h[at ^ 1] =
			fetch(s, at ^ 1, moves + next, n - next, parts[at ^ 1]);
		if (h[at].n && !failed)
			err = store_parts(s, first + i, &h[at], parts[at]);
		else if (!h[at].n)
			err = store_large(s, first + i, &moves[i]);
		i = next;
	}
	if (!came(s, &h[at], at)) /* nothing may be on its way */
		fail(h[at].moves, h[at].n, -ECANCELED);
	return err;
}

int gds_stage_store(struct kvfs *k, const struct kvfs_names *names,
		    uint32_t first, uint32_t n, uint32_t flags, uint32_t mode,
		    struct kvfs_move *moves)
{
	struct storing s = {k, names, flags, mode};
	int err;

	pthread_mutex_lock(&k->gpu.lock);
	err = store_all(&s, first, n, moves);
	pthread_mutex_unlock(&k->gpu.lock);
	return err ? err : (int)n;
}
