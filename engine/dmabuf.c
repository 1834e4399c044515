// SPDX-License-Identifier: MIT
/*
 * Two locks, never one inside the other: dmabufs.lock, and each card's, which
 * is held while it moves a piece. A queue pair that failed, or from which
 * nothing came in time, is destroyed before the memory that it used is given
 * back, and the next copy makes another. A card from which nothing came is not
 * asked again: it is lost, as one whose driver says so.
 */
#include "engine/dmabuf.h"

#include "engine/rdma.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define WARN_AGAIN_NS (60 * NS_PER_S)
#define PATIENCE_NS (10 * NS_PER_S) /* for one piece */
#define TRIALS 2		    /* the first one makes the queue pair */

struct card {
	struct list link; /* dmabufs.cards */
	uint32_t refs;	  /* dmabufs.lock */
	struct topology_port port;
	struct ibv_context *context;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	atomic_bool lost;
	pthread_mutex_t lock; /* guards what is below */
	struct ibv_qp *qp;    /* NULL: to be made */
};

struct dmabufs {
	char *devices;
	pthread_mutex_t lock; /* guards all below */
	struct list cards;
	int64_t warned_ns, memory_warned_ns;
};

struct dmabuf {
	struct dmabufs *all;
	struct card *card;
	struct ibv_mr *mr;
	uint64_t start; /* its address to the card */
};

/* -- the queue pair: card.lock held --------------------------------------- */

static int to_init(struct card *c)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_INIT,
		.port_num = (uint8_t)c->port.number,
		.qp_access_flags =
			IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
	};

	return verbs_modify_qp(c->qp, &a,
			       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
				       IBV_QP_ACCESS_FLAGS);
}

