// SPDX-License-Identifier: MIT
/*
 * Grants. A slice that comes in asks where to go (a landing); while it is
 * written the grant keeps it on a list. A closed grant accepts no new landing,
 * tells the links of those that exist to stop, and is done when the last has
 * ended: only then may the memory be used for anything else.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <sys/random.h>

static struct list *bucket_of(struct engine *e, struct engine_segment segment)
{
	return &e->buckets[segment.id % GRANT_BUCKETS];
}

static struct engine_grant *find(struct engine *e,
				 struct engine_segment segment)
{
	list_for_each (l, bucket_of(e, segment)) {
		struct engine_grant *g =
			container_of(l, struct engine_grant, of_bucket);

		if (g->segment.id == segment.id &&
		    g->segment.generation == segment.generation)
			return g;
	}
	return NULL;
}

static void run_grant(struct engine *e, struct notice *n)
{
	struct engine_grant *g = container_of(n, struct engine_grant, notice);
	bool done, more;

	pthread_mutex_lock(&e->lock);
	done = g->closed && list_empty(&g->landings);
	more = !g->closed && g->contiguous > g->reported;
	if (more)
		g->reported = g->contiguous;
	if (done) {
		list_remove(&n->link); /* posted again since */
		list_remove(&g->of_peer);
		region_put(e, g->region);
		peer_release(g->peer);
		e->stats.grants_draining--;
	}
	pthread_mutex_unlock(&e->lock);
	if (more && g->ops->progress)
		g->ops->progress(g->ctx, g->reported);
	if (!done)
		return;
	g->ops->done(g->ctx, g->status);
	extents_fini(&g->arrived);
	free(g);
}

static void close_grant(struct engine_grant *g, int status)
{
	struct engine_peer *p = g->peer;
	struct engine *e = p->engine;

	if (g->closed)
		return;
	g->closed = true;
	if (!--p->n_expected)
		path_delivered(&p->coming, 0, true, clock_now_ns());
	g->status = status;
	list_remove(&g->of_bucket);
	e->stats.grants_open--;
	e->stats.grants_draining++;
	if (list_empty(&g->landings))
		notice_post(e, &g->notice);
	else
		p->divert = true;
}

static int draw_segment(struct engine *e, struct engine_segment *s)
{
	if (getrandom(&s->id, sizeof(s->id), 0) != sizeof(s->id))
		return -EAGAIN;
	s->generation = ++e->grant_serial;
	return 0;
}

static struct engine_grant *grant_new(struct engine_peer *p, struct region *r,
				      uint64_t offset, uint64_t bytes)
{
	struct engine_grant *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	list_init(&g->of_peer);
	list_init(&g->of_bucket);
	list_init(&g->landings);
	extents_init(&g->arrived);
	notice_init(&g->notice, run_grant);
	g->peer = p;
	g->region = r;
	g->offset = offset;
	g->length_bytes = g->expected = bytes;
	return g;
}

static int grant_add(struct engine_grant *g)
{
	struct engine_peer *p = g->peer;
	struct engine *e = p->engine;
	int err = draw_segment(e, &g->segment);

	if (err)
		return err;
	peer_hold(p);
	p->n_expected++;
	path_sent(&p->coming, clock_now_ns());
	list_push_back(&p->grants, &g->of_peer);
	list_push_back(bucket_of(e, g->segment), &g->of_bucket);
	e->stats.grants_open++;
	if (g->deadline_ns)
		time_by(e, g->deadline_ns);
	return 0;
}

int engine_grant_open(struct engine_peer *p, uint64_t region, uint64_t offset,
		      uint64_t length_bytes, int64_t deadline_ns,
		      const struct engine_grant_ops *ops, void *ctx,
		      struct engine_grant **grant,
		      struct engine_segment *segment)
{
	struct engine *e = p->engine;
	struct engine_grant *g;
	struct region *r;
	int err = p->local ? -EINVAL
			   : region_take(e, region, offset, length_bytes, &r);

	if (err)
		return err;
	g = grant_new(p, r, offset, length_bytes);
	pthread_mutex_lock(&e->lock);
	if (g) {
		g->deadline_ns = deadline_ns;
		g->ops = ops;
		g->ctx = ctx;
	}
	err = g ? grant_add(g) : -ENOMEM;
	if (err)
		region_put(e, r);
	pthread_mutex_unlock(&e->lock);
	if (err) {
		free(g);
		return err;
	}
	*segment = g->segment;
	*grant = g;
	return 0;
}

int engine_grant_expect(struct engine_grant *g, uint64_t bytes)
{
	struct engine_peer *p = g->peer;

	if (bytes > g->length_bytes)
		return -ERANGE;
	engine_peer_ref(p);
	pthread_mutex_lock(&p->engine->lock);
	g->expected = bytes;
	if (g->contiguous >= bytes)
		close_grant(g, 0);
	pthread_mutex_unlock(&p->engine->lock);
	grants_divert(p);
	engine_peer_put(p);
	return 0;
}

uint64_t engine_grant_progress(struct engine_grant *g)
{
	scoped_lock(&g->peer->engine->lock);

	return g->contiguous;
}

