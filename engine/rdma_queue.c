// SPDX-License-Identifier: MIT
/* The queue pair: made, connected, and what completes on it. */
#include "engine/rdma.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#define POLL_AT_ONCE 16
#define INLINE_BYTES 128 /* asked for; fewer are fine */
#define RNR_CODE 12	 /* 0.64 ms; every packet has a buffer that waits */

/* What 1,000 peers cost, and any number. */
_Static_assert(RDMA_QUEUES_MAX *(sizeof(struct rdma_link) +
				 RDMA_PACKETS * RDMA_PACKET_BYTES) +
			       (RDMA_SHARED_RECEIVES + RDMA_LONGS) *
				       RDMA_LONG_BYTES <=
		       33u << 20,
	       "as HACKING.md says");

/* --- made -------------------------------------------------------------- */

void rdma_receives_free(struct rdma_receives *r)
{
	if (r->srq)
		ibv_destroy_srq(r->srq);
	if (r->mr)
		ibv_dereg_mr(r->mr);
	free(r->bytes);
	*r = (struct rdma_receives){};
}

static int make_bytes(struct rdma_device *d, size_t n, uint8_t **bytes,
		      struct ibv_mr **mr)
{
	n = (n + 4095) / 4096 * 4096;
	*bytes = aligned_alloc(4096, n);
	if (!*bytes)
		return -ENOMEM;
	*mr = rdma_register(d, *bytes, n, IBV_ACCESS_LOCAL_WRITE);
	return *mr ? 0 : -errno;
}

/* Not all cards have such queues: then each link has receives of its own. */
static void make_srq(struct rdma_device *d)
{
	struct ibv_srq_init_attr a = {
		.attr = {.max_wr = RDMA_SHARED_RECEIVES, .max_sge = 1}};

	d->shared.srq = verbs_create_srq(d->pd, &a);
	d->no_sharing = !d->shared.srq;
	if (d->no_sharing)
		log_info("engine: rdma: %s: no shared receive queue: %s",
			 d->name, strerror(errno));
}

/* Posts them as well, unless there is a queue pair to post them to first. */
static int make_receives(struct rdma_link *l)
{
	struct rdma_device *d = l->device;
	size_t n = (size_t)RDMA_RECEIVES * RDMA_PACKET_BYTES;
	int rc;

	if (!d->shared.srq && !d->no_sharing)
		make_srq(d);
	l->receives = d->no_sharing ? &l->own : &d->shared;
	if (l->receives->bytes)
		return 0;
	l->receives->each_bytes =
		d->no_sharing ? RDMA_PACKET_BYTES : RDMA_LONG_BYTES;
	d->longs_free = d->no_sharing ? 0 : ~0ull >> (64 - RDMA_LONGS);
	if (!d->no_sharing)
		n = (size_t)(RDMA_SHARED_RECEIVES + RDMA_LONGS) *
		    RDMA_LONG_BYTES;
	rc = make_bytes(d, n, &l->receives->bytes, &l->receives->mr);
	if (!rc && !d->no_sharing)
		rc = rdma_post_receives(l, NULL, RDMA_SHARED_RECEIVES);
	if (rc)
		rdma_receives_free(l->receives);
	return rc;
}

static int make_queues(struct rdma_link *l)
{
	struct ibv_qp_init_attr a = {
		.cap = {.max_send_wr = RDMA_SENDS,
			.max_recv_wr = l->receives->srq ? 0 : RDMA_RECEIVES,
			.max_send_sge = 1,
			.max_recv_sge = 1,
			.max_inline_data = INLINE_BYTES},
		.qp_type = IBV_QPT_RC,
		.srq = l->receives->srq,
	};

	l->cq = verbs_create_cq(l->device->context, RDMA_SENDS + RDMA_RECEIVES,
				l, l->device->channel);
	if (!l->cq)
		return -errno;
	a.send_cq = a.recv_cq = l->cq;
	l->qp = verbs_create_qp(l->device->pd, &a);
	if (!l->qp)
		return -errno;
	l->inline_bytes = a.cap.max_inline_data;
	return verbs_notify(l->cq);
}

static int to_init(struct rdma_link *l)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_INIT,
		.port_num = (uint8_t)l->port.number,
		.qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
	};

	return verbs_modify_qp(l->qp, &a,
			       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
				       IBV_QP_ACCESS_FLAGS);
}

