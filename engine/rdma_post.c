// SPDX-License-Identifier: MIT
/*
 * Work for the queue pair. Reliable and in order, so a packet behind a WRITE
 * comes after it, and a READY behind a BIND is sent when the window stands.
 *
 * A call of the library rings the card's doorbell, whatever it brings: so what
 * one turn of the loop has for a link is collected and goes as one list.
 */
#include "engine/rdma.h"

#include <arpa/inet.h>
#include <string.h>

#define RECEIVES_AT_ONCE 16

static uint64_t name_of(enum rdma_posted what, uint32_t number)
{
	return (uint64_t)what << 32 | number;
}

uint8_t *rdma_receive_buffer(const struct rdma_link *l, uint32_t i)
{
	return l->receives->bytes + (size_t)i * l->receives->each_bytes;
}

static uint8_t *own_buffer(const struct rdma_link *l, uint32_t packet)
{
	return l->packets + packet % RDMA_PACKETS * RDMA_PACKET_BYTES;
}

static uint8_t *long_buffer(const struct rdma_link *l, unsigned taken)
{
	return l->device->shared.bytes +
	       (size_t)(RDMA_SHARED_RECEIVES + taken - 1) * RDMA_LONG_BYTES;
}

/* --- sends ------------------------------------------------------------- */

/* The library reads a window's old key while it posts. */
static void keys_set(const struct rdma_posts *p, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (p->wr[i].opcode == IBV_WR_BIND_MW)
			p->wr[i].bind_mw.mw->rkey = p->wr[i].bind_mw.rkey;
}

void rdma_post_flush(struct transport *t)
{
	struct rdma_posts *p = &t->posts;
	uint32_t n = p->n;
	int rc;

	if (!n)
		return;
	p->wr[n - 1].next = NULL;
	p->n = 0;
	rc = verbs_post_send(p->of->qp, p->wr);
	if (rc)
		rdma_link_fail(p->of, rc, "the queue takes no more");
	else
		keys_set(p, n);
}

void rdma_post_drop(struct rdma_link *l)
{
	if (l->t->posts.of == l)
		l->t->posts.n = 0;
}

static void post(struct rdma_link *l, const struct ibv_send_wr *wr,
		 const struct ibv_sge *sge)
{
	struct rdma_posts *p = &l->t->posts;

	if (p->of != l || p->n == RDMA_SENDS)
		rdma_post_flush(l->t);
	if (l->state >= RDMA_ENDING)
		return;
	p->of = l;
	p->wr[p->n] = *wr;
	if (sge) {
		p->sge[p->n] = *sge;
		p->wr[p->n].sg_list = &p->sge[p->n];
		p->wr[p->n].num_sge = 1;
	}
	p->wr[p->n].next = &p->wr[p->n + 1];
	p->n++;
	rdma_link_pump(l);
}

/* Returns: its number + 1, or 0. */
static uint8_t long_take(struct rdma_link *l)
{
	struct rdma_device *d = l->device;
	int i = fault_hit("rdma.no_long") ? 0 : ffsll((long long)d->longs_free);

	if (i) {
		d->longs_free &= ~(1ull << (i - 1));
		l->n_longs++;
	}
	return (uint8_t)i;
}

uint8_t *rdma_packet_next(struct rdma_link *l, bool plain, uint32_t *most)
{
	uint8_t *taken = &l->longs[l->packets_out % RDMA_PACKETS];
	uint32_t under_way = l->packets_out - l->packets_taken;

	if (l->packets_out - l->packets_freed == RDMA_PACKETS)
		return NULL;
	/* The last one is for telling of theirs: two sides that wait for each
	 * other's buffers would do so for ever. */
	if (under_way + plain >= RDMA_PACKETS)
		return NULL;
	if (*most > RDMA_PACKET_BYTES && l->takes_longs)
		*taken = long_take(l);
	*most = *taken ? RDMA_LONG_BYTES : RDMA_PACKET_BYTES;
	return *taken ? long_buffer(l, *taken) : own_buffer(l, l->packets_out);
}

static void long_put(struct rdma_link *l, uint32_t packet)
{
	uint8_t *taken = &l->longs[packet % RDMA_PACKETS];

	if (!*taken)
		return;
	l->device->longs_free |= 1ull << (*taken - 1);
	l->n_longs--;
	*taken = 0;
}

void rdma_packet_drop(struct rdma_link *l)
{
	long_put(l, l->packets_out);
}

void rdma_packets_freed(struct rdma_link *l, uint32_t before)
{
	while (l->packets_freed != before)
		long_put(l, l->packets_freed++);
}

