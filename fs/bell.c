// SPDX-License-Identifier: MIT
#include "fs/bell.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

struct bell {
	pthread_mutex_t lock; /* so that one event is under way */
	aio_context_t aio;
	int null_fd;
};

int bell_open(struct bell **out)
{
	struct bell *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	pthread_mutex_init(&b->lock, NULL);
	b->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	err = b->null_fd < 0 || syscall(SYS_io_setup, 1, &b->aio) ? -errno : 0;
	if (err)
		bell_close(b);
	else
		*out = b;
	return err;
}

void bell_close(struct bell *b)
{
	if (!b)
		return;
	if (b->aio)
		syscall(SYS_io_destroy, b->aio);
	if (b->null_fd >= 0)
		close(b->null_fd);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

/* A read of /dev/null has ended when io_submit returns. */
int bell_ring(struct bell *b, int eventfd)
{
	struct iocb io = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)b->null_fd,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)eventfd,
	};
	struct iocb *ios[] = {&io};
	struct io_event event;
	scoped_lock(&b->lock);

	if (syscall(SYS_io_submit, b->aio, 1, ios) != 1)
		return -errno;
	syscall(SYS_io_getevents, b->aio, 1, 1, &event, NULL);
	return 0;
}
