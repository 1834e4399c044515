// SPDX-License-Identifier: MIT
/*
 * Links: who may be one, and how ours come to be. An address that fails waits
 * longer and longer before it is tried again; while the session lives by other
 * links, that is how it is probed and taken back.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"

#define BACKOFF_LEAST_NS (100 * NS_PER_MS)
#define BACKOFF_MOST_NS (5 * NS_PER_S)
#define SOFT_RETRY_NS (20 * NS_PER_MS) /* both sides were connecting */
#define PROVEN_NS NS_PER_S	       /* up this long: a good address */

static uint64_t random_64(void)
{
	uint64_t r = 0;

	while (!r)
		if (getrandom(&r, sizeof(r), 0) != sizeof(r))
			r = (uint64_t)clock_now_ns();
	return r;
}

void engine_link_init(struct engine_link *l, struct engine *e,
		      const struct transport_ops *ops, struct transport *t,
		      const struct link_target *target)
{
	memset(l, 0, sizeof(*l));
	l->ops = ops;
	l->transport = t;
	l->engine = e;
	list_init(&l->of_peer);
	l->state = LINK_NEW;
	l->local = -1;
	l->refs = 1; /* until engine_link_down */
	if (!target)
		return;
	l->ours = true;
	l->peer = target->peer;
	l->address = target->index;
	l->local = target->local_index;
	l->session = target->session;
	l->refs = 2; /* and peer_connect's */
}

void link_hold(struct engine_link *l)
{
	l->refs++;
}

bool link_release(struct engine_link *l)
{
	assert(l->refs);
	return --l->refs == 0;
}

bool link_is_late(const struct engine_link *l, int64_t now)
{
	int64_t by = l->engine->silence_ns / 4;

	return l->owed_ns && now - l->owed_ns > by &&
	       now - atomic_load(&l->heard_ns) > by;
}

bool links_preferred(const struct engine_peer *p, int64_t now)
{
	bool late = false, others = false;

	list_for_each (l, &p->links) {
		const struct engine_link *k =
			container_of(l, struct engine_link, of_peer);

		if (k->state != LINK_UP || k->broken)
			continue;
		if (link_is_late(k, now))
			late |= k->ops->preferred;
		else if (k->ops->preferred)
			return true;
		else
			others = true;
	}
	return late && !others;
}

/* The transport frees it; the last one out lets engine_close go on. */
static void link_free(struct engine_link *l)
{
	struct engine *e = l->engine;

	check_free(l);
	pthread_mutex_lock(&e->lock);
	e->n_links--;
	pthread_cond_broadcast(&e->turns);
	pthread_mutex_unlock(&e->lock);
}

void link_put(struct engine_link *l)
{
	struct engine *e = l->engine;
	bool last;

	pthread_mutex_lock(&e->lock);
	last = link_release(l);
	pthread_mutex_unlock(&e->lock);
	if (last)
		link_free(l);
}

/* The core knows it from now on; whoever comes first. */
static void attach(struct engine_link *l, struct engine_peer *p)
{
	if (l->state != LINK_NEW)
		return;
	l->state = LINK_DIALING;
	if (!l->peer)
		l->peer = p;
	l->since_ns = clock_now_ns();
	peer_hold(p);
	p->n_links++;
	if (!l->ours)
		p->engine->n_links++;
	list_push_back(&p->links, &l->of_peer);
}

/* ---- ours --------------------------------------------------------------- */

/* Busy with others, it is not to be asked for the sake of being connected. */
static bool address_wanted(const struct engine_peer *p,
			   const struct peer_address *a)
{
	return a->n_links < a->n_wanted && (!a->lazy || peer_wants(p));
}

static bool address_due(const struct engine_peer *p,
			const struct peer_address *a, int64_t now)
{
	return address_wanted(p, a) && a->after_ns <= now &&
	       p->n_links < ENGINE_LINKS_MAX;
}

static uint32_t links_from(const struct engine_peer *p, int local)
{
	uint32_t n = 0;

	list_for_each (l, &p->links)
		n += container_of(l, struct engine_link, of_peer)->local ==
		     local;
	return n;
}

