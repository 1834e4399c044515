// SPDX-License-Identifier: MIT
/*
 * Which link has to go for a new one: SIEVE. The hand walks from the oldest to
 * the newest, takes away the mark of those that were used, and stops at the
 * first without. Links under way, or at work, are passed over.
 */
#include "engine/rdma.h"

#include <errno.h>

static struct list *after(struct transport *t, struct list *n)
{
	return n->next != &t->sieve ? n->next : t->sieve.next;
}

static bool is_idle(const struct rdma_link *l)
{
	bool idle = l->state == RDMA_UP && !l->n_outs && list_empty(&l->flight);

	for (unsigned i = 0; idle && i < RDMA_WINDOW_SLICES; i++)
		idle = l->ins[i].state == RDMA_IN_FREE;
	return idle;
}

static struct rdma_link *victim(struct transport *t)
{
	/* Twice around: the first time may only take marks away. */
	for (unsigned n = 2 * t->n_queues; n; n--) {
		struct rdma_link *l =
			container_of(t->sieve_hand, struct rdma_link, sieve);
		bool used = l->used;

		t->sieve_hand = after(t, t->sieve_hand);
		l->used = false;
		if (!used && is_idle(l))
			return l;
	}
	return NULL;
}

int rdma_sieve_add(struct rdma_link *l)
{
	struct transport *t = l->t;
	struct rdma_link *v = NULL;

	if (t->n_queues >= t->queues_max) {
		v = victim(t);
		if (!v)
			return -EUSERS;
		rdma_link_fail(v, -EUSERS, "another node needs its queues");
		rdma_sieve_remove(v);
	}
	list_push_back(&t->sieve, &l->sieve);
	if (!t->n_queues++)
		t->sieve_hand = &l->sieve;
	return 0;
}

void rdma_sieve_remove(struct rdma_link *l)
{
	struct transport *t = l->t;

	if (list_empty(&l->sieve))
		return;
	if (t->sieve_hand == &l->sieve)
		t->sieve_hand = after(t, t->sieve_hand);
	list_remove(&l->sieve);
	t->n_queues--;
}
