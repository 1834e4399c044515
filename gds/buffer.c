// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gds/internal.h"

#define HUGE_2MB (21u << 26) /* MFD_HUGE_2MB of <linux/memfd.h> */

int gds_register(struct kvfs_buffer *b, int fd, uint64_t offset,
		 uint64_t length)
{
	union {
		struct kvfs_ioc_register in;
		struct kvfs_ioc_registered out;
	} r = {.in = {.head = {sizeof(r.in), KVFS_IOC_ABI},
		      .fd = fd,
		      .offset = offset,
		      .length = length}};
	int err = gds_call(b->k, KVFS_IOC_REGISTER, &r);

	if (err)
		return err;
	b->name = r.out.buffer;
	b->bytes = length;
	b->writable = r.out.flags & KVFS_IOC_WRITABLE;
	b->registered = true;
	return 0;
}

int gds_unregister(struct kvfs_buffer *b)
{
	struct kvfs_ioc_unregister r = {
		.head = {sizeof(r), KVFS_IOC_ABI},
		.buffer = b->name,
	};
	int err = gds_call(b->k, KVFS_IOC_UNREGISTER, &r);

	b->registered = err == -EBUSY;
	return err;
}

int kvfs_register(struct kvfs *k, int fd, uint64_t offset, uint64_t length,
		  struct kvfs_buffer **b)
{
	struct kvfs_buffer *new = calloc(1, sizeof(*new));
	int err;

	if (!new)
		return -ENOMEM;
	new->k = k;
	err = gds_register(new, fd, offset, length);
	if (err)
		free(new);
	else
		*b = new;
	return err;
}

/* As many bytes, of whole pages of its kind. */
static int make_memory(size_t bytes, uint32_t flags, int *fd, void **map,
		       size_t *map_bytes)
{
	unsigned huge = flags & KVFS_HUGE ? MFD_HUGETLB | HUGE_2MB : 0;
	size_t page = huge ? 2u << 20 : (size_t)sysconf(_SC_PAGESIZE);

	*map_bytes = (bytes + page - 1) / page * page;
	*fd = memfd_create("kvfs-buffer",
			   MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);
	if (*fd < 0)
		return -errno;
	*map = MAP_FAILED;
	if (!ftruncate(*fd, (off_t)*map_bytes) &&
	    !fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		*map = mmap(NULL, *map_bytes, PROT_READ | PROT_WRITE,
			    MAP_SHARED, *fd, 0);
	if (*map != MAP_FAILED)
		return 0;
	close(*fd);
	return errno ? -errno : -ENOMEM;
}

int kvfs_buffer_new(struct kvfs *k, size_t bytes, uint32_t flags,
		    struct kvfs_buffer **b)
{
	size_t map_bytes;
	void *map = NULL;
	int fd, err;

	if (flags & ~KVFS_HUGE || !bytes || bytes > SIZE_MAX / 2)
		return -EINVAL;
	err = make_memory(bytes, flags, &fd, &map, &map_bytes);
	if (err)
		return err;
	err = kvfs_register(k, fd, 0, bytes, b);
	close(fd);
	if (err) {
		munmap(map, map_bytes);
		return err;
	}
	(*b)->map = map;
	(*b)->map_bytes = map_bytes;
	return 0;
}

void *kvfs_buffer_data(const struct kvfs_buffer *b)
{
	return b->map;
}

int kvfs_unregister(struct kvfs_buffer *b)
{
	int err = 0;

	if (!b)
		return 0;
	if (b->registered)
		err = gds_unregister(b);
	if (err == -EBUSY)
		return err;
	if (b->is_gpu)
		gds_gpu_close(b);
	if (b->map)
		munmap(b->map, b->map_bytes);
	free(b);
	return err;
}
