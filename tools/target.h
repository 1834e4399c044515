/* SPDX-License-Identifier: MIT */
#ifndef KVFS_TOOLS_TARGET_H
#define KVFS_TOOLS_TARGET_H

#include <limits.h>
#include <stdbool.h>

/* Where a benchmark or a replay works. */
struct target {
	char path[PATH_MAX];	   /* of the folder; it may not exist yet */
	char mountpoint[PATH_MAX]; /* of the kvfs that it lies in, or "" */
	bool is_namespace;	   /* path is MOUNTPOINT/kv/NAME */
};

/**
 * target_find - the folder that was meant
 * @dir: a folder of any filesystem; the root or the kv/ of a kvfs stands for
 *       the namespace `name` in it; NULL: the only kvfs mount there is
 *
 * Returns: 0, -ENODEV no kvfs is mounted, -EEXIST there are several, -EINVAL
 *          `name` cannot be a namespace, or -errno. One line is logged.
 */
int target_find(struct target *t, const char *who, const char *dir,
		const char *name);

#endif