static int ask_port(struct rdma_link *l)
{
	struct ibv_port_attr a;
	int rc = verbs_query_port(l->device->context, (uint8_t)l->port.number,
				  &a);

	if (rc)
		return rc;
	l->mtu = (uint8_t)a.active_mtu;
	l->lid = a.lid;
	if (getrandom(&l->first_psn, sizeof(l->first_psn), 0) !=
	    sizeof(l->first_psn))
		return -EAGAIN;
	l->first_psn &= RDMA_PSN_MASK;
	return 0;
}

static int set_up(struct rdma_link *l)
{
	int rc = ask_port(l);

	if (!rc)
		rc = make_receives(l);
	if (!rc)
		rc = make_bytes(l->device, RDMA_PACKETS * RDMA_PACKET_BYTES,
				&l->packets, &l->packets_mr);
	if (!rc)
		rc = make_queues(l);
	if (!rc)
		rc = to_init(l);
	if (!rc && !l->receives->srq)
		rc = rdma_post_receives(l, NULL, RDMA_RECEIVES);
	return rc;
}

int rdma_queue_open(struct rdma_link *l)
{
	int rc;

	l->device = rdma_device_get(l->t, l->port.device);
	if (!l->device)
		return -errno;
	rc = set_up(l);
	if (rc)
		log_warn("engine: rdma: %s: no queue pair: %s", l->device->name,
			 strerror(-rc));
	return rc;
}

void rdma_queue_endpoint(const struct rdma_link *l, struct rdma_endpoint *p)
{
	*p = (struct rdma_endpoint){
		.queue_pair = l->qp->qp_num,
		.first_psn = l->first_psn,
		.lid = l->lid,
		.mtu = l->mtu,
		.packet_bytes = (uint16_t)l->receives->each_bytes,
	};
	memcpy(p->gid, l->port.gid, sizeof(p->gid));
}

/* --- connected --------------------------------------------------------- */

static int to_receive(struct rdma_link *l, const struct rdma_endpoint *p)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_RTR,
		.path_mtu = p->mtu < l->mtu ? p->mtu : l->mtu,
		.dest_qp_num = p->queue_pair,
		.rq_psn = p->first_psn,
		.max_dest_rd_atomic = 1,
		.min_rnr_timer = RNR_CODE,
		.ah_attr = {.dlid = p->lid,
			    .port_num = (uint8_t)l->port.number,
			    .is_global = l->port.gid_type != GID_IB,
			    .grh = {.sgid_index = (uint8_t)l->port.gid_index,
				    .hop_limit = RDMA_HOP_LIMIT}},
	};

	memcpy(a.ah_attr.grh.dgid.raw, p->gid, sizeof(p->gid));
	return verbs_modify_qp(l->qp, &a,
			       IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU |
				       IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
				       IBV_QP_MAX_DEST_RD_ATOMIC |
				       IBV_QP_MIN_RNR_TIMER);
}

