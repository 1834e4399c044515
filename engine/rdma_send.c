// SPDX-License-Identifier: MIT
/*
 * Out. A packet takes along as much as fits of what waits: what is owed to
 * them first, then messages, then offers of slices. Slices that are offered
 * hold a slot until the other side is done with them, also where the core has
 * its slice back by then.
 */
#include "engine/rdma.h"

#include "base/move.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

struct packet {
	uint8_t *bytes;
	uint32_t n, most;
	bool offers_short;
};

static uint32_t room(const struct packet *p)
{
	return p->most - p->n;
}

static void add(struct packet *p, const struct rdma_record *r)
{
	rdma_record_put(p->bytes + p->n, r);
	p->n += RDMA_RECORD_BYTES;
}

/* --- slots ------------------------------------------------------------- */

static struct engine_slice *slice_take(struct rdma_link *l, struct rdma_out *o)
{
	scoped_lock(&l->t->mailbox.lock);
	struct engine_slice *s = o->slice;

	o->slice = NULL;
	return s;
}

static void give_back(struct rdma_link *l, struct rdma_out *o, int status,
		      bool refused)
{
	struct engine_slice *s = slice_take(l, o);

	if (s)
		engine_slice_done(l->t->engine, &l->post.base, s, status,
				  refused);
}

/* Slices wait while there are too many copies: those that need none as well, as
 * that shows only once they begin. */
static bool copies_room(const struct transport *t)
{
	return t->copies_bytes < t->copies_max;
}

static void copies_add(struct transport *t, int64_t bytes)
{
	bool before = copies_room(t);

	t->copies_bytes += (uint64_t)bytes;
	if (before || !copies_room(t))
		return;
	list_for_each (n, &t->links)
		rdma_link_pump(container_of(n, struct rdma_link, of_transport));
}

static void copy_free(struct rdma_link *l, struct rdma_out *o)
{
	if (o->copy)
		copies_add(l->t, -(int64_t)o->copy_bytes);
	if (o->copy_mr)
		ibv_dereg_mr(o->copy_mr);
	free(o->copy);
	o->copy_mr = NULL;
	o->copy = NULL;
}

static void slot_free(struct rdma_link *l, struct rdma_out *o)
{
	copy_free(l, o);
	o->state = RDMA_OUT_FREE;
	l->n_outs--;
	list_remove(&o->answer);
	rdma_link_pump(l);
}

static bool is_cancelled(struct rdma_link *l, const struct rdma_out *o)
{
	scoped_lock(&l->t->mailbox.lock);

	return o->slice && o->cancelled;
}

/* The source is free once the card has written it: not when DONE comes, as a
 * lost ack would have the card read it once more. */
static void settle(struct rdma_link *l, struct rdma_out *o)
{
	if (o->state != RDMA_OUT_WRITING || !o->written)
		return;
	if (o->done) {
		give_back(l, o, o->status, o->status);
		slot_free(l, o);
	} else if (is_cancelled(l, o)) {
		give_back(l, o, -ECANCELED, false);
	}
}

void rdma_send_written(struct rdma_link *l, uint32_t slot)
{
	l->outs[slot].written = true;
	settle(l, &l->outs[slot]);
}

int rdma_send_ready(struct rdma_link *l, const struct rdma_record *r)
{
	struct rdma_out *o = &l->outs[r->slot];

	if (o->state != RDMA_OUT_OFFERED)
		return -EPROTO;
	o->state = RDMA_OUT_WRITING;
	o->to = r->a;
	o->to_key = (uint32_t)r->b;
	o->late = o->slice && fault_hit("rdma.late");
	if (o->slice && !o->late) {
		rdma_post_write(l, r->slot);
	} else if (!o->slice) {
		o->written = true;
		list_push_back(&l->abandons, &o->answer);
	}
	return 0;
}

int rdma_send_refused(struct rdma_link *l, const struct rdma_record *r)
{
	struct rdma_out *o = &l->outs[r->slot];

	if (o->state != RDMA_OUT_OFFERED)
		return -EPROTO;
	give_back(l, o, -(int)r->status, true);
	slot_free(l, o);
	return 0;
}

int rdma_send_done(struct rdma_link *l, const struct rdma_record *r)
{
	struct rdma_out *o = &l->outs[r->slot];

	/* Offered, ready, closed: all that was said is that it is over. */
	if (o->state == RDMA_OUT_OFFERED && r->status)
		return rdma_send_refused(l, r);
	if (o->state != RDMA_OUT_WRITING || o->done)
		return -EPROTO;
	o->done = true;
	o->status = -(int)r->status;
	if (o->late)
		rdma_post_write(l, r->slot);
	else
		settle(l, o);
	return 0;
}

