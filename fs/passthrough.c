// SPDX-License-Identifier: MIT
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "fs/fs.h"

/*
 * The kernel's ABI (include/uapi/linux/fuse.h, Linux 6.9), declared here
 * because the headers of older distributions lack it.
 */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

/* Keeps the session's descriptor while an ioctl is on its way; the pool's
 * thread binds and unbinds until after the session is closed. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int device = -1;

void passthrough_attach(int fd)
{
	scoped_lock(&lock);

	device = fd;
}

int passthrough_bind(struct fs *fs, int fd)
{
	struct backing_map map = {.fd = fd};
	int id;
	scoped_lock(&lock);

	if (!fs->passthrough || device < 0)
		return 0;
	if (fault_hit("fs.bind"))
		return -EPERM;
	id = ioctl(device, BACKING_OPEN, &map);
	if (id > 0)
		return id;
	id = id ? -errno : -EIO;
	log_error("passthrough: backing file refused: %s", strerror(-id));
	return id;
}

void passthrough_unbind(struct fs *fs, int backing_id)
{
	uint32_t id = (uint32_t)backing_id;
	scoped_lock(&lock);

	if (fs->passthrough && backing_id > 0 && device >= 0)
		ioctl(device, BACKING_CLOSE, &id);
}
