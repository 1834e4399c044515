// SPDX-License-Identifier: MIT
/* What the core calls: any thread, nothing blocks, nothing calls up. */
#include "engine/rdma.h"

#include "base/fault.h"
#include "base/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

static struct rdma_link *link_of(struct engine_link *link)
{
	return container_of(mailbox_of(link), struct rdma_link, post);
}

static int rdma_open(struct transport **out, const struct transport_config *c)
{
	struct transport *t = calloc(1, sizeof(*t));
	int rc = -ENOMEM;

	if (!t)
		goto no_memory;
	t->allowed = c->rdma_devices ? strdup(c->rdma_devices) : NULL;
	if (c->rdma_devices && !t->allowed)
		goto no_list;
	rc = mailbox_open(&t->mailbox, "rdma");
	if (rc)
		goto no_mailbox;
	t->engine = c->engine;
	t->tls = c->tls;
	t->have_keys = c->keys && c->keys->n;
	if (t->have_keys)
		t->keys = *c->keys;
	t->self = (struct auth_self){.incarnation = c->self.incarnation,
				     .keys = &t->keys,
				     .version_min = WIRE_VERSION_MIN,
				     .version_max = WIRE_VERSION_MAX,
				     .transport = WIRE_RDMA};
	memcpy(t->self.uuid, c->self.uuid, sizeof(t->self.uuid));
	pthread_mutex_init(&t->regions_lock, NULL);
	list_init(&t->new_listeners);
	list_init(&t->links);
	list_init(&t->pumps);
	list_init(&t->endings);
	list_init(&t->listeners);
	list_init(&t->devices);
	list_init(&t->found);
	list_init(&t->sieve);
	t->queues_max = RDMA_QUEUES_MAX;
	t->copies_max = RDMA_COPIES_BYTES;
	if (fault_hit("rdma.few")) {
		t->queues_max = RDMA_LINKS;
		t->copies_max = RDMA_SLICE_BYTES;
	}
	for (unsigned i = 0; i < RDMA_REGION_BUCKETS; i++)
		list_init(&t->regions[i]);
	rc = rdma_loop_start(t);
	if (!rc) {
		*out = t;
		return 0;
	}
	mailbox_close(&t->mailbox);
no_mailbox:
	free(t->allowed);
no_list:
	free(t);
no_memory:
	log_error("engine: rdma: %s", strerror(-rc));
	return rc;
}

static void rdma_quiet(struct transport *t)
{
	mailbox_quiet(&t->mailbox);
}

static void rdma_close(struct transport *t)
{
	mailbox_end(&t->mailbox);
	rdma_loop_join(t);
	rdma_regions_free(t);
	engine_keys_wipe(&t->keys);
	mailbox_close(&t->mailbox);
	pthread_mutex_destroy(&t->regions_lock);
	free(t->allowed);
	free(t);
}

static int rdma_listen(struct transport *t, const char *address, char *bound)
{
	return rdma_listener_open(t, address, bound);
}

static bool rdma_can_listen(const char *address, const char *devices)
{
	struct tcp_address a;
	struct topology_port port;

	return !rdma_address_parse(address, &a) &&
	       !rdma_port_of(&a, devices, &port);
}

static void no_port(struct tcp_address *a)
{
	if (a->sa.ss_family == AF_INET)
		((struct sockaddr_in *)&a->sa)->sin_port = 0;
	else
		((struct sockaddr_in6 *)&a->sa)->sin6_port = 0;
}

static int rdma_connect(struct transport *t, const struct link_target *target,
			struct engine_link **link)
{
	struct tcp_address to, from = {};
	struct rdma_link *l;

	if (t->tls || rdma_address_parse(target->address, &to))
		return -EINVAL;
	/* Bind to a card of ours, where there are several; else the route. */
	if (target->local && !rdma_address_parse(target->local, &from))
		no_port(&from);
	l = rdma_link_new(t, target);
	if (!l)
		return -ENOMEM;
	l->to = to;
	if (from.sa.ss_family == to.sa.ss_family)
		l->from = from;
	l->peer = target->node;
	l->session = target->session;
	l->deadline_ns = target->deadline_ns;
	*link = &l->post.base;
	pthread_mutex_lock(&t->mailbox.lock);
	mailbox_unlock(&l->post, true);
	return 0;
}

static void rdma_link_free(struct engine_link *link)
{
	rdma_link_destroy(link_of(link));
}

static bool cancel_begun(struct rdma_link *l, struct engine_slice *s)
{
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES; i++) {
		if (l->outs[i].slice != s)
			continue;
		l->outs[i].cancelled = true;
		return true;
	}
	return false;
}

static void rdma_cancel(struct transport *t, struct engine_link *link,
			struct engine_slice *s)
{
	struct rdma_link *l = link_of(link);
	bool found;

	pthread_mutex_lock(&t->mailbox.lock);
	found = !l->post.shut &&
		(mailbox_take_back(&l->post, s) || cancel_begun(l, s));
	l->post.cancel_wanted |= found;
	mailbox_unlock(&l->post, found);
}

static void rdma_divert(struct engine_link *link, struct engine_segment segment)
{
	struct rdma_link *l = link_of(link);
	bool found = false;

	pthread_mutex_lock(&l->t->mailbox.lock);
	for (unsigned i = 0; i < RDMA_WINDOW_SLICES && !l->post.shut; i++) {
		struct rdma_in *in = &l->ins[i];

		if (in->segment.id != segment.id ||
		    in->segment.generation != segment.generation)
			continue;
		in->diverted = found = true;
	}
	l->post.divert_wanted |= found;
	mailbox_unlock(&l->post, found);
}

const struct transport_ops transport_rdma = {
	.name = "rdma",
	.schemes = "rdma",
	.slice_bytes = RDMA_SLICE_BYTES,
	.window_bytes = RDMA_WINDOW_BYTES,
	.window_slices = RDMA_WINDOW_SLICES,
	.links = RDMA_LINKS,
	.preferred = true,
	.open = rdma_open,
	.close = rdma_close,
	.listen = rdma_listen,
	.can_listen = rdma_can_listen,
	.quiet = rdma_quiet,
	.connect = rdma_connect,
	.link_close = mailbox_link_close,
	.link_free = rdma_link_free,
	.send = mailbox_send,
	.submit = mailbox_submit,
	.cancel = rdma_cancel,
	.divert = rdma_divert,
	.region_add = rdma_region_add,
	.region_remove = rdma_region_remove,
};
