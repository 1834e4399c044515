// SPDX-License-Identifier: MIT
#include "tools/simulate.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "fs/kv.h"
#include "fs/remote_offer.h"
#include "tools/deal.h"
#include "tools/trace.h"

#define BEAT_MS 3000	  /* between two heartbeats of a node */
#define COPIES_SHARE 1024 /* of the pool: so many copies do not go first */
#define SOON_SHARE 16 /* of the pool: with less than that there is no room */
#define NOT_SEEN SIZE_MAX

enum where { ABSENT, STORED, COPY, MOVED, WHERES };

/* A block on one node. */
struct held {
	struct list link;
	uint64_t use; /* counts all uses of the whole replay */
	uint64_t used_ms;
	enum where where;
};

struct node {
	struct held *held;	  /* by the block's number */
	struct list uses[WHERES]; /* least recently used first */
	size_t n[WHERES];
	size_t n_held;
	uint64_t beat_ms; /* when the next heartbeat is due */
	/* As it told last, with a heartbeat or an answer: since the use of the
	 * oldest that is no copy, or KV_ROOM. */
	int64_t age_ms;
};

struct world {
	const struct simulate_config *config;
	const struct trace *trace;
	struct simulate_result *result;
	size_t *numbers; /* of blocks: an open-addressing table by id */
	uint64_t *ids;
	size_t mask, n_blocks;
	struct node nodes[DEAL_NODES_MAX];
	unsigned n_nodes;
	size_t capacity, n_copies_kept;
	uint64_t uses, now_ms, random;
};

/* -- blocks ------------------------------------------------------------- */

static size_t number_of(struct world *w, uint64_t id)
{
	size_t i = (id * 0x9e3779b97f4a7c15ULL) >> 20 & w->mask;

	while (w->numbers[i] != NOT_SEEN && w->ids[i] != id)
		i = (i + 1) & w->mask;
	if (w->numbers[i] == NOT_SEEN) {
		w->numbers[i] = w->n_blocks++;
		w->ids[i] = id;
	}
	return w->numbers[i];
}

static bool is_last(const struct world *w, const struct node *but, size_t b)
{
	for (unsigned i = 0; i < w->n_nodes; i++)
		if (&w->nodes[i] != but && w->nodes[i].held[b].where)
			return false;
	return true;
}

static void put(struct node *n, size_t b, enum where where)
{
	struct held *h = &n->held[b];

	if (h->where) {
		list_remove(&h->link);
		n->n[h->where]--;
		n->n_held--;
	}
	h->where = where;
	if (!where)
		return;
	list_push_back(&n->uses[where], &h->link);
	n->n[where]++;
	n->n_held++;
}

static void use(struct world *w, struct node *n, size_t b, enum where where)
{
	n->held[b].use = ++w->uses;
	n->held[b].used_ms = w->now_ms;
	put(n, b, where);
}

/* -- what goes ---------------------------------------------------------- */

static struct held *oldest(struct node *n, enum where where)
{
	if (list_empty(&n->uses[where]))
		return NULL;
	return container_of(n->uses[where].next, struct held, link);
}

static struct held *older(struct held *a, struct held *b)
{
	return !a ? b : !b || a->use < b->use ? a : b;
}

static struct held *victim(struct world *w, struct node *n)
{
	struct held *h;

	if (n->n[COPY] > w->n_copies_kept)
		return oldest(n, COPY);
	h = older(oldest(n, STORED), oldest(n, MOVED));
	return older(h, oldest(n, COPY));
}

static int64_t age_of(const struct world *w, const struct held *h)
{
	return (int64_t)(w->now_ms - h->used_ms + 1);
}

/* -- to other nodes ----------------------------------------------------- */

static void tell(const struct world *w, struct node *n)
{
	struct held *h = older(oldest(n, STORED), oldest(n, MOVED));
	size_t soon = w->capacity / SOON_SHARE;

	n->age_ms =
		n->n_held + soon < w->capacity || !h ? KV_ROOM : age_of(w, h);
}

static void beat(struct world *w)
{
	for (unsigned i = 0; i < w->n_nodes; i++) {
		struct node *n = &w->nodes[i];

		if (w->now_ms < n->beat_ms)
			continue;
		n->beat_ms = w->now_ms + BEAT_MS;
		tell(w, n);
	}
}

/* By what they told last. NULL: nobody. */
static struct node *peer_for(struct world *w, const struct node *from,
			     const struct held *h)
{
	struct remote_offer_choice choice = {.n_alike = 0};
	uint32_t node;

	for (unsigned i = 0; i < w->n_nodes; i++)
		if (&w->nodes[i] != from)
			remote_offer_add(&choice,
					 (struct remote_offer_peer){
						 i + 1, w->nodes[i].age_ms},
					 deal_random(&w->random, UINT_MAX));
	node = remote_offer_chosen(&choice, age_of(w, h));
	return node ? &w->nodes[node - 1] : NULL;
}

static void drop(struct world *w, struct node *n, struct held *h)
{
	put(n, (size_t)(h - n->held), ABSENT);
	w->result->evictions++;
}

