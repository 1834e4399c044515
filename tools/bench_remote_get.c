// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "gds/kvfs.h"
#include "tools/bench_remote.h"

/*
 * Blocks of A into a registered buffer through B: k->n calls of a ring under
 * way at a time, each with a block and a part of the buffer of its own. They
 * come straight into it and are not kept on B.
 */
#define ENTRY_BYTES 512 /* a name and a move */

struct slot {
	int64_t start_ns;
	unsigned i; /* the block's */
	char name[REMOTE_NAME_BYTES];
	struct kvfs_move move;
};

struct getter {
	struct kvfs *k;
	struct kvfs_buffer *buffer;
	struct kvfs_ring *ring;
	struct remote_case *c;
	unsigned serial, n_blocks, next, n_done;
	struct slot slots[REMOTE_IN_FLIGHT_MAX];
};

static void getter_close(struct getter *g)
{
	kvfs_ring_close(g->ring);
	kvfs_unregister(g->buffer);
	kvfs_close(g->k);
}

static int getter_open(struct getter *g, const struct remote_ends *e)
{
	uint32_t entries = 1;
	int err = kvfs_open(e->b.path, &g->k);

	while (entries < g->c->n)
		entries *= 2;
	if (!err)
		err = kvfs_buffer_new(g->k, g->c->n * g->c->bytes, 0,
				      &g->buffer);
	if (!err)
		err = kvfs_ring_open(g->k, entries, ENTRY_BYTES, &g->ring);
	return err;
}

/* The next block into this slot's part of the buffer. */
static int get_next(struct getter *g, unsigned slot)
{
	struct slot *s = &g->slots[slot];
	const char *name = s->name;
	struct kvfs_names names = {.n = 1, .paths = &name};

	s->i = g->next++;
	remote_block_name(g->serial, s->i, s->name);
	s->move = (struct kvfs_move){
		.buffer = g->buffer,
		.at = slot * g->c->bytes,
		.length = g->c->bytes,
	};
	s->start_ns = clock_now_ns();
	return kvfs_ring_read_into(g->ring, &names, KVFS_FETCH, 0, &s->move,
				   slot);
}

static int got(struct getter *g, struct slot *s, struct remote_slice *slice,
	       unsigned *missed)
{
	uint64_t mark = remote_block_mark(g->serial, s->i);
	const char *data = kvfs_buffer_data(g->buffer);

	if (s->move.error == -ENOENT) { /* Redis was late */
		++*missed;
		return 0;
	}
	if (s->move.error)
		return s->move.error;
	samples_add(&g->c->samples, clock_now_ns() - s->start_ns);
	slice->bytes += s->move.bytes;
	return memcmp(data + s->move.at, &mark, sizeof(mark)) ? -EBADMSG : 0;
}

static int take_one(struct getter *g, struct remote_slice *s, unsigned *missed)
{
	struct kvfs_done done;
	struct slot *slot;
	int rc = kvfs_ring_wait(g->ring, -1, &done);

	if (rc < 0)
		return rc;
	slot = &g->slots[done.user_data];
	rc = kvfs_done_moves(g->ring, &done, &slot->move);
	kvfs_ring_seen(g->ring, &done);
	g->n_done++;
	if (rc >= 0)
		rc = got(g, slot, s, missed);
	if (!rc && g->next < g->n_blocks)
		rc = get_next(g, (unsigned)done.user_data);
	return rc;
}

static int get_all(struct getter *g, struct remote_slice *s, unsigned *missed)
{
	int err = 0;

	for (unsigned i = 0; i < g->c->n && i < g->n_blocks && !err; i++)
		err = get_next(g, i);
	while (!err && g->n_done < g->n_blocks) {
		kvfs_ring_submit(g->ring);
		err = take_one(g, s, missed);
	}
	return err;
}

int remote_get_all(const struct remote_ends *e, struct remote_case *c,
		   unsigned serial, unsigned n_blocks, struct remote_slice *s,
		   unsigned *missed)
{
	struct getter *g = calloc(1, sizeof(*g));
	uint64_t cpu;
	int err = -ENOMEM;

	if (g) {
		g->c = c;
		g->serial = serial;
		g->n_blocks = n_blocks;
		err = getter_open(g, e);
	}
	if (!err) {
		cpu = remote_cpu_of(e);
		s->ns = clock_now_ns();
		err = get_all(g, s, missed);
		s->ns = clock_now_ns() - s->ns;
		s->cpu_s = (double)(remote_cpu_of(e) - cpu) / 1e9;
	}
	if (g)
		getter_close(g);
	free(g);
	return err;
}
