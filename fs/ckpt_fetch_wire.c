// SPDX-License-Identifier: MIT
#include "fs/ckpt_fetch_wire.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define VERSION 1

static uint8_t *put64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static uint64_t get64(const uint8_t **p)
{
	uint64_t v;

	memcpy(&v, *p, sizeof(v));
	*p += sizeof(v);
	return le64toh(v);
}

void cwire_encode(const struct cwire_ask *a, uint8_t out[CWIRE_BYTES])
{
	uint8_t *p = put64(out, VERSION | (uint64_t)a->priority << 32);

	p = put64(p, a->ino);
	p = put64(p, a->version);
	p = put64(p, a->offset);
	p = put64(p, a->length_bytes);
	p = put64(p, a->segment.id);
	put64(p, a->segment.generation);
}

int cwire_decode(const void *bytes, size_t n, struct cwire_ask *a)
{
	const uint8_t *p = bytes;
	struct cwire_ask r;
	uint64_t first;

	if (n != CWIRE_BYTES)
		return -EPROTO;
	first = get64(&p);
	r.priority = (uint32_t)(first >> 32);
	r.ino = get64(&p);
	r.version = get64(&p);
	r.offset = get64(&p);
	r.length_bytes = get64(&p);
	r.segment.id = get64(&p);
	r.segment.generation = get64(&p);
	if ((uint32_t)first != VERSION || r.priority >= ENGINE_PRIORITIES ||
	    !r.ino || !r.length_bytes || r.length_bytes > CWIRE_SUM_MAX ||
	    r.offset > INT64_MAX - CWIRE_SUM_MAX)
		return -EPROTO;
	*a = r;
	return 0;
}
