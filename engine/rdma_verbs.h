/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_RDMA_VERBS_H
#define KVFS_ENGINE_RDMA_VERBS_H

/*
 * The verbs calls that can fail, each as 0 or -errno (NULL and errno where it
 * makes something). Each is a point of KVFS_FAULT, so a test walks every way
 * out, or counts. What only undoes is called directly.
 */

#include "base/fault.h"

#include <errno.h>
#include <infiniband/verbs.h>

static inline bool verbs_fail(const char *point, int error)
{
	fault_pass(point);
	if (!fault_hit(point))
		return false;
	errno = error;
	return true;
}

static inline struct ibv_context *verbs_open(struct ibv_device *d)
{
	return verbs_fail("verbs.open", EIO) ? NULL : ibv_open_device(d);
}

static inline int verbs_query_device(struct ibv_context *c,
				     struct ibv_device_attr *a)
{
	return verbs_fail("verbs.query_device", EIO) ? -EIO
						     : -ibv_query_device(c, a);
}

static inline int verbs_query_port(struct ibv_context *c, uint8_t port,
				   struct ibv_port_attr *a)
{
	return verbs_fail("verbs.query_port", EIO)
		       ? -EIO
		       : -ibv_query_port(c, port, a);
}

/* Returns: how many, or -errno. */
static inline ssize_t verbs_query_gids(struct ibv_context *c,
				       struct ibv_gid_entry *all, size_t n)
{
	return verbs_fail("verbs.query_gids", EIO)
		       ? -EIO
		       : ibv_query_gid_table(c, all, n, 0);
}

static inline struct ibv_pd *verbs_alloc_pd(struct ibv_context *c)
{
	return verbs_fail("verbs.alloc_pd", ENOMEM) ? NULL : ibv_alloc_pd(c);
}

static inline struct ibv_comp_channel *verbs_channel(struct ibv_context *c)
{
	return verbs_fail("verbs.channel", ENOMEM) ? NULL
						   : ibv_create_comp_channel(c);
}

static inline struct ibv_cq *verbs_create_cq(struct ibv_context *c, int n,
					     void *ctx,
					     struct ibv_comp_channel *channel)
{
	return verbs_fail("verbs.create_cq", ENOMEM)
		       ? NULL
		       : ibv_create_cq(c, n, ctx, channel, 0);
}

static inline struct ibv_qp *verbs_create_qp(struct ibv_pd *pd,
					     struct ibv_qp_init_attr *a)
{
	return verbs_fail("verbs.create_qp", ENOMEM) ? NULL
						     : ibv_create_qp(pd, a);
}

static inline int verbs_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *a,
				  int mask)
{
	return verbs_fail("verbs.modify_qp", EINVAL)
		       ? -EINVAL
		       : -ibv_modify_qp(qp, a, mask);
}

static inline struct ibv_mr *verbs_reg_mr(struct ibv_pd *pd, void *addr,
					  size_t n, int access)
{
	return verbs_fail("verbs.reg_mr", ENOMEM)
		       ? NULL
		       : ibv_reg_mr(pd, addr, n, access);
}

/* The address of its first byte is the offset. */
static inline struct ibv_mr *verbs_reg_dmabuf_mr(struct ibv_pd *pd,
						 uint64_t offset, size_t n,
						 int fd, int access)
{
	return verbs_fail("verbs.reg_dmabuf_mr", EOPNOTSUPP)
		       ? NULL
		       : ibv_reg_dmabuf_mr(pd, offset, n, offset, fd, access);
}

static inline struct ibv_mw *verbs_alloc_mw(struct ibv_pd *pd)
{
	return verbs_fail("verbs.alloc_mw", ENOMEM)
		       ? NULL
		       : ibv_alloc_mw(pd, IBV_MW_TYPE_2);
}

static inline int verbs_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr)
{
	struct ibv_send_wr *bad;

	return verbs_fail("verbs.post_send", ENOMEM)
		       ? -ENOMEM
		       : -ibv_post_send(qp, wr, &bad);
}

static inline int verbs_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr)
{
	struct ibv_recv_wr *bad;

	return verbs_fail("verbs.post_recv", ENOMEM)
		       ? -ENOMEM
		       : -ibv_post_recv(qp, wr, &bad);
}

static inline struct ibv_srq *verbs_create_srq(struct ibv_pd *pd,
					       struct ibv_srq_init_attr *a)
{
	return verbs_fail("verbs.create_srq", ENOMEM) ? NULL
						      : ibv_create_srq(pd, a);
}

static inline int verbs_post_srq_recv(struct ibv_srq *srq,
				      struct ibv_recv_wr *wr)
{
	struct ibv_recv_wr *bad;

	return verbs_fail("verbs.post_srq_recv", ENOMEM)
		       ? -ENOMEM
		       : -ibv_post_srq_recv(srq, wr, &bad);
}

static inline int verbs_notify(struct ibv_cq *cq)
{
	return verbs_fail("verbs.notify", EIO) ? -EIO
					       : -ibv_req_notify_cq(cq, 0);
}

/* Returns: how many completions, or -errno. */
static inline int verbs_poll(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
	int got = ibv_poll_cq(cq, n, wc);

	if (got > 0 && verbs_fail("verbs.poll", EIO))
		wc[0].status = IBV_WC_GENERAL_ERR;
	return got < 0 ? -EIO : got;
}

#endif
