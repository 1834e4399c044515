// SPDX-License-Identifier: MIT
/* Cards, opened when the first link goes by them. All of it on the loop, but
 * for rdma_port_of. */
#include "engine/rdma.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define GIDS_MAX 256 /* looked at */
#define VENDOR_SOFT_ROCE 0xffffff

/* --- which one --------------------------------------------------------- */

static bool same_ip(const struct sockaddr *a, const struct tcp_address *b)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&b->sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&b->sa;

	if (!a || a->sa_family != b->sa.ss_family)
		return false;
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
		       v4->sin_addr.s_addr;
	return a->sa_family == AF_INET6 &&
	       !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr,
		       &v6->sin6_addr, sizeof(v6->sin6_addr));
}

bool rdma_port_allowed(const char *allowed, const char *device, unsigned port)
{
	size_t n = strlen(device);
	char number[16];

	snprintf(number, sizeof(number), ":%u", port);
	for (const char *a = allowed; a && *a; a += strspn(a, ",")) {
		size_t len = strcspn(a, ",");

		if (len >= n && !strncmp(a, device, n) &&
		    (len == n || (len == n + strlen(number) &&
				  !strncmp(a + n, number, strlen(number)))))
			return true;
		a += len;
	}
	return !allowed;
}

/* An interface of this machine, by its address. */
struct interface {
	char name[IF_NAMESIZE];
	unsigned index;
	union ibv_gid gid; /* its address as one */
};

static int interface_of(const struct tcp_address *a, struct interface *f)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a->sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a->sa;
	struct ifaddrs *all, *i;

	if (getifaddrs(&all))
		return -errno;
	for (i = all; i && !same_ip(i->ifa_addr, a); i = i->ifa_next)
		;
	if (i)
		snprintf(f->name, sizeof(f->name), "%s", i->ifa_name);
	freeifaddrs(all);
	f->index = i ? if_nametoindex(f->name) : 0;
	if (!f->index)
		return -ENODEV;
	memset(&f->gid, 0, sizeof(f->gid));
	if (a->sa.ss_family == AF_INET) {
		f->gid.raw[10] = f->gid.raw[11] = 0xff;
		memcpy(f->gid.raw + 12, &v4->sin_addr, 4);
	} else {
		memcpy(f->gid.raw, &v6->sin6_addr, sizeof(f->gid.raw));
	}
	return 0;
}

/* IP over InfiniBand: its GIDs name no interface, but the interface names the
 * card. */
static bool is_ipoib_of(const struct interface *f, const char *device,
			unsigned port)
{
	char line[16];

	return sysfs_read(line, sizeof(line),
			  "/sys/class/net/%s/device/infiniband/%s/node_type",
			  f->name, device) &&
	       sysfs_read(line, sizeof(line), "/sys/class/net/%s/dev_port",
			  f->name) &&
	       strtoul(line, NULL, 10) + 1 == port;
}

/* How good a GID is for this interface; 0: not at all. */
static int gid_worth(const struct ibv_gid_entry *g, const struct interface *f,
		     const char *device)
{
	if (g->gid_type == IBV_GID_TYPE_IB)
		return g->gid_index == 0 && is_ipoib_of(f, device, g->port_num);
	if (g->gid_type != IBV_GID_TYPE_ROCE_V2 || g->ndev_ifindex != f->index)
		return 0;
	return memcmp(&g->gid, &f->gid, sizeof(f->gid)) ? 1 : 2;
}

static bool is_active(struct ibv_context *c, unsigned port)
{
	struct ibv_port_attr a;

	return !verbs_query_port(c, (uint8_t)port, &a) &&
	       a.state == IBV_PORT_ACTIVE;
}

