/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_DETACH_H
#define KVFS_TOOLS_DETACH_H

#include <stdbool.h>

/**
 * detach - take one mount away: umount2(2), or fusermount3 where that is not
 *          allowed
 * @lazy: out of sight now, gone once nobody uses it
 *
 * Returns: 0, -EBUSY, or another -errno.
 */
int detach(const char *mountpoint, bool lazy);

#endif
