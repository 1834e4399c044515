// SPDX-License-Identifier: MIT
/*
 * Why nodes could not be reached. A peer lives no longer than something refers
 * to it, and nothing does once what waited for it has failed; people ask
 * later. So the last reason of each node is kept apart, of as many nodes as
 * there is room for: the newest.
 */
#include "engine/engine_internal.h"

#include <string.h>

static struct engine_failure *find(struct engine *e,
				   const struct engine_node *n)
{
	for (uint32_t i = 0; i < ENGINE_FAILURES; i++) {
		struct engine_failure *f = &e->failures[i];

		if (f->error && !memcmp(f->uuid, n->uuid, sizeof(f->uuid)))
			return f;
	}
	return NULL;
}

/* A free place, or that of the oldest: both have the least time. */
static struct engine_failure *place(struct engine *e)
{
	struct engine_failure *oldest = &e->failures[0];

	for (uint32_t i = 1; i < ENGINE_FAILURES; i++)
		if (e->failures[i].when_ns < oldest->when_ns)
			oldest = &e->failures[i];
	return oldest;
}

void failure_note(struct engine *e, const struct engine_node *n, int error)
{
	struct engine_failure *f = find(e, n);

	if (!f)
		f = place(e);
	f->error = error;
	f->when_ns = clock_now_ns();
	f->incarnation = n->incarnation;
	memcpy(f->uuid, n->uuid, sizeof(f->uuid));
}

void failure_clear(struct engine *e, const struct engine_node *n)
{
	struct engine_failure *f = find(e, n);

	if (f)
		memset(f, 0, sizeof(*f));
}

int engine_peer_failure(struct engine_peer *p, int64_t *when_ns)
{
	struct engine_failure *f;
	uint32_t life;
	scoped_lock(&p->engine->lock);

	life = p->node.incarnation;
	f = find(p->engine, &p->node);
	if (!f || (life && f->incarnation && f->incarnation != life))
		return 0;
	*when_ns = f->when_ns;
	return f->error;
}
