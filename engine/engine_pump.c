// SPDX-License-Identifier: MIT
/*
 * Handing out. A link gets no more than its window, so an urgent batch waits
 * behind that at most. The next slice goes by the card that is best for its
 * memory, and of equal ones where it costs least (path.h): load spreads by what
 * the paths really carry. A link that owes an answer for long is avoided while
 * another has room; when it owes one for too long it is closed (engine_time.c),
 * and its slices go first.
 */
#include "engine/engine_internal.h"

#include <errno.h>

static bool has_room(const struct engine_link *l, bool preferred)
{
	return l->state == LINK_UP && !l->broken &&
	       l->ops->preferred == preferred &&
	       l->n_slices < l->ops->window_slices &&
	       (!l->n_slices ||
		l->out_bytes + l->ops->slice_bytes <= l->ops->window_bytes);
}

static uint64_t fastest_of(const struct engine_peer *p, int64_t now)
{
	uint64_t fastest = 0, speed;

	list_for_each (l, &p->links) {
		speed = path_speed(
			&container_of(l, struct engine_link, of_peer)->path,
			now);
		if (speed > fastest)
			fastest = speed;
	}
	return fastest;
}

/* Of memory that nobody knows the place of, all are as good. */
static uint64_t rank_for(const struct engine_link *l, int node)
{
	return node >= 0 && node < NUMA_NODES_MAX ? l->rank[node] : 0;
}

static struct engine_link *best_link(struct engine_peer *p)
{
	int node = p->engine->numa.n > 1 ? batch_next_node(p) : 0;
	int64_t now = clock_now_ns();
	uint64_t fastest = fastest_of(p, now);
	bool preferred = links_preferred(p, now);
	struct engine_link *best = NULL;
	struct path_choice least = {}, this;

	list_for_each (l, &p->links) {
		struct engine_link *k =
			container_of(l, struct engine_link, of_peer);

		if (!has_room(k, preferred))
			continue;
		this = (struct path_choice){
			.late = link_is_late(k, now),
			.rank = rank_for(k, node),
			.cost = path_cost(k->out_bytes + k->ops->slice_bytes,
					  path_speed(&k->path, now), fastest),
			.card_bytes = k->by ? k->by->out_bytes : 0,
		};
		if (!best || path_better(&this, &least)) {
			least = this;
			best = k;
		}
	}
	return best;
}

static struct engine_slice *next_slice(struct engine_peer *p, uint32_t most)
{
	for (int i = 0; i < ENGINE_PRIORITIES; i++) {
		struct list *l = list_pop_front(&p->retry[i]);
		struct engine_slice *s;

		if (l) {
			s = container_of(l, struct engine_slice, of_peer);
			s->batch->n_retry--;
			s->batch->n_in_flight++;
			return s;
		}
		s = batch_cut(p, (enum engine_priority)i, most);
		if (s)
			return s;
	}
	return NULL;
}

static void slice_out(struct engine_peer *p, struct engine_link *l,
		      struct engine_slice *s)
{
	int64_t now = clock_now_ns();

	s->on = l;
	s->sent_ns = now;
	l->n_slices++;
	l->out_bytes += s->length_bytes;
	if (l->by)
		l->by->out_bytes += s->length_bytes;
	if (!l->owed_ns)
		l->owed_ns = now;
	path_sent(&l->path, now);
	path_sent(&p->path, now);
	list_push_back(&p->out, &s->of_peer);
}

static bool submit_next(struct engine_peer *p)
{
	struct engine_link *l = best_link(p);
	struct engine_slice *s = l ? next_slice(p, l->ops->slice_bytes) : NULL;
	int err;

	if (!s)
		return false;
	slice_out(p, l, s);
	link_hold(l);
	l->n_ops++;
	pthread_mutex_unlock(&p->engine->lock);
	err = check_submit(l, s);
	pthread_mutex_lock(&p->engine->lock);
	l->n_ops--;
	if (err) {
		l->broken = true;
		slice_return(p, s);
	}
	pthread_mutex_unlock(&p->engine->lock);
	link_put(l);
	pthread_mutex_lock(&p->engine->lock);
	return true;
}

static void send_messages(struct engine_peer *p)
{
	if (!p->local)
		while (msg_send_next(p))
			;
}

/* The answer that goes with a slice follows it at once, into the same send. */
static void pump_all(struct engine_peer *p)
{
	do {
		p->pump_again = false;
		send_messages(p);
		while (submit_next(p))
			send_messages(p);
	} while (p->pump_again);
}

/* Some path is made only when it is wanted: now. */
static bool is_lazy(const struct engine_peer *p)
{
	int64_t now = clock_now_ns();

	for (uint32_t i = 0; i < p->n_addresses; i++) {
		const struct peer_address *a = &p->addresses[i];

		if (a->lazy && a->n_links < a->n_wanted && a->after_ns <= now)
			return true;
	}
	return false;
}

void pump(struct engine_peer *p)
{
	struct engine *e = p->engine;
	bool connect, recall;

	pthread_mutex_lock(&e->lock);
	peer_hold(p);
	if (p->pumping) {
		p->pump_again = true;
	} else {
		p->pumping = true;
		pump_all(p);
		p->pumping = false;
	}
	connect = !p->local && peer_wants(p) && (!p->n_links || is_lazy(p));
	recall = p->recall;
	pthread_mutex_unlock(&e->lock);
	if (recall)
		slices_recall(p, clock_now_ns());
	if (connect)
		peer_connect(p, clock_now_ns());
	engine_peer_put(p);
}

/* ---- taking back --------------------------------------------------------- */

/* The next slice of a failed batch that was not asked for yet, or that did not
 * come back in time; its link is held. */
static struct engine_slice *to_recall(struct engine_peer *p, int64_t now,
				      struct engine_link **l, bool *stuck)
{
	list_for_each (k, &p->out) {
		struct engine_slice *s =
			container_of(k, struct engine_slice, of_peer);

		if (!s->batch->status)
			continue;
		*stuck = s->cancelled && !p->local && !s->on->broken &&
			 s->batch->grace_ns <= now;
		if (s->cancelled && !*stuck)
			continue;
		s->cancelled = true;
		*l = s->on;
		link_hold(*l);
		return s;
	}
	return NULL;
}

void slices_recall(struct engine_peer *p, int64_t now)
{
	struct engine *e = p->engine;
	struct engine_link *l;
	struct engine_slice *s;
	bool stuck;

	pthread_mutex_lock(&e->lock);
	p->recall = false;
	while ((s = to_recall(p, now, &l, &stuck))) {
		l->broken |= stuck;
		pthread_mutex_unlock(&e->lock);
		if (stuck)
			check_close(l, -ETIMEDOUT);
		else
			check_cancel(l, s);
		link_put(l);
		pthread_mutex_lock(&e->lock);
	}
	pthread_mutex_unlock(&e->lock);
}
