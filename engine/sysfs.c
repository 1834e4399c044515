// SPDX-License-Identifier: MIT
#include "engine/sysfs.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define RATE_MAX_MBIT (100u * 1000 * 1000)

bool sysfs_read(char *line, size_t line_bytes, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;
	FILE *f;
	bool ok;
	int n;

	*line = '\0';
	va_start(ap, fmt);
	n = vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	f = n < (int)sizeof(path) ? fopen(path, "re") : NULL;
	if (!f)
		return false;
	ok = fgets(line, (int)line_bytes, f);
	fclose(f);
	line[ok ? strcspn(line, "\n") : 0] = '\0';
	return ok;
}

static int visible(const struct dirent *e)
{
	return *e->d_name != '.';
}

/* So mlx5_2 is before mlx5_10, and PCI addresses are in their order (strverscmp
 * would have 0000:41 before 0000:3d). */
static int shorter_first(const struct dirent **a, const struct dirent **b)
{
	size_t na = strlen((*a)->d_name), nb = strlen((*b)->d_name);

	if (na != nb)
		return na < nb ? -1 : 1;
	return strcmp((*a)->d_name, (*b)->d_name);
}

int sysfs_list(const char *folder, struct dirent ***names)
{
	int n = scandir(folder, names, visible, shorter_first);

	if (n >= 0)
		return n;
	*names = NULL;
	return errno == ENOENT ? 0 : -errno;
}

void sysfs_list_free(struct dirent **names, int n)
{
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/* Fields of hexadecimal digits, with exactly these characters behind them. */
static bool hex_fields(const char *text, const char *separators)
{
	for (;; separators++, text++) {
		size_t n = strspn(text, "0123456789abcdef");

		text += n;
		if (!n || *text != *separators)
			return false;
		if (!*separators)
			return true;
	}
}

static bool is_root(const char *part)
{
	return !strncmp(part, "pci", 3) && hex_fields(part + 3, ":");
}

static bool is_function(const char *part)
{
	return hex_fields(part, "::.");
}

void pci_path_parse(const char *text, struct pci_path *path)
{
	char part[PCI_NAME_BYTES];
	size_t n;

	path->n = 0;
	for (; *text; text += n + (text[n] == '/')) {
		n = strcspn(text, "/");
		if (n >= sizeof(part))
			continue;
		memcpy(part, text, n);
		part[n] = '\0';
		if (path->n ? !is_function(part) : !is_root(part))
			continue;
		if (path->n == PCI_DEPTH_MAX) {
			path->n = 0;
			return;
		}
		strcpy(path->part[path->n++], part);
	}
}

const char *pci_path_name(const struct pci_path *path)
{
	return path->n > 1 ? path->part[path->n - 1] : "";
}

unsigned pci_path_common(const struct pci_path *a, const struct pci_path *b)
{
	unsigned n = 0;

	while (n < a->n && n < b->n && !strcmp(a->part[n], b->part[n]))
		n++;
	return n;
}

bool gid_parse(const char *text, uint8_t gid[GID_BYTES])
{
	if (strlen(text) != GID_BYTES / 2 * 5 - 1 ||
	    !hex_fields(text, ":::::::"))
		return false;
	for (int i = 0; i < GID_BYTES; i += 2, text += 5) {
		char *end;
		unsigned long group = strtoul(text, &end, 16);

		if (end != text + 4)
			return false;
		gid[i] = (uint8_t)(group >> 8);
		gid[i + 1] = (uint8_t)group;
	}
	return true;
}

uint32_t rate_parse(const char *text)
{
	char *end;
	double gbit;

	if (!isdigit((unsigned char)*text))
		return 0;
	gbit = strtod(text, &end);
	if (strncmp(end, " Gb/sec", 7) || !(gbit * 1000 <= RATE_MAX_MBIT))
		return 0;
	return (uint32_t)(gbit * 1000);
}
