// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/fd_take.h"
#include "fs/fs.h"
#include "fs/ioctl.h"
#include "fs/kv_access.h"
#include "fs/ring.h"

/* RING: descriptors of a client, until it is known what they are. */

/* Only what has none of a file's names is called so: theirs begin with '/'. */
static bool is_eventfd(int fd)
{
	char path[40], target[32] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, target, sizeof(target) - 1) > 0 &&
	       !strcmp(target, "anon_inode:[eventfd]");
}

static bool is_memory(int fd)
{
	return fcntl(fd, F_GET_SEALS) >= 0;
}

/* Returns: a descriptor, or -errno. */
static int take(struct call *c, int number, bool (*is_right)(int fd))
{
	int fd = fd_drops_many() ? -EBUSY : fd_take(c->pid, c->uid, number);

	if (fd < 0 || is_right(fd))
		return fd;
	fd_drop(fd);
	return -EINVAL;
}

static int take_all(struct call *c, const struct kvfs_ioc_ring *in,
		    struct ring_parts *parts)
{
	parts->memory_fd = take(c, in->memory_fd, is_memory);
	if (parts->memory_fd < 0)
		return parts->memory_fd;
	parts->submit_fd = take(c, in->submit_fd, is_eventfd);
	if (parts->submit_fd < 0)
		return parts->submit_fd;
	if (in->complete_fd == -1)
		return 0;
	parts->complete_fd = take(c, in->complete_fd, is_eventfd);
	return parts->complete_fd < 0 ? parts->complete_fd : 0;
}

static int open_ring(struct call *c, const struct kvfs_ioc_ring *in)
{
	struct ring_parts parts = {
		.memory_fd = -1,
		.submit_fd = -1,
		.complete_fd = -1,
		.entries = in->entries,
		.data_bytes = in->data_bytes,
	};
	int err = take_all(c, in, &parts);

	if (!err && !(parts.who = kv_caller_new(c)))
		err = -ENOMEM;
	if (!err)
		return ring_open(c->fs->rings, c, &parts);
	if (parts.memory_fd >= 0)
		close(parts.memory_fd);
	if (parts.submit_fd >= 0)
		close(parts.submit_fd);
	if (parts.complete_fd >= 0)
		close(parts.complete_fd);
	return err;
}

static void ring_on_worker(struct call *c)
{
	struct kvfs_ioc_ring in;
	int err;

	memcpy(&in, c->value, sizeof(in));
	err = open_ring(c, &in);
	ioctl_done(c, err, &in, sizeof(in));
}

void ioctl_do_ring(struct call *c)
{
	struct kvfs_ioc_ring in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || in.reserved || c->size != sizeof(in))
		call_reply_err(c, EINVAL);
	else if (!rings_offered(c->fs->rings))
		call_reply_err(c, EOPNOTSUPP);
	else
		call_defer(c, ring_on_worker);
}
