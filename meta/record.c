// SPDX-License-Identifier: MIT
#include "meta/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "meta/key.h"

#define RECORD_VERSION 1

static void put(uint8_t **p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*(*p)++ = (uint8_t)(v >> (8 * i));
}

static uint64_t get(const uint8_t **p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t) * (*p)++ << (8 * i);
	return v;
}

void record_encode(const struct meta_kv_state *s,
		   uint8_t out[static RECORD_HEAD_BYTES])
{
	put(&out, RECORD_VERSION, 1);
	put(&out, s->generation, 8);
	put(&out, s->size_bytes, 8);
	put(&out, s->checksum[0], 8);
	put(&out, s->checksum[1], 8);
	put(&out, s->mode, 4);
	put(&out, s->uid, 4);
	put(&out, s->gid, 4);
}

int record_decode(const void *bytes, size_t n, struct record *r)
{
	const uint8_t *p = bytes;
	struct record v = {0};

	if (n < RECORD_HEAD_BYTES + 1 || get(&p, 1) != RECORD_VERSION)
		return -EPROTO;
	v.generation = get(&p, 8);
	v.size_bytes = get(&p, 8);
	v.checksum[0] = get(&p, 8);
	v.checksum[1] = get(&p, 8);
	v.mode = (uint32_t)get(&p, 4);
	v.uid = (uint32_t)get(&p, 4);
	v.gid = (uint32_t)get(&p, 4);
	v.n_holders = (uint32_t)get(&p, 1);
	if (v.n_holders > RECORD_HOLDERS_MAX || v.size_bytes > INT64_MAX ||
	    n != RECORD_HEAD_BYTES + 1 + 4 * (size_t)v.n_holders)
		return -EPROTO;
	for (uint32_t i = 0; i < v.n_holders; i++)
		v.holders[i] = (uint32_t)get(&p, 4);
	*r = v;
	return 0;
}

void record_dir_encode(uint32_t mode, uint32_t uid, uint32_t gid,
		       uint8_t out[static RECORD_DIR_BYTES])
{
	put(&out, RECORD_VERSION, 1);
	put(&out, mode, 4);
	put(&out, uid, 4);
	put(&out, gid, 4);
}

int record_dir_decode(const void *bytes, size_t n, uint32_t *mode,
		      uint32_t *uid, uint32_t *gid)
{
	const uint8_t *p = bytes;

	if (n != RECORD_DIR_BYTES || get(&p, 1) != RECORD_VERSION)
		return -EPROTO;
	*mode = (uint32_t)get(&p, 4);
	*uid = (uint32_t)get(&p, 4);
	*gid = (uint32_t)get(&p, 4);
	return 0;
}

void record_ns_encode(const struct meta_namespace *ns, uint32_t n_sub,
		      char out[static RECORD_NS_MAX])
{
	snprintf(out, RECORD_NS_MAX, "%u %u %u %" PRIu64 " %u %u %u %u %u",
		 ns->mode, ns->uid, ns->gid, ns->quota_bytes, ns->replicas,
		 ns->checksum ? 1 : 0, n_sub, ns->hot_reads, ns->hot_seconds);
}

/* Nine numbers, single blanks between, nothing else. */
int record_ns_decode(const char *text, size_t n, struct meta_namespace *ns,
		     uint32_t *n_sub)
{
	static const uint64_t max[9] = {UINT32_MAX,  UINT32_MAX, UINT32_MAX,
					UINT64_MAX,  UINT32_MAX, 1,
					KEY_SUB_MAX, UINT32_MAX, UINT32_MAX};
	uint64_t v[9] = {0};
	unsigned i = 0;
	bool digit = false;

	for (size_t at = 0; at < n; at++) {
		if (text[at] == ' ' && digit && i < 8) {
			i++;
			digit = false;
		} else if (text[at] < '0' || text[at] > '9' ||
			   __builtin_mul_overflow(v[i], 10u, &v[i]) ||
			   __builtin_add_overflow(
				   v[i], (unsigned)(text[at] - '0'), &v[i]) ||
			   v[i] > max[i]) {
			return -EPROTO;
		} else {
			digit = true;
		}
	}
	if (i != 8 || !digit || !v[6])
		return -EPROTO;
	*ns = (struct meta_namespace){.mode = (uint32_t)v[0],
				      .uid = (uint32_t)v[1],
				      .gid = (uint32_t)v[2],
				      .quota_bytes = v[3],
				      .replicas = (uint32_t)v[4],
				      .checksum = v[5],
				      .hot_reads = (uint32_t)v[7],
				      .hot_seconds = (uint32_t)v[8]};
	*n_sub = (uint32_t)v[6];
	return 0;
}

bool record_ns_name_good(const char *name, size_t n)
{
	if (!n || n > RECORD_NAME_MAX || memchr(name, '/', n) ||
	    memchr(name, 0, n))
		return false;
	return name[0] != '.' || (n > 1 && (n > 2 || name[1] != '.'));
}

char *record_text_encode(char *out, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		if (*p <= ' ' || *p == '%' || *p >= 127)
			out += sprintf(out, "%%%02X", *p);
		else
			*out++ = (char)*p;
	*out = '\0';
	return out;
}

void record_ns_line_encode(const char *name, const struct meta_namespace *ns,
			   uint32_t n_sub, char out[static RECORD_NS_LINE_MAX])
{
	out = record_text_encode(out, name);
	*out++ = ' ';
	record_ns_encode(ns, n_sub, out);
}

/* The two digits of %XX, or -1. */
static int hex_byte(const char *text)
{
	int byte = 0;

	for (int i = 0; i < 2; i++) {
		if (text[i] >= '0' && text[i] <= '9')
			byte = byte * 16 + text[i] - '0';
		else if (text[i] >= 'A' && text[i] <= 'F')
			byte = byte * 16 + text[i] - 'A' + 10;
		else
			return -1;
	}
	return byte;
}

int record_text_decode(const char *text, size_t n, char *out, size_t max)
{
	size_t len = 0;

	for (size_t i = 0; i < n; i++, len++) {
		int byte = (unsigned char)text[i];

		if (len == max)
			return -EPROTO;
		if (byte == '%') {
			byte = i + 2 < n ? hex_byte(text + i + 1) : -1;
			i += 2;
		}
		if (byte <= 0)
			return -EPROTO;
		out[len] = (char)byte;
	}
	out[len] = '\0';
	return len ? 0 : -EPROTO;
}

static int name_decode(const char *text, size_t n,
		       char name[static RECORD_NAME_MAX + 1])
{
	int err = record_text_decode(text, n, name, RECORD_NAME_MAX);

	if (err)
		return err;
	return record_ns_name_good(name, strlen(name)) ? 0 : -EPROTO;
}

int record_ns_line_decode(const char *line, size_t n,
			  char name[static RECORD_NAME_MAX + 1],
			  struct meta_namespace *ns, uint32_t *n_sub)
{
	const char *blank = memchr(line, ' ', n);
	size_t len = blank ? (size_t)(blank - line) : 0;
	int err = blank ? name_decode(line, len, name) : -EPROTO;

	return err ? err : record_ns_decode(blank + 1, n - len - 1, ns, n_sub);
}