void engine_grant_close(struct engine_grant *g)
{
	struct engine_peer *p = g->peer;

	engine_peer_ref(p);
	pthread_mutex_lock(&p->engine->lock);
	close_grant(g, -ECANCELED);
	pthread_mutex_unlock(&p->engine->lock);
	grants_divert(p);
	engine_peer_put(p);
}

void grants_fail(struct engine_peer *p, int why)
{
	list_for_each (l, &p->grants)
		close_grant(container_of(l, struct engine_grant, of_peer), why);
}

int64_t grants_expire(struct engine_peer *p, int64_t now)
{
	int64_t soonest = INT64_MAX;

	list_for_each (l, &p->grants) {
		struct engine_grant *g =
			container_of(l, struct engine_grant, of_peer);

		if (!g->deadline_ns || g->closed)
			continue;
		if (g->deadline_ns <= now)
			close_grant(g, -ETIMEDOUT);
		else if (g->deadline_ns < soonest)
			soonest = g->deadline_ns;
	}
	return soonest;
}

/* ---- landings ------------------------------------------------------------ */

/* One that writes into a closed grant and was not told to stop. */
static struct engine_landing *to_divert(struct engine_peer *p)
{
	list_for_each (l, &p->grants) {
		struct engine_grant *g =
			container_of(l, struct engine_grant, of_peer);

		if (!g->closed)
			continue;
		list_for_each (k, &g->landings) {
			struct engine_landing *landing = container_of(
				k, struct engine_landing, of_grant);

			if (!landing->diverted)
				return landing;
		}
	}
	return NULL;
}

void grants_divert(struct engine_peer *p)
{
	struct engine *e = p->engine;
	struct engine_landing *landing;

	pthread_mutex_lock(&e->lock);
	while (p->divert && (landing = to_divert(p))) {
		struct engine_link *l = landing->on;
		struct engine_segment segment = landing->grant->segment;

		landing->diverted = true;
		link_hold(l);
		pthread_mutex_unlock(&e->lock);
		check_divert(l, segment);
		link_put(l);
		pthread_mutex_lock(&e->lock);
	}
	p->divert = false;
	pthread_mutex_unlock(&e->lock);
}

static int admit(struct engine_link *link, struct engine_segment segment,
		 uint64_t offset, uint32_t length_bytes,
		 struct engine_landing *landing)
{
	struct engine_grant *g = find(link->engine, segment);

	if (!g || g->peer != link->peer || link->session != link->peer->session)
		return -ESTALE;
	if (!length_bytes || offset > g->length_bytes ||
	    length_bytes > g->length_bytes - offset)
		return -ERANGE;
	if (extents_full(&g->arrived))
		return -ENOBUFS;
	region_place(g->region, g->offset + offset, length_bytes,
		     &landing->place);
	landing->grant = g;
	landing->on = link;
	landing->offset = offset;
	landing->diverted = false;
	list_push_back(&g->landings, &landing->of_grant);
	return 0;
}

int engine_landing_begin(struct engine_link *link,
			 struct engine_segment segment, uint64_t offset,
			 uint32_t length_bytes, struct engine_landing *landing)
{
	struct engine *e = link->engine;
	int err;

	check_up(link, 1u << LINK_UP);
	pthread_mutex_lock(&e->lock);
	err = admit(link, segment, offset, length_bytes, landing);
	if (err)
		e->stats.slices_refused++;
	pthread_mutex_unlock(&e->lock);
	return err;
}

void engine_data_came(struct engine_link *link, size_t n)
{
	atomic_fetch_add_explicit(&link->peer->came_bytes, n,
				  memory_order_relaxed);
}

static void landed(struct engine_grant *g, const struct engine_landing *l)
{
	struct engine_peer *p = g->peer;
	int err = extents_add(&g->arrived, l->offset,
			      l->offset + l->place.length_bytes);

	traffic_received(l->on, l->place.length_bytes);
	p->engine->stats.received_bytes += l->place.length_bytes;
	p->used_ns = clock_now_ns();
	if (g->closed)
		return;
	path_delivered(&p->coming, l->place.length_bytes, false,
		       clock_now_ns());
	if (err) {
		close_grant(g, err);
		return;
	}
	g->contiguous = extents_contiguous(&g->arrived);
	if (g->contiguous >= g->expected)
		close_grant(g, 0);
	else if (g->contiguous > g->reported && g->ops->progress)
		notice_post(p->engine, &g->notice);
}

void engine_landing_end(struct engine_landing *landing, int status)
{
	struct engine_grant *g = landing->grant;
	struct engine_peer *p = g->peer;
	struct engine *e = p->engine;

	check_up(landing->on, 1u << LINK_UP);
	assert(status <= 0);
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	peer_hold(p);
	list_remove(&landing->of_grant);
	if (!status)
		landed(g, landing);
	if (g->closed && list_empty(&g->landings))
		notice_post(e, &g->notice);
	pthread_mutex_unlock(&e->lock);
	grants_divert(p);
	engine_peer_put(p);
	up_end(e);
}