static int to_send(struct rdma_link *l)
{
	struct ibv_qp_attr a = {
		.qp_state = IBV_QPS_RTS,
		.timeout = RDMA_TIMEOUT_CODE,
		.retry_cnt = RDMA_RETRIES,
		.rnr_retry = RDMA_RETRIES,
		.sq_psn = l->first_psn,
		.max_rd_atomic = 1,
	};

	return verbs_modify_qp(l->qp, &a,
			       IBV_QP_STATE | IBV_QP_TIMEOUT |
				       IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
				       IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

int rdma_queue_connect(struct rdma_link *l, const struct rdma_endpoint *p)
{
	int rc = to_receive(l, p);

	l->takes_longs = p->packet_bytes >= RDMA_LONG_BYTES;
	return rc ? rc : to_send(l);
}

/* The buffers of receives go back whatever becomes of the link. */
static int give_back(struct rdma_link *l, const struct ibv_wc *wc, int n)
{
	uint32_t numbers[POLL_AT_ONCE], n_numbers = 0;

	for (int i = 0; i < n; i++)
		if (wc[i].wr_id >> 32 == RDMA_POSTED_RECEIVE)
			numbers[n_numbers++] = (uint32_t)wc[i].wr_id;
	return rdma_post_receives(l, numbers, n_numbers);
}

/* What completed and was not looked at. */
static void take_back(struct rdma_link *l)
{
	struct ibv_wc wc[POLL_AT_ONCE];
	int n;

	while ((n = ibv_poll_cq(l->cq, POLL_AT_ONCE, wc)) > 0)
		give_back(l, wc, n);
}

/* Receives that the shared queue gave to this one go back. Should a card keep
 * one for itself, it is missing until the device's last link ends. */
static void queue_pair_close(struct rdma_link *l)
{
	bool shared = l->receives && l->receives->srq;

	if (l->qp && shared)
		take_back(l);
	if (l->qp)
		ibv_destroy_qp(l->qp);
	l->qp = NULL;
	if (l->cq && shared)
		take_back(l);
	if (l->cq)
		ibv_destroy_cq(l->cq);
	l->cq = NULL;
}

void rdma_queue_close(struct rdma_link *l)
{
	struct ibv_qp_attr over = {.qp_state = IBV_QPS_ERR};

	/* Stopped, so that windows bound to it may go; some cards wait for
	 * those before they let it be destroyed. */
	if (l->qp)
		ibv_modify_qp(l->qp, &over, IBV_QP_STATE);
	rdma_receive_keys_free(l);
	rdma_send_copies_free(l);
	queue_pair_close(l);
	rdma_packets_freed(l, l->packets_freed + RDMA_PACKETS);
	rdma_receives_free(&l->own);
	if (l->packets_mr)
		ibv_dereg_mr(l->packets_mr);
	l->packets_mr = NULL;
	free(l->packets);
	l->packets = NULL;
	if (l->device)
		rdma_device_put(l->device);
	l->device = NULL;
}

/* --- completed --------------------------------------------------------- */

static void heard(struct rdma_link *l)
{
	atomic_store_explicit(&l->post.base.heard_ns, clock_now_ns(),
			      memory_order_relaxed);
}

static int on_receive(struct rdma_link *l, const struct ibv_wc *wc, uint32_t i)
{
	if (l->state == RDMA_MEETING) {
		rdma_link_up(l);
		if (l->theirs)
			rdma_send_greeting(l);
	}
	heard(l);
	if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM)
		return rdma_receive_written(l, ntohl(wc->imm_data),
					    wc->byte_len);
	l->packets_in++;
	return rdma_receive_packet(l, rdma_receive_buffer(l, i), wc->byte_len);
}

static void complete(struct rdma_link *l, const struct ibv_wc *wc)
{
	uint32_t number = (uint32_t)wc->wr_id;
	int rc = 0;

	switch ((enum rdma_posted)(wc->wr_id >> 32)) {
	case RDMA_POSTED_PACKET:
		rdma_packets_freed(l, number + 1);
		break;
	case RDMA_POSTED_WRITE:
		heard(l);
		rdma_send_written(l, number);
		break;
	case RDMA_POSTED_INVALIDATE:
		rdma_receive_invalidated(l, number);
		break;
	case RDMA_POSTED_RECEIVE:
		rc = on_receive(l, wc, number);
		break;
	}
	if (rc)
		rdma_link_fail(l, rc, "broken rules of the protocol");
}

static int errno_of(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return -ETIMEDOUT;
	case IBV_WC_WR_FLUSH_ERR:
		return -ECONNRESET;
	case IBV_WC_REM_ACCESS_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
	case IBV_WC_REM_OP_ERR:
		return -EREMOTEIO;
	default:
		return -EIO;
	}
}

static void take(struct rdma_link *l, const struct ibv_wc *wc)
{
	if (l->state < RDMA_ENDING && wc->status)
		rdma_link_fail(l, errno_of(wc->status),
			       ibv_wc_status_str(wc->status));
	else if (l->state < RDMA_ENDING)
		complete(l, wc);
}

/* Returns: how many there were, or -errno. */
static int poll_some(struct rdma_link *l)
{
	struct ibv_wc wc[POLL_AT_ONCE];
	int n = verbs_poll(l->cq, POLL_AT_ONCE, wc);
	int rc;

	for (int i = 0; i < n; i++)
		take(l, &wc[i]);
	rc = give_back(l, wc, n);
	rdma_post_flush(l->t);
	return rc ? rc : n;
}

void rdma_queue_poll(struct rdma_link *l)
{
	int rc;

	if (l->state >= RDMA_ENDING)
		return;
	rc = verbs_notify(l->cq);
	for (int n = 1; n > 0 && !rc && l->state < RDMA_ENDING;) {
		n = poll_some(l);
		rc = n < 0 ? n : 0;
	}
	if (rc)
		rdma_link_fail(l, rc, "completion queue");
	rdma_link_pump(l);
}
