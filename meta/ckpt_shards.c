// SPDX-License-Identifier: MIT
#include "meta/ckpt_call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "meta/ckpt_record.h"

/*
 * Who has which shards of a file. Not part of the tree's truth: it is in no
 * log, and a store that lost it is told again. The thread of ckpt tells, once
 * a tick, what is true then of each inode in the dirty set.
 */

#define SET_MAX 65536u /* past it all files are told of */
#define BATCH_FILES 64u
#define BATCH_BYTES (1u << 20)
#define TELL_NS (2 * NS_PER_S)

/* --- the set: open addressing, 0 is free; the caller holds the lock ----- */

static void set_put(uint64_t *table, size_t size, uint64_t ino)
{
	size_t at = (size_t)(ino * 0x9E3779B97F4A7C15ULL) & (size - 1);

	while (table[at] && table[at] != ino)
		at = (at + 1) & (size - 1);
	table[at] = ino;
}

static bool set_has(const struct ckpt_shard_set *s, uint64_t ino)
{
	size_t at = (size_t)(ino * 0x9E3779B97F4A7C15ULL) & (s->size - 1);

	if (!s->size)
		return false;
	while (s->table[at] && s->table[at] != ino)
		at = (at + 1) & (s->size - 1);
	return s->table[at] == ino;
}

static bool set_grow(struct ckpt_shard_set *s)
{
	size_t size = s->size ? s->size * 2 : 64;
	uint64_t *table;

	if (s->n >= SET_MAX)
		return false;
	table = calloc(size, sizeof(*table));
	if (!table)
		return false;
	for (size_t i = 0; i < s->size; i++)
		if (s->table[i])
			set_put(table, size, s->table[i]);
	free(s->table);
	s->table = table;
	s->size = size;
	return true;
}

static void set_add(struct ckpt_shard_set *s, uint64_t ino)
{
	if (s->all || set_has(s, ino))
		return;
	if (s->n * 2 >= s->size && !set_grow(s)) {
		s->all = true;
		return;
	}
	set_put(s->table, s->size, ino);
	s->n++;
}

void ckpt_shards_free(struct ckpt_shard_set *s)
{
	free(s->table);
	*s = (struct ckpt_shard_set){.table = NULL};
}

void ckpt_shards_dirty(struct meta *m, uint64_t ino)
{
	struct meta_ckpt *c = m->ckpt;

	if (!m->ckpt_ops || !ino)
		return;
	scoped_lock(&c->lock);
	set_add(&c->shards, ino);
}

/* --- telling ----------------------------------------------------------- */

struct batch {
	struct meta_ckpt *c;
	struct redis_cmd args;
	unsigned n;
	uint64_t inos[BATCH_FILES];
	int err;
};

static void batch_send(struct batch *b)
{
	struct meta *m = b->c->m;
	ckpt_answer_auto struct ckpt_answer answer = {0};

	if (!b->n)
		return;
	b->err = ckpt_write(m, clock_now_ns() + TELL_NS, "shards_set", &b->args,
			    &answer);
	for (unsigned i = 0; i < b->n && b->err; i++)
		ckpt_shards_dirty(m, b->inos[i]);
	redis_cmd_reset(&b->args);
	b->n = 0;
}

static void batch_add(struct batch *b, uint64_t ino)
{
	struct meta *m = b->c->m;
	uint8_t value[8 + CKPT_SHARDS_BYTES_MAX];
	uint64_t version = 0;
	size_t n;

	if (b->err) { /* not now */
		ckpt_shards_dirty(m, ino);
		return;
	}
	n = m->ckpt_ops->shards(m->ckpt_ctx, ino, &version, value + 8);
	if (n > CKPT_SHARDS_BYTES_MAX)
		n = CKPT_SHARDS_BYTES_MAX;
	memcpy(value, &version, sizeof(version));
	redis_cmd_uint(&b->args, ino);
	redis_cmd_bin(&b->args, value, n ? n + 8 : 0);
	b->inos[b->n++] = ino;
	if (b->n == BATCH_FILES || b->args.n_bytes > BATCH_BYTES)
		batch_send(b);
}

static void batch_add_fn(void *arg, uint64_t ino)
{
	batch_add(arg, ino);
}

void ckpt_shards_flush(struct meta_ckpt *c)
{
	const struct meta_ckpt_ops *ops = c->m->ckpt_ops;
	struct batch b = {.c = c};
	struct ckpt_shard_set s;

	pthread_mutex_lock(&c->lock);
	s = c->shards;
	if (!ops || !c->shards_ready || (!s.n && !s.all)) {
		pthread_mutex_unlock(&c->lock);
		return;
	}
	c->shards = (struct ckpt_shard_set){.table = NULL};
	pthread_mutex_unlock(&c->lock);
	if (s.all)
		ops->shards_each(c->m->ckpt_ctx, batch_add_fn, &b);
	for (size_t i = 0; i < s.size; i++)
		if (s.table[i])
			batch_add(&b, s.table[i]);
	batch_send(&b);
	redis_cmd_fini(&b.args);
	ckpt_shards_free(&s);
}

void meta_ckpt_ready(struct meta *m)
{
	struct meta_ckpt *c = m->ckpt;

	scoped_lock(&c->lock);
	c->shards_ready = true;
	c->shards.all = true;
}

/* --- asking ------------------------------------------------------------ */

/* Entries of {incarnation, length, bits}; length 0: the whole file. */
static bool holder_read(struct ckpt_cursor *c, struct ckpt_holder *h)
{
	h->incarnation = ckpt_cursor_u32(c);
	h->n_bytes = ckpt_cursor_u32(c);
	h->whole = !h->n_bytes;
	h->bits = (const uint8_t *)ckpt_cursor_bytes(c, h->n_bytes);
	if (h->whole)
		h->bits = NULL;
	return !c->bad && h->n_bytes <= CKPT_SHARDS_BYTES_MAX;
}

int ckpt_holders(struct meta *m, int64_t deadline, uint64_t ino,
		 uint64_t version,
		 void (*fn)(void *arg, const struct ckpt_holder *h), void *arg)
{
	redis_cmd_auto struct redis_cmd args = {0};
	ckpt_answer_auto struct ckpt_answer a = {0};
	struct ckpt_cursor c;
	struct ckpt_holder h;
	int err;

	redis_cmd_uint(&args, ino);
	redis_cmd_bin(&args, &version, sizeof(version));
	err = ckpt_read(m, deadline, "holders", &args, &a);
	if (err)
		return err;
	c = (struct ckpt_cursor){a.result, a.result + a.result_bytes, false};
	while (c.p < c.end)
		if (!holder_read(&c, &h))
			return ckpt_malformed("holders");
	c = (struct ckpt_cursor){a.result, a.result + a.result_bytes, false};
	while (c.p < c.end && holder_read(&c, &h))
		if (meta_node_is_reached(m, h.incarnation))
			fn(arg, &h);
	return 0;
}
