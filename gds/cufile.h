/* SPDX-License-Identifier: MIT */
#ifndef KVFS_GDS_CUFILE_H
#define KVFS_GDS_CUFILE_H

/*
 * What is used of cuFile, the library of GPUDirect Storage, found at run time:
 * a disk writes into the memory of a GPU, or, where cuFile cannot have that,
 * it goes by way of the host's memory itself (its compatibility mode).
 * Declared as NVIDIA documents it; the only file that knows of its numbers is
 * cufile.c.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "gds/cuda.h"

/* As cuFile returns it. */
struct gds_cufile_status {
	int of_cufile, of_cuda;
};

struct gds_cufile {
	void *library; /* NULL: there is none, or not asked for yet */
	bool opened;   /* its driver, by us */
	bool compat;   /* the driver reaches no kind of disk */
	struct gds_cufile_status (*driver_open)(void);
	struct gds_cufile_status (*driver_close)(void); /* or NULL */
	struct gds_cufile_status (*driver_get)(void *properties);
	struct gds_cufile_status (*add_file)(void **handle, void *descriptor);
	void (*remove_file)(void *handle);
	struct gds_cufile_status (*add_memory)(const void *p, size_t n,
					       int flags);
	struct gds_cufile_status (*remove_memory)(const void *p);
	ssize_t (*read)(void *handle, void *p, size_t n, off_t offset,
			off_t at);
};

/** gds_cufile_open - 0, also where it is open already; -ENODEV there is none.
 */
int gds_cufile_open(struct gds_cufile *f);
void gds_cufile_close(struct gds_cufile *f);

/** gds_cufile_add - a file that is open, and stays so; 0 or -EOPNOTSUPP. */
int gds_cufile_add(const struct gds_cufile *f, int fd, void **handle);
void gds_cufile_remove(const struct gds_cufile *f, void *handle);

/** gds_cufile_pin - memory that the disk may write into without a copy; 0 or
 *  -EIO, and it is as it was. */
int gds_cufile_pin(const struct gds_cufile *f, const struct gds_cuda *c,
		   const struct gds_gpu_memory *m, uint64_t bytes);
void gds_cufile_unpin(const struct gds_cufile *f, const struct gds_cuda *c,
		      const struct gds_gpu_memory *m);

/** gds_cufile_read - to `at` of the memory, up to the file's end. Returns: how
 *  many bytes, or -EIO. */
int64_t gds_cufile_read(const struct gds_cufile *f, const struct gds_cuda *c,
			const struct gds_gpu_memory *m, void *handle,
			uint64_t offset, uint64_t length, uint64_t at);

#endif