/* Its other end is itself. */
static int to_receive(struct card *c, const struct ibv_port_attr *p,
		      uint32_t psn)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = p->active_mtu,
		.dest_qp_num = c->qp->qp_num,
		.rq_psn = psn,
		.max_dest_rd_atomic = 1,
		.ah_attr = {.dlid = p->lid,
			    .port_num = (uint8_t)c->port.number,
			    .is_global = c->port.gid_type != GID_IB,
			    .grh = {.sgid_index = (uint8_t)c->port.gid_index,
				    .hop_limit = RDMA_HOP_LIMIT}},
	};

	memcpy(a.ah_attr.grh.dgid.raw, c->port.gid, sizeof(c->port.gid));
	return verbs_modify_qp(c->qp, &a,
			       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
				       IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				       IBV_QP_MAX_DEST_RD_ATOMIC |
				       IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct card *c, uint32_t psn)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_RTS,
		.sq_psn = psn,
		.timeout = RDMA_TIMEOUT_CODE,
		.retry_cnt = RDMA_RETRIES,
		.max_rd_atomic = 1,
	};

	return verbs_modify_qp(c->qp, &a,
			       IBV_QP_STATE | IBV_QP_TIMEOUT |
				       IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

/* The card touches no memory any more; nor is there a completion left of what
 * it did. */
static void queue_pair_end(struct card *c)
{
	struct ibv_wc wc;

	if (c->qp)
		ibv_destroy_qp(c->qp);
	c->qp = NULL;
	while (c->cq && ibv_poll_cq(c->cq, 1, &wc) > 0)
		;
}

static int queue_pair_make(struct card *c)
{
	struct ibv_qp_init_attr a = {
		.cap = {.max_send_wr = 1, .max_send_sge = 1},
		.qp_type = IBV_QPT_RC,
		.send_cq = c->cq,
		.recv_cq = c->cq,
	};
	struct ibv_port_attr p;
	uint32_t psn; /* nobody else on the network knows it */
	int rc = verbs_query_port(c->context, (uint8_t)c->port.number, &p);

	if (rc)
		return rc;
	if (getrandom(&psn, sizeof(psn), 0) != sizeof(psn))
		return -EAGAIN;
	psn &= RDMA_PSN_MASK;
	c->qp = verbs_create_qp(c->pd, &a);
	if (!c->qp)
		return -errno;
	rc = to_init(c);
	if (!rc)
		rc = to_receive(c, &p, psn);
	if (!rc)
		rc = to_send(c, psn);
	return rc;
}

/* -- a piece: card.lock held ---------------------------------------------- */

static int lose(struct card *c, const char *why)
{
	log_error("dma-buf: %s: the device is lost: %s", c->port.device, why);
	atomic_store(&c->lost, true);
	return -ENODEV;
}

/* What happened to it since somebody looked. */
static void hear(struct card *c)
{
	struct ibv_async_event e;

	while (!ibv_get_async_event(c->context, &e)) {
		bool fatal = e.event_type == IBV_EVENT_DEVICE_FATAL ||
			     fault_hit("dmabuf.fatal");

		ibv_ack_async_event(&e);
		if (fatal)
			lose(c, "it says so");
	}
}

/* Until the next look makes sense. 0 or -errno. */
static int wait_for(struct card *c, int64_t until_ns)
{
	struct pollfd f[2] = {{.fd = c->channel->fd, .events = POLLIN},
			      {.fd = c->context->async_fd, .events = POLLIN}};
	int64_t left_ns = until_ns - clock_now_ns();
	struct ibv_cq *cq;
	void *ctx;

	if (left_ns <= 0)
		return lose(c, "no answer");
	poll(f, 2, (int)(left_ns / NS_PER_MS) + 1);
	hear(c);
	if (atomic_load(&c->lost))
		return -ENODEV;
	if (ibv_get_cq_event(c->channel, &cq, &ctx))
		return 0; /* not yet */
	ibv_ack_cq_events(cq, 1);
	return verbs_notify(c->cq);
}

/* The one that was posted. */
static int complete(struct card *c)
{
	bool late = fault_hit("dmabuf.late");
	int64_t until_ns = late ? 0 : clock_now_ns() + PATIENCE_NS;
	struct ibv_wc wc;
	int n, rc;

	while (late || !(n = verbs_poll(c->cq, 1, &wc))) {
		rc = wait_for(c, until_ns);
		if (rc)
			return rc;
	}
	if (n < 0)
		return n;
	if (wc.status)
		log_warn("dma-buf: %s: a copy failed: %s", c->port.device,
			 ibv_wc_status_str(wc.status));
	return wc.status ? -EIO : 0;
}

static int post_and_wait(struct card *c, struct ibv_send_wr *wr)
{
	int rc = c->qp ? 0 : queue_pair_make(c);

	if (!rc)
		rc = verbs_notify(c->cq);
	if (!rc)
		rc = verbs_post_send(c->qp, wr);
	return rc ? rc : complete(c);
}

/* The dma-buf is the local end whichever way it goes. */
static int move(struct dmabuf *d, uint64_t at, enum dmabuf_way way,
		const struct ibv_mr *file, uint32_t n)
{
	struct card *c = d->card;
	struct ibv_sge sge = {d->start + at, n, d->mr->lkey};
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = way == DMABUF_FROM_FILE ? IBV_WR_RDMA_READ
						  : IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = {(uint64_t)(uintptr_t)file->addr, file->rkey},
	};
	int rc;
	scoped_lock(&c->lock);

	hear(c);
	if (atomic_load(&c->lost))
		return -ENODEV;
	rc = post_and_wait(c, &wr);
	if (rc)
		queue_pair_end(c);
	return rc == -ENODEV ? rc : rc ? -EIO : 0;
}

/* -- a copy --------------------------------------------------------------- */

/* Of the file: NULL and errno, logged. */
static struct ibv_mr *file_register(struct dmabuf *d, void *addr, uint32_t n,
				    enum dmabuf_way way)
{
	int access = way == DMABUF_FROM_FILE
			     ? IBV_ACCESS_REMOTE_READ
			     : IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct ibv_mr *mr = verbs_reg_mr(d->card->pd, addr, n, access);
	int error = errno;

	if (!mr && error != EFAULT) {
		scoped_lock(&d->all->lock);
		rdma_complain(d->card->port.device, n, error,
			      &d->all->memory_warned_ns);
	}
	errno = error;
	return mr;
}

