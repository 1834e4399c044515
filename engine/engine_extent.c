// SPDX-License-Identifier: MIT
#include "engine/engine_extent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct extent *list_of(struct extents *x)
{
	return x->many ? x->many : x->few;
}

void extents_init(struct extents *x)
{
	x->many = NULL;
	x->n = 0;
	x->room = EXTENTS_INLINE;
}

void extents_fini(struct extents *x)
{
	free(x->many);
	extents_init(x);
}

static int grow(struct extents *x)
{
	uint32_t room = x->room * 4;
	struct extent *many;

	if (x->room >= EXTENTS_MAX)
		return -ENOBUFS;
	if (room > EXTENTS_MAX)
		room = EXTENTS_MAX;
	many = realloc(x->many, room * sizeof(*many));
	if (!many)
		return -ENOMEM;
	if (!x->many)
		memcpy(many, x->few, x->n * sizeof(*many));
	x->many = many;
	x->room = room;
	return 0;
}

/* The first extent that ends at or past this byte. */
static uint32_t find(struct extents *x, uint64_t from)
{
	const struct extent *e = list_of(x);
	uint32_t low = 0, high = x->n;

	while (low < high) {
		uint32_t mid = (low + high) / 2;

		if (e[mid].to < from)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int insert(struct extents *x, uint32_t at, uint64_t from, uint64_t to)
{
	int err = x->n == x->room ? grow(x) : 0;
	struct extent *e = list_of(x);

	if (err)
		return err;
	memmove(&e[at + 1], &e[at], (x->n - at) * sizeof(*e));
	e[at] = (struct extent){from, to};
	x->n++;
	return 0;
}

int extents_add(struct extents *x, uint64_t from, uint64_t to)
{
	struct extent *e = list_of(x);
	uint32_t at = find(x, from), past = at;

	while (past < x->n && e[past].from <= to)
		past++;
	if (past == at)
		return insert(x, at, from, to);
	if (e[at].from < from)
		from = e[at].from;
	if (e[past - 1].to > to)
		to = e[past - 1].to;
	e[at] = (struct extent){from, to};
	memmove(&e[at + 1], &e[past], (x->n - past) * sizeof(*e));
	x->n -= past - at - 1;
	return 0;
}

bool extents_full(const struct extents *x)
{
	return x->n >= EXTENTS_MAX;
}

uint64_t extents_contiguous(const struct extents *x)
{
	const struct extent *e = x->many ? x->many : x->few;

	return x->n && e[0].from == 0 ? e[0].to : 0;
}
