// SPDX-License-Identifier: MIT
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "tools/bench.h"
#include "tools/mountinfo.h"
#include "tools/target.h"

/*
 *      BASE            a tmpfs, seen by this process and its daemon alone
 *      BASE/huge       a tmpfs with huge pages
 *      BASE/4k         a tmpfs with 4 KiB pages
 *      BASE/direct     a small kvfs that is made to use direct_io,
 *      BASE/state      its state, and BASE/log what it says
 */
#define DIRECT_OPTIONS "foreground,rung=direct,pool=768M,frame=16M"
#define DIRECT_START_S 30
#define DIRECT_STOP_S 10

const char *const bench_suffixes[PLACES] = {
	[PLACE_KVFS] = "",
	[PLACE_HUGE] = "_tmpfs_huge",
	[PLACE_4K] = "_tmpfs_4k",
	[PLACE_DIRECT] = "_direct_io",
};

static const char *path_in(const struct bench_places *p, const char *name,
			   char *buf)
{
	snprintf(buf, PATH_MAX, "%s/%s", p->base, name);
	return buf;
}

static int folder_open(const char *path)
{
	int fd;

	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* -- the tmpfs's -------------------------------------------------------- */

/* Unmounts elsewhere still reach us; ours reach nobody. */
static int base_make(struct bench_places *p)
{
	if (unshare(CLONE_NEWNS) < 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return -errno;
	strcpy(p->base, "/tmp/kvfs-bench.XXXXXX");
	if (!mkdtemp(p->base) || mount("kvfs-bench", p->base, "tmpfs", 0,
				       "mode=0700,size=256M") < 0) {
		int err = -errno;

		rmdir(p->base);
		p->base[0] = '\0';
		return err;
	}
	return 0;
}

static int tmpfs_open(const struct bench_places *p, const char *name,
		      const char *options)
{
	char path[PATH_MAX];
	int fd = folder_open(path_in(p, name, path));

	if (fd < 0)
		return fd;
	close(fd);
	if (mount("kvfs-bench", path, "tmpfs", 0, options) < 0)
		return -errno;
	return folder_open(path);
}

static int huge_open(const struct bench_places *p)
{
	int fd = tmpfs_open(p, "huge", "huge=within_size");

	return fd == -EINVAL ? tmpfs_open(p, "huge", "huge=always") : fd;
}

/* -- the kvfs by direct_io ---------------------------------------------- */

static void child_exec(const struct bench_places *p)
{
	char mnt[PATH_MAX], log[PATH_MAX], options[PATH_MAX + 128];
	int fd = open(path_in(p, "log", log), O_CREAT | O_WRONLY, 0600);

	snprintf(options, sizeof(options), DIRECT_OPTIONS ",state=%s/state",
		 p->base);
	path_in(p, "direct", mnt);
	dup2(fd, 1);
	dup2(fd, 2);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	setpgid(0, 0); /* Ctrl-C is for the bench, which ends us in order */
	execl("/proc/self/exe", "kvfs", "mount", mnt, "-o", options, NULL);
	dprintf(2, "cannot run the command again: %s\n", strerror(errno));
	_exit(127);
}

/* The daemon's own words, where it did not come up. */
static void child_log_print(const struct bench_places *p)
{
	char path[PATH_MAX], line[512];
	FILE *f = fopen(path_in(p, "log", path), "re");

	while (f && fgets(line, sizeof(line), f))
		fputs(line, stderr);
	if (f)
		fclose(f);
}

static int child_wait_mounted(struct bench_places *p, const char *mnt)
{
	int64_t end = clock_now_ns() + DIRECT_START_S * NS_PER_S;
	struct timespec pause = clock_timespec(10 * NS_PER_MS);
	struct mount_entry m;

	while (mountinfo_at(mnt, &m) || strcmp(m.fstype, MOUNTINFO_FSTYPE)) {
		if (waitpid(p->daemon, NULL, WNOHANG) == p->daemon) {
			p->daemon = 0;
			child_log_print(p);
			return -ECHILD;
		}
		if (clock_now_ns() > end)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

static int direct_open(struct bench_places *p)
{
	char path[PATH_MAX];
	int err;

	if (mkdir(path_in(p, "direct", path), 0755) < 0)
		return -errno;
	fflush(NULL);
	p->daemon = fork();
	if (p->daemon < 0)
		return -errno;
	if (!p->daemon)
		child_exec(p);
	err = child_wait_mounted(p, path);
	if (err)
		return err;
	return folder_open(path_in(p, "direct/kv/bench", path));
}

static void direct_close(struct bench_places *p)
{
	int64_t end = clock_now_ns() + DIRECT_STOP_S * NS_PER_S;
	struct timespec pause = clock_timespec(10 * NS_PER_MS);

	if (p->daemon <= 0)
		return;
	kill(p->daemon, SIGTERM);
	while (waitpid(p->daemon, NULL, WNOHANG) == 0) {
		if (clock_now_ns() > end)
			kill(p->daemon, SIGKILL);
		nanosleep(&pause, NULL);
	}
}

/* -- all ---------------------------------------------------------------- */

static void place_set(struct bench_places *p, int place, int fd)
{
	p->dir[place] = fd;
	if (fd < 0)
		log_warn("bench: without%s: %s", bench_suffixes[place],
			 strerror(-fd));
}

int bench_places_open(struct bench_places *p, const struct target *target)
{
	int err;

	*p = (struct bench_places){.namespace_path = target->path};
	for (int i = 0; i < PLACES; i++)
		p->dir[i] = -1;
	err = base_make(p);
	if (err)
		log_warn("bench: no tmpfs and no direct_io to compare with: "
			 "%s: run it as root",
			 strerror(-err));
	p->made_namespace = !mkdir(target->path, 0755);
	p->dir[PLACE_KVFS] = folder_open(target->path);
	if (p->dir[PLACE_KVFS] < 0) {
		err = p->dir[PLACE_KVFS];
		log_error("bench: %s: %s", target->path, strerror(-err));
		bench_places_close(p);
		return err;
	}
	if (err)
		return 0;
	place_set(p, PLACE_HUGE, huge_open(p));
	place_set(p, PLACE_4K, tmpfs_open(p, "4k", "huge=never"));
	place_set(p, PLACE_DIRECT, direct_open(p));
	return 0;
}

void bench_places_close(struct bench_places *p)
{
	for (int i = 0; i < PLACES; i++)
		if (p->dir[i] >= 0)
			close(p->dir[i]);
	if (p->made_namespace)
		rmdir(p->namespace_path);
	direct_close(p);
	if (!p->base[0])
		return;
	umount2(p->base, MNT_DETACH);
	rmdir(p->base);
}