static void give_back_queued(struct rdma_link *l)
{
	for (;;) {
		struct list *n;

		pthread_mutex_lock(&l->t->mailbox.lock);
		n = list_pop_front(&l->post.back);
		pthread_mutex_unlock(&l->t->mailbox.lock);
		if (!n)
			return;
		engine_slice_done(l->t->engine, &l->post.base,
				  container_of(n, struct engine_slice, link),
				  -ECANCELED, false);
	}
}

void rdma_send_cancel(struct rdma_link *l)
{
	give_back_queued(l);
	for (uint32_t i = 0; i < RDMA_WINDOW_SLICES; i++) {
		struct rdma_out *o = &l->outs[i];

		if (o->state == RDMA_OUT_OFFERED && is_cancelled(l, o))
			give_back(l, o, -ECANCELED, false);
		settle(l, o);
	}
}

/* --- what they have ---------------------------------------------------- */

int rdma_send_acked(struct rdma_link *l, const struct rdma_head *h)
{
	if (h->packets - l->packets_taken > l->packets_out - l->packets_taken)
		return -EPROTO;
	l->packets_taken = h->packets;
	while (l->messages_acked != h->messages) {
		struct list *n = list_pop_front(&l->flight);

		if (!n)
			return -EPROTO;
		l->messages_acked++;
		engine_msg_done(&l->post.base,
				container_of(n, struct engine_msg, link), 0);
	}
	return 0;
}

/* --- filling a packet -------------------------------------------------- */

static void add_answers(struct rdma_link *l, struct packet *p)
{
	struct list *n;

	while (room(p) >= RDMA_RECORD_BYTES &&
	       (n = list_pop_front(&l->answers))) {
		struct rdma_in *in = container_of(n, struct rdma_in, owed);
		struct rdma_record r = {
			.type = in->answer,
			.slot = (uint32_t)(in - l->ins),
			.status = (uint32_t)-in->status,
		};

		if (in->answer == RDMA_READY) {
			r.a = (uintptr_t)in->landing.place.addr;
			r.b = in->key;
		} else {
			in->state = RDMA_IN_FREE;
		}
		add(p, &r);
	}
}

static void add_abandons(struct rdma_link *l, struct packet *p)
{
	struct list *n;

	while (room(p) >= RDMA_RECORD_BYTES &&
	       (n = list_pop_front(&l->abandons))) {
		struct rdma_out *o = container_of(n, struct rdma_out, answer);

		add(p, &(struct rdma_record){.type = RDMA_ABANDON,
					     .slot = (uint32_t)(o - l->outs)});
	}
}

static struct list *pop(struct rdma_link *l, struct list *from)
{
	scoped_lock(&l->t->mailbox.lock);

	return list_pop_front(from);
}

static bool message_next(struct rdma_link *l)
{
	struct list *n = l->msg ? NULL : pop(l, &l->post.msgs);

	if (n) {
		l->msg = container_of(n, struct engine_msg, link);
		l->msg_at = 0;
	}
	return l->msg;
}

static void add_message(struct rdma_link *l, struct packet *p, bool begins)
{
	struct engine_msg *m = l->msg;
	uint32_t left = m->payload_bytes - l->msg_at;
	uint32_t most = room(p) - RDMA_RECORD_BYTES;
	struct rdma_record r = {
		.type = begins ? RDMA_MESSAGE : RDMA_MORE,
		.length = (uint16_t)(left < most ? left : most),
	};

	if (begins) {
		r.status = (uint32_t)-m->status;
		r.bytes = m->payload_bytes;
		r.kind = m->type;
		r.flags = m->flags;
		r.a = m->request_id;
		r.b = m->seq;
	}
	add(p, &r);
	if (r.length)
		memcpy(p->bytes + p->n, (const uint8_t *)m->payload + l->msg_at,
		       r.length);
	p->n += r.length;
	l->msg_at += r.length;
	if (l->msg_at < m->payload_bytes)
		return;
	list_push_back(&l->flight, &m->link);
	l->msg = NULL;
}

static void add_messages(struct rdma_link *l, struct packet *p)
{
	while (room(p) > RDMA_RECORD_BYTES) {
		bool begins = !l->msg;

		if (!message_next(l))
			return;
		add_message(l, p, begins);
	}
}