/*
 * Which of our addresses a link comes from. As many as they have: the i-th
 * meets the i-th, as cards of one network are listed in one order on all nodes.
 * Otherwise the one with the fewest links to this peer, so that each card has
 * some; one that got no link to there is left out while there are others.
 */
static int local_of(struct engine_peer *p, uint32_t index)
{
	struct peer_address *a = &p->addresses[index];
	const struct engine *e = p->engine;
	int best = -1;

	if (e->n_listen == p->n_addresses && e->listen_ops[index] == a->ops)
		return (int)index;
	for (int i = 0; i < (int)e->n_listen; i++)
		if (!(a->bad_locals & 1u << i) && e->listen_ops[i] == a->ops &&
		    (best < 0 || links_from(p, i) < links_from(p, best)))
			best = i;
	if (best < 0)
		a->bad_locals = 0;
	return best;
}

static void connect_one(struct engine_peer *p, uint32_t index, int64_t now)
{
	struct peer_address *a = &p->addresses[index];
	struct engine *e = p->engine;
	struct engine_link *link = NULL;
	struct link_target target = {
		.address = a->text,
		.node = p->node,
		.session = p->session ? p->session : p->proposed,
		.deadline_ns = now + e->connect_timeout_ns,
		.peer = p,
		.index = index,
		.local_index = local_of(p, index),
	};
	int err;

	if (target.local_index >= 0)
		target.local = e->listen[target.local_index];
	a->n_links++;
	e->n_links++; /* engine_close waits for what is on its way, too */
	peer_hold(p);
	pthread_mutex_unlock(&e->lock);
	err = check_connect(a->transport, a->ops, &target, &link);
	pthread_mutex_lock(&e->lock);
	if (err) {
		a->n_links--;
		e->n_links--;
		a->failed_ns = now;
		a->after_ns = now + BACKOFF_LEAST_NS;
		e->stats.connects_failed++;
		p->last_error = err;
	} else {
		attach(link, p);
		time_by(e, target.deadline_ns);
	}
	pthread_mutex_unlock(&e->lock);
	if (link)
		link_put(link);
	pthread_mutex_lock(&e->lock);
	peer_release(p);
}

/* Nothing is up, nothing on its way: what waits for this peer has failed, if
 * it is not worth another try at once. */
static void give_up(struct engine_peer *p, int64_t now)
{
	if (p->session || p->n_links || p->local)
		return;
	if (p->connect_by_ns > now && p->last_error == -EALREADY)
		return;
	peer_session_end(p, p->last_error ? p->last_error : -ENOTCONN);
}

/* It may end while connect_one has the lock open. */
static bool has_session(const struct engine_peer *p)
{
	return p->session || p->proposed;
}

void peer_connect(struct engine_peer *p, int64_t now)
{
	struct engine *e = p->engine;

	scoped_lock(&e->lock);
	if (p->local || e->closing || (!p->session && !peer_wants(p)))
		return;
	if (!has_session(p)) {
		p->proposed = random_64();
		p->connect_by_ns = now + 2 * e->connect_timeout_ns;
		p->last_error = 0;
	}
	peer_hold(p);
	for (uint32_t i = 0; i < p->n_addresses; i++) {
		struct peer_address *a = &p->addresses[i];

		while (has_session(p) && address_due(p, a, now))
			connect_one(p, i, now);
		if (address_wanted(p, a))
			time_by(e, a->after_ns);
	}
	if (has_session(p))
		give_up(p, now);
	else
		time_by(e, now); /* who came since then waits for another */
	peer_release(p);
}

static void address_failed(struct engine_peer *p, struct engine_link *l,
			   int why)
{
	struct peer_address *a = &p->addresses[l->address];
	int64_t now = clock_now_ns();
	bool proven = l->state == LINK_UP && why != -EUSERS &&
		      now - l->since_ns > PROVEN_NS;

	assert(a->n_links);
	a->n_links--;
	if (l->local >= 0 && l->state < LINK_ADMITTED && why != -EALREADY)
		a->bad_locals |= 1u << l->local;
	a->lazy = why == -EUSERS;
	p->last_error = why;
	a->failed_ns = now;
	if (why == -EALREADY) {
		a->after_ns = now + SOFT_RETRY_NS;
	} else if (proven) {
		a->backoff_ns = 0;
		a->after_ns = now;
	} else {
		a->backoff_ns =
			a->backoff_ns ? 2 * a->backoff_ns : BACKOFF_LEAST_NS;
		if (a->backoff_ns > BACKOFF_MOST_NS)
			a->backoff_ns = BACKOFF_MOST_NS;
		/* Half of it by chance: nodes do not come in step. */
		a->after_ns =
			now + a->backoff_ns / 2 +
			(int64_t)(random_64() % (uint64_t)(a->backoff_ns / 2));
	}
	time_by(p->engine, a->after_ns);
}

