// SPDX-License-Identifier: MIT
/* Batches on their way in: every range is checked here, once. */
#include "engine/engine_internal.h"

#include <errno.h>

static bool inside(const struct region *r, uint64_t offset, uint64_t bytes)
{
	return offset <= r->mem.length_bytes &&
	       bytes <= r->mem.length_bytes - offset;
}

static void xfer_release(struct engine *e, const struct engine_xfer *x)
{
	region_put(e, region_of(e, x->region));
	if (x->op == ENGINE_COPY)
		region_put(e, region_of(e, x->to_region));
}

/* Counts the uses of its regions, or none. */
static int xfer_take(struct engine *e, struct engine_xfer *x, bool *disk,
		     bool *fresh)
{
	struct region *from, *to = NULL;
	int err = -EINVAL;

	x->result = 0;
	from = region_get(e, x->region);
	if (!from)
		return -EINVAL;
	if (x->op == ENGINE_COPY && !(to = region_get(e, x->to_region)))
		goto put_from;
	err = -ERANGE;
	if (!inside(from, x->offset, x->length_bytes) ||
	    (to && !inside(to, x->to_offset, x->length_bytes)) ||
	    x->to_offset > UINT64_MAX - x->length_bytes)
		goto put_to;
	*disk = from->mem.kind == ENGINE_MEM_DISK ||
		(to && to->mem.kind == ENGINE_MEM_DISK);
	*fresh |= !from->ready || (to && !to->ready);
	return 0;
put_to:
	if (to)
		region_put(e, to);
put_from:
	region_put(e, from);
	return err;
}

static int batch_take(struct engine *e, struct engine_batch *b,
		      enum engine_op op, bool *disk, bool *fresh)
{
	bool this_disk;
	uint32_t i;
	int err = 0;

	for (i = 0; i < b->n_xfers; i++) {
		struct engine_xfer *x = &b->xfers[i];

		if (x->op != op || !x->length_bytes) {
			err = -EINVAL;
			break;
		}
		err = xfer_take(e, x, &this_disk, fresh);
		if (err)
			break;
		if (i == 0)
			*disk = this_disk;
		b->total_bytes += x->length_bytes;
		if (this_disk != *disk || (this_disk && op == ENGINE_WRITE)) {
			xfer_release(e, x);
			err = -EINVAL;
			break;
		}
	}
	if (i == b->n_xfers)
		return 0;
	while (i--)
		xfer_release(e, &b->xfers[i]);
	return err;
}

static int map_regions(struct engine *e, const struct engine_batch *b)
{
	struct region *from, *to;
	int err = 0;

	for (uint32_t i = 0; i < b->n_xfers && !err; i++) {
		pthread_mutex_lock(&e->lock);
		from = region_of(e, b->xfers[i].region);
		to = b->xfers[i].op == ENGINE_COPY
			     ? region_of(e, b->xfers[i].to_region)
			     : NULL;
		pthread_mutex_unlock(&e->lock);
		err = region_map(e, from);
		if (!err && to)
			err = region_map(e, to);
	}
	return err;
}

static void queue(struct engine_peer *p, struct engine_batch *b)
{
	b->peer = p;
	b->until_ns = b->deadline_ns ? b->deadline_ns
				     : clock_now_ns() + DEADLINE_DEFAULT_NS;
	p->queued_bytes += b->total_bytes;
	p->used_ns = clock_now_ns();
	batch_push(p, b);
	time_by(p->engine, b->until_ns);
}

static void reset(struct engine_batch *b)
{
	b->state = BATCH_IDLE;
	b->status = 0;
	b->answered = false;
	b->at_xfer = b->n_in_flight = b->n_retry = 0;
	b->at_bytes = b->total_bytes = 0;
	b->grace_ns = 0;
}

/* Queued with all its regions known, or (fresh) still the caller's alone.
 * *held: its peer, with a reference for the caller: b may be over by now. */
static int submit(struct engine *e, struct engine_peer *p,
		  struct engine_batch *b, struct engine_peer **held,
		  bool *fresh)
{
	enum engine_op op = p ? ENGINE_WRITE : ENGINE_COPY;
	bool disk = false;
	int err;

	scoped_lock(&e->lock);
	err = p ? peer_usable(p) : e->closing ? -ESHUTDOWN : 0;
	if (!err)
		err = batch_take(e, b, op, &disk, fresh);
	if (err)
		return err;
	b->peer = p ? p : e->here[disk];
	peer_hold(b->peer);
	peer_hold(b->peer);
	*held = b->peer;
	if (!*fresh)
		queue(b->peer, b);
	return 0;
}

/* The first use of a region: it is mapped with no lock held. */
static int submit_fresh(struct engine *e, struct engine_batch *b)
{
	int err = map_regions(e, b);

	scoped_lock(&e->lock);
	if (!err)
		err = e->closing ? -ESHUTDOWN : 0;
	if (!err) {
		queue(b->peer, b);
		return 0;
	}
	for (uint32_t i = 0; i < b->n_xfers; i++)
		xfer_release(e, &b->xfers[i]);
	peer_release(b->peer);
	return err;
}

int engine_submit(struct engine *e, struct engine_peer *peer,
		  struct engine_batch *b)
{
	bool fresh = false;
	int err;

	if (!b->n_xfers || b->n_xfers > ENGINE_BATCH_MAX || !b->done ||
	    (unsigned)b->priority >= ENGINE_PRIORITIES ||
	    (b->answers && !peer) || b->answer_bytes > ENGINE_MSG_MAX)
		return -EINVAL;
	reset(b);
	err = submit(e, peer, b, &peer, &fresh);
	if (err)
		return err;
	if (fresh)
		err = submit_fresh(e, b);
	if (!err)
		pump(peer);
	engine_peer_put(peer);
	return err;
}

void engine_cancel(struct engine *e, struct engine_batch *b)
{
	struct engine_peer *p = NULL;

	pthread_mutex_lock(&e->lock);
	if (b->state == BATCH_QUEUED || b->state == BATCH_CUT) {
		p = b->peer;
		peer_hold(p);
		batch_fail(b, -ECANCELED);
		batch_settle(b);
	}
	pthread_mutex_unlock(&e->lock);
	if (!p)
		return;
	pump(p);
	engine_peer_put(p);
}
