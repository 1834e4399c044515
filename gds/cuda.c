// SPDX-License-Identifier: MIT
#include "gds/cuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Of NVIDIA's CUDA Driver API. */
#define LIBRARY "libcuda.so.1"
#define ATTRIBUTE_CONTEXT 1
#define ATTRIBUTE_MEMORY_TYPE 2
#define ATTRIBUTE_RANGE_START 11
#define ATTRIBUTE_RANGE_SIZE 12
#define MEMORY_OF_DEVICE 2
#define STREAM_NON_BLOCKING 1
#define REGISTER_PORTABLE 1 /* for all contexts */
#define REGISTER_READ_ONLY 8
#define HANDLE_DMA_BUF 1
#define ERROR_OUT_OF_MEMORY 2

int gds_cuda_find(void *library, const char *name, void *function)
{
	void *found = dlsym(library, name);

	memcpy(function, &found, sizeof(found));
	return found ? 0 : -ENODEV;
}

static int find_all(struct gds_cuda *c)
{
	void *l = c->library;

	gds_cuda_find(l, "cuMemGetHandleForAddressRange", &c->export);
	if (gds_cuda_find(l, "cuInit", &c->init) ||
	    gds_cuda_find(l, "cuPointerGetAttribute", &c->pointer_get) ||
	    gds_cuda_find(l, "cuCtxPushCurrent_v2", &c->push) ||
	    gds_cuda_find(l, "cuCtxPopCurrent_v2", &c->pop) ||
	    gds_cuda_find(l, "cuStreamCreate", &c->stream_create) ||
	    gds_cuda_find(l, "cuStreamDestroy_v2", &c->stream_destroy) ||
	    gds_cuda_find(l, "cuStreamSynchronize", &c->stream_wait) ||
	    gds_cuda_find(l, "cuMemcpyHtoDAsync_v2", &c->to_device) ||
	    gds_cuda_find(l, "cuMemcpyDtoHAsync_v2", &c->to_host) ||
	    gds_cuda_find(l, "cuMemHostRegister_v2", &c->host_register) ||
	    gds_cuda_find(l, "cuMemHostUnregister", &c->host_unregister))
		return -ENODEV;
	return 0;
}

int gds_cuda_open(struct gds_cuda *c)
{
	if (c->library)
		return 0;
	c->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!c->library)
		return -ENODEV;
	if (!find_all(c) && !c->init(0))
		return 0;
	gds_cuda_close(c);
	return -ENODEV;
}

void gds_cuda_close(struct gds_cuda *c)
{
	if (c->library)
		dlclose(c->library);
	c->library = NULL;
}

/* -- a context: whose memory it is ---------------------------------- */

int gds_cuda_enter(const struct gds_cuda *c, const struct gds_gpu_memory *m)
{
	return m->context && c->push(m->context) ? -EIO : 0;
}

void gds_cuda_leave(const struct gds_cuda *c, const struct gds_gpu_memory *m)
{
	void *context;

	if (m->context)
		c->pop(&context);
}

static int errno_of(int result)
{
	return !result ? 0 : result == ERROR_OUT_OF_MEMORY ? -ENOMEM : -EIO;
}

static int make_streams(const struct gds_cuda *c, struct gds_gpu_memory *m)
{
	int err = gds_cuda_enter(c, m);

	if (err)
		return err;
	err = errno_of(c->stream_create(&m->streams[0], STREAM_NON_BLOCKING));
	if (!err) {
		err = errno_of(
			c->stream_create(&m->streams[1], STREAM_NON_BLOCKING));
		if (err)
			c->stream_destroy(m->streams[0]);
	}
	gds_cuda_leave(c, m);
	return err;
}

int gds_cuda_memory_open(const struct gds_cuda *c, const void *pointer,
			 uint64_t bytes, struct gds_gpu_memory *m)
{
	uint64_t p = (uint64_t)(uintptr_t)pointer, start = 0;
	unsigned type = 0;
	size_t size = 0;

	if (c->pointer_get(&type, ATTRIBUTE_MEMORY_TYPE, p) ||
	    type != MEMORY_OF_DEVICE ||
	    c->pointer_get(&start, ATTRIBUTE_RANGE_START, p) ||
	    c->pointer_get(&size, ATTRIBUTE_RANGE_SIZE, p) || !bytes ||
	    p < start || p - start > size || bytes > size - (p - start))
		return -EINVAL;
	m->pointer = p;
	m->context = NULL;
	c->pointer_get(&m->context, ATTRIBUTE_CONTEXT, p);
	return make_streams(c, m);
}

void gds_cuda_memory_close(const struct gds_cuda *c, struct gds_gpu_memory *m)
{
	if (gds_cuda_enter(c, m))
		return; /* its context was destroyed, and they with it */
	c->stream_destroy(m->streams[0]);
	c->stream_destroy(m->streams[1]);
	gds_cuda_leave(c, m);
}

int gds_cuda_export(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		    uint64_t bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	int fd = -1, err;

	if (!c->export || m->pointer % page || bytes % page)
		return -EOPNOTSUPP;
	err = gds_cuda_enter(c, m);
	if (err)
		return err;
	err = c->export(&fd, m->pointer, bytes, HANDLE_DMA_BUF, 0);
	gds_cuda_leave(c, m);
	return err || fd < 0 ? -EOPNOTSUPP : fd;
}

/* -- copies --------------------------------------------------------- */

int gds_cuda_to_device(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		       unsigned stream, uint64_t at, const void *host, size_t n)
{
	int err = gds_cuda_enter(c, m);

	if (err)
		return err;
	err = errno_of(
		c->to_device(m->pointer + at, host, n, m->streams[stream]));
	gds_cuda_leave(c, m);
	return err;
}

int gds_cuda_to_host(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		     unsigned stream, uint64_t at, void *host, size_t n)
{
	int err = gds_cuda_enter(c, m);

	if (err)
		return err;
	err = errno_of(
		c->to_host(host, m->pointer + at, n, m->streams[stream]));
	gds_cuda_leave(c, m);
	return err;
}

int gds_cuda_wait(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		  unsigned stream)
{
	int err = gds_cuda_enter(c, m);

	if (err)
		return err;
	err = errno_of(c->stream_wait(m->streams[stream]));
	gds_cuda_leave(c, m);
	return err;
}

int gds_cuda_pin(const struct gds_cuda *c, void *p, size_t n, int read_only)
{
	unsigned flags =
		REGISTER_PORTABLE | (read_only ? REGISTER_READ_ONLY : 0);

	return c->host_register(p, n, flags) ? -EIO : 0;
}

void gds_cuda_unpin(const struct gds_cuda *c, void *p)
{
	c->host_unregister(p);
}
