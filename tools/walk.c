// SPDX-License-Identifier: MIT
#include "tools/walk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

struct walker {
	bool deep;
	bool (*fn)(void *arg, const struct walk_entry *e);
	void *arg;
	char *path;	    /* grows and shrinks with the depth */
	size_t room, shown; /* path + shown is what to show */
	dev_t dev;
};

static int append(struct walker *w, size_t len, const char *name)
{
	size_t need = len + strlen(name) + 2;
	char *more;

	if (need > w->room) {
		more = realloc(w->path, 2 * need);
		if (!more)
			return -ENOMEM;
		w->path = more;
		w->room = 2 * need;
	}
	sprintf(w->path + len, "%s%s",
		len && w->path[len - 1] != '/' ? "/" : "", name);
	return 0;
}

static bool visit(struct walker *w, unsigned char type, int err)
{
	struct walk_entry e = {w->path, w->path + w->shown, type, err};

	return w->fn(w->arg, &e);
}

static bool walk_dir(struct walker *w);

/* readdir may not know the type, and a mount point looks like a directory. */
static int settle_type(struct walker *w, unsigned char *type)
{
	struct stat st;

	if (*type != DT_UNKNOWN && (*type != DT_DIR || !w->deep))
		return 0;
	if (lstat(w->path, &st))
		return -errno;
	*type = IFTODT(st.st_mode);
	return *type == DT_DIR && st.st_dev != w->dev ? -EXDEV : 0;
}

static bool walk_entry(struct walker *w, size_t len, const struct dirent *d)
{
	unsigned char type = d->d_type;
	bool on;
	int rc;

	if (!strcmp(d->d_name, ".") || !strcmp(d->d_name, ".."))
		return true;
	rc = append(w, len, d->d_name);
	if (!rc)
		rc = settle_type(w, &type);
	if (rc == -ENOENT || rc == -EXDEV)
		on = true;
	else
		on = visit(w, type, rc);
	if (on && !rc && w->deep && type == DT_DIR)
		on = walk_dir(w);
	w->path[len] = 0;
	return on;
}

static bool walk_dir(struct walker *w)
{
	size_t len = strlen(w->path);
	DIR *dir = opendir(w->path);
	struct dirent *d;
	bool on = true;

	if (!dir)
		return errno == ENOENT || visit(w, DT_DIR, -errno);
	errno = 0;
	while (on && (d = readdir(dir))) {
		on = walk_entry(w, len, d);
		errno = 0;
	}
	if (on && errno)
		on = visit(w, DT_DIR, -errno);
	closedir(dir);
	return on;
}

void walk(const char *path, bool deep,
	  bool (*fn)(void *arg, const struct walk_entry *e), void *arg)
{
	struct walker w = {.deep = deep, .fn = fn, .arg = arg};
	struct stat st;

	if (append(&w, 0, path))
		return;
	if (stat(path, &st)) {
		visit(&w, DT_UNKNOWN, -errno);
	} else if (!S_ISDIR(st.st_mode)) {
		visit(&w, IFTODT(st.st_mode), 0);
	} else {
		w.dev = st.st_dev;
		w.shown = strlen(path) + (path[strlen(path) - 1] != '/');
		walk_dir(&w);
	}
	free(w.path);
}
