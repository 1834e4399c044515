// SPDX-License-Identifier: MIT
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/pool.h"
#include "fs/kv_match.h"

/* A question comes from whoever can open .kvfs/match. */

static bool part_is_good(const char *part, size_t n)
{
	if (!n || n > 255 || memchr(part, 0, n))
		return false;
	return !(part[0] == '.' && (n == 1 || (n == 2 && part[1] == '.')));
}

bool kv_match_is_path(const char *path, size_t n)
{
	const char *end = path + n, *slash;

	if (n > POOL_PATH_MAX)
		return false;
	while ((slash = memchr(path, '/', (size_t)(end - path)))) {
		if (!part_is_good(path, (size_t)(slash - path)))
			return false;
		path = slash + 1;
	}
	return part_is_good(path, (size_t)(end - path));
}

/* Returns: what follows the line; NULL there is none. */
static const char *take_line(const char *text, const char *end,
			     const char **line, size_t *n)
{
	const char *newline;

	if (text == end)
		return NULL;
	newline = memchr(text, '\n', (size_t)(end - text));
	*line = text;
	*n = (size_t)((newline ? newline : end) - text);
	return newline ? newline + 1 : end;
}

static size_t count_lines(const char *text, const char *end)
{
	const char *line;
	size_t n, lines = 0;

	while ((text = take_line(text, end, &line, &n)))
		lines++;
	return lines;
}

/* Returns: 0, or the line that is none of ours. */
static unsigned take_all(const char *text, const char *end,
			 struct kv_match_question *q)
{
	const char *line;
	size_t n = 0;

	text = take_line(text, end, &line, &n);
	if (!text || !kv_match_is_path(line, n))
		return 1;
	q->dir = (struct kv_name){line, (uint16_t)n};
	while ((text = take_line(text, end, &line, &n))) {
		if (!kv_match_is_path(line, n) ||
		    q->dir.len + 1u + n > POOL_PATH_MAX)
			return q->n + 2;
		q->names[q->n++] = (struct kv_name){line, (uint16_t)n};
	}
	return 0;
}

int kv_match_parse(const char *text, size_t n, struct kv_match_question *q,
		   unsigned *bad_line)
{
	size_t lines = count_lines(text, text + n);
	unsigned bad;

	*q = (struct kv_match_question){.n = 0};
	if (lines > KV_MATCH_NAMES_MAX + 1)
		return -E2BIG;
	q->names = calloc(lines + 1, sizeof(*q->names));
	if (!q->names)
		return -ENOMEM;
	bad = take_all(text, text + n, q);
	if (!bad)
		return 0;
	kv_match_fini(q);
	*bad_line = bad;
	return -EINVAL;
}

void kv_match_fini(struct kv_match_question *q)
{
	free(q->names);
	q->names = NULL;
}
