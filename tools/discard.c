// SPDX-License-Identifier: MIT
#include "tools/discard.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/mountinfo.h"
#include "tools/state.h"

/* Where a pool lies whose owner may not mount: STATE/pool points there. */
#define SHARED_MEMORY "/dev/shm/"

static int fail(char *why, const char *path, int err)
{
	snprintf(why, STATE_WHY_BYTES, "%s: cannot discard the pool: %s", path,
		 strerror(err));
	return -err;
}

static int remove_one(const char *path, const struct stat *st, int type,
		      struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path) ? -errno : 0;
}

static int remove_tree(const char *path, char *why)
{
	int rc = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);

	return rc && errno != ENOENT ? fail(why, path, errno) : 0;
}

static int discard_link(const char *pool, char *why)
{
	char target[PATH_MAX];
	ssize_t n = readlink(pool, target, sizeof(target) - 1);

	if (n < 0)
		return fail(why, pool, errno);
	target[n] = 0;
	if (strncmp(target, SHARED_MEMORY, strlen(SHARED_MEMORY)) ||
	    strstr(target, "/.."))
		return fail(why, target, EINVAL);
	if (remove_tree(target, why))
		return -errno;
	return unlink(pool) ? fail(why, pool, errno) : 0;
}

static int discard_mount(const char *pool, char *why)
{
	struct mount_entry m;

	while (!mountinfo_at(pool, &m)) {
		if (strcmp(m.fstype, "tmpfs"))
			return fail(why, pool, EBUSY);
		if (umount2(pool, UMOUNT_NOFOLLOW) &&
		    (errno != EBUSY ||
		     umount2(pool, MNT_DETACH | UMOUNT_NOFOLLOW)))
			return fail(why, pool, errno);
	}
	return rmdir(pool) ? fail(why, pool, errno) : 0;
}

int discard_pool(const char *state_dir, char *why)
{
	char pool[PATH_MAX + 8];
	struct stat st;
	int rc;

	snprintf(pool, sizeof(pool), "%s/pool", state_dir);
	if (lstat(pool, &st))
		return errno == ENOENT ? 0 : fail(why, pool, errno);
	rc = state_put(state_dir, "discarded", "");
	if (rc)
		return fail(why, state_dir, -rc);
	return S_ISLNK(st.st_mode) ? discard_link(pool, why)
				   : discard_mount(pool, why);
}
