// SPDX-License-Identifier: MIT
/*
 * Batches. Nothing is allocated for what waits: a batch carries a cursor, and a
 * slice is cut when a link has room for it.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define SPARE_MAX 64

void batch_push(struct engine_peer *p, struct engine_batch *b)
{
	struct engine_batch **last = &p->batches_last[b->priority];

	b->next = NULL;
	b->prev = *last;
	if (*last)
		(*last)->next = b;
	else
		p->batches[b->priority] = b;
	*last = b;
	b->state = BATCH_QUEUED;
}

static void queue_unlink(struct engine_peer *p, struct engine_batch *b)
{
	if (b->prev)
		b->prev->next = b->next;
	else
		p->batches[b->priority] = b->next;
	if (b->next)
		b->next->prev = b->prev;
	else
		p->batches_last[b->priority] = b->prev;
}

/* Nothing more to cut: it waits for its slices. */
static void cut_push(struct engine_peer *p, struct engine_batch *b)
{
	queue_unlink(p, b);
	b->prev = NULL;
	b->next = p->cut;
	if (b->next)
		b->next->prev = b;
	p->cut = b;
	b->state = BATCH_CUT;
}

static void cut_unlink(struct engine_peer *p, struct engine_batch *b)
{
	if (b->prev)
		b->prev->next = b->next;
	else
		p->cut = b->next;
	if (b->next)
		b->next->prev = b->prev;
	b->prev = b->next = NULL;
}

/* With the last bytes; or, where there was no memory for it, or none of them
 * went, at the end. */
static void answer(struct engine_batch *b)
{
	uint32_t n = b->status ? 0 : b->answer_bytes;

	if (b->answers && !b->answered)
		b->answered = call_answer(b->peer, b->answers, b->status,
					  b->answer, n) != -ENOMEM;
}

/* ---- slices -------------------------------------------------------------- */

static struct engine_slice *slice_new(struct engine *e)
{
	struct list *l = list_pop_front(&e->spare_slices);

	if (!l)
		return calloc(1, sizeof(struct engine_slice));
	e->n_spare--;
	return memset(container_of(l, struct engine_slice, of_peer), 0,
		      sizeof(struct engine_slice));
}

static void slice_free(struct engine *e, struct engine_slice *s)
{
	if (e->n_spare == SPARE_MAX) {
		free(s);
		return;
	}
	e->n_spare++;
	list_push_front(&e->spare_slices, &s->of_peer);
}

static void slice_fill(struct engine *e, struct engine_slice *s,
		       struct engine_batch *b, uint32_t bytes)
{
	const struct engine_xfer *x = &b->xfers[b->at_xfer];

	list_init(&s->link);
	list_init(&s->of_peer);
	s->op = x->op;
	s->priority = b->priority;
	s->batch = b;
	s->xfer = b->at_xfer;
	s->length_bytes = bytes;
	region_place(region_of(e, x->region), x->offset + b->at_bytes, bytes,
		     &s->from);
	if (x->op == ENGINE_COPY) {
		region_place(region_of(e, x->to_region),
			     x->to_offset + b->at_bytes, bytes, &s->to);
	} else {
		s->segment = x->segment;
		s->to_offset = x->to_offset + b->at_bytes;
	}
}

struct engine_slice *batch_cut(struct engine_peer *p,
			       enum engine_priority priority, uint32_t most)
{
	struct engine_batch *b = p->batches[priority];
	struct engine_slice *s = b ? slice_new(p->engine) : NULL;
	uint64_t left;

	if (!s)
		return NULL; /* no memory: what is out comes back and pumps */
	left = b->xfers[b->at_xfer].length_bytes - b->at_bytes;
	slice_fill(p->engine, s, b, left < most ? (uint32_t)left : most);
	b->at_bytes += s->length_bytes;
	b->n_in_flight++;
	if (b->at_bytes == b->xfers[b->at_xfer].length_bytes) {
		b->at_bytes = 0;
		b->at_xfer++;
	}
	if (b->at_xfer == b->n_xfers) {
		cut_push(p, b);
		answer(b);
	}
	return s;
}

int batch_next_node(const struct engine_peer *p)
{
	for (int i = 0; i < ENGINE_PRIORITIES; i++) {
		const struct engine_batch *b = p->batches[i];

		if (!list_empty(&p->retry[i]))
			return NUMA_UNKNOWN; /* wherever there is room */
		if (b)
			return region_of(p->engine, b->xfers[b->at_xfer].region)
				->numa_node;
	}
	return NUMA_UNKNOWN;
}

bool peer_has_slices(const struct engine_peer *p)
{
	for (int i = 0; i < ENGINE_PRIORITIES; i++)
		if (p->batches[i] || !list_empty(&p->retry[i]))
			return true;
	return false;
}

/* ---- the end of a batch -------------------------------------------------- */

static void batch_release(struct engine *e, struct engine_batch *b)
{
	for (uint32_t i = 0; i < b->n_xfers; i++) {
		region_put(e, region_of(e, b->xfers[i].region));
		if (b->xfers[i].op == ENGINE_COPY)
			region_put(e, region_of(e, b->xfers[i].to_region));
	}
	peer_release(b->peer);
}

void run_batches(struct engine *e, struct notice *n)
{
	struct engine_batch *b;

	(void)n;
	for (;;) {
		pthread_mutex_lock(&e->lock);
		b = e->done_batches;
		if (b) {
			e->done_batches = b->next;
			batch_release(e, b);
		}
		pthread_mutex_unlock(&e->lock);
		if (!b)
			return;
		b->done(b, b->status);
	}
}

