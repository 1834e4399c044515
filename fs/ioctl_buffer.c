// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "fs/buffers.h"
#include "fs/fd_take.h"
#include "fs/fs.h"
#include "fs/ioctl.h"

/*
 * REGISTER and UNREGISTER. Memory is filled and unmapped on a worker: both may
 * take long.
 */

static int add(struct call *c, const struct kvfs_ioc_register *in,
	       struct kvfs_ioc_registered *out)
{
	int fd = fd_drops_many() ? -EBUSY : fd_take(c->pid, c->uid, in->fd);
	int err = fd < 0 ? fd
			 : buffer_add(c->fs->buffers, kv_buffers_of(c), c->uid,
				      fd, in, c->deadline, out);

	if (err == -EINVAL || err == -EOPNOTSUPP)
		fd_drop(fd); /* it may be no memfd */
	else if (fd >= 0)
		close(fd);
	return err;
}

static void register_on_worker(struct call *c)
{
	struct kvfs_ioc_registered out = {.head = ioctl_head(sizeof(out))};
	struct kvfs_ioc_register in;
	int err;

	memcpy(&in, c->value, sizeof(in));
	err = add(c, &in, &out);
	ioctl_done(c, err, &out, sizeof(out));
}

void ioctl_do_register(struct call *c)
{
	struct kvfs_ioc_register in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || c->size != sizeof(in) || in.offset > INT64_MAX ||
	    in.length > INT64_MAX)
		call_reply_err(c, EINVAL);
	else
		call_defer(c, register_on_worker);
}

static void unregister_on_worker(struct call *c)
{
	struct kvfs_ioc_unregister in;
	int err;

	memcpy(&in, c->value, sizeof(in));
	err = buffer_remove(c->fs->buffers, kv_buffers_of(c), in.buffer);
	ioctl_done(c, err, &in, sizeof(in));
}

void ioctl_do_unregister(struct call *c)
{
	struct kvfs_ioc_unregister in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || in.reserved || c->size != sizeof(in))
		call_reply_err(c, EINVAL);
	else
		call_defer(c, unregister_on_worker);
}
