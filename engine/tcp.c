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
	return container_of(mailbox_of(link), struct tcp_link, post);
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
	rc = mailbox_open(&t->mailbox, "tcp");
	if (rc)
		goto no_mailbox;
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
	mailbox_close(&t->mailbox);
no_mailbox:
	free(t->scratch);
no_scratch:
	free(t);
no_memory:
	log_error("engine: tcp: %s", strerror(-rc));
	return rc;
}

static void tcp_quiet(struct transport *t)
{
	mailbox_quiet(&t->mailbox);
}

static void tcp_close(struct transport *t)
{
	mailbox_end(&t->mailbox);
	tcp_loop_join(t);
	tcp_send_forget(t);
	tls_context_close(t->tls);
	engine_keys_wipe(&t->keys);
	mailbox_close(&t->mailbox);
	free(t->scratch);
	free(t);
}

static int tcp_listen(struct transport *t, const char *address, char *bound)
{
	return tcp_listener_open(t, address, bound);
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
	*link = &l->post.base;
	pthread_mutex_lock(&t->mailbox.lock);
	mailbox_unlock(&l->post, true);
	return 0;
}

static void tcp_link_free(struct engine_link *link)
{
	tcp_link_destroy(link_of(link));
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

	pthread_mutex_lock(&t->mailbox.lock);
	found = !l->post.shut &&
		(mailbox_take_back(&l->post, s) || cancel_begun(l, s));
	l->post.cancel_wanted |= found;
	mailbox_unlock(&l->post, found);
}

static void tcp_divert(struct engine_link *link, struct engine_segment segment)
{
	struct tcp_link *l = link_of(link);
	bool found;

	pthread_mutex_lock(&l->t->mailbox.lock);
	found = !l->post.shut && l->landing_segment.id == segment.id &&
		l->landing_segment.generation == segment.generation;
	if (found)
		l->divert = segment;
	l->post.divert_wanted |= found;
	mailbox_unlock(&l->post, found);
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
	.link_close = mailbox_link_close,
	.link_free = tcp_link_free,
	.send = mailbox_send,
	.submit = mailbox_submit,
	.cancel = tcp_cancel,
	.divert = tcp_divert,
};