void engine_peer_end_backoff(struct engine_peer *p)
{
	scoped_lock(&p->engine->lock);
	int64_t now = clock_now_ns();

	for (uint32_t i = 0; i < p->n_addresses; i++) {
		struct peer_address *a = &p->addresses[i];

		if (a->after_ns > now && a->failed_ns <= now - BACKOFF_LEAST_NS)
			a->after_ns = now;
	}
}

/* ---- admission ---------------------------------------------------------- */

/* Theirs of a node that we may not know yet. */
static struct engine_peer *peer_of(struct engine *e,
				   const struct engine_node *n, int *err)
{
	struct engine_node any = *n;
	struct engine_peer *p;

	any.incarnation = 0;
	p = peer_find(e, &any);
	*err = -ESTALE;
	if (p && p->node.incarnation > n->incarnation)
		return NULL;
	p = peer_find(e, n);
	if (!p)
		p = peer_new(e, n);
	*err = -ENOMEM;
	return p;
}

/* We are connecting as well, and of the two attempts ours is to win. */
static bool ours_wins(const struct engine_peer *p)
{
	return p->n_links && memcmp(p->engine->self.uuid, p->node.uuid,
				    sizeof(p->node.uuid)) < 0;
}

static bool heard_lately(const struct engine_peer *p)
{
	int64_t since = clock_now_ns() - p->engine->silence_ns / 4;

	list_for_each (l, &p->links) {
		const struct engine_link *k =
			container_of(l, struct engine_link, of_peer);

		if (k->state == LINK_ADMITTED ||
		    atomic_load(&k->heard_ns) > since)
			return true;
	}
	return false;
}

/*
 * -EALREADY: the other session has to go first, or the other attempt wins. An
 * attempt with another session than ours is of before they knew of ours, or of
 * after they lost it: then nothing comes by ours any more.
 */
static int admit_theirs(struct engine_peer *p, uint64_t session, bool *close)
{
	*close = false;
	if (!session || session == p->ended)
		return -EALREADY;
	if (p->session && p->session != session) {
		*close = !heard_lately(p);
		return -EALREADY;
	}
	if (!p->session && p->proposed != session && ours_wins(p))
		return -EALREADY;
	return p->n_links < ENGINE_LINKS_MAX ? 0 : -EUSERS;
}

static int admit_ours(struct engine_peer *p, const struct engine_node *node,
		      uint64_t session)
{
	if (memcmp(node->uuid, p->node.uuid, sizeof(node->uuid)) ||
	    (p->node.incarnation && p->node.incarnation != node->incarnation))
		return -ESTALE;
	if (p->session ? p->session != session : p->proposed != session)
		return -EALREADY;
	return 0;
}

static void admitted(struct engine_link *l, struct engine_peer *p,
		     const struct engine_node *node, uint64_t session)
{
	attach(l, p);
	p->node = *node;
	l->state = LINK_ADMITTED;
	l->session = session;
	p->n_live++;
	if (!p->session)
		peer_session_begin(p, session);
}

static int admit(struct engine *e, struct engine_link *l,
		 const struct engine_node *node, uint64_t session,
		 struct engine_peer **quarrel)
{
	struct engine_peer *p = l->peer;
	bool close = false;
	int err;

	if (e->closing)
		return -ESHUTDOWN;
	if (!memcmp(node->uuid, e->self.uuid, sizeof(node->uuid)))
		return -EPERM;
	if (!p)
		p = peer_of(e, node, &err);
	if (!p)
		return err;
	peer_hold(p);
	err = l->ours ? admit_ours(p, node, session)
		      : admit_theirs(p, session, &close);
	if (!err)
		admitted(l, p, node, session);
	if (close) {
		peer_hold(p);
		*quarrel = p;
	}
	peer_release(p);
	return err;
}

