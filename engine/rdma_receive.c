// SPDX-License-Identifier: MIT
/*
 * In. A landing is open to its writer alone, and ends once its key is void:
 * then, and not before, may its memory be used for anything else.
 *
 * A divert does not void the key at once: a WRITE that is on its way would end
 * the writer's queue pair, and with it all that is under way there. The writer
 * was told to go ahead and does so at once, so what is on its way is soon
 * there; one that does not come is what the key is withdrawn for.
 */
#include "engine/rdma.h"

#include "base/move.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- keys -------------------------------------------------------------- */

static void owe(struct rdma_link *l, struct rdma_in *in, uint8_t answer,
		int status)
{
	in->answer = answer;
	in->status = status;
	list_remove(&in->owed);
	list_push_back(&l->answers, &in->owed);
	rdma_link_pump(l);
}

static void segment_set(struct rdma_link *l, struct rdma_in *in,
			struct engine_segment s)
{
	scoped_lock(&l->t->mailbox.lock);

	in->segment = s;
	in->diverted = false;
}

static void no_divert(struct rdma_link *l, struct rdma_in *in)
{
	if (in->divert_ns)
		l->n_diverted--;
	in->divert_ns = 0;
	rdma_link_time(l);
}

static void over(struct rdma_link *l, struct rdma_in *in)
{
	in->state = RDMA_IN_OVER;
	in->withdrawn = !in->written;
	segment_set(l, in, (struct engine_segment){});
	no_divert(l, in);
	engine_landing_end(&in->landing, in->written ? 0 : -ECANCELED);
	owe(l, in, RDMA_DONE, in->written ? 0 : -ESTALE);
}

static void key_withdraw(struct rdma_link *l, struct rdma_in *in)
{
	in->state = RDMA_IN_CLOSING;
	list_remove(&in->owed); /* of a READY that was not yet sent */
	if (!in->mr) {
		rdma_post_invalidate(l, (uint32_t)(in - l->ins));
		return;
	}
	ibv_dereg_mr(in->mr);
	in->mr = NULL;
	over(l, in);
}

void rdma_receive_invalidated(struct rdma_link *l, uint32_t slot)
{
	over(l, &l->ins[slot]);
}

static int window_bind(struct rdma_link *l, struct rdma_in *in)
{
	struct ibv_mr *mr;
	int rc = rdma_region_find(l->device, &in->landing.place, true, &mr);

	if (rc)
		return rc;
	if (!in->window)
		in->window = verbs_alloc_mw(l->device->pd);
	if (!in->window)
		return -errno;
	rdma_post_bind(l, (uint32_t)(in - l->ins), mr);
	return 0;
}

static int mr_make(struct rdma_link *l, struct rdma_in *in)
{
	in->mr =
		rdma_register(l->device, in->landing.place.addr,
			      in->landing.place.length_bytes,
			      IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	if (!in->mr)
		return -errno;
	in->key = in->mr->rkey;
	return 0;
}

void rdma_receive_keys_free(struct rdma_link *l)
{
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES; i++) {
		struct rdma_in *in = &l->ins[i];

		if (in->window)
			ibv_dealloc_mw(in->window);
		if (in->mr)
			ibv_dereg_mr(in->mr);
		in->window = NULL;
		in->mr = NULL;
	}
}

/* --- slices ------------------------------------------------------------ */

static int landing_open(struct rdma_link *l, struct rdma_in *in)
{
	int rc = l->device->windows ? window_bind(l, in) : mr_make(l, in);

	if (!rc) {
		in->state = RDMA_IN_OPEN;
		owe(l, in, RDMA_READY, 0);
		return 0;
	}
	segment_set(l, in, (struct engine_segment){});
	/* Ours alone: nobody has its key. */
	engine_landing_end(&in->landing, rc);
	if (rc != -EFAULT) {
		rdma_link_fail(l, rc, "memory cannot be registered");
		return 0;
	}
	in->state = RDMA_IN_OVER;
	owe(l, in, RDMA_REFUSED, rc);
	return 0;
}