static int copy_piece(struct dmabuf *d, uint64_t at, enum dmabuf_way way,
		      int fd, uint64_t offset, uint32_t n)
{
	uint32_t before = (uint32_t)(offset % (uint64_t)sysconf(_SC_PAGESIZE));
	struct ibv_mr *mr;
	char *map;
	int rc;

	/* Writable also to be read: else kernels before 6.2 do not pin it. */
	map = mmap(NULL, n + before, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   (off_t)(offset - before));
	if (map == MAP_FAILED)
		return -errno;
	mr = file_register(d, map + before, n, way);
	rc = mr ? move(d, at, way, mr, n) : errno == EFAULT ? -EFAULT : -ENOMEM;
	if (mr)
		ibv_dereg_mr(mr);
	munmap(map, n + before);
	return rc;
}

int dmabuf_copy(struct dmabuf *d, uint64_t at, enum dmabuf_way way, int fd,
		uint64_t offset, uint64_t length_bytes)
{
	int rc = 0;

	for (uint64_t done = 0; done < length_bytes && !rc;) {
		uint64_t left = length_bytes - done;
		uint32_t n = left < DMABUF_PIECE_BYTES ? (uint32_t)left
						       : DMABUF_PIECE_BYTES;

		rc = copy_piece(d, at + done, way, fd, offset + done, n);
		done += n;
	}
	return rc;
}

/* -- cards ---------------------------------------------------------------- */

