/* SPDX-License-Identifier: MIT */
#ifndef KVFS_BASE_MOVE_H
#define KVFS_BASE_MOVE_H

#include <stddef.h>

/** move_bytes - memcpy, but memory that is not there, on either side, is an
 *  error. 0 or -EFAULT. */
int move_bytes(void *to, const void *from, size_t n);

#endif