static void port_set(struct topology_port *port, const struct ibv_gid_entry *g,
		     const struct interface *f, const char *device)
{
	*port = (struct topology_port){
		.number = g->port_num,
		.gid_index = g->gid_index,
		.gid_type =
			g->gid_type == IBV_GID_TYPE_IB ? GID_IB : GID_ROCE_V2,
	};
	snprintf(port->device, sizeof(port->device), "%s", device);
	snprintf(port->netdev, sizeof(port->netdev), "%s", f->name);
	memcpy(port->gid, g->gid.raw, sizeof(port->gid));
	topology_place("/sys", port);
}

/* Returns: whether this card has the interface. */
static bool port_find(struct ibv_context *c, const struct interface *f,
		      const char *allowed, struct topology_port *port)
{
	cleanup_free struct ibv_gid_entry *all = calloc(GIDS_MAX, sizeof(*all));
	const char *device = ibv_get_device_name(c->device);
	const struct ibv_gid_entry *best = NULL;
	ssize_t n = all ? verbs_query_gids(c, all, GIDS_MAX) : 0;
	int most = 0;

	for (ssize_t i = 0; i < n; i++) {
		bool may = all[i].gid_index <= UINT8_MAX &&
			   rdma_port_allowed(allowed, device, all[i].port_num);
		int worth = may ? gid_worth(&all[i], f, device) : 0;

		if (worth > most && is_active(c, all[i].port_num)) {
			most = worth;
			best = &all[i];
		}
	}
	if (best)
		port_set(port, best, f, device);
	return best;
}

static int port_find_any(const struct interface *f, const char *allowed,
			 struct topology_port *port)
{
	bool found = false;
	struct ibv_device **list;
	int n;

	list = ibv_get_device_list(&n);
	for (int i = 0; list && i < n && !found; i++) {
		struct ibv_context *c = verbs_open(list[i]);

		found = c && port_find(c, f, allowed, port);
		if (c)
			ibv_close_device(c);
	}
	if (list)
		ibv_free_device_list(list);
	return found ? 0 : -ENODEV;
}

int rdma_port_of(const struct tcp_address *a, const char *allowed,
		 struct topology_port *port)
{
	struct interface f;
	int rc = interface_of(a, &f);

	return rc ? rc : port_find_any(&f, allowed, port);
}

/* Of the cards that are open, if one has it. */
static int port_look(struct transport *t, const struct tcp_address *own,
		     struct topology_port *port)
{
	struct interface f;
	int rc = interface_of(own, &f);

	if (rc)
		return rc;
	list_for_each (n, &t->devices) {
		struct rdma_device *d =
			container_of(n, struct rdma_device, link);

		if (!d->lost && port_find(d->context, &f, t->allowed, port))
			return 0;
	}
	return port_find_any(&f, t->allowed, port);
}

/* What an address of ours was found to be. Looking asks the kernel a dozen
 * times, and all links of a node have one of a few addresses. */
struct found {
	struct list link; /* of t->found */
	struct tcp_address own;
	struct topology_port port;
};

static void port_keep(struct transport *t, const struct tcp_address *own,
		      const struct topology_port *port)
{
	struct found *f = calloc(1, sizeof(*f));

	if (!f)
		return; /* looked for again */
	f->own = *own;
	f->port = *port;
	list_push_back(&t->found, &f->link);
}

void rdma_ports_forget(struct transport *t)
{
	list_for_each_safe (n, &t->found) {
		list_remove(n);
		free(container_of(n, struct found, link));
	}
}

int rdma_port_of_link(struct rdma_link *l)
{
	struct tcp_address own = {.len = sizeof(own.sa)};
	int rc;

	if (getsockname(l->control.fd, (struct sockaddr *)&own.sa, &own.len))
		return -errno;
	list_for_each (n, &l->t->found) {
		const struct found *f = container_of(n, struct found, link);

		if (same_ip((const struct sockaddr *)&f->own.sa, &own)) {
			l->port = f->port;
			return 0;
		}
	}
	rc = port_look(l->t, &own, &l->port);
	if (!rc)
		port_keep(l->t, &own, &l->port);
	return rc;
}

/* --- events ------------------------------------------------------------ */

