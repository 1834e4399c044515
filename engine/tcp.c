// SPDX-License-Identifier: MIT
/* What the core calls: any thread, nothing blocks, nothing calls up. */
#include "engine/tcp.h"

#include "base/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

static struct tcp_link *link_of(struct engine_link *link)
{
	return container_of(link, struct tcp_link, base);
}

static int tcp_open(struct transport **out, const struct transport_config *c)
{
	struct transport *t = calloc(1, sizeof(*t));
	struct numa numa;
	int rc = -ENOMEM;

	if (!t)
		goto no_memory;
	t->scratch = malloc(TCP_SCRATCH_BYTES);
	if (!t->scratch)
		goto no_scratch;
	numa_load("/sys", &numa);
	t->many_nodes = numa.n > 1;
	t->engine = c->engine;
	t->have_keys = c->keys && c->keys->n;
	if (t->have_keys)
		t->keys = *c->keys;
	t->self =
		(struct auth_self){.incarnation = c->self.incarnation,
				   .keys = &t->keys,
				   .version_min = WIRE_VERSION_MIN,
				   .version_max = WIRE_VERSION_MAX,
				   .transport = c->tls ? WIRE_TLS : WIRE_PLAIN};
	memcpy(t->self.uuid, c->self.uuid, sizeof(t->self.uuid));
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	list_init(&t->bells);
	list_init(&t->listeners);
	list_init(&t->new_listeners);
	list_init(&t->links);
	list_init(&t->pumps);
	list_init(&t->orphans);
	rc = c->tls ? tls_context_open(&t->tls, &t->keys) : 0;
	if (!rc)
		rc = tcp_loop_start(t);
	if (!rc) {
		*out = t;
		return 0;
	}
	tls_context_close(t->tls);
	free(t->scratch);
no_scratch:
	free(t);
no_memory:
	log_error("engine: tcp: %s", strerror(-rc));
	return rc;
}

static void tcp_quiet(struct transport *t)
{
	pthread_mutex_lock(&t->lock);
	t->quiet = true;
	pthread_mutex_unlock(&t->lock);
	tcp_ring_bell(t);
	pthread_mutex_lock(&t->lock);
	while (!t->is_quiet)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static void tcp_close(struct transport *t)
{
	pthread_mutex_lock(&t->lock);
	t->quiet = t->ended = true;
	pthread_mutex_unlock(&t->lock);
	tcp_ring_bell(t);
	tcp_loop_join(t);
	tcp_send_forget(t);
	tls_context_close(t->tls);
	engine_keys_wipe(&t->keys);
	pthread_cond_destroy(&t->changed);
	pthread_mutex_destroy(&t->lock);
	free(t->scratch);
	free(t);
}

static int tcp_listen(struct transport *t, const char *address, char *bound)
{
	return tcp_listener_open(t, address, bound);
}

/* With t->lock. */
static void post(struct tcp_link *l)
{
	if (list_empty(&l->bell))
		list_push_back(&l->t->bells, &l->bell);
}

static int tcp_connect(struct transport *t, const struct link_target *target,
		       struct engine_link **link)
{
	struct tcp_address to, from = {};
	struct tcp_link *l;

	if (tcp_address_parse(target->address, &to) ||
	    (target->local && tcp_address_parse(target->local, &from)))
		return -EINVAL;
	l = tcp_link_new(t, target);
	if (!l)
		return -ENOMEM;
	if (from.sa.ss_family == AF_INET)
		((struct sockaddr_in *)&from.sa)->sin_port = 0;
	else if (from.sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&from.sa)->sin6_port = 0;
	if (from.sa.ss_family != to.sa.ss_family ||
	    from.sa.ss_family == AF_UNIX)
		from.len = 0;
	l->to = to;
	l->from = from;
	l->peer = target->node;
	l->session = target->session;
	l->deadline_ns = target->deadline_ns;
	*link = &l->base;
	pthread_mutex_lock(&t->lock);
	post(l);
	pthread_mutex_unlock(&t->lock);
	tcp_ring_bell(t);
	return 0;
}

static void tcp_link_close(struct engine_link *link, int why)
{
	struct tcp_link *l = link_of(link);
	bool ring;

	pthread_mutex_lock(&l->t->lock);
	ring = !l->close_wanted && !l->shut;
	if (ring) {
		l->close_wanted = true;
		l->close_why = why;
		post(l);
	}
	pthread_mutex_unlock(&l->t->lock);
	if (ring)
		tcp_ring_bell(l->t);
}

static void tcp_link_free(struct engine_link *link)
{
	tcp_link_destroy(link_of(link));
}

static int queue(struct tcp_link *l, struct list *to, struct list *what)
{
	pthread_mutex_lock(&l->t->lock);
	if (l->shut) {
		pthread_mutex_unlock(&l->t->lock);
		return -ENOTCONN;
	}
	list_push_back(to, what);
	post(l);
	pthread_mutex_unlock(&l->t->lock);
	tcp_ring_bell(l->t);
	return 0;
}

static int tcp_send(struct engine_link *link, struct engine_msg *m)
{
	struct tcp_link *l = link_of(link);

	return queue(l, &l->msgs, &m->link);
}

static int tcp_submit(struct transport *t, struct engine_link *link,
		      struct engine_slice *s)
{
	struct tcp_link *l = link_of(link);

	(void)t;
	return queue(l, &l->slices, &s->link);
}

static bool cancel_queued(struct tcp_link *l, struct engine_slice *s)
{
	list_for_each_safe (n, &l->slices) {
		if (n != &s->link)
			continue;
		list_remove(n);
		list_push_back(&l->back, n);
		return true;
	}
	return false;
}

static bool cancel_begun(struct tcp_link *l, struct engine_slice *s)
{
	list_for_each (n, &l->flight) {
		struct tcp_item *i = container_of(n, struct tcp_item, link);

		if (i->slice != s)
			continue;
		i->cancelled = true;
		return true;
	}
	return false;
}

static void tcp_cancel(struct transport *t, struct engine_link *link,
		       struct engine_slice *s)
{
	struct tcp_link *l = link_of(link);
	bool found;

	pthread_mutex_lock(&t->lock);
	found = !l->shut && (cancel_queued(l, s) || cancel_begun(l, s));
	if (found) {
		l->cancel_wanted = true;
		post(l);
	}
	pthread_mutex_unlock(&t->lock);
	if (found)
		tcp_ring_bell(t);
}

static void tcp_divert(struct engine_link *link, struct engine_segment segment)
{
	struct tcp_link *l = link_of(link);
	bool found;

	pthread_mutex_lock(&l->t->lock);
	found = !l->shut && l->landing_segment.id == segment.id &&
		l->landing_segment.generation == segment.generation;
	if (found) {
		l->divert = segment;
		l->divert_wanted = true;
		post(l);
	}
	pthread_mutex_unlock(&l->t->lock);
	if (found)
		tcp_ring_bell(l->t);
}

const struct transport_ops transport_tcp = {
	.name = "tcp",
	.schemes = "tcp,unix",
	.slice_bytes = TCP_SLICE_BYTES,
	.window_bytes = TCP_WINDOW_BYTES,
	.window_slices = TCP_WINDOW_SLICES,
	.links = 2,
	.open = tcp_open,
	.close = tcp_close,
	.listen = tcp_listen,
	.quiet = tcp_quiet,
	.connect = tcp_connect,
	.link_close = tcp_link_close,
	.link_free = tcp_link_free,
	.send = tcp_send,
	.submit = tcp_submit,
	.cancel = tcp_cancel,
	.divert = tcp_divert,
};
