/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_PROPERTY_H
#define KVFS_TOOLS_PROPERTY_H

/* What the daemon says of a file: its virtual xattrs user.kvfs.NAME. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** property_get - one of them, 0-terminated
 *  Returns: its length, -ENODATA there is none, -EOPNOTSUPP this is no kvfs,
 *  or -errno. */
ssize_t property_get(const char *path, const char *name, char *value,
		     size_t bytes);

/** property_fget - of an open file. */
ssize_t property_fget(int fd, const char *name, char *value, size_t bytes);

/** property_number - one that is a number; the fallback where there is none. */
uint64_t property_number(const char *path, const char *name, uint64_t fallback);

#endif
