// SPDX-License-Identifier: MIT
/* What the world's thread does: one item of one link at a time. */
#include "engine/loop_internal.h"

#include <errno.h>
#include <string.h>

#define NO_ACTION ((enum loop_action) - 1)

static void unlock(void)
{
	pthread_mutex_unlock(&loop_world.lock);
}

static void lock(void)
{
	pthread_mutex_lock(&loop_world.lock);
}

/* Counts the item; what a plan says about it. Lock held. */
static enum loop_action next_action(enum loop_point point)
{
	uint64_t nth = ++loop_world.count[point];

	loop_world.action_at = loop_world.n_releases;

	return nth >= loop_world.plans[point].from &&
			       nth < loop_world.plans[point].to
		       ? loop_world.plans[point].action
		       : NO_ACTION;
}

static bool is_hold(enum loop_action action)
{
	return action == LOOP_HOLD || action == LOOP_HOLD_HARD ||
	       action == LOOP_SILENT;
}

static void hold(struct loop_link *l)
{
	l->held = true;
	l->resume = loop_world.action_at != loop_world.n_releases;
	if (l->resume) { /* released before it came to that */
		loop_ready(l);
		return;
	}
	list_push_back(&loop_world.held_links, &l->of_held);
	loop_world.n_held++;
	pthread_cond_broadcast(&loop_world.held);
}

/* ---- the end of a path -----------------------------------------------------
 */

static void give_back(struct loop_link *l, int why)
{
	struct engine *e = l->base.engine;
	struct list *k;

	if (l->landing_open)
		engine_landing_end(&l->landing, why);
	l->landing_open = false;
	if (l->held_slice)
		engine_slice_done(e, &l->base, l->held_slice, why, false);
	if (l->held_msg)
		engine_msg_done(&l->base, l->held_msg, why);
	while ((k = list_pop_front(&l->msgs)))
		engine_msg_done(&l->base,
				container_of(k, struct engine_msg, link), why);
	while ((k = list_pop_front(&l->slices)))
		engine_slice_done(e, &l->base,
				  container_of(k, struct engine_slice, link),
				  why, false);
}

/* Lock held; dropped around the calls up. */
static void end_path(struct loop_link *l, int why)
{
	struct loop_link *twin = l->twin;

	l->over = true;
	l->twin = NULL;
	list_remove(&l->of_held);
	if (twin) {
		twin->over = true;
		twin->twin = NULL;
		list_remove(&twin->of_held);
	}
	unlock();
	give_back(l, why);
	if (twin)
		give_back(twin, -ECONNRESET);
	engine_link_down(&l->base, why);
	if (twin)
		engine_link_down(&twin->base, -ECONNRESET);
	lock();
}

/* ---- connecting ------------------------------------------------------------
 */

static struct transport *find_listener(const char *address)
{
	list_for_each (k, &loop_world.listeners) {
		struct transport *t =
			container_of(k, struct transport, of_world);

		if (!strcmp(t->address, address))
			return t;
	}
	return NULL;
}

static bool is_expected(const struct engine_node *want,
			const struct engine_node *is)
{
	return !memcmp(want->uuid, is->uuid, sizeof(is->uuid)) &&
	       (!want->incarnation || want->incarnation == is->incarnation);
}

/* Both ends agree, or the errno of the one that does not. No lock held. */
static int shake_hands(struct loop_link *l, struct transport *to,
		       struct loop_link **out)
{
	uint64_t session = l->target.session;
	struct loop_link *twin;
	int err;

	if (!is_expected(&l->target.node, &to->self))
		return -ESTALE;
	twin = calloc(1, sizeof(*twin));
	if (!twin)
		return -ENOMEM;
	engine_link_init(&twin->base, to->engine, &transport_loop, to, NULL);
	loop_link_init(twin);
	err = engine_link_admit(to->engine, &twin->base,
				&l->base.transport->self, session);
	if (err) {
		free(twin);
		return err;
	}
	err = engine_link_admit(l->base.engine, &l->base, &to->self, session);
	if (!err) {
		*out = twin;
		return 0;
	}
	lock();
	twin->over = true;
	unlock();
	engine_link_down(&twin->base, -ECONNRESET);
	return err;
}

static void dial(struct loop_link *l)
{
	enum loop_action action = next_action(LOOP_CONNECT);
	struct transport *to = find_listener(l->address);
	struct loop_link *twin = NULL;
	int err = -ECONNREFUSED;

	l->dialed = true;
	if (action == LOOP_HOLD) {
		l->dialed = false;
		hold(l);
		return;
	}
	if (!to || action == LOOP_FAIL) {
		end_path(l, err);
		return;
	}
	loop_world.dialing = to;
	unlock();
	err = shake_hands(l, to, &twin);
	lock();
	loop_world.dialing = NULL;
	pthread_cond_broadcast(&loop_world.held);
	if (err) {
		end_path(l, err);
		return;
	}
	l->twin = twin;
	twin->twin = l;
	twin->dialed = true;
	l->up = twin->up = true;
	unlock();
	engine_link_up(&twin->base);
	engine_link_up(&l->base);
	lock();
}

/* ---- messages --------------------------------------------------------------
 */