static uint32_t slot_find(const struct rdma_link *l)
{
	uint32_t i = 0;

	while (l->outs[i].state != RDMA_OUT_FREE)
		i++;
	return i;
}

/* Kernels before 6.2 pin as if to write, also what will only be read: of a
 * mapping that is read-only and shared, as of a frame, that is a fault. Whether
 * the memory is there at all shows now. */
static int copy_make(struct rdma_link *l, struct rdma_out *o,
		     const struct engine_slice *s)
{
	struct iovec from = {s->from.addr, s->length_bytes}, to = from;
	int rc;

	o->copy = to.iov_base = malloc(s->length_bytes);
	if (!o->copy)
		return -ENOMEM;
	o->copy_bytes = s->length_bytes;
	copies_add(l->t, s->length_bytes);
	if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) !=
	    (ssize_t)s->length_bytes) {
		copy_free(l, o);
		return -EFAULT;
	}
	o->copy_mr = rdma_register(l->device, o->copy, s->length_bytes, 0);
	if (o->copy_mr)
		return 0;
	rc = -errno;
	copy_free(l, o);
	return rc;
}

static int source_find(struct rdma_link *l, struct rdma_out *o,
		       const struct engine_slice *s)
{
	struct ibv_mr *mr;
	int rc = rdma_region_find(l->device, &s->from, false, &mr);

	o->source = s->from.addr;
	if (rc == -EFAULT) {
		rc = copy_make(l, o, s);
		mr = o->copy_mr;
		o->source = o->copy;
	}
	if (!rc)
		o->key = mr->lkey;
	return rc;
}

static int offer(struct rdma_link *l, struct packet *p, struct engine_slice *s,
		 uint32_t slot)
{
	struct rdma_out *o = &l->outs[slot];
	int rc = source_find(l, o, s);

	if (rc)
		return rc;
	o->state = RDMA_OUT_OFFERED;
	o->written = false;
	add(p, &(struct rdma_record){.type = RDMA_OFFER,
				     .slot = slot,
				     .bytes = s->length_bytes,
				     .a = s->segment.id,
				     .b = s->segment.generation,
				     .c = s->to_offset});
	return 0;
}

/* Nothing reads the source from now on. */
static int carry(struct rdma_link *l, struct packet *p, struct engine_slice *s,
		 uint32_t slot)
{
	struct rdma_out *o = &l->outs[slot];
	int rc = move_bytes(p->bytes + p->n + RDMA_RECORD_BYTES, s->from.addr,
			    s->length_bytes);

	if (rc)
		return rc;
	o->state = RDMA_OUT_WRITING;
	o->written = true;
	add(p, &(struct rdma_record){.type = RDMA_DATA,
				     .length = (uint16_t)s->length_bytes,
				     .slot = slot,
				     .a = s->segment.id,
				     .b = s->segment.generation,
				     .c = s->to_offset});
	p->n += s->length_bytes;
	return 0;
}

static bool is_short(const struct engine_slice *s)
{
	return s->length_bytes <= RDMA_DATA_BYTES;
}

static bool is_long(const struct packet *p)
{
	return p->most > RDMA_PACKET_BYTES;
}

static bool has_room(const struct packet *p, const struct engine_slice *s)
{
	if (!is_short(s) || p->offers_short)
		return room(p) >= RDMA_RECORD_BYTES;
	return is_long(p) && room(p) >= RDMA_RECORD_BYTES + s->length_bytes;
}

static struct engine_slice *slice_next(struct rdma_link *l,
				       const struct packet *p)
{
	scoped_lock(&l->t->mailbox.lock);
	struct list *n = l->post.slices.next;
	struct engine_slice *s = container_of(n, struct engine_slice, link);

	if (n == &l->post.slices || !has_room(p, s))
		return NULL;
	list_remove(n);
	return s;
}

static int begin(struct rdma_link *l, struct packet *p, struct engine_slice *s)
{
	uint32_t slot = slot_find(l);
	struct rdma_out *o = &l->outs[slot];
	int rc = is_short(s) && !p->offers_short ? carry(l, p, s, slot)
						 : offer(l, p, s, slot);

	if (rc)
		return rc;
	pthread_mutex_lock(&l->t->mailbox.lock);
	o->slice = s;
	o->cancelled = false;
	pthread_mutex_unlock(&l->t->mailbox.lock);
	o->late = o->done = false;
	l->used = true;
	l->n_outs++;
	return 0;
}

