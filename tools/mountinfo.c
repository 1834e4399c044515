// SPDX-License-Identifier: MIT
#include "tools/mountinfo.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"

#define PING_TRIES 250
#define PING_STEP_MS 20

static bool is_octal(const char *s)
{
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' &&
	       s[2] >= '0' && s[2] <= '7';
}

/* Copy the next field, its escapes undone; returns what follows, or NULL. */
static const char *field(const char *s, char *to, size_t room)
{
	size_t n = 0;

	for (; *s && *s != ' ' && *s != '\n'; s++) {
		if (n + 1 >= room)
			return NULL;
		if (*s == '\\' && is_octal(s + 1)) {
			to[n++] = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 +
					 (s[3] - '0'));
			s += 3;
		} else {
			to[n++] = *s;
		}
	}
	to[n] = 0;
	return n ? s + (*s == ' ') : NULL;
}

/* "id parent major:minor root mountpoint options … - fstype source options" */
int mountinfo_parse(const char *line, struct mount_entry *m)
{
	char root[PATH_MAX];
	unsigned major, minor;
	int n = 0;

	if (sscanf(line, "%u %u %u:%u %n", &m->id, &m->parent, &major, &minor,
		   &n) < 4 ||
	    !n)
		return -EINVAL;
	m->dev = makedev(major, minor);
	line = field(line + n, root, sizeof(root));
	if (line)
		line = field(line, m->mountpoint, sizeof(m->mountpoint));
	if (line)
		line = strstr(line, " - ");
	if (line)
		line = field(line + 3, m->fstype, sizeof(m->fstype));
	if (!line)
		return -EINVAL;
	if (!field(line, m->source, sizeof(m->source)))
		m->source[0] = 0;
	return 0;
}

int mountinfo_each(bool (*fn)(void *arg, const struct mount_entry *m),
		   void *arg)
{
	cleanup_file FILE *f = fopen("/proc/self/mountinfo", "re");
	cleanup_free char *line = NULL;
	struct mount_entry m;
	size_t room = 0;

	if (!f)
		return -errno;
	while (getline(&line, &room, f) > 0)
		if (!mountinfo_parse(line, &m) && !fn(arg, &m))
			break;
	return 0;
}

struct search {
	const char *path;
	struct mount_entry *m;
	size_t best; /* length of the best mount point so far */
	bool found;
};

static bool match_exact(void *arg, const struct mount_entry *m)
{
	struct search *s = arg;

	if (!strcmp(s->path, m->mountpoint)) {
		*s->m = *m;
		s->found = true;
	}
	return true;
}

int mountinfo_at(const char *path, struct mount_entry *m)
{
	struct search s = {.path = path, .m = m};
	int rc = mountinfo_each(match_exact, &s);

	return rc ? rc : s.found ? 0 : -ENOENT;
}

static bool match_longest(void *arg, const struct mount_entry *m)
{
	struct search *s = arg;
	size_t n = strlen(m->mountpoint);

	if (n == 1) /* "/" */
		n = 0;
	if (n < s->best || strncmp(s->path, m->mountpoint, n) ||
	    (s->path[n] && s->path[n] != '/'))
		return true;
	*s->m = *m;
	s->best = n;
	s->found = true;
	return true;
}

int mountinfo_of(const char *path, struct mount_entry *m)
{
	char resolved[PATH_MAX];
	struct search s = {.path = resolved, .m = m};
	int rc = mountinfo_resolve(path, resolved);

	if (!rc)
		rc = mountinfo_each(match_longest, &s);
	if (rc)
		return rc;
	return s.found && !strcmp(m->fstype, MOUNTINFO_FSTYPE) ? 0 : -ENODEV;
}

/* While it ends the kernel gives its waiting requests back with one of these;
 * the next one tells. */
static bool is_ending(int err)
{
	return err == ECONNABORTED || err == ECANCELED || err == EIO ||
	       err == EINTR;
}

int mountinfo_ping(const char *mountpoint)
{
	struct statvfs fs;

	for (int i = 0; statvfs(mountpoint, &fs); i++) {
		if (!is_ending(errno) || i == PING_TRIES)
			return -errno;
		poll(NULL, 0, PING_STEP_MS);
	}
	return 0;
}

/* The folder through realpath, the last component as it stands. */
static int resolve_folder(const char *path, char *resolved)
{
	cleanup_free char *copy = strdup(path);
	char folder[PATH_MAX];
	char *slash;

	if (!copy)
		return -ENOMEM;
	for (slash = copy + strlen(copy); slash > copy && slash[-1] == '/';)
		*--slash = 0;
	slash = strrchr(copy, '/');
	if (slash)
		*slash = 0;
	if (!realpath(slash ? (*copy ? copy : "/") : ".", folder))
		return -errno;
	if (snprintf(resolved, PATH_MAX, "%s/%s",
		     strcmp(folder, "/") ? folder : "",
		     slash ? slash + 1 : copy) >= PATH_MAX)
		return -ENAMETOOLONG;
	return 0;
}

int mountinfo_resolve(const char *path, char *resolved)
{
	if (realpath(path, resolved))
		return 0;
	if (errno != ENOTCONN && errno != ENOENT)
		return -errno;
	return resolve_folder(path, resolved);
}
