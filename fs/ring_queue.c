// SPDX-License-Identifier: MIT
#include "fs/ring_queue.h"

#include <errno.h>
#include <string.h>

#include "base/sigbus.h"

uint64_t ring_queue_bytes(uint32_t entries, uint64_t data_bytes)
{
	if (!entries || entries > KVFS_RING_ENTRIES_MAX ||
	    entries & (entries - 1) || !data_bytes ||
	    data_bytes > KVFS_RING_DATA_MAX)
		return 0;
	return kvfs_ring_data_at(entries) + data_bytes;
}

void ring_queue_init(struct ring_queue *q, void *map, uint32_t entries,
		     uint64_t data_bytes)
{
	char *at = map;

	*q = (struct ring_queue){
		.shared = map,
		.sq = (void *)(at + KVFS_RING_SQ_AT),
		.cq = (void *)(at + kvfs_ring_cq_at(entries)),
		.data = at + kvfs_ring_data_at(entries),
		.map_bytes = ring_queue_bytes(entries, data_bytes),
		.data_bytes = data_bytes,
		.entries = entries,
	};
}

static uint32_t load(const struct kvfs_ring_word *word)
{
	return __atomic_load_n(&word->value, __ATOMIC_SEQ_CST);
}

static void store(struct kvfs_ring_word *word, uint32_t value)
{
	__atomic_store_n(&word->value, value, __ATOMIC_RELEASE);
}

/* Before a look at what the other side stores before it looks at this: all
 * four in one order, so one of us sees what the other stored. */
static void store_and_look(struct kvfs_ring_word *word, uint32_t value)
{
	__atomic_store_n(&word->value, value, __ATOMIC_SEQ_CST);
}

/* -- what the client wants ------------------------------------------------ */

struct peek {
	const struct ring_queue *q;
	struct kvfs_ring_submission *s;
	int rc;
};

/* sq_tail first: whoever stored it has stored an earlier cq_head before. */
static void peek(void *arg)
{
	struct peek *p = arg;
	const struct ring_queue *q = p->q;
	uint32_t tail = load(&q->shared->sq_tail);
	uint32_t seen = load(&q->shared->cq_head);

	if (tail == q->sq_head)
		p->rc = 0;
	else if (tail - q->sq_head > q->entries || tail - seen > q->entries)
		p->rc = -EPROTO;
	else
		p->rc = 1;
	if (p->rc == 1)
		memcpy(p->s, &q->sq[q->sq_head & (q->entries - 1)],
		       sizeof(*p->s));
}

int ring_queue_peek(const struct ring_queue *q, struct kvfs_ring_submission *s)
{
	struct peek p = {q, s, 0};
	int err = sigbus_try(peek, &p);

	return err ? err : p.rc;
}

static bool lies_inside(const struct ring_queue *q,
			const struct kvfs_ring_submission *s)
{
	uint32_t most = s->bytes > s->room ? s->bytes : s->room;

	return !s->flags && most <= KVFS_RING_BYTES_MAX &&
	       most <= q->data_bytes && s->at <= q->data_bytes - most;
}

struct take {
	struct ring_queue *q;
	const struct kvfs_ring_submission *s;
	void *to;
	bool good;
};

static void take(void *arg)
{
	struct take *t = arg;

	if (t->good)
		memcpy(t->to, t->q->data + t->s->at, t->s->bytes);
	store(&t->q->shared->sq_head, t->q->sq_head);
}

int ring_queue_take(struct ring_queue *q, const struct kvfs_ring_submission *s,
		    void *to)
{
	struct take t = {q, s, to, lies_inside(q, s)};
	int err;

	q->sq_head++;
	err = sigbus_try(take, &t);
	return err ? err : t.good ? 0 : -EINVAL;
}

/* -- what it gets --------------------------------------------------------- */

struct answer {
	char *to;
	const void *from;
	size_t size;
};

static void copy_answer(void *arg)
{
	const struct answer *a = arg;

	memcpy(a->to, a->from, a->size);
}

int ring_queue_answer(const struct ring_queue *q, uint64_t at,
		      const void *answer, size_t size)
{
	struct answer a = {q->data + at, answer, size};

	return size ? sigbus_try(copy_answer, &a) : 0;
}

struct completion {
	struct ring_queue *q;
	struct kvfs_ring_completion c;
	int rc;
};

static void complete(void *arg)
{
	struct completion *c = arg;
	struct ring_queue *q = c->q;
	struct kvfs_ring_word *client = &q->shared->client;

	q->cq[q->cq_tail & (q->entries - 1)] = c->c;
	/* The client sets its flag, then looks at cq_tail once more. */
	store_and_look(&q->shared->cq_tail, q->cq_tail + 1);
	if (load(client) & KVFS_RING_WANT_EVENT)
		c->rc = __atomic_exchange_n(&client->value, 0,
					    __ATOMIC_RELAXED) &
			KVFS_RING_WANT_EVENT;
}

int ring_queue_complete(struct ring_queue *q, uint64_t user_data, int result)
{
	struct completion c = {
		.q = q,
		.c = {.user_data = user_data, .result = result},
	};
	int err = sigbus_try(complete, &c);

	q->cq_tail++;
	return err ? err : c.rc;
}

static void show(void *arg)
{
	struct ring_queue *q = arg;

	store_and_look(&q->shared->daemon, q->flags);
}

int ring_queue_flag(struct ring_queue *q, uint32_t flag, bool on)
{
	q->flags = on ? q->flags | flag : q->flags & ~flag;
	return sigbus_try(show, q);
}
