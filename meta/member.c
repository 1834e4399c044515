// SPDX-License-Identifier: MIT
#include "meta/member.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "meta/record.h"

#define MEMBER_VERSION 1

/* What is left of a line. */
struct words {
	const char *p, *end;
};

static bool is_visible(char c)
{
	return c > ' ' && c < 127;
}

/* The next word; false: there is none, or it has a byte that none has. */
static bool word(struct words *w, const char **p, size_t *n)
{
	*p = w->p;
	while (w->p < w->end && is_visible(*w->p))
		w->p++;
	*n = (size_t)(w->p - *p);
	if (w->p < w->end && *w->p++ != ' ')
		return false;
	return *n > 0;
}

static bool word_number(struct words *w, uint64_t max, uint64_t *v)
{
	const char *p;
	size_t n;

	if (!word(w, &p, &n))
		return false;
	*v = 0;
	for (size_t i = 0; i < n; i++)
		if (p[i] < '0' || p[i] > '9' ||
		    __builtin_mul_overflow(*v, 10u, v) ||
		    __builtin_add_overflow(*v, (unsigned)(p[i] - '0'), v))
			return false;
	return *v <= max;
}

static bool word_u32(struct words *w, uint32_t *v)
{
	uint64_t number;

	if (!word_number(w, UINT32_MAX, &number))
		return false;
	*v = (uint32_t)number;
	return true;
}

static bool word_name(struct words *w, char *out)
{
	const char *p;
	size_t n;

	return word(w, &p, &n) &&
	       !record_text_decode(p, n, out, META_NODE_NAME_MAX);
}

/* --- the record -------------------------------------------------------- */

bool member_uuid_valid(const char *u, size_t n)
{
	if (n != META_UUID_LEN)
		return false;
	for (size_t i = 0; i < n; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? u[i] != '-'
			 : !((u[i] >= '0' && u[i] <= '9') ||
			     (u[i] >= 'a' && u[i] <= 'f')))
			return false;
	}
	return true;
}

bool member_addr_valid(const char *addr)
{
	size_t n = strnlen(addr, META_ADDR_MAX + 1);

	for (size_t i = 0; i < n; i++)
		if (!is_visible(addr[i]))
			return false;
	return n && n <= META_ADDR_MAX;
}

void member_encode(const struct meta_node *node,
		   char out[static MEMBER_TEXT_MAX])
{
	const struct meta_self *s = &node->self;

	out += sprintf(out, "%d %s %s %u %u ", MEMBER_VERSION, node->uuid,
		       s->draining ? "draining" : "up", s->wire_version,
		       s->transports);
	out = record_text_encode(out, node->host);
	*out++ = ' ';
	out = record_text_encode(out, node->name);
	for (uint32_t i = 0; i < s->n_addrs; i++)
		out += sprintf(out, " %s", s->addrs[i]);
	*out = '\0';
}

static bool state_decode(struct words *w, bool *draining)
{
	const char *p;
	size_t n;

	if (!word(w, &p, &n))
		return false;
	*draining = n == 8 && !memcmp(p, "draining", n);
	return *draining || (n == 2 && !memcmp(p, "up", n));
}

static bool uuid_decode(struct words *w, char *uuid)
{
	const char *p;
	size_t n;

	if (!word(w, &p, &n) || !member_uuid_valid(p, n))
		return false;
	memcpy(uuid, p, n);
	uuid[n] = '\0';
	return true;
}

/* Of more addresses than we have room for the first ones will do. */
static bool addrs_decode(struct words *w, struct meta_self *s)
{
	const char *p;
	size_t n;

	while (w->p < w->end) {
		if (!word(w, &p, &n))
			return false;
		if (n > META_ADDR_MAX || s->n_addrs == META_ADDRS_MAX)
			continue;
		memcpy(s->addrs[s->n_addrs], p, n);
		s->addrs[s->n_addrs++][n] = '\0';
	}
	return true;
}

int member_decode(const char *text, size_t n, struct meta_node *node)
{
	struct words w = {text, text + n};
	struct meta_node v = *node;
	uint32_t version;

	memset(&v.self, 0, sizeof(v.self));
	if (!word_u32(&w, &version) || version != MEMBER_VERSION ||
	    !uuid_decode(&w, v.uuid) || !state_decode(&w, &v.self.draining) ||
	    !word_u32(&w, &v.self.wire_version) ||
	    !word_u32(&w, &v.self.transports) || !word_name(&w, v.host) ||
	    !word_name(&w, v.name) || !addrs_decode(&w, &v.self))
		return -EPROTO;
	*node = v;
	return 0;
}

/* --- load -------------------------------------------------------------- */

void member_load_encode(const struct meta_load *l,
			char out[static MEMBER_LOAD_MAX])
{
	snprintf(out, MEMBER_LOAD_MAX,
		 "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %u %u",
		 l->pool_bytes, l->used_bytes, l->n_blocks,
		 l->victim_age_ms < 0 ? 0 : (uint64_t)l->victim_age_ms + 1,
		 l->n_serving, l->n_fetching);
}

int member_load_decode(const char *text, size_t n, struct meta_load *load)
{
	struct words w = {text, text + n};
	struct meta_load l;
	uint64_t age;

	if (!word_number(&w, UINT64_MAX, &l.pool_bytes) ||
	    !word_number(&w, UINT64_MAX, &l.used_bytes) ||
	    !word_number(&w, UINT64_MAX, &l.n_blocks) ||
	    !word_number(&w, INT64_MAX, &age) || !word_u32(&w, &l.n_serving) ||
	    !word_u32(&w, &l.n_fetching))
		return -EPROTO;
	l.victim_age_ms = (int64_t)age - 1;
	*load = l;
	return 0;
}
