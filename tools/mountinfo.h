/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_MOUNTINFO_H
#define KVFS_TOOLS_MOUNTINFO_H

/* What is mounted where, as /proc/self/mountinfo tells (proc(5)). */

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#define MOUNTINFO_FSTYPE "fuse.kvfs"

struct mount_entry {
	unsigned id, parent;
	dev_t dev;
	char mountpoint[PATH_MAX];
	char fstype[64];
	char source[256];
};

/**
 * mountinfo_parse - one line of mountinfo
 *
 * Octal escapes (\040 a blank, \012 a newline, \134 a backslash) are undone.
 * Returns: 0 or -EINVAL.
 */
int mountinfo_parse(const char *line, struct mount_entry *m);

/**
 * mountinfo_each - visit every mount in the order of the file: later ones lie
 *                  over earlier ones
 * @fn: false ends the walk
 *
 * Returns: 0 or -errno.
 */
int mountinfo_each(bool (*fn)(void *arg, const struct mount_entry *m),
		   void *arg);

/** mountinfo_at - the uppermost mount exactly at this (absolute, resolved)
 *  path. Returns: 0, -ENOENT there is none, or -errno. */
int mountinfo_at(const char *path, struct mount_entry *m);

/** mountinfo_of - the kvfs mount that a path lies in; the path may not exist
 *  yet, its folder must. Returns: 0, -ENODEV it is in none, or -errno. */
int mountinfo_of(const char *path, struct mount_entry *m);

/**
 * mountinfo_ping - does the daemon of this kvfs mount live?
 *
 * Always asks it, whatever the kernel has cached. One that is just dying is
 * waited for.
 * Returns: 0 it lives, -ENOTCONN it is gone, or another -errno.
 */
int mountinfo_ping(const char *mountpoint);

/**
 * mountinfo_resolve - an absolute path without links
 * @resolved: PATH_MAX
 *
 * Like realpath(3), but the last component may be the root of a dead FUSE
 * mount, or missing.
 * Returns: 0 or -errno.
 */
int mountinfo_resolve(const char *path, char *resolved);

#endif
