// SPDX-License-Identifier: MIT
#include "fs/fd_take.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

#define PIDFD_OF_THREAD O_EXCL /* Linux 6.9 */
#define DROPS_MAX 64

static atomic_int n_drops;

/* What the process of a thread is, and who: lines of /proc/TID/status. */
static int process_of(pid_t tid, pid_t *tgid, uid_t *fs_uid)
{
	cleanup_close int fd = -1;
	char path[40], text[4096], *at;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -ESRCH;
	text[n] = 0;
	at = strstr(text, "\nTgid:");
	*tgid = at ? atoi(at + 6) : 0;
	at = strstr(text, "\nUid:");
	if (!*tgid || !at || sscanf(at, "\nUid: %*u %*u %*u %u", fs_uid) != 1)
		return -ESRCH;
	return 0;
}

static int take(pid_t tid, pid_t tgid, int number)
{
	cleanup_close int pidfd =
		(int)syscall(SYS_pidfd_open, tid, PIDFD_OF_THREAD);
	int fd;

	/* Threads with descriptors of their own are rare, and need 6.9. */
	if (pidfd < 0 && errno == EINVAL)
		pidfd = (int)syscall(SYS_pidfd_open, tgid, 0);
	if (pidfd < 0)
		return -errno;
	fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	return fd < 0 ? -errno : fd;
}

static void tell_why_not(pid_t tid, int err)
{
	static atomic_bool told;

	if (!atomic_exchange(&told, true))
		log_warn("ioctl: process %d: its descriptor cannot be "
			 "taken: %s; the daemon needs CAP_SYS_PTRACE and "
			 "kernel.yama.ptrace_scope below 3, and must see the "
			 "process (told once)",
			 tid, strerror(-err));
}

int fd_take(pid_t tid, uid_t uid, int number)
{
	pid_t tgid, again;
	uid_t is, was;
	int err = number < 0 ? -EBADF : process_of(tid, &tgid, &was);
	int fd = err ? err : take(tid, tgid, number);

	/* It waits for our answer, so it is still there, and still who asked.
	 * If not we have got nothing of his. */
	if (fd >= 0 &&
	    (process_of(tid, &again, &is) || again != tgid || is != uid)) {
		fd_drop(fd);
		fd = -ESRCH;
	}
	if (fd >= 0 || fd == -EBADF || fd == -EMFILE)
		return fd;
	tell_why_not(tid, fd);
	return -EPERM;
}

static void *drop(void *arg)
{
	close((int)(intptr_t)arg);
	atomic_fetch_sub(&n_drops, 1);
	return NULL;
}

void fd_drop(int fd)
{
	pthread_attr_t attr;
	pthread_t thread;

	if (fd < 0)
		return;
	atomic_fetch_add(&n_drops, 1);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, drop, (void *)(intptr_t)fd))
		drop((void *)(intptr_t)fd);
	pthread_attr_destroy(&attr);
}

int fd_drops_many(void)
{
	return atomic_load(&n_drops) >= DROPS_MAX;
}
