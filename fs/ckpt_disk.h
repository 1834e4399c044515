/* SPDX-License-Identifier: MIT */
#ifndef KVFS_FS_CKPT_DISK_H
#define KVFS_FS_CKPT_DISK_H

#include <stdint.h>

struct engine;

/**
 * cdisk_read - bytes of a file of the disk tier, for a peer
 * @to: page-aligned, or they are copied once more
 *
 * Through the engine's file transport: what the page cache has comes from
 * there, the rest past it and several pieces at once, so that serving a
 * checkpoint does not push out what this node itself reads. What arrives from
 * peers is written through the page cache, as whoever waits for it reads it
 * next.
 *
 * Waits for the disk.
 * Returns: 0, -ENOENT the file ends before that, or another -errno.
 */
int cdisk_read(struct engine *e, int fd, void *to, uint64_t length_bytes,
	       uint64_t offset);

#endif
