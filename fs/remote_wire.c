// SPDX-License-Identifier: MIT
#include "fs/remote_wire.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define VERSION 2

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static uint8_t *put64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static const uint8_t *get32(const uint8_t *p, uint32_t *v)
{
	memcpy(v, p, sizeof(*v));
	*v = le32toh(*v);
	return p + sizeof(*v);
}

static const uint8_t *get64(const uint8_t *p, uint64_t *v)
{
	memcpy(v, p, sizeof(*v));
	*v = le64toh(*v);
	return p + sizeof(*v);
}

void remote_age_encode(int64_t age_ms, uint8_t out[REMOTE_AGE_BYTES])
{
	int64_t v = age_ms + 1;

	put32(out, v < UINT32_MAX ? (uint32_t)v : UINT32_MAX);
}

int remote_age_decode(const void *bytes, size_t n, int64_t *age_ms)
{
	uint32_t v;

	if (n != REMOTE_AGE_BYTES)
		return -EPROTO;
	get32(bytes, &v);
	*age_ms = (int64_t)v - 1;
	return 0;
}

size_t remote_fetching_encode(const struct remote_fetching *f,
			      uint8_t out[REMOTE_FETCHING_BYTES])
{
	uint8_t *p = out;

	for (uint32_t i = 0; i < f->n; i++)
		p = put32(p, f->nodes[i]);
	return (size_t)(p - out);
}

int remote_fetching_decode(const void *bytes, size_t n,
			   struct remote_fetching *f)
{
	struct remote_fetching who = {.n = 0};
	const uint8_t *p = bytes;

	if (n % 4 || n > REMOTE_FETCHING_BYTES)
		return -EPROTO;
	for (; who.n < n / 4; who.n++) {
		p = get32(p, &who.nodes[who.n]);
		if (!who.nodes[who.n])
			return -EPROTO;
	}
	*f = who;
	return 0;
}

size_t remote_encode(const struct remote_msg *m, uint8_t out[REMOTE_MSG_MAX])
{
	uint8_t *p = out;

	*p++ = VERSION;
	*p++ = m->flags;
	*p++ = (uint8_t)m->path_len;
	*p++ = (uint8_t)(m->path_len >> 8);
	p = put32(p, m->priority);
	p = put64(p, m->generation);
	p = put64(p, m->size_bytes);
	p = put64(p, m->checksum[0]);
	p = put64(p, m->checksum[1]);
	p = put32(p, m->mode);
	p = put32(p, m->uid);
	p = put32(p, m->gid);
	p = put32(p, m->holder);
	p = put32(p, m->age_ms);
	p = put64(p, m->segment.id);
	p = put64(p, m->segment.generation);
	p = put64(p, m->offset);
	p = put64(p, m->length_bytes);
	memcpy(p, m->path, m->path_len);
	return REMOTE_HEAD_BYTES + m->path_len;
}

void remote_sum_encode(const uint64_t sum[2], uint8_t out[REMOTE_SUM_BYTES])
{
	put64(put64(out, sum[0]), sum[1]);
}

int remote_sum_decode(const void *bytes, size_t n, uint64_t sum[2])
{
	if (n != REMOTE_SUM_BYTES)
		return -EPROTO;
	get64(get64(bytes, &sum[0]), &sum[1]);
	return 0;
}

static bool good_part(const char *part, size_t n)
{
	return n >= 1 && n <= 255 && !(n == 1 && part[0] == '.') &&
	       !(n == 2 && !memcmp(part, "..", 2)) && !memchr(part, 0, n);
}

static bool good_path(const char *path, size_t n)
{
	const char *end = path + n, *slash;
	unsigned parts = 0;

	for (; path <= end; path = slash + 1, parts++) {
		slash = memchr(path, '/', (size_t)(end - path));
		if (!slash)
			slash = end;
		if (!good_part(path, (size_t)(slash - path)))
			return false;
	}
	return parts >= 2;
}

int remote_decode(const void *bytes, size_t n, struct remote_msg *m)
{
	const uint8_t *p = bytes;
	struct remote_msg r;

	if (n < REMOTE_HEAD_BYTES || *p++ != VERSION)
		return -EPROTO;
	r.flags = *p++;
	r.path_len = (uint16_t)(p[0] | p[1] << 8);
	p = get32(p + 2, &r.priority);
	p = get64(p, &r.generation);
	p = get64(p, &r.size_bytes);
	p = get64(p, &r.checksum[0]);
	p = get64(p, &r.checksum[1]);
	p = get32(p, &r.mode);
	p = get32(p, &r.uid);
	p = get32(p, &r.gid);
	p = get32(p, &r.holder);
	p = get32(p, &r.age_ms);
	p = get64(p, &r.segment.id);
	p = get64(p, &r.segment.generation);
	p = get64(p, &r.offset);
	p = get64(p, &r.length_bytes);
	r.path = (const char *)p;
	if (r.offset > r.size_bytes || r.length_bytes > r.size_bytes - r.offset)
		return -EPROTO;
	if (r.path_len > POOL_PATH_MAX || n != REMOTE_HEAD_BYTES + r.path_len ||
	    r.priority >= ENGINE_PRIORITIES || !good_path(r.path, r.path_len))
		return -EPROTO;
	*m = r;
	return 0;
}
