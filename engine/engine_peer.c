// SPDX-License-Identifier: MIT
/*
 * Peers and their sessions. A peer is one life of a node: another incarnation
 * is another peer. Its session lasts while a link is admitted or up; it has a
 * number that both sides know, and a number that ended does not come back: the
 * two sides may not disagree about where the messages begin.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static bool same_node(const struct engine_node *a, const struct engine_node *b)
{
	return !memcmp(a->uuid, b->uuid, sizeof(a->uuid)) &&
	       (!a->incarnation || !b->incarnation ||
		a->incarnation == b->incarnation);
}

struct engine_peer *peer_find(struct engine *e, const struct engine_node *n)
{
	struct engine_peer *found = NULL;

	list_for_each (l, &e->peers) {
		struct engine_peer *p =
			container_of(l, struct engine_peer, of_engine);

		if (same_node(&p->node, n) &&
		    (!found || p->node.incarnation > found->node.incarnation))
			found = p;
	}
	return found;
}

/* Is a later life of this node known? */
static bool is_stale(struct engine *e, const struct engine_node *n)
{
	list_for_each (l, &e->peers) {
		struct engine_peer *p =
			container_of(l, struct engine_peer, of_engine);

		if (!memcmp(p->node.uuid, n->uuid, sizeof(n->uuid)) &&
		    n->incarnation && p->node.incarnation > n->incarnation)
			return true;
	}
	return false;
}

static void run_state(struct engine *e, struct notice *n)
{
	struct engine_peer *p =
		container_of(n, struct engine_peer, state_notice);

	scoped_lock(&e->lock);
	peer_turn_take(p);
	peer_report(p);
	peer_turn_give(p);
	peer_release(p);
}

struct engine_peer *peer_new(struct engine *e, const struct engine_node *n)
{
	struct engine_peer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->engine = e;
	p->node = *n;
	list_init(&p->links);
	list_init(&p->msgs);
	list_init(&p->resend);
	list_init(&p->unacked);
	list_init(&p->out);
	list_init(&p->grants);
	for (int i = 0; i < ENGINE_PRIORITIES; i++)
		list_init(&p->retry[i]);
	notice_init(&p->state_notice, run_state);
	list_push_back(&e->peers, &p->of_engine);
	return p;
}

void peer_hold(struct engine_peer *p)
{
	p->refs++;
}

void peer_release(struct engine_peer *p)
{
	assert(p->refs);
	if (--p->refs)
		return;
	list_remove(&p->of_engine);
	free(p);
}

const struct transport_ops *engine_scheme(struct engine *e, const char *address,
					  struct transport **t)
{
	const struct transport_ops *ops = engine_transport_of(address);

	for (uint32_t i = 0; i < e->n_transports; i++) {
		if (e->ops[i] != ops)
			continue;
		*t = e->transports[i];
		return ops;
	}
	return NULL;
}

static int address_set(struct engine *e, struct peer_address *a,
		       const char *text)
{
	struct transport *t = NULL;
	const struct transport_ops *ops = engine_scheme(e, text, &t);

	if (!ops || strlen(text) >= sizeof(a->text))
		return -EINVAL;
	if (!strcmp(a->text, text))
		return 0;
	snprintf(a->text, sizeof(a->text), "%s", text);
	a->ops = ops;
	a->transport = t;
	a->n_wanted = e->links_per_address ? e->links_per_address : ops->links;
	assert(a->n_wanted <= ENGINE_ADDRESS_LINKS_MAX);
	a->backoff_ns = a->after_ns = a->failed_ns = 0;
	return 0;
}

static int addresses_set(struct engine_peer *p, const char *const *text,
			 uint32_t n)
{
	struct peer_address probe;
	int err = 0;

	for (uint32_t i = 0; i < n && !err; i++) {
		memset(&probe, 0, sizeof(probe));
		err = address_set(p->engine, &probe, text[i]);
	}
	if (err)
		return err;
	/* Links that exist keep their index; a list that changed under them is
	 * taken over once they are gone. */
	if (p->n_links && n < p->n_addresses)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		address_set(p->engine, &p->addresses[i], text[i]);
	if (n)
		p->n_addresses = n;
	return 0;
}

int engine_peer_get(struct engine *e, const struct engine_node *node,
		    const char *const *addresses, uint32_t n,
		    struct engine_peer **peer)
{
	scoped_lock(&e->lock);
	struct engine_peer *p;
	int err;

	if (n > ENGINE_ADDRESSES_MAX)
		return -EINVAL;
	if (is_stale(e, node))
		return -ESTALE;
	p = peer_find(e, node);
	if (!p)
		p = peer_new(e, node);
	if (!p)
		return -ENOMEM;
	peer_hold(p);
	err = addresses_set(p, addresses, n);
	if (err)
		peer_release(p);
	else
		*peer = p;
	return err;
}

void engine_peer_ref(struct engine_peer *p)
{
	scoped_lock(&p->engine->lock);
	peer_hold(p);
}

void engine_peer_put(struct engine_peer *p)
{
	struct engine *e = p->engine;

	scoped_lock(&e->lock);
	p->used_ns = clock_now_ns();
	peer_release(p);
}

