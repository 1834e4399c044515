// SPDX-License-Identifier: MIT
/*
 * Messages. Each gets the session's next number when a link first takes it; it
 * is kept until the other side's core has it. All go over one link at a time
 * (the control link). When that ends, what was not acknowledged goes over
 * another, in order; the receiver drops what it has seen.
 */
#include "engine/engine_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define TYPE_PING 0
#define TYPE_REPLY 1
#define MSG_OVERHEAD 64 /* each counts for this much more than its payload */

/* A peer that keeps asking and takes no answers would fill our memory with
 * them. This is twice what an honest one can have asked for. */
#define REPLIES_MAX (2ull * ENGINE_CALLS_MAX * (ENGINE_MSG_MAX + MSG_OVERHEAD))

static uint64_t cost(const struct engine_msg *m)
{
	return m->payload_bytes + MSG_OVERHEAD;
}

static uint64_t *account(struct engine_peer *p, const struct engine_msg *m)
{
	return m->flags & ENGINE_MSG_REPLY ? &p->reply_bytes : &p->msg_bytes;
}

static struct engine_msg *msg_new(uint16_t type, const void *payload,
				  uint32_t payload_bytes)
{
	struct engine_msg *m = malloc(sizeof(*m) + payload_bytes);

	if (!m)
		return NULL;
	memset(m, 0, sizeof(*m));
	list_init(&m->link);
	list_init(&m->of_peer);
	m->type = type;
	m->payload = m + 1;
	m->payload_bytes = payload_bytes;
	if (payload_bytes)
		memcpy(m + 1, payload, payload_bytes);
	return m;
}

int msg_queue(struct engine_peer *p, uint16_t type, uint16_t flags,
	      uint64_t request_id, int status, const void *payload,
	      uint32_t payload_bytes)
{
	bool reply = flags & ENGINE_MSG_REPLY;
	struct engine_msg *m;

	if (!reply &&
	    p->msg_bytes + payload_bytes + MSG_OVERHEAD > ENGINE_QUEUE_MAX)
		return -EAGAIN;
	m = msg_new(type, payload, payload_bytes);
	if (!m)
		return -ENOMEM;
	m->flags = flags;
	m->request_id = request_id;
	m->status = status;
	m->seq = UINT64_MAX; /* until a link takes it */
	*account(p, m) += cost(m);
	p->used_ns = clock_now_ns();
	list_push_back(&p->msgs, &m->of_peer);
	return 0;
}

static void msg_free(struct engine_peer *p, struct engine_msg *m)
{
	*account(p, m) -= cost(m);
	free(m);
}

static void drop_list(struct engine_peer *p, struct list *head)
{
	struct list *l;

	while ((l = list_pop_front(head)))
		msg_free(p, container_of(l, struct engine_msg, of_peer));
}

void msgs_drop(struct engine_peer *p)
{
	drop_list(p, &p->msgs);
	drop_list(p, &p->resend);
}

/* Back from a link that ended: in order among those that wait like it. */
static void msg_return(struct engine_peer *p, struct engine_msg *m)
{
	struct list *at = p->resend.next;

	list_remove(&m->of_peer);
	m->on = NULL;
	while (at != &p->resend &&
	       container_of(at, struct engine_msg, of_peer)->seq < m->seq)
		at = at->next;
	list_push_back(at, &m->of_peer);
}

/* Not taken; its session may have ended meanwhile. */
static void msg_refused(struct engine_peer *p, const struct engine_link *l,
			struct engine_msg *m)
{
	if (p->session == l->session) {
		msg_return(p, m);
		return;
	}
	list_remove(&m->of_peer);
	msg_free(p, m);
}

/* ---- out ---------------------------------------------------------------- */

/* It changes with nothing under way, so their order holds. */
static void choose_control(struct engine_peer *p)
{
	bool preferred = links_preferred(p, clock_now_ns());

	if (p->control && p->control->ops->preferred == preferred)
		return;
	list_for_each (l, &p->links) {
		struct engine_link *k =
			container_of(l, struct engine_link, of_peer);

		if (k->state == LINK_UP && !k->broken &&
		    k->ops->preferred == preferred) {
			p->control = k;
			return;
		}
	}
}

static struct engine_link *control_link(struct engine_peer *p)
{
	if (!p->n_msgs_out)
		choose_control(p);
	return p->control && !p->control->broken ? p->control : NULL;
}

static struct engine_msg *msg_next(struct engine_peer *p)
{
	struct list *l = list_pop_front(&p->resend);
	struct engine_msg *m;

	if (l)
		return container_of(l, struct engine_msg, of_peer);
	l = list_pop_front(&p->msgs);
	if (!l)
		return NULL;
	m = container_of(l, struct engine_msg, of_peer);
	m->seq = p->next_seq++;
	p->engine->stats.messages_sent++;
	return m;
}

static void msg_out(struct engine_link *l, struct engine_msg *m)
{
	m->on = l;
	m->sent_ns = clock_now_ns();
	l->n_msgs++;
	if (!l->owed_ns)
		l->owed_ns = m->sent_ns;
}

