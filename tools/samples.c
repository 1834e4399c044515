// SPDX-License-Identifier: MIT
#include "tools/samples.h"

#include <stdlib.h>

void samples_add(struct samples *s, int64_t ns)
{
	if (s->n == s->room) {
		size_t room = s->room ? s->room * 2 : 1024;
		uint32_t *p = reallocarray(s->ns, room, sizeof(*p));

		if (p) {
			s->ns = p;
			s->room = room;
		}
	}
	ns = ns > 0 ? ns : 0;
	s->sum_ns += (uint64_t)ns;
	if (s->n < s->room)
		s->ns[s->n++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

void samples_append(struct samples *s, struct samples *from)
{
	for (size_t i = 0; i < from->n; i++)
		samples_add(s, from->ns[i]);
	samples_free(from);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

double samples_us(struct samples *s, double p)
{
	if (!s->n)
		return 0;
	qsort(s->ns, s->n, sizeof(*s->ns), compare);
	return s->ns[(size_t)((double)(s->n - 1) * p / 100 + 0.5)] / 1000.0;
}

void samples_free(struct samples *s)
{
	free(s->ns);
	*s = (struct samples){0};
}