void rdma_post_packet(struct rdma_link *l, uint32_t n_bytes)
{
	uint32_t number = l->packets_out++;
	uint8_t taken = l->longs[number % RDMA_PACKETS];
	const struct ibv_sge sge = {
		.addr = (uintptr_t)(taken ? long_buffer(l, taken)
					  : own_buffer(l, number)),
		.length = n_bytes,
		.lkey = taken ? l->device->shared.mr->lkey
			      : l->packets_mr->lkey,
	};
	struct ibv_send_wr wr = {
		.wr_id = name_of(RDMA_POSTED_PACKET, number),
		.opcode = IBV_WR_SEND,
	};

	/* A long one is not for a link at rest to keep. */
	if (taken || !(l->packets_out % RDMA_SIGNAL_EVERY))
		wr.send_flags |= IBV_SEND_SIGNALED;
	if (n_bytes <= l->inline_bytes)
		wr.send_flags |= IBV_SEND_INLINE;
	post(l, &wr, &sge);
}

void rdma_post_write(struct rdma_link *l, uint32_t slot)
{
	const struct rdma_out *o = &l->outs[slot];
	const struct ibv_sge sge = {
		.addr = (uintptr_t)o->source,
		.length = o->slice->length_bytes,
		.lkey = o->key,
	};
	struct ibv_send_wr wr = {
		.wr_id = name_of(RDMA_POSTED_WRITE, slot),
		.opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
		.send_flags = IBV_SEND_SIGNALED,
		.imm_data = htonl(slot),
		.wr.rdma = {.remote_addr = o->to, .rkey = o->to_key},
	};

	if (fault_hit("rdma.beyond"))
		wr.wr.rdma.remote_addr++;
	if (fault_hit("rdma.key"))
		wr.wr.rdma.rkey ^= 1;
	if (fault_hit("rdma.read"))
		wr.opcode = IBV_WR_RDMA_READ;
	post(l, &wr, &sge);
}

void rdma_post_bind(struct rdma_link *l, uint32_t slot, struct ibv_mr *mr)
{
	struct rdma_in *in = &l->ins[slot];
	const struct ibv_send_wr wr = {
		.opcode = IBV_WR_BIND_MW,
		.bind_mw = {.mw = in->window,
			    .rkey = ibv_inc_rkey(in->window->rkey),
			    .bind_info = {
				    .mr = mr,
				    .addr = (uintptr_t)in->landing.place.addr,
				    .length = in->landing.place.length_bytes,
				    .mw_access_flags = IBV_ACCESS_REMOTE_WRITE,
			    }}};

	in->key = wr.bind_mw.rkey;
	post(l, &wr, NULL);
}

void rdma_post_invalidate(struct rdma_link *l, uint32_t slot)
{
	const struct ibv_send_wr wr = {
		.wr_id = name_of(RDMA_POSTED_INVALIDATE, slot),
		.opcode = IBV_WR_LOCAL_INV,
		.send_flags = IBV_SEND_SIGNALED,
		.invalidate_rkey = l->ins[slot].key,
	};

	post(l, &wr, NULL);
}

/* --- receives ---------------------------------------------------------- */

static int post_list(struct rdma_link *l, const uint32_t *numbers, uint32_t n)
{
	struct ibv_recv_wr wr[RECEIVES_AT_ONCE];
	struct ibv_sge sge[RECEIVES_AT_ONCE];

	for (uint32_t i = 0; i < n; i++) {
		sge[i] = (struct ibv_sge){
			.addr = (uintptr_t)rdma_receive_buffer(l, numbers[i]),
			.length = l->receives->each_bytes,
			.lkey = l->receives->mr->lkey,
		};
		wr[i] = (struct ibv_recv_wr){
			.wr_id = name_of(RDMA_POSTED_RECEIVE, numbers[i]),
			.next = i + 1 < n ? &wr[i + 1] : NULL,
			.sg_list = &sge[i],
			.num_sge = 1,
		};
	}
	return l->receives->srq ? verbs_post_srq_recv(l->receives->srq, wr)
				: verbs_post_recv(l->qp, wr);
}

int rdma_post_receives(struct rdma_link *l, const uint32_t *numbers, uint32_t n)
{
	uint32_t some[RECEIVES_AT_ONCE], k;
	int rc = 0;

	for (uint32_t at = 0; at < n && !rc; at += k) {
		for (k = 0; k < RECEIVES_AT_ONCE && at + k < n; k++)
			some[k] = numbers ? numbers[at + k] : at + k;
		rc = post_list(l, some, k);
	}
	return rc;
}
