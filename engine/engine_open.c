// SPDX-License-Identifier: MIT
/* An engine's life. */
#include "base/cond.h"
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static struct engine *engine_new(const struct engine_config *c)
{
	struct engine *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	pthread_mutex_init(&e->lock, NULL);
	cond_init(&e->wake);
	cond_init(&e->turns);
	e->self = c->self;
	if (c->callbacks)
		e->callbacks = *c->callbacks;
	e->ctx = c->ctx;
	e->links_per_address = c->links_per_address;
	e->connect_timeout_ns =
		NS_PER_MS *
		(c->connect_timeout_ms ? c->connect_timeout_ms : 1000);
	e->silence_ns = NS_PER_MS * (c->silence_ms ? c->silence_ms : 2000);
	e->next_ns = INT64_MAX;
	numa_load(c->sys ? c->sys : "/sys", &e->numa);
	list_init(&e->peers);
	list_init(&e->spare_slices);
	list_init(&e->notices);
	for (int i = 0; i < GRANT_BUCKETS; i++)
		list_init(&e->buckets[i]);
	notice_init(&e->batches_notice, run_batches);
	notice_init(&e->calls_notice, run_calls);
	return e;
}

static void slices_free(struct engine *e)
{
	struct list *l;

	while ((l = list_pop_front(&e->spare_slices)))
		free(container_of(l, struct engine_slice, of_peer));
}

/* Whatever handles are still held: they are void now. */
static void peers_free(struct engine *e)
{
	list_for_each_safe (l, &e->peers) {
		struct engine_peer *p =
			container_of(l, struct engine_peer, of_engine);

		assert(p->local || (!p->n_links && !p->session));
		list_for_each_safe (k, &p->links)
			free(container_of(k, struct engine_link, of_peer));
		free(p);
	}
}