static void fail_links(struct rdma_device *d, int port, int why,
		       const char *words)
{
	list_for_each (n, &d->t->links) {
		struct rdma_link *l =
			container_of(n, struct rdma_link, of_transport);

		if (l->device == d && (!port || (int)l->port.number == port))
			rdma_link_fail(l, why, words);
	}
}

static void on_queue_event(struct rdma_device *d, const struct ibv_qp *qp,
			   const struct ibv_cq *cq, const char *words)
{
	list_for_each (n, &d->t->links) {
		struct rdma_link *l =
			container_of(n, struct rdma_link, of_transport);

		if ((qp && l->qp == qp) || (cq && l->cq == cq))
			rdma_link_fail(l, -EIO, words);
	}
}

static void on_event(struct rdma_device *d, const struct ibv_async_event *e)
{
	const char *words = ibv_event_type_str(e->event_type);

	switch (e->event_type) {
	case IBV_EVENT_DEVICE_FATAL:
		d->lost = true;
		log_error("engine: rdma: %s: the device is lost", d->name);
		rdma_ports_forget(d->t);
		fail_links(d, 0, -ENODEV, words);
		break;
	case IBV_EVENT_PORT_ERR:
		log_warn("engine: rdma: %s:%d: the port is down", d->name,
			 e->element.port_num);
		rdma_ports_forget(d->t);
		fail_links(d, e->element.port_num, -ENETDOWN, words);
		break;
	case IBV_EVENT_PORT_ACTIVE:
		log_info("engine: rdma: %s:%d: the port is up", d->name,
			 e->element.port_num);
		rdma_ports_forget(d->t);
		break;
	case IBV_EVENT_GID_CHANGE:
	case IBV_EVENT_LID_CHANGE:
		log_debug("engine: rdma: %s:%d: %s", d->name,
			  e->element.port_num, words);
		rdma_ports_forget(d->t);
		break;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		on_queue_event(d, e->element.qp, NULL, words);
		break;
	case IBV_EVENT_SRQ_ERR:
		fail_links(d, 0, -EIO, words);
		break;
	case IBV_EVENT_CQ_ERR:
		on_queue_event(d, NULL, e->element.cq, words);
		break;
	default:
		log_debug("engine: rdma: %s: %s", d->name, words);
	}
}

static void device_close(struct rdma_device *d)
{
	rdma_regions_forget(d);
	list_remove(&d->link);
	/* Closing a descriptor takes it out of the epoll. */
	if (d->channel)
		ibv_destroy_comp_channel(d->channel);
	if (d->pd)
		ibv_dealloc_pd(d->pd);
	if (d->context)
		ibv_close_device(d->context);
	free(d);
}

static void on_events(struct rdma_fd *f, uint32_t events)
{
	struct rdma_device *d = container_of(f, struct rdma_device, events);
	struct ibv_async_event e;

	(void)events;
	while (!ibv_get_async_event(d->context, &e)) {
		struct ibv_async_event seen = e;

		if (e.event_type == IBV_EVENT_PORT_ERR &&
		    fault_hit("rdma.fatal"))
			seen.event_type = IBV_EVENT_DEVICE_FATAL;
		on_event(d, &seen);
		ibv_ack_async_event(&e);
	}
	if (d->lost && !d->n_links)
		device_close(d);
}

static void on_completions(struct rdma_fd *f, uint32_t events)
{
	struct rdma_device *d =
		container_of(f, struct rdma_device, completions);
	struct ibv_cq *cq;
	void *ctx;

	(void)events;
	if (ibv_get_cq_event(d->channel, &cq, &ctx))
		return;
	ibv_ack_cq_events(cq, 1);
	rdma_queue_poll(ctx);
}

/* --- open and close ---------------------------------------------------- */

/* Starting a program must not move pages that the card writes to; of kernels
 * since 5.12 the library knows that they see to it. It can do this once, and by
 * one thread. */
