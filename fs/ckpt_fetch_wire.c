// SPDX-License-Identifier: MIT
#include "fs/ckpt_fetch_wire.h"

#include <errno.h>
#include <string.h>

#include "base/le64.h"

#define VERSION 1

void cwire_encode(const struct cwire_ask *a, uint8_t out[CWIRE_BYTES])
{
	uint8_t *p = le64_put(out, VERSION | (uint64_t)a->priority << 32);

	p = le64_put(p, a->ino);
	p = le64_put(p, a->version);
	p = le64_put(p, a->offset);
	p = le64_put(p, a->length_bytes);
	p = le64_put(p, a->segment.id);
	le64_put(p, a->segment.generation);
}

int cwire_decode(const void *bytes, size_t n, struct cwire_ask *a)
{
	const uint8_t *p = bytes;
	struct cwire_ask r;
	uint64_t first;

	if (n != CWIRE_BYTES)
		return -EPROTO;
	first = le64_get(&p);
	r.priority = (uint32_t)(first >> 32);
	r.ino = le64_get(&p);
	r.version = le64_get(&p);
	r.offset = le64_get(&p);
	r.length_bytes = le64_get(&p);
	r.segment.id = le64_get(&p);
	r.segment.generation = le64_get(&p);
	if ((uint32_t)first != VERSION || r.priority >= ENGINE_PRIORITIES ||
	    !r.ino || !r.length_bytes || r.length_bytes > CWIRE_SUM_MAX ||
	    r.offset > INT64_MAX - CWIRE_SUM_MAX)
		return -EPROTO;
	*a = r;
	return 0;
}