static void card_free(struct card *c)
{
	queue_pair_end(c);
	if (c->cq)
		ibv_destroy_cq(c->cq);
	if (c->channel)
		ibv_destroy_comp_channel(c->channel);
	if (c->pd)
		ibv_dealloc_pd(c->pd);
	if (c->context)
		ibv_close_device(c->context);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static int do_not_block(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int set_up(struct card *c)
{
	int rc;

	c->context = rdma_context_open(c->port.device);
	if (!c->context)
		return -errno;
	c->pd = verbs_alloc_pd(c->context);
	if (!c->pd)
		return -errno;
	c->channel = verbs_channel(c->context);
	if (!c->channel)
		return -errno;
	c->cq = verbs_create_cq(c->context, 1, NULL, c->channel);
	if (!c->cq)
		return -errno;
	rc = do_not_block(c->context->async_fd);
	return rc ? rc : do_not_block(c->channel->fd);
}

/* One more use of it; or NULL and errno. */
static struct card *card_get(struct dmabufs *all,
			     const struct topology_port *port)
{
	struct card *c;
	int rc;
	scoped_lock(&all->lock);

	list_for_each (n, &all->cards) {
		c = container_of(n, struct card, link);
		if (c->port.number == port->number && !atomic_load(&c->lost) &&
		    !strcmp(c->port.device, port->device)) {
			c->refs++;
			return c;
		}
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	pthread_mutex_init(&c->lock, NULL);
	c->refs = 1;
	c->port = *port;
	rc = set_up(c);
	if (rc) {
		card_free(c);
		errno = -rc;
		return NULL;
	}
	list_push_back(&all->cards, &c->link);
	return c;
}

static void card_put(struct dmabufs *all, struct card *c)
{
	scoped_lock(&all->lock);

	if (--c->refs)
		return;
	list_remove(&c->link);
	card_free(c);
}

/* -- which one ------------------------------------------------------------ */

void dmabuf_close(struct dmabuf *d)
{
	int rc = d->mr ? ibv_dereg_mr(d->mr) : 0;

	if (rc)
		log_error("dma-buf: %s: not given back: %s",
			  d->card->port.device, strerror(rc));
	card_put(d->all, d->card);
	free(d);
}

/* How long a piece of it takes, or -errno. */
static int64_t try_out(struct dmabuf *d, uint64_t length_bytes)
{
	uint64_t n = length_bytes < DMABUF_PIECE_BYTES ? length_bytes
						       : DMABUF_PIECE_BYTES;
	cleanup_close int fd = memfd_create("kvfs-dmabuf", MFD_CLOEXEC);
	int64_t ns = 0;
	int rc = fd < 0 || ftruncate(fd, (off_t)n) ? -errno : 0;

	for (int i = 0; i < TRIALS && !rc; i++) {
		ns = clock_now_ns();
		rc = dmabuf_copy(d, 0, DMABUF_TO_FILE, fd, 0, n);
		ns = clock_now_ns() - ns;
	}
	return rc ? rc : ns;
}

/* With this card. *ns: how long it takes. 0 or -errno. */
static int open_with(struct dmabufs *all, const struct topology_port *port,
		     int fd, uint64_t offset, uint64_t length_bytes,
		     struct dmabuf **out, int64_t *ns)
{
	struct dmabuf *d = calloc(1, sizeof(*d));
	int rc = 0;

	if (!d)
		return -ENOMEM;
	d->all = all;
	d->start = offset;
	d->card = card_get(all, port);
	if (!d->card) {
		rc = -errno;
		free(d);
		return rc;
	}
	d->mr = verbs_reg_dmabuf_mr(d->card->pd, offset, length_bytes, fd,
				    IBV_ACCESS_LOCAL_WRITE);
	*ns = d->mr ? try_out(d, length_bytes) : -errno;
	if (*ns >= 0) {
		*out = d;
		return 0;
	}
	rc = (int)*ns;
	dmabuf_close(d);
	return rc;
}

/* The best so far is replaced by a faster one. */
static void compare(struct dmabuf **best, int64_t *best_ns, struct dmabuf *d,
		    int64_t ns)
{
	bool better = !*best || ns < *best_ns;
	struct dmabuf *other = better ? *best : d;

	if (other)
		dmabuf_close(other);
	if (!better)
		return;
	*best = d;
	*best_ns = ns;
}

static bool may_use(const struct dmabufs *all, const struct topology_port *p)
{
	return topology_usable(p) &&
	       rdma_port_allowed(all->devices, p->device, p->number);
}

static void complain(struct dmabufs *all, const char *device, int rc)
{
	int64_t now = clock_now_ns();
	scoped_lock(&all->lock);

	if (all->warned_ns && now - all->warned_ns < WARN_AGAIN_NS)
		return;
	all->warned_ns = now;
	if (!device)
		log_info("dma-buf: no RDMA card here that could reach it: "
			 "libkvfs goes by way of host memory; see "
			 "'kvfs topology'");
	else
		log_warn("dma-buf: %s does not reach it: %s: libkvfs goes by "
			 "way of host memory%s",
			 device, strerror(-rc),
			 rc == -ENOMEM ? ""
				       : "; a card and a driver with "
					 "ibv_reg_dmabuf_mr could, and a PCIe "
					 "path to the GPU");
}

int dmabuf_open(struct dmabufs *all, int fd, uint64_t offset,
		uint64_t length_bytes, struct dmabuf **out)
{
	cleanup_free struct topology *t = calloc(1, sizeof(*t));
	struct dmabuf *best = NULL, *d = NULL;
	const char *device = NULL;
	int64_t ns = 0, best_ns = 0;
	int rc, why = 0;

	if (!t)
		return -ENOMEM;
	if (topology_load("/sys", t))
		t->n_ports = 0;
	for (unsigned i = 0; i < t->n_ports; i++) {
		if (!may_use(all, &t->ports[i]))
			continue;
		device = t->ports[i].device;
		rc = open_with(all, &t->ports[i], fd, offset, length_bytes, &d,
			       &ns);
		if (rc)
			why = rc;
		else
			compare(&best, &best_ns, d, ns);
	}
	if (!best) {
		complain(all, device, why);
		return why == -ENOMEM ? why : -EOPNOTSUPP;
	}
	log_debug("dma-buf: %llu bytes by %s", (unsigned long long)length_bytes,
		  best->card->port.device);
	*out = best;
	return 0;
}

int dmabufs_open(struct dmabufs **out, const char *devices)
{
	struct dmabufs *all = calloc(1, sizeof(*all));

	if (!all)
		return -ENOMEM;
	all->devices = devices ? strdup(devices) : NULL;
	if (devices && !all->devices) {
		free(all);
		return -ENOMEM;
	}
	pthread_mutex_init(&all->lock, NULL);
	list_init(&all->cards);
	*out = all;
	return 0;
}

void dmabufs_close(struct dmabufs *all)
{
	pthread_mutex_destroy(&all->lock);
	free(all->devices);
	free(all);
}
