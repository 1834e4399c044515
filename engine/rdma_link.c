// SPDX-License-Identifier: MIT
/* A link's life. All of it on the loop, but for rdma_link_new. */
#include "engine/rdma.h"

#include "base/log.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void rdma_link_time(struct rdma_link *l)
{
	bool timed = l->deadline_ns || l->n_diverted;

	l->t->n_timed += (unsigned)timed - (unsigned)l->timed;
	l->timed = timed;
}

void rdma_link_deadline(struct rdma_link *l, int64_t ns)
{
	l->deadline_ns = ns;
	rdma_link_time(l);
}

void rdma_link_pump(struct rdma_link *l)
{
	if (list_empty(&l->pump))
		list_push_back(&l->t->pumps, &l->pump);
}

/* --- up ---------------------------------------------------------------- */

static void no_stranger(struct rdma_link *l)
{
	if (l->stranger)
		l->t->n_strangers--;
	l->stranger = false;
}

int rdma_link_admit(struct rdma_link *l, const char **why)
{
	uint64_t session = l->theirs ? l->auth.peer.session : l->session;
	uint32_t expected = l->peer.incarnation;
	int rc;

	memcpy(l->peer.uuid, l->auth.peer.uuid, sizeof(l->peer.uuid));
	l->peer.incarnation = (uint32_t)l->auth.peer.incarnation;
	*why = "another life of the node than expected";
	if (!l->theirs && expected && expected != l->peer.incarnation)
		return -ESTALE;
	rc = engine_link_admit(l->t->engine, &l->post.base, &l->peer, session);
	*why = "not admitted";
	l->admitted = !rc;
	return rc;
}

static int tell_endpoint(struct rdma_link *l)
{
	uint8_t bytes[RDMA_ENDPOINT_BYTES];
	struct rdma_endpoint mine;

	rdma_queue_endpoint(l, &mine);
	rdma_endpoint_put(bytes, &mine);
	return rdma_control_send(l, WIRE_ENDPOINT, bytes, sizeof(bytes));
}

void rdma_link_meet(struct rdma_link *l)
{
	int rc;

	l->state = RDMA_MEETING;
	no_stranger(l);
	if (l->theirs)
		rdma_link_deadline(l, clock_now_ns() + RDMA_STRANGER_NS);
	rc = rdma_port_of_link(l);
	if (rc) {
		rdma_link_fail(l, rc, "no RDMA port by this address");
		return;
	}
	rc = rdma_sieve_add(l);
	if (rc) {
		rdma_link_fail(l, rc, "all queue pairs are in use");
		return;
	}
	rc = rdma_queue_open(l);
	if (rc)
		rdma_link_fail(l, rc, "no queue pair");
	else if (!l->theirs)
		tell_endpoint(l);
}

void rdma_link_up(struct rdma_link *l)
{
	l->state = RDMA_UP;
	rdma_link_deadline(l, 0);
	engine_link_card(&l->post.base, &l->port);
	snprintf(l->post.base.device, sizeof(l->post.base.device), "%s:%u",
		 l->port.device, l->port.number);
	engine_link_up(&l->post.base);
	rdma_link_pump(l);
}

/* The connecting side tells first; the listening one answers once it can
 * receive. Then each has to hear a packet of the other: a network that lets the
 * connection pass and not what cards send carries no link. */
static int on_endpoint(struct rdma_link *l, const uint8_t *payload, size_t n)
{
	struct rdma_endpoint theirs;
	int rc = rdma_endpoint_get(payload, n, &theirs);

	if (rc || l->met)
		return -EPROTO;
	l->met = true;
	rc = rdma_queue_connect(l, &theirs);
	if (rc)
		return rc;
	if (l->theirs)
		return tell_endpoint(l);
	rdma_send_greeting(l);
	return 0;
}

static int on_close(struct rdma_link *l, const struct wire_header *h,
		    const uint8_t *payload)
{
	char words[WIRE_REASON_MAX + 1];

	wire_reason_get(payload, h->length, words);
	rdma_link_fail(l, h->status ? -(int)h->status : -ECONNRESET, words);
	return -ENOTCONN;
}

