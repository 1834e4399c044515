// SPDX-License-Identifier: MIT
#include "tools/state.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "tools/mountinfo.h"

#define MARKER "kvfs.state"
#define FORMAT "kvfs state 1"
#define LOCK_POLL_MS 10
#define ENDING_WAIT_MS 10000

/* -- where -------------------------------------------------------------- */

int state_escape(const char *path, char *name, size_t room)
{
	size_t n = 0;
	int len;

	path += strspn(path, "/");
	for (; *path; path++) {
		if (*path == '/') {
			path += strspn(path, "/") - 1;
			if (!path[1])
				break;
			len = snprintf(name + n, room - n, "-");
		} else if (isalnum((unsigned char)*path) ||
			   strchr(":_", *path) || (*path == '.' && n)) {
			len = snprintf(name + n, room - n, "%c", *path);
		} else {
			len = snprintf(name + n, room - n, "\\x%02x",
				       (unsigned char)*path);
		}
		n += (size_t)len;
		if (n >= room)
			return -ENAMETOOLONG;
	}
	if (!n)
		strcpy(name, "-");
	return 0;
}

int state_default(const char *mountpoint, char *dir)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char name[NAME_MAX + 1];
	int n, rc = state_escape(mountpoint, name, sizeof(name));

	if (rc)
		return rc;
	if (!geteuid())
		n = snprintf(dir, PATH_MAX, "/var/lib/kvfs/%s", name);
	else if (xdg && *xdg == '/')
		n = snprintf(dir, PATH_MAX, "%s/kvfs/%s", xdg, name);
	else if (home && *home == '/')
		n = snprintf(dir, PATH_MAX, "%s/.local/state/kvfs/%s", home,
			     name);
	else
		return -ENOENT;
	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* -- make or recognize -------------------------------------------------- */

/* mkdir -p: folders on the way 0755, the last one 0700. */
static int make(const char *dir)
{
	cleanup_free char *path = strdup(dir);

	if (!path)
		return -ENOMEM;
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(path, 0755) && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

/* Nothing in it but what mkfs leaves in a new filesystem. */
static int is_empty(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int empty = 1;

	if (!d)
		return -errno;
	while (empty && (e = readdir(d)))
		empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
			!strcmp(e->d_name, "lost+found");
	closedir(d);
	return empty;
}

static int refuse(char *why, int err, const char *dir, const char *what)
{
	snprintf(why, STATE_WHY_BYTES, "%s: %s", dir, what);
	return err;
}

static int check_owner(const char *dir, char *why)
{
	struct stat st;

	if (stat(dir, &st))
		return refuse(why, -errno, dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return refuse(why, -ENOTDIR, dir,
			      "not a directory; name another with -o state=");
	if (st.st_uid != geteuid())
		return refuse(why, -EPERM, dir,
			      "the state directory belongs to another user; "
			      "name another with -o state=");
	if ((st.st_mode & 077) && chmod(dir, 0700))
		return refuse(why, -errno, dir, strerror(errno));
	return 0;
}

static int check_marker(const char *dir, char *why)
{
	char format[64];
	int rc = state_get(dir, MARKER, format, sizeof(format));

	if (!rc && !strcmp(format, FORMAT))
		return 0;
	if (!rc)
		return refuse(why, -EINVAL, dir,
			      "the state directory has another format; use the "
			      "kvfs that wrote it, or a new directory");
	if (rc != -ENOENT)
		return refuse(why, rc, dir, strerror(-rc));
	rc = is_empty(dir);
	if (!rc)
		return refuse(why, -EINVAL, dir,
			      "not empty and not a state directory of kvfs; "
			      "name an empty or a new one with -o state=");
	rc = rc < 0 ? rc : state_put(dir, MARKER, FORMAT);
	return rc ? refuse(why, rc, dir, strerror(-rc)) : 0;
}

int state_prepare(char *dir, char *why)
{
	char resolved[PATH_MAX];
	int rc = make(dir);

	if (rc)
		return refuse(why, rc, dir, strerror(-rc));
	if (!realpath(dir, resolved))
		return refuse(why, -errno, dir, strerror(errno));
	strcpy(dir, resolved);
	rc = check_owner(dir, why);
	return rc ? rc : check_marker(dir, why);
}

/* -- the lock ----------------------------------------------------------- */

int state_lock(const char *dir, unsigned wait_ms)
{
	int64_t end = clock_now_ns() + wait_ms * NS_PER_MS;
	char path[PATH_MAX + 8];
	int fd, rc;

	snprintf(path, sizeof(path), "%s/lock", dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX | LOCK_NB)) {
		rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
		if (rc != -EBUSY || clock_now_ns() >= end) {
			close(fd);
			return rc;
		}
		poll(NULL, 0, LOCK_POLL_MS);
	}
	return fd;
}

unsigned state_patience_ms(const char *dir)
{
	char where[PATH_MAX];
	struct mount_entry m;

	if (state_get(dir, "mountpoint", where, sizeof(where)))
		return 0;
	if (!mountinfo_at(where, &m) && !strcmp(m.fstype, MOUNTINFO_FSTYPE) &&
	    !mountinfo_ping(where))
		return 0;
	return ENDING_WAIT_MS;
}

/* -- small files -------------------------------------------------------- */

static int open_in(const char *dir, const char *name, int flags)
{
	char path[PATH_MAX + NAME_MAX + 2];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

int state_put(const char *dir, const char *name, const char *line)
{
	cleanup_close int fd = open_in(dir, name, O_WRONLY | O_CREAT | O_TRUNC);

	if (fd < 0)
		return fd;
	return dprintf(fd, "%s\n", line) < 0 ? -EIO : 0;
}

int state_get(const char *dir, const char *name, char *line, size_t bytes)
{
	cleanup_close int fd = open_in(dir, name, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = read(fd, line, bytes - 1);
	if (n < 0)
		return -errno;
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	return 0;
}

pid_t state_pid(const char *dir)
{
	char line[32];

	return state_get(dir, "pid", line, sizeof(line)) ? 0 : atoi(line);
}

bool state_has(const char *dir, const char *name)
{
	char path[PATH_MAX + NAME_MAX + 2];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return !access(path, F_OK);
}

void state_drop(const char *dir, const char *name)
{
	char path[PATH_MAX + NAME_MAX + 2];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
}