void batch_settle(struct engine_batch *b)
{
	struct engine *e = b->peer->engine;

	if (b->state != BATCH_CUT || b->n_in_flight || b->n_retry)
		return;
	cut_unlink(b->peer, b);
	b->state = BATCH_DONE;
	answer(b);
	b->peer->queued_bytes -= b->total_bytes;
	if (e->done_batches)
		e->done_batches_last->next = b;
	else
		e->done_batches = b;
	e->done_batches_last = b;
	notice_post(e, &e->batches_notice);
}

static void drop_retries(struct engine_batch *b)
{
	struct list *head = &b->peer->retry[b->priority];

	list_for_each_safe (l, head) {
		struct engine_slice *s =
			container_of(l, struct engine_slice, of_peer);

		if (s->batch != b)
			continue;
		b->xfers[s->xfer].result = b->status;
		b->n_retry--;
		list_remove(l);
		slice_free(b->peer->engine, s);
	}
}

void batch_fail(struct engine_batch *b, int status)
{
	struct engine_peer *p = b->peer;

	if (b->status)
		return;
	b->status = status;
	for (uint32_t i = b->at_xfer; i < b->n_xfers; i++)
		b->xfers[i].result = status;
	if (b->state == BATCH_QUEUED)
		cut_push(p, b);
	drop_retries(b);
	if (!b->n_in_flight)
		return;
	b->grace_ns = clock_now_ns() + GRACE_NS;
	p->recall = true;
	time_by(p->engine, b->grace_ns);
}

void batches_fail(struct engine_peer *p, int why)
{
	for (int i = 0; i < ENGINE_PRIORITIES; i++) {
		while (p->batches[i])
			batch_fail(p->batches[i], why);
	}
	for (struct engine_batch *b = p->cut, *next; b; b = next) {
		next = b->next;
		batch_fail(b, why);
		batch_settle(b);
	}
}

static int64_t expire(struct engine_batch *b, int64_t now)
{
	int64_t grace = b->grace_ns;

	if (b->status)
		return grace > now ? grace : now + GRACE_NS;
	if (b->until_ns > now)
		return b->until_ns;
	b->peer->engine->stats.batches_timed_out++;
	batch_fail(b, -ETIMEDOUT);
	batch_settle(b);
	return now + GRACE_NS;
}

int64_t batches_expire(struct engine_peer *p, int64_t now)
{
	int64_t soonest = INT64_MAX, by;
	struct engine_batch *next;

	for (int i = 0; i <= ENGINE_PRIORITIES; i++) {
		struct engine_batch *b =
			i < ENGINE_PRIORITIES ? p->batches[i] : p->cut;

		for (; b; b = next) {
			next = b->next;
			if (b->status && b->grace_ns <= now)
				p->recall = true;
			by = expire(b, now);
			if (by < soonest)
				soonest = by;
		}
	}
	return soonest;
}

/* ---- a slice comes back ---------------------------------------------------
 */

static void slice_detach(struct engine_slice *s)
{
	struct engine_link *l = s->on;

	assert(l->n_slices && s->batch->n_in_flight);
	l->out_bytes -= s->length_bytes;
	if (l->by)
		l->by->out_bytes -= s->length_bytes;
	l->owed_ns = 0;
	if (--l->n_slices || l->n_msgs)
		l->owed_ns = clock_now_ns();
	list_remove(&s->of_peer);
	s->batch->n_in_flight--;
	s->on = NULL;
}

static void slice_delivered(struct engine_peer *p, struct engine_slice *s)
{
	struct engine *e = p->engine;

	if (p->local)
		e->stats.copied_bytes += s->length_bytes;
	else
		e->stats.sent_bytes += s->length_bytes;
	path_delivered(&p->path, s->length_bytes, list_empty(&p->out),
		       clock_now_ns());
	slice_free(e, s);
}

static void slice_failed(struct engine_peer *p, struct engine_slice *s,
			 int status)
{
	struct engine_batch *b = s->batch;

	b->xfers[s->xfer].result = status;
	slice_free(p->engine, s);
	batch_fail(b, status);
}

/* Its link could not: another one may. */
void slice_return(struct engine_peer *p, struct engine_slice *s)
{
	struct engine_batch *b = s->batch;

	if (!b->status && s->tries + 1 < TRIES_MAX)
		traffic_retried(s);
	slice_detach(s);
	if (b->status) {
		b->xfers[s->xfer].result = b->status;
		slice_free(p->engine, s);
	} else if (++s->tries == TRIES_MAX) {
		slice_failed(p, s, -EIO);
	} else {
		p->engine->stats.slices_retried++;
		b->n_retry++;
		list_push_back(&p->retry[s->priority], &s->of_peer);
	}
	batch_settle(b);
}

void engine_slice_done(struct engine *e, struct engine_link *link,
		       struct engine_slice *s, int status, bool refused)
{
	struct engine_batch *b = s->batch;
	struct engine_peer *p = b->peer;

	assert(s->on && (!link || s->on == link) && status <= 0);
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	peer_hold(p);
	if (status && !refused && !p->local && status != -ECANCELED) {
		s->on->broken = true;
		slice_return(p, s);
	} else {
		if (!status) {
			int64_t now = clock_now_ns();

			path_delivered(&s->on->path, s->length_bytes,
				       s->on->n_slices == 1, now);
			traffic_sent(s, now);
		}
		slice_detach(s);
		if (status)
			slice_failed(p, s, b->status ? b->status : status);
		else
			slice_delivered(p, s);
		batch_settle(b);
	}
	pthread_mutex_unlock(&e->lock);
	pump(p);
	engine_peer_put(p);
	up_end(e);
}
