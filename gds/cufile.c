// SPDX-License-Identifier: MIT
#include "gds/cufile.h"

#include <dlfcn.h>
#include <errno.h>

/* Of NVIDIA's cuFile API. */
#define LIBRARY "libcufile.so.0"
#define HANDLE_OF_FD 1
#define DRIVER_ALREADY_OPEN 5026

struct descriptor {
	int type;
	union {
		int fd;
		void *of_windows;
	} handle;
	const void *operations;
};

struct properties {
	unsigned major_version, minor_version;
	size_t poll_bytes, direct_bytes;
	unsigned disks; /* a bit for each kind that the driver reaches */
	unsigned control;
	unsigned more[64]; /* later versions have some more */
};

static int find_all(struct gds_cufile *f)
{
	void *l = f->library;

	/* Before 12.0 there is none that counts; it closes with the process. */
	gds_cuda_find(l, "cuFileDriverClose_v2", &f->driver_close);
	if (gds_cuda_find(l, "cuFileDriverOpen", &f->driver_open) ||
	    gds_cuda_find(l, "cuFileDriverGetProperties", &f->driver_get) ||
	    gds_cuda_find(l, "cuFileHandleRegister", &f->add_file) ||
	    gds_cuda_find(l, "cuFileHandleDeregister", &f->remove_file) ||
	    gds_cuda_find(l, "cuFileBufRegister", &f->add_memory) ||
	    gds_cuda_find(l, "cuFileBufDeregister", &f->remove_memory) ||
	    gds_cuda_find(l, "cuFileRead", &f->read))
		return -ENODEV;
	return 0;
}

static int open_driver(struct gds_cufile *f)
{
	struct properties p = {.disks = 0};
	int err = f->driver_open().of_cufile;

	if (err && err != DRIVER_ALREADY_OPEN)
		return -ENODEV;
	f->opened = !err;
	f->compat = f->driver_get(&p).of_cufile || !p.disks;
	return 0;
}

/* It has threads of its own: once there it stays. */
int gds_cufile_open(struct gds_cufile *f)
{
	if (f->library)
		return 0;
	f->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (!f->library)
		return -ENODEV;
	if (!find_all(f) && !open_driver(f))
		return 0;
	gds_cufile_close(f);
	return -ENODEV;
}

void gds_cufile_close(struct gds_cufile *f)
{
	if (f->opened && f->driver_close)
		f->driver_close();
	if (f->library)
		dlclose(f->library);
	f->library = NULL;
	f->opened = false;
}

int gds_cufile_add(const struct gds_cufile *f, int fd, void **handle)
{
	struct descriptor d = {.type = HANDLE_OF_FD, .handle = {.fd = fd}};

	return f->add_file(handle, &d).of_cufile ? -EOPNOTSUPP : 0;
}

void gds_cufile_remove(const struct gds_cufile *f, void *handle)
{
	f->remove_file(handle);
}

/* -- memory, in its context ------------------------------------------- */

static void *pointer_of(const struct gds_gpu_memory *m)
{
	return (void *)(uintptr_t)m->pointer;
}

int gds_cufile_pin(const struct gds_cufile *f, const struct gds_cuda *c,
		   const struct gds_gpu_memory *m, uint64_t bytes)
{
	int err = gds_cuda_enter(c, m);

	if (err)
		return err;
	err = f->add_memory(pointer_of(m), bytes, 0).of_cufile ? -EIO : 0;
	gds_cuda_leave(c, m);
	return err;
}

void gds_cufile_unpin(const struct gds_cufile *f, const struct gds_cuda *c,
		      const struct gds_gpu_memory *m)
{
	if (gds_cuda_enter(c, m))
		return; /* its context was destroyed */
	f->remove_memory(pointer_of(m));
	gds_cuda_leave(c, m);
}

int64_t gds_cufile_read(const struct gds_cufile *f, const struct gds_cuda *c,
			const struct gds_gpu_memory *m, void *handle,
			uint64_t offset, uint64_t length, uint64_t at)
{
	uint64_t done = 0;
	ssize_t n = 1;

	if (gds_cuda_enter(c, m))
		return -EIO;
	while (done < length && n > 0) {
		n = f->read(handle, pointer_of(m), length - done,
			    (off_t)(offset + done), (off_t)(at + done));
		if (n > 0)
			done += (uint64_t)n;
	}
	gds_cuda_leave(c, m);
	return n < 0 ? -EIO : (int64_t)done;
}
