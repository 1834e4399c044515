// SPDX-License-Identifier: MIT
#include "engine/loop_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

struct loop_world loop_world = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.some = PTHREAD_COND_INITIALIZER,
	.held = PTHREAD_COND_INITIALIZER,
	.listeners = {&loop_world.listeners, &loop_world.listeners},
	.ready = {&loop_world.ready, &loop_world.ready},
	.held_links = {&loop_world.held_links, &loop_world.held_links},
};

/* Who opens the first, or closes the last transport: one at a time. */
static pthread_mutex_t users_lock = PTHREAD_MUTEX_INITIALIZER;

static int loop_open(struct transport **out, const struct transport_config *c)
{
	struct transport *t = calloc(1, sizeof(*t));
	int err = 0;

	if (!t)
		return -ENOMEM;
	t->engine = c->engine;
	t->self = c->self;
	list_init(&t->of_world);
	pthread_mutex_lock(&users_lock);
	if (!loop_world.users) {
		loop_world.stop = false;
		err = -pthread_create(&loop_world.thread, NULL, loop_thread,
				      NULL);
	}
	if (!err)
		loop_world.users++;
	pthread_mutex_unlock(&users_lock);
	if (err)
		free(t);
	else
		*out = t;
	return err;
}

static void loop_quiet(struct transport *t)
{
	scoped_lock(&loop_world.lock);

	list_remove(&t->of_world);
	while (loop_world.dialing == t)
		pthread_cond_wait(&loop_world.held, &loop_world.lock);
}

static void loop_close(struct transport *t)
{
	loop_quiet(t);
	pthread_mutex_lock(&users_lock);
	if (--loop_world.users == 0) {
		pthread_mutex_lock(&loop_world.lock);
		loop_world.stop = true;
		pthread_cond_signal(&loop_world.some);
		pthread_mutex_unlock(&loop_world.lock);
		pthread_join(loop_world.thread, NULL);
	}
	pthread_mutex_unlock(&users_lock);
	free(t);
}

static int loop_listen(struct transport *t, const char *address, char *bound)
{
	scoped_lock(&loop_world.lock);

	list_for_each (l, &loop_world.listeners)
		if (!strcmp(container_of(l, struct transport, of_world)
				    ->address,
			    address))
			return -EADDRINUSE;
	snprintf(t->address, sizeof(t->address), "%s", address);
	snprintf(bound, ENGINE_ADDRESS_BYTES, "%s", address);
	list_push_back(&loop_world.listeners, &t->of_world);
	return 0;
}

static int loop_connect(struct transport *t, const struct link_target *target,
			struct engine_link **link)
{
	struct loop_link *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	engine_link_init(&l->base, t->engine, &transport_loop, t, target);
	loop_link_init(l);
	l->target = *target;
	snprintf(l->address, sizeof(l->address), "%s", target->address);
	*link = &l->base;
	scoped_lock(&loop_world.lock);
	loop_ready(l);
	return 0;
}

static void loop_link_close(struct engine_link *link, int why)
{
	struct loop_link *l = loop_of(link);

	scoped_lock(&loop_world.lock);
	if (l->closing || l->over)
		return;
	l->closing = why;
	loop_ready(l);
}

static void loop_link_free(struct engine_link *link)
{
	struct loop_link *l = loop_of(link);

	pthread_mutex_lock(&loop_world.lock);
	list_remove(&l->ready);
	list_remove(&l->of_held);
	pthread_mutex_unlock(&loop_world.lock);
	free(l);
}

static int loop_send(struct engine_link *link, struct engine_msg *m)
{
	struct loop_link *l = loop_of(link);

	scoped_lock(&loop_world.lock);
	if (l->over || l->closing)
		return -ENOTCONN;
	list_push_back(&l->msgs, &m->link);
	loop_ready(l);
	return 0;
}

static int loop_submit(struct transport *t, struct engine_link *link,
		       struct engine_slice *s)
{
	struct loop_link *l = loop_of(link);

	(void)t;
	scoped_lock(&loop_world.lock);
	if (l->over || l->closing)
		return -ENOTCONN;
	list_push_back(&l->slices, &s->link);
	loop_ready(l);
	return 0;
}

static void loop_cancel(struct transport *t, struct engine_link *link,
			struct engine_slice *s)
{
	struct loop_link *l = loop_of(link);

	(void)t;
	scoped_lock(&loop_world.lock);
	list_for_each (k, &l->slices)
		if (container_of(k, struct engine_slice, link) == s)
			s->transport_data = l;
}

/* The landing is at this link; the slice came from its twin. */
static void loop_divert(struct engine_link *link, struct engine_segment segment)
{
	scoped_lock(&loop_world.lock);
	struct loop_link *from = loop_of(link)->twin;

	if (!from || !from->landing_open || !from->held_slice ||
	    from->held_slice->segment.generation != segment.generation)
		return;
	from->divert = true;
	loop_ready(from);
}

const struct transport_ops transport_loop = {
	.name = "loop",
	.schemes = "loop",
	.slice_bytes = 64u << 10,
	.window_bytes = 1u << 20,
	.window_slices = 16,
	.links = 2,
	.open = loop_open,
	.close = loop_close,
	.listen = loop_listen,
	.quiet = loop_quiet,
	.connect = loop_connect,
	.link_close = loop_link_close,
	.link_free = loop_link_free,
	.send = loop_send,
	.submit = loop_submit,
	.cancel = loop_cancel,
	.divert = loop_divert,
};

/* ---- plans ----------------------------------------------------------------
 */

void loop_plan(enum loop_point point, uint32_t nth, uint32_t times,
	       enum loop_action action)
{
	scoped_lock(&loop_world.lock);
	uint64_t from = nth ? loop_world.count[point] + nth : 0;

	loop_world.plans[point].from = from;
	loop_world.plans[point].to = nth ? from + times : 0;
	loop_world.plans[point].action = action;
}

uint64_t loop_count(enum loop_point point)
{
	scoped_lock(&loop_world.lock);

	return loop_world.count[point];
}

bool loop_wait_held(uint32_t n)
{
	struct timespec by =
		clock_timespec(clock_read_ns(CLOCK_REALTIME) + 10 * NS_PER_S);

	scoped_lock(&loop_world.lock);
	while (loop_world.n_held < n)
		if (pthread_cond_timedwait(&loop_world.held, &loop_world.lock,
					   &by))
			return false;
	return true;
}

void loop_release(void)
{
	scoped_lock(&loop_world.lock);

	for (int i = 0; i < LOOP_POINTS; i++)
		loop_world.plans[i].from = loop_world.plans[i].to = 0;
	loop_world.n_held = 0;
	loop_world.n_releases++;
	list_for_each_safe (k, &loop_world.held_links) {
		struct loop_link *l =
			container_of(k, struct loop_link, of_held);

		list_remove(k);
		l->resume = true;
		loop_ready(l);
	}
}
