// SPDX-License-Identifier: MIT
#include "tools/detach.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#define NO_SUCH_PROGRAM 127

/* Users other than root unmount through its setuid bit. */
static int by_fusermount(const char *mountpoint, bool lazy)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		execlp("fusermount3", "fusermount3", lazy ? "-uzq" : "-uq",
		       "--", mountpoint, (char *)NULL);
		_exit(NO_SUCH_PROGRAM);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return WIFEXITED(status) && WEXITSTATUS(status) == NO_SUCH_PROGRAM
		       ? -EPERM
		       : -EBUSY;
}

int detach(const char *mountpoint, bool lazy)
{
	if (!umount2(mountpoint, (lazy ? MNT_DETACH : 0) | UMOUNT_NOFOLLOW))
		return 0;
	return errno == EPERM ? by_fusermount(mountpoint, lazy) : -errno;
}
