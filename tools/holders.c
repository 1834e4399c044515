// SPDX-License-Identifier: MIT
#include "tools/holders.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/term.h"

#define NAMED_MAX 5

/* The part of path below the mount, or NULL if it lies elsewhere. */
static const char *below(const char *path, const char *mountpoint)
{
	size_t n = strlen(mountpoint);

	if (strncmp(path, mountpoint, n) || (path[n] && path[n] != '/'))
		return NULL;
	return path[n] ? path + n + 1 : ".";
}

static bool link_below(const char *link, const char *mountpoint, char *what)
{
	char target[PATH_MAX];
	ssize_t n = readlink(link, target, sizeof(target) - 1);
	const char *rest;

	if (n <= 0)
		return false;
	target[n] = 0;
	rest = below(target, mountpoint);
	if (rest)
		snprintf(what, PATH_MAX, "%s", rest);
	return rest;
}

static bool has_file(const char *proc, const char *mountpoint, char *what)
{
	char path[64 + NAME_MAX];
	bool found = false;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "%s/fd", proc);
	d = opendir(path);
	while (d && !found && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/fd/%s", proc, e->d_name);
		found = link_below(path, mountpoint, what);
	}
	if (d)
		closedir(d);
	return found;
}

static bool has_mapping(const char *proc, const char *mountpoint, char *what)
{
	cleanup_free char *line = NULL;
	cleanup_file FILE *f = NULL;
	const char *path, *rest = NULL;
	char name[64];
	size_t room = 0;

	snprintf(name, sizeof(name), "%s/maps", proc);
	f = fopen(name, "re");
	while (f && !rest && getline(&line, &room, f) > 0) {
		line[strcspn(line, "\n")] = 0;
		path = strchr(line, '/');
		rest = path ? below(path, mountpoint) : NULL;
	}
	if (rest)
		snprintf(what, PATH_MAX, "%s, mapped", rest);
	return rest;
}

static bool holds(const char *proc, const char *mountpoint, char *what)
{
	static const struct {
		const char *link, *what;
	} single[] = {{"cwd", "working directory"},
		      {"root", "root directory"},
		      {"exe", "running program"}};
	char path[64];

	for (size_t i = 0; i < sizeof(single) / sizeof(*single); i++) {
		snprintf(path, sizeof(path), "%s/%s", proc, single[i].link);
		if (link_below(path, mountpoint, what)) {
			strcpy(what, single[i].what);
			return true;
		}
	}
	return has_file(proc, mountpoint, what) ||
	       has_mapping(proc, mountpoint, what);
}

static void name_of(const char *proc, char *name, size_t bytes)
{
	cleanup_file FILE *f = NULL;
	char path[64], raw[32] = "?";

	snprintf(path, sizeof(path), "%s/comm", proc);
	f = fopen(path, "re");
	if (f && fgets(raw, sizeof(raw), f))
		raw[strcspn(raw, "\n")] = 0;
	term_printable(raw, name, bytes);
}

unsigned holders_describe(const char *mountpoint, char *text, size_t bytes)
{
	char proc[32], what[PATH_MAX], shown[PATH_MAX], name[32];
	DIR *d = opendir("/proc");
	struct dirent *e;
	unsigned n = 0;
	size_t used = 0;

	*text = 0;
	while (d && (e = readdir(d))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		snprintf(proc, sizeof(proc), "/proc/%.16s", e->d_name);
		if (!holds(proc, mountpoint, what) || n++ >= NAMED_MAX ||
		    used >= bytes)
			continue;
		name_of(proc, name, sizeof(name));
		used += (size_t)snprintf(
			text + used, bytes - used, "%s%s (pid %s: %s)",
			used ? ", " : "", name, e->d_name,
			term_printable(what, shown, sizeof(shown)));
	}
	if (d)
		closedir(d);
	if (n > NAMED_MAX && used < bytes)
		snprintf(text + used, bytes - used, " and %u more",
			 n - NAMED_MAX);
	return n;
}
