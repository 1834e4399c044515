// SPDX-License-Identifier: MIT
/*
 * Calls: a request whose answer comes back by its id. Ids count up through the
 * engine's life, so none is used twice. What was given up here still holds one
 * of the peer's places until the peer has answered it.
 */
#include "engine/engine_internal.h"

#include <errno.h>

#define TYPE_REPLY 1
#define ERRNO_MAX 4095

static void unlink_call(struct engine_peer *p, struct engine_call *c)
{
	if (c->prev)
		c->prev->next = c->next;
	else
		p->calls = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->prev = c->next = NULL;
	c->state = CALL_DONE;
}

void run_calls(struct engine *e, struct notice *n)
{
	struct engine_call *c;

	(void)n;
	for (;;) {
		pthread_mutex_lock(&e->lock);
		c = e->done_calls;
		if (c) {
			e->done_calls = c->next;
			peer_release(c->peer);
		}
		pthread_mutex_unlock(&e->lock);
		if (!c)
			return;
		c->done(c, c->result, NULL, 0);
	}
}

static void call_fail(struct engine_peer *p, struct engine_call *c, int why)
{
	struct engine *e = p->engine;

	unlink_call(p, c);
	c->result = why;
	if (e->done_calls)
		e->done_calls_last->next = c;
	else
		e->done_calls = c;
	e->done_calls_last = c;
	notice_post(e, &e->calls_notice);
}

void calls_fail(struct engine_peer *p, int why)
{
	while (p->calls)
		call_fail(p, p->calls, why);
	p->n_calls = 0;
}

int64_t calls_expire(struct engine_peer *p, int64_t now)
{
	struct engine_call *next;
	int64_t soonest = INT64_MAX;

	for (struct engine_call *c = p->calls; c; c = next) {
		next = c->next;
		if (c->until_ns <= now) {
			p->engine->stats.calls_timed_out++;
			call_fail(p, c, -ETIMEDOUT);
		} else if (c->until_ns < soonest) {
			soonest = c->until_ns;
		}
	}
	return soonest;
}

static int call_queue(struct engine_peer *p, struct engine_call *c)
{
	struct engine *e = p->engine;
	int err = peer_usable(p);

	if (err)
		return err;
	if (p->n_calls == ENGINE_CALLS_MAX)
		return -EAGAIN;
	err = msg_queue(p, c->type, ENGINE_MSG_REQUEST, e->request_serial + 1,
			0, c->payload, c->payload_bytes);
	if (err)
		return err;
	c->request_id = ++e->request_serial;
	c->peer = p;
	peer_hold(p);
	c->until_ns = c->deadline_ns ? c->deadline_ns
				     : clock_now_ns() + DEADLINE_DEFAULT_NS;
	c->state = CALL_WAITING;
	c->prev = NULL;
	c->next = p->calls;
	if (c->next)
		c->next->prev = c;
	p->calls = c;
	p->n_calls++;
	time_by(e, c->until_ns);
	return 0;
}

int engine_call_start(struct engine_peer *p, struct engine_call *c)
{
	int err;

	if (c->type < ENGINE_TYPE_MIN || !c->done || p->local)
		return -EINVAL;
	if (c->payload_bytes > ENGINE_MSG_MAX)
		return -EMSGSIZE;
	pthread_mutex_lock(&p->engine->lock);
	peer_hold(p); /* the call may be over before pump is done */
	err = call_queue(p, c);
	pthread_mutex_unlock(&p->engine->lock);
	if (!err)
		pump(p);
	engine_peer_put(p);
	return err;
}

void engine_call_cancel(struct engine *e, struct engine_call *c)
{
	scoped_lock(&e->lock);

	if (c->state == CALL_WAITING)
		call_fail(c->peer, c, -ECANCELED);
}

void call_answered(struct engine_peer *p, const struct engine_msg_in *m)
{
	struct engine *e = p->engine;
	struct engine_call *c = p->calls;
	int status = m->status;

	while (c && c->request_id != m->request_id)
		c = c->next;
	if (p->n_calls)
		p->n_calls--;
	if (!c)
		return;
	if (status > 0 || status < -ERRNO_MAX)
		status = -EPROTO;
	unlink_call(p, c);
	pthread_mutex_unlock(&e->lock);
	c->done(c, status, m->payload, m->payload_bytes);
	pthread_mutex_lock(&e->lock);
	peer_release(p); /* the call's; the caller has one of its own */
}

static bool forget(struct engine_peer *p, uint64_t request_id)
{
	for (uint32_t i = 0; i < p->n_asked; i++) {
		if (p->asked[i] != request_id)
			continue;
		p->asked[i] = p->asked[--p->n_asked];
		return true;
	}
	return false;
}

int call_answer(struct engine_peer *p, uint64_t request_id, int status,
		const void *payload, uint32_t payload_bytes)
{
	int err;

	if (!p->session || !forget(p, request_id))
		return -ENOENT;
	err = msg_queue(p, TYPE_REPLY, ENGINE_MSG_REPLY, request_id, status,
			payload, payload_bytes);
	if (err) /* it may be tried again */
		p->asked[p->n_asked++] = request_id;
	return err;
}

int engine_reply(struct engine_peer *p, uint64_t request_id, int status,
		 const void *payload, uint32_t payload_bytes)
{
	struct engine *e = p->engine;
	int err;

	if (payload_bytes > ENGINE_MSG_MAX)
		return -EMSGSIZE;
	pthread_mutex_lock(&e->lock);
	err = call_answer(p, request_id, status, payload, payload_bytes);
	pthread_mutex_unlock(&e->lock);
	if (!err)
		pump(p);
	return err;
}
