// SPDX-License-Identifier: MIT
/* Built without libibverbs: no dma-buf is taken. */
#include "engine/dmabuf.h"

#include <errno.h>
#include <stddef.h>

int dmabufs_open(struct dmabufs **all, const char *devices)
{
	(void)devices;
	*all = NULL;
	return 0;
}

void dmabufs_close(struct dmabufs *all)
{
	(void)all;
}

int dmabuf_open(struct dmabufs *all, int fd, uint64_t offset,
		uint64_t length_bytes, struct dmabuf **d)
{
	(void)all;
	(void)fd;
	(void)offset;
	(void)length_bytes;
	(void)d;
	return -EOPNOTSUPP;
}

void dmabuf_close(struct dmabuf *d)
{
	(void)d;
}

int dmabuf_copy(struct dmabuf *d, uint64_t at, enum dmabuf_way way, int fd,
		uint64_t offset, uint64_t length_bytes)
{
	(void)d;
	(void)at;
	(void)way;
	(void)fd;
	(void)offset;
	(void)length_bytes;
	return -EOPNOTSUPP;
}
