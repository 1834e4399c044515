// SPDX-License-Identifier: MIT
#include "tools/target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "tools/mountinfo.h"

struct search {
	char mountpoint[PATH_MAX];
	unsigned n;
};

static bool count_mount(void *arg, const struct mount_entry *m)
{
	struct search *s = arg;

	if (!strcmp(m->fstype, MOUNTINFO_FSTYPE)) {
		strcpy(s->mountpoint, m->mountpoint);
		s->n++;
	}
	return true;
}

static int find_only_mount(const char *who, char *path)
{
	struct search s = {.n = 0};
	int err = mountinfo_each(count_mount, &s);

	if (err) {
		log_error("%s: cannot read the list of mounts: %s", who,
			  strerror(-err));
		return err;
	}
	if (s.n == 1) {
		strcpy(path, s.mountpoint);
		return 0;
	}
	if (s.n)
		log_error("%s: %u kvfs are mounted: say which one is meant",
			  who, s.n);
	else
		log_error("%s: no kvfs is mounted: mount one, or name a "
			  "directory",
			  who);
	return s.n ? -EEXIST : -ENODEV;
}

static bool name_is_good(const char *name)
{
	return *name && strlen(name) <= NAME_MAX && !strchr(name, '/') &&
	       strcmp(name, ".") && strcmp(name, "..");
}

/* `rest` is the path below the mount point: "", "/kv", "/kv/NAME/…". */
static bool is_namespace(const char *rest)
{
	return !strncmp(rest, "/kv/", 4) && rest[4] && !strchr(rest + 4, '/');
}

static int append(struct target *t, const char *who, const char *more,
		  const char *name)
{
	size_t n = strlen(t->path);

	if (!name_is_good(name)) {
		log_error("%s: '%s' cannot be the name of a namespace", who,
			  name);
		return -EINVAL;
	}
	if (snprintf(t->path + n, sizeof(t->path) - n, "%s/%s", more, name) >=
	    (int)(sizeof(t->path) - n))
		return -ENAMETOOLONG;
	return 0;
}

int target_find(struct target *t, const char *who, const char *dir,
		const char *name)
{
	char only[PATH_MAX];
	struct mount_entry m;
	const char *rest;
	int err = dir ? 0 : find_only_mount(who, only);

	if (err)
		return err;
	*t = (struct target){.is_namespace = false};
	err = mountinfo_resolve(dir ? dir : only, t->path);
	if (err) {
		log_error("%s: %s: %s", who, dir ? dir : only, strerror(-err));
		return err;
	}
	if (mountinfo_of(t->path, &m))
		return 0;
	strcpy(t->mountpoint, m.mountpoint);
	rest = t->path + strlen(m.mountpoint);
	if (!*rest)
		err = append(t, who, "/kv", name);
	else if (!strcmp(rest, "/kv"))
		err = append(t, who, "", name);
	t->is_namespace = is_namespace(t->path + strlen(m.mountpoint));
	return err;
}