static void engine_free(struct engine *e)
{
	while (e->n_transports) {
		uint32_t i = e->n_transports - 1;

		e->ops[i]->close(e->transports[i]);
		/* Regions are told to the others only from now on. */
		for (uint32_t k = 0; k < e->n_slots; k++)
			if (e->regions[k])
				e->regions[k]->known[i] = false;
		e->n_transports--;
	}
	peers_free(e);
	regions_free(e);
	slices_free(e);
	pthread_cond_destroy(&e->wake);
	pthread_cond_destroy(&e->turns);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

/* A local transport is a peer with one link that is always up. */
static int local_add(struct engine *e, uint32_t which,
		     const struct transport_ops *ops, struct transport *t)
{
	struct engine_node nobody = {.uuid = {0}};
	struct engine_link *l = calloc(1, sizeof(*l));
	struct engine_peer *p = l ? peer_new(e, &nobody) : NULL;

	if (!p) {
		free(l);
		return -ENOMEM;
	}
	engine_link_init(l, e, ops, t, NULL);
	l->state = LINK_UP;
	l->peer = p;
	list_push_back(&p->links, &l->of_peer);
	p->refs = 1;
	p->local = true;
	e->here[which] = p;
	return 0;
}

static int transports_open(struct engine *e, const struct engine_config *c)
{
	struct transport_config tc = {
		.engine = e,
		.self = c->self,
		.keys = c->keys,
		.tls = c->tls,
		.rdma_devices = c->rdma_devices,
	};
	uint32_t n_local = 0;
	int err = 0;

	for (int i = 0; engine_transports[i] && !err; i++) {
		const struct transport_ops *ops = engine_transports[i];
		struct transport *t;

		assert(e->n_transports < ENGINE_TRANSPORTS_MAX);
		err = ops->open(&t, &tc);
		if (err)
			return err;
		e->ops[e->n_transports] = ops;
		e->transports[e->n_transports++] = t;
		if (!ops->schemes)
			err = local_add(e, n_local++, ops, t);
	}
	assert(err || n_local == 2);
	return err;
}

static int listen_all(struct engine *e, const struct engine_config *c)
{
	int err = 0;

	if (c->n_listen > ENGINE_LISTEN_MAX) {
		log_error("engine: listen: more than %d addresses",
			  ENGINE_LISTEN_MAX);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < c->n_listen && !err; i++) {
		struct transport *t = NULL;
		const struct transport_ops *ops =
			engine_scheme(e, c->listen[i], &t);

		if (!ops || strlen(c->listen[i]) >= ENGINE_ADDRESS_BYTES) {
			log_error("engine: listen: %s: no such kind of address",
				  c->listen[i]);
			return -EINVAL;
		}
		e->listen_ops[i] = ops;
		err = ops->listen(t, c->listen[i], e->listen[i]);
		if (!err)
			e->n_listen++;
	}
	return err;
}

static void quiet_all(struct engine *e)
{
	for (uint32_t i = 0; i < e->n_transports; i++)
		if (e->ops[i]->quiet)
			e->ops[i]->quiet(e->transports[i]);
}

int engine_open(struct engine **out, const struct engine_config *c)
{
	struct engine *e = engine_new(c);
	int err;

	if (!e)
		return -ENOMEM;
	err = transports_open(e, c);
	if (err) {
		engine_free(e);
		return err;
	}
	err = pthread_create(&e->thread, NULL, time_thread, e);
	if (err) {
		log_error("engine: cannot start a thread: %s", strerror(err));
		engine_free(e);
		return -err;
	}
	err = listen_all(e, c);
	if (err)
		engine_close(e);
	else
		*out = e;
	return err;
}

/* ---- closing ------------------------------------------------------------- */

static bool peer_is_over(const struct engine_peer *p)
{
	return !peer_wants(p) && list_empty(&p->grants) && !p->turn &&
	       (p->local || !p->n_links);
}

/* Ask once more whatever is still there to end. */
static void end_peers(struct engine *e)
{
	struct engine_peer *p = NULL, *next;

	pthread_mutex_lock(&e->lock);
	for (struct list *l = e->peers.next; l != &e->peers; l = l->next) {
		next = container_of(l, struct engine_peer, of_engine);
		peer_hold(next);
		if (next->local)
			batches_fail(next, -ESHUTDOWN);
		else if (!next->n_links)
			peer_session_end(next, -ESHUTDOWN);
		pthread_mutex_unlock(&e->lock);
		if (p)
			engine_peer_put(p);
		p = next;
		links_close(p, -ESHUTDOWN);
		pump(p);
		pthread_mutex_lock(&e->lock);
	}
	pthread_mutex_unlock(&e->lock);
	if (p)
		engine_peer_put(p);
}

static bool is_over(struct engine *e)
{
	list_for_each (l, &e->peers)
		if (!peer_is_over(
			    container_of(l, struct engine_peer, of_engine)))
			return false;
	return !e->n_links && list_empty(&e->notices) && !e->running &&
	       !atomic_load(&e->n_inside);
}

void engine_close(struct engine *e)
{
	struct timespec soon;

	if (!e)
		return;
	assert(!up_inside());
	pthread_mutex_lock(&e->lock);
	e->closing = true;
	pthread_mutex_unlock(&e->lock);
	quiet_all(e);
	end_peers(e);
	pthread_mutex_lock(&e->lock);
	while (!is_over(e)) {
		pthread_cond_signal(&e->wake);
		soon = clock_timespec(clock_now_ns() + 5 * NS_PER_MS);
		pthread_cond_timedwait(&e->turns, &e->lock, &soon);
		pthread_mutex_unlock(&e->lock);
		end_peers(e);
		pthread_mutex_lock(&e->lock);
	}
	e->stop = true;
	pthread_cond_signal(&e->wake);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	engine_free(e);
}

const char *engine_address(struct engine *e, uint32_t i)
{
	return i < e->n_listen ? e->listen[i] : NULL;
}

void engine_stats(struct engine *e, struct engine_stats *stats)
{
	scoped_lock(&e->lock);

	*stats = e->stats;
	stats->regions = e->n_regions;
	list_for_each (l, &e->peers) {
		const struct engine_peer *p =
			container_of(l, struct engine_peer, of_engine);

		stats->peers_up += !p->local && p->n_up > 0;
		stats->links_up += p->n_up;
	}
}
