// SPDX-License-Identifier: MIT
/*
 * The calls of NVIDIA's libcufile.so.0 that libkvfs makes; a part of the
 * stand-in for CUDA (cuda.c), whose memory a file is read into. As the real
 * one it does not take a file of FUSE.
 *
 *      KVFS_CUDA_FAIL=FileNAME:N  the N-th call of cuFileNAME fails
 *      KVFS_CUFILE_COMPAT=1       there is no driver: all goes by the host
 *      KVFS_CUFILE_SHORT=BYTES    a read has no more than that
 *      KVFS_CUFILE_LOG=1          tells each call, but for its numbers
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "tests/helpers/cuda.h"

enum {
	IO_NOT_SUPPORTED = 5008,
	INTERNAL = 5030,
	FUSE = 0x65735546,
};
#define FILES_MAX 16

struct status {
	int of_cufile, of_cuda;
};

struct descriptor {
	int type;
	union {
		int fd;
		void *of_windows;
	} handle;
	const void *operations;
};

static int fds[FILES_MAX]; /* + 1; 0: none */
static unsigned n_opened;
static uint64_t pinned;

static void note(const char *what)
{
	if (getenv("KVFS_CUFILE_LOG"))
		puts(what);
}

static int fails(const char *name)
{
	note(name);
	return cuda_fails(name);
}

static struct status status(int err)
{
	return (struct status){err, 0};
}

static void must_be_open(void)
{
	if (!n_opened)
		cuda_broken("cuFile: its driver is not open");
}

struct status cuFileDriverOpen(void)
{
	if (fails("FileDriverOpen"))
		return status(INTERNAL);
	n_opened++;
	return status(0);
}

struct status cuFileDriverClose_v2(void)
{
	note("FileDriverClose");
	must_be_open();
	n_opened--;
	if (n_opened)
		return status(0);
	for (unsigned i = 0; i < FILES_MAX; i++)
		if (fds[i])
			cuda_broken("cuFile: closed with a file");
	if (pinned)
		cuda_broken("cuFile: closed with memory");
	return status(0);
}

struct status cuFileDriverGetProperties(void *properties)
{
	must_be_open();
	if (fails("FileDriverGetProperties"))
		return status(INTERNAL);
	memset(properties, 0, 56); /* what all versions have */
	/* The kinds of disks stand behind two ints and two sizes. */
	((unsigned *)properties)[6] = getenv("KVFS_CUFILE_COMPAT") ? 0 : 1 << 4;
	return status(0);
}

/* Read-only, as whoever may only read the file must have it. */
static int is_right(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && fs.f_type != FUSE &&
	       (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
}

struct status cuFileHandleRegister(void **handle, void *descriptor)
{
	const struct descriptor *d = descriptor;

	must_be_open();
	if (d->type != 1 || d->operations)
		cuda_broken("cuFileHandleRegister");
	if (fails("FileHandleRegister") || !is_right(d->handle.fd))
		return status(IO_NOT_SUPPORTED);
	for (unsigned i = 0; i < FILES_MAX; i++)
		if (!fds[i]) {
			fds[i] = d->handle.fd + 1;
			*handle = &fds[i];
			return status(0);
		}
	return status(INTERNAL);
}

static int fd_of(void *handle)
{
	int *at = handle;

	must_be_open();
	if (at < fds || at >= fds + FILES_MAX || !*at)
		cuda_broken("cuFile: no file");
	if (fcntl(*at - 1, F_GETFD) < 0)
		cuda_broken("cuFile: its file was closed before");
	return *at - 1;
}

void cuFileHandleDeregister(void *handle)
{
	note("FileHandleDeregister");
	fd_of(handle);
	*(int *)handle = 0;
}

struct status cuFileBufRegister(const void *p, size_t n, int flags)
{
	must_be_open();
	cuda_bytes((uint64_t)(uintptr_t)p, n);
	if (flags || pinned)
		cuda_broken("cuFileBufRegister");
	if (fails("FileBufRegister"))
		return status(INTERNAL);
	pinned = (uint64_t)(uintptr_t)p;
	return status(0);
}

struct status cuFileBufDeregister(const void *p)
{
	note("FileBufDeregister");
	must_be_open();
	if (!pinned || pinned != (uint64_t)(uintptr_t)p)
		cuda_broken("cuFile: it was not registered");
	cuda_bytes(pinned, 1); /* not freed before */
	pinned = 0;
	return status(0);
}

ssize_t cuFileRead(void *handle, void *p, size_t n, off_t offset, off_t at)
{
	const char *most = getenv("KVFS_CUFILE_SHORT");
	char *to = cuda_bytes((uint64_t)(uintptr_t)p + (uint64_t)at, n);
	int fd = fd_of(handle), flags = fcntl(fd, F_GETFL);
	ssize_t got;

	if (!cuda_has_context())
		cuda_broken("cuFile: no context is current");
	if (fails("FileRead")) {
		errno = EIO;
		return getenv("KVFS_CUFILE_COMPAT") ? -1 : -INTERNAL;
	}
	if (most && n > strtoull(most, NULL, 0))
		n = strtoull(most, NULL, 0);
	/* Any part of the file may be asked for, O_DIRECT or not. */
	fcntl(fd, F_SETFL, flags & ~O_DIRECT);
	got = pread(fd, to, n, offset);
	fcntl(fd, F_SETFL, flags);
	return got;
}

__attribute__((destructor)) static void tell(void)
{
	if (n_opened)
		fprintf(stderr, "cuda stand-in: cuFile's driver is open\n");
}
