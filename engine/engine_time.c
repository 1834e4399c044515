// SPDX-License-Identifier: MIT
/*
 * The engine's own thread: deadlines, silence, reconnects, and the callbacks
 * that a caller's function caused. With nothing due it sleeps; a deadline that
 * is later than the one it sleeps for does not wake it.
 */
#include "engine/engine_internal.h"

#include <errno.h>

#define PEERS_AT_ONCE 64

void time_by(struct engine *e, int64_t when_ns)
{
	if (when_ns >= e->next_ns)
		return;
	e->next_ns = when_ns;
	pthread_cond_signal(&e->wake);
}

static int64_t heard(const struct engine_link *l)
{
	int64_t t = atomic_load(&l->heard_ns);

	return t > l->owed_ns ? t : l->owed_ns;
}

/* What one link needs: its end (returns why), a ping, or nothing (0). */
static int link_needs(const struct engine *e, const struct engine_link *l,
		      int64_t now)
{
	if (l->broken)
		return 0;
	if (l->state != LINK_UP)
		return now - l->since_ns > e->connect_timeout_ns ? -ETIMEDOUT
								 : 0;
	if (l->owed_ns && now - heard(l) > e->silence_ns)
		return -ETIMEDOUT;
	return !l->n_msgs && now - heard(l) > e->silence_ns / 2;
}

static bool is_idle(const struct engine_peer *p, int64_t now)
{
	/* The links' references, and time_pass' own. */
	return p->session && p->refs == p->n_links + 1 &&
	       now - p->used_ns > IDLE_NS;
}

static void links_tick(struct engine_peer *p, int64_t now)
{
	struct engine_link *links[2 * ENGINE_LINKS_MAX];
	int needs[2 * ENGINE_LINKS_MAX];
	struct engine *e = p->engine;
	uint32_t n = 0;
	bool idle;

	pthread_mutex_lock(&e->lock);
	idle = is_idle(p, now);
	list_for_each (k, &p->links) {
		struct engine_link *l =
			container_of(k, struct engine_link, of_peer);

		needs[n] = idle ? -ESHUTDOWN : link_needs(e, l, now);
		if (!needs[n])
			continue;
		l->broken |= needs[n] < 0;
		link_hold(l);
		links[n++] = l;
	}
	if (p->n_links)
		time_by(e, now + e->silence_ns / 4);
	pthread_mutex_unlock(&e->lock);
	for (uint32_t i = 0; i < n; i++) {
		if (needs[i] < 0)
			check_close(links[i], needs[i]);
		else
			msg_ping(links[i]);
		link_put(links[i]);
	}
}

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static void peer_tick(struct engine_peer *p, int64_t now)
{
	struct engine *e = p->engine;
	int64_t next;

	pthread_mutex_lock(&e->lock);
	next = calls_expire(p, now);
	next = least(next, batches_expire(p, now));
	next = least(next, grants_expire(p, now));
	time_by(e, next);
	pthread_mutex_unlock(&e->lock);
	grants_divert(p);
	if (!p->local) {
		links_tick(p, now);
		peer_connect(p, now);
	}
	pump(p);
}

/* Some peers after this one, held; the list may change between two calls. */
static uint32_t peers_after(struct engine *e, struct engine_peer *last,
			    struct engine_peer **some)
{
	struct list *l = last ? last->of_engine.next : e->peers.next;
	uint32_t n = 0;

	for (; l != &e->peers && n < PEERS_AT_ONCE; l = l->next) {
		some[n] = container_of(l, struct engine_peer, of_engine);
		peer_hold(some[n++]);
	}
	return n;
}

void time_pass(struct engine *e, int64_t now)
{
	struct engine_peer *some[PEERS_AT_ONCE], *last = NULL;
	uint32_t n;

	do {
		pthread_mutex_lock(&e->lock);
		n = peers_after(e, last, some);
		if (last)
			peer_release(last);
		pthread_mutex_unlock(&e->lock);
		for (uint32_t i = 0; i < n; i++) {
			peer_tick(some[i], now);
			if (i + 1 < n)
				engine_peer_put(some[i]);
		}
		last = n ? some[n - 1] : NULL;
	} while (last);
}

static void wait_until(struct engine *e, int64_t when_ns)
{
	struct timespec t = clock_timespec(when_ns);

	if (when_ns == INT64_MAX)
		pthread_cond_wait(&e->wake, &e->lock);
	else
		pthread_cond_timedwait(&e->wake, &e->lock, &t);
}

void *time_thread(void *arg)
{
	struct engine *e = arg;

	pthread_setname_np(pthread_self(), "kvfs-engine");
	pthread_mutex_lock(&e->lock);
	while (!e->stop) {
		int64_t now = clock_now_ns();
		bool due = e->next_ns <= now;
		bool notices = !list_empty(&e->notices) && !e->running;

		if (!due && !notices) {
			wait_until(e, e->next_ns);
			continue;
		}
		if (due)
			e->next_ns = INT64_MAX;
		pthread_mutex_unlock(&e->lock);
		if (due)
			time_pass(e, now);
		notices_run(e);
		pthread_mutex_lock(&e->lock);
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}