void engine_peer_drop(struct engine_peer *p, int why)
{
	links_close(p, why);
}

void engine_peer_set_user(struct engine_peer *p, void *user)
{
	scoped_lock(&p->engine->lock);
	p->user = user;
}

void engine_peer_info(struct engine_peer *p, struct engine_peer_info *info)
{
	scoped_lock(&p->engine->lock);
	bool preferred = links_preferred(p, clock_now_ns());

	*info = (struct engine_peer_info){
		.node = p->node,
		.up = p->n_up > 0,
		.n_links = p->n_up,
		.n_calls = p->n_calls,
		.queued_bytes = p->queued_bytes,
		.rate_bytes_s = p->path.bytes_s,
		.came_bytes_s = p->coming.bytes_s,
		.rtt_us = p->rtt_us,
		.traffic = p->traffic,
		.came_bytes = atomic_load(&p->came_bytes),
		.user = p->user,
	};
	list_for_each (l, &p->grants)
		info->n_draining +=
			container_of(l, struct engine_grant, of_peer)->closed;
	for (uint32_t i = 0; i < p->n_addresses; i++)
		info->n_links_wanted += p->addresses[i].n_wanted;
	list_for_each (l, &p->links) {
		struct engine_link *k =
			container_of(l, struct engine_link, of_peer);
		int64_t heard = atomic_load(&k->heard_ns);

		if (k->state == LINK_UP &&
		    (!info->via || k->ops->preferred == preferred))
			info->via = k->ops->name;

		if (heard > info->heard_ns)
			info->heard_ns = heard;
	}
}

int peer_usable(struct engine_peer *p)
{
	int64_t now;

	if (p->engine->closing)
		return -ESHUTDOWN;
	if (p->local || p->session || p->n_links)
		return 0;
	if (!p->n_addresses)
		return -ENOTCONN;
	now = clock_now_ns();
	for (uint32_t i = 0; i < p->n_addresses; i++)
		if (p->addresses[i].after_ns <= now)
			return 0;
	return p->connect_by_ns > now ? 0 : -EHOSTDOWN;
}

bool peer_wants(const struct engine_peer *p)
{
	return !list_empty(&p->msgs) || p->calls || p->cut ||
	       peer_has_slices(p);
}

/* ---- sessions ----------------------------------------------------------- */

void peer_session_begin(struct engine_peer *p, uint64_t session)
{
	p->session = session;
	p->proposed = 0;
	p->n_sessions++;
	p->announced = false;
	p->next_seq = 1;
	p->seen_seq = 0;
	p->n_asked = 0;
	p->connect_by_ns = 0;
	p->used_ns = clock_now_ns();
	p->engine->stats.sessions_begun++;
}

void peer_session_end(struct engine_peer *p, int why)
{
	struct engine *e = p->engine;

	/* One that never was up is forgotten, and not the one before it: they
	 * refused it, maybe as that still lives for them. It must not be begun
	 * again here, as if nothing had been said. */
	if (p->announced)
		p->ended = p->session;
	e->stats.sessions_lost += !!p->session;
	p->session = p->proposed = 0;
	p->connect_by_ns = 0;
	p->n_asked = 0;
	p->control = NULL;
	p->down_why = p->last_error = why;
	p->announced = false;
	if (why != -ESHUTDOWN) /* the idle's end, or ours */
		failure_note(e, &p->node, why);
	why = e->closing ? -ESHUTDOWN : -ENOTCONN;
	msgs_drop(p);
	calls_fail(p, why);
	batches_fail(p, why);
	grants_fail(p, why);
	if (!p->reported || !list_empty(&p->state_notice.link))
		return;
	peer_hold(p);
	notice_post(e, &p->state_notice);
}

/* ---- callbacks about a peer, one at a time ------------------------------- */

void peer_turn_take(struct engine_peer *p)
{
	peer_hold(p);
	while (p->turn)
		pthread_cond_wait(&p->engine->turns, &p->engine->lock);
	p->turn = true;
}

void peer_turn_give(struct engine_peer *p)
{
	p->turn = false;
	pthread_cond_broadcast(&p->engine->turns);
	peer_release(p);
}

static void report_down(struct engine_peer *p)
{
	struct engine *e = p->engine;
	int why = p->down_why;

	p->reported = 0;
	pthread_mutex_unlock(&e->lock);
	if (e->callbacks.on_peer_down)
		e->callbacks.on_peer_down(e->ctx, p, why);
	pthread_mutex_lock(&e->lock);
}

static void report_up(struct engine_peer *p)
{
	struct engine *e = p->engine;

	p->reported = p->n_sessions;
	pthread_mutex_unlock(&e->lock);
	if (e->callbacks.on_peer_up)
		e->callbacks.on_peer_up(e->ctx, p);
	pthread_mutex_lock(&e->lock);
}

void peer_report(struct engine_peer *p)
{
	for (;;) {
		bool up = p->session && p->announced;

		if (p->reported && (!up || p->reported != p->n_sessions))
			report_down(p);
		else if (up && !p->reported)
			report_up(p);
		else
			return;
	}
}
