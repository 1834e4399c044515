/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_SIZE_H
#define KVFS_BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/**
 * size_parse - read a byte count such as "4096", "64K", "8G" or "1.5GiB"
 * @text: digits, an optional fraction, an optional K M G T P (powers of 1024)
 * @bytes: set only on success
 *
 * Returns: 0, or -EINVAL (not a size), -ERANGE (past 2^63).
 */
int size_parse(const char *text, uint64_t *bytes);

/** size_format - write bytes as people read them: "512 B", "4.3 MiB". */
const char *size_format(uint64_t bytes, char *buf, size_t buf_bytes);

#define SIZE_FORMAT_BYTES 16

#endif