static int on_offer(struct rdma_link *l, const struct rdma_record *r)
{
	const struct engine_segment segment = {r->a, r->b};
	struct rdma_in *in = &l->ins[r->slot];
	int rc;

	if (in->state != RDMA_IN_FREE || r->bytes > RDMA_SLICE_BYTES)
		return -EPROTO;
	l->used = true;
	in->written = in->withdrawn = false;
	segment_set(l, in, segment);
	rc = engine_landing_begin(&l->post.base, segment, r->c, r->bytes,
				  &in->landing);
	if (!rc)
		return landing_open(l, in);
	segment_set(l, in, (struct engine_segment){});
	in->state = RDMA_IN_OVER;
	owe(l, in, RDMA_REFUSED, rc);
	return 0;
}

/* A slice that came whole. Nobody but us writes to its landing. */
static int on_data(struct rdma_link *l, const struct rdma_record *r,
		   const uint8_t *payload)
{
	const struct engine_segment segment = {r->a, r->b};
	struct rdma_in *in = &l->ins[r->slot];
	int rc;

	if (in->state != RDMA_IN_FREE)
		return -EPROTO;
	l->used = true;
	in->withdrawn = false;
	engine_data_came(&l->post.base, r->length);
	rc = engine_landing_begin(&l->post.base, segment, r->c, r->length,
				  &in->landing);
	if (!rc) {
		rc = move_bytes(in->landing.place.addr, payload, r->length);
		engine_landing_end(&in->landing, rc);
	}
	in->state = RDMA_IN_OVER;
	owe(l, in, RDMA_DONE, rc);
	return 0;
}

int rdma_receive_written(struct rdma_link *l, uint32_t slot, uint32_t n)
{
	struct rdma_in *in = &l->ins[slot % RDMA_WINDOW_SLICES];

	if (in->state == RDMA_IN_OPEN && fault_hit("rdma.hasty"))
		key_withdraw(l, in);
	/* It was there before its key went, and is looked at only now. */
	if (slot < RDMA_WINDOW_SLICES && in->withdrawn) {
		in->withdrawn = false;
		return 0;
	}
	if (slot >= RDMA_WINDOW_SLICES || in->written ||
	    (in->state != RDMA_IN_OPEN && in->state != RDMA_IN_CLOSING) ||
	    n != in->landing.place.length_bytes)
		return -EPROTO;
	in->written = true;
	l->landed_ns = clock_now_ns();
	engine_data_came(&l->post.base, n);
	if (in->state == RDMA_IN_OPEN)
		key_withdraw(l, in);
	return 0;
}

/* Where it is over already, our word of it crossed theirs. */
static void on_abandon(struct rdma_link *l, const struct rdma_record *r)
{
	struct rdma_in *in = &l->ins[r->slot];

	if (in->state == RDMA_IN_OPEN)
		key_withdraw(l, in);
}

/* --- diverted ---------------------------------------------------------- */

static bool is_diverted(struct rdma_link *l, const struct rdma_in *in)
{
	scoped_lock(&l->t->mailbox.lock);

	return in->diverted;
}

void rdma_receive_divert(struct rdma_link *l)
{
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES; i++) {
		struct rdma_in *in = &l->ins[i];

		if (in->state != RDMA_IN_OPEN || in->divert_ns ||
		    !is_diverted(l, in))
			continue;
		in->divert_ns = clock_now_ns();
		l->n_diverted++;
	}
	rdma_link_time(l);
}

static bool too_late(const struct rdma_link *l, const struct rdma_in *in,
		     int64_t now_ns)
{
	int64_t since =
		l->landed_ns > in->divert_ns ? l->landed_ns : in->divert_ns;

	return now_ns - since > RDMA_DIVERT_QUIET_NS ||
	       now_ns - in->divert_ns > RDMA_DIVERT_NS;
}