static void add_slices(struct rdma_link *l, struct packet *p)
{
	struct engine_slice *s;

	while (l->n_outs < RDMA_WINDOW_SLICES && copies_room(l->t) &&
	       (s = slice_next(l, p))) {
		int rc = begin(l, p, s);

		if (!rc)
			continue;
		engine_slice_done(l->t->engine, &l->post.base, s, rc,
				  rc == -EFAULT);
		if (rc != -EFAULT) {
			rdma_link_fail(l, rc, "memory cannot be registered");
			return;
		}
	}
}

/* *most: of a packet that is good for it. */
static bool has_queued(struct rdma_link *l, uint32_t *most)
{
	scoped_lock(&l->t->mailbox.lock);
	struct list *n = l->post.slices.next;
	bool slices = n != &l->post.slices && copies_room(l->t) &&
		      l->n_outs < RDMA_WINDOW_SLICES;

	if (slices && is_short(container_of(n, struct engine_slice, link)))
		*most = RDMA_LONG_BYTES;
	return slices || !list_empty(&l->post.msgs);
}

static void send_counts(struct rdma_link *l, struct packet *p)
{
	const struct rdma_head h = {l->packets_in, l->messages_in};

	rdma_head_put(p->bytes, &h);
	l->packets_told = h.packets;
	l->messages_told = h.messages;
	rdma_post_packet(l, p->n);
}

void rdma_send_greeting(struct rdma_link *l)
{
	struct packet first = {.n = RDMA_HEAD_BYTES, .most = RDMA_PACKET_BYTES};

	first.bytes = rdma_packet_next(l, false, &first.most);
	send_counts(l, &first);
}

/* Who has a long packet under way waits for that, which comes back for sure;
 * who has none could wait for others for long. */
static uint8_t *packet_begin(struct rdma_link *l, struct packet *p)
{
	bool wants_long = p->most > RDMA_PACKET_BYTES;
	uint8_t *bytes = rdma_packet_next(l, true, &p->most);

	p->offers_short =
		!l->takes_longs || (wants_long && !is_long(p) && !l->n_longs);
	return bytes;
}

/* Returns: whether there may be more to send. */
static bool send_packet(struct rdma_link *l)
{
	struct packet p = {.n = RDMA_HEAD_BYTES, .most = RDMA_PACKET_BYTES};
	bool queued = has_queued(l, &p.most);
	bool plain = queued || !list_empty(&l->answers) ||
		     !list_empty(&l->abandons) || l->msg;
	bool owes = l->messages_in != l->messages_told ||
		    l->packets_in - l->packets_told >= RDMA_PACKETS / 2;

	if (plain)
		p.bytes = packet_begin(l, &p);
	if (p.bytes) {
		add_answers(l, &p);
		add_abandons(l, &p);
		add_messages(l, &p);
		add_slices(l, &p);
	} else if (owes) {
		p.most = RDMA_PACKET_BYTES;
		p.bytes = rdma_packet_next(l, false, &p.most);
	}
	if (!p.bytes || l->state != RDMA_UP)
		return false;
	if (p.n == RDMA_HEAD_BYTES && !owes) {
		rdma_packet_drop(l);
		return false;
	}
	send_counts(l, &p);
	return true;
}

void rdma_send_pump(struct rdma_link *l)
{
	while (l->state == RDMA_UP && send_packet(l))
		;
	rdma_post_flush(l->t);
}

/* --- the end ----------------------------------------------------------- */

void rdma_send_copies_free(struct rdma_link *l)
{
	for (uint32_t i = 0; i < RDMA_WINDOW_SLICES; i++)
		copy_free(l, &l->outs[i]);
}

void rdma_send_give_up(struct rdma_link *l, int why)
{
	struct list *n;

	give_back_queued(l);
	for (uint32_t i = 0; i < RDMA_WINDOW_SLICES; i++) {
		struct rdma_out *o = &l->outs[i];

		if (o->state != RDMA_OUT_FREE)
			give_back(l, o, o->done ? o->status : why,
				  o->done && o->status);
	}
	while ((n = list_pop_front(&l->flight)))
		engine_msg_done(&l->post.base,
				container_of(n, struct engine_msg, link), why);
	if (l->msg)
		engine_msg_done(&l->post.base, l->msg, why);
	l->msg = NULL;
	while ((n = list_pop_front(&l->post.msgs)))
		engine_msg_done(&l->post.base,
				container_of(n, struct engine_msg, link), why);
	while ((n = list_pop_front(&l->post.slices)))
		engine_slice_done(l->t->engine, &l->post.base,
				  container_of(n, struct engine_slice, link),
				  why, false);
}
