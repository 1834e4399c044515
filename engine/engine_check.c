// SPDX-License-Identifier: MIT
/*
 * The one wrapper around every transport. It checks each call down, and each
 * call up as far as our own code could be wrong about it. What a peer sent is
 * checked where it is read, and answered, never asserted.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* Ops do not call up: this thread is inside one. */
static __thread bool in_op;

static void op_begin(void)
{
	assert(!in_op);
	in_op = true;
}

static void op_end(void)
{
	in_op = false;
}

void check_up(const struct engine_link *l, unsigned states)
{
	assert(!in_op);
	pthread_mutex_lock(&l->engine->lock);
	assert(states & 1u << l->state);
	assert(l->refs);
	pthread_mutex_unlock(&l->engine->lock);
}

int check_connect(struct transport *t, const struct transport_ops *ops,
		  const struct link_target *target, struct engine_link **link)
{
	int err;

	assert(target->session && target->peer);
	op_begin();
	err = ops->connect(t, target, link);
	op_end();
	assert(err <= 0 && (err || (*link)->ops == ops));
	return err;
}

int check_send(struct engine_link *l, struct engine_msg *m)
{
	int err;

	assert(m->on == l && m->payload_bytes <= ENGINE_MSG_MAX);
	op_begin();
	err = l->ops->send(l, m);
	op_end();
	assert(!err || err == -ENOTCONN);
	return err;
}

static void check_place(const struct engine_place *place,
			const struct engine_slice *s)
{
	assert(place->length_bytes == s->length_bytes);
	assert(place->addr || (place->fd >= 0 && s->op == ENGINE_COPY));
}

int check_submit(struct engine_link *l, struct engine_slice *s)
{
	bool local = !l->ops->schemes;
	int err;

	assert(s->on == l && s->length_bytes);
	assert(s->length_bytes <= l->ops->slice_bytes);
	assert(local == (s->op == ENGINE_COPY));
	check_place(&s->from, s);
	if (local)
		check_place(&s->to, s);
	op_begin();
	err = l->ops->submit(l->transport, local ? NULL : l, s);
	op_end();
	assert(!err || err == -ENOTCONN);
	return err;
}

void check_cancel(struct engine_link *l, struct engine_slice *s)
{
	op_begin();
	l->ops->cancel(l->transport, l->ops->schemes ? l : NULL, s);
	op_end();
}

void check_divert(struct engine_link *l, struct engine_segment segment)
{
	op_begin();
	l->ops->divert(l, segment);
	op_end();
}

void check_close(struct engine_link *l, int why)
{
	assert(why < 0);
	op_begin();
	l->ops->link_close(l, why);
	op_end();
}

void check_free(struct engine_link *l)
{
	assert(l->state == LINK_DOWN && !l->refs);
	op_begin();
	l->ops->link_free(l);
	op_end();
}