void rdma_receive_tick(struct rdma_link *l, int64_t now_ns)
{
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES; i++) {
		struct rdma_in *in = &l->ins[i];

		if (in->divert_ns && in->state == RDMA_IN_OPEN &&
		    l->state == RDMA_UP && too_late(l, in, now_ns))
			key_withdraw(l, in);
	}
}

void rdma_receive_give_up(struct rdma_link *l, int why)
{
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES; i++) {
		struct rdma_in *in = &l->ins[i];

		if (in->state == RDMA_IN_OPEN || in->state == RDMA_IN_CLOSING) {
			in->state = RDMA_IN_OVER;
			engine_landing_end(&in->landing, in->written ? 0 : why);
		}
		no_divert(l, in);
	}
}

/* --- messages ---------------------------------------------------------- */

static int message_arrived(struct rdma_link *l, const void *payload)
{
	l->part.payload = payload;
	l->part_open = false;
	l->messages_in++;
	rdma_link_pump(l);
	return engine_msg_arrived(&l->post.base, &l->part);
}

static int part_add(struct rdma_link *l, const struct rdma_record *r,
		    const uint8_t *payload)
{
	int rc;

	if (r->length > l->part.payload_bytes - l->part_have)
		return -EPROTO;
	if (!l->part_bytes)
		l->part_bytes = malloc(ENGINE_MSG_MAX);
	if (!l->part_bytes)
		return -ENOMEM;
	memcpy(l->part_bytes + l->part_have, payload, r->length);
	l->part_have += r->length;
	if (l->part_have < l->part.payload_bytes)
		return 0;
	rc = message_arrived(l, l->part_bytes);
	free(l->part_bytes);
	l->part_bytes = NULL;
	return rc;
}

static int on_message(struct rdma_link *l, const struct rdma_record *r,
		      const uint8_t *payload)
{
	if (l->part_open)
		return -EPROTO;
	l->part = (struct engine_msg_in){
		.seq = r->b,
		.request_id = r->a,
		.type = r->kind,
		.flags = r->flags,
		.status = -(int)r->status,
		.payload_bytes = r->bytes,
	};
	if (r->length == r->bytes)
		return message_arrived(l, payload);
	l->part_open = true;
	l->part_have = 0;
	return part_add(l, r, payload);
}

static int on_more(struct rdma_link *l, const struct rdma_record *r,
		   const uint8_t *payload)
{
	return l->part_open ? part_add(l, r, payload) : -EPROTO;
}

/* --- packets ----------------------------------------------------------- */

static int on_record(struct rdma_link *l, const struct rdma_record *r,
		     const uint8_t *payload)
{
	switch ((enum rdma_record_type)r->type) {
	case RDMA_OFFER:
		return on_offer(l, r);
	case RDMA_READY:
		return rdma_send_ready(l, r);
	case RDMA_REFUSED:
		return rdma_send_refused(l, r);
	case RDMA_ABANDON:
		on_abandon(l, r);
		return 0;
	case RDMA_DONE:
		return rdma_send_done(l, r);
	case RDMA_MESSAGE:
		return on_message(l, r, payload);
	case RDMA_MORE:
		return on_more(l, r, payload);
	case RDMA_DATA:
		return on_data(l, r, payload);
	case RDMA_RECORD_END:
		break;
	}
	return -EPROTO;
}

int rdma_receive_packet(struct rdma_link *l, const uint8_t *bytes, size_t n)
{
	struct rdma_record r;
	struct rdma_head h;
	int taken, rc;

	if (n < RDMA_HEAD_BYTES)
		return -EPROTO;
	rdma_head_get(bytes, &h);
	rc = rdma_send_acked(l, &h);
	for (size_t at = RDMA_HEAD_BYTES; !rc && l->state == RDMA_UP;
	     at += (size_t)taken) {
		taken = rdma_record_get(bytes + at, n - at, &r);
		if (taken <= 0)
			return taken;
		rc = on_record(l, &r, bytes + at + RDMA_RECORD_BYTES);
	}
	return rc;
}
