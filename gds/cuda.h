/* SPDX-License-Identifier: MIT */
#ifndef KVFS_GDS_CUDA_H
#define KVFS_GDS_CUDA_H

/*
 * What is used of CUDA, found at run time. The driver's library alone: it is
 * there wherever a GPU is, its functions take the pointers of the run-time
 * library as well, and its ABI is versioned by the names of its functions.
 * Declared here as NVIDIA documents it, so that building needs no toolkit.
 *
 * The only file that knows of CUDA's numbers is cuda.c.
 */

#include <stddef.h>
#include <stdint.h>

struct gds_cuda {
	void *library; /* NULL: there is none, or not asked for yet */
	int (*init)(unsigned flags);
	int (*pointer_get)(void *data, int attribute, uint64_t pointer);
	int (*push)(void *context);
	int (*pop)(void **context);
	int (*stream_create)(void **stream, unsigned flags);
	int (*stream_destroy)(void *stream);
	int (*stream_wait)(void *stream);
	int (*to_device)(uint64_t to, const void *from, size_t n, void *stream);
	int (*to_host)(void *to, uint64_t from, size_t n, void *stream);
	int (*host_register)(void *p, size_t n, unsigned flags);
	int (*host_unregister)(void *p);
	int (*export)(void *handle, uint64_t pointer, size_t n, int type,
		      unsigned long long flags); /* NULL: before CUDA 11.7 */
};

/* Memory of a GPU, and where it can be worked with. */
struct gds_gpu_memory {
	uint64_t pointer;
	void *context; /* NULL: that of the calling thread */
	void *streams[2];
};

/** gds_cuda_open - 0, also where it is open already; -ENODEV there is no driver
 * or no GPU. */
int gds_cuda_open(struct gds_cuda *c);
void gds_cuda_close(struct gds_cuda *c);
/** gds_cuda_find - a function of a library found at run time, into the pointer
 *  at `function`; 0 or -ENODEV. */
int gds_cuda_find(void *library, const char *name, void *function);

/** gds_cuda_memory_open - 0, -EINVAL it is no memory of a GPU, or not so long;
 *  -ENOMEM, -EIO. */
int gds_cuda_memory_open(const struct gds_cuda *c, const void *pointer,
			 uint64_t bytes, struct gds_gpu_memory *m);
void gds_cuda_memory_close(const struct gds_cuda *c, struct gds_gpu_memory *m);
/** gds_cuda_enter, gds_cuda_leave - its context is the thread's meanwhile; 0 or
 *  -EIO. */
int gds_cuda_enter(const struct gds_cuda *c, const struct gds_gpu_memory *m);
void gds_cuda_leave(const struct gds_cuda *c, const struct gds_gpu_memory *m);
/** gds_cuda_export - a dma-buf of it, or -EOPNOTSUPP. */
int gds_cuda_export(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		    uint64_t bytes);

/** gds_cuda_to_device, gds_cuda_to_host - begin to copy on one of two streams;
 * host stays as it is until gds_cuda_wait for it. 0 or -EIO. */
int gds_cuda_to_device(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		       unsigned stream, uint64_t at, const void *host,
		       size_t n);
int gds_cuda_to_host(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		     unsigned stream, uint64_t at, void *host, size_t n);
int gds_cuda_wait(const struct gds_cuda *c, const struct gds_gpu_memory *m,
		  unsigned stream);

/** gds_cuda_pin - host memory that a GPU reads without a copy in between; 0 or
 *  -EIO, and it is as it was. */
int gds_cuda_pin(const struct gds_cuda *c, void *p, size_t n, int read_only);
void gds_cuda_unpin(const struct gds_cuda *c, void *p);

#endif
