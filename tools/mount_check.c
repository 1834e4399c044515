// SPDX-License-Identifier: MIT
#include "tools/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "tools/detach.h"
#include "tools/mountinfo.h"
#include "tools/state.h"
#include "tools/verb.h"

#define POOL_MIN_BYTES (16 << 20)
#define POOL_STEP_BYTES (64 << 20)

uint64_t mount_memory_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) *
	       (uint64_t)sysconf(_SC_PAGE_SIZE);
}

static int check_fuse(void)
{
	cleanup_close int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return 0;
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		return verb_fail(EXIT_TROUBLE,
				 "/dev/fuse: not there; load the module with "
				 "'modprobe fuse', or give the container the "
				 "device");
	return verb_fail(EXIT_TROUBLE, "/dev/fuse: %s; %s", strerror(errno),
			 geteuid() ? "root must 'chmod 666 /dev/fuse'"
				   : "the container may not use it");
}

static int find_state_dir(struct mount_job *job)
{
	if (!job->options.state_dir)
		return state_default(job->mountpoint, job->state_dir);
	snprintf(job->state_dir, PATH_MAX, "%s", job->options.state_dir);
	return 0;
}

/* Its main thread has ended, whatever the kernel still waits for. */
static bool is_dead(pid_t pid)
{
	char path[64], line[512] = "", *state;
	cleanup_file FILE *f = NULL;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT;
	state = fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	return state && (state[2] == 'Z' || state[2] == 'X');
}

/*
 * A daemon that was killed while one of its threads told the kernel of an
 * evicted name may not end: that thread waits for the lock of a directory,
 * whose holder waits for an answer of the daemon. Aborting the connection, as
 * the kernel does once a daemon has ended, frees both.
 */
static void abort_dead(struct mount_job *job, const struct mount_entry *m)
{
	char path[64];
	cleanup_close int fd = -1;
	pid_t pid = find_state_dir(job) ? 0 : state_pid(job->state_dir);

	if (pid <= 0 || !is_dead(pid))
		return;
	snprintf(path, sizeof(path), "/sys/fs/fuse/connections/%u/abort",
		 minor(m->dev));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "1", 1) < 0)
		fprintf(stderr, "kvfs mount: %s: %s\n", path, strerror(errno));
}

static int check_mounted(struct mount_job *job)
{
	struct mount_entry m;
	int rc;

	if (mountinfo_at(job->mountpoint, &m) ||
	    strcmp(m.fstype, MOUNTINFO_FSTYPE))
		return 0;
	abort_dead(job, &m);
	rc = mountinfo_ping(job->mountpoint);
	if (!rc)
		return verb_fail(EXIT_TROUBLE,
				 "%s: kvfs is mounted there already; 'kvfs "
				 "umount %s' first",
				 job->mountpoint, job->mountpoint);
	if (rc != -ENOTCONN)
		return verb_fail(EXIT_TROUBLE, "%s: %s", job->mountpoint,
				 strerror(-rc));
	job->dead = true;
	return 0;
}

static int check_directory(const char *mountpoint)
{
	struct stat st;

	if (stat(mountpoint, &st)) {
		if (errno == ENOENT)
			return verb_fail(
				EXIT_TROUBLE, "%s: %s; 'mkdir -p %s' first",
				mountpoint, strerror(ENOENT), mountpoint);
		return verb_fail(EXIT_TROUBLE, "%s: %s", mountpoint,
				 strerror(errno));
	}
	if (!S_ISDIR(st.st_mode))
		return verb_fail(EXIT_TROUBLE,
				 "%s: not a directory; a mount point must be",
				 mountpoint);
	return 0;
}

static int check_pool(struct mount_options *o)
{
	uint64_t memory = mount_memory_bytes();
	char has[SIZE_FORMAT_BYTES], wants[SIZE_FORMAT_BYTES];

	if (o->pool_bytes == MOUNT_POOL_DEFAULT) {
		o->pool_bytes = memory / 4 / POOL_STEP_BYTES * POOL_STEP_BYTES;
		if (o->pool_bytes < POOL_STEP_BYTES)
			o->pool_bytes = POOL_STEP_BYTES;
	}
	size_format(o->pool_bytes, wants, sizeof(wants));
	size_format(memory, has, sizeof(has));
	if (o->pool_bytes >= memory)
		return verb_fail(EXIT_TROUBLE,
				 "pool=%s: larger than the memory of this "
				 "machine (%s); ask for less",
				 wants, has);
	if (o->pool_bytes < POOL_MIN_BYTES)
		return verb_fail(EXIT_USAGE,
				 "pool=%s: too small; 16M is the least", wants);
	if (o->frame_bytes < 4096 || o->frame_bytes > o->pool_bytes)
		return verb_fail(EXIT_USAGE,
				 "frame: between 4K and the pool's size (%s)",
				 wants);
	return 0;
}

int mount_check(struct mount_job *job, const char *mountpoint)
{
	int rc = mountinfo_resolve(mountpoint, job->mountpoint), status;

	if (rc)
		return verb_fail(EXIT_TROUBLE, "%s: %s", mountpoint,
				 strerror(-rc));
	status = check_fuse();
	if (!status)
		status = check_mounted(job);
	if (!status && !job->dead)
		status = check_directory(job->mountpoint);
	return status ? status : check_pool(&job->options);
}

static bool lies_in(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	return !strncmp(path, folder, n) && (!path[n] || path[n] == '/');
}

static int fail_locked(const struct mount_job *job, int rc)
{
	char where[PATH_MAX] = "";

	if (rc != -EBUSY)
		return verb_fail(EXIT_TROUBLE, "%s/lock: %s", job->state_dir,
				 strerror(-rc));
	state_get(job->state_dir, "mountpoint", where, sizeof(where));
	return verb_fail(
		EXIT_TROUBLE,
		"%s: another daemon (pid %d) uses this state directory "
		"for %s; unmount that, or name another with -o state=",
		job->state_dir, (int)state_pid(job->state_dir), where);
}

int mount_check_state(struct mount_job *job)
{
	char why[STATE_WHY_BYTES];
	int rc = find_state_dir(job);

	if (rc)
		return verb_fail(EXIT_TROUBLE,
				 "no place for the state directory: %s; name "
				 "one with -o state=",
				 strerror(-rc));
	if (lies_in(job->state_dir, job->mountpoint))
		return verb_fail(EXIT_USAGE,
				 "state=%s: lies below the mount "
				 "point",
				 job->state_dir);
	if (state_prepare(job->state_dir, why))
		return verb_fail(EXIT_TROUBLE, "%s", why);
	if (lies_in(job->state_dir, job->mountpoint))
		return verb_fail(EXIT_USAGE,
				 "state=%s: lies below the mount point; name a "
				 "directory outside of it",
				 job->state_dir);
	job->lock_fd =
		state_lock(job->state_dir, state_patience_ms(job->state_dir));
	return job->lock_fd < 0 ? fail_locked(job, job->lock_fd) : 0;
}

int mount_detach_dead(const struct mount_job *job)
{
	struct mount_entry m;
	int rc;

	while (!mountinfo_at(job->mountpoint, &m) &&
	       !strcmp(m.fstype, MOUNTINFO_FSTYPE)) {
		rc = detach(job->mountpoint, true);
		if (rc)
			return verb_fail(
				EXIT_TROUBLE,
				"%s: cannot take the mount of a killed "
				"daemon away: %s; root can 'kvfs "
				"umount %s'",
				job->mountpoint, strerror(-rc),
				job->mountpoint);
	}
	return check_directory(job->mountpoint);
}