bool msg_send_next(struct engine_peer *p)
{
	struct engine_link *l = control_link(p);
	struct engine_msg *m = l ? msg_next(p) : NULL;
	int err;

	if (!m)
		return false;
	msg_out(l, m);
	p->n_msgs_out++;
	list_push_back(&p->unacked, &m->of_peer);
	link_hold(l);
	l->n_ops++;
	pthread_mutex_unlock(&p->engine->lock);
	err = check_send(l, m);
	pthread_mutex_lock(&p->engine->lock);
	l->n_ops--;
	if (err) {
		l->broken = true;
		l->n_msgs--;
		p->n_msgs_out--;
		msg_refused(p, l, m);
	}
	pthread_mutex_unlock(&p->engine->lock);
	link_put(l);
	pthread_mutex_lock(&p->engine->lock);
	return !err;
}

void msg_ping(struct engine_link *l)
{
	struct engine_msg *m = msg_new(TYPE_PING, NULL, 0);
	struct engine *e = l->engine;
	bool refused;

	if (!m)
		return;
	pthread_mutex_lock(&e->lock);
	msg_out(l, m);
	l->n_ops++;
	pthread_mutex_unlock(&e->lock);
	refused = check_send(l, m);
	pthread_mutex_lock(&e->lock);
	l->n_ops--;
	if (refused) {
		l->broken = true;
		l->n_msgs--;
	}
	pthread_mutex_unlock(&e->lock);
	if (refused)
		free(m);
}

static void ping_done(struct engine_peer *p, struct engine_msg *m, int status)
{
	int64_t took_us = (clock_now_ns() - m->sent_ns) / 1000;

	if (!status)
		p->rtt_us =
			took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX;
	free(m);
}

void engine_msg_done(struct engine_link *l, struct engine_msg *m, int status)
{
	struct engine_peer *p = l->peer;
	struct engine *e = l->engine;

	check_up(l, 1u << LINK_UP);
	assert(m->on == l && status <= 0);
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	assert(l->n_msgs);
	peer_hold(p);
	l->owed_ns = 0;
	if (--l->n_msgs || l->n_slices)
		l->owed_ns = clock_now_ns();
	if (!m->seq) {
		ping_done(p, m, status);
	} else {
		p->n_msgs_out--;
		if (status) {
			l->broken = true;
			msg_return(p, m);
		} else {
			list_remove(&m->of_peer);
			msg_free(p, m);
		}
	}
	pthread_mutex_unlock(&e->lock);
	pump(p);
	engine_peer_put(p);
	up_end(e);
}

int engine_send(struct engine_peer *p, uint16_t type, const void *payload,
		uint32_t payload_bytes)
{
	int err;

	if (type < ENGINE_TYPE_MIN || p->local)
		return -EINVAL;
	if (payload_bytes > ENGINE_MSG_MAX)
		return -EMSGSIZE;
	pthread_mutex_lock(&p->engine->lock);
	err = peer_usable(p);
	if (!err)
		err = msg_queue(p, type, 0, 0, 0, payload, payload_bytes);
	pthread_mutex_unlock(&p->engine->lock);
	if (!err)
		pump(p);
	return err;
}

/* ---- in ----------------------------------------------------------------- */

/* A request is known until it is answered; more of them, or one twice, is
 * against the rules, and so is asking on without taking the answers. */
static int remember(struct engine_peer *p, uint64_t request_id)
{
	if (!request_id || p->n_asked == ENGINE_CALLS_MAX ||
	    p->reply_bytes > REPLIES_MAX)
		return -EPROTO;
	for (uint32_t i = 0; i < p->n_asked; i++)
		if (p->asked[i] == request_id)
			return -EPROTO;
	p->asked[p->n_asked++] = request_id;
	return 0;
}

static void deliver(struct engine_peer *p, const struct engine_msg_in *in)
{
	struct engine *e = p->engine;
	struct engine_message m = {
		.type = in->type,
		.request_id =
			in->flags & ENGINE_MSG_REQUEST ? in->request_id : 0,
		.payload = in->payload,
		.payload_bytes = in->payload_bytes,
	};

	pthread_mutex_unlock(&e->lock);
	if (e->callbacks.on_message)
		e->callbacks.on_message(e->ctx, p, &m);
	pthread_mutex_lock(&e->lock);
}

static int arrived(struct engine_peer *p, const struct engine_msg_in *in)
{
	int err = 0;

	if (in->seq <= p->seen_seq) {
		p->engine->stats.duplicates_dropped++;
		return 0;
	}
	if (in->seq != p->seen_seq + 1)
		return -EPROTO;
	p->seen_seq++;
	p->engine->stats.messages_received++;
	if (in->flags & ENGINE_MSG_REPLY) {
		call_answered(p, in);
		return 0;
	}
	if (in->type < ENGINE_TYPE_MIN)
		return -EPROTO;
	if (in->flags & ENGINE_MSG_REQUEST)
		err = remember(p, in->request_id);
	if (!err)
		deliver(p, in);
	return err;
}

int engine_msg_arrived(struct engine_link *l, const struct engine_msg_in *in)
{
	struct engine_peer *p = l->peer;
	struct engine *e = l->engine;
	int err = 0;

	check_up(l, 1u << LINK_UP);
	assert(in->payload_bytes <= ENGINE_MSG_MAX);
	if (!in->seq)
		return in->type == TYPE_PING ? 0 : -EPROTO;
	up_begin(e);
	pthread_mutex_lock(&e->lock);
	peer_hold(p);
	peer_turn_take(p);
	peer_report(p);
	p->used_ns = clock_now_ns();
	err = l->session == p->session ? arrived(p, in) : -EPROTO;
	peer_turn_give(p);
	pthread_mutex_unlock(&e->lock);
	engine_peer_put(p);
	up_end(e);
	return err;
}