static pthread_once_t forks = PTHREAD_ONCE_INIT;

static void fork_init(void)
{
	ibv_fork_init();
}

struct ibv_context *rdma_context_open(const char *name)
{
	struct ibv_context *context = NULL;
	struct ibv_device **list;
	int n;

	pthread_once(&forks, fork_init);
	list = ibv_get_device_list(&n);
	if (!list)
		return NULL;
	errno = ENODEV;
	for (int i = 0; i < n; i++) {
		if (strcmp(ibv_get_device_name(list[i]), name))
			continue;
		context = verbs_open(list[i]);
		break;
	}
	ibv_free_device_list(list);
	return context;
}

static int ask(struct rdma_device *d)
{
	struct ibv_device_attr a;
	int rc = verbs_query_device(d->context, &a);

	if (rc)
		return rc;
	/* Soft-RoCE looks at a window's key, but at the bounds of the region
	 * that it is bound to (Linux 6.1): not what a window is for. */
	d->windows =
		a.device_cap_flags & IBV_DEVICE_MEM_WINDOW_TYPE_2B &&
		(a.vendor_id != VENDOR_SOFT_ROCE || fault_hit("rdma.windows"));
	d->piece_bytes = a.max_mr_size < RDMA_PIECE_BYTES ? a.max_mr_size
							  : RDMA_PIECE_BYTES;
	if (fault_hit("rdma.pieces"))
		d->piece_bytes = 3 * RDMA_SLICE_BYTES / 2;
	return d->piece_bytes > RDMA_SLICE_BYTES ? 0 : -EOPNOTSUPP;
}

static int watch(struct rdma_device *d, struct rdma_fd *f, int fd,
		 void (*ready)(struct rdma_fd *, uint32_t))
{
	int flags = fcntl(fd, F_GETFL);

	/* The library's descriptor: closed with what it belongs to. */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	*f = (struct rdma_fd){fd, ready};
	return rdma_watch(d->t, f, EPOLLIN);
}

static int set_up(struct rdma_device *d)
{
	int rc = ask(d);

	if (rc)
		return rc;
	d->pd = verbs_alloc_pd(d->context);
	if (!d->pd)
		return -errno;
	d->channel = verbs_channel(d->context);
	if (!d->channel)
		return -errno;
	rc = watch(d, &d->completions, d->channel->fd, on_completions);
	if (rc)
		return rc;
	return watch(d, &d->events, d->context->async_fd, on_events);
}

static struct rdma_device *device_open(struct transport *t, const char *name)
{
	struct rdma_device *d = calloc(1, sizeof(*d));
	int rc = d ? 0 : -ENOMEM;

	if (!rc) {
		d->t = t;
		snprintf(d->name, sizeof(d->name), "%s", name);
		list_init(&d->link);
		d->context = rdma_context_open(name);
		rc = d->context ? set_up(d) : -errno;
	}
	if (!rc) {
		list_push_back(&t->devices, &d->link);
		return d;
	}
	log_error("engine: rdma: %s: %s", name, strerror(-rc));
	if (d)
		device_close(d);
	errno = -rc;
	return NULL;
}

struct rdma_device *rdma_device_get(struct transport *t, const char *name)
{
	struct rdma_device *d = NULL;

	list_for_each (n, &t->devices) {
		struct rdma_device *k =
			container_of(n, struct rdma_device, link);

		if (!strcmp(k->name, name) && !k->lost)
			d = k;
	}
	if (!d)
		d = device_open(t, name);
	if (d)
		d->n_links++;
	return d;
}

void rdma_device_put(struct rdma_device *d)
{
	if (--d->n_links)
		return;
	rdma_receives_free(&d->shared);
	d->no_sharing = false;
	if (d->lost)
		device_close(d);
}

void rdma_devices_close(struct transport *t)
{
	rdma_ports_forget(t);
	list_for_each_safe (n, &t->devices)
		device_close(container_of(n, struct rdma_device, link));
}