int engine_link_admit(struct engine *e, struct engine_link *l,
		      const struct engine_node *node, uint64_t session)
{
	struct engine_peer *quarrel = NULL;
	int err;

	check_up(l, 1u << LINK_NEW | 1u << LINK_DIALING);
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	err = admit(e, l, node, session, &quarrel);
	pthread_mutex_unlock(&e->lock);
	if (quarrel) {
		links_close(quarrel, -ECONNRESET);
		engine_peer_put(quarrel);
	}
	up_end(e);
	return err;
}

void engine_link_card(struct engine_link *l, const struct topology_port *p)
{
	const struct numa *numa = &l->engine->numa;
	struct topology_memory m = {.numa_node = NUMA_UNKNOWN};

	l->rank[0] = topology_rank(numa, &m, p);
	for (unsigned i = 0; i < numa->n; i++) {
		m.numa_node = (int)i;
		l->rank[i] = topology_rank(numa, &m, p);
	}
}

void engine_link_up(struct engine_link *l)
{
	struct engine_peer *p = l->peer;
	struct engine *e = l->engine;

	check_up(l, 1u << LINK_ADMITTED);
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	peer_hold(p);
	l->state = LINK_UP;
	l->since_ns = clock_now_ns();
	atomic_store(&l->heard_ns, l->since_ns);
	p->n_up++;
	traffic_link_up(l);
	p->announced = true;
	failure_clear(e, &p->node);
	time_by(e, l->since_ns + e->silence_ns / 4);
	peer_turn_take(p);
	peer_report(p);
	peer_turn_give(p);
	pthread_mutex_unlock(&e->lock);
	pump(p);
	engine_peer_put(p);
	up_end(e);
}

/* ---- the end of one ------------------------------------------------------ */

static void detach(struct engine_link *l, int why)
{
	struct engine_peer *p = l->peer;

	/* What is being handed over right now will be refused. */
	assert(l->n_slices + l->n_msgs <= l->n_ops);
	attach(l, p); /* down before peer_connect had it */
	if (l->state == LINK_UP) {
		p->n_up--;
		traffic_link_down(l);
		p->engine->stats.links_lost++;
	} else if (l->ours) {
		p->engine->stats.connects_failed++;
	}
	if (l->state >= LINK_ADMITTED)
		p->n_live--;
	if (l->ours)
		address_failed(p, l, why);
	if (p->control == l)
		p->control = NULL;
	l->state = LINK_DOWN;
	list_remove(&l->of_peer);
	p->n_links--;
	if (!p->n_live && p->session)
		peer_session_end(p, why);
	else
		give_up(p, clock_now_ns());
}

void engine_link_down(struct engine_link *l, int why)
{
	struct engine *e = l->engine;
	struct engine_peer *p = l->peer;
	bool last;

	check_up(l, 1u << LINK_NEW | 1u << LINK_DIALING | 1u << LINK_ADMITTED |
			    1u << LINK_UP);
	assert(why < 0);
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	peer_hold(p);
	detach(l, why);
	last = link_release(l);
	peer_release(p); /* the link's */
	pthread_mutex_unlock(&e->lock);
	if (last)
		link_free(l);
	pump(p);
	engine_peer_put(p);
	up_end(e);
}

void links_close(struct engine_peer *p, int why)
{
	struct engine_link *links[2 * ENGINE_LINKS_MAX];
	struct engine *e = p->engine;
	uint32_t n = 0;

	pthread_mutex_lock(&e->lock);
	if (!p->local) {
		list_for_each (l, &p->links) {
			assert(n < 2 * ENGINE_LINKS_MAX);
			links[n] = container_of(l, struct engine_link, of_peer);
			link_hold(links[n++]);
		}
	}
	pthread_mutex_unlock(&e->lock);
	for (uint32_t i = 0; i < n; i++) {
		check_close(links[i], why);
		link_put(links[i]);
	}
}