int rdma_link_frame(struct rdma_link *l, const struct wire_header *h,
		    const uint8_t *payload)
{
	int rc = -EPROTO;

	if (h->type == WIRE_CLOSE)
		return on_close(l, h, payload);
	if (h->type == WIRE_ENDPOINT && l->state == RDMA_MEETING)
		rc = on_endpoint(l, payload, h->length);
	if (rc)
		rdma_link_fail(l, rc,
			       rc == -EPROTO ? "broken rules of the protocol"
					     : "queue pair not connected");
	return rc;
}

/* --- the end ----------------------------------------------------------- */

static void log_end(struct rdma_link *l, const char *words)
{
	char where[ENGINE_ADDRESS_BYTES] = "tcp:peer";

	/* Strangers do not write our log; the core tells of peers. */
	if (l->theirs && !l->admitted) {
		log_debug("engine: rdma: stranger: %s: %s", words,
			  strerror(-l->why));
		return;
	}
	if (!l->theirs)
		tcp_address_format(&l->to, where);
	if (l->why == -EACCES || l->why == -EPROTO || l->why == -EBADMSG)
		log_warn("engine: rdma: %s: %s", where + 4, words);
	else
		log_debug("engine: rdma: %s: %s: %s", where + 4, words,
			  strerror(-l->why));
}

void rdma_link_fail(struct rdma_link *l, int why, const char *words)
{
	if (l->state >= RDMA_ENDING)
		return;
	l->why = why;
	log_end(l, words);
	/* Maybe the card is not where it was; unless it is they who say no. */
	if (l->state == RDMA_MEETING && why != -EUSERS && why != -EALREADY)
		rdma_ports_forget(l->t);
	rdma_control_bye(l, words);
	no_stranger(l);
	l->state = RDMA_ENDING;
	rdma_post_drop(l);
	pthread_mutex_lock(&l->t->mailbox.lock);
	l->post.shut = true;
	pthread_mutex_unlock(&l->t->mailbox.lock);
	list_push_back(&l->t->endings, &l->end);
}

/* First nothing moves any more, then everything is given back. */
void rdma_link_end(struct rdma_link *l)
{
	bool tell = !l->theirs || l->admitted;

	rdma_unwatch(l->t, &l->control);
	rdma_sieve_remove(l);
	rdma_queue_close(l);
	rdma_receive_give_up(l, l->why);
	rdma_send_give_up(l, l->why);
	rdma_link_deadline(l, 0);
	list_remove(&l->of_transport);
	list_remove(&l->pump);
	pthread_mutex_lock(&l->t->mailbox.lock);
	list_remove(&l->post.at);
	pthread_mutex_unlock(&l->t->mailbox.lock);
	if (tell)
		engine_link_down(&l->post.base,
				 l->why); /* and link_free, by it */
	else
		rdma_link_destroy(l);
}

void rdma_link_tick(struct rdma_link *l, int64_t now_ns)
{
	if (l->deadline_ns && now_ns >= l->deadline_ns)
		rdma_link_fail(l, -ETIMEDOUT, "handshake took too long");
	else if (l->n_diverted)
		rdma_receive_tick(l, now_ns);
}

void rdma_link_mail(struct rdma_link *l)
{
	const struct mailbox_news news = mailbox_news(&l->post);

	if (list_empty(&l->of_transport) && l->state == RDMA_DIALING) {
		list_push_back(&l->t->links, &l->of_transport);
		rdma_link_deadline(l, l->deadline_ns);
		if (!news.close)
			rdma_control_dial(l);
	}
	if (news.cancel)
		rdma_send_cancel(l);
	if (news.divert)
		rdma_receive_divert(l);
	if (news.close)
		rdma_link_fail(l, news.close_why, "closed");
	else
		rdma_link_pump(l);
}

/* --- memory ------------------------------------------------------------ */

struct rdma_link *rdma_link_new(struct transport *t,
				const struct link_target *target)
{
	struct rdma_link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->t = t;
	l->control.fd = -1;
	l->theirs = !target;
	list_init(&l->of_transport);
	list_init(&l->pump);
	list_init(&l->end);
	list_init(&l->sieve);
	mailbox_link_init(&l->post, &t->mailbox);
	list_init(&l->flight);
	list_init(&l->abandons);
	list_init(&l->answers);
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES; i++) {
		list_init(&l->outs[i].answer);
		list_init(&l->ins[i].owed);
	}
	engine_link_init(&l->post.base, t->engine, &transport_rdma, t, target);
	return l;
}

void rdma_link_destroy(struct rdma_link *l)
{
	free(l->part_bytes);
	auth_wipe(&l->auth);
	free(l);
}
