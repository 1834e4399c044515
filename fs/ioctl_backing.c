// SPDX-License-Identifier: MIT
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/ckpt_fetch.h"
#include "fs/fd_take.h"
#include "fs/ioctl.h"

/*
 * BACKING: whoever has a file of ckpt/ open for reading is given the file
 * behind it, for reading: what passthrough lets the kernel read for him, he may
 * have read by a library that knows the disk's filesystem and not ours.
 */

/* A direct one, where there is such a thing. Returns: -errno, -EAGAIN shards
 * of it are missing. */
static int open_backing(struct ckpt_data *d)
{
	int fd;

	if (!cfetch_is_whole(d))
		return -EAGAIN;
	fd = cdata_open(d, O_RDONLY | O_DIRECT);
	return fd == -EINVAL ? cdata_open(d, O_RDONLY) : fd;
}

static bool is_unix_socket(int fd)
{
	int domain = 0;
	socklen_t n = sizeof(domain);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n) &&
	       domain == AF_UNIX;
}

static int take_socket(struct call *c, int number)
{
	int fd = fd_drops_many() ? -EBUSY : fd_take(c->pid, c->uid, number);

	if (fd < 0 || is_unix_socket(fd))
		return fd;
	fd_drop(fd);
	return -EINVAL;
}

/* Never waits for who should read it. */
static int send_fd(int socket, int fd)
{
	char byte = 0;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)),
			      .cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS}};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};

	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	if (sendmsg(socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		return 0;
	return errno == EAGAIN ? -EBUSY : -errno;
}

static int hand_over(struct call *c, int number)
{
	cleanup_close int socket = -1, fd = open_backing(cdata_of(c));

	if (fd < 0)
		return fd;
	socket = take_socket(c, number);
	return socket < 0 ? socket : send_fd(socket, fd);
}

static void backing_on_worker(struct call *c)
{
	struct kvfs_ioc_backing in;
	int err;

	memcpy(&in, c->value, sizeof(in));
	err = hand_over(c, in.socket_fd);
	if (!err)
		atomic_fetch_add(&c->fs->counters.ckpt_handed, 1);
	ioctl_done(c, err, &in, sizeof(in));
}

void ioctl_do_backing(struct call *c)
{
	struct kvfs_ioc_backing in;

	memcpy(&in, c->value, sizeof(in));
	if (in.flags || in.reserved || c->size != sizeof(in))
		call_reply_err(c, EINVAL);
	else if (!chandle_of(c)->reader)
		call_reply_err(c, EACCES);
	else
		call_defer(c, backing_on_worker);
}
