/* SPDX-License-Identifier: MIT */
#ifndef KVFS_META_CHECK_H
#define KVFS_META_CHECK_H

struct meta;

/**
 * meta_check_server - refuse a Redis that would lose records or writes
 *
 * Returns: 0, or -EINVAL after one line with the command that mends it, or
 *          -EIO.
 */
int meta_check_server(struct meta *m);

#endif
