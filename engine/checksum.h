/* SPDX-License-Identifier: MIT */
#ifndef KVFS_ENGINE_CHECKSUM_H
#define KVFS_ENGINE_CHECKSUM_H

#include <stdint.h>

/**
 * checksum_fd - XXH3-128 over the first bytes of a file
 * @fd: open for reading; its offset is neither used nor moved
 * @bytes: how many
 * @sum: low and high half; set only on success
 *
 * Returns: 0, -EIO the file is shorter, or another -errno.
 * Threads: any; needs 256 KiB of heap while it runs.
 */
int checksum_fd(int fd, uint64_t bytes, uint64_t sum[2]);

/** checksum_mem - the same over memory. */
void checksum_mem(const void *data, uint64_t bytes, uint64_t sum[2]);

#endif
