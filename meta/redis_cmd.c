// SPDX-License-Identifier: MIT
#include "meta/redis.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool room_for(struct redis_cmd *c, size_t n)
{
	if (c->err)
		return false;
	if (c->n_bytes + n > c->cap_bytes) {
		size_t cap = (c->n_bytes + n) * 2 + 256;
		char *bytes = realloc(c->bytes, cap);

		if (!bytes)
			goto fail;
		c->bytes = bytes;
		c->cap_bytes = cap;
	}
	if (c->n_args == c->cap_args) {
		size_t cap = c->cap_args * 2 + 16;
		size_t *ends = realloc(c->ends, cap * sizeof(*ends));

		if (!ends)
			goto fail;
		c->ends = ends;
		c->cap_args = cap;
	}
	return true;
fail:
	c->err = -ENOMEM;
	return false;
}

void redis_cmd_bin(struct redis_cmd *c, const void *p, size_t n)
{
	if (!room_for(c, n))
		return;
	if (n)
		memcpy(c->bytes + c->n_bytes, p, n);
	c->n_bytes += n;
	c->ends[c->n_args++] = c->n_bytes;
}

void redis_cmd_str(struct redis_cmd *c, const char *text)
{
	redis_cmd_bin(c, text, strlen(text));
}

void redis_cmd_int(struct redis_cmd *c, int64_t v)
{
	redis_cmd_printf(c, "%" PRId64, v);
}

void redis_cmd_uint(struct redis_cmd *c, uint64_t v)
{
	redis_cmd_printf(c, "%" PRIu64, v);
}

void redis_cmd_printf(struct redis_cmd *c, const char *fmt, ...)
{
	char small[128];
	char *text = small;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(small, sizeof(small), fmt, ap);
	va_end(ap);
	if (n < 0) {
		c->err = -ENOMEM;
		return;
	}
	if ((size_t)n >= sizeof(small)) {
		va_start(ap, fmt);
		n = vasprintf(&text, fmt, ap);
		va_end(ap);
		if (n < 0) {
			c->err = -ENOMEM;
			return;
		}
	}
	redis_cmd_bin(c, text, (size_t)n);
	if (text != small)
		free(text);
}

void redis_cmd_words(struct redis_cmd *c, const char *text)
{
	while (*text) {
		size_t n = strcspn(text, " ");

		redis_cmd_bin(c, text, n);
		text += n;
		if (*text)
			text++;
	}
}

void redis_cmd_reset(struct redis_cmd *c)
{
	c->n_bytes = 0;
	c->n_args = 0;
	c->err = 0;
}

void redis_cmd_fini(struct redis_cmd *c)
{
	free(c->bytes);
	free(c->ends);
	memset(c, 0, sizeof(*c));
}
