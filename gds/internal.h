/* SPDX-License-Identifier: MIT */
#ifndef KVFS_GDS_INTERNAL_H
#define KVFS_GDS_INTERNAL_H

#include "fs/kvfs_ioctl.h"
#include "gds/kvfs.h"

/*
 * libkvfs over the ioctls:
 *
 *      open.c     a directory, and what its daemon can do
 *      names.c    the names that fit into one request
 *      find.c     EXISTS and MATCH, request by request
 *      chain.c    names of blocks; needs no mount
 *      error.c    what went wrong, in words
 */

struct kvfs {
	int dir_fd;
};

/** gds_call - one ioctl; 0 or -errno. A signal does not end it. */
int gds_call(const struct kvfs *k, unsigned long cmd, void *buffer);

/**
 * gds_names_pack - as many of the names from @first on as fit
 * @names:  of the caller
 * @first:  below names->n
 * @head:   the request's, filled in
 * @packed: what follows the command's struct
 * @room:   bytes there
 * @bytes:  so many were used
 *
 * Returns: how many names, at least 1; -EINVAL one that no request takes.
 */
int gds_names_pack(const struct kvfs_names *names, uint32_t first,
		   struct kvfs_ioc_names *head, void *packed, size_t room,
		   size_t *bytes);

#endif
