// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gds/internal.h"

/*
 * Files into buffers. Into memory of a GPU by cuFile, if there is one: it does
 * not know FUSE, so it gets the file that lies behind one of ckpt/, which the
 * daemon hands over (BACKING). Whatever of that cannot be had, or fails, the
 * file is read as any file is, by way of the ring of staged buffers.
 */

struct kvfs_file {
	struct kvfs *k;
	int fd;
	/* k->gpu.lock: */
	bool asked;   /* for what follows, and got all there is */
	bool ring;    /* one of those who use it */
	int backing;  /* or -1 */
	void *handle; /* cuFile's; NULL: it does not take the file */
};

int kvfs_file_open(struct kvfs *k, const char *path, struct kvfs_file **out)
{
	struct kvfs_file *f = malloc(sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	*f = (struct kvfs_file){.k = k, .backing = -1};
	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (f->fd >= 0) {
		*out = f;
		return 0;
	}
	err = -errno;
	free(f);
	return err;
}

/* gpu.lock held, or nobody else is there. */
static void drop_backing(struct kvfs_file *f)
{
	if (f->handle)
		gds_cufile_remove(&f->k->gpu.cufile, f->handle);
	f->handle = NULL;
	if (f->backing >= 0)
		close(f->backing);
	f->backing = -1;
}

void kvfs_file_close(struct kvfs_file *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->k->gpu.lock);
	drop_backing(f);
	if (f->ring)
		gds_ring_put(f->k);
	pthread_mutex_unlock(&f->k->gpu.lock);
	close(f->fd);
	free(f);
}

/* -- by cuFile -------------------------------------------------------- */

static int receive_fd(int socket)
{
	char byte;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *head;
	int fd;

	if (recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
		return -EIO;
	head = CMSG_FIRSTHDR(&m);
	if (!head || head->cmsg_type != SCM_RIGHTS)
		return -EIO; /* no room for it among our descriptors */
	memcpy(&fd, CMSG_DATA(head), sizeof(fd));
	return fd;
}

/* The file behind this one, or -errno. */
static int ask_backing(int file_fd)
{
	struct kvfs_ioc_backing r = {.head = {sizeof(r), KVFS_IOC_ABI}};
	int pair[2], fd;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -errno;
	r.socket_fd = pair[1];
	fd = gds_ioctl(file_fd, KVFS_IOC_BACKING, &r);
	if (!fd)
		fd = receive_fd(pair[0]);
	close(pair[0]);
	close(pair[1]);
	return fd;
}

/* gpu.lock held. While parts of the file are on other nodes, it is asked for
 * again the next time. */
static void ask(struct kvfs_file *f)
{
	struct gds_cufile *c = &f->k->gpu.cufile;

	f->asked = true;
	if (gds_cufile_open(c))
		return;
	f->backing = ask_backing(f->fd);
	f->asked = f->backing != -EAGAIN;
	if (f->backing < 0 || gds_cufile_add(c, f->backing, &f->handle))
		drop_backing(f);
}

/* Not pinned it is only slower. */
static bool get_ready(struct kvfs_file *f, struct kvfs_buffer *b)
{
	struct gds_gpu *g = &f->k->gpu;
	bool ready;

	pthread_mutex_lock(&g->lock);
	if (!f->asked)
		ask(f);
	ready = f->handle;
	if (ready && !b->asked_cufile) {
		b->asked_cufile = true;
		b->of_cufile = !gds_cufile_pin(&g->cufile, &g->cuda, &b->gpu,
					       b->bytes);
	}
	pthread_mutex_unlock(&g->lock);
	return ready;
}

/* -- by way of host memory ---------------------------------------------- */

/* Up to its end. Returns: how many bytes, or -errno. */
static int64_t read_host(int fd, char *to, uint64_t n, uint64_t offset)
{
	uint64_t done = 0;
	ssize_t got = 1;

	while (done < n && got) {
		got = pread(fd, to + done, n - done, (off_t)(offset + done));
		if (got < 0 && errno != EINTR)
			return -errno;
		done += got > 0 ? (uint64_t)got : 0;
	}
	return (int64_t)done;
}

/* The next piece goes into this half of the ring, and on to the GPU. */
static int64_t stage_piece(struct kvfs_file *f, uint64_t offset, uint64_t n,
			   struct kvfs_buffer *b, uint64_t at, unsigned half)
{
	struct gds_gpu *g = &f->k->gpu;
	char *host = gds_ring_half(f->k, half);
	int64_t got = gds_cuda_wait(&g->cuda, &b->gpu, half);

	if (!got)
		got = read_host(f->fd, host, n, offset);
	if (got > 0) {
		int err = gds_cuda_to_device(&g->cuda, &b->gpu, half, at, host,
					     (size_t)got);

		got = err ? err : got;
	}
	return got;
}

/* gpu.lock held. */
static int64_t stage(struct kvfs_file *f, uint64_t offset, uint64_t length,
		     struct kvfs_buffer *b, uint64_t at)
{
	uint64_t done = 0, want = 0;
	int64_t n = 0;
	unsigned half = 0;
	int err = 0;

	for (; done < length && n == (int64_t)want; half ^= 1) {
		want = length - done < GDS_RING_HALF ? length - done
						     : GDS_RING_HALF;
		n = stage_piece(f, offset + done, want, b, at + done, half);
		done += n > 0 ? (uint64_t)n : 0;
	}
	for (half = 0; half < 2; half++)
		if (gds_cuda_wait(&f->k->gpu.cuda, &b->gpu, half))
			err = -EIO;
	return n < 0 ? n : err ? err : (int64_t)done;
}

static int64_t read_staged(struct kvfs_file *f, uint64_t offset,
			   uint64_t length, struct kvfs_buffer *b, uint64_t at)
{
	int64_t n = 0;

	pthread_mutex_lock(&f->k->gpu.lock);
	if (!f->ring)
		n = gds_ring_get(f->k);
	f->ring = !n;
	if (f->ring)
		n = stage(f, offset, length, b, at);
	pthread_mutex_unlock(&f->k->gpu.lock);
	return n;
}

int64_t kvfs_file_read(struct kvfs_file *f, uint64_t offset, uint64_t length,
		       struct kvfs_buffer *b, uint64_t at, uint32_t *flags)
{
	const struct gds_gpu *g = &f->k->gpu;
	int64_t n;

	if (b->k != f->k || at > b->bytes || length > b->bytes - at ||
	    offset > INT64_MAX || length > INT64_MAX - offset)
		return -EINVAL;
	if (!b->is_gpu && !b->map)
		return -EOPNOTSUPP;
	*flags = 0;
	if (!b->is_gpu)
		return read_host(f->fd, (char *)b->map + at, length, offset);
	if (get_ready(f, b)) {
		n = gds_cufile_read(&g->cufile, &g->cuda, &b->gpu, f->handle,
				    offset, length, at);
		*flags = KVFS_CUFILE | (g->cufile.compat ? KVFS_COMPAT : 0);
		if (n >= 0)
			return n;
	}
	*flags = KVFS_STAGED;
	return read_staged(f, offset, length, b, at);
}
