// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "gds/internal.h"

int gds_ioctl(int fd, unsigned long cmd, void *buffer)
{
	int rc;

	do
		rc = ioctl(fd, cmd, buffer);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

int gds_call(const struct kvfs *k, unsigned long cmd, void *buffer)
{
	return gds_ioctl(k->dir_fd, cmd, buffer);
}

static int check_version(const struct kvfs *k)
{
	struct kvfs_ioc_version v = {
		.head = {.size = sizeof(v), .abi = KVFS_IOC_ABI},
	};
	int err = gds_call(k, KVFS_IOC_VERSION, &v);

	if (err)
		return err;
	return v.head.abi == KVFS_IOC_ABI ? 0 : -EPROTONOSUPPORT;
}

int kvfs_open(const char *path, struct kvfs **k)
{
	struct kvfs *new = malloc(sizeof(*new));
	int err;

	if (!new)
		return -ENOMEM;
	gds_maps_init(&new->maps);
	gds_gpu_init(&new->gpu);
	new->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = new->dir_fd < 0 ? -errno : check_version(new);
	if (err)
		kvfs_close(new);
	else
		*k = new;
	return err;
}

void kvfs_close(struct kvfs *k)
{
	if (!k)
		return;
	gds_maps_fini(k);
	gds_gpu_fini(&k->gpu);
	if (k->dir_fd >= 0)
		close(k->dir_fd);
	free(k);
}

int kvfs_fd(const struct kvfs *k)
{
	return k->dir_fd;
}
