// SPDX-License-Identifier: MIT
#include "fs/kv_dirs_line.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define SUM_BYTES 17 /* 16 hex digits and a space */

size_t kv_dirs_format(char text[KV_DIRS_LINE_MAX],
		      const struct kv_dirs_line *line)
{
	char *body = text + SUM_BYTES;
	char sum[SUM_BYTES + 1];
	size_t n;

	n = (size_t)snprintf(body, KV_DIRS_LINE_MAX - SUM_BYTES, "%o %u %u %u ",
			     line->mode, line->uid, line->gid, line->len);
	memcpy(body + n, line->path, line->len);
	n += line->len;
	snprintf(sum, sizeof(sum), "%016llx ",
		 (unsigned long long)XXH3_64bits(body, n));
	memcpy(text, sum, SUM_BYTES);
	body[n] = '\n';
	return SUM_BYTES + n + 1;
}

/* Digits and the blank behind them; NULL stays NULL. */
static const char *number(const char *at, const char *end, unsigned base,
			  uint32_t *value)
{
	const char *from = at;
	uint64_t v = 0;

	if (!at)
		return NULL;
	for (; at < end && *at >= '0' && *at < '0' + (int)base; at++) {
		v = v * base + (uint64_t)(*at - '0');
		if (v > UINT32_MAX)
			return NULL;
	}
	if (at == from || at == end || *at != ' ')
		return NULL;
	*value = (uint32_t)v;
	return at + 1;
}

static bool sane_path(const char *path, size_t len)
{
	size_t part = 0, n_slashes = 0;

	if (memchr(path, 0, len))
		return false;
	for (size_t i = 0; i <= len; i++) {
		if (i < len && path[i] != '/') {
			part++;
			continue;
		}
		n_slashes += i < len;
		if (part == 0 || part > 255 ||
		    (part == 1 && path[i - 1] == '.') ||
		    (part == 2 && path[i - 1] == '.' && path[i - 2] == '.'))
			return false;
		part = 0;
	}
	return n_slashes > 0;
}

const char *kv_dirs_parse(const char *at, const char *end,
			  struct kv_dirs_line *line)
{
	struct kv_dirs_line l;
	char again[KV_DIRS_LINE_MAX];
	const char *p;
	size_t n;

	if (end - at < SUM_BYTES)
		return NULL;
	p = number(at + SUM_BYTES, end, 8, &l.mode);
	p = number(p, end, 10, &l.uid);
	p = number(p, end, 10, &l.gid);
	p = number(p, end, 10, &l.len);
	if (!p || l.len > POOL_PATH_MAX || l.len >= (size_t)(end - p) ||
	    (l.len && !sane_path(p, l.len)))
		return NULL;
	l.path = p;
	n = kv_dirs_format(again, &l);
	if (n != (size_t)(p + l.len + 1 - at) || memcmp(again, at, n))
		return NULL;
	*line = l;
	return at + n;
}
