// SPDX-License-Identifier: MIT
#include "tools/simulate.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "base/log.h"
#include "tools/trace.h"

/*
 * Ids become slots of an open-addressing table that never shrinks: a slot is
 * a block that was seen once, `present` while it is on the recency list.
 */
struct slot {
	struct list link;
	uint64_t id;
	bool used, present;
};

struct cache {
	struct slot *slots;
	size_t mask;
	struct list recency; /* least recently used first */
	size_t n_present, capacity;
	struct simulate_result *result;
};

static struct slot *slot_find(struct cache *c, uint64_t id)
{
	size_t i = (id * 0x9e3779b97f4a7c15ULL) >> 20 & c->mask;

	while (c->slots[i].used && c->slots[i].id != id)
		i = (i + 1) & c->mask;
	c->slots[i].used = true;
	c->slots[i].id = id;
	return &c->slots[i];
}

static void slot_touch(struct cache *c, struct slot *s)
{
	list_remove(&s->link);
	list_push_back(&c->recency, &s->link);
}

static void slot_evict_oldest(struct cache *c)
{
	struct list *l = list_pop_front(&c->recency);

	container_of(l, struct slot, link)->present = false;
	c->n_present--;
	c->result->evictions++;
}

static void slot_store(struct cache *c, struct slot *s)
{
	if (c->capacity && c->n_present == c->capacity)
		slot_evict_oldest(c);
	s->present = true;
	list_push_back(&c->recency, &s->link);
	c->n_present++;
	c->result->stores++;
}

static void request_run(struct cache *c, const uint64_t *ids, size_t n)
{
	size_t i = 0;

	c->result->block_refs += n;
	for (; i < n; i++) {
		struct slot *s = slot_find(c, ids[i]);

		if (!s->present)
			break;
		slot_touch(c, s);
		c->result->block_hits++;
	}
	for (; i < n; i++) {
		struct slot *s = slot_find(c, ids[i]);

		if (!s->present)
			slot_store(c, s);
	}
}

int simulate_lru(const struct trace *t, size_t capacity,
		 struct simulate_result *r)
{
	struct cache c = {.capacity = capacity, .result = r, .mask = 1023};
	cleanup_free struct slot *slots = NULL;

	while (c.mask < t->n_ids * 2)
		c.mask = c.mask * 2 + 1;
	slots = calloc(c.mask + 1, sizeof(*slots));
	if (!slots) {
		log_error("simulate: no memory for %zu blocks", t->n_ids);
		return -ENOMEM;
	}
	c.slots = slots;
	list_init(&c.recency);
	*r = (struct simulate_result){0};
	for (size_t i = 0; i < t->n_requests; i++)
		request_run(&c, trace_ids(t, &t->requests[i]),
			    t->requests[i].n_ids);
	return 0;
}