static void offer(struct world *w, struct node *from, size_t b)
{
	struct held *h = &from->held[b];
	struct node *to = peer_for(w, from, h);

	if (!to)
		return;
	w->result->offers++;
	tell(w, to);
	if (!remote_offer_is_older(to->age_ms, age_of(w, h))) {
		w->result->refused++;
		return;
	}
	to->held[b].use = h->use;
	to->held[b].used_ms = h->used_ms;
	if (to->n_held >= w->capacity)
		drop(w, to, victim(w, to));
	put(to, b, MOVED);
	tell(w, to);
}

/* A copy that turns out to be the last one is none. */
static struct held *victim_now(struct world *w, struct node *n)
{
	struct held *h;

	while ((h = victim(w, n))->where == COPY &&
	       is_last(w, n, (size_t)(h - n->held)))
		put(n, (size_t)(h - n->held), MOVED);
	return h;
}

static void evict(struct world *w, struct node *n)
{
	struct held *h = victim_now(w, n);
	size_t b = (size_t)(h - n->held);

	if (w->n_nodes > 1 && h->where == STORED && is_last(w, n, b))
		offer(w, n, b);
	drop(w, n, h);
}

static void add(struct world *w, struct node *n, size_t b, enum where where)
{
	if (w->capacity && n->n_held == w->capacity)
		evict(w, n);
	use(w, n, b, where);
}

/* -- requests ----------------------------------------------------------- */

/* The nodes that hold it but this one: one of them, or NULL. */
static struct node *holder(struct world *w, const struct node *but, size_t b)
{
	unsigned first = deal_random(&w->random, w->n_nodes);

	for (unsigned i = 0; i < w->n_nodes; i++) {
		struct node *n = &w->nodes[(first + i) % w->n_nodes];

		if (n != but && n->held[b].where)
			return n;
	}
	return NULL;
}

static bool hit(struct world *w, struct node *n, size_t b)
{
	enum where here = n->held[b].where;
	struct node *from;

	if (here) {
		use(w, n, b, here == COPY ? COPY : STORED);
		return true;
	}
	from = holder(w, n, b);
	if (!from)
		return false;
	use(w, from, b, from->held[b].where == COPY ? COPY : STORED);
	add(w, n, b, COPY);
	w->result->remote_hits++;
	return true;
}

static void request_run(struct world *w, struct node *n, const uint64_t *ids,
			size_t n_ids)
{
	size_t i = 0;

	w->result->block_refs += n_ids;
	for (; i < n_ids && hit(w, n, number_of(w, ids[i])); i++)
		w->result->block_hits++;
	for (; i < n_ids; i++) {
		size_t b = number_of(w, ids[i]);

		if (!is_last(w, NULL, b))
			continue;
		add(w, n, b, STORED);
		w->result->stores++;
	}
}

/* -- the whole ---------------------------------------------------------- */

static int make(struct world *w)
{
	w->mask = 1023;
	while (w->mask < w->trace->n_ids * 2)
		w->mask = w->mask * 2 + 1;
	w->numbers = malloc((w->mask + 1) * sizeof(*w->numbers));
	w->ids = malloc((w->mask + 1) * sizeof(*w->ids));
	if (!w->numbers || !w->ids)
		return -ENOMEM;
	memset(w->numbers, 0xff, (w->mask + 1) * sizeof(*w->numbers));
	for (size_t i = 0; i < w->trace->n_ids; i++)
		number_of(w, w->trace->ids[i]);
	for (unsigned i = 0; i < w->n_nodes; i++) {
		struct node *n = &w->nodes[i];

		n->held = calloc(w->n_blocks + 1, sizeof(*n->held));
		if (!n->held)
			return -ENOMEM;
		for (size_t k = 0; k < WHERES; k++)
			list_init(&n->uses[k]);
		n->beat_ms = (uint64_t)i * BEAT_MS / w->n_nodes;
	}
	return 0;
}

static void run(struct world *w)
{
	struct deal deal = {.n_nodes = w->n_nodes, .skew = w->config->skew};
	double speed = w->config->speed > 0 ? w->config->speed : 1;

	for (size_t i = 0; i < w->trace->n_requests; i++) {
		const struct trace_request *q = &w->trace->requests[i];

		w->now_ms = (uint64_t)((double)q->timestamp_ms / speed);
		beat(w);
		request_run(w, &w->nodes[deal_next(&deal)],
			    trace_ids(w->trace, q), q->n_ids);
	}
}

int simulate(const struct trace *t, const struct simulate_config *config,
	     struct simulate_result *r)
{
	cleanup_free struct world *w = calloc(1, sizeof(*w));
	int err = w ? 0 : -ENOMEM;

	if (w) {
		w->config = config;
		w->trace = t;
		w->result = r;
		w->n_nodes = config->n_nodes ? config->n_nodes : 1;
		w->capacity = config->capacity;
		w->n_copies_kept = config->capacity / COPIES_SHARE;
		*r = (struct simulate_result){0};
		err = make(w);
	}
	if (!err)
		run(w);
	else
		log_error("simulate: no memory for %zu blocks", t->n_ids);
	for (unsigned i = 0; w && i < w->n_nodes; i++)
		free(w->nodes[i].held);
	if (w) {
		free(w->numbers);
		free(w->ids);
	}
	return err;
}