static int deliver(struct loop_link *l, const struct engine_msg *m)
{
	struct engine_msg_in in = {
		.seq = m->seq,
		.request_id = m->request_id,
		.type = m->type,
		.flags = m->flags,
		.status = m->status,
		.payload_bytes = m->payload_bytes,
		.payload = m->payload,
	};

	atomic_store(&l->base.heard_ns, clock_now_ns());
	atomic_store(&l->twin->base.heard_ns, clock_now_ns());
	return engine_msg_arrived(&l->twin->base, &in);
}

static void move_msg(struct loop_link *l, struct engine_msg *m,
		     enum loop_action action)
{
	int err = 0;

	if (action == LOOP_SILENT)
		l->silent = l->twin->silent = true;
	if (is_hold(action)) {
		l->held_msg = m;
		hold(l);
		return;
	}
	unlock();
	if (action != LOOP_FAIL && action != LOOP_TRUNCATE)
		err = deliver(l, m);
	if (action != NO_ACTION && !err)
		err = -ECONNRESET;
	engine_msg_done(&l->base, m, err);
	lock();
	if (err)
		end_path(l, err);
}

/* ---- slices ----------------------------------------------------------------
 */

static void copy(struct loop_link *l, const struct engine_slice *s, uint32_t to)
{
	memcpy((char *)l->landing.place.addr + l->landed,
	       (const char *)s->from.addr + l->landed, to - l->landed);
	engine_data_came(&l->twin->base, to - l->landed);
	l->landed = to;
}

/* No lock held. 0: delivered; *refused: not by the path's fault. */
static int land(struct loop_link *l, const struct engine_slice *s,
		enum loop_action action, bool *refused)
{
	int err;

	if (s->transport_data)
		return -ECANCELED;
	if (action == LOOP_FAIL)
		return -ECONNRESET;
	err = engine_landing_begin(&l->twin->base, s->segment, s->to_offset,
				   s->length_bytes, &l->landing);
	if (err) {
		*refused = true;
		return err;
	}
	l->landed = 0;
	copy(l, s,
	     action == NO_ACTION || action == LOOP_LOSE_ACK
		     ? s->length_bytes
		     : s->length_bytes / 2);
	if (is_hold(action))
		return 0;
	err = action == NO_ACTION || action == LOOP_LOSE_ACK ? 0 : -ECONNRESET;
	engine_landing_end(&l->landing, err);
	return action == NO_ACTION ? 0 : -ECONNRESET;
}

static void move_slice(struct loop_link *l, struct engine_slice *s,
		       enum loop_action action)
{
	bool refused = false;
	int err;

	unlock();
	atomic_store(&l->base.heard_ns, clock_now_ns());
	err = land(l, s, action, &refused);
	if (!err && is_hold(action)) {
		lock();
		if (action == LOOP_SILENT)
			l->silent = l->twin->silent = true;
		l->held_slice = s;
		l->landing_open = true;
		l->divert = false;
		l->hard = action == LOOP_HOLD_HARD;
		hold(l);
		return;
	}
	engine_slice_done(l->base.engine, &l->base, s, err, refused);
	lock();
	if (err && !refused && err != -ECANCELED)
		end_path(l, err);
}

/* ---- what was held ---------------------------------------------------------
 */

static void end_held_slice(struct loop_link *l)
{
	struct engine_slice *s = l->held_slice;
	bool open = l->landing_open;

	l->held_slice = NULL;
	l->landing_open = false;
	unlock();
	if (open) {
		copy(l, s, s->length_bytes);
		engine_landing_end(&l->landing, 0);
	}
	engine_slice_done(l->base.engine, &l->base, s, open ? 0 : -ESTALE,
			  !open);
	lock();
}

static void go_on(struct loop_link *l)
{
	struct engine_msg *m = l->held_msg;

	if (l->divert && !l->hard && l->landing_open) {
		l->landing_open = false;
		unlock();
		engine_landing_end(&l->landing, -ECANCELED);
		lock();
	}
	if (!l->resume)
		return;
	l->held = false;
	l->held_msg = NULL;
	loop_ready(l); /* now: it may be gone afterwards */
	if (l->held_slice)
		end_held_slice(l);
	else if (m)
		move_msg(l, m, NO_ACTION);
}

/* ---- the thread ------------------------------------------------------------
 */

static void move_next(struct loop_link *l)
{
	struct list *k = list_pop_front(&l->msgs);

	if (k) {
		loop_ready(l);
		move_msg(l, container_of(k, struct engine_msg, link),
			 next_action(LOOP_MSG));
		return;
	}
	k = list_pop_front(&l->slices);
	if (!k)
		return;
	loop_ready(l);
	move_slice(l, container_of(k, struct engine_slice, link),
		   next_action(LOOP_SLICE));
}

static void move(struct loop_link *l)
{
	if (l->over)
		return;
	if (l->closing)
		end_path(l, l->closing);
	else if (l->silent)
		return;
	else if (l->held)
		go_on(l);
	else if (!l->dialed)
		dial(l);
	else if (l->up)
		move_next(l);
}

void *loop_thread(void *arg)
{
	struct list *k;

	(void)arg;
	pthread_setname_np(pthread_self(), "kvfs-loop");
	lock();
	for (;;) {
		k = list_pop_front(&loop_world.ready);
		if (k)
			move(container_of(k, struct loop_link, ready));
		else if (loop_world.stop)
			break;
		else
			pthread_cond_wait(&loop_world.some, &loop_world.lock);
	}
	unlock();
	return NULL;
}
